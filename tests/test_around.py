"""What surrounds every rule: averages, accumulation, clipping, penalties, noise, structures, switches; by introspection."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from optimizers import (
    CLASSES,
    Array,
    Options,
    arrays,
    copies,
    everything,
    leaves,
    normal,
    richest,
    shapes_for,
    variants,
)

import fastopt as fo
from fastopt import optim

LR = 0.05
SCHEDULE_FREE = [name for name in CLASSES if hasattr(CLASSES[name], "eval")]

classes = pytest.mark.parametrize("name", CLASSES)
decoupling = pytest.mark.parametrize("name", [name for name in CLASSES if name not in SCHEDULE_FREE])
every_variant = pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id="-".join([name, *(f"{key}={value}" for key, value in options.items())]))
        for name in CLASSES
        for options in variants(name)
    ],
)


def some_missing(grads: list[Array], step: int) -> list[Array | None]:
    return [None if (step + i) % 3 == 1 else g for i, g in enumerate(grads)]


def bits(some: list[Array]) -> list[bytes]:
    return [one.tobytes() for one in some]


def assert_close(some: Any, others: Any, rtol: float = 1e-12) -> None:
    some, others = leaves(some), leaves(others)
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.shape == other.shape
        bound = rtol * np.max(np.abs(other), initial=1.0)
        assert np.max(np.abs(one - other), initial=0) <= bound


# Averages


@pytest.mark.parametrize("warmup", [False, True])
@every_variant
def test_ema_is_the_average(name: str, options: Options, warmup: bool, rng: Generator) -> None:
    """By each parameter's own count, and the run is the same as without it."""
    params = arrays(rng, name)
    alone = copies(params)
    opt = CLASSES[name](params, lr=LR, ema_decay=0.8, ema_warmup=warmup, **options)
    plain = CLASSES[name](alone, lr=LR, **options)
    averages, counts = copies(params), [0] * len(params)
    for step in range(6):
        grads = some_missing(arrays(rng, name), step)
        opt.step(grads)
        plain.step(grads)
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is not None:
                counts[i] += 1
                decay = min(0.8, (1 + counts[i]) / (10 + counts[i])) if warmup else 0.8
                averages[i] = np.asarray(decay * averages[i] + (1 - decay) * p)
    assert_close(opt.ema_params, averages)
    assert bits(params) == bits(alone)


@pytest.mark.parametrize(("start", "freq"), [(1, 1), (3, 1), (2, 3)])
@classes
def test_swa_is_the_mean_of_the_chosen_iterates(name: str, start: int, freq: int, rng: Generator) -> None:
    params = arrays(rng, name)
    before = copies(params)
    opt = CLASSES[name](params, lr=LR, swa_start=start, swa_freq=freq, **richest(name))
    chosen: list[list[Array]] = [[] for _ in params]
    counts = [0] * len(params)
    for step in range(10):
        grads = some_missing(arrays(rng, name), step)
        opt.step(grads)
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            counts[i] += g is not None
            if g is not None and counts[i] >= start and (counts[i] - start) % freq == 0:
                chosen[i].append(p.copy())
        if step == 0 and start > 1:
            assert bits(opt.ema_params) == bits(before)
    assert_close(opt.ema_params, [np.asarray(np.mean(some, axis=0)) for some in chosen])


@classes
def test_averages_are_swapped_and_brought_back(name: str, rng: Generator) -> None:
    params = arrays(rng, name)
    opt = CLASSES[name](params, lr=LR, ema_decay=0.5)
    for _ in range(2):
        opt.step(arrays(rng, name))
    here, averages = copies(params), copies(opt.ema_params)
    before = everything(opt)
    opt.swap_ema()
    assert bits(params) == bits(averages)
    assert bits(opt.ema_params) == bits(here)
    with pytest.raises(ValueError, match=rf"^{name}: the parameters are swapped for their averages; swap_ema\(\) them"):
        opt.step(arrays(rng, name))
    opt.swap_ema()
    assert everything(opt) == before
    with opt.using_ema():
        assert bits(params) == bits(averages)
    assert everything(opt) == before
    with pytest.raises(KeyError, match="inside"), opt.using_ema():
        raise KeyError("inside")
    assert everything(opt) == before
    opt.step(arrays(rng, name))


@classes
def test_without_averages_there_is_nothing_to_swap(name: str, rng: Generator) -> None:
    opt = CLASSES[name](arrays(rng, name), lr=LR)
    for act in opt.swap_ema, opt.using_ema().__enter__:
        with pytest.raises(ValueError, match=rf"^{name}: there are no averages; set ema_decay or swa_start$"):
            act()
    opt.step(arrays(rng, name))


def test_averages_have_the_structure_of_the_parameters(rng: Generator) -> None:
    """The live arrays; what has no average stands for itself."""
    w = {"first": {"w": normal(rng, (2, 3))}, "rest": [normal(rng, (3,)), normal(rng, ())]}
    opt = optim.SGD(w, lr=0.1, ema_decay=0.5)
    opt.step({"first": None, "rest": [normal(rng, (3,)), normal(rng, ())]})
    averages = opt.ema_params
    assert averages["first"]["w"] is opt.state[0]["ema_param"]
    assert averages["rest"][1] is opt.state[2]["ema_param"]

    p, q = normal(rng, (2,)), normal(rng, (3,))
    opt = optim.SGD([{"params": [p]}, {"params": {"q": q}, "ema_decay": 0.5}], lr=0.1)
    opt.step([[normal(rng, (2,))], {"q": normal(rng, (3,))}])
    (first,), second = opt.ema_params
    assert first is p
    assert second["q"] is opt.state[1]["ema_param"]
    here = q.copy()
    with opt.using_ema():
        assert q.tobytes() != here.tobytes()
        assert opt.ema_params[0][0] is p


def test_an_average_that_is_switched_on_later_begins_there(rng: Generator) -> None:
    p = normal(rng, (5,))
    opt = optim.SGD([p], lr=0.1)
    opt.step([normal(rng, (5,))])
    opt.param_groups[0]["ema_decay"] = 0.5
    here = p.copy()
    opt.step([normal(rng, (5,))])
    assert_close(opt.ema_params, [(here + p) / 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema_decay": 0.9, "swa_start": 1}, "ema_decay and swa_start exclude each other"),
        ({"ema_decay": 1.5}, r"ema_decay must be in \[0, 1\], got 1.5"),
        ({"swa_start": 0}, "swa_start must be in"),
        ({"swa_start": 1, "swa_freq": 0}, "swa_freq must be in"),
        ({"swa_start": 1.5}, "swa_start must be an integer, got 1.5"),
    ],
)
@classes
def test_averages_that_make_no_sense_are_errors(name: str, options: Options, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: {message}"):
        CLASSES[name]([np.ones((2, 2))], **options)


# Accumulation


@classes
def test_accumulated_gradients_are_a_step_with_their_mean(name: str, rng: Generator) -> None:
    params = arrays(rng, name)
    twins = copies(params)
    opt, plain = CLASSES[name](params, lr=LR, **richest(name)), CLASSES[name](twins, lr=LR, **richest(name))
    for step in range(3):
        parts = [some_missing(arrays(rng, name), step + part) for part in range(4)]
        before = [[g.copy() for g in part if g is not None] for part in parts]
        for part in parts:
            opt.accumulate(part)
        assert bits([g for part in parts for g in part if g is not None]) == bits([g for part in before for g in part])
        mean = [
            np.asarray(sum((g for part in parts if (g := part[i]) is not None), np.zeros(shape)) / 4)
            for i, shape in enumerate(shapes_for(name))
        ]
        info = opt.step(clip_norm=5.0, grad_scale=2.0)
        expected = plain.step(mean, clip_norm=5.0, grad_scale=2.0)
        assert info.step == expected.step == step + 1
        assert info.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12)
    assert_close(params, twins, 1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@classes
def test_accumulated_gradients_may_be_strided(name: str, dtype: str, rng: Generator) -> None:
    shape = (6, 10)
    p, q = (normal(np.random.default_rng(1), shape, dtype) for _ in range(2))
    opt, plain = CLASSES[name]([p], lr=LR), CLASSES[name]([q], lr=LR)
    g = normal(rng, (6, 30), dtype)[:, 10:20]
    opt.accumulate([g])
    opt.step()
    plain.step([g.copy()])
    assert p.tobytes() == q.tobytes()


@classes
def test_a_parameter_without_any_gradient_is_left_alone(name: str, rng: Generator) -> None:
    """As in a step: None adds nothing, and nothing is no gradient."""
    params = arrays(rng, name)
    opt = CLASSES[name](params, lr=LR, weight_decay=0.1)
    opt.step(arrays(rng, name))
    before = everything(opt)
    for _ in range(2):
        opt.accumulate([None, *arrays(rng, name)[1:]])
    opt.step()
    after = everything(opt)
    assert after["params"][0] == before["params"][0]
    assert after["state"][0] == before["state"][0]
    assert after["params"][1] != before["params"][1]


@classes
def test_a_micro_batch_that_is_wrong_adds_nothing(name: str, rng: Generator) -> None:
    params = arrays(rng, name)
    twins = copies(params)
    opt, plain = CLASSES[name](params, lr=LR), CLASSES[name](twins, lr=LR)
    grads = arrays(rng, name)
    for bad in (
        [],
        [*grads[:-1], np.ones(7)],
        [*grads[:-2], grads[-2].astype(np.float32), None],
        {"w": grads[0]},
        None,
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: grads"):
            opt.accumulate(bad)
        with pytest.raises(ValueError, match=f"^{name}: grads is missing, and accumulate has added none$"):
            opt.step()
    opt.accumulate(grads)
    with pytest.raises((TypeError, ValueError), match=f"^{name}: grads"):
        opt.accumulate([*grads[:-1], np.ones(7)])
    with pytest.raises(ValueError, match=f"^{name}: clip_norm must be"):
        opt.step(clip_norm=-1)  # keeps what was accumulated
    opt.step()
    plain.step(grads)
    assert bits(params) == bits(twins)
    with pytest.raises(ValueError, match="has added none"):
        opt.step()


def test_a_step_with_gradients_leaves_what_was_accumulated(rng: Generator) -> None:
    p, q = (np.ones(3) for _ in range(2))
    opt, plain = optim.SGD([p], lr=0.1, momentum=0.9), optim.SGD([q], lr=0.1, momentum=0.9)
    first, second = normal(rng, (3,)), normal(rng, (3,))
    opt.accumulate([first])
    opt.step([second])
    opt.step()
    plain.step([second])
    plain.step([first])
    assert p.tobytes() == q.tobytes()


def test_accumulated_infinities_are_skipped_and_forgotten(rng: Generator) -> None:
    opt = optim.Adam([np.ones(3)], lr=0.1)
    opt.accumulate([np.array([1.0, np.inf, 0.0])])
    opt.accumulate([np.ones(3)])
    assert opt.step(skip_nonfinite=True).skipped
    with pytest.raises(ValueError, match="has added none"):
        opt.step()
    opt.accumulate([np.ones(3)])
    assert opt.step().step == 1
    assert np.all(np.isfinite(opt.param_groups[0]["params"][0]))


def test_a_group_is_not_added_while_gradients_are_accumulated() -> None:
    p, q = np.ones(3), np.ones(2)
    opt = optim.SGD([p], lr=0.1)
    opt.accumulate([np.ones(3)])
    before = everything(opt)
    with pytest.raises(ValueError, match=r"^SGD: accumulated gradients lack those of a new group; step\(\) first$"):
        opt.add_param_group({"params": [q]})
    assert everything(opt) == before
    opt.step()
    opt.add_param_group({"params": [q]})
    opt.accumulate([np.ones(3), np.ones(2)])
    opt.step()
    assert_close([p, q], [np.full(3, 0.8), np.full(2, 0.9)])


# Clipping and scaling


def norm(some: list[Array]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(one, dtype=np.float64))) for one in some))


def clipped_norm(grads: list[Array], params: list[Array], most: float) -> list[Array]:
    factor = min(1.0, most / (norm(grads) + 1e-6))
    return [np.asarray(g * factor) for g in grads]


def clipped_value(grads: list[Array], params: list[Array], most: float) -> list[Array]:
    return [np.asarray(np.clip(g, -most, most)) for g in grads]


def clipped_param_norm(grads: list[Array], params: list[Array], most: float) -> list[Array]:
    return [clipped_norm([g], params, most)[0] for g in grads]


def clipped_adaptive(grads: list[Array], params: list[Array], most: float) -> list[Array]:
    clipped = []
    for g, p in zip(grads, params, strict=True):
        axes = tuple(range(1, g.ndim)) if g.ndim > 1 else None
        of_grad, of_param = (np.sqrt(np.sum(one**2, axis=axes, keepdims=True)) for one in (g, p))
        factor = np.minimum(1, most * np.maximum(of_param, 1e-3) / np.maximum(of_grad, 1e-6))
        clipped.append(np.asarray(g * factor.reshape(factor.shape if g.ndim > 1 else ())))
    return clipped


CLIPS: dict[str, Callable[[list[Array], list[Array], float], list[Array]]] = {
    "clip_norm": clipped_norm,
    "clip_value": clipped_value,
    "clip_param_norm": clipped_param_norm,
    "clip_adaptive": clipped_adaptive,
}


@pytest.mark.parametrize("most", [0.0, 0.3, 1e6])
@pytest.mark.parametrize("clip", CLIPS)
@classes
def test_clipping_is_clipping_by_hand(name: str, clip: str, most: float, rng: Generator) -> None:
    params = arrays(rng, name)
    twins = copies(params)
    opt, plain = CLASSES[name](params, lr=LR, **richest(name)), CLASSES[name](twins, lr=LR, **richest(name))
    for _ in range(3):
        grads = arrays(rng, name)
        info = opt.step([np.asarray(g * 8) for g in grads], grad_scale=8.0, **{clip: most})
        expected = CLIPS[clip](grads, twins, most)
        plain.step(expected)
        assert info.grad_norm == (pytest.approx(norm(grads), rel=1e-12) if clip == "clip_norm" else None)
    assert_close(params, twins, 1e-10)


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_reads_strided_gradients(clip: str, rng: Generator) -> None:
    p = normal(rng, (5, 40))
    q = p.copy()
    opt, plain = optim.SGD([p], lr=LR), optim.SGD([q], lr=LR)
    g = normal(rng, (5, 90))[:, 3:43]
    options: Options = {clip: 0.1}
    opt.step([g], **options)
    plain.step([g.copy()], **options)
    assert p.tobytes() == q.tobytes()


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(CLIPS, 2)))
def test_clips_exclude_each_other(one: str, other: str) -> None:
    opt = optim.SGD([np.ones(3)])
    options: Options = {one: 1.0, other: 1.0}
    with pytest.raises(ValueError, match=rf"^SGD: {one} and {other} exclude each other$"):
        opt.step([np.ones(3)], **options)
    assert opt.step([None]).step == 1


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        *((clip, value, ValueError) for clip in CLIPS for value in (-1.0, np.nan, np.inf, -np.inf)),
        *((clip, value, TypeError) for clip in CLIPS for value in ("1", [1.0, 2.0], np.ones(2), 1j)),
        *(("grad_scale", value, ValueError) for value in (0, -1.0, np.nan, np.inf)),
        *(("grad_scale", value, TypeError) for value in ("1", None, np.ones(2))),
        *((flag, value, TypeError) for flag in ("skip_nonfinite", "zero_grads") for value in ("yes", 0.5, [1])),
    ],
)
@pytest.mark.parametrize("name", ["SGD", "Muon"])
def test_options_of_a_step_that_make_no_sense_are_errors(
    name: str, option: str, value: Any, error: type[Exception], rng: Generator
) -> None:
    opt = CLASSES[name]([normal(rng, (2, 3))], lr=LR)
    before = everything(opt)
    with pytest.raises(error, match=rf"^{name}: {option} must be"):
        opt.step([normal(rng, (2, 3))], **{option: value})
    assert everything(opt) == before


def test_one_clip_norm_for_groups_of_different_rules_and_dtypes(rng: Generator) -> None:
    params = [normal(rng, (30,), "float32"), normal(rng, (4, 5)), normal(rng, (7,), "float32"), normal(rng, (3,))]
    twins = copies(params)
    grads = [normal(rng, p.shape, p.dtype.name) for p in params]
    opt = optim.SGD(
        [
            {"params": params[:1]},
            {"params": params[1:2], "momentum": 0.9},
            {"params": params[2:], "momentum": 0.5, "velocity": True},
        ],
        lr=0.1,
    )
    alone = [
        optim.SGD(twins[:1], lr=0.1),
        optim.SGD(twins[1:2], lr=0.1, momentum=0.9),
        optim.SGD(twins[2:], lr=0.1, momentum=0.5, velocity=True),
    ]
    for _ in range(2):
        info = opt.step(grads, clip_norm=0.5)
        assert info.grad_norm == pytest.approx(norm(grads), rel=1e-12)
        for one, some in zip(alone, (grads[:1], grads[1:2], grads[2:]), strict=True):
            one.step(some, grad_scale=(norm(grads) + 1e-6) / 0.5)
    for p, q in zip(params, twins, strict=True):
        assert_close(p, q, 1e-6 if p.dtype == np.float32 else 1e-12)


# Steps that are skipped, gradients that are zeroed


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@every_variant
def test_a_step_with_a_bad_gradient_is_skipped(name: str, options: Options, bad: float, rng: Generator) -> None:
    """No byte of anything changes, nothing is counted, and the next step is as if it had never been."""
    params = arrays(rng, name)
    twins = copies(params)
    more = {"lr": LR, "ema_decay": 0.9, "noise": 0.1, "l2_init": 0.1, "weight_decay": 0.1, **options}
    opt, plain = CLASSES[name](params, **more), CLASSES[name](twins, **more)
    for where in range(2):
        grads = arrays(rng, name)
        for one in opt, plain:
            assert not one.step(grads, skip_nonfinite=True).skipped
        grads[where][-1, -1] = bad
        before, held = everything(opt), copies(grads)
        info = opt.step([*grads[:2], None, *grads[3:]], skip_nonfinite=True)
        assert (info.step, info.skipped) == (where + 1, True)
        assert info.grad_norm is not None
        assert not math.isfinite(info.grad_norm)
        assert everything(opt) == before
        assert bits(grads) == bits(held)
        info = opt.step(grads, skip_nonfinite=True, zero_grads=True, clip_norm=1.0)
        assert info.skipped
        assert everything(opt) == before
        assert not any(np.any(g) for g in grads)
    grads = arrays(rng, name)
    for one in opt, plain:
        assert one.step(grads).step == 3
    assert everything(opt) == everything(plain)


def test_a_step_is_skipped_for_infinities_only(rng: Generator) -> None:
    """Not for gradients that are finite, but whose squares are not."""
    p = np.ones(3)
    info = optim.Lion([p], lr=0.1).step([np.full(3, 1e200)], skip_nonfinite=True)
    assert not info.skipped
    assert_close(p, np.full(3, 0.9))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_variant
def test_gradients_are_zeroed_if_asked(name: str, options: Options, dtype: str, rng: Generator) -> None:
    """Strided ones too, and nothing around them; the step is the same."""
    params = arrays(rng, name, dtype)
    twins = copies(params)
    opt, plain = CLASSES[name](params, lr=LR, **options), CLASSES[name](twins, lr=LR, **options)
    for _ in range(2):
        grads = arrays(rng, name, dtype)
        room = normal(rng, (30, 12), dtype)
        around = room.copy()
        grads[1] = room[:, 4:9]
        plain.step(copies(grads))
        opt.step(grads, zero_grads=True)
        assert not any(np.any(g) for g in grads)
        around[:, 4:9] = 0
        assert room.tobytes() == around.tobytes()
    assert bits(params) == bits(twins)


@pytest.mark.parametrize("skip", [False, True])
@classes
def test_gradients_that_cannot_be_zeroed_are_errors(name: str, skip: bool, rng: Generator) -> None:
    shape = (4, 6)
    params = [normal(rng, shape) for _ in range(3)]
    opt = CLASSES[name](params, lr=LR)
    before = everything(opt)
    frozen, shared = normal(rng, shape), normal(rng, (6, 6))
    frozen.flags.writeable = False
    bad = np.nan if skip else 1.0
    for grads, error, message in (
        ([np.full(shape, bad), frozen, None], TypeError, r"grads\[1\] is read-only, but would be zeroed"),
        (
            [np.full(shape, bad), shared[:4], shared[2:]],
            ValueError,
            r"grads\[2\] would be zeroed, but overlaps grads\[1\]",
        ),
        (
            [shared[2:], np.full(shape, bad), shared[:4]],
            ValueError,
            r"grads\[0\] would be zeroed, but overlaps grads\[2\]",
        ),
        ([shared[:4], shared[:4], None], ValueError, r"grads\[[01]\] would be zeroed, but overlaps grads\[[01]\]"),
    ):
        held = copies([g for g in grads if g is not None])
        with pytest.raises(error, match=rf"^{name}: {message}$"):
            opt.step(grads, zero_grads=True, skip_nonfinite=skip)
        assert everything(opt) == before
        assert bits([g for g in grads if g is not None]) == bits(held)
    opt.step([frozen, shared[:4], shared[2:]])  # they are only read otherwise


# Maximizing, penalties


@every_variant
def test_to_maximize_is_to_minimize_the_negative(name: str, options: Options, rng: Generator) -> None:
    params = arrays(rng, name)
    twins = copies(params)
    more = {"lr": LR, "weight_decay": 0.1, "l1": 0.01, **options}
    opt, plain = CLASSES[name](params, maximize=True, **more), CLASSES[name](twins, **more)
    for step in range(3):
        grads = some_missing(arrays(rng, name), step)
        opt.step(grads)
        plain.step([None if g is None else np.negative(g, out=np.empty_like(g)) for g in grads])
    assert bits(params) == bits(twins)


@every_variant
def test_penalties_are_added_to_the_gradient(name: str, options: Options, rng: Generator) -> None:
    """L2, L1, and the distance to the initial weights, after clipping."""
    params = arrays(rng, name)
    twins, initial = copies(params), copies(params)
    more = {"lr": LR, "decoupled_weight_decay": False, **options}
    opt = CLASSES[name](params, weight_decay=0.1, l1=0.02, l2_init=0.3, **more)
    plain = CLASSES[name](twins, weight_decay=0.0, **more)
    for _ in range(3):
        grads = arrays(rng, name)
        opt.step(grads, clip_value=0.5)
        plain.step(
            [
                np.asarray(np.clip(g, -0.5, 0.5) + 0.1 * p + 0.02 * np.sign(p) + 0.3 * (p - p0))
                for g, p, p0 in zip(grads, twins, initial, strict=True)
            ]
        )
    assert_close(params, twins, 1e-10)


@decoupling
def test_decoupled_decay_comes_before_the_step_and_the_rest_after(name: str, rng: Generator) -> None:
    """p ← (1 − lr·λ) p, the rule, the pull to p₀, the threshold."""
    params = arrays(rng, name)
    twins, initial = copies(params), copies(params)
    around: Options = {"weight_decay": 0.2, "l2_init": 0.5, "l1": 0.3, "proximal_l1": True}
    opt = CLASSES[name](params, lr=0.0, decoupled_weight_decay=True, **around)
    plain = CLASSES[name](twins, lr=0.0, decoupled_weight_decay=True, weight_decay=0.0)
    for lr in 0.0, LR, LR / 2:
        opt.param_groups[0]["lr"] = plain.param_groups[0]["lr"] = lr
        grads = arrays(rng, name)
        opt.step(grads)
        decays = [np.asarray(p * lr * 0.2) for p in twins]
        first = name not in ("LAMB", "LARS", "Adafactor")  # which measure the parameter before
        for p, decay in zip(twins, decays, strict=True):
            p -= decay * first
        plain.step(grads)
        for p, decay, p0 in zip(twins, decays, initial, strict=True):
            p -= decay * (not first)
            p += lr * 0.5 * (p0 - p)
            p[...] = np.sign(p) * np.maximum(np.abs(p) - lr * 0.3, 0)
    assert_close(params, twins)


@decoupling
def test_fixed_decay_does_not_follow_the_rate(name: str, rng: Generator) -> None:
    params = arrays(rng, name)
    twins = copies(params)
    opt = CLASSES[name](params, lr=LR, weight_decay=0.01, decoupled_weight_decay=True, fixed_decay=True, l2_init=0.02)
    plain = CLASSES[name](twins, lr=LR, weight_decay=0.01 / LR, decoupled_weight_decay=True, l2_init=0.02 / LR)
    for step in range(4):
        lr = LR / (1 + step)
        opt.param_groups[0]["lr"] = lr
        plain.param_groups[0].update(lr=lr, weight_decay=0.01 / lr, l2_init=0.02 / lr)
        grads = arrays(rng, name)
        opt.step(grads)
        plain.step(grads)
    assert_close(params, twins)
    with pytest.raises(ValueError, match=rf"^{name}: fixed_decay needs decoupled_weight_decay$"):
        CLASSES[name](arrays(rng, name), fixed_decay=True, decoupled_weight_decay=False)


def test_fixed_decay_is_the_factor() -> None:
    p = np.full(3, 2.0)
    optim.SGD([p], lr=0.0, weight_decay=0.25, decoupled_weight_decay=True, fixed_decay=True).step([np.ones(3)])
    assert p.tolist() == [1.5] * 3


@decoupling
def test_proximal_l1_gives_exact_zeros(name: str, rng: Generator) -> None:
    """To small weights that no gradient holds, and to no others."""
    params = [np.asarray(np.where(rng.random(shape) < 0.5, 1e-3, 5.0)) for shape in shapes_for(name)]
    small = [p < 1 for p in params]
    opt = CLASSES[name](params, lr=LR, weight_decay=0.0, l1=0.1, proximal_l1=True)
    opt.step([np.zeros(shape) for shape in shapes_for(name)])
    for p, zero in zip(params, small, strict=True):
        assert not np.any(p[zero])
        assert not np.any(np.signbit(p[zero]))
        assert np.all(p[~zero] > 4)


@pytest.mark.parametrize("decoupled", [False, True])
def test_the_initial_weights_are_those_at_the_beginning_of_a_warm_up(decoupled: bool) -> None:
    """Where the rate begins with 0, too."""
    p = np.ones(3)
    opt = optim.SGD([p], lr=0.0, l2_init=1.0, decoupled_weight_decay=decoupled)
    opt.step([np.zeros(3)])
    p += 1.0
    opt.param_groups[0]["lr"] = 0.5
    opt.step([np.zeros(3)])
    assert p.tolist() == [1.5] * 3


@decoupling
def test_l2_init_pulls_to_the_initial_weights(name: str, rng: Generator) -> None:
    """Those before the first step, whatever has happened to them since."""
    params = arrays(rng, name)
    opt = CLASSES[name](params, lr=0.1, weight_decay=0.0, decoupled_weight_decay=True, l2_init=5.0)
    initial = copies(params)
    opt.param_groups[0]["lr"] = 0.0
    opt.step([np.zeros_like(p) for p in params])
    opt.param_groups[0]["lr"] = 0.1
    for p in params:
        p += 1.0
    distance = norm([p - p0 for p, p0 in zip(params, initial, strict=True)])
    for _ in range(20):
        opt.step([np.zeros_like(p) for p in params])
    assert norm([p - p0 for p, p0 in zip(params, initial, strict=True)]) < 1e-3 * distance


# Noise


def descended(noise: float = 1.0, seed: int = 0, steps: int = 1, **options: Any) -> Callable[..., list[Array]]:
    """What noise alone does to parameters of these shapes: SGD with lr = 1 from 0."""

    def run(*shapes: tuple[int, ...], dtype: str = "float64") -> list[Array]:
        params = [np.zeros(shape, dtype) for shape in shapes]
        opt = optim.SGD(params, **{"lr": 1.0, "noise": noise, "seed": seed, **options})
        for _ in range(steps):
            opt.step([np.zeros(shape, dtype) for shape in shapes])
        return [-p for p in params]

    return run


def test_noise_is_normal() -> None:
    for sigma in 1.0, 0.3:
        (x,) = descended(noise=sigma)((500, 400))
        n = x.size
        assert abs(x.mean()) < 4 * sigma / math.sqrt(n)
        assert abs(x.std() / sigma - 1) < 4 / math.sqrt(2 * n) + 1e-3
        assert abs(np.mean((x / sigma) ** 3)) < 4 * math.sqrt(15 / n)
        assert abs(np.mean((x / sigma) ** 4) - 3) < 4 * math.sqrt(96 / n) + 0.02
        assert abs(np.corrcoef(x.ravel()[:-1], x.ravel()[1:])[0, 1]) < 4 / math.sqrt(n)


def test_noise_depends_on_seed_parameter_and_step() -> None:
    n = 20_000
    first, second = descended()((n,), (n,))
    (other,) = descended(seed=1)((n,))
    (large,) = descended(seed=2**53 - 1)((n,))
    (both,) = descended(steps=2)((n,))
    some = [first, second, other, large, both - first]
    correlations = np.corrcoef(some) - np.eye(len(some))
    assert np.max(np.abs(correlations)) < 5 / math.sqrt(n)
    assert first.tobytes() == descended()((n,), (n,))[0].tobytes()


def test_noise_depends_on_the_position_only() -> None:
    """Not on shape, dtype, layout of the gradient, threads, or what the other parameters are."""
    (x,) = descended()((300_000,))
    assert descended()((100, 3000))[0].tobytes() == x.tobytes()
    assert descended()((299_000,), (7,))[0].tobytes() == x[:299_000].tobytes()
    assert descended()((300_000,), dtype="float32")[0].tobytes() == x.astype(np.float32).tobytes()
    before = fo.get_num_threads()
    try:
        for threads in 1, 2, 3:
            fo.set_num_threads(threads)
            assert descended()((300_000,))[0].tobytes() == x.tobytes()
    finally:
        fo.set_num_threads(before)
    p = np.zeros((100, 3000))
    optim.SGD([p], lr=1.0, noise=1.0).step([np.zeros((100, 5000))[:, 100:3100]])
    assert (-p).tobytes() == x.tobytes()


@every_variant
def test_noise_is_reproducible(name: str, options: Options, rng: Generator) -> None:
    params = arrays(rng, name)
    first, again, other, none = (copies(params) for _ in range(4))
    opts = [
        CLASSES[name](some, lr=LR, **more, **options)
        for some, more in (
            (first, {"noise": 0.5, "seed": 3}),
            (again, {"noise": 0.5, "seed": 3}),
            (other, {"noise": 0.5, "seed": 4}),
            (none, {"seed": 3}),
        )
    ]
    for step in range(3):
        grads = some_missing(arrays(rng, name), step)
        for opt in opts:
            opt.step(grads)
    assert bits(again) == bits(first)
    assert other[1].tobytes() != first[1].tobytes()
    assert none[1].tobytes() != first[1].tobytes()


@classes
def test_noise_is_added_to_the_clipped_gradient(name: str, rng: Generator) -> None:
    """The same numbers for every rule: they are known from a descent of their own."""
    (x, y) = descended(noise=0.5, seed=7)((5, 20), (6, 4))
    params = [normal(rng, (5, 20)), normal(rng, (6, 4))]
    twins = copies(params)
    opt, plain = (CLASSES[name](some, lr=LR, weight_decay=0.0, **richest(name)) for some in (params, twins))
    opt.param_groups[0].update(noise=0.5, seed=7)
    grads = [normal(rng, (5, 20)), normal(rng, (6, 4))]
    opt.step(grads, clip_value=0.1)
    plain.step([np.clip(g, -0.1, 0.1) + n for g, n in zip(grads, (x, y), strict=True)])
    assert_close(params, twins, 1e-11)


def test_temperature_has_no_effect_without_a_rate() -> None:
    """As at the first step of a warm-up from zero."""
    p = np.ones(100)
    opt = optim.SGD([p], lr=0.0, temperature=0.5)
    opt.step([np.ones(100)])
    assert np.all(p == 1)
    opt.param_groups[0]["lr"] = 0.1
    opt.step([np.zeros(100)])
    assert p.std() > 0.1


def test_temperature_is_langevin_dynamics() -> None:
    """p ← p − lr·g + √(2·lr·T)·ξ, beside other noise; in a harmonic potential T is what it measures."""
    lr, temperature = 0.01, 0.5
    (x,) = descended(lr=lr, noise=0.0, temperature=temperature)((200_000,))
    assert x.std() == pytest.approx(math.sqrt(2 * lr * temperature), rel=0.01)
    (x,) = descended(lr=lr, noise=2.0, temperature=temperature)((200_000,))
    assert x.std() == pytest.approx(math.hypot(lr * 2.0, math.sqrt(2 * lr * temperature)), rel=0.01)

    p = np.zeros(20_000)
    opt = optim.SGD([p], lr=lr, temperature=temperature)
    for _ in range(600):
        opt.step([3.0 * p])
    assert 3.0 * np.mean(p**2) == pytest.approx(temperature / (1 - 3.0 * lr / 2), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be"),
        ({"noise": -0.1}, "noise must be"),
        ({"noise": math.nan}, "noise must be"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"seed": 2**53}, "seed must be in"),
        ({"l1": -0.1}, "l1 must be"),
        ({"l2_init": math.inf}, "l2_init must be"),
        ({"proximal_l1": "yes"}, "proximal_l1 must be a bool"),
        ({"maximize": None}, "maximize must be a bool"),
        ({"fixed_decay": 0.5}, "fixed_decay must be a bool"),
        ({"decoupled_weight_decay": "yes"}, "decoupled_weight_decay"),
    ],
)
@classes
def test_hyperparameters_that_make_no_sense_are_errors(name: str, options: Options, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: {message}"):
        CLASSES[name]([np.ones((2, 2))], **options)


# Structures


def tree(some: Sequence[Any]) -> Any:
    """Four matrices in dicts, lists and tuples."""
    return {"encoder": {"layers": [{"w": some[0]}, {"w": some[1]}]}, "head": (some[2], {"w": some[3]})}


def four(rng: Generator) -> list[Array]:
    return [normal(rng, shape) for shape in ((3, 4), (4, 4), (2, 5), (5, 3))]


@classes
def test_nested_structures_mean_the_same(name: str, rng: Generator) -> None:
    params = four(rng)
    twins, named = copies(params), copies(params)
    opt, plain = CLASSES[name](tree(params), lr=LR), CLASSES[name](twins, lr=LR)
    listed = CLASSES[name](list(tree(named).values()), lr=LR)
    steps: list[list[Array | None]] = [
        [*four(rng)],
        [None, None, *four(rng)[2:]],
        [*four(rng)[:2], None, None],
        [None, *four(rng)[1:3], None],
        [None] * 4,
    ]
    for grads in steps:
        nested = tree(grads)
        if grads[0] is grads[1] is None:
            nested["encoder"] = None  # for a whole part
        if grads[2] is grads[3] is None:
            nested["head"] = None
        assert opt.step(nested).step == plain.step(grads).step == listed.step(list(nested.values())).step
    assert bits(params) == bits(twins) == bits(named)
    assert opt.param_groups[0]["param_names"] == ["encoder.layers.0.w", "encoder.layers.1.w", "head.0", "head.1.w"]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda g: None, ValueError, "grads is missing"),
        (lambda g: [g["encoder"], g["head"]], TypeError, r"grads must be a dict like params, got list"),
        (
            lambda g: {"encoder": g["encoder"]},
            ValueError,
            r"grads must have the keys of params; missing: 'head', unknown: nothing",
        ),
        (
            lambda g: {**g, "tail": None},
            ValueError,
            r"grads must have the keys of params; missing: nothing, unknown: 'tail'",
        ),
        (
            lambda g: {**g, "encoder": {}},
            ValueError,
            r"grads\['encoder'\] must have the keys of params; missing: 'layers'",
        ),
        (
            lambda g: {**g, "encoder": {"layers": {"w": None}}},
            TypeError,
            r"grads\['encoder'\]\['layers'\] must be a list like params, got dict",
        ),
        (
            lambda g: {**g, "encoder": {"layers": [None]}},
            ValueError,
            r"grads\['encoder'\]\['layers'\] has 1 entries, expected 2",
        ),
        (lambda g: {**g, "head": g["head"][0]}, TypeError, r"grads\['head'\] must be a list like params, got ndarray"),
        (
            lambda g: {**g, "head": [None, [None]]},
            TypeError,
            r"grads\['head'\]\[1\] must be a dict like params, got list",
        ),
        (
            lambda g: {**g, "head": [None, {"w": {"w": None}}]},
            TypeError,
            r"grads\['head'\]\[1\]\['w'\] must be a numpy array, got dict",
        ),
        (
            lambda g: {**g, "head": [None, {"w": np.ones(3)}]},
            ValueError,
            r"grads\['head'\]\[1\]\['w'\] has shape \(3,\), expected \(5, 3\)",
        ),
    ],
)
@pytest.mark.parametrize("act", ["step", "accumulate"])
def test_other_nested_structures_are_errors(
    act: str, wrong: Callable[[Any], Any], error: type[Exception], message: str, rng: Generator
) -> None:
    opt = optim.SGD(tree(four(rng)), lr=LR)
    before = everything(opt)
    grads = wrong(tree(four(rng)))
    if grads is None and act == "accumulate":
        error, message = TypeError, "grads must be a dict like params, got None"
    with pytest.raises(error, match=rf"^SGD: {message}"):
        getattr(opt, act)(grads)
    assert everything(opt) == before
    opt.state_dict()  # and nothing has been accumulated


def test_structures_of_parameters_that_make_no_sense_are_errors() -> None:
    for params, error, message in (
        ({3: np.ones(2)}, TypeError, r"params must have strings as keys, got 3"),
        ({"a": {3: np.ones(2)}}, TypeError, r"params\['a'\] must have strings as keys, got 3"),
        ({"a": None}, TypeError, r"params\['a'\] must be a numpy array, got None"),
        ({"a": [np.ones(2), 3.0]}, TypeError, r"params\['a'\]\[1\] must be a numpy array, got float"),
        ([[np.ones(2)], {"w": "x"}], TypeError, r"params\[1\]\['w'\] must be a numpy array, got str"),
        (np.ones(3), TypeError, r"params must be a list"),
    ):
        with pytest.raises(error, match=rf"^SGD: {message}"):
            optim.SGD(params)


# Without decay


def decayed(params: Any, opt: Any, grads: Any) -> list[bool]:
    """Which parameters become smaller in two steps; of schedule-free rules the first one brings y back to z."""
    before = copies(leaves(params))
    for _ in range(2):
        opt.step(grads)
    return [bool(np.max(np.abs(b - a)) > 1e-3) for b, a in zip(before, leaves(params), strict=True)]


@classes
def test_no_decay_of_lists_and_dicts(name: str) -> None:
    """Vectors are not decayed; gradients come as they would without groups."""
    shapes = ((2, 3), (3, 2)) if name == "Muon" else ((2, 3), (3,), (2, 2), ())
    names = [f"p{i}" for i in range(len(shapes))]
    rule = (lambda key, p: key in ("1", "p1")) if name == "Muon" else None
    expected = [True, False] if name == "Muon" else [True, False, True, False]
    options = {"lr": 0.1, "weight_decay": 0.5}
    if name not in SCHEDULE_FREE:
        options["decoupled_weight_decay"] = True
    for named in False, True:
        params, grads = ([make(shape) for shape in shapes] for make in (np.ones, np.zeros))
        of_params: Any = dict(zip(names, params, strict=True)) if named else params
        of_grads: Any = dict(zip(names, grads, strict=True)) if named else grads
        opt = CLASSES[name](optim.no_decay(of_params, rule), **options)
        assert decayed(of_params, opt, of_grads) == expected
        assert [p for group in opt.param_groups for p in map(id, group["params"])] == list(map(id, params))


def test_no_decay_of_nested_structures_by_a_rule(rng: Generator) -> None:
    layers = tree(four(rng))
    seen: list[tuple[str, tuple[int, ...]]] = []

    def rule(name: str, param: Array) -> bool:
        seen.append((name, param.shape))
        return name.startswith("head")

    opt = optim.AdamW(optim.no_decay(layers, rule), lr=0.1, weight_decay=0.5)
    assert seen == [
        ("encoder.layers.0.w", (3, 4)),
        ("encoder.layers.1.w", (4, 4)),
        ("head.0", (2, 5)),
        ("head.1.w", (5, 3)),
    ]
    zeros = tree([np.zeros_like(p) for p in leaves(layers)])
    assert decayed(layers, opt, zeros) == [True, True, False, False]
    zeros["head"][1]["w"] = np.ones((5, 3))
    zeros["encoder"] = {"layers": [{"w": None}, {"w": np.zeros((4, 4))}]}
    assert decayed(layers, opt, zeros) == [False, True, False, True]
    with pytest.raises(ValueError, match=r"^AdamW: grads must have the keys of params; missing: 'head', unknown"):
        opt.step({"encoder": zeros["encoder"]})


def test_no_decay_takes_none_for_a_whole_part(rng: Generator) -> None:
    """As without it."""
    layers = tree(four(rng))
    opt = optim.AdamW(optim.no_decay(layers), lr=0.1, weight_decay=0.5)
    zeros = tree([np.zeros_like(p) for p in leaves(layers)])
    zeros["encoder"] = None
    assert decayed(layers, opt, zeros) == [False, False, True, True]


def test_no_decay_of_a_list_of_dicts() -> None:
    """Its gradients are a list of dicts."""
    layers = [{"w": np.ones((2, 2)), "b": np.ones(2)} for _ in range(2)]
    opt = optim.AdamW(optim.no_decay(layers), lr=0.1, weight_decay=0.5)
    grads = [{"w": np.zeros((2, 2)), "b": np.zeros(2)} for _ in range(2)]
    assert decayed(layers, opt, grads) == [True, False, True, False]


def test_no_decay_loses_no_parameter_whose_names_meet() -> None:
    """Two parameters that are both called a.b."""
    layers = {"a.b": np.ones((2, 2)), "a": {"b": np.ones((2, 2))}}
    try:
        groups = optim.no_decay(layers)
    except ValueError as error:
        assert "a.b" in str(error)  # noqa: PT017
    else:
        assert len([p for group in groups for p in leaves(group["params"])]) == 2


# A group of its own


@classes
def test_groups_have_hyperparameters_around_the_rule_of_their_own(name: str, rng: Generator) -> None:
    params = [normal(rng, (4, 5)), normal(rng, (3, 3)), normal(rng, (2, 6))]
    twins = copies(params)
    arounds: list[Options] = [{"l1": 0.1, "maximize": True}, {"ema_decay": 0.5, "lr": 0.1}, {"l2_init": 0.3, "l1": 0.1}]
    opt = CLASSES[name]([{"params": [p], **around} for p, around in zip(params, arounds, strict=True)], lr=LR)
    alone = [CLASSES[name]([p], **{"lr": LR, **around}) for p, around in zip(twins, arounds, strict=True)]
    for _ in range(3):
        grads = [normal(rng, p.shape) for p in params]
        opt.step([[g] for g in grads])
        for one, g in zip(alone, grads, strict=True):
            one.step([g])
    assert bits(params) == bits(twins)
    assert opt.state[1]["ema_param"].tobytes() == alone[1].state[0]["ema_param"].tobytes()


# The switch from Adam to SGD


class Switched:
    """The formula of SwitchOptimizer's docstring, in NumPy."""

    def __init__(
        self, params: list[Array], lr: float, *, switch_at: int | None, sgd_lr: float | None, tolerance: float
    ) -> None:
        self.p, self.lr, self.switch_at, self.sgd_lr, self.tolerance = params, lr, switch_at, sgd_lr, tolerance
        self.m, self.v = ([np.zeros_like(p) for p in params] for _ in range(2))
        self.t, self.average, self.switched = 0, 0.0, False

    def step(self, grads: list[Array]) -> None:
        if self.switched:
            assert self.sgd_lr is not None
            for p, b, g in zip(self.p, self.m, grads, strict=True):
                b[...] = 0.9 * b + g
                p -= self.sgd_lr * b
            return
        self.t += 1
        of_direction = of_gradient = 0.0
        for p, m, v, g in zip(self.p, self.m, self.v, grads, strict=True):
            m[...] = 0.9 * m + 0.1 * g
            v[...] = 0.999 * v + 0.001 * g * g
            d = self.lr * (m / (1 - 0.9**self.t)) / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)
            p -= d
            of_direction += float(np.sum(d * d))
            of_gradient += float(np.sum(d * g))
        gamma = of_direction / of_gradient
        self.average = 0.999 * self.average + 0.001 * gamma
        rate = self.average / (1 - 0.999**self.t)
        settled = self.t > 1 and abs(rate - gamma) < self.tolerance
        if settled if self.switch_at is None else self.t >= self.switch_at:
            self.switched = True
            for m in self.m:
                m /= (1 - 0.9**self.t) * 0.1
            self.sgd_lr = 0.1 * rate if self.sgd_lr is None else self.sgd_lr


@pytest.mark.parametrize(
    "options",
    [
        {"switch_at": 1, "sgd_lr": 0.02},
        {"switch_at": 5, "sgd_lr": 0.02},
        {"switch_at": 5, "sgd_lr": None},
        {"switch_at": None, "sgd_lr": None, "tolerance": 3e-5},
        {"switch_at": None, "sgd_lr": 0.02, "tolerance": 3e-5},
    ],
    ids=str,
)
def test_a_switch_is_the_formula(options: Options, rng: Generator) -> None:
    """On a quadratic, where γ settles."""
    params = [normal(rng, (20,)), normal(rng, (4, 5))]
    twins = copies(params)
    opt = optim.SwitchOptimizer(params, lr=0.01, **options)
    formula = Switched(twins, 0.01, **{"tolerance": 1e-9, **options})
    switches = []
    for step in range(30):
        info = opt.step([0.5 * p for p in params])
        formula.step([0.5 * p for p in twins])
        assert info.step == step + 1
        assert opt.switched == formula.switched
        switches.append(opt.switched)
    assert switches[-1]
    assert options["switch_at"] is None or switches.index(True) + 1 == options["switch_at"]
    assert options["switch_at"] is not None or switches.index(True) > 1
    assert_close(params, twins, 1e-11)
    assert opt.param_groups[0]["sgd_lr"] == pytest.approx(formula.sgd_lr, rel=1e-10)
    assert_close([one["momentum_buffer"] for one in opt.state], formula.m, 1e-11)
    assert not any("exp_avg_sq" in one for one in opt.state)


def test_groups_switch_with_rates_of_their_own(rng: Generator) -> None:
    """One is given and the other projected."""
    params = [normal(rng, (20,)), normal(rng, (4, 5))]
    opt = optim.SwitchOptimizer([{"params": params[:1], "sgd_lr": 0.02}, {"params": params[1:]}], lr=0.01, switch_at=3)
    plain = optim.Adam(twins := copies(params), lr=0.01)
    for _ in range(3):
        plain.step([0.5 * p for p in twins])
        opt.step([[0.5 * params[0]], [0.5 * params[1]]])
    assert_close(params, twins)
    assert opt.switched
    first, second = (group["sgd_lr"] for group in opt.param_groups)
    assert first == 0.02
    assert 0 < second < 1
    buffers = copies([one["momentum_buffer"] for one in opt.state])
    before = copies(params)
    opt.step([[0.5 * params[0]], [0.5 * params[1]]])
    for p, b, m, lr in zip(params, before, buffers, (first, second), strict=True):
        assert_close(p, b - lr * (0.9 * m + 0.5 * b))
    assert_close(buffers[0], plain.state[0]["exp_avg"] / (1 - 0.9**3) / 0.1)


def test_a_parameter_without_gradients_switches_too(rng: Generator) -> None:
    """Its momentum begins with its first gradient."""
    params = [normal(rng, (5,)), normal(rng, (4,))]
    opt = optim.SwitchOptimizer(params, lr=0.01, switch_at=2, sgd_lr=0.1)
    before = params[1].copy()
    for _ in range(3):
        opt.step([params[0] * 0.5, None])
    assert opt.switched
    opt.step([None, np.ones(4)])
    assert_close(params[1], before - 0.1)


def test_a_skipped_step_is_no_step_to_the_switch() -> None:
    p = np.ones(3)
    opt = optim.SwitchOptimizer([p], lr=0.01, switch_at=2, sgd_lr=0.1)
    opt.step([np.ones(3)])
    for _ in range(3):
        assert opt.step([np.full(3, np.nan)], skip_nonfinite=True).skipped
    assert not opt.switched
    opt.step([np.ones(3)])
    assert opt.switched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"switch_at": 0}, "switch_at must be in"),
        ({"switch_at": 1.5}, "switch_at must be an integer"),
        ({"sgd_lr": -1.0}, "sgd_lr must be"),
        ({"tolerance": -1.0}, "tolerance must be"),
    ],
)
def test_switches_that_make_no_sense_are_errors(options: Options, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^SwitchOptimizer: {message}"):
        optim.SwitchOptimizer([np.ones(3)], **options)


# Learning without schedules


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
    params = [normal(rng, (7, 3)), normal(rng, (5,))]
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
        grads = [normal(rng, p.shape) for p in params]
        for q, g in zip(tensors, grads, strict=True):
            q.grad = torch.tensor(g)
        opt.step(grads)
        ref.step()
        compare()
        if step % 6 == 5:
            for one in opt, ref:
                one.eval()
            compare()
            opt.eval()  # again changes nothing
            compare()
            for one in opt, ref:
                one.train()
            opt.train()
            compare()


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_averages_what_it_stepped_through(name: str, rng: Generator) -> None:
    """With equal weights x is the mean of all z, and a step in evaluation is an error that changes nothing."""
    params = arrays(rng, name)
    opt = CLASSES[name](params, lr=LR)
    zs = [copies([one["z"] for one in opt.state])]
    for _ in range(6):
        opt.step(arrays(rng, name))
        zs.append(copies([one["z"] for one in opt.state]))
    opt.eval()
    before = everything(opt)
    with pytest.raises(ValueError, match=rf"^{name}: the parameters are set for evaluation; call train\(\) first$"):
        opt.step(arrays(rng, name))
    assert everything(opt) == before
    assert_close(params, [np.asarray(np.mean(some, axis=0)) for some in list(zip(*zs[1:], strict=True))], 1e-11)


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_begins_where_the_parameters_are_then(name: str, rng: Generator) -> None:
    """Weights that are loaded into the parameters after the optimizer was made, before its first step."""
    params = arrays(rng, name)
    twins = arrays(rng, name)
    opt = CLASSES[name](params, lr=LR)
    for p, q in zip(params, twins, strict=True):
        p[...] = q
    plain = CLASSES[name](twins, lr=LR)
    for _ in range(3):
        grads = arrays(rng, name)
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
    params = arrays(rng, name)
    opt = CLASSES[name](params, lr=LR)
    for p, q in zip(params, arrays(rng, name), strict=True):
        p[...] = q
    before = bits(params)
    opt.eval()
    assert bits(params) == before
    opt.train()
    assert bits(params) == before
