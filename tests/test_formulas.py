"""The specification's update rules against oracles: other libraries, and the formulas as their authors publish them.

Everything is in float64, where equivalent programs agree to 1e-12 for as long as they run.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tools import Each

from fastopt import optim, reference
from fastopt.reference import _random, _update
from fastopt.reference._arithmetic import flushed

STEPS = 50
SHAPES = ((5, 7), (11,), (2, 6, 3), ())

FUNCTIONS = [name for name in reference.__all__ if "params" in inspect.signature(getattr(reference, name)).parameters]

# The initial states of a rule that are not zeros of the parameter's shape.
INITIAL: dict[str, Callable[[Any, float], Any]] = {
    "mu_products": lambda p, lr: np.ones(()),
    "etas": lambda p, lr: np.array(lr),
    "mus": lambda p, lr: np.ones(()),
    "weight_sums": lambda p, lr: np.zeros(()),
    "lr_maxs": lambda p, lr: np.zeros(()),
    "step_sizes": lambda p, lr: np.full(p.shape, lr, p.dtype),
    "zs": lambda p, lr: p.copy(),
    "row_vars": lambda p, lr: np.zeros((*p.shape[:-1], 1), p.dtype) if p.ndim > 1 else None,
    "col_vars": lambda p, lr: np.zeros((*p.shape[:-2], 1, p.shape[-1]), p.dtype) if p.ndim > 1 else None,
    "variances": lambda p, lr: np.zeros_like(p) if p.ndim < 2 else None,
}


def new_states(function: str, params: Sequence[Any], lr: float, **initial: float) -> dict[str, list[Any]]:
    """The lists of states that a function takes, with their values before the first step."""
    parameters = inspect.signature(getattr(reference, function)).parameters.values()
    lists = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][2:]
    states = {name: [INITIAL.get(name, lambda p, lr: np.zeros_like(p))(p, lr) for p in params] for name in lists}
    for name, value in initial.items():
        for state in states[name]:
            state[...] = value
    return states


def rate(lr: float, t: int) -> float:
    """A learning rate that changes with every step."""
    return lr * (1 + 0.5 * math.sin(t))


def gradients(rng: Generator, t: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    """Gradients whose size changes, some exactly zero."""
    return [
        np.where(rng.random(shape) < 0.1, 0.0, (1 + math.cos(t)) * rng.standard_normal(shape) + 0.2) for shape in shapes
    ]


def parameters(rng: Generator, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    return [np.asarray(rng.standard_normal(shape)) for shape in shapes]


def assert_close(ours: Any, theirs: Any, what: str = "") -> None:
    """Equal to 1e-12 of the largest number."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float64
    error, size = np.max(np.abs(ours - theirs), initial=0), np.max(np.abs(theirs), initial=0)
    assert error <= 1e-12 * size, f"{what}: {error / size:.1e}"


# torch


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    """torch with float64 as its default dtype, which it uses for some of its state."""
    torch = pytest.importorskip("torch")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(default)


TORCH: list[tuple[str, str, float, list[dict[str, Any]]]] = [
    (
        "sgd",
        "SGD",
        0.1,
        [
            {},
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
            {"momentum": 0.8, "nesterov": True, "maximize": True, "weight_decay": 0.1},
        ],
    ),
    (
        "adam",
        "Adam",
        0.01,
        [
            {},
            {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1},
            {"amsgrad": True, "maximize": True, "weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True},
        ],
    ),
    (
        "adamw",
        "AdamW",
        0.01,
        [{}, {"weight_decay": 0.5, "eps": 1e-3}, {"amsgrad": True}, {"maximize": True, "betas": (0.5, 0.9)}],
    ),
    (
        "adagrad",
        "Adagrad",
        0.1,
        [{}, {"lr_decay": 0.1, "eps": 1e-3}, {"initial_accumulator_value": 0.5, "weight_decay": 0.1, "maximize": True}],
    ),
    (
        "rmsprop",
        "RMSprop",
        0.01,
        [
            {},
            {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1},
            {"momentum": 0.9, "maximize": True},
            {"centered": True},
            {"centered": True, "momentum": 0.5, "alpha": 0.9, "weight_decay": 0.1},
        ],
    ),
    ("adadelta", "Adadelta", 1.0, [{}, {"rho": 0.5, "eps": 1e-3, "weight_decay": 0.1}, {"maximize": True}]),
    ("adamax", "Adamax", 0.01, [{}, {"betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1}, {"maximize": True}]),
    (
        "nadam",
        "NAdam",
        0.01,
        [
            {},
            {"betas": (0.8, 0.99), "momentum_decay": 0.1, "weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3, "maximize": True},
        ],
    ),
    (
        "radam",
        "RAdam",
        0.01,
        [
            {},
            {"betas": (0.8, 0.9), "weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3, "maximize": True},
        ],
    ),
    (
        "asgd",
        "ASGD",
        0.1,
        [{}, {"lambd": 0.1, "alpha": 0.5, "t0": 10.0}, {"t0": 0.0, "weight_decay": 0.1, "maximize": True}],
    ),
    (
        "rprop",
        "Rprop",
        0.01,
        [{}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1), "maximize": True}],
    ),
    (
        "adafactor",
        "Adafactor",
        0.3,
        [{}, {"weight_decay": 0.1, "beta2_decay": -0.5, "eps": (1e-2, 0.1), "d": 1.5}, {"d": 10.0, "maximize": True}],
    ),
]


@pytest.mark.parametrize(("function", "name", "lr", "grid"), [pytest.param(*one, id=one[1]) for one in TORCH])
def test_rule_is_torchs(function: str, name: str, lr: float, grid: Any, torch: Any, each: Each, rng: Generator) -> None:
    for options in each(grid, by_day=1):
        params = parameters(rng)
        theirs = [torch.tensor(p, requires_grad=True) for p in params]
        optimizer = getattr(torch.optim, name)(theirs, lr=lr, foreach=False, **options)
        ours = {{"step_sizes": "step_size_limits"}.get(key, key): value for key, value in options.items()}
        initial = {"sums": options["initial_accumulator_value"]} if "initial_accumulator_value" in options else {}
        states, counts = new_states(function, params, rate(lr, 1), **initial), [0] * len(params)
        for t in range(1, STEPS + 1):
            grads = gradients(rng, t)
            if t in (3, 4, 20):
                grads[1] = None  # its count stays behind
            for i, (tensor, g) in enumerate(zip(theirs, grads, strict=True)):
                tensor.grad = None if g is None else torch.tensor(g)
                counts[i] += g is not None
            optimizer.param_groups[0]["lr"] = rate(lr, t)
            optimizer.step()
            outcome = getattr(reference, function)(params, grads, **states, step=counts, lr=rate(lr, t), **ours)
            assert outcome == (None, False)
            for i, tensor in enumerate(theirs):
                assert_close(params[i], tensor.detach().numpy(), f"step {t}, parameter {i}")
                for key, value in optimizer.state[tensor].items():
                    if key != "step" and value is not None:
                        assert_close(states[f"{key}s"][i], value.numpy(), f"step {t}, {key} {i}")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": False, "momentum": 0.5, "weight_decay": 0.0},
        {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5)},
        {"adjust_lr_fn": "original", "maximize": True},
    ],
)
def test_muon_is_torchs_formula(options: dict[str, Any], torch: Any, rng: Generator) -> None:
    """The oracle is torch/optim/_muon.py rewritten in float64, because torch orthogonalizes in bfloat16."""
    defaults = torch.optim.Muon([torch.zeros(1, 1)]).defaults
    o = {**defaults, **options}
    shapes, lr = ((5, 7), (7, 5), (4, 4), (1, 3)), 0.02
    params = parameters(rng, shapes)
    theirs, buffers = [p.copy() for p in params], [np.zeros_like(p) for p in params]
    states = new_states("muon", params, lr)
    for t in range(1, STEPS + 1):
        grads = gradients(rng, t, shapes)
        reference.muon(params, grads, **states, step=t, lr=rate(lr, t), **options)
        for p, g, b in zip(theirs, grads, buffers, strict=True):
            g = -g if o.get("maximize") else g
            b += (1 - o["momentum"]) * (g - b)
            x = g + o["momentum"] * (b - g) if o["nesterov"] else b
            if p.shape[0] > p.shape[1]:
                x = x.T
            x = x / max(np.linalg.norm(x), o["eps"])
            first, second, third = o["ns_coefficients"]
            for _ in range(o["ns_steps"]):
                gram = x @ x.T
                x = first * x + (second * gram + third * gram @ gram) @ x
            if p.shape[0] > p.shape[1]:
                x = x.T
            if o["adjust_lr_fn"] == "match_rms_adamw":
                factor = 0.2 * math.sqrt(max(p.shape))
            else:
                factor = math.sqrt(max(1, p.shape[0] / p.shape[1]))
            p *= 1 - rate(lr, t) * o["weight_decay"]
            p -= rate(lr, t) * factor * x
        for ours, its, b, b_ in zip(params, theirs, states["momentum_buffers"], buffers, strict=True):
            assert_close(ours, its, f"step {t}")
            assert_close(b, b_, f"step {t}")


def test_muon_makes_singular_values_one(rng: Generator) -> None:
    """With the coefficients of a convergent iteration and enough steps the update is the nearest orthogonal matrix."""
    p, g = np.zeros((6, 4)), rng.standard_normal((6, 4))
    reference.muon(
        [p],
        [g],
        [np.zeros((6, 4))],
        step=1,
        lr=1.0,
        ns_coefficients=(1.875, -1.25, 0.375),
        ns_steps=40,
        adjust_lr_fn=None,
    )
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    np.testing.assert_allclose(p, -math.sqrt(6 / 4) * u @ vt, atol=1e-12)


# optax


@pytest.fixture(scope="module")
def optax() -> Iterator[Any]:
    """optax, in float64."""
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield optax
    jax.config.update("jax_enable_x64", before)


def named(state: Any, name: str) -> Any:
    """The entry of optax's nested state with a name."""
    if hasattr(state, name):
        return getattr(state, name)
    return next((found for one in state if (found := named(one, name)) is not None), None) if state else None


def against_optax(
    function: str,
    optimizer: Any,
    states: dict[str, str],
    lr: float,
    options: dict[str, Any],
    rng: Generator,
    **initial: float,
) -> None:
    """Takes steps with both; ``states`` says what optax calls the state, ``initial`` how it begins if not as zeros."""
    import jax

    params = parameters(rng)
    params[1][...] = 0  # its norm is zero
    theirs = [jax.numpy.asarray(p) for p in params]
    ours, their_state = new_states(function, params, lr, **initial), optimizer.init(theirs)
    update = jax.jit(optimizer.update)
    for t in range(1, STEPS + 1):
        grads = gradients(rng, t)
        updates, their_state = update([jax.numpy.asarray(g) for g in grads], their_state, theirs)
        theirs = [p + u for p, u in zip(theirs, updates, strict=True)]
        getattr(reference, function)(params, grads, **ours, step=t, lr=rate(lr, t), **options)
        for i, p in enumerate(theirs):
            assert_close(params[i], p, f"step {t}, parameter {i}")
            for key, name in states.items():
                assert_close(ours[key][i], named(their_state, name)[i], f"step {t}, {key} {i}")


@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.9), "weight_decay": 0.1}])
def test_lion_is_optaxs(options: dict[str, Any], optax: Any, rng: Generator) -> None:
    b1, b2 = options.get("betas", (0.9, 0.99))
    lr = 0.01
    optimizer = optax.lion(_rates(lr), b1=b1, b2=b2, weight_decay=options.get("weight_decay", 0.0))
    against_optax("lion", optimizer, {"exp_avgs": "mu"}, lr, options, rng)


@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.9), "weight_decay": 0.1, "eps": 1e-2}])
def test_lamb_is_optaxs(options: dict[str, Any], optax: Any, rng: Generator) -> None:
    b1, b2 = options.get("betas", (0.9, 0.999))
    rest = {key: value for key, value in options.items() if key != "betas"}
    lr = 0.01
    optimizer = optax.lamb(_rates(lr), b1=b1, b2=b2, **rest)
    against_optax("lamb", optimizer, {"exp_avgs": "mu", "exp_avg_sqs": "nu"}, lr, options, rng)


@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1, "momentum": 0.5, "eps": 0.1, "trust_coefficient": 0.1}, {"nesterov": True}],
)
def test_lars_is_optaxs(options: dict[str, Any], optax: Any, rng: Generator) -> None:
    lr = 0.1
    against_optax("lars", optax.lars(_rates(lr), **options), {}, lr, options, rng)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("more", [{}, {"eps_in_sqrt": False, "eps": 1e-2}, {"eps": 1e-2, "momentum": 0.9}], ids=str)
def test_rmsprop_is_optaxs(more: dict[str, Any], centered: bool, optax: Any, rng: Generator) -> None:
    """Its default has ε inside of the root; its momentum is a sum of updates."""
    lr = 0.01
    optimizer = optax.rmsprop(_rates(lr), centered=centered, **more)
    options = {"alpha": 0.9, "eps_in_sqrt": True, "velocity": True, "centered": centered} | more
    against_optax("rmsprop", optimizer, {"square_avgs": "nu"}, lr, options, rng)


@pytest.mark.parametrize("more", [{}, {"eps": 1e-2, "initial_accumulator_value": 0.5}], ids=str)
def test_adagrad_is_optaxs(more: dict[str, Any], optax: Any, rng: Generator) -> None:
    lr, initial = 0.1, more.get("initial_accumulator_value", 0.1)
    options = {"eps": more.get("eps", 1e-7), "eps_in_sqrt": True}
    against_optax(
        "adagrad", optax.adagrad(_rates(lr), **more), {"sums": "sum_of_squares"}, lr, options, rng, sums=initial
    )


def _rates(lr: float) -> Callable[[Any], Any]:
    """The rates of `rate` as optax needs them: as a function of the number of steps already taken."""
    import jax

    return lambda count: lr * (1 + 0.5 * jax.numpy.sin(count + 1.0))


# schedulefree


@pytest.mark.parametrize("options", [{}, {"warmup_steps": 20, "r": 0.5, "weight_lr_power": 1.0, "weight_decay": 0.1}])
@pytest.mark.parametrize("function", ["schedule_free_sgd", "schedule_free_adamw"])
def test_schedule_free_is_the_authors(function: str, options: dict[str, Any], torch: Any, rng: Generator) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    options = {"momentum": 0.8} | options if function == "schedule_free_sgd" else {"betas": (0.8, 0.99)} | options
    name = "SGDScheduleFree" if function == "schedule_free_sgd" else "AdamWScheduleFree"
    lr, params = 0.1, parameters(rng)
    theirs = [torch.tensor(p, requires_grad=True) for p in params]
    optimizer = getattr(schedulefree, name)(theirs, lr=lr, foreach=False, **options)
    optimizer.train()
    states = new_states(function, params, lr)
    for t in range(1, STEPS + 1):
        grads = gradients(rng, t)
        for tensor, g in zip(theirs, grads, strict=True):
            tensor.grad = torch.tensor(g)
        optimizer.param_groups[0]["lr"] = rate(lr, t)
        optimizer.step()
        getattr(reference, function)(params, grads, **states, step=t, lr=rate(lr, t), **options)
        for i, tensor in enumerate(theirs):
            assert_close(params[i], tensor.detach().numpy(), f"step {t}, parameter {i}")
            assert_close(states["zs"][i], optimizer.state[tensor]["z"].numpy(), f"step {t}, z {i}")
            assert float(states["weight_sums"][i]) == pytest.approx(optimizer.param_groups[0]["weight_sum"], rel=1e-12)
            assert float(states["lr_maxs"][i]) == optimizer.param_groups[0]["lr_max"]
    optimizer.eval()
    beta = options["momentum"] if function == "schedule_free_sgd" else options["betas"][0]
    for y, z, x in zip(params, states["zs"], theirs, strict=True):
        assert_close(y + (1 - 1 / beta) * (z - y), x.detach().numpy())


# The authors' own formulas


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1, "betas": (0.9, 0.8, 0.95), "eps": 1e-3},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
)
def test_adan_is_the_authors(options: dict[str, Any], rng: Generator) -> None:
    """The formula is _single_tensor_adan of https://github.com/sail-sg/Adan, adan.py; no_prox is decoupled decay."""
    beta1, beta2, beta3 = options.get("betas", (0.98, 0.92, 0.99))
    eps, decay = options.get("eps", 1e-8), options.get("weight_decay", 0.0)
    lr, params = 0.01, parameters(rng)
    theirs = [p.copy() for p in params]
    state = [[np.zeros_like(p) for p in params] for _ in range(3)]
    previous: list[Any] = [None] * len(params)
    states = new_states("adan", params, lr)
    for t in range(1, STEPS + 1):
        grads, eta = gradients(rng, t), rate(lr, t)
        reference.adan(params, grads, **states, step=t, lr=eta, **options)
        for i, (theta, g) in enumerate(zip(theirs, grads, strict=True)):
            m, v, n = (one[i] for one in state)
            diff = g - (g if previous[i] is None else previous[i])
            m[...] = m * beta1 + (1 - beta1) * g
            v[...] = v * beta2 + (1 - beta2) * diff
            n[...] = n * beta3 + (1 - beta3) * (beta2 * diff + g) ** 2
            denominator = np.sqrt(n) / math.sqrt(1 - beta3**t) + eps
            if options.get("decoupled_weight_decay"):
                theta *= 1 - eta * decay
            theta -= eta / (1 - beta1**t) * m / denominator
            theta -= eta * beta2 / (1 - beta2**t) * v / denominator
            if not options.get("decoupled_weight_decay"):
                theta /= 1 + eta * decay
            previous[i] = g
            assert_close(params[i], theta, f"step {t}")
            for key, its in ("exp_avgs", m), ("exp_avg_diffs", v), ("exp_avg_sqs", n), ("neg_pre_grads", -g):
                assert_close(states[key][i], its, f"step {t}, {key}")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1, "alpha": 5.0, "alpha_warmup": 30, "beta3_warmup": 40, "eps": 1e-3},
        {"betas": (0.8, 0.99, 0.999), "beta3_warmup": 1000},
    ],
)
def test_ademamix_is_the_authors(options: dict[str, Any], rng: Generator) -> None:
    """The formula is that of https://github.com/apple/ml-ademamix, pytorch/ademamix.py, with its two warm-ups."""
    beta1, beta2, beta3_last = options.get("betas", (0.9, 0.999, 0.9999))
    eps, decay, alpha_last = options.get("eps", 1e-8), options.get("weight_decay", 0.0), options.get("alpha", 2.0)
    lr, params = 0.01, parameters(rng)
    theirs = [p.copy() for p in params]
    state = [[np.zeros_like(p) for p in params] for _ in range(3)]
    states = new_states("ademamix", params, lr)

    def half_life(beta: float) -> float:
        return math.log(0.5) / math.log(beta + 1e-8) - 1

    for t in range(1, STEPS + 1):
        grads, eta = gradients(rng, t), rate(lr, t)
        reference.ademamix(params, grads, **states, step=t, lr=eta, **options)
        alpha, beta3 = alpha_last, beta3_last
        if t < options.get("alpha_warmup", 0):
            alpha = np.interp(t, [0, options["alpha_warmup"]], [0, alpha_last])
        if t < options.get("beta3_warmup", 0):
            ends = half_life(beta1), half_life(beta3_last)
            beta3 = 0.5 ** (1 / (np.interp(t, [0, options["beta3_warmup"]], ends) + 1))
        for i, (theta, g) in enumerate(zip(theirs, grads, strict=True)):
            fast, slow, nu = (one[i] for one in state)
            fast[...] = beta1 * fast + (1 - beta1) * g
            slow[...] = beta3 * slow + (1 - beta3) * g
            nu[...] = beta2 * nu + (1 - beta2) * g**2
            update = (fast / (1 - beta1**t) + alpha * slow) / (np.sqrt(nu) / math.sqrt(1 - beta2**t) + eps)
            theta -= eta * (update + decay * theta)
            assert_close(params[i], theta, f"step {t}")
            for key, its in ("exp_avg_fasts", fast), ("exp_avg_slows", slow), ("exp_avg_sqs", nu):
                assert_close(states[key][i], its, f"step {t}, {key}")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 0.1, "clip_exponent": 0.5},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "clip_exponent": None},
    ],
)
def test_adopt_is_the_authors(options: dict[str, Any], rng: Generator) -> None:
    """The formula is _single_tensor_adopt of https://github.com/iShohei220/adopt, adopt.py, which decays in its first
    step, too.
    """
    beta1, beta2 = options.get("betas", (0.9, 0.9999))
    eps, decay, exponent = (
        options.get("eps", 1e-6),
        options.get("weight_decay", 0.0),
        options.get("clip_exponent", 0.25),
    )
    lr, params = 0.01, parameters(rng)
    theirs = [p.copy() for p in params]
    state = [[np.zeros_like(p) for p in params] for _ in range(2)]
    states = new_states("adopt", params, lr)
    for step in range(STEPS):  # their count, from 0
        grads, eta = gradients(rng, step), rate(lr, step)
        reference.adopt(params, grads, **states, step=step + 1, lr=eta, **options)
        for i, (theta, g) in enumerate(zip(theirs, grads, strict=True)):
            exp_avg, exp_avg_sq = (one[i] for one in state)
            if options.get("decoupled_weight_decay"):
                theta *= 1 - eta * decay
            else:
                g = g + decay * theta
            if step == 0:
                exp_avg_sq[...] = g * g
            else:
                normed = g / np.maximum(np.sqrt(exp_avg_sq), eps)
                if exponent is not None:
                    normed = np.clip(normed, -(step**exponent), step**exponent)
                exp_avg += (normed - exp_avg) * (1 - beta1)
                theta -= eta * exp_avg
                exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * g * g
            assert_close(params[i], theta, f"step {step}")
            for key, its in ("exp_avgs", exp_avg), ("exp_avg_sqs", exp_avg_sq):
                assert_close(states[key][i], its, f"step {step}, {key}")


@pytest.mark.parametrize("nesterov", [False, True])
def test_velocity_is_that_of_keras(nesterov: bool, rng: Generator) -> None:
    """v ← μv − ηg, p ← p + v, with Nesterov p ← p + μv − ηg: https://keras.io/api/optimizers/sgd/."""
    p, v = rng.standard_normal(20), np.zeros(20)
    expected, velocity = p.copy(), np.zeros(20)
    for t in range(1, STEPS + 1):
        g, eta = rng.standard_normal(20), rate(0.1, t)
        reference.sgd([p], [g], velocity_buffers=[v], step=t, lr=eta, momentum=0.9, velocity=True, nesterov=nesterov)
        velocity = 0.9 * velocity - eta * g
        expected += 0.9 * velocity - eta * g if nesterov else velocity
        assert_close(p, expected)
        assert_close(v, velocity)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_that_of_keras(momentum: float, centered: bool, rng: Generator) -> None:
    """keras/src/optimizers/rmsprop.py: g·rsqrt(v + ε), v less the squared mean if centered; lr is inside of the momentum."""
    p = rng.standard_normal(20)
    opt = optim.RMSprop([p], alpha=0.9, eps=1e-3, momentum=momentum, centered=centered, eps_in_sqrt=True, velocity=True)
    expected, v, mean, buffer = p.copy(), np.zeros(20), np.zeros(20), np.zeros(20)
    for t in range(1, STEPS + 1):
        g, eta = np.where(rng.random(20) < 0.2, 0.0, rng.standard_normal(20)), rate(0.01, t)
        opt.param_groups[0]["lr"] = eta
        opt.step([g])
        v = 0.9 * v + 0.1 * g**2
        mean = 0.9 * mean + 0.1 * g
        increment = eta * g / np.sqrt(v - mean**2 + 1e-3 if centered else v + 1e-3)
        buffer = momentum * buffer + increment
        expected -= buffer if momentum else increment
        assert_close(p, expected)


@pytest.mark.parametrize(
    ("inside", "expected"), [(False, 1e-3 / (math.sqrt(1e-7) + 1e-3)), (True, 1e-3 / math.sqrt(1e-7 + 1e-3))]
)
def test_where_epsilon_is_matters_for_small_gradients(inside: bool, expected: float) -> None:
    """0.76 and 0.03 times the learning rate."""
    p = np.zeros(1)
    optim.RMSprop([p], lr=1.0, alpha=0.9, eps=1e-3, eps_in_sqrt=inside).step([np.full(1, 1e-3)])
    assert_close(-p, np.array([expected]))


def test_adagrad_is_that_of_keras(rng: Generator) -> None:
    """keras/src/optimizers/adagrad.py: a ← a + g², p ← p − lr·g/√(a + ε), with a = 0.1 at first."""
    p = rng.standard_normal(20)
    opt = optim.Adagrad([p], lr=0.1, initial_accumulator_value=0.1, eps=1e-2, eps_in_sqrt=True)
    expected, a = p.copy(), np.full(20, 0.1)
    for _ in range(STEPS):
        g = rng.standard_normal(20)
        opt.step([g])
        a = a + g**2
        expected -= 0.1 * g / np.sqrt(a + 1e-2)
        assert_close(p, expected)


def test_eps_hat_is_that_of_the_paper(rng: Generator) -> None:
    """Kingma & Ba 2015, the end of section 2: α_t = α·√(1−β₂ᵗ)/(1−β₁ᵗ), θ ← θ − α_t·m/(√v + ε̂)."""
    p, m_, v_ = rng.standard_normal(20), np.zeros(20), np.zeros(20)
    theta, m, v = p.copy(), np.zeros(20), np.zeros(20)
    for t in range(1, STEPS + 1):
        g = rng.standard_normal(20)
        reference.adam([p], [g], [m_], [v_], step=t, lr=0.01, betas=(0.8, 0.99), eps=0.1, eps_hat=True)
        m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g**2
        theta -= 0.01 * math.sqrt(1 - 0.99**t) / (1 - 0.8**t) * m / (np.sqrt(v) + 0.1)
        assert_close(p, theta)


def test_every_rule_has_an_oracle() -> None:
    others = {"lion", "lamb", "lars", "schedule_free_sgd", "schedule_free_adamw", "adan", "ademamix", "adopt", "muon"}
    assert {function for function, *_ in TORCH} | others == set(FUNCTIONS)


# Options of every rule


@pytest.mark.parametrize("function", FUNCTIONS)
def test_float32_is_near_float64(function: str, rng: Generator) -> None:
    shapes = [shape for shape in SHAPES if len(shape) == 2 or function != "muon"]
    params = parameters(rng, shapes)
    by_dtype = {dtype: [p.astype(dtype) for p in params] for dtype in (np.float64, np.float32)}
    states = {dtype: new_states(function, some, 0.01) for dtype, some in by_dtype.items()}
    for t in range(1, 6):
        grads = gradients(rng, t, shapes)
        for dtype, some in by_dtype.items():
            getattr(reference, function)(some, [g.astype(dtype) for g in grads], **states[dtype], step=t, lr=0.01)
    for before, near, exact in zip(params, by_dtype[np.float32], by_dtype[np.float64], strict=True):
        np.testing.assert_allclose(near, exact, rtol=1e-4, atol=1e-5)
        assert not np.array_equal(before, exact)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_empty_arrays_and_missing_gradients_change_nothing(function: str, rng: Generator) -> None:
    params = [rng.standard_normal((2, 3)), np.zeros((0, 3)), np.zeros((3, 0))]
    states = new_states(function, params, 0.1)
    copies = (
        [p.copy() for p in params],
        {key: [x if x is None else x.copy() for x in one] for key, one in states.items()},
    )
    options = dict(l1=0.1, ema_decay=0.5, ema_params=[p.copy() for p in params])
    grads = [None, np.zeros((0, 3)), np.zeros((3, 0))]
    outcome = getattr(reference, function)(
        params, grads, **states, step=1, lr=0.1, clip_norm=1.0, clip_adaptive=0.1, noise=0.1, **options
    )
    assert outcome == (0.0, False)
    np.testing.assert_equal(params, copies[0])
    np.testing.assert_equal(
        {key: one[0] for key, one in states.items()}, {key: one[0] for key, one in copies[1].items()}
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_signature_is_that_of_every_rule(function: str) -> None:
    parameters = inspect.signature(getattr(reference, function)).parameters
    names = list(parameters)
    assert names[:2] == ["params", "grads"]
    assert names[names.index("step") : names.index("step") + 2] == ["step", "lr"]
    assert [name for name in names[names.index("maximize") :] if not name.endswith("_scales")] == [
        *("maximize", "decoupled_weight_decay", "fixed_decay", "l1", "proximal_l1", "l2_init", "noise", "temperature"),
        *("seed", "ema_decay", "ema_warmup", "swa_start", "swa_freq", "weights", "moments", "moment_rounding"),
        *("master_params", "compensations", "corrections", "initial_params", "ema_params", "grad_scale"),
        *("clip_norm", "clip_value", "clip_param_norm", "clip_adaptive", "skip_nonfinite", "zero_grads"),
    ]
    assert f":func:`fastopt.functional.{function}`" in (getattr(reference, function).__doc__ or "")


def test_nan_stays_nan_where_numbers_are_compared() -> None:
    a, b = flushed(np.array([1.0, np.nan, 2.0, -0.0])), flushed(np.array([np.nan, 1.0, 3.0, 0.0]))
    np.testing.assert_equal(np.asarray(_update.maximum(a, b)), [np.nan, np.nan, 3.0, -0.0])
    np.testing.assert_equal(np.asarray(_update.clamp(a, 0.5, 1.5)), [1.0, np.nan, 1.5, 0.5])
    p, v_max = np.ones(1), np.full(1, np.nan)
    reference.adam([p], [np.ones(1)], [np.zeros(1)], [np.zeros(1)], [v_max], step=1, lr=0.1, amsgrad=True)
    assert np.isnan(p[0]) and np.isnan(v_max[0])


def descend(p: Any, g: Any, lr: float = 0.1, step: int = 1, **options: Any) -> Any:
    """p after a step of plain gradient descent."""
    p = p.copy()
    reference.sgd([p], [g], step=step, lr=lr, **options)
    return p


def test_decay_in_all_its_forms(rng: Generator) -> None:
    p, g, initial = (rng.standard_normal(20) for _ in range(3))
    p[:2] = 0.0, -0.0
    lr, lambda_ = 0.1, 0.3
    started = {"initial_params": [initial]}
    for options, expected in (
        ({"weight_decay": lambda_}, p - lr * (g + lambda_ * p)),
        ({"weight_decay": lambda_, "maximize": True}, p - lr * (-g + lambda_ * p)),
        ({"weight_decay": lambda_, "decoupled_weight_decay": True}, p * (1 - lr * lambda_) - lr * g),
        ({"weight_decay": lambda_, "decoupled_weight_decay": True, "fixed_decay": True}, p * (1 - lambda_) - lr * g),
        ({"l1": lambda_}, p - lr * (g + lambda_ * np.sign(p))),
        ({"l2_init": lambda_, **started}, p - lr * (g + lambda_ * (p - initial))),
        (
            {"l2_init": lambda_, "decoupled_weight_decay": True, **started},
            (p - lr * g) - lr * lambda_ * ((p - lr * g) - initial),
        ),
        (
            {"l2_init": lambda_, "decoupled_weight_decay": True, "fixed_decay": True, **started},
            (p - lr * g) - lambda_ * ((p - lr * g) - initial),
        ),
        (
            {"l1": lambda_, "proximal_l1": True},
            np.sign(p - lr * g) * np.maximum(np.abs(p - lr * g) - lr * lambda_, 0),
        ),
    ):
        assert_close(descend(p, g, lr, **options), expected, str(options))


def test_a_rule_keeps_its_own_decay_unless_told_otherwise(rng: Generator) -> None:
    p, g = rng.standard_normal((2, 20))
    results = []
    for decoupled in None, False, True:
        q = p.copy()
        reference.lars([q], [g], [np.zeros(20)], step=1, lr=1.0, weight_decay=0.5, decoupled_weight_decay=decoupled)
        results.append(q)
    ratio = 1e-3 * np.linalg.norm(p) / np.linalg.norm(g + 0.5 * p)
    assert_close(results[0], p - ratio * (g + 0.5 * p))
    assert_close(results[1], results[0])
    assert_close(results[2], 0.5 * p - 1e-3 * np.linalg.norm(p) / np.linalg.norm(g) * g)


def test_proximal_l1_gives_exact_zeros(rng: Generator) -> None:
    p = np.concatenate([rng.standard_normal(50), rng.uniform(-0.01, 0.01, 50), [0.0, -0.0, -1e-310]])
    for dtype in np.float64, np.float32:
        shrunk = descend(p.astype(dtype), np.zeros(p.shape, dtype), 0.1, l1=0.1, proximal_l1=True)
        zero = np.abs(p) <= 0.01
        assert np.all(shrunk[zero] == 0) and not np.any(np.signbit(shrunk[zero]))
        assert np.all(shrunk[~zero] != 0) and np.all(np.abs(shrunk[~zero]) < np.abs(p[~zero]))


@pytest.mark.parametrize("warmup", [False, True])
def test_ema_is_the_average(warmup: bool, rng: Generator) -> None:
    p, average = rng.standard_normal((2, 20))
    expected = average.copy()
    for t in range(1, STEPS + 1):
        reference.sgd(
            [p], [rng.standard_normal(20)], step=t, lr=0.1, ema_decay=0.9, ema_warmup=warmup, ema_params=[average]
        )
        decay = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * p
        assert_close(average, expected)


def test_swa_is_the_mean(rng: Generator) -> None:
    p, average = rng.standard_normal((2, 20))
    kept = []
    for t in range(1, STEPS + 1):
        before = average.copy()
        reference.sgd([p], [rng.standard_normal(20)], step=t, lr=0.1, swa_start=7, swa_freq=3, ema_params=[average])
        if t >= 7 and (t - 7) % 3 == 0:
            kept.append(p.copy())
            assert_close(average, np.mean(kept, axis=0))
        else:
            assert np.array_equal(average, before)
    assert len(kept) == 15


# Clipping


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("most", [0.5, 1e3])
def test_clip_norm_is_torchs(most: float, scale: float, torch: Any, rng: Generator) -> None:
    params, grads = parameters(rng), gradients(rng, 1)
    theirs = [torch.tensor(p, requires_grad=True) for p in params]
    for tensor, g in zip(theirs, grads, strict=True):
        tensor.grad = torch.tensor(g)
    norm = torch.nn.utils.clip_grad_norm_(theirs, most, foreach=False).item()
    expected = [p - 0.1 * tensor.grad.numpy() for p, tensor in zip(params, theirs, strict=True)]
    scaled = [g * scale for g in grads]
    actual, skipped = reference.sgd(params, scaled, step=1, lr=0.1, grad_scale=scale, clip_norm=most)
    assert actual == pytest.approx(norm, rel=1e-12) and not skipped
    for p, q in zip(params, expected, strict=True):
        assert_close(p, q)


@pytest.mark.parametrize("most", [0.5, 1e3])
def test_clip_param_norm_is_torchs_for_one_tensor(most: float, torch: Any, rng: Generator) -> None:
    params, grads = parameters(rng), gradients(rng, 1)
    expected = []
    for p, g in zip(params, grads, strict=True):
        tensor = torch.tensor(p, requires_grad=True)
        tensor.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_([tensor], most, foreach=False)
        expected.append(p + 0.1 * tensor.grad.numpy())
    outcome = reference.sgd(
        params, [4 * g for g in grads], step=1, lr=0.1, grad_scale=4.0, clip_param_norm=most, maximize=True
    )
    assert outcome == (None, False)
    for p, q in zip(params, expected, strict=True):
        assert_close(p, q)


def test_clip_value_is_torchs(torch: Any, rng: Generator) -> None:
    p, g = rng.standard_normal((2, 100))
    tensor = torch.tensor(p, requires_grad=True)
    tensor.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_value_([tensor], 0.3, foreach=False)
    assert_close(descend(p, 2 * g, clip_value=0.3, grad_scale=2.0), p - 0.1 * tensor.grad.numpy())


ADAPTIVE = [(6, 4), (3, 5, 2, 4), (7,), (), (3, 4, 5)]


def adaptive_inputs(shape: tuple[int, ...], rng: Generator) -> tuple[Any, Any]:
    """Units of all sizes, one of them zero."""
    units = shape[:1] if len(shape) > 1 else ()
    sizes = 10.0 ** rng.uniform(-4, 1, (*units, *(1,) * (len(shape) - len(units))))
    p = np.asarray(rng.standard_normal(shape) * sizes)
    if units:
        p[1] = 0
    return p, np.asarray(0.1 * rng.standard_normal(shape))


@pytest.mark.parametrize("shape", ADAPTIVE)
def test_clip_adaptive_is_the_formula(shape: tuple[int, ...], rng: Generator) -> None:
    """Brock et al. 2021, arXiv:2102.06171, eq. 3: g ← c·max(‖p‖, ε)/‖g‖·g where that makes g shorter, unit by unit."""
    p, g = adaptive_inputs(shape, rng)
    expected = p.copy()
    for unit in range(shape[0]) if len(shape) > 1 else [...]:
        most, norm = 0.1 * max(np.linalg.norm(p[unit]), 1e-3), np.linalg.norm(g[unit])
        expected[unit] -= 0.1 * g[unit] * min(1.0, most / norm)
    assert_close(descend(p, 3 * g, clip_adaptive=0.1, grad_scale=3.0), expected)


@pytest.mark.parametrize("shape", ADAPTIVE[:-1])
def test_clip_adaptive_is_optaxs(shape: tuple[int, ...], optax: Any, rng: Generator) -> None:
    """Axes are reversed for optax, whose units are along the last axis."""
    p, g = adaptive_inputs(shape, rng)
    axes = (*range(1, len(shape)), 0) if len(shape) > 1 else range(len(shape))
    clip = optax.adaptive_grad_clip(0.1)
    clipped, _ = clip.update(np.transpose(g, axes), clip.init(None), np.transpose(p, axes))
    assert_close(descend(p, g, clip_adaptive=0.1), p - 0.1 * np.transpose(clipped, np.argsort(axes)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_skipped_step_changes_nothing_but_gradients(bad: float, rng: Generator) -> None:
    params, grads = parameters(rng), gradients(rng, 1)
    grads[1][3] = bad
    before, averages = [p.copy() for p in params], parameters(rng)
    average_before = [a.copy() for a in averages]
    states = new_states("adam", params, 0.1)
    norm, skipped = reference.adam(
        params,
        grads,
        **states,
        step=1,
        lr=0.1,
        skip_nonfinite=True,
        zero_grads=True,
        ema_decay=0.9,
        ema_params=averages,
    )
    assert skipped and norm is not None and not math.isfinite(norm)
    np.testing.assert_equal([params, averages], [before, average_before])
    assert not any(x.any() for one in states.values() for x in one)
    assert not any(g.any() for g in grads)


def test_gradients_are_written_only_to_be_zeroed(rng: Generator) -> None:
    params, grads = parameters(rng), gradients(rng, 1)
    before = [g.copy() for g in grads]
    norm, skipped = reference.sgd(params, grads, step=1, lr=0.1, clip_norm=0.1, noise=0.1, l1=0.1, skip_nonfinite=True)
    assert not skipped and norm == pytest.approx(math.sqrt(sum((g**2).sum() for g in before)))
    np.testing.assert_equal(grads, before)
    reference.sgd(params, grads, step=1, lr=0.1, zero_grads=True)
    assert not any(g.any() for g in grads)


# Random numbers


@pytest.mark.parametrize(
    ("rounds", "counter", "key", "expected"),
    [
        (7, "00000000 00000000 00000000 00000000", "00000000 00000000", "5f6fb709 0d893f64 4f121f81 4f730a48"),
        (7, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "5207ddc2 45165e59 4d8ee751 8c52f662"),
        (7, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
        (10, "00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (10, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (10, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers(rounds: int, counter: str, key: str, expected: str) -> None:
    """The vectors of Random123, kat_vectors."""
    words = [[int(word, 16) for word in text.split()] for text in (counter, key, expected)]
    assert _random.philox(words[0], words[1], rounds).tolist() == words[2]


def test_words_lie_as_the_kernels_draw_them() -> None:
    """Word w of counter 16·k + j is [k, w, j]; counters beyond 32 bits and long seeds continue in the next word."""
    words = _random.words((7 << 32) + 5, 3, 9, 4)
    for k, w, j in (0, 0, 0), (1, 2, 3), (3, 3, 15):
        assert words[k, w, j] == _random.philox([16 * k + j, 0, 3, 9], [5, 7])[w]


def test_normals_are_normal() -> None:
    n = 1 << 20
    x = _random.normals(1, 2, 3, n).astype(np.float64)
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert 4.5 < np.abs(x).max() < 4.87
    pairs = x.reshape(-1, 2, 16)
    assert abs((pairs[:, 0] * pairs[:, 1]).mean()) < 4 / math.sqrt(n / 2)
    assert abs((pairs[:, 0] ** 2 * pairs[:, 1] ** 2).mean() - 1) < 4 * math.sqrt(8 / (n / 2))
    assert abs((x[1:] * x[:-1]).mean()) < 4 / math.sqrt(n)


def test_normals_have_the_distribution_of_kolmogorov() -> None:
    n = 100_000
    x = np.sort(_random.normals(4, 5, 6, n).astype(np.float64))
    cdf = np.array([0.5 * (1 + math.erf(one / math.sqrt(2))) for one in x])
    distance = max(np.max(np.arange(1, n + 1) / n - cdf), np.max(cdf - np.arange(n) / n))
    assert distance * math.sqrt(n) < 1.95  # exceeded once in a thousand times


def test_every_pair_is_that_of_box_and_muller() -> None:
    """For all halves of words, radius and angle are those of the exact functions."""
    half = np.arange(1 << 16, dtype=np.uint32)
    first, second = (x.astype(np.float64) for x in _random.pair(half << 16))
    np.testing.assert_allclose(
        np.hypot(first, second), np.sqrt(-2 * np.log((half + 0.5) / 65536)), rtol=3e-4, atol=3e-4
    )
    first, second = (x.astype(np.float64) for x in _random.pair(half))
    quarter, within = half >> 14, (half & 0x3FFF) / 8192 - 8191.5 / 8192
    angle = math.pi / 4 * (within + 2 * quarter)
    np.testing.assert_allclose(np.arctan2(second, first), np.arctan2(np.sin(angle), np.cos(angle)), atol=3e-5)


def test_noise_is_a_function_of_seed_step_parameter_and_place() -> None:
    def noise(shape: tuple[int, ...], member: int = 0, step: int = 1, **options: Any) -> Any:
        params = [np.zeros(shape) for _ in range(member + 1)]
        grads = [None] * member + [np.zeros(shape)]
        reference.sgd(params, grads, step=step, lr=1.0, noise=2.0, **options)
        return -params[-1]

    some = noise((1000,), seed=5)
    assert np.array_equal(some, 2.0 * _random.normals(5, 1, 0, 1000).astype(np.float64))
    assert np.array_equal(some.reshape(20, 50), noise((20, 50), seed=5))
    assert np.array_equal(some[:130], noise((130,), seed=5))
    assert np.array_equal(noise((40,), member=3, step=7), 2.0 * _random.normals(0, 7, 3, 40).astype(np.float64))
    for other in noise((1000,), seed=6), noise((1000,), seed=5, step=2), noise((1000,), 1, seed=5):
        assert abs(np.corrcoef(some, other)[0, 1]) < 0.15


def test_temperature_is_langevins(rng: Generator) -> None:
    """p ← p − η g + √(2ηT)·N(0, 1), with other noise in addition."""
    p, g = rng.standard_normal((2, 64))
    lr, temperature = 0.1, 0.5
    normals = _random.normals(3, 1, 0, 64).astype(np.float64)
    expected = p - lr * g - math.sqrt(2 * lr * temperature) * normals
    assert_close(descend(p, g, lr, temperature=temperature, seed=3), expected)
    both = p - lr * g - lr * math.sqrt(0.3**2 + 2 * temperature / lr) * normals
    assert_close(descend(p, g, lr, temperature=temperature, noise=0.3, seed=3), both)
