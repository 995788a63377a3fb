"""Rules that need no schedule: their views, their averages, and the options that they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import Generator
from tables import CLASSES, OPTIMIZERS, SCHEDULE_FREE, Options, ordinary
from tools import assert_close, bits, copies, everything

from fastopt import optim

LR = 0.05


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.3}),
        ("SGD", {"lr": 0.3, "momentum": 0.7, "weight_decay": 0.1, "warmup_steps": 8, "r": 1.0, "weight_lr_power": 1.0}),
        ("AdamW", {"lr": 0.03}),
        ("AdamW", {"lr": 0.03, "betas": (0.8, 0.99), "weight_decay": 0.1, "warmup_steps": 8, "r": 0.5}),
    ],
    ids=str,
)
def test_schedule_free_views_are_the_authors(name: str, options: Options, rng: Generator) -> None:
    torch = pytest.importorskip("torch")
    schedulefree = pytest.importorskip("schedulefree")
    params = [ordinary(rng, (7, 3)), ordinary(rng, (5,))]
    tensors = [torch.tensor(p, requires_grad=True) for p in params]
    opt = getattr(optim, f"ScheduleFree{name}")(params, **options)
    ref = getattr(schedulefree, f"{name}ScheduleFree")(tensors, foreach=False, **options)

    def compare() -> None:
        assert_close(params, [q.detach().numpy() for q in tensors])

    opt.train()
    ref.train()
    for step in range(20):
        if step == 10:
            for groups in opt.param_groups, ref.param_groups:
                groups[0]["lr"] = options["lr"] / 3
        grads = [ordinary(rng, p.shape) for p in params]
        for q, g in zip(tensors, grads, strict=True):
            q.grad = torch.tensor(g)
        opt.step(grads)
        ref.step()
        compare()
        if step % 6 == 5:
            for one in opt, ref:
                one.eval()
            compare()
            opt.eval()  # a second call changes nothing
            compare()
            for one in opt, ref:
                one.train()
            opt.train()
            compare()


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_averages_what_it_stepped_through(name: str, rng: Generator) -> None:
    """With equal weights x is the mean of all z; a step in evaluation is an error that changes nothing."""
    params = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name](params, lr=LR)
    zs = [copies([one["z"] for one in opt.state])]
    for _ in range(6):
        opt.step(OPTIMIZERS[name].arrays(rng))
        zs.append(copies([one["z"] for one in opt.state]))
    opt.eval()
    before = everything(opt)
    with pytest.raises(ValueError, match=rf"^{name}: the parameters are set for evaluation; call train\(\) first$"):
        opt.step(OPTIMIZERS[name].arrays(rng))
    assert everything(opt) == before
    assert_close(params, [np.asarray(np.mean(some, axis=0)) for some in list(zip(*zs[1:], strict=True))], 1e-11)


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_begins_where_the_parameters_are_then(name: str, rng: Generator) -> None:
    """It begins with weights that are loaded into the parameters after the optimizer was made and before its first
    step.
    """
    params = OPTIMIZERS[name].arrays(rng)
    twins = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name](params, lr=LR)
    for p, q in zip(params, twins, strict=True):
        p[...] = q
    plain = CLASSES[name](twins, lr=LR)
    for _ in range(3):
        grads = OPTIMIZERS[name].arrays(rng)
        opt.step(grads)
        plain.step(grads)
    assert bits(params) == bits(twins)


@pytest.mark.parametrize("option", ["decoupled_weight_decay", "proximal_l1"])
@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_rules_refuse_what_would_act_on_one_view_only(name: str, option: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: decoupled_weight_decay and proximal_l1 would act on y only"):
        CLASSES[name]([np.ones(3)], **{option: True})


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_views_are_the_same_before_the_first_step(name: str, rng: Generator) -> None:
    params = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name](params, lr=LR)
    for p, q in zip(params, OPTIMIZERS[name].arrays(rng), strict=True):
        p[...] = q
    before = bits(params)
    opt.eval()
    assert bits(params) == before
    opt.train()
    assert bits(params) == before
