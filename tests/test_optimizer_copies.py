"""Optimizers that are saved, loaded, pickled or copied, even with averages swapped in, come back unchanged."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import CLASSES, OPTIMIZERS, ordinary
from tools import bits, copies, everything

import fastopt as fo
from fastopt import optim, schedules

classes = pytest.mark.parametrize("name", CLASSES)

# Saved state can be loaded


CHANGES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"ema_decay": 0.9}) for name in CLASSES),
    *((name, {"swa_start": 1}) for name in ("SGD", "Muon", "ScheduleFreeSGD")),
    *((name, {"l2_init": 0.1}) for name in ("SGD", "AdamW")),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "velocity": True}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"moments": "bfloat16"}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
]


@pytest.mark.parametrize("stepped", [0, 2])
@pytest.mark.parametrize(
    ("name", "changes"), CHANGES, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_what_is_switched_on_before_it_is_saved_can_be_loaded(
    name: str, changes: dict[str, Any], stepped: int, tmp_path: Path, rng: Generator
) -> None:
    """The run continues as if it had not been saved."""
    params = [ordinary(rng, (4, 3), "float32")]
    opt = CLASSES[name](params, lr=0.1)
    for _ in range(stepped):
        opt.step([np.ones((4, 3), np.float32)])
    opt.param_groups[0].update(changes)
    opt.save(tmp_path / "state")
    twins = copies(params)
    other = CLASSES[name](twins, lr=0.1, **{key: value for key, value in changes.items() if key == "moments"})
    other.load(tmp_path / "state")
    for one in opt, other:
        one.step([np.full((4, 3), 0.5, np.float32)])
    assert everything(other) == everything(opt)


# What makes the count begin again, as the rule's states are new.
RESTARTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"momentum": 0.9}),
    ({}, {"momentum": 0.9, "velocity": True}),
    ({"momentum": 0.9}, {"velocity": True}),
    ({"momentum": 0.9, "velocity": True}, {"velocity": False}),
]
COMPANIONS: list[dict[str, Any]] = [
    {"ema_decay": 0.9},
    {"swa_start": 2},
    {"l2_init": 0.1},
    {"weights": "master"},
    {"weights": "kahan"},
    {"weights": "correction"},
    {"weights": "master", "ema_decay": 0.9, "l2_init": 0.1},
]


def by_state_dict(opt: Any, other: Any, path: Path) -> None:
    other.load_state_dict(opt.state_dict(copy=True))


def by_file(opt: Any, other: Any, path: Path) -> None:
    opt.save(path)
    other.load(path)


def by_run(opt: Any, other: Any, path: Path) -> None:
    fo.save(path, optimizer=opt)
    fo.load(path, optimizer=other)


@pytest.mark.parametrize("resume", [by_state_dict, by_file, by_run])
@pytest.mark.parametrize("stepped", [0, 3])
@pytest.mark.parametrize("companions", COMPANIONS, ids="-".join)
@pytest.mark.parametrize(("before", "after"), RESTARTS)
def test_what_has_begun_goes_on_where_the_count_begins_again(
    before: dict[str, Any],
    after: dict[str, Any],
    companions: dict[str, Any],
    stepped: int,
    resume: Callable[[Any, Any, Path], None],
    tmp_path: Path,
    rng: Generator,
) -> None:
    """Also where the weights are changed before the next step: what has not begun begins with them then."""
    dtype = "bfloat16" if "weights" in companions else "float32"
    params = [ordinary(rng, (4, 3), dtype)]
    opt = optim.SGD(params, lr=1e-3, **before, **companions)
    for _ in range(stepped):
        opt.step([np.full((4, 3), 0.5, np.float32)])
    opt.param_groups[0].update(after)
    twins = copies(params)
    other = optim.SGD(twins, lr=1e-3, **before, **companions)
    resume(opt, other, tmp_path / "state")
    assert everything(other) == everything(opt)
    for change in 0, 1:
        for one in opt, other:
            one.param_groups[0]["params"][0][...] += one.param_groups[0]["params"][0].dtype.type(change)
            one.step([np.full((4, 3), 0.5, np.float32)])
        assert everything(other) == everything(opt)


@pytest.mark.parametrize("weights", ["master", "kahan", "correction"])
def test_bits_beyond_16_are_converted_where_the_count_begins_again(weights: str, rng: Generator) -> None:
    params = [ordinary(rng, 12, "bfloat16")]
    opt = optim.SGD(params, lr=1e-3, weights="kahan")
    for _ in range(3):
        opt.step([np.full(12, 0.5, np.float32)])
    opt.param_groups[0]["momentum"] = 0.9
    other = optim.SGD(copies(params), lr=1e-3, weights=weights)
    other.load_state_dict(opt.state_dict(copy=True))
    opt.param_groups[0]["weights"] = weights
    for one in opt, other:
        one.step([np.full(12, 0.5, np.float32)])
    assert everything(other)["state"] == everything(opt)["state"]


def test_an_average_that_is_put_there_before_the_first_step_is_loaded() -> None:
    def average_after(load: bool) -> float:
        opt = optim.SGD([np.zeros(1)], lr=0.0, ema_decay=0.5)
        opt.state[0]["ema_param"] = np.ones(1)
        if load:
            state = opt.state_dict(copy=True)
            opt = optim.SGD([np.zeros(1)], lr=0.0, ema_decay=0.5)
            opt.load_state_dict(state)
        opt.step([np.zeros(1)])
        return float(opt.state[0]["ema_param"][0])

    assert average_after(load=True) == average_after(load=False) == 0.5


@pytest.mark.parametrize("bad", [3, {"0": 3}, {"0": [3]}, "all"])
def test_what_has_not_begun_is_named(bad: Any) -> None:
    opt = optim.SGD([np.zeros(1)])
    state = opt.state_dict(copy=True)
    state["fastopt"]["fresh"] = bad
    with pytest.raises(TypeError, match="SGD: fresh in state_dict must have lists of names"):
        opt.load_state_dict(state)


def test_averages_stay_where_a_checkpoint_has_none(rng: Generator) -> None:
    p, q = ordinary(rng, (3,)), ordinary(rng, (3,))
    plain, averaged = optim.Adam([p], lr=0.1), optim.Adam([q], lr=0.2, ema_decay=0.5)
    plain.step([np.ones(3)])
    averaged.load_state_dict(plain.state_dict())
    assert (averaged.param_groups[0]["ema_decay"], averaged.param_groups[0]["lr"]) == (0.5, 0.1)
    q[...] = here = p
    averaged.step([np.ones(3)])
    np.testing.assert_allclose(averaged.ema_params[0], (here + q) / 2)
    plain.load_state_dict(averaged.state_dict())
    assert plain.param_groups[0]["ema_decay"] == 0.5


def test_states_are_matched_by_name(rng: Generator) -> None:
    a = dict(q=np.ones(2), k=np.ones(2))
    opt = optim.SGD(a, lr=0.1, momentum=0.9)
    opt.step(dict(q=np.full(2, 1.0), k=np.full(2, 5.0)))
    b = dict(k=np.ones(2), q=np.ones(2))
    other = optim.SGD(b, lr=0.1, momentum=0.9)
    other.load_state_dict(opt.state_dict())
    assert [float(one["momentum_buffer"][0]) for one in other.state] == [5, 1]
    other.load_state_dict(opt.state_dict(), by_position=True)
    assert [float(one["momentum_buffer"][0]) for one in other.state] == [1, 5]
    renamed = optim.SGD(dict(query=np.ones(2), k=np.ones(2)), lr=0.1)
    with pytest.raises(ValueError, match=r"missing: 'query', unknown: 'q'.*by_position=True"):
        renamed.load_state_dict(opt.state_dict())
    renamed.load_state_dict(opt.state_dict(), by_position=True)
    flat = optim.SGD([np.ones(2), np.ones(2)], lr=0.1)
    flat.load_state_dict(opt.state_dict())
    assert [float(one["momentum_buffer"][0]) for one in flat.state] == [1, 5]

    groups = [{"params": {"w": np.ones(2)}, "lr": 0.5}, {"params": {"b": np.ones(2)}, "lr": 0.25}]
    opt = optim.SGD(groups, momentum=0.9)
    opt.step([{"w": np.full(2, 1.0)}, {"b": np.full(2, 2.0)}])
    other = optim.SGD([{"params": {"b": np.ones(2)}}, {"params": {"w": np.ones(2)}}], lr=1.0)
    other.load_state_dict(opt.state_dict())
    assert [
        (group["lr"], float(one["momentum_buffer"][0]))
        for group, one in zip(other.param_groups, other.state, strict=True)
    ] == [
        (0.25, 2),
        (0.5, 1),
    ]


def test_a_file_that_does_not_fit_leaves_the_schedule_too(tmp_path: Path) -> None:
    first = optim.SGD([np.ones(3)], lr=1.0, momentum=0.9)
    schedule = schedules.ExponentialLR(first, 0.5)
    for _ in range(4):
        first.step([np.ones(3)])
        schedule.step()
    first.save(tmp_path / "state", schedule)
    opt = optim.SGD([np.ones(4)], lr=1.0, momentum=0.9)
    other = schedules.ExponentialLR(opt, 0.5)
    opt.step([np.ones(4)])
    opt.param_groups[0]["params"][0] = np.ones(4)
    with pytest.raises(ValueError, match="shape"):
        opt.load(tmp_path / "state", other)
    assert (other.last_epoch, opt.param_groups[0]["lr"]) == (0, 1.0)
    with pytest.raises(ValueError, match=r"^SGD: schedule is that of another optimizer$"):
        opt.save(tmp_path / "other", schedule)
    for wrong in opt, schedules.StepLR:
        with pytest.raises(TypeError, match=r"^SGD: schedule must be a schedule, got"):
            opt.save(tmp_path / "other", wrong)


def test_what_a_step_accepts_can_be_saved(tmp_path: Path) -> None:
    for lr in Fraction(1, 4), Decimal("0.25"), np.longdouble(0.25), np.array(0.25):
        opt = optim.SGD({"a.b": np.ones(3), "a": {"b": np.ones(2)}}, lr=lr)
        opt.step({"a.b": np.ones(3), "a": {"b": None}})
        opt.save(tmp_path / "state")
        opt.load(tmp_path / "state")
        assert opt.param_groups[0]["lr"] == 0.25
    for betas in {0.9, 0.99}, {0.9: 1, 0.99: 2}:
        with pytest.raises(TypeError, match=r"^Adam: betas must be two numbers, got"):
            optim.Adam([np.ones(2)], betas=betas)  # type: ignore[arg-type]


def test_names_that_are_none_are_refused_as_such() -> None:
    opt = optim.SGD({"a": np.ones(3)}, lr=0.5)
    state = opt.state_dict(copy=True)
    for wrong in 5, ["b", "c"], [1]:
        state["param_groups"][0]["param_names"] = wrong
        with pytest.raises(
            ValueError, match=r"^SGD: param_names of group 0 of state_dict must be 1 different names, got"
        ):
            opt.load_state_dict(state)


def test_a_run_that_has_diverged_can_be_saved_and_loaded(tmp_path: Path) -> None:
    for options in {"lr": 1e200}, {"r": 400.0}:
        opt = optim.ScheduleFreeSGD([np.ones(2)], **options)  # type: ignore[arg-type]
        for _ in range(10):
            opt.step([np.ones(2)])
        assert not np.isfinite(opt.state[0]["weight_sum"])
        opt.save(tmp_path / "state")
        other = optim.ScheduleFreeSGD([np.ones(2)])
        other.load(tmp_path / "state")
        assert {key: one.tobytes() for key, one in other.state[0].items()} == {
            key: one.tobytes() for key, one in opt.state[0].items()
        }


def test_loading_while_swapped_changes_nothing(tmp_path: Path) -> None:
    p = np.ones(2)
    opt = optim.SGD([p], lr=0.1, ema_decay=0.5)
    schedule = schedules.StepLR(opt, 2)
    opt.step([np.ones(2)])
    opt.save(tmp_path / "state", schedule)
    opt.save(tmp_path / "without")
    opt.step([np.ones(2)])
    live = p.copy()
    opt.swap_ema()
    opt.param_groups[0]["params"][0] = np.zeros(2)
    for arguments in (tmp_path / "without",), (tmp_path / "state", schedule):
        with pytest.raises(ValueError, match="are swapped for their averages"):
            opt.load(*arguments)
    opt.param_groups[0]["params"][0] = p
    opt.swap_ema()
    assert np.all(p == live)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@classes
def test_what_begins_as_the_parameter_begins_with_the_first_step(name: str, dtype: str, rng: Generator) -> None:
    """Averages, masters and z start from the weights at the first step, even if these were filled in after the
    optimizer was made.
    """
    options = {"ema_decay": 0.5} | ({"weights": "master"} if dtype == "float16" else {})
    late, early = np.zeros((4, 3), dtype), ordinary(rng, (4, 3), dtype)
    opt = CLASSES[name]([late], lr=0.1, **options)
    other = CLASSES[name]([early], lr=0.1, **options)
    opt.step([None])
    opt.state_dict()
    late[...] = early
    assert np.array_equal(opt.ema_params[0], early)
    for _ in range(2):
        for one in opt, other:
            one.step([np.ones((4, 3), dtype)])
    assert late.tobytes() == early.tobytes()
    assert [a.tobytes() for a in opt.state[0].values()] == [a.tobytes() for a in other.state[0].values()]


# Pickles and copies


@classes
def test_optimizers_are_copied_with_their_parameters(name: str, rng: Generator) -> None:
    """This works by copy and by pickle, in the middle of a run, with a schedule; identities are kept."""
    params = OPTIMIZERS[name].arrays(rng)
    opt = CLASSES[name](params, lr=0.1, ema_decay=0.9, **OPTIMIZERS[name].richest)
    opt.step(OPTIMIZERS[name].arrays(rng))
    opt.accumulate(OPTIMIZERS[name].arrays(rng))
    for twice in lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy:
        twins, twin = twice((params, opt))
        assert twins[0] is twin.param_groups[0]["params"][0] is not params[0]
        assert everything(twin) == everything(opt)
        grads = OPTIMIZERS[name].arrays(np.random.default_rng(1))
        twin.accumulate(grads)
        twin.step()
        before = bits(params)
        assert bits(twins) != before
    opt.accumulate(grads)
    opt.step()
    assert everything(twin) == everything(opt)
    assert bits(twins) == bits(params)
    assert pickle.dumps(opt).find(b"fastopt.optim.") == -1
    assert type(opt).__module__ == "fastopt.optim"


def test_the_weights_of_micro_batches_are_copied() -> None:
    p = np.ones(2)
    opt = optim.SGD([p], lr=1.0)
    opt.accumulate([np.ones(2)], weight=3)
    for twin in pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt):
        with pytest.raises(ValueError, match="has no weight"):
            twin.accumulate([np.zeros(2)])
        twin.accumulate([np.zeros(2)], weight=1)
        twin.step()
        assert np.array_equal(twin.param_groups[0]["params"][0], [0.25, 0.25])


def test_a_swapped_optimizer_is_copied_as_it_is(rng: Generator) -> None:
    p = ordinary(rng, (5,), "float16")
    opt = optim.SGD([p], lr=0.1, ema_decay=0.5)
    opt.step([np.ones(5, np.float16)])
    before = everything(opt)
    opt.swap_ema()
    twin = copy.deepcopy(opt)
    for one in opt, twin:
        one.swap_ema()
    assert everything(twin) == everything(opt) == before


def test_an_entry_that_is_put_there_meanwhile_is_checked_in_a_copy_too() -> None:
    w = np.ones((2, 2))
    opt = optim.SGD([w], lr=1.0, momentum=0.5, ema_decay=0.5)
    opt.step([np.zeros((2, 2))])
    opt.swap_ema()
    opt.state[0]["momentum_buffer"] = np.array([[1.0, 2.0], [3.0, 4.0]], order="F")
    other = pickle.loads(pickle.dumps(opt))
    for one in opt, other:
        one.swap_ema()
        one.step([np.zeros((2, 2))])
        assert one.param_groups[0]["params"][0].tolist() == [[0.5, 0.0], [-0.5, -1.0]]


def test_parameters_that_are_replaced_while_they_are_swapped_are_refused_by_copies_too() -> None:
    """A pickle of such an optimizer could not be read."""
    w, b = np.ones(2), np.ones(3)
    opt = optim.SGD([{"params": [w]}, {"params": [b]}], lr=1.0, ema_decay=0.5)
    opt.step([[np.ones(2)], [np.ones(3)]])
    opt.swap_ema()
    group = opt.param_groups.pop()
    for call in (opt.swap_ema, lambda: pickle.dumps(opt), lambda: copy.deepcopy(opt)):
        with pytest.raises(ValueError, match="replaced while they are swapped"):
            call()
    opt.param_groups.append(group)
    params = group.pop("params")
    with pytest.raises(ValueError, match="replaced while they are swapped"):
        opt.swap_ema()
    group["params"] = params
    opt.swap_ema()
    assert (w.tolist(), b.tolist()) == ([0.0] * 2, [0.0] * 3)


# Averages that are swapped in


@pytest.mark.parametrize("name", ["SGD", "ScheduleFreeSGD"])
def test_a_read_only_parameter_stops_an_exchange_before_it_begins(name: str) -> None:
    params = [np.ones(2), np.ones(2)]
    opt = CLASSES[name](params, lr=0.1, ema_decay=0.5)
    opt.step([np.ones(2), np.ones(2)])
    opt.step([np.full(2, 9.0), np.full(2, 9.0)])
    before = copies(params)
    exchanges: list[Callable[[], None]] = (
        [opt.eval] if isinstance(opt, optim.ScheduleFreeSGD) else [opt.swap_ema, opt.using_ema().__enter__]
    )
    params[1].flags.writeable = False
    for exchange in exchanges:
        with pytest.raises(TypeError, match=rf"^{name}: params\[1\] is read-only, but would be written; give a copy$"):
            exchange()
        assert bits(params) == bits(before)
    params[1].flags.writeable = True
    exchanges[0]()
    assert bits(params) != bits(before)


def test_an_average_begins_once() -> None:
    """Setting the count back does not restart it, whether the average is read in between or not."""
    for looks in False, True:
        w = np.ones(2)
        opt = optim.SGD([w], lr=1.0, ema_decay=0.5)
        opt.step([np.ones(2)])
        opt.state[0]["step"][...] = 0
        if looks:
            assert opt.ema_params[0].tolist() == [0.5, 0.5]
        opt.step([np.ones(2)])
        assert opt.ema_params[0].tolist() == [-0.25, -0.25]


def test_weights_that_are_swapped_away_are_not_lost() -> None:
    """The average has not begun yet, and the caller writes to the parameters while it is swapped in."""
    w = np.ones(2)
    opt = optim.SGD([w], lr=1.0, ema_decay=0.5)
    opt.swap_ema()
    w[...] = 5.0
    assert opt.ema_params[0].tolist() == [1.0, 1.0]
    opt.swap_ema()
    assert w.tolist() == [1.0, 1.0]


def test_a_master_that_is_new_moves_with_the_view() -> None:
    """The master starts from the parameter before the change of view, and does not start again."""
    w = np.array([1.0, 2.0], np.float16)
    opt = optim.ScheduleFreeSGD([w], lr=0.1)
    for g in (3.0, 1.0), (1.0, 0.1):
        opt.step([np.array(g, np.float16)])
    opt.param_groups[0]["weights"] = "master"
    opt.state_dict()
    w[...] = 1.0, 2.0
    opt.eval()
    x = opt.state_dict()["state"][0]["master_param"].copy()
    z = opt.state[0]["z"]
    np.testing.assert_allclose(x, [1.0, 2.0] + (z - [1.0, 2.0]) * (1 - 1 / 0.9), 1e-6)
    assert not np.array_equal(x, w)
    opt.train()
    np.testing.assert_allclose(opt.state[0]["master_param"], [1.0, 2.0], 1e-6)


@pytest.mark.parametrize("bad", [np.zeros(3, np.float32), np.zeros((1, 3)), np.zeros(7), "average", None])
def test_what_was_swapped_away_is_not_exchanged_with_something_wrong(bad: Any) -> None:
    w = np.array([1.0, 2.0, 3.0])
    opt = optim.SGD([w], lr=1.0, ema_decay=0.5)
    opt.step([np.ones(3)])
    opt.swap_ema()
    weights = opt.state[0]["ema_param"]
    opt.state[0]["ema_param"] = bad
    for call in (opt.swap_ema, lambda: pickle.dumps(opt), lambda: copy.deepcopy(opt)):
        with pytest.raises((TypeError, ValueError), match="ema_param of params"):
            call()
    assert w.tolist() == [0.5, 1.5, 2.5]
    opt.state[0]["ema_param"] = weights
    opt.swap_ema()
    assert w.tolist() == [0.0, 1.0, 2.0]


def test_the_view_is_not_changed_while_averages_are_swapped() -> None:
    p = np.ones(4)
    opt = optim.ScheduleFreeSGD([p], lr=1.0, ema_decay=0.5)
    for g in 1.0, 0.3:
        opt.step([np.full(4, g)])
    y = p.copy()
    with opt.using_ema(), pytest.raises(ValueError, match="swap_ema"):
        opt.eval()
    assert (p == y).all()
    opt.eval()
    with opt.using_ema(), pytest.raises(ValueError, match="swap_ema"):
        opt.train()
    opt.train()
    np.testing.assert_allclose(p, y)


@pytest.mark.filterwarnings("ignore:Setting:DeprecationWarning")
@pytest.mark.parametrize("what", ["shape", "dtype", "removed", "other shape", "masked", "list"])
def test_averages_come_back_all_or_none(what: str) -> None:
    p = [np.ones(4, "f"), np.ones(4, "f")]
    opt = optim.SGD(p, lr=1.0, ema_decay=0.5)
    opt.step([np.ones(4, "f")] * 2)
    opt.swap_ema()
    state, average = opt.state[1], opt.state[1]["ema_param"]
    if what == "shape":
        p[1].shape = (2, 2)
    elif what == "dtype":
        p[1].dtype = "i4"  # type: ignore[assignment]
    elif what == "removed":
        del state["ema_param"]
    else:
        some = {"other shape": np.zeros(5, "f"), "masked": np.ma.masked_array(np.zeros(4, "f")), "list": ["a"]}
        state["ema_param"] = some[what]
    with pytest.raises((TypeError, ValueError), match=r"^SGD: .*params\[1\]"):
        opt.swap_ema()
    assert (p[0] == 0.5).all()
    if what == "shape":
        p[1].shape = (4,)
    elif what == "dtype":
        p[1].dtype = "f"  # type: ignore[assignment]
    else:
        state["ema_param"] = average
    opt.swap_ema()
    assert [float(one[0]) for one in p] == [0.0, 0.0]
