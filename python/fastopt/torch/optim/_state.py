"""The state of a torch optimizer, which tells it about changes from outside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

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


def _telling(name: str, base: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.changed[0] = True
        return base(self, *args, **kwargs)

    method.__name__ = name
    return method


for _name in _CHANGING:
    setattr(Entries, _name, _telling(_name, getattr(dict, _name)))
    setattr(State, _name, _telling(_name, getattr(defaultdict, _name)))
