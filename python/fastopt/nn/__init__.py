"""Layers for hand-written loops: ``y = layer(x)``, then ``dx = layer.backward(dy)``."""

from ._dropout import ChannelDropout, Dropout, GaussianDropout
from ._layer import Layer
from ._linear import CosineLinear, WeightNormLinear
from ._norm import (
    AddLayerNorm,
    AddRMSNorm,
    BatchNorm,
    BatchNormAddReLU,
    BatchNormReLU,
    BatchRenorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    RMSNorm,
    update_bn,
)

__all__ = [
    "AddLayerNorm",
    "AddRMSNorm",
    "BatchNorm",
    "BatchNormAddReLU",
    "BatchNormReLU",
    "BatchRenorm",
    "ChannelDropout",
    "CosineLinear",
    "Dropout",
    "GaussianDropout",
    "GroupNorm",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "RMSNorm",
    "WeightNormLinear",
    "update_bn",
]

for _name in __all__:
    globals()[_name].__module__ = __name__  # the name that pickles keep, so that files may move


def __dir__() -> list[str]:
    return sorted(__all__)
