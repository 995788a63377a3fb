"""Normalizations as one function that autograd differentiates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import batch_norm as torch_batch_norm
from torch.nn.functional import group_norm as torch_group_norm
from torch.nn.functional import layer_norm as torch_layer_norm
from torch.nn.functional import relu as torch_relu
from torch.nn.functional import rms_norm as torch_rms_norm

from ... import functional as F
from ._choice import is_readable
from ._tensors import HALVES, Array, array_of, computed, gradients, tensor_of

__all__ = ["BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm", "normalize"]


# A normalization: its options, and three functions.
#   forward(x, weight, bias) -> y, *statistics                    of arrays
#   backward(dy, x, weight, bias, statistics, bias_grad) -> dx, dweight, dbias     of arrays
#   own(x, weight, bias, statistics) -> y                         of tensors, by torch's operations


@dataclass(slots=True)
class LayerNorm:
    shape: Any
    eps: float
    reads_bias = False

    def forward(self, x: Array, weight: Any, bias: Any) -> tuple[Any, ...]:
        return F.layer_norm(x, self.shape, weight, bias, self.eps)

    def backward(
        self, dy: Array, x: Array, weight: Any, bias: Any, statistics: Sequence[Array], bias_grad: bool
    ) -> tuple[Any, ...]:
        mean, rstd = statistics
        return F.layer_norm_backward(dy, x, self.shape, mean, rstd, weight, bias_grad=bias_grad)

    def own(self, x: Any, weight: Any, bias: Any, statistics: Sequence[Any]) -> Any:
        return torch_layer_norm(x, self.shape, weight, bias, self.eps)


@dataclass(slots=True)
class RMSNorm:
    shape: Any
    eps: float
    reads_bias = False

    def forward(self, x: Array, weight: Any, bias: Any) -> tuple[Any, ...]:
        return F.rms_norm(x, self.shape, weight, self.eps)

    def backward(
        self, dy: Array, x: Array, weight: Any, bias: Any, statistics: Sequence[Array], bias_grad: bool
    ) -> tuple[Any, ...]:
        (rstd,) = statistics
        return *F.rms_norm_backward(dy, x, self.shape, rstd, weight), None

    def own(self, x: Any, weight: Any, bias: Any, statistics: Sequence[Any]) -> Any:
        return torch_rms_norm(x, self.shape, weight, self.eps)


@dataclass(slots=True)
class GroupNorm:
    groups: int
    eps: float
    reads_bias = False

    def forward(self, x: Array, weight: Any, bias: Any) -> tuple[Any, ...]:
        return F.group_norm(x, self.groups, weight, bias, self.eps)

    def backward(
        self, dy: Array, x: Array, weight: Any, bias: Any, statistics: Sequence[Array], bias_grad: bool
    ) -> tuple[Any, ...]:
        mean, rstd = statistics
        return F.group_norm_backward(dy, x, self.groups, mean, rstd, weight, bias_grad=bias_grad)

    def own(self, x: Any, weight: Any, bias: Any, statistics: Sequence[Any]) -> Any:
        return torch_group_norm(x, self.groups, weight, bias, self.eps)


@dataclass(slots=True)
class BatchNorm:
    running: tuple[Any, Any]  # forward lets go of them
    training: bool
    momentum: float
    eps: float
    relu: bool

    @property
    def reads_bias(self) -> bool:
        return self.relu

    def forward(self, x: Array, weight: Any, bias: Any) -> tuple[Any, ...]:
        tensors, self.running = self.running, (None, None)
        mean, var = arrays = [computed(one) for one in tensors]
        function = F.batch_norm_relu if self.relu else F.batch_norm
        results = function(x, mean, var, weight, bias, self.training, self.momentum, self.eps)
        if self.training and tensors[0] is not None:
            if tensors[0].dtype in HALVES and x.dtype.itemsize == 2:
                for tensor, array in zip(tensors, arrays, strict=True):
                    tensor.copy_(torch.from_numpy(array))
            else:
                torch.autograd.graph.increment_version(tensors)  # which NumPy has written
        return results

    def backward(
        self, dy: Array, x: Array, weight: Any, bias: Any, statistics: Sequence[Array], bias_grad: bool
    ) -> tuple[Any, ...]:
        mean, rstd = statistics
        training = self.training
        if self.relu:
            return F.batch_norm_relu_backward(dy, x, mean, rstd, weight, bias, training=training, bias_grad=bias_grad)
        return F.batch_norm_backward(dy, x, mean, rstd, weight, training=training, bias_grad=bias_grad)

    def own(self, x: Any, weight: Any, bias: Any, statistics: Sequence[Any]) -> Any:
        if self.training:
            y = torch_batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)
        else:
            mean, rstd, weight, bias = (
                one if one is None else one.double().view(-1, *[1] * (x.dim() - 2))
                for one in (*statistics, weight, bias)
            )
            y = (x.double() - mean) * rstd
            y = y if weight is None else y * weight
            y = (y if bias is None else y + bias).to(x.dtype)
        return torch_relu(y) if self.relu else y


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, norm: Any, x: Any, weight: Any, bias: Any) -> Any:
        y, *statistics = norm.forward(array_of(x), computed(weight), computed(bias))
        ctx.norm, ctx.bias = norm, None if bias is None else (bias.shape, bias.dtype)
        kept = bias if norm.reads_bias else None
        ctx.save_for_backward(x, weight, kept, *map(torch.from_numpy, statistics))
        return tensor_of(y)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        x, weight, bias, *statistics = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not is_readable(dy):
            if bias is None and ctx.bias is not None:  # its values are in no gradient
                shape, dtype = ctx.bias
                bias = torch.zeros(shape, dtype=dtype, device="cpu", requires_grad=wanted[2])
            return None, *gradients(lambda *inputs: ctx.norm.own(*inputs, statistics), (x, weight, bias), wanted, dy)
        arrays = array_of(dy), array_of(x), computed(weight), computed(bias)
        results = ctx.norm.backward(*arrays, [one.numpy() for one in statistics], wanted[2])
        dx, dweight, dbias = (tensor_of(one) if need else None for one, need in zip(results, wanted, strict=True))
        if dweight is not None and dweight.dtype is not weight.dtype:
            dweight = dweight.to(weight.dtype)
        if dbias is not None and dbias.dtype is not ctx.bias[1]:
            dbias = dbias.to(ctx.bias[1])
        return None, dx, dweight, dbias


def normalize(norm: Any, x: Any, weight: Any, bias: Any) -> Any:
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (x, weight, bias)):
        return _Normalize.apply(norm, x, weight, bias)
    return tensor_of(norm.forward(array_of(x), computed(weight), computed(bias))[0])
