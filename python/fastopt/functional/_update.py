"""The common part of the stateless updates: one step of an optimizer's rule, with the state as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from .. import _rules
from .._check import not_an_array, whole
from .._core import kernels
from .._rules import Hyperparameters
from ..optim import Optimizer
from ..optim._formats import RESTS, formats_of
from ..optim.plan import Member, step_options


class Outcome(NamedTuple):
    """The outcome of an update."""

    grad_norm: float | None
    """The norm of all gradients after unscaling and before clipping; ``None`` unless ``clip_norm`` or ``skip_nonfinite`` needed it."""
    skipped: bool
    """Whether nothing was updated, because a gradient was not finite."""


# The options of a step, which are the arguments of Optimizer.step.
STEP: dict[str, Any] = dict(
    grad_scale=1.0,
    clip_norm=None,
    clip_value=None,
    clip_param_norm=None,
    clip_adaptive=None,
    skip_nonfinite=False,
    zero_grads=False,
)
# The residual arrays of 16-bit parameters, and all companion arrays of parameters, with the options that need them.
BESIDE = {f"{rest}s": f"weights={weights!r}" for weights, rest in RESTS.items()}
WANTED = {**BESIDE, "initial_params": "l2_init", "ema_params": "ema_decay and swa_start"}


class Arguments:
    """The arguments of the function of an optimizer's rule, beside params, grads, step, AROUND, STEP and WANTED."""

    def __init__(self, optimizer: type[Optimizer]) -> None:
        self.name = optimizer.function or optimizer.__name__.lower()
        self.buffers = _buffers(optimizer)
        # The states that may have 8 bits, with the arguments for their scales.
        self.scales = {state: f"{state}_scales" for state, kind in optimizer._kinds().items() if kind != "exact"}
        parameters = inspect.signature(optimizer.__init__).parameters
        own = {key: one for key, one in parameters.items() if key not in ("self", "params", "around")}
        # A hyperparameter with the name of a list of states, as Rprop's step_sizes, gets another one.
        self.names = {key: f"{key.removesuffix('s')}_limits" if key in self.buffers else key for key in own}
        self.hyperparameters = own


_known: dict[type[Optimizer], Arguments] = {}


def arguments_of(optimizer: type[Optimizer]) -> Arguments:
    """The arguments of an optimizer's function; they are found out once."""
    if optimizer not in _known:
        _known[optimizer] = Arguments(optimizer)
    return _known[optimizer]


def _buffers(optimizer: type[Optimizer]) -> dict[str, tuple[str, bool]]:
    """The arguments that are state: the argument's name, the state's name, and whether every variant of the rule needs it."""
    every: dict[str, int] = {}
    rules = [kernels.rules[kernel] for kernel in optimizer.kernels]
    for names in (*(rule[0] for rule in rules), *(rule[1] for rule in rules)):
        for state in names:
            if state not in optimizer.hidden:
                every[state] = every.get(state, 0) + 1
    factored = "row_var" in every  # the shape of a parameter decides which of these it needs
    return {f"{state}s": (state, factored or n == len(optimizer.kernels)) for state, n in every.items()}


def _steps(function: str, step: int | Sequence[int], count: int) -> NDArray[np.int64]:
    """The numbers of the steps that ``count`` parameters take."""
    several = isinstance(step, list | tuple) or (isinstance(step, np.ndarray) and step.ndim > 0)
    listed: list[Any] = [*cast(Any, step)] if several else [step] * count
    if len(listed) != count:
        raise ValueError(f"{function}: step has {len(listed)} entries, expected {count}, one for each parameter")
    names = [f"step[{i}]" for i in range(count)] if several else ["step"] * count
    return np.array([whole(function, name, one, 1) for name, one in zip(names, listed, strict=True)], np.int64)


def _listed(function: str, name: str, arrays: Any, count: int | None = None) -> list[Any]:
    if not isinstance(arrays, Iterable) or isinstance(arrays, Mapping | np.ndarray | str | bytes):
        raise TypeError(f"{function}: {name} must be a list of arrays, got {type(arrays).__name__}")
    listed = list(arrays)
    if count is not None and len(listed) != count:
        raise ValueError(f"{function}: {name} has {len(listed)} entries, expected {count}, one for each parameter")
    return listed


def _holds_arrays(arrays: Any) -> bool:
    """Whether an argument is a list with arrays; a list of None is a placeholder."""
    if isinstance(arrays, list | tuple):
        return any(one is not None for one in arrays)
    return arrays is not None


def update(optimizer: type[Optimizer], given: Mapping[str, Any]) -> Outcome:
    """Takes one step with the arguments of the optimizer's function."""
    arguments = arguments_of(optimizer)
    name, buffers, scales = arguments.name, arguments.buffers, arguments.scales
    params = _listed(name, "params", given["params"])
    count = len(params)
    grads = _listed(name, "grads", given["grads"], count)
    values = {key: given[new] for key, new in arguments.names.items()} | {key: given[key] for key in _rules.AROUND}
    rule = optimizer._rule(Hyperparameters(name, values))
    of_step = step_options(name, **{key: given[key] for key in STEP})
    steps = _steps(name, given["step"], count) - 1
    labels = [f"[{i}]" for i in range(count)]
    for param, label in zip(params, labels, strict=True):
        if not isinstance(param, np.ndarray):
            raise TypeError(f"{name}: params{label} must be a numpy array, got {not_an_array(param)}")
    kernels.expect_disjoint(name, params, labels)
    rules = [optimizer._rule_of(rule, param) for param in params]
    state_of = {state: key for key, (state, _) in buffers.items()}

    def companions(names: list[str]) -> list[Any]:
        wanted = [state_of[one] for one in names if one not in optimizer.hidden]
        return [_listed(name, key, given[key], count) for key in wanted]

    def scales_of(names: list[str]) -> list[Any]:
        nothing = [None] * count
        return [
            nothing if given.get(scales.get(one, "")) is None else _listed(name, scales[one], given[scales[one]], count)
            for one in names
            if one not in optimizer.hidden
        ]

    lists = {
        one.name: (companions(one.states), companions(one.numbers), scales_of(one.states))
        for one in [rule, *rules][count > 0 :]
    }
    rests: list[Any] = [None] * count
    rest = f"{RESTS.get(rule.formats[0], '')}s"
    if given.get(rest) is not None:
        rests = _listed(name, rest, given[rest], count)
    initials: list[Any] = (
        _listed(name, "initial_params", given["initial_params"], count) if rule.initial else [None] * count
    )
    averages: list[Any] = _listed(name, "ema_params", given["ema_params"], count) if rule.average else [None] * count
    used = {state_of[state] for one in [rule, *rules] for state in (*one.states, *one.numbers) if state in state_of}
    used |= {rest, *["initial_params"] * rule.initial, *["ema_params"] * rule.average}
    used |= {*scales.values()} if rule.formats[1] == "8bit" else set()
    for key in (*buffers, *scales.values(), *WANTED):
        if key not in used and _holds_arrays(given[key]):
            wanted = WANTED.get(key, "moments='8bit'" if key in scales.values() else "another variant of the rule")
            raise ValueError(f"{name}: {key} would not be used: it needs {wanted}; set that, or give None")
    if not count:
        return Outcome(0.0 if given["clip_norm"] is not None or given["skip_nonfinite"] else None, False)
    members = [
        Member(
            labels[i],
            one.name,
            0,
            param,
            [buffer[i] for buffer in lists[one.name][0]],
            [buffer[i] for buffer in lists[one.name][2]],
            [buffer[i] for buffer in lists[one.name][1]],
            rests[i],
            initials[i],
            averages[i],
            formats_of(one, param),
            steps[i : i + 1].reshape(()),
        )
        for i, (one, param) in enumerate(zip(rules, params, strict=True))
    ]
    plan = optimizer._make_plan(name, members)
    plan.set_options(optimizer._options([rule]))
    outcome = plan.step(grads, of_step)
    if outcome is None:
        raise ValueError(f"{name}: another thread is changing an array")
    return Outcome(*outcome[1:])
