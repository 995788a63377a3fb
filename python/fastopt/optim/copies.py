"""Pickles and copies of optimizers.  They contain types of Python's and NumPy's only, so that our modules may move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .accumulate import Accumulator
from .groups import Groups
from .parameters import Group, ParameterState, Record, Structure, forms_of

# The attributes that are not pickled but made anew.
MADE = (
    "_turn", "_plan", "_extents", "_changed", "_added", "_name", "_values", "_groups", "_records", "_labels", "_rules",
    "_fresh", "_seen", "_shared", "_simple", "_viewed", "_count", "_swapped", "_accumulated",
)  # fmt: skip


def pickled(optimizer: Groups) -> dict[str, Any]:
    """The contents of an optimizer's pickle; the arrays are the live ones."""
    own, sums = vars(optimizer), optimizer._accumulated
    structures = [group.structure for group in optimizer._groups]
    wholes = list({id(one.whole): one.whole for one in structures if one.whole is not None}.values())
    records = optimizer._records
    return {
        "attributes": {key: value for key, value in own.items() if key not in MADE and key not in optimizer._private},
        "structures": [_template(one) for one in structures],
        "wholes": [_template(whole) for whole in wholes],
        "parts": [None if one.whole is None else (wholes.index(one.whole), one.first) for one in structures],
        "states": [optimizer._entries(*both) for both in zip(records, optimizer._labels, strict=True)],
        "begins": [_begins(record) for record in records],
        "held": [record.held for record in records],
        "count": int(optimizer._count),
        "swapped": bool(optimizer._swapped),
        "accumulated": None if sums is None or not sums.micro_batches else sums.contents(),
        "extra": {**optimizer._extra(), "step": int(optimizer._count)},
    }


def revived(optimizer: Groups, state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an optimizer from the result of :func:`pickled`, without the lock and the plan, which the next call makes."""
    name, changed, attributes = type(optimizer).__name__, [True], dict(state["attributes"])
    structures = [_structure(name, template) for template in state["structures"]]
    wholes = [Structure(name, template) for template in state["wholes"]]
    wholes = [whole.reordered(sorted(range(len(whole.leaves)), key=whole.leaves.__getitem__)) for whole in wholes]
    for structure, part in zip(structures, state["parts"], strict=True):
        if part is not None:
            structure.belong_to(wholes[part[0]], part[1])
    groups = [Group(*both) for both in zip(attributes["param_groups"], structures, strict=True)]
    params = [param for group in groups for param in group.group["params"]]
    labels: list[str] = []
    for structure in structures:
        labels += structure.labels(len(labels))
    records = []
    for param, entries, begins, held in zip(params, state["states"], state["begins"], state["held"], strict=True):
        record = Record(param, changed)
        record.state = ParameterState(entries, changed)
        record.seen, record.forms, record.fresh, record.held = dict(entries), forms_of(entries), begins, held
        records.append(record)
    sums = state["accumulated"]
    return {
        **attributes,
        "_name": name,
        "_changed": changed,
        "_added": False,
        "_extents": None,
        "_groups": groups,
        "_records": records,
        "_labels": labels,
        "_rules": [],
        "_fresh": [],
        "_seen": [],
        "_shared": [True],  # the same pickle may contain the arrays a second time, for others
        "_simple": [None],
        "_viewed": ([], ()),
        "_count": np.array(state["count"], np.int64),
        "_swapped": np.array(state["swapped"]),
        "_accumulated": None if sums is None else Accumulator(name, params, labels, *sums),
    }


def _begins(record: Record) -> tuple[int, tuple[str, ...]]:
    """The count, and the names of the entries that are still to begin as the parameter; not those that were replaced."""
    count, keys = record.fresh
    return count, tuple(key for key in keys if record.state.get(key) is record.seen.get(key))


def _template(structure: Structure) -> Any:
    """A structure in lists and dicts; for a flat one, the number of its parameters."""
    return len(structure.leaves) if structure.flat else structure.template


def _structure(function: str, template: Any) -> Structure:
    return Structure(function, [None] * template if isinstance(template, int) else template)
