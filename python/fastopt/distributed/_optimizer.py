"""An optimizer whose gradients are averaged over processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import optim
from .._check import type_of
from .._words import spoken
from ..optim.parameters import Ordered
from ..optim.plan import step_options
from ._base import Exchanged, Options
from ._processes import digest_of, expect_same, text_of, together


class DistributedOptimizer(Exchanged):
    """Data parallelism: an optimizer that takes the mean of all processes' gradients.

    .. code-block:: text

        g = Σ wᵣ·gᵣ / Σ wᵣ      over the ranks r, with the weight wᵣ of each rank's batch

    Every process has the whole model and a part of each batch.  ``step`` adds the gradients up in buckets, last layer first, and
    then takes the optimizer's step, so that all processes keep the same weights to the last bit.  The sums are added in a fixed
    order: they depend neither on the order of messages nor on MPI's algorithms.  With ``chunks`` they do not depend on the number
    of processes either: see ``add``.

    Clipping, schedules, formats and all else are the optimizer's own; give schedules the optimizer itself.

    Args:
        opt: The optimizer, an instance of one of ``fastopt.optim``'s classes.
        comm: The communicator: mpi4py's, or anything with its buffer interface.
        chunks: For results that do not depend on the number of ranks: the number of chunks into which every batch is cut, at
            least as many as there are ranks.
        wire: ``"bfloat16"`` sends float32 gradients with 16 bits (they are added in float32, and rounded twice);
            ``None`` sends them as they are.
        error_feedback: With ``wire``, what rounding has lost is added to the next step's gradients.  Sums are then gathered after
            the backward pass only.
        reduction: ``"mean"``; or ``"sum"`` without weights, for gradients of one common loss.
        bucket_mib: The size of a bucket in MiB.  Two collective operations are needed for each.
        broadcast: Whether all ranks begin with rank 0's weights.

    Raises:
        TypeError: An argument has the wrong type, or ``comm`` is no communicator.
        ValueError: An argument is out of range, or the ranks' optimizers differ in parameters or hyperparameters; the error
            names the first difference, on all ranks.  State counts too: load a checkpoint on all of them.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> from mpi4py import MPI
        >>> from fastopt import distributed
        >>> w = np.ones(2)
        >>> dist = distributed.DistributedOptimizer(fo.optim.SGD([w], lr=0.5), MPI.COMM_SELF)
        >>> dist.step([np.array([1.0, 0.0])], weight=32).step
        1
        >>> w
        array([0.5, 1. ])

    References:
        Buckets and overlap: Li et al. 2020, arXiv:2006.15704.  Error feedback: Seide et al. 2014; Karimireddy et al. 2019,
        arXiv:1901.09847.  Reduce-scatter and all-gather: Rabenseifner 2004; Thakur, Rabenseifner & Gropp 2005.
    """

    def __init__(
        self,
        opt: optim.Optimizer,
        comm: Any,
        *,
        chunks: int | None = None,
        wire: str | None = None,
        error_feedback: bool = False,
        reduction: str = "mean",
        bucket_mib: float = 50.0,
        broadcast: bool = True,
    ) -> None:
        super().__init__(comm)

        def checks() -> list[tuple[str, Any]]:
            if not isinstance(opt, optim.Optimizer):
                raise TypeError(f"DistributedOptimizer: opt must be an optimizer of fastopt.optim, got {type_of(opt)}")
            self.optimizer, self._flatten = opt, opt.flatten
            facts = self._set_up(
                opt.param_groups,
                [("the optimizer", type(opt).__name__), *text_of(opt.param_groups)],
                Options(chunks, wire, error_feedback, reduction, bucket_mib, broadcast),
                shards=False,
            )
            states = [digest_of(record, opt._as_param()) for record in opt._records]
            return [*facts, *((f"the state of {self.label(i)}", text) for i, text in enumerate(states))]

        expect_same(self._function, comm, together(self._function, comm, checks))
        self._begin()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, so that schedules take this object too; change them on all ranks alike."""
        return self.optimizer.param_groups

    @spoken
    def step(
        self,
        grads: Any = None,
        *,
        weight: float = 1.0,
        grad_scale: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clip_param_norm: float | None = None,
        clip_adaptive: float | None = None,
        skip_nonfinite: bool = False,
    ) -> optim.StepInfo:
        """Averages the gradients over all ranks, and takes one step.

        Args:
            grads: As for the optimizer's ``step``; leave them out after ``ready`` or ``add``.  A rank whose gradient is ``None``
                counts as one with zeros, unless it is ``None`` on all ranks.  :class:`fastopt.SparseRows` are gathered.
            weight: The weight of this rank's batch, such as its number of examples; 0 for an empty one.  With
                ``reduction="sum"`` all weights but 0 count as 1.
            grad_scale: As for the optimizer's ``step``; so are the others.  They see the averaged gradients, so that all ranks
                clip alike and skip the same steps.
            clip_norm: Largest norm of all gradients together.
            clip_value: Largest absolute value of an element.
            clip_param_norm: Largest norm of each gradient.
            clip_adaptive: Largest norm of each unit of a gradient, relative to that of its weights.
            skip_nonfinite: Take no step where the mean of a gradient has an infinity or NaN.

        Returns:
            The outcome of the step.

        Raises:
            TypeError: A gradient has a wrong type or dtype.
            ValueError: A gradient's shape is wrong, gradients are missing, the weights are all 0, or an option is out of range.
        """
        every = [param for group in self.optimizer.param_groups for param in group["params"]]
        if len(every) != len(self.params) or any(a is not b for a, b in zip(every, self.params, strict=True)):
            raise ValueError(
                f"{self._function}: the optimizer has other parameters than when this was made; make a new DistributedOptimizer"
            )
        step_options(
            self._function, grad_scale, clip_norm, clip_value, clip_param_norm, clip_adaptive, skip_nonfinite, False
        )
        with self._taking(grad_scale):
            present, total = self._summed(grads, weight)
            exchange = self._exchange
            assert exchange is not None
            means = Ordered()
            for param, its in enumerate(present):
                like = self.params[param]
                if its is not True:
                    means.append(its or None)
                elif not like.size:
                    means.append(np.zeros_like(like))
                else:
                    v = self._where[param][0]
                    at = self._vectors[v].layout.at[param]
                    means.append(exchange.sums[v][at : at + like.size].reshape(like.shape))
            info = self.optimizer.step(
                means,
                grad_scale=grad_scale * total,
                clip_norm=clip_norm,
                clip_value=clip_value,
                clip_param_norm=clip_param_norm,
                clip_adaptive=clip_adaptive,
                skip_nonfinite=skip_nonfinite,
            )
            if info.skipped:
                exchange.undo()
        return info
