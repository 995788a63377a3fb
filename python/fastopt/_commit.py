"""Changing several things in one call that no signal handler interrupts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain, repeat
from typing import Any

import numpy as np


def commit(targets: Iterable[Any], sources: Iterable[Any]) -> None:
    """Copies each source into its target array.

    Python runs signal handlers between bytecodes only.  This loop runs in C and calls a function in C, so that no handler runs
    in it.
    """
    deque(map(np.ndarray.__setitem__, targets, repeat(...), sources), maxlen=0)


def at_once(*calls: Iterable[Any]) -> None:
    """Exhausts iterators that call functions in C, such as ``map(dict.update, dicts, others)``; no signal handler runs meanwhile."""
    deque(chain.from_iterable(calls), maxlen=0)
