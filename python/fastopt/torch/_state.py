"""Converts the state of fastopt's optimizers into torch's structure."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import optim
from ._differences import ALWAYS_THERE, WITHOUT_STEP

_NOT_TORCHS = {"ema_param", "initial_param", "velocity_buffer"}
_STORAGE = {"weights", "moments", "moment_rounding"}  # torch keeps them in its own way
# The hyperparameter that another one needs to have an effect.
_NEEDS = {
    "decoupled_weight_decay": "weight_decay",
    "fixed_decay": "weight_decay",
    "velocity": "momentum",
    "proximal_l1": "l1",
    "seed": "noise",  # or temperature, which raises an error itself
    "ema_warmup": "ema_decay",
    "swa_freq": "swa_start",
}


def to_torch(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the state of an optimizer of fastopt's into one that torch's optimizer of the same name can load.

    Moments that are kept with fewer bits become float32.  The result has no weights, and not torch's flags ``foreach``,
    ``fused``, ``capturable`` and ``differentiable``: torch resets them to its defaults when it loads the state.  To use
    ``fused``, add it to the groups of the result.

    Args:
        state_dict: The result of fastopt's ``state_dict()``.

    Returns:
        A dict in torch's structure; its tensors are copies.

    Raises:
        ImportError: torch is not installed.
        TypeError: state_dict is not the state of an optimizer of fastopt's.
        ValueError: torch has no optimizer of that name, or it lacks a hyperparameter that has an effect here.
    """
    own = state_dict.get("fastopt") if isinstance(state_dict, Mapping) else None
    if not isinstance(own, Mapping) or "class" not in own or not {"state", "param_groups"} <= state_dict.keys():
        raise TypeError(
            "to_torch: state_dict must be the result of a fastopt optimizer's state_dict(), "
            f"got {type(state_dict).__name__}"
        )
    try:
        import torch
    except ImportError:
        raise ImportError("to_torch: torch is not installed") from None
    name = own["class"]
    theirs = getattr(torch.optim, name, None)
    if theirs is None:
        raise ValueError(f"to_torch: torch has no {name}")
    known = inspect.signature(theirs).parameters.keys()
    of_step = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32  # as in torch

    def tensor(key: str, array: Any) -> Any:
        return torch.tensor(float(array), dtype=of_step) if key == "step" else torch.from_numpy(np.array(array))

    state = {}
    for number, one in optim.unpacked(state_dict)["state"].items():
        if not (int(one["step"]) or name in ALWAYS_THERE):  # with a loaded buffer torch would not take a first step
            continue
        left_out = _NOT_TORCHS | ({"step"} if name in WITHOUT_STEP else set())
        if kept := {key: tensor(key, array) for key, array in one.items() if key not in left_out}:
            state[number] = kept
    return {"state": state, "param_groups": [_group(name, group, known) for group in state_dict["param_groups"]]}


def _group(name: str, group: Mapping[str, Any], known: Any) -> dict[str, Any]:
    """A group without the hyperparameters that torch does not know; raises ValueError if one of them has an effect."""
    defaults = getattr(optim, name)([]).defaults
    taken = {}
    for key, value in group.items():
        if key in known or key not in defaults:
            taken[key] = _plain(value)
        elif key in _STORAGE:
            continue
        elif value != defaults[key] and (key not in _NEEDS or group[_NEEDS[key]] not in (0, None)):
            raise ValueError(f"to_torch: torch's {name} has no {key}, which is {value!r}")
    return taken


def _plain(value: Any) -> Any:
    """A hyperparameter in Python's own types."""
    if isinstance(value, np.ndarray | np.generic):
        return tuple(value.tolist()) if value.ndim else value.item()
    return type(value)(map(_plain, value)) if isinstance(value, list | tuple) else value
