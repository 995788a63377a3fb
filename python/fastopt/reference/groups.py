"""Normalizations of each sample by itself: GroupNorm, and InstanceNorm, which has a group for each channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._norm import Arrays, average, double, into, moments, rstd_of
from ._sums import in_order
from .channels import Channels, weighted


def _grouped(of_channels: Any, num_groups: int) -> Any:
    """Numbers, one per channel and sample, as (channel of the group, sample, group)."""
    samples, channels = of_channels.shape
    return np.moveaxis(of_channels.reshape(samples, num_groups, channels // max(num_groups, 1)), 2, 0)


def _repeated(of_groups: Any, samples: Channels) -> Any:
    """Numbers of groups, repeated for each channel of the group."""
    return flushed(np.repeat(of_groups, samples.count // max(of_groups.shape[1], 1), axis=1))


def _moments(samples: Channels, num_groups: int, eps: float) -> tuple[Any, Any]:
    """Mean and Σ(x - mean)² of each group of each sample."""
    if not samples.columns:
        outer, count, channels, inner = samples.shape
        of_group = channels // max(num_groups, 1)
        planes = np.moveaxis(samples.values.reshape(outer, count, num_groups, of_group, inner), 3, 1)
        return moments(planes.reshape(outer * of_group, count, num_groups, inner), eps)
    mean, m2 = (_grouped(one, num_groups) for one in samples.moments(eps))
    if not len(mean):  # groups of no channels
        return flushed(np.zeros(mean.shape[1:])), flushed(np.zeros(mean.shape[1:]))
    deltas = mean - mean[0]
    shift = in_order(deltas) / np.float64(len(deltas))
    rest = deltas - shift
    return mean[0] + shift, in_order(m2 + samples.n * (rest * rest))


def _affine(samples: Channels, mean: Any, rstd: Any, weight: Any, bias: Any) -> Any:
    return samples.array(samples.normalized(mean, weighted(rstd, weight), double(bias)))


def _learned(samples: Channels, sum_dy_xhat: Any, sum_dy: Any, weight: Any, bias_grad: bool) -> Arrays:
    """dweight and dbias, if they are wanted: Σ over the samples."""
    dweight = None if weight is None else in_order(sum_dy_xhat).to(samples.dtype)
    return dweight, in_order(sum_dy).to(samples.dtype) if bias_grad else None


def group_norm(
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.group_norm`."""
    samples = Channels(x, channel_axis, by_sample=True)
    mean, m2 = _moments(samples, num_groups, eps)
    rstd = rstd_of(average(m2, samples.n * np.float64(samples.count // max(num_groups, 1))), eps)
    y = _affine(samples, _repeated(mean, samples), _repeated(rstd, samples), weight, bias)
    return into(out, y, mean, rstd)


def group_norm_backward(
    dy: Any,
    x: Any,
    num_groups: int,
    mean: Any,
    rstd: Any,
    weight: Any = None,
    *,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.group_norm_backward`."""
    samples = Channels(x, channel_axis, by_sample=True)
    m = samples.n * np.float64(samples.count // max(num_groups, 1))
    mean, rstd, g = _repeated(mean, samples), _repeated(rstd, samples), samples.of_array(dy)
    sum_dy, sum_dyx = sums = samples.sums_of_gradient(g, mean, rstd)
    sum_g, sum_gx = (_repeated(in_order(_grouped(weighted(one, weight), num_groups)), samples) for one in sums)
    dx = samples.gradient(g, mean, weighted(rstd, weight), rstd * rstd * (sum_gx / m), rstd * (sum_g / m))
    return into(out, samples.array(dx), *_learned(samples, sum_dyx, sum_dy, weight, bias_grad))


def instance_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.instance_norm`."""
    samples = Channels(x, channel_axis, by_sample=True)
    if use_input_stats:
        mean, m2 = _moments(samples, samples.count, eps)
        rstd = rstd_of(average(m2, samples.n), eps)
        if running_mean is not None and x.size:
            variance = m2 / (samples.n - 1)
            for running, statistic in (running_mean, mean), (running_var, variance):
                of_all = in_order(statistic) / np.float64(len(x))
                new = np.float64(1 - momentum) * double(running) + np.float64(momentum) * of_all
                running[...] = new.to(running.dtype)
    else:
        used = double(running_mean), rstd_of(double(running_var), eps)
        mean, rstd = (flushed(np.repeat(one[None], len(x), axis=0)) for one in used)
    return into(out, _affine(samples, mean, rstd, weight, bias), mean, rstd)


def instance_norm_backward(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any = None,
    *,
    use_input_stats: bool = True,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.instance_norm_backward`."""
    samples = Channels(x, channel_axis, by_sample=True)
    if use_input_stats:
        options: dict[str, Any] = {"bias_grad": bias_grad, "channel_axis": channel_axis, "out": out}
        return group_norm_backward(dy, x, samples.count, mean, rstd, weight, **options)
    mean, rstd, g = flushed(mean), flushed(rstd), samples.of_array(dy)
    dx = samples.array(g * samples.each(weighted(rstd, weight)))
    sum_dy, sum_dyx = samples.sums_of_gradient(g, mean, rstd)
    return into(out, dx, *_learned(samples, sum_dyx, sum_dy, weight, bias_grad))
