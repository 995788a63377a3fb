"""Promises of the documentation: examples run, every parameter is described, the reference has the same signatures."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import images
import pages
import pytest
from tables import NORMS, RULES
from threads_comm import Comm, World
from tools import Each

import fastopt
import fastopt.sklearn
import fastopt.torch
from fastopt import distributed, functional, nn, optim, reference, schedules
from fastopt._rules import AROUND
from fastopt.cli import COMMANDS


def modules() -> Iterator[str]:
    """All Python modules of fastopt, except the command line, which needs extras."""
    yield "fastopt"
    for module in pkgutil.walk_packages(fastopt.__path__, "fastopt."):
        path = getattr(module.module_finder, "path", "")
        if module.name.split(".")[1] not in ("cli", "__main__") and not module.name.split(".")[-1].startswith(
            ("_kernels", "_cpu")
        ):
            assert path
            yield module.name


def public() -> Iterator[tuple[str, Any]]:
    """Everything that users may call, with its name; an inherited method comes only once."""
    seen: set[Any] = set()
    for module in fastopt, functional, optim, nn, schedules, distributed:
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, ModuleType) or not callable(thing):
                continue
            yield f"{module.__name__}.{name}", thing
            if isinstance(thing, type) and not issubclass(thing, tuple):
                for method, function in inspect.getmembers(thing, inspect.isfunction):
                    if (not method.startswith("_") or method == "__call__") and function not in seen:
                        seen.add(function)
                        yield f"{module.__name__}.{name}.{method}", function


def parameters(thing: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "defaults")]


def section(doc: str, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE)
    return found[1] if found else ""


LAYERS = {"GELU", "Linear", "ReLU", "Sequential", "SiLU", "Sigmoid", "Tanh"}  # that normalize nothing
EVERYTHING = dict(public())
BASES = ("Optimizer", "StepInfo", "Outcome", "Layer", "LRScheduler")  # users do not construct these
FUNCTIONS = {
    name: thing
    for name, thing in EVERYTHING.items()
    if name.startswith("fastopt.functional.") and thing is not functional.Outcome
}
CLASSES = {name: thing for name, thing in EVERYTHING.items() if isinstance(thing, type) and thing.__name__ not in BASES}


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What examples need of mpi4py: communicators of one process."""
    one = Comm(World(1), 0)
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=SimpleNamespace(COMM_SELF=one, COMM_WORLD=one)))


@pytest.mark.parametrize("name", list(modules()))
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("fastopt.torch."):
        pytest.importorskip("torch", reason="its examples run on torch")
    if name.startswith("fastopt.distributed."):
        alone(monkeypatch)
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_is_an_example(each: Each) -> None:
    for name in each([*FUNCTIONS, *CLASSES, "fastopt.optim.no_decay"]):
        assert ">>> " in section(inspect.getdoc(EVERYTHING[name]) or "", "Example")


def test_every_parameter_is_described(each: Each) -> None:
    """``Args`` describes them in order, several together where they share a description; a docstring of one sentence names
    them in the sentence.
    """
    for name in each(EVERYTHING):
        thing = EVERYTHING[name]
        doc = inspect.getdoc(thing) or ""
        assert doc
        if name.rpartition(".")[2] in BASES:
            continue
        if "\n" in doc and parameters(thing):
            described = re.findall(r"^    (\w+(?:, \w+)*): \S", section(doc, "Args"), re.MULTILINE)
            assert ", ".join(described).split(", ") == parameters(thing)
        else:
            assert [one for one in parameters(thing) if not re.search(rf"\b{one}\b", doc)] == []


def test_functions_say_what_they_raise(each: Each) -> None:
    for name in each(FUNCTIONS):
        raises = section(inspect.getdoc(EVERYTHING[name]) or "", "Raises")
        assert re.findall(r"^    (\w+): \S", raises, re.MULTILINE) == ["TypeError", "ValueError"]


@pytest.mark.parametrize("rule", RULES)
def test_functions_of_rules_are_documented_as_their_classes(rule: str) -> None:
    """They share the formula, the descriptions of the rule's own hyperparameters, and the references; the options
    around every rule are named.
    """
    of_class, of_function = (inspect.getdoc(one) or "" for one in (RULES[rule].optimizer, getattr(functional, rule)))
    formula = re.search(r"\.\. code-block:: text\n\n(?:    .*\n|\n)+", of_class)
    assert formula and formula[0].rstrip() in of_function
    assert f":class:`fastopt.optim.{RULES[rule].optimizer.__name__}`" in of_function
    assert section(of_class, "References").strip() in section(of_function, "References")
    theirs = dict(re.findall(r"^    (\w+): (.+)", section(of_class, "Args"), re.MULTILINE))
    ours = dict(re.findall(r"^    (\w+): (.+)", section(of_function, "Args"), re.MULTILINE))
    for name in RULES[rule].own:
        assert ours.get(name) == theirs[name] or ours[f"{name.removesuffix('s')}_limits"] == theirs[name]
    assert theirs.keys() >= AROUND.keys()
    for name in AROUND:
        assert f"``{name}" in (inspect.getdoc(optim.Optimizer) or "")


def test_reference_has_the_same_signature(each: Each) -> None:
    for name in each(sorted(set(functional.__all__) - {"Outcome"})):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (functional, reference))
        by_position = [p.name for p in ours.values() if p.kind is not p.KEYWORD_ONLY]
        assert by_position == [p.name for p in theirs.values() if p.kind is not p.KEYWORD_ONLY]
        assert {p.name: (p.kind, p.default) for p in ours.values()} == {
            p.name: (p.kind, p.default) for p in theirs.values()
        }


def test_reference_says_what_it_is_the_reference_of(each: Each) -> None:
    for name in each(sorted(set(functional.__all__) - {"Outcome"})):
        assert f":func:`fastopt.functional.{name}`" in (getattr(reference, name).__doc__ or "")


# Pages

DOCS = pages.ROOT / "docs"
every_page = pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)


@every_page
def test_code_of_pages_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All Python of a page runs, hidden blocks too, one after the other in an empty folder."""
    alone(monkeypatch)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    with pages.undone(page):
        pages.run(page, monkeypatch)


def test_how_pages_are_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A failure has the line of the page, and what the page has changed in the process is undone."""
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n<!-- run\nimport fastopt as fo\nreuse = fo.reuse_memory()\n-->\n\n- indented\n\n"
        "  ```python\n  fo.set_num_threads(fo.get_num_threads() + 1)\n  fo.set_cache_limit(0)\n  1 / 0\n  ```\n"
    )
    before = in_force()
    with pytest.raises(ZeroDivisionError) as error, pages.undone(page):
        pages.run(page, monkeypatch)
    assert (str(error.traceback[-1].path), error.traceback[-1].lineno + 1) == (str(page), 12)
    assert in_force() == before
    page.write_text("```python\n>>> 1 + 1\n2\n>>> 1 + 1\n3\n```\n")
    with pytest.raises(AssertionError, match=r'File ".*page.md", line 4(.*\n)+Expected:\n    3\nGot:\n    2\n'):
        pages.run(page, monkeypatch)


def in_force() -> tuple[int, Any, bool]:
    config = fastopt.show_config()
    return fastopt.get_num_threads(), config["memory"]["cache_limit"], config["memory"]["arrays"]


@every_page
def test_no_block_of_pages_escapes(page: Path) -> None:
    """A block of Python or of the shell under another name, or a hidden block of another form, would not be tested."""
    text, found = page.read_text(encoding="utf-8"), pages.blocks(page)
    others = {block.language for block in found if not block.language.startswith("{")}  # {toctree} and such
    assert others <= {"run", "python", "sh", "console", "text", "toml", "yaml", "json", "ini", "diff", "cmake", "cpp"}
    assert not any("```python" in block.code for block in found)
    assert not any("-->" in block.code for block in found if block.language == "run")
    assert len(re.findall(r"<!--\s*run\b", text)) == sum(block.language == "run" for block in found)
    assert "```" not in pages.prose(page)


@every_page
def test_commands_of_pages_are_accepted(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command lines of ``fastopt`` are parsed, and not run."""
    found = pages.commands(page)
    for command in {words[0] for _, words in found} & COMMANDS.keys():
        pytest.importorskip("rich", reason="fastopt bench and demo need it")
        monkeypatch.setattr(importlib.import_module(f"fastopt.cli.{command}"), "main", lambda _: 0)
    refused = [f"line {line}: fastopt {' '.join(words)}" for line, words in found if not pages.is_accepted(words)]
    assert refused == []


@every_page
def test_files_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/.])(?:bench|csrc|docs|examples|python|tests)/[\w./-]*\w", text):
        assert (pages.ROOT / name).exists(), name


@pytest.mark.parametrize(
    "page",
    [*sorted(DOCS.glob("*.md")), *(DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))],
    ids=lambda page: page.name,
)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        to = page.parent / path if path else page
        assert to.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", to.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


def test_the_page_of_names_has_all_names() -> None:
    """Optimizers are in ``functional`` in lower case; backward passes are named by their forward pass."""
    page = (DOCS / "names.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", page))
    names = {name for name in functional.__all__ if not name.endswith("_backward")} - RULES.keys()
    for module in fastopt, optim, nn, schedules, distributed, fastopt.sklearn, fastopt.torch:
        names |= {*module.__all__}
    assert names - words == set()
    for name in re.findall(r"`fo\.(\w+)(?=`|\()", page):
        assert hasattr(fastopt, name)


def test_every_normalization_is_in_the_table() -> None:
    """The table also has its layer."""
    text = (DOCS / "normalization.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", text, re.MULTILINE))
    assert set(rows) == {norm.norm for norm in NORMS.values()} - {"batch_norm_apply"}
    assert set(rows.values()) == set(nn.__all__) - images.LAYERS - {
        "Layer",
        "update_bn",
        "Dropout",
        "GaussianDropout",
        "ChannelDropout",
        *LAYERS,
    }
    others = {"batch_norm_apply", "batch_norm_stats", "combine_stats", "fold_batch_norm", "batch_norm_backward_stats"}
    assert all(f"F.{name}(" in text or f"`F.{name}`" in text for name in others)
