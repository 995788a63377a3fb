"""The state of NumPy's random number generators, in values that JSON has and arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ._check import type_of
from ._commit import at_once
from ._plain import alike

Generator: TypeAlias = np.random.Generator | np.random.BitGenerator | np.random.RandomState
_call: Callable[[Any], Any] = partial.__call__  # in C: no signal handler runs between two calls
NAMES = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def bits_of(function: str, label: str, rng: Any) -> Any:
    """The bit generator of a generator; raises if it is none of NumPy's."""
    if not isinstance(rng, Generator):
        raise TypeError(f"{function}: {label} must be a numpy.random.Generator, got {type_of(rng)}")
    bits = rng._bit_generator if isinstance(rng, np.random.RandomState) else getattr(rng, "bit_generator", rng)
    if type(bits).__name__ not in NAMES or type(bits) is not getattr(np.random, type(bits).__name__):
        raise TypeError(f"{function}: {label} must have one of NumPy's bit generators, got {type_of(bits)}")
    return bits


def state_of(function: str, label: str, rng: Generator) -> dict[str, Any]:
    """Everything on which future numbers depend: the state, and the seed sequence from which ``spawn`` makes others.

    The caller holds the bit generator's lock.
    """
    bits = bits_of(function, label, rng)
    if isinstance(rng, np.random.RandomState):
        return {"class": "RandomState", "state": rng.get_state(legacy=False)}
    seeds = bits.seed_seq
    return {
        "class": "Generator",
        "state": bits.state,
        "seed_sequence": seeds.state if type(seeds) is np.random.SeedSequence else None,
    }


def restoring(
    function: str, label: str, rng: Generator, saved: Mapping[str, Any]
) -> tuple[list[Callable[[], Any]], list[Callable[[], Any]]]:
    """Calls that restore a state, and calls that undo these; raises if the generator cannot have the state.

    The caller holds the bit generator's lock.
    """
    bits = bits_of(function, label, rng)
    own = f"{'RandomState' if isinstance(rng, np.random.RandomState) else 'Generator'} of {type(bits).__name__}"
    state, seeds = saved["state"], saved.get("seed_sequence")
    found = f"{saved['class']} of {state['bit_generator']}"
    if own != found:
        raise ValueError(f"{function}: {label} is a {own}, and in the file a {found}")
    both: list[list[Callable[[], Any]]]
    trial = type(bits)(0)
    if isinstance(rng, np.random.RandomState):
        legacy = np.random.RandomState(trial)
        legacy.set_state(state)
        after = legacy.get_state(legacy=False)
        both = [[partial(rng.set_state, one)] for one in (state, rng.get_state(legacy=False))]
    else:
        trial.state = state
        after = trial.state
        sequence = bits.seed_seq if seeds is None else np.random.SeedSequence(**seeds)
        # __setstate__ sets the sequence first.  If it is interrupted in the state, that has been set already.
        both = [
            [partial(setattr, bits, "state", one), partial(bits.__setstate__, (one, its))]
            for one, its in ((state, sequence), (bits.state, bits.seed_seq))
        ]
    if not alike(after, state):
        raise ValueError(f"{function}: {label} does not take the state in the file")
    return both[0], both[1]


def restore(forth: list[Callable[[], Any]], back: list[Callable[[], Any]], others: Iterable[Iterable[Any]]) -> None:
    """Makes the calls of :func:`restoring` and exhausts other iterators, or does nothing.

    NumPy computes with integers of 128 bits when a state is set, and Python runs signal handlers in that: the calls may be
    interrupted, and are undone then.
    """
    done: list[bool] = []
    try:
        at_once(map(_call, forth))
        at_once(map(list.append, [done], [True]), *others)
    except BaseException:
        while not done:
            with suppress(BaseException):  # another interrupt
                at_once(map(_call, back), map(list.append, [done], [True]))
        raise
