"""One exchange of gradients: buckets go out as soon as their gradients are there, and their sums come back.

A bucket is exchanged as a sum that every implementation of MPI computes alike: each rank gets its piece of every rank's bucket
(Ialltoall), adds them in the order of the tree, and, where all ranks need the whole sum, they gather the pieces (Iallgather).
That moves as many bytes as the best all-reduce, 2·(1 − 1/ranks) for each byte of the bucket, and the result depends neither on
the order in which messages arrive nor on the algorithm that MPI chooses.  It can also carry bfloat16, which MPI cannot add.

    ready(i) …        pack → Ialltoall          as soon as a bucket and those before it are full
    ready, finish     Test → add → Iallgather   in the background of the backward pass
"""

from __future__ import annotations

import atexit
import ctypes
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ._layout import Bucket, Layout
from ._tree import Interval, nodes_within, share, tree_sum

Array = NDArray[Any]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

NONE, DENSE, SPARSE = 0, 1, 2  # the kinds of gradients


# Exchanges that have begun and not ended.  MPI may write to their arrays, so these must live longer than an optimizer that is
# given up in the middle of a step, and longer than Python.
IN_FLIGHT: set[Exchange] = set()


@atexit.register
def _outlive_python() -> None:
    for exchange in IN_FLIGHT:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(exchange))


class Header:
    """What each rank tells the others beside gradients: the weights of its leaves, and the kind of each gradient."""

    def __init__(self, params: int, leaves: int, ranks: int) -> None:
        self.params = params
        self.counts = [end - begin for begin, end in (share(leaves, rank, ranks) for rank in range(ranks))]
        self.weights = 8 * max(self.counts)
        self.size = -(-(self.weights + params) // 64) * 64

    def write(self, to: Array, weights: list[float], kinds: list[int]) -> None:
        row = np.zeros(self.size, np.uint8)
        row[: 8 * len(weights)] = np.array(weights, np.float64).view(np.uint8)
        row[self.weights : self.weights + self.params] = kinds
        to[...] = row

    def read(self, rows: Array) -> tuple[list[float], Array]:
        """The weight of each leaf, and for each parameter the largest kind of all ranks."""
        every = np.ascontiguousarray(rows[:, : self.weights]).view(np.float64).tolist()
        weights = [weight for row, count in zip(every, self.counts, strict=True) for weight in row[:count]]
        return weights, rows[:, self.weights : self.weights + self.params].max(axis=0, initial=0)


class Channel:
    """The communicators of both stages, and the numbers of bytes and calls."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, int(comm.Get_rank()), int(comm.Get_size())
        # Each stage has a communicator of its own, as exchanges of one must begin in the same order on all ranks.
        duplicate = getattr(comm, "Dup", None)
        self.second = duplicate() if callable(duplicate) else None
        self.bytes_sent = self.collectives = 0

    def scatter(self, send: Array, receive: list[Array], sizes: list[int]) -> Any:
        """Starts to send row r of ``send`` (bytes) to rank r; ``receive[r]`` of ``sizes[r]`` bytes comes from rank r."""
        self.collectives += 1
        self.bytes_sent += send.nbytes - send.nbytes // self.size
        if len(set(sizes)) == 1 and sizes[0] == send.shape[1]:
            return self.comm.Ialltoall(send, receive[0])
        to, begins = [send.shape[1]] * self.size, np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist()
        starts = [rank * send.shape[1] for rank in range(self.size)]
        return self.comm.Ialltoallv([send, (to, starts)], [receive[0], (sizes, begins)])

    def gather(self, piece: Array, whole: Array) -> Any:
        """Starts to gather the pieces (bytes) of all ranks."""
        self.collectives += 1
        self.bytes_sent += piece.nbytes * (self.size - 1)
        return (self.second or self.comm).Iallgather(piece, whole)


class Vector:
    """The gradients of the parameters of one dtype: their layout and the dtypes in which they are added and sent."""

    def __init__(self, layout: Layout, dtype: Any, wire: Any, feedback: bool) -> None:
        self.layout, self.dtype, self.wire = layout, np.dtype(dtype), np.dtype(wire)
        self.rounded = self.wire != self.dtype
        # What rounding to the wire has lost, to be sent next time: of this rank's gradients, and of its pieces of the sum.
        self.feedback = feedback and self.rounded
        self._room: Array | None = None
        self.forget_lost()

    def room(self) -> Array:
        """The array for the whole sum; each step has the same one."""
        if self._room is None:
            self._room = np.empty(self.layout.size, self.wire)
        return self._room

    def forget_lost(self) -> None:
        """Begins error feedback anew."""
        self.lost: list[Array | None] = [None] * len(self.layout.buckets)
        self.lost_of_sum: list[Array | None] = [None] * len(self.layout.buckets)

    def encode(self, numbers: Array, lost: list[Array | None], bucket: int, weight: float) -> Array:
        """Numbers as they are sent; with error feedback what was lost before, kept for a weight of 1, is added first."""
        if not self.rounded:
            return numbers
        if not self.feedback or not weight:
            return numbers.astype(self.wire)
        with np.errstate(all="ignore"):
            before = lost[bucket]
            if before is not None:
                numbers = numbers + before.reshape(numbers.shape) * self.dtype.type(weight)
            sent = numbers.astype(self.wire)
            rest = (numbers - sent.astype(self.dtype)) / self.dtype.type(weight)
            lost[bucket] = np.where(np.isfinite(rest), rest, 0)
        return sent


class Exchange:
    """The exchange of one step.

    Args:
        channel: Where the bytes go.
        vectors: One for each dtype.
        header: Sent with the last bucket.
        leaves: The leaves of the tree: one for each rank, or for each chunk of the batch.
        whole: Whether all ranks need the whole sum; otherwise each keeps its pieces only.
        sums_only: Whether the sum is not divided by the weights.
    """

    def __init__(
        self, channel: Channel, vectors: list[Vector], header: Header, leaves: int, whole: bool, sums_only: bool = False
    ) -> None:
        self._channel, self._vectors, self._header, self._whole = channel, vectors, header, whole
        self._leaves, self._sums_only = leaves, sums_only
        self._order = [(v, b) for v, vector in enumerate(vectors) for b in range(len(vector.layout.buckets))]
        self._nodes = [nodes_within(*share(leaves, rank, channel.size), leaves) for rank in range(channel.size)]
        self._started = self._added = 0
        self._finished = False
        self._stages: list[Any] = []  # (request, array that receives, …) of each bucket that was started
        self._gathers: list[Any] = []
        self._sends: list[Array] = []
        self._headers: Array | None = None
        self._kept: list[Any] = []  # what error feedback held back before this exchange
        # Sums are gathered later where their weight must be known first, or where both stages share a communicator.
        self._late: list[tuple[int, int, Array]] | None = None
        if whole and (channel.second is None or any(vector.feedback for vector in vectors)):
            self._late = []
        self.pieces: dict[tuple[int, int], Array] = {}  # this rank's piece of each sum
        self.sums: dict[int, Array] = {v: vector.room() for v, vector in enumerate(vectors) if whole}

    @property
    def own(self) -> list[Interval]:
        """The nodes of the tree whose sums this rank sends."""
        return self._nodes[self._channel.rank]

    def next(self) -> tuple[int, int] | None:
        """The bucket that is sent next, as the numbers of its vector and of itself there."""
        return self._order[self._started] if self._started < len(self._order) else None

    def is_last(self) -> bool:
        """Whether the next bucket is the last one."""
        return self._started == len(self._order) - 1

    @property
    def unfinished(self) -> bool:
        """Whether something has been sent, and not everything has come back."""
        return self._started > 0 and not self._finished

    def undo(self) -> None:
        """Takes back what error feedback has kept of this exchange, whose step is not taken."""
        for vector, lost, lost_of_sum in self._kept:
            vector.lost, vector.lost_of_sum = lost, lost_of_sum

    def start(self, nodes: dict[Interval, Array], weight: float, header: tuple[list[float], list[int]] | None) -> None:
        """Sends the next bucket: for each node of this rank the whole bucket; with the last one the header."""
        if not self._started:
            self._kept = [(vector, [*vector.lost], [*vector.lost_of_sum]) for vector in self._vectors]
            IN_FLIGHT.add(self)
        v, b = self._order[self._started]
        vector, channel = self._vectors[v], self._channel
        piece = vector.layout.buckets[b].piece
        size = piece * vector.wire.itemsize
        last = self._started == len(self._order) - 1
        tail = self._header.size if last else 0
        own = self._nodes[channel.rank]
        parts = [
            vector.encode(nodes[node].reshape(channel.size, piece), vector.lost, b, weight).view(np.uint8)
            for node in own
        ]
        send = (
            parts[0]
            if len(parts) == 1 and not tail
            else np.concatenate([*parts, np.empty((channel.size, tail), np.uint8)], axis=1)
        )
        if last:
            assert header is not None
            self._header.write(send[:, send.shape[1] - tail :], *header)
        sizes = [len(nodes_of) * size + tail for nodes_of in self._nodes]
        received = np.empty(sum(sizes), np.uint8)
        self._sends.append(send)
        self._stages.append((channel.scatter(send, [received], sizes), received, sizes, tail))
        self._started += 1

    def progress(self, wait: bool = False) -> None:
        """Adds what has arrived, and starts to gather the sums."""
        # All requests are asked, not only the next one: many MPI libraries move messages in such calls only.
        arrived = [wait or stage[0].Test() for stage in self._stages[self._added :]]
        for has_arrived in arrived:
            if not has_arrived:
                break
            request, received, sizes, tail = self._stages[self._added]
            if wait:
                request.Wait()
            self._add(self._added, received, sizes, tail)
            self._stages[self._added] = self._sends[self._added] = None  # type: ignore[call-overload]
            self._added += 1
        for request in self._gathers:
            if wait:
                request[0].Wait()
            else:
                request[0].Test()

    def _add(self, number: int, received: Array, sizes: list[int], tail: int) -> None:
        v, b = self._order[number]
        vector = self._vectors[v]
        bucket = vector.layout.buckets[b]
        size = bucket.piece * vector.wire.itemsize
        parts: dict[Interval, Array] = {}
        at, headers = 0, []
        for nodes, its_size in zip(self._nodes, sizes, strict=True):
            for i, node in enumerate(nodes):
                one = received[at + i * size : at + (i + 1) * size].view(vector.wire)
                parts[node] = one.astype(vector.dtype) if vector.rounded else one
            headers.append(received[at + its_size - tail : at + its_size])
            at += its_size
        if tail:
            self._headers = np.stack(headers)
        with np.errstate(all="ignore"):
            total = tree_sum(parts, self._leaves, _add_to)
        if not self._whole:
            self.pieces[v, b] = total
        elif self._late is not None:
            self._late.append((v, b, total))
        else:
            self._gather(v, b, total, 1.0)

    def _gather(self, v: int, b: int, total: Array, weight: float) -> None:
        vector, channel = self._vectors[v], self._channel
        bucket = vector.layout.buckets[b]
        whole = self.sums[v][bucket.first : bucket.first + channel.size * bucket.piece]
        sent = np.ascontiguousarray(vector.encode(total, vector.lost_of_sum, b, weight))
        request = channel.gather(sent.view(np.uint8), whole.view(np.uint8))
        self._gathers.append((request, sent, whole))

    def finish(self) -> tuple[list[float], Array]:
        """Waits for everything; returns the leaves' weights and the gradients' kinds."""
        self.progress(wait=True)
        assert self._headers is not None
        weights, kinds = self._header.read(self._headers)
        for late in self._late or ():
            self._gather(*late, 1.0 if self._sums_only else sum(weights))
        self.progress(wait=True)
        self._finished = True
        IN_FLIGHT.discard(self)
        return weights, kinds


def _add_to(a: Array, b: Array) -> Array:
    return np.add(a, b, out=a)


def fill(bucket: Bucket, to: Array, flat: list[Any], weight: float) -> None:
    """Writes a bucket's gradients, times their weight; zeros where there is none."""
    to[...] = 0
    for param, begin, end, at in bucket.segments:
        grad = flat[param]
        if grad is None:
            continue
        weigh(grad[begin:end], weight, to[at : at + end - begin])


def weigh(grad: Array, weight: float, to: Array) -> None:
    """to ← weight·grad, where nothing of a gradient with weight 0 counts, not even NaN."""
    if weight == 1:
        to[...] = grad
    elif weight == 0:
        to[...] = 0
    else:
        np.multiply(grad, weight, out=to, dtype=to.dtype, casting="unsafe")
