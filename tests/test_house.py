"""Who may know whom (CONTRIBUTING.md), and whether the tables of these tests know everybody."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tables import NORMS, RULES

import fastopt
from fastopt import functional, nn, optim, reference

ROOT = Path(__file__).parents[1]
CSRC, PACKAGE = ROOT / "csrc", ROOT / "python" / "fastopt"
CPP = sorted(path for path in CSRC.rglob("*") if path.suffix in (".hpp", ".cpp"))
PYTHON = sorted(path for path in PACKAGE.rglob("*.py"))

# What a part may know beside itself.
CPP_KNOWS = {
    "core": set(),
    "optim": {"core"},
    "norm": {"core"},
    "regularize": {"core"},
    "bind": {"core", "optim", "norm", "regularize"},
    "cpu.cpp": set(),
}
PUBLIC = {"functional", "nn", "optim", "reference", *fastopt.__all__}
PYTHON_KNOWS = {
    "_threads": {"__version__", "_core"},  # to report them
    "_core": {"_cpu", "_threads", "_kernels"},
    "_rules": {"_core"},
    "functional": {"_core", "_rules"},
    "nn": {"_core", "_rules", "functional"},
    "optim": {"_core", "_rules", "functional"},
    "reference": set(),
    "torch": PUBLIC,
    "sklearn": PUBLIC,
    "distributed": PUBLIC,
    "cli": PUBLIC,
    "__init__": PUBLIC | {"_core", "_threads"},
    "__main__": {"cli"},
}
EXCEPTIONS = {"cli/bench/floors.py": {"_core"}}  # the kernel that computes nothing is for benchmarks only

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the sources")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The full names of all modules that a Python file imports, and of what it imports from fastopt itself."""
    package = ("fastopt", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                (*package[: len(package) - node.level + 1], node.module or "") if node.level else (node.module or "",)
            )
            base = base.rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names) if base == "fastopt" else (base,)


def known(path: Path) -> set[str]:
    """The parts of fastopt that a Python file knows."""
    names = {module.split(".")[1] for module in imports(path) if module.startswith("fastopt.")}
    return names - {part_of(path, PACKAGE)}


@pytest.mark.parametrize("path", CPP, ids=name_of)
def test_cpp_knows_only_whom_it_may(path: Path) -> None:
    part = part_of(path, CSRC)
    included = re.findall(r'#include "([^"/]+)/', path.read_text())
    assert set(included) <= CPP_KNOWS[part] | {part}


@pytest.mark.parametrize("path", CPP, ids=name_of)
def test_python_and_intrinsics_stay_where_they_belong(path: Path) -> None:
    part, text = part_of(path, CSRC), path.read_text()
    assert ("pybind11" in text) <= (part in ("bind", "cpu.cpp"))
    assert bool(re.search(r"\b_mm\w*|\bimmintrin\.h|\b__m\d+|\basm\b", text)) <= (part == "core")


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_python_knows_only_whom_it_may(path: Path) -> None:
    allowed = PYTHON_KNOWS[part_of(path, PACKAGE)] | EXCEPTIONS.get(path.relative_to(PACKAGE).as_posix(), set())
    assert known(path) <= allowed


@pytest.mark.parametrize("path", [path for path in PYTHON if part_of(path, PACKAGE) == "reference"], ids=name_of)
def test_reference_knows_numpy_only(path: Path) -> None:
    outside = {module.split(".")[0] for module in imports(path)}
    assert outside <= {"numpy", "fastopt", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_only_core_names_an_instruction_set(path: Path) -> None:
    named = re.findall(r"x86-64-v\d|\b_kernels_\w+|\bavx\w*|\bsse[234]\w*|\bneon\b", path.read_text(), re.IGNORECASE)
    assert bool(named) <= (path.name == "_core.py")


def test_the_rules_above_notice() -> None:
    """The imports that they look at are really found."""
    assert known(PACKAGE / "functional.py") == {"_core", "_rules"}
    assert known(PACKAGE / "optim" / "base.py") >= {"_core", "_rules"}
    assert "numpy" in set(imports(PACKAGE / "reference" / "norm.py"))
    assert len(CPP) > 10


def test_tables_are_complete() -> None:
    functions = (
        set(RULES) | {norm.norm for norm in NORMS.values()} | {f"{norm.norm}_backward" for norm in NORMS.values()}
    )
    assert functions == set(functional.__all__) == set(reference.__all__)
    classes = {name for name in optim.__all__ if isinstance(getattr(optim, name), type)}
    assert {rule.optimizer.__name__ for rule in RULES.values()} == classes - {"Optimizer", "StepInfo"}
    assert {norm.layer.__name__ for norm in NORMS.values()} == set(nn.__all__) - {"Layer"}


@pytest.mark.parametrize("rule", RULES)
def test_table_tries_every_option(rule: str) -> None:
    options = {*RULES[rule].always, *RULES[rule].values}
    assert options == {*inspect.signature(RULES[rule].optimizer).parameters} - {"params"}


def test_the_stub_names_what_the_kernels_have() -> None:
    tree = ast.parse((PACKAGE / "_kernels.pyi").read_text())
    stubbed = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    stubbed |= {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert stubbed == {name for name in dir(fastopt._core.kernels) if not name.startswith("_")}
