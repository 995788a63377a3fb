"""One of two processes that train together over gloo: python torch_processes.py PORT RANK FOLDER SCENARIO."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import fastopt.torch.optim as ours

STEPS = 4
BATCH = 8


def model_of() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(7, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()


def train(model: Any, opt: Any, steps: range, part: slice = slice(None), clip: bool = False) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randn(BATCH, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(step))[part]
        opt.zero_grad()
        loss = model(x).square().sum(1).mean()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        opt.step()
        losses.append(loss.item())
    return losses


def alone(steps: int, clip: bool = False, **kwargs: Any) -> tuple[Any, Any, list[float]]:
    """A run of one process on whole batches."""
    model = model_of()
    opt = ours.AdamW(model.parameters(), lr=0.1, **kwargs)
    return model, opt, train(model, opt, range(steps), clip=clip)


def my_part() -> slice:
    size = BATCH // dist.get_world_size()
    return slice(size * dist.get_rank(), size * (dist.get_rank() + 1))


def averaged(losses: list[float]) -> list[float]:
    tensor = torch.tensor(losses, dtype=torch.float64)
    dist.all_reduce(tensor)
    return [one / dist.get_world_size() for one in tensor.tolist()]


def expect_close(found: list[float], expected: list[float]) -> None:
    assert (
        len(found) == len(expected) == len([a for a, b in zip(found, expected, strict=True) if abs(a - b) < 1e-11])
    ), (
        found,
        expected,
    )


def ddp(folder: Path) -> None:
    """DistributedDataParallel: the losses of one process; what process 0 saved, process 1 continues with, and so does torch."""
    model = DistributedDataParallel(model_of())
    opt = ours.AdamW(model.parameters(), lr=0.1)
    expect_close(averaged(train(model, opt, range(STEPS), my_part())), alone(STEPS)[2])
    if dist.get_rank() == 0:
        torch.save({"model": model.module.state_dict(), "opt": opt.state_dict()}, folder / "run.pt")
    dist.barrier()
    saved = torch.load(folder / "run.pt", weights_only=True)
    for cls in (ours.AdamW, torch.optim.AdamW):
        other = model_of()
        other.load_state_dict(saved["model"])
        resumed = cls(other.parameters(), lr=0.5)
        resumed.load_state_dict(copy.deepcopy(saved["opt"]))
        expect_close(train(other, resumed, range(STEPS, STEPS + 2)), alone(STEPS + 2)[2][STEPS:])


def zero(folder: Path) -> None:
    """ZeroRedundancyOptimizer: each process has the state of its own parameters only."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DistributedDataParallel(model_of())
    opt = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=ours.AdamW, lr=0.1)
    expect_close(averaged(train(model, opt, range(STEPS), my_part())), alone(STEPS)[2])
    assert 0 < len(opt.optim.state) < len(list(model.parameters()))
    opt.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        other = model_of()
        other.load_state_dict(model.module.state_dict())
        resumed = ours.AdamW(other.parameters(), lr=0.5)
        resumed.load_state_dict(opt.state_dict())
        expect_close(train(other, resumed, range(STEPS, STEPS + 2)), alone(STEPS + 2)[2][STEPS:])


def fsdp(folder: Path) -> None:
    """FSDP2: parameters, gradients and states are distributed."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = model_of()
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    opt = ours.AdamW(model.parameters(), lr=0.1)
    whole, _, losses = alone(STEPS, clip=True)
    expect_close(averaged(train(model, opt, range(STEPS), my_part(), clip=True)), losses)
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        assert (p.full_tensor() - q).abs().max() < 1e-11
        assert isinstance(opt.state[p]["exp_avg"], DTensor)
        assert opt.state[p]["exp_avg"].shape == q.shape
    again = ours.AdamW(model.parameters(), lr=0.1)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    expect_close(
        averaged(train(model, again, range(STEPS, STEPS + 2), my_part(), True)), alone(STEPS + 2, clip=True)[2][STEPS:]
    )
    with pytest.raises(ValueError, match="clip with"):
        opt.step(clip_norm=1.0)
    with pytest.raises(TypeError, match="distributed"):
        ours.LAMB(model.parameters())


SCENARIOS: dict[str, Callable[[Path], None]] = {"ddp": ddp, "fsdp": fsdp, "zero": zero}

if __name__ == "__main__":
    port, rank, folder, scenario = sys.argv[1:]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=int(rank), world_size=2)
    SCENARIOS[scenario](Path(folder))
    dist.destroy_process_group()
