"""BatchNorm of a batch in several places: some results equal those of the whole batch to the last bit, others up to
rounding.

Each place has a slice of the samples; exchanged numbers are added in the order of the samples, in the same way
everywhere.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import EVERY_DTYPE, HALVES, Array, computed, extreme, mixed, ordinary
from tools import Each, assert_same_bits, every_isa

from fastopt import functional as F
from fastopt import reference

SIZES = (1, 7, 0, 24)
# name: a view of (32 samples, 6 places, 5 channels), and the channel axis
LAYOUTS: dict[str, tuple[Any, int]] = {
    "NC": (lambda x: x[:, 0], 1),
    "NCHW": (lambda x: np.ascontiguousarray(np.moveaxis(x, -1, 1)).reshape(32, 5, 3, 2), 1),
    "NHWC": (lambda x: x.reshape(32, 3, 2, 5), -1),
    "NHWC seen as NCHW": (lambda x: np.moveaxis(x.reshape(32, 3, 2, 5), -1, 1), 1),
}

layouts = pytest.mark.parametrize("layout", LAYOUTS)
every_dtype = pytest.mark.parametrize("dtype", EVERY_DTYPE)
exchanges = pytest.mark.parametrize("exchanges", [1, 2])


class Batch:
    """A batch with its parameters and running statistics."""

    def __init__(self, layout: str, dtype: str, rng: Generator, *, numbers: Any = ordinary, mean: float = 0.0) -> None:
        view, self.axis = LAYOUTS[layout]
        self.x, self.dy = (view(numbers(rng, (32, 6, 5), dtype)) for _ in range(2))
        if mean:
            self.x = self.x + self.x.dtype.type(mean)
        self.weight, self.bias, self.running_mean = ordinary(rng, (3, 5), computed(dtype))
        self.running_var = self.running_mean**2

    def parameters(self) -> dict[str, Any]:
        """Arguments of forward; the running statistics are copies."""
        running = {"running_mean": self.running_mean.copy(), "running_var": self.running_var.copy()}
        return running | {"weight": self.weight, "bias": self.bias, "momentum": 0.3, "channel_axis": self.axis}

    def whole(self) -> dict[str, Array]:
        given = self.parameters()
        y, mean, rstd = F.batch_norm(self.x, **given, training=True)
        dx, dweight, dbias = F.batch_norm_backward(
            self.dy, self.x, mean, rstd, self.weight, training=True, channel_axis=self.axis
        )
        running = {name: given[name] for name in ("running_mean", "running_var")}
        return {"y": y, "mean": mean, "rstd": rstd, "dx": dx, "dweight": dweight, "dbias": dbias, **running}

    def stats(self, module: Any, sizes: tuple[int, ...], exchanges: int) -> Any:
        """The statistics of the batch: merged, or with squares around the common mean."""
        stats = module.combine_stats([module.batch_norm_stats(x, channel_axis=self.axis) for x in cut(self.x, sizes)])
        if exchanges == 1:
            return stats
        around = [module.batch_norm_stats(x, stats[1], channel_axis=self.axis) for x in cut(self.x, sizes)]
        return module.combine_stats(around)

    def in_shards(self, sizes: tuple[int, ...], exchanges: int = 1, *, stats: Any = None, sums: Any = None) -> Any:
        """The same results from shards.  The statistics of forward and the sums of backward may be given."""
        stats = stats or self.stats(F, sizes, exchanges)
        xs, dys, given = cut(self.x, sizes), cut(self.dy, sizes), [self.parameters() for _ in sizes]
        forward = [F.batch_norm_apply(x, stats, **own) for x, own in zip(xs, given, strict=True)]
        for (_, *statistics), own in zip(forward, given, strict=True):  # these are the same everywhere
            names = "running_mean", "running_var"
            all_of_them = [
                dict(enumerate([*some, *map(one.get, names)]))
                for some, one in ((statistics, own), (forward[0][1:], given[0]))
            ]
            assert_same_bits(*all_of_them)  # type: ignore[misc]
        mean, rstd = forward[0][1:]
        parts = zip(dys, xs, strict=True)
        sums = sums or [
            sum(some)
            for some in zip(
                *(F.batch_norm_backward_stats(dy, x, mean, rstd, channel_axis=self.axis) for dy, x in parts),
                strict=True,
            )
        ]
        dxs = [
            F.batch_norm_backward_apply(dy, x, mean, rstd, stats[0], *sums, self.weight, channel_axis=self.axis)
            for dy, x in zip(dys, xs, strict=True)
        ]
        return {
            "y": np.concatenate([one[0] for one in forward]),
            "mean": mean,
            "rstd": rstd,
            "dx": np.concatenate(dxs),
            "dweight": sums[1].astype(self.weight.dtype),
            "dbias": sums[0].astype(self.weight.dtype),
            "running_mean": given[0]["running_mean"],
            "running_var": given[0]["running_var"],
        }


def cut(x: Array, sizes: tuple[int, ...]) -> list[Array]:
    return [x[first:last] for first, last in pairwise(accumulate(sizes, initial=0))]


def of_parts(module: Any, batch: Batch, around: Array, mean: Array, rstd: Array) -> dict[str, Array]:
    """All exchanged numbers of a batch that is cut into parts."""
    own = [module.batch_norm_stats(x, channel_axis=batch.axis) for x in cut(batch.x, SIZES)]
    others = [module.batch_norm_stats(x, around, channel_axis=batch.axis) for x in cut(batch.x, SIZES)]
    sums = [
        module.batch_norm_backward_stats(dy, x, mean, rstd, channel_axis=batch.axis)
        for dy, x in zip(cut(batch.dy, SIZES), cut(batch.x, SIZES), strict=True)
    ]
    assert [one[0] for one in own] == [one[0] for one in others] == [n * batch.x[0].size // 5 for n in SIZES]
    assert all(np.all(array == 0) for array in (*own[2][1:], others[2][2], *sums[2]))  # of empty parts
    every = [array for one in (*own, *others) for array in one[1:]] + [array for one in sums for array in one]
    every += module.combine_stats(own)[1:] + module.combine_stats(others)[1:]
    return {str(i): array for i, array in enumerate(every)}


@layouts
def test_parts_are_the_reference(layout: str, each: Each, rng: Generator) -> None:
    for dtype, numbers in each(EVERY_DTYPE, [ordinary, mixed, extreme]):
        batch = Batch(layout, dtype, rng, numbers=numbers)
        around, mean, rstd = ordinary(rng, (3, 5), "float64")
        expected = of_parts(reference, batch, around, mean, rstd)
        for _ in every_isa():
            assert_same_bits(of_parts(F, batch, around, mean, rstd), expected)


@every_dtype
@layouts
def test_the_same_statistics_give_the_same_bits(layout: str, dtype: str, rng: Generator) -> None:
    """y and dx do not depend on how the samples are divided."""
    batch = Batch(layout, dtype, rng)
    whole = batch.whole()
    stats = F.batch_norm_stats(batch.x, channel_axis=batch.axis)
    sums = F.batch_norm_backward_stats(batch.dy, batch.x, whole["mean"], whole["rstd"], channel_axis=batch.axis)
    for sizes in SIZES, (16, 16), (1,) * 32, (32,):
        assert_same_bits(batch.in_shards(sizes, stats=stats, sums=list(sums)), whole)


@layouts
def test_one_place_with_all_samples_has_the_bits_of_the_whole(layout: str, each: Each, rng: Generator) -> None:
    for dtype, sizes in each(EVERY_DTYPE, [(32,), (0, 32), (32, 0), (0, 32, 0, 0)]):
        batch = Batch(layout, dtype, rng, mean=3.0)
        assert_same_bits(batch.in_shards(sizes), batch.whole())


@exchanges
@layouts
def test_shards_are_the_whole_but_for_one_unit(layout: str, exchanges: int, each: Each, rng: Generator) -> None:
    """The unit is 2⁻²³ of the largest entry; sums over the batch differ by up to two units.  Other blocks round
    differently in float32.
    """
    for sizes, mean in each([SIZES, (8, 8, 8, 8), (31, 1), (1,) * 32], [0.0, 1e6]):
        batch = Batch(layout, "float32", rng, mean=mean)
        whole, shards = batch.whole(), batch.in_shards(sizes, exchanges)
        for name in whole:
            apart = np.max(np.abs(shards[name].astype(np.float64) - whole[name]))
            largest = np.max(np.abs(1 / whole["rstd"] if name == "mean" else whole[name]))
            assert apart <= (2 if name in ("dweight", "dbias") else 1) * 2.0**-23 * largest, name


@exchanges
@layouts
def test_shards_of_doubles_are_the_whole_but_for_rounding(layout: str, exchanges: int, rng: Generator) -> None:
    batch = Batch(layout, "float64", rng)
    whole, shards = batch.whole(), batch.in_shards(SIZES, exchanges)
    for name in whole:
        np.testing.assert_allclose(shards[name], whole[name], rtol=0, atol=2.0**-50 * np.max(np.abs(whole[name])))


@exchanges
@pytest.mark.parametrize("dtype", HALVES)
@layouts
def test_shards_of_16_bits_are_the_whole_but_for_ties(layout: str, dtype: str, exchanges: int, rng: Generator) -> None:
    """Nearly all results are rounded to the same number, and the others to its neighbour."""
    batch = Batch(layout, dtype, rng)
    whole, shards = batch.whole(), batch.in_shards(SIZES, exchanges)
    for name in "y", "dx":
        a, b = (one[name].astype(np.float64) for one in (whole, shards))
        np.testing.assert_allclose(b, a, rtol=2.0**-7 if dtype == "bfloat16" else 2.0**-10, atol=1e-6)
        assert np.count_nonzero(a != b) <= a.size // 50


@exchanges
@layouts
def test_a_constant_channel_in_shards_is_centred_exactly(layout: str, exchanges: int, rng: Generator) -> None:
    batch = Batch(layout, "float32", rng)
    batch.x = np.full_like(batch.x, 1e6)
    shards = batch.in_shards(SIZES, exchanges)
    assert np.all(shards["mean"] == 1e6)
    assert np.all(
        shards["y"]
        == np.moveaxis(np.broadcast_to(batch.bias, np.moveaxis(batch.x, batch.axis, -1).shape), -1, batch.axis)
    )
    assert np.all(shards["dweight"] == 0)


def test_statistics_of_shards_that_lie_far_apart(rng: Generator) -> None:
    """Chan, Golub & LeVeque's formula and squares around the common mean are both as precise as statistics of the
    whole.
    """
    parts = [ordinary(rng, (n, 3), "float64") + offset for n, offset in ((10, 0.0), (300, 1e5), (1, -1e6), (40, 1e5))]
    every = np.concatenate(parts).astype(np.longdouble)
    stats = F.combine_stats([F.batch_norm_stats(x) for x in parts])
    again = F.combine_stats([F.batch_norm_stats(x, stats[1]) for x in parts])
    for count, mean, m2 in stats, again:
        assert count == len(every)
        np.testing.assert_allclose(mean, every.mean(0).astype(float), rtol=1e-14)
        np.testing.assert_allclose(m2, ((every - every.mean(0)) ** 2).sum(0).astype(float), rtol=1e-14)


def test_nothing_at_all_has_no_statistics() -> None:
    nothing = F.batch_norm_stats(np.zeros((0, 3), np.float32))
    assert_same_bits(
        *(
            dict(enumerate(map(np.asarray, one)))
            for one in (F.combine_stats([nothing, nothing]), (0, np.zeros(3), np.zeros(3)))
        )  # type: ignore[arg-type]
    )
