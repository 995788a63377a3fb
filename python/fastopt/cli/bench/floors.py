"""The floor of each case: the time to move the same bytes, in several ways."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from fastopt._core import kernels

from .data import Array
from .peers import Call

_PREFETCH_BYTES = 2048


def floor(reads: list[Array], updates: list[Array], writes: list[Array], *, name: str = "floor") -> dict[str, Call]:
    """The floor's variants for a kernel that reads, updates and writes these arrays once; the fastest is the floor.

    Updates keep their values; writes are overwritten.
    """
    run = partial(kernels.floor, reads, updates, writes)
    variants: dict[str, Call] = {f"{name}/plain": run, f"{name}/ahead": partial(run, ahead=_PREFETCH_BYTES)}
    if writes:
        variants[f"{name}/streaming"] = partial(run, streaming=True)
    return variants


def in_turn(*passes: Mapping[str, Call]) -> dict[str, Call]:
    """The floor of several passes in turn, with the variants of each."""

    def together(key: str) -> None:
        for variants in passes:
            variants[key]()

    return {key: partial(together, key) for key in passes[0] if all(key in variants for variants in passes)}


def twice(first: list[Array], reads: list[Array], writes: list[Array]) -> dict[str, Call]:
    """``moved``: the floor of a kernel that has to read all of ``first`` before it can write the first result."""
    before, after = floor(first, [], [], name="moved"), floor(reads, [], writes, name="moved")
    return in_turn(before | {"moved/streaming": before["moved/plain"]}, after)
