"""Converts a state whose moments are kept with fewer bits to float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ._formats import RESTS, numbers_of
from .optimizer import Optimizer


def _classes(of: type[Optimizer]) -> Iterator[type[Optimizer]]:
    for one in of.__subclasses__():
        yield one
        yield from _classes(one)


def unpacked(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The same state with all moments in float32, to be read or taken elsewhere.

    The residual arrays of 16-bit weights (``master_param``, ``compensation``, ``correction``) are left out, as they belong to
    these weights.

    Args:
        state_dict: The result of :meth:`Optimizer.state_dict`.

    Returns:
        A state in the same structure; arrays that need no conversion are the same objects.

    Raises:
        TypeError: state_dict is not the state of an optimizer of fastopt's.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> opt = fo.optim.AdamW([np.ones(2, np.float32)], moments="8bit")
        >>> info = opt.step([np.full(2, 5.0, np.float32)])
        >>> fo.optim.unpacked(opt.state_dict())["state"][0]["exp_avg"]
        array([0.5, 0.5], dtype=float32)
    """
    own = state_dict.get("fastopt") if isinstance(state_dict, Mapping) else None
    if not isinstance(own, Mapping) or "class" not in own or not {"state", "param_groups"} <= state_dict.keys():
        raise TypeError(
            "unpacked: state_dict must be the result of a fastopt optimizer's state_dict(), "
            f"got {type(state_dict).__name__}"
        )
    found = [one for one in _classes(Optimizer) if one.__name__ == own["class"]]
    if not found:
        raise TypeError(f"unpacked: state_dict has the unknown class {own['class']}")
    kinds = found[0]._kinds()
    left_out = {*RESTS.values(), *(f"{name}_scale" for name in kinds)}
    return {
        **state_dict,
        "state": {
            number: {
                name: numbers_of(one, name, kinds[name]) if name in kinds else array
                for name, array in one.items()
                if name not in left_out
            }
            for number, one in state_dict["state"].items()
        },
    }
