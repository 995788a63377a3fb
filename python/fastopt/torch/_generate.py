"""Writes ``optim/_classes.py``: a typed class of torch's for each optimizer's rule, from fastopt's class.

    python -m fastopt.torch._generate > python/fastopt/torch/optim/_classes.py

A test compares the file with the output of this module.
"""

from __future__ import annotations

import inspect

import torch

from .. import _rules, optim

HEAD = '''"""torch's optimizers, one per rule.  ``_generate.py`` writes this file; do not edit it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from torch import Tensor

from ... import optim
from .optimizer import {bases}, own

__all__ = {names}

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
'''

CLASS = '''

class {name}({base}):
    """{title}

    The formula and the hyperparameters are those of :class:`fastopt.optim.{name}`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.{more}

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.{name}([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.{name}

    def __init__(
        self,
{parameters}
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)
'''
# torch's arguments that have no effect here, in the order in which it has them after the others.
IGNORED = {
    "foreach": "bool | None = None",
    "capturable": "bool = False",
    "differentiable": "bool = False",
    "fused": "bool | None = None",
}
OWN = {"in_backward": "bool = False", "amp_scaling": "bool = False"}
TITLES = {True: "torch.optim.{}, with steps of fastopt's.", False: "fastopt.optim.{} as an optimizer of torch's."}
# SwitchOptimizer is two rules, and torch's state has no place for which of them it is.
LEFT_OUT = {"Optimizer", "SwitchOptimizer"}
WITH_MODES = "\n\n    ``eval`` puts the averages in the parameters' place, and ``train`` the weights back."


def names() -> list[str]:
    return [
        one
        for one in optim.__all__
        if isinstance(getattr(optim, one), type)
        and issubclass(getattr(optim, one), optim.Optimizer)
        and one not in LEFT_OUT
    ]


def _parameters(name: str) -> str:
    """The parameters: torch's positional ones in its order, then all others as keywords."""
    around = {key: _text(str(value)) for key, value in _rules.Around.__annotations__.items()}
    own = {}
    for key, one in inspect.signature(getattr(optim, name)).parameters.items():
        annotation = around[key] if one.annotation is one.empty else one.annotation
        annotation = "float | Tensor" if key == "lr" and annotation == "float" else annotation
        own[key] = f"{annotation} = {one.default!r}" if one.default is not one.empty else annotation
    own |= {**IGNORED, **OWN, "params": "Params"}
    theirs = inspect.signature(getattr(torch.optim, name, getattr(optim, name))).parameters.values()
    first = [one.name for one in theirs if one.kind is one.POSITIONAL_OR_KEYWORD]
    rest = [f"{key}: {text}" for key, text in own.items() if key not in first]
    lines = [*(f"{key}: {own[key]}" for key in first), "*", *rest]
    return "".join(f"        {line},\n" for line in lines).rstrip("\n")


def _text(annotation: str) -> str:
    return annotation.removeprefix("ForwardRef('").split("'")[0]


def source() -> str:
    """The text of the module."""
    every = names()
    text = HEAD.format(names=repr(every), bases="Optimizer, WithModes")
    for name in every:
        rule = getattr(optim, name)
        modes = hasattr(rule, "eval")
        text += CLASS.format(
            name=name,
            base="WithModes" if modes else "Optimizer",
            title=TITLES[hasattr(torch.optim, name)].format(name),
            more=WITH_MODES if modes else "",
            parameters=_parameters(name),
        )
    return text


if __name__ == "__main__":
    print(source(), end="")
