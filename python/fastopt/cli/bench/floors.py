"""The floor beside each case: what moving the same bytes costs, in the ways that there are to move them."""

from __future__ import annotations

from functools import partial

from fastopt._core import kernels

from .data import Array
from .peers import Call

_PREFETCH_BYTES = 2048


def floor(reads: list[Array], updates: list[Array], writes: list[Array]) -> dict[str, Call]:
    """The floor's variants for a kernel that reads, updates and writes these arrays once; the fastest is the floor.

    Updates keep their values; writes are overwritten.
    """
    run = partial(kernels.floor, reads, updates, writes)
    variants: dict[str, Call] = {"floor/plain": run, "floor/ahead": partial(run, ahead=_PREFETCH_BYTES)}
    if writes:
        variants["floor/streaming"] = partial(run, streaming=True)
    return variants
