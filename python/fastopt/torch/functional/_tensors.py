"""Tensors as the functions here need them, and the gradients of torch's own functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .._tensors import Array, array_of, tensor_of

__all__ = [
    "HALVES",
    "STORED",
    "Array",
    "array_of",
    "computed",
    "gradients",
    "inverse",
    "memory_order",
    "tensor_of",
    "with_channels",
]

STORED = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
HALVES = frozenset({torch.bfloat16, torch.float16})


def computed(tensor: Any) -> Any:
    """A parameter or a running statistic as the kernels take it: a view, but a float32 copy of 16 bits."""
    return array_of(tensor.float() if tensor is not None and tensor.dtype in HALVES else tensor)


def memory_order(tensor: Any) -> tuple[int, ...]:
    """The axes in the order of memory, outermost first; in their own order if elements share memory."""
    axes = tuple(range(tensor.dim()))
    if tensor.is_contiguous():
        return axes
    strides = tensor.stride()
    if any(stride == 0 and count > 1 for stride, count in zip(strides, tensor.shape, strict=True)):
        return axes
    return tuple(sorted(axes, key=lambda axis: -strides[axis]))


def with_channels(input: Any) -> Any:
    """The input in a memory format that the kernels keep as torch does: channels last stays even with gaps between channels."""
    if input.dim() in (4, 5) and input.stride(1) != 1 and not input.is_contiguous():
        strides = input.stride()
        if input.size(1) > 1 and 0 < strides[1] < strides[-1] and strides[1] < strides[0]:
            return input.contiguous(memory_format=torch.channels_last if input.dim() == 4 else torch.channels_last_3d)
    return input


def inverse(axes: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes one."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def gradients(function: Callable[..., Any], inputs: Sequence[Any], wanted: Sequence[bool], dy: Any) -> list[Any]:
    """The gradients of torch's own function, which can be differentiated again, and batched: ``None`` where not wanted.

    The inputs are those that forward saved, so that what is computed here is connected to the graph behind them.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [one.view_as(one) if need else one for one, need in zip(inputs, wanted, strict=True)]
        y = function(*aliases)
        some = [alias for alias, need in zip(aliases, wanted, strict=True) if need]
        found = iter(torch.autograd.grad(y, some, dy, create_graph=create_graph))
    return [next(found) if need else None for need in wanted]
