"""Every optimizer that there is, found by introspection, with options that give it all kinds of state."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fastopt import optim

Array: TypeAlias = NDArray[Any]
Options: TypeAlias = dict[str, Any]

CLASSES: dict[str, type[Any]] = {
    name: cls
    for name in sorted(optim.__all__)
    if isinstance(cls := getattr(optim, name), type) and issubclass(cls, optim.Optimizer) and cls is not optim.Optimizer
}


def _takes_vectors(name: str) -> bool:
    try:
        CLASSES[name]([np.ones(3)])
    except ValueError:
        return False
    return True


def shapes_for(name: str) -> list[tuple[int, ...]]:
    """Shapes of parameters, more than one vector of a processor long; only matrices, if it takes nothing else."""
    shapes: list[tuple[int, ...]] = [(4, 3), (30, 5)]
    return shapes + ([(71,), (), (2, 3, 4), (0, 2)] if _takes_vectors(name) else [(5, 20), (0, 2)])


def normal(rng: Generator, shape: Sequence[int], dtype: str = "float64") -> Array:
    return np.asarray(rng.standard_normal(shape), dtype)


def arrays(rng: Generator, name: str, dtype: str = "float64") -> list[Array]:
    """Parameters or gradients for an optimizer."""
    return [normal(rng, shape, dtype) for shape in shapes_for(name)]


def copies(some: Sequence[Array]) -> list[Array]:
    return [one.copy() for one in some]


def variants(name: str) -> Iterator[Options]:
    """Options as they come, and with each flag of its own switched, with momentum and without."""
    signature = inspect.signature(CLASSES[name].__init__).parameters.values()
    switched: list[Options] = [{}, *({one.name: not one.default} for one in signature if isinstance(one.default, bool))]
    momenta: list[Options] = [{}, *({"momentum": 0.8} for one in signature if one.name == "momentum")]
    for options in (momentum | flag for momentum, flag in itertools.product(momenta, switched)):
        try:
            CLASSES[name]([np.ones((2, 2))], **options)
        except ValueError:  # Nesterov without momentum, for example
            continue
        yield options


def richest(name: str) -> Options:
    """Those of the variants that give it the most state."""
    return max(variants(name), key=lambda options: len(CLASSES[name]([np.ones((2, 2))], **options).state[0]))


def leaves(tree: Any) -> list[Array]:
    """All arrays in dicts and lists."""
    if isinstance(tree, np.ndarray):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    return [leaf for part in parts for leaf in leaves(part)]


def everything(opt: optim.Optimizer, averages: bool = True) -> dict[str, Any]:
    """All that an optimizer is, as bytes and values that can be compared.

    To read ``averages`` follows changes of groups, and raises where these are wrong; they are in the state too.
    """
    groups, sums = [], opt._accumulated
    for group in opt.param_groups:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in group.items()}
        groups.append({key: copy.deepcopy(value) for key, value in values.items() if key != "params"})
    return {
        "params": [np.asarray(param).tobytes() for group in opt.param_groups for param in group["params"]],
        "state": [
            {key: (array.dtype.str, array.shape, array.tobytes()) for key, array in one.items()} for one in opt.state
        ],
        "averages": [array.tobytes() for array in leaves(opt.ema_params)] if averages else [],
        "groups": groups,
        "extra": (int(opt._count), bool(opt._swapped), bool(sums and sums.micro_batches), opt._extra()),
    }
