"""Checkpoints that every process writes a part of.

A folder has a file of each rank and an index, which is written last and replaces the old one at once:

    index.safetensors                     the names of the files of one checkpoint
    3f2a91c0-00000-of-00004.safetensors   rank 0's slices of weights and state; for each slice its parameter and where it begins
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _files, optim
from ..optim.state_dict import plain
from ._layout import ALIGNMENT, Segment
from ._processes import gather_bytes, together

Array = NDArray[Any]
Slice = Sequence[int]  # parameter, begin, end
INDEX = "index.safetensors"
PART = re.compile(r"[0-9a-f]{8}-\d{5}-of-\d{5}\.safetensors")
LEFT_OVER = re.compile(r"\.[0-9a-f]{8}-\d{5}-of-\d{5}\.safetensors.*\.tmp")


class Shards(Protocol):
    """What is saved: the part of a ShardedOptimizer that a checkpoint needs."""

    comm: Any
    rank: int
    size: int
    optimizer: optim.Optimizer
    slices: list[Segment]
    of_group: list[int]
    params: list[Array]
    names: list[str] | None

    def label(self, param: int) -> str: ...


def save(sharded: Shards, folder: str | PathLike[str], extra: Mapping[str, Any] | None) -> None:
    """Writes this rank's part; see :meth:`ShardedOptimizer.save`."""
    comm, rank, size = sharded.comm, sharded.rank, sharded.size
    path = Path(folder)
    token = gather_bytes(comm, secrets.token_hex(4).encode())[0].decode()
    names = [f"{token}-{one:05d}-of-{size:05d}.safetensors" for one in range(size)]

    def look() -> None:
        if (path / INDEX).exists():
            _files_of(path, complete=False)  # raises if the index is not one of ours, which would be replaced

    together("save", comm, look)

    def write_part() -> None:
        state_dict = sharded.optimizer.state_dict(copy=False)
        arrays = {f"{k}.{key}": array for k, entries in state_dict["state"].items() for key, array in entries.items()}
        for k, (param, begin, end, _) in enumerate(sharded.slices):
            arrays[f"{k}.param"] = sharded.params[param].reshape(-1)[begin:end]
        metadata = {
            "slices": [list(one[:3]) for one in sharded.slices],
            "shapes": [list(param.shape) for param in sharded.params],
            "dtypes": [param.dtype.name for param in sharded.params],
            "names": sharded.names,
            "of_group": sharded.of_group,
            "groups": [
                {key: plain(value) for key, value in group.items() if key != "params"}
                for group in state_dict["param_groups"]
            ],
            "fastopt": state_dict["fastopt"],
            "extra": dict(extra or {}) if rank == 0 else {},
        }
        path.mkdir(parents=True, exist_ok=True)
        _files.save(path / names[rank], arrays, metadata)

    def write_index() -> None:
        if rank:
            return
        _files.save(path / INDEX, {}, {"files": names})

    try:
        together("save", comm, write_part, OSError)
    except BaseException:
        with contextlib.suppress(OSError):
            (path / names[rank]).unlink()
        raise
    together("save", comm, write_index, OSError)
    if rank == 0:  # other checkpoints' files, and what is left of a save that was killed
        for old in path.iterdir():
            if (PART.fullmatch(old.name) and old.name not in names) or LEFT_OVER.fullmatch(old.name):
                with contextlib.suppress(OSError):
                    shutil.rmtree(old) if old.is_dir() else old.unlink()


def load(sharded: Shards, folder: str | PathLike[str]) -> dict[str, Any]:
    """Takes this rank's part of a checkpoint; see :meth:`ShardedOptimizer.load`."""
    found: list[Any] = []

    def read() -> None:
        metadata = _first_metadata(folder)
        place = _places(metadata["names"], sharded.names, len(metadata["shapes"]))
        found.append(_assembled(folder, [(place[one.param], *one[1:3]) for one in sharded.slices]))
        found.append(place)
        theirs = [(metadata["shapes"][at], metadata["dtypes"][at]) for at in place]
        own = [(list(param.shape), param.dtype.name) for param in sharded.params]
        if len(theirs) != len(own):
            raise ValueError(f"load: the checkpoint has {len(theirs)} parameters, expected {len(own)}")
        for i, (its, one) in enumerate(zip(theirs, own, strict=True)):
            if its != one:
                raise ValueError(
                    f"load: {sharded.label(i)} is {its[1]} of shape {tuple(its[0])} in the checkpoint, expected {one[1]} of "
                    f"shape {tuple(one[0])}"
                )
        if [metadata["of_group"][at] for at in place] != sharded.of_group:
            raise ValueError("load: the checkpoint has other groups of parameters")

    together("load", sharded.comm, read)
    state, weights, metadata = found[0]
    place = found[1]
    groups, first = [], 0
    for i, group in enumerate(metadata["groups"]):
        count = sum(sharded.of_group[one.param] == i for one in sharded.slices)
        groups.append({**group, "params": list(range(first, first + count))})
        first += count
    state_dict = {"state": state, "param_groups": groups, "fastopt": metadata["fastopt"]}
    together("load", sharded.comm, lambda: sharded.optimizer.load_state_dict(state_dict))
    for param, at in zip(sharded.params, place, strict=True):
        param[...] = weights[at]
    return dict(metadata["extra"])


def read_checkpoint(folder: str | PathLike[str]) -> tuple[list[Array], dict[str, Any], dict[str, Any]]:
    """Reads a sharded checkpoint as a whole, without processes: for evaluation, or to go on with one.

    Args:
        folder: Where :meth:`ShardedOptimizer.save` wrote.

    Returns:
        The weights, in the order of the parameters; the state dict, for the ``load_state_dict`` of an optimizer of the same rule
        and groups; and what was given to ``save`` as ``extra``.

    Raises:
        ValueError: There is no whole checkpoint.
        OSError: It cannot be read.

    Example:
        >>> import tempfile, numpy as np, fastopt as fo
        >>> from mpi4py import MPI
        >>> from fastopt import distributed
        >>> zero = distributed.ShardedOptimizer(fo.optim.Adam, [np.ones(3)], MPI.COMM_SELF, lr=0.1)
        >>> _ = zero.step([np.ones(3)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     zero.save(folder, {"epoch": 7})
        ...     weights, state_dict, extra = distributed.read_checkpoint(folder)
        >>> weights[0].round(3), extra
        (array([0.9, 0.9, 0.9]), {'epoch': 7})
        >>> opt = fo.optim.Adam(weights, lr=0.1)
        >>> opt.load_state_dict(state_dict)
    """
    metadata = _first_metadata(folder)
    sizes = [int(np.prod(shape)) for shape in metadata["shapes"]]
    state, weights, metadata = _assembled(folder, [(i, 0, size) for i, size in enumerate(sizes)])
    for i, shape in enumerate(metadata["shapes"]):
        weights[i] = weights[i].reshape(shape)
        state[i] = {
            key: array.reshape(shape) if array.size == sizes[i] and not key.endswith("_scale") and array.ndim else array
            for key, array in state[i].items()
        }
    groups, names = [], metadata["names"]
    for i, group in enumerate(metadata["groups"]):
        own = [param for param, its in enumerate(metadata["of_group"]) if its == i]
        groups.append({**group, "params": own, **({"param_names": [names[one] for one in own]} if names else {})})
    return weights, {"state": state, "param_groups": groups, "fastopt": metadata["fastopt"]}, dict(metadata["extra"])


def _places(theirs: list[str] | None, own: list[str] | None, count: int) -> list[int]:
    """For each of the own parameters its number in the checkpoint: by name where both have names."""
    if theirs is None or own is None or [*theirs] == [*own]:
        return list(range(count))
    if sorted(theirs) != sorted(own) or len({*own}) != len(own):
        missing, unknown = [one for one in own if one not in theirs], [one for one in theirs if one not in own]
        raise ValueError(f"load: the checkpoint has other parameters; missing: {missing}, unknown: {unknown}")
    return [theirs.index(one) for one in own]


def _files_of(folder: str | PathLike[str], complete: bool = True) -> list[Path]:
    """The files that the index names; raises if one is not there, or if the index is not one of a checkpoint."""
    path = Path(folder)
    try:
        names = _files.load(path / INDEX)[1].get("files")
    except FileNotFoundError:
        raise ValueError(f"load: {path} has no whole checkpoint: there is no {INDEX}") from None
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(one, str) and PART.fullmatch(one) for one in names)
    ):
        raise ValueError(f"load: {path / INDEX} is not the index of a checkpoint")
    for name in names if complete else ():
        if not (path / name).is_file():
            raise ValueError(f"load: {path} lacks {name}, which is a part of the checkpoint")
    return [path / name for name in names]


def _first_metadata(folder: str | PathLike[str]) -> dict[str, Any]:
    path = _files_of(folder)[0]
    metadata = _files.load(path)[1]
    if not {"names", "shapes", "of_group"} <= metadata.keys():
        raise ValueError(f"load: {path} is not a part of a checkpoint")
    return metadata


def _assembled(
    folder: str | PathLike[str], wanted: Sequence[Slice]
) -> tuple[dict[int, dict[str, Array]], list[Array], dict[str, Any]]:
    """The state of the wanted slices, all weights (flat), and rank 0's metadata."""
    state: dict[int, dict[str, Array]] = {k: {} for k in range(len(wanted))}
    # For slices whose parts say it: the names of the entries that begin as copies of the parameter in the next step.
    fresh: dict[str, list[str]] = {}
    weights: list[Array] = []
    metadata: dict[str, Any] = {}
    seen = [0] * len(wanted)
    for path in _files_of(folder):
        arrays, its = _files.load(path)
        if not {"slices", "shapes", "dtypes", "names", "of_group", "groups", "fastopt", "extra"} <= its.keys():
            raise ValueError(f"load: {path} is not a part of a checkpoint")
        if not metadata:
            metadata = its
            weights = [np.empty(0)] * len(its["shapes"])
        own: dict[int, dict[str, Array]] = {}
        for name, array in arrays.items():
            number, _, key = name.partition(".")
            own.setdefault(int(number), {})[key] = array
        for k, (param, begin, end) in enumerate(its["slices"]):
            entries = own[k]
            values = entries.pop("param")
            if not weights[param].size:
                weights[param] = np.empty(int(np.prod(its["shapes"][param])), values.dtype)
            weights[param][begin:end] = values
            for i, (other, low, high) in enumerate(wanted):
                if other != param or max(low, begin) >= min(high, end):
                    continue
                seen[i] += min(high, end) - max(low, begin)
                if (names := its["fastopt"].get("fresh", {}).get(str(k))) is not None:
                    fresh[str(i)] = names
                for key, array in entries.items():
                    _copy_part(state[i], key, array, (begin, end), (low, high))
    for i, shape in enumerate(metadata["shapes"]):
        if not weights[i].size:
            weights[i] = np.empty(int(np.prod(shape)), metadata["dtypes"][i])
    missing = [one[0] for one, count in zip(wanted, seen, strict=True) if count != one[2] - one[1]]
    if missing:
        raise ValueError(f"load: {folder} lacks a part of parameter {missing[0]}")
    for param, weight in enumerate(weights):
        weights[param] = weight.reshape(metadata["shapes"][param])
    metadata = {**metadata, "fastopt": {**metadata["fastopt"], "fresh": fresh}}
    return state, weights, metadata


def _copy_part(to: dict[str, Array], key: str, array: Array, of: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Copies the part of an entry of slice ``of`` that lies in slice ``wanted``."""
    size, per = of[1] - of[0], ALIGNMENT if key.endswith("_scale") else 1
    if array.ndim == 0 or array.size != -(-size // per):  # a number of the whole parameter
        to[key] = array
        return
    if key not in to:
        to[key] = np.zeros(-(-(wanted[1] - wanted[0]) // per), array.dtype)
    low, high = max(of[0], wanted[0]), min(of[1], wanted[1])
    part = slice((low - of[0]) // per, -(-(high - of[0]) // per))
    to[key][(low - wanted[0]) // per : -(-(high - wanted[0]) // per)] = array[part]
