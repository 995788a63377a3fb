"""Errors about keywords of other libraries lead to ours."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tools import Each

from fastopt import _foreign, _words, distributed, nn, optim, schedules
from fastopt import functional as F

P: NDArray[Any] = np.ones((4, 3))
BASES = ("Optimizer", "StepInfo")
OPT = optim.SGD([P], lr=0.1)
# A call of each function in which words are looked up; the keyword is added.
CALLS: dict[str, Callable[..., Any]] = {
    **{name: partial(getattr(optim, name), [P]) for name in optim.__all__ if name[0].isupper() and name not in BASES},
    **{name: getattr(schedules, name) for name in schedules.__all__},
    **{name: getattr(nn, name) for name in nn.__all__},
    "step": lambda **word: OPT.step([P], **word),
    "adam": F.adam,
    "SyncBatchNorm": distributed.SyncBatchNorm,
    **{name: getattr(F, name) for name in F._ONCE_A_STEP},
}  # fmt: skip
NAMES = {"step": "SGD"}


@pytest.mark.parametrize(
    ("function", "word", "way"),
    [
        ("RMSprop", "rho", "did you mean alpha (Keras's rho)?"),
        ("RMSprop", "epsilon", "did you mean eps (Keras's epsilon with eps_in_sqrt=True)?"),
        ("RMSprop", "decay", "did you mean alpha (optax's decay; Keras's is weight_decay or a schedule)?"),
        ("Adam", "epsilon", "did you mean eps (Keras's epsilon with eps_hat=True)?"),
        ("Adam", "beta_1", "did you mean betas (betas=(beta1, beta2))?"),
        ("Adam", "learning_rate", "did you mean lr (Keras's and optax's learning_rate)?"),
        ("Adam", "nesterov", "NAdam is Adam with Nesterov's momentum"),
        ("SGD", "decay", "did you mean weight_decay (Keras's old decay is a schedule, LambdaLR with 1/(1 + decay·t))?"),
        ("SGD", "clipnorm", "it is an option of the step: opt.step(..., clip_param_norm=...)"),
        ("SGD", "global_clipnorm", "it is an option of the step: opt.step(..., clip_norm=...)"),
        ("SGD", "fused", "leave it out: each step is one fused pass"),
        ("step", "clipnorm", "did you mean clip_param_norm (Keras's clipnorm, for each gradient by itself)?"),
        ("step", "global_clipnorm", "did you mean clip_norm (Keras's global_clipnorm)?"),
        ("step", "clipvalue", "did you mean clip_value (Keras's clipvalue)?"),
        ("step", "clip_nrom", "did you mean clip_norm?"),
        ("adam", "beta_1", "did you mean betas (betas=(beta1, beta2))?"),
        ("Dropout", "rate", "did you mean p (Keras's rate)?"),
        ("LayerNorm", "epsilon", "did you mean eps?"),
        ("BatchNorm", "axis", "did you mean channel_axis?"),
        ("Linear", "units", "did you mean out_features (Keras's units)?"),
        ("CosineAnnealingLR", "decay_steps", "did you mean T_max?"),
        ("StepLR", "decay_rate", "did you mean gamma (with step_size=decay_steps)?"),
        ("ExponentialLR", "decay_rate", "did you mean gamma (gamma = decay_rate ** (1 / decay_steps))?"),
        ("StepLR", "learning_rate", "did you mean optimizer (lr is the optimizer's)?"),
        ("WarmupCosineLR", "num_warmup_steps", "did you mean warmup_steps?"),
        ("Adafactor", "epsilon_1", "did you mean eps (eps=(epsilon_1, epsilon_2))?"),
        ("Adafactor", "beta_2_decay", "did you mean beta2_decay (Keras's beta_2_decay)?"),
        ("Adafactor", "momentum", "this optimizer has neither betas nor momentum"),
        ("AdamW", "warmup_steps", "warm up with a schedule, such as fo.schedules.WarmupCosineLR"),
        ("AdamW", "device", "leave it out: everything is on the CPU"),
        ("Linear", "kernel_initializer", "write into the layer's weight once the layer is made"),
        ("BatchNorm", "use_bias", "did you mean affine (weight and bias together)?"),
        ("RMSNorm", "use_bias", "this layer has no bias"),
        ("LayerNorm", "use_scale", "did you mean elementwise_affine (Keras's scale)?"),
        ("ReLU", "inplace", "call the layer with out=x"),
        ("Dropout", "deterministic", "layer.train() and layer.eval() switch"),
        ("InverseSqrtLR", "warmup", "did you mean warmup_steps?"),
        ("CosineAnnealingLR", "warmup_steps", "WarmupCosineLR warms up; for others, SequentialLR puts LinearLR before them"),
        ("StepLR", "end_value", "this schedule has none; LambdaLR takes any function of the step"),
        ("LinearLR", "end_value", "did you mean end_factor (a factor of the optimizer's lr)?"),
        ("mse_loss", "y_true", "did you mean target?"),
        ("clip_grad_norm", "parameters", "did you mean grads (the gradients themselves)?"),
        ("ReduceLROnPlateau", "min_delta", "did you mean threshold (Keras's min_delta with threshold_mode='abs')?"),
    ],
)  # fmt: skip
def test_a_word_leads_to_ours(function: str, word: str, way: str) -> None:
    with pytest.raises(TypeError) as raised:
        CALLS[function](**{word: 0.5})
    assert str(raised.value) == f"{NAMES.get(function, function)}: there is no {word}; {way}"
    assert raised.value.__context__ is None or raised.value.__suppress_context__  # no second error is shown


def known(call: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(OPT.step if call is CALLS["step"] else call).parameters
    return {name for name, one in parameters.items() if call is not CALLS["step"] or one.kind is one.KEYWORD_ONLY}


def test_every_word_has_a_function_in_which_it_helps(each: Each) -> None:
    for word in each(_foreign.WORDS):
        helped = [
            name for name, call in CALLS.items() if word not in (has := known(call)) and _words.meant_by(word, has)
        ]
        assert helped
        with pytest.raises((TypeError, ValueError), match=f": there is no {word}; "):
            CALLS[helped[0]](**{word: 1})


def test_every_meaning_is_reached(each: Each) -> None:
    """No meaning stands behind one that comes before it in every function."""
    for word, meanings in each(_foreign.WORDS.items()):
        found = {_words.meant_by(word, has) for call in CALLS.values() if word not in (has := known(call))}
        assert [one for one in meanings if one not in found and (one.name or one.note)] == []


def test_groups_and_attributes_are_led_too() -> None:
    opt = optim.RMSprop([P.copy()])
    with pytest.raises(ValueError, match=r"^RMSprop: there is no rho; did you mean alpha \(Keras's rho\)\?$"):
        opt.add_param_group({"params": [P.copy()], "rho": 0.9})
    with pytest.raises(TypeError, match=r"opt\.param_groups\[0\]\['lr'\] = 0\.5$"):
        opt.learning_rate = 0.5


def test_other_errors_and_users_classes_stay_pythons() -> None:
    class Mine(nn.Dropout):
        def __init__(self, share: float) -> None:
            super().__init__(p=share)

    for call, text in (
        (lambda: nn.Dropout(quickness=1), "unexpected keyword argument 'quickness'"),  # type: ignore[call-arg]
        (lambda: nn.LayerNorm(), "missing 1 required positional argument: 'normalized_shape'"),  # type: ignore[call-arg]
        (lambda: OPT.step([P], 1.0), r"step\(\) takes from 1 to 2 positional arguments but 3 were given"),  # type: ignore[misc]
        (lambda: Mine(rate=0.5), "unexpected keyword argument 'rate'"),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError, match=text):
            call()
    assert Mine(0.25).p == 0.25


def test_subclasses_of_users() -> None:
    class Mine(optim.SGD):
        def __init__(self, params: Any, rate: float) -> None:
            super().__init__(params, lr=rate)

        def step(self, grads: Any = None, *, closure: Any = None, **options: Any) -> Any:  # type: ignore[override]
            return super().step(grads, **options)

    assert [*inspect.signature(Mine).parameters] == ["params", "rate"]
    with pytest.raises(TypeError, match=r"^Mine: there is no max_norm; did you mean clip_norm\?$"):
        Mine([P.copy()], 0.1).step([P], max_norm=1.0)
    with pytest.raises(TypeError, match=r"^SGD: step has no option 'quickness'; it has grad_scale, clip_norm"):
        OPT.step([P], quickness=1)  # type: ignore[arg-type]


def test_methods_can_be_pickled() -> None:
    for method in (optim.AdamW.save, nn.GELU.__call__, schedules.StepLR.get_last_lr):
        assert pickle.loads(pickle.dumps(method)) is method


def test_signatures_stay() -> None:
    assert str(inspect.signature(nn.Dropout)) == "(p: 'float' = 0.5, seed: 'int | None' = None) -> 'None'"
    assert [*inspect.signature(OPT.step).parameters][:3] == ["grads", "grad_scale", "clip_norm"]
    assert [*inspect.signature(schedules.StepLR).parameters] == ["optimizer", "step_size", "gamma", "last_epoch"]


def test_torch_optimizers_lead_too() -> None:
    torch = pytest.importorskip("torch", reason="these are torch's optimizers")
    from fastopt.torch import optim as of_torch

    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match=r"^RMSprop: there is no rho; did you mean alpha \(Keras's rho\)\?$"):
        of_torch.RMSprop([weight], rho=0.9)
    opt = of_torch.RMSprop([weight])
    for hooked in (False, True):
        if hooked:
            opt.register_step_pre_hook(lambda *_: None)
        with pytest.raises(TypeError, match=r"^RMSprop: there is no clipnorm; did you mean clip_param_norm"):
            opt.step(clipnorm=1.0)
    with pytest.raises(TypeError, match=r"^RMSprop: there is no max_norm; did you mean clip_norm\?$"):
        opt.step(max_norm=1.0)
    with pytest.raises(ValueError, match=r"^RMSprop: in a group: there is no epsilon; did you mean eps \("):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "epsilon": 1.0})


# Every public constructor and function says its own name

PACKAGES = ("functional", "nn", "optim", "schedules", "reference", "distributed", "sklearn")
OF_TORCH = ("nn", "optim", "functional", "utils")


def publics(name: str) -> list[tuple[str, Any]]:
    """The public classes and functions of a package."""
    if name.startswith("torch"):
        pytest.importorskip("torch", reason="these are torch's")
    package = importlib.import_module(f"fastopt.{name}")
    return [(one, vars(package)[one]) for one in package.__all__ if callable(vars(package)[one])]


@pytest.mark.parametrize("package", [*PACKAGES, *(f"torch.{name}" for name in OF_TORCH)])
def test_errors_about_arguments_name_what_was_called(package: str, each: Each) -> None:
    """Too few arguments, too many, and unknown ones."""
    for name, function in each(publics(package)):
        parameters = inspect.signature(function).parameters.values()
        most = sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters)
        open_ended = any(one.kind is one.VAR_POSITIONAL for one in parameters)
        needed = any(one.default is one.empty and one.kind < 4 and one.kind != 2 for one in parameters)
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((), {"quickness": 1})]
        calls += [((), {})] * needed + [((None,) * (most + 1), {})] * (not open_ended)
        for arguments, keywords in calls:
            with pytest.raises(TypeError, match=rf"^{name}(\.__(init|new)__)?(\(\) |: )"):
                function(*arguments, **keywords)


def test_an_unknown_keyword_shows_what_there_is() -> None:
    for call, text in (
        (lambda: nn.LayerNorm(2, quickness=1), "LayerNorm.__init__() got an unexpected keyword argument 'quickness'; it has "),  # type: ignore[call-arg]
        (lambda: nn.Dropout(quickness=1), "it has p, seed"),  # type: ignore[call-arg]
        (lambda: nn.ReLU(quickness=1), "ReLU.__init__() got an unexpected keyword argument 'quickness'; it has no arguments"),  # type: ignore[call-arg]
    ):  # fmt: skip
        with pytest.raises(TypeError, match=re.escape(text)):
            call()


# What other libraries call the arguments of the same object: torch, Keras, optax, Flax, timm, Transformers and DeepSpeed
FOREIGN = {
    "AdamW": "learning_rate beta_1 beta1 b1 epsilon eps_root weight_decay_rate clipnorm clipvalue global_clipnorm use_ema ema_momentum "
    "ema_overwrite_frequency loss_scale_factor gradient_accumulation_steps name foreach fused capturable differentiable device dtype "
    "mu_dtype mask nesterov max_grad_norm adam_w_mode bias_correction correct_bias layer_decay exclude_from_weight_decay caution",
    "SGD": "learning_rate eta0 nesterovs_momentum power_t eps beta1 warmup_steps accumulator_dtype",
    "RMSprop": "rho epsilon discounting_factor decay eps_inside_sqrt nesterov",
    "Adafactor": "beta_2_decay epsilon_1 epsilon_2 relative_step scale_parameter clip_threshold warmup_init decay_rate beta1 momentum "
    "min_dim_size_to_factor multiply_by_parameter_scale clipping_threshold dtype_momentum factored",
    "LAMB": "beta1 epsilon max_coeff trust_clip always_adapt",
    "LARS": "trust_coeff eta beta1",
    "Muon": "backend_steps ns_coeffs beta consistent_rms adam_b1",
    "AdEMAMix": "b3 beta3 t_alpha t_beta3",
    "ADOPT": "clip_lambda decouple",
    "Adan": "no_prox beta3",
    "CosineAnnealingLR": "initial_learning_rate init_value decay_steps alpha warmup_steps warmup_target warmup_t lr_min t_initial min_lr",
    "ExponentialLR": "transition_steps decay_rate staircase end_value transition_begin initial_learning_rate init_value verbose name",
    "PolynomialLR": "decay_steps end_learning_rate cycle init_value end_value transition_steps lr_end num_training_steps",
    "LinearLR": "init_value end_value transition_steps warmup_steps num_warmup_steps",
    "OneCycleLR": "peak_value transition_steps init_value end_value",
    "CyclicLR": "initial_learning_rate maximal_learning_rate step_size",
    "CosineAnnealingWarmRestarts": "first_decay_steps t_mul m_mul cycle_mul cycle_limit initial_learning_rate",
    "ReduceLROnPlateau": "monitor min_delta rtol atol verbose",
    "WarmupCosineLR": "init_value peak_value decay_steps end_value warmup_epochs warmup_lr_init num_training_steps min_lr",
    "WarmupStableDecayLR": "num_warmup_steps num_stable_steps num_decay_steps min_lr_ratio",
    "InverseSqrtLR": "warmup num_warmup_steps timescale",
    "MultiStepLR": "boundaries boundaries_and_scales decay_rate",
    "LayerNorm": "axis epsilon center scale use_bias use_scale beta_initializer gamma_initializer gamma_regularizer gamma_constraint affine "
    "hidden_size num_features device reduction_axes bias_init scale_init param_dtype rms_norm_eps",
    "RMSNorm": "axis epsilon scale use_scale use_bias bias center scale_init hidden_size",
    "BatchNorm": "axis epsilon center scale use_bias use_scale bias elementwise_affine moving_mean_initializer moving_variance_initializer "
    "use_running_average synchronized axis_name renorm data_format trainable",
    "GroupNorm": "groups epsilon axis center scale group_size use_bias",
    "Linear": "units use_bias kernel_initializer bias_initializer kernel_regularizer kernel_init bias_init input_dim features in_channels",
    "Conv2d": "filters strides dilation_rate data_format activation use_bias kernel_initializer feature_group_count padding_mode features",
    "Embedding": "input_dim output_dim embeddings_initializer mask_zero max_norm vocab_size d_model features embedding_init",
    "Dropout": "rate inplace noise_shape rngs deterministic broadcast_dims drop_prob device dtype",
    "ReLU": "inplace device dtype name",
    "MaxPool2d": "pool_size strides window_shape data_format return_indices",
    "cross_entropy": "input logits labels y_true y_pred from_logits size_average reduce class_weight ignore_class sample_weight",
    "binary_cross_entropy_with_logits": "input y_true y_pred from_logits",
    "huber_loss": "beta y_true predictions targets",
    "clip_grad_norm": "parameters norm_type foreach max_grad_norm",
    "clip_grad_value": "parameters foreach max_delta",
}


@pytest.mark.parametrize("function", FOREIGN)
def test_words_of_other_libraries_lead_somewhere(function: str, each: Each) -> None:
    for word in each(FOREIGN[function].split()):
        if word not in known(CALLS[function]):
            with pytest.raises(TypeError, match=rf"^{function}: there is no {word}; \w"):
                CALLS[function](**{word: 1})
