"""Saves and restores optimizers: state dicts, files, pickles."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from .._check import flag, type_of
from .._commit import at_once
from .._core import kernels
from .copies import pickled, revived
from .groups import Groups
from .parameters import Array
from .plan import begin, unbegun
from .state_dict import Loaded, expect_complete, plain, read_back, written


class Saved(Groups):
    """Groups that can be saved."""

    def state_dict(self, copy: bool = False) -> dict[str, Any]:
        """The optimizer's state, without the weights, in torch's structure: ``state`` by the numbers of parameters, and ``param_groups`` with these numbers.

        Args:
            copy: Whether the arrays are a snapshot; otherwise they are the live ones.

        Returns:
            The state; the key ``fastopt`` has the entries that torch does not have.

        Raises:
            ValueError: Accumulated gradients have been neither used nor discarded, the parameters are swapped for their averages,
                or a group has an unknown hyperparameter.
        """
        copy = flag(self._name, "copy", copy)
        with self._turn:
            self._shared[0] = self._shared[0] or not copy
            return self._state_dict(copy)

    def _state_dict(self, copy: bool) -> dict[str, Any]:
        if self._accumulated is not None and self._accumulated.micro_batches:
            raise ValueError(
                f"{self._name}: accumulated gradients would be lost; step() or discard_accumulated() first"
            )
        self._expect_unswapped()
        self._settle()
        for index, group in enumerate(self.param_groups):
            self._expect_names(index, group)  # a list of them may have changed in place
        for record, label in zip(self._records, self._labels, strict=True):
            begin(record)
            if not 0 <= record.state["step"] < 1 << 53:  # it may have been overwritten
                raise ValueError(
                    f"{self._name}: step of params{label} in opt.state must be in [0, 2**53), got {record.state['step']}"
                )
        every = {str(i): unbegun(record, self._as_param()) for i, record in enumerate(self._records)}
        known = {number: names for number, names in every.items() if names is not None}
        own = {"class": self._name, "step": int(self._count), **self._extra(), **({"fresh": known} if known else {})}
        return written(self.param_groups, self._records, own, copy)

    def load_state_dict(self, state_dict: Mapping[str, Any], *, by_position: bool = False) -> None:
        """Loads the state of an optimizer of the same class with the same parameters; it may be one of torch's.

        The arrays are copied.  Parameters are matched by their names where both sides have names, otherwise by position.
        Hyperparameters are restored too, except those that the state does not have.  ``weights``, ``moments`` and
        ``moment_rounding`` stay as they are, and a state in other formats is converted.  The hyperparameters of averages stay
        if the state comes from an optimizer without averages.  Entries that the state lacks, such as an average, begin with the
        next step.  Accumulated gradients are dropped.

        Args:
            state_dict: The result of :meth:`state_dict` or of torch's method of that name.
            by_position: Match parameters by position although both sides have names.

        Raises:
            TypeError: state_dict is not a state, or an array has the wrong dtype.
            ValueError: Groups, parameters, names or shapes differ, or an entry is missing or unknown.  Nothing has been changed
                then.
        """
        by_position = flag(self._name, "by_position", by_position)
        with self._turn:
            self._load(state_dict, by_position)

    def _load(self, state_dict: Mapping[str, Any], by_position: bool) -> None:
        at_once(*self._prepared(state_dict, by_position)[1])

    def _prepared(
        self, state_dict: Mapping[str, Any], by_position: bool | None, everything: bool = False
    ) -> tuple[Loaded, tuple[Iterable[Any], ...]]:
        """The checked contents of a state dict, and the iterators that load it when they are exhausted; changes nothing.

        With ``everything``, hyperparameters of formats and averages are loaded too.
        """
        self._expect_unswapped()
        self._follow()
        found = self._reader().read(state_dict, by_position, everything)
        for (
            group
        ) in found.groups:  # files from when it meant lr·l1 for every rule: for rules without a rate it still does
            if group["proximal_l1"] is True and not self._has_rate():
                group["proximal_l1"] = "lr"
        count = found.steps
        if count is None:
            count = max((int(one["step"]) for one in found.states if one), default=0)
        draft = object.__new__(type(self))  # this optimizer as it will be; it shares what does not change
        vars(draft).update(vars(self), _changed=[False], _count=np.array(count, np.int64), _accumulated=None)
        draft._restore(found.extra)
        rules = [draft._rule_for(group) for group in found.groups]
        values = [self._values(group) for group in found.groups]
        expect_complete(self._name, self._labels, self._variants(), draft._needed(rules), found.states)
        new = draft._plan_of(self._groups, self._labels, self._records, rules, values, found.states, found.unbegun)
        own = vars(self)
        attributes = {
            key: value
            for key, value in vars(draft).items()
            if key != "_changed" and (key not in own or own[key] is not value)
        }
        updates = [
            (group, {key: value for key, value in loaded.items() if key != "params"})
            for group, loaded in zip(self.param_groups, found.groups, strict=True)
        ]
        return found, self._adoption(new, [(own, attributes), *updates])

    def save(self, path: str | os.PathLike[str], schedule: Any = None) -> None:
        """Writes the optimizer's state to a safetensors file, which replaces an old file once it is complete and on the disk.

        The file has what :meth:`state_dict` has, with a schedule's state if one is given, and no weights: they are the
        caller's arrays.  To resume a run, :func:`fastopt.save` writes one file with weights, layers, this state, the schedule
        and the random numbers.

        Args:
            path: The file.
            schedule: A schedule from :mod:`fastopt.schedules` whose state is saved too.

        Raises:
            ValueError: As :meth:`state_dict`.
            TypeError: A hyperparameter cannot be written.
            OSError: The file cannot be written; an old one is still there.
        """
        from .. import _files  # imports json, hashlib and safetensors, which nothing else needs

        with self._turn:
            self._expect_schedule(schedule)
            arrays, metadata = self._written()
            if schedule is not None:
                metadata["schedule"] = schedule.state_dict()
            _files.save(path, arrays, metadata)

    def _written(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """The state as a file has it: live arrays by the parameter's number and their name, and metadata."""
        state = self._state_dict(copy=False)
        arrays = {f"{i}.{name}": array for i, one in state["state"].items() for name, array in one.items()}
        groups = [{key: plain(value) for key, value in group.items()} for group in state["param_groups"]]
        return arrays, {"param_groups": groups, "fastopt": state["fastopt"]}

    def load(self, path: str | os.PathLike[str], schedule: Any = None, *, by_position: bool = False) -> None:
        """Loads a file that :meth:`save` wrote.

        Args:
            path: The file.
            schedule: The schedule whose state was saved in it.  Without it, a file that has one gives a UserWarning: the
                learning rates are those of the file, but a new schedule begins with epoch 0.
            by_position: As for :meth:`load_state_dict`.

        Raises:
            ValueError: The file is truncated, damaged or not an optimizer's, or it has the state of other parameters or of
                another class.  Nothing has been changed then.
            OSError: The file cannot be read.
        """
        from .. import _files

        self._expect_schedule(schedule)
        arrays, metadata = _files.load(path)
        if "run" in metadata:
            raise ValueError(f"{self._name}: {os.fspath(path)} is the file of a run: load it with fastopt.load")
        if not {"param_groups", "fastopt"} <= metadata.keys():
            raise ValueError(f"{self._name}: {os.fspath(path)} is not the state of an optimizer")
        if schedule is not None and "schedule" not in metadata:
            raise ValueError(f"{self._name}: {os.fspath(path)} has no schedule")
        if schedule is None and "schedule" in metadata:
            warnings.warn(
                f"{self._name}: {os.fspath(path)} has the state of a schedule too, which is not loaded; "
                "load(path, schedule) goes on with it, a new schedule begins with epoch 0",
                stacklevel=2,
            )
        try:
            saved = read_back(arrays, metadata)
        except ValueError as error:
            raise ValueError(f"{self._name}: {os.fspath(path)} is not the state of an optimizer: {error}") from None
        by_position = flag(self._name, "by_position", by_position)
        with self._turn:
            if schedule is None:
                self._load(saved, by_position)
            else:
                self._load_both(saved, by_position, schedule, metadata["schedule"])

    def _load_both(
        self, saved: Mapping[str, Any], by_position: bool, schedule: Any, of_schedule: Mapping[str, Any]
    ) -> None:
        self._expect_unswapped()
        self._follow()
        before, count = schedule.state_dict(), self._count
        try:
            schedule.load_state_dict(of_schedule)
            self._load(saved, by_position)
        except BaseException:
            if self._count is count:  # otherwise everything has been loaded
                schedule.load_state_dict(before)
            raise

    def _expect_schedule(self, schedule: Any) -> None:
        if schedule is None:
            return
        if isinstance(schedule, type | Saved) or not hasattr(schedule, "load_state_dict"):
            found = schedule.__name__ if isinstance(schedule, type) else type_of(schedule)
            raise TypeError(f"{self._name}: schedule must be a schedule, got {found}")
        if getattr(schedule, "optimizer", self) is not self:
            raise ValueError(f"{self._name}: schedule is that of another optimizer")

    def __getstate__(self) -> dict[str, Any]:
        with self._turn:
            if self._swapped:
                self._expect_swapped_params()
            else:
                self._settle()
            return pickled(self)

    def __copy__(self) -> Any:
        raise TypeError(
            f"{self._name}: a shallow copy would share parameters and state, but not the counts; use copy.deepcopy"
        )

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        name = type(self).__name__
        vars(self).update(revived(self, state))
        vars(self).update(
            _values=itemgetter(*self._hyperparameters), _turn=kernels.Turn(name), _plan=self._make_plan(name, [])
        )
        self._restore(state["extra"])
