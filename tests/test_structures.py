"""Structures of parameters and gradients, groups with their own structures, and parameters without decay."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import CLASSES, SCHEDULE_FREE, Array, Options, ordinary
from tools import bits, copies, everything, leaves

from fastopt import optim

LR = 0.05

classes = pytest.mark.parametrize("name", CLASSES)

# Structures


def tree(some: Sequence[Any]) -> Any:
    """Four matrices in dicts, lists and tuples."""
    return {"encoder": {"layers": [{"w": some[0]}, {"w": some[1]}]}, "head": (some[2], {"w": some[3]})}


def four(rng: Generator) -> list[Array]:
    return [ordinary(rng, shape) for shape in ((3, 4), (4, 4), (2, 5), (5, 3))]


@classes
def test_nested_structures_mean_the_same(name: str, rng: Generator) -> None:
    params = four(rng)
    twins, named = copies(params), copies(params)
    opt, plain = CLASSES[name](tree(params), lr=LR), CLASSES[name](twins, lr=LR)
    listed = CLASSES[name](list(tree(named).values()), lr=LR)
    steps: list[list[Array | None]] = [
        [*four(rng)],
        [None, None, *four(rng)[2:]],
        [*four(rng)[:2], None, None],
        [None, *four(rng)[1:3], None],
        [None] * 4,
    ]
    for grads in steps:
        nested = tree(grads)
        if grads[0] is grads[1] is None:
            nested["encoder"] = None  # None for a whole part
        if grads[2] is grads[3] is None:
            nested["head"] = None
        assert opt.step(nested).step == plain.step(grads).step == listed.step(list(nested.values())).step
    assert bits(params) == bits(twins) == bits(named)
    assert opt.param_groups[0]["param_names"] == ["encoder.layers.0.w", "encoder.layers.1.w", "head.0", "head.1.w"]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda g: None, ValueError, "grads is missing"),
        (lambda g: [g["encoder"], g["head"]], TypeError, r"grads must be a dict like params, got list"),
        (
            lambda g: {"encoder": g["encoder"]},
            ValueError,
            r"grads must have the keys of params; missing: 'head'$",
        ),
        (
            lambda g: {**g, "tail": None},
            ValueError,
            r"grads must have the keys of params; unknown: 'tail'",
        ),
        (
            lambda g: {**g, "encoder": {}},
            ValueError,
            r"grads\['encoder'\] must have the keys of params; missing: 'layers'",
        ),
        (
            lambda g: {**g, "encoder": {"layers": {"w": None}}},
            TypeError,
            r"grads\['encoder'\]\['layers'\] must be a list like params, got dict",
        ),
        (
            lambda g: {**g, "encoder": {"layers": [None]}},
            ValueError,
            r"grads\['encoder'\]\['layers'\] has 1 entries, expected 2",
        ),
        (lambda g: {**g, "head": g["head"][0]}, TypeError, r"grads\['head'\] must be a list like params, got ndarray"),
        (
            lambda g: {**g, "head": [None, [None]]},
            TypeError,
            r"grads\['head'\]\[1\] must be a dict like params, got list",
        ),
        (
            lambda g: {**g, "head": [None, {"w": {"w": None}}]},
            TypeError,
            r"grads\['head'\]\[1\]\['w'\] must be a numpy array, got dict",
        ),
        (
            lambda g: {**g, "head": [None, {"w": np.ones(3)}]},
            ValueError,
            r"grads\['head'\]\[1\]\['w'\] has shape \(3,\), expected \(5, 3\)",
        ),
    ],
)
@pytest.mark.parametrize("act", ["step", "accumulate"])
def test_other_nested_structures_are_errors(
    act: str, wrong: Callable[[Any], Any], error: type[Exception], message: str, rng: Generator
) -> None:
    opt = optim.SGD(tree(four(rng)), lr=LR)
    before = everything(opt)
    grads = wrong(tree(four(rng)))
    if grads is None and act == "accumulate":
        error, message = TypeError, "grads must be a dict like params, got None"
    with pytest.raises(error, match=rf"^SGD: {message}"):
        getattr(opt, act)(grads)
    assert everything(opt) == before
    opt.state_dict()  # raises if anything has been accumulated


def test_structures_of_parameters_that_make_no_sense_are_errors() -> None:
    for params, error, message in (
        ({3: np.ones(2)}, TypeError, r"params must have strings as keys, got 3"),
        ({"a": {3: np.ones(2)}}, TypeError, r"params\['a'\] must have strings as keys, got 3"),
        ({"a": None}, TypeError, r"params\['a'\] must be a numpy array, got None"),
        ({"a": [np.ones(2), 3.0]}, TypeError, r"params\['a'\]\[1\] must be a numpy array, got float"),
        ([[np.ones(2)], {"w": "x"}], TypeError, r"params\[1\]\['w'\] must be a numpy array, got str"),
        (np.ones(3), TypeError, r"params must be a list"),
    ):
        with pytest.raises(error, match=rf"^SGD: {message}"):
            optim.SGD(params)


@classes
def test_groups_have_hyperparameters_around_the_rule_of_their_own(name: str, rng: Generator) -> None:
    params = [ordinary(rng, (4, 5)), ordinary(rng, (3, 3)), ordinary(rng, (2, 6))]
    twins = copies(params)
    arounds: list[Options] = [{"l1": 0.1, "maximize": True}, {"ema_decay": 0.5, "lr": 0.1}, {"l2_init": 0.3, "l1": 0.1}]
    opt = CLASSES[name]([{"params": [p], **around} for p, around in zip(params, arounds, strict=True)], lr=LR)
    alone = [CLASSES[name]([p], **{"lr": LR, **around}) for p, around in zip(twins, arounds, strict=True)]
    for _ in range(3):
        grads = [ordinary(rng, p.shape) for p in params]
        opt.step([[g] for g in grads])
        for one, g in zip(alone, grads, strict=True):
            one.step([g])
    assert bits(params) == bits(twins)
    assert opt.state[1]["ema_param"].tobytes() == alone[1].state[0]["ema_param"].tobytes()


# Without decay


def decayed(params: Any, opt: Any, grads: Any) -> list[bool]:
    """Whether each parameter changes in two steps; in schedule-free rules the first step brings y back to z."""
    before = copies(leaves(params))
    for _ in range(2):
        opt.step(grads)
    return [bool(np.max(np.abs(b - a)) > 1e-3) for b, a in zip(before, leaves(params), strict=True)]


@classes
def test_no_decay_of_lists_and_dicts(name: str) -> None:
    """Vectors are not decayed; gradients come as they would without groups."""
    shapes = ((2, 3), (3, 2)) if name == "Muon" else ((2, 3), (3,), (2, 2), ())
    names = [f"p{i}" for i in range(len(shapes))]
    rule = (lambda key, p: key in ("1", "p1")) if name == "Muon" else None
    expected = [True, False] if name == "Muon" else [True, False, True, False]
    options = {"lr": 0.1, "weight_decay": 0.5}
    if name not in SCHEDULE_FREE:
        options["decoupled_weight_decay"] = True
    for named in False, True:
        params, grads = ([make(shape) for shape in shapes] for make in (np.ones, np.zeros))
        of_params: Any = dict(zip(names, params, strict=True)) if named else params
        of_grads: Any = dict(zip(names, grads, strict=True)) if named else grads
        opt = CLASSES[name](optim.no_decay(of_params, rule), **options)
        assert decayed(of_params, opt, of_grads) == expected
        with_decay, without = opt.param_groups  # two in all, however the parameters alternate
        for group, wanted in (with_decay, True), (without, False):
            own = [i for i, decay in enumerate(expected) if decay is wanted]
            assert [*map(id, group["params"])] == [id(params[i]) for i in own]
            assert group.get("param_names") == ([names[i] for i in own] if named else None)
        assert (without["weight_decay"], without["l1"]) == (0.0, 0.0)


def test_no_decay_of_nested_structures_by_a_rule(rng: Generator) -> None:
    layers = tree(four(rng))
    seen: list[tuple[str, tuple[int, ...]]] = []

    def rule(name: str, param: Array) -> bool:
        seen.append((name, param.shape))
        return name.startswith("head")

    opt = optim.AdamW(optim.no_decay(layers, rule), lr=0.1, weight_decay=0.5)
    assert seen == [
        ("encoder.layers.0.w", (3, 4)),
        ("encoder.layers.1.w", (4, 4)),
        ("head.0", (2, 5)),
        ("head.1.w", (5, 3)),
    ]
    zeros = tree([np.zeros_like(p) for p in leaves(layers)])
    assert decayed(layers, opt, zeros) == [True, True, False, False]
    zeros["head"][1]["w"] = np.ones((5, 3))
    zeros["encoder"] = {"layers": [{"w": None}, {"w": np.zeros((4, 4))}]}
    assert decayed(layers, opt, zeros) == [False, True, False, True]
    with pytest.raises(ValueError, match=r"^AdamW: grads must have the keys of params; missing: 'head'$"):
        opt.step({"encoder": zeros["encoder"]})


def test_no_decay_takes_none_for_a_whole_part(rng: Generator) -> None:
    """None works in the same way without no_decay."""
    layers = tree(four(rng))
    opt = optim.AdamW(optim.no_decay(layers), lr=0.1, weight_decay=0.5)
    zeros = tree([np.zeros_like(p) for p in leaves(layers)])
    zeros["encoder"] = None
    assert decayed(layers, opt, zeros) == [False, False, True, True]


def test_no_decay_of_a_list_of_dicts() -> None:
    """The gradients of such a list are a list of dicts."""
    layers = [{"w": np.ones((2, 2)), "b": np.ones(2)} for _ in range(2)]
    opt = optim.AdamW(optim.no_decay(layers), lr=0.1, weight_decay=0.5)
    grads = [{"w": np.zeros((2, 2)), "b": np.zeros(2)} for _ in range(2)]
    assert decayed(layers, opt, grads) == [True, False, True, False]


def test_no_decay_loses_no_parameter_whose_names_meet() -> None:
    """Two parameters are both called a.b."""
    layers = {"a.b": np.ones((2, 2)), "a": {"b": np.ones((2, 2))}}
    try:
        groups = optim.no_decay(layers)
    except ValueError as error:
        assert "a.b" in str(error)  # noqa: PT017
    else:
        assert len([p for group in groups for p in leaves(group["params"])]) == 2


def test_no_decay_exempts_from_l1() -> None:
    w, b = np.ones((2, 2)), np.ones(2)
    opt = optim.SGD(optim.no_decay([w, b]), lr=0.5, l1=0.5)
    opt.step([np.zeros((2, 2)), np.zeros(2)])
    assert (w == 0.75).all() and (b == 1).all()


def test_no_decay_of_parameters_that_are_all_alike() -> None:
    for params, decay in (([np.ones((2, 2))] * 1, 0.5), ([np.ones(2), np.ones(3)], 0.0)):
        opt = optim.SGD(optim.no_decay(params), lr=0.5, weight_decay=0.5)
        (group,) = opt.param_groups
        assert group["weight_decay"] == decay and len(group["params"]) == len(params)
        opt.step([np.zeros_like(p) for p in params])


def layers_of(rng: Generator, count: int = 3) -> list[dict[str, Array]]:
    return [{"w": ordinary(rng, (3, 3)), "b": ordinary(rng, (3,))} for _ in range(count)]


STRUCTURES: dict[str, Callable[[list[dict[str, Array]]], Any]] = {
    "list": lambda layers: [p for layer in layers for p in layer.values()],
    "dict": lambda layers: {f"{key}{i}": p for i, layer in enumerate(layers) for key, p in layer.items()},
    "list of dicts": lambda layers: layers,
    "dict of dicts": lambda layers: {f"layer{i}": layer for i, layer in enumerate(layers)},
}


@pytest.mark.parametrize("how", ["add_param_group", "beside", "both added"])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_groups_after_no_decay(kind: str, how: str, rng: Generator) -> None:
    """Gradients come in the structure of the first parameters, then that of the new ones; or flat; also after a pickle."""
    build = STRUCTURES[kind]
    layers, head = layers_of(rng), {"head": ordinary(rng, (3, 2)), "head_bias": ordinary(rng, (2,))}
    twins = copies([p for layer in layers for p in layer.values()] + [*head.values()])
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "ema_decay": 0.5}
    plain = optim.SGD(
        [{"params": twins[0:6:2], "weight_decay": 0.5}, {"params": [*twins[1:6:2], *twins[6:]]}], **options
    )
    more = {"params": head, "weight_decay": 0.0}
    if how == "beside":
        opt = optim.SGD([*optim.no_decay(build(layers)), more], weight_decay=0.5, **options)
    elif how == "add_param_group":
        opt = optim.SGD(optim.no_decay(build(layers)), weight_decay=0.5, **options)
        opt.add_param_group(more)
    else:
        first, second = copy.deepcopy(optim.no_decay(build(layers)))
        opt = optim.SGD([first], weight_decay=0.5, **options)
        opt.add_param_group(second)
        opt.add_param_group(more)
    assert len(opt.param_groups) == 3

    for step in range(6):
        grads, of_head = layers_of(rng), {key: ordinary(rng, p.shape) for key, p in head.items()}
        flat = [g for layer in grads for g in layer.values()] + [*of_head.values()]
        if step == 3:  # pickles know the structure
            opt = pickle.loads(pickle.dumps(opt))
        if step in (0, 3):
            opt.step([build(grads), of_head])
        elif step in (1, 4):
            opt.step(flat)
        elif kind.startswith("dict"):
            opt.step({**build(grads), **of_head})
        else:
            opt.accumulate([build(grads), of_head])
            opt.step()
        plain.step([flat[0:6:2], [*flat[1:6:2], *flat[6:]]])
    found = [p for group in opt.param_groups for p in group["params"]]
    same(found, [*twins[0:6:2], *twins[1:6:2], *twins[6:]])
    averages = opt.ema_params
    same(leaves(averages[0]), leaves(build(layers_from([leaf for group in plain.ema_params for leaf in group]))))
    same([*averages[1].values()], plain.ema_params[1][3:])


def same(some: list[Array], others: list[Array]) -> None:
    assert bits(some) == bits(others)


def layers_from(averages: list[Array]) -> list[dict[str, Array]]:
    """Of three weights, three biases and others."""
    return [{"w": averages[i], "b": averages[3 + i]} for i in range(3)]


@pytest.mark.parametrize("kind", STRUCTURES)
def test_averages_after_no_decay_have_the_structure_of_params(kind: str, rng: Generator) -> None:
    build, layers = STRUCTURES[kind], layers_of(rng)
    opt = optim.SGD(optim.no_decay(build(layers)), lr=0.1, ema_decay=0.0)
    opt.step(build(layers_of(rng)))
    assert type(opt.ema_params) is type(build(layers))
    same(leaves(opt.ema_params), leaves(build(layers)))
    same(leaves(pickle.loads(pickle.dumps(opt)).ema_params), leaves(build(layers)))


def test_errors_after_no_decay_name_the_callers_key(rng: Generator) -> None:
    """A parameter is where the caller put it, not where the groups have it."""
    names = {
        "list": ("[3]", "[3]"),
        "dict": ("['b1']", "['b1']"),
        "list of dicts": ("[1]['b']", "[1]['b']"),
        "dict of dicts": ("['layer1']['b']", "['layer1']['b']"),
    }
    for kind, (of_param, of_grad) in names.items():
        build = STRUCTURES[kind]
        layers = layers_of(rng)
        for opt in (
            (one := optim.SGD(optim.no_decay(build(layers)), lr=0.1)),
            pickle.loads(pickle.dumps(one)),
        ):
            grads = layers_of(rng)
            grads[1]["b"] = np.ones(4)
            with pytest.raises(ValueError, match=re.escape(f"SGD: grads{of_grad} has shape (4,), expected (3,)")):
                opt.step(build(grads))
        layers[1]["b"] = np.ones(3, np.int64)
        with pytest.raises(TypeError, match=re.escape(f"SGD: params{of_param} has dtype int64")):
            optim.SGD(optim.no_decay(build(layers)), lr=0.1)
        layers[1]["b"] = layers[0]["w"][0]
        with pytest.raises(ValueError, match=rf"would be written, but overlaps params{re.escape(of_param)}"):
            optim.SGD(optim.no_decay(build(layers)), lr=0.1)


def test_several_results_of_no_decay(rng: Generator) -> None:
    """Each counts as one group, wherever it is; what is not complete is a group like others."""
    first, second, alone = (layers_of(rng, 2) for _ in range(3))
    opt = optim.SGD([{"params": alone[0]}, *optim.no_decay(first), *optim.no_decay(second)], lr=1.0)
    opt.add_param_group(optim.no_decay(alone[1])[0])
    every = [alone[0], first, second, [alone[1]["w"]]]
    before = copies(leaves(every))
    opt.step(copy.deepcopy(every))  # gradients like the weights
    assert not any(p.any() for p in leaves(every)) and all(p.any() for p in before)
    assert alone[1]["b"].any()


def test_a_group_that_is_removed_ends_the_structure_of_no_decay(rng: Generator) -> None:
    """Gradients come in groups then."""
    opt = optim.SGD(optim.no_decay(layers_of(rng)), lr=0.1)
    del opt.param_groups[1]
    opt.step([[np.ones((3, 3))] * 3])
