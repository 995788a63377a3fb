"""The optimizer around its kernels: it notices changes, finishes what it begins, and leaves nothing half done."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.random import Generator
from tables import CLASSES, OPTIMIZERS, Array, ordinary
from tools import bits, copies, everything

import fastopt as fo
from fastopt import functional as F
from fastopt import optim
from fastopt.optim import Optimizer

classes = pytest.mark.parametrize("name", CLASSES)
AVERAGED = {"ema_decay": 0.9, "l2_init": 0.01}


# Arrays in use by a kernel are held


def reshaped(p: Array) -> None:
    p.shape = (1, p.size)  # type: ignore[misc]


def recast(p: Array) -> None:
    p.dtype = np.dtype(f"i{p.itemsize}")  # type: ignore[misc]


def locked(p: Array) -> None:
    p.flags.writeable = False


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize("change", [reshaped, recast, locked])
@classes
def test_a_parameter_that_has_changed_since_is_an_error(
    name: str, change: Callable[[Array], None], rng: Generator
) -> None:
    """The change is one of shape, dtype or flag; after undoing it, the run continues."""
    p = ordinary(rng, (30, 40))
    opt, twin = CLASSES[name]([p], lr=0.1, **AVERAGED), p.copy()
    other = CLASSES[name]([twin], lr=0.1, **AVERAGED)
    for one in opt, other:
        one.step([np.ones((30, 40))])
    change(p)
    before = p.tobytes()
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: (params|grads)\[0\] (has|is read-only)"):
        opt.step([np.ones((30, 40))])
    assert p.tobytes() == before
    p.flags.writeable = True
    p.dtype = np.dtype(np.float64)  # type: ignore[misc]
    p.shape = (30, 40)  # type: ignore[misc]
    for one in opt, other:
        one.step([np.ones((30, 40))])
    assert bits([p]) == bits([twin])


@classes
def test_read_only_state_is_an_error(name: str, rng: Generator) -> None:
    opt = CLASSES[name](OPTIMIZERS[name].arrays(rng), lr=0.1, ema_decay=0.9, **OPTIMIZERS[name].richest)
    opt.step(OPTIMIZERS[name].arrays(rng))
    for key, array in opt.state[0].items():
        if key != "step":
            array.flags.writeable = False
            before = everything(opt)
            with pytest.raises(
                TypeError, match=rf"^{name}: {key}s\[0\] is read-only, but would be written; give a copy$"
            ):
                opt.step(OPTIMIZERS[name].arrays(rng))
            assert everything(opt) == before
            array.flags.writeable = True
    opt.step(OPTIMIZERS[name].arrays(rng))


# All or none


@pytest.mark.parametrize("strides", [(0, 8), (8, 0), (8, 8), (0, 0)])
def test_a_gradient_that_shares_elements_is_read_but_not_zeroed(strides: tuple[int, int]) -> None:
    g = as_strided(np.ones(2000), (300, 70), strides)
    p = np.ones((300, 70))
    opt = optim.SGD([p], lr=0.5)
    with pytest.raises(ValueError, match=r"^SGD: grads\[0\] has elements that share memory, and would be zeroed"):
        opt.step([g], zero_grads=True)
    assert (p == 1).all()
    opt.step([g], clip_norm=1e9)
    assert (p == 0.5).all()


# Any layout


def layouts(g: Array) -> dict[str, Array]:
    """The same numbers in other memory layouts."""
    wide = np.zeros((*g.shape[:-1], 3 * g.shape[-1] + 2), g.dtype)
    wide[..., 1 : 3 * g.shape[-1] + 1 : 3] = g
    return {
        "Fortran": np.asfortranarray(g),
        "flipped rows": g[::-1].copy()[::-1],
        "flipped": np.flip(np.flip(g).copy()),
        "every third": wide[..., 1 : 3 * g.shape[-1] + 1 : 3],
        "transposed": np.ascontiguousarray(g.T).T,
        "field": np.rec.fromarrays([g, g], names="a,b")["a"],
        "field of a packed record": np.rec.fromarrays([g.astype(np.int8), g], names="a,b")["b"],
        "bytes": np.frombuffer(bytearray(b"\0" + g.tobytes()), g.dtype, offset=1).reshape(g.shape),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor", "LAMB", "Muon", "ScheduleFreeAdamW"])
def test_gradients_of_any_layout_mean_the_same(name: str, dtype: str, rng: Generator) -> None:
    shape = (70, 35)
    g = ordinary(rng, shape, dtype)
    options = {"grad_scale": 2.0, "clip_norm": 1.0, "skip_nonfinite": True}
    wanted = ordinary(rng, shape, dtype)
    start = wanted.copy()
    CLASSES[name]([wanted], lr=0.1, noise=0.01, weight_decay=0.1).step([g], **options)
    for where, there in layouts(g).items():
        assert np.array_equal(there, g)
        for zero in False, True:
            p = start.copy()
            CLASSES[name]([p], lr=0.1, noise=0.01, weight_decay=0.1).step([there], **options, zero_grads=zero)
            assert p.tobytes() == wanted.tobytes(), where
        assert not there.any()
    row = np.broadcast_to(g[0], shape)
    p, q = start.copy(), start.copy()
    CLASSES[name]([p], lr=0.1).step([row])
    CLASSES[name]([q], lr=0.1).step([row.copy()])
    assert p.tobytes() == q.tobytes()


def test_interleaved_gradients_are_disjoint() -> None:
    both = np.ones((5, 8))
    params = [np.ones((5, 4)), np.ones((5, 4))]
    optim.SGD(params, lr=0.5).step([both[:, ::2], both[:, 1::2]], zero_grads=True)
    assert not both.any()
    assert bits(params) == bits([np.full((5, 4), 0.5)] * 2)
    with pytest.raises(ValueError, match=r"grads\[1\] would be zeroed, but overlaps grads\[0\]"):
        optim.SGD(params, lr=0.5).step([both[:, ::2], both[:, 2:6]], zero_grads=True)


def test_gradients_come_in_anything_that_is_iterated_over() -> None:
    layer = fo.nn.LayerNorm(3, dtype=np.float64)
    opt = optim.SGD(layer.params.values(), lr=0.5)
    for given in layer.grads.values(), (g for g in layer.grads.values()), tuple(layer.grads.values()):
        opt.step(given)
    p = [np.array(1.0), np.array(1.0, np.float32)]
    optim.SGD(p, lr=0.5).step([np.float64(1), np.float32(1)])
    assert [float(one) for one in p] == [0.5, 0.5]
    optim.SGD([{"params": p[:1]}, {"params": p[1:]}], lr=0.5).step(one for one in ([np.float64(1)], [np.float32(1)]))
    assert [float(one) for one in p] == [0.0, 0.0]
    with pytest.raises(TypeError, match=r"^SGD: grads must be a list like params, got ndarray"):
        optim.SGD([np.ones(2), np.ones(2)]).step(np.ones((2, 2)))


def test_masked_arrays_are_errors() -> None:
    m = np.ma.masked_array(np.ones(3), mask=[1, 0, 0])
    opt = optim.SGD([np.ones(3)], lr=0.1)
    with pytest.raises(TypeError, match=r"^SGD: grads\[0\] is a masked array, whose mask would be ignored"):
        opt.step([m])
    with pytest.raises(TypeError, match=r"^SGD: params\[0\] is a masked array"):
        optim.SGD([m])
    with pytest.raises(TypeError, match=r"^sgd: grads\[0\] is a masked array"):
        F.sgd([np.ones(3)], [m], step=1, lr=0.1)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"^layer_norm: x is a masked array"):
        F.layer_norm(m, 3)


# Changes are noticed


@pytest.mark.parametrize("wrap", [np.array, lambda lr: np.array([lr]), "torch"])
def test_a_hyperparameter_that_changes_in_place_is_seen(wrap: Any) -> None:
    if wrap == "torch":
        wrap = pytest.importorskip("torch").tensor
    lr, p = wrap(0.5), np.ones(1)
    opt = optim.SGD([p], lr=lr, momentum=0.0)
    opt.step([np.ones(1)])
    lr[...] = 0.25
    opt.step([np.ones(1)])
    opt.param_groups[0]["lr"] *= 2
    opt.step([np.ones(1)])
    assert p.tolist() == [-0.25]
    betas = (np.array(0.5), 0.999)
    q = np.ones(1)
    adam = optim.AdamW([q], betas=betas)  # type: ignore[arg-type]
    adam.step([np.ones(1)])
    betas[0][...] = 1.5
    with pytest.raises(ValueError, match="beta1 must be in"):
        adam.step([np.ones(1)])


@classes
def test_a_parameter_that_is_replaced_begins_anew(name: str, rng: Generator) -> None:
    """As in torch, the state belongs to the array.  Parameters that stay keep their state, wherever they move."""
    params = [ordinary(rng, (4, 3)) for _ in range(3)]
    twins = copies(params)
    opt = CLASSES[name](params, lr=0.1, **AVERAGED)
    opt.step([np.ones((4, 3))] * 3)
    new = ordinary(rng, (5, 2))
    opt.param_groups[0]["params"][0] = new
    opt.param_groups[0]["params"][1:] = opt.param_groups[0]["params"][:0:-1]
    here = params[0].copy()
    opt.step([np.ones((5, 2)), np.ones((4, 3)), np.ones((4, 3))])
    assert bits([params[0]]) == bits([here])
    assert [int(one["step"]) for one in opt.state] == [1, 2, 2]
    other = CLASSES[name](twins, lr=0.1, **AVERAGED)
    other.step([np.ones((4, 3))] * 3)
    other.step([None, np.ones((4, 3)), np.ones((4, 3))])
    assert bits(params[1:]) == bits(twins[1:])
    opt.param_groups[0]["params"][0] = [1.0]
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: params\[0\]"):
        opt.step([np.ones((5, 2)), np.ones((4, 3)), np.ones((4, 3))])
    opt.param_groups[0]["params"][0] = opt.param_groups[0]["params"][1]
    with pytest.raises(ValueError, match=rf"^{name}: params\[[01]\] would be written, but overlaps params\[[01]\]"):
        opt.step([np.ones((4, 3))] * 3)


def test_groups_that_come_and_go_are_seen(rng: Generator) -> None:
    params = [ordinary(rng, (3,)) for _ in range(3)]
    opt = optim.SGD([{"params": params[:1]}, {"params": params[1:2]}], lr=0.5, momentum=0.5)
    opt.step([[np.ones(3)], [np.ones(3)]])
    del opt.param_groups[0]
    with pytest.raises(ValueError, match=r"^SGD: grads has 2 lists, expected 1, one for each group$"):
        opt.step([[np.ones(3)], [np.ones(3)]])
    before = copies(params)
    opt.step([[np.ones(3)]])
    assert bits(params[:1]) == bits(before[:1])
    assert int(opt.state[0]["step"]) == 2
    opt.param_groups[0]["params"].append(params[2])
    assert opt.step([np.ones(3), np.ones(3)]).step == 3
    opt.param_groups.append({"params": [np.ones(3)]})
    with pytest.raises(ValueError, match=r"^SGD: param_groups\[1\] has no 'lr'; set it, or use add_param_group$"):
        opt.step([np.ones(3), np.ones(3)])
    opt.param_groups.pop()
    del opt.param_groups[0]["momentum"]
    with pytest.raises(ValueError, match=r"^SGD: param_groups\[0\] has no 'momentum'"):
        opt.step([np.ones(3), np.ones(3)])


def test_state_that_is_replaced_is_taken_over_or_refused() -> None:
    p = np.zeros(2)
    opt = optim.SGD([p], lr=1.0, momentum=0.5)
    opt.step([np.ones(2)])
    mine = np.full(2, 4.0)
    opt.state[0]["momentum_buffer"] = mine
    opt.step([np.zeros(2)])
    assert p.tolist() == [-3, -3]
    assert opt.state[0]["momentum_buffer"] is mine
    assert mine.tolist() == [2, 2]
    opt.state[0].update(momentum_buffer=np.full(2, 8, np.float32).astype(np.float64), step=7)
    opt.step([np.zeros(2)])
    assert (p.tolist(), int(opt.state[0]["step"])) == ([-7, -7], 8)
    for key, value, message in (
        (
            "momentum_buffer",
            np.zeros(3),
            r"momentum_buffer of params\[0\] in opt.state has shape \(3,\), expected \(2,\)",
        ),
        ("momentum_buffer", np.zeros(2, int), r"momentum_buffer of params\[0\] in opt.state has dtype int64"),
        ("momentum_bufer", np.zeros(2), r"opt.state has an unknown 'momentum_bufer' of params\[0\]"),
        ("step", -1, r"step of params\[0\] in opt.state must be an integer"),
        (
            "momentum_buffer",
            p,
            r"momentum_buffers\[0\] would be written, but overlaps params\[0\]|overlaps momentum_buffers",
        ),
    ):
        kept = dict(opt.state[0])
        opt.state[0][key] = value
        before = p.tolist()
        with pytest.raises((TypeError, ValueError), match=rf"^SGD: .*{message}"):
            opt.step([np.ones(2)])
        assert p.tolist() == before
        opt.state[0].clear()
        opt.state[0].update(kept)
    opt.state[0].clear()
    opt.step([np.ones(2)])
    assert int(opt.state[0]["step"]) == 1
    with pytest.raises(TypeError):
        opt.state[0] = {}  # type: ignore[index]


@pytest.mark.parametrize(("typo", "meant"), [("learning_rate", "lr"), ("momentun", "momentum"), ("beta1", "momentum")])
def test_misspelt_hyperparameters_are_refused(typo: str, meant: str, tmp_path: Path) -> None:
    opt = optim.SGD([np.ones(2)], lr=0.1)
    opt.param_groups[0][typo] = 3
    message = rf"^SGD: there is no {typo}; did you mean {meant}\b"
    for call in lambda: opt.step([np.ones(2)]), opt.state_dict, lambda: opt.save(tmp_path / "state"):
        with pytest.raises(ValueError, match=message):
            call()
    del opt.param_groups[0][typo]
    opt.step([np.ones(2)])
    with pytest.raises(TypeError, match=rf"^SGD: {typo} is not an attribute of an optimizer; .*\['{meant}'\] = 5$"):
        setattr(opt, typo, 5)
    with pytest.raises(TypeError, match=message):
        optim.SGD([np.ones(2)], **{typo: 5})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^SGD: lr is not an attribute of an optimizer"):
        opt.lr = 5


# Growth


def test_many_groups_and_many_states_take_time_in_proportion() -> None:
    """The test counts and does not time: each array is looked at a bounded number of times."""
    looks = 0

    class Counted(np.ndarray[Any, Any]):
        def __array_finalize__(self, obj: Any) -> None:
            nonlocal looks
            looks += 1

    def count(groups: int) -> int:
        nonlocal looks
        params = [np.ones(2).view(Counted) for _ in range(groups)]
        looks = 0
        opt = optim.SGD([{"params": [p], "lr": 0.1} for p in params], momentum=0.9)
        for p in params:
            opt.add_param_group({"params": [p.copy()]})
        opt.step([np.ones(2)] * (2 * groups))
        opt.load_state_dict(opt.state_dict())
        return looks

    assert count(200) <= 4.5 * count(50)


def test_zero_axes_are_kept() -> None:
    w = np.array(1.0, np.float32)
    opt = optim.Adam([w], lr=0.1, moments="bfloat16")
    for moments in "bfloat16", "8bit", None, "8bit":
        opt.param_groups[0]["moments"] = moments
        opt.step([np.array(1.0, np.float32)])
        assert w.shape == opt.state[0]["exp_avg"].shape == ()
    half = np.array(1.0, np.float16)
    for weights in "master", "kahan", "nearest":
        other = optim.SGD([half], lr=0.1, momentum=0.9, weights=weights, ema_decay=0.9)
        other.step([half.copy()])
        other.swap_ema()
        other.swap_ema()
        assert half.shape == other.ema_params[0].shape == ()


# Bugs found by sequences of calls


def test_gradients_come_in_groups_as_soon_as_there_are_groups() -> None:
    """It holds also if the change was followed by another call than a step, or if earlier steps took the fast path."""
    w, more, g = np.ones(3), np.ones(2), np.ones(3)
    opt = optim.SGD([w], lr=0.5)
    for _ in range(2):
        opt.step([g])
    opt.add_param_group({"params": {"bias": more}})
    opt.state_dict()
    opt.step([[g], {"bias": np.ones(2)}])
    del opt.param_groups[1]
    opt.state_dict()
    opt.step([[g]])
    np.testing.assert_array_equal(w, -1.0)
    np.testing.assert_array_equal(more, 0.5)


def test_a_key_in_place_of_another_is_an_error_that_names_it() -> None:
    opt = optim.Adam([np.ones(2)])
    opt.step([np.ones(2)])
    del opt.param_groups[0]["lr"]
    opt.param_groups[0]["rate"] = 0.1
    for call in (lambda: opt.step([np.ones(2)]), opt.state_dict, lambda: opt.ema_params):
        with pytest.raises(ValueError, match="unknown hyperparameter 'rate'"):
            call()


def test_a_new_dict_around_the_same_parameters_keeps_their_structure() -> None:
    """This holds at any position among the groups."""
    w, b = np.ones(2), np.ones(3)
    opt = optim.SGD([{"params": {"w": w}}, {"params": {"b": b}}], lr=0.5)
    opt.param_groups = [{**group} for group in reversed(opt.param_groups)]
    assert opt.ema_params[0].keys() == {"b"}
    opt.step([{"b": np.ones(3)}, {"w": np.zeros(2)}])
    assert (w.tolist(), b.tolist()) == ([1.0] * 2, [0.5] * 3)


# Bugs found from outside afterwards


def test_a_plan_that_has_been_replaced_takes_no_step() -> None:
    opt = optim.SGD([np.ones(3)], lr=0.5, momentum=0.9)
    opt.step([np.ones(3)])
    opt.step([np.ones(3)])
    old = opt._simple[0]
    opt.load_state_dict(opt.state_dict(copy=True))
    assert old.step_if_current(opt._turn, opt._simple, opt.param_groups, [np.ones(3)]) is None
    assert opt.step([np.ones(3)]).step == 3


def test_code_of_an_array_that_runs_during_the_checks_cannot_move_others() -> None:
    class Hostile(np.ndarray):
        def copy(self, order: Any = "C") -> Any:
            raise AssertionError("no code of a subclass runs")

        def fill(self, value: Any) -> Any:
            raise AssertionError("no code of a subclass runs")

    packed = np.zeros(50, np.dtype([("a", "u1"), ("g", "f4")]))
    packed["g"] = 2
    p = np.ones(50, "f")
    optim.SGD([p], lr=0.25).step([packed["g"].view(Hostile)], zero_grads=True)
    assert (p == 0.5).all()
    assert not packed["g"].any()
    weight = np.ones(12, "f")[::2].view(Hostile)
    assert F.layer_norm(np.ones((2, 6), "f"), 6, weight, weight)[0].shape == (2, 6)

    class Moves:
        def __float__(self) -> float:
            x.resize((1, 1), refcheck=False)
            return 1e-5

    x = np.ones((100, 1000), "f")
    with pytest.raises(ValueError, match=r"^layer_norm: x was changed while arguments were checked$"):
        F.layer_norm(x, 1000, None, None, Moves())  # type: ignore[arg-type]


def test_muon_takes_the_gradients_that_it_was_given() -> None:
    """It takes them even if the list changes between the parts of a step."""

    class Changing(list[Any]):
        def __iter__(self) -> Any:
            yield from [*super().__iter__()]
            self[:] = [None]

    w = np.zeros((4, 4))
    opt = optim.Muon([w], lr=0.1, weight_decay=0.0)
    opt.step(Changing([np.eye(4)]))
    assert (opt.state[0]["step"], bool(w.any())) == (1, True)


def test_every_entry_of_a_group_is_watched() -> None:
    opt = optim.SGD({"a": np.ones(3)}, lr=1.0)
    group = opt.param_groups[0]
    grads = {"a": np.ones(3)}
    opt.step(grads)
    names = group.pop("param_names")
    group["learning_rate"] = 3.0
    with pytest.raises(ValueError, match=r"^SGD: there is no learning_rate; did you mean lr \("):
        opt.step(grads)
    del group["learning_rate"]
    for wrong in ["x", "y"], 5:
        group["param_names"] = wrong
        with pytest.raises(ValueError, match=r"^SGD: param_names of param_groups\[0\] must be 1 strings, got"):
            opt.step(grads)
    group["param_names"] = names
    opt.step(grads)
    del names[0]
    with pytest.raises(ValueError, match=r"^SGD: param_names of param_groups\[0\] must be 1 strings, got"):
        opt.state_dict()
    names.append("a")
    group["initial_lr"] = "x"
    with pytest.raises(TypeError, match=r"^SGD: initial_lr must be a number, got 'x'$"):
        opt.step(grads)


def test_state_cannot_be_set_and_is_made_once() -> None:
    opt = optim.SGD([np.ones(2)], lr=0.1)
    with pytest.raises(AttributeError, match=r"^SGD: state cannot be set; "):
        opt.state = ()  # type: ignore[misc]
    assert opt.state is opt.state


def test_a_whole_group_may_have_no_gradients() -> None:
    p, q = np.ones(2), np.ones(3)
    opt = optim.SGD([{"params": [p]}, {"params": {"w": q}}], lr=0.5)
    opt.step([[np.ones(2)], None])
    assert (p[0], q[0]) == (0.5, 1.0)
    with pytest.raises(TypeError, match=r"^SGD: grads\[1\] must be the gradients of group 1, got ndarray$"):
        opt.step([[np.ones(2)], np.ones(3)])


def test_types_are_no_values_of_hyperparameters() -> None:
    for key, value in {"moments": np.float16, "lr": np.float32}.items():
        with pytest.raises(TypeError, match=rf"^AdamW: {key} must be a"):
            optim.AdamW([np.ones(3, "f")], **{key: value})


def test_no_decay_says_what_it_wants() -> None:
    for params in None, np.ones(2), 3:
        with pytest.raises(TypeError, match=r"^no_decay: params must be a list or dict of arrays, got"):
            optim.no_decay(params)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^no_decay: rule must be a function of a name and an array, got 0.1$"):
        optim.no_decay([np.ones(2)], 0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^no_decay: rule must return a bool, got ndarray for 0$"):
        optim.no_decay([np.ones(2)], lambda _, p: p > 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"^unpacked: state_dict must be the result of"):
        optim.unpacked({"state": {}, "param_groups": [], "fastopt": {}})


def test_a_bool_is_no_number() -> None:
    for call in fo.set_num_threads, lambda n: fo.threads(n).__enter__():
        with pytest.raises(TypeError, match=r"threads: n must be an integer, got True$"):
            call(True)
    x = np.ones(3, "f")
    for more in {"seed": True, "step": 1}, {"seed": 1, "step": np.True_}:
        with pytest.raises(TypeError, match=r"^dropout: (seed|step) must be an integer, got"):
            F.dropout(x, 0.5, training=True, **more)
    for eps in np.array(True), np.array("1"), np.complex64(1), np.ma.masked, np.timedelta64(1):
        with pytest.raises(TypeError, match=r"^layer_norm: eps must be a number, got"):
            F.layer_norm(x, 3, None, None, eps)  # type: ignore[arg-type]


# Between checks and the step


def test_a_parameter_that_moves_to_another_group_follows_its_hyperparameters() -> None:
    def make() -> tuple[Array, Array, Array, Optimizer]:
        a, b, c = np.zeros(1), np.zeros(1), np.zeros(1)
        opt = optim.SGD([{"params": [a, b], "lr": 1.0}, {"params": [c], "lr": 0.0}])
        opt.step([np.zeros(1)] * 3)
        return a, b, c, opt

    def move_in_place(opt: Optimizer) -> None:
        first, second = (group["params"] for group in opt.param_groups)
        second.insert(0, first.pop())

    def replace(opt: Optimizer) -> None:
        first, second = (group["params"] for group in opt.param_groups)
        opt.param_groups[0]["params"], opt.param_groups[1]["params"] = first[:1], first[1:] + second

    for move in move_in_place, replace:
        a, b, c, opt = make()
        move(opt)
        for lr in 0.0, 0.5:
            opt.param_groups[1]["lr"] = lr
            opt.step([np.ones(1)] * 3)
        assert (a[0], b[0], c[0]) == (-2.0, -0.5, -0.5)


# Arrays of the state that change in place


def test_state_that_is_reshaped_in_place_changes_nothing() -> None:
    def make(**options: Any) -> tuple[list[Array], Optimizer]:
        params = [np.ones((6, 4), np.float32), np.ones((6, 4), np.float32)]
        opt = optim.SGD(params, lr=0.1, momentum=0.9, ema_decay=0.5, **options)
        opt.step([np.ones((6, 4), np.float32)] * 2)
        return params, opt

    calls: list[Callable[[Optimizer], Any]] = [
        lambda opt: opt.swap_ema(),
        lambda opt: opt.using_ema().__enter__(),
        lambda opt: opt.state_dict(),
        lambda opt: opt.ema_params,
        lambda opt: opt.step([np.ones((6, 4), np.float32)] * 2),
        pickle.dumps,
    ]
    for key in "ema_param", "momentum_buffer":
        for call in calls:
            params, opt = make()
            array, before = opt.state[1][key], bits(params)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                array.shape = (4, 6)
                with pytest.raises(
                    ValueError, match=rf"^SGD: {key} of params\[1\] in opt.state has shape \(4, 6\), expected"
                ):
                    call(opt)
                assert bits(params) == before
                assert not opt._swapped
                array.shape = (6, 4)
            call(opt)

    halves = [np.ones((6, 4), np.float16), np.ones((6, 4), np.float16)]
    opt = optim.SGD(halves, lr=0.1, weights="kahan", ema_decay=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        halves[1].shape = (24,)
        for call in (*calls[:3], lambda opt: opt.step([np.ones((6, 4), np.float16), np.ones(24, np.float16)])):
            with pytest.raises(ValueError, match=r"^SGD: params\[1\] has shape \(24,\), and had \(6, 4\)"):
                call(opt)


def test_counts_are_checked_as_other_state_is() -> None:
    a, b = np.ones(2), np.ones(2)

    def make() -> Optimizer:
        opt = optim.Adam([a, b], lr=0.1)
        opt.step([np.ones(2)] * 2)
        return opt

    def refused(opt: Optimizer, error: type[Exception], message: str, call: Callable[[], Any] | None = None) -> None:
        before = bits([a, b])
        with pytest.raises(error, match=message):
            (call or (lambda: opt.step([np.ones(2)] * 2)))()
        assert bits([a, b]) == before

    opt = make()
    opt.state[1]["step"] = opt.state[0]["step"]
    refused(opt, ValueError, r"^Adam: step\[0\] would be written, but overlaps step\[1\]$")
    opt = make()
    opt.state[0]["step"] = a.view(np.int64)[0, ...]
    refused(opt, ValueError, r"^Adam: ")
    opt = make()
    opt.state[0]["step"].flags.writeable = False
    refused(opt, TypeError, r"^Adam: step\[0\] must be a writeable int64 array")
    for count in -1, 1 << 53, (1 << 63) - 1:
        opt = make()
        opt.state[1]["step"][...] = count
        refused(opt, ValueError, r"^Adam: step\[1\] must be in \[0, 2\*\*53\), got ")
        refused(opt, ValueError, r"^Adam: step of params\[1\] in opt.state must be in \[0, 2\*\*53\)", opt.state_dict)


# Numbers


@pytest.mark.parametrize(
    "lr", [Fraction(10**400), Decimal("sNaN"), Decimal("NaN"), np.timedelta64(1, "ns"), np.datetime64(1, "ns")]
)
def test_odd_numbers_are_refused_by_name(lr: Any) -> None:
    for make in (
        lambda: optim.SGD([np.ones(2)], lr=lr),
        lambda: F.sgd([np.ones(2)], [np.ones(2)], step=1, lr=lr),
        lambda: optim.SGD([np.ones(2)], lr=0.1).step([np.ones(2)], grad_scale=lr),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^(SGD|sgd): (lr|grad_scale) must be "):
            make()


def test_betas_and_scales_that_work_once_or_not_at_all_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^Adam: betas must be two numbers, got <generator"):
        optim.Adam([np.ones(2)], betas=(beta for beta in (0.9, 0.99)))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"^SGD: grad_scale must be large enough for 1 / grad_scale to be finite, got 1e-320$"
    ):
        optim.SGD([np.ones(2)], lr=0.1).step([np.ones(2)], grad_scale=1e-320)
    for options in {"ema_decay": 0.5}, {"l2_init": 0.1}, {}:
        with pytest.raises(
            TypeError, match=r"^SGD: params\[0\] has dtype float16; weights='correction' is for bfloat16"
        ):
            optim.SGD([np.ones(2, np.float16)], lr=0.1, weights="correction", **options)
