"""The base of the optimizers for torch."""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from operator import is_not
from typing import Any, ClassVar

import torch
from torch._C._autograd import _profiler_enabled
from torch._compile import _disable_dynamo
from torch.optim.optimizer import _global_optimizer_post_hooks as _after
from torch.optim.optimizer import _global_optimizer_pre_hooks as _before

from ... import optim
from ..._words import expect_keywords, speak, unknown_hyperparameter
from .._differences import ALWAYS_THERE
from .._tensors import exchange_table
from . import _backward
from ._locks import lock_of
from ._part import Part, expect_disjoint, expect_usable, labels, plain
from ._state import Entries, Note, State, extra_of, hold, let_go, noted, numbered, renamed

# Arguments of torch's optimizers that choose one of their implementations.
FLAGS = ("foreach", "capturable", "differentiable", "fused")
FOREIGN = ("learning_rate", "epsilon", "beta_1", "beta_2")  # keys of groups that no caller has for something else
FORMATS = ("weights", "moments", "moment_rounding")


# Called by its name, not by super(): a class may have one of torch's optimizers as a further base.
_Base = torch.optim.Optimizer


class Optimizer(torch.optim.Optimizer):
    """An optimizer of torch's whose steps fastopt takes.

    Its arguments, groups and states are torch's, and what works with an optimizer of torch's works with it: hooks, closures,
    schedulers, ``GradScaler``, ``state_dict`` in both directions, ``add_param_group``, copies, pickles, and sparse gradients.
    A group has fastopt's further hyperparameters too, see :class:`fastopt.optim.Optimizer`.

    Parameters are updated in place.  They are on the CPU, in float32, float64, float16 or bfloat16, and contiguous in some
    order of their axes, such as ``channels_last``; Adafactor and Muon, which look at rows and columns, want the usual order.
    ``foreach``, ``capturable`` and ``fused`` have no effect.

    ``in_backward=True`` steps each parameter as soon as ``backward`` has its gradient, while it is in cache, and sets the gradient
    to ``None``: the gradients of a model never exist all at once.  ``step`` does nothing then but call its closure.  A parameter is
    stepped by the optimizer that was made for it last.

    ``amp_scaling=True`` lets ``GradScaler`` hand over its factor and what it found instead of unscaling the gradients in a pass
    of its own.  (Lightning refuses to clip gradients then.)
    """

    state: Any
    rule: ClassVar[Any]  # fastopt's class
    only_sparse: ClassVar[str] = ""  # the error where a gradient is dense; empty if it may be

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        speak(cls)

    def __init__(
        self, params: Any, defaults: dict[str, Any], *, in_backward: bool = False, amp_scaling: bool = False
    ) -> None:
        exchange_table()
        name = self.rule.__name__
        if defaults.get("differentiable"):
            raise ValueError(f"{name}: differentiable=True is not supported; use torch.optim.{name}")
        for flag, value in (("in_backward", in_backward), ("amp_scaling", amp_scaling)):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: {flag} must be a bool, got {value!r}")
        if in_backward and amp_scaling:
            raise ValueError(f"{name}: in_backward and amp_scaling exclude each other: no step waits for the scaler")
        self.rule([], **{key: plain(name, key, value) for key, value in defaults.items() if key not in FLAGS})
        self._in_backward, self._amp_scaling = in_backward, amp_scaling
        self._extra: Mapping[str, Any] = {}
        self._set_up()
        _Base.__init__(self, params, defaults)
        self._own_state()
        if amp_scaling:
            self._step_supports_amp_scaling = True
        if name in ALWAYS_THERE and not in_backward:
            self._parts += self._made()

    def _set_up(self) -> None:
        self._lock, self._changed = lock_of(self), [False]
        self._parts: list[Part] = []
        self._part_of: dict[torch.Tensor, Part] = {}
        self._place_of: dict[torch.Tensor, _backward.Place] = {}
        self._info: optim.StepInfo | None = None
        self._notes: dict[torch.Tensor, Note] = {}

    @property
    def _keys(self) -> tuple[str, ...]:
        return tuple(key for key in self.defaults if key not in FLAGS)

    def _own_state(self) -> State:
        """The state, as one that tells about changes."""
        state = self.state
        if type(state) is not State or state.changed is not self._changed:
            self.state = state = State(state, self._changed)
            self._changed[0] = True
        return state

    # Groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, see :meth:`torch.optim.Optimizer.add_param_group`.

        Raises:
            TypeError: A parameter is not on the CPU, or has a wrong dtype or memory layout.
            ValueError: A hyperparameter is out of range, or unknown.
        """
        with warnings.catch_warnings():  # of duplicate parameters; they are an error here
            warnings.simplefilter("ignore")
            self._keep_extra()
            _Base.add_param_group(self, param_group)
        name, group = self.rule.__name__, self.param_groups[-1]
        try:
            if len(set(group["params"])) != len(group["params"]):
                raise ValueError(f"{name}: a group has a parameter twice; it would take two steps at a time")
            for key in group.keys() - {*self._keys, *FLAGS}:  # others are the caller's, as in torch
                if key in FOREIGN or get_close_matches(str(key), self._keys, 1, 0.85):
                    raise ValueError(unknown_hyperparameter(f"{name}: in a group", str(key), self._keys))
            for label, param in zip(labels(self.param_groups)[-len(group["params"]) :], group["params"], strict=False):
                expect_usable(name, label, param)
            expect_disjoint(name, [param for one in self.param_groups for param in one["params"]])
            self.rule([], **{key: plain(name, key, group[key]) for key in self._keys})
        except BaseException:
            self.param_groups.pop()
            raise
        self._parts = []
        if self._in_backward:
            for param in group["params"]:
                _backward.hook(self, param)

    # The step

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Calls the hooks around a step, as torch's function of this name does, and records the step only where a profiler runs."""
        recorded = torch.optim.Optimizer.profile_hook_step(func)

        @functools.wraps(func)
        def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return _not_compiled(func, self, *args, **kwargs)
            # A schedule has kept this method of one that became torch's, see patch().
            if not isinstance(self, Optimizer):
                return func(self, *args, **kwargs)
            try:
                if _before or _after or self._has_hooks() or _profiler_enabled():
                    return recorded(self, *args, **kwargs)
                out = func(self, *args, **kwargs)
            except TypeError:
                expect_keywords(self.rule.__name__, func, kwargs)
                raise
            self._optimizer_step_code()
            return out

        return step

    def _has_hooks(self) -> bool:
        return bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks)

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        grad_scale: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clip_param_norm: float | None = None,
        clip_adaptive: float | None = None,
        skip_nonfinite: bool = False,
        zero_grads: bool = False,
    ) -> Any:
        """Takes a step; clipping, unscaling and zeroing are part of its one pass over memory.

        Args:
            closure: Computes the loss anew, and its gradients.
            grad_scale: The factor by which the loss was multiplied.
            clip_norm: Largest norm of all gradients together, as :func:`torch.nn.utils.clip_grad_norm_` clips; the gradients
                themselves stay.  ``math.inf`` clips nothing, and ``opt.info.grad_norm`` is there.
            clip_value: Largest absolute value of an element.
            clip_param_norm: Largest norm of each gradient by itself.
            clip_adaptive: Largest norm of each row of a gradient, relative to that of the weights.
            skip_nonfinite: Take no step where a gradient has an infinity or NaN.
            zero_grads: Set the gradients to zero afterwards.

        Returns:
            The closure's result, or ``None``.  ``opt.info`` has the step's count, the gradients' norm, and whether it was skipped.

        Raises:
            TypeError: A gradient is not on the CPU, or has a wrong dtype or layout.
            ValueError: An option or a hyperparameter is out of range.  Nothing has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        options: dict[str, Any] = {}
        name = self.rule.__name__
        if (grad_scale, skip_nonfinite, zero_grads) != (1.0, False, False) or not (
            clip_norm is clip_value is clip_param_norm is clip_adaptive is None
        ):
            options = dict(
                grad_scale=plain(name, "grad_scale", grad_scale),
                clip_norm=plain(name, "clip_norm", clip_norm),
                clip_value=plain(name, "clip_value", clip_value),
                clip_param_norm=plain(name, "clip_param_norm", clip_param_norm),
                clip_adaptive=plain(name, "clip_adaptive", clip_adaptive),
                skip_nonfinite=skip_nonfinite,
                zero_grads=zero_grads,
            )
        if self._in_backward:
            if options:
                raise ValueError(
                    f"{self.rule.__name__}: step takes no options with in_backward=True, as the steps have been taken already; make the optimizer without it"
                )
            self._hook_all()
            return loss
        if self._amp_scaling:
            found, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
            if scale is not None:
                options["grad_scale"] = options.get("grad_scale", 1.0) * float(scale)
            if found is not None and float(found):
                return loss
        with self._lock:
            self._info = self._take(options)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Sets the gradients to ``None``, see :meth:`torch.optim.Optimizer.zero_grad`.

        Args:
            set_to_none: Whether to do so, and not to set them to zero; ``step(zero_grads=True)`` does that in its pass over them.
        """
        if not set_to_none or _profiler_enabled() or torch.compiler.is_compiling():
            _Base.zero_grad(self, set_to_none)  # records itself by name, and cannot be compiled
            return
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    @property
    def info(self) -> optim.StepInfo | None:
        """The outcome of the last step, see :class:`fastopt.optim.StepInfo`."""
        return self._info

    def _take(self, options: Mapping[str, Any]) -> optim.StepInfo:
        info = self._ready()[0].step(options)
        if info is None:  # parameters have changed
            self._remake()
            info = self._parts[0].step(options)
        if info is None:
            raise RuntimeError(f"{self.rule.__name__}: another thread is changing the parameters")
        return info

    def _remake(self) -> None:
        self._keep_extra()
        self._parts = self._made()

    def _made(self) -> list[Part]:
        """New parts for the present parameters and state."""
        name, state, keys = self.rule.__name__, self._own_state(), self._keys
        for group in self.param_groups:
            for key in keys:
                group.setdefault(key, self.defaults[key])
        every = labels(self.param_groups)
        if self._in_backward:  # a part for each parameter
            pairs = [(group, param) for group in self.param_groups for param in group["params"]]
            split: list[Any] = [
                ([(group, [param])], [label], [{"params": [param]}])
                for label, (group, param) in zip(every, pairs, strict=True)
            ]
        else:
            split = [([(group, list(group["params"])) for group in self.param_groups], every, self.param_groups)]
        parts = [
            Part(name, self.rule, groups, own, watched, state, keys, self._extra, self._notes, self.only_sparse, first)
            for first, (groups, own, watched) in enumerate(split)
        ]
        self._part_of = {param: part for part in parts for param in part.params} if self._in_backward else {}
        self._place_of = {
            param: (group, i)
            for group, one in enumerate(self.param_groups if self._in_backward else [])
            for i, param in enumerate(one["params"])
        }
        self._changed[0] = False
        return parts

    def _ready(self) -> list[Part]:
        """The parts, as the present parameters and state need them."""
        if self._changed[0] or not self._parts or self.state is not self._parts[0]._state:
            self._remake()
        elif not self._in_backward:
            (part,), groups = self._parts, self.param_groups
            if part.watched is not groups or any(map(is_not, groups, part.groups)):
                self._remake()
        return self._parts

    # In backward

    def _is_in_place(self, param: torch.Tensor) -> bool:
        """Whether a parameter is still where it was in the groups."""
        part = self._part_of.get(param)
        return part is not None and _backward.is_at(self._place_of[param], param, self.param_groups, part.groups[0])

    def _hook_all(self) -> None:
        """Hooks the parameters that need gradients only by now, and steps those that have one."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.requires_grad and not _backward.is_hooked(param):
                    _backward.hook(self, param)
                    if param.grad is not None:
                        self._step_now(param)

    def _step_now(self, param: torch.Tensor) -> None:
        """Steps one parameter whose gradient is complete."""
        with self._lock:
            self._ready()
            if not self._is_in_place(param):
                if not any(param is one for one in self._params):  # it was taken out of its group
                    return
                self._remake()
            info = self._part_of[param].step({})
            if info is None:
                self._remake()
                info = self._part_of[param].step({})
            self._info = info
        param.grad = None

    # Averages and modes

    def swap_ema(self) -> None:
        """Exchanges the parameters with their averages, see :meth:`fastopt.optim.Optimizer.swap_ema`."""
        self._for_all("swap_ema")

    @contextmanager
    def using_ema(self) -> Iterator[None]:
        """The parameters are their averages as long as the context lasts."""
        self.swap_ema()
        try:
            yield
        finally:
            self.swap_ema()

    def _for_all(self, method: str) -> None:
        with self._lock:
            if any(part.swapped for part in self._parts):  # whatever has changed: first the weights come back
                parts = self._parts
                for part in parts:
                    if part.swapped:
                        part.expect_returnable()
            else:
                parts = self._ready()
                placed = all(self._is_in_place(param) for param in self._params) if self._in_backward else True
                if not (
                    placed and len(self._part_of) in (0, len(self._params)) and all(part.is_current() for part in parts)
                ):
                    self._remake()
                    parts = self._parts
            for part in parts:
                part.settle()
            if method == "swap_ema":  # those without averages stay; if none has one, the first one says so
                parts = [part for part in parts if part.optimizer._has_averages()] or parts
            for part in parts:
                part.apply(method)

    # State

    @property
    def _params(self) -> list[torch.Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def _keep_extra(self) -> None:
        """Notes what the state has beside the parameters' entries."""
        if self._parts:
            if not self._changed[0] and self.state is self._parts[0]._state:
                for part in self._parts:
                    part.settle_if_possible()
            extras = [part.extra() for part in self._parts]
            self._extra = extras[0][0]
            self._notes = {param: note for _, notes in extras for param, note in notes.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state, in torch's form: torch's optimizer of this name loads it, without fastopt too.

        Its further entry ``"fastopt"`` is what only fastopt needs.
        """
        with self._lock:
            self._keep_extra()
            found = _Base.state_dict(self)
        state = {key: renamed(one) if isinstance(one, Entries) else one for key, one in found["state"].items()}
        extra = {"class": self.rule.__name__, **self._extra, **numbered(self._notes, self._params)}
        return {**found, "state": state, "fastopt": extra}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads a state of this optimizer or of torch's of this name; its tensors are copied.

        ``weights``, ``moments`` and ``moment_rounding`` stay as they are, and a state in other formats is converted.  Hyperparameters
        that the state does not have stay too, as torch's does not have fastopt's.

        Raises:
            TypeError: An entry of the state has a wrong type or dtype.
            ValueError: Groups, parameters or shapes differ, an entry or hyperparameter is unknown or out of range, the state is that of
                another optimizer, or the parameters are swapped for their averages.  Nothing has been changed then.
        """
        name = self.rule.__name__
        extra = extra_of(name, state_dict)
        if extra.get("class", name) != name:
            raise ValueError(f"{name}: state_dict is that of {extra['class']}")
        with self._lock:
            for part in self._parts:
                part.expect_unswapped()
            before = {
                key: vars(self)[key]
                for key in ("state", "param_groups", "_extra", "_notes", "_parts", "_part_of", "_place_of")
            }
            handle = self.register_load_state_dict_pre_hook(hold)
            try:
                _Base.load_state_dict(self, dict(state_dict))
                every = zip(self.param_groups, before["param_groups"], state_dict["param_groups"], strict=True)
                for group, own, saved in every:
                    group.update(
                        (key, own[key]) for key in self._keys if key in own and (key in FORMATS or key not in saved)
                    )
                numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
                self._extra = dict(extra)
                self._notes = noted(self._extra, dict(zip(numbers, self._params, strict=True)))
                self._parts = self._made()
            except BaseException:
                self.__dict__.update(before)
                raise
            finally:
                handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            self._keep_extra()
        extra = {**self._extra, **numbered(self._notes, self._params)}
        own = {"_in_backward": self._in_backward, "_amp_scaling": self._amp_scaling, "_extra": extra}
        return {**_Base.__getstate__(self), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        loading = "_lock" in self.__dict__  # load_state_dict calls this too
        if not loading:
            self._set_up()
            self.__dict__.update(
                _in_backward=False, _amp_scaling=False, _extra={}
            )  # torch's own pickles do not have them
        held = defaultdict(dict, {key: let_go(value) for key, value in state["state"].items()})
        differentiable = "differentiable" in state.get("defaults", vars(self).get("defaults", ()))
        _Base.__setstate__(self, {**state, "state": held})
        if not differentiable:  # SparseAdam has no such argument, and torch adds one
            self.defaults.pop("differentiable", None)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        if not loading:
            self._extra = dict(self._extra)
            self._notes = noted(self._extra, dict(enumerate(self._params)))
        self._parts = []
        self._own_state()
        if not loading and self._amp_scaling:
            self._step_supports_amp_scaling = True
        if not loading and self._in_backward:
            for group in self.param_groups:
                for param in group["params"]:
                    _backward.hook(self, param)


@_disable_dynamo
def _not_compiled(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function that torch.compile cannot read."""
    return func(*args, **kwargs)


class WithModes(Optimizer):
    """An optimizer whose parameters differ in training and in evaluation."""

    def eval(self) -> None:
        """Puts the averages in the parameters' place."""
        self._for_all("eval")

    def train(self) -> None:
        """Puts the weights back in the parameters' place."""
        self._for_all("train")


def own(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hyperparameters, and the arguments of :class:`Optimizer`, from the ``locals()`` of a constructor."""
    ours: Iterable[str] = ("in_backward", "amp_scaling")
    defaults = {k: v for k, v in arguments.items() if k not in ("self", "__class__", "params", *ours)}
    return defaults, {key: arguments[key] for key in ours}
