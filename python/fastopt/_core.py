"""Picks the extension module for this processor; the only Python file that names an instruction set."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING

from . import _cpu, _threads

_MODULES = {
    "x86-64-v4": "_kernels_v4",
    "x86-64-v3": "_kernels_v3",
    "x86-64-v2": "_kernels_v2",
    "native": "_kernels_native",
}


def available_isas() -> list[str]:
    """The instruction sets that this processor can run and this build has kernels for, best first."""
    return [isa for isa in _cpu.instruction_sets() if isa in _MODULES and _is_built(_MODULES[isa])]


def _is_built(module: str) -> bool:
    return importlib.util.find_spec(f".{module}", __package__) is not None


def load(isa: str) -> ModuleType:
    """The extension module compiled for ``isa``.

    Raises:
        ValueError: ``isa`` is not the name of an instruction set, or this processor does not have it.
    """
    if isa not in _MODULES:
        raise ValueError(
            f"FASTOPT_ISA: unknown instruction set {isa!r}; this processor has {', '.join(available_isas())}"
        )
    if isa not in available_isas():
        raise ValueError(f"FASTOPT_ISA: this processor does not have {isa}; it has {', '.join(available_isas())}")
    return importlib.import_module(f".{_MODULES[isa]}", __package__)


def _choose() -> str:
    wanted = os.environ.get("FASTOPT_ISA", "")
    if wanted:
        return wanted
    found = available_isas()
    if not found:
        raise ImportError("fastopt needs a processor with at least x86-64-v2 (SSE4.2)")
    return found[0]


_isa = _choose()
if TYPE_CHECKING:
    from . import _kernels

    kernels = _kernels
else:
    with _threads.loading():
        kernels = load(_isa)
    _threads.attach(kernels)


def isa() -> str:
    """The instruction set whose kernels are in use; the environment variable ``FASTOPT_ISA`` overrides the choice."""
    return _isa
