"""The model of bench/scaling_model.py: limits that are known, and the bytes that fastopt.distributed counts."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threads_comm
from tools import Each

import fastopt as fo
from fastopt import distributed

BENCH = Path(__file__).parents[1] / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="needs the sources")

if BENCH.is_dir():
    spec = importlib.util.spec_from_file_location("scaling_model", BENCH / "scaling_model.py")
    assert spec and spec.loader
    m: Any = importlib.util.module_from_spec(spec)
    sys.modules["scaling_model"] = m
    spec.loader.exec_module(m)
    OPERATIONS = [getattr(m, name) for name in dir(m) if name.startswith(("all_", "scatter_sum", "gather"))]
    LINK, NODE = m.Link(20e-6, 1e-9), m.Node(1e11, 2e10, 5e9, 0.0)
    LAYERS = [m.Layer(5000, 0), m.Layer(300_000, 3e5), m.Layer(1000, 0), m.Layer(2_000_000, 2e6), m.Layer(70_000, 9e4)]
    TRAININGS = [
        m.Training(LAYERS, bucket=1e6, wire=wire, shards=shards) for wire in (4, 2) for shards in (False, True)
    ]
    EXCHANGES = [m.FLAT, m.IN_LEVELS]
RANKS = [1, 2, 3, 4, 6, 7, 8, 12, 64, 100]


def bytes_of(operation: Any, ranks: int, size: float) -> float:
    return operation(m.Link(0.0, 1.0), ranks, size)


def messages_of(operation: Any, ranks: int, size: float) -> float:
    return operation(m.Link(1.0, 0.0), ranks, size)


# Collective operations


def test_one_rank_sends_nothing(each: Each) -> None:
    assert len(OPERATIONS) == 12
    for operation, size in each(OPERATIONS, [0, 100, 1e9]):
        assert operation(LINK, 1, size) == 0
    for training in each(TRAININGS):
        assert m.bytes_sent(training, 1) == m.least_bytes(training, 1) == 0
        alone = m.step(training, NODE, LINK, 1, 10)
        assert (alone.link, alone.waiting, alone.sent) == (0, 0, 0)


def test_two_ranks_send_a_half_or_a_whole(each: Each) -> None:
    """What is known by hand: one message; two if it goes there and back."""
    whole = {
        "all_reduce_doubling": (1, 1),
        "all_reduce_tree": (2, 2),
        "all_reduce_ring": (2, 1),
        "all_reduce_halving": (2, 1),
    }
    for operation in each(OPERATIONS):
        messages, vectors = whole.get(operation.__name__, (1, 0.5))
        assert operation(LINK, 2, 1e7) == pytest.approx(messages * LINK.alpha + vectors * 1e7 * LINK.beta)


def test_bytes_of_operations(each: Each) -> None:
    """With α = 0.  Nobody gets by with less than (1 − 1/ranks) of the vector, an all-reduce with twice that."""
    for operation, ranks in each(OPERATIONS, RANKS):
        least = (1 - 1 / ranks) * 1e6
        sent = bytes_of(operation, ranks, 1e6)
        if operation.__name__ in ("all_reduce_doubling", "all_reduce_tree", "all_to_all_bruck"):
            assert sent >= least * (1 - 1e-12)
        else:
            assert sent == pytest.approx(least * (2 if "reduce" in operation.__name__ else 1))


def test_messages_of_operations(each: Each) -> None:
    """With β = 0."""
    for ranks in each([4, 8, 64, 1024]):
        log = int(math.log2(ranks))
        counts = {operation.__name__: messages_of(operation, ranks, 1e6) for operation in OPERATIONS}
        assert counts == {
            "all_to_all_pairwise": ranks - 1,
            "all_to_all_bruck": log,
            "all_gather_ring": ranks - 1,
            "all_gather_doubling": log,
            "all_reduce_ring": 2 * (ranks - 1),
            "all_reduce_doubling": log,
            "all_reduce_halving": 2 * log,
            "all_reduce_tree": 2 * log,
            "scatter_sum": log,
            "scatter_sum_in_levels": log,
            "gather": ranks - 1,
            "gather_in_levels": counts["gather_in_levels"],  # the size decides, below
        }
    assert bytes_of(m.all_to_all_bruck, 64, 1e6) == 6 * 1e6 / 2  # half of the vector in each round
    assert messages_of(m.gather, 64, m.LONG - 1) == 6 and messages_of(m.gather, 64, m.LONG) == 63
    assert messages_of(m.gather_in_levels, 64, 8 * m.LONG) == 7 + 7
    assert [m.rounds(ranks) for ranks in (1, 2, 3, 4, 5, 8, 9)] == [0, 1, 2, 2, 3, 3, 4]
    assert messages_of(m.all_reduce_doubling, 6, 1e6) == 4  # as for 4 ranks, and two for the others


def test_operations_cost_more_with_more_of_anything(each: Each) -> None:
    for operation in each(OPERATIONS):
        costs = [operation(LINK, ranks, size) for ranks in (4, 16, 64) for size in (1e3, 1e5, 4e5)]
        assert np.all(np.diff(np.reshape(costs, (3, 3)), axis=1) > 0)
        assert np.all(np.diff(np.reshape(costs, (3, 3)), axis=0) > 0)
        slower = [operation(link, 16, 1e5) for link in (LINK, m.Link(3e-5, 1e-9), m.Link(3e-5, 2e-9))]
        assert slower == sorted(slower) and slower[0] < slower[1] < slower[2]


def test_the_faster_way_is_taken(each: Each) -> None:
    for ranks, size in each([2, 8, 100], [1, 1e3, 1e5, 1e8]):
        ways = [one(LINK, ranks, size) for one in (m.all_to_all_pairwise, m.all_to_all_bruck)]
        assert m.scatter_sum(LINK, ranks, size) == min(ways)
    assert m.scatter_sum(LINK, 64, 640) == m.all_to_all_bruck(LINK, 64, 640)
    assert m.scatter_sum(LINK, 64, 1e8) == m.all_to_all_pairwise(LINK, 64, 1e8)


# Bytes


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(("wire", "name"), [(4, None), (2, "bfloat16")])
def test_bytes_are_those_that_are_counted(ranks: int, shards: bool, wire: int, name: str | None) -> None:
    """Sizes that fill no bucket, several, and whole ones."""
    for sizes, mib in (
        ([5, 1000, 3], 50.0),
        ([1] * 60, 50.0),
        ([70_000, 1, 40_000, 300], 0.125),
        ([32768, 32768], 0.125),
    ):

        def program(comm: Any, sizes: list[int] = sizes, mib: float = mib) -> list[int]:
            params = [np.zeros(size, np.float32) for size in sizes]
            grads = [np.ones(size, np.float32) for size in sizes]
            options: dict[str, Any] = {"wire": name, "bucket_mib": mib}
            optimizer: Any = (
                distributed.ShardedOptimizer(fo.optim.SGD, params, comm, lr=0.1, **options)
                if shards
                else distributed.DistributedOptimizer(fo.optim.SGD(params, lr=0.1), comm, **options)
            )
            counted = [0]
            for _ in range(3):
                optimizer.step(grads)
                counted.append(optimizer.bytes_sent)
            return np.diff(counted).tolist()

        training = m.Training([m.Layer(size, size) for size in sizes], wire=wire, shards=shards, bucket=mib * m.MIB)
        assert threads_comm.run(ranks, program) == [[m.bytes_sent(training, ranks)] * 3] * ranks
        assert m.bytes_sent(training, ranks) >= m.least_bytes(training, ranks)


def test_padding_is_little() -> None:
    """Of a large network, next to the least that must be sent."""
    for ranks in (2, 8, 64, 1024):
        training = m.Training(m.gpt2_small())
        assert 1 <= m.bytes_sent(training, ranks) / m.least_bytes(training, ranks) < 1.01


def test_buckets_hold_everything_once(each: Each) -> None:
    for training, ranks in each(TRAININGS, RANKS):
        cut = m.buckets(training, ranks)
        elements = ranks * sum(bucket.piece for bucket in cut)
        padding = m.ALIGNMENT * (len(LAYERS) + ranks)
        assert 0 <= elements - training.params <= padding
        assert [bucket.layer for bucket in cut] == sorted((bucket.layer for bucket in cut), reverse=True)
        assert cut[-1].layer == 0  # the first layer's gradient comes last


# Steps


def test_a_step_is_its_parts(each: Each) -> None:
    """With a link that costs nothing: what is computed, and passes over memory."""
    free = m.Link(0.0, 0.0)
    for training, ranks, overlap in each(TRAININGS, [1, 2, 8], [True, False]):
        taken = m.step(training, NODE, free, ranks, 100, overlap=overlap)
        assert taken.waiting == taken.link == 0
        assert taken.compute == pytest.approx(6 * training.work * 100 / NODE.flops)
        assert taken.total == taken.compute + taken.copies + taken.optimizer
        own = training.params / (ranks if training.shards else 1)
        grad = 4 if training.shards else training.wire
        assert taken.optimizer == pytest.approx(own * (grad + 2 * 4 + 2 * 8) / NODE.memory)

    def copies(**options: Any) -> float:
        return (
            float(m.step(m.Training([m.Layer(64_000, 1.0)], **options), NODE, free, 4, 1).copies) * NODE.copies / 64_000
        )

    # Bytes of an element: packed; copied beside the header; a quarter sent to oneself; added; and a quarter gathered by oneself.
    assert copies() == pytest.approx(8 + 8 + 8 / 4 + 9 + 8 / 4)
    assert copies(bucket=128_000) == pytest.approx(8 + 8 / 2 + 8 / 4 + 9 + 8 / 4)  # two buckets
    # Rounded, widened, and a quarter rounded again.
    assert copies(wire=2) == pytest.approx(8 + 6 + 4 + 4 / 4 + 6 + 9 + 6 / 4 + 4 / 4)
    # A quarter of the weights, and all of them.
    assert copies(shards=True) == pytest.approx(8 + 8 + 8 / 4 + 9 + 8 / 4 + 8 / 4 + 8)
    assert copies(shards=True, wire=2) == pytest.approx(8 + 6 + 4 + 4 / 4 + 6 + 9 + 8 / 4 + 8 / 4 + 8)


def test_calls_are_counted(each: Each) -> None:
    """A gradient that is handed in, a bucket that is sent, one that is added; of shards, one that is gathered and unpacked."""
    for training, ranks in each(TRAININGS, [1, 2, 8]):
        slow, quick = (m.step(training, m.Node(*NODE[:3], calls), LINK, ranks, 10) for calls in (1.0, 0.0))
        count = len(LAYERS) + len(m.buckets(training, ranks)) * (4 if training.shards else 2)
        assert slow.copies - quick.copies == pytest.approx(count)


def test_one_bucket_by_hand() -> None:
    """A single layer: nothing can overlap, and every part follows the one before."""
    training, ranks, size = m.Training([m.Layer(64_000, 64_000.0)]), 4, 4 * 64_000
    head = ranks * m.header(1)
    link = m.all_to_all_pairwise(LINK, ranks, size + head) + m.all_gather_doubling(LINK, ranks, size)
    for overlap in (True, False):
        taken = m.step(training, NODE, LINK, ranks, 100, overlap=overlap)
        assert [taken.link, taken.waiting] == pytest.approx([link, link])
    assert taken.total == pytest.approx(taken.compute + taken.copies + taken.optimizer + link)


def test_two_buckets_by_hand() -> None:
    """The second layer's exchange is hidden behind the first layer's backward pass where that is long enough."""
    size = 64_000
    training = m.Training([m.Layer(size, 1e6), m.Layer(size, 1e3)], bucket=4 * size)
    node = m.Node(1e9, math.inf, math.inf, 0.0)
    one = m.all_to_all_pairwise(LINK, 2, 4 * size)
    last = m.all_to_all_pairwise(LINK, 2, 4 * size + 2 * m.header(2))
    back = m.all_gather_doubling(LINK, 2, 4 * size)
    hidden = m.step(training, node, LINK, 2, 100)
    assert hidden.link == pytest.approx(one + last + 2 * back)
    # The first sum is gathered before the second bucket, or after it: what has arrived is seen when a gradient is handed in.
    assert hidden.waiting == pytest.approx(last + 2 * back)
    assert m.step(training, node, LINK, 2, 100, overlap=False).waiting == pytest.approx(hidden.link)


def some_step(rng: np.random.Generator, copies: float) -> tuple[Any, Any]:
    """A step of a network, on a node and a link of any kind, with overlap and without."""
    layers = [
        m.Layer(int(10 ** rng.uniform(1, 6)), 10 ** rng.uniform(1, 7) * (rng.random() < 0.8))
        for _ in range(rng.integers(1, 12))
    ]
    wire, shards, bucket = int(rng.choice([2, 4])), rng.random() < 0.5, 10 ** rng.uniform(4, 7)
    training = m.Training(layers, wire=wire, shards=shards, bucket=bucket)
    node = m.Node(*10 ** rng.uniform(9, 12, 2), copies, 0.0)
    link = m.Link(10 ** rng.uniform(-7, -3), 10 ** rng.uniform(-11, -7))
    ranks, exchange = int(rng.choice(RANKS)), EXCHANGES[rng.integers(2)]
    both = [m.step(training, node, link, ranks, 10, overlap=overlap, exchange=exchange) for overlap in (True, False)]
    assert both[0][0:2] + both[0][3:] == pytest.approx(both[1][0:2] + both[1][3:])  # all but what is waited for
    for one in both:
        assert one.total >= max(one.link, one.compute + one.copies + one.optimizer)
    return both[0], both[1]


def test_what_has_arrived_is_gathered_during_the_backward_pass() -> None:
    """Of three buckets, of which the first two come early, only the last one's exchange is left."""
    size = 64_000
    training = m.Training([m.Layer(size, 1e6), m.Layer(size, 1e6), m.Layer(size, 1e3)], bucket=4 * size)
    last = m.all_to_all_pairwise(LINK, 2, 4 * size + 2 * m.header(3))
    back = m.all_gather_doubling(LINK, 2, 4 * size)
    taken = m.step(training, m.Node(1e9, math.inf, math.inf, 0.0), LINK, 2, 100)
    # The second bucket's sum is gathered at the end, when the last gradient is handed in.
    assert taken.waiting == pytest.approx(last + 2 * back)
    assert m.step(training, m.Node(1e9, math.inf, math.inf, 0.0), LINK, 2, 100, overlap=False).waiting == pytest.approx(
        taken.link
    )


def test_overlap_is_never_worse_than_none() -> None:
    rng = np.random.default_rng(0)
    gained = []
    for _ in range(1500):
        with_it, without = some_step(rng, math.inf)
        gained.append(1 - with_it.total / without.total)
    assert min(gained) > -1e-9 and max(gained) > 0.2


def test_overlap_is_rarely_worse_where_copies_cost_time() -> None:
    """What arrives in the middle is added at once, and the next bucket goes out later: Graham's anomaly, and small."""
    rng = np.random.default_rng(0)
    gained = []
    for _ in range(1500):
        with_it, without = some_step(rng, 10 ** rng.uniform(9, 12))
        gained.append(1 - with_it.total / without.total)
    assert -0.1 < min(gained) < 0 and np.mean(np.array(gained) < -1e-9) < 0.02 and max(gained) > 0.2


def test_overlap_helps_large_networks(each: Each) -> None:
    """Those of the predictions: often, and where it does not, the anomaly is below 1 %."""
    large = [
        m.Training(m.gpt2_small()),
        m.Training(m.gpt2_small(), wire=2),
        m.Training(m.llama_7b(), wire=2, weight=2, state=12, shards=True),
    ]
    links, gained = [m.Link(30e-6, 1 / 1.1e9), m.Link(3e-6, 1 / 11e9)], []
    for training, link, ranks in each(large, links, [2, 8, 32, 128, 1024]):
        for tokens in (1024, 65536):
            with_it, without = (m.step(training, m.Node(), link, ranks, tokens, overlap=o) for o in (True, False))
            assert with_it.total <= without.total * 1.01
            gained.append(1 - with_it.total / without.total)
    assert max(gained) > 0.05 and np.mean(gained) > 0.01


def test_more_of_anything_never_saves_time(each: Each) -> None:
    for training, overlap in each(TRAININGS, [True, False]):
        last = 0.0
        for link in (m.Link(0, 0), m.Link(1e-6, 0), m.Link(1e-6, 1e-10), LINK, m.Link(1e-3, 1e-8)):
            taken = m.step(training, NODE, link, 8, 100, overlap=overlap).total
            assert taken >= last > 0 or not last
            last = taken
        assert taken > 3 * m.step(training, NODE, m.Link(0, 0), 8, 100, overlap=overlap).total
        speeds = [
            m.step(training, m.Node(*(s * by for s in NODE[:3]), 0.0), LINK, 8, 100, overlap=overlap).total
            for by in (1, 2, 4)
        ]
        assert speeds == sorted(speeds, reverse=True)
        batches = [m.step(training, NODE, LINK, 8, examples, overlap=overlap).total for examples in (1, 10, 100)]
        assert batches == sorted(batches)


# Scaling


def test_efficiency(each: Each) -> None:
    """Both begin near 1, with what copies cost missing; fall with ranks; and are the same thing with the same batches."""
    free = m.Link(0.0, 0.0)
    for training in each(TRAININGS):
        quick = m.Node(NODE.flops, NODE.memory, math.inf, 0.0)
        if training.wire == 4:  # a step reads gradients of 16 bits in less time
            assert m.weak(training, quick, free, 1, 50) == pytest.approx(1)
            assert m.strong(training, quick, free, 1, 50) == pytest.approx(1)
        for of in (m.weak, m.strong):
            first = 4 if training.shards else 1  # a few shards save more of the optimizer's time than they cost
            values = [of(training, NODE, LINK, ranks, 1024) for ranks in (first, 8, 16, 64, 256)]
            assert values == sorted(values, reverse=True) and 0 < values[-1] < values[0] <= 1
    assert (
        m.strong(training, m.Node(1e11, math.inf, math.inf, 0.0), free, 64, 32) == 0.5
    )  # half of the ranks have no sequence


def test_limits_and_needs() -> None:
    assert m.limit(lambda ranks: 10 / ranks) == 32 and m.limit(lambda ranks: 1.0) is None
    assert m.needed(lambda batch: batch / 1000, 0.7) == 700 and m.needed(lambda batch: 0.1, 0.7) is None
    assert m.needed(lambda batch: 1.0, 0.7) == 1


def test_what_comes_next_costs_what_it_must() -> None:
    """Shared copies of a network in the trivial cases, and the bubble of stages by hand."""
    training, free, quick = m.Training(m.gpt2_small()), m.Link(0.0, 0.0), m.Node(1e12, math.inf, math.inf, 0.0)
    assert m.pipeline(training, quick, free, 64, 512, 1024, 1, 768) == pytest.approx(1)
    assert m.pipeline(training, quick, free, 64, 512, 1024, 4, 768) == pytest.approx(32 / (32 + 3))
    assert m.tensor_parallel(training, quick, free, 64, 512, 1024, 4, 768, 12) == pytest.approx(1)
    plain = m.strong(training, NODE, LINK, 64, 512, 1024)
    assert m.tensor_parallel(training, NODE, LINK, 64, 512, 1024, 1, 768, 12) == pytest.approx(plain)
    for ways in (
        (m.pipeline, (4, 768)),
        (m.tensor_parallel, (4, 768, 12)),
    ):  # messages between ranks of a copy cost time
        function, shared = ways
        assert function(training, quick, LINK, 64, 512, 1024, *shared) < function(
            training, quick, free, 64, 512, 1024, *shared
        )
    quiet = m.Training([m.Layer(64, 1e9)])  # almost nothing but products and activations
    whole, of_products = 8 * 1024 * 6e9 / 1e12, 4 * 12 * m.all_reduce_ring(LINK, 4, 32 * 1024 * 768 * 4)
    shared_products = m.tensor_parallel(quiet, quick, LINK, 64, 512, 1024, 4, 768, 12)
    assert shared_products == pytest.approx(whole / (whole + of_products), rel=1e-3)
    assert m.accumulated(training, quick, free, 64, 8, 2, 1024) == pytest.approx(1)
    few, many = (m.accumulated(training, NODE, LINK, 64, 16, micro, 1024) for micro in (8, 1))
    assert many < few < 1


def test_memory_of_a_rank() -> None:
    training = m.Training(m.llama_7b(), wire=2, weight=2, state=12, shards=True)
    n = training.params
    assert m.memory_of_rank(training, 8) == {
        "weights": 2 * n,
        "gradients": 4 * n,
        "state": 12 * n / 8,
        "sums": 4 * n / 8,
    }
    whole = m.memory_of_rank(training._replace(shards=False), 8)
    assert whole["state"] == 12 * n and whole["sums"] == 2 * n


def test_networks_have_the_parameters_that_they_are_known_for() -> None:
    assert m.Training(m.gpt2_small()).params == 124_439_808
    assert m.Training(m.llama_7b()).params == 6_738_415_616
