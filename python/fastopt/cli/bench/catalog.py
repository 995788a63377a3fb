"""The list of cases, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from functools import partial

import numpy as np

from . import dropouts, formats, fused, norms, rules
from .case import Alternating, Case, Race
from .data import Data
from .peers import Call
from .steps import MODELS, RULES, dead, model, optimizer


def cases(data: Data, *, quick: bool = False, full: bool = False) -> Iterator[Case]:
    """Every case; a few of each kind if ``quick``; the large models too if ``full``."""
    for rule in RULES:
        powers = range(10, 27, 2) if not quick else (10, 14, 18, 22, 24) if rule == "AdamW" else (14, 22)
        yield from (optimizer(rule, 1 << power, data) for power in powers)
    yield from (model(name, data) for name in list(MODELS)[: None if full else 2])
    yield from norms.norms(data, quick=quick)
    yield from fused.pairs(data, quick=quick)
    yield from dropouts.dropouts(data, quick=quick)
    yield from (rules.rule(name, 1 << n, data) for n in ((22,) if quick else (16, 24)) for name in rules.rules())
    yield from (rules.overhead(count, size, data) for count, size in ((1, 64), (10_000, 10)))
    yield rules.whole("ResNet-50", data)
    yield from (rules.clipped_step(name, data) for name in (["ResNet-50", "GPT-2 small"] if full else ["ResNet-50"]))
    yield from (rules.option("GPT-2 small" if full else "ResNet-50", option, data) for option in rules.OPTIONS)
    if full:
        yield from (rules.rule(name, 1 << 26, data) for name in rules.rules())
    kept = formats.QUICK if quick else formats.FORMATS
    yield from (formats.adamw(name, 1 << n, data) for n in ((22,) if quick else (16, 24, 26)) for name in kept)
    yield dead(1 << 18, 1200, data) if quick else dead(1 << 20, 2000, data)
    yield alternating(optimizer("AdamW", 1 << 18, data), data)
    yield alternating(norms.layer_norm(512, 768, data), data)
    yield alternating(norms.batch_norm((8, 64, 56, 56), "NCHW", data), data)


def matching(cases: Iterable[Case], patterns: list[str]) -> list[Case]:
    """The cases whose name contains one of the patterns, or all; ``*`` and ``?`` are wildcards, and x finds × too."""

    def plain(text: str) -> str:
        return text.lower().replace("×", "x")

    def wanted(case: Case) -> bool:
        return any(fnmatch(plain(case.name), f"*{plain(pattern)}*") for pattern in patterns or [""])

    return [case for case in cases if wanted(case)]


def alternating(kernel: Race, data: Data) -> Alternating:
    """The kernel in turn with the product of a 256×512 and a 512×512 matrix."""

    def product() -> Call:
        return partial(np.matmul, data.normal(256, 512), data.normal(512, 512), out=data.empty(256, 512))

    return Alternating("alternating", kernel.name, kernel, product)
