"""The state of NumPy's random number generators, in values that JSON has and arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ._check import type_of
from ._plain import alike

Generator: TypeAlias = np.random.Generator | np.random.BitGenerator | np.random.RandomState
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


def restoring(function: str, label: str, rng: Generator, saved: Mapping[str, Any]) -> Iterable[Any]:
    """An iterator that restores the state when it is exhausted; raises if the generator cannot have it."""
    bits = bits_of(function, label, rng)
    own = f"{'RandomState' if isinstance(rng, np.random.RandomState) else 'Generator'} of {type(bits).__name__}"
    state, seeds = saved["state"], saved.get("seed_sequence")
    found = f"{saved['class']} of {state['bit_generator']}"
    if own != found:
        raise ValueError(f"{function}: {label} is a {own}, and in the file a {found}")
    if isinstance(rng, np.random.RandomState):
        trial = np.random.RandomState(type(bits)(0))
        trial.set_state(state)
        after, call = trial.get_state(legacy=False), map(rng.set_state, [state])
    else:
        content = state if seeds is None else (state, np.random.SeedSequence(**seeds))
        other = type(bits)(0)
        other.__setstate__(content)
        after, call = other.state, map(bits.__setstate__, [content])
    if not alike(after, state):
        raise ValueError(f"{function}: {label} does not take the state in the file")
    return call
