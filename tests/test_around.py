"""The options around every rule, for all rules by introspection: averages, accumulation, clipping, penalties, noise,
structures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import CLASSES, OPTIMIZERS, SCHEDULE_FREE, Array, Options, ordinary
from tools import Each, assert_close, bits, copies, everything

import fastopt as fo
from fastopt import functional as F
from fastopt import optim, reference

LR = 0.05

classes = pytest.mark.parametrize("name", CLASSES)
decoupling = pytest.mark.parametrize("name", [name for name in CLASSES if name not in SCHEDULE_FREE])


def some_missing(grads: list[Array], step: int) -> list[Array | None]:
    return [None if (step + i) % 3 == 1 else g for i, g in enumerate(grads)]


# Averages


@classes
def test_ema_is_the_average(name: str, each: Each, rng: Generator) -> None:
    """The average uses each parameter's own count, and the run is the same as without it."""
    for options, warmup in each(OPTIMIZERS[name].variants, [False, True]):
        params = OPTIMIZERS[name].arrays(rng)
        alone = copies(params)
        opt = CLASSES[name](params, lr=LR, ema_decay=0.8, ema_warmup=warmup, **options)
        plain = CLASSES[name](alone, lr=LR, **options)
        averages, counts = copies(params), [0] * len(params)
        for step in range(6):
            grads = some_missing(OPTIMIZERS[name].arrays(rng), step)
            opt.step(grads)
            plain.step(grads)
            for i, (p, g) in enumerate(zip(params, grads, strict=True)):
                if g is not None:
                    counts[i] += 1
                    decay = min(0.8, (1 + counts[i]) / (10 + counts[i])) if warmup else 0.8
                    averages[i] = np.asarray(decay * averages[i] + (1 - decay) * p)
        assert_close(opt.ema_params, averages)
        assert bits(params) == bits(alone)


@classes
def test_swa_is_the_mean_of_the_chosen_iterates(name: str, each: Each, rng: Generator) -> None:
    for start, freq in each([(1, 1), (3, 1), (2, 3)]):
        params = OPTIMIZERS[name].arrays(rng)
        before = copies(params)
        opt = CLASSES[name](params, lr=LR, swa_start=start, swa_freq=freq, **OPTIMIZERS[name].richest)
        chosen: list[list[Array]] = [[] for _ in params]
        counts = [0] * len(params)
        for step in range(10):
            grads = some_missing(OPTIMIZERS[name].arrays(rng), step)
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
    params = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name](params, lr=LR, ema_decay=0.5)
    for _ in range(2):
        opt.step(OPTIMIZERS[name].arrays(rng))
    here, averages = copies(params), copies(opt.ema_params)
    before = everything(opt)
    opt.swap_ema()
    assert bits(params) == bits(averages)
    assert bits(opt.ema_params) == bits(here)
    with pytest.raises(ValueError, match=rf"^{name}: the parameters are swapped for their averages; swap_ema\(\) them"):
        opt.step(OPTIMIZERS[name].arrays(rng))
    opt.swap_ema()
    assert everything(opt) == before
    with opt.using_ema():
        assert bits(params) == bits(averages)
    assert everything(opt) == before
    with pytest.raises(KeyError, match="inside"), opt.using_ema():
        raise KeyError("inside")
    assert everything(opt) == before
    opt.step(OPTIMIZERS[name].arrays(rng))


@classes
def test_without_averages_there_is_nothing_to_swap(name: str, rng: Generator) -> None:
    opt = CLASSES[name](OPTIMIZERS[name].arrays(rng), lr=LR)
    for act in opt.swap_ema, opt.using_ema().__enter__:
        with pytest.raises(ValueError, match=rf"^{name}: there are no averages; set ema_decay or swa_start$"):
            act()
    opt.step(OPTIMIZERS[name].arrays(rng))


def test_averages_have_the_structure_of_the_parameters(rng: Generator) -> None:
    """``ema_params`` has the live arrays, and the parameter itself where there is no average."""
    w = {"first": {"w": ordinary(rng, (2, 3))}, "rest": [ordinary(rng, (3,)), ordinary(rng, ())]}
    opt = optim.SGD(w, lr=0.1, ema_decay=0.5)
    opt.step({"first": None, "rest": [ordinary(rng, (3,)), ordinary(rng, ())]})
    averages = opt.ema_params
    assert averages["first"]["w"] is opt.state[0]["ema_param"]
    assert averages["rest"][1] is opt.state[2]["ema_param"]

    p, q = ordinary(rng, (2,)), ordinary(rng, (3,))
    opt = optim.SGD([{"params": [p]}, {"params": {"q": q}, "ema_decay": 0.5}], lr=0.1)
    opt.step([[ordinary(rng, (2,))], {"q": ordinary(rng, (3,))}])
    (first,), second = opt.ema_params
    assert first is p
    assert second["q"] is opt.state[1]["ema_param"]
    here = q.copy()
    with opt.using_ema():
        assert q.tobytes() != here.tobytes()
        assert opt.ema_params[0][0] is p


def test_an_average_that_is_switched_on_later_begins_there(rng: Generator) -> None:
    p = ordinary(rng, (5,))
    opt = optim.SGD([p], lr=0.1)
    opt.step([ordinary(rng, (5,))])
    opt.param_groups[0]["ema_decay"] = 0.5
    here = p.copy()
    opt.step([ordinary(rng, (5,))])
    assert_close(opt.ema_params, [(here + p) / 2])


BAD_AVERAGES: Any = [
    ({"ema_decay": 0.9, "swa_start": 1}, "ema_decay and swa_start exclude each other"),
    ({"ema_decay": 1.5}, r"ema_decay must be in \[0, 1\], got 1.5"),
    ({"swa_start": 0}, "swa_start must be in"),
    ({"swa_start": 1, "swa_freq": 0}, "swa_freq must be in"),
    ({"swa_start": 1.5}, "swa_start must be an integer, got 1.5"),
]


@classes
def test_averages_that_make_no_sense_are_errors(name: str, each: Each) -> None:
    for options, message in each(BAD_AVERAGES):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: {message}"):
            CLASSES[name]([np.ones((2, 2))], **options)


# Accumulation


@classes
def test_accumulated_gradients_are_a_step_with_their_mean(name: str, rng: Generator) -> None:
    params = OPTIMIZERS[name].arrays(rng)
    twins = copies(params)
    opt, plain = (
        CLASSES[name](params, lr=LR, **OPTIMIZERS[name].richest),
        CLASSES[name](twins, lr=LR, **OPTIMIZERS[name].richest),
    )
    for step in range(3):
        parts = [some_missing(OPTIMIZERS[name].arrays(rng), step + part) for part in range(4)]
        before = [[g.copy() for g in part if g is not None] for part in parts]
        for part in parts:
            opt.accumulate(part)
        assert bits([g for part in parts for g in part if g is not None]) == bits([g for part in before for g in part])
        mean = [
            np.asarray(sum((g for part in parts if (g := part[i]) is not None), np.zeros(shape)) / 4)
            for i, shape in enumerate(OPTIMIZERS[name].shapes)
        ]
        info = opt.step(clip_norm=5.0, grad_scale=2.0)
        expected = plain.step(mean, clip_norm=5.0, grad_scale=2.0)
        assert info.step == expected.step == step + 1
        assert info.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12)
    assert_close(params, twins, 1e-11)


@classes
def test_accumulated_gradients_may_be_strided(name: str, each: Each, rng: Generator) -> None:
    for dtype in each(["float32", "float64"]):
        shape = (6, 10)
        p, q = (ordinary(np.random.default_rng(1), shape, dtype) for _ in range(2))
        opt, plain = CLASSES[name]([p], lr=LR), CLASSES[name]([q], lr=LR)
        g = ordinary(rng, (6, 30), dtype)[:, 10:20]
        opt.accumulate([g])
        opt.step()
        plain.step([g.copy()])
        assert p.tobytes() == q.tobytes()


@classes
def test_a_parameter_without_any_gradient_is_left_alone(name: str, rng: Generator) -> None:
    """As in a step, None adds nothing; a parameter that got nothing has no gradient."""
    params = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name](params, lr=LR, weight_decay=0.1)
    opt.step(OPTIMIZERS[name].arrays(rng))
    before = everything(opt)
    for _ in range(2):
        opt.accumulate([None, *OPTIMIZERS[name].arrays(rng)[1:]])
    opt.step()
    after = everything(opt)
    assert after["params"][0] == before["params"][0]
    assert after["state"][0] == before["state"][0]
    assert after["params"][1] != before["params"][1]


@classes
def test_a_micro_batch_that_is_wrong_adds_nothing(name: str, rng: Generator) -> None:
    params = OPTIMIZERS[name].arrays(rng)
    twins = copies(params)
    opt, plain = CLASSES[name](params, lr=LR), CLASSES[name](twins, lr=LR)
    grads = OPTIMIZERS[name].arrays(rng)
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
        opt.step(clip_norm=-1)  # keeps the accumulated gradients
    opt.step()
    plain.step(grads)
    assert bits(params) == bits(twins)
    with pytest.raises(ValueError, match="has added none"):
        opt.step()


def test_a_step_with_gradients_leaves_what_was_accumulated(rng: Generator) -> None:
    p, q = (np.ones(3) for _ in range(2))
    opt, plain = optim.SGD([p], lr=0.1, momentum=0.9), optim.SGD([q], lr=0.1, momentum=0.9)
    first, second = ordinary(rng, (3,)), ordinary(rng, (3,))
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
    with pytest.raises(
        ValueError,
        match=r"^SGD: accumulated gradients lack those of a new group; step\(\) or discard_accumulated\(\) first$",
    ):
        opt.add_param_group({"params": [q]})
    assert everything(opt) == before
    opt.step()
    opt.add_param_group({"params": [q]})
    opt.accumulate([np.ones(3), np.ones(2)])
    opt.step()
    assert_close([p, q], [np.full(3, 0.8), np.full(2, 0.9)])


@classes
def test_micro_batches_of_unequal_size_are_a_step_with_the_whole_batch(name: str, rng: Generator) -> None:
    """Each gives the gradient of its mean and its number of examples; None counts as zeros, as without weights."""
    params = OPTIMIZERS[name].arrays(rng)
    twins = copies(params)
    options = {"lr": LR, **OPTIMIZERS[name].richest}
    opt, plain = CLASSES[name](params, **options), CLASSES[name](twins, **options)
    for step, sizes in enumerate([(32, 32, 7), (1, 5), (0.25, 3e9, 1e-3)]):
        parts = [some_missing(OPTIMIZERS[name].arrays(rng), step + part) for part in range(len(sizes))]
        for part, size in zip(parts, sizes, strict=True):
            opt.accumulate(part, weight=size)
        mean = [
            np.asarray(
                sum(
                    (n * g for part, n in zip(parts, sizes, strict=True) if (g := part[i]) is not None), np.zeros(shape)
                )
                / sum(sizes)
            )
            for i, shape in enumerate(OPTIMIZERS[name].shapes)
        ]
        info = opt.step(clip_norm=5.0, grad_scale=2.0)
        expected = plain.step(mean, clip_norm=5.0, grad_scale=2.0)
        assert info.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12)
    assert_close(params, twins, 1e-9)


def test_equal_weights_have_the_bits_of_none(rng: Generator) -> None:
    p, q = (np.ones(100, np.float32) for _ in range(2))
    opt, plain = optim.SGD([p], lr=0.1), optim.SGD([q], lr=0.1)
    for _ in range(3):
        g = ordinary(rng, (100,), "float32")
        opt.accumulate([g], weight=1)
        plain.accumulate([g])
    opt.step()
    plain.step()
    assert p.tobytes() == q.tobytes()


def test_a_micro_batch_of_weight_0_is_left_out(rng: Generator) -> None:
    """Without unmasked tokens a mean is 0/0; what does not fit is still an error."""
    p = np.ones(3)
    opt = optim.SGD([p], lr=1.0)
    nothing = np.full(3, np.nan)
    opt.accumulate([nothing], weight=0)
    with pytest.raises(ValueError, match="has added none"):
        opt.step()
    opt.accumulate([np.ones(3)], weight=2)
    opt.accumulate([nothing], weight=0)
    with pytest.raises(ValueError, match=r"^SGD: grads\[0\] has shape \(2,\), expected \(3,\)$"):
        opt.accumulate([np.ones(2)], weight=0)
    opt.accumulate([np.zeros(3)], weight=2)
    opt.step()
    assert np.array_equal(p, [0.5] * 3)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (-1, ValueError, "weight must be finite and >= 0, got -1"),
        (np.inf, ValueError, "weight must be finite and >= 0, got inf"),
        (np.nan, ValueError, "weight must be finite and >= 0, got nan"),
        (1e300, ValueError, r"weight must be 0 or in \[2\*\*-53, 2\*\*53\], got 1e\+300"),
        (1e-40, ValueError, r"weight must be 0 or in \[2\*\*-53, 2\*\*53\], got 1e-40"),
        ("1", TypeError, "weight must be a number, got '1'"),
        (True, TypeError, "weight must be a number, got True"),
        (None, ValueError, r"this micro-batch has no weight, and those .* have one; .* with discard_accumulated\(\)"),
    ],
    ids=str,
)
def test_a_wrong_weight_adds_nothing(weight: Any, error: type[Exception], message: str) -> None:
    p = np.ones(3)
    opt = optim.SGD([p], lr=1.0)
    opt.accumulate([np.full(3, 0.5)], weight=3)
    before = everything(opt)
    with pytest.raises(error, match=f"^SGD: {message}$"):
        opt.accumulate([np.ones(3)], weight=weight)
    with pytest.raises(ValueError, match=r"^SGD: grads\[0\] has shape"):
        opt.accumulate([np.ones(2)], weight=5)
    assert everything(opt) == before
    opt.accumulate([np.full(3, 0.5)], weight=np.float32(7))
    opt.step()
    assert np.array_equal(p, [0.5] * 3)
    opt.accumulate([np.ones(3)])  # each step is free to have weights or none
    with pytest.raises(
        ValueError, match=r"^SGD: this micro-batch has a weight, and those .* have none; give all of them a"
    ):
        opt.accumulate([np.ones(3)], weight=1)
    opt.step()
    assert np.array_equal(p, [-0.5] * 3)


@classes
def test_discarded_gradients_are_as_if_never_added(name: str, rng: Generator) -> None:
    params = OPTIMIZERS[name].arrays(rng)
    twins = copies(params)
    opt, plain = CLASSES[name](params, lr=LR), CLASSES[name](twins, lr=LR)
    opt.discard_accumulated()  # nothing is there
    bad = OPTIMIZERS[name].arrays(rng)
    bad[0][...] = np.nan
    opt.accumulate(bad, weight=3)
    before = bits(params)
    opt.discard_accumulated()
    assert bits(params) == before
    with pytest.raises(ValueError, match="has added none"):
        opt.step()
    opt.state_dict()
    grads = OPTIMIZERS[name].arrays(rng)
    opt.accumulate(grads)
    opt.step()
    plain.step(grads)
    assert everything(opt)["state"] == everything(plain)["state"]
    assert bits(params) == bits(twins)


def test_discarding_is_the_way_out_of_every_refusal(tmp_path: Path) -> None:
    p = np.ones(3)
    opt = optim.SGD([p], lr=0.1, ema_decay=0.5)

    def replace() -> None:
        opt.param_groups[0]["params"] = [np.ones(5)]
        opt.step([np.ones(5)])

    for refused in (
        opt.state_dict,
        lambda: opt.save(tmp_path / "state"),
        lambda: opt.add_param_group({"params": [np.ones(2)]}),
        replace,
    ):
        opt.param_groups[0]["params"] = [p]
        opt.accumulate([np.ones(3)] if len(opt.param_groups) == 1 else [np.ones(3), None])
        if refused is replace:
            del opt.param_groups[1:]
        with pytest.raises(ValueError, match=r"^SGD: accumulated gradients .* discard_accumulated\(\)"):
            refused()
        opt.discard_accumulated()
        refused()
    opt.param_groups[0]["params"] = [p]
    opt.accumulate([np.ones(3)])
    opt.swap_ema()
    opt.discard_accumulated()  # also while averages are in their place


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


@classes
def test_clipping_is_clipping_by_hand(name: str, each: Each, rng: Generator) -> None:
    for clip, most in each(CLIPS, [0.0, 0.3, 1e6], by_day=6):
        params = OPTIMIZERS[name].arrays(rng)
        twins = copies(params)
        opt, plain = (
            CLASSES[name](params, lr=LR, **OPTIMIZERS[name].richest),
            CLASSES[name](twins, lr=LR, **OPTIMIZERS[name].richest),
        )
        for _ in range(3):
            grads = OPTIMIZERS[name].arrays(rng)
            info = opt.step([np.asarray(g * 8) for g in grads], grad_scale=8.0, **{clip: most})
            expected = CLIPS[clip](grads, twins, most)
            plain.step(expected)
            assert info.grad_norm == (pytest.approx(norm(grads), rel=1e-12) if clip == "clip_norm" else None)
        assert_close(params, twins, 1e-10)


@classes
def test_an_infinite_clip_norm_finds_the_norm_only(name: str, rng: Generator) -> None:
    for bad in (0.0, np.inf, np.nan):
        params = OPTIMIZERS[name].arrays(rng)
        twins = copies(params)
        opt, plain = CLASSES[name](params, lr=LR), CLASSES[name](twins, lr=LR)
        for _ in range(2):
            grads = OPTIMIZERS[name].arrays(rng)
            grads[0].flat[:1] += bad
            info = opt.step(grads, clip_norm=np.float32(np.inf))
            plain.step(grads)
            assert info.grad_norm == pytest.approx(norm(grads), rel=1e-12, nan_ok=True)
            assert not info.skipped
        assert bits(params) == bits(twins)


def test_an_infinite_clip_norm_is_the_references() -> None:
    for bad in (0.5, np.inf):
        grads = [np.array([1.0, bad, -2.0]), np.ones(2)]
        found: list[Any] = []
        for sgd in (F.sgd, reference.sgd):
            params = [np.ones(3), np.ones(2)]
            grad_norm, _ = sgd(params, grads, step=1, lr=0.1, clip_norm=math.inf)
            found.append((grad_norm, bits(params)))
        assert found[0] == found[1]
        assert np.isfinite(params[0][[0, 2]]).all()  # the other elements are not multiplied by inf / inf


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_reads_strided_gradients(clip: str, rng: Generator) -> None:
    p = ordinary(rng, (5, 40))
    q = p.copy()
    opt, plain = optim.SGD([p], lr=LR), optim.SGD([q], lr=LR)
    g = ordinary(rng, (5, 90))[:, 3:43]
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


BAD_STEPS: Any = [
    *((clip, value, ValueError) for clip in CLIPS for value in (-1.0, np.nan, -np.inf)),
    *((clip, np.inf, ValueError) for clip in CLIPS if clip != "clip_norm"),
    *((clip, value, TypeError) for clip in CLIPS for value in ("1", [1.0, 2.0], np.ones(2), 1j)),
    *(("grad_scale", value, ValueError) for value in (0, -1.0, np.nan, np.inf)),
    *(("grad_scale", value, TypeError) for value in ("1", None, np.ones(2))),
    *((flag, value, TypeError) for flag in ("skip_nonfinite", "zero_grads") for value in ("yes", 0.5, [1])),
]


@pytest.mark.parametrize("name", ["SGD", "Muon"])
def test_options_of_a_step_that_make_no_sense_are_errors(name: str, each: Each, rng: Generator) -> None:
    for option, value, error in each(BAD_STEPS):
        opt = CLASSES[name]([ordinary(rng, (2, 3))], lr=LR)
        before = everything(opt)
        with pytest.raises(error, match=rf"^{name}: {option} must be"):
            opt.step([ordinary(rng, (2, 3))], **{option: value})
        assert everything(opt) == before


def test_one_clip_norm_for_groups_of_different_rules_and_dtypes(rng: Generator) -> None:
    params = [
        ordinary(rng, (30,), "float32"),
        ordinary(rng, (4, 5)),
        ordinary(rng, (7,), "float32"),
        ordinary(rng, (3,)),
    ]
    twins = copies(params)
    grads = [ordinary(rng, p.shape, p.dtype.name) for p in params]
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


@classes
def test_a_step_with_a_bad_gradient_is_skipped(name: str, each: Each, rng: Generator) -> None:
    """No byte changes, nothing is counted, and the next step is the same as without the skipped one."""
    for options, bad in each(OPTIMIZERS[name].variants, [np.inf, -np.inf, np.nan], by_day=3):
        params = OPTIMIZERS[name].arrays(rng)
        twins = copies(params)
        more = {"lr": LR, "ema_decay": 0.9, "noise": 0.1, "l2_init": 0.1, "weight_decay": 0.1, **options}
        opt, plain = CLASSES[name](params, **more), CLASSES[name](twins, **more)
        for where in range(2):
            grads = OPTIMIZERS[name].arrays(rng)
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
        grads = OPTIMIZERS[name].arrays(rng)
        for one in opt, plain:
            assert one.step(grads).step == 3
        assert everything(opt) == everything(plain)


def test_a_step_is_skipped_for_infinities_only(rng: Generator) -> None:
    """Finite gradients whose squares overflow do not skip a step."""
    p = np.ones(3)
    info = optim.Lion([p], lr=0.1).step([np.full(3, 1e200)], skip_nonfinite=True)
    assert not info.skipped
    assert_close(p, np.full(3, 0.9))


@classes
def test_gradients_are_zeroed_if_asked(name: str, each: Each, rng: Generator) -> None:
    """Strided gradients too, and no memory around them; the step is the same."""
    for options, dtype in each(OPTIMIZERS[name].variants, ["float32", "float64"]):
        params = OPTIMIZERS[name].arrays(rng, dtype=dtype)
        twins = copies(params)
        opt, plain = CLASSES[name](params, lr=LR, **options), CLASSES[name](twins, lr=LR, **options)
        for _ in range(2):
            grads = OPTIMIZERS[name].arrays(rng, dtype=dtype)
            room = ordinary(rng, (30, 12), dtype)
            around = room.copy()
            grads[1] = room[:, 4:9]
            plain.step(copies(grads))
            opt.step(grads, zero_grads=True)
            assert not any(np.any(g) for g in grads)
            around[:, 4:9] = 0
            assert room.tobytes() == around.tobytes()
        assert bits(params) == bits(twins)


@classes
def test_gradients_that_cannot_be_zeroed_are_errors(name: str, each: Each, rng: Generator) -> None:
    for skip in each([False, True]):
        shape = (4, 6)
        params = [ordinary(rng, shape) for _ in range(3)]
        opt = CLASSES[name](params, lr=LR)
        before = everything(opt)
        frozen, shared = ordinary(rng, shape), ordinary(rng, (6, 6))
        frozen.flags.writeable = False
        bad = np.nan if skip else 1.0
        for grads, error, message in (
            (
                [np.full(shape, bad), frozen, None],
                TypeError,
                r"grads\[1\] is read-only, but would be zeroed; give a copy, or zero_grads=False",
            ),
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
        opt.step([frozen, shared[:4], shared[2:]])  # without zero_grads they are only read


# Maximizing, penalties


@classes
def test_to_maximize_is_to_minimize_the_negative(name: str, each: Each, rng: Generator) -> None:
    for options in each(OPTIMIZERS[name].variants):
        params = OPTIMIZERS[name].arrays(rng)
        twins = copies(params)
        more = {"lr": LR, "weight_decay": 0.1, "l1": 0.01, **options}
        opt, plain = CLASSES[name](params, maximize=True, **more), CLASSES[name](twins, **more)
        for step in range(3):
            grads = some_missing(OPTIMIZERS[name].arrays(rng), step)
            opt.step(grads)
            plain.step([None if g is None else np.negative(g, out=np.empty_like(g)) for g in grads])
        assert bits(params) == bits(twins)


@classes
def test_penalties_are_added_to_the_gradient(name: str, each: Each, rng: Generator) -> None:
    """The terms of L2, L1 and the distance to the initial weights are added after clipping."""
    for options in each(OPTIMIZERS[name].variants):
        params = OPTIMIZERS[name].arrays(rng)
        twins, initial = copies(params), copies(params)
        more = {"lr": LR, "decoupled_weight_decay": False, **options}
        opt = CLASSES[name](params, weight_decay=0.1, l1=0.02, l2_init=0.3, **more)
        plain = CLASSES[name](twins, weight_decay=0.0, **more)
        for _ in range(3):
            grads = OPTIMIZERS[name].arrays(rng)
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
    """The order is p ← (1 − lr·λ) p, the rule, the pull to p₀, the threshold."""
    params = OPTIMIZERS[name].arrays(rng)
    twins, initial = copies(params), copies(params)
    around: Options = {"weight_decay": 0.2, "l2_init": 0.5, "l1": 0.3, "proximal_l1": "lr"}
    opt = CLASSES[name](params, lr=0.0, decoupled_weight_decay=True, **around)
    plain = CLASSES[name](twins, lr=0.0, decoupled_weight_decay=True, weight_decay=0.0)
    for lr in 0.0, LR, LR / 2:
        opt.param_groups[0]["lr"] = plain.param_groups[0]["lr"] = lr
        grads = OPTIMIZERS[name].arrays(rng)
        opt.step(grads)
        decays = [np.asarray(p * lr * 0.2) for p in twins]
        first = name not in ("LAMB", "LARS", "Adafactor")  # these measure the parameter before the decay
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
    params = OPTIMIZERS[name].arrays(rng)
    twins = copies(params)
    opt = CLASSES[name](params, lr=LR, weight_decay=0.01, decoupled_weight_decay=True, fixed_decay=True, l2_init=0.02)
    plain = CLASSES[name](twins, lr=LR, weight_decay=0.01 / LR, decoupled_weight_decay=True, l2_init=0.02 / LR)
    for step in range(4):
        lr = LR / (1 + step)
        opt.param_groups[0]["lr"] = lr
        plain.param_groups[0].update(lr=lr, weight_decay=0.01 / lr, l2_init=0.02 / lr)
        grads = OPTIMIZERS[name].arrays(rng)
        opt.step(grads)
        plain.step(grads)
    assert_close(params, twins)
    with pytest.raises(ValueError, match=rf"^{name}: fixed_decay needs decoupled_weight_decay$"):
        CLASSES[name](OPTIMIZERS[name].arrays(rng), fixed_decay=True, decoupled_weight_decay=False)


def test_fixed_decay_is_the_factor() -> None:
    p = np.full(3, 2.0)
    optim.SGD([p], lr=0.0, weight_decay=0.25, decoupled_weight_decay=True, fixed_decay=True).step([np.ones(3)])
    assert p.tolist() == [1.5] * 3


@decoupling
def test_proximal_l1_gives_exact_zeros(name: str, rng: Generator) -> None:
    """Small weights without a gradient become exactly zero, and no others."""
    params = [np.asarray(np.where(rng.random(shape) < 0.5, 1e-3, 5.0)) for shape in OPTIMIZERS[name].shapes]
    small = [p < 1 for p in params]
    opt = CLASSES[name](params, lr=LR, weight_decay=0.0, l1=0.1, proximal_l1="lr")
    opt.step([np.zeros(shape) for shape in OPTIMIZERS[name].shapes])
    for p, zero in zip(params, small, strict=True):
        assert not np.any(p[zero])
        assert not np.any(np.signbit(p[zero]))
        assert np.all(p[~zero] > 4)


@pytest.mark.parametrize("decoupled", [False, True])
def test_the_initial_weights_are_those_at_the_beginning_of_a_warm_up(decoupled: bool) -> None:
    """This holds also if the learning rate begins with 0."""
    p = np.ones(3)
    opt = optim.SGD([p], lr=0.0, l2_init=1.0, decoupled_weight_decay=decoupled)
    opt.step([np.zeros(3)])
    p += 1.0
    opt.param_groups[0]["lr"] = 0.5
    opt.step([np.zeros(3)])
    assert p.tolist() == [1.5] * 3


@decoupling
def test_l2_init_pulls_to_the_initial_weights(name: str, rng: Generator) -> None:
    """The initial weights are those before the first step, whatever has happened to the parameters since."""
    params = OPTIMIZERS[name].arrays(rng)
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
    """A function that applies noise alone to parameters of given shapes: SGD with lr = 1 from 0."""

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
    """It does not depend on shape, dtype, layout of the gradient, threads, or other parameters."""
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


@classes
def test_noise_is_reproducible(name: str, each: Each, rng: Generator) -> None:
    for options in each(OPTIMIZERS[name].variants):
        params = OPTIMIZERS[name].arrays(rng)
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
            grads = some_missing(OPTIMIZERS[name].arrays(rng), step)
            for opt in opts:
                opt.step(grads)
        assert bits(again) == bits(first)
        assert other[1].tobytes() != first[1].tobytes()
        assert none[1].tobytes() != first[1].tobytes()


@classes
def test_noise_is_added_to_the_clipped_gradient(name: str, rng: Generator) -> None:
    """The numbers are the same for every rule; a descent with noise alone gives them."""
    (x, y) = descended(noise=0.5, seed=7)((5, 20), (6, 4))
    params = [ordinary(rng, (5, 20)), ordinary(rng, (6, 4))]
    twins = copies(params)
    opt, plain = (CLASSES[name](some, lr=LR, weight_decay=0.0, **OPTIMIZERS[name].richest) for some in (params, twins))
    opt.param_groups[0].update(noise=0.5, seed=7)
    grads = [ordinary(rng, (5, 20)), ordinary(rng, (6, 4))]
    opt.step(grads, clip_value=0.1)
    plain.step([np.clip(g, -0.1, 0.1) + n for g, n in zip(grads, (x, y), strict=True)])
    assert_close(params, twins, 1e-11)


def test_temperature_has_no_effect_without_a_rate() -> None:
    """An example is the first step of a warm-up from zero."""
    p = np.ones(100)
    opt = optim.SGD([p], lr=0.0, temperature=0.5)
    opt.step([np.ones(100)])
    assert np.all(p == 1)
    opt.param_groups[0]["lr"] = 0.1
    opt.step([np.zeros(100)])
    assert p.std() > 0.1


def test_temperature_is_langevin_dynamics() -> None:
    """p ← p − lr·g + √(2·lr·T)·ξ, independent of other noise; in a harmonic potential the measured temperature is T."""
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


BAD_HYPERPARAMETERS: Any = [
    ({"temperature": -0.1}, "temperature must be"),
    ({"noise": -0.1}, "noise must be"),
    ({"noise": math.nan}, "noise must be"),
    ({"seed": -1}, "seed must be in"),
    ({"seed": 1.5}, "seed must be an integer"),
    ({"seed": 2**53}, "seed must be in"),
    ({"l1": -0.1}, "l1 must be"),
    ({"l2_init": math.inf}, "l2_init must be"),
    ({"proximal_l1": "yes"}, "proximal_l1 must be a bool or 'lr', got 'yes'"),
    ({"proximal_l1": 1}, "proximal_l1 must be a bool or 'lr', got 1"),
    ({"maximize": None}, "maximize must be a bool"),
    ({"fixed_decay": 0.5}, "fixed_decay must be a bool"),
    ({"decoupled_weight_decay": "yes"}, "decoupled_weight_decay"),
]


@classes
def test_hyperparameters_that_make_no_sense_are_errors(name: str, each: Each) -> None:
    for options, message in each(BAD_HYPERPARAMETERS):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: {message}"):
            CLASSES[name]([np.ones((2, 2))], **options)
