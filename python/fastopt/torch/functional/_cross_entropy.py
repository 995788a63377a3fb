"""Cross entropy as a function that autograd differentiates."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as torch_cross_entropy

from ... import functional as F
from . import _choice
from ._choice import is_readable, takes
from ._tensors import HALVES, array_of, gradients, tensor_of

__all__ = ["cross_entropy"]

_COMPUTED = (torch.float32, torch.float64)
_REDUCTIONS = ("mean", "sum", "none")


class _Options(NamedTuple):
    ignore_index: int
    reduction: Any
    label_smoothing: float


def _forward(x: Any, target: Any, weight: Any, options: _Options, grad: bool) -> tuple[Any, Any]:
    loss, dx = F.cross_entropy(array_of(x), array_of(target), array_of(weight), *options, grad=grad)
    if options.reduction == "none":
        loss = torch.from_numpy(loss).to(x.dtype)
    else:
        loss = torch.scalar_tensor(loss, dtype=x.dtype, device=x.device)
    return loss, dx if dx is None else tensor_of(dx)


class _CrossEntropy(torch.autograd.Function):
    """Forward computes the gradient, too, while the logits are in the cache; backward scales it."""

    @staticmethod
    def forward(ctx: Any, x: Any, target: Any, weight: Any, options: _Options) -> Any:
        loss, dx = _forward(x, target, weight, options, True)
        ctx.options = options
        # Hooks may keep what they pack, or hand out the same memory again.
        ctx.hooked = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        if ctx.hooked:
            ctx.save_for_backward(dx, x, target, weight)
        else:  # so that they may change: torch's own backward does not need them either
            ctx.save_for_backward(dx)
            ctx.inputs = x, target, weight
            ctx.versions = [one._version for one in ctx.inputs if one is not None]
        return loss

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        dx, *inputs = ctx.saved_tensors
        keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph()
        if not ctx.hooked:
            inputs = ctx.inputs
            if not keeps_graph:
                ctx.inputs = None
        x, target, weight = inputs
        if torch.is_grad_enabled() or not is_readable(dy):
            if not ctx.hooked and ctx.versions != [one._version for one in inputs if one is not None]:
                raise RuntimeError(
                    "cross_entropy: input, target or weight was changed in place after forward, and a gradient of the gradient, or "
                    "one of a batch of gradients, needs them: change a clone"
                )

            def own(x: Any) -> Any:
                return torch_cross_entropy(x, target, weight, **ctx.options._asdict())

            return *gradients(own, (x,), (True,), dy), None, None, None
        # Without retain_graph and hooks nobody needs the saved gradient again: it becomes the result.
        kept = ctx.hooked or keeps_graph
        if ctx.options.reduction != "none":
            if dy.item() == 1:
                return dx.clone() if kept else dx, None, None, None
        else:
            dy = dy.unsqueeze(1 if x.dim() > 1 else 0)
        return dx * dy if kept else dx.mul_(dy), None, None, None


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """torch's ``cross_entropy``, by the kernel of :func:`fastopt.functional.cross_entropy` where that is faster.

    .. code-block:: text

        L = −Σ_c q_c·w_c·log p_c,   p = softmax(x),   q = (1 − label_smoothing)·target + label_smoothing/classes

    Loss and gradient are computed together, in two passes over the logits; backward returns the gradient, which it only
    scales if the loss has been.  16-bit logits are computed in float32.

    Args:
        input: Logits, shape ``(C,)``, ``(N, C)`` or ``(N, C, *)``.
        target: Labels, int64, of input's shape without C; or probabilities, of its shape.
        weight: Shape ``(C,)``.
        size_average: Deprecated by torch: see reduction.
        ignore_index: The label of places that do not count.
        reduce: Deprecated by torch: see reduction.
        reduction: "mean", "sum" or "none".
        label_smoothing: In [0, 1].

    Returns:
        The loss, or with "none" one for each place.

    Raises:
        IndexError: A label is not in [0, C); torch's own function raises it.
        RuntimeError: A shape or dtype is wrong; torch's own function raises it.
        ValueError: A name or a number of samples is wrong; torch's own function raises it.

    Example:
        >>> import torch
        >>> from fastopt.torch import functional as F
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 0.0]], requires_grad=True)
        >>> loss = F.cross_entropy(x, torch.tensor([0, -100]))
        >>> loss.backward()
        >>> x.grad
        tensor([[-0.5000,  0.5000],
                [ 0.0000,  0.0000]])

    References:
        Szegedy, Vanhoucke, Ioffe, Shlens & Wojna 2015, arXiv:1512.00567, section 7 (label smoothing).
    """
    if label_smoothing > 0:
        least = _choice.CROSS_ENTROPY_SMOOTHED
    else:
        labels = isinstance(target, Tensor) and not target.is_floating_point()
        least = _choice.CROSS_ENTROPY if labels else _choice.CROSS_ENTROPY_OF_DISTRIBUTIONS
    if size_average is None and reduce is None and takes(least, input, target, weight):
        options = _Options(ignore_index, reduction, label_smoothing)
        loss = _loss(input, target, weight, options)
        if loss is not None:
            return loss
    return torch_cross_entropy(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def _loss(input: Any, target: Any, weight: Any, options: _Options) -> Any:
    """The result of the kernel, or ``None``."""
    grad = torch.is_grad_enabled()
    if grad and (target.requires_grad or (weight is not None and weight.requires_grad)):
        return None
    dtype = input.dtype
    if torch.is_autocast_enabled("cpu"):  # makes this loss one of float32
        input, target, weight = (_single(one) for one in (input, target, weight))
        dtype = input.dtype
    elif dtype in HALVES and all(one is None or one.dtype in (dtype, torch.int64) for one in (target, weight)):
        input, target, weight = (_single(one) for one in (input, target, weight))
    of_labels = target.dtype is torch.int64
    if (
        input.dtype not in _COMPUTED
        or not (of_labels or target.dtype is input.dtype)
        or not (weight is None or weight.dtype is input.dtype)
        or (not of_labels and options.ignore_index >= 0)  # an error of torch's
        or options.reduction not in _REDUCTIONS
        or not 0 <= options.label_smoothing <= 1
    ):
        return None
    try:
        if grad and input.requires_grad:
            loss = _CrossEntropy.apply(input, target, weight, options)
        else:
            loss, _ = _forward(input, target, weight, options, False)
    except (TypeError, ValueError):
        return None  # torch's own function says in its own words what is wrong
    return loss if loss.dtype is dtype else loss.to(dtype)


def _single(tensor: Any) -> Any:
    """The tensor, in float32 if it has 16 bits."""
    return tensor.float() if tensor is not None and tensor.dtype in HALVES else tensor
