"""How far data parallelism scales: a model, what it predicts, and what it says beside measurements.

    python bench/distributed.py --predict                            # 8 to 1,024 ranks, GPT-2 small and a 7 B model
    python bench/distributed.py --predict --teraflops 1 --copies 20  # on other nodes
    python bench/distributed.py --picture docs/images/scaling.png
    mpiexec -n 4 python bench/distributed.py --measure               # 1, 2 and 4 ranks here, beside the model

The model is `scaling_model.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from scaling_model import (
    FLAT,
    IN_LEVELS,
    MIB,
    Exchange,
    Layer,
    Link,
    Node,
    Step,
    Training,
    accumulated,
    all_gather_doubling,
    all_gather_ring,
    all_reduce_doubling,
    all_reduce_halving,
    all_reduce_ring,
    all_reduce_tree,
    all_to_all_bruck,
    all_to_all_pairwise,
    gpt2_small,
    limit,
    llama_7b,
    memory_of_rank,
    needed,
    pipeline,
    step,
    strong,
    tensor_parallel,
    weak,
)

RANKS = [8, 16, 32, 64, 128, 256, 512, 1024]
LINKS = {"10 Gbit/s": Link(30e-6, 1 / 1.1e9), "100 Gbit/s": Link(3e-6, 1 / 11e9)}


class Case(NamedTuple):
    """A training that is predicted: with one batch of ``batch`` sequences for all ranks, or ``own`` for each."""

    name: str
    training: Training
    batch: int
    own: int
    length: int
    width: int
    blocks: int


GPT2 = Case("GPT-2 small, float32 on the wire", Training(gpt2_small()), 512, 8, 1024, 768, 12)
GPT2_HALF = GPT2._replace(name="GPT-2 small, bfloat16 on the wire", training=GPT2.training._replace(wire=2))
SEVEN = Case(
    "7 B, ZeRO, bfloat16 weights and wire, float32 masters",
    Training(llama_7b(), wire=2, weight=2, state=12, shards=True),
    1024,
    4,
    4096,
    4096,
    32,
)
CASES = [GPT2, GPT2_HALF, SEVEN]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns, also a table in Markdown."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]])


def seconds(time: float) -> str:
    return f"{time:,.0f} s" if time >= 100 else f"{time:.3g} s" if time >= 1 else f"{time * 1e3:.3g} ms"


def percent(part: float) -> str:
    return f"{part * 100:.0f} %"


def of_case(case: Case, node: Node, link: Link, ranks: int, **options: Any) -> Step:
    return step(case.training, node, link, ranks, -(-case.batch // ranks) * case.length, **options)


def efficiency(case: Case, node: Node, link: Link, ranks: int, **options: Any) -> float:
    return strong(case.training, node, link, ranks, case.batch, case.length, **options)


# Predictions


def predict(node: Node) -> None:
    """Prints what the model says."""
    print(
        f"A rank is a server that computes {node.flops / 1e12:g} TFLOP/s in float32 products, moves {node.memory / 1e9:g} GB/s in "
        f"kernels on\nall cores and {node.copies / 1e9:g} GB/s in NumPy's copies and sums, which one thread makes. Links: "
        + "; ".join(f"{name}, {link.alpha * 1e6:g} µs and {1e-9 / link.beta:g} GB/s" for name, link in LINKS.items())
        + ",\nthe same between any two ranks. A token takes 6 operations for each number it is multiplied by. No stragglers, no jitter."
    )
    for case in CASES:
        tokens = case.batch * case.length
        print(
            f"\n{case.name}: {case.training.params / 1e6:,.0f} million parameters; strong: {case.batch} sequences of "
            f"{case.length} tokens ({tokens / 1e6:.2g} million) for all ranks; weak: {case.own} for each\n"
        )
        for name, link in LINKS.items():
            print(name + "\n" + predictions(case, node, link) + "\n")
        print(limits(case, node))
    print("\nWhat comes next\n\n" + "\n".join(next_steps(node)))
    print("\nMemory of a rank, GB\n\n" + memory())
    print("\nOne operation, ms\n\n" + collectives())


def predictions(case: Case, node: Node, link: Link) -> str:
    rows = []
    for ranks in RANKS:
        best = of_case(case, node, link, ranks)
        of_weak = partial(weak, case.training, node, link, ranks, case.own, case.length)
        rows.append(
            [
                f"{ranks:,}",
                seconds(best.total),
                seconds(best.compute),
                seconds(best.copies),
                seconds(best.link),
                percent(best.waiting / best.link),
                f"{percent(efficiency(case, node, link, ranks))} to {percent(efficiency(case, node, link, ranks, overlap=False))}",
                f"{percent(of_weak())} to {percent(of_weak(overlap=False))}",
            ]
        )
    return table(["ranks", "step", "compute", "copies", "link", "not hidden", "strong", "weak"], rows)


def limits(case: Case, node: Node) -> str:
    """Where efficiency falls below a half."""

    def of(one: Callable[[int], float]) -> str:
        found = limit(one)
        return f"at {found:,} ranks" if found else "nowhere up to 16,384 ranks"

    return "\n".join(
        f"{name}: below 50 % with one batch {of(lambda ranks: efficiency(case, node, link, ranks))}, with a batch for each "  # noqa: B023
        f"{of(lambda ranks: weak(case.training, node, link, ranks, case.own, case.length))}"  # noqa: B023
        for name, link in LINKS.items()
    )


def next_steps(node: Node) -> list[str]:
    """What each remedy gains, at the largest number of ranks."""
    slow, fast = LINKS.values()
    threads = node._replace(copies=node.memory)
    lines = []
    for case, ranks in ((GPT2, 256), (SEVEN, 1024)):
        wide = case._replace(training=case.training._replace(wire=2))
        batch = needed(lambda b: strong(case.training, node, slow, ranks, b * ranks, case.length), 0.9)  # noqa: B023
        lines.append(
            f"{case.name}, {ranks:,} ranks, 10 Gbit/s, {case.batch} sequences: {percent(efficiency(case, node, slow, ranks))}"
        )
        narrow = {"bfloat16 on the wire": efficiency(wide, node, slow, ranks)} if case.training.wire == 4 else {}
        results = {
            **narrow,
            "sums in two levels": efficiency(case, node, slow, ranks, exchange=IN_LEVELS),
            "copies and sums on all cores": efficiency(case, threads, slow, ranks),
            "100 Gbit/s": efficiency(case, node, fast, ranks),
            "100 Gbit/s, and copies and sums on all cores": efficiency(case, threads, fast, ranks),
            "everything": efficiency(wide, threads, fast, ranks, exchange=IN_LEVELS),
        }
        lines += [f"    {name}: {percent(its)}" for name, its in results.items()]
        each = case.batch // ranks
        added = accumulated(case.training, node, slow, ranks, batch or 0, each, case.length)
        lines.append(
            f"    {batch} sequences on each rank instead of {each}: 90 %; by {each} at a time, which add() adds up before one exchange: "
            f"{percent(added)}"
        )
        for parts in (2, 4, 8):
            ways = (case.training, node, slow, ranks, case.batch, case.length, parts, case.width)
            lines.append(
                f"    {parts} ranks share a copy of the network: {percent(pipeline(*ways))} as stages, "
                f"{percent(tensor_parallel(*ways, case.blocks))} with shared products"
            )
    return lines


def memory() -> str:
    plain = SEVEN.training._replace(shards=False)
    cases = [("one", plain, 1), ("averaged", plain, 8), *[("ZeRO", SEVEN.training, ranks) for ranks in (8, 64, 1024)]]
    rows = []
    for name, training, ranks in cases:
        parts = memory_of_rank(training, ranks)
        if ranks == 1:
            parts["sums"] = 0.0
        rows.append(
            [name, f"{ranks:,}", *(f"{one / 1e9:.1f}" for one in parts.values()), f"{sum(parts.values()) / 1e9:.0f}"]
        )
    return table(["7 B", "ranks", "weights", "gradients", "state", "sums", "together"], rows)


def collectives() -> str:
    """A bucket's sum and a SyncBatchNorm's statistics, by the ways that there are."""
    channels = 256
    statistics = 8 * (1 + 2 * channels)  # float64
    bucket: dict[str, Callable[[Link, int, float], float]] = {
        "all-to-all in pairs, all-gather in a ring": lambda *of: all_to_all_pairwise(*of) + all_gather_ring(*of),
        "all-to-all in few messages, all-gather by doubling": lambda *of: (
            all_to_all_bruck(*of) + all_gather_doubling(*of)
        ),
        "all-reduce in a ring": all_reduce_ring,
        "all-reduce by halving and doubling": all_reduce_halving,
        "all-reduce by doubling": all_reduce_doubling,
        "all-reduce in a tree": all_reduce_tree,
        "as it is": both(FLAT),
        "in two levels": both(IN_LEVELS),
    }
    norm: dict[str, Callable[[Link, int, float], float]] = {
        "gathered, as they are": lambda link, ranks, size: FLAT.gather(link, ranks, ranks * size),
        "gathered by doubling": lambda link, ranks, size: all_gather_doubling(link, ranks, ranks * size),
        "all-reduce by doubling": all_reduce_doubling,
    }
    return table(
        ["", "", "link", *(f"{ranks:,} ranks" for ranks in (8, 64, 1024))],
        [
            [what, way, name, *(f"{cost(link, ranks, size) * 1e3:,.3f}" for ranks in (8, 64, 1024))]
            for what, ways, size in (
                ("50 MiB of gradients", bucket, 50 * MIB),
                (f"statistics of {channels} channels", norm, statistics),
            )
            for way, cost in ways.items()
            for name, link in LINKS.items()
        ],
    )


def both(exchange: Exchange) -> Callable[[Link, int, float], float]:
    return lambda link, ranks, size: exchange.scatter_sum(link, ranks, size) + exchange.gather(link, ranks, size)


def draw(path: Path, node: Node) -> None:
    """Efficiency over the number of ranks."""
    from fastopt.cli.demo.picture import BLUE, GREY, ORANGE, picture

    ranks = [2**i for i in range(11)]
    with picture(path, 3, size=(11, 3.9), sharey=True) as axes:
        for ax, title, cases, one_batch in (
            (axes[0], "GPT-2 small, 512 sequences", [(GPT2, "-"), (GPT2_HALF, "--")], True),
            (axes[1], "GPT-2 small, 8 sequences a rank", [(GPT2, "-"), (GPT2_HALF, "--")], False),
            (axes[2], "7 B, ZeRO, 1,024 sequences", [(SEVEN, "--")], True),
        ):
            for (name, link), color in zip(LINKS.items(), (ORANGE, BLUE), strict=True):
                for case, dashes in cases:
                    wire = "bfloat16" if case.training.wire == 2 else "float32"
                    values = [
                        100 * efficiency(case, node, link, n)
                        if one_batch
                        else 100 * weak(case.training, node, link, n, case.own, case.length)
                        for n in ranks
                    ]
                    ax.plot(ranks, values, dashes, color=color, lw=1.8, label=f"{name}, {wire}")
            ax.axhline(50, color=GREY, lw=0.9)
            ax.set(title=title, xlabel="ranks", ylim=(0, 104), xlim=(1, ranks[-1]))
            ax.set_xscale("log", base=2)
            ax.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1,024"])
            ax.minorticks_off()
        axes[0].set_ylabel("efficiency, %")
        axes[0].legend(loc="lower left")


def mlp(widths: Sequence[int]) -> list[Layer]:
    """Weights and biases of a network, in their order; the first layer's input needs no gradient."""
    layers = []
    for i, (a, b) in enumerate(pairwise(widths)):
        layers += [Layer(a * b, a * b * (2 / 3 if i == 0 else 1)), Layer(b, 0)]
    return layers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--predict", action="store_true", help="print predictions")
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw them")
    parser.add_argument("--measure", action="store_true", help="measure here, under mpiexec")
    parser.add_argument("--teraflops", type=float, default=2.0, help="of a node, in products (%(default)s)")
    parser.add_argument("--memory", type=float, default=150.0, help="GB/s of kernels on all cores (%(default)s)")
    parser.add_argument("--copies", type=float, default=10.0, help="GB/s of copies by one thread (%(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="of measurements (%(default)s)")
    parser.add_argument(
        "--quantile", type=float, default=0.5, help="of times; 0.1 where others use the machine (%(default)s)"
    )
    args = parser.parse_args()
    if not (args.predict or args.picture or args.measure):
        parser.error("one of --predict, --picture and --measure is needed")
    node = Node(args.teraflops * 1e12, args.memory * 1e9, args.copies * 1e9)
    if args.predict:
        predict(node)
    if args.picture:
        draw(args.picture, node)
    if args.measure:
        from distributed_measured import measure

        measure(args.rounds, args.quantile)


if __name__ == "__main__":
    main()
