"""What the documentation promises: examples run, every parameter is described, the reference has the same signatures."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import fastopt
from fastopt import functional, nn, optim, reference


def modules() -> Iterator[str]:
    """All of fastopt's modules in Python, beside the command line, which needs extras."""
    yield "fastopt"
    for module in pkgutil.walk_packages(fastopt.__path__, "fastopt."):
        path = getattr(module.module_finder, "path", "")
        if module.name.split(".")[1] not in ("cli", "__main__") and not module.name.split(".")[-1].startswith(
            ("_kernels", "_cpu")
        ):
            assert path
            yield module.name


def public() -> Iterator[tuple[str, Any]]:
    """Everything that users are meant to call, with its name."""
    for module in fastopt, functional, optim, nn:
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, ModuleType) or not callable(thing):
                continue
            yield f"{module.__name__}.{name}", thing
            if isinstance(thing, type) and not issubclass(thing, tuple):
                for method in vars(thing):
                    if inspect.isfunction(vars(thing)[method]) and (not method.startswith("_") or method == "__call__"):
                        yield f"{module.__name__}.{name}.{method}", getattr(thing, method)


def parameters(thing: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "defaults")]


def section(doc: str, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE)
    return found[1] if found else ""


EVERYTHING = dict(public())
BASES = ("Optimizer", "StepInfo", "Layer")  # nobody makes these by hand
FUNCTIONS = {name: thing for name, thing in EVERYTHING.items() if name.startswith("fastopt.functional")}
CLASSES = {name: thing for name, thing in EVERYTHING.items() if isinstance(thing, type) and thing.__name__ not in BASES}


@pytest.mark.parametrize("name", list(modules()))
def test_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_there_is_an_example(name: str) -> None:
    assert ">>> " in section(inspect.getdoc(EVERYTHING[name]) or "", "Example")


@pytest.mark.parametrize("name", list(EVERYTHING))
def test_every_parameter_is_described(name: str) -> None:
    """In ``Args``, in order; a docstring of one sentence names its parameters there."""
    thing = EVERYTHING[name]
    doc = inspect.getdoc(thing) or ""
    assert doc
    if name.rpartition(".")[2] in BASES:
        return
    if "\n" in doc and parameters(thing):
        assert re.findall(r"^    (\w+): \S", section(doc, "Args"), re.MULTILINE) == parameters(thing)
    else:
        assert [one for one in parameters(thing) if not re.search(rf"\b{one}\b", doc)] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_what_they_raise(name: str) -> None:
    raises = section(inspect.getdoc(EVERYTHING[name]) or "", "Raises")
    assert re.findall(r"^    (\w+): \S", raises, re.MULTILINE) == ["TypeError", "ValueError"]


@pytest.mark.parametrize("name", functional.__all__)
def test_reference_has_the_same_signature(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (functional, reference))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize("name", functional.__all__)
def test_reference_says_what_it_is_the_reference_of(name: str) -> None:
    assert f":func:`fastopt.functional.{name}`" in (getattr(reference, name).__doc__ or "")
