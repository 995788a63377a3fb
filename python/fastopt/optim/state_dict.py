"""Writes the state of an optimizer to a dict in torch's structure, and reads it."""

from __future__ import annotations

import copy as _copy
from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any, NamedTuple

import numpy as np

from .._check import type_of, whole
from .._core import kernels
from ._formats import FORMATS, RESTS, computed, copy_of, is_half, rest_dtype, stored_dtypes
from .parameters import Array, Record, differing
from .plan import AS_PARAMETER

# Keys of torch's groups that are no hyperparameters here.
IGNORED = {"foreach", "fused", "capturable", "differentiable"}
PLAIN = (float, int, str, bool, type(None))  # types of hyperparameters that need no conversion
SCHEDULED = {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}  # keys that schedules add to groups
# Hyperparameters of averages: the optimizer keeps its own if the loaded state has no averages.
AVERAGES = ("ema_decay", "ema_warmup", "swa_start", "swa_freq")


class Loaded(NamedTuple):
    """The checked contents of a state dict."""

    groups: list[dict[str, Any]]  # with the optimizer's own params
    states: list[dict[str, Any]]  # new arrays, in the order of the optimizer's parameters
    unbegun: list[set[str]]  # the names of their entries that are still to begin as the parameter
    numbers: list[Any]  # of these parameters in the state dict
    extra: dict[str, Any]
    steps: int | None


def written(groups: list[dict[str, Any]], records: list[Record], own: Mapping[str, Any], copy: bool) -> dict[str, Any]:
    """The state dict of these groups and states; ``own`` has the entries that torch does not have."""
    numbered, first = [], 0
    for group in groups:
        count = len(group["params"])
        numbered.append({**group, "params": list(range(first, first + count))})
        first += count
    return {
        "state": {
            i: {name: array.copy() if copy else array for name, array in record.state.items()}
            for i, record in enumerate(records)
        },
        "param_groups": _copy.deepcopy(numbered) if copy else numbered,
        "fastopt": dict(own),
    }


def read_back(arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict from a file's arrays and metadata; raises if an array's name is no number and an entry's name."""
    state: dict[int, dict[str, Array]] = {}
    for key, array in arrays.items():
        number, _, name = key.partition(".")
        if not number.isdecimal():
            raise ValueError(f"it has {key!r}")
        state.setdefault(int(number), {})[name] = array
    return {"state": state, "param_groups": metadata["param_groups"], "fastopt": metadata["fastopt"]}


class Reader:
    """Reads states for one optimizer; changes nothing in it."""

    def __init__(
        self,
        name: str,
        groups: list[dict[str, Any]],
        hyperparameters: tuple[str, ...],
        kinds: dict[str, str],
        numbers: set[str],
        shape_of: Callable[[str, Array], tuple[int, ...]],
        labels: list[str],
        records: list[Record],
    ) -> None:
        self._name, self._groups, self._known = name, groups, hyperparameters
        self._kinds, self._numbers, self._shape_of = kinds, numbers | {"step"}, shape_of
        self._labels, self._records = labels, records
        self._scales = {f"{state}_scale" for state in kinds}

    def read(self, state_dict: Mapping[str, Any], by_position: bool | None, everything: bool = False) -> Loaded:
        """Checks a state dict and copies its arrays; with ``everything``, no hyperparameter stays as it is.

        ``by_position`` is ``None`` where it is not the caller's choice, so that errors do not advise it.
        """
        name = self._name
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{name}: state_dict must be a dict with state and param_groups, got {type_of(state_dict)}")
        if not {"state", "param_groups"} <= state_dict.keys():
            raise TypeError(
                f"{name}: state_dict must be a dict with state and param_groups, got one with the keys {[*state_dict]!r:.80}"
            )
        groups, saved, extra = state_dict["param_groups"], state_dict["state"], state_dict.get("fastopt", {})
        if not isinstance(groups, list | tuple) or not all(isinstance(group, Mapping) for group in groups):
            raise TypeError(f"{name}: param_groups of state_dict must be a list of dicts")
        if not isinstance(saved, Mapping):
            raise TypeError(f"{name}: state of state_dict must be a dict, got {type_of(saved)}")
        if not isinstance(extra, Mapping):
            raise TypeError(f"{name}: fastopt of state_dict must be a dict, got {type_of(extra)}")
        if extra.get("class", name) != name:
            raise ValueError(f"{name}: state_dict is that of {extra['class']}")
        count = extra.get("step")
        if count is not None:
            count = whole(name, "the number of steps in state_dict", count)
        own = self._groups
        if len(groups) != len(own):
            raise ValueError(f"{name}: state_dict has {len(groups)} groups, expected {len(own)}")
        if not by_position:
            groups = self._in_order(groups)
        averages = any(group.get("ema_decay") is not None or group.get("swa_start") is not None for group in groups)
        kept = set() if everything else {*FORMATS} if averages else {*FORMATS, *AVERAGES}
        merged: list[dict[str, Any]] = []
        ids: list[Any] = []
        for index, (group, other) in enumerate(zip(own, groups, strict=True)):
            ids += self._ids(index, group, other, by_position)
            merged.append({**group, **self._hyperparameters(index, other, kept)})
        if not all(isinstance(one, int | str) for one in ids):
            raise TypeError(
                f"{name}: params of the groups of state_dict must be numbers of parameters, got {ids!r:.100}"
            )
        known = set(ids)
        if strangers := [key for key in saved if key not in known]:
            raise ValueError(f"{name}: state_dict has state of parameters {strangers}, which are in no group")
        states = [
            self._state(record.param, saved.get(number, {}), label)
            for record, number, label in zip(self._records, ids, self._labels, strict=True)
        ]
        fresh = [self._unbegun(one, number, extra) for one, number in zip(states, ids, strict=True)]
        return Loaded(merged, states, fresh, ids, dict(extra), count)

    def _in_order(self, groups: Any) -> Any:
        """The groups, sorted into the optimizer's order if the names of their parameters show another one."""
        own = [frozenset(group.get("param_names", ())) for group in self._groups]
        every = [group.get("param_names") or () for group in groups]
        if not all(isinstance(names, list | tuple) and all(isinstance(one, str) for one in names) for names in every):
            return groups  # _ids raises the error
        theirs = {frozenset(names): group for names, group in zip(every, groups, strict=True)}
        if len(theirs) == len(groups) == len(set(own)) and theirs.keys() == set(own):
            return [theirs[names] for names in own]
        return groups

    def _ids(
        self, index: int, group: Mapping[str, Any], other: Mapping[str, Any], by_position: bool | None
    ) -> list[Any]:
        """The numbers of a group's parameters in the state, in the optimizer's order."""
        params, count = other.get("params"), len(group["params"])
        if not isinstance(params, list | tuple) or len(params) != count:
            found = len(params) if isinstance(params, list | tuple) else "no"
            raise ValueError(f"{self._name}: group {index} of state_dict has {found} parameters, expected {count}")
        names, others = group.get("param_names"), other.get("param_names")
        if by_position or not names or not others:
            return list(params)
        strings = isinstance(others, list | tuple) and all(isinstance(one, str) for one in others)
        if strings and [*names] == [*others]:
            return list(params)
        if not strings or len(others) != count or len({*others}) != count or len({*names}) != count:
            raise ValueError(
                f"{self._name}: param_names of group {index} of state_dict must be {count} different names, got {others!r}"
                + ("" if by_position is None else "; by_position=True does without them")
            )
        if {*names} != {*others}:
            raise ValueError(
                f"{self._name}: group {index} of state_dict has other parameters; {differing(names, others)}"
                + ("" if by_position is None else "; if they were only renamed, load with by_position=True")
            )
        number = dict(zip(others, params, strict=True))
        return [number[one] for one in names]

    def _hyperparameters(self, index: int, other: Mapping[str, Any], kept: set[str]) -> dict[str, Any]:
        known = {*self._known}
        if unknown := other.keys() - known - IGNORED - SCHEDULED - {"params", "param_names"}:
            raise ValueError(
                f"{self._name}: group {index} of state_dict has an unknown hyperparameter {', '.join(sorted(map(repr, unknown)))}"
            )
        return {key: plain(other[key]) for key in other if key in (known | SCHEDULED) - kept}

    def _state(self, param: Array, saved: Mapping[str, Any], label: str) -> dict[str, Any]:
        """A copy of one parameter's state."""
        if not isinstance(saved, Mapping):
            raise TypeError(f"{self._name}: state of params{label} in state_dict must be a dict, got {type_of(saved)}")
        loaded = {
            key: self.entry(param, key, value, label, "state_dict")
            for key, value in saved.items()
            if value is not None
            and (key not in RESTS.values() or is_half(param.dtype))  # only 16-bit parameters have residual arrays
        }
        for state in self._kinds:
            codes = state in loaded and loaded[state].dtype == np.uint8
            if codes != (f"{state}_scale" in loaded):
                lacking = f"{state}_scale" if codes else f"codes of 8 bits in {state}"
                raise ValueError(f"{self._name}: state_dict has no {lacking} of params{label}")
        if loaded and "step" not in loaded:  # torch's SGD does not count its steps
            loaded["step"] = np.array(1, np.int64)
        return loaded

    def _unbegun(self, state: dict[str, Any], number: int | str, extra: Mapping[str, Any]) -> set[str]:
        """The names of the entries that are to begin as the parameter; in a state that does not say it all if there was no step."""
        every = extra.get("fresh", {})
        names = every.get(str(number)) if isinstance(every, Mapping) else every
        if names is None:
            return set() if state.get("step", 0) else {*state, "master_param"}
        if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
            raise TypeError(f"{self._name}: fresh in state_dict must have lists of names, got {every!r:.100}")
        return {*names}

    def adopted(self, param: Array, key: str, value: Any, label: str) -> Array:
        """A checked entry that was put into a state from outside; a copy only if it cannot be used as it is."""
        entry = self.entry(param, key, value, label, "opt.state")
        usable = isinstance(value, np.ndarray) and value.dtype == entry.dtype and value.flags.carray
        return value if usable else entry

    def entry(self, param: Array, key: str, value: Any, label: str, source: str) -> Array:
        """A checked copy of one entry of a parameter's state."""
        what = f"{self._name}: {key} of params{label} in {source}"
        if key not in self._kinds and key not in (*self._scales, *AS_PARAMETER, *RESTS.values(), *self._numbers):
            raise ValueError(f"{self._name}: {source} has an unknown {key!r} of params{label}")
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{what} is a masked array, whose mask would be ignored")
        array = as_array(value)
        if key in self._numbers:
            if array.size != 1 or array.dtype.kind not in "iuf":
                raise ValueError(f"{what} must be one number, got {value!r}")
            one = array.item()  # in a run that has diverged it may be infinite or NaN
            if key == "step" and not (0 <= one < 1 << 53 and one == int(one)):
                raise ValueError(f"{what} must be an integer >= 0, got {value!r}")
            return np.array(one, np.int64 if key == "step" else np.float64)
        if key in self._scales:
            expected: tuple[int, ...] = (-(-param.size // kernels.SHARE),)
            dtypes = [np.dtype(np.uint8)]
        elif key in RESTS.values():
            expected, dtypes = param.shape, [rest_dtype(key, param)]
        else:
            expected = param.shape if key in AS_PARAMETER else self._shape_of(key, param)
            dtypes = stored_dtypes(key, self._kinds, param)
        if array.shape != expected:
            raise ValueError(f"{what} has shape {array.shape}, expected {expected}")
        if array.dtype not in dtypes:
            raise TypeError(f"{what} has dtype {array.dtype}, expected {dtypes[0]}")
        loaded = copy_of(array, param, array.dtype) if expected == param.shape else array.copy()
        return copy_of(loaded, param, computed(param)) if key in AS_PARAMETER and is_half(array.dtype) else loaded


def expect_complete(
    function: str,
    labels: list[str],
    variants: list[set[str]],
    needed: list[set[str]],
    states: list[dict[str, Any]],
) -> None:
    """Raises if a parameter that has taken a step lacks an entry that another one has, or fits no variant of the rule.

    An entry that all of them lack belongs to a hyperparameter that was changed after the last step: it begins with the next
    step.
    """
    every = zip(labels, needed, states, strict=True)
    stepped = [(label, names, one) for label, names, one in every if one.get("step", 0)]
    known = {key for _, _, one in stepped for key in one}
    for label, names, one in stepped:
        missing = names & known - one.keys()
        if not missing and not any(variant <= one.keys() for variant in variants):
            missing = min((variant - one.keys() for variant in variants), key=len)
        if missing:
            raise ValueError(f"{function}: state_dict has no {', '.join(sorted(missing))} of params{label}")


def as_array(value: Any) -> Array:
    """The value as an array; also from torch's tensors, even in bfloat16, which NumPy does not accept."""
    if hasattr(value, "detach"):
        value = value.detach()
    try:
        return np.asarray(value)
    except TypeError:
        return np.asarray(value.float())


def plain(value: Any) -> Any:
    """A hyperparameter as a number of Python's own; also from an array or tensor."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, list | tuple):
        return tuple(plain(one) for one in value)
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M"):  # the item() of a time may be an int
        return value
    if hasattr(value, "item") and hasattr(value, "dtype") and not isinstance(value, np.ma.MaskedArray | type):
        if getattr(value, "ndim", 0) == 1 and len(value) > 1:
            return tuple(value.tolist())
        try:
            value = value.item()
        except (ValueError, RuntimeError):  # several numbers; the check of the hyperparameter raises the error
            return value
    if isinstance(value, Number) and not isinstance(value, int | float | complex):  # fractions, decimals, long doubles
        try:
            return float(value)  # type: ignore[arg-type]
        except (OverflowError, ValueError):  # the check of the hyperparameter raises the error
            return value
    return value
