"""What optimizers over several processes share: gradients come in, sums of them come out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  # gives NumPy bfloat16
import numpy as np
from numpy.typing import NDArray

from .. import SparseRows
from .._check import choice, flag, name_of, not_an_array, number, whole
from ..optim.accumulate import weight_of
from ._exchange import BFLOAT16, DENSE, NONE, SPARSE, Channel, Exchange, Header, Vector, fill, weigh
from ._layout import Layout
from ._processes import abort_unhandled, bytes_of, checked
from ._sparse import gather_rows
from ._tree import Interval, Partial, nodes_within, share

Array = NDArray[Any]

MIB = 1 << 20


class Options(NamedTuple):
    """The options of an exchange that both optimizers have."""

    chunks: int | None
    wire: str | None
    error_feedback: bool
    reduction: str
    bucket_mib: float
    broadcast: bool


class Exchanged:
    """Parameters whose gradients are added over processes: the base of both optimizers."""

    _swapped = False  # whether the parameters hold averages, in ``using_ema`` of shards
    _kinds: list[int] | None  # of the gradients, from the first step on
    _vectors: list[Vector]
    _where: dict[int, tuple[int, int, int]]  # of each dense parameter: its vector, first bucket and last
    # Of the step that is being prepared:
    _given: dict[int, Any]  # the gradients that were handed in: sparse ones, and the kinds of the others
    _local: Partial | None  # the sums of this rank's micro-batches or chunks
    _present: list[bool]  # which parameters have a gradient in one of them
    _weights: list[float]  # of this rank's leaves
    _weighed: float | None  # the weight that ``ready`` was given
    _exchange: Exchange | None
    _buffers: dict[tuple[int, int], Array]  # buckets that are being filled
    _missing: list[list[int]]  # how many gradients each bucket still needs
    _broken = False  # whether an exchange was abandoned
    _flatten: Callable[[Any], list[Any]]  # gradients of any structure in the order of the parameters

    def __init__(self, comm: Any) -> None:
        self._function = name = type(self).__name__
        self.rank, self.size = checked(name, comm)
        self.comm = comm

    def _set_up(
        self, groups: list[dict[str, Any]], facts: list[tuple[str, Any]], options: Options, shards: bool
    ) -> list[tuple[str, Any]]:
        """Checks the arguments, without a word to other ranks; returns what must be the same on all of them."""
        name, (chunks, wire, error_feedback, reduction, bucket_mib, broadcast) = self._function, options
        self.chunks = None if chunks is None else whole(name, "chunks", chunks, 1)
        if self.chunks is not None and self.chunks < self.size:
            raise ValueError(f"{name}: chunks must be at least {self.size}, the number of ranks, got {chunks}")
        if wire not in (None, "bfloat16"):
            raise ValueError(f"{name}: wire must be 'bfloat16' or None, got {wire!r}")
        if wire is not None and self.chunks is not None:
            raise ValueError(f"{name}: chunks need wire=None: sums that are rounded depend on the number of ranks")
        self._feedback = flag(name, "error_feedback", error_feedback)
        if self._feedback and wire is None:
            raise ValueError(f"{name}: error_feedback needs wire='bfloat16', as float32 loses nothing")
        self._sums_only = choice(name, "reduction", reduction, ("mean", "sum")) == "sum"
        self._wire, self._capacity = wire, number(name, "bucket_mib", bucket_mib, 0, above=True) * MIB
        self._broadcasts = flag(name, "broadcast", broadcast)
        self.params: list[Array] = [param for group in groups for param in group["params"]]
        named = [group.get("param_names") for group in groups]
        self.names = None if None in named else [one for names in named for one in names or ()]
        self._shards, self._leaves = shards, self.chunks or self.size
        self._kinds, self._vectors, self._where = None, [], {}
        self._header = Header(len(self.params), self._leaves, self.size)
        self._scale: float | None = None
        return [
            *facts,
            *((self.label(i), f"{one.dtype} of shape {one.shape}") for i, one in enumerate(self.params)),
            *options._asdict().items(),
        ]

    def _begin(self) -> None:
        """Prepares the exchange, once all ranks have agreed."""
        if self._broadcasts:
            for param in self.params:
                if param.size:
                    self.comm.Bcast(bytes_of(param), root=0)
        abort_unhandled(self.comm)
        self._channel = Channel(self.comm)
        self._forget()

    def close(self) -> None:
        """Frees the communicator that this object has made for itself; it cannot be used afterwards."""
        in_flight = self._broken or (self._exchange is not None and self._exchange.unfinished)
        if self._channel.second is not None and callable(getattr(self._channel.second, "Free", None)):
            if not in_flight:  # otherwise MPI may still need it
                self._channel.second.Free()
            self._channel.second = None

    # Statistics

    @property
    def bytes_sent(self) -> int:
        """How many bytes this rank has sent to others since it began."""
        return self._channel.bytes_sent

    @property
    def collectives(self) -> int:
        """How many collective operations have been started since it began."""
        return self._channel.collectives

    # Gradients come in

    def ready(self, param: int, grad: Array | SparseRows | None, *, weight: float = 1.0) -> None:
        """Hands in the gradient of one parameter during the backward pass; it is sent as soon as a bucket is full.

        Call it once for each parameter and step, on all ranks, last layer first, and then ``step()``.  The gradient is copied
        (a :class:`fastopt.SparseRows` is not), and may be overwritten at once.  What has arrived from other ranks meanwhile is
        added up.  In the first step everything is sent by ``step``, because it decides which gradients are sparse.

        Args:
            param: The number of the parameter, in the order of the optimizer's groups.
            grad: Its gradient; ``None`` where it has none.
            weight: That of this rank's batch, see ``step``; the same for all gradients of a step.

        Raises:
            TypeError: The gradient has a wrong dtype.
            ValueError: A shape, a number or the weight is wrong, or the gradient was handed in before.
        """
        name = self._function
        self._expect_ready()
        if self.chunks is not None:
            raise ValueError(f"{name}: ready cannot be used with chunks, whose gradients are added first; use add")
        if self._local is not None:
            raise ValueError(f"{name}: ready follows add, whose gradients step() takes; step() first")
        param = whole(name, "param", param, 0, max(len(self.params), 1))
        if param in self._given:
            raise ValueError(f"{name}: the gradient of {self.label(param)} was handed in before; step() comes first")
        grad = self._checked(param, grad)
        kind = NONE if grad is None else SPARSE if isinstance(grad, SparseRows) else DENSE
        if self._kinds is None:
            self._weigh(weight)
            self._given[param] = grad.copy() if isinstance(grad, np.ndarray) else grad
            return
        self._expect_kind(param, kind)
        self._weigh(weight)
        self._given[param] = grad if kind == SPARSE else (kind,)
        if param in self._where:
            v, first, last = self._where[param]
            flat = None if grad is None else np.ascontiguousarray(grad).reshape(-1)
            for b in range(first, last + 1):
                self._fill(v, b, param, flat)
                self._missing[v][b] -= 1
        self._send()
        if self._exchange is not None:
            self._exchange.progress()

    def add(self, grads: Any, *, weight: float = 1.0, chunk: int | None = None) -> None:
        """Adds the gradients of a micro-batch or chunk, with its weight; ``step()`` then takes the mean over all of them.

        Args:
            grads: As for the optimizer's ``step``.
            weight: The weight of this micro-batch, such as its number of examples.
            chunk: With ``chunks``, the chunk's number; a rank adds its chunks in their order, see :meth:`my_chunks`.

        Raises:
            TypeError: A gradient's dtype is wrong, or it is sparse.
            ValueError: A shape, weight or chunk is wrong.
        """
        name = self._function
        self._expect_ready()
        if self._given:
            raise ValueError(f"{name}: add follows ready, whose gradients step() takes; step() first")
        flat = self._flatten(grads)
        for param, grad in enumerate(flat):
            if isinstance(grad, SparseRows) and not self._shards:
                raise TypeError(
                    f"{name}: the gradient of {self.label(param)} is sparse, which add does not take; use step"
                )
        flat = [self._checked(*both) for both in enumerate(flat)]
        first, end = share(self._leaves, self.rank, self.size)
        if self.chunks is not None:
            expected = first if self._local is None else self._local.next
            at = whole(name, "chunk", chunk, 0, self.chunks)
            if at != expected or at >= end:
                still = f"chunk {expected}" if expected < end else "step()"
                raise ValueError(
                    f"{name}: chunk {at} was added, expected {still}; rank {self.rank} has chunks {first} to {end - 1}"
                )
        elif chunk is not None:
            raise ValueError(f"{name}: chunk is given, but the optimizer was made without chunks")
        its_weight = weight_of(name, weight)
        its_weight = 1.0 if self._sums_only and its_weight else its_weight
        if self._kinds is None:
            self._decide([NONE if grad is None else DENSE for grad in flat])
        for param, grad in enumerate(flat):
            self._expect_kind(param, NONE if grad is None else DENSE)
        for param, grad in enumerate(flat):
            self._present[param] |= grad is not None and its_weight != 0
        flat = [None if grad is None else np.ascontiguousarray(grad).reshape(-1) for grad in flat]
        vectors = []
        for vector in self._vectors:
            whole_vector = np.empty(vector.layout.size, vector.dtype)
            for bucket in vector.layout.buckets:
                part = whole_vector[bucket.first : bucket.first + self.size * bucket.piece]
                fill(bucket, part, flat, its_weight)
            vectors.append(whole_vector)
        if self.chunks is not None:
            self._local = self._local or Partial(first)
            self._local.add(vectors)
        elif self._local is None:
            self._local = Partial(0)
            self._local.nodes = [(nodes_within(first, end, self._leaves)[0], vectors)]
        else:
            for total, one in zip(self._local.nodes[0][1], vectors, strict=True):
                np.add(total, one, out=total)
        if self.chunks is None:
            self._weights = [sum(self._weights) + its_weight]
        else:
            self._weights.append(its_weight)

    @property
    def my_chunks(self) -> range:
        """The numbers of the chunks that this rank adds."""
        return range(*share(self._leaves, self.rank, self.size))

    # Sums come out

    def _summed(self, grads: Any, weight: float) -> tuple[list[Any], float]:
        """Exchanges everything; returns for each parameter its sum of sparse gradients, or whether it has another one, and the
        sum of the weights.
        """
        name = self._function
        if grads is not None:
            self._hand_in(grads, weight)
        if self._local is None:
            missing = [i for i in range(len(self.params)) if i not in self._given]
            if missing:
                raise ValueError(
                    f"{name}: the gradient of {self.label(missing[0])} is missing: step(grads), or ready or add before step(), on "
                    "every rank; None where there is no gradient, and weight=0 where there is no batch"
                )
            if self._kinds is None:
                self._first_step()
            self._send()
        else:
            if self.chunks is not None and self._local.next != self.my_chunks.stop:
                raise ValueError(
                    f"{name}: chunk {self._local.next} is missing; rank {self.rank} has chunks {self.my_chunks.start} to "
                    f"{self.my_chunks.stop - 1}"
                )
            self._send_local()
        exchange = self._exchange
        assert exchange is not None and self._kinds is not None
        weights, kinds = exchange.finish()
        total = 1.0 if self._sums_only else float(sum(weights))
        if not any(weights):
            raise ValueError(f"{name}: the weights of all ranks are 0: there is no batch")
        sparse = {
            param: gather_rows(self._channel, self._given.get(param), self.params[param], self._weights[0])
            for param, kind in enumerate(self._kinds)
            if kind == SPARSE
        }
        return [sparse.get(param, bool(kind)) for param, kind in enumerate(kinds.tolist())], total

    def _hand_in(self, grads: Any, weight: float) -> None:
        """Takes the gradients of all parameters; nothing is sent before all of them were checked."""
        name = self._function
        if self._given or self._local is not None:
            raise ValueError(f"{name}: grads are given, but ready or add has been called; step() without grads")
        flat = self._flatten(grads)
        flat[:] = [self._checked(*both) for both in enumerate(flat)]  # in place: add knows its order
        for param, grad in enumerate(flat):
            if self._kinds is not None:
                self._expect_kind(param, NONE if grad is None else SPARSE if isinstance(grad, SparseRows) else DENSE)
        if self.chunks is not None:
            if self.chunks != self.size:
                raise ValueError(f"{name}: grads are given, but with chunks add takes the gradients of each chunk")
            self.add(flat, weight=weight, chunk=self.rank)
            return
        self._weigh(weight)
        if self._kinds is None:
            self._given = dict(enumerate(flat))
        else:
            for param in reversed(range(len(flat))):
                self.ready(param, flat[param], weight=weight)

    def _forget(self) -> None:
        """Begins the next step."""
        self._given = {}
        self._local = None
        self._present = [False] * len(self.params)
        self._weights = []
        self._weighed = None
        self._exchange = None
        self._buffers = {}
        self._missing = [[len(bucket.segments) for bucket in vector.layout.buckets] for vector in self._vectors]
        if self._kinds is not None:
            self._exchange = Exchange(
                self._channel, self._vectors, self._header, self._leaves, not self._shards, self._sums_only
            )

    @contextlib.contextmanager
    def _taking(self, grad_scale: float) -> Iterator[None]:
        """The block of a step.  After an error that came before anything was sent, the next step begins anew; otherwise no step is
        taken any more.
        """
        self._expect_ready()
        if self._feedback and self._scale not in (None, grad_scale):
            raise ValueError(
                f"{self._function}: grad_scale is {grad_scale}, but was {self._scale} before, and error_feedback needs the same in all "
                "steps"
            )
        try:
            yield
            self._scale = grad_scale
        except BaseException:
            exchange = self._exchange
            if exchange is not None:
                exchange.undo()
                self._broken = exchange.unfinished
            raise
        finally:
            self._forget()

    def _expect_ready(self) -> None:
        if self._broken:
            raise RuntimeError(
                f"{self._function}: an error has stopped an earlier step in the middle of its exchange, so that ranks may differ; "
                "end the job, and go on from its last checkpoint"
            )
        if self._swapped:
            raise ValueError(f"{self._function}: the parameters hold averages; leave using_ema() first")

    def _decide(self, kinds: list[int]) -> None:
        """Fixes, on all ranks alike, which gradients are sparse, and lays out the others."""
        every = np.empty((self.size, len(kinds)), np.uint8)
        self.comm.Allgather(np.array(kinds, np.uint8), every)
        for param in range(len(kinds)):
            seen = set(every[:, param].tolist()) - {NONE}  # the same on all ranks, and so are the errors
            if len(seen) > 1:
                raise ValueError(
                    f"{self._function}: the gradient of {self.label(param)} is sparse on some ranks and dense on others"
                )
            kinds[param] = max(seen, default=DENSE)
        vectors: list[Vector] = []
        where: dict[int, tuple[int, int, int]] = {}
        dense = [i for i, kind in enumerate(kinds) if kind == DENSE]
        for dtype in dict.fromkeys(self.params[i].dtype for i in dense):
            params = [i for i in dense if self.params[i].dtype == dtype]
            computed = np.float64 if dtype == np.float64 else np.float32
            wire = BFLOAT16 if self._wire and computed is np.float32 else np.dtype(computed)
            most = max(int(self._capacity / wire.itemsize), 1)
            layout = Layout(params, [self.params[i].size for i in params], self.size, most)
            for b, bucket in enumerate(layout.buckets):
                for segment in bucket.segments:
                    v, first, _ = where.get(segment.param, (len(vectors), b, b))
                    where[segment.param] = v, first, b
            vectors.append(Vector(layout, computed, wire, self._feedback))
        if not any(vector.layout.buckets for vector in vectors):  # the header needs a bucket
            vectors.append(Vector(Layout([-1], [1], self.size, 1), np.float32, np.float32, False))
            vectors[-1].layout.buckets[0].segments.clear()
        self._kinds, self._vectors, self._where = kinds, vectors, where
        kept = self._given, self._weighed, self._weights
        self._forget()
        self._given, self._weighed, self._weights = kept

    def _first_step(self) -> None:
        given, self._given = self._given, {}
        kinds = [
            NONE if grad is None else SPARSE if isinstance(grad, SparseRows) else DENSE
            for grad in (given[i] for i in range(len(self.params)))
        ]
        self._decide(kinds)
        for param in reversed(range(len(self.params))):
            self.ready(param, given[param], weight=self._weighed if self._weighed is not None else 1.0)

    def _fill(self, v: int, b: int, param: int, grad: Array | None) -> None:
        """Copies the part of a gradient that lies in a bucket, times the weight."""
        bucket = self._vectors[v].layout.buckets[b]
        if (v, b) not in self._buffers:
            self._buffers[v, b] = np.zeros(self.size * bucket.piece, self._vectors[v].dtype)
        if grad is None or self._weights[0] == 0:
            return
        for other, begin, end, at in bucket.segments:
            if other == param:
                part, its = self._buffers[v, b][at : at + end - begin], grad[begin:end]
                weigh(its, self._weights[0], part)

    def _send(self) -> None:
        """Sends the buckets that are full, in their order; the last one when every gradient is there."""
        exchange = self._exchange
        assert exchange is not None
        while (at := exchange.next()) is not None:
            v, b = at
            last = exchange.is_last()
            if self._missing[v][b] or (last and len(self._given) < len(self.params)):
                return
            buffer = self._buffers.pop(at, None)
            if buffer is None:
                buffer = np.zeros(self.size * self._vectors[v].layout.buckets[b].piece, self._vectors[v].dtype)
            header = None
            if last:
                self._weights = self._weights or [1.0]  # there are no parameters
                every = range(len(self.params))
                header = self._weights, [self._kind(self._given[i]) if self._weights[0] else NONE for i in every]
            exchange.start({exchange.own[0]: buffer}, self._weights[0], header)

    def _send_local(self) -> None:
        exchange, local = self._exchange, self._local
        assert exchange is not None and local is not None
        its_weight = min(sum(self._weights), 1.0) if self._sums_only else sum(self._weights)
        nodes: dict[Interval, list[Array]] = dict(local.nodes) if self.chunks is None else local.close(self._leaves)
        while (at := exchange.next()) is not None:
            v, b = at
            bucket = self._vectors[v].layout.buckets[b]
            part = slice(bucket.first, bucket.first + self.size * bucket.piece)
            last = exchange.is_last()
            header = (self._weights, [DENSE if one else NONE for one in self._present]) if last else None
            exchange.start({node: vectors[v][part] for node, vectors in nodes.items()}, its_weight, header)
            exchange.progress()

    # Checks

    def _weigh(self, weight: float) -> None:
        its = weight_of(self._function, weight)
        its = 1.0 if self._sums_only and its else its
        if self._weighed is not None and its != self._weighed:
            raise ValueError(
                f"{self._function}: weight is {weight}, but was {self._weighed} for other gradients of this step"
            )
        self._weighed, self._weights = its, [its]

    def _kind(self, given: Any) -> int:
        if isinstance(given, SparseRows):
            return SPARSE
        return NONE if given is None else int(given[0])

    def label(self, param: int) -> str:
        """The name of parameter number ``param`` in errors."""
        return repr(self.names[param]) if self.names else f"params[{param}]"

    def _checked(self, param: int, given: Any) -> Any:
        """A gradient, if the optimizer by itself would take it; a scalar of NumPy's as an array."""
        name, its = self._function, self.params[param]
        if given is None:
            return None
        given = np.asarray(given) if isinstance(given, np.generic) else given
        sparse, what = isinstance(given, SparseRows), f"{name}: the gradient of {self.label(param)}"
        if sparse and self._shards:
            raise TypeError(f"{what} is sparse, which needs DistributedOptimizer")
        grad = given.values if sparse else given
        if not isinstance(grad, np.ndarray):
            raise TypeError(f"{what} must be a numpy array, got {not_an_array(grad)}")
        if isinstance(grad, np.ma.MaskedArray):
            raise TypeError(f"{what} is a masked array, whose mask would be ignored: pass its .filled(...)")
        allowed = ("float64",) if its.dtype == np.float64 else ("float32", "float16", "bfloat16")
        if name_of(grad.dtype) not in allowed or not grad.dtype.isnative:
            raise TypeError(f"{what} has dtype {grad.dtype}, expected {' or '.join(allowed)}")
        if sparse and (grad.shape[1:] != its.shape[1:] or not its.ndim):
            raise ValueError(f"{what} has rows of shape {grad.shape[1:]}, expected {its.shape[1:]}")
        if not sparse and grad.shape != its.shape:
            raise ValueError(f"{what} has shape {grad.shape}, expected {its.shape}")
        return given

    def _expect_kind(self, param: int, kind: int) -> None:
        assert self._kinds is not None
        if kind not in (NONE, self._kinds[param]):
            was, now = ("sparse", "dense") if kind == DENSE else ("dense (or None)", "sparse")
            raise ValueError(
                f"{self._function}: the gradient of {self.label(param)} is {now}, but was {was} on all ranks in the first step, when "
                "the exchange was laid out; give a SparseRows without rows there"
            )
