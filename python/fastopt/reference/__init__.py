"""The specification: what every kernel computes, in NumPy, to the last bit.

The same functions as in :mod:`fastopt.functional`, with the same arguments and the same results, as short as they can be
and as slow as they must.  They check nothing and import nothing of fastopt's.
"""

from .norm import batch_norm, batch_norm_backward, layer_norm, layer_norm_backward
from .optim import (
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adamw,
    adan,
    ademamix,
    asgd,
    lamb,
    lars,
    lion,
    muon,
    nadam,
    radam,
    rmsprop,
    rprop,
    schedule_free_adamw,
    schedule_free_sgd,
    sgd,
)

__all__ = [
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "ademamix",
    "asgd",
    "batch_norm",
    "batch_norm_backward",
    "lamb",
    "lars",
    "layer_norm",
    "layer_norm_backward",
    "lion",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
]
