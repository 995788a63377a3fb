"""fastopt for programs with torch.

- :mod:`fastopt.torch.optim`: torch's optimizers, with steps of fastopt's.
- :mod:`fastopt.torch.nn` and :mod:`fastopt.torch.functional`: normalization, dropout, GELU, max pooling and cross entropy.
- :func:`accelerate` makes an existing model and its optimizer use them, and :func:`restore` undoes it.
- :func:`patch` puts them in torch's place for a whole process; ``fastopt run script.py`` does so for an unmodified script.
- :func:`to_torch` converts states of :mod:`fastopt.optim`, which works on NumPy arrays, and whose ``load_state_dict`` reads torch's.

.. code-block:: python

    import torch
    import fastopt.torch

    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.LayerNorm(64), torch.nn.GELU(), torch.nn.Linear(64, 2))
    optimizer = fastopt.torch.optim.AdamW(model.parameters(), lr=1e-3)
    fastopt.torch.accelerate(model)

    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.randn(32, 20)), torch.randint(2, (32,))).backward()
        optimizer.step(clip_norm=1.0)  # clipping is part of the step

Importing this module does not import torch; using it does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._state import to_torch

if TYPE_CHECKING:
    from . import functional, nn, optim, utils
    from ._accelerate import accelerate, restore, swapped
    from ._patch import counts, is_patched, patch, unpatch

_MODULES = ("functional", "nn", "optim", "utils")
_PLACES = {
    **dict.fromkeys(("accelerate", "restore", "swapped"), "_accelerate"),
    **dict.fromkeys(("counts", "is_patched", "patch", "unpatch"), "_patch"),
}

__all__ = [
    "accelerate",
    "counts",
    "functional",
    "is_patched",
    "nn",
    "optim",
    "patch",
    "restore",
    "swapped",
    "to_torch",
    "unpatch",
    "utils",
]

to_torch.__module__ = __name__


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first used."""
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    if callable(value):
        value.__module__ = __name__
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
