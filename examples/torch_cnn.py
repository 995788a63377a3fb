"""A convolutional network in torch, with torch's optimizer and modules and with fastopt's, in turns.

    python examples/torch_cnn.py [--steps 30] [--batch 32] [--small]

Eight convolutions with BatchNorm and ReLU, images of 3×32×32 that are made here: stripes of ten directions in noise.
"""

import argparse
import math
import statistics
import time

import torch
from torch import nn

import fastopt.torch


def network(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for i, channels in enumerate((width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width)):
        layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i % 2 else []
        before = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * width * 4, 10))


def images(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(10, (count,), generator=generator)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    angle = labels[:, None, None] * math.pi / 10
    stripes = torch.sin((x * torch.cos(angle) + y * torch.sin(angle)) * 0.8)
    return stripes[:, None] + 1.5 * torch.randn(count, 3, 32, 32, generator=generator), labels


class Run:
    def __init__(self, width: int, fast: bool) -> None:
        torch.manual_seed(0)
        self.model, self.loss = network(width), nn.CrossEntropyLoss()
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True
        )
        if fast:
            self.optimizer = fastopt.torch.accelerate(self.model, self.optimizer)  # the only line that differs

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> float:
        loss = self.loss(self.model(x), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--small", action="store_true", help="a quarter of the width")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(1)
    runs = {"torch": Run(8 if args.small else 32, fast=False), "fastopt": Run(8 if args.small else 32, fast=True)}
    print("swapped:", ", ".join(sorted(set(fastopt.torch.swapped(runs["fastopt"].model).values()))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    losses: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(1, args.steps + 1):
        x, labels = images(args.batch, generator)
        for name, run in runs.items():
            begin = time.perf_counter()
            losses[name].append(run.step(x, labels))
            times[name].append(time.perf_counter() - begin)
        if step % 10 == 0:
            means = ", ".join(f"{name} {statistics.mean(some[-10:]):.3f}" for name, some in losses.items())
            print(f"step {step}: mean loss of ten steps {means} (dropout draws other numbers)")
    medians = {name: statistics.median(some) for name, some in times.items()}
    print(", ".join(f"{name} {1e3 * median:.1f} ms a step" for name, median in medians.items()), end="; ")
    print(f"{medians['torch'] / medians['fastopt']:.2f} times as fast")


if __name__ == "__main__":
    main()
