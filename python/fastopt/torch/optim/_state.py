"""The state of a torch optimizer, which tells it about changes from outside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch

_CODES = "_8bit"  # the end of the names of 8-bit codes, which torch must not take for numbers
_CHANGING = ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update")


class Entries(dict[str, Any]):
    """The state of one parameter."""

    __slots__ = ("changed",)
    changed: list[bool]

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class State(defaultdict[Any, Any]):
    """The states of all parameters."""

    changed: list[bool]

    def __init__(self, states: Any, changed: list[bool]) -> None:
        super().__init__(dict)
        self.changed = changed
        for key, entries in states.items():
            self.put(key, entries)

    def __missing__(self, key: Any) -> Any:
        self.put(key, {})
        return dict.__getitem__(self, key)

    def put(self, key: Any, entries: Any) -> None:
        """Sets a parameter's state; that is no change from outside."""
        if isinstance(key, torch.Tensor) and isinstance(entries, dict):
            own = Entries(entries)
            own.changed = self.changed
            entries = own
        dict.__setitem__(self, key, entries)

    def __reduce__(self) -> Any:
        return defaultdict, (dict, {key: dict(one) if isinstance(one, Entries) else one for key, one in self.items()})


def renamed(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries for a file: a mean in 8 bits has a name that torch's optimizers do not know, so that they raise an error."""
    return {f"{key}{_CODES}" if f"{key}_scale" in entries else key: value for key, value in entries.items()}


def named_back(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries with the names that they have in an optimizer."""
    return {key.removesuffix(_CODES): value for key, value in entries.items()}


def _telling(name: str, base: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.changed[0] = True
        return base(self, *args, **kwargs)

    method.__name__ = name
    return method


for _name in _CHANGING:
    setattr(Entries, _name, _telling(_name, getattr(dict, _name)))
    setattr(State, _name, _telling(_name, getattr(defaultdict, _name)))


class _Held:
    """A tensor that torch does not convert while it loads a state."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def hold(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state dict whose tensors torch leaves as they are."""
    state = {
        key: {k: _Held(v) if isinstance(v, torch.Tensor) else v for k, v in named_back(one).items()}
        if isinstance(one, dict)
        else one
        for key, one in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def let_go(entries: Any) -> Any:
    """Undoes :func:`hold` for one parameter's entries."""
    if not isinstance(entries, Mapping):
        return entries
    return {key: value.tensor if isinstance(value, _Held) else value for key, value in entries.items()}
