"""What layers share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._check import flag, type_of, whole
from .._commit import commit

__all__ = ["Array", "Layer", "axis_of", "sizes_of"]

Array: TypeAlias = NDArray[Any]
Shapes: TypeAlias = Mapping[str, tuple[tuple[int, ...], float]]


class Layer:
    """What the layers share.

    ``params`` and ``grads`` are dicts with the same keys; they are empty without learnable parameters.  A backward pass
    overwrites the arrays of ``grads``, which stay the same objects: hand them to an optimizer as they are.

    Parameters are float32 or float64, and inputs of the same dtype; inputs in float16 and bfloat16 go with parameters in float32.

    A layer keeps its last input, not a copy of it, for backward; leave it unchanged until then.  Pickles and copies do without it.

    In evaluation any number of threads may call one layer.  In training, and for backward, it belongs to one thread at a time.
    """

    def __init__(self, shapes: Shapes | None = None, dtype: DTypeLike = np.float32) -> None:
        dtype = _dtype_of(type(self).__name__, dtype)
        self.training = True
        self.params: dict[str, Array] = {
            name: np.full(shape, value, dtype) for name, (shape, value) in (shapes or {}).items()
        }
        self.grads: dict[str, Array] = {name: np.zeros_like(param) for name, param in self.params.items()}
        self.buffers: dict[str, Array] = {}
        # What backward needs of the last forward pass: one tuple that is replaced as a whole, with arrays that nobody writes
        # to again, so that threads never see parts of two passes.
        self._kept: tuple[Any, ...] = ()

    def train(self, mode: bool = True) -> Layer:
        """Switches to training, or to evaluation if ``mode`` is false; returns the layer."""
        self.training = flag(type(self).__name__, "mode", mode)
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
            state_dict: As :meth:`state_dict` or torch's module returns it (arrays or tensors of any dtype of real numbers, or what
                NumPy makes arrays of).  ``num_batches_tracked`` may be missing, as in old checkpoints, and stays what it is then.

        Raises:
            TypeError: A value is not an array of numbers.
            ValueError: Keys, shapes or values do not suit the layer.  Nothing has been changed then.
        """
        name, own = type(self).__name__, self.params | self.buffers
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{name}: state_dict must be a dict, got {type(state_dict).__name__}")
        missing = [key for key in own if key not in state_dict and key != "num_batches_tracked"]
        unexpected = [key for key in state_dict if key not in own]
        if missing or unexpected:
            wrong = " and ".join(
                f"{what} {keys}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys
            )
            raise ValueError(
                f"{name}: state_dict must have the keys {sorted(own)} ({wrong}), got {sorted(map(str, state_dict))}"
            )
        arrays = {key: _converted(name, key, state_dict[key], own[key]) for key in own if key in state_dict}
        for key in arrays:
            if not own[key].flags.writeable:
                raise ValueError(f"{name}: the layer's {key} is read-only, but would be written; give a copy")
        commit([own[key] for key in arrays], arrays.values())

    def __getstate__(self) -> dict[str, Any]:
        """All but what the last forward pass has left for backward."""
        return {**vars(self), "_kept": ()}

    def __repr__(self) -> str:
        """The call that makes such a layer: what must be given, the numbers that matter most, and what is not the default."""
        words = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            value, default = self._option(name), parameter.default
            if value is _UNKNOWN:
                continue
            if default is parameter.empty:
                words.append(repr(value))
            elif name in _ALWAYS_SHOWN or value != (np.dtype(default).name if name == "dtype" else default):
                words.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(words)})"

    def _option(self, name: str) -> Any:
        """What has been given to the constructor as ``name``, or been changed since then; ``_UNKNOWN`` where nobody knows."""
        if name in ("affine", "elementwise_affine"):
            return bool(self.params)
        if name == "bias":  # which nothing can have without the other parameters
            return "bias" in self.params if self.params else _UNKNOWN
        if name == "track_running_stats":
            return bool(self.buffers)
        if name == "dtype":
            return next((array.dtype.name for array in (self.params | self.buffers).values()), _UNKNOWN)
        return vars(self).get(name, _UNKNOWN)

    def _last(self) -> tuple[Any, ...]:
        """What the last forward pass has kept."""
        kept = self._kept
        if not kept:
            raise RuntimeError(f"{type(self).__name__}: backward was called before forward")
        return kept


_UNKNOWN = object()
_ALWAYS_SHOWN = ("eps", "momentum", "p", "seed")


def _dtype_of(layer: str, dtype: Any) -> np.dtype[Any]:
    """That of parameters."""
    if dtype is not None:  # which NumPy takes for float64
        try:
            dtype = np.dtype(dtype)
        except (TypeError, ValueError):
            dtype = repr(dtype)
    if not isinstance(dtype, np.dtype) or dtype not in (np.float32, np.float64):
        raise TypeError(f"{layer}: dtype must be float32 or float64, got {dtype}")
    return dtype


def sizes_of(layer: str, name: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    """The sizes of some axes, from a sequence or the only one of them."""
    sizes: tuple[Any, ...] = (
        tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str | bytes) else (shape,)
    )
    if not sizes:
        raise ValueError(f"{layer}: {name} must name at least one axis, got {shape!r}")
    return tuple(whole(layer, name, size) for size in sizes)


def axis_of(layer: str, name: str, axis: int) -> int:
    """The number of an axis; whether inputs have it is not known yet."""
    return whole(layer, name, axis, -(1 << 53))


def _converted(layer: str, key: str, value: Any, own: Array) -> Array:
    """A value of a state_dict as the layer's own array would have it."""
    array = _numbers(layer, key, value)
    if array.shape != own.shape:
        raise ValueError(f"{layer}: {key} has shape {array.shape}, expected {own.shape}")
    with np.errstate(all="ignore"):
        result = array.astype(own.dtype)
    if own.dtype.kind == "i":
        if not np.all((result == array) & (result >= 0)):
            raise ValueError(f"{layer}: {key} must be a whole number >= 0, got {array}")
    else:
        lost = np.isinf(result) & ~np.isinf(array)
        if np.any(lost):
            raise ValueError(f"{layer}: {key} has values that are infinite in {own.dtype}, such as {array[lost][0]}")
    return result


def _numbers(layer: str, key: str, value: Any) -> Array:
    """An array of real numbers; from a tensor too, wherever it is and whatever its dtype."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{layer}: {key} is a masked array, whose mask would be lost; pass what its filled() returns")
    is_tensor = all(hasattr(value, method) for method in ("detach", "cpu", "double"))
    try:
        if is_tensor:
            value = value.detach().cpu()
        try:
            array = np.asarray(value)
        except (TypeError, RuntimeError):
            if not is_tensor:
                raise
            array = np.asarray(value.double())  # bfloat16 and numbers of 8 bits, of which NumPy knows nothing
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{layer}: {key} must be an array of numbers, got {type_of(value)}") from None
    if array.dtype.isbuiltin == 2 and np.can_cast(array.dtype, np.float64):  # those of ml_dtypes
        return array.astype(np.float64)
    if array.dtype.kind in "iuf":
        return array
    raise TypeError(f"{layer}: {key} must be an array of numbers, got {type_of(value)} of dtype {array.dtype}")


def pair_of(layer: Layer, out: Any) -> tuple[Any, Any]:
    """Where two results are to go."""
    if out is None:
        return None, None
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"{type(layer).__name__}: out must be a tuple of 2, with None for results that are wanted new")
    return out


def gradients_of(layer: Layer) -> tuple[Array | None, Array | None]:
    """Where the gradients of the weight and of the bias go, of those that the layer has."""
    weight, bias = (layer.grads.get(key) if key in layer.params else None for key in ("weight", "bias"))
    return weight, bias
