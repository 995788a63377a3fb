"""Between fastopt and torch: the state of optimizers, mid-run.

A run that was begun with one may go on with the other.  From torch to fastopt nothing is needed but ``load_state_dict``, which
reads torch's state as it is; from fastopt to torch there is :func:`to_torch`:

.. code-block:: python

    import numpy as np, torch
    import fastopt as fo
    from fastopt.torch import to_torch

    model = torch.nn.Linear(3, 2)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}  # shares torch's memory

    opt = fo.optim.AdamW(weights, lr=0.1)
    opt.step({name: np.ones_like(w) for name, w in weights.items()})

    theirs = torch.optim.AdamW(model.parameters())
    theirs.load_state_dict(to_torch(opt.state_dict()))  # goes on where fastopt was
    theirs.step()

    opt.load_state_dict(theirs.state_dict())  # and back again

The parameters themselves are no part of an optimizer's state; here both work on the same ones.

torch is needed when one of these functions is called, not to import this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import optim

__all__ = ["to_torch"]

_WITHOUT_STEP = {"SGD", "Muon"}  # torch's do not count
_ALWAYS_THERE = {"Adagrad"}  # torch's has its state before the first step, others make it then
_NOT_TORCHS = {"ema_param", "initial_param", "velocity_buffer"}
_STORAGE = {"weights", "moments", "moment_rounding"}  # which torch has in its own way
# What a hyperparameter needs to have an effect, beside a value that is not the default.
_NEEDS = {
    "decoupled_weight_decay": "weight_decay",
    "fixed_decay": "weight_decay",
    "velocity": "momentum",
    "proximal_l1": "l1",
    "seed": "noise",  # or temperature, which is an error itself
    "ema_warmup": "ema_decay",
    "swa_freq": "swa_start",
}


def to_torch(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state of one of torch's optimizers, for its ``load_state_dict``, that goes on where one of fastopt's is.

    The class in torch is the one of the same name.  Moments that are kept with fewer bits become float32; torch's weights are its
    own.  Its flags ``foreach``, ``fused``, ``capturable`` and ``differentiable`` are
    not in the state: torch sets them back to its defaults when it loads this.  Who wants ``fused`` adds it to the groups.

    Args:
        state_dict: What fastopt's ``state_dict()`` returned.

    Returns:
        A dict of torch's structure; its tensors are copies.

    Raises:
        ImportError: torch is not installed.
        TypeError: It is not the state of an optimizer of fastopt's.
        ValueError: torch has no such optimizer, or it lacks a hyperparameter that has an effect here.
    """
    own = state_dict.get("fastopt") if isinstance(state_dict, Mapping) else None
    if not isinstance(own, Mapping) or "class" not in own or not {"state", "param_groups"} <= state_dict.keys():
        raise TypeError(
            "to_torch: state_dict must be what the state_dict() of an optimizer of fastopt's returned, "
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
    of_step = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32  # as torch has it

    def tensor(key: str, array: Any) -> Any:
        return torch.tensor(float(array), dtype=of_step) if key == "step" else torch.from_numpy(np.array(array))

    state = {}
    for number, one in optim.unpacked(state_dict)["state"].items():
        if not (int(one["step"]) or name in _ALWAYS_THERE):  # a loaded buffer would not be a first step
            continue
        left_out = _NOT_TORCHS | ({"step"} if name in _WITHOUT_STEP else set())
        if kept := {key: tensor(key, array) for key, array in one.items() if key not in left_out}:
            state[number] = kept
    return {"state": state, "param_groups": [_group(name, group, known) for group in state_dict["param_groups"]]}


def _group(name: str, group: Mapping[str, Any], known: Any) -> dict[str, Any]:
    """A group without what torch does not know; raises if that would make a difference."""
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
    """A hyperparameter without NumPy's types around it."""
    if isinstance(value, np.ndarray | np.generic):
        return tuple(value.tolist()) if value.ndim else value.item()
    return type(value)(map(_plain, value)) if isinstance(value, list | tuple) else value


def __dir__() -> list[str]:
    return sorted(__all__)
