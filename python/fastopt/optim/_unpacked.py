"""State that is kept with fewer bits, as numbers."""

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
    """The same state with all moments in float32, for those who want to read it or to take it elsewhere.

    What there is beside weights of 16 bits (``master_param``, ``compensation``, ``correction``) belongs to these weights, and
    is left out.

    Args:
        state_dict: What :meth:`Optimizer.state_dict` returned.

    Returns:
        A state of the same structure; arrays that were as they are computed with are the same ones.

    Raises:
        TypeError: It is not the state of an optimizer of fastopt's.

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
            "unpacked: state_dict must be what the state_dict() of an optimizer of fastopt's returned, "
            f"got {type(state_dict).__name__}"
        )
    found = [one for one in _classes(Optimizer) if one.__name__ == own["class"]]
    if not found:
        raise TypeError(f"unpacked: state_dict is that of {own['class']}, which is not known")
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
