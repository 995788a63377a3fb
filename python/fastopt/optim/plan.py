"""Makes the records that ``kernels.Plan`` steps over, one per parameter, from hyperparameters and state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite
from typing import Any, NamedTuple, Protocol

import numpy as np

from .._check import flag, number
from .._rules import Rule
from ._formats import RESTS, computed, copy_of, formats_of, keep_rest, keep_state, rest_of, weights_of
from .parameters import Array, Record

AS_PARAMETER = ("initial_param", "ema_param")  # entries that begin as copies of the parameter under every rule


class Member(NamedTuple):
    """One parameter with everything that its steps need, as ``kernels.Plan`` takes it."""

    label: str  # for errors: "[0]" or "['bias']"
    rule: str
    group: int
    param: Array
    states: list[Array]  # in the rule's order
    scales: list[Array | None]  # for states in 8 bits
    numbers: list[Array]
    rest: Array | None  # the residual array of a 16-bit parameter: master, compensation or correction
    initial: Array | None
    average: Array | None
    formats: tuple[str, str, str]
    step: Array  # number of steps that the parameter has taken: int64, without axes

    @classmethod
    def stateless(cls, label: str, rule: Rule, param: Array, step: Array, group: int = 0) -> Member:
        """A member for a rule that keeps no state."""
        return cls(label, rule.name, group, param, [], [], [], None, None, None, rule.formats, step)


class Plan(Protocol):
    """The interface of ``kernels.Plan``; a class that runs several of them in a row has it too."""

    def set_options(self, options: list[Any]) -> None: ...
    def watch(
        self,
        groups: list[dict[str, Any]],
        names: tuple[str, ...],
        values: list[Any],
        changed: list[bool],
        shared: list[bool],
    ) -> None: ...
    def current(self, groups: Any) -> bool: ...
    def same_members(self, groups: Any) -> bool: ...
    def unmoved(self) -> bool: ...
    def check(self, grads: list[Any], options: tuple[float, ...] | None = None) -> None: ...
    def step(
        self, grads: list[Any], options: tuple[float, ...] | None = None, emptied: Any = None
    ) -> tuple[int, float | None, bool] | None: ...
    def measured(self) -> list[float]: ...


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
    if not isfinite(1 / scale):
        raise ValueError(
            f"{function}: grad_scale must be large enough for 1 / grad_scale to be finite, got {grad_scale}"
        )
    if len(chosen) > 1:
        raise ValueError(f"{function}: {' and '.join(chosen)} exclude each other")
    limits = (
        -1.0 if value is None else number(function, name, value, 0, infinite=name == "clip_norm")
        for name, value in clips.items()
    )
    flags = (flag(function, "skip_nonfinite", skip_nonfinite), flag(function, "zero_grads", zero_grads))
    return (scale, *limits, *map(float, flags))


def state_for(
    record: Record,
    entries: Mapping[str, Any],
    rule: Rule,
    hidden: tuple[str, ...],
    initial: Callable[[str, Array], Array],
    own: tuple[str, ...],
    kinds: Mapping[str, str],
    step: Array,
    unbegun: set[str] | None = None,
) -> tuple[dict[str, Any], tuple[int, tuple[str, ...]]]:
    """The entries of a parameter's state under a rule, from its present entries, and which of them are fresh.

    Fresh entries are those that begin as copies of the parameter in its next step.  ``initial`` makes new buffers; the states
    in ``own`` begin as the parameter; ``kinds`` are those with which states were packed; ``step`` is the array for a new count;
    ``unbegun`` has the names of the entries that are fresh in a loaded state.
    """
    param, one = record.param, dict(entries)
    names = [name for name in rule.states if name not in hidden]
    before = int(one.get("step", 0))
    count = 0 if names and not one.keys() & set(names) else before  # with a new rule's state the count begins again
    if "step" not in one or count != before:
        step[...] = count
        one["step"] = step
    for name, kind in zip(rule.states, rule.kinds, strict=True):
        if name in names:
            packed = kinds.get(
                name, kind
            )  # the kind under another variant of the rule, which may pack what this one keeps exactly
            keep_state(one, name, (kind, packed), rule.formats[1], param, partial(initial, name, param))
    for name in rule.numbers:
        if name not in one:
            one[name] = np.array(initial(name, param), np.float64)
    keep_rest(one, rest_of(rule, param), param)
    for name, wanted in zip(AS_PARAMETER, (rule.initial, rule.average), strict=True):
        if wanted and name not in one:
            one[name] = copy_of(weights_of(one, param), param, computed(param))
    at, fresh = record.fresh
    made = {*one} - {*entries}
    if {*RESTS.values()} & {*entries}:  # a master that was converted from another residual array is not fresh
        made.discard("master_param")
    if unbegun is not None:
        made |= unbegun
    elif at == before:
        made |= {key for key in fresh if key in entries and one.get(key) is entries[key] is record.seen.get(key)}
    return one, (count, tuple(key for key in ("master_param", *own, *AS_PARAMETER) if key in made and key in one))


def unbegun(record: Record, own: tuple[str, ...]) -> list[str] | None:
    """The names of a parameter's fresh entries, or ``None`` where its count of steps tells: at 0 all are fresh, later none.

    The count does not tell after it has begun again, which a new state of the rule (momentum that is switched on) causes.
    """
    one = record.state
    fresh = [*record.fresh[1]] if record.is_fresh() else []
    if one["step"] != 0:
        return fresh or None
    rests = (one[key] for key in RESTS.values() if key in one and key != "master_param")
    begun = {"master_param", *own, *AS_PARAMETER} & {*one} - {*fresh} or any(rest.any() for rest in rests)
    return fresh if begun else None


def begin(record: Record) -> None:
    """Sets the fresh entries to the parameter."""
    if not record.is_fresh():
        return
    one, param, fresh = record.state, record.param, record.fresh[1]
    if "master_param" in fresh and one["master_param"].flags.writeable:
        one["master_param"][...] = param
    weights = weights_of(one, param)
    for key in fresh:
        if key != "master_param" and one[key].flags.writeable:  # otherwise the step raises the error
            one[key][...] = weights


def member_of(
    label: str, rule: Rule, group: int, param: Array, one: Mapping[str, Any], hidden: tuple[str, ...]
) -> Member:
    """The member for one parameter, with the entries of its state."""
    names = [name for name in rule.states if name not in hidden]
    return Member(
        label,
        rule.name,
        group,
        param,
        [one[name] for name in names],
        [one.get(f"{name}_scale") for name in names],
        [one[name] for name in rule.numbers],
        one.get(rest_of(rule, param) or ""),
        one["initial_param"] if rule.initial else None,
        one["ema_param"] if rule.average else None,
        formats_of(rule, param),
        one["step"],
    )


def unmoved(function: str, record: Record, label: str) -> None:
    """Raises if the parameter has another shape or dtype than when its state was made."""
    param = record.param
    if param.dtype != record.dtype:
        raise TypeError(
            f"{function}: params{label} has dtype {param.dtype}, and had {record.dtype} when its state was made; "
            "undo that, or put a new array in its place"
        )
    if param.shape != record.shape:
        raise ValueError(
            f"{function}: params{label} has shape {param.shape}, and had {record.shape} when its state was made; "
            "undo that, or put a new array in its place"
        )


def is_writeable(function: str, arrays: list[Array], labels: list[str], argument: str = "params") -> None:
    """Raises if one of the arrays is read-only, before anything is written."""
    for array, label in zip(arrays, labels, strict=True):
        if not array.flags.writeable:
            raise TypeError(f"{function}: {argument}{label} is read-only, but would be written; give a copy")
