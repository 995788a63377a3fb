"""Makes an existing model and its optimizer use fastopt."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch

from .._words import used
from . import nn, optim
from .nn._replacement import mark, unmark

_LOG = logging.getLogger("fastopt")


def _modules() -> dict[type, type]:
    """The classes of torch's that are replaced, and ours."""
    ours = [getattr(nn, name) for name in nn.__all__]
    return {one.replaces: one for one in ours if isinstance(one.replaces, type)}


class _Passed(torch.nn.ReLU):
    """A ReLU that the module before it has computed already."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


@used("write accelerate(model), or optimizer = accelerate(model, optimizer)")
def accelerate(model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, *, fuse: bool = False) -> Any:
    """Makes a model's modules use fastopt's kernels, and returns an optimizer that does.

    Each module that is exactly one of torch's classes of which :mod:`fastopt.torch.nn` has one becomes one of these.  It stays the same
    object: its parameters, buffers, hooks, and its place and names in ``state_dict`` are what they were.  Subclasses are left alone, as
    they may compute something else.  The names of what was swapped are logged by the logger ``fastopt``, at the level INFO, and
    :func:`swapped` lists them.

    A schedule must be made of the optimizer that comes back, or be given it: ``schedule.optimizer = optimizer``.

    Args:
        model: On any device; what is not on the CPU computes as before.
        optimizer: One of torch's, exactly of a class that :mod:`fastopt.torch.optim` has, for parameters on the CPU.  It must not be used
            any more.
        fuse: Whether a BatchNorm with a ReLU behind it in a ``torch.nn.Sequential`` becomes one pass, a
            :class:`fastopt.torch.nn.BatchNormReLU`, and the ReLU passes on what it gets.  Only where neither has a hook nor a second
            place in the model; a program that calls the two by themselves would see the difference.

    Returns:
        An optimizer with the given one's groups and a copy of its state, or ``None`` if none is given.

    Raises:
        TypeError: An argument has the wrong type, or a parameter is not on the CPU.  Nothing has been changed then.

    Example:
        >>> import torch, fastopt.torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Dropout(0.1))
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> optimizer = fastopt.torch.accelerate(model, optimizer)
        >>> fastopt.torch.swapped(model)
        {'1': 'LayerNorm', '2': 'Dropout'}
        >>> fastopt.torch.restore(model)
    """
    _expect_module("accelerate", model)
    if not isinstance(fuse, bool):
        raise TypeError(f"accelerate: fuse must be a bool, got {_told(fuse)}")
    new = None if optimizer is None else _of_ours(optimizer)
    classes, found = _modules(), {}
    for name, module in model.named_modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
            mark(module)
            found[name] = type(module).__name__
    if fuse:
        for name, norm, relu in _pairs(model):
            vars(norm)["fused_from"], norm.__class__, relu.__class__ = type(norm), nn.BatchNormReLU, _Passed
            found[name] = "BatchNormReLU"
    _LOG.info(
        "accelerate: %s", ", ".join(f"{name or 'the model'} ({kind})" for name, kind in found.items()) or "no modules"
    )
    return new


def restore(model: torch.nn.Module) -> None:
    """Makes a model's modules torch's own again; its parameters and buffers keep their values.

    An optimizer of torch's continues with ``load_state_dict(optimizer.state_dict())``.

    Args:
        model: A model, accelerated or not.

    Raises:
        TypeError: It is no module.
    """
    _expect_module("restore", model)
    back = {ours: theirs for theirs, ours in _modules().items()}
    for module in model.modules():
        if type(module) is nn.BatchNormReLU and "fused_from" in module.__dict__:
            module.__class__ = module.__dict__.pop("fused_from")
        if type(module) in back:
            module.__class__ = back[type(module)]
            unmark(module)
        elif type(module) is _Passed:
            module.__class__ = torch.nn.ReLU


def swapped(model: torch.nn.Module) -> dict[str, str]:
    """The modules of a model that use fastopt: their names in the model, and their classes.

    Args:
        model: A model, accelerated or not.

    Raises:
        TypeError: It is no module.
    """
    _expect_module("swapped", model)
    ours = {*_modules().values(), nn.BatchNormReLU}
    return {name: type(module).__name__ for name, module in model.named_modules() if type(module) in ours}


def _pairs(model: torch.nn.Module) -> list[tuple[str, Any, Any]]:
    """The BatchNorms with a ReLU behind them that may become one, with the norms' names."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

    def is_alone(module: torch.nn.Module) -> bool:
        hooks = (value for key, value in vars(module).items() if key.endswith("_hooks") and "state_dict" not in key)
        return places[id(module)] == 1 and not any(hooks)

    found = []
    for prefix, parent in model.named_modules():
        if type(parent) is torch.nn.Sequential:
            children = list(parent.named_children())
            for (name, norm), (_, relu) in pairwise(children):
                if type(norm) in norms and type(relu) is torch.nn.ReLU and is_alone(norm) and is_alone(relu):
                    found.append((f"{prefix}.{name}".lstrip("."), norm, relu))
    return found


def _expect_module(function: str, model: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{function}: model must be a torch.nn.Module, got {_told(model)}{_instead_of_model(model)}")


def _told(value: Any) -> str:
    """A wrong argument in an error."""
    return (
        f"the class {value.__name__}" if isinstance(value, type) else "None" if value is None else type(value).__name__
    )


def _instead_of_model(value: Any) -> str:
    """The end of the error about an argument that is no model: what to give."""
    if isinstance(value, type):
        return f"; give an object, {value.__name__}(...)"
    if isinstance(value, torch.optim.Optimizer):
        return "; the order is accelerate(model, optimizer)"
    if isinstance(value, list | tuple | dict | Iterator):
        return "; give the model itself, not what is in it"
    if type(value).__module__ == "fastopt.nn":
        return ", which is a layer for NumPy arrays and uses fastopt already"
    if hasattr(value, "fit") and hasattr(value, "get_params"):
        return "; fastopt.sklearn.accelerate() is for scikit-learn's models"
    return ""


def _instead_of_optimizer(value: Any) -> str:
    """The end of the error about an argument that is no optimizer of torch's: what to give."""
    if isinstance(value, type):
        return f"give an object, {value.__name__}(model.parameters(), ...)"
    if isinstance(value, list | tuple | Iterator):
        return "give one optimizer, not parameters or a list: call accelerate(model), and make each of fastopt.torch.optim's"
    if isinstance(getattr(value, "optimizer", None), torch.optim.Optimizer):
        return "give its optimizer, and then set schedule.optimizer to the one that comes back"
    if type(value).__module__ == "fastopt.optim":
        return "fastopt.optim's are for NumPy arrays: take the one of fastopt.torch.optim"
    return "call accelerate(model), and keep using your optimizer"


def _of_ours(optimizer: Any) -> Any:
    """An optimizer of ours with the groups and the state of one of torch's."""
    if isinstance(optimizer, optim.Optimizer):
        return optimizer
    name = type(optimizer).__name__
    ours = getattr(optim, name, None)
    if ours is None or type(optimizer) is not getattr(torch.optim, name, None):
        raise TypeError(
            f"accelerate: optimizer must be exactly one of torch.optim's that fastopt.torch.optim has, got {_told(optimizer)}; "
            f"{_instead_of_optimizer(optimizer)}"
        )
    new = ours([{**group} for group in optimizer.param_groups])
    new.load_state_dict(optimizer.state_dict())
    return new
