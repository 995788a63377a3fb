"""What a step of data-parallel training costs: a model of messages, sums, overlap and memory, as small functions.

A message of n bytes takes α + βn.  Collective operations are sums of messages; a step is played through on two clocks,
that of the processor and that of the link.  `bench/distributed.py` measures, predicts and draws with it.  Times are in
seconds and sizes in bytes.

    Thakur, Rabenseifner & Gropp 2005 (collectives); Li et al. 2020, arXiv:2006.15704 (buckets)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

ALIGNMENT = 64  # elements: as in fastopt.distributed, where parameters and pieces begin at multiples
LONG = 512 << 10  # from this size on MPI libraries gather in a ring
MIB = 1 << 20


class Link(NamedTuple):
    """A network: the time of a message, and that of each of its bytes."""

    alpha: float
    beta: float


# Collective operations of `ranks` processes.  The size is that of the whole vector: what each rank sends, or receives.


def rounds(ranks: int) -> int:
    """⌈log₂ ranks⌉: after so many rounds of exchanges in pairs everyone has heard of everyone."""
    return (ranks - 1).bit_length()


def all_to_all_pairwise(link: Link, ranks: int, size: float) -> float:
    """In each round a message to another rank."""
    return (ranks - 1) * (link.alpha + size / ranks * link.beta)


def all_to_all_bruck(link: Link, ranks: int, size: float) -> float:
    """Few messages; in round k go all blocks whose way has bit k, so that half of the vector travels each time."""
    hops = sum(way.bit_count() for way in range(ranks))
    return rounds(ranks) * link.alpha + hops * size / ranks * link.beta


def all_gather_ring(link: Link, ranks: int, size: float) -> float:
    """Pieces go round."""
    return (ranks - 1) * (link.alpha + size / ranks * link.beta)


def all_gather_doubling(link: Link, ranks: int, size: float) -> float:
    """What a rank has doubles in each round."""
    return rounds(ranks) * link.alpha + (ranks - 1) * size / ranks * link.beta


def all_reduce_ring(link: Link, ranks: int, size: float) -> float:
    """Reduce-scatter and all-gather in a ring."""
    return 2 * all_gather_ring(link, ranks, size)


def all_reduce_doubling(link: Link, ranks: int, size: float) -> float:
    """Whole vectors are exchanged in pairs; if ranks are no power of two, two more messages."""
    odd = 0 if ranks == 1 << rounds(ranks) else 2
    return (rounds(ranks) - odd // 2 + odd) * (link.alpha + size * link.beta)


def all_reduce_tree(link: Link, ranks: int, size: float) -> float:
    """Up a binomial tree and down again."""
    return 2 * rounds(ranks) * (link.alpha + size * link.beta)


def all_reduce_halving(link: Link, ranks: int, size: float) -> float:
    """Rabenseifner's: halving to scatter the sum, doubling to gather it."""
    return 2 * all_gather_doubling(link, ranks, size)


def scatter_sum(link: Link, ranks: int, size: float) -> float:
    """What fastopt.distributed takes to bring together what is added: an all-to-all, in the faster way."""
    return min(all_to_all_pairwise(link, ranks, size), all_to_all_bruck(link, ranks, size))


def gather(link: Link, ranks: int, size: float) -> float:
    """What it takes to gather: an all-gather, long vectors in a ring."""
    return (all_gather_ring if size >= LONG else all_gather_doubling)(link, ranks, size)


def scatter_sum_in_levels(link: Link, ranks: int, size: float) -> float:
    """The same in two levels: within groups of about √ranks, then between them with what is left."""
    group = max(one for one in range(1, math.isqrt(ranks) + 1) if ranks % one == 0)
    return scatter_sum(link, group, size) + scatter_sum(link, ranks // group, size / group)


def gather_in_levels(link: Link, ranks: int, size: float) -> float:
    """The way back."""
    group = max(one for one in range(1, math.isqrt(ranks) + 1) if ranks % one == 0)
    return gather(link, ranks // group, size / group) + gather(link, group, size)


class Exchange(NamedTuple):
    """How a bucket is summed."""

    scatter_sum: Callable[[Link, int, float], float] = scatter_sum
    gather: Callable[[Link, int, float], float] = gather


FLAT = Exchange()
IN_LEVELS = Exchange(scatter_sum_in_levels, gather_in_levels)


# What is trained, and on what.


class Node(NamedTuple):
    """One process: the speed of its products, of kernels on all its cores, and of copies and sums, which one thread makes.

    ``calls`` is Python's time for each gradient that is handed in and each operation that is started.
    """

    flops: float = 2e12
    memory: float = 150e9
    copies: float = 10e9
    calls: float = 40e-6


class Layer(NamedTuple):
    """A parameter, and how many numbers the products multiply by just before its gradient is there in the backward pass.

    Each takes 6 operations a token or example: 2 forward, 4 backward.
    """

    params: int
    work: float


class Training(NamedTuple):
    """A network, first layer first, and what an optimizer of fastopt.distributed does with it."""

    layers: Sequence[Layer]
    wire: int = 4  # bytes of a gradient on the wire; they are added in float32
    weight: int = 4  # bytes of a parameter
    state: int = 8  # bytes of state of a parameter
    shards: bool = False  # ShardedOptimizer
    bucket: float = 50 * MIB

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def work(self) -> float:
        return sum(layer.work for layer in self.layers)


class Bucket(NamedTuple):
    """A bucket's elements, ranks·piece, and the layer whose gradient fills it."""

    piece: int
    layer: int


def buckets(training: Training, ranks: int) -> list[Bucket]:
    """How fastopt.distributed cuts the gradients, the last layer's first."""
    ends, end = [], 0
    for i in reversed(range(len(training.layers))):
        end += -(-training.layers[i].params // ALIGNMENT) * ALIGNMENT
        ends.append((end, i))
    unit = ranks * ALIGNMENT
    full = max(int(training.bucket / training.wire) // unit, 1) * unit
    cut = []
    for first in range(0, end, full):
        some = -(-min(full, end - first) // unit) * unit
        cut.append(Bucket(some // ranks, next(i for last, i in ends if last >= min(first + some, end))))
    return cut


def header(params: int) -> int:
    """Bytes that go with the last bucket: a weight, and a kind for each gradient."""
    return -(-(8 + params) // 64) * 64


def bytes_sent(training: Training, ranks: int) -> int:
    """What each rank sends to others in a step."""
    pieces = [bucket.piece for bucket in buckets(training, ranks)]
    back = training.weight if training.shards else training.wire
    return (ranks - 1) * (sum(pieces) * (training.wire + back) + header(len(training.layers)))


def least_bytes(training: Training, ranks: int) -> float:
    """The least that each rank must send on average for a sum of which all ranks have all (Patarasuk & Yuan 2009)."""
    back = training.weight if training.shards else training.wire
    return (ranks - 1) / ranks * training.params * (training.wire + back)


def memory_of_rank(training: Training, ranks: int) -> dict[str, float]:
    """Bytes of a rank: weights, their gradients (float32), state, and what the exchange holds at the end of the backward pass."""
    n, own = training.params, training.params / ranks
    sums = own * 4 if training.shards else n * training.wire
    return {
        "weights": n * training.weight,
        "gradients": n * 4.0,
        "state": (own if training.shards else n) * training.state,
        "sums": sums,
    }


# What the processor does for the exchange: bytes that pass through one thread.


def packing(params: float) -> float:
    """Gradients, times their weight, to their place in a bucket."""
    return params * (4 + 4)


def adding_batch(params: float) -> float:
    """Gradients of a micro-batch, times their weight, to zeros, and these to the sum of those before."""
    return params * (4 + (4 + 4) + (4 + 4 + 4))


def sending(elements: float, wire: int, last: bool) -> float:
    """A bucket to what is sent: rounded where the wire has 16 bits; the last one is copied beside the header."""
    return elements * ((0 if wire == 4 else 4 + wire) + (wire + wire) * last)


def own(piece: float, size: int) -> float:
    """What a rank sends to itself."""
    return piece * (size + size)


def adding(piece: float, ranks: int, wire: int, whole: bool) -> float:
    """The pieces of all ranks to their sum; widened first, and rounded to be sent, where the wire has 16 bits."""
    sums = (ranks - 1) * piece * (4 + 4 + 4)
    return sums if wire == 4 else sums + ranks * piece * (wire + 4) + whole * piece * (4 + wire)


# A step.


class Step(NamedTuple):
    """The parts of a step, which add up to ``total``, and how long the link was busy."""

    compute: float
    copies: float
    waiting: float
    optimizer: float
    link: float
    sent: int

    @property
    def total(self) -> float:
        return self.compute + self.copies + self.waiting + self.optimizer


def optimizer_step(training: Training, node: Node, params: float, grad: int) -> float:
    """One pass over memory: a gradient is read, a weight and its state are read and written."""
    return params * (grad + 2 * training.weight + 2 * training.state) / node.memory


def alone(training: Training, node: Node, examples: float) -> float:
    """A step of one process, without fastopt.distributed."""
    return 6 * training.work * examples / node.flops + optimizer_step(training, node, training.params, 4)


def step(
    training: Training,
    node: Node,
    link: Link,
    ranks: int,
    examples: float,
    *,
    overlap: bool = True,
    exchange: Exchange = FLAT,
) -> Step:
    """Plays a step through, with ``examples`` (or tokens) on each rank.

    The link takes one operation after the other.  A bucket goes out as soon as it and those before it are full and the
    link is free.  What has arrived is added when the program hands in the next gradient, and then gathered.  ``overlap``
    is the best case, in which the link works by itself; without it gradients are handed in after the backward pass.
    """
    layers, whole = training.layers, not training.shards
    cut = buckets(training, ranks)
    compute = 6 * training.work * examples / node.flops
    forward = compute / 3
    now = forward if overlap else compute
    waiting = copies = free = busy = 0.0
    started: list[tuple[Bucket, float]] = []
    added = sent = 0

    def passes(moved: float) -> None:
        """A call, and the bytes that it moves."""
        nonlocal now, copies
        now += node.calls + moved / node.copies
        copies += node.calls + moved / node.copies

    def wait(until: float) -> None:
        nonlocal now, waiting
        waiting += max(until - now, 0)
        now = max(now, until)

    def use(cost: float) -> float:
        nonlocal free, busy
        free = max(free, now) + cost
        busy += cost
        return free

    def progress(finish: bool) -> None:
        nonlocal added
        while added < len(started):
            bucket, arrives = started[added]
            if arrives > now and not finish:
                break
            wait(arrives)
            passes(adding(bucket.piece, ranks, training.wire, whole) + whole * own(bucket.piece, training.wire))
            if whole:
                use(exchange.gather(link, ranks, ranks * bucket.piece * training.wire))
            added += 1

    for i in reversed(range(len(layers))):
        if overlap:
            now += 4 * layers[i].work * examples / node.flops
        passes(packing(layers[i].params))
        while sent < len(cut) and cut[sent].layer >= i:
            elements = ranks * cut[sent].piece
            last = sent == len(cut) - 1
            passes(sending(elements, training.wire, last) + own(cut[sent].piece, training.wire))
            tail = ranks * header(len(layers)) if last else 0
            started.append((cut[sent], use(exchange.scatter_sum(link, ranks, elements * training.wire + tail))))
            sent += 1
        progress(finish=False)
    progress(finish=True)
    wait(free)
    params = training.params / ranks if training.shards else training.params
    optimizer = optimizer_step(training, node, params, 4 if training.shards else training.wire)
    now += optimizer
    if training.shards:
        before: tuple[Bucket, float] | None = None
        for one in [*cut, None]:
            arrives = 0.0
            if one is not None:
                passes(one.piece * 2 * training.weight + own(one.piece, training.weight))
                arrives = use(exchange.gather(link, ranks, ranks * one.piece * training.weight))
            if before is not None:  # unpacked while the next one travels
                wait(before[1])
                passes(ranks * before[0].piece * 2 * training.weight)
            before = None if one is None else (one, arrives)
    return Step(compute, copies, waiting, optimizer, busy, bytes_sent(training, ranks))


# How it scales.


def strong(
    training: Training, node: Node, link: Link, ranks: int, batch: int, length: int = 1, **options: bool
) -> float:
    """Efficiency with one batch for all ranks: T(1) / (ranks · T(ranks)).  Ranks have whole sequences of ``length`` tokens."""
    taken = step(training, node, link, ranks, -(-batch // ranks) * length, **options)  # type: ignore[arg-type]
    return alone(training, node, batch * length) / (ranks * taken.total)


def weak(training: Training, node: Node, link: Link, ranks: int, batch: int, length: int = 1, **options: bool) -> float:
    """Efficiency with a batch for each rank: T(1) / T(ranks)."""
    taken = step(training, node, link, ranks, batch * length, **options)  # type: ignore[arg-type]
    return alone(training, node, batch * length) / taken.total


def limit(efficiency: Callable[[int], float], least: float = 0.5, most: int = 1 << 14) -> int | None:
    """The fewest ranks, as a power of two, at which efficiency is below ``least``; ``None`` if it is not up to ``most``."""
    ranks = 2
    while ranks <= most:
        if efficiency(ranks) < least:
            return ranks
        ranks *= 2
    return None


def needed(efficiency: Callable[[int], float], least: float, most: int = 1 << 24) -> int | None:
    """The smallest batch whose efficiency, which grows with it, is at least ``least``."""
    low, high = 0, 1
    while efficiency(high) < least:
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if efficiency(middle) >= least else (middle, high)
    return high


def accumulated(
    training: Training, node: Node, link: Link, ranks: int, batch: int, micro: int, length: int = 1
) -> float:
    """Efficiency with ``batch`` sequences on each rank, ``micro`` at a time, whose gradients ``add`` adds before one exchange."""
    taken = step(training, node, link, ranks, batch * length, overlap=False)
    added = -(-batch // micro) * adding_batch(training.params) - packing(training.params)
    return alone(training, node, batch * ranks * length) / (ranks * (taken.total + added / node.copies))


def pipeline(
    training: Training, node: Node, link: Link, ranks: int, batch: int, length: int, stages: int, width: int
) -> float:
    """Efficiency if groups of ``stages`` ranks have a copy of the network, whose sequences pass through one after the other.

    The bubble is GPipe's, (stages − 1) sequences (Huang et al. 2019); gradients are exchanged among ranks ÷ stages ranks
    after the backward pass, as the stages are the same layers on all of them.
    """
    copies = ranks // stages
    each = -(-batch // copies)
    part = training._replace(layers=[Layer(-(-one.params // stages), one.work / stages) for one in training.layers])
    taken = step(part, node, link, copies, each * length, overlap=False)
    of_one = taken.compute / each + 2 * (link.alpha + length * width * training.wire * link.beta) * (stages > 1)
    total = (each + stages - 1) * of_one + taken.total - taken.compute
    return alone(training, node, batch * length) / (ranks * total)


def tensor_parallel(
    training: Training, node: Node, link: Link, ranks: int, batch: int, length: int, parts: int, width: int, blocks: int
) -> float:
    """Efficiency if groups of ``parts`` ranks share each product (Shoeybi et al. 2019): 4 all-reduces of activations a block."""
    copies = ranks // parts
    each = -(-batch // copies)
    part = training._replace(layers=[Layer(-(-one.params // parts), one.work / parts) for one in training.layers])
    taken = step(part, node, link, copies, each * length)
    activations = 4 * blocks * all_reduce_ring(link, parts, each * length * width * training.wire)
    return alone(training, node, batch * length) / (ranks * (taken.total + activations))


# The networks of the predictions.


def gpt2_small() -> list[Layer]:
    """124 million parameters.  The embedding is also the last layer, so that its gradient is whole at the very end."""
    tokens, block = 50257 * 768, 12 * 768 * 768 + 13 * 768
    return [Layer(tokens + 1024 * 768, 0), *[Layer(block, block)] * 12, Layer(2 * 768, tokens)]


def llama_7b() -> list[Layer]:
    """6.7 billion parameters: 32 blocks, the embedding and the last layer apart."""
    tokens, block = 32000 * 4096, 4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096
    return [Layer(tokens, 0), *[Layer(block, block)] * 32, Layer(tokens + 4096, tokens)]
