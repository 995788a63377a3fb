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
