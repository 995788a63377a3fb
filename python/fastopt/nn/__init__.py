"""Layers for hand-written loops: ``y = layer(x)``, then ``dx = layer.backward(dy)``."""

from ._activations import GELU, ReLU, Sigmoid, SiLU, Tanh
from ._batch import BatchNorm, BatchNormAddReLU, BatchNormReLU, BatchRenorm, update_bn
from ._channels import GroupNorm, InstanceNorm
from ._dropout import ChannelDropout, Dropout, GaussianDropout
from ._layer import Layer
from ._linear import CosineLinear, Linear, WeightNormLinear
from ._rows import AddLayerNorm, AddRMSNorm, LayerNorm, RMSNorm, ScaleNorm
from ._sequential import Sequential

__all__ = [
    "GELU",
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
    "Linear",
    "RMSNorm",
    "ReLU",
    "ScaleNorm",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Tanh",
    "WeightNormLinear",
    "update_bn",
]

for _name in __all__:
    globals()[_name].__module__ = __name__  # pickles keep this name, so that files may move


def __dir__() -> list[str]:
    return sorted(__all__)
