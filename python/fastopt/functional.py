"""The stateless layer: arrays in, arrays out.

Optimizer steps update their arrays in place.  Normalizations return new arrays, or fill those that ``out`` gives.

Every function raises before it writes anything: TypeError for dtype and memory layout, ValueError for shape, range and
overlap, with the name of the argument.  What is written must be C-contiguous (a normalization's result may also have the
memory order of ``x``); inputs and gradients may be slices, as long as their innermost axis is contiguous.  All of them release
the GIL.  :mod:`fastopt.reference` has the same functions in NumPy, with the same results to the last bit.

Subnormal numbers (below 1.2e-38 in float32) count as zero.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _rules
from ._core import kernels

__all__ = ["adam", "adamw", "batch_norm", "batch_norm_backward", "layer_norm", "layer_norm_backward", "sgd"]

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Sequence[Array]
Statistics: TypeAlias = NDArray[np.float64]


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


def _listed(function: str, name: str, arrays: Any) -> list[Any]:
    if not isinstance(arrays, list | tuple):
        raise TypeError(f"{function}: {name} must be a list of arrays, got {type(arrays).__name__}")
    return list(arrays)


def _step(
    function: str,
    rule: _rules.Rule,
    params: Arrays,
    grads: Sequence[Array | None],
    states: Sequence[Any],
    step: int | Sequence[int],
) -> None:
    params, grads = _listed(function, "params", params), _listed(function, "grads", grads)
    buffers = [_listed(function, f"{name}s", state) for name, state in zip(rule.states, states, strict=True)]
    count = len(params)
    steps = _steps(function, step, count) - 1
    for name, arrays in (
        ("grads", grads),
        *((f"{name}s", buffer) for name, buffer in zip(rule.states, buffers, strict=True)),
    ):
        if len(arrays) != count:
            raise ValueError(f"{function}: {name} has {len(arrays)} entries, expected {count}, one a parameter")
    if count:
        labels = [f"[{i}]" for i in range(count)]
        kernels.Plan(rule.name, function, params, buffers, steps, [0] * count, labels).step(grads, [rule.options])


def sgd(
    params: Arrays,
    grads: Sequence[Array | None],
    momentum_buffers: Arrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    l1: float = 0.0,
    velocity: bool = False,
) -> None:
    """One step of stochastic gradient descent, in place.

    .. code-block:: text

        g ← g + weight_decay·p + l1·sign(p)
        b ← g at the first step, momentum·b + (1 − dampening)·g later;   p ← p − lr·b, with nesterov p ← p − lr·(g + momentum·b)
        velocity:  v ← momentum·v − lr·g;   p ← p + v, with nesterov p ← p + momentum·v − lr·g

    The two forms of momentum give the same steps as long as lr and dampening = 0 are constant; b is a sum of gradients,
    v a sum of updates.

    Args:
        params: Parameters, float32 or float64, any shapes; updated.
        grads: Their gradients, of the same shapes and dtype; ``None`` leaves that parameter and its buffer alone.
        momentum_buffers: b, or v, of the same shapes; updated.  Needed where ``momentum`` is not 0.
        step: The step that is being taken, from 1: one number, or one for each parameter.  At step 1 b is not read.
        lr: Learning rate η, at least 0.
        momentum: μ, in [0, 1].
        dampening: τ, how much of a new gradient is left out.
        weight_decay: λ of L2 regularization (coupled), at least 0.
        nesterov: Take the step from where the momentum leads.
        maximize: Ascend: the gradient is negated before weight decay is added.
        l1: Coefficient of L1 regularization, at least 0.
        velocity: Keep a velocity (Keras, scikit-learn) in place of torch's buffer.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, b = np.ones(3, np.float32), np.zeros(3, np.float32)
        >>> F.sgd([p], [np.full(3, 0.5, np.float32)], [b], step=1, lr=0.5, momentum=0.9)
        >>> p
        array([0.75, 0.75, 0.75], dtype=float32)

    References:
        Polyak 1964; Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", eq. 1-4.
    """
    rule = _rules.sgd(
        "sgd",
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        weight_decay=weight_decay,
        nesterov=nesterov,
        maximize=maximize,
        l1=l1,
        velocity=velocity,
    )
    _step("sgd", rule, params, grads, [momentum_buffers] if rule.states else [], step)


def _adam(
    function: str,
    decoupled: bool,
    params: Arrays,
    grads: Sequence[Array | None],
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None,
    step: int | Sequence[int],
    **hyperparameters: Any,
) -> None:
    rule = _rules.adam(function, amsgrad=max_exp_avg_sqs is not None, decoupled=decoupled, **hyperparameters)
    states = [exp_avgs, exp_avg_sqs] if max_exp_avg_sqs is None else [exp_avgs, exp_avg_sqs, max_exp_avg_sqs]
    _step(function, rule, params, grads, states, step)


def adam(
    params: Arrays,
    grads: Sequence[Array | None],
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
    l1: float = 0.0,
    eps_hat: bool = False,
) -> None:
    """One step of Adam, in place; of AMSGrad where ``max_exp_avg_sqs`` is given.

    .. code-block:: text

        g ← g + weight_decay·p + l1·sign(p)
        m ← β₁ m + (1−β₁) g;   v ← β₂ v + (1−β₂) g²;   v̂ ← max(v̂, v)
        p ← p − lr/(1−β₁ᵗ) · m / (√v̂/√(1−β₂ᵗ) + ε)
        eps_hat:  p ← p − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v̂ + ε̂)

    Args:
        params: Parameters, float32 or float64, any shapes; updated.
        grads: Their gradients, of the same shapes and dtype; ``None`` leaves that parameter and its moments alone.
        exp_avgs: m, of the same shapes, zero before step 1; updated.
        exp_avg_sqs: v, likewise.
        max_exp_avg_sqs: v̂ of AMSGrad, likewise.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ of L2 regularization (coupled: part of the gradient), at least 0.
        maximize: Ascend: the gradient is negated before weight decay is added.
        l1: Coefficient of L1 regularization, at least 0.
        eps_hat: ε joins √v before bias correction, as in TensorFlow, Keras, scikit-learn and ONNX.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, m, v = np.ones(3), np.zeros(3), np.zeros(3)
        >>> F.adam([p], [np.full(3, 0.5)], [m], [v], step=1, lr=0.1)
        >>> p.round(6)
        array([0.9, 0.9, 0.9])

    References:
        Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; Reddi, Kale & Kumar 2018, arXiv:1904.09237, algorithm 2, here with
        Adam's bias correction, and the maximum of the uncorrected v, as in torch.
    """
    hyperparameters = dict(
        lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, l1=l1, eps_hat=eps_hat
    )
    _adam("adam", False, params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, step, **hyperparameters)


def adamw(
    params: Arrays,
    grads: Sequence[Array | None],
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    maximize: bool = False,
    l1: float = 0.0,
    eps_hat: bool = False,
) -> None:
    """One step of AdamW, in place: Adam with decoupled weight decay.

    .. code-block:: text

        p ← (1 − lr·weight_decay) p, then Adam's step from the undecayed gradient

    Args:
        params: Parameters, float32 or float64, any shapes; updated.
        grads: Their gradients, of the same shapes and dtype; ``None`` leaves that parameter and its moments alone.
        exp_avgs: m, of the same shapes, zero before step 1; updated.
        exp_avg_sqs: v, likewise.
        max_exp_avg_sqs: v̂ of AMSGrad, likewise.
        step: t, the step that is being taken, from 1: one number, or one for each parameter.
        lr: Learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ of the decoupled decay, at least 0.
        maximize: Ascend: the gradient is negated.
        l1: Coefficient of L1 regularization, at least 0; part of the gradient.
        eps_hat: ε joins √v before bias correction, see :func:`adam`.

    Raises:
        TypeError: A dtype, memory layout or type of argument is wrong.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> p, m, v = np.ones(3), np.zeros(3), np.zeros(3)
        >>> F.adamw([p], [np.full(3, 0.5)], [m], [v], step=1, lr=0.1, weight_decay=0.5)
        >>> p.round(6)
        array([0.85, 0.85, 0.85])

    References:
        Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, where torch and we multiply the decay with lr.
    """
    hyperparameters = dict(
        lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, l1=l1, eps_hat=eps_hat
    )
    _adam("adamw", True, params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, step, **hyperparameters)


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
