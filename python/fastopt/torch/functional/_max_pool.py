"""Max pooling as a function that autograd differentiates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling

from ... import functional as F
from . import _choice
from ._choice import is_known, is_readable, takes
from ._tensors import STORED, array_of, tensor_of, with_channels

__all__ = ["max_pool2d"]

torch_max_pool2d: Any = torch.nn.functional.max_pool2d
Pair = int | tuple[int, ...] | list[int]


class _MaxPool2d(torch.autograd.Function):
    """The input is not saved, only where the largest elements were."""

    @staticmethod
    def forward(ctx: Any, x: Any, *options: Any) -> Any:
        ctx.shape, ctx.options = x.shape, options
        last = x.stride(1) == 1 and x.size(1) > 1 and not x.is_contiguous()
        ctx.format = torch.channels_last if last else torch.contiguous_format
        y, indices = F.max_pool2d(array_of(x), *options, return_indices=True)
        ctx.save_for_backward(torch.from_numpy(indices))
        return tensor_of(y)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        (indices,), shape, nothing = ctx.saved_tensors, ctx.shape, [None] * len(ctx.options)
        readable = is_readable(dy)
        if readable and not torch.is_grad_enabled():
            array = array_of(dy.contiguous(memory_format=ctx.format))
            dx = tensor_of(F.max_pool2d_backward(array, indices.numpy(), tuple(shape), *ctx.options))
        else:  # by torch's operations, which can be differentiated again, and batched
            zeros = dy.new_zeros(*shape[:2], shape[2:].numel())
            rows = (one.reshape(*shape[:2], -1) for one in (indices.long(), dy))
            dx = zeros.scatter_add(2, *rows).reshape(shape)
        # A gradient of torch's lies in memory as the input; a batch of them as it happens.
        return dx.contiguous(memory_format=ctx.format) if readable else dx, *nothing


def _pair(value: Any) -> Any:
    """One integer or two, of which torch takes lists too, but no arrays."""
    if isinstance(value, np.ndarray):
        raise TypeError
    return (value[0] if len(value) == 1 else tuple(value)) if isinstance(value, list | tuple) and value else value


def _max_pool(input: Any, options: tuple[Any, ...]) -> Any:
    if torch.is_grad_enabled() and input.requires_grad:
        return _MaxPool2d.apply(input, *options)
    return tensor_of(F.max_pool2d(array_of(input), *options))


def max_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """torch's ``max_pool2d``, by the kernel of :func:`fastopt.functional.max_pool2d` where that is faster.

    .. code-block:: text

        y[n, c, i, j] = max over u, v of input[n, c, i·stride − padding + u·dilation, j·stride − padding + v·dilation]

    Results and gradients are torch's, bit for bit, but for sums in gradients of 16 bits, which are rounded once, where torch rounds each
    of their terms, and for subnormal numbers of float32 and bfloat16, which count as zero in all kernels.  For backward the places of the
    largest elements are kept, as int32, and the input is not, which torch keeps: it may be changed.

    Args:
        input: Shape ``(N, C, H, W)``, any memory format; without ``N`` torch's own function is called.
        kernel_size: The size of windows: an integer, or one for each axis.
        stride: The distance from one window to the next; ``None`` for kernel_size.
        padding: The rows and columns, never the largest element, that are added on each side.
        dilation: The distance from one element of a window to the next.
        ceil_mode: Whether the number of windows is rounded up.
        return_indices: Whether to return where the largest elements are, too; torch's own function does that.

    Returns:
        y, in the memory format of input; or ``(y, indices)``.

    Raises:
        RuntimeError: A size is wrong; torch's own function raises it.

    Example:
        >>> import torch
        >>> from fastopt.torch import functional as F
        >>> F.max_pool2d(torch.arange(16.0).view(1, 1, 4, 4), 2).ravel()
        tensor([ 5.,  7., 13., 15.])
    """
    if not is_compiling() and not return_indices and is_known(input) and input.dim() == 4:
        least = _choice.MAX_POOL_COLUMNS if input.stride(1) == 1 else _choice.MAX_POOL
        if takes(least, input) and input.dtype in STORED and isinstance(ceil_mode, bool):
            own_stride = None if isinstance(stride, list | tuple) and not stride else stride
            try:
                options = _pair(kernel_size), _pair(own_stride), _pair(padding), _pair(dilation), ceil_mode
                return _max_pool(with_channels(input), options)
            except (TypeError, ValueError):
                pass  # torch's own function says in its own words what is wrong
    return torch_max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
