"""Whole training steps in torch, and what each part of fastopt contributes: python bench/torch_steps.py [NAME ...]

Each variant is a process of its own, because memory that stays with a process stays for all that follows.  They take turns of half a
second; the table has the medians over the rounds, in milliseconds, and of the ratios within a round: of torch's default optimizer to
each, and of torch's fused one.  The models are those of ``examples/torch_*.py``, and an MLP of three times 512 with BatchNorm and
dropout, at a batch of 64.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("ppo", "gpt", "cnn", "cnn128", "mlp")
# Each adds to the one before it.
VARIANTS = ("default", "fused", "optimizer", "modules", "fuse", "memory")


def mlp_of(torch: Any) -> tuple[Any, Any, Any]:
    nn, layers = torch.nn, []
    for before in (784, 512, 512):
        layers += [nn.Linear(before, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(512, 10)), nn.CrossEntropyLoss(), torch.randn(64, 784)


def step_of(name: str, variant: str) -> Callable[[], Any]:
    """What one step of training is."""
    import torch

    import fastopt
    import fastopt.torch

    level = VARIANTS.index(variant)
    if level >= VARIANTS.index("memory"):
        fastopt.reuse_memory()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    clip: float | None = None
    if name == "ppo":
        code = runpy.run_path(str(EXAMPLES / "torch_ppo.py"))
        run = code["Run"](False, 16, 128)
        rows, _ = run.play()
        agent, run.fast = run.agent, level >= 2
        kwargs: dict[str, Any] = {"lr": 1e-3, "eps": 1e-5}
        if level >= 2:
            run.optimizer = fastopt.torch.optim.Adam(agent.parameters(), **kwargs)
        else:
            run.optimizer = torch.optim.Adam(agent.parameters(), **kwargs, fused=level == 1)
        return lambda: run.update(rows)
    if name == "gpt":
        code = runpy.run_path(str(EXAMPLES / "torch_gpt.py"))
        model = code["GPT"](words=8192, length=128, width=256, layers=4)
        tokens = torch.randint(8192, (8, 129))
        loss_of = lambda: model(tokens[:, :-1], tokens[:, 1:])  # noqa: E731
        kind, kwargs, clip = "AdamW", {"lr": 1e-3}, 1.0
        losses = [model]
    else:
        if name == "mlp":
            model, loss, x = mlp_of(torch)
            kind, kwargs = "AdamW", {"lr": 1e-3}
        else:
            code = runpy.run_path(str(EXAMPLES / "torch_cnn.py"))
            model, loss, x = (
                code["network"](32),
                torch.nn.CrossEntropyLoss(),
                torch.randn(128 if name == "cnn128" else 32, 3, 32, 32),
            )
            kind, kwargs = "SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
        labels = torch.randint(10, (len(x),))
        loss_of = lambda: loss(model(x), labels)  # noqa: E731
        losses = [model, loss]
    if level >= 2:
        optimizer = getattr(fastopt.torch.optim, kind)(model.parameters(), **kwargs)
    else:
        optimizer = getattr(torch.optim, kind)(model.parameters(), **kwargs, fused=level == 1)
    if level >= 3:
        for one in losses:
            fastopt.torch.accelerate(one, fuse=level >= 4)

    def step() -> None:
        value = loss_of()
        optimizer.zero_grad()
        value.backward()
        if level >= 2:
            optimizer.step(clip_norm=clip)
        else:
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()

    return step


def child(name: str, variant: str, seconds: float) -> None:
    """Takes steps for so many seconds whenever it is told to, and prints the median of their times."""
    step = step_of(name, variant)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        times = list[float]()
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
        print(1e3 * statistics.median(times), flush=True)


def measured(name: str, variants: list[str], rounds: int, seconds: float) -> dict[str, list[float]]:
    """The times of each variant, by round."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    with contextlib.ExitStack() as stack:
        children = {}
        for variant in variants:
            command = [sys.executable, __file__, name, "--variant", variant, "--seconds", str(seconds)]
            one = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            children[variant] = stack.enter_context(one)
            assert one.stdout is not None and one.stdout.readline() == "ready\n", f"{name}, {variant}: it failed"
        found: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(rounds):
            for variant in random.sample(variants, len(variants)):
                one = children[variant]
                assert one.stdin is not None and one.stdout is not None
                one.stdin.write("\n")
                one.stdin.flush()
                found[variant].append(float(one.stdout.readline()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*NAMES], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a variant in a round")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        child(args.names[0], args.variant, args.seconds)
        return
    for name in args.names:
        variants = [one for one in VARIANTS if name != "ppo" or one not in ("modules", "fuse")]
        found = measured(name, variants, args.rounds, args.seconds)

        def ratio(base: str, variant: str, found: dict[str, list[float]] = found) -> float:
            return statistics.median(a / b for a, b in zip(found[base], found[variant], strict=True))

        cells = (
            f"{variant} {statistics.median(found[variant]):.1f} ({ratio('default', variant):.2f}, {ratio('fused', variant):.2f})"
            for variant in variants
        )
        print(f"{name:7} ms (default ÷, fused ÷): " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
