"""The optimizer classes: structures of parameters and gradients, groups, changes on the way, state."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, RULES, Array, Options, mixed, of_step, ordinary
from tools import Each, assert_same_bits, differing, every_isa

from fastopt import functional as F
from fastopt import optim
from fastopt._rules import AROUND

rules = pytest.mark.parametrize("rule", RULES)
SHAPES = ((4, 3), (70,), (), (0, 2))


def arrays(rng: Generator, dtype: str = "float32", rule: str = "sgd") -> list[Array]:
    return [np.asarray(a) for a in RULES[rule].arrays(rng, SHAPES, dtype)]


def copies(some: list[Array]) -> list[Array]:
    return [a.copy() for a in some]


def all_differing(some: list[Array], others: list[Array]) -> int:
    return sum(differing(a, b) for a, b in zip(some, others, strict=True))


def some_missing(step: int, grads: list[Array]) -> list[Array | None]:
    return [None if (step + i) % 3 == 0 else g for i, g in enumerate(grads)]


# The step


@rules
def test_a_rule_moves_from_the_step_that_it_says(rule: str, rng: Generator) -> None:
    p, g = RULES[rule].arrays(rng, [(4, 3)] * 2)
    opt = RULES[rule].make([p], {"lr": 0.1})
    moved = []
    for _ in range(3):
        before = p.copy()
        opt.step([g])
        moved.append(differing(p, before) > 0)
    assert moved == [step >= RULES[rule].moves_from for step in (1, 2, 3)]


def assert_steps_are_the_functions(
    rule: str, params: list[Array], grads: list[list[Array | None]], options: Options
) -> None:
    """They agree bit for bit, with each parameter's own count where gradients are missing and steps are skipped."""
    expected = RULES[rule].run(F, params, grads, options)
    params = copies(params)
    opt = RULES[rule].make(params, options)
    counts, taken, results = [0] * len(params), 0, {}
    for step, some in enumerate(grads):
        given = [None if g is None else g.copy() for g in some]
        info = opt.step(given, **of_step(options))
        counts = [count + (g is not None and not info.skipped) for count, g in zip(counts, some, strict=True)]
        taken += not info.skipped
        assert info.step == taken
        assert [one["step"] for one in opt.state] == counts
        results[f"grad_norm at {step}"] = np.array(-1.0 if info.grad_norm is None else info.grad_norm)
        results[f"skipped at {step}"] = np.array(float(info.skipped))
        results |= {f"grads[{i}] at {step}": g for i, g in enumerate(given) if g is not None}
        results |= {f"params[{i}] at {step}": p.copy() for i, p in enumerate(params) if step + 1 < len(grads)}
    results |= {f"params[{i}]": p for i, p in enumerate(params)}
    for i, one in enumerate(opt.state):
        results |= {f"{name}s[{i}]": array for name, array in one.items() if name != "step"}
    assert_same_bits(results, expected)


@rules
def test_step_is_the_functions(rule: str, each: Each, rng: Generator) -> None:
    for options, dtype in each(RULES[rule].combinations, DTYPES, by_day=6):
        grads = [some_missing(step, arrays(rng, dtype, rule)) for step in range(5)]
        assert_steps_are_the_functions(rule, arrays(rng, dtype, rule), grads, options)


@rules
def test_step_is_the_functions_with_what_surrounds_it(rule: str, each: Each) -> None:
    for dtype, seed in each(DTYPES, range(6), by_day=4):
        rng = np.random.default_rng(seed)
        options = RULES[rule].sample(rng, step=True)
        grads = [some_missing(step, arrays(rng, dtype, rule)) for step in range(6)]
        grads[3] = [mixed(rng, g.shape, dtype) for g in arrays(rng, dtype, rule)]
        assert_steps_are_the_functions(rule, arrays(rng, dtype, rule), grads, options)


@rules
def test_step_has_the_same_bits_on_every_instruction_set(rule: str, rng: Generator) -> None:
    params, grads = arrays(rng, rule=rule), [arrays(rng, rule=rule) for _ in range(3)]
    options = RULES[rule].sample(rng, step=True, without=["zero_grads"])
    results = []
    for _ in every_isa():
        results.append(copies(params))
        opt = RULES[rule].make(results[-1], options)
        for some in grads:
            opt.step(some, **of_step(options))
    assert all(all_differing(results[0], other) == 0 for other in results)


@rules
def test_gradients_are_only_read(rule: str, rng: Generator) -> None:
    grads = arrays(rng, rule=rule)
    before = copies(grads)
    for g in grads:
        g.flags.writeable = False
    options = RULES[rule].sample(rng, step=True, without=["zero_grads"])
    RULES[rule].make(arrays(rng, rule=rule), options).step(grads, **of_step(options))
    assert all_differing(grads, before) == 0


@rules
def test_state_is_live_and_parameters_are_the_callers(rule: str, rng: Generator) -> None:
    params = arrays(rng, rule=rule)
    opt = RULES[rule].make(params, RULES[rule].fullest | {"lr": 0.1, "ema_decay": 0.5})
    assert all(a is b for a, b in zip(opt.param_groups[0]["params"], params, strict=True))
    opt.step(arrays(rng, rule=rule))
    held = dict(opt.state[0])
    before = {name: array.copy() for name, array in held.items()}
    opt.step(arrays(rng, rule=rule))
    assert all(opt.state[0][name] is held[name] for name in held)
    assert all(np.any(held[name] != before[name]) for name in held if name not in RULES[rule].numbers)
    held["step"][...] = 41
    opt.step(arrays(rng, rule=rule))
    assert opt.state[0]["step"] == 42


@rules
def test_state_may_be_set_from_outside(rule: str, rng: Generator) -> None:
    """The next step continues from the values that were written into the state."""
    options = RULES[rule].fullest | {"ema_decay": 0.5, "l2_init": 0.1}
    params, grads = (RULES[rule].arrays(rng, [9, (2, 5)], "float64") for _ in range(2))
    opt = RULES[rule].make(params, options)
    for one in opt.state:
        for name in one:
            one[name][...] = 6 if name == "step" else np.abs(ordinary(rng, one[name].shape, "float64"))
    plain, states = copies(params), RULES[rule].new_states(options, params)
    for name in states:
        states[name] = [one[name[:-1]].copy() if name[:-1] in one else None for one in opt.state]
    opt.step(grads)
    RULES[rule].update(F, plain, grads, states, 7, options)
    assert all_differing(params, plain) == 0
    for name, of_params in states.items():
        for one, array in zip(opt.state, of_params, strict=True):
            assert array is None or differing(one[name[:-1]], array) == 0


@rules
def test_state_begins_as_the_function_says(rule: str, rng: Generator) -> None:
    """The function's documentation names the values before step 1."""
    doc = inspect.getdoc(getattr(F, rule)) or ""
    for options in RULES[rule].combinations:
        params = arrays(rng, "float64", rule)
        opt = RULES[rule].make(params, options | {"l2_init": 0.1, "ema_decay": 0.5})
        for p, one in zip(params, opt.state, strict=True):
            assert one.pop("step") == 0
            for name in "initial_param", "ema_param":
                assert differing(one.pop(name), p) == 0
            for name, array in one.items():
                said = re.search(rf"^    {name}s: State ``{name}``, (.*) before step 1; ", doc, re.MULTILINE)
                assert said
                values = {"0": 0.0, "1": 1.0, "the parameter": p}
                values |= {f"``{key}``": value for key, value in opt.param_groups[0].items()}
                value = values[said[1]]
                assert np.array_equal(array, np.broadcast_to(value, array.shape))


def test_norms_are_returned_where_they_are_asked_for(rng: Generator) -> None:
    params, grads = arrays(rng), arrays(rng)
    norm = np.sqrt(sum(np.sum(g.astype(float) ** 2) for g in grads))
    opt = optim.SGD(params, lr=0.1)
    assert opt.step(grads) == (1, None, False)
    for asked in {"clip_norm": 3.0}, {"skip_nonfinite": True}, {"clip_norm": 100.0, "skip_nonfinite": True}:
        info = opt.step(grads, grad_scale=2.0, **asked)  # type: ignore[arg-type]
        np.testing.assert_allclose(info.grad_norm, norm / 2, rtol=1e-12)
        assert not info.skipped
    for other in {"clip_value": 3.0}, {"clip_param_norm": 3.0}, {"clip_adaptive": 3.0}, {"grad_scale": 3.0}:
        assert opt.step(grads, **other).grad_norm is None  # type: ignore[arg-type]
    assert opt.step([None] * 4, clip_norm=1.0) == (9, 0.0, False)


@rules
def test_a_skipped_step_counts_nowhere(rule: str, each: Each, rng: Generator) -> None:
    for value in each([np.inf, -np.inf, np.nan]):
        options = RULES[rule].fullest | {"ema_decay": 0.5, "noise": 0.1}
        params, grads = arrays(rng, rule=rule), arrays(rng, rule=rule)
        opt = RULES[rule].make(params, options)
        opt.step(grads, skip_nonfinite=True)
        before, state = copies(params), [{name: array.copy() for name, array in one.items()} for one in opt.state]
        bad = copies(grads)
        bad[1].flat[5] = value
        info = opt.step(bad, skip_nonfinite=True, zero_grads=True)
        assert (info.step, info.skipped, np.isfinite(info.grad_norm or 0)) == (1, True, False)
        assert not any(np.any(g) for g in bad)
        assert all_differing(params, before) == 0
        for one, other in zip(opt.state, state, strict=True):
            assert_same_bits(one, other)
        again = RULES[rule].make(before, options)
        again.load_state_dict({"state": dict(enumerate(state)), "param_groups": opt.state_dict()["param_groups"]})
        assert opt.step(grads, skip_nonfinite=True)[2] is again.step(grads)[2] is False
        assert all_differing(params, before) == 0


# Structures


def flat(params: list[Array]) -> Any:
    return params


def named(params: list[Array]) -> Any:
    return {f"p{i}": p for i, p in enumerate(params)}


def groups(params: list[Array]) -> Any:
    return [{"params": params[:1]}, {"params": params[1:]}]


def named_groups(params: list[Array]) -> Any:
    return [{"params": named(params[:2])}, {"params": params[2:]}]


def all_named_groups(params: list[Array]) -> Any:
    return [{"params": {"a": params[0], "b": [params[1]]}}, {"params": {"c": {"d": params[2]}, "e": params[3]}}]


def nested(params: list[Array]) -> Any:
    return {"first": {"weight": params[0], "bias": params[1]}, "others": [params[2], (params[3],)]}


def listed(params: list[Array]) -> Any:
    return [(params[0], params[1]), {"c": params[2], "d": params[3]}]


STRUCTURES: Any = [
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
    (all_named_groups, lambda g: [one["params"] for one in all_named_groups(g)]),
    (all_named_groups, lambda g: g),
    (all_named_groups, lambda g: {"e": g[3], "a": g[0], "c": {"d": g[2]}, "b": (g[1],)}),
    (nested, nested),
    (nested, lambda g: {"others": (g[2], [g[3]]), "first": nested(g)["first"]}),
    (listed, listed),
    (listed, lambda g: ([g[0], g[1]], {"d": g[3], "c": g[2]})),
]


@rules
def test_structures_mean_the_same(rule: str, each: Each, rng: Generator) -> None:
    for structure, grads_like in each(STRUCTURES, by_day=6):
        params, grads = arrays(rng, rule=rule), [arrays(rng, rule=rule) for _ in range(3)]
        plain = copies(params)
        opt, ref = RULES[rule].optimizer(structure(params), lr=0.1), RULES[rule].optimizer(plain, lr=0.1)
        for some in grads:
            opt.step(grads_like(some))
            ref.step(some)
        assert all_differing(params, plain) == 0


@pytest.mark.parametrize(
    ("structure", "grads"),
    [
        (nested, {"first": None, "others": [None, [None]]}),
        (nested, {"first": {"weight": None, "bias": None}, "others": None}),
        (nested, {"first": None, "others": (None, None)}),
        (listed, [None, None]),
        (groups, [[None], [None, None, None]]),
        (groups, [None] * 4),
        (groups, [None, [None] * 3]),
        (groups, [None, None]),
        (all_named_groups, [None, None]),
        (all_named_groups, {"a": None, "b": [None], "c": {"d": None}, "e": None}),
        (all_named_groups, [{"a": None, "b": None}, {"c": None, "e": None}]),
        (named, [None] * 4),
        (nested, [None] * 4),
    ],
)
def test_none_stands_for_a_whole_part(structure: Callable[[Any], Any], grads: Any, rng: Generator) -> None:
    params = arrays(rng)
    before = copies(params)
    opt = optim.SGD(structure(params), lr=0.1, momentum=0.9)
    for count in range(1, 4):  # the second list of a kind may take a shorter way
        assert opt.step(grads).step == count
    assert all_differing(params, before) == 0
    assert all(one["step"] == 0 for one in opt.state)


@pytest.mark.parametrize("structure", [flat, named, nested, groups, named_groups, all_named_groups])
def test_a_flat_list_fits_every_structure(structure: Callable[[Any], Any], rng: Generator) -> None:
    """``flatten`` makes one of gradients in any structure."""
    params = arrays(rng)
    opt = optim.SGD(structure(params), lr=1.0)
    grads = [one.copy() for group in opt.param_groups for one in group["params"]]
    assert all(a is b for a, b in zip(opt.flatten(grads), grads, strict=True))
    opt.step(grads)
    assert all((one == 0).all() for one in params)


@pytest.mark.parametrize(
    ("structure", "grads", "error", "message"),
    [
        (flat, [], ValueError, r"^SGD: grads has 0 entries, expected 4, one for each parameter$"),
        (flat, [None] * 5, ValueError, r"^SGD: grads has 5 entries, expected 4"),
        (flat, {"p0": None}, TypeError, r"^SGD: grads must be a list like params, got dict$"),
        (flat, None, ValueError, r"^SGD: grads is missing, and accumulate has added none$"),
        (flat, [[None] * 4], ValueError, r"^SGD: grads has 1 entries, expected 4"),
        (named, [None] * 3, TypeError, r"^SGD: grads must be a dict like params, got list$"),
        (named, {"p0": None, "x": None}, ValueError, r"missing: 'p1', 'p2', 'p3', unknown: 'x'$"),
        (groups, [[None], [None]], ValueError, r"^SGD: grads has 1 entries, expected 3"),
        (
            groups,
            [None] * 3,
            ValueError,
            r"^SGD: grads has 3 entries, expected 4, one for each parameter, or 2: the list or dict of each group, or None$",
        ),
        (groups, [[None]], ValueError, r"^SGD: grads has 1 lists, expected 2, one for each group$"),
        (
            groups,
            {"p0": None},
            TypeError,
            r"^SGD: grads must be a list with one list for each group, or a flat list, got dict$",
        ),
        (named_groups, [[None] * 3, [None] * 2], TypeError, r"^SGD: grads must be a dict like params, got list$"),
        (
            named_groups,
            {"p0": None},
            TypeError,
            r"^SGD: grads must be a list with one list for each group, or a flat list",
        ),
        (all_named_groups, {"a": None}, ValueError, r"missing: 'b', 'c', 'e'$"),
        (nested, [None, None], TypeError, r"^SGD: grads must be a dict like params, got list$"),
        (
            nested,
            {"first": [None] * 2, "others": None},
            TypeError,
            r"^SGD: grads\['first'\] must be a dict like params",
        ),
        (
            nested,
            {"first": None, "others": {}},
            TypeError,
            r"^SGD: grads\['others'\] must be a list like params, got dict$",
        ),
        (nested, {"first": None, "others": [None]}, ValueError, r"^SGD: grads\['others'\] has 1 entries, expected 2"),
        (
            nested,
            {"first": {"weight": None}, "others": None},
            ValueError,
            r"^SGD: grads\['first'\] must have the keys of params; missing: 'bias'$",
        ),
        (
            nested,
            {"first": None, "others": [None, 3]},
            TypeError,
            r"^SGD: grads\['others'\]\[1\] must be a list like params",
        ),
        (
            nested,
            {"first": None, "others": [3, None]},
            TypeError,
            r"^SGD: grads\['others'\]\[0\] must be a numpy array",
        ),
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
    good = {named: dict.fromkeys(named(params)), nested: {"first": None, "others": None}}
    assert opt.step(good.get(structure, [None] * 4)).step == 1


def test_errors_name_parameters_as_the_caller_does(rng: Generator) -> None:
    bad = [np.ones(3, np.float32)] * 4
    with pytest.raises(ValueError, match=r"^SGD: grads\['p0'\] has shape"):
        optim.SGD(named(arrays(rng))).step(named(bad))
    with pytest.raises(ValueError, match=r"^SGD: grads\[2\] has shape"):
        optim.SGD(groups(arrays(rng))).step([None, None, *bad[2:]])
    with pytest.raises(ValueError, match=r"^SGD: grads\['others'\]\[1\]\[0\] has shape"):
        optim.SGD(nested(arrays(rng))).step({"first": None, "others": [None, bad[:1]]})
    with pytest.raises(TypeError, match=r"^SGD: params\['first'\]\['bias'\] must be a numpy array, got int$"):
        optim.SGD(nested([*arrays(rng)[:1], 3, *arrays(rng)[2:]]))  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^SGD: params\['first'\] must have strings as keys, got 1$"):
        optim.SGD({"first": {1: np.ones(3)}})


# Groups


@rules
def test_groups_have_their_own_hyperparameters(rule: str, rng: Generator) -> None:
    params, grads = arrays(rng, rule=rule), [arrays(rng, rule=rule) for _ in range(3)]
    plain = copies(params)
    opt = RULES[rule].optimizer(
        [{"params": params[:1], "lr": 0.5}, {"params": params[1:], "weight_decay": 0.3, "l1": 0.1}], lr=0.1
    )
    first = RULES[rule].optimizer(plain[:1], lr=0.5)
    second = RULES[rule].optimizer(plain[1:], lr=0.1, weight_decay=0.3, l1=0.1)
    for some in grads:
        opt.step(some)
        first.step(some[:1])
        second.step(some[1:])
    assert all_differing(params, plain) == 0


@rules
def test_groups_may_have_any_options(rule: str, each: Each) -> None:
    """Each group has its own variant of the rule and its own options around it, except noise, which depends on a
    parameter's number.
    """
    for seed in each(range(3), by_day=1):
        rng = np.random.default_rng(seed)
        params, grads = arrays(rng, rule=rule), [arrays(rng, rule=rule) for _ in range(3)]
        plain = copies(params)
        some, other = (RULES[rule].sample(rng, without=["noise", "temperature"]) for _ in range(2))
        opt = RULES[rule].optimizer([{"params": params[:2], **some}, {"params": params[2:], **other}])
        first, second = RULES[rule].make(plain[:2], some), RULES[rule].make(plain[2:], other)
        for step in grads:
            opt.step(step)
            first.step(step[:2])
            second.step(step[2:])
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
    params = [RULES[rule].arrays(rng, [30], dtype)[0] for dtype in ("float32", "float64", "float32")]
    grads = [[ordinary(rng, p.shape, p.dtype.name) for p in params] for _ in range(3)]
    plain = copies(params)
    opt, alone = RULES[rule].optimizer(params, lr=0.1), [RULES[rule].optimizer([p], lr=0.1) for p in plain]
    for some in grads:
        opt.step(some)
        for one, g in zip(alone, some, strict=True):
            one.step([g])
    assert all_differing(params, plain) == 0


@rules
def test_a_group_may_be_added_between_steps(rule: str, rng: Generator) -> None:
    params, grads = arrays(rng, rule=rule), [arrays(rng, rule=rule) for _ in range(4)]
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
            r"^Adam: there is no momentum; did you mean betas \(the first is the momentum\)\?$",
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


# Changes during a run


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        *((rule, {}, {"lr": 0.01, "weight_decay": 0.1}) for rule in RULES),
        *((rule, {"l1": 0.1, "ema_decay": 0.9}, {"maximize": True, "l1": 0.0, "ema_decay": 0.3}) for rule in RULES),
        ("sgd", {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.0}, {"maximize": True, "weight_decay": 0.1, "l1": 0.01}),
        ("sgd", {"momentum": 0.9, "velocity": True}, {"lr": 0.01}),
        ("adam", {"betas": (0.9, 0.99)}, {"betas": (0.8, 0.9), "eps": 1e-3}),
        ("adam", {"eps_hat": False}, {"eps_hat": True}),
        ("adam", {"amsgrad": True}, {"amsgrad": False}),
        ("adam", {"weight_decay": 0.1}, {"decoupled_weight_decay": True}),
        ("adamw", {"weight_decay": 0.0}, {"weight_decay": 0.5, "maximize": True}),
        ("rmsprop", {"momentum": 0.9, "centered": True}, {"momentum": 0.0}),
        ("lamb", {"weight_decay": 0.1}, {"decoupled_weight_decay": True}),
    ],
)
def test_changed_hyperparameters_hold_from_the_next_step(
    rule: str, before: Options, after: Options, rng: Generator
) -> None:
    options = RULES[rule].plain | before
    (p,) = RULES[rule].arrays(rng, [40], "float64")
    plain = p.copy()
    states = RULES[rule].new_states(options, [plain])
    opt = RULES[rule].make([p], options)
    for step in range(1, 7):
        if step == 4:
            opt.param_groups[0].update(after)
            options |= after
            states = {name: states[name] for name in RULES[rule].new_states(options, [plain])}
        g = ordinary(rng, p.shape, "float64")
        opt.step([g])
        RULES[rule].update(F, [plain], [g], states, step, options)
    assert differing(p, plain) == 0


def test_momentum_that_is_switched_on_begins_with_a_first_step(rng: Generator) -> None:
    """As in torch, the buffer becomes the gradient, undampened."""
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
    """A list that is changed in place counts at the next step."""
    betas = [0.9, 0.99]
    opt = optim.Adam([np.ones(3)], lr=0.1, betas=betas)  # type: ignore[arg-type]
    opt.step([np.ones(3)])
    betas[0] = 1.5
    with pytest.raises(ValueError, match="beta1 must be in"):
        opt.step([np.ones(3)])


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
    """This holds however late the bad gradient comes, and whatever else has changed."""
    params = [*arrays(rng), np.ones(5)]
    opt = optim.Adam([{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1}], lr=0.1)
    good = [*arrays(rng), np.ones(5)]
    opt.step(good)
    opt.param_groups[1].update(toggled)
    before = copies(params)
    state = [{name: array.copy() for name, array in one.items()} for one in opt.state]
    for bad in np.ones(6), np.ones(5, np.float32), params[0], params[-1], [1.0] * 5:
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
    with pytest.raises(TypeError, match=r"^SGD: params\[0\] is read-only, but would be written; give a copy$"):
        opt.step([np.ones(3)])
    assert np.all(p == 1)


# The repr


@rules
def test_repr_names_the_class_and_its_hyperparameters(rule: str) -> None:
    """It shows the rule's own hyperparameters, and the options of all rules that differ from their defaults."""
    params = RULES[rule].arrays(np.random.default_rng(0), [3, 2], "float64")
    opt = RULES[rule].optimizer(params, lr=0.25)
    assert repr(opt).startswith(f"{type(opt).__name__}(2 parameters, lr=0.25, ")
    assert all(f"{name}={opt.defaults[name]!r}" in repr(opt) for name in RULES[rule].own)
    assert "l1=" not in repr(opt)
    assert "l1=0.5" in repr(RULES[rule].optimizer(params, lr=0.25, l1=0.5))


def test_repr_shows_the_groups_as_they_are() -> None:
    opt = optim.SGD([{"params": [np.ones(2)]}, {"params": [np.ones(3)], "lr": 0.5}], lr=0.1)
    assert repr(opt).startswith("SGD(2 parameters in 2 groups, lr=[0.1, 0.5], momentum=0.0, ")
    for group in opt.param_groups:
        group.update(lr=0.25, l2_init=np.float64(0.5))
    opt.param_groups[1]["momentum"] = np.array([1, 2])
    assert repr(opt).startswith("SGD(2 parameters in 2 groups, lr=0.25, momentum=[0.0, array([1, 2])], ")
    assert "l2_init=np.float64(0.5)" in repr(opt)
    del opt.param_groups[0]["momentum"]
    assert "momentum=[None, array([1, 2])]" in repr(opt)


def test_tensors_are_refused_with_the_way_to_an_array() -> None:
    class Tensor:
        def numpy(self) -> np.ndarray[Any, Any]:
            return np.ones(3)

    hint = r"must be a numpy array, got Tensor: give its .numpy\(\), which shares its memory$"
    p, t = np.ones(3), Tensor()
    opt = optim.SGD([p], lr=0.1)
    for name, call in {
        r"SGD: params\[0\]": lambda: optim.SGD([t]),
        r"SGD: grads\[0\]": lambda: opt.step([t]),
        r"sgd: params\[0\]": lambda: F.sgd([t], [p], step=1, lr=0.1),
        r"sgd: grads\[0\]": lambda: F.sgd([p], [t], step=1, lr=0.1),
        r"layer_norm: x": lambda: F.layer_norm(t, 3),
    }.items():
        with pytest.raises(TypeError, match=f"^{name} {hint}"):
            call()
    opt.param_groups[0]["params"][0] = t
    with pytest.raises(TypeError, match=r"^SGD: params\[0\] " + hint):
        opt.step([p])


@rules
def test_groups_hold_every_hyperparameter(rule: str) -> None:
    opt = RULES[rule].optimizer({"w": np.ones(RULES[rule].fit(3))}, lr=0.25)
    (group,) = opt.param_groups
    assert group["lr"] == 0.25
    assert group["param_names"] == ["w"]
    assert opt.defaults.keys() == {*RULES[rule].own, *AROUND}
    assert opt.defaults.keys() <= group.keys()
    assert all(opt.defaults[name] == default for name, default in RULES[rule].own.items() if name != "lr")


@rules
def test_unknown_hyperparameters_are_errors(rule: str) -> None:
    make = RULES[rule].optimizer
    p = np.ones(RULES[rule].fit(3))
    with pytest.raises(TypeError, match=rf"^{make.__name__}: there is no speed; did you mean seed\?$"):
        make([p], speed=1)
    with pytest.raises(ValueError, match=rf"^{make.__name__}: there is no speed; did you mean seed\?$"):
        make([{"params": [p], "speed": 1}])
    with pytest.raises(TypeError, match=rf"^{make.__name__}: unknown hyperparameter 'quickness'; it has lr, "):
        make([p], quickness=1)


def test_an_optimizer_keeps_its_parameters_alive() -> None:
    opt = optim.Adam([np.ones(1000) for _ in range(3)], lr=0.1)
    for _ in range(3):
        opt.step([np.ones(1000) for _ in range(3)])
    assert all(np.all(np.abs(p - 0.7) < 1e-6) for p in opt.param_groups[0]["params"])
