"""The competition in normalization: good NumPy code, torch, and oneDNN.

A function returns a call, or a dict of calls if there may be none or several variants.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from functools import partial
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

from .data import Array
from .peers import NORM_EPS, NORM_MOMENTUM, Arrays, Call, as_tensors, keep_heap, onednn, torch

SETTINGS = SimpleNamespace(compile=False)  # whether torch.compile takes part if torch has no kernel

# NumPy ----------------------------------------------------------------------------------------------------------------


def dot(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
    """The sum of a·b over ``axes``, which stay with length one."""
    letters = "ijkl"[: a.ndim]
    kept = "".join(letter for axis, letter in enumerate(letters) if axis not in axes)
    return np.asarray(np.einsum(f"{letters},{letters}->{kept}", a, b, optimize=False)).reshape(
        [1 if axis in axes else length for axis, length in enumerate(a.shape)]
    )


def _mean(x: Array, axes: tuple[int, ...]) -> Array:
    """The mean over ``axes``, which keep the length one; in two steps for (1, 3), groups in the order N, H·W, groups, channels."""
    if axes == (1, 3):
        return np.asarray(x.mean(1, keepdims=True).mean(3, keepdims=True))
    return np.asarray(x.mean(axes, keepdims=True))


def _mean_product(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
    if axes == (1, 3):
        return np.asarray(dot(a, b, (1,)).sum(3, keepdims=True) / (a.shape[1] * a.shape[3]))
    return np.asarray(dot(a, b, axes) / prod(a.shape[axis] for axis in axes))


def _spread(statistics: Array, x: Array, axes: tuple[int, ...]) -> Array:
    """Parameters repeated to one per channel of x, as arithmetic on short rows is slow."""
    return np.repeat(statistics, x.shape[3], 3) if axes == (1, 3) else statistics


def numpy_norm(x: Array, weight: Array, bias: Array, y: Array, axes: tuple[int, ...]) -> Call:
    """Layer, group and instance normalization: ``axes`` are normalized together; weight and bias broadcast with x."""

    def forward() -> None:
        np.subtract(x, _spread(_mean(x, axes), x, axes), out=y)
        np.multiply(y, weight * _spread(1 / np.sqrt(_mean_product(y, y, axes) + NORM_EPS), x, axes), out=y)
        np.add(y, bias, out=y)

    def of_rows() -> None:
        np.subtract(x, x.mean(1, keepdims=True), out=y)
        np.multiply(y, 1 / np.sqrt(_mean_product(y, y, axes) + NORM_EPS), out=y)
        np.multiply(y, weight, out=y)
        np.add(y, bias, out=y)

    return of_rows if x.ndim == 2 else forward


def numpy_norm_backward(
    dy: Array, x: Array, weight: Array, dx: Array, axes: tuple[int, ...], over: tuple[int, ...]
) -> Callable[[], Arrays]:
    """The gradients of the weights are sums over the axes in ``over``."""
    mean = _mean(x, axes)
    rstd = _spread(1 / np.sqrt(_mean_product(x - mean, x - mean, axes) + NORM_EPS), x, axes)
    mean, xhat = _spread(mean, x, axes), np.empty_like(x)

    def backward() -> Arrays:
        np.subtract(x, mean, out=xhat)
        np.multiply(xhat, rstd, out=xhat)
        dweight, dbias = dot(dy, xhat, over), dy.sum(over)
        np.multiply(dy, weight, out=dx)
        mean_dxhat, mean_dxhat_xhat = _mean(dx, axes), _mean_product(dx, xhat, axes)
        np.multiply(xhat, _spread(mean_dxhat_xhat, x, axes), out=xhat)
        np.subtract(dx, xhat, out=dx)
        np.subtract(dx, _spread(mean_dxhat, x, axes), out=dx)
        np.multiply(dx, rstd, out=dx)
        return dweight, dbias

    return backward


def numpy_rms_norm(x: Array, weight: Array, y: Array) -> Call:
    """NumPy's version for the rows of a matrix."""

    def forward() -> None:
        np.multiply(x, 1 / np.sqrt(dot(x, x, (1,)) / x.shape[1] + NORM_EPS), out=y)
        np.multiply(y, weight, out=y)

    return forward


def numpy_rms_norm_backward(dy: Array, x: Array, weight: Array, dx: Array) -> Callable[[], Arrays]:
    rstd = 1 / np.sqrt(dot(x, x, (1,)) / x.shape[1] + NORM_EPS)
    xhat, width = np.empty_like(x), x.shape[1]

    def backward() -> Arrays:
        np.multiply(x, rstd, out=xhat)
        dweight = dot(dy, xhat, (0,))
        np.multiply(dy, weight, out=dx)
        np.multiply(xhat, dot(dx, xhat, (1,)) / width, out=xhat)
        np.subtract(dx, xhat, out=dx)
        np.multiply(dx, rstd, out=dx)
        return (dweight,)

    return backward


def numpy_batch_norm(
    x: Array, running_mean: Array, running_var: Array, weight: Array, bias: Array, y: Array, axes: tuple[int, ...]
) -> Call:
    """NumPy's version; the axis of channels is not among ``axes``, and the other arrays broadcast with x."""
    n = x.size // weight.size

    def forward() -> None:
        mean = x.mean(axes, keepdims=True)
        np.subtract(x, mean, out=y)
        var = dot(y, y, axes) / n
        np.multiply(y, weight / np.sqrt(var + NORM_EPS), out=y)
        np.add(y, bias, out=y)
        np.add(running_mean, NORM_MOMENTUM * (mean - running_mean), out=running_mean)
        np.add(running_var, NORM_MOMENTUM * (n / (n - 1) * var - running_var), out=running_var)

    return forward


def numpy_batch_norm_backward(
    dy: Array, x: Array, weight: Array, dx: Array, axes: tuple[int, ...]
) -> Callable[[], Arrays]:
    mean = x.mean(axes, keepdims=True)
    rstd = 1 / np.sqrt(x.var(axes, keepdims=True) + NORM_EPS)
    xhat, n = np.empty_like(x), x.size // weight.size

    def backward() -> Arrays:
        np.subtract(x, mean, out=xhat)
        np.multiply(xhat, rstd, out=xhat)
        dweight, dbias = dot(dy, xhat, axes), dy.sum(axes, keepdims=True)
        np.multiply(xhat, dweight / n, out=xhat)
        np.subtract(dy, xhat, out=dx)
        np.subtract(dx, dbias / n, out=dx)
        np.multiply(dx, weight * rstd, out=dx)
        return dweight, dbias

    return backward


def numpy_weight_norm(v: Array, g: Array, w: Array) -> Call:
    """NumPy's version for the rows of a matrix."""

    def forward() -> None:
        np.multiply(v, g / np.sqrt(dot(v, v, (1,))), out=w)

    return forward


def numpy_weight_norm_backward(dw: Array, v: Array, g: Array, dv: Array) -> Callable[[], Arrays]:
    rnorm, scratch = 1 / np.sqrt(dot(v, v, (1,))), np.empty_like(v)

    def backward() -> Arrays:
        dg = dot(dw, v, (1,)) * rnorm
        np.multiply(v, dg * rnorm, out=scratch)
        np.multiply(dw, g, out=dv)
        np.subtract(dv, np.multiply(scratch, g, out=scratch), out=dv)
        np.multiply(dv, rnorm, out=dv)
        return (dg,)

    return backward


# torch ----------------------------------------------------------------------------------------------------------------


def torch_layer_norm(x: Array, weight: Array, bias: Array) -> Call:
    keep_heap()
    ((input, w, b),) = as_tensors([x, weight, bias])
    return partial(torch().native_layer_norm, input, list(weight.shape), w, b, NORM_EPS)


def torch_layer_norm_backward(dy: Array, x: Array, weight: Array, bias: Array) -> Call:
    keep_heap()
    ((grad, input, w, b),) = as_tensors([dy, x, weight, bias])
    _, mean, rstd = torch().native_layer_norm(input, list(weight.shape), w, b, NORM_EPS)
    kernel = torch().ops.aten.native_layer_norm_backward.default
    return partial(kernel, grad, input, list(weight.shape), mean, rstd, w, b, [True, True, True])


def torch_batch_norm(x: Array, running_mean: Array, running_var: Array, weight: Array, bias: Array, y: Array) -> Call:
    ((input, mean, var, w, b, out),) = as_tensors([x, running_mean, running_var, weight, bias, y])
    results = (out, torch().empty_like(w), torch().empty_like(w))
    return partial(torch().native_batch_norm, input, w, b, mean, var, True, NORM_MOMENTUM, NORM_EPS, out=results)


def torch_batch_norm_backward(dy: Array, x: Array, weight: Array, bias: Array) -> Call:
    keep_heap()
    ((grad, input, w, b),) = as_tensors([dy, x, weight, bias])
    _, mean, rstd = torch().native_batch_norm(input, w, b, None, None, True, NORM_MOMENTUM, NORM_EPS)
    kernel = torch().ops.aten.native_batch_norm_backward.default
    return partial(kernel, grad, input, w, None, None, mean, rstd, True, NORM_EPS, [True, True, True])


def _torch_gradient(function: Callable[..., Any], dy: Any, *inputs: Any) -> Call:
    """A call that repeats the backward pass of autograd."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    return partial(torch().autograd.grad, function(*leaves), leaves, dy, retain_graph=True)


def compiled(function: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The function from ``torch.compile``, if that is wanted; it needs a C++ compiler and half a minute."""
    if not SETTINGS.compile:
        return {}
    config: Any = importlib.import_module("torch._functorch.config")
    config.donated_buffer = False  # there will be a second backward pass
    return {"torch/compiled": torch().compile(function)}


def torch_rms_norm(x: Array, weight: Array) -> dict[str, Call]:
    """torch's compositions of operators under two names; it has no kernel for this on the CPU."""
    keep_heap()
    ((input, w),) = as_tensors([x, weight.astype(x.dtype)])  # operators want one dtype
    functions = {"torch/rms_norm": torch().nn.functional.rms_norm, "torch/fused": torch()._fused_rms_norm}
    functions |= compiled(torch().nn.functional.rms_norm)
    return {name: partial(call, input, list(weight.shape), w, NORM_EPS) for name, call in functions.items()}


def torch_rms_norm_backward(dy: Array, x: Array, weight: Array) -> dict[str, Call]:
    keep_heap()
    ((grad, input, w),) = as_tensors([dy, x, weight.astype(x.dtype)])
    shape = list(weight.shape)
    functions = {"torch/autograd": torch().nn.functional.rms_norm} | compiled(torch().nn.functional.rms_norm)
    return {
        name: _torch_gradient(lambda input, w, f=function: f(input, shape, w, NORM_EPS), grad, input, w)
        for name, function in functions.items()
    }


def _sizes(x: Any, groups: int) -> tuple[int, int, int, int]:
    return x.shape[0], x.shape[1], x[0, 0].numel(), groups


def torch_group_norm(x: Array, weight: Array, bias: Array, groups: int) -> Call:
    keep_heap()
    ((input, w, b),) = as_tensors([x, weight, bias])
    return partial(torch().native_group_norm, input, w, b, *_sizes(input, groups), NORM_EPS)


def torch_group_norm_backward(dy: Array, x: Array, weight: Array, bias: Array, groups: int) -> Call:
    keep_heap()
    ((grad, input, w, b),) = as_tensors([dy, x, weight, bias])
    sizes = _sizes(input, groups)
    _, mean, rstd = torch().native_group_norm(input, w, b, *sizes, NORM_EPS)
    kernel = torch().ops.aten.native_group_norm_backward.default
    return partial(kernel, grad, input, mean, rstd, w, *sizes, [True, True, True])


def torch_instance_norm(x: Array, weight: Array, bias: Array) -> dict[str, Call]:
    """GroupNorm with one group per channel, which is faster than torch's own InstanceNorm, a BatchNorm of a view."""
    ((input, w, b),) = as_tensors([x, weight, bias])
    own = partial(torch().instance_norm, input, w, b, None, None, True, NORM_MOMENTUM, NORM_EPS, False)
    return {"torch/instance_norm": own, "torch/group_norm": torch_group_norm(x, weight, bias, len(weight))}


def torch_instance_norm_backward(dy: Array, x: Array, weight: Array, bias: Array) -> dict[str, Call]:
    ((grad, input, w, b),) = as_tensors([dy, x, weight, bias])

    def own(input: Any, w: Any, b: Any) -> Any:
        return torch().instance_norm(input, w, b, None, None, True, NORM_MOMENTUM, NORM_EPS, False)

    as_groups = torch_group_norm_backward(dy, x, weight, bias, len(weight))
    return {"torch/instance_norm": _torch_gradient(own, grad, input, w, b), "torch/group_norm": as_groups}


def torch_weight_norm(v: Array, g: Array) -> Call:
    keep_heap()
    ((weight, length),) = as_tensors([v, g])
    return partial(torch()._weight_norm_interface, weight, length, 0)


def torch_weight_norm_backward(dw: Array, v: Array, g: Array) -> Call:
    keep_heap()
    ((grad, weight, length),) = as_tensors([dw, v, g])
    _, norms = torch()._weight_norm_interface(weight, length, 0)
    return partial(torch().ops.aten._weight_norm_interface_backward.default, grad, weight, length, norms, 0)


# oneDNN ---------------------------------------------------------------------------------------------------------------


def _statistics(count: int) -> tuple[Array, Array]:
    """Mean and variance, for which oneDNN has float32."""
    return np.empty(count, np.float32), np.empty(count, np.float32)


def _if_it_has(make: Callable[[], Call]) -> dict[str, Call]:
    """A dict with the call, if oneDNN is built and has a kernel for it on this processor."""
    if onednn() is None:
        return {}
    with contextlib.suppress(TypeError, RuntimeError):
        return {"onednn": make()}
    return {}


def onednn_layer_norm(x: Array, weight: Array, bias: Array, y: Array) -> dict[str, Call]:
    return _if_it_has(lambda: onednn().layer_norm(x, weight, bias, NORM_EPS, y, *_statistics(len(x))))


def onednn_layer_norm_backward(dy: Array, x: Array, weight: Array, bias: Array, dx: Array) -> dict[str, Call]:
    def make() -> Call:
        statistics, gradients = _statistics(len(x)), (np.empty_like(weight), np.empty_like(bias))
        onednn().layer_norm(x, weight, bias, NORM_EPS, dx, *statistics)()
        call: Call = onednn().layer_norm_backward(dy, x, *statistics, weight, bias, NORM_EPS, dx, *gradients)
        return call

    return _if_it_has(make)


def onednn_batch_norm(x: Array, weight: Array, bias: Array, y: Array, *, relu: bool = False) -> dict[str, Call]:
    """oneDNN's version without running statistics, which it does not have."""

    def make() -> Call:
        norm = onednn().BatchNorm(x, NORM_EPS, relu=relu)
        call: Call = norm.forward(x, None, weight, bias, y, *_statistics(weight.size))
        return call

    return _if_it_has(make)


def onednn_batch_norm_backward(
    dy: Array, x: Array, weight: Array, bias: Array, dx: Array, *, relu: bool = False
) -> dict[str, Call]:
    """oneDNN's version; a ReLU behind it uses the signs that the forward pass has kept."""

    def make() -> Call:
        norm, statistics = onednn().BatchNorm(x, NORM_EPS, relu=relu), _statistics(weight.size)
        norm.forward(x, None, weight, bias, dx, *statistics)()
        gradients = np.empty_like(weight), np.empty_like(bias)
        call: Call = norm.backward(dy, x, *statistics, weight, dx, None, *gradients)
        return call

    return _if_it_has(make)
