"""Reads the averages of the parameters and exchanges them with the parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._commit import commit
from ._formats import is_half
from .parameters import Array, Record
from .plan import begin, is_writeable


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
