"""The state of a torch optimizer, which tells it about changes from outside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

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


class Note(NamedTuple):
    """What fastopt knows of a parameter's state and torch's form of it does not say."""

    step: int | None = None  # the count of steps, where torch has none for this rule
    fresh: list[str] | None = (
        None  # the entries that begin as the parameter in its next step, where the count does not tell
    )


NO_NOTE = Note()


def numbered(notes: Mapping[torch.Tensor, Note], params: Iterable[torch.Tensor]) -> dict[str, Any]:
    """The notes as entries of a state dict, by the numbers of the parameters."""
    found = {str(i): notes[param] for i, param in enumerate(params) if param in notes}
    steps = {number: note.step for number, note in found.items() if note.step is not None}
    fresh = {number: note.fresh for number, note in found.items() if note.fresh is not None}
    return {**({"steps": steps} if steps else {}), **({"fresh": fresh} if fresh else {})}


def noted(extra: dict[str, Any], params: Mapping[Any, torch.Tensor]) -> dict[torch.Tensor, Note]:
    """Takes the notes out of the entries of a state dict; ``params`` are by their numbers there."""
    steps, fresh = extra.pop("steps", {}), extra.pop("fresh", {})
    for name, one in (("steps", steps), ("fresh", fresh)):
        if not isinstance(one, Mapping):
            raise TypeError(f"load_state_dict: {name} of 'fastopt' must be a dict, got {type(one).__name__}")
    both = {param: Note(steps.get(str(number)), fresh.get(str(number))) for number, param in params.items()}
    return {param: note for param, note in both.items() if note != NO_NOTE}


def extra_of(name: str, state_dict: Any) -> Mapping[str, Any]:
    """The entries of a state dict that only fastopt needs; raises TypeError or ValueError if it is no state dict."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"{name}: state_dict must be a dict, got {type(state_dict).__name__}")
    for key in ("state", "param_groups"):
        if key not in state_dict:
            raise ValueError(f"{name}: state_dict has no {key!r}, which optimizer.state_dict() has")
    extra = state_dict.get("fastopt", {})
    if not isinstance(extra, Mapping):
        raise TypeError(f"{name}: state_dict['fastopt'] must be a dict, got {type(extra).__name__}")
    return extra


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
