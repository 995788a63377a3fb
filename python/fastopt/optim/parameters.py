"""Parameters: the structures that contain them, the state of each, and the record that an optimizer keeps of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._check import type_of

Array: TypeAlias = NDArray[Any]
Params: TypeAlias = Iterable[Any] | Mapping[str, Any]
Grads: TypeAlias = Iterable[Any] | Mapping[str, Any]


class ParameterState(dict[str, Any]):
    """The state of one parameter.  It tells its optimizer when an entry is replaced, added or removed, so that this one checks it."""

    __slots__ = ("changed",)

    def __init__(self, entries: Mapping[str, Any], changed: list[bool]) -> None:
        super().__init__(entries)
        self.changed = changed  # shared with the optimizer

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.changed[0] = True

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self.changed[0] = True

    def __ior__(self, other: Any) -> ParameterState:  # type: ignore[override,misc]
        self.update(other)
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        super().update(*args, **kwargs)
        self.changed[0] = True

    def setdefault(self, key: str, default: Any = None) -> Any:
        self.changed[0] = True
        return super().setdefault(key, default)

    def pop(self, *args: Any) -> Any:
        self.changed[0] = True
        return super().pop(*args)

    def popitem(self) -> tuple[str, Any]:
        self.changed[0] = True
        return super().popitem()

    def clear(self) -> None:
        super().clear()
        self.changed[0] = True

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class Record:
    """The record that an optimizer keeps of one parameter."""

    __slots__ = ("dtype", "forms", "fresh", "held", "param", "seen", "shape", "state")

    def __init__(self, param: Array, changed: list[bool]) -> None:
        self.param = param
        self.shape, self.dtype = param.shape, param.dtype  # when the state was made
        self.state = ParameterState({}, changed)
        self.seen: dict[str, Any] = {}  # the state's entries when they were checked last
        self.forms: dict[str, Any] = {}  # their shapes and dtypes then
        # The parameter's count when these entries were made, and the entries, which begin as copies of the parameter in its next step.
        self.fresh: tuple[int, tuple[str, ...]] = (0, ())
        self.held: Array | None = None  # the average, while a 16-bit parameter holds a rounded copy of it

    def is_fresh(self) -> bool:
        """Whether some entries are still to begin as the parameter.  After the parameter's next step none is."""
        count, keys = self.fresh
        if keys and int(self.state["step"]) != count:
            self.fresh = (0, ())
        return bool(self.fresh[1])


def forms_of(entries: Mapping[str, Array]) -> dict[str, Any]:
    """The shapes and dtypes of a state's entries; both may be changed in place, so that they are checked again."""
    return {key: (array.shape, array.dtype) for key, array in entries.items()}


class Structure:
    """The structure of lists and dicts in which a group's parameters are given; gradients have the same one."""

    def __init__(self, function: str, params: Any) -> None:
        self.leaves: list[Any] = []
        self.names: list[str] = []  # "layer.bias"
        self._labels: list[str] = []  # for errors: "['layer']['bias']"; empty for numbers
        self.whole: Structure | None = (
            None  # the structure of which this is a part, and the number of its first leaf there
        )
        self.first = 0
        self._order: list[int] | None = None  # the leaves' numbers, as the structure is read; None for 0, 1, 2, ...
        self.flat = not isinstance(params, Mapping) and not any(
            isinstance(one, Mapping | list | tuple) for one in params
        )
        if self.flat:
            self.leaves = list(params)
            self.template: Any = None
        else:
            self.template = self._read(function, params, "", "")

    def labels(self, first: int) -> list[str]:
        """The names of the parameters in errors; ``first`` is the number of the first one."""
        return self._labels or [f"[{first + i}]" for i in range(len(self.leaves))]

    def belong_to(self, whole: Structure, first: int) -> None:
        """Makes this structure the part of ``whole`` from its leaf ``first`` on."""
        part = slice(first, first + len(self.leaves))
        self.whole, self.first = whole, first
        self.names, self._labels = whole.names[part], whole._labels[part]

    def reordered(self, order: list[int]) -> Structure:
        """This structure with other numbers of its leaves: the new leaf k is the present leaf order[k]."""
        new, labels = copy(self), self.labels(0)
        new._order = sorted(range(len(order)), key=order.__getitem__)
        new.template, new.flat = self.build(new._order), False
        new.leaves, new._labels = [self.leaves[k] for k in order], [labels[k] for k in order]
        new.names = [self.names[k] for k in order] if self.names else []
        return new

    def ordered(self, leaves: list[Any]) -> list[Any]:
        """Leaves in the order in which the structure is read, in the order of their numbers."""
        if self._order is None:
            return leaves
        return [leaf for _, leaf in sorted(zip(self._order, leaves, strict=True), key=itemgetter(0))]

    def _read(self, function: str, value: Any, label: str, name: str) -> Any:
        """The template of a value: its containers, with the leaves' numbers in their places."""
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"{function}: params{label} must have strings as keys, got {key!r}")
            return {key: self._read(function, one, f"{label}[{key!r}]", f"{name}.{key}") for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._read(function, one, f"{label}[{i}]", f"{name}.{i}") for i, one in enumerate(value)]
        self.leaves.append(value)
        self._labels.append(label)
        self.names.append(name.removeprefix("."))
        return len(self.leaves) - 1

    def flatten(self, function: str, grads: Any) -> list[Any]:
        """The gradients in the order of the parameters; ``None`` may stand for a whole part."""
        if self.flat:
            flat = listed(function, "grads", grads)
            if len(flat) != len(self.leaves):
                raise ValueError(
                    f"{function}: grads has {len(flat)} entries, expected {len(self.leaves)}, one for each parameter"
                )
            return flat
        if isinstance(grads, list | tuple) and len(grads) == len(self.leaves):
            leaves = [grad for grad in grads if not isinstance(grad, Mapping | list | tuple)]
            if len(leaves) == len(grads):  # a flat list
                return self.ordered(leaves)
        flat = [None] * len(self.leaves)
        self._flatten(function, self.template, grads, "", flat)
        return flat

    def _flatten(self, function: str, template: Any, grads: Any, label: str, flat: list[Any]) -> None:
        if isinstance(template, int):
            flat[template] = grads
            return
        if grads is None and label:
            return
        parts: Iterable[Any]
        if isinstance(template, dict):
            if not isinstance(grads, Mapping):
                raise TypeError(f"{function}: grads{label} must be a dict like params, got {type_of(grads)}")
            if grads.keys() != template.keys():
                raise ValueError(f"{function}: grads{label} must have the keys of params; {differing(template, grads)}")
            parts = template
        else:
            grads = listed(function, f"grads{label}", grads)
            if len(grads) != len(template):
                raise ValueError(
                    f"{function}: grads{label} has {len(grads)} entries, expected {len(template)}, one for each parameter"
                )
            parts = range(len(template))
        for key in parts:
            self._flatten(function, template[key], grads[key], f"{label}[{key!r}]", flat)

    def build(self, leaves: list[Any]) -> Any:
        """The given leaves in this structure."""
        if self.flat:
            return list(leaves)

        def fill(template: Any) -> Any:
            if isinstance(template, int):
                return leaves[template]
            if isinstance(template, dict):
                return {key: fill(one) for key, one in template.items()}
            return [fill(one) for one in template]

        return fill(self.template)


class Group(NamedTuple):
    """A group with the structure of its parameters."""

    group: dict[str, Any]
    structure: Structure


class Ordered(list[Any]):
    """Gradients in the order of the parameters, which need not be that of the structure in which others are given."""


def flatten(function: str, grads: Any, groups: list[Group], grouped: bool) -> list[Any]:
    """Gradients in the order of the parameters; ``grouped`` if the parameters came in groups."""
    if isinstance(grads, Ordered):
        count = sum(len(one.structure.leaves) for one in groups)
        if len(grads) != count:
            raise ValueError(f"{function}: grads has {len(grads)} entries, expected {count}, one for each parameter")
        return list(grads)
    if not grouped and groups:
        return groups[0].structure.flatten(function, grads)
    structures = units(groups)
    if len(structures) == 1 and structures[0] is groups[0].structure.whole:
        return structures[0].flatten(function, grads)
    return flattened(function, structures, grads)


def structured(function: str, params: Any) -> Structure:
    """The structure of one group's parameters."""
    if not isinstance(params, Iterable) or isinstance(params, np.ndarray | str | bytes):
        raise TypeError(f"{function}: params must be a list or a dict of arrays, got {type_of(params)}")
    structure = Structure(function, params if isinstance(params, Mapping) else list(params))
    if isinstance(params, Part):
        structure.belong_to(params.whole, params.first)
    return structure


class Part(list[Any]):
    """The parameters of one of the groups into which a structure was split, in which their gradients will be given."""

    def __init__(self, whole: Structure, first: int, end: int) -> None:
        super().__init__(whole.leaves[first:end])
        self.whole, self.first = whole, first

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Part, (self.whole, self.first, self.first + len(self))


def units(groups: Iterable[Group]) -> list[Structure]:
    """The structures in which gradients come: one for each group, or for the groups into which a structure was split together."""
    structures = [one.structure for one in groups]
    found: list[Structure] = []
    begin = 0
    while begin < len(structures):
        whole, end, count = structures[begin].whole, begin, 0
        while (
            whole is not None
            and end < len(structures)
            and structures[end].whole is whole
            and structures[end].first == count
        ):
            count += len(structures[end].leaves)
            end += 1
        complete = whole is not None and count == len(whole.leaves)
        found.append(whole if whole is not None and complete else structures[begin])
        begin = end if complete else begin + 1
    return found


def listed(function: str, name: str, values: Any) -> list[Any]:
    """The entries of a list, a tuple, a view of a dict's values or a generator."""
    if type(values) is list:
        return values
    if not isinstance(values, Iterable) or isinstance(values, Mapping | np.ndarray | str | bytes):
        raise TypeError(f"{function}: {name} must be a list like params, got {type_of(values)}")
    return list(values)


def differing(expected: Iterable[str], found: Iterable[str]) -> str:
    """The missing and the unknown names, for an error."""
    differences = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
    }
    return ", ".join(f"{what}: {', '.join(map(repr, names))}" for what, names in differences.items() if names)


def flattened(function: str, structures: list[Structure], grads: Any) -> list[Any]:
    """The gradients of several groups, or of the first ones together and others, in the order of their parameters."""
    if isinstance(grads, Mapping) and all(isinstance(one.template, dict) for one in structures):
        return _of_one_dict(function, structures, grads)
    if isinstance(grads, Mapping | np.ndarray | str | bytes) or not isinstance(grads, Iterable):
        raise TypeError(
            f"{function}: grads must be a list with one list for each group, or a flat list, got {type_of(grads)}"
        )
    parts, count = list(grads), sum(len(structure.leaves) for structure in structures)
    of_groups = [isinstance(part, Iterable) and not isinstance(part, np.ndarray | np.generic) for part in parts]
    of_nobody = all(part is None for part in parts)
    if (parts and all(of_groups)) or ((any(of_groups) or of_nobody) and len(parts) == len(structures)):
        if len(parts) != len(structures):
            raise ValueError(
                f"{function}: grads has {len(parts)} lists, expected {len(structures)}, one for each group"
            )
        flat: list[Any] = []
        for index, (one, part, of_group) in enumerate(zip(structures, parts, of_groups, strict=True)):
            if part is None:
                flat += [None] * len(one.leaves)
            elif of_group:
                flat += one.flatten(function, part)
            else:
                raise TypeError(
                    f"{function}: grads[{index}] must be the gradients of group {index}, got {type_of(part)}"
                )
        return flat
    if len(parts) != count:
        raise ValueError(
            f"{function}: grads has {len(parts)} entries, expected {count}, one for each parameter, or {len(structures)}: "
            "the list or dict of each group, or None"
        )
    rest: Iterator[Any] = iter(parts)
    return [leaf for one in structures for leaf in one.ordered([next(rest) for _ in one.leaves])]


def _of_one_dict(function: str, structures: list[Structure], grads: Mapping[str, Any]) -> list[Any]:
    """The gradients of groups of dicts, given in one dict, in the order of the parameters."""
    keys = [key for structure in structures for key in structure.template]
    if len(set(keys)) != len(keys):
        raise TypeError(f"{function}: grads must be a list with one dict for each group, as groups share keys")
    if grads.keys() != set(keys):
        raise ValueError(f"{function}: grads must have the keys of params; {differing(keys, grads)}")
    return [
        leaf
        for structure in structures
        for leaf in structure.flatten(function, {key: grads[key] for key in structure.template})
    ]
