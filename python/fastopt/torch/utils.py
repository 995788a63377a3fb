"""Clipping of gradients, in place of :mod:`torch.nn.utils`'.

.. code-block:: python

    from fastopt.torch.utils import clip_grad_norm_

    loss.backward()
    clip_grad_norm_(model.parameters(), 1.0)
    opt.step()

With an optimizer of :mod:`fastopt.torch.optim`, ``opt.step(clip_norm=1.0)`` needs one pass over memory less.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd.graph import increment_version
from torch.nn.utils import clip_grad_norm_ as _torchs_norm
from torch.nn.utils import clip_grad_value_ as _torchs_value

from .._core import kernels
from ._tensors import exchange_table
from .functional._choice import taken

__all__ = ["clip_grad_norm_", "clip_grad_value_"]

_clip = kernels.TensorClip(exchange_table(), torch.Tensor, increment_version)
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # in the order of csrc/bind/clip.cpp
_CPU = torch.device("cpu")
_NO_NUMBER = (TypeError, ValueError, RuntimeError)  # torch's own function raises the error


def _listed(parameters: torch.Tensor | Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)


def clip_grad_norm_(
    parameters: torch.Tensor | Iterable[torch.Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """Clips gradients in place by the norm of all of them together, as :func:`torch.nn.utils.clip_grad_norm_` does.

    The norm is the one that ``opt.step(clip_norm=...)`` finds, summed in float64.  Gradients whose norm is small enough are not
    written.  torch's own function is called where ``norm_type`` is not 2, under ``torch.compile``, and for gradients that are
    not plain tensors of the CPU in float32, float64, float16 or bfloat16, contiguous in some order of their axes, without
    memory in common.

    Args:
        parameters: Parameters whose gradients are clipped, or one of them.
        max_norm: The largest norm.
        norm_type: The type of the norm.
        error_if_nonfinite: Whether a norm that is infinite or NaN, in the dtype of the result, is an error.
        foreach: As torch takes it; here without effect.

    Returns:
        The norm before clipping, without axes, in the dtype to which torch promotes those of all gradients.

    Raises:
        RuntimeError: The norm is not finite and ``error_if_nonfinite``.  Nothing has been written.

    Example:
        >>> import torch
        >>> from fastopt.torch.utils import clip_grad_norm_
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> weight.square().sum().backward()
        >>> clip_grad_norm_([weight], 1.0)
        tensor(10.)
        >>> weight.grad
        tensor([0.6000, 0.8000])
    """
    if torch.compiler.is_compiling():
        return _torchs_norm(parameters, max_norm, norm_type, error_if_nonfinite, foreach)
    params = _listed(parameters)
    if not params and isinstance(parameters, types.GeneratorType):
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=2)
    try:
        most, strict = (float(max_norm), bool(error_if_nonfinite)) if norm_type == 2.0 else (-1.0, False)
    except _NO_NUMBER:
        most, strict = -1.0, False
    found = _clip.norm(params, most, strict) if most >= 0 else None
    if found is None:
        return _torchs_norm(params, max_norm, norm_type, error_if_nonfinite, foreach)
    taken[0] += 1
    return torch.scalar_tensor(found[0], dtype=_DTYPES[found[1]], device=_CPU)


def clip_grad_value_(
    parameters: torch.Tensor | Iterable[torch.Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Clips every element of gradients in place to [−clip_value, clip_value], as :func:`torch.nn.utils.clip_grad_value_` does.

    torch's own function is called where :func:`clip_grad_norm_` would call it, and where there is no gradient, which is an
    error of torch 2.13.

    Args:
        parameters: Parameters whose gradients are clipped, or one of them.
        clip_value: The largest absolute value.
        foreach: As torch takes it; here without effect.

    Example:
        >>> import torch
        >>> from fastopt.torch.utils import clip_grad_value_
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, -0.25]))
        >>> weight.square().sum().backward()
        >>> clip_grad_value_([weight], 1.0)
        >>> weight.grad
        tensor([ 1.0000, -0.5000])
    """
    if torch.compiler.is_compiling():
        _torchs_value(parameters, clip_value, foreach)
        return
    try:
        limit = float(clip_value)
    except _NO_NUMBER:
        limit = -1.0
    params: Any = _listed(parameters) if limit > 0 else parameters
    if limit > 0 and _clip.value(params, limit):
        taken[0] += 1
    else:
        _torchs_value(params, clip_value, foreach)


for _name in __all__:
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
