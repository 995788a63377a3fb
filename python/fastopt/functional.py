"""The stateless layer: arrays in, arrays out.

Optimizer steps update their arrays in place.  Normalizations return new arrays, or fill those that ``out`` gives.

Every function raises before it writes anything: TypeError for dtype and memory layout, ValueError for shape, range and
overlap, with the name of the argument.  What is written must be C-contiguous (a normalization's result may also have the
memory order of ``x``); inputs and gradients may be slices, as long as their innermost axis is contiguous.  All of them release
the GIL.  :mod:`fastopt.reference` has the same functions in NumPy, with the same results to the last bit.

Subnormal numbers (below 1.2e-38 in float32) count as zero.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from . import _rules, optim
from ._core import kernels
from ._rules import Hyperparameters
from .optim._formats import RESTS, formats_of
from .optim.base import Companions, around_step, array_of

__all__ = ["Outcome", "batch_norm", "batch_norm_backward", "layer_norm", "layer_norm_backward"]

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Sequence[Array]
Statistics: TypeAlias = NDArray[np.float64]


def layer_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Layer normalization over the last axes.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(var + eps),  mean and biased var over the normalized axes

    Results are as precise at a mean of a million as at zero.

    Args:
        x: Shape ``(*, *normalized_shape)``, float32 or float64.
        normalized_shape: The shape of the last axes, which are normalized together; an integer for one axis.
        weight: Shape ``normalized_shape``, dtype of x.
        bias: Shape ``normalized_shape``, dtype of x.
        eps: Added to the variance, at least 0.
        out: Arrays for ``(y, mean, rstd)``, ``None`` for those that are wanted new.  None may overlap an argument.

    Returns:
        y, like x, C-contiguous; mean and rstd, float64, of the shape of the axes that are not normalized.

    Raises:
        TypeError: A dtype or memory layout is wrong.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, mean, rstd = F.layer_norm(np.array([[1.0, 3.0], [5.0, 9.0]]), 2, eps=0.0)
        >>> y, mean, rstd
        (array([[-1.,  1.],
               [-1.,  1.]]), array([2., 7.]), array([1. , 0.5]))

    References:
        Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 4.
    """
    return kernels.layer_norm(x, normalized_shape, weight, bias, eps, out)


def layer_norm_backward(
    dy: Array,
    x: Array,
    normalized_shape: int | Sequence[int],
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None = None,
    *,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The gradients of :func:`layer_norm`.

    .. code-block:: text

        g = dy·weight,   x̂ = (x − mean)·rstd
        dx = rstd·(g − Σg/n − x̂·Σ(g x̂)/n)   with Σ over the n normalized numbers;   dweight = Σ dy·x̂,  dbias = Σ dy   over rows

    Args:
        dy: The gradient with respect to y, shape and dtype of x.
        x: The input of forward.
        normalized_shape: As in forward.
        mean: As forward returned it, float64.
        rstd: As forward returned it, float64.
        weight: As in forward.
        out: Arrays for ``(dx, dweight, dbias)``, ``None`` for those that are wanted new.  None may overlap an argument.

    Returns:
        dx, like x, C-contiguous; dweight and dbias, like weight, ``None`` without a weight.

    Raises:
        TypeError: A dtype or memory layout is wrong.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, w = np.array([[1.0, 3.0, 8.0]]), np.ones(3)
        >>> y, mean, rstd = F.layer_norm(x, 3, w)
        >>> dx, dweight, dbias = F.layer_norm_backward(np.ones((1, 3)), x, 3, mean, rstd, w)
        >>> dx.round(6), dbias
        (array([[0., 0., 0.]]), array([1., 1., 1.]))
    """
    return kernels.layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight, out)


def batch_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Batch normalization: each channel over all other axes.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(var + eps)
        training:    mean and biased var of this batch;  running ← (1 − momentum)·running + momentum·statistic, the variance unbiased
        evaluation:  the running statistics

    Fast where the channels come before contiguous axes (N, C, H, W) or are innermost in memory: (N, C), (N, H, W, C) with
    ``channel_axis=-1``, and a transposed view of such an array.

    Args:
        x: At least two axes, float32 or float64.
        running_mean: Shape ``(C,)``, dtype of x; updated in training, where it may be ``None``.
        running_var: Likewise.
        weight: Shape ``(C,)``, dtype of x.
        bias: Shape ``(C,)``, dtype of x.
        training: Use and record the statistics of this batch.
        momentum: How much of the running statistics is replaced, in [0, 1].
        eps: Added to the variance, at least 0.
        channel_axis: The axis of the C channels.
        out: Arrays for ``(y, mean, rstd)``, ``None`` for those that are wanted new.  None may overlap an argument.

    Returns:
        y, like x, in its memory order; mean and rstd, float64, shape ``(C,)``: what was used.

    Raises:
        TypeError: A dtype or memory layout is wrong, or evaluation has no running statistics.
        ValueError: A shape or range is wrong, arrays overlap, or a batch in training has a single value a channel.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> running_mean, running_var = np.zeros(1), np.ones(1)
        >>> y, mean, rstd = F.batch_norm(np.array([[1.0], [3.0]]), running_mean, running_var, training=True, eps=0.0)
        >>> y.ravel(), running_mean.round(6), running_var.round(6)
        (array([-1.,  1.]), array([0.2]), array([1.1]))

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
    """
    return kernels.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps, channel_axis, out)


def batch_norm_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None = None,
    *,
    training: bool = True,
    channel_axis: int = 1,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The gradients of :func:`batch_norm`.

    .. code-block:: text

        x̂ = (x − mean)·rstd;   dweight = Σ dy·x̂,  dbias = Σ dy   over the m values of a channel
        training:    dx = rstd·weight·(dy − Σdy/m − x̂·Σ(dy x̂)/m)
        evaluation:  dx = rstd·weight·dy

    Args:
        dy: The gradient with respect to y, shape, dtype and memory order of x.
        x: The input of forward.
        mean: As forward returned it, float64, shape ``(C,)``.
        rstd: As forward returned it, float64, shape ``(C,)``.
        weight: As in forward.
        training: As in forward.
        channel_axis: As in forward.
        out: Arrays for ``(dx, dweight, dbias)``, ``None`` for those that are wanted new.  None may overlap an argument.

    Returns:
        dx, like x, in its memory order; dweight and dbias, shape ``(C,)``, ``None`` without a weight.

    Raises:
        TypeError: A dtype or memory layout is wrong.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, w = np.array([[1.0], [3.0], [8.0]]), np.ones(1)
        >>> y, mean, rstd = F.batch_norm(x, None, None, w, training=True)
        >>> dx, dweight, dbias = F.batch_norm_backward(np.ones((3, 1)), x, mean, rstd, w)
        >>> dx.ravel().round(6), dbias
        (array([0., 0., 0.]), array([3.]))
    """
    return kernels.batch_norm_backward(dy, x, mean, rstd, weight, training, channel_axis, out)


class Outcome(NamedTuple):
    """What an update did."""

    grad_norm: float | None
    """The norm of all gradients, unscaled and not yet clipped; ``None`` unless ``clip_norm`` or ``skip_nonfinite`` needed it."""
    skipped: bool
    """Whether nothing was updated, because a gradient was not finite."""


def _steps(function: str, step: int | Sequence[int], count: int) -> NDArray[np.int64]:
    """The number of the step that each of ``count`` parameters takes."""
    try:
        steps = (
            [operator.index(one) for one in step]
            if isinstance(step, Sequence | np.ndarray)
            else [operator.index(step)] * count
        )
    except TypeError:
        raise TypeError(f"{function}: step must be an integer, or one for each parameter, got {step!r}") from None
    if len(steps) != count:
        raise ValueError(f"{function}: step has {len(steps)} entries, expected {count}, one a parameter")
    if any(not 1 <= one < 1 << 53 for one in steps):
        raise ValueError(f"{function}: step must be in [1, 2**53), got {step}")
    return np.array(steps, np.int64)


def _listed(function: str, name: str, arrays: Any, count: int | None = None) -> list[Any]:
    if not isinstance(arrays, list | tuple):
        raise TypeError(f"{function}: {name} must be a list of arrays, got {type(arrays).__name__}")
    if count is not None and len(arrays) != count:
        raise ValueError(f"{function}: {name} has {len(arrays)} entries, expected {count}, one a parameter")
    return list(arrays)


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
        key: one for key, one in inspect.signature(optimizer).parameters.items() if key not in ("params", "around")
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
        of_step = around_step(name, **{key: given[key] for key in _STEP})
        steps = _steps(name, given["step"], count) - 1
        labels = [f"[{i}]" for i in range(count)]
        for param, label in zip(params, labels, strict=True):
            array_of(name, param, label)
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
        if not count:
            return Outcome(0.0 if given["clip_norm"] is not None or given["skip_nonfinite"] else None, False)
        engine = optimizer._engine(
            Companions(
                name,
                [one.name for one in rules],
                [0] * count,
                params,
                [[buffer[i] for buffer in lists[one.name][0]] for i, one in enumerate(rules)],
                [[buffer[i] for buffer in lists[one.name][2]] for i, one in enumerate(rules)],
                [[buffer[i] for buffer in lists[one.name][1]] for i, one in enumerate(rules)],
                rests,
                initials,
                averages,
                [formats_of(one, param) for one, param in zip(rules, params, strict=True)],
                steps,
                labels,
            )
        )
        return Outcome(*engine.step(grads, optimizer._options([rule]), of_step))

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


_RESTS = tuple(f"{rest}s" for rest in RESTS.values())


def _documented(
    optimizer: type[optim.Optimizer], name: str, buffers: Mapping[str, tuple[str, bool]], renamed: Mapping[str, str]
) -> str:
    """The class's documentation, as that of its function."""
    text = inspect.getdoc(optimizer) or ""
    head, _, rest = text.partition("Args:\n")
    of_class, _, rest = rest.partition("\nExample:")
    references = rest.partition("References:\n")[2]
    own = [line for line in of_class.splitlines() if not line.startswith(("    params:", "    around:")) and line]
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

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Outcome]: ...
