"""The error for each mistake, and its text: the function, the argument, its constraint and its value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from good_calls import INVOCATIONS, NAN, PASSES, Path
from mistakes import (
    assert_raises,
    half,
    integers,
    longer,
    move_into,
    other_float,
    read_only,
    strided,
    swapped,
    unaligned,
)
from tools import Each

from fastopt import nn


@dataclass(frozen=True)
class Wrong:
    """A bad argument, and the text of its ValueError or TypeError after the name of the function."""

    at: str  # the argument, and the place in it: "grads.1" is the second gradient
    becomes: Any  # a value, or a function of the good one
    value_error: str = ""
    type_error: str = ""
    by: str | None = None  # the function that the error names, if it is not the called one


ERRORS: dict[str, list[Wrong]] = {
    "sgd": [
        Wrong(at="lr", becomes=NAN, value_error="lr must be finite and >= 0, got nan$"),
        Wrong(at="lr", becomes=-0.5, value_error="lr must be finite and >= 0, got -0.5$"),
        Wrong(at="lr", becomes="0.1", type_error="lr must be a number, got '0.1'$"),
        Wrong(at="momentum", becomes=1.5, value_error=r"momentum must be in \[0, 1\], got 1.5$"),
        Wrong(
            at="dampening", becomes=0.1, value_error="nesterov needs momentum > 0 and dampening = 0, got 0.9 and 0.1$"
        ),
        Wrong(at="nesterov", becomes="yes", type_error="nesterov must be a bool, got 'yes'$"),
        Wrong(at="weights", becomes="x", value_error="weights must be 'stochastic', .* or 'master', got 'x'$"),
        Wrong(at="moments", becomes="float16", value_error="moments must be 'bfloat16' or '8bit', got 'float16'$"),
        Wrong(at="moment_rounding", becomes=None, type_error="moment_rounding must be a string, got None$"),
        Wrong(
            at="grads.0",
            becomes=other_float,
            type_error=r"grads\[0\] has dtype float64, expected float32, as its parameter has: pass grads",
        ),
        Wrong(at="velocity", becomes=True, type_error="velocity_buffers must be a list of arrays, got NoneType$"),
        Wrong(
            at="momentum_buffers", becomes=None, type_error="momentum_buffers must be a list of arrays, got NoneType$"
        ),
        Wrong(
            at="params.0", becomes=read_only, type_error=r"params\[0\] is read-only, but would be written; give a copy$"
        ),
        Wrong(at="params.1", becomes=strided, type_error=r"params\[1\] must be C-contiguous; make a copy with numpy"),
        Wrong(
            at="params.0",
            becomes=np.asfortranarray,
            type_error=r"params\[0\] must be C-contiguous; make a copy with numpy",
        ),
        Wrong(
            at="params.1", becomes=other_float, type_error=r"momentum_buffers\[1\] has dtype float32, expected float64$"
        ),
        Wrong(
            at="momentum_buffers.1",
            becomes=unaligned,
            type_error=r"momentum_buffers\[1\] is not aligned: its elements do not lie at multiples of their size; give numpy.require",
        ),
        Wrong(at="step", becomes=0, value_error="step must be .*, got 0$"),
        Wrong(at="step", becomes=2**53, value_error=r"step must be in \[1, 2\*\*53\), got 9007199254740992$"),
        Wrong(at="grad_scale", becomes=0.0, value_error="grad_scale must be > 0, got 0.0$"),
        Wrong(at="clip_norm", becomes=-1.0, value_error="clip_norm must be >= 0, got -1.0$"),
        Wrong(at="clip_value", becomes=0.5, value_error="clip_norm and clip_value exclude each other$"),
        Wrong(at="zero_grads", becomes="x", type_error="zero_grads must be a bool, got 'x'$"),
        Wrong(at="swa_start", becomes=3, value_error="ema_decay and swa_start exclude each other$"),
        Wrong(at="ema_decay", becomes=1.5, value_error=r"ema_decay must be in \[0, 1\], got 1.5$"),
        Wrong(at="ema_params", becomes=None, type_error="ema_params must be a list of arrays, got NoneType$"),
        Wrong(
            at="initial_params.0",
            becomes=longer,
            value_error=r"initial_params\[0\] has shape \(6, 4\), expected \(3, 4\)$",
        ),
        Wrong(
            at="ema_params.1",
            becomes=read_only,
            type_error=r"ema_params\[1\] is read-only, but would be written; give a copy$",
        ),
        Wrong(at="seed", becomes=-1, value_error=r"seed must be in \[0, 2\*\*53\), got -1$"),
        Wrong(at="seed", becomes=0.5, type_error="seed must be an integer, got 0.5$"),
        Wrong(at="fixed_decay", becomes=True, value_error="fixed_decay needs decoupled_weight_decay$"),
        Wrong(at="decoupled_weight_decay", becomes=None, type_error="decoupled_weight_decay must be a bool, got None$"),
    ],
    "rprop": [
        Wrong(at="moments", becomes="8bit", value_error="moments must be None, got '8bit': prev and step_size must"),
        Wrong(at="etas", becomes=(1.5, 1.2), value_error="etas must be 0 < etaminus < 1 < etaplus, got 1.5 and 1.2$"),
        Wrong(at="step_size_limits", becomes=(2.0, 1.0), value_error="step_sizes must be in order, got 2 and 1$"),
    ],
    "adamw correction 8bit": [
        Wrong(at="moment_rounding", becomes="nearest", value_error="moments='8bit' needs moment_rounding='stochastic'"),
        Wrong(
            at="params.0",
            becomes=lambda a: a.astype(np.float16),
            type_error=r"params\[0\] has dtype float16; weights='correction' is for bfloat16$",
        ),
    ],
    "adamw master bfloat16": [
        Wrong(at="master_params.1", becomes=None, type_error=r"master_params\[1\] is missing$"),
    ],
    "adamw kahan 8bit": [
        Wrong(
            at="exp_avg_sq_scales.0",
            becomes=longer,
            value_error=r"exp_avg_sq_scales\[0\] has shape \(2,\), expected \(1,\)$",
        ),
        Wrong(
            at="exp_avgs.1",
            becomes=lambda a: a.astype(np.float32),
            type_error=r"exp_avgs\[1\] has dtype float32, expected uint8$",
        ),
    ],
    "Adam": [
        Wrong(at="fixed_decay", becomes=True, value_error="fixed_decay needs decoupled_weight_decay$"),
        Wrong(at="temperature", becomes=-1, value_error="temperature must be finite and >= 0, got -1$"),
        Wrong(at="betas", becomes=(1.5, 0.9), value_error=r"beta1 must be in \[0, 1\), got 1.5$"),
        Wrong(
            at="params.0",
            becomes=integers,
            type_error=r"params\[0\] has dtype int32, expected float32, float64, float16 or bfloat16$",
        ),
        Wrong(at="params", becomes=lambda params: params[0], type_error="params must be a list or a dict of arrays"),
    ],
    "adagrad": [
        Wrong(at="sums", becomes=None, type_error="sums must be a list of arrays, got NoneType$"),
    ],
    "nadam": [
        Wrong(
            at="mu_products.0", becomes=lambda a: a.astype(np.float32), type_error=r"mu_products\[0\] has dtype float32"
        ),
        Wrong(
            at="mu_products.0", becomes=lambda _: 1.0, type_error=r"mu_products\[0\] must be a numpy array, got float$"
        ),
    ],
    "adan": [
        Wrong(at="betas", becomes=(0.9, 0.9), type_error=r"betas must be three numbers, got \(0.9, 0.9\)$"),
    ],
    "adafactor": [
        Wrong(at="eps", becomes=(0.1, None), type_error="eps2 must be a number, got None$"),
        Wrong(at="row_vars.0", becomes=longer, value_error=r"row_vars\[0\] has shape \(6, 1\), expected \(3, 1\)$"),
        Wrong(at="variances", becomes=[None, None], type_error=r"variances\[1\] must be a numpy array, got NoneType$"),
    ],
    "muon": [
        Wrong(
            at="params.1", becomes=lambda a: a.ravel(), value_error=r"params\[1\] must be a matrix, got shape \(5,\)$"
        ),
        Wrong(at="ns_steps", becomes=100, value_error="ns_steps must be < 100, got 100$"),
        Wrong(
            at="adjust_lr_fn",
            becomes="x",
            value_error="adjust_lr_fn must be None, 'original' or 'match_rms_adamw', got 'x'$",
        ),
    ],
    "ScheduleFreeSGD": [
        Wrong(at="momentum", becomes=0.0, value_error="momentum must be > 0, got 0$"),
    ],
    "ScheduleFreeAdamW": [
        Wrong(at="betas", becomes=(0.0, 0.9), value_error="beta1 must be > 0, got 0$"),
    ],
    "Adam.step": [
        Wrong(at="clip_adaptive", becomes=1.0, value_error="clip_norm and clip_adaptive exclude each other$"),
        Wrong(at="grad_scale", becomes="2", type_error="grad_scale must be a number, got '2'$"),
        Wrong(at="grads", becomes=None, value_error="grads is missing, and accumulate has added none$"),
        Wrong(at="grads", becomes=[None], value_error="grads has 1 entries, expected 2, one for each parameter$"),
        Wrong(
            at="grads.1",
            becomes=other_float,
            type_error=r"grads\[1\] has dtype float64, expected float32, as its parameter has: pass grads",
        ),
        Wrong(at="grads", becomes=dict.fromkeys("ab"), type_error="grads must be a list like params, got dict$"),
    ],
    "nested.step": [
        Wrong(at="grads.first.bias", becomes=longer, value_error=r"grads\['first'\]\['bias'\] has shape", by="Adam"),
        Wrong(
            at="grads.others.0.0",
            becomes=integers,
            type_error=r"grads\['others'\]\[0\]\[0\] has dtype int32",
            by="Adam",
        ),
    ],
    "adam": [
        Wrong(
            at="grads.1",
            becomes=other_float,
            type_error=r"grads\[1\] has dtype float64, expected float32, as its parameter has: pass grads",
        ),
        Wrong(at="grads.0", becomes=integers, type_error=r"grads\[0\] has dtype int32, expected float32"),
        Wrong(at="grads.0", becomes=swapped, type_error=r"grads\[0\] has swapped byte order \(dtype >f4\)"),
        Wrong(at="grads.0", becomes=longer, value_error=r"grads\[0\] has shape \(6, 4\), expected \(3, 4\)$"),
        Wrong(at="grads.1", becomes=7, type_error=r"grads\[1\] must be a numpy array, got int$"),
        Wrong(at="grads", becomes=[], value_error="grads has 0 entries, expected 2, one for each parameter$"),
        Wrong(at="step", becomes=[1], value_error="step has 1 entries, expected 2, one for each parameter$"),
        Wrong(at="step", becomes=1.5, type_error="step must be an integer, got 1.5$"),
        Wrong(at="betas", becomes=(0.9, 1.0), value_error=r"beta2 must be in \[0, 1\), got 1.0$"),
        Wrong(at="betas", becomes=0.9, type_error="betas must be two numbers, got 0.9$"),
    ],
    "adamw": [
        Wrong(at="exp_avgs.1", becomes=longer, value_error=r"exp_avgs\[1\] has shape \(10,\), expected \(5,\)$"),
        Wrong(
            at="exp_avg_sqs", becomes=[], value_error="exp_avg_sqs has 0 entries, expected 2, one for each parameter$"
        ),
        Wrong(at="eps", becomes=-1, value_error="eps must be finite and >= 0, got -1$"),
    ],
    "Adam.add_param_group": [
        Wrong(
            at="param_group", becomes={"params": [], "speed": 1}, value_error=r"there is no speed; did you mean seed\?$"
        ),
    ],
    "layer_norm": [
        Wrong(at="weight", becomes=longer, value_error=r"weight has shape \(8,\), expected \(4,\)$"),
        Wrong(at="bias", becomes=other_float, type_error="bias has dtype float64, expected float32, as x"),
        Wrong(
            at="out.0", becomes=unaligned, type_error=r"out\[0\] is not aligned: its elements do not lie at multiples"
        ),
        Wrong(at="out.0", becomes=strided, type_error=r"out\[0\] must be C-contiguous; make a copy with numpy"),
        Wrong(at="normalized_shape", becomes=5, value_error=r"x has shape \(6, 4\), expected it to end with"),
        Wrong(at="normalized_shape", becomes=4.0, type_error="normalized_shape must be an integer, got 4.0$"),
        Wrong(at="eps", becomes=-1e-5, value_error="eps must be finite and >= 0, got -1e-05$"),
        Wrong(at="eps", becomes="x", type_error="eps must be a number, got 'x'$"),
        Wrong(at="out", becomes=(None, None), type_error="out must be a tuple of 3"),
        Wrong(at="out.1", becomes=other_float, type_error=r"out\[1\] has dtype float32, expected float64$"),
        Wrong(at="x", becomes=integers, type_error="x has dtype int32, expected float32, float64, float16 or"),
    ],
    "layer_norm_backward": [
        Wrong(at="mean", becomes=other_float, type_error="mean has dtype float32"),
        Wrong(at="mean", becomes=None, type_error="mean must be a numpy array, got None$"),
        Wrong(at="dy", becomes=longer, value_error=r"dy has shape \(12, 4\), expected \(6, 4\)$"),
        Wrong(at="weight", becomes=None, value_error=r"out\[1\] is given, but there is no weight$"),
    ],
    "batch_norm": [
        Wrong(at="momentum", becomes=1.1, value_error=r"momentum must be in \[0, 1\], got 1.1$"),
        Wrong(at="channel_axis", becomes=2, value_error="channel_axis must name an axis of x, which has 2, got 2$"),
        Wrong(at="x", becomes=lambda x: x[0], value_error=r"x has shape \(4,\), expected at least 2 axes$"),
        Wrong(
            at="x", becomes=lambda x: x[:1], value_error=r"x has shape \(1, 4\), expected more than 1 value per channel"
        ),
        Wrong(
            at="out.0",
            becomes=np.asfortranarray,
            type_error=r"out\[0\] must have its channels innermost in memory, without gaps or negative strides; None makes",
        ),
        Wrong(at="running_mean", becomes=None, type_error="running_mean is None, but the other"),
        Wrong(
            at="running_var",
            becomes=read_only,
            type_error="running_var is read-only, but would be written; give a copy$",
        ),
    ],
    "rms_norm": [
        Wrong(at="eps", becomes=-1.0, value_error="eps must be finite and >= 0, got -1.0$"),
        Wrong(at="x", becomes=lambda x: x[..., :0], value_error=r"x has shape \(6, 0\), expected it to end with"),
        Wrong(at="weight", becomes=other_float, type_error="weight has dtype float64, expected float32, as x"),
        Wrong(at="out", becomes=(None,), type_error="out must be a tuple of 2, with None for"),
    ],
    "rms_norm_backward": [
        Wrong(at="rstd", becomes=longer, value_error=r"rstd has shape \(12,\), expected \(6,\)$"),
        Wrong(at="weight", becomes=None, value_error=r"out\[1\] is given, but there is no weight$"),
    ],
    "layer_norm of float16": [
        Wrong(
            at="weight",
            becomes=half,
            type_error=r"weight has dtype float16, expected float32, as x has dtype float16: pass weight\.astype\(np\.float32\)$",
        ),
        Wrong(
            at="bias",
            becomes=other_float,
            type_error=r".*float32, as x has dtype float16: pass bias\.astype\(np\.float32\), or x\.astype\(np\.float64\)$",
        ),
        Wrong(
            at="out.0",
            becomes=lambda out: out.astype(np.float32),
            type_error=r"out\[0\] has dtype float32, expected float16$",
        ),
    ],
    "layer_norm_backward of bfloat16": [
        Wrong(
            at="dy",
            becomes=half,
            type_error=r"dy has dtype float16, expected bfloat16, as x has: pass dy\.astype\(x\.dtype\)$",
        ),
        Wrong(at="out.1", becomes=half, type_error=r"out\[1\] has dtype float16, expected float32$"),
    ],
    "batch_norm of bfloat16": [
        Wrong(
            at="running_mean",
            becomes=half,
            type_error="running_mean has dtype float16, expected float32, as x has dtype bfloat16: pass",
        ),
    ],
    "cosine_norm": [
        Wrong(at="x", becomes=lambda x: x[0, 0, ...], value_error=r"x has shape \(\), expected at least"),
    ],
    "cosine_norm_backward": [
        Wrong(at="rnorm", becomes=None, type_error="rnorm must be a numpy array, got None$"),
        Wrong(at="out", becomes=integers, type_error="out has dtype int32"),
        Wrong(at="out", becomes=read_only, type_error="out is read-only, but would be written; give a copy$"),
    ],
    "scale_norm": [
        Wrong(at="g", becomes=None, type_error="g must be a numpy array, got None$"),
        Wrong(at="g", becomes=lambda g: g.reshape(1), value_error=r"g has shape \(1,\), expected \(\)"),
    ],
    "scale_norm_backward": [
        Wrong(at="out.1", becomes=read_only, type_error=r"out\[1\] is read-only, but would be written; give a copy$"),
    ],
    "add_layer_norm": [
        Wrong(at="residual", becomes=longer, value_error=r"residual has shape \(12, 4\), expected \(6, 4\)$"),
        Wrong(at="residual", becomes=None, type_error="residual must be a numpy array, got NoneType$"),
        Wrong(at="residual", becomes=other_float, type_error="residual has dtype float64, expected"),
        Wrong(at="out", becomes=(None,) * 3, type_error="out must be a tuple of 4"),
    ],
    "add_rms_norm": [
        Wrong(at="out.1", becomes=read_only, type_error=r"out\[1\] is read-only, but would be written; give a copy$"),
    ],
    "add_layer_norm_backward": [
        Wrong(at="dsum", becomes=other_float, type_error="dsum has dtype float64"),
    ],
    "add_rms_norm_backward": [
        Wrong(at="sum", becomes=longer, value_error=r"dy has shape \(6, 4\), expected \(12, 4\)$"),
    ],
    "batch_norm_relu": [
        Wrong(at="bias", becomes=longer, value_error=r"bias has shape \(8,\), expected \(4,\), as x"),
        Wrong(at="training", becomes="no", type_error="training must be a bool, got 'no'$"),
    ],
    "batch_norm_relu_backward": [
        Wrong(at="bias", becomes=other_float, type_error="bias has dtype float64"),
    ],
    "batch_norm_add_relu_backward": [
        Wrong(at="y", becomes=longer, value_error=r"y has shape \(12, 4\), expected \(6, 4\)$"),
    ],
    "batch_renorm": [
        Wrong(at="r_max", becomes=0.5, value_error="r_max must be finite and >= 1, got 0.5$"),
        Wrong(at="d_max", becomes=-1, value_error="d_max must be finite and >= 0, got -1$"),
        Wrong(at="d_max", becomes="x", type_error="d_max must be a number, got 'x'$"),
        Wrong(at="running_var", becomes=None, type_error="running_var is None, but the other"),
    ],
    "batch_renorm_backward": [
        Wrong(at="d", becomes=other_float, type_error="d has dtype float32, expected float64$"),
        Wrong(at="r", becomes=longer, value_error=r"r has shape \(8,\), expected \(4,\), as x of shape"),
    ],
    "group_norm": [
        Wrong(
            at="num_groups",
            becomes=3,
            value_error="num_groups must divide the 4 channels of x on axis 1, the channel_axis, got 3$",
        ),
        Wrong(
            at="num_groups",
            becomes=0,
            value_error="num_groups must divide the 4 channels of x on axis 1, the channel_axis, got 0$",
        ),
        Wrong(
            at="num_groups",
            becomes=-2,
            value_error="num_groups must divide the 4 channels of x on axis 1, the channel_axis, got -2$",
        ),
        Wrong(at="num_groups", becomes=2.0, type_error="num_groups must be an integer, got 2.0$"),
        Wrong(at="channel_axis", becomes=0, value_error="channel_axis must not be 0, the axis of the samples, got 0$"),
        Wrong(
            at="channel_axis", becomes=-3, value_error="channel_axis must not be 0, the axis of the samples, got -3$"
        ),
    ],
    "group_norm_backward": [
        Wrong(at="num_groups", becomes=4, value_error=r"mean has shape \(3, 2\), expected \(3, 4\)$"),
    ],
    "instance_norm": [
        Wrong(at="use_input_stats", becomes=None, type_error="use_input_stats must be a bool, got None$"),
        Wrong(
            at="x",
            becomes=lambda x: x[..., :1].copy(),
            value_error=r"x has shape \(3, 4, 1\), expected more than 1 value per sample and channel",
        ),
        Wrong(at="running_mean", becomes=None, type_error="running_mean is None, but the other"),
    ],
    "instance_norm in evaluation": [
        Wrong(
            at="running_var",
            becomes=longer,
            value_error=r"running_var has shape \(8,\), expected \(4,\), as x of shape",
        ),
    ],
    "instance_norm_backward": [
        Wrong(at="mean", becomes=lambda mean: mean[0].copy(), value_error=r"mean has shape \(4,\), expected \(3, 4\)$"),
    ],
    "weight_norm": [
        Wrong(at="dim", becomes=2, value_error="dim must name an axis of v, which has 2, got 2$"),
        Wrong(at="dim", becomes=0.5, type_error="dim must be an integer, got 0.5$"),
        Wrong(at="dim", becomes=1, value_error=r"g has shape \(4, 1\), expected \(1, 6\), as v of shape"),
        Wrong(at="dim", becomes=None, value_error=r"g has shape \(4, 1\), expected \(\)$"),
        Wrong(at="g", becomes=other_float, type_error="g has dtype float64, expected float32, as v has"),
        Wrong(at="g", becomes=None, type_error="g must be a numpy array, got None$"),
    ],
    "weight_norm of everything": [
        Wrong(at="out.0", becomes=strided, type_error=r"out\[0\] must be C-contiguous; make a copy with numpy"),
        Wrong(at="g", becomes=lambda _: 1.0, type_error="g must be a numpy array, got float$"),
        Wrong(at="out.0", becomes=longer, value_error=r"out\[0\] has shape \(12, 4\), expected"),
        Wrong(at="out.1", becomes=other_float, type_error=r"out\[1\] has dtype float32, expected"),
        Wrong(at="out", becomes=(None,), type_error="out must be a tuple of 2"),
    ],
    "weight_norm_backward of everything": [
        Wrong(at="dw", becomes=longer, value_error=r"dw has shape \(12, 4\), expected \(6, 4\)$"),
    ],
    "weight_norm_backward": [
        Wrong(at="dw", becomes=other_float, type_error="dw has dtype float64, expected float32, as v has: pass"),
        Wrong(at="rnorm", becomes=longer, value_error=r"rnorm has shape \(8,\), expected \(4,\), as v of shape"),
    ],
    "batch_norm_stats": [
        Wrong(at="around", becomes=longer, value_error=r"around has shape \(8,\), expected \(4,\), as x of shape"),
        Wrong(at="around", becomes=other_float, type_error="around has dtype float32, expected float64$"),
        Wrong(at="channel_axis", becomes=2, value_error="channel_axis must name an axis of x, which"),
    ],
    "combine_stats": [
        Wrong(at="stats", becomes=None, type_error=r"stats must be a list of \(count, mean, m2\), got NoneType$"),
        Wrong(at="stats", becomes=[], value_error=r"stats must have at least one entry, got \[\]$"),
        Wrong(at="stats.0", becomes=(3, 4), type_error=r"stats\[0\] must be \(count, mean, m2\), got 2 values$"),
        Wrong(at="stats.1", becomes=None, type_error=r"stats\[1\] must be \(count, mean, m2\), got NoneType$"),
        Wrong(at="stats.1.0", becomes=-1, value_error=r"count of stats\[1\] must be in \[0, 2\*\*53\), got -1$"),
        Wrong(at="stats.1.0", becomes=1.0, type_error=r"count of stats\[1\] must be an integer, got 1.0$"),
        Wrong(at="stats.1.1", becomes=longer, value_error=r"m2 of stats\[1\] has shape \(4,\), expected \(8,\)$"),
        Wrong(
            at="stats.1",
            becomes=lambda one: (one[0], longer(one[1]), longer(one[2])),
            value_error=r"mean of stats\[1\] has shape \(8,\), expected \(4,\)$",
        ),
        Wrong(at="stats.0.2", becomes=other_float, type_error=r"m2 of stats\[0\] has dtype float32, expected"),
    ],
    "batch_norm_apply": [
        Wrong(at="stats", becomes=3, type_error=r"stats must be \(count, mean, m2\), got int$"),
        Wrong(at="stats.0", becomes=1, value_error="count of stats must be more than 1, got 1$"),
        Wrong(at="stats.0", becomes=0.5, type_error="count of stats must be an integer, got 0.5$"),
        Wrong(
            at="stats",
            becomes=lambda stats: (stats[0], longer(stats[1]), longer(stats[2])),
            value_error=r"mean has shape \(8,\), expected \(4,\), as x of shape",
        ),
        Wrong(at="running_var", becomes=None, type_error="running_var is None, but the other"),
        Wrong(at="momentum", becomes=2, value_error=r"momentum must be in \[0, 1\], got 2$"),
    ],
    "batch_norm_backward_stats": [
        Wrong(at="rstd", becomes=other_float, type_error="rstd has dtype float32, expected float64$"),
    ],
    "batch_norm_backward_apply": [
        Wrong(at="count", becomes=-1, value_error=r"count must be in \[0, 2\*\*53\), got -1$"),
        Wrong(at="count", becomes=1.5, type_error="count must be an integer, got 1.5$"),
        Wrong(at="sum_dy", becomes=None, type_error="sum_dy must be a numpy array, got None$"),
        Wrong(
            at="sum_dy_xhat",
            becomes=longer,
            value_error=r"sum_dy_xhat has shape \(8,\), expected \(4,\), as x of shape",
        ),
    ],
    "fold_batch_norm": [
        Wrong(
            at="bias",
            becomes=longer,
            value_error=r"bias has shape \(6,\), expected \(3,\), as weight of shape .* the output_axis$",
        ),
        Wrong(at="weight", becomes=integers, type_error="weight has dtype int32, expected float32, float64"),
        Wrong(at="running_mean", becomes=None, type_error="running_mean must be a numpy array, got None$"),
        Wrong(at="output_axis", becomes=2, value_error="output_axis must name an axis of weight, which has 2, got 2$"),
        Wrong(
            at="output_axis",
            becomes=1,
            value_error=r"running_mean has shape \(3,\), expected \(4,\), as weight of shape",
        ),
        Wrong(at="eps", becomes=-1, value_error="eps must be finite and >= 0, got -1$"),
    ],
    "batch_norm_backward": [
        Wrong(at="x", becomes=longer, value_error=r"dy has shape \(6, 4\), expected \(12, 4\)$"),
    ],
    "nn.LayerNorm": [
        Wrong(
            at="x",
            becomes=other_float,
            type_error=r"x has dtype float64, but weight has dtype float32: pass x\.astype\(np\.float32\), or weight in",
            by="layer_norm",
        ),
    ],
    "nn.AddLayerNorm": [
        Wrong(at="out", becomes=(None,), type_error="out must be a tuple of 2, with None for new results"),
    ],
    "nn.BatchNormAddReLU": [
        Wrong(
            at="residual",
            becomes=longer,
            value_error=r"residual has shape \(6, 4\), expected",
            by="batch_norm_add_relu",
        ),
    ],
    "nn.BatchNormAddReLU.backward": [
        Wrong(
            at="out",
            becomes=[None, None],
            type_error="out must be a tuple of 2, with None for new results$",
        ),
    ],
    "nn.ScaleNorm": [
        Wrong(at="x", becomes=lambda x: x[:, 1:], value_error=r"x has shape \(3, 3\), expected it to end with 4$"),
    ],
    "nn.CosineLinear": [
        Wrong(at="x", becomes=other_float, type_error="x has dtype float64, expected float32, float16 or"),
        Wrong(at="x", becomes=lambda x: x[:, 1:], value_error=r"x has shape \(3, 3\), expected it to end with 4$"),
    ],
    "nn.WeightNormLinear": [
        Wrong(at="x", becomes=None, type_error="x must be a numpy array, got None$"),
        Wrong(at="out", becomes=read_only, type_error="out is read-only, but would be written; give a copy$"),
        Wrong(at="out", becomes=half, type_error="out has dtype float16, expected float32$"),
    ],
    "nn.CosineLinear.backward": [
        Wrong(
            at="dy", becomes=half, type_error=r"dy has dtype float16, expected float32: pass dy\.astype\(x\.dtype\)$"
        ),
        Wrong(at="dy", becomes=longer, value_error=r"dy has shape \(6, 3\), expected \(3, 3\)$"),
    ],
    "nn.WeightNormLinear.backward": [
        Wrong(
            at="out",
            becomes=lambda out: np.zeros((3, 8), np.float32)[:, ::2],
            type_error="out must be C-contiguous; make a copy with numpy",
        ),
    ],
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_says_what_is_wrong(name: str, each: Each) -> None:
    for wrong in each(ERRORS[name]):
        path = tuple(int(key) if key.isdigit() else key for key in wrong.at.split("."))
        makes = wrong.becomes if callable(wrong.becomes) else lambda _, value=wrong.becomes: value
        error = ValueError if wrong.value_error else TypeError
        by = wrong.by or name.removeprefix("nn.").partition(" ")[0].partition(".")[0]
        message = rf"^{by}: {wrong.value_error or wrong.type_error}"
        assert_raises(name, {path: lambda call, path=path, makes=makes: makes(call.get(path))}, error, message)


@pytest.mark.parametrize(
    ("name", "path", "other", "message"),
    [
        ("cosine_norm_backward", ("out",), ("x",), "out would be written, but overlaps x"),
        ("scale_norm_backward", ("out", 1), ("g",), r"out\[1\] would be written, but overlaps g"),
        ("add_layer_norm", ("out", 1), ("residual",), r"out\[1\] would be written, but overlaps residual"),
        ("add_rms_norm_backward", ("out", 0), ("dsum",), r"out\[0\] would be written, but overlaps dsum"),
        (
            "batch_norm_add_relu_backward",
            ("out", 1),
            ("out", 0),
            r"out\[[01]\] would be written, but overlaps out\[[01]\]",
        ),
        ("batch_renorm", ("running_mean",), ("bias",), "running_mean would be written, but overlaps bias"),
        ("group_norm", ("out", 0), ("x",), r"out\[0\] would be written, but overlaps x"),
        ("weight_norm", ("out", 0), ("v",), r"out\[0\] would be written, but overlaps v"),
        ("weight_norm of everything", ("out", 0), ("v",), r"out\[0\] would be written, but overlaps v"),
        ("batch_norm_apply", ("running_var",), ("weight",), "running_var would be written, but overlaps weight"),
        ("batch_norm_backward_apply", ("out",), ("dy",), "out would be written, but overlaps dy"),
        ("nn.CosineLinear", ("out",), ("x",), "out would be written, but overlaps another array"),
    ],
)
def test_overlap_of_results_says_which_arrays(name: str, path: Path, other: Path, message: str) -> None:
    function = INVOCATIONS[name]().call
    named = type(function.__self__).__name__ if hasattr(function, "__self__") else function.__name__
    change = {path: partial(move_into, path, other)}
    assert_raises(name, change, ValueError, rf"^{named}: {message}$")


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(
    "keywords", [{"eps": -1.0}, {"eps": NAN}, {"eps": "x"}, {"dtype": int}, {"dtype": np.float16}, {"dtype": ">f4"}]
)
def test_layers_refuse_what_their_functions_would(name: str, keywords: dict[str, Any]) -> None:
    make = getattr(nn, name)
    counts = (2, 4) if name == "GroupNorm" or "Linear" in name else (4,)
    if keywords.keys() <= inspect.signature(make).parameters.keys():
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: {next(iter(keywords))} must be"):
            make(*counts, **keywords)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.BatchNorm(4, momentum=1.1), r"^BatchNorm: momentum must be in \[0, 1\], got 1.1$"),
        (lambda: nn.BatchNormReLU(4, momentum="x"), r"^BatchNormReLU: momentum must be a number, got 'x'$"),
        (lambda: nn.BatchNorm(4, frozen="no"), r"^BatchNorm: frozen must be a bool, got 'no'$"),
        (
            lambda: nn.BatchNormAddReLU(4, frozen=True, track_running_stats=False),
            r"^BatchNormAddReLU: frozen needs track_running_stats$",
        ),
        (lambda: nn.BatchRenorm(4, r_max=0.5), r"^BatchRenorm: r_max must be finite and >= 1, got 0.5$"),
        (lambda: nn.BatchRenorm(4, d_max=-1), r"^BatchRenorm: d_max must be finite and >= 0, got -1$"),
        (lambda: nn.InstanceNorm(4, momentum=None), r"^InstanceNorm: momentum must be a number, got None$"),  # type: ignore[arg-type]
        (lambda: nn.GroupNorm(4, 6), r"^GroupNorm: num_groups must divide the 6 channels, got 4$"),
        (lambda: nn.GroupNorm(0, 6), r"^GroupNorm: num_groups must divide the 6 channels, got 0$"),
    ],
)
def test_layers_say_what_is_wrong(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
