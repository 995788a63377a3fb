"""The specification: the results of every kernel, to the last bit, from NumPy code.

The functions have the arguments and the results of those in :mod:`fastopt.functional`.  They are written to be short, not fast.
They check nothing and import nothing else of fastopt.
"""

from .activations import activate, activate_backward, linear, linear_backward
from .channels import (
    batch_norm,
    batch_norm_add_relu,
    batch_norm_add_relu_backward,
    batch_norm_apply,
    batch_norm_backward,
    batch_norm_backward_apply,
    batch_norm_backward_stats,
    batch_norm_relu,
    batch_norm_relu_backward,
    batch_norm_stats,
    batch_renorm,
    batch_renorm_backward,
    combine_stats,
)
from .clip import clip_grad_norm, clip_grad_value
from .dropout import (
    channel_dropout,
    channel_dropout_backward,
    dropout,
    dropout_backward,
    gaussian_dropout,
    gaussian_dropout_backward,
)
from .embedding import embedding, embedding_backward
from .functions import erf, exp, sigmoid, tanh
from .groups import (
    group_norm,
    group_norm_backward,
    instance_norm,
    instance_norm_backward,
)
from .images import (
    avg_pool2d,
    avg_pool2d_backward,
    conv2d,
    conv2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from .losses import binary_cross_entropy_with_logits, cross_entropy, huber_loss, mse_loss
from .rows import (
    add_layer_norm,
    add_layer_norm_backward,
    add_rms_norm,
    add_rms_norm_backward,
    cosine_norm,
    cosine_norm_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
    scale_norm,
    scale_norm_backward,
)
from .rules.adagrad import adadelta, adagrad, rmsprop
from .rules.adam import adam, adamax, adamw, adan, ademamix, adopt, lion, nadam, radam
from .rules.factored import adafactor
from .rules.muon import muon
from .rules.schedule_free import schedule_free_adamw, schedule_free_sgd
from .rules.sgd import asgd, rprop, sgd
from .rules.trust import lamb, lars
from .softmax import log_softmax, log_softmax_backward, softmax, softmax_backward
from .weights import (
    fold_batch_norm,
    weight_norm,
    weight_norm_backward,
)

__all__ = [
    "activate",
    "activate_backward",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "add_layer_norm",
    "add_layer_norm_backward",
    "add_rms_norm",
    "add_rms_norm_backward",
    "ademamix",
    "adopt",
    "asgd",
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
    "lamb",
    "lars",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "lion",
    "log_softmax",
    "log_softmax_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "mse_loss",
    "muon",
    "nadam",
    "radam",
    "rms_norm",
    "rms_norm_backward",
    "rmsprop",
    "rprop",
    "scale_norm",
    "scale_norm_backward",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "sigmoid",
    "softmax",
    "softmax_backward",
    "tanh",
    "weight_norm",
    "weight_norm_backward",
]


def __dir__() -> list[str]:
    return sorted(__all__)
