"""What is measured: the work, its data, and who takes part.

A race's candidates do the same work on the same arrays; ``floor/plain`` and ``floor/ahead`` are variants of one
candidate, of which the fastest counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from math import prod
from statistics import median
from typing import Any, TypeAlias

import numpy as np

import fastopt as fo
from fastopt import functional as F

from . import peers
from .data import Array, Data
from .floors import floor
from .measure import Effort, alternate, march, race
from .peers import HYPER, Call

Calls: TypeAlias = Mapping[str, Call]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """A table's row (or rows): what was measured of every candidate, in seconds a call unless it is a ratio."""

    group: str
    label: str
    columns: dict[str, dict[str, float]]
    bytes: int = 0  # that a call cannot avoid to move; 0 if it was not a race
    rounds: int = 0
    interruptions: float = 0.0  # how often a second another process took a core
    variants: dict[str, str] = field(default_factory=dict)  # which of a candidate's variants was the fastest

    @property
    def name(self) -> str:
        return f"{self.group} {self.label}"

    @property
    def is_race(self) -> bool:
        return self.bytes > 0

    def seconds(self, candidate: str) -> float | None:
        return self.columns.get(candidate, {}).get("seconds")

    def ratio(self, candidate: str) -> float | None:
        """How many times as long as fastopt the candidate took: the median over the rounds that they shared."""
        return self.columns.get(candidate, {}).get("ratio")

    def ratio_of_bytes(self, candidate: str) -> float | None:
        """How many times as many bytes the candidate moves, where it has to move others than fastopt."""
        moved = self.columns.get(candidate, {}).get("bytes")
        return moved / self.bytes if moved else None


@dataclass(frozen=True)
class Case(ABC):
    """Something to measure."""

    group: str
    label: str

    @property
    def name(self) -> str:
        return f"{self.group} {self.label}"

    @abstractmethod
    def measure(self, effort: Effort) -> Result: ...


@dataclass(frozen=True)
class Race(Case):
    """Candidates that do the same work take turns."""

    bytes: int
    calls: Callable[[], Calls]
    bytes_of: Mapping[str, int] = field(default_factory=dict, hash=False)  # the candidates that have to move others

    def measure(self, effort: Effort) -> Result:
        samples, interruptions = race(self.calls(), effort)
        fastest: dict[str, str] = {}
        for call in sorted(samples, key=lambda call: effort.of(samples[call])):
            fastest.setdefault(call.partition("/")[0], call)
        columns, ours = {}, samples[fastest["fastopt"]]
        for candidate, call in fastest.items():
            ratio = median(theirs / own for theirs, own in zip(samples[call], ours, strict=True))
            columns[candidate] = {"seconds": effort.of(samples[call]), "ratio": ratio}
            if candidate in self.bytes_of:
                columns[candidate]["bytes"] = self.bytes_of[candidate]
        variants = {candidate: call.partition("/")[2] for candidate, call in fastest.items() if "/" in call}
        return Result(self.group, self.label, columns, self.bytes, len(ours), interruptions, variants)


@dataclass(frozen=True)
class Alternating(Case):
    """A kernel in a loop with a NumPy matrix product, against both alone: the loop should cost the sum of its parts."""

    kernel: Race
    product: Callable[[], Call]

    def measure(self, effort: Effort) -> Result:
        product, columns = self.product(), {}
        for name, call in self.kernel.calls().items():
            candidate = name.partition("/")[0]
            if candidate != "floor" and candidate not in columns:
                alone, other, both = alternate(product, call, effort)
                parts = {"product": alone, "kernel": other, "in turn": both}
                columns[candidate] = {**parts, "in turn ÷ sum": both / (alone + other)}
        return Result(self.group, self.label, columns)


@dataclass(frozen=True)
class Dead(Case):
    """Parameters that get one gradient and then none: their moments become subnormal after 700 steps or so."""

    steps: int
    calls: Callable[[], Calls]

    def measure(self, effort: Effort) -> Result:
        columns = {}
        for candidate, samples in march(self.calls(), self.steps).items():
            first, last = effort.of(samples[:100]), effort.of(samples[-100:])
            columns[candidate] = {"first hundred": first, "last hundred": last, "last ÷ first": last / first}
        return Result(self.group, self.label, columns)


def _takes_part(candidate: str) -> bool:
    return not candidate.startswith("torch") or peers.torch() is not None


# Optimizers -----------------------------------------------------------------------------------------------------------

_ADAM = {"lr": HYPER.lr, "betas": HYPER.betas, "eps": HYPER.eps}
RULES: dict[str, dict[str, Any]] = {
    "SGD": {"lr": HYPER.lr, "momentum": HYPER.momentum},
    "Adam": _ADAM,
    "AdamW": {**_ADAM, "weight_decay": HYPER.weight_decay},
}


def optimizer(rule: str, size: int, data: Data) -> Race:
    """One tensor."""
    states = 1 if rule == "SGD" else 2

    def calls() -> Calls:
        params, grads = [data.normal(size, scale=0.02)], [data.normal(size, scale=1e-3)]
        state = [[data.normal(size, scale=1e-3)] for _ in range(states)]
        if states == 2:
            state[1][0] *= state[1][0]
        function, name = getattr(F, rule.lower()), rule.lower()
        found: dict[str, Call] = {
            "fastopt/function": partial(function, params, grads, *state, step=HYPER.step, **RULES[rule]),
            "fastopt/object": partial(getattr(fo.optim, rule)(params, **RULES[rule]).step, grads),
            "numpy": getattr(peers, f"numpy_{name}")(params, grads, *state),
        }
        if peers.torch():
            found["torch"] = getattr(peers, f"torch_{name}")(params, grads, *state)
        return found | floor(grads, [params[0], *(arrays[0] for arrays in state)], [])

    return Race(rule, power(size), size * data.dtype.itemsize * (3 + 2 * states), calls)


def _fastopt_step(params: list[Array], grads: list[Array]) -> Call:
    return partial(fo.optim.AdamW(params, **RULES["AdamW"]).step, grads)


def _numpy_step(params: list[Array], grads: list[Array]) -> Call:
    state = [[np.zeros_like(p) for p in params] for _ in range(2)]
    return peers.numpy_adamw(params, grads, *state)


STEPS: dict[str, Callable[[list[Array], list[Array]], Call]] = {
    "fastopt": _fastopt_step,
    "numpy": _numpy_step,
    "torch": partial(peers.torch_step, fused=True),
    "torch default": partial(peers.torch_step, fused=False),
}


def _linear(inputs: int, outputs: int, norm: bool = True) -> list[Shape]:
    """Weight and bias, and weight and bias of the normalization behind it."""
    return [(outputs, inputs), (outputs,)] + ([(outputs,), (outputs,)] if norm else [])


def _resnet50() -> list[Shape]:
    def convolution(inputs: int, outputs: int, kernel: int) -> list[Shape]:
        return [(outputs, inputs, kernel, kernel), (outputs,), (outputs,)]

    shapes, inputs = convolution(3, 64, 7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(inputs, width, 1) + convolution(width, width, 3) + convolution(width, 4 * width, 1)
            shapes += convolution(inputs, 4 * width, 1) if block == 0 else []
            inputs = 4 * width
    return [*shapes, (1000, inputs), (1000,)]


def _gpt2() -> list[Shape]:
    width, norm = 768, [(768,), (768,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    perceptron = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *(norm + attention + norm + perceptron) * 12, *norm]


MODELS: dict[str, list[Shape]] = {
    "digits MLP": [*_linear(64, 128), *_linear(128, 128), *_linear(128, 10, norm=False)],
    "LayerNorm MLP": [*_linear(2, 20), *_linear(20, 20) * 3, *_linear(20, 1, norm=False)],
    "ResNet-50": _resnet50(),
    "GPT-2 small": _gpt2(),
}


def model(name: str, data: Data) -> Race:
    """All tensors of a model, through the optimizer objects; the floor moves as many bytes of one tensor."""
    shapes = MODELS[name]
    size = sum(map(prod, shapes))

    def calls() -> Calls:
        params = [data.normal(*shape, scale=0.02) for shape in shapes]
        grads = [data.normal(*shape, scale=1e-3) for shape in shapes]
        found = {candidate: make(params, grads) for candidate, make in STEPS.items() if _takes_part(candidate)}
        return found | floor([data.zeros(size)], [data.zeros(size) for _ in range(3)], [])

    return Race("AdamW.step()", f"{name}, {len(shapes)} tensors", size * data.dtype.itemsize * 7, calls)


def dead(size: int, steps: int, data: Data) -> Dead:
    """One tensor, through the optimizer objects, after one real gradient; each candidate has its own."""

    def calls() -> Calls:
        found = {}
        for candidate in filter(_takes_part, ("fastopt", "numpy", "torch")):
            params, grads = [data.normal(size, scale=0.02)], [data.normal(size, scale=1e-3)]
            found[candidate] = STEPS[candidate](params, grads)
            found[candidate]()
            grads[0].fill(0)
        return found

    return Dead("dead", f"AdamW {power(size)}", steps, calls)


# Loops ----------------------------------------------------------------------------------------------------------------


def alternating(kernel: Race, data: Data) -> Alternating:
    """The kernel in turn with the product of a 256×512 and a 512×512 matrix."""

    def product() -> Call:
        return partial(np.matmul, data.normal(256, 512), data.normal(512, 512), out=data.empty(256, 512))

    return Alternating("alternating", kernel.name, kernel, product)


# The list -------------------------------------------------------------------------------------------------------------


def power(size: int) -> str:
    return f"2^{size.bit_length() - 1}" if size & (size - 1) == 0 else str(size)


def cases(data: Data, *, quick: bool = False, full: bool = False) -> Iterator[Case]:
    """Every case; a few of each kind if ``quick``; the large models too if ``full``."""
    for rule in RULES:
        powers = range(10, 27, 2) if not quick else (10, 14, 18, 22, 24) if rule == "AdamW" else (14, 22)
        yield from (optimizer(rule, 1 << power, data) for power in powers)
    yield from (model(name, data) for name in list(MODELS)[: None if full else 2])
    from . import dropouts, formats, fused, norms, rules  # which know the classes above

    yield from norms.norms(data, quick=quick)
    yield from fused.pairs(data, quick=quick)
    yield from dropouts.dropouts(data, quick=quick)
    yield from (rules.rule(name, 1 << n, data) for n in ((22,) if quick else (16, 24)) for name in rules.rules())
    yield from (rules.overhead(count, size, data) for count, size in ((1, 64), (10_000, 10)))
    yield rules.whole("ResNet-50", data)
    yield from (rules.around(name, data) for name in (["ResNet-50", "GPT-2 small"] if full else ["ResNet-50"]))
    yield from (rules.option("GPT-2 small" if full else "ResNet-50", option, data) for option in rules.OPTIONS)
    if full:
        yield from (rules.rule(name, 1 << 26, data) for name in rules.rules())
    kept = formats.QUICK if quick else formats.FORMATS
    yield from (formats.adamw(name, 1 << n, data) for n in ((22,) if quick else (16, 24, 26)) for name in kept)
    yield dead(1 << 18, 1200, data) if quick else dead(1 << 20, 2000, data)
    yield alternating(optimizer("AdamW", 1 << 18, data), data)
    yield alternating(norms.layer_norm(512, 768, data), data)
    yield alternating(norms.batch_norm((8, 64, 56, 56), "NCHW", data), data)


def matching(cases: Iterator[Case], patterns: list[str]) -> list[Case]:
    """The cases whose name contains one of the patterns, or all; ``*`` and ``?`` are wildcards, and x finds × too."""

    def plain(text: str) -> str:
        return text.lower().replace("×", "x")

    def wanted(case: Case) -> bool:
        return any(fnmatch(plain(case.name), f"*{plain(pattern)}*") for pattern in patterns or [""])

    return [case for case in cases if wanted(case)]
