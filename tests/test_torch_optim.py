"""fastopt.torch.optim beside torch.optim: torch's own table of optimizers, states, everything around a step, and mistakes."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastopt as fo

torch = pytest.importorskip("torch", reason="needs torch")
from fastopt.torch import _generate, optim  # noqa: E402

OURS = [
    getattr(optim, name)
    for name in dir(optim)
    if isinstance(getattr(optim, name), type) and name not in ("Optimizer", "SparseAdam")
]
BOTH = [one for one in OURS if hasattr(torch.optim, one.__name__)]
ours = pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
both = pytest.mark.parametrize("cls", BOTH, ids=lambda cls: cls.__name__)
IN_BFLOAT16 = {"Muon"}  # torch's iterates in bfloat16
LR = {"Adadelta": 1.0, "Adafactor": 0.1}


def made(seed: int = 0, dtype: Any = torch.float64) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(7, 5, bias=False), torch.nn.Tanh(), torch.nn.Linear(5, 3, bias=False)
    ).to(dtype)


def train(model: Any, opt: Any, steps: int, first: int = 0, **options: Any) -> Any:
    for step in range(first, first + steps):
        opt.zero_grad()
        x = torch.randn(11, 7, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        model(x.to(next(model.parameters()).dtype)).square().sum().backward()
        opt.step(**options)
    return model


def new(cls: Any, model: Any, **kwargs: Any) -> Any:
    return cls(model.parameters(), **{"lr": LR.get(cls.__name__, 0.01), **kwargs})


def differ(a: Any, b: Any) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def equal(a: Any, b: Any) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def theirs(cls: Any) -> Any:
    return getattr(torch.optim, cls.__name__)


# torch's own table


def table() -> Any:
    pytest.importorskip("expecttest", reason="torch's table of optimizers needs it")
    from torch.testing._internal import common_optimizers

    return common_optimizers


@both
@pytest.mark.filterwarnings("ignore:Converting a tensor")  # in torch's ASGD
def test_every_entry_of_torchs_table(cls: Any) -> None:
    """Its arguments, tensors among them, with a closure."""
    (entry,) = (one for one in table().optim_db if one.optim_cls.__name__ == cls.__name__)
    for inputs in entry.optim_inputs_func(device="cpu"):
        results = []
        for one in (cls, entry.optim_cls):
            model = made()
            opt = one(model.parameters(), **copy.deepcopy(inputs.kwargs))

            def closure(model: Any = model, opt: Any = opt) -> Any:
                opt.zero_grad()
                loss = model(torch.ones(11, 7, dtype=torch.float64)).square().sum()
                loss.backward()
                return loss

            for _ in range(5):
                assert float(opt.step(closure)) > 0
            results.append(model)
        scale = max(float(p.detach().abs().max()) for p in results[1].parameters())
        assert differ(*results) <= scale * (2e-2 if cls.__name__ in IN_BFLOAT16 else 1e-6), inputs.desc


# torch warns where we raise; and these choose between implementations that we do not have.
NO_ERRORS_OF_OURS = ("foreach", "must be either both floats or both Tensors", "only support 2D parameters")


@both
def test_every_mistake_of_torchs_table_is_one(cls: Any) -> None:
    common = table()
    (entry,) = (one for one in common.optim_db if one.optim_cls.__name__ == cls.__name__)
    for mistake in entry.optim_error_inputs_func(device="cpu", dtype=torch.float64):
        given = mistake.optimizer_error_input
        if any(text in given.desc.replace("\\", "") for text in NO_ERRORS_OF_OURS):
            continue
        expected = (
            (ValueError, TypeError) if "complex" in given.desc or "duplicate" in given.desc else mistake.error_type
        )
        with pytest.raises(expected):
            cls(given.params, **given.kwargs).step()


def test_the_classes_are_generated() -> None:
    """By python -m fastopt.torch._generate > python/fastopt/torch/optim/_classes.py, then ruff format."""
    import ast

    written = inspect.getsource(inspect.getmodule(optim.AdamW.__init__))
    assert ast.dump(ast.parse(_generate.source())) == ast.dump(ast.parse(written))


@both
def test_arguments_are_torchs(cls: Any) -> None:
    own, other = (inspect.signature(one).parameters for one in (cls, theirs(cls)))
    assert other.keys() <= own.keys() | {"foreach"}
    positional = [key for key, one in other.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert [*own][: len(positional)] == positional
    for key in other:
        if key in own and key not in ("params", "decoupled_weight_decay"):
            assert own[key].default == other[key].default, key


# States


@both
def test_states_go_both_ways_in_mid_run(cls: Any) -> None:
    tolerance = 2e-2 if cls.__name__ in IN_BFLOAT16 else 1e-7
    a, b = made(), made()
    ours, other = new(cls, a), new(theirs(cls), b)
    train(a, ours, 3), train(b, other, 3)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        known = {key: value for key, value in other.state[q].items() if value is not None}
        assert ours.state[p].keys() == known.keys()
        for key, value in known.items():
            assert ours.state[p][key].shape == torch.as_tensor(value).shape
            assert key != "step" or (ours.state[p][key] == value and ours.state[p][key].dtype == torch.float32)
    reference = copy.deepcopy(b)
    train(reference, _resumed(theirs(cls), reference, other), 3, 3)
    for model, opt in ((a, ours), (b, other)):
        for target in (cls, theirs(cls)):
            resumed = copy.deepcopy(model)
            loaded = _resumed(target, resumed, opt)
            assert loaded.param_groups[0]["lr"] == opt.param_groups[0]["lr"]
            assert differ(train(resumed, loaded, 3, 3), reference) <= tolerance


def _resumed(cls: Any, model: Any, source: Any) -> Any:
    """An optimizer with the state of another one, through a file."""
    opt, file = new(cls, model, lr=0.5), io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    opt.load_state_dict(torch.load(file, weights_only=True))
    return opt


@ours
@pytest.mark.parametrize("how", ["copy", "pickle", "state_dict"])
def test_what_is_resumed_is_the_same_run(cls: Any, how: str) -> None:
    model = made()
    opt = new(cls, model, ema_decay=0.9, seed=3, noise=0.01)
    train(model, opt, 3)
    if how == "state_dict":
        other = copy.deepcopy(model)
        again = new(cls, other, ema_decay=0.9, seed=3, noise=0.01)
        again.load_state_dict(copy.deepcopy(opt.state_dict()))
    else:
        other, again = copy.deepcopy((model, opt)) if how == "copy" else pickle.loads(pickle.dumps((model, opt)))
    assert equal(train(model, opt, 3, 3), train(other, again, 3, 3))
    averages = [[state["ema_param"] for state in one.state.values()] for one in (opt, again)]
    assert all(torch.equal(*pair) for pair in zip(*averages, strict=True))
    assert opt.info == again.info


@pytest.mark.parametrize(
    "kwargs", [{"moments": "8bit"}, {"moments": "bfloat16"}, {"weights": "master"}, {"weights": "kahan"}]
)
def test_formats_survive_a_state(kwargs: dict[str, Any]) -> None:
    pytest.importorskip("ml_dtypes")
    dtype = torch.bfloat16 if "weights" in kwargs else torch.float32
    model = made(dtype=dtype)
    opt = new(optim.AdamW, model, **kwargs)
    train(model, opt, 3)
    other = copy.deepcopy(model)
    again = new(optim.AdamW, other, **kwargs)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert equal(train(model, opt, 3, 3), train(other, again, 3, 3))
    dtypes = {key: value.dtype for key, value in opt.state[next(model.parameters())].items()}
    if "moments" in kwargs:
        assert dtypes["exp_avg"] == (torch.uint8 if kwargs["moments"] == "8bit" else torch.bfloat16)
    else:
        assert dtypes["exp_avg"] == torch.float32  # and not that of the parameter, to which torch casts


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_dtype_is_fastopts_step(dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    model = made(dtype=getattr(torch, dtype))
    arrays = [_array(p).copy() for p in model.parameters()]
    opt, expected = new(optim.AdamW, model), fo.optim.AdamW(arrays, lr=0.01)
    for step in range(3):
        train(model, opt, 1, step)
        expected.step([_array(p.grad) for p in model.parameters()])
    assert all(np.array_equal(_array(p), array) for p, array in zip(model.parameters(), arrays, strict=True))


def _array(tensor: Any) -> Any:
    from ml_dtypes import bfloat16

    tensor = tensor.detach()
    return tensor.view(torch.int16).numpy().view(bfloat16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def test_the_state_is_live() -> None:
    """It is torch's in every way in which programs use it."""
    a, b = made(), made()
    opts = optim.AdamW(a.parameters(), lr=0.1), torch.optim.AdamW(b.parameters(), lr=0.1)
    assert not opts[0].state
    for model, opt in zip((a, b), opts, strict=True):
        first, second = model.parameters()
        train(model, opt, 2)
        opt.state[first]["exp_avg"].mul_(2)
        train(model, opt, 1, 2)
        opt.state[first]["exp_avg"] = torch.ones_like(first)
        train(model, opt, 1, 3)
        opt.state[second]["step"].fill_(1)
        train(model, opt, 1, 4)
        del opt.state[first]
        train(model, opt, 1, 5)
        opt.state.clear()
        train(model, opt, 1, 6)
        opt.state[second] = {
            "step": torch.tensor(3.0),
            "exp_avg": torch.ones_like(second),
            "exp_avg_sq": torch.ones_like(second),
        }
        train(model, opt, 1, 7)
        opt.state = type(opt.state)(dict) if model is b else torch.optim.AdamW(a.parameters()).state
        train(model, opt, 2, 8)
    assert differ(a, b) <= 1e-12
    assert all(torch.equal(opts[0].state[p]["step"], torch.tensor(2.0)) for p in a.parameters())


def test_parameters_change() -> None:
    """What torch allows between steps: other memory, another dtype, no gradient, more groups."""
    a, b = made(), made()
    for model, cls in ((a, optim.Adam), (b, torch.optim.Adam)):
        first = next(model.parameters())
        opt = cls(model.parameters(), lr=0.1)
        first.requires_grad_(False)
        train(model, opt, 2)
        first.requires_grad_(True)
        train(model, opt, 2, 2)
        first.data = first.data.clone() + 1
        train(model, opt, 2, 4)
        with torch.no_grad():
            first.set_(first.detach().clone())
        train(model, opt, 1, 6)
        extra = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        opt.add_param_group({"params": [extra], "lr": 0.5, "weight_decay": 0.1})
        extra.grad = torch.ones(3, dtype=torch.float64)
        train(model, opt, 1, 7)
        extra.grad = torch.full((3,), 0.5, dtype=torch.float64)
        opt.step()
        model.register_parameter("extra", extra)
        opt.param_groups[0]["params"].pop()
        opt.param_groups[0]["lr"] = 0.01
        train(model, opt, 2, 8)
    assert differ(a, b) <= 1e-12


def test_a_model_changes_its_dtype() -> None:
    model = made(dtype=torch.float32)
    opt = new(optim.Adam, model)
    train(model, opt, 2)
    model.double()
    train(model, opt, 2, 2)
    assert all(state["exp_avg"].dtype == torch.float64 and state["step"] == 4 for state in opt.state.values())


# Around a step


def test_schedulers_and_tensors_as_learning_rates() -> None:
    for make in (
        lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 5),
        lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, 6),
        lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda count: 0.9**count),
    ):
        for lr in (0.01, torch.tensor(0.01)):
            a, b = made(), made()
            for model, cls in ((a, optim.AdamW), (b, torch.optim.AdamW)):
                opt = cls(model.parameters(), lr=copy.deepcopy(lr), foreach=False)
                schedule = make(opt)
                for step in range(5):
                    train(model, opt, 1, step)
                    schedule.step()
            assert differ(a, b) <= 1e-6  # a tensor is float32


def test_clipping_is_torchs() -> None:
    a, b = made(), made()
    opt, other = new(optim.AdamW, a), new(torch.optim.AdamW, b)
    for step in range(4):
        train(a, opt, 1, step, clip_norm=0.5)
        other.zero_grad()
        x = torch.randn(11, 7, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        b(x).square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(b.parameters(), 0.5)
        other.step()
        assert opt.info.grad_norm == pytest.approx(float(norm), rel=1e-9)
    assert differ(a, b) <= 1e-12


def test_gradients_are_zeroed_in_place_and_skipped() -> None:
    model = made()
    opt = new(optim.AdamW, model)
    train(model, opt, 1, zero_grads=True)
    grads = [p.grad for p in model.parameters()]
    assert not any(g.any() for g in grads)
    before = copy.deepcopy(model)
    grads[0][0, 0] = np.inf
    opt.step(skip_nonfinite=True)
    assert equal(model, before)
    assert opt.info.skipped
    assert opt.info.step == 1


@pytest.mark.parametrize("amp_scaling", [False, True])
def test_grad_scaler(amp_scaling: bool) -> None:
    a, b = made(dtype=torch.float32), made(dtype=torch.float32)
    for model, cls, more in ((a, optim.AdamW, {"amp_scaling": amp_scaling}), (b, torch.optim.AdamW, {})):
        opt = cls(model.parameters(), lr=0.01, **more)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        for step in range(6):
            opt.zero_grad()
            scaler.scale(model(torch.full((2, 7), np.inf if step == 3 else step + 1.0)).square().sum()).backward()
            scaler.step(opt)
            scaler.update()
        assert scaler.get_scale() == 16.0
    assert differ(a, b) <= 1e-6


def test_hooks_see_the_step() -> None:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    model = made()
    opt = new(optim.SGD, model)
    seen: list[str] = []
    handles = [
        opt.register_step_pre_hook(lambda *_: seen.append("before")),
        opt.register_step_post_hook(lambda *_: seen.append("after")),
        register_optimizer_step_pre_hook(lambda *_: seen.append("everywhere")),
    ]
    train(model, opt, 1)
    assert seen == ["everywhere", "before", "after"]
    for handle in handles:
        handle.remove()
    train(model, opt, 1)
    assert len(seen) == 3
    with torch.autograd.profiler.profile() as profile:
        opt.step()
    assert "Optimizer.step#SGD.step" in [event.name for event in profile.function_events]


def test_autograd_notices_the_update() -> None:
    w = torch.nn.Parameter(torch.ones(3))
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_is_kept_alive() -> None:
    model = made()
    opt = new(optim.AdamW, model)
    train(model, opt, 2)
    grad = weakref.ref(next(model.parameters()).grad)
    opt.zero_grad()
    assert grad() is None
    gone = weakref.ref(opt)
    del opt
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (optim.SGD, {"momentum": 0.9}),
        (optim.SGD, {"momentum": 0.9, "velocity": True}),
        (optim.Adam, {"amsgrad": True}),
        (optim.RMSprop, {"momentum": 0.5, "centered": True}),
        (optim.AdamW, {"l2_init": 0.1}),
    ],
)
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}])
def test_what_is_switched_on_in_mid_run_is_in_the_state(
    cls: Any, changes: dict[str, Any], options: dict[str, Any], in_backward: bool
) -> None:
    """A run that is saved and loaded goes on as it is, whether the changed parameter has taken a step since or not."""

    def step(opt: Any, which: tuple[int, ...]) -> None:
        opt.zero_grad()
        for i in which:
            p = opt.param_groups[0]["params"][i]
            (p * torch.full_like(p, 0.5 + i)).sum().backward()
        opt.step()

    def new(params: list[Any]) -> Any:
        return cls(params, lr=0.1, in_backward=in_backward, **options)

    opt = new([torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))])
    for _ in range(3):
        step(opt, (0, 1))
    opt.param_groups[0].update(changes)
    for _ in range(2):
        step(opt, (0,))
        twins = [torch.nn.Parameter(p.detach().clone()) for p in opt.param_groups[0]["params"]]
        other = new(twins)
        other.load_state_dict(copy.deepcopy(opt.state_dict()))
        for each in opt, other:
            step(each, (0, 1))
        for p, q in zip(opt.param_groups[0]["params"], twins, strict=True):
            assert torch.equal(p, q)
            assert opt.state[p].keys() == other.state[q].keys()
            assert all(torch.equal(value, other.state[q][key]) for key, value in opt.state[p].items())


def test_any_dense_memory_order() -> None:
    for cls in (optim.AdamW, optim.SGD, optim.Adafactor):
        a = torch.nn.Conv2d(3, 4, 3).double()
        b = copy.deepcopy(a)
        if cls is not optim.Adafactor:
            a = a.to(memory_format=torch.channels_last)
        kwargs: dict[str, Any] = {"momentum": 0.9} if cls is optim.SGD else {}
        opts = cls(a.parameters(), lr=0.1, **kwargs), theirs(cls)(b.parameters(), lr=0.1, **kwargs)
        for opt, model in zip(opts, (a, b), strict=True):
            for step in range(3):
                opt.zero_grad()
                x = torch.linspace(-1, 1 + step, 2 * 3 * 6 * 6, dtype=torch.float64).reshape(2, 3, 6, 6)
                if step == 1:
                    x = x.to(memory_format=torch.channels_last)
                model(x).square().sum().backward()
                opt.step()
        assert differ(a, b) <= 1e-10
        for key, value in opts[0].state[a.weight].items():
            if value.shape == a.weight.shape:
                assert value.stride() == a.weight.stride(), key
        copied = cls(copy.deepcopy(b).parameters(), lr=0.1)  # its weight is contiguous
        copied.load_state_dict(opts[0].state_dict())
        copied.step()
        for p, q in zip(a.parameters(), copied.param_groups[0]["params"], strict=True):
            assert torch.equal(
                opts[0].state[p].get("exp_avg", torch.ones(1)), copied.state[q].get("exp_avg", torch.ones(1))
            )


# Layers of two filters, of one, and with one channel or one pixel.
FILTERS = [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (2, 3, 1, 5)]


@ours
@pytest.mark.parametrize("shape", FILTERS)
def test_every_rule_takes_channels_last_or_says_what_it_needs(cls: Any, shape: tuple[int, ...]) -> None:
    """With the result of the same weight in the order of its axes, and of torch's rule; clipped by filters too."""
    if cls.__name__ == "Muon":  # takes matrices only
        return
    data = torch.linspace(-1, 1, int(np.prod(shape)), dtype=torch.float64).sin().reshape(shape)
    last = data.clone().to(memory_format=torch.channels_last)
    if cls is optim.Adafactor and not last.is_contiguous():
        with pytest.raises(
            TypeError, match=r"params\[0\] is not contiguous in the order of its axes.*p\.data = p\.data\.contiguous"
        ):
            cls([torch.nn.Parameter(last)])
        return
    options: dict[str, Any]
    for options in {}, {"clip_adaptive": 0.01}, {"clip_norm": 0.1}:
        rules = [cls, cls, *([getattr(torch.optim, cls.__name__)] if cls in BOTH and not options else [])]
        params = [torch.nn.Parameter(one.clone()) for one in (data, last, last)[: len(rules)]]
        for rule, p in zip(rules, params, strict=True):
            opt = rule([p], lr=LR.get(cls.__name__, 0.01))
            for step in range(3):
                p.grad = (p.detach() * (step + 2)).cos()
                opt.step(**options)
        for p, most in zip(params[1:], (1e-12, 1e-9), strict=False):
            assert float((p - params[0]).detach().abs().max()) <= most, options


@pytest.mark.parametrize("cls", [optim.SGD, optim.AdamW])
def test_rows_are_those_of_the_tensor(cls: Any) -> None:
    """A matrix whose rows are not rows in memory is refused where rows count."""
    p = torch.nn.Parameter(torch.ones(3, 3).t())
    p.data = torch.arange(9.0).reshape(3, 3).t()
    opt = cls([p], lr=0.1)
    before = p.detach().clone()
    p.grad = torch.ones(3, 3)
    with pytest.raises(
        TypeError, match=r"clip_adaptive takes rows of params\[0\], whose first axis is not the outermost"
    ):
        opt.step(clip_adaptive=0.1)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 3), (3, 3), check_invariants=True)
    with pytest.raises(
        TypeError, match=r"the sparse gradient has rows of params\[0\], whose first axis is not the outermost"
    ):
        opt.step()
    assert torch.equal(p, before)
    p.data = p.data.contiguous()
    opt.step()
    assert (p != before).any(1).tolist() == [False, True, False]


def test_rows_of_a_sparse_gradient_have_the_axes_of_the_tensor() -> None:
    data = torch.arange(24.0).reshape(2, 4, 3).transpose(1, 2)
    p, q = (
        torch.nn.Parameter(one.clone(memory_format=form))
        for one, form in ((data, torch.preserve_format), (data, torch.contiguous_format))
    )
    assert not p.is_contiguous()
    assert q.is_contiguous()
    for one in p, q:
        one.grad = torch.sparse_coo_tensor(
            torch.tensor([[1]]), torch.arange(12.0).reshape(1, 3, 4), one.shape, check_invariants=True
        )
        optim.SGD([one], lr=0.1).step()
    assert torch.equal(p, q)


def _step_of(value: Any, grad: Any, **kwargs: Any) -> Any:
    w = torch.nn.Parameter(value)
    if grad.dtype != value.dtype:
        w.grad_dtype = grad.dtype
    w.grad = grad
    opt = optim.AdamW([w], lr=0.1, weights="nearest")
    for _ in range(3):
        opt.step(**kwargs)
    return w.detach()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (1, 1, 5), (3, 1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_any_shape(shape: tuple[int, ...], dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    kind = getattr(torch, dtype)
    w = torch.nn.Parameter(torch.ones(shape, dtype=kind))
    other = torch.nn.Parameter(torch.ones(shape, dtype=torch.float64))
    opt, theirs = optim.AdamW([w], lr=0.1, weights="nearest"), torch.optim.AdamW([other], lr=0.1)
    for step in range(3):
        w.grad, other.grad = (torch.full(shape, 1.0 + step, dtype=one.dtype) for one in (w, other))
        opt.step()
        theirs.step()
    assert w.shape == shape
    assert torch.allclose(w.detach().double(), other.detach(), atol=2e-2 if kind.itemsize == 2 else 1e-6)
    assert opt.state[w]["exp_avg"].shape == shape


def test_any_gradient_that_is_only_read() -> None:
    ones = torch.ones(6)
    expected = _step_of(ones.clone(), torch.full((6,), 0.5))
    for grad in (
        torch.full((1,), 0.5).expand(6),
        torch.full((12,), 0.5)[::2],
        torch.full((6,), 0.5, dtype=torch.bfloat16),
        torch.full((6,), 0.5).as_subclass(type("Sub", (torch.Tensor,), {})),
        torch.frombuffer(bytearray(b"x" + np.full(6, 0.5, np.float32).tobytes()), dtype=torch.float32, offset=1),
        torch.complex(torch.zeros(6), torch.full((6,), -0.5)).conj().imag,
    ):
        assert torch.equal(_step_of(ones.clone(), grad), expected)
    with pytest.raises(ValueError, match="has elements that share memory, and would be zeroed"):
        _step_of(ones.clone(), torch.full((1,), 0.5).expand(6), zero_grads=True)
    with pytest.raises(TypeError, match=r"the gradient of params\[0\] has dtype torch.float64, expected torch.float32"):
        _step_of(ones.clone(), torch.ones(6, dtype=torch.float64))


def test_a_parameter_of_another_shape() -> None:
    w = torch.nn.Parameter(torch.ones(4))
    opt = optim.AdamW([w], lr=0.1)
    w.grad = torch.ones(4)
    opt.step()
    w.data, w.grad = torch.ones(6), torch.ones(6)
    with pytest.raises(
        ValueError, match=r"exp_avg of params\[0\].* has shape \(4,\), expected \(6,\); del opt.state\[p\]"
    ):
        opt.step()
    del opt.state[w]
    opt.step()
    assert torch.allclose(w.detach(), torch.full((6,), 0.899))


def test_every_mode_of_autograd() -> None:
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        w = torch.nn.Parameter(torch.ones(4))
        with mode():
            w.grad = torch.ones(4)
            optim.SGD([w], lr=0.5).step()
        assert w.tolist() == [0.5] * 4
    with torch.inference_mode():
        w = torch.ones(4)
    w.grad = torch.ones(4)
    optim.SGD([w], lr=0.5).step()
    assert w.tolist() == [0.5] * 4


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_sparse_gradients() -> None:
    for cls, other, kwargs in (
        (optim.SparseAdam, torch.optim.SparseAdam, {}),
        (optim.Adam, torch.optim.SparseAdam, {"eps_hat": True}),
        (optim.SGD, torch.optim.SGD, {}),
        (optim.SGD, torch.optim.SGD, {"momentum": 0.9}),
        (optim.Adagrad, torch.optim.Adagrad, {}),
    ):
        a = torch.nn.Embedding(9, 4, sparse=True).double()
        b = copy.deepcopy(a)
        for model, make in ((a, cls), (b, other)):
            opt = make(model.parameters(), lr=0.1, **(kwargs if model is a or "momentum" in kwargs else {}))
            for words in ([1, 5, 1], [2, 5, 5, 0], [7]):
                opt.zero_grad()
                model(torch.tensor(words)).square().sum().backward()
                opt.step()
        assert differ(a, b) <= 1e-12, (cls, kwargs)


# In backward


@ours
def test_in_backward_is_the_same_run(cls: Any) -> None:
    a, b = made(), made()
    usual, early = new(cls, a), new(cls, b, in_backward=True)
    for step in range(3):
        train(a, usual, 1, step)
        x = torch.randn(11, 7, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        b(x).square().sum().backward()
        assert all(p.grad is None for p in b.parameters())
        early.step()
    assert equal(a, b)
    c = copy.deepcopy(b)
    again = new(cls, c, in_backward=True)
    again.load_state_dict(copy.deepcopy(early.state_dict()))
    c(x).square().sum().backward(), b(x).square().sum().backward()
    assert equal(b, c)
    _, model = copy.deepcopy((early, b))
    model(x).square().sum().backward(), b(x).square().sum().backward()
    assert equal(b, model)
    assert not equal(b, c)
    with pytest.raises(ValueError, match="takes no options with in_backward"):
        early.step(clip_norm=1.0)


def test_the_last_optimizer_in_backward_has_the_parameter() -> None:
    w = torch.nn.Parameter(torch.ones(2))
    first = optim.SGD([w], lr=0.5, in_backward=True)
    second = optim.SGD([w], lr=0.25, in_backward=True)
    w.sum().backward()
    assert w.tolist() == [0.75, 0.75]
    assert first.info is None
    assert second.info is not None
    del second
    gc.collect()
    w.sum().backward()  # nobody steps it any more
    assert w.tolist() == [0.75, 0.75]
    assert w.grad is not None


def test_parameters_that_join_and_leave_in_backward() -> None:
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    opt = optim.SGD([a, b], lr=0.25, in_backward=True)
    b.requires_grad_(True)
    for _ in range(2):
        (a + b).sum().backward()
        opt.step()
    assert a.tolist() == b.tolist() == [0.5, 0.5]
    opt.param_groups[0]["params"].pop()
    (a + b).sum().backward()
    assert (a.tolist(), b.tolist()) == ([0.25, 0.25], [0.5, 0.5])


def test_another_default_device() -> None:
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    with torch.device("meta"):
        optim.Adam([w], lr=0.5).step()
    assert torch.allclose(w.detach(), torch.full((3,), 0.5))


def test_torch_refuses_codes() -> None:
    w = torch.nn.Parameter(torch.ones(64))
    w.grad = torch.ones(64)
    opt = optim.AdamW([w], lr=0.01, moments="8bit")
    opt.step()
    theirs = torch.optim.AdamW([w], lr=0.01)
    theirs.load_state_dict(copy.deepcopy(opt.state_dict()))
    with pytest.raises(KeyError, match="exp_avg"):
        theirs.step()
    wide = optim.AdamW([w], lr=0.01)
    wide.load_state_dict(opt.state_dict())
    theirs.load_state_dict(wide.state_dict())
    theirs.step()


def test_a_forked_child_steps() -> None:
    """Also while another thread is in a step."""
    w = torch.nn.Parameter(torch.ones(100_000))
    w.grad = torch.ones(100_000)
    opt = optim.AdamW([w])
    opt.step()
    stop: list[int] = []

    def work() -> None:
        while not stop:
            opt.step()

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            opt.step()
            os._exit(0)
        for _ in range(1000):
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            stop.append(1)
            raise AssertionError("the child hangs")
    stop.append(1)
    thread.join()


# Threads and mistakes


def test_threads_take_turns() -> None:
    model = made()
    opt = new(optim.AdamW, model)
    train(model, opt, 1)
    threads = [threading.Thread(target=lambda: [opt.step() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opt.info.step == 201
    assert all(state["step"] == 201 for state in opt.state.values())


def parameter(*shape: int, **kwargs: Any) -> Any:
    return torch.nn.Parameter(torch.ones(*shape, **kwargs))


SHARED = torch.ones(8)
MISTAKES: list[tuple[Callable[[], Any], Any, str]] = [
    (
        lambda: optim.AdamW([parameter(2, device="meta")]),
        TypeError,
        r"AdamW: params\[0\] is on meta, and fastopt works on the CPU",
    ),
    (
        lambda: optim.AdamW([parameter(2), parameter(2, dtype=torch.complex64)]),
        TypeError,
        r"params\[1\] has dtype torch.complex64",
    ),
    (
        lambda: optim.AdamW([torch.nn.Parameter(torch.ones(4, 4)[:, ::2])]).step(),
        TypeError,
        r"params\[0\] is not contiguous",
    ),
    (
        lambda: optim.Adafactor([torch.nn.Parameter(torch.ones(4, 3).T)]).step(),
        TypeError,
        r"params\[0\] is not contiguous",
    ),
    (
        lambda: optim.AdamW([torch.nn.Parameter(SHARED[:5]), torch.nn.Parameter(SHARED[4:])]).step(),
        ValueError,
        r"params\[0\] and params\[1\] share memory",
    ),
    (lambda: optim.AdamW([SHARED] * 2), ValueError, "a parameter twice"),
    (lambda: optim.AdamW([parameter(2)], lr=-1.0), ValueError, "AdamW: lr must be finite and >= 0, got -1.0"),
    (lambda: optim.AdamW([parameter(2)], lr=torch.ones(2)), ValueError, "Tensor lr must be 1-element"),
    (lambda: optim.AdamW([parameter(2)], betas=(0.9, 1.5)), ValueError, r"beta2 must be in \[0, 1\)"),
    (lambda: optim.AdamW([{"params": [parameter(2)], "weigth_decay": 0.1}]), ValueError, "did you mean weight_decay"),
    (
        lambda: optim.AdamW([("w", parameter(2)), ("blk.w", parameter(2, dtype=torch.complex64))]),
        TypeError,
        r"params\[1\] \(blk.w\) has dtype",
    ),
    (lambda: optim.AdamW([{"params": [parameter(2)], "betas": (2, 0.9)}]), ValueError, "beta1"),
    (lambda: optim.AdamW([parameter(2)], weight_deacy=0.1), TypeError, "weight_deacy"),  # type: ignore[call-arg]
    (
        lambda: optim.AdamW([parameter(2)], differentiable=True),
        ValueError,
        "differentiable=True is not supported; use torch.optim.AdamW",
    ),
    (lambda: optim.AdamW([parameter(2)], in_backward=True, amp_scaling=True), ValueError, "exclude each other"),
    (lambda: optim.AdamW([parameter(2)]).step(clip_norm=1.0, clip_value=1.0), ValueError, "exclude each other"),
    (
        lambda: optim.AdamW([parameter(2)]).load_state_dict(
            torch.optim.AdamW([parameter(2), parameter(2)]).state_dict()
        ),
        ValueError,
        "different number|size",
    ),
    (
        lambda: optim.AdamW([parameter(2)]).load_state_dict(optim.Adam([parameter(2)]).state_dict()),
        ValueError,
        "AdamW: state_dict is that of Adam",
    ),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes(number: int) -> None:
    call, error, text = MISTAKES[number]
    with pytest.raises(error, match=text):
        call()


def test_a_mistake_changes_nothing() -> None:
    model = made()
    opt = new(optim.AdamW, model)
    train(model, opt, 2)
    before, state = copy.deepcopy(model), copy.deepcopy(opt.state_dict())
    first = next(model.parameters())
    for key, wrong in (("lr", -1.0), ("betas", (0.9, 2.0)), ("lr", "fast")):
        right = opt.param_groups[0][key]
        opt.param_groups[0][key] = wrong
        with pytest.raises((ValueError, TypeError), match="AdamW"):
            opt.step()
        opt.param_groups[0][key] = right
    grad = first.grad
    first.grad = None
    list(model.parameters())[1].grad = first.data.view(-1)[:15].view(3, 5)
    with pytest.raises(ValueError, match="overlaps"):
        opt.step()
    assert equal(model, before)
    after = opt.state_dict()
    assert all(
        torch.equal(after["state"][i][key], value) for i, one in state["state"].items() for key, value in one.items()
    )
    first.grad = grad
    list(model.parameters())[1].grad = torch.ones(3, 5, dtype=torch.float64)
    opt.step()
    assert opt.info.step == 3


def test_a_wrong_state_changes_nothing() -> None:
    model, other = made(), made()
    opt, same = new(optim.AdamW, model), new(optim.AdamW, other)
    train(model, opt, 2), train(other, same, 2)
    for key, value, text in (
        ("exp_avg", torch.ones(3), "exp_avg"),
        ("exp_avg", "ones", "exp_avg"),
        ("unknown", torch.ones(3), "unknown"),
        ("step", torch.tensor(-1.0), "step"),
    ):
        wrong = copy.deepcopy(opt.state_dict())
        wrong["state"][1][key] = value
        with pytest.raises((TypeError, ValueError), match=text):
            opt.load_state_dict(wrong)
    wrong = copy.deepcopy(opt.state_dict())
    wrong["param_groups"][0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be"):
        opt.load_state_dict(wrong)
    assert equal(train(model, opt, 2, 2), train(other, same, 2, 2))


@pytest.mark.parametrize("in_backward", [False, True])
def test_errors_of_states_and_gradients_name_the_parameter(in_backward: bool) -> None:
    model = torch.nn.Linear(4, 3)
    saved = torch.optim.AdamW(model.named_parameters())
    model(torch.ones(2, 4)).sum().backward()
    saved.step()
    state = saved.state_dict()
    weight, resized = parameter(3, 4), parameter(5)
    opt = optim.AdamW([("weight", weight), ("bias", resized)], in_backward=in_backward)
    text = (
        r"exp_avg of params\[1\] \(bias\) in state_dict has shape \(3,\), expected \(5,\); .*del state_dict\['state'\]"
    )
    with pytest.raises(ValueError, match=rf"^AdamW: {text}"):
        opt.load_state_dict(state)
    del state["state"][1]  # the way out
    opt.load_state_dict(state)
    assert torch.equal(opt.state[weight]["exp_avg"], saved.state[model.weight]["exp_avg"])

    embedding = parameter(5, 2)
    sgd = optim.SGD([("first", parameter(2)), ("emb", embedding)], in_backward=in_backward)
    with torch.sparse.check_sparse_tensor_invariants(False):
        embedding.grad = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1, 2), (5, 2))
    embedding.grad._indices()[0] = 7
    step = partial(sgd._step_now, embedding) if in_backward else sgd.step
    with pytest.raises(ValueError, match=r"^SGD: grads\[1\].indices\[0\] \(emb\) must be in \[0, 5\), got 7$"):
        step()


def test_torch_compile_leaves_it_alone() -> None:
    pytest.importorskip("torch._dynamo")
    a, b = made(), made()
    opt, other = new(optim.AdamW, a), new(optim.AdamW, b)
    train(b, other, 2)
    step = torch.compile(opt.step, backend="eager")

    @torch.compile(backend="eager")
    def whole(x: Any) -> None:
        opt.zero_grad()
        a(x).square().sum().backward()
        opt.step()

    for number in range(2):
        x = torch.randn(11, 7, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        if number:
            whole(x)
        else:
            a(x).square().sum().backward()
            step()
    assert equal(a, b)
