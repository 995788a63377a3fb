"""The competition: good NumPy code, and torch.

The NumPy code works in place with scratch arrays that are made once, and takes sums of products from ``einsum``.  torch is
called by the shortest way to its kernels: the raw fused operators for single tensors, ``native_*_norm`` without autograd.
Every function returns a call without arguments, ready to be timed.  :mod:`.norm_peers` has the normalizations.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import count
from math import sqrt
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from .data import Array

Call: TypeAlias = Callable[[], object]
Arrays: TypeAlias = Sequence[Array]

HYPER = SimpleNamespace(lr=1e-4, momentum=0.9, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, step=1000)
NORM_EPS, NORM_MOMENTUM = 1e-5, 0.1


def torch() -> Any:
    """The module, or None if it is not installed."""
    return importlib.import_module("torch") if importlib.util.find_spec("torch") else None


def onednn() -> Any:
    """The module of ``bench/onednn``, or None if it is not built."""
    return importlib.import_module("fastopt_onednn") if importlib.util.find_spec("fastopt_onednn") else None


# NumPy ----------------------------------------------------------------------------------------------------------------


def _scratch(params: Arrays) -> list[Array]:
    """Views of one scratch buffer in the shape of each parameter."""
    memory = np.empty(max(p.size for p in params), params[0].dtype)
    return [memory[: p.size].reshape(p.shape) for p in params]


def numpy_sgd(params: Arrays, grads: Arrays, buffers: Arrays) -> Call:
    scratch = _scratch(params)

    def step() -> None:
        for p, g, b, s in zip(params, grads, buffers, scratch, strict=True):
            b *= HYPER.momentum
            b += g
            np.multiply(b, HYPER.lr, out=s)
            p -= s

    return step


def numpy_adam(params: Arrays, grads: Arrays, exp_avgs: Arrays, exp_avg_sqs: Arrays, weight_decay: float = 0.0) -> Call:
    """Adam; it scales ε instead of dividing √v by √(1−β₂ᵗ), which saves a pass."""
    scratch, steps = _scratch(params), count(HYPER.step)
    beta1, beta2 = HYPER.betas

    def step() -> None:
        t = next(steps)
        correction = sqrt(1 - beta2**t)
        rate, eps = HYPER.lr * correction / (1 - beta1**t), HYPER.eps * correction
        for p, g, m, v, s in zip(params, grads, exp_avgs, exp_avg_sqs, scratch, strict=True):
            np.multiply(g, 1 - beta1, out=s)
            m *= beta1
            m += s
            np.multiply(g, g, out=s)
            s *= 1 - beta2
            v *= beta2
            v += s
            np.sqrt(v, out=s)
            s += eps
            np.divide(m, s, out=s)
            s *= rate
            if weight_decay:
                p *= 1 - HYPER.lr * weight_decay
            p -= s

    return step


def numpy_adamw(params: Arrays, grads: Arrays, exp_avgs: Arrays, exp_avg_sqs: Arrays) -> Call:
    return numpy_adam(params, grads, exp_avgs, exp_avg_sqs, HYPER.weight_decay)


# torch ----------------------------------------------------------------------------------------------------------------


@cache
def keep_heap() -> None:
    """Keeps freed memory in the process (glibc), so that torch, which allocates every result, can use it again.

    Otherwise the page faults of a large result cost torch more than computing it, and it would lose for the wrong reason.  Its
    ``out=`` overloads do not help: all but that of ``native_batch_norm`` allocate a result and copy it.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def as_tensor(array: Array) -> Any:
    """torch's view of the array."""
    if array.dtype.name == "bfloat16":  # torch does not know the dtype of ml_dtypes
        return torch().from_numpy(array.view(np.int16)).view(torch().bfloat16)
    return torch().from_numpy(array)


def as_tensors(*lists: Arrays) -> list[list[Any]]:
    return [[as_tensor(array) for array in arrays] for arrays in lists]


def torch_sgd(params: Arrays, grads: Arrays, buffers: Arrays) -> Call:
    options = {"lr": HYPER.lr, "momentum": HYPER.momentum, "weight_decay": 0.0, "dampening": 0.0}
    flags = {"nesterov": False, "maximize": False, "is_first_step": False}
    return partial(torch()._fused_sgd_, *as_tensors(params, grads, buffers), **options, **flags)


def _torch_adam(kernel: str, state: Sequence[Arrays], weight_decay: float) -> Call:
    betas = dict(zip(("beta1", "beta2"), HYPER.betas, strict=True))
    flags = {"amsgrad": False, "maximize": False}
    steps = [torch().tensor(float(HYPER.step)) for _ in state[0]]
    options = {"lr": HYPER.lr, "weight_decay": weight_decay, "eps": HYPER.eps}
    return partial(getattr(torch(), kernel), *as_tensors(*state), [], steps, **options, **betas, **flags)


def torch_adam(*state: Arrays) -> Call:
    return _torch_adam("_fused_adam_", state, 0.0)


def torch_adamw(*state: Arrays) -> Call:
    return _torch_adam("_fused_adamw_", state, HYPER.weight_decay)


def torch_step(params: Arrays, grads: Arrays, *, fused: bool) -> Call:
    """``torch.optim.AdamW(params).step()``."""
    (tensors, gradients) = as_tensors(params, grads)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        tensor.grad = gradient
    options = {"lr": HYPER.lr, "eps": HYPER.eps, "weight_decay": HYPER.weight_decay}
    optimizer = torch().optim.AdamW(tensors, betas=HYPER.betas, fused=fused or None, **options)
    step: Call = optimizer.step
    return step


def torch_variants(rule: str, param: Array, grad: Array, options: dict[str, Any]) -> dict[str, Call]:
    """``torch.optim.<rule>([param]).step()`` in torch's implementations: a loop, lists, fused."""
    optimizer = getattr(torch().optim, rule, None) if torch() else None
    found: dict[str, Call] = {}
    if optimizer is not None:
        for flags in ({"foreach": False}, {"foreach": True}, {"fused": True}):
            ((tensor, gradient),) = as_tensors([param.copy(), grad])
            tensor.grad = gradient
            with contextlib.suppress(TypeError, RuntimeError):  # not every rule has every implementation
                found[f"torch/{next(iter(flags))}={next(iter(flags.values()))}"] = optimizer(
                    [tensor], **options, **flags
                ).step
    return found


def torch_clipped_step(params: Arrays, grads: Arrays) -> Call:
    """``clip_grad_norm_``, the fused step, and zeroing."""
    tensors, gradients = as_tensors([p.copy() for p in params], [g.copy() for g in grads])
    for tensor, gradient in zip(tensors, gradients, strict=True):
        tensor.grad = gradient
    optimizer = torch().optim.AdamW(tensors, lr=HYPER.lr, weight_decay=HYPER.weight_decay, fused=True)

    def step() -> None:
        torch().nn.utils.clip_grad_norm_(tensors, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step
