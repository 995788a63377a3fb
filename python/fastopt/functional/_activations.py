"""Activations, and linear layers: NumPy's products with a bias and an activation in one pass."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import numpy as np

from .._check import choice, flag, name_of
from .._core import kernels
from ._arrays import Array, array_of, results_of

__all__ = ["Activation", "activate", "activate_backward", "linear", "linear_backward"]

Activation: TypeAlias = Literal["relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"]
_COMPUTED = ("float32", "float64")
_SAVES_INPUT = ("gelu", "gelu_tanh", "silu")


def activate(
    x: Array,
    activation: Activation | None,
    bias: Array | None = None,
    *,
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    """An activation of every element, with the addition of a bias before it in the same pass.

    .. code-block:: text

        y = f(z),  z = x + bias
        relu: max(z, 0)   gelu: z·(1 + erf(z/√2))/2   gelu_tanh: z·(1 + tanh(√(2/π)·(z + 0.044715·z³)))/2
        silu: z/(1 + e⁻ᶻ)   tanh   sigmoid: 1/(1 + e⁻ᶻ)   None: z

    Args:
        x: Any shape and memory layout, float32 or float64.
        activation: The name of f, or ``None``.
        bias: Shape and dtype of x's last axis, or ``None``.
        out: C-contiguous arrays for ``(y, saved)``, ``None`` where a new one is wanted.  The first may be x itself; the second one
            is for gelu, gelu_tanh and silu only.

    Returns:
        y, like x, C-contiguous; and what :func:`activate_backward` needs: z for gelu, gelu_tanh and silu, otherwise y itself.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or name is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, saved = F.activate(np.array([[-1.0, 2.0]]), "gelu", np.array([0.0, 1.0]))
        >>> y.round(4), saved
        (array([[-0.1587,  2.996 ]]), array([[-1.,  3.]]))
        >>> dx, dbias = F.activate_backward(np.ones((1, 2)), saved, "gelu", bias_grad=True)
        >>> dx.round(4)
        array([[-0.0833,  1.0119]])

    References:
        Hendrycks & Gimpel 2016, arXiv:1606.08415 (gelu); Elfwing, Uchibe & Doya 2017, arXiv:1702.03118 (silu).
    """
    return kernels.activate(x, activation, bias, out)


def activate_backward(
    dy: Array,
    saved: Array,
    activation: Activation | None,
    *,
    bias_grad: bool = False,
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None]:
    """The gradients of :func:`activate`.

    .. code-block:: text

        dx = dy·f'(z);   dbias = Σ dx over all axes but the last

    Args:
        dy: The gradient with respect to y, float32 or float64, any memory layout.
        saved: As forward returned it; shape and dtype of dy.
        activation: As in forward.
        bias_grad: Whether to compute dbias.
        out: C-contiguous arrays for ``(dx, dbias)``, ``None`` where a new one is wanted.  The first may be dy or saved itself.

    Returns:
        dx, like dy, C-contiguous; dy itself without an activation and out.  dbias, of the length of the last axis, ``None``
        without ``bias_grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or name is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, saved = F.activate(np.array([[-1.0, 2.0], [3.0, -4.0]]), "relu")
        >>> F.activate_backward(np.full((2, 2), 5.0), saved, "relu", bias_grad=True)
        (array([[0., 5.],
               [5., 0.]]), array([5., 5.]))
    """
    return kernels.activate_backward(dy, saved, activation, bias_grad, out)


def _apart(function: str, out: tuple[Array | None, ...], *read: Array | None) -> None:
    """Raises if a result shares memory with an input or with another result."""
    for i, array in enumerate(out):
        if array is None:
            continue
        for other in (*read, *out[:i]):
            if other is not None and np.may_share_memory(array, other):
                raise ValueError(f"{function}: out[{i}] would be written, but overlaps another array")


def _written(function: str, name: str, array: Array | None, shape: tuple[int, ...], dtype: str) -> Array | None:
    """An array of ``out``, checked."""
    if array is None:
        return None
    array_of(function, name, array, shape, [dtype], contiguous=True)
    if not array.flags.writeable:
        raise TypeError(f"{function}: {name} is read-only, but would be written; give a copy")
    return array


def _checked(function: str, x: Array, weight: Array, bias: Array | None) -> tuple[int, int, int]:
    """The number of rows of x, and of inputs and outputs."""
    array_of(function, "x", x, None, _COMPUTED)
    dtype = name_of(x.dtype)

    def way_out() -> str:
        return f", as x has: pass weight.astype(np.{dtype})"

    array_of(function, "weight", weight, None, [dtype], way_out=way_out)
    if weight.ndim != 2:
        raise ValueError(f"{function}: weight has shape {weight.shape}, expected (out_features, in_features)")
    outputs, inputs = weight.shape
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise ValueError(f"{function}: x has shape {x.shape}, expected it to end with {inputs}, the inputs of weight")
    if bias is not None:
        array_of(function, "bias", bias, (outputs,), [dtype])
    return math.prod(x.shape[:-1]), inputs, outputs


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    activation: Activation | None = None,
    *,
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    """A linear layer: NumPy's product, then the bias and an activation in one pass.

    .. code-block:: text

        y = f(x·weightᵀ + bias)

    The product is NumPy's, whose bits depend on its BLAS; everything else has the bits of the reference, given the product's.

    Args:
        x: Shape ``(*, in_features)``, any memory layout, float32 or float64.
        weight: Shape ``(out_features, in_features)``, as in torch; dtype of x.
        bias: Shape ``(out_features,)``, dtype of x, or ``None``.
        activation: f, a name as in :func:`activate`, or ``None``.
        out: C-contiguous arrays for ``(y, saved)``, ``None`` where a new one is wanted.  None may overlap an argument; the second one
            is for gelu, gelu_tanh and silu only.

    Returns:
        y, shape ``(*, out_features)``; and what :func:`linear_backward` needs: x·weightᵀ + bias for gelu, gelu_tanh and silu,
        otherwise y itself.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or name is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 1.0], [0.0, -1.0]])
        >>> y, saved = F.linear(x, weight, np.array([0.5, 0.0]), "relu")
        >>> y
        array([[3.5, 0. ]])
        >>> dx, dweight, dbias = F.linear_backward(np.ones((1, 2)), x, weight, saved, "relu")
        >>> dx, dweight, dbias
        (array([[1., 1.]]), array([[1., 2.],
               [0., 0.]]), array([1., 0.]))
    """
    count, inputs, outputs = _checked("linear", x, weight, bias)
    if activation is not None:
        choice("linear", "activation", activation, get_args(Activation))
    shape, saves = (*x.shape[:-1], outputs), activation in _SAVES_INPUT
    y, saved = results_of("linear", out, 2)
    if saved is not None and not saves:
        raise ValueError("linear: out[1] is given, but backward needs y only")
    y = _written("linear", "out[0]", y, shape, name_of(x.dtype))
    saved = _written("linear", "out[1]", saved, shape, name_of(x.dtype))
    _apart("linear", (y, saved), x, weight, bias)
    y = kernels.empty(shape, x.dtype) if y is None else y
    with np.errstate(all="ignore"):
        np.matmul(x.reshape(count, inputs), weight.T, out=y.reshape(count, outputs))
    if activation is None and bias is None:
        return y, y
    return kernels.activate(y, activation, bias, (y, saved))


def linear_backward(
    dy: Array,
    x: Array,
    weight: Array,
    saved: Array | None = None,
    activation: Activation | None = None,
    *,
    x_grad: bool = True,
    bias_grad: bool = True,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array | None, Array, Array | None]:
    """The gradients of :func:`linear`.

    .. code-block:: text

        dz = dy·f'(z);   dx = dz·weight,  dweight = dzᵀ·x,  dbias = Σ dz over rows

    Args:
        dy: The gradient with respect to y, shape ``(*, out_features)``, dtype of x, any memory layout.
        x: The input of forward.
        weight: As in forward.
        saved: As forward returned it; not needed without an activation.
        activation: As in forward.
        x_grad: Whether dx is wanted; a network's first layer has no use for it, and it is a third of the work.
        bias_grad: Whether to compute dbias.
        out: C-contiguous arrays for ``(dx, dweight, dbias)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like x, ``None`` without ``x_grad``; dweight, like weight; dbias, shape ``(out_features,)``, ``None`` without
        ``bias_grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or name is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.linear_backward(np.ones((1, 1)), np.array([[2.0, 3.0]]), np.array([[4.0, 5.0]]))
        (array([[4., 5.]]), array([[2., 3.]]), array([1.]))
    """
    function = "linear_backward"
    count, inputs, outputs = _checked(function, x, weight, None)
    dtype, shape = name_of(x.dtype), (*x.shape[:-1], outputs)
    array_of(function, "dy", dy, shape, [dtype], way_out=lambda: f", as x has: pass dy.astype(np.{dtype})")
    if activation is not None:
        choice(function, "activation", activation, get_args(Activation))
        if saved is None:
            raise TypeError(f"{function}: saved is None, but {activation!r} needs what forward returned")
    if saved is not None:
        array_of(function, "saved", saved, shape, [dtype])
    given = results_of(function, out, 3)
    for i, name, wanted in ((0, "x_grad", x_grad), (2, "bias_grad", bias_grad)):
        if not flag(function, name, wanted) and given[i] is not None:
            raise ValueError(f"{function}: out[{i}] is given, but {name} is False")
    dx, dweight, dbias = given
    dx = _written(function, "out[0]", dx, x.shape, dtype)
    dweight = _written(function, "out[1]", dweight, weight.shape, dtype)
    dbias = _written(function, "out[2]", dbias, (outputs,), dtype)
    _apart(function, (dx, dweight, dbias), dy, x, weight, saved)
    dz, dbias = kernels.activate_backward(dy, dy if saved is None else saved, activation, bias_grad, (None, dbias))
    dweight = kernels.empty(weight.shape, x.dtype) if dweight is None else dweight
    rows = dz.reshape(count, outputs)
    with np.errstate(all="ignore"):
        if x_grad:
            dx = kernels.empty(x.shape, x.dtype) if dx is None else dx
            np.matmul(rows, weight, out=dx.reshape(count, inputs))
        np.matmul(rows.T, x.reshape(count, inputs), out=dweight)
    return dx, dweight, dbias
