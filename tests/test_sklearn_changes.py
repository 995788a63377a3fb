"""scikit-learn's perceptrons under fastopt where somebody changes them: callbacks, other functions in the place of its own, odd weights."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tables import Array

import fastopt.sklearn
from fastopt.sklearn import accelerate, restore

sklearn = pytest.importorskip("sklearn", reason="needs scikit-learn")

from sklearn.neural_network import MLPClassifier, MLPRegressor, _multilayer_perceptron  # noqa: E402
from sklearn.neural_network._stochastic_optimizers import BaseOptimizer  # noqa: E402

BASE = _multilayer_perceptron.BaseMultilayerPerceptron
HAS_WEIGHTS = "sample_weight" in BASE._backprop.__code__.co_varnames  # since 1.7
REPLACED = (
    (BASE, "_fit_stochastic"),
    (BASE, "_backprop"),
    (BaseOptimizer, "update_params"),
    (_multilayer_perceptron, "_safe_indexing"),
)
ORIGINALS = [getattr(*one) for one in REPLACED]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
weighted = pytest.mark.skipif(not HAS_WEIGHTS, reason="this scikit-learn has no sample weights here")


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    """scikit-learn is its own after every test."""
    yield
    restore()
    assert [getattr(*one) for one in REPLACED] == ORIGINALS


@pytest.fixture
def data(rng: np.random.Generator) -> tuple[Array, Array]:
    x = rng.standard_normal((60, 4))
    return x, x[:, 0] * x[:, 1]


def taken(monkeypatch: pytest.MonkeyPatch, train: Callable[[], Any]) -> tuple[Any, Any, int]:
    """What a training gives with fastopt and without, and how many steps fastopt has taken."""
    count, take = [0], fastopt.sklearn._step.Step.take

    def counted(*arguments: Any) -> None:
        count[0] += 1
        take(*arguments)

    theirs = train()
    with monkeypatch.context() as patch, accelerate():
        patch.setattr(fastopt.sklearn._step.Step, "take", counted)
        ours = train()
    return ours, theirs, count[0]


def assert_alike(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-10)
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)
    assert vars(ours).keys() == vars(theirs).keys()


class Clipped(_multilayer_perceptron.AdamOptimizer):
    def _get_updates(self, grads: list[Array]) -> Any:
        return super()._get_updates([np.clip(grad, -1e-3, 1e-3) for grad in grads])


def with_callback(change: Callable[[Any], None], **options: Any) -> Any:
    """An estimator that is changed after each epoch."""

    class Changing(MLPRegressor):
        def _update_no_improvement_count(self, *arguments: Any) -> None:
            super()._update_no_improvement_count(*arguments)
            change(self)

    return Changing(max_iter=6, random_state=0, batch_size=20, **options)


def halve_rate(model: Any) -> None:
    model._optimizer.learning_rate_init *= 0.5


def negative_rate(model: Any) -> None:
    model._optimizer.learning_rate_init = -0.001  # which fastopt does not take


def forget_moments(model: Any) -> None:
    model._optimizer.ms = [np.zeros_like(m) for m in model._optimizer.ms]


def begin_anew(model: Any) -> None:
    model._optimizer.t = 0


def other_betas(model: Any) -> None:
    model._optimizer.beta_1, model._optimizer.epsilon = 0.5, 0.01


def more_decay(model: Any) -> None:
    model.alpha *= 2


def negative_decay(model: Any) -> None:
    model.alpha = -0.1


def other_activation(model: Any) -> None:
    model.activation = "tanh"


def other_optimizer(model: Any) -> None:
    if model.n_iter_ == 2:
        model._optimizer = _multilayer_perceptron.AdamOptimizer(model.coefs_ + model.intercepts_, 0.01)


def clipped_optimizer(model: Any) -> None:
    if model.n_iter_ == 3:
        model._optimizer = Clipped(model.coefs_ + model.intercepts_, 0.01)  # which is left to scikit-learn


def own_updates(model: Any) -> None:
    if model.n_iter_ == 4:
        model._optimizer._get_updates = lambda grads: [0.001 * grad for grad in grads]


def own_update_params(model: Any) -> None:
    def update(params: list[Array], grads: list[Array]) -> None:
        for param, grad in zip(params, grads, strict=True):
            param -= 0.01 * np.clip(grad, -0.01, 0.01)

    if model.n_iter_ == 4:
        model._optimizer.update_params = update


def other_weights(model: Any) -> None:
    model.coefs_[0] = model.coefs_[0] * 0.5  # the loop goes on with those it has, and gradients are those of these


@pytest.mark.parametrize("steps", [18], ids=[""])
@pytest.mark.parametrize(
    "change",
    [
        halve_rate,
        negative_rate,
        forget_moments,
        begin_anew,
        other_betas,
        more_decay,
        negative_decay,
        other_activation,
        other_optimizer,
        clipped_optimizer,
        own_updates,
        own_update_params,
        other_weights,
    ],
)
def test_callbacks_change_what_they_change_in_scikit_learn(
    change: Callable[[Any], None], steps: int, data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = lambda: with_callback(change, learning_rate_init=0.01, alpha=0.1).fit(*data)  # noqa: E731
    ours, theirs, count = taken(monkeypatch, train)
    assert_alike(ours, theirs)
    assert count == {negative_rate: 3, clipped_optimizer: 9, own_updates: 12, own_update_params: 12}.get(change, steps)
    assert ours._optimizer.t == theirs._optimizer.t
    assert type(ours._optimizer.learning_rate) is type(theirs._optimizer.learning_rate)


@pytest.mark.parametrize("nesterov", [False, True])
def test_callbacks_change_sgd(nesterov: bool, data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    def change(model: Any) -> None:
        model._optimizer.learning_rate *= 0.8
        model._optimizer.momentum -= 0.1
        model._optimizer.velocities = [0.5 * one for one in model._optimizer.velocities]

    options = dict(solver="sgd", nesterovs_momentum=nesterov, learning_rate_init=0.01)
    ours, theirs, count = taken(monkeypatch, lambda: with_callback(change, **options).fit(*data))
    assert_alike(ours, theirs)
    assert count == 18


def test_callbacks_see_the_optimizer_as_it_is(data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[Any]()

    def look(model: Any) -> None:
        own = model._optimizer
        seen.append((own.t, float(own.learning_rate), float(own.ms[0].sum()), float(own.vs[-1].sum())))

    taken(monkeypatch, lambda: with_callback(look).fit(*data))
    np.testing.assert_allclose(seen[6:], seen[:6], rtol=1e-9)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_during_a_fit(
    copy_of: Callable[[Any], Any], data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy has nothing of fastopt, and trains as scikit-learn's does."""
    copies = list[Any]()

    def train() -> Any:
        model = MLPRegressor(max_iter=3, random_state=0, batch_size=20)
        ends = BaseOptimizer.iteration_ends

        def keep(optimizer: Any, *arguments: Any) -> None:
            if model.n_iter_ == 2:
                copies.append(copy_of(model))
            ends(optimizer, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(BaseOptimizer, "iteration_ends", keep)
            return model.fit(*data)

    ours, theirs, _ = taken(monkeypatch, train)
    assert_alike(ours, theirs)
    other, mine = copies
    assert_alike(mine, other)
    assert b"fastopt" not in pickle.dumps(mine)
    assert_alike(mine.partial_fit(*data), other.partial_fit(*data))


def leaky(z: Array) -> None:
    np.maximum(z, 0.1 * z, out=z)


def leaky_derivative(z: Array, delta: Array) -> None:
    delta[z < 0] *= 0.1


def halved(original: Callable[..., Any]) -> Callable[..., Any]:
    def halved(self: Any, *arguments: Any) -> Any:
        loss, coef_grads, intercept_grads = original(self, *arguments)
        return loss, [grad * 0.5 for grad in coef_grads], intercept_grads

    return halved


def half_updates(self: Any, params: list[Array], grads: list[Array]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param -= 0.001 * grad


def squared(y: Array, output: Array, *sample_weight: Any) -> Any:
    return ((y - output) ** 2).mean() / 3


@pytest.mark.parametrize("early", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "names",
    [
        {"ACTIVATIONS.relu": leaky, "DERIVATIVES.relu": leaky_derivative},
        {"ACTIVATIONS.identity": lambda z: np.tanh(z, out=z)},
        {"LOSS_FUNCTIONS.squared_error": squared},
        {"AdamOptimizer": Clipped},
        {"AdamOptimizer._get_updates": lambda self, grads: [-1e-3 * grad for grad in grads]},
        {"BaseMultilayerPerceptron._backprop": halved(BASE._backprop)},
        {"AdamOptimizer.update_params": half_updates},
    ],
    ids=lambda names: next(iter(names)),
)
def test_what_is_not_scikit_learns_own_is_left_alone(
    names: dict[str, Any], early: bool, data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train() -> Any:
        return MLPRegressor(max_iter=4, random_state=0, batch_size=20, epsilon=0.1).fit(*data)

    def put(patch: pytest.MonkeyPatch) -> None:
        for name, value in names.items():
            first, _, last = name.partition(".")
            owner = getattr(_multilayer_perceptron, first)
            if isinstance(owner, dict):
                patch.setitem(owner, last, value)
            elif last:
                patch.setattr(owner, last, value)
            else:
                patch.setattr(_multilayer_perceptron, first, value)

    with monkeypatch.context() as patch:
        put(patch)
        theirs = train()
    assert theirs.loss_ != train().loss_
    with monkeypatch.context() as patch:
        if early:
            put(patch)
        with accelerate():
            if not early:
                put(patch)
            assert_alike(train(), theirs)
    # What was put there during an acceleration had a function of ours before it, which is back now.
    ours, theirs, count = taken(monkeypatch, train)
    assert_alike(ours, theirs)
    assert count == 12


def test_an_instances_own_gradient(data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> Any:
        model = MLPRegressor(max_iter=2, random_state=0)
        gradient = halved(type(model)._backprop)
        model._backprop = lambda *arguments: gradient(model, *arguments)
        model.fit(*data)
        assert vars(model).pop("_backprop")
        return model

    ours, theirs, count = taken(monkeypatch, train)
    assert_alike(ours, theirs)
    assert count == 0


def test_a_new_activation(data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_multilayer_perceptron.ACTIVATIONS, "leaky", leaky)
    monkeypatch.setitem(_multilayer_perceptron.DERIVATIVES, "leaky", leaky_derivative)

    class Leaky(MLPRegressor):
        _parameter_constraints = {**MLPRegressor._parameter_constraints, "activation": [str]}  # noqa: RUF012

    ours, theirs, count = taken(monkeypatch, lambda: Leaky(activation="leaky", max_iter=3, random_state=0).fit(*data))
    assert_alike(ours, theirs)
    assert count == 3  # with scikit-learn's gradients


@weighted
@pytest.mark.parametrize("batch", [1, 7])
def test_weights_of_any_sum(batch: int, data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.ones(60)
    weights[:9] = -0.9

    def train() -> Any:
        model = MLPRegressor(max_iter=3, random_state=0, batch_size=batch)
        return model.fit(*data, sample_weight=weights)

    ours, theirs, count = taken(monkeypatch, train)
    assert_alike(ours, theirs)
    assert count == 3 * -(-60 // batch)


@weighted
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("weight", [0.0, 5e-324])
def test_weights_that_vanish(weight: float, data: tuple[Array, Array]) -> None:
    def error() -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            MLPRegressor(max_iter=3, random_state=0).fit(*data, sample_weight=np.full(60, weight))
        return str(caught.value)

    theirs = error()
    with accelerate():
        assert error() == theirs


@pytest.mark.parametrize("layers", [(9,), (5, 5)])
def test_layers_that_were_changed_since(layers: tuple[int, ...], data: tuple[Array, Array]) -> None:
    def outcome(method: str) -> Any:
        model = MLPRegressor(hidden_layer_sizes=(5,), max_iter=3, random_state=0, warm_start=True).fit(*data)
        model.set_params(hidden_layer_sizes=layers)
        try:
            return getattr(model, method)(*data)
        except Exception as error:
            return repr(error)

    for method in ("partial_fit", "fit"):
        theirs = outcome(method)
        with accelerate():
            ours = outcome(method)
        assert type(ours) is type(theirs)
        if isinstance(ours, str):
            assert ours == theirs
        else:
            assert_alike(ours, theirs)


def test_an_interrupt_while_a_fit_begins(data: tuple[Array, Array]) -> None:
    model, start = MLPClassifier(max_iter=2), fastopt.sklearn._fit.Fit.__init__.__code__

    def trace(frame: Any, event: str, _: Any) -> Any:
        def at_end(frame: Any, event: str, _: Any) -> Any:
            if event == "return":
                sys.settrace(None)
                raise KeyboardInterrupt
            return at_end

        return at_end if frame.f_code is start else None

    before = sys.gettrace()
    with accelerate():
        sys.settrace(trace)
        try:
            with pytest.raises(KeyboardInterrupt):
                model.fit(data[0], data[1] > 0)
        finally:
            sys.settrace(before)
    assert "_backprop" not in vars(model)
    pickle.dumps(model)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("switched", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_fit_in_a_fit_of_the_same_estimator(
    solver: str, switched: bool, method: str, data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(model: Any) -> None:
        if model.n_iter_ == 2 and not hasattr(model, "inner"):
            model.inner = True
            if switched:
                restore()
            getattr(model, method)(data[0][:40], data[1][:40])

    train = lambda: with_callback(again, alpha=1.0, solver=solver).fit(*data)  # noqa: E731
    ours, theirs, count = taken(monkeypatch, train)
    assert_alike(ours, theirs)
    assert count >= 18


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_two_estimators_with_one_optimizer(
    solver: str, data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(model: Any) -> None:
        if model.n_iter_ == 2 and not hasattr(model, "inner"):
            other = copy.copy(model)
            other.inner = True
            other.partial_fit(*data)

    ours, theirs, _ = taken(monkeypatch, lambda: with_callback(again, alpha=20.0, solver=solver).fit(*data))
    assert_alike(ours, theirs)


@pytest.mark.parametrize("name", ["_backprop", "_compute_loss_grad"])
def test_methods_that_come_into_the_class_during_a_fit(
    name: str, data: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []

    def wrap(model: Any) -> None:
        kind = type(model)
        if model.n_iter_ != 2 or name in vars(kind):
            return
        own = getattr(MLPRegressor, name)

        def wrapped(self: Any, *arguments: Any) -> Any:
            result = own(self, *arguments)
            seen[-1].append(float(np.linalg.norm(result[1][0])) if name == "_backprop" else 1.0)
            return result

        setattr(kind, name, wrapped)

    def train() -> Any:
        seen.append([])
        return with_callback(wrap, alpha=20.0).fit(*data)

    ours, theirs, _ = taken(monkeypatch, train)
    assert_alike(ours, theirs)
    assert len(seen[0]) >= 12
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-8)
