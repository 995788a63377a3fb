"""Reads the averages of the parameters and exchanges them with the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .._commit import at_once, commit
from ._formats import is_half
from .parameters import Array, Record, units
from .plan import begin, is_writeable, unmoved
from .saved import Saved


def averages_of(records: list[Record], swapped: bool) -> list[Array]:
    """The average of each parameter; the parameter itself where it has none."""
    if not swapped:  # swapped ones have begun, and the parameters' arrays hold them
        for record in records:
            begin(record)
    return [record.state.get("ema_param", record.param) for record in records]


def exchange(function: str, records: list[Record], labels: list[str], swapped: Array) -> None:
    """Exchanges parameters and averages, all or none, and inverts the flag ``swapped``, an array without axes.

    A 16-bit parameter cannot hold its average exactly: the record keeps the average meanwhile, so that both come back exactly.
    """
    back = bool(swapped)
    every = zip(records, labels, strict=True)
    some = [(record, label) for record, label in every if "ema_param" in (record.seen if back else record.state)]
    some_labels = [label for _, label in some]
    is_writeable(function, [record.param for record, _ in some], some_labels)
    is_writeable(function, [record.state["ema_param"] for record, _ in some], some_labels, "ema_params")
    targets: list[Array] = []
    sources: list[Any] = []
    for record, _ in some:
        param, average, held = record.param, record.state["ema_param"], record.held
        if not back:
            begin(record)
            record.held = average.copy() if is_half(param.dtype) else None
        targets += [param, average]
        sources += [average, param.copy() if held is None or not back else held]
    commit([*targets, swapped], [*sources, np.bool_(not back)])


class Averaged(Saved):
    """Groups with averages of their parameters."""

    @property
    def ema_params(self) -> Any:
        """The averages of the parameters, in the structure of ``params`` (for groups, a list of them); the live arrays.

        A parameter without an average is in the result itself.
        """
        with self._turn:
            self._shared[0] = True
            if not self._swapped:
                self._settle()
            averages = iter(averages_of(self._records, bool(self._swapped)))
            structures = units(self._groups)
            built = [one.build([next(averages) for _ in one.leaves]) for one in structures]
            grouped = self._grouped and not (len(built) == 1 and structures[0] is self._groups[0].structure.whole)
            return built if grouped or not built else built[0]

    def swap_ema(self) -> None:
        """Exchanges the contents of the parameters and their averages, all or none; a second call exchanges them back.

        Raises:
            ValueError: There are no averages.
            TypeError: A parameter or an average is read-only.  Nothing has been changed then.
        """
        with self._turn:
            self._swap()

    def _swap(self) -> None:
        if not self._swapped:
            self._settle()
        else:
            self._expect_swapped_params()
            self._adopt_entries()
        if not self._has_averages():
            raise self._no_averages()
        self._simple[0] = None
        exchange(self._name, self._records, self._labels, self._swapped)

    def _has_averages(self) -> bool:
        return any("ema_param" in record.state for record in self._records)

    def _no_averages(self) -> ValueError:
        return ValueError(f"{self._name}: there are no averages; set ema_decay or swa_start")

    def _swap_back(self) -> None:
        with self._turn:
            if self._swapped:
                self._swap()

    def _adopt_entries(self) -> None:
        """Adopts the entries that were put into the states while parameters and averages are swapped, all or none."""
        found = []
        for record, label in zip(self._records, self._labels, strict=True):
            unmoved(self._name, record, label)
            found.append(self._entries(record, label))
            if "ema_param" in record.seen and "ema_param" not in found[-1]:
                raise ValueError(
                    f"{self._name}: state of params{label} has no ema_param, for which the parameter is swapped; put it back"
                )
        at_once(map(dict.update, [record.state for record in self._records], found))

    @contextmanager
    def using_ema(self) -> Iterator[None]:
        """A context in which the parameters' arrays hold the averages.

        Raises:
            ValueError: There are no averages, or they are swapped already, perhaps by another thread.
        """
        mine = False
        try:
            with self._turn:
                self._expect_unswapped()
                mine = True
                try:
                    self._swap()
                except BaseException:
                    mine = bool(self._swapped)
                    raise
            yield
        finally:
            try:
                if mine:
                    self._swap_back()
            finally:
                if mine:  # the first call was interrupted
                    self._swap_back()
