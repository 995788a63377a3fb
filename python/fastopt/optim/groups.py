"""Groups of parameters, and the plans that follow from them and from the state."""

from __future__ import annotations

import inspect
import re
from bisect import bisect, insort
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import repeat
from operator import attrgetter, is_
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .._check import not_an_array, number, real, type_of
from .._commit import at_once
from .._core import kernels
from .._rules import AROUND, AROUND_TEXTS, Hyperparameters, Rule
from .._words import unknown_hyperparameter
from ._formats import RESTS, computed, copy_of, rest_of, zeros_like
from .accumulate import Accumulator
from .parameters import Array, Group, Record, Structure, forms_of, structured
from .plan import AS_PARAMETER, Member, Plan, member_of, state_for, unmoved
from .state_dict import PLAIN, SCHEDULED, Reader, plain

if TYPE_CHECKING:
    from collections.abc import Callable

CONSTANT = (float, int, str, bool, type(None), np.generic)  # types of values that cannot change in place
ALWAYS = [True]  # the flag that a plan watches for a value that may change in place


class Planned(NamedTuple):
    """A plan with everything that it was made from."""

    plan: Plan
    groups: list[Group]
    labels: list[str]
    records: list[Record]
    rules: list[Rule]
    values: list[Any]  # the groups' hyperparameters
    # The entries that the records' states get; None where the plan is the one in use.
    states: list[dict[str, Any]] | None
    fresh: list[tuple[int, tuple[str, ...]]]


class Groups:
    """Parameters in groups with one rule: the base of :class:`fastopt.optim.Optimizer`."""

    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]
    _name: str
    _hyperparameters: tuple[str, ...]
    _values: Callable[[dict[str, Any]], Any]
    _groups: list[Group]
    _records: list[Record]
    _labels: list[str]
    _rules: list[Rule]
    _plan: Plan
    _seen: list[Any]  # the groups' hyperparameters in the plan's options; empty if one may change in place
    _changed: list[bool]  # one entry: whether a new plan is needed
    _added: bool  # whether only add_param_group has changed something
    _fresh: list[int]  # numbers of the parameters that have entries still to begin as the parameter
    _count: Array  # number of steps taken; int64, without axes
    _swapped: Array  # whether the parameters' arrays hold the averages; a bool, without axes
    _turn: Any  # the lock: one call at a time
    _accumulated: Accumulator | None
    _shared: list[bool]  # one entry: whether arrays of the state have been handed out and may be changed from outside
    # The records for which ``state`` was asked, and their states.
    _viewed: tuple[list[Record], tuple[dict[str, Any], ...]]
    _grouped: bool  # whether gradients come in a list with one entry for each group
    _simple: list[Any]  # one entry: the plan, if it takes a list of gradients directly; otherwise None
    _whole: (
        Structure | None
    )  # the structure of the gradients of the first groups together, where they do not come in groups
    _extents: list[tuple[int, int, str]] | None  # of the parameters' memory, sorted

    # The kernels that the rules may use; their states, in this order, are arguments of the stateless function.
    kernels: ClassVar[tuple[str, ...]] = ()
    hidden: ClassVar[tuple[str, ...]] = ()  # states of these kernels that are scratch buffers
    # The value of each state before a parameter's first step: a number, a hyperparameter's name, or "param"; 0 for all others.
    begins: ClassVar[Mapping[str, float | str]] = MappingProxyType({})
    # The number of the first step that moves a parameter: 2 where the first one only begins the states.
    moves_from: ClassVar[int] = 1
    # Whether an element's step depends on its own numbers only, so that a part of a parameter can be updated by itself.
    elementwise: ClassVar[bool] = True
    # The rule's own defaults of the hyperparameters that every rule has.
    around: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    _private: ClassVar[tuple[str, ...]] = ()  # the attributes that _extra returns and _restore sets
    function: ClassVar[str | None] = ""  # the name of the stateless function; by default the class's in small letters

    def __init_subclass__(cls, **around: Any) -> None:
        """Takes the rule's own defaults of the common hyperparameters, and adds these to the class's signature and documentation."""
        super().__init_subclass__()
        cls.around = MappingProxyType({**cls.around, **around})
        own = [one for one in inspect.signature(cls.__init__).parameters.values() if one.name != "self"]
        takes_around = bool(own) and own[-1].name == "around"
        if takes_around:
            more = [
                inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value)
                for key, value in {**AROUND, **cls.around}.items()
            ]
            own = own[:-1] + more
            lines = "\n".join(f"        {key}: {text}" for key, text in AROUND_TEXTS.items())
            cls.__doc__ = cls.__doc__ and re.sub(
                r"^        around: .*$", lambda _: lines, cls.__doc__, flags=re.MULTILINE
            )
        if takes_around or "__init__" in vars(cls):  # otherwise that of the class above stays
            cls.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        """The rule with a group's hyperparameters; raises an error if one is wrong."""
        raise NotImplementedError

    @classmethod
    def _rule_of(cls, rule: Rule, param: Array) -> Rule:
        """The rule of a group for one of its parameters."""
        return rule

    @classmethod
    def _options(cls, rules: list[Rule]) -> list[Any]:
        """The argument of a plan's ``set_options``."""
        return [rule.options for rule in rules]

    @classmethod
    def _initial(cls, name: str, param: Array, group: Mapping[str, Any]) -> Array:
        """A new buffer for the state ``name``, with its initial values."""
        begins = cls.begins.get(name, 0.0)
        if begins == "param":
            return copy_of(param)
        value = float(group[begins] if isinstance(begins, str) else begins)
        if any(name in kernels.rules[kernel][1] for kernel in cls.kernels):
            return np.array(value)
        shape = cls._shape_of(name, param)
        buffer = zeros_like(param) if shape == param.shape else np.zeros(shape, computed(param))
        if value:
            buffer[...] = value
        return buffer

    @classmethod
    def _as_param(cls) -> tuple[str, ...]:
        """The names of the states that begin as the parameter."""
        return tuple(key for key, begins in cls.begins.items() if begins == "param")

    @classmethod
    def _shape_of(cls, name: str, param: Array) -> tuple[int, ...]:
        """The shape of the buffer for the state ``name``."""
        return param.shape

    @classmethod
    def _make_plan(cls, function: str, members: list[Member], count: Array | None = None) -> Plan:
        plan: Plan = kernels.Plan(function, members, count)
        return plan

    @classmethod
    def _kinds(cls) -> dict[str, str]:
        """The kind of each state of its rules; "exact" only if it is that in all of them."""
        kinds: dict[str, str] = {}
        for kernel in cls.kernels:
            states, _, _, of_states, _ = kernels.rules[kernel]
            for state, kind in zip(states, of_states, strict=True):
                if state not in cls.hidden and kinds.get(state, "exact") == "exact":
                    kinds[state] = kind
        return kinds

    @classmethod
    def _has_rate(cls) -> bool:
        """Whether each of its rules says at which rate it takes a gradient, as ``proximal_l1=True`` needs."""
        return all(kernels.rules[kernel][4] for kernel in cls.kernels)

    def _extra(self) -> dict[str, Any]:
        """The attributes of a subclass that belong to the state, in types that JSON has."""
        return {}

    def _restore(self, extra: Mapping[str, Any]) -> None:
        """Sets the attributes from the result of ``_extra``, before the state is loaded; raises before it changes anything."""

    def _new_group(self, param_group: Mapping[str, Any]) -> Group:
        """A checked group with the structure of its parameters."""
        name = self._name
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f"{name}: a group must be a dict with params, got {param_group!r}")
        self._expect_known(param_group)
        structure = structured(name, param_group["params"])
        group: dict[str, Any] = {**self.defaults, **param_group, "params": [*structure.leaves]}
        if structure.names:
            group["param_names"] = structure.names
        return Group(group, structure)

    def _expect_known(self, group: Mapping[str, Any]) -> None:
        for key in group:
            if key not in self._hyperparameters and key not in SCHEDULED and key not in ("params", "param_names"):
                raise ValueError(unknown_hyperparameter(self._name, str(key), self._hyperparameters))
            if key == "initial_lr":
                number(self._name, key, group[key], 0)
            elif key in SCHEDULED:
                real(self._name, key, group[key])

    def _expect_names(self, index: int, group: Mapping[str, Any]) -> None:
        names, count = group.get("param_names"), len(group["params"])
        strings = isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)
        if names is not None and not (strings and len(names) == count):
            raise ValueError(
                f"{self._name}: param_names of param_groups[{index}] must be {count} strings, got {names!r}"
            )

    def _new_record(self, param: Any, label: str) -> Record:
        if not isinstance(param, np.ndarray):
            raise TypeError(f"{self._name}: params{label} must be a numpy array, got {not_an_array(param)}")
        return Record(param, self._changed)

    def _extents_with(self, records: list[Record], labels: list[str]) -> list[tuple[int, int, str]]:
        """The extents in memory of all parameters with those of new ones; raises if a new one overlaps another."""
        if self._extents is None:
            every = zip(self._records, self._labels, strict=True)
            extents = sorted(_extent(record.param, label) for record, label in every if record.param.size)
        else:
            extents = [*self._extents]
        for record, label in zip(records, labels, strict=True):
            if record.param.size:
                begin, end, _ = new = _extent(record.param, label)
                at = bisect(extents, new)
                for _, reach, other in extents[max(at - 1, 0) : at]:
                    if reach > begin:
                        raise ValueError(f"{self._name}: params{label} would be written, but overlaps params{other}")
                if at < len(extents) and extents[at][0] < end:
                    raise ValueError(
                        f"{self._name}: params{label} would be written, but overlaps params{extents[at][2]}"
                    )
                insort(extents, new)
        return extents

    # From groups and state to a plan

    def _revalued(self) -> bool:
        """The quick way to follow a change: gives the plan new values of hyperparameters; False if anything else has changed."""
        if not self._plan.same_members(self.param_groups):
            return False
        try:
            values, rules = [self._values(group) for group in self.param_groups], [*self._rules]
        except KeyError:  # a hyperparameter is missing; making a new plan raises the error
            return False
        for index, (group, now, before) in enumerate(zip(self.param_groups, values, self._seen, strict=True)):
            others = [value for value, old in zip(now, before, strict=True) if value is not old]
            if others:
                if not all(map(_is_constant, others)):
                    return False
                rules[index] = self._rule_for(group)
                if rules[index].kind != self._rules[index].kind:
                    return False
        self._plan.set_options(self._options(rules))
        self._plan.watch(self.param_groups, self._hyperparameters, values, self._changed, self._shared)
        self._rules, self._seen = rules, values
        return True

    def _rule_for(self, group: Mapping[str, Any]) -> Rule:
        values = {key: value if type(value := group[key]) in PLAIN else plain(value) for key in self._hyperparameters}
        return self._rule(Hyperparameters(self._name, values))

    def _looked_at(self) -> tuple[list[Group], list[str]]:
        """The present groups and the labels of all parameters; raises if a group is not valid."""
        name, known = self._name, {id(one.group): one for one in self._groups}
        holders = {id(one.group.get("params")): one for one in self._groups}
        if not isinstance(self.param_groups, list):
            raise TypeError(f"{name}: param_groups must be a list of dicts, got {type_of(self.param_groups)}")
        found: list[Group] = []
        labels: list[str] = []
        for index, group in enumerate(self.param_groups):
            if not isinstance(group, dict) or "params" not in group:
                raise TypeError(f"{name}: param_groups[{index}] must be a dict with params, got {group!r}")
            self._expect_known(group)
            for key in self._hyperparameters:
                if key not in group:
                    raise ValueError(f"{name}: param_groups[{index}] has no {key!r}; set it, or use add_param_group")
            params = group["params"]
            if not isinstance(params, list):
                raise TypeError(f"{name}: params of param_groups[{index}] must be a list, got {type_of(params)}")
            self._expect_names(index, group)
            # The group may be a new dict with the same list of parameters.
            one = known.get(id(group)) or holders.get(id(params))
            structure = one.structure if one is not None else Structure(name, params)
            if len(params) != len(structure.leaves):
                if not structure.flat and id(group) in known:
                    raise ValueError(
                        f"{name}: params of param_groups[{index}] has {len(params)} arrays, and gradients come in a structure "
                        f"of {len(structure.leaves)}; use add_param_group for more"
                    )
                structure = Structure(name, params)
            found.append(Group(group, structure))
            own = structure.labels(len(labels))
            for param, label in zip(params, own, strict=True):
                if not isinstance(param, np.ndarray):
                    raise TypeError(f"{name}: params{label} must be a numpy array, got {not_an_array(param)}")
            labels += own
        return found, labels

    def _planned(self, anew: bool = False) -> Planned:
        """A plan for the present groups and state: the one in use if it still fits and not ``anew``.  Changes nothing."""
        groups, labels = self._looked_at()
        values = [self._values(one.group) for one in groups]
        rules = [self._rule_for(one.group) for one in groups]
        params = [param for one in groups for param in one.group["params"]]
        records = self._records
        same = len(params) == len(records) and all(map(is_, params, map(attrgetter("param"), records)))
        kept = same and [rule.kind for rule in rules] == [rule.kind for rule in self._rules]
        sizes, sizes_before = ([len(one.structure.leaves) for one in some] for some in (groups, self._groups))
        if kept and not anew and not self._changed[0] and sizes == sizes_before:
            return Planned(self._plan, groups, labels, records, rules, values, None, [])
        if not same:
            kernels.expect_disjoint(self._name, params, labels)
            known = {id(record.param): record for record in records}
            records = [
                known.get(id(param)) or self._new_record(param, label)
                for param, label in zip(params, labels, strict=True)
            ]
            if self._accumulated is not None and self._accumulated.micro_batches:
                raise ValueError(
                    f"{self._name}: accumulated gradients belong to other parameters; put these back and step(), or "
                    "discard_accumulated()"
                )
        for record, label in zip(records, labels, strict=True):
            unmoved(self._name, record, label)
        return self._plan_of(groups, labels, records, rules, values)

    def _plan_of(
        self,
        groups: list[Group],
        labels: list[str],
        records: list[Record],
        rules: list[Rule],
        values: list[Any],
        loaded: list[dict[str, Any]] | None = None,
        unbegun: list[set[str]] | None = None,
    ) -> Planned:
        """A new plan, from the states ``loaded``, in which the entries ``unbegun`` are fresh, or from the present ones."""
        owners = [index for index, one in enumerate(groups) for _ in one.group["params"]]
        of_groups = [one.group for one in groups]
        members, states, fresh = self._members(records, labels, owners, rules, of_groups, loaded, unbegun)
        plan = self._make_plan(self._name, members, self._count)
        return Planned(plan, groups, labels, records, rules, values, states, fresh)

    def _adopt(self, new: Planned, more: Iterable[tuple[dict[str, Any], Mapping[str, Any]]] = ()) -> None:
        """Puts a plan into use with everything that belongs to it; ``more`` are pairs of a further dict and its update."""
        at_once(*self._adoption(new, more))

    def _adoption(
        self, new: Planned, more: Iterable[tuple[dict[str, Any], Mapping[str, Any]]] = ()
    ) -> tuple[Iterable[Any], ...]:
        """The iterators that put a plan into use when they are exhausted, as ``at_once`` does."""
        new.plan.set_options(self._options(new.rules))
        constant = all(_is_constant(value) for some in new.values for value in some)
        of_groups = [one.group for one in new.groups]
        changed = self._changed if constant else ALWAYS
        new.plan.watch(of_groups, self._hyperparameters, new.values, changed, self._shared)
        update: dict[str, Any] = {"_rules": new.rules, "_groups": new.groups, "_seen": new.values if constant else []}
        states = new.states
        if states is not None:
            update |= {
                "_records": new.records,
                "_labels": new.labels,
                "_plan": new.plan,
                "_extents": None,
                "_added": False,
                "_fresh": [i for i, (_, keys) in enumerate(new.fresh) if keys],
                "_grouped": self._grouped or len(new.groups) > 1,
            }
        kept = [record.state for record in new.records] if states is not None else []
        forms = [forms_of(state) for state in states or ()]
        dicts, updates = zip((vars(self), update), *more, strict=True)
        return (
            map(list.__setitem__, [self._simple], [0], [None]),
            map(dict.clear, kept),
            map(dict.update, kept, states or ()),
            map(setattr, new.records, repeat("seen"), states or ()),
            map(setattr, new.records, repeat("forms"), forms),
            map(setattr, new.records, repeat("fresh"), new.fresh),
            map(dict.update, dicts, updates),
            map(list.__setitem__, [self._changed], [0], [False]),
        )

    def _settle(self) -> None:
        """Follows all changes, in place too, before another method than ``step`` reads or writes parameters and state."""
        self._follow()
        if not self._plan.unmoved():
            self._adopt(self._planned(anew=True))

    def _expect_unswapped(self) -> None:
        if self._swapped:
            raise ValueError(f"{self._name}: the parameters are swapped for their averages; swap_ema() them back first")

    def _expect_swapped_params(self) -> None:
        """Raises if a parameter was replaced since the swap."""
        try:
            params = [id(param) for group in self.param_groups for param in group["params"]]
        except (KeyError, TypeError):  # a group is not valid
            params = []
        if params != [id(record.param) for record in self._records]:
            raise ValueError(f"{self._name}: parameters were replaced while they are swapped; put them back first")

    def _follow(self) -> None:
        """Follows the changes in the groups and in the state."""
        if not self._plan.current(self.param_groups) and not (self._seen and self._revalued()):
            self._adopt(self._planned())

    def _members(
        self,
        records: list[Record],
        labels: list[str],
        owners: list[int],
        rules: list[Rule],
        groups: list[dict[str, Any]],
        loaded: list[dict[str, Any]] | None = None,
        unbegun: list[set[str]] | None = None,
    ) -> tuple[list[Member], list[dict[str, Any]], list[tuple[int, tuple[str, ...]]]]:
        """The members of a plan, the entries of their states, and which entries are fresh; changes nothing."""
        members, states, fresh = [], [], []
        own, kinds = self._as_param(), self._kinds()
        steps = np.zeros(len(records), np.int64)  # in one array, as each step increments all of them
        for i, (record, label, owner) in enumerate(zip(records, labels, owners, strict=True)):
            rule = self._rule_of(rules[owner], record.param)
            if rest_of(rule, record.param) == RESTS["correction"] and record.param.dtype == np.float16:
                raise TypeError(
                    f"{self._name}: params{label} has dtype float16; weights='correction' is for bfloat16: use 'kahan' or 'master'"
                )
            now = self._entries(record, label) if loaded is None else loaded[i]
            initial = partial(self._initial, group=groups[owner])
            its = None if unbegun is None else unbegun[i]
            state, begun = state_for(record, now, rule, self.hidden, initial, own, kinds, steps[i, ...], its)
            members.append(member_of(label, rule, owner, record.param, state, self.hidden))
            states.append(state)
            fresh.append(begun)
        return members, states, fresh

    def _entries(self, record: Record, label: str) -> dict[str, Any]:
        """A state's entries.  Those that were put there from outside are checked, and copied if they cannot be used as they are."""
        entries: dict[str, Any] = dict(record.state)
        known, forms = record.seen, record.forms
        same = {key for key in known if key in entries and entries[key] is known[key]}
        strangers = [
            key for key, value in entries.items() if key not in same or forms[key] != (value.shape, value.dtype)
        ]
        if strangers:
            reader = self._reader()
            for key in strangers:
                entries[key] = reader.adopted(record.param, key, entries[key], label)
        if entries and "step" not in entries:
            raise ValueError(f"{self._name}: state of params{label} has no step")
        return entries

    def _reader(self) -> Reader:
        """The reader of states of this optimizer."""
        numbers = {number for kernel in self.kernels for number in kernels.rules[kernel][1]}
        return Reader(
            self._name,
            self.param_groups,
            self._hyperparameters,
            self._kinds(),
            numbers,
            self._shape_of,
            self._labels,
            self._records,
        )

    @classmethod
    def _variants(cls) -> list[set[str]]:
        """The names of a state's entries under each variant of the rule."""
        return [{*kernels.rules[one][0], *kernels.rules[one][1]} - {*cls.hidden} for one in cls.kernels]

    def _needed(self, rules: list[Rule]) -> list[set[str]]:
        """For each parameter, the names of the entries that its state has under these rules."""
        needed = []
        for rule, one in zip(rules, self._groups, strict=True):
            for param in one.group["params"]:
                own = self._rule_of(rule, param)
                names = {name for name in (*own.states, *own.numbers) if name not in self.hidden}
                names |= {name for name, wanted in zip(AS_PARAMETER, (own.initial, own.average), strict=True) if wanted}
                needed.append(names)
        return needed


def _is_constant(value: Any) -> bool:
    """Whether a value cannot change in place."""
    return all(map(_is_constant, value)) if type(value) is tuple else isinstance(value, CONSTANT)


def _extent(param: Array, label: str) -> tuple[int, int, str]:
    first: int = param.__array_interface__["data"][0]
    return first, first + param.nbytes, label
