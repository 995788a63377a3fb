"""The parts of the site that are made by a program: the pages of the rules, and links to files that are no pages."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tools import program

from fastopt import functional, optim
from fastopt.functional import _updates

DOCS = Path(__file__).parents[1] / "docs"
pytest.importorskip("matplotlib", reason="the pictures need it")
pytest.importorskip("rich", reason="the surfaces are the demo's, whose tables are rich's")
pytestmark = pytest.mark.skipif(not (DOCS / "rules.py").exists(), reason="needs the sources")


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    return program(DOCS / "rules.py")


def test_every_rule_has_a_page(rules: ModuleType) -> None:
    classes = {name for name in optim.__all__ if inspect.isclass(getattr(optim, name))} - {"Optimizer", "StepInfo"}
    assert set(rules.ADVICE) == classes
    assert rules.CHANGED.keys() <= classes


def test_a_page(rules: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "ADVICE", {name: rules.ADVICE[name] for name in ("AdamW", "Muon")})
    rules.write(tmp_path)
    text = (tmp_path / "AdamW.md").read_text(encoding="utf-8")
    assert "autoclass:: fastopt.optim.AdamW" in text
    assert "autofunction:: fastopt.functional.adamw" in text
    assert "| float32 512 × 512 | moments as computed | `exp_avg`, `exp_avg_sq` | 8.00 |" in text
    assert '| float32 512 × 512 | `moments="8bit"` | `exp_avg`, `exp_avg_sq` | 2.03 |' in text
    assert (tmp_path / "AdamW.png").read_bytes().startswith(b"\x89PNG")
    assert "fastopt.functional.muon" in (tmp_path / "Muon.md").read_text(encoding="utf-8")
    assert not (tmp_path / "Muon.png").exists()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    rules.write(tmp_path)  # again: nothing is written
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_paths_end_low(rules: ModuleType) -> None:
    surface = rules.Ravine(np.random.default_rng(0))
    for name in ("SGD", "Adam", "Lion"):
        _, points = rules.best(rules.constructor(name), surface, rules.rates(name), 100)
        assert surface.height(points[-1]) < 0.05 * surface.height(points[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a loop](../examples/loop.py)", "a loop (`examples/loop.py`)"),
        ("[examples/loop.py](../examples/loop.py)", "`examples/loop.py`"),
        ("[`loop.py`](../examples/loop.py)", "`examples/loop.py`"),
        ("[threads](threads.md)", "[threads](threads.md)"),
        ("[top](#top) [there](https://example.org/x)", "[top](#top) [there](https://example.org/x)"),
        ("```text\n[a](../README.md)\n```\n", "```text\n[a](../README.md)\n```\n"),
        ("![a picture](images/demo.png)", "![a picture](images/demo.png)"),
    ],
)
def test_links_outside_become_names(rules: ModuleType, text: str, expected: str) -> None:
    assert rules.without_links_outside(text, DOCS / "page.md") == expected


def test_every_function_is_on_a_page() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("functional*.md")]
    listed = re.findall(r"^\.\. auto(?:function|class):: fastopt\.functional\.(\w+)$", "\n".join(pages), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == set(functional.__all__) - set(_updates.__all__)  # the steps are on the pages of their rules
