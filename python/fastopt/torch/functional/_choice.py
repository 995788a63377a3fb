"""Which calls the kernels take, and which ones torch's own functions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter
from torch.utils._device import DeviceContext

__all__ = ["Least", "forced", "is_ordinary", "is_observed", "takes"]


class Least(NamedTuple):
    """Elements of an input from which on a kernel takes a call, with gradients and without; below, torch's own is faster."""

    training: float
    inference: float


NEVER = math.inf
LAYER_NORM = Least(1, 1)
RMS_NORM = Least(1, 1)
GROUP_NORM = Least(1, 1)
BATCH_NORM = Least(1, 1)
BATCH_NORM_EVAL = Least(1, 1)
BATCH_NORM_RELU = Least(1, 1)
BATCH_NORM_RELU_EVAL = Least(1, 1)
DROPOUT = Least(1, 1)
GELU = Least(NEVER, NEVER)
GELU_TANH = Least(1, 1)
CROSS_ENTROPY = Least(1, 1)

_ORDINARY = frozenset({Tensor, Parameter})
_forced: bool | None = None  # whether sizes do not matter, and what is called then


@contextlib.contextmanager
def forced(kernels: bool) -> Iterator[None]:
    """Calls the kernels, or torch's own functions, whatever the size of the input: for tests and measurements."""
    global _forced
    before, _forced = _forced, kernels
    try:
        yield
    finally:
        _forced = before


def takes(least: Least, input: Any, *others: Any) -> bool:
    """Whether a kernel takes this call: it is large enough, and all tensors are ordinary ones that nobody observes."""
    if is_compiling() or type(input) not in _ORDINARY:
        return False
    size = input.numel()
    if _forced is None:
        if size < (least.training if torch.is_grad_enabled() else least.inference):
            return False
    elif not _forced:
        return False
    return size > 0 and not is_observed() and all(one is None or is_ordinary(one) for one in (input, *others))


def is_ordinary(tensor: Any) -> bool:
    """Whether NumPy can see a tensor's elements: it is on the CPU, strided, no subclass, and no lazy negation."""
    return type(tensor) in _ORDINARY and tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_neg()


def is_observed() -> bool:
    """Whether something must see torch's own operations: a transform of torch.func, forward-mode derivatives, a mode, a trace."""
    return (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or (torch._C._len_torch_function_stack() > 0 and not _has_device_contexts_only())
    )


def _has_device_contexts_only() -> bool:
    """Whether the modes are those of ``torch.set_default_device`` and ``with torch.device(...)`` only, which change nothing here."""
    count = torch._C._len_torch_function_stack()
    return all(type(torch._C._get_function_stack_at(i)) is DeviceContext for i in range(count))
