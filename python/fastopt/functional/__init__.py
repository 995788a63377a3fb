"""The stateless layer: arrays in, arrays out.

Optimizer steps and clipping change their arrays in place.  Normalizations and dropout return new arrays, or fill those that
``out`` gives.

Every function raises before it writes anything: TypeError for dtype and memory layout, ValueError for shape, range and
overlap, with the name of the argument.  Arrays that are written must be C-contiguous (a normalization's result may also have
the memory order of ``x``, and gradients that are clipped any order of their axes); inputs, and gradients of a step, may have any
memory layout.  All functions release the GIL, except optimizer steps and clipping shorter than about a millisecond.
:mod:`fastopt.reference` has the same functions in NumPy, with the same results to the last bit.

Normalizations compute in float32, and in float64 if x is float64; they return their statistics in float64.  With 16-bit inputs,
weights, biases and running statistics are float32; each result is rounded once, to the nearest.

Subnormal numbers (below 1.2e-38 in float32) count as zero, except those of float16, which float32 can hold.
"""

from __future__ import annotations

from .._words import spoken
from . import _updates
from ._activations import activate, activate_backward, linear, linear_backward
from ._batch import (
    batch_norm,
    batch_norm_add_relu,
    batch_norm_add_relu_backward,
    batch_norm_backward,
    batch_norm_relu,
    batch_norm_relu_backward,
    batch_renorm,
    batch_renorm_backward,
)
from ._clip import clip_grad_norm, clip_grad_value
from ._conv import conv2d, conv2d_backward
from ._dropout import (
    channel_dropout,
    channel_dropout_backward,
    dropout,
    dropout_backward,
    gaussian_dropout,
    gaussian_dropout_backward,
)
from ._embedding import embedding, embedding_backward
from ._functions import erf, exp, sigmoid, tanh
from ._groups import group_norm, group_norm_backward, instance_norm, instance_norm_backward
from ._lengths import cosine_norm, cosine_norm_backward, scale_norm, scale_norm_backward
from ._losses import binary_cross_entropy_with_logits, cross_entropy, huber_loss, mse_loss
from ._pool import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from ._rows import (
    add_layer_norm,
    add_layer_norm_backward,
    add_rms_norm,
    add_rms_norm_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from ._shards import (
    batch_norm_apply,
    batch_norm_backward_apply,
    batch_norm_backward_stats,
    batch_norm_stats,
    combine_stats,
)
from ._softmax import log_softmax, log_softmax_backward, softmax, softmax_backward
from ._update import Outcome
from ._updates import *  # noqa: F403  # one function per rule; made by _generate
from ._weights import fold_batch_norm, weight_norm, weight_norm_backward

__all__ = [
    "Outcome",
    "activate",
    "activate_backward",
    "add_layer_norm",
    "add_layer_norm_backward",
    "add_rms_norm",
    "add_rms_norm_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_add_relu",
    "batch_norm_add_relu_backward",
    "batch_norm_apply",
    "batch_norm_backward",
    "batch_norm_backward_apply",
    "batch_norm_backward_stats",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "batch_norm_stats",
    "batch_renorm",
    "batch_renorm_backward",
    "binary_cross_entropy_with_logits",
    "channel_dropout",
    "channel_dropout_backward",
    "clip_grad_norm",
    "clip_grad_value",
    "combine_stats",
    "conv2d",
    "conv2d_backward",
    "cosine_norm",
    "cosine_norm_backward",
    "cross_entropy",
    "dropout",
    "dropout_backward",
    "embedding",
    "embedding_backward",
    "erf",
    "exp",
    "fold_batch_norm",
    "gaussian_dropout",
    "gaussian_dropout_backward",
    "group_norm",
    "group_norm_backward",
    "huber_loss",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "mse_loss",
    "rms_norm",
    "rms_norm_backward",
    "scale_norm",
    "scale_norm_backward",
    "sigmoid",
    "softmax",
    "softmax_backward",
    "tanh",
    "weight_norm",
    "weight_norm_backward",
]

__all__ += _updates.__all__

_ONCE_A_STEP = (
    "binary_cross_entropy_with_logits",
    "clip_grad_norm",
    "clip_grad_value",
    "cross_entropy",
    "huber_loss",
    "mse_loss",
)

for _name in (*_updates.__all__, *_ONCE_A_STEP):  # not the others, whose calls are shorter
    globals()[_name] = spoken(globals()[_name])

for _name in __all__:
    globals()[_name].__module__ = __name__  # pickles keep this name, so that files may move


def __dir__() -> list[str]:
    return sorted(__all__)
