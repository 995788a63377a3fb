"""Stateless updates, one per optimizer's rule.  ``_generate.py`` writes this file; do not edit it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

from .. import optim
from .._sparse import SparseRows
from ._update import Outcome, update

__all__ = [
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "asgd",
    "lamb",
    "lars",
    "lion",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
]

Arrays: TypeAlias = Iterable[NDArray[Any]]
OptionalArrays: TypeAlias = Iterable[NDArray[Any] | None]
Grads: TypeAlias = Iterable[NDArray[Any] | SparseRows | None]


def adadelta(
    params: Arrays,
    grads: Grads,
    square_avgs: Arrays,
    acc_deltas: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    rho: float = 0.9,
    eps: float = 1e-06,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    square_avg_scales: OptionalArrays | None = None,
    acc_delta_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of Adadelta: steps in the units of the weights.

    In place; the stateless form of :class:`fastopt.optim.Adadelta`.

    .. code-block:: text

        v ← ρ v + (1−ρ) g²;   Δ = √(u + ε) / √(v + ε) · g;   u ← ρ u + (1−ρ) Δ²;   p ← p − lr·Δ

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        square_avgs: State ``square_avg``, 0 before step 1; updated.
        acc_deltas: State ``acc_delta``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        rho: ρ, in [0, 1].
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        square_avg_scales: With ``moments="8bit"``, the exponents of ``square_avgs``: uint8, one for 64 elements; updated.
        acc_delta_scales: With ``moments="8bit"``, the exponents of ``acc_deltas``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.adadelta([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Zeiler 2012, arXiv:1212.5701, algorithm 1.
    """
    return update(optim.Adadelta, locals())


def adafactor(
    params: Arrays,
    grads: Grads,
    row_vars: Arrays,
    col_vars: Arrays,
    variances: OptionalArrays,
    *,
    step: int | Sequence[int],
    lr: float,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 0.001),
    d: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = True,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of Adafactor: second moments of rows and columns in place of those of elements.

    In place; the stateless form of :class:`fastopt.optim.Adafactor`.

    .. code-block:: text

        ω = t^beta2_decay;   ρ = min(lr, 1/√t)
        vectors:   v ← (1−ω) v + ω g²
        matrices:  r ← (1−ω) r + ω mean(g² of each row);   c ← (1−ω) c + ω mean(g² of each column);   v = r cᵀ / max(mean(r), ε₁)
        u = g / √max(v, ε₁²);   p ← p − max(ε₂, rms(p))·ρ / max(1, rms(u)/d) · u

    The last two axes of an array span its matrices.  The state of a matrix is one number per row and one per column.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        row_vars: State ``row_var``, 0 before step 1; updated.
        col_vars: State ``col_var``, 0 before step 1; updated.
        variances: State ``variance``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Largest relative step ρ, at least 0.
        beta2_decay: Power of t with which new gradients lose weight, at most 0.
        eps: ε₁, at least 0, or ``None`` for the epsilon of the parameter's dtype, and ε₂, at least 0.
        d: Largest root mean square of u, above 0.
        weight_decay: λ, at least 0; decoupled by default.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.adafactor([p], [g], [np.zeros((2, 1))], [np.zeros((1, 2))], [None], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5, in torch's form.
    """
    return update(optim.Adafactor, locals())


def adagrad(
    params: Arrays,
    grads: Grads,
    sums: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    eps_in_sqrt: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    sum_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of Adagrad: each weight's rate falls with the sum of its squared gradients.

    In place; the stateless form of :class:`fastopt.optim.Adagrad`.

    .. code-block:: text

        s ← s + g²;   p ← p − lr/(1 + (t−1)·lr_decay) · g / (√s + ε), with eps_in_sqrt g / √(s + ε)

    Torch's meaning is the default.  Keras's and optax's is ``eps_in_sqrt=True`` with initial_accumulator_value=0.1 and eps=1e-7.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        sums: State ``sum``, ``initial_accumulator_value`` before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        lr_decay: Decay of the rate over the steps, as in the formula, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        initial_accumulator_value: s before the first step, at least 0.
        eps: ε, at least 0.
        eps_in_sqrt: ε joins s inside of the root, as in Keras and optax.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        sum_scales: With ``moments="8bit"``, the exponents of ``sums``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.adagrad([p], [g], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Duchi, Hazan & Singer 2011, JMLR 12, 2121-2159.
    """
    return update(optim.Adagrad, locals())


def adam(
    params: Arrays,
    grads: Grads,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: OptionalArrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    eps_hat: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_scales: OptionalArrays | None = None,
    exp_avg_sq_scales: OptionalArrays | None = None,
    max_exp_avg_sq_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of Adam, or AMSGrad.

    In place; the stateless form of :class:`fastopt.optim.Adam`.

    .. code-block:: text

        m ← β₁ m + (1−β₁) g;   v ← β₂ v + (1−β₂) g²;   amsgrad: v̂ ← max(v̂, v)
        p ← p − lr/(1−β₁ᵗ) · m / (√v̂/√(1−β₂ᵗ) + ε)
        eps_hat:  p ← p − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v̂ + ε̂)

    t counts the steps of each parameter: it does not grow in a step in which the gradient is ``None``.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avgs: State ``exp_avg``, 0 before step 1; updated.
        exp_avg_sqs: State ``exp_avg_sq``, 0 before step 1; updated.
        max_exp_avg_sqs: State ``max_exp_avg_sq``, 0 before step 1; updated.  Only for the variant that has it.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        amsgrad: Divide by the largest v so far.
        eps_hat: ε joins √v before bias correction, as in TensorFlow, Keras, scikit-learn and ONNX.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_scales: With ``moments="8bit"``, the exponents of ``exp_avgs``: uint8, one for 64 elements; updated.
        exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``exp_avg_sqs``: uint8, one for 64 elements; updated.
        max_exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``max_exp_avg_sqs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.adam([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; Reddi, Kale & Kumar 2018, arXiv:1904.09237, algorithm 2, here with
        Adam's bias correction, and the maximum of the uncorrected v, as in torch.
    """
    return update(optim.Adam, locals())


def adamax(
    params: Arrays,
    grads: Grads,
    exp_avgs: Arrays,
    exp_infs: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_scales: OptionalArrays | None = None,
    exp_inf_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of Adamax: Adam with the largest gradient in place of the root of the mean square.

    In place; the stateless form of :class:`fastopt.optim.Adamax`.

    .. code-block:: text

        m ← β₁ m + (1−β₁) g;   u ← max(β₂ u, |g| + ε);   p ← p − lr/(1−β₁ᵗ) · m / u

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avgs: State ``exp_avg``, 0 before step 1; updated.
        exp_infs: State ``exp_inf``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_scales: With ``moments="8bit"``, the exponents of ``exp_avgs``: uint8, one for 64 elements; updated.
        exp_inf_scales: With ``moments="8bit"``, the exponents of ``exp_infs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.adamax([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Kingma & Ba 2015, arXiv:1412.6980, algorithm 2, with torch's ε.
    """
    return update(optim.Adamax, locals())


def adamw(
    params: Arrays,
    grads: Grads,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: OptionalArrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-08,
    weight_decay: float = 0.01,
    amsgrad: bool = False,
    eps_hat: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = True,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_scales: OptionalArrays | None = None,
    exp_avg_sq_scales: OptionalArrays | None = None,
    max_exp_avg_sq_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of AdamW: Adam with decoupled weight decay.

    In place; the stateless form of :class:`fastopt.optim.AdamW`.

    .. code-block:: text

        p ← (1 − lr·weight_decay) p, then Adam's step from the undecayed gradient

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avgs: State ``exp_avg``, 0 before step 1; updated.
        exp_avg_sqs: State ``exp_avg_sq``, 0 before step 1; updated.
        max_exp_avg_sqs: State ``max_exp_avg_sq``, 0 before step 1; updated.  Only for the variant that has it.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; decoupled by default.
        amsgrad: Divide by the largest v so far.
        eps_hat: ε joins √v before bias correction, see :class:`Adam`.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_scales: With ``moments="8bit"``, the exponents of ``exp_avgs``: uint8, one for 64 elements; updated.
        exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``exp_avg_sqs``: uint8, one for 64 elements; updated.
        max_exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``max_exp_avg_sqs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.adamw([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, here, as in torch, with the decay multiplied by lr.
    """
    return update(optim.AdamW, locals())


def adan(
    params: Arrays,
    grads: Grads,
    exp_avgs: Arrays,
    exp_avg_diffs: Arrays,
    exp_avg_sqs: Arrays,
    neg_pre_grads: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = None,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_scales: OptionalArrays | None = None,
    exp_avg_diff_scales: OptionalArrays | None = None,
    exp_avg_sq_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of Adan: Nesterov's momentum from the differences of gradients.

    In place; the stateless form of :class:`fastopt.optim.Adan`.

    .. code-block:: text

        d = g − g_prev, 0 at the first step
        m ← β₁ m + (1−β₁) g;   v ← β₂ v + (1−β₂) d;   n ← β₃ n + (1−β₃) (g + β₂ d)²
        p ← (p − lr·(m/(1−β₁ᵗ) + β₂ v/(1−β₂ᵗ)) / (√(n/(1−β₃ᵗ)) + ε)) / (1 + lr·λ)

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avgs: State ``exp_avg``, 0 before step 1; updated.
        exp_avg_diffs: State ``exp_avg_diff``, 0 before step 1; updated.
        exp_avg_sqs: State ``exp_avg_sq``, 0 before step 1; updated.
        neg_pre_grads: State ``neg_pre_grad``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁, β₂ and β₃, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; proximal by default; ``decoupled_weight_decay=True`` is the authors' ``no_prox``.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_scales: With ``moments="8bit"``, the exponents of ``exp_avgs``: uint8, one for 64 elements; updated.
        exp_avg_diff_scales: With ``moments="8bit"``, the exponents of ``exp_avg_diffs``: uint8, one for 64 elements; updated.
        exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``exp_avg_sqs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.adan([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], [np.zeros((2, 2))], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Xie et al. 2024, arXiv:2208.06677, algorithm 1; β are those of the authors' code, 1 − the paper's.
    """
    return update(optim.Adan, locals())


def ademamix(
    params: Arrays,
    grads: Grads,
    exp_avg_fasts: Arrays,
    exp_avg_slows: Arrays,
    exp_avg_sqs: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    alpha: float = 2.0,
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    alpha_warmup: int | None = None,
    beta3_warmup: int | None = None,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = None,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_fast_scales: OptionalArrays | None = None,
    exp_avg_slow_scales: OptionalArrays | None = None,
    exp_avg_sq_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of AdEMAMix: Adam with a second, much slower momentum.

    In place; the stateless form of :class:`fastopt.optim.AdEMAMix`.

    .. code-block:: text

        m₁ ← β₁ m₁ + (1−β₁) g;   m₂ ← β₃(t) m₂ + (1−β₃(t)) g;   v ← β₂ v + (1−β₂) g²
        p ← p − lr·((m₁/(1−β₁ᵗ) + α(t) m₂) / (√(v/(1−β₂ᵗ)) + ε) + λ p)

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avg_fasts: State ``exp_avg_fast``, 0 before step 1; updated.
        exp_avg_slows: State ``exp_avg_slow``, 0 before step 1; updated.
        exp_avg_sqs: State ``exp_avg_sq``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁, β₂ and β₃, in [0, 1).
        alpha: α, the weight of the slow momentum, at least 0.
        eps: ε, at least 0.
        weight_decay: λ, at least 0; the paper's term λp by default.
        alpha_warmup: Steps in which α grows from 0.
        beta3_warmup: Steps in which β₃ grows from β₁, so that its half-life grows linearly.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_fast_scales: With ``moments="8bit"``, the exponents of ``exp_avg_fasts``: uint8, one for 64 elements; updated.
        exp_avg_slow_scales: With ``moments="8bit"``, the exponents of ``exp_avg_slows``: uint8, one for 64 elements; updated.
        exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``exp_avg_sqs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.ademamix([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Pagliardini, Ablin & Grangier 2025, arXiv:2409.03137, algorithm 1, with the defaults of the authors' code.
    """
    return update(optim.AdEMAMix, locals())


def adopt(
    params: Arrays,
    grads: Grads,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.9999),
    eps: float = 1e-06,
    weight_decay: float = 0.0,
    clip_exponent: float | None = 0.25,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_scales: OptionalArrays | None = None,
    exp_avg_sq_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of ADOPT: Adam that divides by the second moment of earlier gradients, and so converges with any β₂.

    In place; the stateless form of :class:`fastopt.optim.ADOPT`.

    .. code-block:: text

        first step:  v ← g²
        later:       m ← β₁ m + (1−β₁) clip(g / max(√v, ε), (t−1)^clip_exponent);   p ← p − lr·m
                     v ← β₂ v + (1−β₂) g²

    The first step of a parameter sets v and leaves the parameter alone, but for decoupled decay.  An infinite
    gradient makes v infinite, and its element then stays where it is; ``step(..., skip_nonfinite=True)`` spares it that.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avgs: State ``exp_avg``, 0 before step 1; updated.
        exp_avg_sqs: State ``exp_avg_sq``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        clip_exponent: Exponent of the bound on the normalized gradient, at least 0, or ``None`` for no bound.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_scales: With ``moments="8bit"``, the exponents of ``exp_avgs``: uint8, one for 64 elements; updated.
        exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``exp_avg_sqs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.adopt([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], step=2, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2, with the bound of the authors' code.  Decoupled decay also
        acts in the first step here; in their code it does not.
    """
    return update(optim.ADOPT, locals())


def asgd(
    params: Arrays,
    grads: Grads,
    axs: Arrays,
    etas: Arrays,
    mus: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    lambd: float = 0.0001,
    alpha: float = 0.75,
    t0: float = 1000000.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step. Averaged stochastic gradient descent.

    In place; the stateless form of :class:`fastopt.optim.ASGD`.

    .. code-block:: text

        p ← (1 − λη_t) p − η_t g;   a ← a + μ_t (p − a)
        η₁ = lr, η_{t+1} = lr/(1 + λ·lr·t)^α;   μ₁ = 1, μ_{t+1} = 1/max(1, t − t₀)

    The average a is the state ``ax``.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        axs: State ``ax``, 0 before step 1; updated.
        etas: State ``eta``, ``lr`` before step 1; float64 arrays without axes; updated.
        mus: State ``mu``, 1 before step 1; float64 arrays without axes; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        lambd: λ, the decay, at least 0.
        alpha: α, the power with which the rate falls, at least 0.
        t0: t₀, the step after which averaging begins, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.asgd([p], [g], [np.zeros((2, 2))], [np.array(0.1)], [np.array(1.0)], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Polyak & Juditsky 1992, with Bottou's rates, in torch's form.
    """
    return update(optim.ASGD, locals())


def lamb(
    params: Arrays,
    grads: Grads,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-06,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = None,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_scales: OptionalArrays | None = None,
    exp_avg_sq_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of LAMB: Adam with each tensor's step scaled to lr times the norm of the parameter.

    In place; the stateless form of :class:`fastopt.optim.LAMB`.

    .. code-block:: text

        m, v as :class:`Adam`;   u = m̂ / (√v̂ + ε) + λ p;   p ← p − lr·‖p‖/‖u‖·u

    The ratio is 1 where ‖p‖ or ‖u‖ is 0.  ``decoupled_weight_decay`` decays p separately instead.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avgs: State ``exp_avg``, 0 before step 1; updated.
        exp_avg_sqs: State ``exp_avg_sq``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; part of u by default.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_scales: With ``moments="8bit"``, the exponents of ``exp_avgs``: uint8, one for 64 elements; updated.
        exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``exp_avg_sqs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.lamb([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        You et al. 2020, arXiv:1904.00962, algorithm 2, with φ(z) = z, as in optax.
    """
    return update(optim.LAMB, locals())


def lars(
    params: Arrays,
    grads: Grads,
    momentum_buffers: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    trust_coefficient: float = 0.001,
    eps: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = None,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    momentum_buffer_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of LARS: momentum with each tensor's gradient scaled to the norm of the parameter.

    In place; the stateless form of :class:`fastopt.optim.LARS`.

    .. code-block:: text

        u = g + λ p;   r = lr·trust_coefficient·‖p‖/(‖u‖ + ε);   b ← μ b + r·u;   p ← p − b, with nesterov p ← p − (r·u + μ b)

    The ratio trust_coefficient·‖p‖/(‖u‖ + ε) is 1 where ‖p‖ or ‖u‖ is 0, as in optax: a bias that is still zero takes a
    step of lr·u.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        momentum_buffers: State ``momentum_buffer``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        momentum: μ, in [0, 1].
        weight_decay: λ, at least 0; part of u by default.
        trust_coefficient: Factor of the ratio, at least 0.
        eps: ε, at least 0.
        nesterov: Take the step from where the momentum leads.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        momentum_buffer_scales: With ``moments="8bit"``, the exponents of ``momentum_buffers``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.lars([p], [g], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        You, Gitman & Ginsburg 2017, arXiv:1708.03888, algorithm 1, in optax's form.
    """
    return update(optim.LARS, locals())


def lion(
    params: Arrays,
    grads: Grads,
    exp_avgs: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = True,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of Lion: the sign of an interpolated momentum.

    In place; the stateless form of :class:`fastopt.optim.Lion`.

    .. code-block:: text

        p ← p − lr·sign(β₁ m + (1−β₁) g);   m ← β₂ m + (1−β₂) g

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avgs: State ``exp_avg``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        weight_decay: λ, at least 0; decoupled by default.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_scales: With ``moments="8bit"``, the exponents of ``exp_avgs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.lion([p], [g], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Chen et al. 2023, arXiv:2302.06675, algorithm 2.
    """
    return update(optim.Lion, locals())


def muon(
    params: Arrays,
    grads: Grads,
    momentum_buffers: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
    eps: float = 1e-07,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = True,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    momentum_buffer_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of Muon: momentum whose singular values are all brought to about 1; for the matrices of hidden layers.

    In place; the stateless form of :class:`fastopt.optim.Muon`.

    .. code-block:: text

        b ← μ b + (1−μ) g;   u = b, with nesterov (1−μ) g + μ b
        X = u/‖u‖;   ns_steps times: A = X Xᵀ, X ← a X + (b A + c A²) X
        p ← (1 − lr·weight_decay) p − lr·f·X

    f is √max(1, rows/columns), or with ``adjust_lr_fn="match_rms_adamw"`` 0.2·√max(rows, columns).  The matrix products
    are NumPy's, so that the result may depend on its BLAS and the number of its threads.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        momentum_buffers: State ``momentum_buffer``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        weight_decay: λ, at least 0; decoupled by default.
        momentum: μ, in [0, 1).
        nesterov: Take the step from where the momentum leads.
        ns_coefficients: a, b and c.
        eps: Least norm of u to divide by, above 0.
        ns_steps: Iterations, below 100.
        adjust_lr_fn: ``None``, ``"original"`` or ``"match_rms_adamw"``.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        momentum_buffer_scales: With ``moments="8bit"``, the exponents of ``momentum_buffers``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.muon([p], [g], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; Liu et al. 2025, arXiv:2502.16982.  In torch's form, but
        in the parameters' own precision (of 16 bits: float32), where torch computes in bfloat16.
    """
    return update(optim.Muon, locals())


def nadam(
    params: Arrays,
    grads: Grads,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    mu_products: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    momentum_decay: float = 0.004,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_scales: OptionalArrays | None = None,
    exp_avg_sq_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of NAdam: Adam with Nesterov's momentum.

    In place; the stateless form of :class:`fastopt.optim.NAdam`.

    .. code-block:: text

        μ_t = β₁(1 − ½·0.96^(t·momentum_decay));   Π_t = μ₁⋯μ_t;   m, v as :class:`Adam`
        p ← p − lr·((1−μ_t)/(1−Π_t)·g + μ_{t+1}/(1−Π_t·μ_{t+1})·m) / (√(v/(1−β₂ᵗ)) + ε)

    Keras's Nadam has ``momentum_decay=1``.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avgs: State ``exp_avg``, 0 before step 1; updated.
        exp_avg_sqs: State ``exp_avg_sq``, 0 before step 1; updated.
        mu_products: State ``mu_product``, 1 before step 1; float64 arrays without axes; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        momentum_decay: Speed at which the momentum grows to β₁, at least 0.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_scales: With ``moments="8bit"``, the exponents of ``exp_avgs``: uint8, one for 64 elements; updated.
        exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``exp_avg_sqs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.nadam([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], [np.array(1.0)], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Dozat 2016, "Incorporating Nesterov momentum into Adam", in torch's form.
    """
    return update(optim.NAdam, locals())


def radam(
    params: Arrays,
    grads: Grads,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_scales: OptionalArrays | None = None,
    exp_avg_sq_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of RAdam: Adam that divides by √v only once the variance of its adaptive rate is known.

    In place; the stateless form of :class:`fastopt.optim.RAdam`.

    .. code-block:: text

        ρ_∞ = 2/(1−β₂) − 1;   ρ_t = ρ_∞ − 2tβ₂ᵗ/(1−β₂ᵗ);   m, v as :class:`Adam`
        ρ_t > 5:    p ← p − lr/(1−β₁ᵗ)·r_t·√(1−β₂ᵗ) · m / (√v + ε),   r_t = √((ρ_t−4)(ρ_t−2)ρ_∞ / ((ρ_∞−4)(ρ_∞−2)ρ_t))
        otherwise:  p ← p − lr/(1−β₁ᵗ) · m

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        exp_avgs: State ``exp_avg``, 0 before step 1; updated.
        exp_avg_sqs: State ``exp_avg_sq``, 0 before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_scales: With ``moments="8bit"``, the exponents of ``exp_avgs``: uint8, one for 64 elements; updated.
        exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``exp_avg_sqs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.radam([p], [g], [np.zeros((2, 2))], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Liu et al. 2020, arXiv:1908.03265, algorithm 2, with torch's threshold and ε.
    """
    return update(optim.RAdam, locals())


def rmsprop(
    params: Arrays,
    grads: Grads,
    square_avgs: Arrays,
    grad_avgs: OptionalArrays | None = None,
    momentum_buffers: OptionalArrays | None = None,
    velocity_buffers: OptionalArrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    eps_in_sqrt: bool = False,
    velocity: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    square_avg_scales: OptionalArrays | None = None,
    momentum_buffer_scales: OptionalArrays | None = None,
    velocity_buffer_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of RMSprop, plain or centered, with or without momentum.

    In place; the stateless form of :class:`fastopt.optim.RMSprop`.

    .. code-block:: text

        v ← α v + (1−α) g²;   centered: ḡ ← α ḡ + (1−α) g, and v − ḡ² in place of v below
        d = g / (√v + ε), with eps_in_sqrt d = g / √(v + ε)
        p ← p − lr·d;   momentum: b ← μ b + d, p ← p − lr·b;   velocity: u ← μ u − lr·d, p ← p + u

    Torch's meaning is the default.  Keras's and TensorFlow's is ``eps_in_sqrt=True, velocity=True``, with alpha=0.9 (rho) and
    eps=1e-7; optax's default too, with alpha=0.9 (decay).  Both forms of momentum are the same while lr is: a new lr rescales
    the whole buffer b, and only new terms of u.

    v − ḡ² is raised to 0 where rounding makes it negative; in torch the weight becomes NaN then.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        square_avgs: State ``square_avg``, 0 before step 1; updated.
        grad_avgs: State ``grad_avg``, 0 before step 1; updated.  Only for the variant that has it.
        momentum_buffers: State ``momentum_buffer``, 0 before step 1; updated.  Only for the variant that has it.
        velocity_buffers: State ``velocity_buffer``, 0 before step 1; updated.  Only for the variant that has it.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        alpha: α, in [0, 1].
        eps: ε, at least 0.
        weight_decay: λ, at least 0; coupled (L2) by default.
        momentum: μ, in [0, 1].
        centered: Divide by the standard deviation of the gradient.
        eps_in_sqrt: ε joins v inside of the root, as in Keras and, by default, in optax.
        velocity: With momentum, keep a sum of updates in place of torch's buffer, as Keras and optax do.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        square_avg_scales: With ``moments="8bit"``, the exponents of ``square_avgs``: uint8, one for 64 elements; updated.
        momentum_buffer_scales: With ``moments="8bit"``, the exponents of ``momentum_buffers``: uint8, one for 64 elements; updated.
        velocity_buffer_scales: With ``moments="8bit"``, the exponents of ``velocity_buffers``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.rmsprop([p], [g], [np.zeros((2, 2))], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Tieleman & Hinton 2012, lecture 6.5 of "Neural networks for machine learning"; centered: Graves 2013, arXiv:1308.0850,
        eq. 38-43.
    """
    return update(optim.RMSprop, locals())


def rprop(
    params: Arrays,
    grads: Grads,
    prevs: Arrays,
    step_sizes: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    etas: tuple[float, float] = (0.5, 1.2),
    step_size_limits: tuple[float, float] = (1e-06, 50.0),
    weight_decay: float = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step of Rprop: steps that depend on the signs of the gradients only; for full batches.

    In place; the stateless form of :class:`fastopt.optim.Rprop`.

    .. code-block:: text

        g kept its sign:  s ← min(η⁺ s, s_max);      g changed it:  s ← max(η⁻ s, s_min), g ← 0
        p ← p − sign(g)·s

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        prevs: State ``prev``, 0 before step 1; updated.
        step_sizes: State ``step_size``, ``lr`` before step 1; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        etas: η⁻ in (0, 1) and η⁺ > 1.
        step_size_limits: s_min and s_max.
        weight_decay: λ, at least 0; coupled (L2) by default.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.rprop([p], [g], [np.zeros((2, 2))], [np.full((2, 2), 0.1)], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Riedmiller & Braun 1993; Igel & Hüsken 2000 (iRprop⁻), as in torch, but comparing signs: products may underflow.
    """
    return update(optim.Rprop, locals())


def schedule_free_adamw(
    params: Arrays,
    grads: Grads,
    zs: Arrays,
    exp_avg_sqs: Arrays,
    weight_sums: Arrays,
    lr_maxs: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = None,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    exp_avg_sq_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step. Schedule-free AdamW.

    In place; the stateless form of :class:`fastopt.optim.ScheduleFreeAdamW`.

    .. code-block:: text

        v ← β₂ v + (1−β₂) g²;   u = g / (√(v/(1−β₂ᵗ)) + ε) + λ y;   w_t = tʳ·(max lr)^weight_lr_power;   c = w_t / Σw
        y ← y + c (z − y) + lr·(β₁(1−c) − 1)·u;   z ← z − lr·u

    In training the parameters are y, where gradients are taken; ``eval()`` turns them into the average x, and ``train()`` back
    into y.  A step in evaluation is an error.  Decoupled decay and ``proximal_l1`` are errors, as they would act on y only.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        zs: State ``z``, the parameter before step 1; updated.
        exp_avg_sqs: State ``exp_avg_sq``, 0 before step 1; updated.
        weight_sums: State ``weight_sum``, 0 before step 1; float64 arrays without axes; updated.
        lr_maxs: State ``lr_max``, 0 before step 1; float64 arrays without axes; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; the authors' term λy by default.
        warmup_steps: Number of steps in which the rate grows linearly.
        r: Power of t in the weights of the average.
        weight_lr_power: Power of the largest rate in the weights of the average.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        exp_avg_sq_scales: With ``moments="8bit"``, the exponents of ``exp_avg_sqs``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.schedule_free_adamw([p], [g], [p.copy()], [np.zeros((2, 2))], [np.array(0.0)], [np.array(0.0)], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Defazio et al. 2024, arXiv:2405.15682, algorithm 1, in the form of the authors' package.
    """
    return update(optim.ScheduleFreeAdamW, locals())


def schedule_free_sgd(
    params: Arrays,
    grads: Grads,
    zs: Arrays,
    weight_sums: Arrays,
    lr_maxs: Arrays,
    *,
    step: int | Sequence[int],
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step. Schedule-free SGD.

    In place; the stateless form of :class:`fastopt.optim.ScheduleFreeSGD`.

    .. code-block:: text

        w_t = tʳ·(max lr)^weight_lr_power;   c = w_t / Σw
        y ← y + c (z − y) + lr·(momentum·(1−c) − 1)·g;   z ← z − lr·g

    In training the parameters are y, where gradients are taken; ``eval()`` turns them into the average x, and ``train()`` back
    into y.  A step in evaluation is an error.  Decoupled decay and ``proximal_l1`` are errors, as they would act on y only.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        zs: State ``z``, the parameter before step 1; updated.
        weight_sums: State ``weight_sum``, 0 before step 1; float64 arrays without axes; updated.
        lr_maxs: State ``lr_max``, 0 before step 1; float64 arrays without axes; updated.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        momentum: β, in (0, 1].
        weight_decay: λ, at least 0; coupled (L2) by default.
        warmup_steps: Number of steps in which the rate grows linearly.
        r: Power of t in the weights of the average.
        weight_lr_power: Power of the largest rate in the weights of the average.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.schedule_free_sgd([p], [g], [p.copy()], [np.array(0.0)], [np.array(0.0)], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Defazio et al. 2024, arXiv:2405.15682, in the form of the authors' package.
    """
    return update(optim.ScheduleFreeSGD, locals())


def sgd(
    params: Arrays,
    grads: Grads,
    momentum_buffers: OptionalArrays | None = None,
    velocity_buffers: OptionalArrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    velocity: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool | None = False,
    fixed_decay: bool = False,
    l1: float = 0.0,
    proximal_l1: bool | str = False,
    l2_init: float = 0.0,
    noise: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    swa_start: int | None = None,
    swa_freq: int = 1,
    weights: str = "stochastic",
    moments: str | None = None,
    moment_rounding: str = "stochastic",
    momentum_buffer_scales: OptionalArrays | None = None,
    velocity_buffer_scales: OptionalArrays | None = None,
    master_params: OptionalArrays | None = None,
    compensations: OptionalArrays | None = None,
    corrections: OptionalArrays | None = None,
    initial_params: OptionalArrays | None = None,
    ema_params: OptionalArrays | None = None,
    grad_scale: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_param_norm: float | None = None,
    clip_adaptive: float | None = None,
    skip_nonfinite: bool = False,
    zero_grads: bool = False,
) -> Outcome:
    """One step. Stochastic gradient descent, with momentum.

    In place; the stateless form of :class:`fastopt.optim.SGD`.

    .. code-block:: text

        b ← g at the first step, momentum·b + (1 − dampening)·g later;   p ← p − lr·b, with nesterov p ← p − lr·(g + momentum·b)
        velocity:  v ← momentum·v − lr·g;   p ← p + v, with nesterov p ← p + momentum·v − lr·g

    Both classical forms of momentum are available: torch's, whose buffer is a sum of gradients, and with ``velocity`` that of
    Keras and scikit-learn, whose buffer is a sum of updates.  They differ once lr changes: a new lr rescales torch's whole
    buffer, and only new terms of a velocity.

    Args:
        params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.
        grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.
            A :class:`fastopt.SparseRows` for one that touches few rows.
            ``None`` leaves that parameter and its state alone.
        momentum_buffers: State ``momentum_buffer``, 0 before step 1; updated.  Only for the variant that has it.
        velocity_buffers: State ``velocity_buffer``, 0 before step 1; updated.  Only for the variant that has it.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        momentum: μ, in [0, 1].
        dampening: τ, the part of a new gradient that is left out.
        weight_decay: λ, at least 0; coupled (L2) by default.
        nesterov: Take the step from where the momentum leads.
        velocity: Keep a sum of updates in place of torch's buffer.
        maximize: See :class:`fastopt.optim.Optimizer`.
        decoupled_weight_decay: See :class:`fastopt.optim.Optimizer`.
        fixed_decay: See :class:`fastopt.optim.Optimizer`.
        l1: See :class:`fastopt.optim.Optimizer`.
        proximal_l1: See :class:`fastopt.optim.Optimizer`.
        l2_init: See :class:`fastopt.optim.Optimizer`.
        noise: See :class:`fastopt.optim.Optimizer`.
        temperature: See :class:`fastopt.optim.Optimizer`.
        seed: See :class:`fastopt.optim.Optimizer`.
        ema_decay: See :class:`fastopt.optim.Optimizer`.
        ema_warmup: See :class:`fastopt.optim.Optimizer`.
        swa_start: See :class:`fastopt.optim.Optimizer`.
        swa_freq: See :class:`fastopt.optim.Optimizer`.
        weights: See :class:`fastopt.optim.Optimizer`.
        moments: See :class:`fastopt.optim.Optimizer`.
        moment_rounding: See :class:`fastopt.optim.Optimizer`.
        momentum_buffer_scales: With ``moments="8bit"``, the exponents of ``momentum_buffers``: uint8, one for 64 elements; updated.
        velocity_buffer_scales: With ``moments="8bit"``, the exponents of ``velocity_buffers``: uint8, one for 64 elements; updated.
        master_params: With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.
        compensations: With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.
        corrections: With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.
        initial_params: With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.
        ema_params: With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.
        grad_scale: See :meth:`fastopt.optim.Optimizer.step`.
        clip_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_value: See :meth:`fastopt.optim.Optimizer.step`.
        clip_param_norm: See :meth:`fastopt.optim.Optimizer.step`.
        clip_adaptive: See :meth:`fastopt.optim.Optimizer.step`.
        skip_nonfinite: See :meth:`fastopt.optim.Optimizer.step`.
        zero_grads: See :meth:`fastopt.optim.Optimizer.step`.

    Returns:
        The norm of the gradients, if it was needed, and whether the step was skipped.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)
        >>> outcome = F.sgd([p], [g], step=1, lr=0.1)
        >>> bool(np.all(p < 1))
        True

    References:
        Polyak 1964; Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", eq. 1-4.
    """
    return update(optim.SGD, locals())
