"""A group without weight decay for biases and norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .._check import not_an_array, type_of
from .parameters import Array, Params, Part, Structure


def no_decay(params: Params, rule: Callable[[str, Array], bool] | None = None) -> list[dict[str, Any]]:
    """Splits parameters into two groups, so that biases and the parameters of norms have neither weight decay nor L1.

    The first group has the others, in their order, the second one those without decay; there is one group if all are alike.
    The optimizer takes gradients as before, in the structure of ``params``, and has ``ema_params`` in it.  With other groups beside
    them, ``[*no_decay(params), group]`` or added later, the two count as one: gradients are ``[those of params, those of the
    group]``, one flat list, or one dict if all are dicts.

    Args:
        params: A list or dict of arrays, nested or not.
        rule: A function of a parameter's name (in a list, its number) and array that says whether to leave it without decay; by
            default those with fewer than two axes.

    Returns:
        Groups; the one without decay has ``weight_decay=0.0`` and ``l1=0.0``.

    Raises:
        TypeError: A parameter is no array, or the rule returns no bool.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = {"weight": np.ones((2, 2)), "bias": np.ones(2)}
        >>> opt = fo.optim.AdamW(fo.optim.no_decay(w), lr=0.1, weight_decay=0.5)
        >>> info = opt.step({"weight": np.zeros((2, 2)), "bias": np.zeros(2)})
        >>> w["weight"][0], w["bias"]
        (array([0.95, 0.95]), array([1., 1.]))
    """
    if not isinstance(params, Iterable) or isinstance(params, np.ndarray | str | bytes):
        raise TypeError(f"no_decay: params must be a list or dict of arrays, got {not_an_array(params)}")
    if rule is not None and not callable(rule):
        raise TypeError(f"no_decay: rule must be a function of a name and an array, got {rule!r}")
    structure = Structure("no_decay", params if isinstance(params, Mapping) else list(params))
    names = structure.names or [str(i) for i in range(len(structure.leaves))]
    labels = structure.labels(0)
    kinds: tuple[list[int], list[int]] = [], []  # the numbers of the parameters with decay, and of those without
    for number, (name, param) in enumerate(zip(names, structure.leaves, strict=True)):
        if not isinstance(param, np.ndarray):
            raise TypeError(f"no_decay: params{labels[number]} must be a numpy array, got {not_an_array(param)}")
        without = param.ndim < 2 if rule is None else rule(name, param)
        if not isinstance(without, bool | np.bool_):
            raise TypeError(f"no_decay: rule must return a bool, got {type_of(without)} for {name}")
        kinds[int(without)].append(number)
    whole = structure.reordered([*kinds[0], *kinds[1]])
    groups: list[dict[str, Any]] = []
    if kinds[0]:
        groups.append({"params": Part(whole, 0, len(kinds[0]))})
    if kinds[1]:
        groups.append({"params": Part(whole, len(kinds[0]), len(whole.leaves)), "weight_decay": 0.0, "l1": 0.0})
    return groups
