"""Layers for hand-written loops: ``y = layer(x)``, then ``dx = layer.backward(dy)``."""

from ._activations import GELU, ReLU, Sigmoid, SiLU, Tanh
from ._batch import BatchNorm, BatchNormAddReLU, BatchNormReLU, BatchRenorm, update_bn
from ._channels import GroupNorm, InstanceNorm
from ._dropout import ChannelDropout, Dropout, GaussianDropout
from ._embedding import Embedding
from ._images import AvgPool2d, Conv2d, Flatten, MaxPool2d
from ._layer import Layer
from ._linear import CosineLinear, Linear, WeightNormLinear
from ._rows import AddLayerNorm, AddRMSNorm, LayerNorm, RMSNorm, ScaleNorm
from ._sequential import Sequential

__all__ = [
    "GELU",
    "AddLayerNorm",
    "AddRMSNorm",
    "AvgPool2d",
    "BatchNorm",
    "BatchNormAddReLU",
    "BatchNormReLU",
    "BatchRenorm",
    "ChannelDropout",
    "Conv2d",
    "CosineLinear",
    "Dropout",
    "Embedding",
    "Flatten",
    "GaussianDropout",
    "GroupNorm",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
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
