"""The optimizer: groups of parameters, their hyperparameters, and the step."""

from __future__ import annotations

import inspect
import os
import re
from bisect import bisect, insort
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from operator import attrgetter, is_, itemgetter
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .._check import closest, did_you_mean, flag, number, type_of
from .._core import kernels
from .._rules import AROUND, AROUND_TEXTS, Hyperparameters, Rule
from . import files
from ._formats import zeros_like
from .accumulate import Accumulator
from .averages import averages_of, exchange
from .parameters import Array, Grads, ParameterState, Params, Record, SplitGroups, Structure, flattened
from .plan import AS_PARAMETER, Member, Plan, begin, member_of, state_for, unmoved
from .state_dict import SCHEDULED, Reader, expect_complete, plain, written

CONSTANT = (float, int, str, bool, type(None), np.generic)  # types of values that cannot change in place
ALWAYS = [True]  # watched where a value may change in place


class StepInfo(NamedTuple):
    """What a step did."""

    step: int
    """How many steps the optimizer has taken."""
    grad_norm: float | None = None
    """The norm of all gradients, unscaled and not yet clipped; ``None`` unless ``clip_norm`` or ``skip_nonfinite`` needed it."""
    skipped: bool = False
    """Whether the step was not taken, because a gradient was not finite."""


def step_options(
    function: str,
    grad_scale: float,
    clip_norm: float | None,
    clip_value: float | None,
    clip_param_norm: float | None,
    clip_adaptive: float | None,
    skip_nonfinite: bool,
    zero_grads: bool,
) -> tuple[float, ...]:
    """The options of a step as kernels take them."""
    clips = {
        "clip_norm": clip_norm,
        "clip_value": clip_value,
        "clip_param_norm": clip_param_norm,
        "clip_adaptive": clip_adaptive,
    }
    chosen = [name for name, value in clips.items() if value is not None]
    scale = number(function, "grad_scale", grad_scale)
    if scale <= 0:
        raise ValueError(f"{function}: grad_scale must be > 0, got {grad_scale}")
    if len(chosen) > 1:
        raise ValueError(f"{function}: {' and '.join(chosen)} exclude each other")
    limits = (-1.0 if value is None else number(function, name, value, 0) for name, value in clips.items())
    flags = (flag(function, "skip_nonfinite", skip_nonfinite), flag(function, "zero_grads", zero_grads))
    return (scale, *limits, *map(float, flags))


class _Group(NamedTuple):
    """A group as it was when it was last looked at."""

    group: dict[str, Any]
    structure: Structure


class _Plan(NamedTuple):
    """A plan with all that it was made of."""

    plan: Plan
    groups: list[_Group]
    labels: list[str]
    records: list[Record]
    rules: list[Rule]
    values: list[Any]  # the groups' hyperparameters
    states: (
        list[dict[str, Any]] | None
    )  # the entries that the records' states get; None where the plan is the one in use
    fresh: list[tuple[int, tuple[str, ...]]]


class Optimizer:
    """A list of parameters that one rule updates in place.

    A subclass is a rule: its constructor passes the hyperparameters' defaults here, and ``_rule`` makes of a group's
    hyperparameters what the kernel takes.

    ``param_groups`` is a list of dicts as in torch.  Hyperparameters may be changed between steps, parameters replaced (a new array
    begins without state), groups added and removed: the next step checks and follows.  Every rule understands, beside its own:

    - ``weight_decay``: λ, added to the gradient as λp (L2), or with ``decoupled_weight_decay`` p ← (1 − lr·λ) p before the
      update, or with ``fixed_decay`` too p ← (1 − λ) p.  ``decoupled_weight_decay=None`` is the rule's own way, for those that have one.
    - ``l1``: added to the gradient as l1·sign(p); with ``proximal_l1`` |p| ← max(|p| − lr·l1, 0) after the update, which
      makes weights exactly zero.  With ``weight_decay`` it is the elastic net.
    - ``l2_init``: as weight decay, but towards p₀, the weights as they are before the first step in which it is not 0 (L2-SP): added
      as l2_init·(p − p₀), or decoupled p ← p + lr·l2_init·(p₀ − p) after the update.
    - ``noise``: the standard deviation of normal noise that is added to the clipped gradient; ``temperature`` T adds that of
      Langevin dynamics, √(2T/lr), which samples at that temperature with plain SGD.  The numbers depend on ``seed``, the parameter's number, its
      count of steps and the position only.
    - ``ema_decay``: d of the weights' moving average a ← d a + (1−d) p, in ``ema_params``; with ``ema_warmup`` min(d, (1+t)/(10+t)).
      It begins as the weights are before the parameter's first step with it.
      ``swa_start`` and ``swa_freq``: the plain average of the weights after step swa_start and every swa_freq-th one from there.
    - ``maximize``: the gradient is negated before anything is added to it.
    - ``moments``: how means of gradients and of their squares are kept: ``None`` as they are computed, ``"bfloat16"``, or
      ``"8bit"`` in blocks of 64.  ``moment_rounding``: ``"stochastic"``, or for bfloat16 ``"nearest"``.
    - ``weights``: for parameters of 16 bits, what becomes of the bits that these do not hold.  ``"stochastic"`` and
      ``"nearest"`` round them off; ``"kahan"`` keeps 16 more, ``"correction"`` 8 more (bfloat16 only), and ``"master"`` a
      float32 weight of which the parameter is a copy, from its first step on.

    Parameters may be float32, float64, float16 or ml_dtypes' bfloat16.  Those of 16 bits are computed with in float32, and so are
    their averages kept.  Gradients of these and of float32 parameters may be float32, float16 or bfloat16.

    Several threads may call one optimizer: they take turns.  Each step, with all that belongs to it, is taken whole or not at all; an
    interrupt (Ctrl-C) comes before or after it.  Optimizers can be pickled and deep-copied, with their parameters.

    References:
        Elastic net: Zou & Hastie 2005.  L2-SP: Li, Grandvalet & Davoine 2018, arXiv:1802.01483.  Noise: Neelakantan et al. 2015,
        arXiv:1511.06807; Welling & Teh 2011.  Averages: Polyak & Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407.
    """

    # Which kernels its rules may use; their states, in this order, are the arguments of the stateless function.
    kernels: ClassVar[tuple[str, ...]] = ()
    hidden: ClassVar[tuple[str, ...]] = ()  # states of these that are scratch
    as_parameter: ClassVar[tuple[str, ...]] = ()  # states of these that begin as the parameter
    around: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # the rule's own defaults of what every rule has
    function: ClassVar[str | None] = ""  # the name of that function; by default the class's in small letters

    def __init_subclass__(cls, **around: Any) -> None:
        """Takes the rule's own defaults of what every rule has, and shows all hyperparameters in signature and documentation."""
        super().__init_subclass__()
        cls.around = MappingProxyType({**cls.around, **around})
        own = [one for one in inspect.signature(cls.__init__).parameters.values() if one.name != "self"]
        if own and own[-1].name == "around":
            more = [
                inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value)
                for key, value in {**AROUND, **cls.around}.items()
            ]
            cls.__signature__ = inspect.Signature(own[:-1] + more)  # type: ignore[attr-defined]
            lines = "\n".join(f"        {key}: {text}" for key, text in AROUND_TEXTS.items())
            cls.__doc__ = cls.__doc__ and re.sub(
                r"^        around: .*$", lambda _: lines, cls.__doc__, flags=re.MULTILINE
            )

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        """The rule that a group's hyperparameters make; raises where they are wrong."""
        raise NotImplementedError

    @classmethod
    def _rule_of(cls, rule: Rule, param: Array) -> Rule:
        """The group's rule as it is for one of its parameters."""
        return rule

    @classmethod
    def _options(cls, rules: list[Rule]) -> list[Any]:
        """What a plan's ``set_options`` takes."""
        return [rule.options for rule in rules]

    @classmethod
    def _initial(cls, name: str, param: Array, group: Mapping[str, Any]) -> Array:
        """A new buffer of state."""
        return zeros_like(param)

    @classmethod
    def _shape_of(cls, name: str, param: Array) -> tuple[int, ...]:
        """The shape of such a buffer."""
        return param.shape

    @classmethod
    def _make_plan(cls, function: str, members: list[Member], count: Array | None = None) -> Plan:
        plan: Plan = kernels.Plan(function, members, count)
        return plan

    @classmethod
    def _kinds(cls) -> dict[str, str]:
        """The states of all its rules, and what is in them; "exact" only if that is so for all of them."""
        kinds: dict[str, str] = {}
        for kernel in cls.kernels:
            states, _, _, of_states = kernels.rules[kernel]
            for state, kind in zip(states, of_states, strict=True):
                if state not in cls.hidden and kinds.get(state, "exact") == "exact":
                    kinds[state] = kind
        return kinds

    def __init__(self, params: Params, around: Mapping[str, Any], **defaults: Any) -> None:
        self._name = name = type(self).__name__
        self._hyperparameters = (*defaults, *AROUND)
        for key in around:
            if key not in AROUND:
                raise TypeError(f"{name}: unknown hyperparameter {key!r}{did_you_mean(key, self._hyperparameters)}")
        self.defaults: dict[str, Any] = {**defaults, **AROUND, **self.around, **around}
        self.param_groups: list[dict[str, Any]] = []
        self._groups: list[_Group] = []
        self._records: list[Record] = []
        self._labels: list[str] = []
        self._rules: list[Rule] = []
        self._changed = [False]  # whether the plan is to be made anew
        self._added = False  # whether that is because of add_param_group
        self._values = itemgetter(*self._hyperparameters)
        self._fresh: list[int] = []  # numbers of parameters with entries that begin as the parameter
        self._count = np.zeros((), np.int64)
        self._swapped = np.zeros((), np.bool_)
        self._accumulated: Accumulator | None = None
        self._extents: list[tuple[int, int, str]] | None = None  # of the parameters' memory, sorted
        self._turn = kernels.Turn(name)
        self._plan = self._make_plan(name, [], self._count)

        if not isinstance(params, Iterable) or isinstance(params, str | bytes):
            raise TypeError(f"{name}: params must be a list, a dict or groups of arrays, got {type_of(params)}")
        one = isinstance(params, Mapping | np.ndarray)
        groups: list[Any] = [params] if one else list(params)
        self._grouped = bool(groups) and all(isinstance(group, Mapping) and "params" in group for group in groups)
        # The structure of gradients where it is not that of the groups.
        self._whole: Structure | None = params.structure if isinstance(params, SplitGroups) else None
        first = 0
        for group in groups if self._grouped else [{"params": params if one else groups}]:
            new = self._new_group(group, first)
            self._groups.append(new)
            self.param_groups.append(new.group)
            first += len(new.structure.leaves)
        self._adopt(self._planned())

    def __setattr__(self, name: str, value: Any) -> None:
        known = self.__dict__.get("_hyperparameters", ())
        meant = name if name in known else "" if name.startswith("_") or name in vars(self) else closest(name, known)
        if meant:
            raise TypeError(
                f"{self._name}: {name} is no attribute of an optimizer; hyperparameters belong to its groups: "
                f"opt.param_groups[0][{meant!r}] = {value!r}"
            )
        super().__setattr__(name, value)

    # Groups

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Adds parameters, with hyperparameters of their own where they differ from the defaults.

        From then on ``step`` takes a list of gradients for each group, or one flat list.

        Args:
            param_group: ``{"params": a list or dict of arrays, hyperparameter: value, ...}``.

        Raises:
            TypeError: An array's dtype or memory layout is wrong, or a hyperparameter has the wrong type.
            ValueError: A hyperparameter is unknown or out of range, or a parameter overlaps another one.
        """
        with self._turn:
            self._expect_unswapped()
            if self._accumulated is not None and self._accumulated.micro_batches:
                raise ValueError(f"{self._name}: accumulated gradients have no place for another group; step() first")
            if not self._added:
                self._follow()
            first = len(self._labels)
            whole, self._whole = self._whole, None
            try:
                new = self._new_group(param_group, first)
                rule = self._rule_for(new.group)
                labels = new.structure.labels(first)
                records = [
                    self._new_record(param, label) for param, label in zip(new.structure.leaves, labels, strict=True)
                ]
                members, states, fresh = self._members(records, labels, [0] * len(records), [rule], [new.group])
                self._make_plan(self._name, members)
                extents = self._extents_with(records, labels)
            except BaseException:
                self._whole = whole
                raise
            for record, state, begun in zip(records, states, fresh, strict=True):
                dict.update(record.state, state)
                record.seen, record.fresh = state, begun
            self._changed[0] = self._added = self._grouped = True
            self._extents = extents
            self._labels = self._labels + labels
            self._records = self._records + records
            self._rules = [*self._rules, rule]
            self._groups = [*self._groups, new]
            self.param_groups.append(new.group)

    def _new_group(self, param_group: Mapping[str, Any], first: int) -> _Group:
        """A group, checked, with the structure of its parameters."""
        name = self._name
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f"{name}: a group must be a dict with params, got {param_group!r}")
        self._expect_known(param_group)
        params = param_group["params"]
        if not isinstance(params, Iterable) or isinstance(params, np.ndarray | str | bytes):
            raise TypeError(f"{name}: params must be a list or a dict of arrays, got {type_of(params)}")
        structure = Structure(name, params if isinstance(params, Mapping) else list(params))
        names = structure.names
        if self._whole is not None:
            names = self._whole.names[first : first + len(structure.leaves)]
        group: dict[str, Any] = {**self.defaults, **param_group, "params": [*structure.leaves]}
        if names:
            group["param_names"] = names
        return _Group(group, structure)

    def _expect_known(self, group: Mapping[str, Any]) -> None:
        for key in group:
            if key not in self._hyperparameters and key not in SCHEDULED and key not in ("params", "param_names"):
                raise ValueError(
                    f"{self._name}: unknown hyperparameter {key!r}{did_you_mean(str(key), self._hyperparameters)}"
                )

    def _new_record(self, param: Any, label: str) -> Record:
        if not isinstance(param, np.ndarray):
            raise TypeError(f"{self._name}: params{label} must be a numpy array, got {type_of(param)}")
        return Record(param, self._changed)

    def _extents_with(self, records: list[Record], labels: list[str]) -> list[tuple[int, int, str]]:
        """Where the parameters lie in memory, with some more; raises where these overlap one."""
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

    def _rule_for(self, group: Mapping[str, Any]) -> Rule:
        return self._rule(Hyperparameters(self._name, {key: plain(group[key]) for key in self._hyperparameters}))

    def _looked_at(self) -> tuple[list[_Group], list[str]]:
        """The groups that there are now, and the labels of all parameters; raises where a group is none."""
        name, known = self._name, {id(one.group): one for one in self._groups}
        if not isinstance(self.param_groups, list):
            raise TypeError(f"{name}: param_groups must be a list of dicts, got {type_of(self.param_groups)}")
        found: list[_Group] = []
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
            one = known.get(id(group)) or (self._groups[index] if index < len(self._groups) else None)
            structure = one.structure if one is not None else Structure(name, params)
            if len(params) != len(structure.leaves):
                if not structure.flat and id(group) in known:
                    raise ValueError(
                        f"{name}: params of param_groups[{index}] has {len(params)} arrays, and gradients come in a structure "
                        f"of {len(structure.leaves)}; use add_param_group for more"
                    )
                structure = Structure(name, params)
            found.append(_Group(group, structure))
            labels += structure.labels(len(labels))
        return found, labels

    def _planned(self, anew: bool = False) -> _Plan:
        """The plan for the groups and the state as they are now; changes nothing.  Makes a new one only where that is needed, or ``anew``."""
        groups, labels = self._looked_at()
        for one in groups:
            one.group.update(
                {key: tuple(one.group[key]) for key in self._hyperparameters if isinstance(one.group[key], list)}
            )
        values = [self._values(one.group) for one in groups]
        rules = [self._rule_for(one.group) for one in groups]
        params = [param for one in groups for param in one.group["params"]]
        records = self._records
        same = len(params) == len(records) and all(map(is_, params, map(attrgetter("param"), records)))
        kept = same and [rule.kind for rule in rules] == [rule.kind for rule in self._rules]
        if kept and not anew and not self._changed[0] and len(groups) == len(self._groups):
            return _Plan(self._plan, groups, labels, records, rules, values, None, [])
        if not same:
            known = {id(record.param): record for record in records}
            records = [
                known.get(id(param)) or self._new_record(param, label)
                for param, label in zip(params, labels, strict=True)
            ]
            if self._accumulated is not None and self._accumulated.micro_batches:
                raise ValueError(f"{self._name}: accumulated gradients belong to other parameters; step() first")
        for record, label in zip(records, labels, strict=True):
            unmoved(self._name, record, label)
        return self._plan_of(groups, labels, records, rules, values)

    def _plan_of(
        self,
        groups: list[_Group],
        labels: list[str],
        records: list[Record],
        rules: list[Rule],
        values: list[Any],
        loaded: list[dict[str, Any]] | None = None,
    ) -> _Plan:
        """A new plan, of states that are ``loaded`` or of those that there are."""
        owners = [index for index, one in enumerate(groups) for _ in one.group["params"]]
        of_groups = [one.group for one in groups]
        members, states, fresh = self._members(records, labels, owners, rules, of_groups, loaded)
        plan = self._make_plan(self._name, members, self._count)
        return _Plan(plan, groups, labels, records, rules, values, states, fresh)

    def _adopt(self, new: _Plan, more: Iterable[tuple[dict[str, Any], Mapping[str, Any]]] = ()) -> None:
        """Takes a plan over with all that belongs to it; ``more`` are further dicts and what they are updated with."""
        new.plan.set_options(self._options(new.rules))
        constant = all(_is_constant(value) for some in new.values for value in some)
        of_groups = [one.group for one in new.groups]
        new.plan.watch(of_groups, self._hyperparameters, new.values, self._changed if constant else ALWAYS)
        update: dict[str, Any] = {"_rules": new.rules, "_groups": new.groups}
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
                "_whole": self._whole_for(new),
            }
        kept = [record.state for record in new.records] if states is not None else []
        dicts, updates = zip((vars(self), update), *more, strict=True)
        # Iterators in C that call functions in C: no signal handler runs between, and no other thread.
        calls = (
            map(dict.clear, kept),
            map(dict.update, kept, states or ()),
            map(setattr, new.records, repeat("seen"), states or ()),
            map(setattr, new.records, repeat("fresh"), new.fresh),
            map(dict.update, dicts, updates),
            map(list.__setitem__, [self._changed], [0], [False]),
        )
        deque(chain.from_iterable(calls), maxlen=0)

    def _whole_for(self, new: _Plan) -> Structure | None:
        """The structure of all gradients, as long as there are as many."""
        return self._whole if self._whole is not None and len(self._whole.leaves) == len(new.labels) else None

    def _follow(self) -> None:
        """Follows what has changed in the groups and in the state."""
        if not self._plan.current(self.param_groups):
            self._adopt(self._planned())

    def _members(
        self,
        records: list[Record],
        labels: list[str],
        owners: list[int],
        rules: list[Rule],
        groups: list[dict[str, Any]],
        loaded: list[dict[str, Any]] | None = None,
    ) -> tuple[list[Member], list[dict[str, Any]], list[tuple[int, tuple[str, ...]]]]:
        """Members of a plan, with the entries of their states and which of these are fresh; changes nothing."""
        members, states, fresh = [], [], []
        for i, (record, label, owner) in enumerate(zip(records, labels, owners, strict=True)):
            rule = self._rule_of(rules[owner], record.param)
            now = self._entries(record, label) if loaded is None else loaded[i]
            initial = partial(self._initial, group=groups[owner])
            state, begun = state_for(record, now, rule, self.hidden, initial, self.as_parameter, loaded is not None)
            members.append(member_of(label, rule, owner, record.param, state, self.hidden))
            states.append(state)
            fresh.append(begun)
        return members, states, fresh

    def _entries(self, record: Record, label: str) -> dict[str, Any]:
        """A state's entries; those that somebody has put there are checked, and copied where they cannot be used as they are."""
        entries = dict(record.state)
        strangers = [key for key, value in entries.items() if record.seen.get(key) is not value]
        if strangers:
            reader = Reader(self, self._labels, self._records)
            for key in strangers:
                entries[key] = reader.adopted(record.param, key, entries[key], label)
        if entries and "step" not in entries:
            raise ValueError(f"{self._name}: state of params{label} has no step")
        return entries

    # The step

    def step(
        self,
        grads: Grads | None = None,
        *,
        grad_scale: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clip_param_norm: float | None = None,
        clip_adaptive: float | None = None,
        skip_nonfinite: bool = False,
        zero_grads: bool = False,
    ) -> StepInfo:
        """Takes one step: updates the parameters and their state in place, in one pass over memory.

        The gradient is divided by ``grad_scale``, then clipped, then negated to maximize; then noise, L2 and L1 are added; then
        comes the rule.

        Args:
            grads: The gradients, in the structure that ``params`` had: a list (a generator or ``layer.grads.values()`` too), a dict
                with the same keys, or for groups a list with one of these for each group; a flat list in the order of all parameters
                will do too.  A gradient has its parameter's shape, in any memory layout, and is only read; its dtype is the
                parameter's, or for all but float64 float32, float16 or bfloat16.  ``None`` leaves the parameter and its state alone.
                Without ``grads``: the mean of what ``accumulate`` has gathered.
            grad_scale: The factor that the loss had been multiplied by, above 0.
            clip_norm: Largest norm of all gradients together: they are multiplied by min(1, clip_norm / (norm + 1e-6)).
            clip_value: Largest absolute value of an element.
            clip_param_norm: Largest norm of each gradient by itself.
            clip_adaptive: Largest norm of each unit of a gradient, relative to that of the unit's weights (or 1e-3, if that is
                larger): a row of a matrix, a filter (the first axis counts units), or a whole vector.
            skip_nonfinite: Take no step, and count none, where a gradient has an infinity or NaN.
            zero_grads: Set the gradients to zero afterwards, also of a step that was skipped.

        Returns:
            What the step did.

        Raises:
            TypeError: A gradient's dtype is wrong, or an option or hyperparameter has the wrong type.
            ValueError: A gradient's shape is wrong, it overlaps what would be written, gradients are missing or too many,
                or an option or hyperparameter is out of range or unknown.  Nothing has been changed then.
            RuntimeError: A signal handler or an array's own code called the optimizer in the middle of one of its calls.

        References:
            Clipping: Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063; Brock et al. 2021, arXiv:2102.06171, eq. 3.
        """
        plain = type(grad_scale) is float and grad_scale == 1.0 and skip_nonfinite is zero_grads is False
        if plain and clip_norm is clip_value is clip_param_norm is clip_adaptive is None:
            options = None
        else:
            options = step_options(
                self._name,
                grad_scale,
                clip_norm,
                clip_value,
                clip_param_norm,
                clip_adaptive,
                skip_nonfinite,
                zero_grads,
            )
        with self._turn:
            return self._take(grads, options)

    def _take(self, grads: Grads | None, options: tuple[float, ...] | None) -> StepInfo:
        """Takes a step, with the turn."""
        if self._swapped:
            self._expect_unswapped()
        sums = None
        if grads is None:
            sums = self._accumulated
            if sums is None or not sums.micro_batches:
                raise ValueError(f"{self._name}: grads is missing, and accumulate has gathered none")
            scale, *rest = options or (1.0, -1.0, -1.0, -1.0, -1.0, 0.0)
            grads, options = sums.gathered(), (scale * sums.micro_batches, *rest[:5], 1.0)
        flat = self._ready(grads, options, gathered=sums is not None)
        if self._fresh:
            self._begin(flat)
        emptied = None if sums is None else sums.plan
        outcome = self._plan.step(flat, options, emptied)
        if outcome is None:  # an array is not what it was when it was checked
            new = self._planned(anew=True)
            new.plan.check(flat, options)
            self._adopt(new)
            outcome = self._plan.step(flat, options, emptied)
            if outcome is None:
                raise ValueError(f"{self._name}: an array of the state or a parameter is changed by another thread")
        return StepInfo(*outcome)

    def _ready(self, grads: Any, options: tuple[float, ...] | None = None, gathered: bool = False) -> list[Any]:
        """The gradients in the order of the parameters, and a plan for them: nothing has changed if they are wrong."""
        if self._plan.current(self.param_groups):
            return grads if gathered else self._flatten(grads, self._groups, self._grouped, self._whole)
        new = self._planned()
        whole, grouped = self._whole_for(new), self._grouped or len(new.groups) > 1
        flat: list[Any] = grads if gathered else self._flatten(grads, new.groups, grouped, whole)
        if new.states is not None:
            new.plan.check(flat, options)
        self._adopt(new)
        return flat

    def _begin(self, flat: list[Any]) -> None:
        """Lets averages, masters and the like begin as the parameters are now, of those that take their first step with them."""
        for i in self._fresh:
            if flat[i] is not None:
                begin(self._records[i])
        self._fresh = [i for i in self._fresh if self._records[i].is_fresh()]

    def _flatten(self, grads: Grads, groups: list[_Group], grouped: bool, whole: Structure | None) -> list[Any]:
        """The gradients in the order of the parameters."""
        if whole is not None:
            return whole.flatten(self._name, grads)
        if not grouped:
            return groups[0].structure.flatten(self._name, grads)
        return flattened(self._name, [one.structure for one in groups], grads)

    def accumulate(self, grads: Grads) -> None:
        """Adds the gradients of a micro-batch to those that the next ``step()`` without gradients will take the mean of.

        Args:
            grads: As for ``step``; ``None`` adds nothing to that parameter.

        Raises:
            TypeError: A gradient's dtype is wrong.
            ValueError: A gradient's shape is wrong, or gradients are missing or too many.  Nothing has been added then.

        Example:
            >>> import numpy as np, fastopt as fo
            >>> w = np.ones(2)
            >>> opt = fo.optim.SGD([w], lr=0.5)
            >>> opt.accumulate([np.array([1.0, 0.0])])
            >>> opt.accumulate([np.array([1.0, 1.0])])
            >>> opt.step(clip_norm=10.0).step
            1
            >>> w
            array([0.5 , 0.75])
        """
        with self._turn:
            flat = self._ready(grads)
            params = [record.param for record in self._records]
            sums = self._accumulated
            if (
                sums is None
                or not all(a is b for a, b in zip(sums.params, params, strict=False))
                or len(sums.params) != len(params)
            ):
                sums = Accumulator(self._name, params, self._labels)
                sums.add(flat)
                self._accumulated = sums
            else:
                sums.add(flat)

    # Averages

    @property
    def ema_params(self) -> Any:
        """The averages of the parameters, in the structure of ``params`` (for groups, a list of them); the live arrays.

        A parameter that has no average stands for itself.
        """
        averages = iter(averages_of(self._records))
        built = [one.structure.build([next(averages) for _ in one.structure.leaves]) for one in self._groups]
        return built if self._grouped else built[0]

    def swap_ema(self) -> None:
        """Exchanges the contents of the parameters and their averages, all or none; calling it again brings them back.

        Raises:
            ValueError: There are no averages.
            TypeError: A parameter or an average is read-only.  Nothing has been changed then.
        """
        with self._turn:
            if not any("ema_param" in record.state for record in self._records):
                raise ValueError(f"{self._name}: there are no averages; set ema_decay or swa_start")
            exchange(self._name, self._records, self._labels, self._swapped)

    def _expect_unswapped(self) -> None:
        if self._swapped:
            raise ValueError(f"{self._name}: the parameters are swapped for their averages; swap_ema() them back first")

    @contextmanager
    def using_ema(self) -> Iterator[None]:
        """Within it the parameters are their averages."""
        self.swap_ema()
        try:
            yield
        finally:
            self.swap_ema()

    # State

    @property
    def state(self) -> tuple[dict[str, Any], ...]:
        """For each parameter, numbered over all groups, its buffers under torch's names, and ``step``: the live arrays.

        An entry may be replaced, ``opt.state[0]["momentum_buffer"] = zeros``: the next step checks it and goes on with it.
        """
        return tuple(record.state for record in self._records)

    def _extra(self) -> dict[str, Any]:
        """What a subclass keeps beside arrays, as JSON knows it."""
        return {}

    def _restore(self, extra: Mapping[str, Any]) -> None:
        """Takes ``_extra`` back, before the state; raises before it changes anything."""

    def state_dict(self, copy: bool = False) -> dict[str, Any]:
        """All state, in torch's structure: ``state`` by the numbers of parameters, and ``param_groups`` with these numbers.

        Args:
            copy: Whether the arrays are a snapshot; otherwise they are the live ones.

        Returns:
            The state; under ``fastopt`` what torch does not have.

        Raises:
            ValueError: Gradients have been accumulated and not been used, the parameters are swapped for their averages, or a
                group has an unknown hyperparameter.
        """
        copy = flag(self._name, "copy", copy)
        with self._turn:
            return self._state_dict(copy)

    def _state_dict(self, copy: bool) -> dict[str, Any]:
        if self._accumulated is not None and self._accumulated.micro_batches:
            raise ValueError(f"{self._name}: accumulated gradients would be lost; step() first")
        self._expect_unswapped()
        self._follow()
        for record in self._records:
            begin(record)
        own = {"class": self._name, "step": int(self._count), **self._extra()}
        return written(self.param_groups, self._records, own, copy)

    def load_state_dict(self, state_dict: Mapping[str, Any], *, by_position: bool = False) -> None:
        """Takes the state of another optimizer of the same class with the same parameters; one of torch's will do.

        The arrays are copied.  Parameters are matched by their names where both sides have names, otherwise by position.
        Hyperparameters are restored too; those that the state does not have stay as they are.  So do ``weights``, ``moments`` and
        ``moment_rounding``: state that is in other formats is converted; and the hyperparameters of averages, if the state is of an
        optimizer without averages.  What the state lacks, such as an average, begins with the next step.

        Args:
            state_dict: What :meth:`state_dict` returned, here or in torch.
            by_position: Whether parameters are matched by position, though both sides have names.

        Raises:
            TypeError: It is not a state, or its arrays have the wrong dtype.
            ValueError: Its groups, parameters, names or shapes are others, or something is missing or unknown.  Nothing has been
                changed then.
        """
        by_position = flag(self._name, "by_position", by_position)
        with self._turn:
            self._load(state_dict, by_position)

    def _load(self, state_dict: Mapping[str, Any], by_position: bool) -> None:
        self._expect_unswapped()
        self._follow()
        found = Reader(self, self._labels, self._records).read(state_dict, by_position)
        before, plan, counted = {**self._extra(), "step": int(self._count)}, self._plan, self._count
        self._restore(found.extra)
        try:
            rules = [self._rule_for(group) for group in found.groups]
            values = [self._values(group) for group in found.groups]
            expect_complete(self._name, self._labels, self._variants(), self._needed(rules), found.states)
            count = found.steps
            if count is None:
                count = max((int(one["step"]) for one in found.states if one), default=0)
            self._count = np.array(count, np.int64)
            updates = [
                (group, {key: value for key, value in loaded.items() if key != "params"})
                for group, loaded in zip(self.param_groups, found.groups, strict=True)
            ]
            new = self._plan_of(self._groups, self._labels, self._records, rules, values, found.states)
            self._adopt(new, [(vars(self), {"_accumulated": None}), *updates])
        except BaseException:
            if self._plan is plan:
                self._count = counted
                self._restore(before)
            raise

    @classmethod
    def _variants(cls) -> list[set[str]]:
        """The entries of a state under each variant of the rule."""
        return [{*kernels.rules[one][0], *kernels.rules[one][1]} - {*cls.hidden} for one in cls.kernels]

    def _needed(self, rules: list[Rule]) -> list[set[str]]:
        """For each parameter the entries that its state has under these rules."""
        needed = []
        for rule, one in zip(rules, self._groups, strict=True):
            for param in one.group["params"]:
                own = self._rule_of(rule, param)
                names = {name for name in (*own.states, *own.numbers) if name not in self.hidden}
                names |= {name for name, wanted in zip(AS_PARAMETER, (own.initial, own.average), strict=True) if wanted}
                needed.append(names)
        return needed

    def save(self, path: str | os.PathLike[str], schedule: Any = None) -> None:
        """Writes all state to a safetensors file, which replaces the one that was there when it is complete and on the disk.

        Args:
            path: The file.
            schedule: A schedule from :mod:`fastopt.schedules`, whose state is to be saved too.

        Raises:
            ValueError: As :meth:`state_dict`.
            TypeError: A hyperparameter cannot be written.
            OSError: The file cannot be written; the old one is still there.
        """
        with self._turn:
            state = self._state_dict(copy=False)
            arrays = {f"{i}.{name}": array for i, one in state["state"].items() for name, array in one.items()}
            groups = [{key: plain(value) for key, value in group.items()} for group in state["param_groups"]]
            metadata = {"param_groups": groups, "fastopt": state["fastopt"]}
            if schedule is not None:
                metadata["schedule"] = schedule.state_dict()
            files.save(path, arrays, metadata)

    def load(self, path: str | os.PathLike[str], schedule: Any = None, *, by_position: bool = False) -> None:
        """Takes back what :meth:`save` wrote.

        Args:
            path: The file.
            schedule: The schedule whose state was saved with it.
            by_position: As for :meth:`load_state_dict`.

        Raises:
            ValueError: The file is truncated, corrupted or foreign, or it is the state of other parameters or of another
                class.  Nothing has been changed then.
            OSError: The file cannot be read.
        """
        arrays, metadata = files.load(path)
        if not {"param_groups", "fastopt"} <= metadata.keys():
            raise ValueError(f"{self._name}: {os.fspath(path)} is not the state of an optimizer")
        if schedule is not None and "schedule" not in metadata:
            raise ValueError(f"{self._name}: {os.fspath(path)} has no schedule")
        state: dict[int, dict[str, Array]] = {}
        for key, array in arrays.items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = array
        saved = {"state": state, "param_groups": metadata["param_groups"], "fastopt": metadata["fastopt"]}
        if schedule is None:
            self.load_state_dict(saved, by_position=by_position)
            return
        before = schedule.state_dict()
        schedule.load_state_dict(metadata["schedule"])
        try:
            self.load_state_dict(saved, by_position=by_position)
        except BaseException:
            schedule.load_state_dict(before)
            raise

    def __getstate__(self) -> dict[str, Any]:
        with self._turn:
            return {key: value for key, value in vars(self).items() if key not in ("_turn", "_plan", "_extents")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        name = state["_name"]
        vars(self).update(state, _turn=kernels.Turn(name), _plan=self._make_plan(name, []), _extents=None)
        for record in self._records:
            record.state = ParameterState(record.state, self._changed)
        self._changed[0] = True

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.defaults.items() if k not in AROUND or v != {**AROUND, **self.around}[k]}
        return f"{self._name}({len(self._labels)} parameters, {', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def _is_constant(value: Any) -> bool:
    """Whether it cannot change in place."""
    return all(map(_is_constant, value)) if type(value) is tuple else isinstance(value, CONSTANT)


def _extent(param: Array, label: str) -> tuple[int, int, str]:
    first: int = param.__array_interface__["data"][0]
    return first, first + param.nbytes, label
