"""The stateless layer: updates, results, and the arrays that they are written to."""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import (
    DTYPES,
    EVERY_DTYPE,
    LAYOUTS,
    LIKE_WEIGHT,
    LIKE_X,
    NORMS,
    RESULTS,
    RULES,
    SURROUNDINGS,
    Array,
    Call,
    computed,
    ordinary,
    parameters,
)
from tools import Each, differing

from fastopt import _core, reference
from fastopt import functional as F
from fastopt.functional import _generate

dtypes = pytest.mark.parametrize("dtype", DTYPES)
rules = pytest.mark.parametrize("rule", RULES)
norms = pytest.mark.parametrize("norm", NORMS)
every_dtype = pytest.mark.parametrize("dtype", EVERY_DTYPE)


# Optimizers


@rules
def test_each_parameter_may_take_a_step_of_its_own(rule: str, each: Each, rng: Generator) -> None:
    """The step has the same result as alone, except for noise, which depends on the parameter's number."""
    for dtype in each(DTYPES, by_day=1):
        for options in RULES[rule].fullest, RULES[rule].sample(rng, without=["noise", "temperature"]):
            params, grads = (RULES[rule].arrays(rng, [20, (3, 4), 20], dtype) for _ in range(2))
            states = RULES[rule].new_states(options, params)
            for array in (array for of_params in states.values() for array in of_params if array is not None):
                array[...] = np.abs(ordinary(rng, array.shape, array.dtype.name))
            before = copy.deepcopy((params, states))
            steps = (1, 7, 1_000_000)
            RULES[rule].update(F, params, grads, states, steps, options)
            for i, step in enumerate(steps):
                p, alone = before[0][i], {name: [of_params[i]] for name, of_params in before[1].items()}
                RULES[rule].update(F, [p], [grads[i]], alone, step, options)
                assert differing(params[i], p) == 0
                for name, (array,) in alone.items():
                    assert array is None or differing(states[name][i], array) == 0


@rules
def test_the_kinds_of_sequences_make_no_difference(rule: str, rng: Generator) -> None:
    options = RULES[rule].sample(rng)
    (p,), (g,) = (RULES[rule].arrays(rng, [20], "float32") for _ in range(2))
    results = []
    for kind, step in (list, 3), (tuple, [3]), (list, (3,)), (tuple, np.int64(3)), (list, np.array([3])):
        params = kind([p.copy()])
        states = {name: kind(one) for name, one in RULES[rule].new_states(options, params).items()}
        RULES[rule].update(F, params, kind([g]), states, step, options)
        results.append(params[0])
    assert not any(differing(results[0], other) for other in results[1:])


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.shapeless])
def test_a_list_of_shapes_is_one_step_each(rule: str, rng: Generator) -> None:
    """Arrays of any shape, even 0-d, give the same results as flat ones."""
    options = RULES[rule].sample(rng, step=True, without=["clip_adaptive"])
    shapes = ((), (1,), (7, 3), (2, 3, 4, 5), (0,), (65,))
    params, grads = ([ordinary(rng, shape, "float64") for shape in shapes] for _ in range(2))
    shaped = RULES[rule].run(F, params, [grads], options)
    flat = RULES[rule].run(F, [p.ravel() for p in params], [[g.ravel() for g in grads]], options)
    for name, array in shaped.items():
        assert differing(array.ravel(), flat[name].ravel()) == 0


@rules
def test_functions_take_nothing_as_it_comes(rule: str) -> None:
    """Without parameters or without gradients there is nothing to do; norms are zero."""
    options = RULES[rule].plain
    none = {name: [] for name in RULES[rule].new_states(options, [np.ones((2, 2))])}
    assert RULES[rule].update(F, [], [], none, 1, options) == (None, False)
    assert RULES[rule].update(F, [], [], none, 1, options | {"clip_norm": 1.0}) == (0.0, False)
    params = RULES[rule].arrays(np.random.default_rng(0), [3, (2, 2)], "float32")
    states = RULES[rule].new_states(options, params)
    before = [p.copy() for p in params]
    outcome = RULES[rule].update(F, params, [None, None], states, 1, options | {"skip_nonfinite": True})
    assert isinstance(outcome, F.Outcome)
    assert outcome == (0.0, False)
    assert [differing(a, b) for a, b in zip(params, before, strict=True)] == [0, 0]


def test_updates_are_what_the_classes_say() -> None:
    """The file is made by python -m fastopt.functional._generate > python/fastopt/functional/_updates.py"""
    written = (Path(F.__file__).parent / "_updates.py").read_text()
    assert ast.dump(ast.parse(_generate.source())) == ast.dump(ast.parse(written))


@rules
def test_functions_say_what_arguments_they_miss(rule: str) -> None:
    function = getattr(F, rule)
    p = np.ones(RULES[rule].fit(3))
    with pytest.raises(TypeError, match=rf"^{rule}\(\) missing .* required positional argument"):
        function([p])
    with pytest.raises(TypeError, match=rf"^{rule}\(\) missing 1 required keyword-only argument: 'lr'$"):
        function([p], [p.copy()], **RULES[rule].new_states(RULES[rule].plain, [p]), step=1)
    with pytest.raises(TypeError, match=rf"^{rule}: there is no speed; did you mean seed\?$"):
        function([p], [p.copy()], **RULES[rule].new_states(RULES[rule].plain, [p]), step=1, lr=0.1, speed=3)


def test_sgd_without_momentum_needs_no_buffers(rng: Generator) -> None:
    p = ordinary(rng, 9, "float64")
    g = ordinary(rng, 9, "float64")
    expected = p - 0.1 * g
    F.sgd([p], [g], step=1, lr=0.1)
    np.testing.assert_allclose(p, expected, rtol=1e-15)


def test_variants_need_their_own_buffers() -> None:
    p, g, m = [np.ones(3)], [np.ones(3)], [np.zeros(3)]
    for momentum, name in ({"momentum": 0.9}, "momentum"), ({"momentum": 0.9, "velocity": True}, "velocity"):
        other = {"momentum": "velocity", "velocity": "momentum"}[name]
        for given in {}, {f"{other}_buffers": m}:
            with pytest.raises(TypeError, match=rf"^sgd: {name}_buffers must be a list of arrays, got NoneType$"):
                F.sgd(p, g, **given, step=1, lr=0.1, **momentum)
        F.sgd(p, g, **{f"{name}_buffers": m}, step=1, lr=0.1, **momentum)
    for rule in F.adam, F.adamw:
        with pytest.raises(TypeError, match=r"^adamw?: max_exp_avg_sqs must be a list of arrays, got NoneType$"):
            rule(p, g, m, [np.zeros(3)], step=1, lr=0.1, amsgrad=True)
    with pytest.raises(TypeError, match=r"^rmsprop: grad_avgs must be a list of arrays, got NoneType$"):
        F.rmsprop(p, g, m, step=1, lr=0.1, centered=True)
    for what, more in ("initial_params", {"l2_init": 0.1}), ("ema_params", {"ema_decay": 0.1}):
        with pytest.raises(TypeError, match=rf"^sgd: {what} must be a list of arrays, got NoneType$"):
            F.sgd(p, g, step=1, lr=0.1, **more)


@pytest.mark.parametrize(
    ("call", "name", "wanted"),
    [
        (F.sgd, "momentum_buffers", "another variant of the rule"),
        (F.sgd, "momentum_buffer_scales", "moments='8bit'"),
        (F.sgd, "master_params", "weights='master'"),
        (F.sgd, "compensations", "weights='kahan'"),
        (F.sgd, "corrections", "weights='correction'"),
        (F.sgd, "initial_params", "l2_init"),
        (F.sgd, "ema_params", "ema_decay and swa_start"),
        (partial(F.adam, exp_avgs=[np.zeros(3)], exp_avg_sqs=[np.zeros(3)]), "max_exp_avg_sqs", "another variant"),
    ],
)
def test_arrays_that_would_not_be_used_are_refused(call: Callable[..., Any], name: str, wanted: str) -> None:
    """An argument that would never be written must not look like a result; placeholders for arrays are allowed."""
    p, g = np.ones(3), np.ones(3)
    given: Any
    for given in [np.zeros(3)], (np.zeros(3),), np.zeros((1, 3)), "ab", 3:
        with pytest.raises(ValueError, match=rf"^\w+: {name} would not be used: it needs {wanted}"):
            call([p], [g], step=1, lr=0.1, **{name: given})
    assert np.all(p == 1)
    for given in None, [], [None]:
        call([p], [g], step=1, lr=0.1, **{name: given})
    assert np.all(p < 1)


def test_the_first_step_of_sgd_does_not_read_the_buffer(rng: Generator) -> None:
    """The buffer becomes the gradient, undampened; later steps dampen it."""
    p, g, b = np.zeros(5), ordinary(rng, 5, "float64"), np.full(5, np.nan)
    F.sgd([p], [g], [b], step=1, lr=0.1, momentum=0.9, dampening=0.5)
    assert differing(b, g) == 0
    F.sgd([p], [g], [b], step=2, lr=0.1, momentum=0.9, dampening=0.5)
    np.testing.assert_allclose(b, 1.4 * g, rtol=1e-15)


@pytest.mark.parametrize("nesterov", [False, True])
@dtypes
def test_both_momenta_agree_at_a_constant_rate(nesterov: bool, dtype: str, rng: Generator) -> None:
    params = [ordinary(rng, 300, dtype)]
    grads = [[ordinary(rng, 300, dtype)] for _ in range(30)]
    options = dict(lr=0.01, momentum=0.9, nesterov=nesterov)
    b = RULES["sgd"].run(F, params, grads, options)
    v = RULES["sgd"].run(F, params, grads, options | {"velocity": True})
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(v["params[0]"], b["params[0]"], rtol=0, atol=tolerance * 5)
    np.testing.assert_allclose(v["velocity_buffers[0]"], -0.01 * b["momentum_buffers[0]"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("rule", ["adam", "adamw"])
def test_eps_hat_joins_before_bias_correction(rule: str) -> None:
    """α_t·m/(√v + ε̂) is lr·m̂/(√v̂ + ε̂/√(1−β₂ᵗ)): with ε̂ far above √v the first steps are much shorter."""
    grads = [[np.full(3, 1e-6)] for _ in range(4)]
    options = dict(lr=0.1, betas=(0.9, 0.999), eps=1e-4, weight_decay=0.0)
    plain = RULES[rule].run(F, [np.zeros(3)], grads[:1], options)["params[0]"]
    hat = RULES[rule].run(F, [np.zeros(3)], grads[:1], options | {"eps_hat": True})["params[0]"]
    np.testing.assert_allclose(plain, -0.1 * 1e-6 / (1e-6 + 1e-4), rtol=1e-9)
    np.testing.assert_allclose(hat, -0.1 * 1e-6 / (1e-6 + 1e-4 / np.sqrt(0.001)), rtol=1e-9)


@rules
def test_maximize_is_minimizing_the_negative(rule: str, rng: Generator) -> None:
    params, (g,) = (RULES[rule].arrays(rng, [50], "float32") for _ in range(2))
    options = RULES[rule].sample(rng, step=True)
    up = RULES[rule].run(F, params, [[g]], options | {"maximize": True})
    down = RULES[rule].run(F, params, [[-g]], options | {"maximize": False})
    assert differing(up["params[0]"], down["params[0]"]) == 0


@pytest.mark.parametrize(
    ("rule", "surrounding"),
    [(rule, name) for rule in RULES for name in ("l1", "proximal_l1_lr") if name in RULES[rule].surroundings],
)
def test_l1_pulls_towards_zero(rule: str, surrounding: str) -> None:
    p = np.array([[2.0, 0.0], [0.0, -2.0]])
    options = RULES[rule].plain | SURROUNDINGS[surrounding] | {"lr": 0.1, "l1": 0.5, "eps": RULES[rule].own.get("eps")}
    options = {name: value for name, value in options.items() if value is not None}
    after = RULES[rule].run(F, [p], [[np.zeros((2, 2))]], options, taken=[RULES[rule].moves_from - 1])["params[0]"]
    assert 0 < after[0, 0] < 2
    assert after[1, 1] == -after[0, 0]
    assert after[0, 1] == after[1, 0] == 0


@pytest.mark.parametrize("rule", [rule for rule in RULES if "decoupled_weight_decay" in RULES[rule].surroundings])
def test_decoupled_decay_does_not_touch_the_gradient(rule: str, rng: Generator) -> None:
    """Decoupled decay is (1 − lr·λ) p and nothing else; coupled decay is a part of the gradient."""
    (p,), zero = RULES[rule].arrays(rng, [(3, 4)], "float64"), np.zeros((3, 4))
    options = RULES[rule].plain | {"lr": 0.1, "decoupled_weight_decay": True}
    for fixed, decay in (False, 0.05), (True, 0.5):
        decayed, plain = p.copy(), p * (1 - decay)
        states = [RULES[rule].new_states(options, [p]) for _ in range(2)]
        RULES[rule].update(F, [decayed], [zero], states[0], 1, options | {"weight_decay": 0.5, "fixed_decay": fixed})
        RULES[rule].update(F, [plain], [zero], states[1], 1, options)
        assert differing(decayed, plain) == 0
        assert all(
            differing(states[0][name][0], states[1][name][0]) == 0
            for name in states[0]
            if states[0][name][0] is not None
        )
    options |= {"decoupled_weight_decay": False}
    coupled = RULES[rule].run(F, [p], [[zero]], options | {"weight_decay": 0.5})
    as_gradient = RULES[rule].run(F, [p], [[0.5 * p]], options)
    assert differing(coupled["params[0]"], as_gradient["params[0]"]) == 0


# Normalizations


def fresh(call: Call) -> Call:
    """The same call with running statistics of its own."""
    running = {
        name: np.copy(one) for name, one in call.arguments.items() if name.startswith("running") and one is not None
    }
    return replace(call, arguments=call.arguments | running)


def memory_order(array: Array) -> list[int]:
    """The axes longer than one, innermost first."""
    axes = [axis for axis in range(array.ndim) if array.shape[axis] > 1]
    return sorted(axes, key=lambda axis: array.strides[axis])


@norms
def test_results_are_like_their_inputs(norm: str, each: Each, rng: Generator) -> None:
    for dtype in each(EVERY_DTYPE):
        call = NORMS[norm].call(rng, dtype, 24, 70)
        results = call.run(F)
        for name, array in results.items():
            expected = dtype if name in LIKE_X else computed(dtype) if name in LIKE_WEIGHT else "float64"
            assert array.dtype.name == expected
        sets = len(call.sets(call.x))
        for name, array in results.items():
            if name in LIKE_X:
                assert array.shape == call.x.shape
                if "channel_axis" in call.arguments or "dim" in call.arguments:
                    assert memory_order(array) == memory_order(call.x)
                else:
                    assert array.flags.c_contiguous
            elif name in LIKE_WEIGHT:
                assert array.shape == call.arguments.get("g", call.arguments.get("weight")).shape
            else:
                assert array.size == sets or name not in RESULTS[call.norm][0]


@norms
def test_out_receives_what_would_be_returned(norm: str, each: Each, rng: Generator) -> None:
    for dtype in each(EVERY_DTYPE):
        call = NORMS[norm].call(rng, dtype, 24, 70)
        results = fresh(call).forward(F)
        for make in (
            lambda module, call=call, **more: fresh(call).forward(module, **more),
            partial(call.backward, results=results),
        ):
            expected = make(F)
            for chosen in (
                [True] * len(expected),
                [i == 0 for i in range(len(expected))],
                [i > 0 for i in range(len(expected))],
            ):
                out = tuple(np.full_like(e, np.nan) if yes else None for e, yes in zip(expected, chosen, strict=True))
                filled = make(F, out=out)
                assert [r is o for r, o in zip(filled, out, strict=True)] == list(chosen)
                assert [differing(r, e) for r, e in zip(filled, expected, strict=True)] == [0] * len(expected)


@norms
def test_results_lie_in_memory_as_the_documentation_says(norm: str, each: Each, rng: Generator) -> None:
    """Channels last where x has them innermost, otherwise C-contiguous; never as dy does."""
    for layout in each(LAYOUTS, by_day=4):
        call = NORMS[norm].call(rng, "float32", 24, 70)
        x = LAYOUTS[layout](call.x)
        axis = call.arguments.get("channel_axis", call.arguments.get("dim"))
        columns = axis is not None and x.shape[axis] > 1 and x.strides[axis] == x.itemsize
        placed = replace(call, x=x, dy=np.asfortranarray(call.dy))
        for name, array in placed.run(F).items():
            if name in LIKE_X:
                assert (np.moveaxis(array, axis, -1) if columns else array).flags.c_contiguous


@pytest.mark.parametrize("name", sorted(_core.kernels.signatures))
def test_signatures_are_the_same_everywhere(name: str) -> None:
    """The typed function, the reference and the binding agree; the binding gets its arguments by position."""
    names = [*inspect.signature(getattr(F, name)).parameters]
    assert names == [*inspect.signature(getattr(reference, name)).parameters]
    bound = [*_core.kernels.signatures[name]]
    if name == "batch_norm_apply":
        at = names.index("stats")
        names[at : at + 1] = ["count", "mean", "m2"]
    assert names == [one for one in bound if one != "num_batches_tracked"]  # only layers give it
    call = next(
        node
        for node in ast.walk(ast.parse(inspect.getsource(getattr(F, name))))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"kernels.{name}"
    )
    given = [argument.id for argument in call.args if isinstance(argument, ast.Name) and argument.id in bound]
    assert [one for one in bound if one in given] == given
    assert len(call.args) == len(bound)
    stub = ast.parse((Path(_core.__file__).parent / "_kernels.pyi").read_text())
    (function,) = (node for node in stub.body if isinstance(node, ast.FunctionDef) and node.name == name)
    assert [argument.arg for argument in function.args.args] == bound


def test_kernels_say_how_many_arguments_they_take() -> None:
    with pytest.raises(TypeError, match=r"^rms_norm: takes 5 arguments, got 1$"):
        _core.kernels.rms_norm(np.ones(3))  # type: ignore[call-arg]


@pytest.mark.parametrize("norm", [name for name, norm in NORMS.items() if "dbias" in RESULTS[norm.norm][1]])
def test_a_bias_has_a_gradient_without_a_weight(norm: str, rng: Generator) -> None:
    """It is the same as with a weight of ones, unless bias_grad=False."""
    call = NORMS[norm].call(rng, "float32", 24, 70)
    call.arguments["weight"][...] = 1
    with_weight = call.run(F)
    call.arguments["weight"] = None
    without = call.run(F)
    assert differing(without["dbias"], with_weight["dbias"]) == 0
    assert differing(without["dx"], with_weight["dx"]) == 0
    assert "dweight" not in without
    call.arguments["bias_grad"] = False
    neither = call.run(F)
    assert "dbias" not in neither
    assert differing(neither["dx"], with_weight["dx"]) == 0
    results, like = call.forward(F), without["dbias"]
    with pytest.raises(ValueError, match=r"_backward: out\[\d\] is given, but bias_grad is False$"):
        call.backward(F, results, out=(*[None] * (len(RESULTS[call.norm][1]) - 1), like))


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_relu", "batch_norm_add_relu", "batch_renorm"])
def test_backward_must_be_told_the_mode(name: str) -> None:
    """Forward's default is evaluation; a default in backward could silently differentiate the wrong mode."""
    x, c = np.ones((4, 3)), np.ones(3)
    arguments = {
        "batch_norm": (x, x, c, c),
        "batch_norm_relu": (x, x, c, c),
        "batch_norm_add_relu": (x, x, x, c, c),
        "batch_renorm": (x, x, c, c, c, c),
    }[name]
    for module in F, reference:
        with pytest.raises(TypeError, match="required keyword-only argument: 'training'"):
            getattr(module, f"{name}_backward")(*arguments)


@norms
def test_out_in_another_layout_is_an_error(norm: str, rng: Generator) -> None:
    """The error says which layouts are allowed."""
    call = NORMS[norm].call(rng, "float32", 24, 70)
    for make in LAYOUTS["flipped"], LAYOUTS["every second"]:
        for run, results in (call.forward, call.forward(F)), (partial(call.backward, results=call.forward(F)), None):
            expected = results or run(F)
            out = tuple(make(np.full_like(one, 7)) if i == 0 else None for i, one in enumerate(expected))
            with pytest.raises(
                TypeError, match=r"out.* must (be C-contiguous|have .* without gaps or negative strides)"
            ):
                run(F, out=out)
            assert np.all(out[0] == 7)


@norms
def test_new_results_are_new_every_time(norm: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, "float32", 24, 70)
    first, second = call.run(F), call.run(F)
    assert not any(np.shares_memory(first[name], second[name]) for name in first)
    assert not any(np.shares_memory(first[name], array) for name in ("y", "dx") for array in (call.x, call.dy))


@pytest.mark.parametrize("norm", [name for name, norm in NORMS.items() if "dweight" in RESULTS[norm.norm][1]])
def test_without_a_weight_its_gradient_is_none(norm: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, "float32", 24, 6, weight=False, bias=False)
    gradients = dict(zip(RESULTS[call.norm][1], call.backward(F, call.forward(F)), strict=True))
    assert {name for name, gradient in gradients.items() if gradient is None} == {*gradients} & {"dweight"}


@pytest.mark.parametrize("norm", [name for name, norm in NORMS.items() if "weight" in parameters(norm.norm)])
def test_a_weight_of_ones_and_a_bias_of_zeros_change_nothing(norm: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, "float64", 24, 70)
    call.arguments["weight"][...] = 1
    if "bias" in call.arguments:
        call.arguments["bias"][...] = 0
    with_them = call.run(F)
    call.arguments |= {"weight": None, "bias": None} if "bias" in call.arguments else {"weight": None}
    without = call.run(F)
    for name in without:
        assert np.array_equal(with_them[name], without[name])


@dtypes
def test_layouts_agree(dtype: str, rng: Generator) -> None:
    """The same numbers as N,C,H,W, as N,H,W,C and as a transposed view give the same statistics up to rounding."""
    x, dy = ordinary(rng, (2, 4, 6, 5, 3), dtype)
    weight, bias = ordinary(rng, (2, 6), dtype)

    def both(x: Array, dy: Array, axis: int) -> list[Array]:
        y, mean, rstd = F.batch_norm(x, None, None, weight, bias, True, channel_axis=axis)
        return [y, *F.batch_norm_backward(dy, x, mean, rstd, weight, training=True, channel_axis=axis)]

    last = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
    planes, columns, view = both(x, dy, 1), both(*last, -1), both(*(np.moveaxis(a, -1, 1) for a in last), 1)
    assert [differing(np.moveaxis(a, -1, 1) if a.ndim > 1 else a, b) for a, b in zip(columns, view, strict=True)] == [
        0
    ] * 4
    for a, b in zip(planes, view, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 if dtype == "float32" else 1e-13)
    assert view[0].strides == np.moveaxis(last[0], -1, 1).strides


def test_a_channel_axis_may_be_counted_from_the_end(rng: Generator) -> None:
    x = ordinary(rng, (4, 6, 5), "float32")
    for axis in 0, 1, 2:
        a, b = (F.batch_norm(x, None, None, training=True, channel_axis=k)[0] for k in (axis, axis - 3))
        assert differing(a, b) == 0


def test_evaluation_uses_and_keeps_the_running_statistics(rng: Generator) -> None:
    x, dy = ordinary(rng, (2, 8, 3), "float64")
    running_mean, running_var, weight, bias = ordinary(rng, 3, "float64"), np.array([1.0, 2.0, 3.0]), *np.ones((2, 3))
    before = running_mean.copy(), running_var.copy()
    y, mean, rstd = F.batch_norm(x, running_mean, running_var, weight * 2, bias, eps=0.0)
    assert np.array_equal(mean, running_mean)
    np.testing.assert_allclose(rstd, running_var**-0.5, rtol=1e-15)
    np.testing.assert_allclose(y, (x - running_mean) / np.sqrt(running_var) * 2 + 1, rtol=1e-12)
    dx, dweight, dbias = F.batch_norm_backward(dy, x, mean, rstd, weight * 2, training=False)
    np.testing.assert_allclose(dx, dy * rstd * 2, rtol=1e-15)
    np.testing.assert_allclose(dweight, (dy * (x - mean) * rstd).sum(0), rtol=1e-12)
    np.testing.assert_allclose(dbias, dy.sum(0), rtol=1e-12)
    assert np.array_equal(before[0], running_mean)
    assert np.array_equal(before[1], running_var)


@pytest.mark.parametrize("norm", [name for name, norm in NORMS.items() if norm.norm != "batch_norm_apply"])
def test_backward_is_the_derivative_of_forward(norm: str, rng: Generator) -> None:
    """Central differences along a random direction agree."""
    call = NORMS[norm].call(rng, "float64", 12, 10, dsum=False, running="renorm" in norm)
    if "renorm" in norm:  # r and d are constants where they are at their limits
        call.arguments["running_mean"][...], call.arguments["running_var"][...] = 100.0, 1e-4
    results = call.run(F)
    along, h = np.empty_like(call.x), 1e-6
    along[...] = ordinary(rng, call.x.shape, "float64")
    values = [np.sum(replace(fresh(call), x=call.x + sign * h * along).forward(F)[0] * call.dy) for sign in (1, -1)]
    np.testing.assert_allclose((values[0] - values[1]) / (2 * h), np.sum(results["dx"] * along), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@every_dtype
def test_fused_forms_are_their_steps(dtype: str, affine: bool, training: bool, rng: Generator) -> None:
    """They agree to the last bit if no intermediate result is rounded to 16 bits."""
    x, residual, dy = (ordinary(rng, (4, 6, 5), dtype) for _ in range(3))
    weight, bias = ordinary(rng, (2, 6), computed(dtype)) if affine else (None, None)
    running = ordinary(rng, 6, computed(dtype)), ordinary(rng, 6, computed(dtype)) ** 2

    def norm(function: Callable[..., tuple[Array, ...]], *inputs: Array) -> tuple[Array, ...]:
        return function(*inputs, *map(np.copy, running), weight, bias, training)

    def backward(dy: Array, mean: Array, rstd: Array) -> tuple[Array, ...]:
        return F.batch_norm_backward(dy, x, mean, rstd, weight, training=training)

    def assert_same(results: Iterable[Array], others: Iterable[Array]) -> None:
        for a, b in zip(results, others, strict=True):
            assert (a is None and b is None) or np.array_equal(a, b)

    t, mean, rstd = norm(F.batch_norm, x)
    assert_same(norm(F.batch_norm_relu, x), (np.maximum(t, 0), mean, rstd))
    fused = F.batch_norm_relu_backward(dy, x, mean, rstd, weight, bias, training=training)
    if dtype in DTYPES:  # a number that is 0 in 16 bits may not have been 0
        assert_same(fused, backward(np.where(t > 0, dy, 0), mean, rstd))
        y = np.maximum(t + residual, 0)
        assert_same(norm(F.batch_norm_add_relu, x, residual), (y, mean, rstd))
    y, *_ = norm(F.batch_norm_add_relu, x, residual)
    dresidual = np.where(y > 0, dy, np.zeros_like(dy))
    dx, *gradients = backward(dresidual, mean, rstd)
    fused = F.batch_norm_add_relu_backward(dy, y, x, mean, rstd, weight, training=training)
    assert_same(fused, (dx, dresidual, *gradients))


@every_dtype
def test_fused_additions_are_their_steps(dtype: str, rng: Generator) -> None:
    x, residual, dy, dsum = (ordinary(rng, (5, 70), dtype) for _ in range(4))
    weight, bias = ordinary(rng, (2, 70), computed(dtype))
    total = x + residual
    y, *used = F.layer_norm(total, 70, weight, bias)
    results = F.add_layer_norm(x, residual, 70, weight, bias)
    assert [differing(a, b) for a, b in zip(results, (y, total, *used), strict=True)] == [0] * 4
    plain = F.layer_norm_backward(dy, total, 70, *used, weight)
    for also in None, dsum:
        fused = F.add_layer_norm_backward(dy, also, total, 70, *used, weight)
        if also is None or dtype in DTYPES:
            assert differing(fused[0], plain[0] if also is None else plain[0] + also) == 0
        assert [differing(a, b) for a, b in zip(fused[1:], plain[1:], strict=True)] == [0, 0]
    y, *used = F.rms_norm(total, 70, weight)
    results = F.add_rms_norm(x, residual, 70, weight)
    assert [differing(a, b) for a, b in zip(results, (y, total, *used), strict=True)] == [0] * 3
    plain = F.rms_norm_backward(dy, total, 70, *used, weight)
    for also in None, dsum:
        fused = F.add_rms_norm_backward(dy, also, total, 70, *used, weight)
        if also is None or dtype in DTYPES:
            assert differing(fused[0], plain[0] if also is None else plain[0] + also) == 0
        assert differing(fused[1], plain[1]) == 0
