"""On and off: what calls and blocks want, and which of scikit-learn's names are replaced."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from .._words import used
from ._fit import Theirs, backprop, fit_stochastic, rows_of, update_params

# The versions of scikit-learn in which the private parts that are used here are known.
OLDEST, NEWEST = (1, 6), (1, 9)

_USAGE = (
    "it takes no model, as it reaches every MLPClassifier and MLPRegressor of this process: write with accelerate(): model.fit(X, y), "
    "or accelerate() once and restore() afterwards; for torch there is fastopt.torch.accelerate(model)"
)


class Accelerated:
    """What :func:`accelerate` returns: as a context, it takes back what the call did when the block ends."""

    def __init__(self) -> None:
        self._called: int | None = _switch.call()  # the era of a call that no block has taken over yet
        self._blocks: list[int] = []  # the eras of the blocks that have begun

    def __enter__(self) -> Accelerated:
        called, self._called = self._called, None
        self._blocks.append(_switch.enter(called))
        return self

    def __exit__(self, *_: object) -> None:
        _switch.leave(self._blocks.pop())


@used(_USAGE)
def accelerate() -> Accelerated:
    """Makes scikit-learn's ``MLPClassifier`` and ``MLPRegressor`` train with fastopt, in this process.

    Estimators that exist already are accelerated too.  After ``accelerate()`` it is so until ``restore()``; in ``with
    accelerate():`` until the block ends, unless an outer block or an earlier call keeps it so.  Further calls change nothing.

    Returns:
        A context, which may be ignored.

    Raises:
        ImportError: scikit-learn is not installed.

    Warns:
        RuntimeWarning: The version of scikit-learn is not one of 1.6 to 1.9; nothing is changed then.

    Example:
        >>> import fastopt.sklearn
        >>> with fastopt.sklearn.accelerate():
        ...     fastopt.sklearn.is_accelerated()
        True
        >>> fastopt.sklearn.is_accelerated()
        False
    """
    return Accelerated()


@used("it takes no model, as it ends what accelerate() did for all of them")
def restore() -> None:
    """Makes scikit-learn's estimators its own again, whatever calls and blocks have accelerated them.

    Example:
        >>> import fastopt.sklearn
        >>> _ = fastopt.sklearn.accelerate()
        >>> fastopt.sklearn.restore()
        >>> fastopt.sklearn.is_accelerated()
        False
    """
    _switch.off()


def is_accelerated() -> bool:
    """Whether a fit that begins now would train with fastopt."""
    return _switch.is_on


class _Switch:
    """Counts the calls and blocks that want acceleration, and replaces names of scikit-learn's while there are any.

    The two methods whose work a fit takes over stay replaced until the last fit has ended.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._lock = Lock()
        self._calls = self._blocks = 0
        self._underway = 0  # fits
        self.fits = 0  # how many have begun
        self._era = 0  # number of calls of off(): what was counted before one of them counts no more
        self._theirs: Theirs
        self._names, self._methods = _Replacement(), _Replacement()

    def call(self) -> int:
        """Counts a call; returns the era."""
        with self._lock:
            self._put_on()
            self._calls += 1
            return self._era

    def enter(self, called: int | None) -> int:
        """Counts a block, in place of its call where there is one; returns the era."""
        with self._lock:
            if called == self._era:
                self._calls -= 1
            else:  # the call was taken back, or this is another block of the same call
                self._put_on()
            self._blocks += 1
            return self._era

    def leave(self, era: int) -> None:
        """Ends a block."""
        with self._lock:
            if era == self._era:
                self._blocks -= 1
                if not self._calls + self._blocks:
                    self._take_off()

    def off(self) -> None:
        """Ends all blocks, and takes back all calls."""
        with self._lock:
            self._era += 1
            self._calls = self._blocks = 0
            self._take_off()

    def _put_on(self) -> None:
        if self.is_on:
            return
        try:
            import sklearn
        except ImportError:
            raise ImportError(
                "accelerate: scikit-learn is not installed; pip install 'fastopt[sklearn]' installs it"
            ) from None
        if not OLDEST <= tuple(map(int, sklearn.__version__.split(".")[:2])) <= NEWEST:
            oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
            warnings.warn(
                f"accelerate: fastopt knows scikit-learn {oldest} to {newest}, and this is {sklearn.__version__}; "
                "its estimators train as they always do",
                RuntimeWarning,
                stacklevel=6,
            )
            return
        if not self._underway:
            self._theirs = Theirs()
        theirs = self._theirs
        self._put_methods()
        loop = fit_stochastic(theirs, lambda: self.is_on, self._running)
        self._names.put(theirs.base, "_fit_stochastic", theirs.loop, loop)
        self._names.put(theirs.perceptron, "_safe_indexing", theirs.rows, rows_of(theirs.rows))
        self.is_on = True

    def _put_methods(self) -> None:
        theirs = self._theirs
        if not self._methods.are_there:
            self._methods.put(theirs.base, "_backprop", theirs.backprop, backprop(theirs))
            self._methods.put(theirs.optimizer, "update_params", theirs.update_params, update_params(theirs))

    def _take_off(self) -> None:
        self._names.take_back()
        self.is_on = False
        if not self._underway:
            self._methods.take_back()

    @contextmanager
    def _running(self) -> Iterator[list[Callable[..., Any]]]:
        """Counts a fit; gives what takes the place of the two methods."""
        with self._lock:
            self.fits += 1
            self._underway += 1
            self._put_methods()
        try:
            yield self._methods.values
        finally:
            with self._lock:
                self._underway -= 1
                if not self._underway + self.is_on:
                    self._methods.take_back()


class _Replacement:
    """What has been put in the place of attributes; somebody else's that came there since is left alone."""

    def __init__(self) -> None:
        self._places: list[tuple[Any, str, Any]] = []  # owner, name, value before
        self.values: list[Callable[..., Any]] = []

    @property
    def are_there(self) -> bool:
        return bool(self.values)

    def put(self, owner: Any, name: str, before: Any, value: Callable[..., Any]) -> None:
        self._places.append((owner, name, before))
        self.values.append(value)
        setattr(owner, name, value)

    def take_back(self) -> None:
        for (owner, name, before), value in zip(self._places, self.values, strict=True):
            if vars(owner)[name] is value:
                setattr(owner, name, before)
        self._places, self.values = [], []


_switch = _Switch()
