"""The locks of optimizers, which a forked child needs anew."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_every: weakref.WeakSet[Any] = weakref.WeakSet()


def lock_of(optimizer: Any) -> threading.RLock:
    """A new lock for ``optimizer._lock``."""
    _every.add(optimizer)
    return threading.RLock()


def _unlock() -> None:
    """In a forked child: a thread that held a lock does not exist here."""
    for optimizer in _every:
        optimizer._lock = threading.RLock()


os.register_at_fork(after_in_child=_unlock)
