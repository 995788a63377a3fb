"""The optimizers' rules without state: an update for every class that says what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from .. import _rules, optim
from .._check import not_an_array, whole
from .._core import kernels
from .._rules import Hyperparameters
from ..optim._formats import RESTS, formats_of
from ..optim.plan import Member, step_options

__all__ = ["Outcome"]


class Outcome(NamedTuple):
    """What an update did."""

    grad_norm: float | None
    """The norm of all gradients, unscaled and not yet clipped; ``None`` unless ``clip_norm`` or ``skip_nonfinite`` needed it."""
    skipped: bool
    """Whether nothing was updated, because a gradient was not finite."""


def _steps(function: str, step: int | Sequence[int], count: int) -> NDArray[np.int64]:
    """The number of the step that each of ``count`` parameters takes."""
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
    """Whether a list was given that has something in it; a placeholder for one has not."""
    if isinstance(arrays, list | tuple):
        return any(one is not None for one in arrays)
    return arrays is not None


_STEP: dict[str, Any] = dict(
    grad_scale=1.0,
    clip_norm=None,
    clip_value=None,
    clip_param_norm=None,
    clip_adaptive=None,
    skip_nonfinite=False,
    zero_grads=False,
)
_RAISES = """Raises:
    TypeError: A dtype, memory layout or type of argument is wrong.
    ValueError: A shape or range is wrong, or arrays overlap.  Nothing has been changed then."""


def _update(optimizer: type[optim.Optimizer]) -> Callable[..., Outcome]:
    """The stateless function of an optimizer's class: its rule, with the state as arguments."""
    name = optimizer.function or optimizer.__name__.lower()
    buffers = _buffers(optimizer)
    hyperparameters = {
        key: one
        for key, one in inspect.signature(optimizer.__init__).parameters.items()
        if key not in ("self", "params", "around")
    }
    scales = _scales(optimizer)
    renamed = {key: f"{key.removesuffix('s')}_limits" for key in hyperparameters if key in buffers}
    defaults = {renamed.get(key, key): one.default for key, one in hyperparameters.items()}
    made: optim.Optimizer = cast(Any, optimizer)([])
    around = {key: made.defaults[key] for key in _rules.AROUND}
    kind = inspect.Parameter
    signature = inspect.Signature(
        [
            kind("params", kind.POSITIONAL_OR_KEYWORD),
            kind("grads", kind.POSITIONAL_OR_KEYWORD),
            *(
                kind(key, kind.POSITIONAL_OR_KEYWORD, default=kind.empty if needed else None)
                for key, (_, needed) in buffers.items()
            ),
            kind("step", kind.KEYWORD_ONLY),
            *(
                kind(key, kind.KEYWORD_ONLY, default=kind.empty if key == "lr" else default)
                for key, default in defaults.items()
            ),
            *(kind(key, kind.KEYWORD_ONLY, default=default) for key, default in around.items()),
            *(
                kind(key, kind.KEYWORD_ONLY, default=None)
                for key in (*scales.values(), *_RESTS, "initial_params", "ema_params")
            ),
            *(kind(key, kind.KEYWORD_ONLY, default=default) for key, default in _STEP.items()),
        ]
    )

    def update(*args: Any, **kwargs: Any) -> Outcome:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        bound.apply_defaults()
        given = bound.arguments
        params = _listed(name, "params", given["params"])
        count = len(params)
        grads = _listed(name, "grads", given["grads"], count)
        values = {key: given[renamed.get(key, key)] for key in hyperparameters} | {key: given[key] for key in around}
        rule = optimizer._rule(Hyperparameters(name, values))
        of_step = step_options(name, **{key: given[key] for key in _STEP})
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
                nothing
                if given.get(scales.get(one, "")) is None
                else _listed(name, scales[one], given[scales[one]], count)
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
        averages: list[Any] = (
            _listed(name, "ema_params", given["ema_params"], count) if rule.average else [None] * count
        )
        used = {state_of[state] for one in [rule, *rules] for state in (*one.states, *one.numbers) if state in state_of}
        used |= {rest, *["initial_params"] * rule.initial, *["ema_params"] * rule.average}
        used |= {*scales.values()} if rule.formats[1] == "8bit" else set()
        for key in (*buffers, *scales.values(), *_WANTED):
            if key not in used and _holds_arrays(given[key]):
                wanted = _WANTED.get(key, "moments='8bit'" if key in scales.values() else "another variant of the rule")
                raise ValueError(f"{name}: {key} would not be used; it is for {wanted}: ask for that, or give None")
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
            raise ValueError(f"{name}: an array is changed by another thread")
        return Outcome(*outcome[1:])

    update.__name__ = update.__qualname__ = name
    update.__signature__ = signature  # type: ignore[attr-defined]
    update.__doc__ = _documented(optimizer, name, buffers, renamed)
    return update


def _buffers(optimizer: type[optim.Optimizer]) -> dict[str, tuple[str, bool]]:
    """The arguments that are state: their names in the plural, in the singular, and whether every variant needs them."""
    every: dict[str, int] = {}
    for group in 0, 1:
        for kernel in optimizer.kernels:
            for state in kernels.rules[kernel][group]:
                if state not in optimizer.hidden:
                    every[state] = every.get(state, 0) + 1
    factored = "row_var" in every  # which of these a parameter needs depends on its shape
    return {f"{state}s": (state, factored or n == len(optimizer.kernels)) for state, n in every.items()}


def _scales(optimizer: type[optim.Optimizer]) -> dict[str, str]:
    """The states that may be kept in 8 bits, and the arguments that are their scales."""
    return {state: f"{state}_scales" for state, kind in optimizer._kinds().items() if kind != "exact"}


_RESTS = {f"{rest}s": f"weights={weights!r}" for weights, rest in RESTS.items()}
_WANTED = {**_RESTS, "initial_params": "l2_init", "ema_params": "ema_decay and swa_start"}


def _documented(
    optimizer: type[optim.Optimizer], name: str, buffers: Mapping[str, tuple[str, bool]], renamed: Mapping[str, str]
) -> str:
    """The class's documentation, as that of its function."""
    text = inspect.getdoc(optimizer) or ""
    head, _, rest = text.partition("Args:\n")
    of_class, _, rest = rest.partition("\nExample:")
    references = rest.partition("References:\n")[2]
    shared = tuple(f"    {key}:" for key in ("params", *_rules.AROUND))
    own = [line for line in of_class.splitlines() if not line.startswith(shared) and line]
    for key, new in renamed.items():
        own = [line.replace(f"    {key}:", f"    {new}:") for line in own]
    summary, _, formula = head.partition("\n")
    about = {"step": "", "mu_product": "1", "eta": "lr", "mu": "1", "step_size": "lr", "z": "the parameter"}
    numbers = {number for kernel in optimizer.kernels for number in kernels.rules[kernel][1]}
    states = [
        f"    {key}: State ``{state}``, {about.get(state, '0')} before step 1; "
        + ("float64 arrays without axes; updated." if state in numbers else "updated.")
        + ("" if needed else "  For the variant that has it.")
        for key, (state, needed) in buffers.items()
    ]
    arrays = ", ".join(
        f"[np.array({about.get(state, '0').replace('lr', '0.1')}.0)]"
        if state in numbers and state not in ("eta",)
        else "[np.array(0.1)]" if state == "eta"
        else "[p.copy()]" if state == "z"
        else "[np.full((2, 2), 0.1)]" if state == "step_size"
        else "[None]" if state == "variance"
        else "[np.zeros((2, 1))]" if state == "row_var"
        else "[np.zeros((1, 2))]" if state == "col_var"
        else "[np.zeros((2, 2))]"
        for state, needed in buffers.values()
        if needed
    )  # fmt: skip
    return "\n".join(
        [
            f"One step of {summary[0] + summary[1:]}"
            if summary.startswith(optimizer.__name__)
            else f"One step. {summary}",
            "",
            f"In place; the stateless form of :class:`fastopt.optim.{optimizer.__name__}`.",
            formula.rstrip(),
            "",
            "Args:",
            "    params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.",
            "    grads: Their gradients, of the same shapes and dtypes, for all but float64 also of 16 bits; ``None`` leaves that",
            "        parameter and its state alone.",
            *states,
            "    step: t, the step that is being taken, from 1: one number, or one for each parameter.",
            *own,
            *(f"    {key}: See :class:`fastopt.optim.Optimizer`." for key in _rules.AROUND),
            *(
                f'    {key}: With ``moments="8bit"``, the exponents of ``{key[:-7]}s``: uint8, one for 64 elements; updated.'
                for key in _scales(optimizer).values()
            ),
            '    master_params: With ``weights="master"``, the float32 weights of parameters of 16 bits, of the same shapes; updated.',
            '    compensations: With ``weights="kahan"``, what is to be added to these, of the same dtypes; 0 before step 1; updated.',
            '    corrections: With ``weights="correction"``, the next 8 bits of these, int8; 0 before step 1; updated.',
            "    initial_params: p₀, of the same shapes, where ``l2_init`` needs them.",
            "    ema_params: Averages of the parameters, of the same shapes, where they are to be kept; updated.",
            *(f"    {key}: See :meth:`fastopt.optim.Optimizer.step`." for key in _STEP),
            "",
            "Returns:",
            "    The norm of the gradients, where it was needed, and whether the step was skipped.",
            "",
            _RAISES,
            "",
            "Example:",
            "    >>> import numpy as np",
            "    >>> from fastopt import functional as F",
            "    >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)",
            f"    >>> outcome = F.{name}([p], [g]{', ' * bool(arrays)}{arrays}, step=1, lr=0.1)",
            "    >>> bool(np.all(p < 1))",
            "    True",
            "",
            "References:",
            references.rstrip(),
        ]
    )


for _optimizer in (getattr(optim, _name) for _name in optim.__all__):
    if (
        isinstance(_optimizer, type)
        and issubclass(_optimizer, optim.Optimizer)
        and _optimizer.kernels
        and _optimizer.function is not None
    ):
        _function = _update(_optimizer)
        globals()[_function.__name__] = _function
        __all__ += [_function.__name__]
