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

__all__ = ["Least", "forced", "is_known", "is_readable", "takes"]


NEVER = math.inf


class Least(NamedTuple):
    """Elements of an input from which on a kernel takes a call; below, torch's own function is faster."""

    training: float  # with gradients
    inference: float
    half_training: float  # the same for 16 bits
    half_inference: float


# Measured with bench/torch_modules.py: torch 2.13, one thread, a server with vectors of 256 bits, float32, forward + backward / forward alone;
# figures are torch's time ÷ the kernel's.  Each constant is a power of two near the size at which the ratio passes 1.
# "Reused": with fastopt.reuse_memory(), where torch's results are not fresh memory, which the kernels' never are.
# 64×64 0.5/0.5, 512×512 0.8/0.9, 1024×1024 0.7 to 2.4/0.6, 4096×1024 1.2 to 3.2/0.7 (reused 0.9 to 1.2/0.8);
# bfloat16: 1024×1024 0.8/0.8, 4096×1024 1.4/0.8.
LAYER_NORM = Least(1 << 22, NEVER, 1 << 22, NEVER)
# torch composes it of several operations.  8×64 1.2/1.1, 512×512 1.7/1.5; bfloat16: 64×256 1.0/0.9, 128×512 1.75/1.15.
RMS_NORM = Least(1, 1, 1 << 15, 1 << 16)
# 32×64×32×32 0.8/0.9, 16×128×56×56 1.07/5 (reused 1.0/1.2).
GROUP_NORM = Least(1 << 22, 1 << 22, NEVER, NEVER)
# 8×16×8×8 0.5/0.85, 16×32×16×16 1.25/2.4, 32×64×32×32 1.7/2.4; bfloat16: never above 0.9.
BATCH_NORM = Least(1 << 16, 1 << 14, NEVER, NEVER)
# Channels innermost in memory.  64×512 0.6/0.7, 32×64×32×32 0.7/0.7, 16×128×56×56 1.45/0.6 (reused 0.65/0.7).
BATCH_NORM_COLUMNS = Least(NEVER, NEVER, NEVER, NEVER)
# 32×64×32×32 0.97/0.6, 16×128×56×56 2.3/0.96 (reused 0.97/0.8).
BATCH_NORM_EVAL = Least(1 << 22, NEVER, NEVER, NEVER)
# 8×16×8×8 0.7/1.0, 16×32×16×16 1.3/2.4, 32×64×32×32 2.0/2.4; bfloat16: 32×64×32×32 1.0/1.05, 16×128×56×56 1.5/1.1.
BATCH_NORM_RELU = Least(1 << 16, 1 << 13, 1 << 22, 1 << 22)
# 32×64×32×32 1.0/0.94, 16×128×56×56 2.1/1.2 (reused 0.95/1.1).
BATCH_NORM_RELU_COLUMNS = Least(1 << 22, 1 << 22, NEVER, NEVER)
# 32×64×16×16 0.9/0.9, 32×64×32×32 1.3/1.3.
BATCH_NORM_RELU_EVAL = Least(1 << 20, 1 << 20, NEVER, NEVER)
# 64×64 0.9/2.1, 64×256 1.5/4.2, 1024×1024 6.7/12; bfloat16: 64×64 0.7/1.6, 64×256 1.2/2.7.
DROPOUT = Least(1 << 13, 1 << 11, 1 << 14, 1 << 12)
# torch's erf is faster: 0.6/0.5 at all sizes.
GELU = Least(NEVER, NEVER, NEVER, NEVER)
# 64×256 1.0/1.6, 128×512 1.35/1.9, 1024×1024 2.1/2.2.
GELU_TANH = Least(1 << 15, 1 << 13, NEVER, NEVER)
# 256×100 0.7/0.5, 256×1000 1.4/1.1, 1024×8192 6.1/1.3; bfloat16: 256×1000 1.2/1.0, 1024×8192 1.6/0.94.
CROSS_ENTROPY = Least(1 << 17, 1 << 18, 1 << 18, NEVER)
# torch composes it.  8×10 1.6/1.2, 256×100 1.4/0.9, 256×1000 1.8/1.2.
CROSS_ENTROPY_SMOOTHED = Least(1, 1 << 17, 1 << 18, NEVER)
# 256×100 1.07/0.7, 256×1000 1.6/1.2.
CROSS_ENTROPY_OF_DISTRIBUTIONS = Least(1 << 16, 1 << 18, 1 << 18, NEVER)

# Windows 2×2.  8×16×8×8 0.5/1.0, 16×32×16×16 2.0/5, 32×64×32×32 3.5/7; 3×3 at every second place: 16×32×16×16 1.5/2.2.
MAX_POOL = Least(1 << 16, 1 << 14, 1 << 16, 1 << 14)
# Channels innermost in memory.  32×64×16×16 0.9/1.2, 32×64×32×32 1.1/1.2, 16×128×56×56 1.35/1.2; 3×3: 32×64×32×32 0.94/1.1.
MAX_POOL_COLUMNS = Least(1 << 22, 1 << 21, 1 << 22, 1 << 21)

_HALVES = frozenset({torch.bfloat16, torch.float16})
_ORDINARY = frozenset({Tensor, Parameter})
taken = [0]  # how many calls kernels have taken
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
        if size < least[(not torch.is_grad_enabled()) + 2 * (input.dtype in _HALVES)]:
            return False
    elif not _forced:
        return False
    if size == 0 or _is_observed() or not _is_ordinary(input):
        return False
    for one in others:
        if one is not None and not _is_ordinary(one):
            return False
    taken[0] += 1
    return True


def is_known(input: Any) -> bool:
    """Whether an input may be asked for its strides: subclasses would see that, and nested tensors have none."""
    return type(input) in _ORDINARY and torch._C._dispatch_keys(input).has(torch._C.DispatchKey.CPU)


def is_readable(dy: Any) -> bool:
    """Whether a kernel may read a gradient: nothing observes it, and it is not a batch of gradients (``is_grads_batched``)."""
    return not _is_observed() and _is_ordinary(dy) and torch._C._dispatch_keys(dy).has(torch._C.DispatchKey.CPU)


def _is_ordinary(tensor: Any) -> bool:
    """Whether NumPy can see a tensor's elements: it is on the CPU, strided, no subclass, and no lazy negation."""
    return type(tensor) in _ORDINARY and tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_neg()


def _is_observed() -> bool:
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
