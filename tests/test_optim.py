"""The optimizer classes: structures of parameters and gradients, groups, changes on the way, state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, RULES, Array, Options, label, ordinary, rules_and_options
from tools import differing, every_isa

from fastopt import functional as F
from fastopt import optim

rules = pytest.mark.parametrize("rule", RULES)
every_rule = pytest.mark.parametrize(
    ("rule", "options"),
    [pytest.param(rule, options, id=f"{rule}-{label(options)}") for rule, options in rules_and_options()],
)
SHAPES = ((4, 3), (70,), (), (0, 2))


def arrays(rng: Generator, dtype: str = "float32") -> list[Array]:
    return [np.asarray(ordinary(rng, shape, dtype)) for shape in SHAPES]


def copies(some: list[Array]) -> list[Array]:
    return [a.copy() for a in some]


def all_differing(some: list[Array], others: list[Array]) -> int:
    return sum(differing(a, b) for a, b in zip(some, others, strict=True))


# The step


@pytest.mark.parametrize("dtype", DTYPES)
@every_rule
def test_step_is_the_functions(rule: str, options: Options, dtype: str, rng: Generator) -> None:
    """Bit for bit, with each parameter's own count where gradients are missing."""
    params = arrays(rng, dtype)
    plain = copies(params)
    states = RULES[rule].new_states(options, plain)
    opt = RULES[rule].optimizer(params, **options)
    counts = [0] * len(params)
    for step in range(5):
        grads = [None if (step + i) % 3 == 0 else g for i, g in enumerate(arrays(rng, dtype))]
        counts = [count + (g is not None) for count, g in zip(counts, grads, strict=True)]
        assert opt.step(grads).step == step + 1
        RULES[rule].update(F, plain, grads, states, [max(count, 1) for count in counts], options)
    assert all_differing(params, plain) == 0
    for i, one in enumerate(opt.state):
        assert one["step"] == counts[i]
        assert one.keys() == {"step", *RULES[rule].states(options)}
        assert all_differing([one[name] for name in RULES[rule].states(options)], [state[i] for state in states]) == 0


@rules
def test_step_has_the_same_bits_on_every_instruction_set(rule: str, rng: Generator) -> None:
    params, grads = arrays(rng), [arrays(rng) for _ in range(3)]
    results = []
    for _ in every_isa():
        results.append(copies(params))
        opt = RULES[rule].optimizer(results[-1], lr=0.1)
        for some in grads:
            opt.step(some)
    assert all(all_differing(results[0], other) == 0 for other in results)


@rules
def test_gradients_are_only_read(rule: str, rng: Generator) -> None:
    grads = arrays(rng)
    before = copies(grads)
    for g in grads:
        g.flags.writeable = False
    RULES[rule].optimizer(arrays(rng), lr=0.1).step(grads)
    assert all_differing(grads, before) == 0


@rules
def test_state_is_live_and_parameters_are_the_callers(rule: str, rng: Generator) -> None:
    params = arrays(rng)
    opt = RULES[rule].optimizer(params, lr=0.1, **({"momentum": 0.9} if rule == "sgd" else {}))
    assert all(a is b for a, b in zip(opt.param_groups[0]["params"], params, strict=True))
    opt.step(arrays(rng))
    held = dict(opt.state[0])
    before = {name: array.copy() for name, array in held.items()}
    opt.step(arrays(rng))
    assert all(opt.state[0][name] is held[name] for name in held)
    assert all(np.any(held[name] != before[name]) for name in held)
    held["step"][...] = 41
    opt.step(arrays(rng))
    assert opt.state[0]["step"] == 42


@rules
def test_moments_may_be_set_from_outside(rule: str, rng: Generator) -> None:
    """What is written into the state is what the next step continues from."""
    options = RULES[rule].always | ({"momentum": 0.9} if rule == "sgd" else {})
    p, g = ordinary(rng, 9, "float64"), ordinary(rng, 9, "float64")
    opt = RULES[rule].optimizer([p], **options)
    plain, states = p.copy(), [np.abs(ordinary(rng, 9, "float64")) for _ in RULES[rule].states(options)]
    for name, state in zip(RULES[rule].states(options), states, strict=True):
        opt.state[0][name][...] = state
    opt.state[0]["step"][...] = 6
    opt.step([g])
    RULES[rule].update(F, [plain], [g], [[state] for state in states], 7, options)
    assert differing(p, plain) == 0


# Structures


def flat(params: list[Array]) -> Any:
    return params


def named(params: list[Array]) -> Any:
    return {f"p{i}": p for i, p in enumerate(params)}


def groups(params: list[Array]) -> Any:
    return [{"params": params[:1]}, {"params": params[1:]}]


def named_groups(params: list[Array]) -> Any:
    return [{"params": named(params[:2])}, {"params": params[2:]}]


@pytest.mark.parametrize(
    ("structure", "grads_like"),
    [
        (flat, lambda g: g),
        (flat, tuple),
        (iter, lambda g: g),
        (named, named),
        (named, lambda g: dict(reversed(named(g).items()))),
        (groups, lambda g: [g[:1], g[1:]]),
        (groups, lambda g: (tuple(g[:1]), tuple(g[1:]))),
        (groups, lambda g: g),
        (named_groups, lambda g: [named(g[:2]), g[2:]]),
        (named_groups, lambda g: g),
    ],
)
@rules
def test_structures_mean_the_same(
    rule: str, structure: Callable[[Any], Any], grads_like: Callable[[Any], Any], rng: Generator
) -> None:
    params, grads = arrays(rng), [arrays(rng) for _ in range(3)]
    plain = copies(params)
    opt, ref = RULES[rule].optimizer(structure(params), lr=0.1), RULES[rule].optimizer(plain, lr=0.1)
    for some in grads:
        opt.step(grads_like(some))
        ref.step(some)
    assert all_differing(params, plain) == 0


@pytest.mark.parametrize(
    ("structure", "grads", "error", "message"),
    [
        (flat, [], ValueError, r"^SGD: grads has 0 entries, expected 4, one a parameter$"),
        (flat, [None] * 5, ValueError, r"^SGD: grads has 5 entries, expected 4"),
        (flat, {"p0": None}, TypeError, r"^SGD: grads must be a list as params, got dict$"),
        (flat, None, TypeError, r"^SGD: grads must be a list as params, got NoneType$"),
        (named, [None] * 4, TypeError, r"^SGD: grads must be a dict as params, got list$"),
        (named, {"p0": None, "x": None}, ValueError, r"missing: 'p1', 'p2', 'p3', unknown: 'x'$"),
        (groups, [[None], [None]], ValueError, r"^SGD: grads has 1 entries, expected 3"),
        (groups, [[None]], ValueError, r"^SGD: grads has 1 entries, expected 4"),
        (
            groups,
            {"p0": None},
            TypeError,
            r"^SGD: grads must be a list, with one list for each group or flat, got dict$",
        ),
        (named_groups, [[None] * 2, [None] * 2], TypeError, r"^SGD: grads must be a dict as params, got list$"),
    ],
)
def test_other_structures_are_errors(
    structure: Callable[[Any], Any], grads: Any, error: type[Exception], message: str, rng: Generator
) -> None:
    params = arrays(rng)
    before = copies(params)
    opt = optim.SGD(structure(params), lr=0.1)
    with pytest.raises(error, match=message):
        opt.step(grads)
    assert all_differing(params, before) == 0
    assert opt.step([None] * 4 if structure is not named else dict.fromkeys(named(params))).step == 1


def test_errors_name_parameters_as_the_caller_does(rng: Generator) -> None:
    bad = [np.ones(3, np.float32)] * 4
    with pytest.raises(ValueError, match=r"^SGD: grads\['p0'\] has shape"):
        optim.SGD(named(arrays(rng))).step(named(bad))
    with pytest.raises(ValueError, match=r"^SGD: grads\[2\] has shape"):
        optim.SGD(groups(arrays(rng))).step([None, None, *bad[2:]])


# Groups


@rules
def test_groups_have_their_own_hyperparameters(rule: str, rng: Generator) -> None:
    params, grads = arrays(rng), [arrays(rng) for _ in range(3)]
    plain = copies(params)
    opt = RULES[rule].optimizer(
        [{"params": params[:1], "lr": 0.5}, {"params": params[1:], "weight_decay": 0.3}], lr=0.1
    )
    first = RULES[rule].optimizer(plain[:1], lr=0.5)
    second = RULES[rule].optimizer(plain[1:], lr=0.1, weight_decay=0.3)
    for some in grads:
        opt.step(some)
        first.step(some[:1])
        second.step(some[1:])
    assert all_differing(params, plain) == 0


@pytest.mark.parametrize(
    ("rule", "some", "other"),
    [
        ("sgd", {}, {"momentum": 0.9}),
        ("sgd", {"momentum": 0.9}, {"momentum": 0.9, "velocity": True}),
        ("adam", {}, {"amsgrad": True}),
        ("adamw", {"amsgrad": True}, {"maximize": True}),
    ],
)
def test_groups_may_follow_different_rules(rule: str, some: Options, other: Options, rng: Generator) -> None:
    params, grads = arrays(rng), [arrays(rng) for _ in range(3)]
    plain = copies(params)
    opt = RULES[rule].optimizer([{"params": params[:2], **some}, {"params": params[2:], **other}], lr=0.1)
    first, second = RULES[rule].optimizer(plain[:2], lr=0.1, **some), RULES[rule].optimizer(plain[2:], lr=0.1, **other)
    for step in grads:
        opt.step(step)
        first.step(step[:2])
        second.step(step[2:])
    assert all_differing(params, plain) == 0


@rules
def test_dtypes_may_be_mixed(rule: str, rng: Generator) -> None:
    params = [ordinary(rng, 30, dtype) for dtype in ("float32", "float64", "float32")]
    grads = [[ordinary(rng, 30, p.dtype.name) for p in params] for _ in range(3)]
    plain = copies(params)
    opt, alone = RULES[rule].optimizer(params, lr=0.1), [RULES[rule].optimizer([p], lr=0.1) for p in plain]
    for some in grads:
        opt.step(some)
        for one, g in zip(alone, some, strict=True):
            one.step([g])
    assert all_differing(params, plain) == 0


@rules
def test_a_group_may_be_added_between_steps(rule: str, rng: Generator) -> None:
    params, grads = arrays(rng), [arrays(rng) for _ in range(4)]
    plain = copies(params)
    opt = RULES[rule].optimizer(params[:2], lr=0.1)
    first, second = RULES[rule].optimizer(plain[:2], lr=0.1), RULES[rule].optimizer(plain[2:], lr=0.7)
    for step, some in enumerate(grads):
        if step == 2:
            opt.add_param_group({"params": params[2:], "lr": 0.7})
        opt.step(some[:2] if step < 2 else [some[:2], some[2:]])
        first.step(some[:2])
        if step >= 2:
            second.step(some[2:])
    assert all_differing(params, plain) == 0
    assert [int(one["step"]) for one in opt.state] == [4, 4, 2, 2]


def test_groups_that_are_wrong_change_nothing(rng: Generator) -> None:
    params = arrays(rng)
    opt = optim.Adam(params, lr=0.1)
    opt.step(arrays(rng))
    for group, error, message in (
        ({"params": [params[0]]}, ValueError, r"^Adam: params\[[04]\] would be written, but overlaps params\[[04]\]$"),
        ({"params": [params[1][5:9]]}, ValueError, r"would be written, but overlaps"),
        (
            {"params": [np.ones(3)], "momentum": 0.9},
            ValueError,
            r"^Adam: unknown hyperparameter 'momentum'; it has lr, betas",
        ),
        ({"params": [np.ones(3)], "lr": -1}, ValueError, r"^Adam: lr must be finite and >= 0, got -1$"),
        ({"params": [np.ones(3, int)]}, TypeError, r"^Adam: params\[4\] has dtype int64"),
        ({"params": np.ones(3)}, TypeError, r"^Adam: params must be a list"),
    ):
        with pytest.raises(error, match=message):
            opt.add_param_group(group)
        assert len(opt.param_groups) == 1
        assert len(opt.state) == 4
    opt.step(arrays(rng))
    assert [int(one["step"]) for one in opt.state] == [2] * 4


def test_a_parameter_in_two_groups_is_an_error(rng: Generator) -> None:
    p, q = arrays(rng)[:2]
    with pytest.raises(ValueError, match=r"^SGD: params\[0\] would be written, but overlaps params\[1\]$"):
        optim.SGD([{"params": [p]}, {"params": [p, q]}])
    with pytest.raises(ValueError, match=r"^SGD: params\[.*\] would be written, but overlaps params\[.*\]$"):
        optim.SGD({"a": q, "b": q[1:]})


# Changes on the way


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        ("sgd", {"lr": 0.1}, {"lr": 0.01}),
        ("sgd", {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.0}, {"maximize": True, "weight_decay": 0.1, "l1": 0.01}),
        ("sgd", {"momentum": 0.9, "velocity": True}, {"lr": 0.01}),
        ("adam", {"betas": (0.9, 0.99)}, {"betas": (0.8, 0.9), "eps": 1e-3}),
        ("adam", {"eps_hat": False}, {"eps_hat": True}),
        ("adam", {"amsgrad": True}, {"amsgrad": False}),
        ("adamw", {"weight_decay": 0.0}, {"weight_decay": 0.5, "maximize": True}),
    ],
)
def test_changed_hyperparameters_hold_from_the_next_step(
    rule: str, before: Options, after: Options, rng: Generator
) -> None:
    options = RULES[rule].always | before
    p = ordinary(rng, 40, "float64")
    plain = p.copy()
    states = RULES[rule].new_states(options, [plain])
    opt = RULES[rule].optimizer([p], **options)
    for step in range(1, 7):
        if step == 4:
            opt.param_groups[0].update(after)
            options |= after
        g = ordinary(rng, 40, "float64")
        opt.step([g])
        RULES[rule].update(F, [plain], [g], states[: len(RULES[rule].states(options))], step, options)
    assert differing(p, plain) == 0


def test_momentum_that_is_switched_on_begins_with_a_first_step(rng: Generator) -> None:
    """As in torch: the buffer becomes the gradient, undampened."""
    p = ordinary(rng, 10, "float64")
    opt = optim.SGD([p], lr=0.1)
    opt.step([ordinary(rng, 10, "float64")])
    opt.param_groups[0].update(momentum=0.9, dampening=0.5)
    g = ordinary(rng, 10, "float64")
    opt.step([g])
    assert differing(opt.state[0]["momentum_buffer"], g) == 0
    opt.step([g])
    np.testing.assert_allclose(opt.state[0]["momentum_buffer"], 1.4 * g, rtol=1e-15)


def test_amsgrad_that_is_switched_on_keeps_the_moments(rng: Generator) -> None:
    p = ordinary(rng, 10, "float64")
    opt = optim.Adam([p], lr=0.1)
    opt.step([np.full(10, 3.0)])
    m, v = opt.state[0]["exp_avg"].copy(), opt.state[0]["exp_avg_sq"].copy()
    opt.param_groups[0]["amsgrad"] = True
    opt.step([np.zeros(10)])
    np.testing.assert_allclose(opt.state[0]["exp_avg"], 0.9 * m)
    np.testing.assert_allclose(opt.state[0]["max_exp_avg_sq"], 0.999 * v)
    assert opt.state[0]["step"] == 2
    high = opt.state[0]["max_exp_avg_sq"].copy()
    for _ in range(3):
        opt.step([np.zeros(10)])
    assert differing(opt.state[0]["max_exp_avg_sq"], high) == 0


def test_betas_may_be_a_list_but_are_never_missed() -> None:
    """A list that is changed in place either counts at the next step or cannot be changed."""
    betas = [0.9, 0.99]
    opt = optim.Adam([np.ones(3)], lr=0.1, betas=betas)  # type: ignore[arg-type]
    opt.step([np.ones(3)])
    with pytest.raises(TypeError, match="does not support item assignment"):
        opt.param_groups[0]["betas"][0] = 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -1}, r"^Adam: lr must be finite and >= 0, got -1$"),
        ({"lr": np.array([0.1, 0.2])}, r"^Adam: lr must be a number"),
        ({"betas": (0.9, 1.0)}, r"^Adam: beta2 must be in \[0, 1\), got 1.0$"),
        ({"amsgrad": True, "eps": float("nan")}, r"^Adam: eps must be finite"),
        ({"amsgrad": "yes"}, r"^Adam: amsgrad must be a bool, got 'yes'$"),
    ],
)
def test_changed_hyperparameters_are_checked(changes: Options, message: str, rng: Generator) -> None:
    params = arrays(rng)
    opt = optim.Adam(params, lr=0.1)
    opt.step(arrays(rng))
    good, before, state = dict(opt.param_groups[0]), copies(params), [dict(one) for one in opt.state]
    opt.param_groups[0].update(changes)
    with pytest.raises((TypeError, ValueError), match=message):
        opt.step(arrays(rng))
    assert all_differing(params, before) == 0
    opt.param_groups[0].update(good)
    assert opt.step([None] * 4).step == 2
    assert [one.keys() for one in opt.state] == [one.keys() for one in state]


@pytest.mark.parametrize("toggled", [{}, {"amsgrad": True}])
def test_a_step_that_fails_changes_nothing(toggled: Options, rng: Generator) -> None:
    """However late the bad gradient comes, and whatever else has changed."""
    params = [*arrays(rng), np.ones(5)]
    opt = optim.Adam([{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1}], lr=0.1)
    good = [*arrays(rng), np.ones(5)]
    opt.step(good)
    opt.param_groups[1].update(toggled)
    before = copies(params)
    state = [{name: array.copy() for name, array in one.items()} for one in opt.state]
    for bad in np.ones(6), np.ones(5, np.float32), np.ones(10)[::2], params[0], params[-1], [1.0] * 5:
        with pytest.raises((TypeError, ValueError), match=r"^Adam: .*\[4\]"):
            opt.step([*good[:-1], bad])
        assert all_differing(params, before) == 0
        assert [one.keys() for one in opt.state] == [one.keys() for one in state]
        assert all(
            differing(opt.state[i][name], array) == 0 for i, one in enumerate(state) for name, array in one.items()
        )
    assert opt.step(good).step == 2
    assert all(one["step"] == 2 for one in opt.state)


def test_a_parameter_that_has_become_read_only_is_an_error() -> None:
    p = np.ones(3)
    opt = optim.SGD([p], lr=0.1)
    p.flags.writeable = False
    with pytest.raises(TypeError, match=r"^SGD: params\[0\] is read-only, but would be written$"):
        opt.step([np.ones(3)])
    assert np.all(p == 1)


# What it looks like


@rules
def test_repr_names_the_class_and_every_hyperparameter(rule: str) -> None:
    opt = RULES[rule].optimizer([np.ones(3), np.ones(2)], lr=0.25)
    assert repr(opt).startswith(f"{type(opt).__name__}(2 parameters, lr=0.25, ")
    assert all(f"{name}=" in repr(opt) for name in opt.defaults)


@rules
def test_groups_hold_every_hyperparameter(rule: str) -> None:
    opt = RULES[rule].optimizer({"w": np.ones(3)}, lr=0.25)
    (group,) = opt.param_groups
    assert group["lr"] == 0.25
    assert group["param_names"] == ["w"]
    assert opt.defaults.keys() == {*RULES[rule].always, *RULES[rule].values}
    assert opt.defaults.keys() <= group.keys()


@rules
def test_unknown_hyperparameters_are_errors(rule: str) -> None:
    make = RULES[rule].optimizer
    with pytest.raises(TypeError, match="speed"):
        make([np.ones(3)], speed=1)
    with pytest.raises(ValueError, match=rf"^{make.__name__}: unknown hyperparameter 'speed'; it has lr, "):
        make([{"params": [np.ones(3)], "speed": 1}])


def test_an_optimizer_keeps_its_parameters_alive() -> None:
    opt = optim.Adam([np.ones(1000) for _ in range(3)], lr=0.1)
    for _ in range(3):
        opt.step([np.ones(1000) for _ in range(3)])
    assert all(np.all(np.abs(p - 0.7) < 1e-6) for p in opt.param_groups[0]["params"])
