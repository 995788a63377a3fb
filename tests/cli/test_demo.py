"""The demos: the two sides agree, the same seed gives the same result, and their files can be read."""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools import Each, refusal

from fastopt.cli import main

pytest.importorskip("sklearn", reason="the digits are scikit-learn's: pip install 'fastopt[demo]'")
pytest.importorskip("rich", reason="the tables are rich's: pip install 'fastopt[demo]'")
pytest.importorskip("matplotlib", reason="the pictures are matplotlib's: pip install 'fastopt[demo]'")
pytest.importorskip("tensorboardX", reason="the records are tensorboardX's: pip install 'fastopt[demo]'")

from rich.console import Console

from fastopt import nn, optim
from fastopt.cli.demo import digits, idiomatic, network, race, ravine, regularize, weight_decay

SMALL = ["--hidden", "16", "16", "--epochs", "3", "--batch-size", "32", "--no-picture"]


def options(**changes: Any) -> argparse.Namespace:
    args = argparse.Namespace(
        hidden=[32, 16], batch_size=32, epochs=3, patience=None, lr=1e-3, weight_decay=0.01, seed=0
    )
    vars(args).update(changes)
    return args


def trainings(**changes: Any) -> list[digits.Training]:
    data = digits.Digits.load()
    return [
        digits.Training(backend, data, options(**changes)) for backend in (digits.FIRST, digits.NUMPY, digits.FASTOPT)
    ]


# The two sides


def test_first_step_agrees() -> None:
    fast = trainings()[-1]
    batch = (fast.digits.train.x[:32], fast.digits.train.target[:32])
    loss = fast.step(*batch)
    for numpy in trainings()[:-1]:
        assert numpy.step(*batch) == pytest.approx(loss, rel=1e-6)
        assert numpy.network.params.keys() == fast.network.params.keys()
        for name, grad in numpy.network.grads.items():
            scale = np.max(np.abs(grad))
            np.testing.assert_allclose(fast.network.grads[name], grad, rtol=0, atol=1e-5 * scale, err_msg=name)
        # Adam's first step is lr·sign(g) whatever the size of g, so compare only where g is more than rounding errors.
        for name, param in numpy.network.params.items():
            clear = np.abs(numpy.network.grads[name]) > 1e-5
            np.testing.assert_allclose(
                fast.network.params[name][clear], param[clear], rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_training_agrees() -> None:
    first, numpy, fast = trainings()
    for _ in range(3):
        for run in (first, numpy, fast):
            run.epoch()
    losses = [epoch.valid_loss for epoch in fast.history]
    assert [epoch.valid_loss for epoch in numpy.history] == pytest.approx(losses, rel=1e-2)
    assert [epoch.valid_loss for epoch in first.history] == pytest.approx(losses, rel=1e-2)
    assert numpy.history[-1].train_loss < 0.9 * numpy.history[0].train_loss


def test_images_are_shifted_by_a_pixel() -> None:
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 3, 4] = 1
    shifted = digits.Images(image.reshape(1, 64), np.eye(10, dtype=np.float32)[:1]).shifted()
    places = {tuple(np.argwhere(one.reshape(8, 8))[0].tolist()) for one in shifted[:, 0]}
    assert places == {(i, j) for i in (2, 3, 4) for j in (3, 4, 5)}
    np.testing.assert_array_equal(shifted[4], image.reshape(1, 64))


def test_bars_of_finished_runs_are_where_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    runs = trainings(epochs=1)
    race.race(runs, Console())
    assert [run.finished for run in runs] == [True] * 3
    first, _, fast = runs
    assert first.progress[-1][1] == first.images == 1077 // 32 * 32
    assert race.position(first, 0.0) == 0
    for seconds, images in first.progress:
        assert race.position(first, seconds) == images
    assert race.position(first, first.progress[5][0] - 1e-9) == first.progress[4][1]
    assert race.position(fast, 1e9) == fast.images
    assert "images/s" in capsys.readouterr().out


@pytest.mark.parametrize("training", [True, False])
def test_idiomatic_batch_norm(training: bool) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = nn.BatchNorm(5), idiomatic.BatchNorm(5)
    for _ in range(3):
        x, dy = (rng.normal(3, 2, (8, 5)).astype(np.float32) for _ in range(2))
        np.testing.assert_allclose(theirs(x), ours(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(theirs.backward(dy), ours.backward(dy), rtol=1e-4, atol=1e-5)
    if not training:
        ours.eval()
        theirs.eval()
        np.testing.assert_allclose(theirs(x), ours(x), rtol=1e-4, atol=1e-5)


def test_idiomatic_adamw() -> None:
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape, dtype=np.float32) for shape in ((4, 3), (3,))]
    params = [[p.copy() for p in start] for _ in range(2)]
    groups = [[{"params": [w]}, {"params": [b], "weight_decay": 0.0}] for w, b in params]
    ours = optim.AdamW(groups[0], lr=0.01, weight_decay=0.1)
    theirs = idiomatic.AdamW(groups[1], lr=0.01, weight_decay=0.1)
    for _ in range(20):
        grads = [[rng.standard_normal(p.shape, dtype=np.float32)] for p in start]
        ours.step(grads)
        theirs.step(grads)
    for a, b in zip(*params, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", [digits.FIRST, digits.NUMPY, digits.FASTOPT], ids=lambda backend: backend.name)
def test_gradients_are_the_loss_s(backend: digits.Backend) -> None:
    """The gradients agree with central differences along one random direction."""
    rng = np.random.default_rng(0)
    net = backend.network([12, 8], 0)
    x, target = rng.random((16, 64), dtype=np.float32), np.eye(10, dtype=np.float32)[rng.integers(0, 10, 16)]
    _, dlogits = network.cross_entropy(net.forward(x), target)
    net.backward(dlogits)
    for name, param in net.params.items():
        direction = np.sign(net.grads[name])
        slopes = []
        for sign in (1, -1):
            param += sign * 1e-3 * direction
            slopes.append(network.cross_entropy(net.forward(x), target)[0])
            param -= sign * 1e-3 * direction
        expected = float(np.sum(net.grads[name] * direction))
        assert (slopes[0] - slopes[1]) / 2e-3 == pytest.approx(expected, rel=0.05), name


def test_norms_and_biases_do_not_decay() -> None:
    network = trainings()[-1].network
    (decayed, others), _ = digits.groups(network)
    matrices = ["fc1.weight", "fc2.weight", "out.weight"]
    vectors = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "out.bias"]
    for group, names in ((decayed, matrices), (others, vectors)):
        assert [id(p) for p in group["params"]] == [id(network.params[name]) for name in names]
    assert "weight_decay" not in decayed
    assert others["weight_decay"] == 0


def test_split_is_fixed_and_disjoint() -> None:
    one, two = digits.Digits.load(), digits.Digits.load()
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.x, b.x)
    assert [len(images.x) for images in one] == [1077, 360, 360]


# The commands


def figures(capsys: pytest.CaptureFixture[str], *rows: str) -> list[str]:
    """The lines of the printed table that begin with one of ``rows``."""
    return [line for line in capsys.readouterr().out.splitlines() if line[2:].startswith(rows)]


def test_same_seed_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for seed in ("1", "1", "2"):
        assert main(["demo", *SMALL, "--seed", seed]) == 0
        seen.append(figures(capsys, "epochs", "best validation loss", "test accuracy"))
    assert len(seen[0]) == 3
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_digits_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "demo.png"
    assert main(["demo", *SMALL[:-1], "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    for text in (
        *network.PARTS,
        "whole step",
        "test accuracy",
        "images per second",
        "as first written",
        "in place",
        "fastopt",
    ):
        assert text in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_early_stopping() -> None:
    training = trainings(patience=1, epochs=50, lr=0.1)[-1]
    while not training.finished:
        training.epoch()
    losses = [epoch.valid_loss for epoch in training.history]
    assert len(losses) < 50
    assert training.best.valid_loss == min(losses) == losses[-2]


def test_weight_decay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, logdir = tmp_path / "decay.png", tmp_path / "runs"
    argv = ["demo", "weight-decay", "--iterations", "40", "--logdir", str(logdir), "--output", str(picture)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    texts = (
        "no weight decay",
        "weight decay 0.01",
        "weight decay 1 ",
        "iteration 40",
        "mean |weight|",
        "1,000 new points",
    )
    assert all(text in out for text in texts)
    assert picture.read_bytes().startswith(b"\x89PNG")
    params = weight_decay.build(np.random.default_rng(0)).params
    for decay in ("0", "0.01", "1"):
        tags = Counter(tag for event in events(logdir / f"weight_decay={decay}") for tag in event)
        assert tags.pop("loss") == 4
        kinds = ("weight/", "gradient/", "weight_norm/", "gradient_norm/")
        assert tags == {kind + name: 4 for kind in kinds for name in params}


@pytest.mark.parametrize(
    "argv",
    [
        ["digits", "--quick", *SMALL[:-1]],
        ["weight-decay", "--iterations", "2"],
        ["ravine", "--steps", "2"],
        ["escape", "--steps", "16", "--starts", "4"],
        ["regularize", "--steps", "10"],
        ["dropout", "--epochs", "1", "--seeds", "1"],
    ],
    ids=lambda argv: argv[0],
)
def test_without_a_picture_nothing_is_written(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *argv, "--no-picture"]) == 0
    assert os.listdir(tmp_path) == []
    out = capsys.readouterr().out
    assert "Picture" not in out and "tensorboard" not in out


def test_logs_without_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["demo", "weight-decay", "--iterations", "10", "--logdir", str(tmp_path / "logs"), "--no-picture"]
    assert main(argv) == 0
    assert os.listdir(tmp_path) == ["logs"] and len(os.listdir(tmp_path / "logs")) == 3
    assert "tensorboard --logdir" in capsys.readouterr().out


def events(run: Path) -> Iterator[list[str]]:
    """The tags of every event that was recorded: length, checksum, event, checksum, again and again."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = run.iterdir()
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack_from("<Q", data)
        yield [value.tag for value in Event.FromString(data[12 : 12 + length]).summary.value]
        data = data[16 + length :]


def test_larger_decay_pulls_weights_to_zero() -> None:
    x, y = weight_decay.data(np.random.default_rng(0))
    runs = [weight_decay.Run(decay, weight_decay.build(np.random.default_rng(1))) for decay in (0.0, 0.01, 1.0)]
    for run in runs:
        for _ in run.fit(x, y, lr=0.003, iterations=600):
            pass
        assert np.shape(run.norms) == (600, weight_decay.BLOCKS + 1)
    none, small, large = runs
    assert none.near_zero < 0.1 < small.near_zero < 0.5 < 0.6 < large.near_zero
    assert np.mean(np.abs(large.weights)) < 0.1 * np.mean(np.abs(none.weights))
    assert 10 * none.error(x, y) < small.error(x, y) < 0.01 < 0.1 < large.error(x, y) < large.losses[0]
    assert none.losses[-1] == pytest.approx(none.error(x, y), rel=0.01)  # at the end, the learning rate is zero


def test_losses_do_not_spike() -> None:
    """No loss is much more than those around it, after the first fall."""
    x, y = weight_decay.data(np.random.default_rng(0))
    for decay in (0.0, 0.01, 1.0):
        run = weight_decay.Run(decay, weight_decay.build(np.random.default_rng([0, 1])))
        for _ in run.fit(x, y, lr=0.003, iterations=600):
            pass
        around = np.median(np.lib.stride_tricks.sliding_window_view(run.losses, 51), axis=1)
        assert np.max(run.losses[75:-25] / around[50:]) < 10


# The ravine


def surfaces() -> list[ravine.Surface]:
    return [ravine.Ravine(np.random.default_rng(0)), ravine.Saddle(np.random.default_rng(0)), ravine.Beale()]


def walks(name: str, steps: int = 200, seed: int = 0) -> list[ravine.Walk]:
    """The walks of one method over the ravine, the saddle and Beale's function."""
    (method,) = (method for method in ravine.METHODS if method.name == name)
    return [ravine.walk(method, surface, steps, np.random.default_rng(seed)) for surface in surfaces()]


each_surface = pytest.mark.parametrize("surface", surfaces(), ids=lambda surface: surface.name)
each_method = pytest.mark.parametrize("name", [method.name for method in ravine.METHODS])


@each_surface
def test_gradients_are_the_surface_s(surface: ravine.Surface) -> None:
    """The gradient over all samples agrees with central differences, and with the mean of single samples' gradients."""
    for p in np.random.default_rng(0).normal(0.5, 1, (10, 2)):
        whole = surface.gradient(p, np.arange(surface.samples))
        slopes = [(surface.height(p + h) - surface.height(p - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
        np.testing.assert_allclose(whole, slopes, rtol=1e-6, atol=1e-6)
        single = [surface.gradient(p, np.array([i])) for i in range(surface.samples)]
        np.testing.assert_allclose(np.mean(single, axis=0), whole, rtol=1e-9, atol=1e-9)
        assert np.ptp(single, axis=0).min() > 0.01


@each_surface
def test_minima_are_minima(surface: ravine.Surface) -> None:
    around = np.random.default_rng(0).normal(0, 0.1, (100, 2))
    for minimum in np.array(surface.minima):
        assert surface.height(minimum) == 0
        assert np.all(surface.height(minimum + around) > 0)


@each_method
def test_methods_begin_together_and_descend(name: str) -> None:
    for walk, surface in zip(walks(name), surfaces(), strict=True):
        assert walk.points.shape == (201, 2)
        assert tuple(walk.points[0]) == surface.start
        assert walk.points[1].tolist() != walk.points[0].tolist()
        np.testing.assert_array_equal(walk.heights, surface.height(walk.points))
        assert walk.heights[-1] < 0.1 * walk.heights[0]
        assert walk.arrival is None or walk.heights[walk.arrival] <= ravine.NEAR < walk.heights[: walk.arrival].min()
        left, right, bottom, top = surface.window  # nothing leaves the picture
        assert np.all((walk.points > (left, bottom)) & (walk.points < (right, top)))


def test_methods_do_what_the_courses_say() -> None:
    descent, momentum, nesterov = walks("gradient descent"), walks("momentum"), walks("Nesterov")
    valley, saddle = 0, 1

    # Across the ravine, descent changes sides at every step, and it never passes the minimum; momentum does.
    across = descent[valley].points @ [-np.sin(0.3), np.cos(0.3)]
    assert np.all(across[1:20] * across[:19] < 0)
    along = [walk[valley].points @ [np.cos(0.3), np.sin(0.3)] for walk in (descent, momentum, nesterov)]
    assert along[0].max() <= 0 < along[2].max() < along[1].max()

    # Fewer samples make more noise; with all samples the loss only falls.
    noise = [np.abs(walks(name)[saddle].heights[150:]).mean() for name in ("mini-batch SGD", "single-sample SGD")]
    assert np.all(np.diff(descent[saddle].heights) < 1e-15) and descent[saddle].heights[-1] < 1e-4 < noise[0] < noise[1]

    # Methods with a rate for each weight have left the saddle, whose loss is 0.25, before descent even arrives.
    waits = np.flatnonzero(np.abs(descent[saddle].heights - 0.25) < 0.01)
    assert len(waits) >= 15
    for name in ("Adagrad", "RMSprop", "Adadelta", "Adam", "Adam, then SGD"):
        assert walks(name)[saddle].points[waits[0], 1] > 0.5


def test_switch_leaves_adam_s_way() -> None:
    for adam, switched in zip(walks("Adam"), walks("Adam, then SGD"), strict=True):
        assert adam.switch == 0 < switched.switch
        last = switched.switch
        np.testing.assert_array_equal(switched.points[: last + 1], adam.points[: last + 1])
        assert np.any(switched.points[last + 1] != adam.points[last + 1])


@pytest.mark.parametrize(("name", "random"), [("momentum", False), ("mini-batch SGD", True)])
def test_only_samples_are_random(name: str, random: bool) -> None:
    for one, again, other in zip(walks(name, 20), walks(name, 20), walks(name, 20, seed=1), strict=True):
        np.testing.assert_array_equal(one.points, again.points)
        assert bool(np.any(one.points != other.points)) == random


def test_ravine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "ravine.png"
    assert main(["demo", "ravine", "--steps", "40", "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert all(method.name in out for method in ravine.METHODS)
    assert all(text in out for text in ("after 40 steps", "Ravine", "Saddle", "Beale", "–"))
    assert picture.read_bytes().startswith(b"\x89PNG")


# Penalties


@pytest.fixture(scope="module")
def sparse() -> regularize.Data:
    return regularize.Data.draw(np.random.default_rng(0))


@pytest.fixture(scope="module")
def fits(sparse: regularize.Data) -> dict[str, regularize.Fit]:
    return {penalty.name: regularize.fit(penalty, sparse, steps=3000) for penalty in regularize.PENALTIES}


def moments(data: regularize.Data) -> tuple[network.Array, network.Array]:
    """The gradient at w is w @ gram − moment."""
    x, y = data.train
    return x.T @ x / len(x), y @ x / len(x)


def test_only_proximal_weights_are_zero(sparse: regularize.Data, fits: dict[str, regularize.Fit]) -> None:
    real = sparse.weights != 0
    zeros = {name: np.count_nonzero(fit.weights == 0, axis=1) for name, fit in fits.items()}
    for name in ("L1, proximal", "elastic net"):
        assert zeros[name][0] < 10 < zeros[name][fits[name].best] < zeros[name][-1] == regularize.FEATURES
    for name in ("L1, subgradient", "L2 (Adam)", "decay (AdamW)"):
        assert not zeros[name].any()
        assert len(fits[name].recovers(real)) == 0
    assert len(fits["L1, proximal"].recovers(real)) > 0


def test_proximal_l1_is_the_lasso(sparse: regularize.Data, fits: dict[str, regularize.Fit]) -> None:
    """The conditions of optimality: the gradient is −c·sign(w), or where w is zero within ±c."""
    weights, (gram, moment) = fits["L1, proximal"].weights, moments(sparse)
    grad, c = weights @ gram - moment, np.broadcast_to(regularize.COEFFICIENTS[:, None], weights.shape)
    np.testing.assert_allclose(grad[weights != 0], (-c * np.sign(weights))[weights != 0], atol=1e-9)
    assert np.all(np.abs(grad) <= c + 1e-9)


def test_coupled_l2_is_ridge_regression(sparse: regularize.Data, fits: dict[str, regularize.Fit]) -> None:
    gram, moment = moments(sparse)
    ridge = [np.linalg.solve(gram + c * np.eye(len(gram)), moment) for c in regularize.COEFFICIENTS]
    np.testing.assert_allclose(fits["L2 (Adam)"].weights, ridge, atol=0.01)


def test_decoupled_decay_is_a_bound(sparse: regularize.Data, fits: dict[str, regularize.Fit]) -> None:
    largest = np.max(np.abs(fits["decay (AdamW)"].weights), axis=1)
    free = np.linalg.solve(*moments(sparse))
    assert np.all(largest < 1.15 / regularize.COEFFICIENTS)
    np.testing.assert_allclose(fits["decay (AdamW)"].weights[0], free, atol=0.01)
    assert largest[regularize.COEFFICIENTS > 1] == pytest.approx(
        1 / regularize.COEFFICIENTS[regularize.COEFFICIENTS > 1], rel=0.15
    )


def test_penalties_help(sparse: regularize.Data, fits: dict[str, regularize.Fit]) -> None:
    unpenalized = float(sparse.test.error(np.linalg.lstsq(*sparse.train)[0]))
    errors = {name: float(fit.test_error[fit.best]) for name, fit in fits.items()}
    assert all(error < unpenalized for error in errors.values())
    assert regularize.NOISE**2 < errors["L1, proximal"] < errors["elastic net"] < errors["L2 (Adam)"]


def test_regularize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "regularize.png"
    assert main(["demo", "regularize", "--steps", "200", "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert all(penalty.name in out for penalty in regularize.PENALTIES)
    assert all(text in out for text in ("60 features, 8 of them real", "exact", "just the real", "never", "8 + 52"))
    assert picture.read_bytes().startswith(b"\x89PNG")


# What goes wrong


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["demo", "--epochs", "0"], "argument --epochs: must be at least 1, got 0"),
        (["demo", "--lr", "nan"], "argument --lr: must be at least 0, got nan"),
        (["demo", "--hidden", "12.5"], "argument --hidden: must be a whole number, such as 12, got '12.5'"),
        (["demo", "--output", "demo.txt"], "argument --output: must end in .pdf, .png or .svg, got demo.txt"),
        (["demo", "--output", "a.png", "--no-picture"], "argument --no-picture: not allowed with argument --output"),
        (["demo", "letters"], "there is no experiment 'letters'; there are digits, weight-decay, ravine, escape"),
        (["demo", "weight-decay", "--decays", "0.1"], "argument --decays: expected 2 arguments"),
        (["demo", "ravine", "--steps", "0"], "argument --steps: must be at least 1, got 0"),
        (["demo", "regularize", "--output", "a.gif"], "argument --output: must end in .pdf, .png or .svg, got a.gif"),
        (["demo", "rabine"], "fastopt demo: error: there is no experiment 'rabine'; did you mean ravine?"),
        (
            ["demo", "--fast"],
            "fastopt demo digits: error: unrecognized arguments: --fast; fastopt demo digits --help lists",
        ),
        (
            ["demo", "escape", "--star-t", "3"],
            "fastopt demo escape: error: unrecognized arguments: --star-t 3; did you mean --starts?",
        ),
        (["demo", "ravine", "--seed", "-1"], "argument --seed: must be at least 0, got -1"),
        (["demo", "--lr", "fast"], "argument --lr: must be a number, such as 0.01, got 'fast'"),
    ],
)
def test_bad_options(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(argv, capsys)


@pytest.mark.parametrize("size", ["1", "1078"])
def test_bad_batch_size(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--batch-size", size]) == 2
    assert f"--batch-size must be in [2, 1077], got {size}" in capsys.readouterr().err


MISSING = [
    (["demo"], "sklearn", "scikit-learn"),
    (["demo"], "rich", "rich"),
    (["demo", "weight-decay"], "tensorboardX", "tensorboardX"),
    (["demo", "weight-decay"], "matplotlib", "matplotlib"),
    (["demo", "ravine"], "matplotlib", "matplotlib"),
    (["demo", "escape"], "rich", "rich"),
    (["demo", "regularize"], "rich", "rich"),
    (["demo", "formats"], "sklearn", "scikit-learn"),
    (["demo", "formats"], "rich", "rich"),
]
# Importing the module fails as if it were not there, in a child for each case.
WITHOUT = """
import os, sys
import fastopt.optim
from fastopt.cli import main

for argv, module in {cases}:
    child = os.fork()
    if child == 0:
        sys.modules[module] = None
        sys.stderr = sys.stdout
        code = main(argv)
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_missing_extra(each: Each) -> None:
    """Runs in a process of its own."""
    code = WITHOUT.format(cases=[(argv, module) for argv, module, _ in MISSING])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.splitlines()
    for (_, _, package), said, status in each(list(zip(MISSING, printed[::2], printed[1::2], strict=True))):
        assert said == f"fastopt demo: {package} is missing: pip install 'fastopt[demo]'"
        assert status == "1"
