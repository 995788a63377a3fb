"""Gradients of few rows: the same bits as the reference, lazily and exactly; what they touch, and what they refuse."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, EVERY_DTYPE, FORMATS, HALVES, OPTIMIZERS, RULES, Array, Options, mixed, ordinary
from tools import Each, assert_same_bits, bits, differing, every_isa, everything

import fastopt as fo
from fastopt import SparseRows, reference
from fastopt import functional as F
from fastopt._core import kernels
from fastopt.reference._sparse import coalesce

LAZY = ("sgd", "adagrad", "adam", "adamw", "rmsprop")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
SHAPES = ((50, 7), (40,), (30, 4, 5), (20, 64), (3, 2100))
lazy_rules = pytest.mark.parametrize("rule", LAZY)


def rows_for(
    rng: Generator, param: Array, n: int, dtype: str, numbers: Any = ordinary, exact: bool = False
) -> SparseRows:
    """Some rows, in no order, some of them more than once."""
    integers = [one for one in INTEGERS if np.iinfo(one).max >= len(param)]
    indices = rng.integers(0, len(param), n).astype(rng.choice(integers))
    return SparseRows(indices, numbers(rng, (n, *param.shape[1:]), dtype), exact=exact)


def grads_for(
    rng: Generator, params: list[Array], dtype: str, numbers: Any = ordinary, exact: bool = False
) -> list[SparseRows]:
    """A gradient for each parameter: of no rows, of few, of more than there are."""
    return [rows_for(rng, param, int(rng.choice([0, 1, 5, 70])), dtype, numbers, exact) for param in params]


def fresh(grads: list[Any]) -> list[Any]:
    """Copies, as steps may set gradients to zero."""
    return [copy.deepcopy(g) if isinstance(g, SparseRows) else None if g is None else g.copy() for g in grads]


def run(module: Any, rule: str, params: list[Array], grads: list[list[Any]], options: Options) -> dict[str, Array]:
    """Everything there is after a step with each of the lists of gradients."""
    states = RULES[rule].new_states(options, params)
    params, counts, results = [p.copy() for p in params], np.zeros(len(params), int), {}
    for step, some in enumerate(grads):
        given = fresh(some)
        norm, skipped = RULES[rule].update(module, params, given, states, list(map(int, counts + 1)), options)
        counts += [g is not None and not skipped for g in given]
        results[f"norm at {step}"] = np.array(-1.0 if norm is None else norm)
        for i, g in enumerate(given):
            if g is not None:
                results[f"grads[{i}] at {step}"] = g.values if isinstance(g, SparseRows) else g
    for name, arrays in {"params": params, **states}.items():
        results |= {f"{name}[{i}]": array for i, array in enumerate(arrays) if array is not None}
    return results


def assert_is_the_reference(rule: str, params: list[Array], grads: list[list[Any]], options: Options) -> None:
    expected = run(reference, rule, params, grads, options)
    for _ in every_isa():
        assert_same_bits(run(F, rule, params, grads, options), expected)


# The specification


@lazy_rules
def test_lazy_steps_are_the_reference(rule: str, each: Each, rng: Generator) -> None:
    for options, dtype in each(RULES[rule].combinations, DTYPES, by_day=6):
        params = [ordinary(rng, shape, dtype) for shape in SHAPES]
        grads = [grads_for(rng, params, dtype, numbers) for numbers in (ordinary, ordinary, mixed)]
        assert_is_the_reference(rule, params, grads, options)


@lazy_rules
def test_lazy_steps_with_what_surrounds_them_are_the_reference(rule: str, each: Each, rng: Generator) -> None:
    for name, more in each(RULES[rule].surroundings.items()):
        if name in ("swa", "clip_adaptive"):  # refused, see below
            continue
        dtype = rng.choice(DTYPES)
        params = [ordinary(rng, shape, dtype) for shape in SHAPES]
        grads = [grads_for(rng, params, dtype) for _ in range(3)]
        options = RULES[rule].sample(rng, around=False) | more
        assert_is_the_reference(rule, params, grads, options)


@lazy_rules
def test_formats_of_parameters_and_moments_are_the_reference(rule: str, each: Each, rng: Generator) -> None:
    for _, (dtype, more) in each(RULES[rule].formats.items(), by_day=4):
        shapes = ((20, 64), (5, 192)) if more.get("moments") == "8bit" else ((20, 64), (30, 7), (2, 1100), (40,))
        params = [ordinary(rng, shape, dtype) for shape in shapes]
        grads = [grads_for(rng, params, str(rng.choice(["float32", *HALVES]))) for _ in range(3)]
        options = next(one for one in RULES[rule].combinations if RULES[rule].accepts(one | more)) | more
        assert_is_the_reference(rule, params, grads, options)


@pytest.mark.parametrize("rule", RULES)
def test_exact_steps_are_the_reference_and_dense_steps(rule: str, each: Each, rng: Generator) -> None:
    """With every rule; in whatever format, and with whatever surrounds it."""
    for dtype in each(("float32", "float64")):
        shapes = [shape for shape in SHAPES if RULES[rule].fit(shape) == shape]
        params = [ordinary(rng, shape, dtype) for shape in shapes]
        grads = [grads_for(rng, params, dtype, exact=True) for _ in range(3)]
        options = RULES[rule].sample(rng, step=True, without=("zero_grads",))
        assert_is_the_reference(rule, params, grads, options)
        dense = [[g.to_dense(len(p)) for g, p in zip(some, params, strict=True)] for some in grads]
        ours, theirs = run(F, rule, params, grads, options), run(F, rule, params, dense, options)
        assert_same_bits(*({k: v for k, v in one.items() if "grads" not in k} for one in (ours, theirs)))


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_exact_steps_of_every_format_are_dense_steps(rule: str, each: Each, rng: Generator) -> None:
    for _, (dtype, more) in each(FORMATS.items()):
        options = RULES[rule].fullest | more
        if not RULES[rule].accepts(options):
            continue
        params = [ordinary(rng, shape, dtype) for shape in ((20, 64), (30, 7), (2, 1100))]
        grads = [grads_for(rng, params, "float32", exact=True) for _ in range(2)]
        dense = [[g.to_dense(len(p)) for g, p in zip(some, params, strict=True)] for some in grads]
        ours, theirs = run(F, rule, params, grads, options), run(F, rule, params, dense, options)
        assert_same_bits(*({k: v for k, v in one.items() if "grads" not in k} for one in (ours, theirs)))


@lazy_rules
def test_any_number_of_threads_gives_the_same_bits(rule: str, rng: Generator) -> None:
    params = [ordinary(rng, shape, "float32") for shape in ((3000, 64), (20_000,), (500, 3, 33))]
    grads = [[rows_for(rng, p, 2000, "float32") for p in params] for _ in range(2)]
    options = RULES[rule].fullest | {"clip_norm": 1.0}
    results = []
    for threads in (1, 2, 3, 5, 16):
        with fo.threads(threads):
            results.append(run(F, rule, params, grads, options))
    for other in results[1:]:
        assert_same_bits(other, results[0])


@lazy_rules
def test_memory_of_any_layout(rule: str, rng: Generator) -> None:
    param = ordinary(rng, (40, 6), "float32")
    n = 30
    indices, values = rng.integers(0, 40, n), ordinary(rng, (n, 6), "float32")
    expected = run(F, rule, [param], [[SparseRows(indices, values)]], RULES[rule].plain)
    spread = np.zeros((n, 20), np.float32)
    spread[:, 1:13:2] = values
    unaligned = np.zeros(values.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(values.shape)
    unaligned[...] = values
    apart = np.repeat(indices, 3)[::3]
    offset = np.zeros(8 * n + 3, np.uint8)[3:].view(np.int64)
    offset[...] = indices
    for i, v in (
        (indices, np.asfortranarray(values)),
        (indices, spread[:, 1:13:2]),
        (indices[::-1].copy()[::-1], values[::-1].copy()[::-1]),
        (apart, unaligned),
        (offset, values),
    ):
        assert_same_bits(
            {
                k: a
                for k, a in run(F, rule, [param], [[SparseRows(i, v)]], RULES[rule].plain).items()
                if "grads" not in k
            },
            {k: a for k, a in expected.items() if "grads" not in k},
        )


def test_values_that_are_one_row_for_all(rng: Generator) -> None:
    param = ordinary(rng, (9, 3), "float64")
    values = np.broadcast_to(np.array([1.0, 2.0, 3.0]), (4, 3))
    expected = param.copy()
    expected[[2, 5]] -= 0.5 * np.array([[1.0, 2.0, 3.0], [3.0, 6.0, 9.0]])
    fo.optim.SGD([param], lr=0.5).step([SparseRows(np.array([5, 2, 5, 5]), values)])
    assert np.array_equal(param, expected)


# The class


def test_coalesce_is_the_reference(each: Each, rng: Generator) -> None:
    for dtype, integer in each(EVERY_DTYPE, INTEGERS):
        for n, row in ((0, (3,)), (1, ()), (30, (5,)), (200, (2, 70)), (500, ())):
            indices = rng.integers(0, max(n // 3, 1) % 100, n).astype(integer)
            values = mixed(rng, (n, *row), dtype)
            rows, sums = coalesce(indices, values)
            for _ in every_isa():
                ours = SparseRows(indices, values).coalesce()
                assert ours.indices.dtype == np.int64 and np.array_equal(ours.indices, rows)
                assert ours.values.dtype == (np.float64 if dtype == "float64" else np.float32)
                assert not differing(ours.values, np.asarray(sums))


def test_order_of_addition_is_that_of_the_values(each: Each) -> None:
    """Whether indices have to be sorted or not, be they few or many."""
    for before, after in each(([], [3], [9]), ([], [3], list(range(200, 100, -1)))):
        indices = np.array([*before, 4, 4, 4, 4, *after])
        values = np.zeros((len(indices), 1), np.float32)
        four = slice(len(before), len(before) + 4)
        for numbers, total in (([1e30, 1.0, -1e30, 1.0], 1.0), ([1e30, -1e30, 1.0, 1.0], 2.0)):
            values[four, 0] = numbers
            one = SparseRows(indices, values).coalesce()
            assert one.values[one.indices == 4] == total
            weight = np.zeros((300, 1), np.float32)
            fo.optim.SGD([weight], lr=1.0).step([SparseRows(indices, values)])
            assert weight[4] == -total


def test_large_indices_are_sorted(rng: Generator) -> None:
    indices = rng.integers(0, 2**62, 1000)
    indices[::3] = indices[1]
    one = SparseRows(indices, np.ones(1000)).coalesce()
    rows, counts = np.unique(indices, return_counts=True)
    assert np.array_equal(one.indices, rows) and np.array_equal(one.values, counts)


def test_to_dense(rng: Generator) -> None:
    indices, values = np.array([3, 0, 3], np.uint8), ordinary(rng, (3, 2), "float64")
    dense = SparseRows(indices, values).to_dense(5)
    assert np.array_equal(dense, [values[1], [0, 0], [0, 0], values[0] + values[2], [0, 0]])
    assert SparseRows(indices, values.astype(ml_dtypes.bfloat16)).to_dense(4).dtype == np.float32
    with pytest.raises(ValueError, match=r"SparseRows.to_dense: indices must be below rows, which is 3, got 3"):
        SparseRows(indices, values).to_dense(3)
    with pytest.raises(TypeError, match="rows must be an integer"):
        SparseRows(indices, values).to_dense(3.0)  # type: ignore[arg-type]


def test_it_is_immutable_and_can_be_copied() -> None:
    one = SparseRows(np.array([1, 2]), np.ones((2, 3), np.float32), exact=True)
    with pytest.raises(AttributeError, match="indices cannot be set"):
        one.indices = np.array([0, 0])
    with pytest.raises(AttributeError, match="values cannot be removed"):
        del one.values
    for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert other.exact and np.array_equal(other.indices, one.indices) and np.array_equal(other.values, one.values)
        assert not np.shares_memory(other.values, one.values)
    assert repr(one) == "SparseRows(2 rows of shape (3,), float32, exact=True)"
    assert one.coalesce().exact


@pytest.mark.parametrize(
    ("indices", "values", "error", "text"),
    [
        ([0], np.ones((1, 2)), TypeError, "indices must be a numpy array, got list"),
        (np.array([0]), [[1.0]], TypeError, "values must be a numpy array, got list"),
        (np.array([0.0]), np.ones((1, 2)), TypeError, "indices has dtype float64, expected integers"),
        (np.array([True]), np.ones((1, 2)), TypeError, "indices has dtype bool, expected integers"),
        (np.array([0], ">i4"), np.ones((1, 2)), TypeError, "machine's own byte order"),
        (np.array([0]), np.ones((1, 2), int), TypeError, "values has dtype int64, expected float32"),
        (np.array([[0]]), np.ones((1, 2)), ValueError, "expected one axis; give indices.ravel()"),
        (
            np.array([0, 1]),
            np.ones((1, 2)),
            ValueError,
            "values has shape (1, 2), expected (2, ...), a row for each index",
        ),
        (np.array([0]), np.array(1.0), ValueError, "values has shape ()"),
        (np.ma.array([0]), np.ones((1, 2)), TypeError, "pass indices.filled(...)"),
    ],
)
def test_what_is_no_gradient(indices: Any, values: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        SparseRows(indices, values)
    assert text in str(raised.value) and str(raised.value).startswith("SparseRows: ")


def test_negative_indices_are_refused_without_a_parameter() -> None:
    one = SparseRows(np.array([3, -1]), np.ones((2, 3)))
    for call in (one.coalesce, lambda: one.to_dense(5)):
        with pytest.raises(ValueError, match=r"indices\[1\] must be an int64 and at least 0, got -1"):
            call()


# What a step touches


@lazy_rules
def test_other_rows_are_left_alone(rule: str, rng: Generator) -> None:
    """With their state: whatever they hold, NaN and subnormal numbers too."""
    for more in ({}, {"weight_decay": 0.1}, {"l1": 0.1, "proximal_l1": True}, {"noise": 0.1}, {"ema_decay": 0.9}):
        param = np.full((30, 5), np.nan, np.float32)
        param[::2] = 1e-42
        param[[4, 9]] = 1.0
        opt = RULES[rule].make([param], RULES[rule].fullest | more)
        for _ in range(2):
            before = [param.copy(), *(a.copy() for a in opt.state[0].values())]
            opt.step([SparseRows(np.array([9, 4, 9]), ordinary(rng, (3, 5), "float32"))])
            others = np.setdiff1d(np.arange(30), [4, 9])
            after = [param, *opt.state[0].values()]
            for old, new in zip(before, after, strict=True):
                if new.ndim:
                    assert new[others].tobytes() == old[others].tobytes()
            assert np.isfinite(param[[4, 9]]).all()


@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
def test_lazy_is_exact_for_sgd_and_adagrad(rule: str, rng: Generator) -> None:
    """Where neither momentum nor decay moves a row without a gradient."""
    params = [ordinary(rng, (40, 7), "float32")]
    options = {**RULES[rule].plain, "momentum": 0.0} if rule == "sgd" else RULES[rule].plain
    grads = [grads_for(rng, params, "float32") for _ in range(4)]
    dense = [[g.to_dense(40) for g in some] for some in grads]
    ours, theirs = run(F, rule, params, grads, options), run(F, rule, params, dense, options)
    assert_same_bits(*({k: v for k, v in one.items() if "grads" not in k} for one in (ours, theirs)))


def test_a_gradient_of_no_rows_counts_as_a_step() -> None:
    param = np.ones((4, 2), np.float32)
    opt = fo.optim.Adam([param])
    info = opt.step([SparseRows(np.zeros(0, int), np.zeros((0, 2), np.float32))], clip_norm=1.0)
    assert (info.step, info.grad_norm, int(opt.state[0]["step"])) == (1, 0.0, 1)
    assert np.array_equal(param, np.ones((4, 2)))


def test_parameters_without_elements() -> None:
    params = [np.ones((0, 3)), np.ones((3, 0))]
    grads = [SparseRows(np.zeros(0, int), np.ones((0, 3))), SparseRows(np.array([2, 2]), np.ones((2, 0)))]
    assert fo.optim.Adam(params).step(grads, clip_norm=1.0, skip_nonfinite=True).step == 1
    with pytest.raises(ValueError, match=r"indices\[0\] must be in \[0, 0\)"):
        fo.optim.Adam(params).step([SparseRows(np.array([0]), np.ones((1, 3))), None])


def test_dense_and_sparse_gradients_in_one_step_and_in_turn(rng: Generator) -> None:
    shapes = ((30, 4), (7,), (20, 3))
    params = [ordinary(rng, shape, "float64") for shape in shapes]
    lists = [
        [rows_for(rng, params[0], 9, "float64"), ordinary(rng, 7), None],
        [ordinary(rng, (30, 4)), rows_for(rng, params[1], 3, "float64"), rows_for(rng, params[2], 30, "float64")],
        [rows_for(rng, params[0], 9, "float64", exact=True), ordinary(rng, 7), ordinary(rng, (20, 3))],
        [None, None, rows_for(rng, params[2], 0, "float64")],
        [rows_for(rng, params[0], 90, "float64"), ordinary(rng, 7), ordinary(rng, (20, 3))],
    ]
    for rule in LAZY:
        options = RULES[rule].fullest | {"clip_norm": 1.0}
        assert_is_the_reference(rule, params, lists, options)
        ours, theirs = ([p.copy() for p in params] for _ in range(2))
        opt, states = RULES[rule].make(ours, options), RULES[rule].new_states(options, theirs)
        counts = np.zeros(3, int)
        for grads in lists:
            counts += [g is not None for g in grads]
            opt.step(grads, clip_norm=1.0)
            steps = [max(1, int(count)) for count in counts]
            RULES[rule].update(F, theirs, grads, states, steps, options)
        assert bits(ours) == bits(theirs)


def test_structures_and_groups(rng: Generator) -> None:
    sparse = SparseRows(np.array([1, 1]), np.ones((2, 2)))
    params = {"embedding": np.ones((3, 2)), "head": [np.ones(2), np.ones((2, 2))]}
    fo.optim.SGD(params, lr=0.5).step({"embedding": sparse, "head": [np.ones(2), sparse]})
    assert np.array_equal(params["embedding"], [[1, 1], [0, 0], [1, 1]])
    assert np.array_equal(params["head"][1], [[1, 1], [0, 0]])
    a, b = np.ones((3, 2)), np.ones((2, 2))
    opt = fo.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.25}], lr=0.5)
    opt.step([[sparse], [sparse]])
    opt.step([sparse, sparse])
    assert (a[1, 0], b[1, 0], a[0, 0]) == (-1, 0, 1)
    with pytest.raises(TypeError, match="SGD: grads must be a list like params, got SparseRows"):
        fo.optim.SGD([np.ones((3, 2))]).step(sparse)  # type: ignore[arg-type]


def test_clip_norm_takes_sums_and_zero_grads_their_values() -> None:
    param, values = np.zeros((5, 2)), np.array([[3.0, 0], [0, 2], [0, 2]])
    info = fo.optim.SGD([param], lr=1.0).step(
        [SparseRows(np.array([1, 3, 3]), values)], clip_norm=2.5, grad_scale=0.5, zero_grads=True
    )
    assert info.grad_norm == 10.0  # of (3, 4), times 2
    assert np.allclose(param[[1, 3]], [[-1.5, 0], [0, -2]])
    assert not values.any()


def test_skipped_steps(rng: Generator) -> None:
    param, values = ordinary(rng, (5, 2)), np.ones((2, 2))
    opt = fo.optim.Adam([param])
    before = everything(opt)
    values[1, 0] = np.inf
    info = opt.step([SparseRows(np.array([1, 3]), values)], skip_nonfinite=True, zero_grads=True)
    assert info.skipped and everything(opt) == before and not values.any()
    values[...] = 1e200  # whose squares are infinite in float64, but which are finite
    assert not opt.step([SparseRows(np.array([1, 3]), values)], skip_nonfinite=True).skipped
    values[...] = 1.5e308  # whose sum is not
    assert opt.step([SparseRows(np.array([1, 1]), values)], skip_nonfinite=True).skipped


def test_accumulated_rows_make_a_dense_step(rng: Generator) -> None:
    params = [ordinary(rng, (9, 3), "float32")]
    several = [rows_for(rng, params[0], 5, "float32") for _ in range(3)]
    ours, theirs = ([p.copy() for p in params] for _ in range(2))
    opt, other = fo.optim.Adam(ours), fo.optim.Adam(theirs)
    for grad in several:
        opt.accumulate([grad])
        other.accumulate([grad.to_dense(9)])
    opt.step()
    other.step()
    assert bits(ours) == bits(theirs)
    assert int(opt.state[0]["step"]) == 1


@lazy_rules
def test_state_is_saved_and_goes_on(rule: str, rng: Generator, tmp_path: Path) -> None:
    params = [ordinary(rng, (30, 5), "float32")]
    grads = [grads_for(rng, params, "float32") for _ in range(6)]
    ours, theirs = ([p.copy() for p in params] for _ in range(2))
    opt = RULES[rule].make(ours, RULES[rule].fullest)
    for some in grads:
        opt.step(some)
    first = RULES[rule].make(theirs, RULES[rule].fullest)
    for some in grads[:3]:
        first.step(some)
    first.save(tmp_path / "state.safetensors")
    second = RULES[rule].make(theirs, RULES[rule].fullest)
    second.load(tmp_path / "state.safetensors")
    third = RULES[rule].make(theirs, RULES[rule].fullest)
    third.load_state_dict(second.state_dict(copy=True))
    for some in grads[3:]:
        third.step(some)
    assert bits(ours) == bits(theirs)


def test_the_quick_way_of_a_step_sees_changes(rng: Generator) -> None:
    """Lists of gradients go straight to the plan; a parameter, a rate or a state that was changed between steps counts."""
    param = np.ones((6, 2), np.float32)
    opt = fo.optim.SGD([param], lr=0.5, momentum=0.5)
    grad = SparseRows(np.array([2]), np.ones((1, 2), np.float32))
    opt.step([grad])
    opt.step([grad])
    assert opt._simple[0] is opt._plan
    opt.param_groups[0]["lr"] = 0.0
    before = param.copy()
    opt.step([grad])
    assert np.array_equal(param, before)
    opt.param_groups[0]["lr"] = 1.0
    opt.state[0]["momentum_buffer"] = np.zeros((6, 2), np.float32)
    opt.step([grad])
    assert np.array_equal(param[2], before[2] - 1)
    other = np.ones((4, 2), np.float32)
    opt.param_groups[0]["params"][0] = other
    opt.step([grad])
    assert np.array_equal(other[2], [0, 0]) and np.array_equal(param[2], before[2] - 1)
    with pytest.raises(ValueError, match=r"indices\[0\] must be in \[0, 4\), got 5"):
        opt.step([SparseRows(np.array([5]), np.ones((1, 2), np.float32))])


# What is refused


def refused(opt: fo.optim.Optimizer, grads: list[Any], error: type[Exception], text: str, **options: Any) -> None:
    before = everything(opt)
    for _ in range(2):  # at first, and by a plan that is in use
        with pytest.raises(error) as raised:
            opt.step(grads, **options)
        assert text in str(raised.value), str(raised.value)
        assert str(raised.value).startswith(type(opt).__name__ + ": ")
    assert everything(opt) == before


@pytest.mark.parametrize(
    ("indices", "values", "error", "text"),
    [
        (np.array([0, 6]), np.ones((2, 3)), ValueError, "grads[1].indices[1] must be in [0, 6), got 6"),
        (np.array([0, -1], np.int8), np.ones((2, 3)), ValueError, "grads[1].indices[1] must be in [0, 6), got -1"),
        (np.array([2**64 - 1], np.uint64), np.ones((1, 3)), ValueError, "got 18446744073709551615"),
        (
            np.array([0]),
            np.ones((1, 4)),
            ValueError,
            "grads[1].values has shape (1, 4), expected (n, 3), n rows as its",
        ),
        (np.array([0]), np.ones(1), ValueError, "grads[1].values has shape (1,), expected (n, 3)"),
        (np.array([0]), np.ones((1, 3), np.float32), TypeError, "grads[1].values has dtype float32, expected float64"),
    ],
)
def test_gradients_that_do_not_fit(indices: Array, values: Array, error: type[Exception], text: str) -> None:
    opt = fo.optim.AdamW([np.ones(2), np.ones((6, 3))])
    refused(opt, [np.ones(2), SparseRows(indices, values)], error, text)


def test_gradients_that_were_changed_in_place() -> None:
    opt = fo.optim.AdamW([np.ones((6, 3))])
    grad = SparseRows(np.array([0, 1]), np.ones((2, 3)))
    grad.indices.shape = (2, 1)  # type: ignore[misc]
    refused(opt, [grad], ValueError, "grads[0].indices must have one axis")


def test_memory_that_is_shared(rng: Generator) -> None:
    param = ordinary(rng, (6, 3))
    opt = fo.optim.Adam([param])
    refused(
        opt,
        [SparseRows(np.array([0, 1]), param[2:4])],
        ValueError,
        "params[0] would be written, but overlaps grads[0].values",
    )
    moments = opt.state[0]["exp_avg"]
    refused(opt, [SparseRows(np.array([0]), moments[:1])], ValueError, "would be written, but overlaps grads[0].values")
    shared = np.broadcast_to(np.ones(3), (2, 3)).copy()
    shared.flags.writeable = False
    refused(opt, [SparseRows(np.array([0, 1]), shared)], TypeError, "grads[0].values is read-only", zero_grads=True)
    both = np.ones((2, 3))
    opt = fo.optim.Adam([ordinary(rng, (6, 3)), ordinary(rng, (6, 3))])
    one = SparseRows(np.array([0, 1]), both)
    refused(opt, [one, one], ValueError, "would be zeroed, but overlaps grads[0]", zero_grads=True)
    opt.step([one, one])  # which only reads it


def test_a_scalar_has_no_rows() -> None:
    refused(fo.optim.SGD([np.array(1.0)]), [SparseRows(np.array([0]), np.ones(1))], ValueError, "params[0] has no rows")


def test_what_cannot_be_lazy_says_what_can(rng: Generator) -> None:
    grad = SparseRows(np.array([0, 4]), np.ones((2, 10), np.float32))
    out = "give a SparseRows with exact=True, or its .to_dense(6)"
    for name, rule in OPTIMIZERS.items():
        if name in ("SGD", "Adam", "AdamW", "Adagrad", "RMSprop"):
            continue
        opt = rule.optimizer([np.ones((6, 10), np.float32)])
        refused(
            opt,
            [grad],
            ValueError,
            f"grads[0] cannot be taken row by row: the rule needs every row in every step; {out}",
        )
        opt.step([SparseRows(grad.indices, grad.values, exact=True)])
        opt.step([grad.to_dense(6)])
    opt = fo.optim.Adam([np.ones((6, 10), np.float32)])
    refused(opt, [grad], ValueError, f"clip_adaptive needs every row's gradient; {out}", clip_adaptive=0.1)
    opt = fo.optim.Adam([np.ones((6, 10), np.float32)], swa_start=1)
    refused(opt, [grad], ValueError, f"swa_start averages all rows over the same steps; {out}")
    opt = fo.optim.Adam([np.ones((6, 10), np.float32)], moments="8bit")
    refused(opt, [grad], ValueError, f"between 64 elements, which rows of 10 are no multiple of; {out}")


def test_the_table_of_lazy_rules_is_complete() -> None:
    """What this file tests is what the kernels allow."""
    taken = set()
    for name, rule in RULES.items():
        try:
            rule.make([np.ones((2, 2))], rule.plain).step([SparseRows(np.array([0]), np.ones((1, 2)))])
            taken.add(name)
        except ValueError:
            pass
    assert taken == {*LAZY}
    assert "coalesce" in dir(kernels)


# Torch


@pytest.mark.parametrize("name", ["SparseAdam", "SGD", "SGD with momentum", "Adagrad"])
def test_torch_takes_the_same_steps(name: str, rng: Generator) -> None:
    torch = pytest.importorskip("torch")
    weight = ordinary(rng, (40, 6))
    theirs = torch.nn.Parameter(torch.tensor(weight))
    make = {
        "SparseAdam": (
            lambda p: fo.optim.Adam(p, lr=0.1, betas=(0.8, 0.9), eps_hat=True),
            lambda p: torch.optim.SparseAdam(p, lr=0.1, betas=(0.8, 0.9)),
        ),
        "SGD": (lambda p: fo.optim.SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        "SGD with momentum": (
            lambda p: fo.optim.SGD(p, lr=0.1, momentum=0.9),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        ),
        "Adagrad": (
            lambda p: fo.optim.Adagrad(p, lr=0.1, lr_decay=0.1),
            lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1),
        ),
    }[name]
    ours, other = make[0]([weight]), make[1]([theirs])
    for _ in range(6):
        grad = rows_for(rng, weight, 20, "float64", exact=name == "SGD with momentum")
        indices = torch.tensor(grad.indices.astype(np.int64))[None]
        ours.step([grad])
        with torch.sparse.check_sparse_tensor_invariants():
            theirs.grad = torch.sparse_coo_tensor(indices, torch.tensor(grad.values), (40, 6))
            other.step()
        assert np.allclose(weight, theirs.detach().numpy(), rtol=1e-12, atol=1e-12)
