"""fastopt for torch: modules, functions, and the state of optimizers in both directions.

:mod:`fastopt.torch.nn` and :mod:`fastopt.torch.functional` have torch's modules and functions by fastopt's kernels.

A run that began with one may continue with the other.  ``load_state_dict`` reads torch's state as it is; :func:`to_torch` makes
one for torch:

.. code-block:: python

    import numpy as np, torch
    import fastopt as fo
    from fastopt.torch import to_torch

    model = torch.nn.Linear(3, 2)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}  # shares torch's memory

    opt = fo.optim.AdamW(weights, lr=0.1)
    opt.step({name: np.ones_like(w) for name, w in weights.items()})

    theirs = torch.optim.AdamW(model.parameters())
    theirs.load_state_dict(to_torch(opt.state_dict()))  # continues where fastopt was
    theirs.step()

    opt.load_state_dict(theirs.state_dict())  # and back again

An optimizer's state does not contain the parameters; in this example both optimizers work on the same ones.

Importing this module does not import torch; calling its functions does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._state import to_torch

if TYPE_CHECKING:
    from . import functional as functional
    from . import nn as nn

__all__ = ["to_torch"]

for _name in __all__:
    globals()[_name].__module__ = __name__

if not TYPE_CHECKING:  # with it, type checkers would accept every name

    def __getattr__(name: str) -> Any:
        """The subpackages are imported when they are first used: they import torch."""
        if name in ("functional", "nn"):
            return importlib.import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
