"""Linear layers, plain and with normalized weights; NumPy computes the products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as F
from .._check import choice, flag, name_of, not_contiguous, number, whole
from ..functional._activations import Activation
from ..functional._arrays import array_of
from ._layer import Array, Fixed, Layer, Shapes, Unset, generator

__all__ = ["CosineLinear", "Linear", "WeightNormLinear"]


class _Linear(Layer):
    """The base class: rows in the parameters' dtype, and checks of arguments that NumPy would accept silently."""

    if not TYPE_CHECKING:  # type checkers would take them for attributes of any type
        in_features, out_features, seed, dtype = Fixed(), Fixed(), Unset(), Unset()
        weight, bias, weight_g, weight_v = Unset(), Unset(), Unset(), Unset()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        shapes: Shapes,
        dtype: DTypeLike,
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        super().__init__(shapes, dtype)
        self._dtype = next(iter(self.params.values())).dtype
        self._shapes = {name: param.shape for name, param in self.params.items()}

    def _initial(self, seed: int | np.random.Generator | None, *names: str) -> None:
        """Sets weights and bias to the initial values of torch's linear layers, uniform in ±1/√in_features."""
        rng = generator(type(self).__name__, seed)
        bound = 1 / math.sqrt(max(self.in_features, 1))
        for name in names:
            self.params[name][...] = rng.uniform(-bound, bound, self.params[name].shape)

    def _rows(self, name: str, x: Any, width: int, shape: tuple[int, ...] | None = None, dtype: Any = None) -> Array:
        """A checked array as rows in the dtype of the computation; ``shape`` is required, or any shape that ends with the width."""
        layer, computed = type(self).__name__, name_of(self._dtype)

        def way_out() -> str:
            text = "" if name == "out" else f": pass {name}.astype({'x.dtype' if dtype else f'np.{computed}'})"
            other = not dtype and x.dtype in (np.float32, np.float64)
            return text + (f", or make the layer with dtype=np.{x.dtype}" if other else "")

        legal = (
            [name_of(dtype)] if dtype else [computed, "float16", "bfloat16"] if computed == "float32" else [computed]
        )
        array_of(layer, name, x, shape, legal, way_out=way_out)
        if x.shape[-1:] != (width,):
            raise ValueError(f"{layer}: {name} has shape {x.shape}, expected it to end with {width}")
        return np.ascontiguousarray(x, self._dtype).reshape(math.prod(x.shape[:-1]), width)

    def _check_out(self, out: Any, shape: tuple[int, ...], dtype: Any, *read: Array) -> None:
        """Raises if the result cannot be written to ``out``."""
        if out is None:
            return
        layer = type(self).__name__
        self._rows("out", out, shape[-1], shape, dtype)
        if not out.flags.c_contiguous:
            raise not_contiguous(f"{layer}: out")
        if not out.flags.writeable:
            raise TypeError(f"{layer}: out is read-only, but would be written; give a copy")
        if any(np.may_share_memory(out, array) for array in (*read, *self.params.values(), *self.grads.values())):
            raise ValueError(f"{layer}: out would be written, but overlaps another array")

    def _check_own(self, written: bool = False) -> None:
        """Raises if a parameter has another shape or dtype than at first; checks gradients too if they will be ``written``."""
        layer, dtypes = type(self).__name__, [name_of(self._dtype)]
        for name, shape in self._shapes.items():
            array_of(layer, name, self.params.get(name), shape, dtypes)
            if written:
                grad = array_of(layer, f"grads[{name!r}]", self.grads.get(name), shape, dtypes, contiguous=True)
                if not grad.flags.writeable:
                    raise TypeError(f"{layer}: grads[{name!r}] is read-only, but would be written; give a copy")

    @staticmethod
    def _stored(result: Array, x: Array, out: Array | None) -> Array:
        """The result, copied to ``out`` or converted to the dtype of x."""
        with np.errstate(over="ignore"):
            if out is None:
                return result.astype(x.dtype, copy=False)
            out[...] = result
        return out


class Linear(_Linear):
    """A linear layer, with an activation in the same pass as the bias; see :func:`fastopt.functional.linear`.

    .. code-block:: text

        y = f(x·weightᵀ + bias)

    Args:
        in_features: The length of the last axis of inputs.
        out_features: The length of the last axis of outputs.
        bias: Whether there is a bias.
        activation: f: "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", or ``None``.
        input_grad: Whether :meth:`backward` returns the gradient of the input; False for a network's first layer saves a third
            of the work, and backward returns ``None``.
        seed: The seed of the initial weights and biases, uniform in ±1/√in_features as torch's: an integer or a NumPy generator;
            ``None`` for a random one.
        dtype: The dtype of inputs and parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.Linear(2, 1, activation="relu", dtype=np.float64)
        >>> layer.params["weight"][...], layer.params["bias"][...] = [[3, 4]], -1
        >>> layer(np.array([[1.0, 0.0], [0.0, -1.0]]))
        array([[2.],
               [0.]])
        >>> layer.backward(np.ones((2, 1))), layer.grads["weight"]
        (array([[3., 4.],
               [0., 0.]]), array([[1., 0.]]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: Activation | None = None,
        *,
        input_grad: bool = True,
        seed: int | np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        inputs, outputs = (whole("Linear", "in_features", in_features), whole("Linear", "out_features", out_features))
        biased = flag("Linear", "bias", bias)
        if activation is not None:
            choice("Linear", "activation", activation, get_args(Activation))
        self.activation = activation
        self.input_grad = flag("Linear", "input_grad", input_grad)
        shapes: Shapes = {"weight": ((outputs, inputs), 0.0)}
        super().__init__(inputs, outputs, {**shapes, "bias": ((outputs,), 0.0)} if biased else shapes, dtype)
        self._initial(seed, *self.params)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The layer's output for ``x``, in ``out`` if that is given."""
        self._check_own()
        array_of("Linear", "x", x, None, [name_of(self._dtype)], way_out=self._way_out(x))
        y, saved = F.linear(
            x, self.params["weight"], self.params.get("bias"), self.activation, out=None if out is None else (out, None)
        )
        self._kept = x, saved
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array | None:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, saved = self._last()
        self._check_own(written=True)
        return F.linear_backward(
            dy,
            x,
            self.params["weight"],
            saved,
            self.activation,
            x_grad=self.input_grad,
            bias_grad="bias" in self.params,
            out=(out, self.grads["weight"], self.grads.get("bias")),
        )[0]

    def _way_out(self, x: Any) -> Callable[[], str]:
        def text() -> str:
            other = f", or make the layer with dtype=np.{x.dtype}" if x.dtype in (np.float32, np.float64) else ""
            return f": pass x.astype(np.{self._dtype.name}){other}"

        return text


class CosineLinear(_Linear):
    """A linear layer of cosines, see :func:`fastopt.functional.cosine_norm`.

    .. code-block:: text

        yᵢⱼ = cos(xᵢ, wⱼ),   with lengths √(Σx² + eps)

    Args:
        in_features: The length of the last axis of inputs.
        out_features: The length of the last axis of outputs, the number of weights.
        eps: Added to squared lengths.
        seed: The seed of the initial weights, uniform in ±1/√in_features: an integer or a NumPy generator; ``None`` for a
            random one.
        dtype: The dtype of the parameters, float32 or float64.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.CosineLinear(2, 3, dtype=np.float64)
        >>> layer.params["weight"][...] = [[0, 5], [9, 0], [1, 1]]
        >>> layer(np.array([[3.0, 4.0]])).round(4)
        array([[0.8   , 0.6   , 0.9899]])
        >>> layer.backward(np.array([[1.0, 0.0, 0.0]])).round(4)
        array([[-0.096,  0.072]])

    References:
        Luo, Zhan, Wang & Yang 2017, arXiv:1702.05870.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        eps: float = 1e-12,
        *,
        seed: int | np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        inputs = whole("CosineLinear", "in_features", in_features)
        outputs = whole("CosineLinear", "out_features", out_features)
        super().__init__(inputs, outputs, {"weight": ((outputs, inputs), 0.0)}, dtype)
        self.eps = number("CosineLinear", "eps", eps, 0)
        self._initial(seed, "weight")

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The cosines of ``x`` with each weight, in ``out`` if that is given."""
        self._check_own()
        rows = self._rows("x", x, self.in_features)
        self._check_out(out, (*x.shape[:-1], self.out_features), x.dtype, x)
        directions, rnorm = F.cosine_norm(rows, self.eps)
        weights, weight_rnorm = F.cosine_norm(self.params["weight"], self.eps)
        self._kept = x, rows, directions, rnorm, weights, weight_rnorm
        with np.errstate(all="ignore"):
            products = directions @ weights.T
        return self._stored(products.reshape(*x.shape[:-1], self.out_features), x, out)

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, rows, directions, rnorm, weights, weight_rnorm = self._last()
        self._check_own(written=True)
        g = self._rows("dy", dy, self.out_features, (*x.shape[:-1], self.out_features), x.dtype)
        self._check_out(out, x.shape, x.dtype, x, dy)
        with np.errstate(all="ignore"):
            of_weights, of_directions = g.T @ directions, g @ weights
        F.cosine_norm_backward(of_weights, self.params["weight"], weight_rnorm, out=self.grads["weight"])
        return self._stored(F.cosine_norm_backward(of_directions, rows, rnorm).reshape(x.shape), x, out)


class WeightNormLinear(_Linear):
    """A linear layer whose weights are given by directions and lengths, see :func:`fastopt.functional.weight_norm`.

    .. code-block:: text

        y = x·wᵀ + bias,   wⱼ = gⱼ·vⱼ/‖vⱼ‖

    Args:
        in_features: The length of the last axis of inputs.
        out_features: The length of the last axis of outputs.
        bias: Whether there is a bias.
        seed: The seed of the initial weights and biases, uniform in ±1/√in_features: an integer or a NumPy generator; ``None``
            for a random one.
        dtype: float32 or float64: that of the parameters, ``weight_g`` (g), ``weight_v`` (v) and ``bias``.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.WeightNormLinear(2, 1, bias=False, dtype=np.float64)
        >>> layer.params["weight_v"][...], layer.params["weight_g"][...] = [[3, 4]], 10
        >>> layer(np.array([[1.0, 0.0]])).round(4)
        array([[6.]])
        >>> layer.backward(np.ones((1, 1))).round(4), layer.grads["weight_g"].round(4)
        (array([[6., 8.]]), array([[0.6]]))

    References:
        Salimans & Kingma 2016, arXiv:1602.07868, eq. 2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        seed: int | np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        inputs = whole("WeightNormLinear", "in_features", in_features)
        outputs = whole("WeightNormLinear", "out_features", out_features)
        biased = flag("WeightNormLinear", "bias", bias)
        shapes: Shapes = {"weight_g": ((outputs, 1), 0.0), "weight_v": ((outputs, inputs), 0.0)}
        shapes = {"bias": ((outputs,), 0.0), **shapes} if biased else shapes
        super().__init__(inputs, outputs, shapes, dtype)
        self._initial(seed, "weight_v", *["bias"] * biased)
        self.params["weight_g"][...] = np.linalg.norm(self.params["weight_v"], axis=1, keepdims=True)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The products of ``x`` with each weight, in ``out`` if that is given."""
        self._check_own()
        rows = self._rows("x", x, self.in_features)
        self._check_out(out, (*x.shape[:-1], self.out_features), x.dtype, x)
        weights, rnorm = F.weight_norm(self.params["weight_v"], self.params["weight_g"])
        with np.errstate(all="ignore"):
            products = rows @ weights.T
            if "bias" in self.params:
                products += self.params["bias"]
        self._kept = x, rows, weights, rnorm
        return self._stored(products.reshape(*x.shape[:-1], self.out_features), x, out)

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given; ``dy`` is that of the output.  Fills ``grads``."""
        x, rows, weights, rnorm = self._last()
        self._check_own(written=True)
        g = self._rows("dy", dy, self.out_features, (*x.shape[:-1], self.out_features), x.dtype)
        self._check_out(out, x.shape, x.dtype, x, dy)
        v, length = self.params["weight_v"], self.params["weight_g"]
        with np.errstate(all="ignore"):
            of_weights, dx = g.T @ rows, g @ weights
            F.weight_norm_backward(of_weights, v, length, rnorm, out=(self.grads["weight_v"], self.grads["weight_g"]))
            if "bias" in self.grads:
                np.sum(g, 0, out=self.grads["bias"])
        return self._stored(dx.reshape(x.shape), x, out)
