"""Normalizations: torch's functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn.functional import batch_norm as torch_batch_norm
from torch.nn.functional import group_norm as torch_group_norm
from torch.nn.functional import layer_norm as torch_layer_norm
from torch.nn.functional import relu as torch_relu
from torch.nn.functional import rms_norm as torch_rms_norm

from . import _choice
from ._choice import is_known, takes
from ._normalize import BatchNorm, GroupNorm, LayerNorm, RMSNorm, normalize
from ._tensors import HALVES, STORED, with_channels

__all__ = ["batch_norm", "batch_norm_relu", "group_norm", "layer_norm", "rms_norm"]


def _fit(input: Any, *parameters: Any) -> bool:
    """Whether the kernels take these dtypes, as torch's own functions do: those of the input, or float32 beside 16 bits."""
    dtype = input.dtype
    if dtype not in STORED:
        return False
    others = {one.dtype for one in parameters if one is not None}
    return not others or (len(others) == 1 and (dtype in others or (dtype in HALVES and torch.float32 in others)))


def _is_shape(normalized_shape: Any) -> bool:
    """Whether torch takes it: the kernels take one integer, too."""
    return isinstance(normalized_shape, tuple | list)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """torch's ``layer_norm``, by the kernel of :func:`fastopt.functional.layer_norm` where that is faster.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(var + eps),  mean and biased var over the normalized axes

    Args:
        input: Shape ``(*, *normalized_shape)``, any memory layout.
        normalized_shape: The shape of the last axes, which are normalized together.
        weight: Shape ``normalized_shape``.
        bias: Shape ``normalized_shape``.
        eps: Added to the variance.

    Returns:
        y, like input, contiguous.

    Raises:
        RuntimeError: A shape or dtype is wrong; torch's own function raises it.

    Example:
        >>> import torch
        >>> from fastopt.torch import functional as F
        >>> F.layer_norm(torch.tensor([[1.0, 3.0], [5.0, 9.0]]), [2], eps=0.0)
        tensor([[-1.,  1.],
                [-1.,  1.]])
    """
    if takes(_choice.LAYER_NORM, input, weight, bias) and _fit(input, weight, bias) and _is_shape(normalized_shape):
        try:
            return normalize(LayerNorm(normalized_shape, eps), input, weight, bias)
        except (TypeError, ValueError):
            pass  # torch's own function says in its own words what is wrong
    return torch_layer_norm(input, normalized_shape, weight, bias, eps)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """torch's ``rms_norm``, by the kernel of :func:`fastopt.functional.rms_norm` where that is faster.

    .. code-block:: text

        y = x·rstd·weight,   rstd = 1/√(Σx²/n + eps)  with Σ over the n normalized numbers

    Args:
        input: Shape ``(*, *normalized_shape)``, any memory layout.
        normalized_shape: The shape of the last axes, which are normalized together.
        weight: Shape ``normalized_shape``.
        eps: Added to the mean of the squares; ``None`` is the machine epsilon of float64 for float64, otherwise of float32, as
            in torch.

    Returns:
        y, like input, contiguous.

    Raises:
        RuntimeError: A shape or dtype is wrong; torch's own function raises it.

    Example:
        >>> import torch
        >>> from fastopt.torch import functional as F
        >>> F.rms_norm(torch.tensor([[1.0, 7.0], [-5.0, 5.0]]), [2], eps=0.0)
        tensor([[ 0.2000,  1.4000],
                [-1.0000,  1.0000]])
    """
    if takes(_choice.RMS_NORM, input, weight) and _fit(input, weight) and _is_shape(normalized_shape):
        own_eps = (2.0**-52 if input.dtype is torch.float64 else 2.0**-23) if eps is None else eps
        try:
            return normalize(RMSNorm(normalized_shape, own_eps), input, weight, None)
        except (TypeError, ValueError):
            pass
    return torch_rms_norm(input, normalized_shape, weight, eps)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """torch's ``group_norm``, by the kernel of :func:`fastopt.functional.group_norm` where that is faster.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(var + eps)
        mean and biased var of each sample and group, over its channels and all other axes

    Args:
        input: Shape ``(N, C, *)``, any memory layout.
        num_groups: The number of groups of equal size.
        weight: Shape ``(C,)``.
        bias: Shape ``(C,)``.
        eps: Added to the variance.

    Returns:
        y, like input, in its memory format.

    Raises:
        RuntimeError: A shape or dtype is wrong; torch's own function raises it.
        ValueError: There is a single value per group; torch's own function raises it.

    Example:
        >>> import torch
        >>> from fastopt.torch import functional as F
        >>> F.group_norm(torch.tensor([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0)
        tensor([[-1.,  1., -1.,  1.]])
    """
    if takes(_choice.GROUP_NORM, input, weight, bias) and _fit(input, weight, bias) and input.numel() != num_groups:
        try:
            return normalize(GroupNorm(num_groups, eps), with_channels(input), weight, bias)
        except (TypeError, ValueError):
            pass
    return torch_group_norm(input, num_groups, weight, bias, eps)


_BATCH_NORM = _choice.BATCH_NORM, _choice.BATCH_NORM_COLUMNS, _choice.BATCH_NORM_EVAL
_BATCH_NORM_RELU = _choice.BATCH_NORM_RELU, _choice.BATCH_NORM_RELU_COLUMNS, _choice.BATCH_NORM_RELU_EVAL


def _batch_norm(
    leasts: tuple[_choice.Least, ...],
    relu: bool,
    input: Any,
    running: tuple[Any, Any],
    weight: Any,
    bias: Any,
    *options: Any,
) -> Any:
    """The result of the kernel, or ``None``."""
    training, momentum, eps = options
    if is_compiling() or not is_known(input) or input.dim() < 2:
        return None
    least = leasts[0 if training and input.dim() > 2 and input.stride(1) != 1 else 1 if training else 2]
    if not takes(least, input, *running, weight, bias) or not _fit(input, *running, weight, bias) or eps <= 0:
        return None
    if (running[0] is None) != (running[1] is None) or any(
        one is not None and (one.requires_grad or not one.is_contiguous()) for one in running
    ):
        return None
    norm = BatchNorm(running, training, momentum, eps, relu)
    try:
        return normalize(norm, with_channels(input), weight, bias)
    except (TypeError, ValueError):
        return None


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch's ``batch_norm``, by the kernel of :func:`fastopt.functional.batch_norm` where that is faster.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(var + eps)
        training:    mean and biased var of this batch;  running ← (1 − momentum)·running + momentum·statistic, the variance unbiased
        evaluation:  the running statistics

    Args:
        input: Shape ``(N, C, *)``, any memory layout.
        running_mean: Shape ``(C,)``, updated in place in training, where it may be ``None``.
        running_var: As running_mean.
        weight: Shape ``(C,)``.
        bias: Shape ``(C,)``.
        training: Whether to use and record the statistics of this batch.
        momentum: The part of the running statistics that is replaced.
        eps: Added to the variance.

    Returns:
        y, like input, in its memory format.

    Raises:
        RuntimeError: A shape or dtype is wrong; torch's own function raises it.
        ValueError: A batch in training has a single value per channel; torch's own function raises it.

    Example:
        >>> import torch
        >>> from fastopt.torch import functional as F
        >>> running_mean, running_var = torch.zeros(1), torch.ones(1)
        >>> F.batch_norm(torch.tensor([[1.0], [3.0]]), running_mean, running_var, training=True).ravel()
        tensor([-1.0000,  1.0000])
        >>> running_mean
        tensor([0.2000])
    """
    y = _batch_norm(_BATCH_NORM, False, input, (running_mean, running_var), weight, bias, training, momentum, eps)
    if y is not None:
        return y
    return torch_batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def batch_norm_relu(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`batch_norm` and ReLU in one pass; torch has no such function.

    .. code-block:: text

        y = max(t, 0),   t = (x − mean)·rstd·weight + bias   as in batch_norm

    Args:
        input: As in :func:`batch_norm`.
        running_mean: As in :func:`batch_norm`.
        running_var: As in :func:`batch_norm`.
        weight: As in :func:`batch_norm`.
        bias: As in :func:`batch_norm`.
        training: As in :func:`batch_norm`.
        momentum: As in :func:`batch_norm`.
        eps: As in :func:`batch_norm`.

    Returns:
        y, like input, in its memory format.

    Raises:
        RuntimeError: As in :func:`batch_norm`.
        ValueError: As in :func:`batch_norm`.

    Example:
        >>> import torch
        >>> from fastopt.torch import functional as F
        >>> F.batch_norm_relu(torch.tensor([[1.0], [3.0]]), None, None, training=True).ravel()
        tensor([0.0000, 1.0000])
    """
    y = _batch_norm(_BATCH_NORM_RELU, True, input, (running_mean, running_var), weight, bias, training, momentum, eps)
    if y is not None:
        return y
    return torch_relu(torch_batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps))
