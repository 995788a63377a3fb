"""Groups that are not decayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .parameters import Array, Params, SplitGroups, Structure


def no_decay(params: Params, rule: Callable[[str, Array], bool] | None = None) -> list[dict[str, Any]]:
    """Groups of the same parameters that leave biases and the parameters of norms without weight decay.

    They keep the order of the parameters, so that ``step`` takes the gradients as before: a flat list, or the same dict.

    Args:
        params: A list or dict of arrays, also within each other.
        rule: Which parameters not to decay, of their name (for a list, their number) and array; by default those with fewer
            than two axes.

    Returns:
        Groups, those without decay with ``weight_decay=0.0``.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> w = {"weight": np.ones((2, 2)), "bias": np.ones(2)}
        >>> opt = fo.optim.AdamW(fo.optim.no_decay(w), lr=0.1, weight_decay=0.5)
        >>> info = opt.step({"weight": np.zeros((2, 2)), "bias": np.zeros(2)})
        >>> w["weight"][0], w["bias"]
        (array([0.95, 0.95]), array([1., 1.]))
    """
    structure = Structure("no_decay", params if isinstance(params, Mapping) else list(params))
    names = structure.names or [str(i) for i in range(len(structure.leaves))]
    groups: list[dict[str, Any]] = []
    last: bool | None = None
    for name, param in zip(names, structure.leaves, strict=True):
        without = bool(rule(name, param)) if rule is not None else np.ndim(param) < 2
        if without is not last:
            last = without
            groups.append({"params": []} | ({"weight_decay": 0.0} if without else {}))
        groups[-1]["params"].append(param)
    return SplitGroups(groups, structure)
