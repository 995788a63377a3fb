"""Changing several things in one call that no signal handler interrupts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain, repeat
from typing import Any

import numpy as np


def commit(targets: Iterable[Any], sources: Iterable[Any]) -> None:
    """Copies each source into its target array.

    Python runs signal handlers between bytecodes, and this loop in C over a function in C runs none.
    """
    deque(map(np.ndarray.__setitem__, targets, repeat(...), sources), maxlen=0)


def at_once(*calls: Iterable[Any]) -> None:
    """Runs through iterators in C that call functions in C, such as ``map(dict.update, dicts, others)``, likewise."""
    deque(chain.from_iterable(calls), maxlen=0)
