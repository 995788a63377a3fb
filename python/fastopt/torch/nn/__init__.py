"""torch's modules of normalization, dropout, GELU, max pooling and cross entropy, by fastopt's kernels.

Each is a subclass of torch's class of the same name: ``isinstance`` holds, arguments and the names in ``state_dict`` are the same, and
``from_torch(module)`` makes one of a module that exists, with its parameters, buffers and hooks.

.. code-block:: python

    import torch
    from fastopt.torch import nn

    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3), nn.BatchNormReLU(64), torch.nn.Flatten(), nn.Dropout(0.1), torch.nn.Linear(64 * 30 * 30, 10)
    )
    loss = nn.CrossEntropyLoss()(model(torch.randn(32, 3, 32, 32)), torch.randint(10, (32,)))
    loss.backward()

When a module calls torch's own function, and what differs, is in ``docs/torch_modules.md``.  Needs torch 2.10 or newer; tested with 2.13.
"""

try:
    from ._modules import (
        GELU,
        BatchNorm1d,
        BatchNorm2d,
        BatchNorm3d,
        BatchNormReLU,
        CrossEntropyLoss,
        Dropout,
        GroupNorm,
        LayerNorm,
        MaxPool2d,
        RMSNorm,
    )
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("fastopt.torch.nn needs torch, which is not installed: pip install torch") from None

__all__ = [
    "GELU",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormReLU",
    "CrossEntropyLoss",
    "Dropout",
    "GroupNorm",
    "LayerNorm",
    "MaxPool2d",
    "RMSNorm",
]

for _name in __all__:
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
