"""The base class of layers, and checks of their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._check import flag, type_of, whole
from .._commit import commit
from .._words import speak

__all__ = ["Array", "Layer", "axis_of", "generator", "sizes_of"]

Array: TypeAlias = NDArray[Any]
Shapes: TypeAlias = Mapping[str, tuple[tuple[int, ...], float]]


class Fixed:
    """An attribute that the constructor sets, and nobody afterwards, as that would have no effect.

    It has no ``__get__``, so that reading it is as fast as for others.  Users' own subclasses may set it.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, layer: Layer, value: Any) -> None:
        if type(layer).__module__ == "fastopt.nn" and not self._is_first(layer):
            raise AttributeError(f"{type(layer).__name__}: {self._refusal(layer, value)}")
        vars(layer)[self.name] = value

    def _is_first(self, layer: Layer) -> bool:
        return self.name not in vars(layer)

    def _refusal(self, layer: Layer, value: Any) -> str:
        for kind in "params", "buffers":
            if self.name in vars(layer).get(kind, ()):
                return f"{self.name} is not an attribute; write numbers into the array, layer.{kind}[{self.name!r}][...] = ..."
        arguments = inspect.signature(type(layer)).parameters
        if self.name not in arguments:
            return f"{self.name} cannot be set, as this layer has none"
        new = "" if isinstance(value, np.ndarray) else f", {type(layer).__name__}(..., {self.name}={value!r})"
        return f"{self.name} cannot be changed after the layer has been made, as its arrays would stay; make a new layer{new}"


class Unset(Fixed):
    """The name of a constructor's argument, or of an array, that is no attribute."""

    def __get__(self, layer: Layer | None, owner: type) -> Any:
        if layer is None:
            return self
        if self.name in vars(layer):  # in a subclass
            return vars(layer)[self.name]
        where = next((kind for kind in ("params", "buffers") if self.name in vars(layer).get(kind, ())), None)
        raise AttributeError(
            f"{type(layer).__name__!r} object has no attribute {self.name!r}"
            + ("" if where is None else f"; the array is layer.{where}[{self.name!r}]"),
            name=self.name,
            obj=layer,
        )

    def _is_first(self, layer: Layer) -> bool:
        return False


class Layer:
    """The base class of layers.

    ``params`` and ``grads`` are dicts with the same keys; they are empty without learnable parameters.  A backward pass
    overwrites the arrays of ``grads``, which stay the same objects: hand them to an optimizer as they are.  Write new numbers into
    an array of ``params``, ``layer.params["weight"][...] = ...``: another one in its place would be none that the optimizer has.

    Parameters are float32 or float64, and inputs have the same dtype; with inputs in float16 or bfloat16, parameters are
    float32.

    A backward pass is that of the last forward pass, of which a layer keeps its input or, like ReLU, Tanh, Sigmoid and a Linear with
    an activation, its output; not a copy: do not change these arrays before, nor give them to another call as ``out``.  Pickles and
    copies do not contain them.

    In evaluation any number of threads may call one layer.  In training, and for backward, only one thread may use it.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        speak(cls)

    def __init__(self, shapes: Shapes | None = None, dtype: DTypeLike = np.float32) -> None:
        dtype = _dtype_of(type(self).__name__, dtype)
        self.training = True
        self.params: dict[str, Array] = {
            name: np.full(shape, value, dtype) for name, (shape, value) in (shapes or {}).items()
        }
        self.grads: dict[str, Array] = {name: np.zeros_like(param) for name, param in self.params.items()}
        self.buffers: dict[str, Array] = {}
        # The arrays that backward needs from the last forward pass: one tuple that is replaced as a whole, whose arrays are not
        # # written again, so that threads never see parts of two passes.
        self._kept: tuple[Any, ...] = ()

    def train(self, mode: bool = True) -> Layer:
        """Switches to training, or to evaluation if ``mode`` is false; returns the layer."""
        self.training = flag(type(self).__name__, "mode", mode)
        return self

    def eval(self) -> Layer:
        """Switches to evaluation; returns the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters and buffers under torch's names."""
        return {name: array.copy() for name, array in (self.params | self.buffers).items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copies the values of parameters and buffers from a dict.

        Args:
            state_dict: The result of :meth:`state_dict` or of torch's module: arrays or tensors of real numbers of any dtype,
                or objects that NumPy can turn into arrays.  ``num_batches_tracked`` may be missing, as in old checkpoints, and
                then stays.

        Raises:
            TypeError: A value is not an array of numbers.
            ValueError: A key, shape or value does not fit the layer.  Nothing has been changed then.
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

    # For fastopt.save

    def _attributes(self) -> dict[str, Any]:
        """The public attributes that are numbers, bools, strings, None or tuples of these, without those that fix its shapes."""
        return {key: value for key, value in self._plain().items() if key not in _OF_SHAPES}

    def _shapes_of(self) -> dict[str, Any]:
        """The attributes that fix the layer's shapes, which another layer must share to get its values."""
        return {key: value for key, value in self._plain().items() if key in _OF_SHAPES}

    def _plain(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if not key.startswith("_") and _is_plain(value)}

    def _parts(self) -> Iterator[tuple[str, Layer]]:
        """The layers in attributes, and in lists and dicts there, with their names."""
        for key, value in vars(self).items():
            if key != "_kept":
                yield from _layers_in(key.lstrip("_"), value)

    def __getstate__(self) -> dict[str, Any]:
        """All attributes, without the arrays that the last forward pass has kept for backward."""
        return {**vars(self), "_kept": ()}

    def __repr__(self) -> str:
        """The call that makes this layer: required arguments, the most important numbers, and arguments that are not the default."""
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
        """The present value of the constructor's argument ``name``; ``_UNKNOWN`` if the layer does not tell it."""
        if name in ("affine", "elementwise_affine"):
            return bool(self.params)
        if name == "bias":  # without a weight there is no bias
            return "bias" in self.params if self.params else _UNKNOWN
        if name == "track_running_stats":
            return bool(self.buffers)
        if name == "dtype":
            return next((array.dtype.name for array in (self.params | self.buffers).values()), _UNKNOWN)
        return vars(self).get(name, _UNKNOWN)

    def _last(self) -> tuple[Any, ...]:
        """The arrays that the last forward pass has kept."""
        kept = self._kept
        if not kept:
            raise RuntimeError(f"{type(self).__name__}: backward was called before forward")
        return kept


_UNKNOWN = object()
_OF_SHAPES = {
    "channel_axis", "dim", "embedding_dim", "in_channels", "in_features", "kernel_size", "normalized_shape",
    "num_channels", "num_embeddings", "num_features", "num_groups", "out_channels", "out_features",
}  # fmt: skip
_ALWAYS_SHOWN = ("eps", "momentum", "p", "seed")


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | np.bool_ | np.integer | np.floating)


def _layers_in(name: str, value: Any) -> Iterator[tuple[str, Layer]]:
    if isinstance(value, Layer):
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _layers_in(f"{name}.{key}", one)
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            yield from _layers_in(f"{name}.{i}", one)


def _dtype_of(layer: str, dtype: Any) -> np.dtype[Any]:
    """The dtype of parameters, checked."""
    if dtype is not None:  # NumPy would take None for float64
        try:
            dtype = np.dtype(dtype)
        except (TypeError, ValueError):
            dtype = repr(dtype)
    if not isinstance(dtype, np.dtype) or dtype not in (np.float32, np.float64):
        raise TypeError(f"{layer}: dtype must be float32 or float64, got {dtype}")
    return dtype


def sizes_of(layer: str, name: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    """The sizes of some axes, from a sequence of them or from an integer for one axis."""
    sizes: tuple[Any, ...] = (
        tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str | bytes) else (shape,)
    )
    if not sizes:
        raise ValueError(f"{layer}: {name} must name at least one axis, got {shape!r}")
    return tuple(whole(layer, name, size) for size in sizes)


def axis_of(layer: str, name: str, axis: int) -> int:
    """The number of an axis, checked; whether inputs have this axis shows later."""
    return whole(layer, name, axis, -(1 << 53))


def generator(layer: str, seed: Any) -> np.random.Generator:
    """Where initial weights come from: a NumPy generator, or a new one from a seed; ``None`` for a random one."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        text = f"{layer}: seed must be an integer >= 0, a NumPy generator or None, got {seed!r}"
        raise type(error)(text) from None


def own_copy(value: Any) -> Any:
    """A copy of an array or tensor, which may be a layer's own memory; anything else as it is."""
    copy = getattr(value, "copy" if isinstance(value, np.ndarray) else "clone", None)
    return value if copy is None else copy()


def _converted(layer: str, key: str, value: Any, own: Array) -> Array:
    """A value of a state_dict, converted to the dtype of the layer's own array."""
    array = _numbers(layer, key, value)
    if array.shape != own.shape:
        raise ValueError(f"{layer}: {key} has shape {array.shape}, expected {own.shape}")
    with np.errstate(all="ignore"):
        result = array.astype(own.dtype)
    if own.dtype.kind == "i":
        if not np.all((result == array) & (result >= 0)):
            raise ValueError(f"{layer}: {key} must be an integer >= 0, got {array}")
    else:
        lost = np.isinf(result) & ~np.isinf(array)
        if np.any(lost):
            raise ValueError(f"{layer}: {key} has values that are infinite in {own.dtype}, such as {array[lost][0]}")
    return result


def _numbers(layer: str, key: str, value: Any) -> Array:
    """The value as an array of real numbers; also from a tensor on any device and of any dtype."""
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
            array = np.asarray(value.double())  # NumPy does not know bfloat16 and 8-bit floats
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{layer}: {key} must be an array of numbers, got {type_of(value)}") from None
    if array.dtype.isbuiltin == 2 and np.can_cast(array.dtype, np.float64):  # dtypes of ml_dtypes
        return array.astype(np.float64)
    if array.dtype.kind in "iuf":
        return array
    raise TypeError(f"{layer}: {key} must be an array of numbers, got {type_of(value)} of dtype {array.dtype}")


def pair_of(layer: Layer, out: Any) -> tuple[Any, Any]:
    """The arrays in ``out`` for two results."""
    if out is None:
        return None, None
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"{type(layer).__name__}: out must be a tuple of 2, with None for new results")
    return out


def gradients_of(layer: Layer) -> tuple[Array | None, Array | None]:
    """The arrays for the gradients of the weight and of the bias, ``None`` for one that the layer does not have."""
    weight, bias = (layer.grads.get(key) if key in layer.params else None for key in ("weight", "bias"))
    return weight, bias
