"""Proximal L1 finds the minimum of the loss and the penalty, whatever the rule makes of the gradient."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tables import CLASSES, RULES, Options

from fastopt import functional, optim

Array = NDArray[Any]
WITHOUT_A_RATE = ("Lion", "Rprop", "Muon")
WITH_A_RATE = [name for name, rule in RULES.items() if "proximal_l1" in rule.surroundings]
# Where the gradient stays the same, the steps of these follow their rate later: what they divide by, or for LARS the norm of
# the parameter, still changes.
SETTLING = {"rmsprop", "adadelta", "adopt", "lars"}


class Logistic:
    """Logistic regression with the penalty l1·|w|, of features of different sizes, of which few matter."""

    l1 = 0.02

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        weights = np.zeros(40)
        weights[rng.permutation(40)[:6]] = np.linspace(1, 2.5, 6) * np.resize([1, -1], 6)
        self.x = rng.standard_normal((300, 40)) * np.geomspace(0.3, 3, 40)[rng.permutation(40)]
        self.y = np.where(rng.random(300) < 1 / (1 + np.exp(-self.x @ weights)), 1.0, -1.0)
        self.rate = 4 / float(np.linalg.eigvalsh(self.x.T @ self.x / 300)[-1])
        self.best = self._best()

    def gradient(self, w: Array) -> Array:
        of_margin = self.y / (1 + np.exp(self.y * (self.x @ w)))
        return np.asarray(-(self.x * of_margin[:, None]).mean(0))

    def objective(self, w: Array) -> float:
        return float(np.logaddexp(0, -self.y * (self.x @ w)).mean() + self.l1 * np.abs(w).sum())

    def fit(self, name: str, steps: int = 2000, **options: Any) -> Array:
        w = np.full(40, 0.1)
        opt = CLASSES[name]([w], l1=self.l1, **options)
        for _ in range(steps):
            opt.step([self.gradient(w)])
        return w

    def _best(self) -> Array:
        """Proximal gradient descent with Nesterov's momentum (FISTA) until nothing moves."""
        w = ahead = np.zeros(40)
        t = 1.0
        for _ in range(5000):
            new = ahead - self.rate * self.gradient(ahead)
            new = np.sign(new) * np.maximum(np.abs(new) - self.rate * self.l1, 0)
            t, before = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
            w, ahead = new, new + (before - 1) / t * (new - w)
        return w


@pytest.fixture(scope="module")
def logistic() -> Logistic:
    return Logistic()


def test_the_optimum_is_the_optimum(logistic: Logistic) -> None:
    """The gradient is in balance with the penalty where weights are not zero, and smaller where they are."""
    w, g = logistic.best, logistic.gradient(logistic.best)
    assert np.count_nonzero(w) == 11
    np.testing.assert_allclose(g[w != 0], -logistic.l1 * np.sign(w[w != 0]), atol=1e-12)
    assert np.max(np.abs(g[w == 0])) < 0.96 * logistic.l1


# The options are such that plain descent with them converges.
FITS: dict[str, tuple[str, Options]] = {
    "SGD": ("SGD", {"lr": 0.4}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "momentum, dampened": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "Nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "velocity": ("SGD", {"lr": 0.1, "momentum": 0.9, "velocity": True}),
    "velocity, Nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "velocity": True, "nesterov": True}),
    "ASGD": ("ASGD", {"lr": 0.4, "lambd": 0.0}),
    "Adam": ("Adam", {"lr": 0.01}),
    "Adam, ε̂": ("Adam", {"lr": 0.01, "eps_hat": True}),
    "AMSGrad": ("Adam", {"lr": 0.01, "amsgrad": True}),
    "AdamW": ("AdamW", {"lr": 0.01, "weight_decay": 0.0}),
    "RMSprop": ("RMSprop", {"lr": 0.002}),
    "RMSprop, momentum": ("RMSprop", {"lr": 5e-4, "momentum": 0.9}),
    "RMSprop, velocity": ("RMSprop", {"lr": 5e-4, "momentum": 0.9, "velocity": True, "eps_in_sqrt": True}),
    "RMSprop, centered": ("RMSprop", {"lr": 5e-4, "centered": True}),
    "Adagrad": ("Adagrad", {"lr": 0.3}),
    "Adadelta": ("Adadelta", {"lr": 0.3}),
    "Adamax": ("Adamax", {"lr": 0.01}),
    "NAdam": ("NAdam", {"lr": 0.01}),
    "RAdam": ("RAdam", {"lr": 0.01}),
    "Adan": ("Adan", {"lr": 0.01, "weight_decay": 0.0}),
    "ADOPT": ("ADOPT", {"lr": 0.01}),
    "AdEMAMix": ("AdEMAMix", {"lr": 0.003, "betas": (0.9, 0.999, 0.99), "weight_decay": 0.0}),
    "LAMB": ("LAMB", {"lr": 0.03}),
    "LARS": ("LARS", {"lr": 0.05, "trust_coefficient": 0.02}),
    "Adafactor": ("Adafactor", {"lr": 0.02, "weight_decay": 0.0}),
    "SwitchOptimizer": ("SwitchOptimizer", {"lr": 0.01, "switch_at": 300, "sgd_lr": 0.04}),
}
SAME_RATE = {"SGD", "ASGD"}  # theirs is lr


def test_every_rule_with_a_rate_is_tried() -> None:
    tried = {name for name, _ in FITS.values()}
    has_function = {RULES[name].optimizer.__name__ for name in WITH_A_RATE}
    assert tried == has_function | {"SwitchOptimizer"}


@pytest.mark.parametrize("fit", FITS)
def test_it_finds_the_minimum_with_the_penalty(fit: str, logistic: Logistic) -> None:
    name, options = FITS[fit]
    w, least = logistic.fit(name, proximal_l1=True, **options), logistic.objective(logistic.best)
    assert logistic.objective(w) == pytest.approx(least, rel=1e-4)
    assert ((w == 0) == (logistic.best == 0)).all()


@pytest.mark.parametrize("fit", FITS)
def test_the_threshold_lr_l1_is_another_problem(fit: str, logistic: Logistic) -> None:
    """That is why it is not the default: for rules that have another rate than lr the objective is far from its minimum."""
    name, options = FITS[fit]
    w, least = logistic.fit(name, proximal_l1="lr", **options), logistic.objective(logistic.best)
    if fit in SAME_RATE:
        assert w.tobytes() == logistic.fit(name, proximal_l1=True, **options).tobytes()
    else:
        assert logistic.objective(w) > 1.1 * least


def test_with_decay_it_is_the_elastic_net(logistic: Logistic) -> None:
    """L2 is a part of the gradient, so that both are in balance with the penalty, for SGD with momentum as for Adam."""
    decay = 0.05
    for options in (
        {"name": "Adam", "lr": 0.01},
        {"name": "SGD", "lr": 0.1, "momentum": 0.9},
        {"name": "LARS", "lr": 0.05, "trust_coefficient": 0.02},
    ):
        w = logistic.fit(**options, proximal_l1=True, weight_decay=decay)  # type: ignore[arg-type]
        pull = logistic.gradient(w) + decay * w
        assert 0 < np.count_nonzero(w) < 40
        np.testing.assert_allclose(pull[w != 0], -logistic.l1 * np.sign(w[w != 0]), atol=1e-6)
        assert np.max(np.abs(pull[w == 0])) <= logistic.l1


def shrunk(p: Array, threshold: Array) -> Array:
    return np.asarray(np.sign(p) * np.maximum(np.abs(p) - threshold, 0))


def rules_own(rule: str) -> list[Options]:
    """The variants of a rule without decay of its own, which would move a parameter too."""
    still = {name: 0.0 for name in ("weight_decay", "lambd") if name in RULES[rule].own}
    return [options | still for options in RULES[rule].variants]


def follows_its_rate(opt: optim.Optimizer, p: Array, g: Array, l1: float) -> tuple[Array, Array, Array]:
    """The parameter after a step, what it would be if the rule's own step were rate·g, and what it is without the penalty."""
    twin = copy.deepcopy(opt)
    (q,) = twin.param_groups[0]["params"]
    twin.param_groups[0]["l1"] = 0.0
    before = p.copy()
    twin.step([g])
    opt.step([g])
    return p.copy(), shrunk(q, l1 * (before - q) / g), q


@pytest.mark.parametrize("rule", WITH_A_RATE)
def test_the_threshold_is_l1_times_the_rate(rule: str) -> None:
    """The rate by its definition, from the rule's own step, where the gradient is the same in all steps."""
    rng = np.random.default_rng(1)
    for shape in ((7,), (3, 5)):
        for options in rules_own(rule):
            p, g = rng.standard_normal(shape), rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)
            opt = RULES[rule].make([p], options | {"lr": 0.01, "l1": 0.3, "proximal_l1": True})
            for step in range(1, 8):
                found, expected, _ = follows_its_rate(opt, p, g, 0.3)
                if rule not in SETTLING and step >= RULES[rule].moves_from:
                    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=str(options))
            opt.param_groups[0].update(lr=1e-4, l1=0.0)
            for _ in range(1500):
                opt.step([g])
            opt.param_groups[0]["l1"] = 0.3
            found, expected, without = follows_its_rate(opt, p, g, 0.3)
            assert (np.abs(found - expected) < 3e-2 * np.abs(found - without)).all(), options


@pytest.mark.parametrize("rule", [rule for rule in WITH_A_RATE if rule not in SETTLING])
def test_at_the_minimum_nothing_moves(rule: str) -> None:
    """From the first step on, without state: momentum that has not added up yet has no penalty that has."""
    p = np.array([[1.0, -2.0, 0.0, 0.0, 3.0]])
    g = np.array([[-0.3, 0.3, 0.2, -0.29, -0.3]])  # in balance with l1
    for options in rules_own(rule):
        q = p.copy()
        opt = RULES[rule].make([q], options | {"lr": 0.01, "l1": 0.3, "proximal_l1": True})
        for _ in range(5):
            opt.step([g])
        np.testing.assert_allclose(q, p, rtol=0, atol=1e-13, err_msg=str(options))
        assert not q[0, 2:4].any()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("velocity", [False, True])
def test_momentum_adds_up(momentum: float, velocity: bool) -> None:
    """1 + μ + μ² + …, one term more in each step; μ = 1 too."""
    p = np.full(3, 10.0)
    opt = optim.SGD([p], lr=0.5, momentum=momentum, velocity=velocity, l1=0.25, proximal_l1=True)
    total, expected = 0.0, 10.0
    for _ in range(5):
        opt.step([np.zeros(3)])
        total = 1 + momentum * total
        expected -= 0.5 * 0.25 * total
        assert p.tolist() == [expected] * 3


def test_too_much_dampening_shrinks_nothing() -> None:
    """With τ > 1 later steps go uphill."""
    p = np.full(3, 10.0)
    opt = optim.SGD([p], lr=0.5, momentum=0.5, dampening=3.0, l1=0.25, proximal_l1=True)
    found = []
    for _ in range(3):
        opt.step([np.zeros(3)])
        found.append(p[0])
    assert found == [9.875, 9.875, 9.875]


def test_elements_without_any_gradient_become_zero() -> None:
    """Nothing is in the penalty's way there; a larger ε, or the threshold lr·l1, takes longer."""
    left = []
    for options in ({}, {"eps": 1.0}, {"proximal_l1": "lr"}):
        p = np.ones(2)
        opt = optim.Adam([p], **{"lr": 0.01, "l1": 0.1, "proximal_l1": True, **options})  # type: ignore[arg-type]
        opt.step([np.array([0.0, -1.0])])
        assert p[1] > 1
        left.append(p[0].round(6))
    assert left == [0.0, 0.999, 0.999]


# Rules without a rate


@pytest.mark.parametrize("name", WITHOUT_A_RATE)
def test_rules_without_a_rate_say_so(name: str) -> None:
    """Before anything is written; with the way out."""
    p, g = np.ones((2, 2)), np.ones((2, 2))
    message = rf"^{name}: proximal_l1=True needs a rule whose step is a rate times the gradient.*proximal_l1='lr'"
    with pytest.raises(ValueError, match=message):
        CLASSES[name]([p], proximal_l1=True)
    opt = CLASSES[name]([p], l1=0.5)
    opt.step([g])
    before = p.copy()
    opt.param_groups[0]["proximal_l1"] = True
    with pytest.raises(ValueError, match=message):
        opt.step([g])
    assert p.tobytes() == before.tobytes()
    opt.param_groups[0]["proximal_l1"] = "lr"
    opt.step([g])
    assert (p != before).all()


def test_functions_say_so_too() -> None:
    p, m = [np.ones(2)], [np.zeros(2)]
    with pytest.raises(ValueError, match=r"^lion: proximal_l1=True needs"):
        functional.lion(p, [np.ones(2)], m, step=1, lr=0.1, l1=0.1, proximal_l1=True)
    assert p[0].tolist() == [1.0, 1.0] and not m[0].any()
    functional.lion(p, [np.ones(2)], m, step=1, lr=0.1, l1=0.1, proximal_l1="lr")
    np.testing.assert_allclose(p[0], 1 - 0.1 - 0.1 * 0.1)


# State


@pytest.mark.parametrize("name", [*WITHOUT_A_RATE, "Adam"])
def test_states_with_true_load(name: str, tmp_path: Path) -> None:
    """True was lr·l1 for every rule; where it would be an error it is loaded as what it was."""
    g = np.random.default_rng(0).standard_normal((2, 3))
    p = np.ones((2, 3))
    opt = CLASSES[name]([p], l1=0.5, proximal_l1="lr")
    opt.step([g])
    old = opt.state_dict()
    old["param_groups"][0]["proximal_l1"] = True
    q = p.copy()
    loaded = CLASSES[name]([q])
    loaded.load_state_dict(old)
    assert loaded.param_groups[0]["proximal_l1"] == (True if name == "Adam" else "lr")
    if name != "Adam":
        opt.step([g])
        loaded.step([g])
        assert q.tobytes() == p.tobytes()


@pytest.mark.parametrize("how", [True, "lr"])
def test_files_keep_it(how: Any, tmp_path: Path) -> None:
    g = np.ones(3)
    p = np.full(3, 2.0)
    opt = optim.Adam([p], lr=0.1, l1=0.5, proximal_l1=how)
    opt.step([g])
    opt.save(tmp_path / "state.safetensors")
    q = p.copy()
    loaded = optim.Adam([q])
    loaded.load(tmp_path / "state.safetensors")
    assert loaded.param_groups[0]["proximal_l1"] is how or loaded.param_groups[0]["proximal_l1"] == how
    for one in opt, loaded:
        one.step([g])
    assert q.tobytes() == p.tobytes()
