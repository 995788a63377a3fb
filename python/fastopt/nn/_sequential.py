"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._check import flag, type_of
from ._layer import Array, Layer, own_copy

__all__ = ["Sequential"]


class Sequential(Layer):
    """Layers one after the other: ``y = model(x)``, then ``dx = model.backward(dy)``.

    Args:
        layers: Layers, your own subclasses of :class:`Layer` and other models of this class too; each one in one place only, as it
            keeps what its backward pass needs of one forward pass.

    ``params`` and ``grads`` are dicts of the layers' own arrays under torch's names, "0.weight" for the weight of the first
    layer: hand them to an optimizer as they are.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> from fastopt import functional as F, nn
        >>> rng = np.random.default_rng(0)
        >>> model = nn.Sequential(nn.Linear(4, 16, activation="gelu", seed=rng), nn.LayerNorm(16), nn.Linear(16, 3, seed=rng))
        >>> opt = fo.optim.AdamW(model.params, lr=0.05)
        >>> x = rng.standard_normal((64, 4), np.float32)
        >>> labels = np.argmax(x[:, :3], axis=1)
        >>> for _ in range(100):
        ...     loss, dy = F.cross_entropy(model(x), labels)
        ...     _ = model.backward(dy)
        ...     _ = opt.step(model.grads)
        >>> loss < 0.05
        True
    """

    def __init__(self, *layers: Layer) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential: layers[{i}] must be a layer, got {type_of(layer)}")
        self.training = True
        self._kept = ()
        self._trained = True  # whether the last forward pass was one in training
        self.layers = list(layers)
        self._expect_once()

    def _expect_once(self) -> None:
        """Raises ValueError if a layer is in two places."""
        places = dict[int, str]()
        for place, layer in self._leaves():
            first = places.setdefault(id(layer), place)
            if first != place:
                raise ValueError(
                    f"Sequential: {place} is {first} again, {layer!r}, which keeps what its backward pass needs of one forward pass "
                    "only; make a new layer for each place"
                )

    def _flat(self) -> Iterator[Layer]:
        """The layers, those of models in this one too."""
        for layer in self.layers:
            if isinstance(layer, Sequential):
                yield from layer._flat()
            else:
                yield layer

    def _leaves(self) -> Iterator[tuple[str, Layer]]:
        """The same layers with their places."""
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Sequential):
                yield from ((f"layers[{i}].{place}", one) for place, one in layer._leaves())
            else:
                yield f"layers[{i}]", layer

    def __call__(self, x: Array) -> Array:
        """The output of the last layer for ``x``."""
        self._trained = self.training
        for layer in self.layers:
            x = layer(x)  # type: ignore[operator]
        return x

    def backward(self, dy: Array) -> Array:
        """Fills the layers' ``grads``.

        Args:
            dy: The gradient of the output.

        Returns:
            The gradient of the input; ``None`` if the first layer with parameters has ``input_grad=False``.

        Raises:
            RuntimeError: The last forward pass was one in evaluation, and the model is in training again.
            ValueError: A layer has ``input_grad=False``, but layers before it have parameters, or a layer is in two places.
        """
        if self.training and not self._trained:
            raise RuntimeError(
                "Sequential: the last forward pass was in evaluation, as a validation between loss and backward is; call backward before "
                "it, or model(x) again"
            )
        layers = [*self._flat()]
        if len({*map(id, layers)}) != len(layers):  # one was added since
            self._expect_once()
        for i, layer in enumerate(self.layers):
            if not getattr(layer, "input_grad", True) and any(getattr(one, "params", None) for one in self.layers[:i]):
                raise ValueError(
                    f"Sequential: layer {i} has input_grad=False, but layers before it have parameters, which need that gradient"
                )
        for layer in reversed(self.layers):
            dy = layer.backward(dy)  # type: ignore[attr-defined]
            if dy is None:
                break
        return dy

    def _named(self, kind: str) -> dict[str, Array]:
        """The arrays in the dicts of that name of all layers."""
        return {
            f"{i}.{name}": array
            for i, layer in enumerate(self.layers)
            for name, array in getattr(layer, kind, {}).items()
        }

    @property
    def params(self) -> dict[str, Array]:  # type: ignore[override]
        """The parameters of all layers."""
        return self._named("params")

    @property
    def grads(self) -> dict[str, Array]:  # type: ignore[override]
        """Their gradients, with the same keys."""
        return self._named("grads")

    @property
    def buffers(self) -> dict[str, Array]:  # type: ignore[override]
        """What else the layers keep, such as running statistics."""
        return self._named("buffers")

    def train(self, mode: bool = True) -> Sequential:
        """Switches all layers to training, or to evaluation if ``mode`` is false; returns the model."""
        self.training = flag("Sequential", "mode", mode)
        for layer in self.layers:
            layer.train(mode)
        return self

    def eval(self) -> Sequential:
        """Switches all layers to evaluation; returns the model."""
        return self.train(False)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters and buffers under torch's names."""
        return {
            f"{i}.{name}": array for i, layer in enumerate(self.layers) for name, array in layer.state_dict().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copies the values of all layers' parameters and buffers from a dict, such as that of torch's ``Sequential``.

        Args:
            state_dict: As :meth:`Layer.load_state_dict` takes it, with the number of the layer before each key.

        Raises:
            TypeError: A value is not an array of numbers.
            ValueError: A key, shape or value does not fit a layer.  Nothing has been changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Sequential: state_dict must be a dict, got {type(state_dict).__name__}")
        parts: list[dict[str, Any]] = [{} for _ in self.layers]
        numbers = {str(i) for i in range(len(parts))}
        for key in state_dict:
            number, _, name = str(key).partition(".")
            if not (number in numbers and name):
                raise ValueError(
                    f"Sequential: state_dict has the key {key!r}, expected a layer from 0 to {len(parts) - 1} and a name"
                )
            parts[int(number)][name] = own_copy(state_dict[key])
        before = [layer.state_dict() for layer in self.layers]
        loaded = 0
        try:
            for layer, part in zip(self.layers, parts, strict=True):
                layer.load_state_dict(part)
                loaded += 1
        except Exception as error:
            for layer, own in zip(self.layers[:loaded], before, strict=False):
                layer.load_state_dict(own)
            if isinstance(error, TypeError | ValueError):
                raise type(error)(f"Sequential: layers[{loaded}]: {error}") from None
            raise

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"
