"""The base classes of schedules: the groups, the count, the state, and a step that is taken whole or not at all."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import chain, pairwise, repeat, starmap
from math import inf, isfinite
from operator import setitem
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from .._check import number, real, type_of, whole
from .._words import speak

PUBLIC = "fastopt.schedules"  # the module in which users find the classes, and which pickles keep


class Optimizer(Protocol):
    """The part of an optimizer that a schedule needs."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...


set_attribute = object.__setattr__  # not vars(...).update: attributes become slower once __dict__ has been used


def write(
    groups: list[dict[str, Any]],
    lrs: list[float],
    moved: dict[Schedule, tuple[int, list[float]]],
    values: tuple[tuple[dict[str, Any], str, Any], ...] = (),
    attributes: tuple[tuple[Schedule, str, Any], ...] = (),
) -> None:
    """Makes all changes of a step in one call, which runs no bytecode: Python raises no KeyboardInterrupt in the middle of it."""
    any(writes(groups, lrs, moved, values, attributes))  # each returns None, so that any() runs all of them


def writes(
    groups: list[dict[str, Any]],
    lrs: list[float],
    moved: dict[Schedule, tuple[int, list[float]]],
    values: tuple[tuple[dict[str, Any], str, Any], ...] = (),
    attributes: tuple[tuple[Schedule, str, Any], ...] = (),
) -> Iterator[None]:
    """The changes of a step, which are made when the iterator is exhausted.

    A learning rate in an array or tensor is written into it, as torch does, so that everybody who has it sees the new one.

    Args:
        groups: The groups of an optimizer.
        lrs: Their learning rates.
        moved: For each schedule, its epoch and the learning rates that it has set in it.
        values: Other values of groups.
        attributes: Other attributes of schedules.
    """
    places: Iterable[Any] = groups
    keys: Iterable[Any] = repeat("lr")
    for group in groups:
        if type(group["lr"]) is not float:
            arrays = [_writable(group["lr"]) for group in groups]
            places = [group if array is None else array for group, array in zip(groups, arrays, strict=True)]
            keys = ["lr" if array is None else ... for array in arrays]
            break
    steps = chain(map(setitem, places, keys, lrs), map(set_attribute, moved, repeat("_now"), moved.values()))
    if values or attributes:
        return chain(steps, starmap(setitem, values), starmap(set_attribute, attributes))
    return steps


def _writable(lr: Any) -> Any:
    """The array or tensor of a learning rate, if a number can be written into it; otherwise ``None``."""
    if isinstance(lr, np.ndarray):
        return lr if lr.dtype.kind == "f" and lr.flags.writeable else None
    if all(hasattr(lr, name) for name in ("detach", "is_floating_point")):  # torch's
        return lr.detach() if lr.is_floating_point() else None
    return None


class Draft:
    """The changes that a step of several schedules will make; each schedule reads the changes of those before it."""

    values: tuple[tuple[dict[str, Any], str, Any], ...] = ()
    attributes: tuple[tuple[Schedule, str, Any], ...] = ()

    def __init__(self, groups: list[dict[str, Any]], lrs: list[float]) -> None:
        self.groups = groups
        self.lrs = lrs
        self.moved: dict[Schedule, tuple[int, list[float]]] = {}

    def commit(self) -> None:
        """Makes the changes."""
        any(self.writes())

    def writes(self) -> Iterator[None]:
        """The changes, which are made when the iterator is exhausted."""
        return writes(self.groups, self.lrs, self.moved, self.values, self.attributes)


class Schedule:
    """The groups, their first learning rates, the count and the state."""

    _state: ClassVar[tuple[str, ...]] = ()  # other attributes that change: numbers and strings

    optimizer: Optimizer
    base_lrs: list[float]
    _now: tuple[int, list[float]]  # the epoch and the learning rates that were set in it

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        speak(cls)

    def _start(self, optimizer: Optimizer, base_lrs: list[float] | None = None, resume: bool = False) -> Draft:
        """Takes an optimizer's groups; returns a draft of the first step, which writes their ``initial_lr``."""
        groups = self._groups_of(optimizer)
        lrs = [number(self._name, f"param_groups[{i}]['lr']", group["lr"], 0) for i, group in enumerate(groups)]
        draft = Draft(groups, lrs)
        if base_lrs is None:
            base_lrs = []
            for i, group in enumerate(groups):
                if "initial_lr" in group:
                    name = f"param_groups[{i}]['initial_lr']"
                    base_lrs.append(number(self._name, name, group["initial_lr"], 0))
                elif resume:
                    raise ValueError(
                        f"{self._name}: last_epoch needs param_groups[{i}]['initial_lr'], which is missing; give it in the "
                        "optimizer's groups, load the optimizer's state before, or load the schedule's state instead"
                    )
                else:
                    base_lrs.append(lrs[i])
                    draft.values += ((group, "initial_lr", lrs[i]),)
        else:
            draft.values = tuple((group, "initial_lr", lr) for group, lr in zip(groups, base_lrs, strict=True))
        self.optimizer = optimizer
        self.base_lrs = base_lrs
        self._now = (0, lrs)
        return draft

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def last_epoch(self) -> int:
        """The number of steps that have been taken."""
        return self._now[0]

    @last_epoch.setter
    def last_epoch(self, epoch: int) -> None:
        self._now = (whole(self._name, "last_epoch", epoch), self._now[1])

    def get_last_lr(self) -> list[float]:
        """The learning rates that the schedule has set last, one per group."""
        return list(self._now[1])

    # State

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, in numbers, strings, lists and dicts, which JSON has."""
        return {
            "class": self._name,
            "last_epoch": self.last_epoch,
            "base_lrs": list(self.base_lrs),
            "lrs": self._found()[1],
            "last_lr": self.get_last_lr(),
            **{name: getattr(self, name) for name in self._state},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continues where another schedule of this class, with the same arguments, was; sets the learning rates of then.

        Args:
            state_dict: The result of its :meth:`state_dict`.

        Raises:
            TypeError: state_dict is not a dict, or a value has the wrong type.
            ValueError: The class or the number of groups differs.  Nothing has been changed then.
        """
        self._drafted(state_dict).commit()

    def _drafted(self, state_dict: Mapping[str, Any]) -> Draft:
        """A draft of the changes that load a state."""
        draft = Draft(*self._found())
        self._load(draft, state_dict)
        return draft

    def _load(self, draft: Draft, state: Any) -> None:
        """Drafts the changes to a loaded state."""
        if not isinstance(state, Mapping):
            raise TypeError(f"{self._name}: state_dict must be a dict, got {type_of(state)}")
        if state.get("class") != self._name:
            raise ValueError(f"{self._name}: state_dict must be of the same class, got {state.get('class')!r}")
        if state.keys() != (keys := self.state_dict().keys()):
            raise ValueError(f"{self._name}: state_dict must have the keys {[*keys]}, got {[*state]}")
        epoch = whole(self._name, "last_epoch", state["last_epoch"])
        base_lrs = self._numbers("base_lrs", state["base_lrs"], 0)
        lrs, last_lr = (self._numbers(name, state[name], -inf) for name in ("lrs", "last_lr"))
        for values in base_lrs, lrs, last_lr:
            if len(values) != len(draft.groups):
                raise ValueError(f"{self._name}: state_dict has {len(values)} groups, expected {len(draft.groups)}")
        self._set(draft, epoch, lrs)
        draft.moved[self] = (epoch, last_lr)
        draft.attributes += ((self, "base_lrs", base_lrs),)

    # Steps

    def _found(self) -> tuple[list[dict[str, Any]], list[float]]:
        """The groups and their present learning rates."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise ValueError(
                f"{self._name}: the optimizer has {len(groups)} groups, and had {len(self.base_lrs)} when the schedule was made;"
                " make a new schedule when groups have been added or removed"
            )
        try:
            lrs = [group["lr"] for group in groups]
        except KeyError:
            i = next(i for i, group in enumerate(groups) if "lr" not in group)
            raise ValueError(
                f"{self._name}: param_groups[{i}] of the optimizer has no 'lr' any more; set it before the next step"
            ) from None
        for lr in lrs:
            if type(lr) is not float:
                return groups, [number(self._name, f"param_groups[{i}]['lr']", lr) for i, lr in enumerate(lrs)]
        return groups, lrs

    def _finite(self, epoch: int, lrs: list[float]) -> list[float]:
        """The learning rates of an epoch; raises if one is not finite."""
        for lr in lrs:
            if not isfinite(lr):
                raise ValueError(
                    f"{self._name}: the learning rate of param_groups[{lrs.index(lr)}] must be finite, got {lr} in epoch {epoch}"
                )
        return lrs

    def _set(self, draft: Draft, epoch: int, lrs: list[float]) -> None:
        """Drafts an epoch and its learning rates."""
        draft.lrs = self._finite(epoch, lrs)
        draft.moved[self] = (epoch, lrs)

    # Attributes

    if not TYPE_CHECKING:  # with it, type checkers would accept every attribute

        def __setattr__(self, name: str, value: Any) -> None:
            """Raises for attributes that no step reads, and for values that the constructor would refuse.

            Users' own subclasses may have any attributes.
            """
            begun = hasattr(self, "_now")  # the constructor sets it last
            if begun and not name.startswith("_") and type(self).__module__ == PUBLIC:
                if not hasattr(self, name):
                    attributes = sorted(one for one in vars(self) if not one.startswith("_"))
                    close = get_close_matches(name, attributes, 1)
                    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(attributes)}"
                    raise AttributeError(f"{self._name}: there is no {name} to be set; {hint}")
                if name in vars(self):
                    value = self._checked(name, value)
            super().__setattr__(name, value)

    def _checked(self, name: str, value: Any) -> Any:
        """The value that an attribute gets, checked and converted as in the constructor."""
        if name in ("optimizer", "base_lrs"):
            new = self._groups_of(value) if name == "optimizer" else self._numbers(name, value, 0)
            if len(new) != len(self.base_lrs):
                raise ValueError(
                    f"{self._name}: {name} has numbers for {len(new)} groups, expected {len(self.base_lrs)}"
                )
            return value if name == "optimizer" else new
        if name in self._state:
            return (whole if isinstance(getattr(self, name), int) else real)(self._name, name, value)
        groups = zip(self.optimizer.param_groups, self.base_lrs, strict=False)
        optimizer = SimpleNamespace(param_groups=[{**group, "lr": lr} for group, lr in groups])
        arguments = {one: value if key == name else vars(self)[key] for one, key in self._arguments()}
        make: Any = type(self)
        return getattr(make(optimizer, **arguments), name)

    def _arguments(self) -> list[tuple[str, str]]:
        """The arguments of the constructor, with the attributes that hold them.

        An attribute has the name of the argument, or its plural if it holds one value per group, or is private if changing it
        would have no effect.
        """
        known = vars(self)
        return [
            (name, key)
            for name in inspect.signature(type(self)).parameters
            for key in [next((key for key in (name, f"{name}s", f"_{name}") if key in known), name)]
            if key in known and name != "optimizer"
        ]

    def __repr__(self) -> str:
        shown = []
        for name, key in self._arguments():
            value = vars(self)[key]
            if key != name and isinstance(value, list) and value and all(one == value[0] for one in value):
                value = value[0]
            shown.append(f"{name}={_shown(value)}")
        return f"{self._name}({', '.join(shown)}) at epoch {self.last_epoch}"

    # Arguments

    def _groups_of(self, optimizer: Any) -> list[dict[str, Any]]:
        groups = getattr(optimizer, "param_groups", None)
        expected = (
            f"{self._name}: optimizer must have param_groups, a list of dicts with 'lr', got {type_of(optimizer)}"
        )
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            raise TypeError(expected)
        for i, group in enumerate(groups):
            if "lr" not in group:
                raise TypeError(f"{expected}, whose param_groups[{i}] has no 'lr'")
        return groups

    def _list(self, name: str, values: Any) -> list[Any]:
        if not isinstance(values, str | bytes | Mapping) and isinstance(values, Iterable):
            try:
                return list(values)
            except TypeError:  # from an array without axes
                pass
        raise TypeError(f"{self._name}: {name} must be a list, got {values!r}")

    def _numbers(self, name: str, values: Any, low: float) -> list[float]:
        return [number(self._name, f"{name}[{i}]", value, low) for i, value in enumerate(self._list(name, values))]

    def _epochs(self, name: str, values: Any, low: int, strict: bool = False) -> list[int]:
        """Checked integers in increasing order."""
        epochs = [whole(self._name, f"{name}[{i}]", value, low) for i, value in enumerate(self._list(name, values))]
        if any(left > right or (strict and left == right) for left, right in pairwise(epochs)):
            raise ValueError(f"{self._name}: {name} must be increasing, got {epochs}")
        return epochs

    def _each(self, optimizer: Optimizer, name: str, value: Any) -> list[tuple[str, Any]]:
        """For each group, its value and the name of that in errors; ``value`` is one for all, or a list with one per group."""
        groups = self._groups_of(optimizer)
        if not isinstance(value, list | tuple) and not getattr(value, "ndim", 0):
            return [(name, value)] * len(groups)
        if len(value) != len(groups):
            raise ValueError(
                f"{self._name}: {name} has {len(value)} entries, expected {len(groups)}, one for each group"
            )
        return [(f"{name}[{i}]", one) for i, one in enumerate(value)]


def _shown(value: Any) -> str:
    """The text of an argument in a schedule's repr; functions are shown by their names."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return getattr(value, "__qualname__", None) or repr(value)


class LRScheduler(Schedule):
    """A schedule that counts its steps.

    A subclass is a formula: ``_lr(epoch, i, lr)`` is the learning rate of group i, which was lr in the epoch before; in epoch
    0, lr is the learning rate when the schedule is made.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1, base_lrs: list[float] | None = None) -> None:
        done = whole(self._name, "last_epoch", last_epoch, -1) + 1
        draft = self._start(optimizer, base_lrs, done > 0)
        if done:
            draft.lrs = list(self.base_lrs)
        self._begin(draft)
        for _ in range(done):
            self._advance(draft)
        draft.commit()

    def _lr(self, epoch: int, i: int, lr: float) -> float:
        raise NotImplementedError

    def _lr_again(self, i: int, lr: float) -> float:
        """The learning rate in epoch 0 after another schedule, which ended with lr."""
        return self._lr(0, i, self.base_lrs[i])

    def _begin(self, draft: Draft, again: bool = False) -> None:
        """Drafts epoch 0."""
        lrs = [self._lr_again(i, lr) if again else self._lr(0, i, lr) for i, lr in enumerate(draft.lrs)]
        self._set(draft, 0, lrs)

    def _epoch(self, draft: Draft) -> int:
        """The next epoch."""
        return draft.moved.get(self, self._now)[0] + 1

    def _advance(self, draft: Draft) -> None:
        """Drafts the next epoch."""
        epoch = self._epoch(draft)
        self._set(draft, epoch, [self._lr(epoch, i, lr) for i, lr in enumerate(draft.lrs)])

    def step(self) -> None:
        """Moves the schedule on by one epoch and sets the learning rates."""
        groups, lrs = self._found()
        epoch = self._now[0] + 1
        lrs = self._finite(epoch, [self._lr(epoch, i, lr) for i, lr in enumerate(lrs)])
        write(groups, lrs, {self: (epoch, lrs)})

    def _step_drafted(self) -> None:
        """A step of schedules that change more than the learning rates."""
        draft = Draft(*self._found())
        self._advance(draft)
        draft.commit()
