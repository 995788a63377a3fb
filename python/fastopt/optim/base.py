"""What all optimizers share: parameters in lists, dicts or groups, their state, and the step."""

from __future__ import annotations

import copy as _copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._check import flag, number, whole
from .._core import kernels
from .._rules import AROUND, Hyperparameters, Rule
from . import files
from ._formats import (
    FORMATS,
    RESTS,
    computed,
    copy_of,
    formats_of,
    is_half,
    keep_rest,
    keep_state,
    rest_dtype,
    rest_of,
    stored_dtypes,
    weights_of,
    zeros_like,
)
from ._structure import SplitGroups, Structure

Array: TypeAlias = NDArray[Any]
Params: TypeAlias = Iterable[Any] | Mapping[str, Any]
Grads: TypeAlias = Sequence[Any] | Mapping[str, Any]
State: TypeAlias = dict[str, Array]

# What torch's groups have beside hyperparameters, and what schedules put there.
_IGNORED = {"foreach", "fused", "capturable", "differentiable"}
_KEPT = {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}


class StepInfo(NamedTuple):
    """What a step did."""

    step: int
    """How many steps the optimizer has taken."""
    grad_norm: float | None = None
    """The norm of all gradients, unscaled and not yet clipped; ``None`` unless ``clip_norm`` or ``skip_nonfinite`` needed it."""
    skipped: bool = False
    """Whether the step was not taken, because a gradient was not finite."""


class Companions(NamedTuple):
    """What an engine works on: the parameters, and for each of them its group, state and companions."""

    function: str
    rules: list[str]
    groups: list[int]
    params: list[Array]
    states: list[list[Array]]
    scales: list[list[Array | None]]
    numbers: list[list[Array]]
    rests: list[Array | None]
    initials: list[Array | None]
    averages: list[Array | None]
    formats: list[tuple[str, str, str]]
    steps: NDArray[np.int64]
    labels: list[str]

    @classmethod
    def without_state(cls, function: str, rule: Rule, params: list[Array], labels: list[str]) -> Companions:
        """Those of parameters that have no state."""
        count = len(params)
        nothing: list[list[Any]] = [[]] * count
        return cls(
            function,
            [rule.name] * count,
            [0] * count,
            params,
            nothing,
            nothing,
            nothing,
            [None] * count,
            [None] * count,
            [None] * count,
            [rule.formats] * count,
            np.zeros(count, np.int64),
            labels,
        )


class Engine:
    """Takes steps: one kernel does all of it."""

    def __init__(self, companions: Companions) -> None:
        self.plan = kernels.Plan(*companions)
        self.step = self.plan.step


class _Plan(NamedTuple):
    """What follows from the groups' hyperparameters."""

    values: list[Any]  # these hyperparameters
    rules: list[Rule]
    options: list[tuple[float, ...]]
    engine: Any
    state: list[State]


def around_step(
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


def array_of(function: str, param: Any, label: str) -> Array:
    """A parameter, which must be an array; kernels check the rest."""
    if not isinstance(param, np.ndarray):
        raise TypeError(f"{function}: params{label} must be a numpy array, got {type(param).__name__}")
    return param


class Optimizer:
    """A list of parameters that one rule updates in place.

    A subclass is a rule: its constructor passes the hyperparameters' defaults here, and ``_rule`` makes of a group's
    hyperparameters what the kernel takes.

    ``param_groups`` is a list of dicts as in torch, whose hyperparameters may be changed between steps.  Every rule understands,
    beside its own:

    - ``weight_decay``: λ, added to the gradient as λp (L2), or with ``decoupled_weight_decay`` p ← (1 − lr·λ) p before the
      update, or with ``fixed_decay`` too p ← (1 − λ) p.  ``decoupled_weight_decay=None`` is the rule's own way, for those that have one.
    - ``l1``: added to the gradient as l1·sign(p); with ``proximal_l1`` |p| ← max(|p| − lr·l1, 0) after the update, which
      makes weights exactly zero.  With ``weight_decay`` it is the elastic net.
    - ``l2_init``: as weight decay, but towards p₀, the weights as they are when it first is not 0 (L2-SP): added as
      l2_init·(p − p₀), or decoupled p ← p + lr·l2_init·(p₀ − p) after the update.
    - ``noise``: the standard deviation of normal noise that is added to the clipped gradient; ``temperature`` T adds that of
      Langevin dynamics, √(2T/lr), which samples at that temperature with plain SGD.  The numbers depend on ``seed``, the parameter's number, its
      count of steps and the position only.
    - ``ema_decay``: d of the weights' moving average a ← d a + (1−d) p, in ``ema_params``; with ``ema_warmup`` min(d, (1+t)/(10+t)).
      ``swa_start`` and ``swa_freq``: the plain average of the weights after step swa_start and every swa_freq-th one from there.
    - ``maximize``: the gradient is negated before anything is added to it.
    - ``moments``: how means of gradients and of their squares are kept: ``None`` as they are computed, ``"bfloat16"``, or
      ``"8bit"`` in blocks of 64.  ``moment_rounding``: ``"stochastic"``, or for bfloat16 ``"nearest"``.
    - ``weights``: for parameters of 16 bits, what becomes of the bits that these do not hold.  ``"stochastic"`` and
      ``"nearest"`` round them off; ``"kahan"`` keeps 16 more, ``"correction"`` 8 more (bfloat16 only), and ``"master"`` a
      float32 weight of which the parameter is a copy.

    Parameters may be float32, float64, float16 or ml_dtypes' bfloat16.  Those of 16 bits are computed with in float32, and so are
    their averages kept.  Gradients of these and of float32 parameters may be float32, float16 or bfloat16.

    References:
        Elastic net: Zou & Hastie 2005.  L2-SP: Li, Grandvalet & Davoine 2018, arXiv:1802.01483.  Noise: Neelakantan et al. 2015,
        arXiv:1511.06807; Welling & Teh 2011.  Averages: Polyak & Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407.
    """

    # Which kernels its rules may use; their states, in this order, are the arguments of the stateless function.
    kernels: ClassVar[tuple[str, ...]] = ()
    hidden: ClassVar[tuple[str, ...]] = ()  # states of these that are scratch
    function: ClassVar[str | None] = ""  # the name of that function; by default the class's in small letters
    _engine: ClassVar[Any] = Engine

    @classmethod
    def _rule(cls, h: Hyperparameters) -> Rule:
        """What the hyperparameters of a group mean; raises what is wrong with them."""
        raise NotImplementedError

    @classmethod
    def _rule_of(cls, rule: Rule, param: Array) -> Rule:
        """The group's rule as it is for one of its parameters."""
        return rule

    @classmethod
    def _options(cls, rules: list[Rule]) -> list[Any]:
        """What the engine wants to know of the groups at each step."""
        return [rule.options for rule in rules]

    @classmethod
    def _initial(cls, name: str, param: Array, group: Mapping[str, Any]) -> Array:
        """A new buffer of state."""
        return zeros_like(param)

    def __init__(self, params: Params, around: Mapping[str, Any], **defaults: Any) -> None:
        self._name = type(self).__name__
        unknown = around.keys() - AROUND.keys()
        if unknown:
            raise TypeError(
                f"{self._name}: unknown hyperparameter {', '.join(sorted(map(repr, unknown)))}; "
                f"it has {', '.join({**defaults, **AROUND})}"
            )
        self.defaults: dict[str, Any] = {**defaults, **AROUND, **around}
        self.param_groups: list[dict[str, Any]] = []
        self._structures: list[Structure] = []
        self._labels: list[str] = []
        self._values = itemgetter(*self.defaults)
        self._count = 0
        self._swapped = False
        self._held: list[Array] = []  # averages, while parameters of 16 bits are swapped for them
        self._sums: list[Array] = []  # of accumulated gradients
        self._adding: Any = None  # the kernel that adds to them
        self._gathered: list[bool] = []  # whether there was one
        self._micro_batches = 0
        self._plan = _Plan([], [], [], None, [])

        if not isinstance(params, Iterable) or isinstance(params, str | bytes):
            raise TypeError(
                f"{self._name}: params must be a list, a dict or groups of arrays, got {type(params).__name__}"
            )
        one = isinstance(params, Mapping | np.ndarray)
        groups: list[Any] = [params] if one else list(params)
        self._grouped = bool(groups) and all(isinstance(group, Mapping) and "params" in group for group in groups)
        # The structure of gradients where it is not that of the groups.
        self._whole: Structure | None = params.structure if isinstance(params, SplitGroups) else None
        for group in groups if self._grouped else [{"params": params if one else groups}]:
            self._add(group)

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
        before, self._whole = self._whole, None
        try:
            self._add(param_group)
        except BaseException:
            self._whole = before
            raise
        self._grouped = True

    def _add(self, param_group: Mapping[str, Any]) -> None:
        self._expect_unswapped()
        if self._micro_batches:
            raise ValueError(f"{self._name}: accumulated gradients have no place for another group; step() first")
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f"{self._name}: a group must be a dict with params, got {param_group!r}")
        params = param_group["params"]
        unknown = param_group.keys() - self.defaults.keys() - {"params"}
        if unknown:
            raise ValueError(
                f"{self._name}: unknown hyperparameter {', '.join(sorted(map(repr, unknown)))}; it has {', '.join(self.defaults)}"
            )
        if not isinstance(params, Iterable) or isinstance(params, np.ndarray | str | bytes):
            raise TypeError(f"{self._name}: params must be a list or a dict of arrays, got {type(params).__name__}")
        structure = Structure(self._name, params if isinstance(params, Mapping) else list(params), len(self._labels))
        names, new = structure.names, structure.labels
        if self._whole is not None:
            here = slice(len(self._labels), len(self._labels) + len(new))
            names, new = self._whole.names[here], self._whole.labels[here]
        group: dict[str, Any] = {**self.defaults, **param_group, "params": structure.leaves}
        if names:
            group["param_names"] = names
        groups, labels = [*self.param_groups, group], self._labels + new
        self._plan = self._planned(groups, labels)
        self.param_groups, self._labels = groups, labels
        self._structures.append(structure)

    # What follows from the groups

    def _planned(self, groups: list[dict[str, Any]], labels: list[str], state: list[State] | None = None) -> _Plan:
        """What follows from the groups, and from other state than there is; changes nothing but lists of hyperparameters,
        which become tuples."""
        for group in groups:
            group.update({name: tuple(group[name]) for name in self.defaults if isinstance(group[name], list)})
        rules = [self._rule(Hyperparameters(self._name, group)) for group in groups]
        values = [self._values(group) for group in groups]
        options = self._options(rules)
        if state is None and [rule[2:5] + rule[:1] for rule in rules] == [
            rule[2:5] + rule[:1] for rule in self._plan.rules
        ]:
            return self._plan._replace(values=values, rules=rules, options=options)

        params = [param for group in groups for param in group["params"]]
        for param, label in zip(params, labels, strict=True):
            array_of(self._name, param, label)
        kernels.expect_disjoint(self._name, params, labels)
        members = [
            (param, index, self._rule_of(rules[index], param))
            for index, group in enumerate(groups)
            for param in group["params"]
        ]
        known = self.state if state is None else state
        state = [dict(one) for one in known] + [{} for _ in members[len(known) :]]
        steps = np.zeros(len(members), np.int64)
        for i, (param, index, rule) in enumerate(members):
            one, names = state[i], [name for name in rule.states if name not in self.hidden]
            # A rule whose state is new has taken no step.
            steps[i] = 0 if names and not one.keys() & set(names) else int(one.get("step", 0))
            for name, kind in zip(rule.states, rule.kinds, strict=True):
                if name in names:
                    new = partial(self._initial, name, param, groups[index])
                    keep_state(one, name, kind, rule.formats[1], param, new)
            for name in rule.numbers:
                if name not in one:
                    one[name] = np.array(self._initial(name, param, groups[index]), np.float64)
            keep_rest(one, rest_of(rule, param), param)
            for name, wanted in ("initial_param", rule.initial), ("ema_param", rule.average):
                if wanted and name not in one:
                    one[name] = copy_of(weights_of(one, param), param, computed(param))
            one["step"] = steps[i : i + 1].reshape(())
        both = list(zip(state, members, strict=True))
        engine = self._engine(
            Companions(
                self._name,
                [rule.name for *_, rule in members],
                [index for _, index, _ in members],
                params,
                [[one[name] for name in rule.states if name not in self.hidden] for one, (*_, rule) in both],
                [
                    [one.get(f"{name}_scale") for name in rule.states if name not in self.hidden]
                    for one, (*_, rule) in both
                ],
                [[one[name] for name in rule.numbers] for one, (*_, rule) in both],
                [one.get(rest_of(rule, param) or "") for one, (param, _, rule) in both],
                [one["initial_param"] if rule.initial else None for one, (*_, rule) in both],
                [one["ema_param"] if rule.average else None for one, (*_, rule) in both],
                [formats_of(rule, param) for param, _, rule in members],
                steps,
                labels,
            )
        )
        return _Plan(values, rules, options, engine, state)

    def _changed(self) -> bool:
        """Whether somebody has changed a group's hyperparameters since the last step."""
        try:
            return [self._values(group) for group in self.param_groups] != self._plan.values
        except ValueError:  # an array, which does not compare
            return True

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
            grads: The gradients, in the structure that ``params`` had: a list, a dict with the same keys, or for groups a list
                with one of these for each group; a flat list in the order of all parameters will do too.  A gradient has its
                parameter's shape and is only read; its dtype is the parameter's, or for all but float64 float32, float16 or
                bfloat16.  ``None`` leaves the parameter and its state alone.  Without ``grads``: the mean of what
                ``accumulate`` has gathered.
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
            TypeError: A gradient's dtype or memory layout is wrong, or an option or hyperparameter has the wrong type.
            ValueError: A gradient's shape is wrong, it overlaps what would be written, gradients are missing or too many,
                or an option or hyperparameter is out of range.  Nothing has been changed then.

        References:
            Clipping: Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063; Brock et al. 2021, arXiv:2102.06171, eq. 3.
        """
        plain = type(grad_scale) is float and grad_scale == 1.0 and skip_nonfinite is zero_grads is False
        if plain and clip_norm is clip_value is clip_param_norm is clip_adaptive is None:
            around = None
        else:
            around = around_step(
                self._name,
                grad_scale,
                clip_norm,
                clip_value,
                clip_param_norm,
                clip_adaptive,
                skip_nonfinite,
                zero_grads,
            )
        if grads is None:
            if not self._micro_batches:
                raise ValueError(f"{self._name}: grads is missing, and accumulate has gathered none")
            flat = [one if some else None for one, some in zip(self._sums, self._gathered, strict=True)]
            scale, *rest = around or (1.0, -1.0, -1.0, -1.0, -1.0, 0.0)
            around = (scale * self._micro_batches, *rest[:5], 1.0)
        else:
            flat = self._flatten(grads)
        info = self._take(flat, around)
        if grads is None:
            self._micro_batches = 0
        return info

    def _take(self, flat: list[Array | None], around: tuple[float, ...] | None) -> StepInfo:
        self._expect_unswapped()
        now = self._plan
        if self._changed():
            now = self._planned(self.param_groups, self._labels)
        norm, skipped = now.engine.step(flat, now.options, around)
        self._plan = now
        if not skipped:
            self._count += 1
        return StepInfo(self._count, norm, skipped)

    def accumulate(self, grads: Grads) -> None:
        """Adds the gradients of a micro-batch to those that the next ``step()`` without gradients will take the mean of.

        Args:
            grads: As for ``step``; ``None`` adds nothing to that parameter.

        Raises:
            TypeError: A gradient's dtype or memory layout is wrong.
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
        flat = self._flatten(grads)
        params = [param for group in self.param_groups for param in group["params"]]
        count = len(params)
        rule = Hyperparameters(self._name, {**AROUND, "weight_decay": 0.0}).rule("sgd", lr=-1.0)  # p ← p + g
        if len(self._sums) != count:
            self._sums = [zeros_like(param) for param in params]
            self._adding = kernels.Plan(*Companions.without_state(self._name, rule, self._sums, self._labels))
        self._adding.step(flat, [rule.options], None)
        gathered = self._gathered if self._micro_batches else [False] * count
        self._gathered = [some or grad is not None for some, grad in zip(gathered, flat, strict=True)]
        self._micro_batches += 1

    def _flatten(self, grads: Grads) -> list[Array | None]:
        """The gradients in the order of the parameters."""
        if self._whole is not None:
            return self._whole.flatten(self._name, grads)
        if not self._grouped:
            return self._structures[0].flatten(self._name, grads)
        if isinstance(grads, Mapping) and all(isinstance(one.template, dict) for one in self._structures):
            return self._of_all(grads)
        if isinstance(grads, Mapping) or not isinstance(grads, Sequence):
            raise TypeError(
                f"{self._name}: grads must be a list, with one list for each group or flat, got {type(grads).__name__}"
            )
        if len(grads) == len(self._structures) and all(isinstance(part, Mapping | list | tuple) for part in grads):
            flat = []
            for structure, part in zip(self._structures, grads, strict=True):
                flat += structure.flatten(self._name, part)
            return flat
        if len(grads) != len(self._labels):
            raise ValueError(
                f"{self._name}: grads has {len(grads)} entries, expected {len(self._labels)}, one a parameter"
            )
        return list(grads)

    def _of_all(self, grads: Mapping[str, Any]) -> list[Array | None]:
        """The gradients of groups of dicts, in one dict."""
        keys = [key for structure in self._structures for key in structure.template]
        if len(set(keys)) != len(keys):
            raise TypeError(f"{self._name}: grads must be a list, with one dict for each group, as groups share keys")
        if grads.keys() != set(keys):
            missing, unknown = (
                ", ".join(map(repr, some)) or "nothing"
                for some in ([k for k in keys if k not in grads], [k for k in grads if k not in keys])
            )
            raise ValueError(
                f"{self._name}: grads must have the keys of params; missing: {missing}, unknown: {unknown}"
            )
        flat = []
        for structure in self._structures:
            flat += structure.flatten(self._name, {key: grads[key] for key in structure.template})
        return flat

    # Averages

    @property
    def ema_params(self) -> Any:
        """The averages of the parameters, in the structure of ``params`` (for groups, a list of them); the live arrays.

        A parameter that has no average stands for itself.
        """
        members = iter(zip((p for group in self.param_groups for p in group["params"]), self.state, strict=True))
        built = [
            structure.build(
                [one.get("ema_param", param) for _, (param, one) in zip(structure.leaves, members, strict=False)]
            )
            for structure in self._structures
        ]
        return built if self._grouped else built[0]

    def swap_ema(self) -> None:
        """Exchanges the contents of the parameters and their averages; calling it again brings them back."""
        params = [param for group in self.param_groups for param in group["params"]]
        if not any("ema_param" in one for one in self.state):
            raise ValueError(f"{self._name}: there are no averages; set ema_decay or swa_start")
        averages, self._held = self._held, []
        for param, one in zip(params, self.state, strict=True):
            if "ema_param" in one:
                average = one["ema_param"]
                held = param.copy()
                if is_half(param.dtype) and not self._swapped:
                    self._held.append(average.copy())  # which the parameter cannot hold
                param[...] = average
                average[...] = averages.pop(0) if is_half(param.dtype) and self._swapped else held
        self._swapped = not self._swapped

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
    def state(self) -> list[State]:
        """For each parameter, numbered over all groups, its buffers under torch's names, and ``step``: the live arrays."""
        return self._plan.state

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
            ValueError: Gradients have been accumulated and not been used, or the parameters are swapped for their averages.
        """
        if self._micro_batches:
            raise ValueError(f"{self._name}: accumulated gradients would be lost; step() first")
        self._expect_unswapped()
        groups, first = [], 0
        for group in self.param_groups:
            count = len(group["params"])
            groups.append({**group, "params": list(range(first, first + count))})
            first += count
        return {
            "state": {
                i: {name: array.copy() if copy else array for name, array in one.items()}
                for i, one in enumerate(self.state)
            },
            "param_groups": _copy.deepcopy(groups) if copy else groups,
            "fastopt": {"class": self._name, "step": self._count, **self._extra()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the state of another optimizer of the same class with the same parameters; one of torch's will do.

        The arrays are copied.  Hyperparameters are restored too; those that the state does not have stay as they are.  So do
        ``weights``, ``moments`` and ``moment_rounding``: state that is in other formats is converted.

        Args:
            state_dict: What :meth:`state_dict` returned, here or in torch.

        Raises:
            TypeError: It is not a state, or its arrays have the wrong dtype.
            ValueError: Its groups, parameters or shapes are others, or something is missing or unknown.  Nothing has been
                changed then.
        """
        name = self._name
        self._expect_unswapped()
        groups, ids, saved_state, extra = self._read(state_dict)
        count = extra.get("step")
        if count is not None:
            whole(name, "the number of steps in state_dict", count)
        before = self._extra()
        self._restore(extra)
        try:
            params = [param for group in groups for param in group["params"]]
            state = [
                self._loaded(param, saved_state.get(number, {}), label)
                for param, number, label in zip(params, ids, self._labels, strict=True)
            ]
            plan = self._planned(groups, self._labels, state)
            for one, now, label in zip(state, plan.state, self._labels, strict=True):
                converted = {*RESTS.values(), *(key for key in now if key.endswith("_scale"))}
                missing = sorted(now.keys() - one.keys() - converted) if int(one.get("step", 0)) else []
                if missing:
                    raise ValueError(f"{name}: state_dict has no {', '.join(missing)} of params{label}")
        except BaseException:
            self._restore(before)
            raise
        for group, loaded in zip(self.param_groups, groups, strict=True):
            group.update({key: value for key, value in loaded.items() if key != "params"})
        self._plan = plan
        self._count = max((int(one["step"]) for one in plan.state), default=0) if count is None else int(count)
        self._sums, self._micro_batches = [], 0

    def _read(
        self, state_dict: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], list[Any], Mapping[Any, Any], dict[str, Any]]:
        """The groups with the hyperparameters of a state, its numbers of their parameters, its state, and what is fastopt's own."""
        name = self._name
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
            raise TypeError(
                f"{name}: state_dict must be a dict with state and param_groups, got {type(state_dict).__name__}"
            )
        saved_groups, saved_state = state_dict["param_groups"], state_dict["state"]
        extra = state_dict.get("fastopt", {})
        if not isinstance(saved_groups, list | tuple) or not all(isinstance(group, Mapping) for group in saved_groups):
            raise TypeError(f"{name}: param_groups of state_dict must be a list of dicts")
        if not isinstance(saved_state, Mapping):
            raise TypeError(f"{name}: state of state_dict must be a dict, got {type(saved_state).__name__}")
        if not isinstance(extra, Mapping):
            raise TypeError(f"{name}: fastopt of state_dict must be a dict, got {type(extra).__name__}")
        if extra.get("class", name) != name:
            raise ValueError(f"{name}: state_dict is that of {extra['class']}")
        if len(saved_groups) != len(self.param_groups):
            raise ValueError(f"{name}: state_dict has {len(saved_groups)} groups, expected {len(self.param_groups)}")
        groups: list[dict[str, Any]] = []
        ids: list[Any] = []
        for index, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            params, count = saved.get("params"), len(group["params"])
            if not isinstance(params, list | tuple) or len(params) != count:
                found = len(params) if isinstance(params, list | tuple) else "no"
                raise ValueError(f"{name}: group {index} of state_dict has {found} parameters, expected {count}")
            unknown = saved.keys() - self.defaults.keys() - _IGNORED - _KEPT - {"params", "param_names"}
            if unknown:
                raise ValueError(
                    f"{name}: group {index} of state_dict has an unknown hyperparameter {', '.join(sorted(map(repr, unknown)))}"
                )
            ids += params
            known = (self.defaults.keys() | _KEPT) - {*FORMATS}
            taken = {key: _plain(saved[key]) for key in saved if key in known}
            groups.append({**group, **taken})
        strangers = [key for key in saved_state if key not in ids]
        if strangers:
            raise ValueError(f"{name}: state_dict has state of parameters {strangers}, which are in no group")
        return groups, ids, saved_state, dict(extra)

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

    def _loaded(self, param: Array, saved: Mapping[str, Any], label: str) -> State:
        """One parameter's state, copied."""
        kinds = self._kinds()
        scales = {f"{state}_scale" for state in kinds}
        companions = {"initial_param", "ema_param"}
        rests = {*RESTS.values()}
        numbers = {state for kernel in self.kernels for state in kernels.rules[kernel][1]} | {"step"}
        if not isinstance(saved, Mapping):
            raise TypeError(
                f"{self._name}: state of params{label} in state_dict must be a dict, got {type(saved).__name__}"
            )
        loaded: State = {}
        for key, value in saved.items():
            if value is None or (key in rests and not is_half(param.dtype)):  # which only 16 bits need
                continue
            what = f"{self._name}: {key} of params{label} in state_dict"
            if key not in kinds.keys() | scales | companions | rests | numbers:
                raise ValueError(f"{self._name}: state_dict has an unknown {key!r} of params{label}")
            array = _as_array(value)
            if key in numbers:
                if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
                    raise ValueError(f"{what} must be one number, got {value!r}")
                one = array.item()
                if key == "step" and (one < 0 or one != int(one)):
                    raise ValueError(f"{what} must be a whole number of at least 0, got {value!r}")
                loaded[key] = np.array(one, np.int64 if key == "step" else np.float64)
                continue
            if key in scales:
                expected: tuple[int, ...] = (-(-param.size // kernels.SHARE),)
                dtypes = [np.dtype(np.uint8)]
            elif key in rests:
                expected, dtypes = param.shape, [rest_dtype(key, param)]
            else:
                expected = param.shape if key in companions else self._initial(key, param, self.param_groups[0]).shape
                dtypes = stored_dtypes(key, kinds, param)
            if array.shape != expected:
                raise ValueError(f"{what} has shape {array.shape}, expected {expected}")
            if array.dtype not in dtypes:
                raise TypeError(f"{what} has dtype {array.dtype}, expected {dtypes[0]}")
            loaded[key] = copy_of(array, param, array.dtype) if expected == param.shape else array.copy()
            if key in companions and is_half(array.dtype):
                loaded[key] = copy_of(loaded[key], param)
        for state in kinds:
            codes = state in loaded and loaded[state].dtype == np.uint8
            if codes != (f"{state}_scale" in loaded):
                lacking = f"{state}_scale" if codes else f"codes of 8 bits in {state}"
                raise ValueError(f"{self._name}: state_dict has no {lacking} of params{label}")
        if loaded and "step" not in loaded:  # torch's SGD does not count
            loaded["step"] = np.array(1, np.int64)
        return loaded

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
        state = self.state_dict()
        arrays = {f"{i}.{name}": array for i, one in state["state"].items() for name, array in one.items()}
        groups = [{key: _plain(value) for key, value in group.items()} for group in state["param_groups"]]
        metadata = {"param_groups": groups, "fastopt": state["fastopt"]}
        if schedule is not None:
            metadata["schedule"] = schedule.state_dict()
        files.save(path, arrays, metadata)

    def load(self, path: str | os.PathLike[str], schedule: Any = None) -> None:
        """Takes back what :meth:`save` wrote.

        Args:
            path: The file.
            schedule: The schedule whose state was saved with it.

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
            self.load_state_dict(saved)
            return
        before = schedule.state_dict()
        schedule.load_state_dict(metadata["schedule"])
        try:
            self.load_state_dict(saved)
        except BaseException:
            schedule.load_state_dict(before)
            raise

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.defaults.items() if k not in AROUND or v != AROUND[k]}
        return f"{self._name}({len(self._labels)} parameters, {', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    def __getstate__(self) -> Any:
        raise TypeError(f"{self._name} cannot be pickled or copied; use state_dict() or save()")


def _as_array(value: Any) -> Array:
    """An array, also of torch's tensor of bfloat16, which NumPy does not take."""
    try:
        return np.asarray(value)
    except TypeError:
        return np.asarray(value.float())


def _plain(value: Any) -> Any:
    """A hyperparameter without torch's tensors around it."""
    if isinstance(value, list | tuple):
        return tuple(_plain(one) for one in value)
    if hasattr(value, "item") and not isinstance(value, str):
        return value.item()
    return value
