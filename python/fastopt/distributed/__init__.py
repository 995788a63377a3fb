"""A loop over several processes, with MPI.

The loop stays the same: each process has the whole model and its part of each batch, and :class:`DistributedOptimizer` takes the
step with the mean of all gradients.  :class:`ShardedOptimizer` keeps a part of the optimizer's state in each process.
``pip install "fastopt[mpi]"`` brings mpi4py; a communicator is anything with its buffer interface.
"""

from ._checkpoint import read_checkpoint
from ._optimizer import DistributedOptimizer
from ._processes import abort_on_error, mean, share_cores
from ._sampler import Sampler
from ._sharded import ShardedOptimizer
from ._sync_batch_norm import SyncBatchNorm

__all__ = [
    "DistributedOptimizer",
    "Sampler",
    "ShardedOptimizer",
    "SyncBatchNorm",
    "abort_on_error",
    "mean",
    "read_checkpoint",
    "share_cores",
]
