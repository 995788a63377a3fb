"""fastopt.torch.accelerate and patch, and the command run: what is swapped, what stays, and that it is undone."""

from __future__ import annotations

import abc
import copy
import gc
import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
import fastopt as fo  # noqa: E402
import fastopt.torch as ft  # noqa: E402

ROOT = Path(__file__).parents[1]


SHARED = torch.ones(12)


def network() -> Any:
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16), nn.LayerNorm(16), nn.GELU("tanh"),
        nn.Dropout(0.5), nn.Sequential(nn.Linear(16, 4), nn.RMSNorm(4)),
    )  # fmt: skip


def losses(model: Any, opt: Any, steps: range) -> list[float]:
    model.train()
    found = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, labels = torch.randn(8, 3, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        opt.step()
        found.append(loss.item())
    return found


def test_a_model_is_swapped_and_put_back(caplog: pytest.LogCaptureFixture) -> None:
    """In mid-run, twice: the losses are those of a run that nothing interrupts."""
    model = network()
    model[7].p = 0.0  # so that nothing is random
    other = copy.deepcopy(model)
    opt: Any = torch.optim.AdamW(other.parameters(), lr=0.01)
    expected = losses(other, opt, range(6))

    opt = torch.optim.AdamW(model.parameters(), lr=0.01)
    found = losses(model, opt, range(2))
    norm, weight, calls = model[5], model[5].weight, []
    norm.register_forward_hook(lambda *_: calls.append(1))
    names = model.state_dict().keys()
    with caplog.at_level(logging.INFO, "fastopt"):
        opt = ft.accelerate(model, opt)
    assert "5 (LayerNorm)" in caplog.text
    assert ft.swapped(model) == {"1": "BatchNorm2d", "5": "LayerNorm", "6": "GELU", "7": "Dropout", "8.1": "RMSNorm"}
    assert model[5] is norm
    assert norm.weight is weight
    assert isinstance(norm, ft.nn.LayerNorm)
    assert isinstance(norm, torch.nn.LayerNorm)
    assert model.state_dict().keys() == names
    assert isinstance(opt, ft.optim.AdamW)
    found += losses(model, opt, range(2, 4))
    assert len(calls) == 2

    saved = io.BytesIO()
    torch.save({"model": model.state_dict(), "opt": opt.state_dict()}, saved)
    ft.restore(model)
    assert ft.swapped(model) == {}
    assert type(norm) is torch.nn.LayerNorm
    opt = torch.optim.AdamW(model.parameters(), lr=0.5)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    model.load_state_dict(state["model"])
    opt.load_state_dict(state["opt"])
    found += losses(model, opt, range(4, 6))
    assert found == pytest.approx(expected, abs=1e-5)


def test_every_part_of_a_model_counts() -> None:
    norm = torch.nn.LayerNorm(4)
    shared = torch.nn.ModuleList([norm, norm, torch.nn.ModuleDict({"a": norm})])
    ft.accelerate(shared)
    assert type(norm) is ft.nn.LayerNorm
    ft.accelerate(shared)
    ft.restore(shared)
    assert type(norm) is torch.nn.LayerNorm
    ft.accelerate(norm)
    assert ft.swapped(norm) == {"": "LayerNorm"}

    class Own(torch.nn.LayerNorm):
        def forward(self, x: Any) -> Any:
            return x

    own = Own(4)
    ft.accelerate(own)
    assert type(own) is Own


def test_batch_norm_and_relu_become_one() -> None:
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(True)),
        nn.BatchNorm2d(4),
    )
    relu, watched = nn.ReLU(), nn.BatchNorm2d(4)
    watched.register_forward_hook(lambda *_: None)
    model.extend([relu, nn.BatchNorm2d(4), relu, watched, nn.ReLU()])
    other, x = copy.deepcopy(model), torch.randn(5, 3, 9, 9)
    names = model.state_dict().keys()
    ft.accelerate(model, fuse=True)
    assert [name for name, kind in ft.swapped(model).items() if kind == "BatchNormReLU"] == ["1", "3.0"]
    assert model.state_dict().keys() == names
    assert isinstance(model[2], nn.ReLU)
    for one in (model, other):
        one(x).square().sum().backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-3)
    assert torch.allclose(copy.deepcopy(model).eval()(x), model.eval()(x))
    ft.restore(model)
    assert [type(module) for module in model.modules()] == [type(module) for module in other.modules()]
    assert torch.allclose(model(x), other.eval()(x), atol=1e-4)


def test_mistakes_change_nothing() -> None:
    model = network()
    lbfgs = torch.optim.LBFGS(model.parameters())

    class Own(torch.optim.AdamW):
        pass

    for opt in (lbfgs, Own(model.parameters()), "adam"):
        with pytest.raises(TypeError, match="accelerate: optimizer must be exactly one of"):
            ft.accelerate(model, opt)
    meta = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2, device="meta"))])
    with pytest.raises(TypeError, match="is on meta"):
        ft.accelerate(model, meta)
    assert ft.swapped(model) == {}
    for call in (ft.accelerate, ft.restore, ft.swapped):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
            call([model])
    assert ft.accelerate(model, ft.optim.AdamW(model.parameters())).defaults["lr"] == 1e-3


def test_mistakes_say_what_to_give() -> None:
    model = network()
    opt = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(opt, 1)
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((), "missing 1 required positional argument: 'model'; write accelerate(model), or optimizer = accelerate(model, optimizer)"),
        ((model, opt, True), "3 were given; write accelerate(model), or"),
        ((None,), "model must be a torch.nn.Module, got None"),
        ((torch.nn.Linear,), "got the class Linear; give an object, Linear(...)"),
        ((list(model.parameters()),), "got list; give the model itself, not what is in it"),
        ((model.parameters(),), "got generator; give the model itself, not what is in it"),
        ((model.state_dict(),), "got OrderedDict; give the model itself, not what is in it"),
        ((opt, model), "got AdamW; the order is accelerate(model, optimizer)"),
        ((fo.nn.ReLU(),), "got ReLU, which is a layer for NumPy arrays and uses fastopt already"),
        ((model, torch.optim.AdamW), "got the class AdamW; give an object, AdamW(model.parameters(), ...)"),
        ((model, ft.optim.AdamW), "got the class AdamW; give an object, AdamW(model.parameters(), ...)"),
        ((model, model.parameters()), "got generator; give one optimizer, not parameters or a list"),
        ((model, [opt]), "got list; give one optimizer, not parameters or a list"),
        ((model, schedule), "got StepLR; give its optimizer, and then set schedule.optimizer to the one that comes back"),
        ((model, fo.optim.AdamW([])), "got AdamW; fastopt.optim's are for NumPy arrays: take the one of fastopt.torch.optim"),
        ((model, "adam"), "got str; call accelerate(model), and keep using your optimizer"),
    ]  # fmt: skip
    for arguments, text in wrong:
        with pytest.raises(TypeError, match=re.escape(text)):
            ft.accelerate(*arguments)
    with pytest.raises(TypeError, match="accelerate: fuse must be a bool, got AdamW"):
        ft.accelerate(model, fuse=opt)
    with pytest.raises(TypeError, match="unexpected keyword argument 'opt'; it has model, optimizer, fuse; write"):
        ft.accelerate(model, opt=opt)  # type: ignore[call-arg]
    assert ft.swapped(model) == {}


def test_estimators_are_not_torchs() -> None:
    network = pytest.importorskip("sklearn.neural_network", reason="needs scikit-learn").MLPClassifier()
    with pytest.raises(
        TypeError, match=r"got MLPClassifier; fastopt\.sklearn\.accelerate\(\) is for scikit-learn's models$"
    ):
        ft.accelerate(network)


@pytest.fixture
def patched() -> Iterator[None]:
    ft.patch()
    yield
    ft.unpatch()


@pytest.mark.usefixtures("patched")
def test_torch_is_patched() -> None:
    assert ft.is_patched()
    model = network()
    opt = torch.optim.AdamW((p for p in model.parameters()), lr=0.01)
    assert isinstance(opt, ft.optim.AdamW)
    assert isinstance(opt, torch.optim.AdamW)
    assert isinstance(opt, torch.optim.Optimizer)
    before = copy.deepcopy(ft.counts.as_dict())
    losses(model, opt, range(3))
    after = ft.counts.as_dict()
    assert after["steps"]["AdamW"] - before["steps"].get("AdamW", 0) == 3
    for name in ("batch_norm", "layer_norm", "rms_norm", "gelu", "dropout", "cross_entropy"):
        assert after["calls"][name] - before["calls"].get(name, 0) == 3, name
    assert after["taken"]["rms_norm"] - before["taken"].get("rms_norm", 0) == 3
    assert "AdamW" in ft.counts.line()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert ft.counts.taken["clip_grad_norm_"] == ft.counts.calls["clip_grad_norm_"] > 0
    copied = copy.deepcopy(opt)
    again = pickle.loads(pickle.dumps(opt))
    assert type(copied) is type(again) is type(opt)
    assert pickle.dumps(opt).find(b"fastopt") == -1
    seen: list[int] = []
    opt.register_step_pre_hook(lambda *_: seen.append(1))
    losses(model, opt, range(1))
    assert len(seen) == 1


LOAD = """
import sys, torch
sys.modules["fastopt"] = None
(a, opt, state, x), (b, *_, y) = (torch.load(name, weights_only=False) for name in sys.argv[1:])
assert type(opt).__name__ == "RMSprop" and abs(x - y) < 1e-6, (x, y)
assert all((p - q).abs().max() < 1e-6 for p, q in zip(a.parameters(), b.parameters()))
opt.step()
torch.optim.RMSprop(a.parameters()).load_state_dict(state)
"""


def test_a_patched_run_is_the_same_run_and_loads_without_fastopt(tmp_path: Path) -> None:
    code = """
import sys, torch
if sys.argv[1] == "patched":
    import fastopt.torch
    fastopt.torch.patch(without=["dropout"])
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
opt = torch.optim.RMSprop(model.parameters(), lr=0.01)
for _ in range(5):
    opt.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(torch.randn(6, 4)), torch.randint(2, (6,)))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    opt.step()
torch.save((model, opt, opt.state_dict(), loss.item()), sys.argv[2])
"""
    for name in ("patched", "usual"):
        subprocess.run([sys.executable, "-c", code, name, str(tmp_path / name)], check=True)
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    subprocess.run([sys.executable, str(script), str(tmp_path / "patched"), str(tmp_path / "usual")], check=True)


@pytest.mark.usefixtures("patched")
def test_what_derives_from_torch_stays_torchs() -> None:
    class Own(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            self.stepped = True
            return super().step(closure)

    w = torch.nn.Parameter(torch.ones(2))
    opt = Own([w], lr=0.1)
    assert not isinstance(opt, ft.optim.Optimizer)
    assert isinstance(opt, torch.optim.Adam)
    assert issubclass(Own, torch.optim.Adam)
    w.grad = torch.ones(2)
    opt.step()
    assert opt.stepped
    assert w.tolist() == pytest.approx([0.9, 0.9])


@pytest.mark.usefixtures("patched")
def test_a_class_that_calls_torchs_by_name_stays_itself() -> None:
    class Own(torch.optim.Adam, abc.ABC):
        def __init__(self, params: Any) -> None:
            self.mark = 3
            torch.optim.Adam.__init__(self, params, lr=0.1)

        def step(self, closure: Any = None) -> Any:
            self.mark += 1
            return torch.optim.Adam.step(self, closure)

    w = torch.nn.Parameter(torch.ones(2))
    opt = Own([w])
    w.grad = torch.ones(2)
    opt.step()
    torch.optim.Adam.load_state_dict(opt, torch.optim.Adam.state_dict(opt))
    assert type(opt) is Own
    assert opt.mark == 4
    assert w.tolist() == pytest.approx([0.9, 0.9])


@pytest.mark.usefixtures("patched")
def test_groups_are_the_callers() -> None:
    for dtype in (torch.float32, torch.complex64):
        model = torch.nn.Linear(2, 2, dtype=dtype)
        for params in (model.parameters(), model.named_parameters()):
            group = {"params": params, "lr": 0.5}
            opt = torch.optim.SGD([group], lr=0.1)
            assert isinstance(opt, ft.optim.Optimizer) == (dtype is torch.float32)
            assert len(opt.param_groups[0]["params"]) == 2
            assert opt.param_groups[0] is group


def test_pickles_go_in_and_out_of_a_patch() -> None:
    w = torch.nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    outside = torch.optim.AdamW([w], lr=0.1)
    outside.step()
    text = pickle.dumps(outside)
    ft.patch()
    try:
        inside = pickle.loads(text)
        assert isinstance(inside, ft.optim.AdamW)
        inside.step()
        made = torch.optim.AdamW([w], lr=0.1)
        made.step()
        text = pickle.dumps(made)
        assert pickle.loads(pickle.dumps(torch.nn.functional.gelu)) is torch.nn.functional.gelu
    finally:
        ft.unpatch()
    for one in (pickle.loads(text), pickle.loads(pickle.dumps(made))):
        assert type(one) is torch.optim.AdamW
        one.step()
    made.step()


@pytest.mark.usefixtures("patched")
def test_what_fastopt_cannot_be_is_torchs() -> None:
    for params, kwargs in (
        ([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))], {}),
        ([torch.nn.Parameter(torch.ones(2))], {"differentiable": True}),
        ([{"params": [torch.nn.Parameter(torch.ones(2, device="meta"))], "lr": 0.1}], {}),
        ([torch.nn.Parameter(torch.ones(4, 6)[:, ::2])], {}),
        ([torch.nn.Parameter(SHARED), torch.nn.Parameter(SHARED.view(3, 4))], {}),
    ):
        opt = torch.optim.AdamW(params, **kwargs)
        assert not isinstance(opt, ft.optim.Optimizer)
        assert isinstance(opt, torch.optim.AdamW)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=-1.0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], weight_deacy=1.0)


def scripted(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x) + torch.nn.functional.rms_norm(x, [4])


@pytest.mark.usefixtures("patched")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_and_compile_see_torchs_own() -> None:
    def function(x: Any) -> Any:
        return torch.nn.functional.gelu(torch.nn.functional.layer_norm(x, (4,)))

    x = torch.randn(3, 4)
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), function(x), atol=1e-6)
    layers = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.GELU(), torch.nn.Dropout(0.1)).eval()
    assert torch.allclose(torch.jit.script(layers)(x), function(x), atol=1e-6)
    assert torch.allclose(torch.jit.script(scripted)(x), scripted(x), atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("patched")
def test_max_pooling_is_swapped() -> None:
    """torch has two functions behind its name."""
    nn, x, before = torch.nn, torch.randn(64, 4, 32, 32), ft.counts.as_dict()["taken"].get("max_pool2d", 0)
    model = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1, return_indices=True))
    y, indices = model(x)
    own = torch.nn.functional.max_pool2d
    assert ft.counts.taken["max_pool2d"] == before + 1
    scripted = torch.jit.script(model)
    compiled = torch.compile(
        lambda x: own(x, 2) + own(x, kernel_size=2, return_indices=True)[0], fullgraph=True, backend="eager"
    )
    twice = 2 * model[0](x)
    assert torch.equal(compiled(x), twice)
    ft.unpatch()
    for one in scripted, model:
        assert all(torch.equal(a, b) for a, b in zip(one(x), (y, indices), strict=True))
    assert torch.nn.functional.max_pool2d is not own


def test_operators_that_torchscript_was_told_of_stay_those_of_one_function() -> None:
    from torch.jit._builtins import _get_builtin_table

    ft.patch(only=["gelu"])
    known = weakref.ref(torch.nn.functional.gelu)
    size = len(_get_builtin_table())
    for _ in range(3):
        ft.unpatch()
        gc.collect()
        assert known() is not None  # TorchScript took the next object at its address for gelu
        ft.patch(only=["gelu"])
        assert torch.nn.functional.gelu is known()
    assert len(_get_builtin_table()) == size
    ft.unpatch()


def test_unpatch_puts_everything_back() -> None:
    before = {name: getattr(torch.nn.functional, name) for name in ("dropout", "gelu")} | {"AdamW": torch.optim.AdamW}
    ft.patch(only=["optim", "gelu"])
    assert torch.nn.functional.dropout is before["dropout"]
    assert torch.nn.functional.gelu is not before["gelu"]
    ft.patch(without=["optim"])
    assert torch.optim.AdamW is before["AdamW"]
    ft.unpatch()
    assert not ft.is_patched()
    assert torch.nn.functional.gelu is before["gelu"]
    with pytest.raises(ValueError, match=r"patch: only must have names of .*; got 'adam'"):
        ft.patch(only=["adam"])
    with pytest.raises(TypeError, match="patch: without must be a list of names, got 'optim'"):
        ft.patch(without="optim")
    assert not ft.is_patched()


# The command


def test_the_command_knows_every_swap() -> None:
    from fastopt.cli import run as command
    from fastopt.torch import _patch

    assert {*command.SWAPS} == {*_patch.SWAPS, "memory", "sklearn"}


def run(
    tmp_path: Path, script: str, *options: str, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "script.py"
    file.write_text(script)
    command = [sys.executable, "-m", "fastopt", "run", *options, str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ}, check=False)


SCRIPT = """
import atexit, os, pickle, sys
from torch import nn
from torch.optim import SGD
import torch
assert sys.argv[1:] == ["--", "--only", "3", "--"] and os.path.isabs(__file__), sys.argv
assert __name__ == "__main__"
class Own: pass
atexit.register(lambda: pickle.dumps(Own()))
os.chdir("/")
w = nn.Parameter(torch.ones(3))
opt = SGD([w], lr=0.1)
nn.functional.dropout(w, 0.5).sum().backward()
opt.step()
print(type(opt).__mro__[1].__module__, "dropout" in repr(nn.functional.dropout))
"""


def test_a_script_runs_unmodified(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(tmp_path, SCRIPT, "--report", report.name, arguments=("--", "--only", "3", "--"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fastopt.torch.optim True\n"
    assert done.stderr.splitlines()[-1] == "fastopt run: SGD 1 steps, dropout 0 of 1 calls"
    assert json.loads(report.read_text())["steps"] == {"SGD": 1}
    done = run(tmp_path, SCRIPT, "--only", "dropout,memory", "--quiet", arguments=("--", "--only", "3", "--"))
    assert (done.stdout, done.stderr) == ("torch.optim.optimizer True\n", "")


def test_scripts_that_end_otherwise(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys\nsys.exit(3)")
    assert done.returncode == 3
    assert done.stderr == "fastopt run: nothing that is swapped was imported\n"
    done = run(tmp_path, "raise KeyError('gone')")
    assert done.returncode == 1
    assert "KeyError: 'gone'" in done.stderr
    done = run(tmp_path, "print('ran')", "--report", "no/where.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no directory" in done.stderr
    done = run(tmp_path, "", "--only", "adam")
    assert done.returncode == 2
    assert "there is no 'adam'; there are batch_norm, clip" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "fastopt", "run", "gone.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no file gone.py; a module needs -m" in done.stderr


def test_a_module_runs_and_sklearn_is_accelerated(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "program.py").write_text(
        "from sklearn.neural_network import MLPClassifier\nimport fastopt.sklearn\nprint(fastopt.sklearn.is_accelerated(), __name__)\n"
        "import numpy\nMLPClassifier((3,), max_iter=1).partial_fit(numpy.eye(4), [0, 1, 0, 1], classes=[0, 1])\n"
    )
    command = [sys.executable, "-m", "fastopt", "run", "-m", "program"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "True __main__\n"
    assert done.stderr == "fastopt run: 1 fit of scikit-learn's networks\n"


@pytest.mark.parametrize(
    ("name", "options"), [("gpt", ["--steps", "5"]), ("cnn", ["--steps", "10"]), ("ppo", ["--rounds", "1"])]
)
def test_examples_run(name: str, options: list[str]) -> None:
    command = [sys.executable, str(ROOT / "examples" / f"torch_{name}.py"), "--small", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "times as fast" in done.stdout
