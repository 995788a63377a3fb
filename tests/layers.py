"""The table of layers, and the results that each of them must have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.random import Generator
from tables import Array, computed, ordinary
from tools import differing

from fastopt import functional as F
from fastopt import nn

# name: the layer with parameters of a dtype, and the shape of an input
LAYERS: dict[str, tuple[Callable[[str], nn.Layer], tuple[int, ...]]] = {
    "LayerNorm": (lambda dtype: nn.LayerNorm(6, dtype=dtype), (5, 6)),
    "LayerNorm of two axes": (lambda dtype: nn.LayerNorm((4, 6), eps=1e-3, dtype=dtype), (3, 2, 4, 6)),
    "LayerNorm without bias": (lambda dtype: nn.LayerNorm(6, bias=False, dtype=dtype), (5, 6)),
    "LayerNorm without weight": (lambda dtype: nn.LayerNorm(6, elementwise_affine=False, dtype=dtype), (5, 6)),
    "AddLayerNorm": (lambda dtype: nn.AddLayerNorm(6, eps=1e-3, dtype=dtype), (5, 6)),
    "AddLayerNorm without weight": (lambda dtype: nn.AddLayerNorm(6, elementwise_affine=False, dtype=dtype), (5, 6)),
    "RMSNorm": (lambda dtype: nn.RMSNorm((2, 3), dtype=dtype), (5, 2, 3)),
    "RMSNorm without weight": (lambda dtype: nn.RMSNorm(6, 1e-3, False, dtype=dtype), (5, 6)),
    "AddRMSNorm": (lambda dtype: nn.AddRMSNorm(6, dtype=dtype), (5, 6)),
    "AddRMSNorm without weight": (lambda dtype: nn.AddRMSNorm(6, 1e-3, False, dtype=dtype), (5, 6)),
    "ScaleNorm": (lambda dtype: nn.ScaleNorm(6, dtype=dtype), (5, 6)),
    "ScaleNorm of more axes": (lambda dtype: nn.ScaleNorm(6, 1e-3, dtype=dtype), (2, 5, 6)),
    "BatchNorm": (lambda dtype: nn.BatchNorm(6, dtype=dtype), (5, 6)),
    "BatchNorm NCHW": (lambda dtype: nn.BatchNorm(6, momentum=0.3, eps=1e-3, dtype=dtype), (2, 6, 3, 4)),
    "BatchNorm NHWC": (lambda dtype: nn.BatchNorm(6, channel_axis=-1, dtype=dtype), (2, 3, 4, 6)),
    "BatchNorm without weight": (lambda dtype: nn.BatchNorm(6, affine=False, dtype=dtype), (5, 6)),
    "BatchNorm without statistics": (lambda dtype: nn.BatchNorm(6, track_running_stats=False, dtype=dtype), (5, 6)),
    "BatchNorm of the average": (lambda dtype: nn.BatchNorm(6, momentum=None, dtype=dtype), (5, 6)),
    "BatchNorm frozen": (lambda dtype: nn.BatchNorm(6, frozen=True, dtype=dtype), (5, 6)),
    "BatchNormReLU": (lambda dtype: nn.BatchNormReLU(6, dtype=dtype), (4, 6, 3)),
    "BatchNormReLU without weight": (lambda dtype: nn.BatchNormReLU(6, affine=False, dtype=dtype), (5, 6)),
    "BatchNormAddReLU": (lambda dtype: nn.BatchNormAddReLU(6, channel_axis=-1, dtype=dtype), (4, 3, 6)),
    "BatchRenorm": (lambda dtype: nn.BatchRenorm(6, dtype=dtype), (5, 6)),
    "BatchRenorm with limits": (lambda dtype: nn.BatchRenorm(6, r_max=1.1, d_max=0.1, dtype=dtype), (4, 6, 3)),
    "GroupNorm": (lambda dtype: nn.GroupNorm(2, 6, dtype=dtype), (4, 6, 3)),
    "GroupNorm NHWC": (lambda dtype: nn.GroupNorm(3, 6, 1e-3, channel_axis=-1, dtype=dtype), (2, 3, 4, 6)),
    "GroupNorm without weight": (lambda dtype: nn.GroupNorm(3, 6, affine=False, dtype=dtype), (4, 6)),
    "InstanceNorm": (lambda dtype: nn.InstanceNorm(6, dtype=dtype), (4, 6, 3)),
    "InstanceNorm with statistics": (lambda dtype: nn.InstanceNorm(6, 1e-3, 0.3, True, True, dtype=dtype), (4, 6, 3)),
    "InstanceNorm NHWC": (lambda dtype: nn.InstanceNorm(6, affine=True, channel_axis=3, dtype=dtype), (2, 3, 4, 6)),
    "CosineLinear": (lambda dtype: nn.CosineLinear(6, 4, seed=1, dtype=dtype), (5, 6)),
    "CosineLinear of more axes": (lambda dtype: nn.CosineLinear(6, 4, 0.1, seed=1, dtype=dtype), (2, 5, 6)),
    "WeightNormLinear": (lambda dtype: nn.WeightNormLinear(6, 4, seed=1, dtype=dtype), (5, 6)),
    "WeightNormLinear without bias": (lambda dtype: nn.WeightNormLinear(6, 4, False, seed=1, dtype=dtype), (2, 5, 6)),
}


TWO_INPUTS = (nn.AddLayerNorm, nn.AddRMSNorm, nn.BatchNormAddReLU)


LINEAR = (nn.CosineLinear, nn.WeightNormLinear)


Arrays = tuple[Array, ...]


def tupled(value: Any) -> Arrays:
    return value if isinstance(value, tuple) else (value,)


def make(name: str, dtype: str, rng: Generator) -> tuple[Any, Arrays, Arrays]:
    """A layer with random parameters, its inputs, and the gradients of its outputs."""
    layer = LAYERS[name][0](computed(dtype))
    shape = LAYERS[name][1]
    for param in layer.params.values():
        param[...] = ordinary(rng, param.shape, param.dtype.name)
    inputs = tuple(ordinary(rng, (1 + isinstance(layer, TWO_INPUTS), *shape), dtype))
    outputs = (*shape[:-1], 4) if isinstance(layer, LINEAR) else shape
    gradients = tuple(ordinary(rng, (1 + isinstance(layer, (nn.AddLayerNorm, nn.AddRMSNorm)), *outputs), dtype))
    return layer, inputs, gradients


def expected(layer: Any, inputs: Arrays, gradients: Arrays) -> tuple[Arrays, Arrays, dict[str, Array | None]]:
    """Outputs, gradients of inputs and gradients of parameters by the functions; running statistics are copied."""
    (x, *residual), (dy, *dsum) = inputs, gradients
    params = layer.params
    weight, bias = params.get("weight"), params.get("bias")
    running = [layer.buffers[name].copy() if layer.buffers else None for name in ("running_mean", "running_var")]
    kind = type(layer).__name__
    if kind == "CosineLinear":
        rows, g = x.astype(weight.dtype).reshape(-1, 6), dy.astype(weight.dtype).reshape(-1, 4)
        (u, rnorm), (w, wnorm) = F.cosine_norm(rows, layer.eps), F.cosine_norm(weight, layer.eps)
        y, dx = u @ w.T, F.cosine_norm_backward(g @ w, rows, rnorm)
        grads = {"weight": F.cosine_norm_backward(g.T @ u, weight, wnorm)}
        return (y.astype(x.dtype).reshape(dy.shape),), (dx.astype(x.dtype).reshape(x.shape),), grads
    if kind == "WeightNormLinear":
        v, length = params["weight_v"], params["weight_g"]
        rows, g = x.astype(v.dtype).reshape(-1, 6), dy.astype(v.dtype).reshape(-1, 4)
        w, rnorm = F.weight_norm(v, length)
        y, dx = rows @ w.T + (0 if bias is None else bias), g @ w
        dv, dg = F.weight_norm_backward(g.T @ rows, v, length, rnorm)
        grads = {"weight_v": dv, "weight_g": dg, "bias": g.sum(0)}
        return (y.astype(x.dtype).reshape(dy.shape),), (dx.astype(x.dtype).reshape(x.shape),), grads
    if kind in ("LayerNorm", "RMSNorm"):
        norm, learned = (F.layer_norm, (weight, bias)) if kind == "LayerNorm" else (F.rms_norm, (weight,))
        back = F.layer_norm_backward if kind == "LayerNorm" else F.rms_norm_backward
        y, *used = norm(x, layer.normalized_shape, *learned, layer.eps)
        dx, *grads = back(dy, x, layer.normalized_shape, *used, weight)
        return (y,), (dx,), dict(zip(("weight", "bias"), grads, strict=False))
    if kind == "ScaleNorm":
        y, rnorm = F.scale_norm(x, params["g"], layer.eps)
        dx, dg = F.scale_norm_backward(dy, x, params["g"], rnorm)
        return (y,), (dx,), {"g": dg}
    if kind in ("AddLayerNorm", "AddRMSNorm"):
        norm, learned = (F.add_layer_norm, (weight, bias)) if kind == "AddLayerNorm" else (F.add_rms_norm, (weight,))
        back = F.add_layer_norm_backward if kind == "AddLayerNorm" else F.add_rms_norm_backward
        y, total, *used = norm(x, *residual, layer.normalized_shape, *learned, layer.eps)
        dx, *grads = back(dy, *dsum, total, layer.normalized_shape, *used, weight)
        return (y, total), (dx,), dict(zip(("weight", "bias"), grads, strict=False))
    axis = {"channel_axis": layer.channel_axis}
    if kind == "GroupNorm":
        y, *used = F.group_norm(x, layer.num_groups, weight, bias, layer.eps, **axis)
        dx, dw, db = F.group_norm_backward(dy, x, layer.num_groups, *used, weight, **axis)
        return (y,), (dx,), {"weight": dw, "bias": db}
    if kind == "InstanceNorm":
        own = layer.training or not layer.buffers
        y, *used = F.instance_norm(x, *running, weight, bias, own, layer.momentum, layer.eps, **axis)
        dx, dw, db = F.instance_norm_backward(dy, x, *used, weight, use_input_stats=own, **axis)
        return (y,), (dx,), {"weight": dw, "bias": db}
    training = not layer.buffers or (layer.training and not layer.frozen)
    of_mode = {"training": training, **axis}
    momentum = 1.0 if layer.momentum is None else layer.momentum
    function = {
        "BatchNormReLU": "batch_norm_relu",
        "BatchNormAddReLU": "batch_norm_add_relu",
        "BatchRenorm": "batch_renorm",
    }
    norm, back = (getattr(F, function.get(kind, "batch_norm") + end) for end in ("", "_backward"))
    more = (layer.r_max, layer.d_max) if kind == "BatchRenorm" else ()
    y, *used = norm(x, *residual, *running, weight, bias, training, momentum, layer.eps, *more, **axis)
    kept, learned = ((y,) if residual else ()), (weight, bias) if kind == "BatchNormReLU" else (weight,)
    *dx, dw, db = back(dy, *kept, x, *used, *learned, **of_mode)
    return (y,), tuple(dx), {"weight": dw, "bias": db}


def assert_same(results: Iterable[Array], others: Iterable[Array]) -> None:
    assert [differing(a, b) for a, b in zip(results, others, strict=True)] == [0 for _ in others]


def assert_gradients(layer: nn.Layer, gradients: dict[str, Array | None]) -> None:
    for key, array in layer.grads.items():
        gradient = gradients[key]
        assert gradient is not None
        assert differing(array, gradient) == 0


def out_like(arrays: Arrays) -> Any:
    copies = tuple(np.empty_like(array) for array in arrays)
    return copies if len(copies) > 1 else copies[0]
