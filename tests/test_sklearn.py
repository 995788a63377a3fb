"""scikit-learn's multi-layer perceptrons under fastopt: the same results, nothing left behind, and its own tests."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastopt.sklearn
from fastopt.sklearn import accelerate, is_accelerated, restore

sklearn = pytest.importorskip("sklearn", reason="needs scikit-learn")

import joblib  # noqa: E402
from scipy import sparse  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor, _multilayer_perceptron  # noqa: E402

BASE = _multilayer_perceptron.BaseMultilayerPerceptron
HAS_WEIGHTS = "sample_weight" in BASE._backprop.__code__.co_varnames  # since 1.7
ORIGINALS = BASE._fit_stochastic, _multilayer_perceptron._safe_indexing
OWN_TESTS = ("test_mlp", "test_stochastic_optimizers", "test_base")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

Model = Callable[..., Any]


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    """scikit-learn is its own before and after every test."""
    restore()
    yield
    restore()
    assert (BASE._fit_stochastic, _multilayer_perceptron._safe_indexing) == ORIGINALS


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of steps that fastopt has taken."""
    count = [0]
    take = fastopt.sklearn._step.Step.take

    def counted(*arguments: Any) -> None:
        count[0] += 1
        take(*arguments)

    monkeypatch.setattr(fastopt.sklearn._step.Step, "take", counted)
    return count


def digits(dtype: Any = np.float64, rows: int = 300) -> tuple[Any, Any]:
    x, y = load_digits(return_X_y=True)
    return (x[:rows] / 16).astype(dtype), y[:rows]


def assert_alike(ours: Any, theirs: Any, x: Any, tolerance: float = 1e-10) -> None:
    """Two estimators with the same attributes, all of scikit-learn's types, and values that agree."""

    def compare(a: Any, b: Any) -> None:
        assert type(a) is type(b)
        if isinstance(a, list | tuple):
            assert len(a) == len(b)
            for one, other in zip(a, b, strict=True):
                compare(one, other)
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            if a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
            else:
                np.testing.assert_array_equal(a, b)
        elif isinstance(a, float | np.floating):
            assert a == pytest.approx(b, rel=tolerance, nan_ok=True)
        elif isinstance(a, int | str | None):
            assert a == b

    assert vars(ours).keys() == vars(theirs).keys()
    for key, value in vars(ours).items():
        compare(value, vars(theirs)[key])
    assert vars(ours._optimizer).keys() == vars(theirs._optimizer).keys()
    for key, value in vars(ours._optimizer).items():
        compare(value, vars(theirs._optimizer)[key])
    np.testing.assert_array_equal(
        ours.predict(x) if hasattr(ours, "classes_") else 0, theirs.predict(x) if hasattr(theirs, "classes_") else 0
    )


def both(train: Callable[[], Any]) -> tuple[Any, Any]:
    """The result under fastopt, and scikit-learn's own."""
    with accelerate():
        ours = train()
    return ours, train()


OPTIONS: list[dict[str, Any]] = [
    *({"activation": one, "solver": two} for one, two in itertools.product(("identity", "logistic", "tanh", "relu"), ("adam", "sgd"))),
    {"solver": "sgd", "momentum": 0.0},
    {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False},
    {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-4},
    {"solver": "sgd", "nesterovs_momentum": False},
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.3, "tol": 0.05, "n_iter_no_change": 1, "max_iter": 40},
    {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 30},
    {"solver": "sgd", "early_stopping": True},
    {"alpha": 0.0},
    {"alpha": 0.5, "beta_1": 0.0, "beta_2": 0.0, "epsilon": 1e-3},
    {"hidden_layer_sizes": ()},
    {"hidden_layer_sizes": (5, 6, 7, 8)},
    {"shuffle": False, "batch_size": 64},
    {"batch_size": 1000},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: "-".join(map(str, one.values())) or "none")
def test_a_fit_is_scikit_learns(options: dict[str, Any], steps: list[int]) -> None:
    x, y = digits()
    for model, target in (
        (MLPClassifier, y),
        (MLPClassifier, y > 4),
        (MLPRegressor, y / 9),
        (MLPRegressor, np.stack([y, x[:, 20]], 1)),
    ):
        settings = {"hidden_layer_sizes": (12,), "max_iter": 6, "random_state": 1, "batch_size": 70, **options}
        before = steps[0]
        ours, theirs = both(lambda: model(**settings).fit(x, target))  # noqa: B023
        assert steps[0] - before == ours.n_iter_ * -(
            -len(x) * (0.9 if options.get("early_stopping") else 1) // min(settings["batch_size"], len(x))
        )
        assert_alike(ours, theirs, x)
        assert ours.score(x, target) == pytest.approx(theirs.score(x, target), rel=1e-9)


def test_other_targets(steps: list[int]) -> None:
    """Several labels, sparse rows, and scikit-learn's Poisson loss."""
    x, y = digits()
    labels = np.stack([y > 3, y % 2 == 0, y < 9], 1).astype(int)
    for data, target, model in (
        (x, labels, MLPClassifier((9,), max_iter=5, random_state=0)),
        (sparse.csr_matrix(x), y, MLPClassifier((9, 8), max_iter=5, random_state=0)),
        (x[::-1, ::-1], y, MLPClassifier((9,), max_iter=5, random_state=0, shuffle=False)),
        *([(x, y, MLPRegressor("poisson", (9,), max_iter=5, random_state=0))] if HAS_WEIGHTS else []),
    ):
        before = steps[0]
        ours, theirs = both(lambda: clone(model).fit(data, target))  # noqa: B023
        assert steps[0] > before
        assert_alike(ours, theirs, data)


@pytest.mark.skipif(not HAS_WEIGHTS, reason="scikit-learn has sample weights from 1.7 on")
def test_sample_weights(rng: np.random.Generator, steps: list[int]) -> None:
    x, y = digits()
    weight = rng.integers(0, 3, len(x)).astype(float)
    for model, target in ((MLPClassifier, y), (MLPClassifier, y > 4), (MLPRegressor, y)):
        for options in ({}, {"solver": "sgd", "early_stopping": True}):
            settings = {"hidden_layer_sizes": (12,), "max_iter": 6, "random_state": 1, "batch_size": 70, **options}
            assert_alike(*both(lambda: model(**settings).fit(x, target, weight)), x)  # noqa: B023
    assert steps[0]
    weight = np.zeros(len(x))
    weight[-1] = 1
    with accelerate(), pytest.raises(ZeroDivisionError):  # in the first batch, as in scikit-learn
        MLPClassifier((3,), batch_size=50, shuffle=False).fit(x, y, weight)


@pytest.mark.parametrize("model", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_float32_stays_near(model: Model, solver: str, steps: list[int]) -> None:
    x, y = digits(np.float32)
    ours, theirs = both(lambda: model(hidden_layer_sizes=(12,), solver=solver, max_iter=10, random_state=1).fit(x, y))
    assert steps[0]
    assert {one.dtype for one in (*ours.coefs_, *ours.intercepts_)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-5)
    for a, b in zip(ours.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_one_step_from_equal_weights(solver: str) -> None:
    x, y = digits(rows=64)
    ours, theirs = both(
        lambda: MLPClassifier((32,), solver=solver, batch_size=64, max_iter=1, random_state=0).fit(x, y)
    )
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_training_goes_on(solver: str, steps: list[int]) -> None:
    """warm_start and partial_fit, in any order with and without fastopt, are one training."""
    x, y = digits()
    settings = {"hidden_layer_sizes": (12,), "solver": solver, "random_state": 0}

    def parts(*accelerated: bool) -> Any:
        model = MLPClassifier(**settings)
        for i, one in enumerate(accelerated):
            if one:
                with accelerate():
                    model.partial_fit(x[i * 40 : i * 40 + 60 + i], y[i * 40 : i * 40 + 60 + i], classes=range(10))
            else:
                model.partial_fit(x[i * 40 : i * 40 + 60 + i], y[i * 40 : i * 40 + 60 + i], classes=range(10))
        return model

    theirs = parts(False, False, False, False, False)
    for order in ((True,) * 5, (True, False, True, True, False), (False, False, True, True, True)):
        steps[0] = 0
        assert_alike(parts(*order), theirs, x)
        assert steps[0] == sum(order)

    assert_alike(
        *both(lambda: MLPClassifier(**settings, warm_start=True, max_iter=2).fit(x, y).fit(x, y).set_params(max_iter=3).fit(x, y)), x
    )  # fmt: skip


def test_a_state_that_was_set(steps: list[int]) -> None:
    """Between two calls of partial_fit the optimizer's attributes may be replaced."""
    x, y = digits(rows=50)

    def train() -> Any:
        model = MLPClassifier((7,), random_state=0).partial_fit(x, y, classes=range(10))
        optimizer = model._optimizer
        optimizer.ms = [np.full_like(m, 0.25) for m in optimizer.ms]
        optimizer.vs[1] = np.full_like(optimizer.vs[1], 0.5)
        model.partial_fit(x, y)
        optimizer.t = 40
        model.partial_fit(x, y)
        optimizer.beta_1 = 0.5
        model.partial_fit(x, y)
        model.coefs_[0] = np.zeros_like(model.coefs_[0])
        return model.partial_fit(x, y)

    assert_alike(*both(train), x)
    assert steps[0] == 5


@pytest.mark.filterwarnings("ignore:scipy.optimize")  # from L-BFGS in older versions
def test_what_fastopt_does_not_take_is_left_alone(steps: list[int]) -> None:
    x, y = digits()

    class Other(MLPClassifier):
        def _backprop(self, *arguments: Any) -> Any:
            loss, coef_grads, intercept_grads = super()._backprop(*arguments)
            return loss, [2 * one for one in coef_grads], intercept_grads

    def fortran() -> Any:
        model = MLPClassifier((7,), max_iter=2, random_state=0, warm_start=True).fit(x, y)
        model.coefs_ = [np.asfortranarray(coef) for coef in model.coefs_]
        return model.fit(x, y)

    def narrower() -> Any:
        return MLPClassifier((7,), max_iter=2, random_state=0, warm_start=True).fit(x, y).fit(x.astype(np.float32), y)

    assert_alike(*both(lambda: Other((7,), max_iter=3, random_state=0).fit(x, y)), x)
    assert steps[0] == 0
    for train in (fortran, narrower):
        theirs = train()
        with accelerate():
            assert_alike(train(), theirs, x)
        assert 0 < steps[0] < 2 * 2 * 2
        steps[0] = 0
    ours, theirs = both(lambda: MLPClassifier((7,), solver="lbfgs", max_iter=5, random_state=0).fit(x, y))
    np.testing.assert_array_equal(ours.coefs_[0], theirs.coefs_[0])


def test_update_params_has_scikit_learns_bits(rng: np.random.Generator) -> None:
    """Outside a fit an optimizer is untouched."""
    theirs, grads = rng.standard_normal((2, 2, 50))
    ours = theirs.copy()
    kind = _multilayer_perceptron.AdamOptimizer
    mine, other = kind([ours]), kind([theirs])
    for _ in range(3):
        with accelerate():
            mine.update_params([ours], [grads])
        other.update_params([theirs], [grads])
    assert ours.tobytes() == theirs.tobytes()
    assert mine.ms[0].tobytes() == other.ms[0].tobytes() and mine.vs[0].tobytes() == other.vs[0].tobytes()


def test_nothing_is_left_after_an_error() -> None:
    x, y = digits()
    model = MLPClassifier((5,), max_iter=3, warm_start=True, early_stopping=True, random_state=0)
    with accelerate():
        model._predict = types.MethodType(lambda *_, **__: 1 / 0, model)  # the score after the first epoch
        with pytest.raises(ZeroDivisionError):
            model.fit(x, y)
    assert {"_backprop"}.isdisjoint(vars(model)) and "update_params" not in vars(model._optimizer)
    assert model._optimizer.t == 2  # batches of 200 of 270


# On and off


def test_calls_and_blocks() -> None:
    assert not is_accelerated()
    accelerate()
    accelerate()
    assert is_accelerated()
    with accelerate():
        assert is_accelerated()
    assert is_accelerated()
    restore()
    assert not is_accelerated()
    restore()
    with accelerate() as outer:
        with accelerate(), accelerate():
            assert is_accelerated()
        assert is_accelerated()
        restore()
        assert not is_accelerated()
        with outer:
            assert is_accelerated()
        assert not is_accelerated()
        accelerate()
    assert is_accelerated()  # the block's own call was taken back, the later one was not
    restore()
    with pytest.raises(KeyError), accelerate():
        raise KeyError
    assert not is_accelerated()


def test_threads_switch_it_on_and_off() -> None:
    """Blocks of several threads overlap: it is on in each of them, and off after the last."""
    x, y = digits(rows=100)
    expected = MLPClassifier((5,), max_iter=3, random_state=0).fit(x, y).coefs_[0]
    wrong: list[str] = []

    def work() -> None:
        for _ in range(10):
            with accelerate():
                model = MLPClassifier((5,), max_iter=3, random_state=0).fit(x, y)
                if not is_accelerated():
                    wrong.append("off in a block")
            if not np.allclose(model.coefs_[0], expected, rtol=1e-10):
                wrong.append("other weights")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong
    assert not is_accelerated()


def test_a_fit_goes_on_as_it_began(steps: list[int]) -> None:
    x, y = digits()

    class Switching(MLPClassifier):
        def _update_no_improvement_count(self, *arguments: Any) -> None:
            (restore if is_accelerated() else accelerate)()
            super()._update_no_improvement_count(*arguments)

    accelerate()
    ours = Switching((5,), max_iter=4, random_state=0).fit(x, y)
    assert steps[0] == 4 * 2
    restore()
    theirs = Switching((5,), max_iter=4, random_state=0).fit(x, y)
    assert steps[0] == 4 * 2
    assert_alike(ours, theirs, x)


@pytest.mark.parametrize("version", ["1.5.2", "1.10.0", "2.0.dev0"])
def test_another_version_is_left_alone(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn, "__version__", version)
    with pytest.warns(RuntimeWarning, match=f"1.6 to 1.9, and this is {re.escape(version)}") as caught:
        context = accelerate()
    with context:  # which does not warn again
        assert not is_accelerated()
        assert BASE._fit_stochastic is ORIGINALS[0]
    assert [one.filename for one in caught] == [__file__]


def test_accelerate_takes_no_model() -> None:
    for given in (MLPClassifier(), MLPClassifier, MLPRegressor().fit):
        with pytest.raises(
            TypeError,
            match=r"1 was given; it takes no model, as it reaches every MLPClassifier and .*model\.fit\(X, y\)",
        ):
            accelerate(given)  # type: ignore[call-arg]
        with pytest.raises(
            TypeError, match=r"; it takes no model, as it ends what accelerate\(\) did for all of them$"
        ):
            restore(given)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'model'; it has no arguments; it takes no model"):
        accelerate(model=MLPClassifier())  # type: ignore[call-arg]
    assert not is_accelerated()


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        ImportError, match=r"accelerate: scikit-learn is not installed; pip install 'fastopt\[sklearn\]'"
    ):
        accelerate()
    assert not is_accelerated()


# Estimators go elsewhere


@pytest.mark.parametrize("dump", [pickle.dumps, joblib.dump], ids=["pickle", "joblib"])
def test_estimators_load_without_fastopt(dump: Callable[..., Any], tmp_path: Path) -> None:
    x, y = digits()
    with accelerate():
        model = MLPClassifier((5,), max_iter=2, random_state=0).fit(x, y)
    path = tmp_path / "model"
    if dump is joblib.dump:
        dump(model, path)
    else:
        path.write_bytes(dump(model))
    np.save(tmp_path / "x.npy", x)
    code = """
import sys, joblib, pickle, numpy as np
sys.modules["fastopt"] = None  # importing it is an error
path, x = sys.argv[1], np.load(sys.argv[2])
model = joblib.load(path) if sys.argv[3] == "dump" else pickle.load(open(path, "rb"))
model.partial_fit(x, model.predict(x))
print(model._optimizer.t, type(model._optimizer).__module__)
"""
    arguments = [str(path), str(tmp_path / "x.npy"), dump.__name__]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "sklearn.neural_network._stochastic_optimizers"]


def test_copies_train_alone() -> None:
    x, y = digits()
    with accelerate():
        model = MLPClassifier((5,), max_iter=2, random_state=0).fit(x, y)
        other = copy.deepcopy(model)
        before = model.coefs_[0].copy(), model._optimizer.ms[0].copy()
        other.partial_fit(x, y)
        assert clone(model).get_params() == model.get_params()
    assert other._optimizer.t == 6 and model._optimizer.t == 4
    np.testing.assert_array_equal(model.coefs_[0], before[0])
    np.testing.assert_array_equal(model._optimizer.ms[0], before[1])


class Probe(MLPClassifier):
    """Its score says whether it was fitted under fastopt."""

    def fit(self, X: Any, y: Any) -> Probe:
        super().fit(X, y)
        self.accelerated_ = is_accelerated()
        return self

    def score(self, X: Any, y: Any) -> float:
        return float(self.accelerated_)


def test_workers() -> None:
    """Threads of this process are accelerated; processes are where they say so."""
    x, y = digits(rows=60)
    model = Probe((4,), max_iter=1, random_state=0)
    with accelerate():
        with joblib.parallel_config("threading"):
            assert cross_val_score(model, x, y, cv=2, n_jobs=2).tolist() == [1, 1]
            search = GridSearchCV(model, {"alpha": [0.1, 1.0]}, cv=2, n_jobs=2).fit(x, y)
            assert search.cv_results_["mean_test_score"].tolist() == [1, 1]
        with joblib.parallel_config("loky"):
            assert cross_val_score(model, x, y, cv=2, n_jobs=2).tolist() == [0, 0]
    with joblib.parallel_config("loky", initializer=accelerate):
        assert cross_val_score(model, x, y, cv=2, n_jobs=2).tolist() == [1, 1]


def test_scikit_learns_own_tests_pass(tmp_path: Path) -> None:
    """All of its tests of multi-layer perceptrons, in a process of their own."""
    code = f"""
import pytest, fastopt.sklearn
fastopt.sklearn.accelerate()
take, steps = fastopt.sklearn._step.Step.take, 0
def counted(*arguments):
    global steps
    steps += 1
    take(*arguments)
fastopt.sklearn._step.Step.take = counted
outcome = pytest.main(["-q", "-p", "no:cacheprovider", "--pyargs", *("sklearn.neural_network.tests." + name for name in {OWN_TESTS!r})])
print("took", steps)
raise SystemExit(int(outcome))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment["PYTHONPATH"] = os.pathsep.join(
        map(os.path.abspath, sys.path)
    )  # not in our directory, whose pytest is strict
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert int(done.stdout.split()[-1]) > 5000
