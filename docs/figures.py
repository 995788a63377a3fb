"""The pictures of docs/choosing.md, docs/ideas.md and docs/questions.md; each is a short experiment.

python docs/figures.py                       # all of them, into docs/images, in about half a minute
python docs/figures.py momentum schedules    # two of them
python docs/figures.py --output /tmp/images

It needs matplotlib and scikit-learn: pip install '.[demo]'
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import fastopt as fo
from fastopt import functional as F
from fastopt import nn
from fastopt.cli.demo.picture import BLUE, FAINT, GREY, INK, ORANGE, STYLE, picture

Array = np.ndarray[Any, np.dtype[Any]]
GREEN, PINK = "#009e73", "#cc79a7"


@cache
def digits() -> tuple[Array, Array, Array, Array]:
    """1,200 images of digits and their labels to train with, and 597 to test with."""
    x, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, labels = (x[order] / 16).astype(np.float32), labels[order]
    return x[:1200], labels[:1200], x[1200:], labels[1200:]


def batches(rng: np.random.Generator, rows: int, size: int, steps: int) -> Iterator[Array]:
    """The rows of ``steps`` batches, epoch after epoch; what remains of an epoch is left out."""
    while True:
        for batch in rng.permutation(rows)[: rows // size * size].reshape(-1, size):
            if steps == 0:
                return
            steps -= 1
            yield batch


def accuracy(model: nn.Sequential, x: Array, labels: Array) -> float:
    """The share of the images that the model gets right in evaluation."""
    model.eval()
    return float(np.mean(np.argmax(model(x), axis=1) == labels))


def momentum(path: Path) -> None:
    """Gradient descent in a ravine: without momentum, with it, and the losses."""
    curvature = np.array([1.0, 300.0])
    lr = 0.95 * 2 / curvature[1]
    runs = [
        ("μ = 0", 0.0, lr, ORANGE),
        ("μ = 0.5", 0.5, lr, GREY),
        ("μ = 0.9", 0.9, lr, BLUE),
        ("μ = 0, larger lr", 0.0, lr * 1.1, PINK),
    ]
    paths = []
    for _, mu, rate, _ in runs:
        p = np.array([-4.0, 0.12])
        opt = fo.optim.SGD([p], lr=rate, momentum=mu)
        points = [p.copy()]
        for _ in range(200):
            opt.step([curvature * p])
            points.append(p.copy())
        paths.append(np.array(points))
    with picture(path, 3, size=(10, 3.3)) as axes:
        x, y = np.meshgrid(np.linspace(-4.5, 2.5, 200), np.linspace(-0.3, 0.3, 200))
        height = 0.5 * (curvature[0] * x**2 + curvature[1] * y**2)
        for ax, i in ((axes[0], 0), (axes[1], 2)):
            name, _, _, color = runs[i]
            ax.contour(x, y, height, levels=np.geomspace(0.1, 12, 7), colors=FAINT, linewidths=1)
            ax.plot(*paths[i][:61].T, "o-", color=color, ms=2, lw=0.9)
            ax.plot(0, 0, "x", color=INK, ms=9, mew=2)
            ax.set(title=f"{name}: 60 steps", xlabel="flat direction", xlim=(-4.5, 2.5), ylim=(-0.3, 0.3))
            ax.grid(False)
        axes[0].set_ylabel("steep direction")
        for (name, _, _, color), points in zip(runs, paths, strict=True):
            loss = 0.5 * points**2 @ curvature
            shown = loss < 100
            axes[2].semilogy(np.flatnonzero(shown), loss[shown], color=color, label=name)
        axes[2].set(title="Loss", xlabel="step", ylim=(1e-8, 1e5))
        axes[2].legend(loc="upper right", fontsize=8.5, ncols=2)


def shrinkage(path: Path) -> None:
    """The weights at which the loss and a penalty are in balance, and the way of a weight that has no gradient."""
    best = np.linspace(-3, 3, 121)
    kinds: list[tuple[str, Any, dict[str, Any], str]] = [
        ("L1, λ = 1", fo.optim.SGD, dict(l1=1.0, proximal_l1=True), BLUE),
        ("L2, λ = 1", fo.optim.SGD, dict(weight_decay=1.0), PINK),
        ("elastic net, ½ and ½", fo.optim.SGD, dict(l1=0.5, proximal_l1=True, weight_decay=0.5), GREEN),
        ("decoupled (AdamW), λ = 0.5", fo.optim.AdamW, dict(weight_decay=0.5), ORANGE),
    ]
    with picture(path, 2, size=(10.5, 4)) as (left, right):
        left.plot(best, best, ":", color=INK, lw=1, label="none")
        for name, rule, options, color in kinds:
            w = np.zeros_like(best)
            opt = rule([w], lr=0.1, **options)
            for step in range(3000):
                opt.param_groups[0]["lr"] = 0.1 * (1 - step / 3000)
                opt.step([w - best])
            left.plot(best, w, color=color, label=name)
        left.set(title="Where a weight ends", xlabel="weight that the loss alone would choose", ylabel="weight")
        left.legend(fontsize=9)
        ways: list[tuple[str, Any, dict[str, Any], str, str]] = [
            ("SGD, L2", fo.optim.SGD, dict(weight_decay=1.0), PINK, "-"),
            ("SGD, proximal L1", fo.optim.SGD, dict(l1=1.0, proximal_l1=True), BLUE, "-"),
            ("AdamW, decoupled", fo.optim.AdamW, dict(weight_decay=1.0), ORANGE, "--"),
            ("Adam, L2: λ = 1", fo.optim.Adam, dict(weight_decay=1.0), INK, "-"),
            ("Adam, L2: λ = 0.01", fo.optim.Adam, dict(weight_decay=0.01), GREEN, "--"),
        ]
        for name, rule, options, color, line in ways:
            w = np.ones(1)
            opt, way = rule([w], lr=0.01, **options), [1.0]
            for _ in range(300):
                opt.step([np.zeros(1)])
                way.append(float(w[0]))
            right.plot(way, line, color=color, label=name)
        right.set(title="A weight without a gradient, lr = 0.01", xlabel="step", ylabel="weight")
        right.legend(fontsize=9)


def effective_rate(path: Path) -> None:
    """Weights in front of a BatchNorm: their norm, and how far a step turns them, for several decays."""
    lr, steps = 0.3, 1500
    x, labels, _, _ = digits()
    with picture(path, 3, size=(10, 3.3)) as axes:
        for decay, color in ((0.0, GREY), (0.003, GREEN), (0.01, BLUE), (0.03, ORANGE)):
            rng = np.random.default_rng(0)
            first, last = nn.Linear(64, 64, bias=False, input_grad=False, seed=rng), nn.Linear(64, 10, seed=rng)
            model = nn.Sequential(first, nn.BatchNormReLU(64), last)
            w, *others = model.params.values()
            opt = fo.optim.SGD([{"params": [w], "weight_decay": decay}, {"params": others}], lr=lr)
            norms, turns = [float(np.linalg.norm(w))], []
            for rows in batches(rng, len(x), 32, steps):
                before = w.copy()
                wrong = rng.integers(0, 10, 32)  # a third of the labels, so that gradients do not vanish
                _, dy = F.cross_entropy(model(x[rows]), np.where(rng.random(32) < 1 / 3, wrong, labels[rows]))
                model.backward(dy)
                opt.step(list(model.grads.values()))
                norms.append(float(np.linalg.norm(w)))
                turns.append(float(np.sum(before * w)) / norms[-2] / norms[-1])
            name = f"λ = {decay:g}"
            axes[0].semilogy(norms, color=color, label=name)
            axes[1].semilogy(lr / np.square(norms), color=color, label=name)
            turn = np.convolve(np.degrees(np.arccos(np.clip(turns, -1, 1))), np.ones(50) / 50, "valid")
            axes[2].semilogy(np.arange(len(turn)) + 25, turn, color=color)
            if decay:
                axes[2].axhline(np.degrees(np.sqrt(2 * lr * decay)), color=color, ls=":", lw=1)
        axes[2].plot([], [], ":", color=INK, label="√(2·lr·λ)")
        for ax, title, ticks in zip(
            axes,
            ("Norm of the weights", "Effective rate, lr/‖w‖²", "Turn in a step, degrees"),
            ([2, 3, 5, 8], [0.005, 0.01, 0.02, 0.05, 0.1], [0.5, 1, 2, 5, 10]),
            strict=True,
        ):
            ax.set(title=title, xlabel="step", yticks=ticks)
            ax.set_yticklabels([f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
        axes[0].set_ylim(2, 15)
        axes[0].legend(fontsize=9, ncols=2, loc="upper left")
        axes[2].legend(fontsize=9)


def batchnorm_noise(path: Path) -> None:
    """What a BatchNorm makes of one value in batches of random others, and what networks make of small batches."""
    sizes = 2 ** np.arange(1, 10)
    rng = np.random.default_rng(0)
    with picture(path, 2, size=(10, 3.7)) as (left, right):
        for value, color in ((0.0, GREY), (1.0, BLUE), (3.0, ORANGE)):
            spread = []
            for size in sizes:
                x = rng.standard_normal((size, 2000))
                x[0] = value
                y, _, _ = F.batch_norm(x, None, None, training=True)
                spread.append(np.std(y[0]))
            left.loglog(sizes, spread, "o-", color=color, label=f"x = {value:g}")
        left.loglog(sizes, 1 / np.sqrt(sizes), ":", color=INK, label="1/√n")
        left.set(title="Standard deviation of BatchNorm's output", xlabel="batch size n", xticks=sizes)
        left.set_xticklabels([str(size) for size in sizes])
        left.minorticks_off()
        left.legend(fontsize=9)
        x, labels, test, truth = digits()
        kinds: list[tuple[str, Callable[[], nn.Layer], str]] = [
            ("BatchNorm", lambda: nn.BatchNorm(64), ORANGE),
            ("LayerNorm", lambda: nn.LayerNorm(64), BLUE),
            ("GroupNorm(8)", lambda: nn.GroupNorm(8, 64), GREEN),
        ]
        few = (2, 4, 8, 32, 128)
        for name, norm, color in kinds:
            errors = np.zeros((2, len(few)))
            for seed in range(2):
                for i, size in enumerate(few):
                    rng = np.random.default_rng(seed)
                    first, second = (nn.Linear(64, 64, seed=rng) for _ in range(2))
                    last = nn.Linear(64, 10, seed=rng)
                    model = nn.Sequential(first, norm(), nn.ReLU(), second, norm(), nn.ReLU(), last)
                    opt = fo.optim.SGD(model.params, lr=0.01 * size**0.5, momentum=0.9)
                    for rows in batches(rng, len(x), size, 3 * len(x) // size):
                        _, dy = F.cross_entropy(model(x[rows]), labels[rows])
                        model.backward(dy)
                        opt.step(model.grads)
                    errors[seed, i] = 100 * (1 - accuracy(model, test, truth))
            right.loglog(few, errors.mean(axis=0), "o-", color=color, label=name)
        right.set(title="Digits, 3 epochs: test error, %", xlabel="batch size n", xticks=few, yticks=[2, 5, 10, 20, 50])
        right.set_xticklabels([str(size) for size in few])
        right.set_yticklabels(["2", "5", "10", "20", "50"])
        right.minorticks_off()
        right.legend(fontsize=9)


def schedules(path: Path) -> None:
    """All schedules that stand alone, side by side: the learning rate over 100 steps."""
    s = fo.schedules
    losses = np.concatenate([np.linspace(1, 0.5, 40), np.full(60, 0.5)])
    shown: list[tuple[str, Callable[[Any], Any]]] = [
        ("ConstantLR", lambda o: s.ConstantLR(o, factor=0.3, total_iters=20)),
        ("LinearLR", lambda o: s.LinearLR(o, start_factor=0.1, total_iters=20)),
        ("StepLR", lambda o: s.StepLR(o, step_size=30, gamma=0.5)),
        ("MultiStepLR", lambda o: s.MultiStepLR(o, [50, 75], gamma=0.1)),
        ("ExponentialLR", lambda o: s.ExponentialLR(o, gamma=0.96)),
        ("PolynomialLR", lambda o: s.PolynomialLR(o, total_iters=100)),
        ("InverseSqrtLR", lambda o: s.InverseSqrtLR(o, warmup_steps=10)),
        ("PiecewiseLR", lambda o: s.PiecewiseLR(o, [15, 60, 100], [0.0, 1.0, 0.3, 0.0], interpolate=True)),
        ("CosineAnnealingLR", lambda o: s.CosineAnnealingLR(o, T_max=100)),
        ("WarmupCosineLR", lambda o: s.WarmupCosineLR(o, warmup_steps=10, total_steps=100)),
        ("WarmupStableDecayLR", lambda o: s.WarmupStableDecayLR(o, warmup_steps=10, total_steps=100, decay_steps=25)),
        ("OneCycleLR", lambda o: s.OneCycleLR(o, max_lr=1.0, total_steps=101)),
        ("CosineAnnealingWarmRestarts", lambda o: s.CosineAnnealingWarmRestarts(o, T_0=14, T_mult=2)),
        ("CyclicLR", lambda o: s.CyclicLR(o, base_lr=0.1, max_lr=1.0, step_size_up=17, mode="triangular2")),
        ("LambdaLR", lambda o: s.LambdaLR(o, lambda step: 1 / (1 + step / 20))),
        ("ReduceLROnPlateau", lambda o: s.ReduceLROnPlateau(o, factor=0.5, patience=8, threshold=1e-3)),
    ]
    with matplotlib.rc_context({**STYLE, "axes.titlepad": 5, "axes.titlesize": 9}):
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.subplots(4, 4, sharex=True, sharey=True)
        for ax, (name, make) in zip(axes.flat, shown, strict=True):
            opt = fo.optim.SGD([np.zeros(1)], lr=1.0, momentum=0.9)
            schedule, rates = make(opt), []
            for step in range(101):
                rates.append(opt.param_groups[0]["lr"])
                if step < 100:
                    schedule.step(losses[step]) if name == "ReduceLROnPlateau" else schedule.step()
            ax.plot(rates, color=BLUE, lw=1.8)
            ax.set(title=name, ylim=(0, 1.08), xticks=[0, 50, 100], yticks=[0, 0.5, 1])
        for ax in axes[-1]:
            ax.set_xlabel("step")
        for ax in axes[:, 0]:
            ax.set_ylabel("lr")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def dropout_rate(path: Path) -> None:
    """Errors of a network on few digits, a fifth of them with a random label, for every p of dropout."""
    x, labels, test, truth = digits()
    x, right = x[:400], labels[:400]
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(400) < 0.2, rng.integers(0, 10, 400), right)
    rates = np.arange(0, 1, 0.1)
    errors = np.zeros((3, 2, len(rates)))
    for seed in range(len(errors)):
        for i, p in enumerate(rates):
            rng = np.random.default_rng(seed)
            model = nn.Sequential(
                nn.Linear(64, 128, activation="relu", input_grad=False, seed=rng),
                nn.Dropout(float(p), seed=2 * seed),
                nn.Linear(128, 128, activation="relu", seed=rng),
                nn.Dropout(float(p), seed=2 * seed + 1),
                nn.Linear(128, 10, seed=rng),
            )
            opt = fo.optim.Adam(model.params, lr=2e-3)
            for rows in batches(rng, len(x), 40, 400):
                _, dy = F.cross_entropy(model(x[rows]), labels[rows])
                model.backward(dy)
                opt.step(model.grads)
            errors[seed, :, i] = [100 * (1 - accuracy(model, *pair)) for pair in ((x, labels), (test, truth))]
    with picture(path, 1, size=(7, 3.7)) as ax:
        for row, (name, color) in enumerate((("training, with the random labels", GREY), ("test", BLUE))):
            mean, spread = errors[:, row].mean(axis=0), errors[:, row].std(axis=0)
            ax.plot(rates, mean, "o-", color=color, label=name)
            ax.fill_between(rates, mean - spread, mean + spread, color=color, alpha=0.2, lw=0)
        ax.set(title="400 digits, a fifth of them with a random label: error, %", xlabel="p of dropout", ylim=(0, 50))
        ax.legend(loc="upper center")


def early_stopping(path: Path) -> None:
    """Gradient descent after t steps beside L2 with λ = 1/(lr·t): what is kept of each direction, and the test error."""
    rng = np.random.default_rng(0)
    lr, steps = 0.05, 6_000
    spread = np.geomspace(3, 0.03, 40)
    x = rng.standard_normal((60, 40)) * spread
    truth = rng.standard_normal(40)
    y = x @ truth + 2 * rng.standard_normal(60)
    test = rng.standard_normal((2000, 40)) * spread

    def error(w: Array) -> float:
        return float(np.mean((test @ (w - truth)) ** 2))

    w = np.zeros(40)
    opt, when = fo.optim.SGD([w], lr=lr), np.unique(np.geomspace(1, steps, 50).astype(int))
    stopped = []
    for step in range(1, steps + 1):
        opt.step([x.T @ (x @ w - y) / 60])
        if step in when:
            stopped.append(error(w))
    hessian, slope = x.T @ x / 60, x.T @ y / 60
    ridge = [error(np.linalg.solve(hessian + np.eye(40) / (lr * t), slope)) for t in when]
    with picture(path, 2, size=(10.5, 3.8)) as (left, right):
        curvature = np.geomspace(1e-4, 10, 200)
        for t, color in ((30, GREY), (300, BLUE), (3000, ORANGE)):
            left.semilogx(curvature, 1 - (1 - lr * curvature) ** t, color=color, label=f"{t} steps")
            left.semilogx(curvature, curvature / (curvature + 1 / (lr * t)), "--", color=color)
        left.plot([], [], "--", color=INK, label="L2, λ = 1/(lr·t)")
        left.set(title="Share of the solution that is reached", xlabel="curvature of the direction")
        left.legend(fontsize=9)
        right.loglog(when, stopped, color=BLUE, label="stopped after t steps")
        right.loglog(when, ridge, "--", color=ORANGE, label="L2, λ = 1/(lr·t)")
        right.set_yticks([3, 5, 10, 20], ["3", "5", "10", "20"])
        right.minorticks_off()
        right.set(title="Linear regression: excess error on new data", xlabel="t")
        right.legend(fontsize=9)


def batch_size(path: Path) -> None:
    """The training loss after a number of examples, over the learning rate, for several batch sizes."""
    x, labels, _, _ = digits()
    sizes, epochs = (8, 32, 128), 2
    colors = dict(zip(sizes, (GREY, BLUE, ORANGE), strict=True))
    with picture(path, 2, size=(10.5, 3.8), sharey=True) as axes:
        for ax, rule, lrs in (
            (axes[0], fo.optim.SGD, np.geomspace(2**-7, 2**4, 12)),
            (axes[1], fo.optim.Adam, np.geomspace(2**-13, 2**-2, 12)),
        ):
            for size in sizes:
                losses = []
                for lr in lrs:
                    rng = np.random.default_rng(0)
                    model = nn.Sequential(
                        nn.Linear(64, 64, activation="relu", input_grad=False, seed=rng), nn.Linear(64, 10, seed=rng)
                    )
                    opt = rule(model.params, lr=float(lr))
                    for rows in batches(rng, len(x), size, epochs * len(x) // size):
                        _, dy = F.cross_entropy(model(x[rows]), labels[rows])
                        model.backward(dy)
                        opt.step(model.grads)
                    losses.append(F.cross_entropy(model(x), labels)[0])
                ax.loglog(lrs, losses, "o-", ms=3, color=colors[size], label=f"batches of {size}")
                least = int(np.argmin(losses))
                ax.plot(lrs[least], losses[least], "o", color=colors[size], ms=9)
            ax.set(title=f"{rule.__name__}: training loss after {epochs} epochs", xlabel="lr", ylim=(0.08, 5))
        axes[0].legend(fontsize=9)


PICTURES = {
    one.__name__: one
    for one in (
        momentum,
        shrinkage,
        effective_rate,
        batchnorm_noise,
        schedules,
        dropout_rate,
        early_stopping,
        batch_size,
    )
}


def main() -> None:
    """Draws the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the pages about choosing.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of a picture: {', '.join(PICTURES)} (default: all)")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "images", help="a folder (default: docs/images)"
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(PICTURES):
        parser.error(f"no picture {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")
    fo.set_num_threads(1)  # the networks are too small for more
    for name in args.names or PICTURES:
        PICTURES[name](args.output / f"{name}.png")
        print(args.output / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
