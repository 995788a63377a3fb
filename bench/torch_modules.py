"""fastopt.torch's modules beside torch's own: forward and backward, and forward alone, by size.

    python bench/torch_modules.py                       # everything, on one thread and on two
    python bench/torch_modules.py --only LayerNorm      # modules whose name begins so
    python bench/torch_modules.py --threads 2 --chosen  # with the sizes at which torch's own are called
    python bench/torch_modules.py --threads 1 --cpu     # the processor's time, not the clock's, where other processes are busy

Each line has the number of elements, torch's time and the ratio of the two times: above 1 the module here is faster.  The two take turns,
in rounds of about a millisecond or one call; figures are medians over rounds.  The constants in python/fastopt/torch/functional/_choice.py
are from the lines without ``--chosen``, where the kernels take every call.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

import fastopt
from fastopt.torch import nn
from fastopt.torch.functional import _choice

ROWS = [(8, 64), (64, 64), (64, 256), (128, 512), (512, 512), (1024, 1024), (4096, 1024)]
COLUMNS = [(16, 32), (64, 64), (64, 512), (256, 1024), (2048, 512)]
IMAGES = [(2, 16, 8, 8), (8, 16, 8, 8), (16, 32, 16, 16), (32, 64, 16, 16), (32, 64, 32, 32), (16, 128, 56, 56)]
LOGITS = [(8, 10), (64, 10), (32, 100), (256, 100), (256, 1000), (1024, 1000), (1024, 8192)]

Call = Callable[[], Any]


@dataclass
class Case:
    name: str
    make: Callable[[tuple[int, ...]], tuple[Any, Any]]  # the module here and torch's
    shapes: list[tuple[int, ...]]
    target: str = ""
    evaluated: bool = False
    dtype: torch.dtype = torch.float32
    format: torch.memory_format = torch.contiguous_format


def alike(name: str, arguments: Callable[[tuple[int, ...]], tuple[Any, ...]] = lambda shape: (), **options: Any) -> Any:
    """A function that makes a module of ours and one of torch's with the same arguments."""

    def make(shape: tuple[int, ...]) -> tuple[Any, Any]:
        return tuple(getattr(module, name)(*arguments(shape), **options) for module in (nn, torch.nn))

    return make


def with_relu(shape: tuple[int, ...]) -> tuple[Any, Any]:
    return nn.BatchNormReLU(shape[1]), torch.nn.Sequential(torch.nn.BatchNorm2d(shape[1]), torch.nn.ReLU())


def last(shape: tuple[int, ...]) -> tuple[Any, ...]:
    return (shape[-1],)


def channels(shape: tuple[int, ...]) -> tuple[Any, ...]:
    return (shape[1],)


NHWC = torch.channels_last
CASES = [
    Case("LayerNorm", alike("LayerNorm", last), ROWS),
    Case("LayerNorm bfloat16", alike("LayerNorm", last), ROWS, dtype=torch.bfloat16),
    Case("RMSNorm", alike("RMSNorm", last), ROWS),
    Case("RMSNorm bfloat16", alike("RMSNorm", last), ROWS, dtype=torch.bfloat16),
    Case("GroupNorm", alike("GroupNorm", lambda shape: (8, shape[1])), IMAGES),
    Case("BatchNorm1d", alike("BatchNorm1d", channels), COLUMNS),
    Case("BatchNorm1d eval", alike("BatchNorm1d", channels), COLUMNS, evaluated=True),
    Case("BatchNorm2d", alike("BatchNorm2d", channels), IMAGES),
    Case("BatchNorm2d channels last", alike("BatchNorm2d", channels), IMAGES, format=NHWC),
    Case("BatchNorm2d bfloat16", alike("BatchNorm2d", channels), IMAGES, dtype=torch.bfloat16),
    Case("BatchNorm2d eval", alike("BatchNorm2d", channels), IMAGES, evaluated=True),
    Case("BatchNormReLU", with_relu, IMAGES),
    Case("BatchNormReLU channels last", with_relu, IMAGES, format=NHWC),
    Case("BatchNormReLU bfloat16", with_relu, IMAGES, dtype=torch.bfloat16),
    Case("BatchNormReLU eval", with_relu, IMAGES, evaluated=True),
    Case("MaxPool2d", alike("MaxPool2d", lambda shape: (2,)), IMAGES),
    Case("MaxPool2d channels last", alike("MaxPool2d", lambda shape: (2,)), IMAGES, format=NHWC),
    Case("MaxPool2d 3, 2, 1", alike("MaxPool2d", lambda shape: (3, 2, 1)), IMAGES),
    Case("MaxPool2d bfloat16", alike("MaxPool2d", lambda shape: (2,)), IMAGES, dtype=torch.bfloat16),
    Case("Dropout", alike("Dropout", p=0.1), ROWS),
    Case("Dropout bfloat16", alike("Dropout", p=0.1), ROWS, dtype=torch.bfloat16),
    Case("GELU", alike("GELU"), ROWS),
    Case("GELU tanh", alike("GELU", approximate="tanh"), ROWS),
    Case("CrossEntropyLoss", alike("CrossEntropyLoss"), LOGITS, target="labels"),
    Case("CrossEntropyLoss smoothing", alike("CrossEntropyLoss", label_smoothing=0.1), LOGITS, target="labels"),
    Case("CrossEntropyLoss distributions", alike("CrossEntropyLoss"), LOGITS, target="distributions"),
    Case("CrossEntropyLoss bfloat16", alike("CrossEntropyLoss"), LOGITS, target="labels", dtype=torch.bfloat16),
]


def calls(case: Case, shape: tuple[int, ...], training: bool, chosen: bool) -> dict[str, Call]:
    """The call of each module that is timed."""
    x = torch.randn(shape).to(case.dtype)
    x = x.contiguous(memory_format=case.format) if len(shape) == 4 else x
    targets = {
        "": (),
        "labels": (torch.randint(shape[1], shape[:1]),),
        "distributions": (torch.randn_like(x).softmax(1),),
    }
    more = targets[case.target]

    def call(module: Any, how: Callable[[], Any]) -> Call:
        module.to(case.dtype).train(not case.evaluated)
        own = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(training)
        wanted = [own, *module.parameters()]

        def run() -> None:
            with how():
                if training:
                    y = module(own, *more)
                    torch.autograd.grad(y, wanted, None if case.target else dy)
                else:
                    with torch.no_grad():
                        module(own, *more)

        return run

    ours, theirs = case.make(shape)
    with torch.no_grad():
        dy = torch.randn_like(theirs.to(case.dtype)(x, *more))
    return {
        "ours": call(ours, contextlib.nullcontext if chosen else lambda: _choice.forced(True)),
        "torch": call(theirs, contextlib.nullcontext),
    }


def measured(of: dict[str, Call], seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """Microseconds a call, medians of rounds that take turns."""
    rounds: dict[str, list[float]] = {name: [] for name in of}
    for call in of.values():
        call()
    begin = time.perf_counter()
    for call in of.values():
        call()
    repeat = max(1, int(2e-3 / (time.perf_counter() - begin)))
    while time.perf_counter() - begin < seconds or len(rounds["ours"]) < 5:
        for name, call in of.items():
            start = clock()
            for _ in range(repeat):
                call()
            rounds[name].append((clock() - start) / repeat * 1e6)
    return {name: statistics.median(times) for name, times in rounds.items()}


def lines(
    cases: list[Case], threads: list[int], seconds: float, chosen: bool, clock: Callable[[], float]
) -> Iterator[str]:
    yield f"{'':28}{'shape':>20}{'elements':>10}" + "".join(f"{f'{n} thread(s): torch µs, ratio':>36}" for n in threads)
    for case in cases:
        for training in (True, False):
            for shape in case.shapes:
                elements = torch.Size(shape).numel()
                line = (
                    f"{case.name + ('' if training else ', forward'):28}{'×'.join(map(str, shape)):>20}{elements:>10}"
                )
                for count in threads:
                    torch.set_num_threads(count)
                    times = measured(calls(case, shape, training, chosen), seconds, clock)
                    line += f"{times['torch']:>27.1f}{times['torch'] / times['ours']:>9.2f}"
                yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of names")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    parser.add_argument("--chosen", action="store_true", help="torch's own functions below the measured sizes")
    parser.add_argument(
        "--reuse-memory", action="store_true", help="with fastopt.reuse_memory(): torch's results are no fresh memory"
    )
    parser.add_argument("--cpu", action="store_true", help="time of the processor: for one thread on a busy machine")
    chosen = parser.parse_args()
    if chosen.cpu and chosen.threads != [1]:
        parser.error("--cpu needs --threads 1: it adds the times of threads")
    if chosen.reuse_memory:
        fastopt.reuse_memory()
    torch.manual_seed(0)
    cases = [case for case in CASES if case.name.startswith(tuple(chosen.only))]
    for line in lines(
        cases, chosen.threads, chosen.seconds, chosen.chosen, time.process_time if chosen.cpu else time.perf_counter
    ):
        print(line, flush=True)


if __name__ == "__main__":
    main()
