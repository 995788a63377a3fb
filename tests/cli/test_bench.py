"""``fastopt bench``: every candidate does the same work, and the measurements are reported.  No time is judged here."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools import Each

import fastopt as fo
from fastopt import _core
from fastopt import functional as F
from fastopt.cli import main
from fastopt.cli.bench import dropouts, formats, fused, norm_peers, norms, peers
from fastopt.cli.bench.case import Alternating, Dead, Race, Result
from fastopt.cli.bench.catalog import alternating, cases, matching
from fastopt.cli.bench.data import Data
from fastopt.cli.bench.measure import Effort, alternate, march, race
from fastopt.cli.bench.norms import as_memory, in_layout
from fastopt.cli.bench.steps import MODELS, RULES, dead, optimizer

BRIEF = ["bench", "--quick", "--seconds", "0.001"]


@pytest.fixture
def data() -> Data:
    return Data("float64")


# The command


@pytest.fixture
def needs_rich() -> None:
    pytest.importorskip("rich")


@pytest.mark.usefixtures("needs_rich")
def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BRIEF, "--only", "AdamW 2^10", "layernorm*64x64"]) == 0
    printed = capsys.readouterr().out
    for text in ("AdamW", "2^10", "LayerNorm forward", "64×64", "fastopt", "numpy", "floor", "GB/s"):
        assert text in printed
    assert "2^14" not in printed


@pytest.mark.usefixtures("needs_rich")
def test_json(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    assert main([*BRIEF, "--only", "sgd 2^14", "--dtype", "float64", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["machine"]["dtype"] == "float64"
    (result,) = written["results"]
    assert (result["group"], result["label"], result["bytes"]) == ("SGD", "2^14", (1 << 14) * 8 * 5)
    assert {"fastopt", "numpy", "floor"} <= set(result["columns"])
    assert result["columns"]["fastopt"]["ratio"] == 1
    assert all(column["seconds"] > 0 for column in result["columns"].values())


@pytest.mark.usefixtures("needs_rich")
def test_markdown(tmp_path: Path) -> None:
    file = tmp_path / "bench.md"
    arguments = [*BRIEF, "--only", "adamw 2^1[04]", "layernorm*64x64", "alternating AdamW*", "--markdown", str(file)]
    assert main(arguments) == 0
    text = file.read_text(encoding="utf-8")
    assert f"`fastopt {shlex.join(arguments)}`" in text
    assert f"isa {fo.isa()}" in text
    assert "## AdamW\n\n|  | fastopt | GB/s | floor | reached |" in text
    assert "[/]" not in text
    assert "µs, medians of the runs" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 3
    for rows in tables:  # all rows of a table have as many cells
        assert len({row.count("|") for row in rows}) == 1


@pytest.mark.usefixtures("needs_rich")
def test_an_interrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is written, and the exit status says that it is not all; without a result nothing is written."""
    files = [tmp_path / "a.json", tmp_path / "a.md"]
    arguments = [*BRIEF, "--only", "adamw 2^1[04]", "--json", str(files[0]), "--markdown", str(files[1])]
    measure, count = Race.measure, [0]

    def interrupted(*args: Any) -> Any:
        count[0] += 1
        if count[0] > left:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(Race, "measure", interrupted)
    for left in (0, 1):
        count[0] = 0
        assert main(arguments) == 130
        assert [file.exists() for file in files] == [left == 1] * 2
    assert len(json.loads(files[0].read_text())["results"]) == 1


def test_files_of_a_benchmark_are_different_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    assert main([*BRIEF, "--json", str(tmp_path / "a"), "--markdown", str(tmp_path / "a")]) == 2
    assert "need a file each" in capsys.readouterr().err


@pytest.mark.usefixtures("needs_rich")
def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "bench.png"
    assert main([*BRIEF, "--only", "adamw 2^10", "adamw 2^14", "norm*64x64", "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("needs_rich")
def test_loops(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from fastopt.cli.bench import report

    effort = Effort(seconds=0, rounds=1)
    loops = [dead(1 << 10, 200, data), alternating(optimizer("SGD", 1 << 10, data), data)]
    report.print_tables(Console(width=120), [loop.measure(effort) for loop in loops])
    printed = capsys.readouterr().out
    for text in ("have died", "AdamW 2^10", "last ÷ first", "SGD 2^10", "in turn ÷ sum"):
        assert text in printed


@pytest.mark.usefixtures("needs_rich")
def test_list_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list", "--only", "gpt", "batchnorm*nhwc", "--full"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert "AdamW.step() GPT-2 small, 148 tensors" in names
    assert "BatchNorm backward 8×64×56×56 NHWC" in names
    assert not any("NCHW" in name for name in names)


@pytest.mark.usefixtures("needs_rich")
def test_nothing_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BRIEF, "--only", "no such case"]) == 2
    assert "no case matches no such case; fastopt bench --list prints the names of all" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["rich", "matplotlib"])
def test_missing_extra(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if module != "rich":
        pytest.importorskip("rich")
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.console", None)
    assert main([*BRIEF, "--only", "adamw 2^10", "--plot", "never-written.png"]) == 1
    assert f"{module} is missing" in capsys.readouterr().err


# Formats


@pytest.mark.usefixtures("needs_rich")
def test_formats_are_beside_float32(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    names = ["format moments 8bit 2^22", "format bfloat16, stochastic, moments bfloat16 2^22"]
    assert main([*BRIEF, "--only", *names, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    for text in ("moments 8bit 2^22", "float32", "bytes ×", "1.74×", "2.00×"):
        assert text in printed
    for result in json.loads(file.read_text())["results"]:
        assert result["columns"]["float32"]["bytes"] == 28 * 2**22
        assert {"fastopt", "float32", "floor"} <= set(result["columns"])


BYTES = {  # bytes that are read, plus twice the bytes that are read and written, plus bytes that are written
    "moments bfloat16": 4 + 2 * (4 + 2 + 2),
    "moments 8bit": 4 + 2 * (4 + 1 + 1 + 2 / 64),
    "gradients bfloat16": 2 + 2 * (4 + 4 + 4),
    "bfloat16, stochastic": 2 + 2 * (2 + 4 + 4),
    "bfloat16, nearest, moments bfloat16": 2 + 2 * (2 + 2 + 2),
    "bfloat16, stochastic, moments bfloat16": 2 + 2 * (2 + 2 + 2),
    "bfloat16, stochastic, moments 8bit": 2 + 2 * (2 + 1 + 1 + 2 / 64),
    "bfloat16, kahan, moments bfloat16": 2 + 2 * (2 + 2 + 2 + 2),
    "bfloat16, correction, moments 8bit": 2 + 2 * (2 + 1 + 1 + 1 + 2 / 64),
    "bfloat16, master": 2 + 2 * (4 + 4 + 4) + 2,
    "bfloat16, master, moments bfloat16": 2 + 2 * (4 + 2 + 2) + 2,
    "bfloat16, master, moments 8bit": 2 + 2 * (4 + 1 + 1 + 2 / 64) + 2,
    "float16, master": 2 + 2 * (4 + 4 + 4) + 2,
}


@pytest.mark.parametrize("name", formats.FORMATS)
def test_floors_move_the_bytes_of_the_format(name: str, data: Data) -> None:
    size = 1 << 12
    race = formats.adamw(name, size, data)
    assert race.bytes == BYTES[name] * size
    (reads, updates, writes), variants = (calls := race.calls())["floor/plain"].args, set(calls)
    moved = [sum(array.nbytes for array in arrays) for arrays in (reads, updates, writes)]
    assert moved[0] + 2 * moved[1] + moved[2] == race.bytes
    assert ("torch" in variants) == (formats.FORMATS[name].as_torch and peers.torch() is not None)
    for call in calls.values():
        call()


# Normalization


def result(group: str, **columns: dict[str, float]) -> Result:
    return Result(group, "row", {"fastopt": {"seconds": 1.0, "ratio": 1.0}, **columns}, bytes=6)


@pytest.mark.usefixtures("needs_rich")
def test_norms_against_the_fastest_peer(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from fastopt.cli.bench import report

    races = [
        result("LayerNorm forward", numpy={"ratio": 9.0}, torch={"ratio": 8.0}, floor={"ratio": 0.5}),
        result("BatchNorm backward", torch={"ratio": 3.0}, onednn={"ratio": 0.5}, moved={"ratio": 0.8}),
        result("RMSNorm forward"),
        result("AdamW", torch={"ratio": 100.0}),
    ]
    assert report.against_the_best(races) == [8.0, 0.5]
    report.print_tables(Console(width=120), races)
    printed = capsys.readouterr().out
    for text in ("2 normalizations, geometric mean against the fastest peer: 2.00×", "moved", "80%"):
        assert text in printed
    assert "onednn was faster in: BatchNorm backward row (0.50×)" in printed


@pytest.mark.usefixtures("needs_rich")
def test_what_fusing_gains(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the bytes promise half of the time; 40 % less time is 80 % of the promised saving."""
    from rich.console import Console

    from fastopt.cli.bench import report

    race = result("fused", separate={"seconds": 1 / 0.6, "ratio": 1 / 0.6, "bytes": 12.0})
    assert report.gained(race) == pytest.approx(0.8)
    assert report.gained(result("fused")) is None
    report.print_tables(Console(width=120), [race])
    printed = capsys.readouterr().out
    for text in ("Fused with a normalization", "separate", "bytes ×", "gained", "80%"):
        assert text in printed


def test_a_candidate_that_is_not_there(monkeypatch: pytest.MonkeyPatch, data: Data) -> None:
    for library in ("torch", "onednn"):
        for module in (peers, norms, norm_peers, fused, dropouts):
            if hasattr(module, library):
                monkeypatch.setattr(module, library, lambda: None)
    for make in SAME_WORK.values():
        candidates = {key.partition("/")[0] for key in make(data).calls()}
        assert candidates - {"moved"} in ({"fastopt", "numpy", "floor"}, {"fastopt", "separate", "floor"})
    assert {key.partition("/")[0] for key in dropouts.dropout(8, 8, data).calls()} == {"fastopt", "numpy", "floor"}


@pytest.mark.parametrize("make", [norms.rms_norm, norms.rms_norm_backward, dropouts.dropout])
def test_compiled_if_wanted(make: Callable[..., Race], monkeypatch: pytest.MonkeyPatch, data: Data) -> None:
    torch = pytest.importorskip("torch")
    assert "torch/compiled" not in make(4, 5, data).calls()
    monkeypatch.setattr(norm_peers.SETTINGS, "compile", True)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    compiled: Any = make(4, 5, data).calls()["torch/compiled"]
    for _ in range(2):
        compiled()


# The list


def test_every_kind_of_case_is_there(data: Data) -> None:
    quick, everything = (list(cases(data, quick=quick, full=not quick)) for quick in (True, False))
    assert {case.group for case in quick} == {case.group for case in everything}
    assert {type(case) for case in quick} == {Race, Alternating, Dead}
    names = [case.name for case in everything]
    assert len(set(names)) == len(names) == len(set(everything))  # bench/conftest.py caches by case
    assert len(quick) < len(everything)


def test_matching(data: Data) -> None:
    names = [case.name for case in matching(cases(data), ["ADAMW 2^1?", "layernorm*x768"])]
    assert "AdamW 2^10" in names
    assert "LayerNorm backward 32×768" in names
    assert not any(name.startswith(("SGD", "BatchNorm", "AdamW 2^2")) for name in names)


def test_models() -> None:
    assert {name: len(shapes) for name, shapes in MODELS.items()} == {
        "digits MLP": 10,
        "LayerNorm MLP": 18,
        "ResNet-50": 161,
        "GPT-2 small": 148,
    }
    parameters = {name: sum(int(np.prod(shape)) for shape in shapes) for name, shapes in MODELS.items()}
    assert parameters == {"digits MLP": 26634, "LayerNorm MLP": 1501, "ResNet-50": 25557032, "GPT-2 small": 124439808}


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_data(offset: int) -> None:
    data = Data("float32", offset)
    array = data.normal(3, 500_000, mean=2.0, scale=0.1)
    assert array.shape == (3, 500_000)
    assert array.ctypes.data % 64 == 4 * offset
    assert array.mean() == pytest.approx(2.0, abs=1e-3)
    assert array.std() == pytest.approx(0.1, abs=1e-3)
    assert not data.zeros(7).any()


# The candidates do the same work


def peer(name: str) -> Any:
    """The class that makes a competitor's calls."""
    if name.startswith("torch"):
        pytest.importorskip("torch")
    return getattr(peers, name, None) or getattr(norm_peers, name)


def agree(theirs: Any, ours: Any) -> None:
    for their, our in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(np.asarray(their).reshape(np.shape(our)), our, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("rule", RULES)
def test_optimizers(library: str, rule: str, data: Data) -> None:
    state = [[data.normal(10, 10, scale=scale)] for scale in (0.02, 1e-3, 1e-3, 1e-3)][: 3 if rule == "SGD" else 4]
    np.abs(state[-1][0], out=state[-1][0])
    ours = [[array.copy() for array in arrays] for arrays in state]
    peer(f"{library}_{rule.lower()}")(*state)()
    getattr(F, rule.lower())(*ours, step=peers.HYPER.step, **RULES[rule])
    for theirs, own in zip(state, ours, strict=True):
        agree(theirs, own)


def test_torch_step(data: Data) -> None:
    for as_one in (False, True):
        theirs, grads = [data.normal(10, 10)], [data.normal(10, 10, scale=1e-3)]
        ours = [theirs[0].copy()]
        step = peer("torch_step")(theirs, grads, fused=as_one)
        ours_optimizer = fo.optim.AdamW(ours, **RULES["AdamW"])
        for _ in range(3):
            step()
            ours_optimizer.step(grads)
        agree(theirs, ours)


def test_torch_in_bfloat16(data: Data) -> None:
    """torch's step, all of it in bfloat16, agrees with fastopt's up to their roundings."""
    state = [[data.normal(1000, scale=scale, dtype="bfloat16")] for scale in (1, 1e-2, 1e-2, 1e-2)]
    state[3][0] *= state[3][0]
    ours = [[array.copy() for array in arrays] for arrays in state]
    step = peer("torch_adamw")(*state)
    options = {**RULES["AdamW"], "lr": peers.HYPER.lr}
    step()
    kept = {"weights": "nearest", "moments": "bfloat16", "moment_rounding": "nearest"}
    F.adamw(*ours, step=peers.HYPER.step, **options, **kept)
    for theirs, own in zip(state, ours, strict=True):
        np.testing.assert_allclose(theirs[0].astype(np.float32), own[0].astype(np.float32), rtol=0.02)


SMALL = (3, 4, 5, 2)
SAME_WORK: dict[str, Callable[[Data], Race]] = {
    "layer_norm": lambda data: norms.layer_norm(5, 7, data),
    "layer_norm_backward": lambda data: norms.layer_norm_backward(5, 7, data),
    "rms_norm": lambda data: norms.rms_norm(5, 7, data),
    "rms_norm_backward": lambda data: norms.rms_norm_backward(5, 7, data),
    "weight_norm": lambda data: norms.weight_norm(5, 7, data),
    "weight_norm_backward": lambda data: norms.weight_norm_backward(5, 7, data),
    "batch_norm": lambda data: norms.batch_norm((9, 3), "", data),
    "batch_norm_backward": lambda data: norms.batch_norm_backward((9, 3), "", data),
    "fused add_layer_norm": lambda data: fused.add_norm("layer", 5, 7, data),
    "fused add_layer_norm_backward": lambda data: fused.add_norm_backward("layer", 5, 7, data),
    "fused add_rms_norm": lambda data: fused.add_norm("rms", 5, 7, data),
    "fused add_rms_norm_backward": lambda data: fused.add_norm_backward("rms", 5, 7, data),
}
for layout in ("NCHW", "NHWC"):
    for function in (norms.batch_norm, norms.batch_norm_backward):
        SAME_WORK[f"{function.__name__} {layout}"] = partial(function, SMALL, layout)
    for function in (norms.group_norm, norms.group_norm_backward):
        SAME_WORK[f"{function.__name__} {layout}"] = partial(function, SMALL, layout, groups=2)
        SAME_WORK[f"{function.__name__} {layout} of channels"] = partial(function, SMALL, layout, groups=4)
    for function in (fused.batch_norm, fused.batch_norm_backward):
        SAME_WORK[f"fused {function.__name__} {layout}"] = partial(function, SMALL, layout)
        SAME_WORK[f"fused {function.__name__} with add {layout}"] = partial(function, SMALL, layout, add=True)


@pytest.mark.parametrize("name", SAME_WORK)
def test_normalizations_do_the_same_work(name: str, each: Each) -> None:
    """All candidates agree on the first result, y or dx, and on the other results of backward passes."""
    for dtype in each(["float32", "float64"], by_day=1):
        tolerance = 1e-5 if dtype == "float32" else 1e-12

        def check(theirs: Any, ours: Any, candidate: str, tolerance: float = tolerance) -> None:
            theirs = np.asarray(theirs).reshape(np.shape(ours))
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=tolerance * np.abs(ours).max(), err_msg=candidate)

        calls: dict[str, Any] = dict(SAME_WORK[name](Data(dtype)).calls())
        result, *gradients = calls["fastopt"]()
        expected = result.copy()
        candidates = [key for key in calls if not key.startswith(("floor", "moved"))]
        assert len(candidates) > 1
        for candidate in candidates:
            result.fill(np.nan)
            returned = calls[candidate]()
            rest = list(returned) if candidate == "numpy" and returned else []
            if candidate.startswith("torch"):
                result[...], *rest = returned if isinstance(returned, (tuple, list)) else [returned]
            check(result, expected, candidate)
            if "backward" in name and rest:
                for theirs, ours in zip(rest, gradients[-len(rest) :], strict=True):
                    check(theirs, ours, candidate)


@pytest.mark.parametrize("name", SAME_WORK)
def test_floors_move_the_bytes_of_the_race(name: str, data: Data) -> None:
    race = SAME_WORK[name](data)
    calls: dict[str, Any] = dict(race.calls())
    assert sum(array.nbytes for arrays in calls["floor/plain"].args for array in arrays) == race.bytes
    columns = name.endswith(("NHWC", "NHWC of channels")) or name in ("batch_norm", "batch_norm_backward")
    assert {key for key in calls if key.startswith("moved")} == (
        {"moved/plain", "moved/ahead", "moved/streaming"} if columns else set()
    )
    for key in filter(lambda key: key.startswith(("floor", "moved")), calls):
        calls[key]()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", ""])
def test_batch_norms_keep_the_same_running_statistics(layout: str, data: Data) -> None:
    x = in_layout(partial(data.normal, mean=1), SMALL if layout else (9, 4), layout)
    y = in_layout(data.empty, x.shape, layout)
    weight, bias = data.normal(4), data.normal(4)
    ours, of_numpy, of_torch = ([np.zeros(4), np.ones(4)] for _ in range(3))
    F.batch_norm(x, *ours, weight, bias, True, peers.NORM_MOMENTUM, peers.NORM_EPS)
    (plain_x, axes, broadcast), plain_y = as_memory(x), as_memory(y)[0]
    others = (array.reshape(broadcast) for array in (*of_numpy, weight, bias))
    norm_peers.numpy_batch_norm(plain_x, *others, plain_y, axes)()
    agree(of_numpy, ours)
    peer("torch_batch_norm")(x, *of_torch, weight, bias, y)()
    agree(of_torch, ours)


@pytest.mark.parametrize("make", [norms.layer_norm, norms.layer_norm_backward, norms.rms_norm, norms.rms_norm_backward])
def test_rows_in_bfloat16(make: Callable[..., Race], data: Data) -> None:
    in_bfloat16(make(5, 8, data, formats.BFLOAT16))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("make", [norms.batch_norm, norms.batch_norm_backward])
def test_channels_in_bfloat16(make: Callable[..., Race], layout: str, data: Data) -> None:
    in_bfloat16(make((3, 4, 6, 2), layout, data, formats.BFLOAT16))


def in_bfloat16(race: Race) -> None:
    """torch and oneDNN, and no other candidates, do the same work on bfloat16."""
    calls: dict[str, Any] = dict(race.calls())
    result, *_ = calls["fastopt"]()
    expected = result.astype(np.float32)
    assert "numpy" not in calls
    assert sum(array.nbytes for arrays in calls["floor/plain"].args for array in arrays) == race.bytes
    for key in filter(lambda key: key.startswith(("torch", "onednn")), calls):
        returned = calls[key]()
        if returned is not None:
            (theirs,) = [returned[0] if isinstance(returned, (tuple, list)) else returned]
            result[...] = theirs.float().numpy()
        np.testing.assert_allclose(result.astype(np.float32), expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


def test_dropouts_do_the_same_work(data: Data) -> None:
    """Only the choice of dropped elements differs."""
    forward: dict[str, Any] = dict(dropouts.dropout(100, 80, data).calls())
    (x, *_), y = forward["fastopt"].args, forward["fastopt"].keywords["out"]
    for key in filter(lambda key: not key.startswith("floor"), forward):
        returned = forward[key]()
        if key.startswith("torch"):
            y[...] = returned[0] if isinstance(returned, tuple) else returned
        assert np.mean(y == 0) == pytest.approx(dropouts.P, abs=0.02)
        np.testing.assert_allclose(y[y != 0], x[y != 0] / (1 - dropouts.P))


def test_gradients_of_dropout_have_the_mask_of_forward(data: Data) -> None:
    backward: dict[str, Any] = dict(dropouts.dropout_backward(100, 80, data).calls())
    dx = backward["fastopt"]()
    assert np.mean(dx == 0) == pytest.approx(dropouts.P, abs=0.02)
    backward["numpy"]()
    assert np.mean(dx == 0) == pytest.approx(dropouts.P, abs=0.02)
    if "torch" in backward:
        agree([backward["torch"]()], [dx])


# The floor


def test_floor_moves_and_changes_nothing(each: Each) -> None:
    for options, size in each([{}, {"ahead": 2048}, {"streaming": True}], [0, 1, 63, 64, 65, 1000, 100_003]):
        for offset in (0, 1, 4):
            data = Data("float32", offset)
            first, second, copy = data.normal(size), data.normal(size, mean=3), data.zeros(size)
            kept = first.copy(), second.copy()
            _core.kernels.floor([first], [], [copy], **options)
            assert copy.tobytes() == first.tobytes()
            _core.kernels.floor([first, second], [], [copy], **options)
            assert (copy.view(np.uint32) == first.view(np.uint32) ^ second.view(np.uint32)).all()
            _core.kernels.floor([first], [second], [], **options)
            _core.kernels.floor([first, second], [], [], **options)
            _core.kernels.floor([], [first, second, copy, data.zeros(size)], [], **options)
            assert (first.tobytes(), second.tobytes()) == (kept[0].tobytes(), kept[1].tobytes())


def test_floor_moves_arrays_of_different_sizes(each: Each) -> None:
    """Updates keep their values, writes are overwritten, and no memory beyond the arrays is touched."""
    for options, size in each([{}, {"ahead": 2048}, {"streaming": True}], [0, 1, 63, 64, 65, 1000, 100_003], by_day=8):
        for offset in (0, 1, 4):
            data = Data("float32", offset)
            read, *others = (data.normal(times * size + 16) for times in (3, 2, 256, 1, 2))
            parts = [array[:-16] for array in others]
            kept = [array.copy() for array in others]
            written = parts[2:]
            for array in written:
                array.view(np.uint32)[...] = 0xFFFFFFFF
            _core.kernels.floor([read[:-16]], parts[:2], written, **options)
            for array, before in zip(others[:2], kept[:2], strict=True):
                assert array.tobytes() == before.tobytes()
            for array, before in zip(others[2:], kept[2:], strict=True):
                assert array[-16:].tobytes() == before[-16:].tobytes()
                assert not np.any(array[:-16].view(np.uint32) == 0xFFFFFFFF)


def test_floor_rejects() -> None:
    a, b = np.zeros(8), np.zeros(9)
    frozen = np.zeros(8)
    frozen.flags.writeable = False
    for reads, updates, writes, complaint in [
        ([a], [], [b], r"writes must have a whole multiple of the smallest array's bytes \(64\)"),
        ([np.zeros(3, np.uint8)], [], [], "these a multiple of 4, got 3"),
        ([a], [np.zeros(0)], [], r"reads must have a whole multiple of the smallest array's bytes \(0\)"),
        ([np.zeros((8, 2))[:, 0]], [], [a], "reads must be contiguous"),
        ([a], [frozen], [], "updates must be writeable"),
        ([], [], [], "there must be an array"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            _core.kernels.floor(reads, updates, writes)


# The clock


def test_race_takes_turns() -> None:
    calls = {name: [] for name in "ab"}  # type: dict[str, list[int]]
    samples, interruptions = race({name: partial(calls[name].append, 0) for name in calls}, Effort(seconds=0, rounds=4))
    assert {name: len(seconds) for name, seconds in samples.items()} == {"a": 4, "b": 4}
    assert all(calls.values())
    assert interruptions >= 0


def test_march_is_in_step() -> None:
    order: list[str] = []
    march({name: partial(order.append, name) for name in "ab"}, 3)
    assert "".join(order) == "ababab"


def test_alternate_runs_all_three() -> None:
    order: list[str] = []
    parts = alternate(partial(order.append, "a"), partial(order.append, "b"), Effort(seconds=0, rounds=1))
    assert len(parts) == 3
    assert "".join(order).endswith("abab")


def test_quantile() -> None:
    samples = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [Effort(quantile=q).of(samples) for q in (0, 0.1, 0.5, 1)] == [1, 1, 3, 5]
