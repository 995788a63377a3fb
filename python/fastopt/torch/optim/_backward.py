"""The hooks of parameters that are stepped in backward."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch.utils.weak import WeakIdKeyDictionary

Place: TypeAlias = tuple[int, int]  # the number of a group, and a parameter's number in it


class Stepping(Protocol):
    """An optimizer that steps one parameter at a time."""

    def _step_now(self, param: torch.Tensor) -> None: ...


class _Hook(NamedTuple):
    """A hook of a parameter: whose it is, and what removes it."""

    of: Callable[[], Any]
    handle: Any


_hooks: Any = WeakIdKeyDictionary()  # of parameters


def is_hooked(param: torch.Tensor) -> bool:
    """Whether an optimizer that still exists steps the parameter in backward."""
    before = _hooks.get(param)
    return before is not None and before.of() is not None


def hook(optimizer: Stepping, param: torch.Tensor) -> None:
    """Has the parameter stepped in backward from now on, by this optimizer and no other one."""
    before = _hooks.get(param)
    if not param.requires_grad or (before is not None and before.of() is optimizer):
        return
    if before is not None:
        before.handle.remove()
    of = weakref.ref(optimizer)  # the parameter does not keep its optimizer alive

    def step(param: torch.Tensor) -> None:
        optimizer = of()
        if optimizer is not None:
            optimizer._step_now(param)

    _hooks[param] = _Hook(of, param.register_post_accumulate_grad_hook(step))


def is_at(place: Place, param: torch.Tensor, groups: list[dict[str, Any]], group: dict[str, Any]) -> bool:
    """Whether a parameter is at its place in the groups, in this group."""
    number, i = place
    if number >= len(groups) or groups[number] is not group:
        return False
    params = group["params"]
    return i < len(params) and params[i] is param
