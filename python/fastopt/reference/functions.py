"""Elementary functions of every element."""

from __future__ import annotations

from typing import Any

from . import _functions
from ._arithmetic import flushed
from ._norm import into


def _into(out: Any, y: Any) -> Any:
    (result,) = into(None if out is None else (out,), y)
    return result


def exp(x: Any, *, out: Any = None) -> Any:
    """The specification of :func:`fastopt.functional.exp`."""
    return _into(out, _functions.exp(flushed(x)))


def erf(x: Any, *, out: Any = None) -> Any:
    """The specification of :func:`fastopt.functional.erf`."""
    return _into(out, _functions.erf(flushed(x)))


def tanh(x: Any, *, out: Any = None) -> Any:
    """The specification of :func:`fastopt.functional.tanh`."""
    return _into(out, _functions.tanh(flushed(x)))


def sigmoid(x: Any, *, out: Any = None) -> Any:
    """The specification of :func:`fastopt.functional.sigmoid`."""
    return _into(out, _functions.sigmoid(flushed(x)))
