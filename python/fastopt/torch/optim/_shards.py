"""Parameters that are distributed over processes: DTensors, as FSDP2 makes them.  Each process steps its own part of them."""

from __future__ import annotations

from typing import Any

import torch

# Options of a step, and hyperparameters, that need all of a gradient.
OF_WHOLE_GRADIENTS = ("clip_norm", "clip_param_norm", "clip_adaptive", "skip_nonfinite")


def is_sharded(tensor: torch.Tensor) -> bool:
    # torch.distributed.tensor takes long to import, and without it there are none.
    return type(tensor).__name__ == "DTensor"


def memory_of(tensor: torch.Tensor) -> Any:
    """The part of a tensor that this process has: for a usual tensor, itself."""
    return getattr(tensor, "_local_tensor", tensor) if is_sharded(tensor) else tensor


def sharded_as(param: Any, local: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor, as one that is distributed as the parameter is."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local, param.device_mesh, param.placements, run_check=False, shape=param.shape, stride=param.stride()
    )
