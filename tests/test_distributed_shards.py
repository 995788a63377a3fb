"""Optimizers whose state is spread over processes, and their checkpoints."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from distributed_cases import CHUNKS, OWN, RANKS, SHAPES, STEPS, Array, gradients, mean_of, same, trained, weights
from threads_comm import Comm, run

from fastopt import distributed, optim

# Sharded state


@pytest.mark.parametrize(
    "rule",
    [
        name
        for name in optim.__all__
        if inspect.isclass(one := getattr(optim, name))
        and issubclass(one, optim.Optimizer)
        and one is not optim.Optimizer
    ],
)
def test_shards_step_as_the_whole(rule: str) -> None:
    """All rules whose steps are elementwise have the bits of DistributedOptimizer; the others are refused."""
    kind, own = getattr(optim, rule), {"lr": 0.01, **OWN.get(rule, {})}

    def whole(params: list[Array], comm: Comm) -> Any:
        return distributed.DistributedOptimizer(kind(params, **own), comm, chunks=CHUNKS)

    def sharded(params: list[Array], comm: Comm) -> Any:
        return distributed.ShardedOptimizer(kind, params, comm, chunks=CHUNKS, bucket_mib=0.002, **own)

    if not kind.elementwise:
        with pytest.raises(TypeError, match=f"{rule} needs whole parameters and cannot be sharded"):
            trained(2, sharded)
        return
    expected = trained(1, whole)[0][0]
    for ranks in (1, 3):
        for params, _, _ in trained(ranks, sharded):
            assert same(params, expected)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"clip_value": 0.01}])
@RANKS
def test_state_is_shared_evenly(ranks: int, options: dict[str, float]) -> None:
    def make(params: list[Array], comm: Comm) -> Any:
        return distributed.ShardedOptimizer(optim.AdamW, params, comm, chunks=CHUNKS, lr=0.1)

    def whole(params: list[Array], comm: Comm) -> Any:
        return distributed.DistributedOptimizer(optim.AdamW(params, lr=0.1), comm, chunks=CHUNKS)

    expected, _, its_info = trained(1, whole, **options)[0]
    total = sum(2 * 4 * int(np.prod(shape)) for shape in SHAPES)
    for params, dist, info in trained(ranks, make, **options):
        assert same(params, expected)
        assert info.grad_norm == pytest.approx(its_info.grad_norm) if its_info.grad_norm else info.grad_norm is None
        assert dist.state_bytes <= total / ranks + 2 * 4 * 64 * len(SHAPES) + 8 * len(SHAPES)


def test_checkpoints_go_on_with_any_number_of_ranks(tmp_path: Path) -> None:
    def make(params: list[Array], comm: Comm, mib: float) -> Any:
        options = {"lr": 0.1, "ema_decay": 0.9, "moments": "bfloat16", "moment_rounding": "nearest"}
        return distributed.ShardedOptimizer(optim.AdamW, params, comm, chunks=CHUNKS, bucket_mib=mib, **options)

    def program(comm: Comm, begin: int, end: int, mib: float = 0.002, save: bool = False, load: bool = False) -> Any:
        params = weights()
        if load:
            for param in params:
                param[...] = 0
        dist = make(params, comm, mib)
        extra = dist.load(tmp_path) if load else None
        for step in range(begin, end):
            for chunk in dist.my_chunks:
                dist.add(gradients(step, chunk), chunk=chunk)
            info = dist.step()
        if save:
            dist.save(tmp_path, {"next": end})
        return params, extra, info, [average.copy() for average in dist.optimizer.ema_params]

    run(4, lambda comm: program(comm, 0, 1, save=True))
    whole = run(2, lambda comm: program(comm, 0, 6))[0]
    run(4, lambda comm: program(comm, 0, 3, save=True))
    assert len([*tmp_path.iterdir()]) == 5  # the first checkpoint is gone
    for ranks, mib in ((1, 50), (2, 0.002), (3, 0.01), (4, 0.002)):
        for params, extra, info, _ in run(ranks, lambda comm, mib=mib: program(comm, 3, 6, mib, load=True)):  # type: ignore[misc]
            assert same(params, whole[0])
            assert extra == {"next": 3}
            assert info.step == 6
    read, state_dict, extra = distributed.read_checkpoint(tmp_path)
    opt = optim.AdamW(read, lr=0.1, ema_decay=0.9, moments="bfloat16", moment_rounding="nearest")
    opt.load_state_dict(state_dict)
    for step in range(3, 6):
        parts = [gradients(step, chunk) for chunk in range(CHUNKS)]
        opt.step(mean_of(parts, [1.0] * CHUNKS))
    for ours, its in zip(read, whole[0], strict=True):
        np.testing.assert_allclose(ours, its, rtol=1e-3, atol=1e-4)

    index = tmp_path / "index.safetensors"
    names = sorted(one.name for one in tmp_path.glob("*-of-00004.safetensors"))
    (tmp_path / names[2]).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"lacks {names[2]}"):
        run(2, lambda comm: program(comm, 0, 1, load=True))
    (tmp_path / "elsewhere").rename(tmp_path / names[2])

    def other(comm: Comm) -> None:
        distributed.ShardedOptimizer(optim.AdamW, [np.ones(3, np.float32)], comm, lr=0.1).load(tmp_path)

    with pytest.raises(ValueError, match="the checkpoint has 6 parameters, expected 1"):
        run(2, other)
    index.unlink()
    with pytest.raises(ValueError, match=r"no whole checkpoint: there is no index\.safetensors"):
        run(2, lambda comm: program(comm, 0, 1, load=True))


def test_a_save_that_fails_on_one_rank_fails_on_all_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def program(comm: Comm) -> Any:
        dist = distributed.ShardedOptimizer(optim.Adam, weights(), comm, lr=0.1)
        dist.step(gradients(0, comm.Get_rank()))
        dist.save(tmp_path)
        kept = sorted(one.name for one in tmp_path.iterdir())
        comm.Barrier()
        dist.step(gradients(1, comm.Get_rank()))
        if comm.Get_rank() == 1:
            dist.optimizer.state_dict = lambda copy=True: 1 / 0
        try:
            dist.save(tmp_path)
        except (ZeroDivisionError, OSError) as error:
            comm.Barrier()
            return repr(error), kept == sorted(one.name for one in tmp_path.iterdir())
        return None

    results = run(3, program)
    assert all(unchanged for _, unchanged in results)
    assert results[1][0].startswith("ZeroDivisionError")
    assert "rank 1 has failed: ZeroDivisionError" in results[0][0]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes(dtype: str) -> None:
    def program(comm: Comm, kind: Any) -> Any:
        params = weights(dtype)
        dist = kind(params, comm)
        for step in range(STEPS):
            dist.step(gradients(step, comm.Get_rank(), dtype), weight=3)
        return params

    options: dict[str, Any] = {"lr": 0.01} if dtype == "float64" else {"lr": 0.01, "weights": "kahan"}
    one = run(
        2,
        lambda comm: program(
            comm, lambda params, comm: distributed.DistributedOptimizer(optim.Adam(params, **options), comm)
        ),
    )
    other = run(
        2,
        lambda comm: program(
            comm, lambda params, comm: distributed.ShardedOptimizer(optim.Adam, params, comm, **options)
        ),
    )
    expected = weights(dtype)
    opt = optim.Adam(expected, **options)
    for step in range(STEPS):
        every = [
            [np.asarray(grad, "float64" if dtype == "float64" else "float32") for grad in gradients(step, rank, dtype)]
            for rank in range(2)
        ]
        opt.step(mean_of(every, [1.0, 1.0]))
    for results in (one, other):
        assert same(results[0], results[1])
        assert same(results[0], one[0])
        for ours, its in zip(results[0], expected, strict=True):
            np.testing.assert_allclose(
                ours.astype("f8"),
                its.astype("f8"),
                rtol=1e-2 if dtype != "float64" else 1e-12,
                atol=1e-3 if dtype != "float64" else 1e-12,
            )
    assert ml_dtypes


def test_moments_of_8_bits_are_sharded_with_random_numbers_of_each_rank(tmp_path: Path) -> None:
    def program(comm: Comm, begin: int, end: int, save: bool = False) -> Any:
        params = weights()
        zero = distributed.ShardedOptimizer(optim.AdamW, params, comm, chunks=CHUNKS, moments="8bit", lr=0.1)
        if begin:
            zero.load(tmp_path)
        for step in range(begin, end):
            for chunk in zero.my_chunks:
                zero.add(gradients(step, chunk), chunk=chunk)
            zero.step()
        if save:
            zero.save(tmp_path)
        return params, zero.param_groups[0]["seed"], zero.state_bytes

    whole = run(4, lambda comm: program(comm, 0, 6))
    run(4, lambda comm: program(comm, 0, 3, save=True))
    again = run(4, lambda comm: program(comm, 3, 6))
    assert all(same(one[0], other[0]) for one, other in zip(whole, again, strict=True))
    assert len({seed for _, seed, _ in again}) == 4
    exact = run(1, lambda comm: program(comm, 0, 6))[0]
    for results in (whole, run(3, lambda comm: program(comm, 3, 6))):
        for ours, its in zip(results[0][0], exact[0], strict=True):
            np.testing.assert_allclose(ours, its, atol=0.15)
    assert max(size for _, _, size in whole) < exact[2] / 3
