"""The programs of ``examples/`` run in their short form, and what they claim holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
ELSEWHERE = {
    "resume.py": "test_run.py",
    "torch_cnn.py": "test_torch_accelerate.py",
    "torch_gpt.py": "test_torch_accelerate.py",
    "torch_ppo.py": "test_torch_accelerate.py",
}


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python with one thread; a warning is an error."""
    line = [sys.executable, "-W", "error", *command]
    return subprocess.run(
        line, capture_output=True, text=True, encoding="utf-8", cwd=folder, env=ENVIRONMENT, timeout=300
    )


def numbers(pattern: str, output: str) -> list[float]:
    """The numbers that the pattern's group finds."""
    return [float(found) for found in re.findall(pattern, output)]


def loop(output: str) -> None:
    errors = numbers(r"mean squared error (\S+)", output)
    assert len(errors) == 10 and errors[-1] < errors[0] / 2


def mlp(output: str) -> None:
    assert numbers(r"test accuracy (\S+)", output)[0] > 0.95


def cnn(output: str) -> None:
    accuracies = numbers(r"test accuracy (\S+)", output)
    assert accuracies[0] < accuracies[-1] > 0.9
    drawn = output[output.index("its worst answer") :].splitlines()[1:]
    assert len(drawn) == 8 and {*"".join(drawn)} <= {*" .:-=+*#%@"}


def character_transformer(output: str) -> None:
    assert numbers(r"gradient: (\S+) from finite", output)[0] < 1e-6
    losses = numbers(r"loss (\S+)", output)
    assert losses[-1] < 1.4 < 3.5 < losses[0]
    assert "\nThe Zen of Pytho" in output and 0 < numbers(r"(\d+)% of its \d+ words", output)[0] <= 100


def word2vec(output: str) -> None:
    source = (EXAMPLES / "word2vec.py").read_text(encoding="utf-8")
    topics = [found.split() for found in re.findall(r'^    "\w+": "(.*)",$', source, re.MULTILINE)]
    lines = [line.split() for line in output.splitlines()[-4:]]
    assert len(topics) == len(lines) == 4
    for word, *near in lines:
        (topic,) = (topic for topic in topics if word in topic)
        assert len(near) == 5 and len({*near} & {*topic}) >= 4


def regression_paths(output: str) -> None:
    assert max(numbers(r"hold to (\S+)", output)) < 1e-9
    features = re.findall(r"features (.*)", output)
    assert len(features) == 8 and features[::4] == ["none", "none"] and "0 1 2 3" in features
    if find_spec("sklearn"):
        assert numbers(r"(\d+) of 96 zeros differ", output) == [0, 0]
        assert max(numbers(r"weights by at most (\S+)", output)) < 1e-6


def bfloat16_masters(output: str) -> None:
    """The bytes are those of docs/formats.md."""
    rows = [line.split() for line in output.splitlines()[1:]]
    size, training, new = ([float(row[i]) for row in rows] for i in (-3, -2, -1))
    assert size == [12, 6.03, 14, 10, 5.03, 4.03, 10] and rows[-1][1] == 'weights="nearest"'
    for losses in (training, new):
        exact, *others, nearest = losses
        assert all(abs(loss / exact - 1) < 0.01 for loss in others) and nearest > 1.02 * exact


class Program(NamedTuple):
    """How a program runs, and what its output must be."""

    check: Callable[[str], None]
    options: Sequence[str] = ("--short",)
    needs: str | None = None


PROGRAMS = {
    f"{program.check.__name__}.py": program
    for program in (
        Program(loop, ()),
        Program(mlp, needs="sklearn"),
        Program(cnn, needs="sklearn"),
        Program(character_transformer),
        Program(word2vec),
        Program(regression_paths, ("--short", "paths.png") if find_spec("matplotlib") else ("--short",)),
        Program(bfloat16_masters),
    )
}


def test_every_program_runs_in_one_test() -> None:
    assert sorted([*PROGRAMS, *ELSEWHERE]) == sorted(path.name for path in EXAMPLES.glob("*.py"))
    for name, test in ELSEWHERE.items():
        text = (ROOT / "tests" / test).read_text(encoding="utf-8")
        assert f'"{name}"' in text or f'"{name.removeprefix("torch_").removesuffix(".py")}"' in text


@pytest.mark.parametrize("name", PROGRAMS)
def test_short_form(name: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]
    if program.needs:
        pytest.importorskip(program.needs)
    done = run(str(EXAMPLES / name), *program.options, folder=tmp_path)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    program.check(done.stdout)
    pictures = [word for word in program.options if word.endswith(".png")]
    assert [path.name for path in tmp_path.iterdir()] == pictures
    assert all((tmp_path / one).read_bytes().startswith(b"\x89PNG") for one in pictures)


@pytest.mark.parametrize("name", [name for name, program in PROGRAMS.items() if program.needs == "sklearn"])
def test_without_sklearn_a_program_says_so(name: str, tmp_path: Path) -> None:
    code = f"import runpy, sys; sys.modules['sklearn.datasets'] = None; runpy.run_path({str(EXAMPLES / name)!r})"
    done = run("-c", code, folder=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"{name} takes its digits from scikit-learn: pip install scikit-learn\n"


def test_the_gallery_has_every_program() -> None:
    """With its link and its command, in one section each."""
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\]\(\.\./examples/(\w+\.py)\)", page))) == sorted([*PROGRAMS, *ELSEWHERE])
    assert sorted(set(re.findall(r"^python examples/(\w+\.py)", page, re.MULTILINE))) == sorted([*PROGRAMS, *ELSEWHERE])
