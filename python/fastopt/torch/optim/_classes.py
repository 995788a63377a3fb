"""torch's optimizers, one per rule.  ``_generate.py`` writes this file; do not edit it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from torch import Tensor

from ... import optim
from .optimizer import Optimizer, WithModes, own

__all__ = [
    "ADOPT",
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "AdEMAMix",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
]

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class ADOPT(Optimizer):
    """fastopt.optim.ADOPT as an optimizer of torch's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.ADOPT`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.ADOPT([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.ADOPT

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        clip_exponent: float | None = 0.25,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class ASGD(Optimizer):
    """torch.optim.ASGD, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.ASGD`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.ASGD([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.ASGD

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        lambd: float = 0.0001,
        alpha: float = 0.75,
        t0: float = 1000000.0,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
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
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class LAMB(Optimizer):
    """fastopt.optim.LAMB as an optimizer of torch's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.LAMB`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.LAMB([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.LAMB

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class LARS(Optimizer):
    """fastopt.optim.LARS as an optimizer of torch's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.LARS`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.LARS([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.LARS

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 0.0,
        nesterov: bool = False,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class SGD(Optimizer):
    """torch.optim.SGD, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.SGD`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.SGD([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.SGD

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class AdEMAMix(Optimizer):
    """fastopt.optim.AdEMAMix as an optimizer of torch's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.AdEMAMix`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.AdEMAMix([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.AdEMAMix

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        alpha_warmup: int | None = None,
        beta3_warmup: int | None = None,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class Adadelta(Optimizer):
    """torch.optim.Adadelta, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.Adadelta`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.Adadelta([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.Adadelta

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
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
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class Adafactor(Optimizer):
    """torch.optim.Adafactor, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.Adafactor`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.Adafactor([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.Adafactor

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 0.001),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class Adagrad(Optimizer):
    """torch.optim.Adagrad, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.Adagrad`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.Adagrad([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.Adagrad

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
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
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class Adam(Optimizer):
    """torch.optim.Adam, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.Adam`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.Adam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.Adam

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class AdamW(Optimizer):
    """torch.optim.AdamW, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.AdamW`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.AdamW([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.AdamW

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class Adamax(Optimizer):
    """torch.optim.Adamax, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.Adamax`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.Adamax([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.Adamax

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
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
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class Adan(Optimizer):
    """fastopt.optim.Adan as an optimizer of torch's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.Adan`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.Adan([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.Adan

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class Lion(Optimizer):
    """fastopt.optim.Lion as an optimizer of torch's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.Lion`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.Lion([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.Lion

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class Muon(Optimizer):
    """torch.optim.Muon, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.Muon`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.Muon([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.Muon

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-07,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class NAdam(Optimizer):
    """torch.optim.NAdam, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.NAdam`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.NAdam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.NAdam

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum_decay: float = 0.004,
        decoupled_weight_decay: bool | None = False,
        *,
        maximize: bool = False,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class RAdam(Optimizer):
    """torch.optim.RAdam, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.RAdam`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.RAdam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.RAdam

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool | None = False,
        *,
        maximize: bool = False,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class RMSprop(Optimizer):
    """torch.optim.RMSprop, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.RMSprop`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.RMSprop([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.RMSprop

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        eps_in_sqrt: bool = False,
        velocity: bool = False,
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
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class Rprop(Optimizer):
    """torch.optim.Rprop, with steps of fastopt's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.Rprop`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.Rprop([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.Rprop

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-06, 50.0),
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class ScheduleFreeAdamW(WithModes):
    """fastopt.optim.ScheduleFreeAdamW as an optimizer of torch's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.ScheduleFreeAdamW`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    ``eval`` puts the averages in the parameters' place, and ``train`` the weights back.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.ScheduleFreeAdamW([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.ScheduleFreeAdamW

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)


class ScheduleFreeSGD(WithModes):
    """fastopt.optim.ScheduleFreeSGD as an optimizer of torch's.

    The formula and the hyperparameters are those of :class:`fastopt.optim.ScheduleFreeSGD`, the other arguments those of
    :class:`fastopt.torch.optim.Optimizer`.

    ``eval`` puts the averages in the parameters' place, and ``train`` the weights back.

    Example:
        >>> import torch
        >>> from fastopt.torch import optim
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = optim.ScheduleFreeSGD([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> opt.step()
        >>> opt.info.step
        1
    """

    rule = optim.ScheduleFreeSGD

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
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
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        in_backward: bool = False,
        amp_scaling: bool = False,
    ) -> None:
        defaults, arguments = own(locals())
        super().__init__(params, defaults, **arguments)
