"""What layers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Array", "Layer"]

Array: TypeAlias = NDArray[Any]
Shapes: TypeAlias = Mapping[str, tuple[tuple[int, ...], float]]


def _type(value: object) -> str:
    return type(value).__name__


class Layer:
    """What the layers share.

    ``params`` and ``grads`` are dicts with the same keys; they are empty without learnable parameters.  A backward pass
    overwrites the arrays of ``grads``, which stay the same objects: hand them to an optimizer as they are.

    Parameters are float32 or float64, and inputs of the same dtype; inputs in float16 and bfloat16 go with parameters in float32.

    A layer keeps its last input, not a copy of it, for backward; leave it unchanged until then.
    """

    def __init__(self, shapes: Shapes | None = None, dtype: DTypeLike = np.float32) -> None:
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"{type(self).__name__}: dtype must be float32 or float64, got {dtype}")
        self.training = True
        self.params: dict[str, Array] = {
            name: np.full(shape, value, dtype) for name, (shape, value) in (shapes or {}).items()
        }
        self.grads: dict[str, Array] = {name: np.zeros_like(param) for name, param in self.params.items()}
        self.buffers: dict[str, Array] = {}
        self._statistics: tuple[Array, ...] = ()  # of the last forward pass
        self._kept: tuple[Any, ...] = ()  # what else its backward pass needs

    def train(self, mode: bool = True) -> Layer:
        """Switches to training, or to evaluation if ``mode`` is false; returns the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Layer:
        """Switches to evaluation; returns the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, Array]:
        """Copies of parameters and buffers, under torch's names."""
        return {name: array.copy() for name, array in (self.params | self.buffers).items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copies parameters and buffers in.

        Args:
            state_dict: As :meth:`state_dict` or torch's module returns it (arrays, or what NumPy makes arrays of).

        Raises:
            TypeError: A value is not an array of numbers.
            ValueError: Keys or shapes are others than the layer's.  Nothing has been changed then.
        """
        name, own = type(self).__name__, self.params | self.buffers
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{name}: state_dict must be a dict, got {_type(state_dict)}")
        if own.keys() != state_dict.keys():
            raise ValueError(f"{name}: state_dict must have the keys {sorted(own)}, got {sorted(map(str, state_dict))}")
        arrays = {}
        for key, value in state_dict.items():
            try:
                arrays[key] = np.asarray(value).astype(own[key].dtype)
            except (TypeError, ValueError):
                raise TypeError(f"{name}: {key} must be an array of numbers, got {_type(value)}") from None
            if arrays[key].shape != own[key].shape:
                raise ValueError(f"{name}: {key} has shape {arrays[key].shape}, expected {own[key].shape}")
        for key, array in arrays.items():
            own[key][...] = array

    def _statistics_of(self, shape: tuple[int, ...], count: int = 2) -> Any:
        """Arrays for so many statistics, the same ones as long as the shape stays the same."""
        if len(self._statistics) == count and self._statistics[0].shape == shape:
            return self._statistics
        return tuple(np.empty(shape) for _ in range(count))

    def _keep(self, statistics: tuple[Array, ...], *kept: Any) -> None:
        """For backward, when forward has succeeded."""
        self._statistics, self._kept = statistics, kept

    def _last(self) -> tuple[Any, ...]:
        """What the last forward pass has kept, and its statistics."""
        if not self._kept:
            raise RuntimeError(f"{type(self).__name__}: backward was called before forward")
        return *self._kept, *self._statistics
