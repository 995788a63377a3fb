"""A small GPT in torch, trained on Python's own sources, with torch's optimizer and modules and with fastopt's, in turns.

    python examples/torch_gpt.py [--steps 20] [--small]

Four layers of width 256, batches of 8×128 tokens, 8,192 words.  What differs is three lines, marked below.
"""

import argparse
import re
import statistics
import sysconfig
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import fastopt.torch


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        x = x + self.drop(self.out(mixed))
        return x + self.drop(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    def __init__(self, words: int, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        self.drop, self.blocks = nn.Dropout(0.1), nn.Sequential(*(Block(width, width // 64) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.token(tokens) + self.place(torch.arange(tokens.shape[1])))
        logits = self.head(self.norm(self.blocks(x)))
        return self.loss(logits.flatten(0, 1), targets.flatten())


class Run:
    """A model with its optimizer, and what a step of training is."""

    def __init__(self, size: dict[str, int], fast: bool) -> None:
        torch.manual_seed(0)
        self.model = GPT(**size)
        self.fast = fast
        if fast:
            self.optimizer = fastopt.torch.optim.AdamW(self.model.parameters(), lr=1e-3)  # the first line
            fastopt.torch.accelerate(self.model)  # the second
        else:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def step(self, tokens: torch.Tensor) -> float:
        loss = self.model(tokens[:, :-1], tokens[:, 1:])
        self.optimizer.zero_grad()
        loss.backward()
        if self.fast:
            self.optimizer.step(clip_norm=1.0)  # the third: clipping is part of the step
        else:
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return loss.item()


def text(words: int) -> torch.Tensor:
    """The numbers of the words of some of Python's modules; rare ones are 0."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = re.findall(
        r"\w+|[^\w\s]|\s+", "".join(path.read_text("utf-8", "ignore") for path in sorted(folder.glob("a*.py")))
    )
    number = {word: i for i, (word, _) in enumerate(Counter(found).most_common(words - 1), 1)}
    return torch.tensor([number.get(word, 0) for word in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="one layer of width 64")
    args = parser.parse_args()
    size = (
        dict(words=512, length=32, width=64, layers=1)
        if args.small
        else dict(words=8192, length=128, width=256, layers=4)
    )
    data, generator = text(size["words"]), torch.Generator().manual_seed(1)
    runs = {"torch": Run(size, fast=False), "fastopt": Run(size, fast=True)}
    print("swapped:", ", ".join(sorted(set(fastopt.torch.swapped(runs["fastopt"].model).values()))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(1, args.steps + 1):
        starts = torch.randint(len(data) - size["length"] - 1, (8, 1), generator=generator)
        tokens = data[starts + torch.arange(size["length"] + 1)]
        losses = {}
        for name, run in runs.items():
            begin = time.perf_counter()
            losses[name] = run.step(tokens)
            times[name].append(time.perf_counter() - begin)
        if step % 5 == 0:
            print(f"step {step}: " + ", ".join(f"{name} loss {loss:.3f}" for name, loss in losses.items()))
    medians = {name: statistics.median(some) for name, some in times.items()}
    print(", ".join(f"{name} {1e3 * median:.1f} ms a step" for name, median in medians.items()), end="; ")
    print(f"{medians['torch'] / medians['fastopt']:.2f} times as fast")


if __name__ == "__main__":
    main()
