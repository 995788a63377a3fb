"""torch's optimizers with steps of fastopt's: one class per rule, with torch's names, arguments, defaults and states.

.. code-block:: python

    import torch
    from fastopt.torch import optim

    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    opt = optim.AdamW(model.parameters(), lr=1e-3)

    for _ in range(3):
        opt.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.randn(32, 20)), torch.randint(2, (32,))).backward()
        opt.step(clip_norm=1.0)  # clipping is part of the step's one pass over memory
"""

from . import _classes
from ._classes import *  # noqa: F403
from ._sparse_adam import SparseAdam
from .optimizer import Optimizer

__all__ = ["Optimizer", "SparseAdam", *_classes.__all__]

for _name in __all__:  # pickles and documentation show the public path
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
