"""Errors about keywords of other libraries lead to ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tools import Each

from fastopt import _words, nn, optim, schedules
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
        ("SGD", "clipnorm", "it is an option of the step: opt.step(grads, clip_param_norm=...)"),
        ("SGD", "global_clipnorm", "it is an option of the step: opt.step(grads, clip_norm=...)"),
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
        ("StepLR", "decay_rate", "did you mean gamma (gamma = decay_rate ** (1 / decay_steps))?"),
        ("StepLR", "learning_rate", "did you mean optimizer (lr is the optimizer's)?"),
        ("WarmupCosineLR", "num_warmup_steps", "did you mean warmup_steps?"),
        ("ReduceLROnPlateau", "min_delta", "did you mean threshold (Keras's min_delta with threshold_mode='abs')?"),
    ],
)  # fmt: skip
def test_a_word_leads_to_ours(function: str, word: str, way: str) -> None:
    with pytest.raises(TypeError) as raised:
        CALLS[function](**{word: 0.5})
    assert str(raised.value) == f"{NAMES.get(function, function)}: there is no {word}; {way}"
    assert raised.value.__context__ is None or raised.value.__suppress_context__  # no second error is shown


def known(call: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(OPT.step if call is CALLS["step"] else call).parameters)


def test_every_word_has_a_function_in_which_it_helps(each: Each) -> None:
    for word in each(_words.WORDS):
        helped = [
            name for name, call in CALLS.items() if word not in (has := known(call)) and _words.meant_by(word, has)
        ]
        assert helped
        with pytest.raises((TypeError, ValueError), match=f": there is no {word}; "):
            CALLS[helped[0]](**{word: 1})


def test_every_meaning_is_reached(each: Each) -> None:
    """No meaning stands behind one that comes before it in every function."""
    for word, meanings in each(_words.WORDS.items()):
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
    with pytest.raises(TypeError, match=r"^RMSprop: there is no max_norm; did you mean clip_norm\?$"):
        opt.step(max_norm=1.0)
    with pytest.raises(ValueError, match=r"^RMSprop: in a group: there is no epsilon; did you mean eps \("):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "epsilon": 1.0})
