"""An optimizer whose state is spread over processes (ZeRO)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import optim
from .._check import flag, number, type_of
from .._core import kernels
from .._words import spoken
from ..optim.parameters import Group, Ordered, flatten, structured
from . import _checkpoint
from ._base import Exchanged, Options
from ._exchange import DENSE
from ._layout import Segment
from ._processes import expect_same, gather_bytes, text_of, together

Array = NDArray[Any]


class ShardedOptimizer(Exchanged):
    """Data parallelism with each optimizer's state in one process only: ZeRO, stages 1 and 2.

    .. code-block:: text

        gradients      reduce-scatter: each rank gets the mean of its shard
        step           each rank updates its shard of the weights, with its shard of the state
        parameters     all-gather

    It sends as many bytes as :class:`DistributedOptimizer`, and each rank keeps 1/ranks of the state: moments in any format,
    master weights and averages, beside the weights themselves.  Averaged gradients (stage 2) exist in shards only, and buffers of
    the size of a bucket.  A shard is a contiguous part of each bucket, whatever parameters lie there, so that shards are equal.

    The results are those of :class:`DistributedOptimizer`, to the last bit unless the norm is clipped or ``wire`` rounds: sums are
    not rounded for the way back here.  Only numbers that are
    drawn at random, for noise and for rounding 8-bit moments and 16-bit weights, are other ones: each rank has its own.  Rules
    that need whole parameters (Adafactor, LAMB, LARS, Muon) cannot be sharded; nor can sparse gradients.

    Args:
        rule: A class of ``fastopt.optim``, such as ``fo.optim.AdamW``.
        params: As for that class; groups too.
        comm: The communicator: mpi4py's, or anything with its buffer interface.
        chunks: As for :class:`DistributedOptimizer`; so are the next five.
        wire: ``"bfloat16"`` or ``None``.
        error_feedback: Whether what rounding has lost is sent later.
        reduction: ``"mean"`` or ``"sum"``.
        bucket_mib: The size of a bucket in MiB.
        broadcast: Whether all ranks begin with rank 0's weights.
        hyperparameters: The rule's own, ``lr=…``.

    Attributes:
        optimizer: The optimizer of this rank's shards, one-dimensional views of the parameters: for schedules, which set its
            groups' hyperparameters.

    Raises:
        TypeError: An argument has the wrong type, or the rule cannot be sharded.
        ValueError: An argument is out of range, or ranks differ; the error names the first difference, on all ranks.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> from mpi4py import MPI
        >>> from fastopt import distributed
        >>> w = np.ones(2)
        >>> zero = distributed.ShardedOptimizer(fo.optim.SGD, [w], MPI.COMM_SELF, lr=0.5, momentum=0.9)
        >>> zero.step([np.array([1.0, 0.0])]).step
        1
        >>> w, zero.state_bytes
        (array([0.5, 1. ]), 24)

    References:
        Rajbhandari et al. 2020, arXiv:1910.02054.
    """

    def __init__(
        self,
        rule: type[optim.Optimizer],
        params: Any,
        comm: Any,
        *,
        chunks: int | None = None,
        wire: str | None = None,
        error_feedback: bool = False,
        reduction: str = "mean",
        bucket_mib: float = 50.0,
        broadcast: bool = True,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(comm)
        name = self._function

        def checks() -> list[tuple[str, Any]]:
            if not isinstance(rule, type) or not issubclass(rule, optim.Optimizer):
                raise TypeError(f"{name}: rule must be a class of fastopt.optim, got {type_of(rule)}")
            if not rule.elementwise:
                raise TypeError(
                    f"{name}: {rule.__name__} needs whole parameters and cannot be sharded; use DistributedOptimizer"
                )
            self._groups, self._grouped = groups_of(name, params)
            self._flatten = self._flat
            own = [{key: value for key, value in one.group.items() if key != "params"} for one in self._groups]
            return self._set_up(
                [_named(one) for one in self._groups],
                [("the rule", rule.__name__), *text_of([{**hyperparameters, **group} for group in own])],
                Options(chunks, wire, error_feedback, reduction, bucket_mib, broadcast),
                shards=True,
            )

        expect_same(name, comm, together(name, comm, checks))
        self._begin()
        self._decide([DENSE] * len(self.params))
        self.of_group = [i for i, one in enumerate(self._groups) for _ in one.structure.leaves]
        self._own = [vector.layout.shard(self.rank) for vector in self._vectors]
        places = [
            (segment, (v, b))
            for v, buckets in enumerate(self._own)
            for b, segments in enumerate(buckets)
            for segment in segments
        ]
        places.sort(key=lambda one: (self.of_group[one[0].param], *one[0][:2]))
        self.slices, self._places = [one[0] for one in places], [one[1] for one in places]
        views: list[list[Array]] = [[] for _ in self._groups]
        for param, begin, end, _ in self.slices:
            views[self.of_group[param]].append(self.params[param].reshape(-1)[begin:end])
        shards = [{**one.group, "params": some} for one, some in zip(self._groups, views, strict=True)]
        self.optimizer = together(name, comm, lambda: rule(shards, **hyperparameters))
        self._own_seeds()

    def _steps(self) -> int:
        return int(self.optimizer.state_dict(copy=False)["fastopt"]["step"])

    def _flat(self, grads: Any) -> list[Any]:
        return Ordered(flatten(self._function, grads, self._groups, self._grouped))

    def _own_seeds(self) -> None:
        """Gives each rank random numbers of its own, for rounding and noise."""
        for group in self.optimizer.param_groups:
            group["seed"] = (group["seed"] + self.rank * 0x9E3779B97F4A7) % (1 << 53)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of this rank's shards, with their hyperparameters; change these on all ranks alike."""
        return self.optimizer.param_groups

    @property
    def state_bytes(self) -> int:
        """The size of this rank's state in bytes."""
        return sum(array.nbytes for state in self.optimizer.state for array in state.values())

    @spoken
    def step(
        self,
        grads: Any = None,
        *,
        weight: float = 1.0,
        grad_scale: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        skip_nonfinite: bool = False,
    ) -> optim.StepInfo:
        """Averages the gradients over all ranks, updates the shards, and gathers the parameters.

        Args:
            grads: As for :meth:`DistributedOptimizer.step`, without sparse ones.
            weight: The weight of this rank's batch.
            grad_scale: The factor by which the losses were multiplied.
            clip_norm: Largest norm of all gradients together, over all ranks.
            clip_value: Largest absolute value of an element.
            skip_nonfinite: Take no step, on no rank, where the mean of a gradient has an infinity or NaN.

        Returns:
            The outcome of the step; the norm is that of all shards.

        Raises:
            TypeError: A gradient has a wrong type or dtype.
            ValueError: A gradient's shape is wrong, gradients are missing, the weights are all 0, or an option is out of range.
        """
        name = self._function
        scale = number(name, "grad_scale", grad_scale, 0, above=True)
        most = None if clip_norm is None else number(name, "clip_norm", clip_norm, 0, infinite=True)
        skip = flag(name, "skip_nonfinite", skip_nonfinite)
        if clip_norm is not None and clip_value is not None:
            raise ValueError(f"{name}: clip_norm and clip_value exclude each other")
        with self._taking(scale):
            present, total = self._summed(grads, weight)
            exchange = self._exchange
            assert exchange is not None
            scale *= total
            means: list[Array | None] = [
                exchange.pieces[place][at : at + end - begin] if present[param] else None
                for (param, begin, end, at), place in zip(self.slices, self._places, strict=True)
            ]
            norm = None
            if most is not None or skip:
                norm = self._norm([one for one in means if one is not None]) / scale
                if skip and not math.isfinite(norm):
                    exchange.undo()
                    return optim.StepInfo(self._steps(), norm, True)
                if most is not None and most < math.inf:
                    factor = min(1.0, most / (norm + 1e-6)) if norm == norm else norm
                    if factor > 0 and math.isfinite(scale / factor):
                        scale /= factor
                    else:  # 0 or NaN, which is a multiple that no grad_scale gives
                        for one in means:
                            if one is not None:
                                with np.errstate(all="ignore"):
                                    one *= one.dtype.type(factor)
            info = self.optimizer.step(means, grad_scale=scale, clip_value=clip_value)
            self.gather()
        return info._replace(grad_norm=norm)

    def eval(self) -> None:
        """For rules without a schedule: puts the averaged weights, on all ranks whole, into the parameters.

        Raises:
            ValueError: The rule has no averages of this kind, or the parameters hold averages of another kind.
        """
        self._switch("eval")

    def train(self) -> None:
        """Undoes :meth:`eval`."""
        self._switch("train")

    def _switch(self, mode: str) -> None:
        name, of_rule = self._function, getattr(self.optimizer, mode, None)
        if self._swapped:
            raise ValueError(f"{name}: {mode}() cannot be used inside using_ema()")
        if of_rule is None:
            raise ValueError(
                f"{name}: {type(self.optimizer).__name__} has no {mode}(), as only rules without a schedule have"
            )
        together(name, self.comm, of_rule)
        self.gather()

    @contextlib.contextmanager
    def using_ema(self) -> Iterator[None]:
        """In this block the parameters are the moving averages, on all ranks whole; see ``Optimizer.using_ema``.

        All ranks enter it together.  Each keeps a copy of the weights meanwhile, and leaves the block alone, with an error too.

        Raises:
            ValueError: There are no averages, or the parameters hold averages already.
        """
        if self._swapped:
            raise ValueError(f"{self._function}: the parameters hold averages already; leave using_ema() first")
        with contextlib.ExitStack() as block:
            # Views stay writable if a parameter is made read-only meanwhile.
            block.callback(self._put_back, [(param.view(), param.copy()) for param in self.params])
            own, some = together(self._function, self.comm, self._averaged)
            if not any(gather_bytes(self.comm, b"1" if own or some else b"")):
                raise self.optimizer._no_averages()

            def enter() -> None:
                if own:
                    block.enter_context(self.optimizer.using_ema())

            together(self._function, self.comm, enter)
            self._swapped = True
            self.gather()
            yield

    def _averaged(self) -> tuple[bool, bool]:
        """Whether a slice of this rank has an average; whether some parameter has one by its group's hyperparameters, on any rank."""
        opt = self.optimizer
        for i, param in enumerate(self.params):
            if not param.flags.writeable:
                raise TypeError(f"{self._function}: {self.label(i)} is read-only, but would be written")
        with opt._turn:
            if not opt._swapped:  # otherwise using_ema raises the error
                opt._settle()
            wanted = (rule.average and one.structure.leaves for rule, one in zip(opt._rules, self._groups, strict=True))
            return opt._has_averages(), any(wanted)

    def _put_back(self, weights: list[tuple[Array, Array]]) -> None:
        if self._swapped:
            for param, its in weights:
                param[...] = its
        self._swapped = False

    def save(self, folder: str | PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
        """Writes weights and state into a folder: every rank its part, at the same time.

        A job that is killed meanwhile leaves the checkpoint that was there.  :meth:`load` takes it on any number of ranks, and
        :func:`read_checkpoint` without processes.  What error feedback holds back is dropped, so that this run and one that loads
        go on alike.

        Args:
            folder: Where; it is made if there is none.  All ranks must see it.
            extra: Values that JSON has, such as the position in the data; rank 0's are kept.

        Raises:
            TypeError: ``extra`` contains a value that JSON does not have.
            OSError: A rank could not write.  The error is raised on all ranks, and the old checkpoint stays.
        """
        self._expect_between_steps("save")
        _checkpoint.save(self, folder, extra)
        for vector in self._vectors:
            vector.forget_lost()

    def load(self, folder: str | PathLike[str]) -> dict[str, Any]:
        """Continues from a checkpoint of any number of ranks.

        Args:
            folder: Where ``save`` wrote.

        Returns:
            What was given to ``save`` as ``extra``.

        Raises:
            ValueError: There is no whole checkpoint, or it is one of other parameters or of another rule.  Nothing has been
                changed then.
            OSError: It cannot be read.
        """
        self._expect_ready()
        self._expect_between_steps("load")
        extra = _checkpoint.load(self, folder)
        self._own_seeds()
        for vector in self._vectors:
            vector.forget_lost()
        return extra

    def _expect_between_steps(self, what: str) -> None:
        if self._given or self._local is not None:
            raise ValueError(
                f"{self._function}: {what} follows ready or add, whose gradients step() takes; step() first"
            )

    def _norm(self, means: list[Array]) -> float:
        """The norm of the gradients of all ranks."""
        norms = [_norm_of(one) for one in means]
        of_all = math.nan if any(norm != norm for norm in norms) else math.hypot(*norms)  # hypot(inf, nan) is inf
        own = np.array([of_all], np.float64)
        every = np.empty(self.size, np.float64)
        self.comm.Allgather(own, every)
        self._channel.collectives += 1
        largest = float(np.max(np.abs(every), initial=0.0))
        if not (0 < largest < math.inf):
            return float(np.sum(every))  # 0, infinite or NaN
        return largest * math.sqrt(float(sum((every / largest) ** 2)))

    def gather(self) -> None:
        """Gathers all ranks' shards of the parameters, bucket by bucket; ``step`` does, and it is needed after a change of shards only."""
        flat = [param.reshape(-1) for param in self.params]
        waiting: Any = None
        for vector, shards in zip(self._vectors, self._own, strict=True):
            for bucket, own in zip(vector.layout.buckets, shards, strict=True):
                if not bucket.segments:
                    continue
                dtype = flat[bucket.segments[0].param].dtype
                piece, whole = np.zeros(bucket.piece, dtype), np.empty(self.size * bucket.piece, dtype)
                for param, begin, end, at in own:
                    piece[at : at + end - begin] = flat[param][begin:end]
                request = self._channel.gather(piece.view(np.uint8), whole.view(np.uint8))
                if waiting is not None:
                    _unpack(flat, *waiting)
                waiting = request, piece, whole, bucket.segments
        if waiting is not None:
            _unpack(flat, *waiting)


def _norm_of(x: Array) -> float:
    """The norm of a vector, also where squares are beyond float64."""
    with np.errstate(all="ignore"):
        square = float(np.einsum("i,i", x, x, dtype=np.float64))
        if square < math.inf:
            return math.sqrt(square)
        largest = float(abs(x).max())
        return largest * math.sqrt(float(((x / largest) ** 2).sum())) if largest < math.inf else largest


def _named(one: Group) -> dict[str, Any]:
    names = {"param_names": one.structure.names} if one.structure.names else {}
    return {"params": one.structure.leaves, **names}


def _unpack(flat: list[Array], request: Any, _: Array, whole: Array, segments: list[Segment]) -> None:
    request.Wait()
    for param, begin, end, at in segments:
        flat[param][begin:end] = whole[at : at + end - begin]


def groups_of(function: str, params: Any) -> tuple[list[Group], bool]:
    """The groups as an optimizer has them, and whether they were given as groups; checks what views of parameters need."""
    if not isinstance(params, Iterable) or isinstance(params, str | bytes):
        raise TypeError(f"{function}: params must be a list, a dict or groups of arrays, got {type_of(params)}")
    one = isinstance(params, Mapping | np.ndarray)
    given: list[Any] = [params] if one else list(params)
    grouped = bool(given) and all(isinstance(group, Mapping) and "params" in group for group in given)
    groups: list[Group] = []
    labels: list[str] = []
    for group in given if grouped else [{"params": params if one else given}]:
        structure = structured(function, group["params"])
        for label, param in zip(structure.labels(0), structure.leaves, strict=True):
            if not isinstance(param, np.ndarray):
                raise TypeError(f"{function}: params{label} must be a numpy array, got {type_of(param)}")
            if not param.flags.c_contiguous or not param.flags.writeable:
                raise TypeError(
                    f"{function}: params{label} must be C-contiguous and writable, as it is updated in place"
                )
        labels += structure.labels(len(labels))
        groups.append(Group(dict(group), structure))
    leaves = [param for one in groups for param in one.structure.leaves]
    kernels.expect_disjoint(function, leaves, labels)  # the rule of a rank sees its own slices only
    return groups, grouped
