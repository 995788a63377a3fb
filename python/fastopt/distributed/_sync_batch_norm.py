"""Batch normalization over the batch of all processes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import functional as F
from .. import nn
from .._check import flag, whole
from .._commit import commit
from ._processes import abort_unhandled, checked, gather_bytes

Array = NDArray[Any]


class SyncBatchNorm(nn.BatchNorm):
    """Batch normalization whose statistics are those of all processes' batches together.

    Each process gives its part of the batch, however large, even one without samples; all of them call the layer alike.
    Statistics, running statistics too, are the same on all ranks, and those of BatchNorm on the whole batch up to rounding.  With
    ``chunk`` they have the same bits on any number of ranks.  In evaluation nothing is exchanged.

    ``grads`` are those of this process's part, which :class:`DistributedOptimizer` adds up like all others.

    Args:
        num_features: The number of channels.
        comm: The communicator: mpi4py's, or anything with its buffer interface.
        eps: As for :class:`fastopt.nn.BatchNorm`; so are the others.
        momentum: The part of the running statistics that a batch replaces; ``None`` for the average of all batches.
        affine: Whether there are a weight and a bias.
        track_running_stats: Whether to keep running statistics for evaluation.
        exchanges: 1: the parts' means and sums of squares, merged exactly; 2: the mean first, then the squares around it.
        local_mean: Whether each rank's loss is the mean over its own samples, and the optimizer weights ranks by them: with
            unequal parts, ``backward`` then counts each rank's gradients as often as its samples.  Without it, gradients are
            those of one common loss.
        chunk: For results that do not depend on the number of ranks: the number of samples whose sums are taken at once.  Every
            rank but the last must have a multiple of it.
        frozen: Whether to use the running statistics in training too.
        channel_axis: The axis of the channels; with ``chunk``, axis 0 is that of the samples.
        dtype: The dtype of the parameters, float32 or float64.

    Raises:
        TypeError: An argument has the wrong type, or ``comm`` is no communicator.
        ValueError: An argument is out of range.

    Example:
        >>> import numpy as np
        >>> from mpi4py import MPI
        >>> from fastopt import distributed
        >>> layer = distributed.SyncBatchNorm(1, MPI.COMM_SELF, dtype=np.float64)
        >>> layer(np.array([[1.0], [3.0]])).round(4).ravel()
        array([-1.,  1.])
        >>> layer.backward(np.ones((2, 1))).round(4).ravel(), layer.grads["bias"]
        (array([0., 0.]), array([2.]))

    References:
        One exchange: Chan, Golub & LeVeque 1983.  Two: Peng et al. 2018, arXiv:1711.07240.
    """

    def __init__(
        self,
        num_features: int,
        comm: Any,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        exchanges: int = 1,
        local_mean: bool = False,
        chunk: int | None = None,
        frozen: bool = False,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        name = "SyncBatchNorm"
        checked(name, comm)
        abort_unhandled(comm)
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            frozen=frozen,
            channel_axis=channel_axis,
            dtype=dtype,
        )
        self.comm = comm
        self.exchanges = whole(name, "exchanges", exchanges, 1, 3)
        self.local_mean = flag(name, "local_mean", local_mean)
        self.chunk = None if chunk is None else whole(name, "chunk", chunk, 1)

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The normalized ``x``, in ``out`` if that is given; all ranks call it with their parts of the batch."""
        if not (flag("SyncBatchNorm", "training", self.training) and not self.frozen) and self.buffers:
            return super().__call__(x, out=out)
        if self._population is not None:
            raise ValueError(
                "SyncBatchNorm: update_bn takes the batches of one process; use a BatchNorm with these parameters"
            )
        self._expect_channels(x, self.num_features)  # before other ranks hear of it
        if (
            (self.chunk is not None or self.local_mean)
            and isinstance(x, np.ndarray)
            and self.channel_axis % x.ndim == 0
        ):
            raise ValueError("SyncBatchNorm: chunk and local_mean need the samples on axis 0, where x has its channels")
        parts = self._pieces(x)
        stats = F.combine_stats(
            self._gathered(
                [F.batch_norm_stats(x[a:b] if self.chunk else x, channel_axis=self.channel_axis) for a, b in parts]
            )
        )
        if self.exchanges == 2:
            around = [
                F.batch_norm_stats(x[a:b] if self.chunk else x, stats[1], channel_axis=self.channel_axis)
                for a, b in parts
            ]
            stats = F.combine_stats(self._gathered(around))
        tracked = self._statistics()
        count = tracked[2] if tracked else None
        mean_to, var_to = (np.copy(tracked[0]), np.copy(tracked[1])) if tracked else (None, None)
        weight, bias = self._learned
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 if count is None else 1 / (count.item() + 1)
        y, mean, rstd = F.batch_norm_apply(
            x,
            stats,
            mean_to,
            var_to,
            weight,
            bias,
            momentum,
            self.eps,
            channel_axis=self.channel_axis,
            out=None if out is None else (out, None, None),
        )
        if count is not None and stats[0]:
            commit(tracked, (mean_to, var_to, count + 1))
        self._kept = x, stats[0], mean, rstd
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """Fills ``grads``, and computes the gradient of the input; all ranks call it if they called the layer in training.

        Args:
            dy: The gradient with respect to the output of this rank's part.
            out: An array for the result, ``None`` for a new one.

        Returns:
            The gradient with respect to this rank's input.
        """
        kept = self._last()
        if isinstance(kept[1], bool):  # of BatchNorm's own pass
            return super().backward(dy, out=out)
        x, count, mean, rstd = kept
        own = [
            F.batch_norm_backward_stats(
                dy[a:b] if self.chunk else dy, x[a:b] if self.chunk else x, mean, rstd, channel_axis=self.channel_axis
            )
            for a, b in self._pieces(x)
        ]
        samples = float(len(x)) if self.local_mean else 1.0
        sums = np.zeros((2, self.num_features))
        for part in self._rows([np.stack(one) * samples for one in own], (2, self.num_features)):
            sums += part
        weighted = sums / samples if samples else sums
        dx = F.batch_norm_backward_apply(
            dy,
            x,
            mean,
            rstd,
            count,
            weighted[0],
            weighted[1],
            self.params.get("weight"),
            channel_axis=self.channel_axis,
            out=out,
        )
        local = np.zeros((2, self.num_features))
        for one in own:
            local += np.stack(one)
        for key, gradient in (("bias", local[0]), ("weight", local[1])):
            if key in self.params:
                self.grads[key][...] = gradient
        return dx

    def __getstate__(self) -> dict[str, Any]:
        """All attributes but the communicator, which no file can keep: set ``layer.comm`` after unpickling."""
        return {**super().__getstate__(), "comm": None}

    def __copy__(self) -> SyncBatchNorm:
        """A copy with the same communicator."""
        new = type(self).__new__(type(self))
        vars(new).update(self.__getstate__(), comm=self.comm)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm:
        """A copy with the same communicator."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        vars(new).update(copy.deepcopy(self.__getstate__(), memo), comm=self.comm)
        return new

    def _pieces(self, x: Any) -> list[tuple[int, int]]:
        """Where the parts of this rank's samples begin and end, whose sums are exchanged."""
        if self.chunk is None:
            return [(0, 0)]
        count = len(x)
        rank, size = checked("SyncBatchNorm", self.comm)
        if rank < size - 1 and count % self.chunk:
            raise ValueError(
                f"SyncBatchNorm: x has {count} samples on rank {rank}, expected a multiple of chunk, {self.chunk}; only the last "
                "rank may have a rest"
            )
        cuts = [*range(0, count, self.chunk), count] if count else []
        return list(pairwise(cuts))

    def _gathered(self, stats: Sequence[tuple[int, Array, Array]]) -> list[tuple[int, Array, Array]]:
        """The statistics of all ranks' parts, in their order."""
        rows = [np.concatenate([[float(n)], mean, m2]) for n, mean, m2 in stats]
        c = self.num_features
        every = self._rows(rows, (1 + 2 * c,))
        return [(int(row[0]), row[1 : 1 + c].copy(), row[1 + c :].copy()) for row in every] or [
            (0, np.zeros(c), np.zeros(c))
        ]

    def _rows(self, own: list[Array], shape: tuple[int, ...]) -> Any:
        """One row of numbers for each part, from all ranks."""
        if self.chunk is None:
            every = np.empty((checked("SyncBatchNorm", self.comm)[1], *shape))
            self.comm.Allgather(np.ascontiguousarray(own[0]), every)
            return every
        given = np.ascontiguousarray(own, np.float64) if own else np.zeros((0, *shape))
        parts = gather_bytes(self.comm, given.tobytes())
        return np.frombuffer(b"".join(parts), np.float64).reshape(-1, *shape)
