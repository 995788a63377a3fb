"""Puts fastopt's optimizers and functions in the place of torch's, for a whole process."""

from __future__ import annotations

import copyreg
import functools
import inspect
import sys
import types
from abc import ABCMeta
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional
from torch._jit_internal import boolean_dispatched
from torch.jit._builtins import _find_builtin, _register_builtin

from . import functional, optim, utils
from .functional import _choice

FUNCTIONS = ("batch_norm", "cross_entropy", "dropout", "gelu", "group_norm", "layer_norm", "max_pool2d", "rms_norm")
CLIPPING = ("clip_grad_norm_", "clip_grad_value_")
SWAPS = ("clip", "optim", *FUNCTIONS)
OLDEST, NEWEST = (2, 10), (2, 13)  # torch's versions whose functions and classes these are


class Counts:
    """How often what was swapped was called, and how often fastopt took the call."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.left: Counter[str] = Counter()  # optimizers that torch's own class made, as ours could not

    def line(self) -> str:
        """What ran, in one line."""
        parts = [f"{name} {count:,} steps" for name, count in sorted(self.steps.items())]
        parts += [f"{name} {self.taken[name]:,} of {count:,} calls" for name, count in sorted(self.calls.items())]
        parts += [f"{name} left to torch" for name in sorted(self.left)]
        return ", ".join(parts) or "nothing that is swapped ran"

    def as_dict(self) -> dict[str, Any]:
        return {key: dict(sorted(value.items())) for key, value in vars(self).items()}


_undo: list[Callable[[], Any]] = []
counts = Counts()


def patch(only: Iterable[str] | None = None, without: Iterable[str] = ()) -> None:
    """Puts fastopt's optimizers and functions in the place of torch's, in ``torch`` itself.

    From then on ``torch.optim.AdamW(…)`` makes one of fastopt's, and ``torch.nn.functional.dropout``, which ``torch.nn.Dropout`` calls
    too, is that of :mod:`fastopt.torch.functional`.  What was imported by name before, ``from torch.optim import AdamW``, stays torch's;
    so call it first, or let ``fastopt run`` do so.  ``isinstance`` holds, states and pickles load without fastopt, classes that derive
    from torch's optimizers derive from torch's own, and an optimizer that fastopt cannot be, for parameters on another device, for
    example, is torch's own; it becomes that in the middle of a run, too, where a schedule makes its learning rate negative, for example.

    Args:
        only: The swaps that are wanted: ``"optim"``, ``"clip"`` (``torch.nn.utils.clip_grad_norm_`` and ``clip_grad_value_``) and the
            names of functions: ``"batch_norm"``, ``"cross_entropy"``, ``"dropout"``, ``"gelu"``, ``"group_norm"``, ``"layer_norm"``,
            ``"max_pool2d"`` and ``"rms_norm"``; by default all.
        without: Those that are not.

    Raises:
        ValueError: A name is unknown.
        ImportError: torch has a version with which this was not tried: older than 2.10, or newer than 2.13.

    Example:
        >>> import torch, fastopt.torch
        >>> fastopt.torch.patch(only=["optim"])
        >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
        >>> isinstance(optimizer, fastopt.torch.optim.AdamW), isinstance(optimizer, torch.optim.AdamW)
        (True, True)
        >>> fastopt.torch.unpatch()
    """
    wanted = _wanted(only, without)
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    if not OLDEST <= version <= NEWEST:
        raise ImportError(
            f"patch: torch is {torch.__version__}, and fastopt knows 2.10 to 2.13; use fastopt.torch.optim and fastopt.torch.nn"
        )
    unpatch()
    if "optim" in wanted:
        for name in optim.__all__:
            if hasattr(torch.optim, name) and name != "Optimizer":
                original = getattr(torch.optim, name)
                swapped = _swapped_class(getattr(optim, name), original)
                _put(torch.optim, name, swapped)
                _put(sys.modules[original.__module__], name, swapped)
                copyreg.pickle(
                    original, _reduced
                )  # for optimizers that are torch's own, whose class has another's name now
                _undo.append(functools.partial(copyreg.dispatch_table.pop, original, None))
    for name in FUNCTIONS:
        if name in wanted:
            original = getattr(torch.nn.functional, name)
            _put(torch.nn.functional, name, _swapped_function(name, getattr(functional, name), original))
    if "clip" in wanted:
        for name in CLIPPING:
            original = getattr(torch.nn.utils, name)
            swapped = _swapped_function(name, getattr(utils, name), original)
            _put(torch.nn.utils, name, swapped)
            _put(sys.modules["torch.nn.utils.clip_grad"], name, swapped)


def unpatch() -> None:
    """Puts torch's own optimizers and functions back; optimizers that exist go on."""
    while _undo:
        _undo.pop()()


def is_patched() -> bool:
    """Whether fastopt's optimizers or functions are in the place of torch's."""
    return bool(_undo)


def _wanted(only: Iterable[str] | None, without: Iterable[str]) -> set[str]:
    chosen = {}
    for argument, names in (("only", SWAPS if only is None else only), ("without", without)):
        if isinstance(names, str):
            raise TypeError(f"patch: {argument} must be a list of names, got {names!r}")
        chosen[argument] = set(names)
        if unknown := sorted(chosen[argument] - set(SWAPS)):
            raise ValueError(
                f"patch: {argument} must have names of {', '.join(SWAPS)}; got {', '.join(map(repr, unknown))}"
            )
    return chosen["only"] - chosen["without"]


def _put(module: Any, name: str, value: Any) -> None:
    before = getattr(module, name)
    setattr(module, name, value)
    _undo.append(lambda: setattr(module, name, before))


# torch.jit knows functions by their id for good, so one that it was told of must never be freed: another object would inherit it.
@functools.cache
def _swapped_function(name: str, ours: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    taken = _choice.taken

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(*args, **kwargs)
        counts.calls[name] += 1
        before = taken[0]
        result = ours(*args, **kwargs)
        counts.taken[name] += taken[0] - before
        return result

    # For pickle, and for torch.jit.script, which compiles torch's own instead.
    function.__module__ = "torch.nn.utils.clip_grad" if name in CLIPPING else "torch.nn.functional"
    function.__qualname__ = name
    del function.__wrapped__
    function.__prepare_scriptable__ = lambda: original  # type: ignore[attr-defined]
    if operator := _find_builtin(original):
        _register_builtin(function, operator)
    if original in boolean_dispatched:
        boolean_dispatched[function] = boolean_dispatched[original]
    return function


class _Swapped(ABCMeta):
    """The type of optimizers in torch's place.  Only they themselves are fastopt's: a class that derives from one derives from torch's."""

    original: type

    def __new__(cls, name: str, bases: tuple[type, ...], names: Mapping[str, Any], **kwargs: Any) -> Any:
        if any(isinstance(base, _Swapped) for base in bases):
            bases = tuple(base.original if isinstance(base, _Swapped) else base for base in bases)
            return types.new_class(name, bases, kwargs, lambda body: body.update(names))
        return super().__new__(cls, name, bases, dict(names), **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.original)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.original)


_METHODS = ("add_param_group", "load_state_dict", "state_dict", "__getstate__", "__setstate__")
_MAKING = "_is_being_made"  # an attribute of optimizers that a constructor has not finished


@contextmanager
def _becoming(self: Any, original: Any) -> Iterator[None]:
    """Makes an optimizer of ours torch's own, with the state that it has; it stays ours if what is done then fails, too."""
    before = type(self), dict(vars(self))
    state = defaultdict[Any, Any](dict)
    for param, entries in self.state.items():
        if entries:
            state[param] = {key: _as_torchs(key, one, param) for key, one in entries.items()}
    self.__class__ = original
    vars(self)["state"] = state
    self._patch_step_function()  # as its constructor does
    try:
        yield
    except BaseException:
        self.__class__ = before[0]
        vars(self).clear()
        vars(self).update(before[1])
        raise
    counts.left[original.__name__] += 1


def _reduced(optimizer: Any) -> Any:
    """An optimizer for pickle, under the name of torch's class, which is ours or, after unpatch(), torch's own."""
    original = type(optimizer).original if isinstance(type(optimizer), _Swapped) else type(optimizer)
    named = getattr(sys.modules[original.__module__], original.__name__)
    return object.__new__, (named,), optimizer.__getstate__()


def _as_torchs(key: str, value: Any, param: Any) -> Any:
    """A copy of an entry of a state, in the dtype that torch's optimizers keep it in."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.clone() if key == "step" or not param.is_floating_point() else value.to(param.dtype, copy=True)


def _swapped_class(ours: Any, original: Any) -> Any:
    name = original.__name__

    def __init__(self: Any, params: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is not swapped:  # a class that derives from torch's, and calls this one by its name
            original.__init__(self, params, *args, **kwargs)
            return
        # Generators are needed twice; torch too changes the groups that it is given.
        params = params if isinstance(params, torch.Tensor | Mapping) else list(params)
        groups = [one for one in params if isinstance(one, dict)] if isinstance(params, list) else []
        for group in groups:
            if "params" in group and not isinstance(group["params"], torch.Tensor | list | set):
                group["params"] = list(group["params"])
        before = [dict(group) for group in groups]
        try:
            vars(self)[_MAKING] = True
            ours.__init__(self, params, *args, **kwargs)
            del vars(self)[_MAKING]
        except (ImportError, TypeError, ValueError):
            for group, entries in zip(groups, before, strict=True):
                group.clear()
                group.update(entries)
            vars(self).clear()
            self.__class__ = original
            original.__init__(self, params, *args, **kwargs)  # raises where the arguments are wrong
            counts.left[name] += 1

    # torch wraps this class's step in hooks itself, so those that are called here must have none.
    own_step, torch_step = inspect.unwrap(ours.step), original.step
    if getattr(torch_step, "hooked", False):
        torch_step = torch_step.__wrapped__

    @functools.wraps(own_step)
    def step(self: Any, closure: Any = None, **options: Any) -> Any:
        if type(self) is not swapped:
            return original.step(self, closure, **options)
        counts.steps[name] += 1
        if options:  # they are fastopt's
            return own_step(self, closure, **options)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            own_step(self)
        except (TypeError, ValueError):  # nothing has been changed
            with _becoming(self, original):
                torch_step(self)
            counts.steps[name] -= 1
        return loss

    def method_of(key: str) -> Callable[..., Any]:
        own, theirs = getattr(ours, key), getattr(original, key)

        @functools.wraps(own)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if type(self) is not swapped:
                return theirs(self, *args, **kwargs)
            if _MAKING in vars(self):
                return own(self, *args, **kwargs)
            try:
                return own(self, *args, **kwargs)
            except (TypeError, ValueError):
                if key not in ("add_param_group", "load_state_dict"):
                    raise
                with _becoming(self, original):
                    return theirs(self, *args, **kwargs)

        del method.__wrapped__
        return method

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        return _reduced(self)

    def share_memory(self: Any) -> None:  # Adagrad's: processes update one state, which ours cannot
        if type(self) is not swapped:
            original.share_memory(self)
            return
        with _becoming(self, original):
            original.share_memory(self)

    names = {
        "__init__": __init__,
        "step": step,
        **{key: method_of(key) for key in _METHODS},
        **({"share_memory": share_memory} if hasattr(original, "share_memory") else {}),
        "__reduce_ex__": __reduce_ex__,
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__signature__": inspect.signature(original),
        "original": original,
    }
    swapped: Any = _Swapped(name, (ours, original), names)
    return swapped
