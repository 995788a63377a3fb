"""What is changed between steps of fastopt.torch.optim: groups, hyperparameters, memory, and the state while averages are in use."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from fastopt.torch import optim  # noqa: E402

both = pytest.mark.parametrize("in_backward", [False, True])


def params(count: int, size: int = 1) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(size)) for _ in range(count)]


def step(opt: Any, *every: torch.Tensor) -> None:
    """A step with the gradients 1, 2, ..."""
    opt.zero_grad()
    torch.stack([(i + 1) * p.sum() for i, p in enumerate(every)]).sum().backward()
    opt.step()


def values(*every: torch.Tensor) -> list[float]:
    return [round(float(p.detach()[0]), 5) for p in every]


def grown(opt: Any) -> None:
    """Adds a group and takes it away."""
    opt.add_param_group({"params": params(1)})
    del opt.param_groups[-1]


# Groups


def other_list(groups: list[dict[str, Any]], opt: Any) -> None:
    opt.param_groups = groups[:1]


def other_dict(groups: list[dict[str, Any]], opt: Any) -> None:
    groups[0] = {**groups[0], "lr": 0.0}


def exchanged(groups: list[dict[str, Any]], opt: Any) -> None:
    groups[0]["params"], groups[1]["params"] = groups[1]["params"], groups[0]["params"]


def exchanged_in_place(groups: list[dict[str, Any]], opt: Any) -> None:
    one, two = groups[0]["params"], groups[1]["params"]
    one[0], two[0] = two[0], one[0]


@both
@pytest.mark.parametrize("change", [other_list, other_dict, exchanged, exchanged_in_place])
def test_groups_may_be_other_objects(change: Callable[..., None], in_backward: bool) -> None:
    def run(library: Any, **options: Any) -> list[float]:
        a, b = params(2)
        opt = library.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1, **options)
        step(opt, a, b)
        change(opt.param_groups, opt)
        step(opt, a, b)
        step(opt, a, b)
        return values(a, b)

    assert run(optim, in_backward=in_backward) == run(torch.optim)


def test_a_parameter_in_the_place_of_another_one_is_stepped_in_backward() -> None:
    a, b, other = params(3)
    opt = optim.SGD([a, b], lr=0.1, in_backward=True)
    step(opt, a, b)
    opt.param_groups[0]["params"][0] = other
    opt.step()  # takes up the new one
    step(opt, other, b)
    assert values(a, b, other) == [0.9, 0.6, 0.9]
    assert other.grad is None


def test_noise_of_parameters_that_are_stepped_in_backward_differs() -> None:
    a, b = params(2, 100)
    opt = optim.SGD([a, b], lr=1.0, noise=1.0, in_backward=True)
    step(opt, a, b)
    assert abs(float(torch.corrcoef(torch.stack([a.detach(), b.detach()]))[0, 1])) < 0.5


# Hyperparameters


@both
@pytest.mark.parametrize("event", [lambda opt: opt.load_state_dict(opt.state_dict()), lambda opt: None])
def test_none_counts_as_a_new_value(event: Callable[[Any], None], in_backward: bool) -> None:
    (a,) = params(1)
    opt = optim.SGD([a], lr=0.1, ema_decay=0.9, in_backward=in_backward)
    step(opt, a)
    event(opt)
    opt.param_groups[0]["ema_decay"] = None
    step(opt, a)
    assert values(opt.state[a]["ema_param"]) == [0.99]  # as it was


@pytest.mark.parametrize(
    "event",
    [
        lambda opt: opt.state_dict(),
        lambda opt: opt.add_param_group({"params": params(1)}),
        lambda opt: opt.param_groups.reverse(),
        copy.deepcopy,
    ],
    ids=["state_dict", "add_param_group", "reverse", "deepcopy"],
)
def test_a_refused_hyperparameter_leaves_no_trace(event: Callable[[Any], Any]) -> None:
    a, b = params(2)
    opt = optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1)
    step(opt, a, b)
    opt.param_groups[0]["lr"] = -1.0
    for _ in range(2):
        with pytest.raises(ValueError, match="lr must be finite and >= 0"):
            step(opt, a, b)
        opt.state_dict()
    opt.param_groups[0]["lr"] = 0.1
    event(opt)
    step(opt, a, b)
    assert values(a, b) == [0.8, 0.6]


@pytest.mark.parametrize("name", ["ema_decay", "momentum", "l2_init"])
@pytest.mark.parametrize(
    "event",
    [
        lambda opt, a: opt.load_state_dict(opt.state_dict()),
        lambda opt, a: setattr(a, "data", a.data.clone()),
        lambda opt, a: grown(opt),
        lambda opt, a: copy.deepcopy(opt),
    ],
    ids=["loaded", "moved", "grown", "deepcopy"],
)
def test_what_a_second_group_has_only_now(event: Callable[..., Any], name: str) -> None:
    def run(event: Callable[..., Any]) -> list[float]:
        a, b = params(2)
        opt: Any = optim.SGD([{"params": [a], name: 0.9}, {"params": [b]}], lr=0.1)
        step(opt, a, b)
        opt.param_groups[1][name] = 0.9
        opt = event(opt, a) or opt
        a, b = (p for group in opt.param_groups for p in group["params"])
        for _ in range(2):
            step(opt, a, b)
        return [*values(a, b), *(values(one)[0] for p in (a, b) for _, one in sorted(opt.state[p].items()) if one.ndim)]

    assert run(event) == run(lambda opt, a: None)


def test_hyperparameters_that_a_state_lacks_stay() -> None:
    a, b = params(2)
    opt = optim.SGD([{"params": [a], "l1": 0.5, "ema_decay": 0.9}, {"params": [b]}], lr=0.1)
    opt.load_state_dict(torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.2).state_dict())
    assert [(group["lr"], group["l1"], group["ema_decay"]) for group in opt.param_groups] == [
        (0.2, 0.5, 0.9),
        (0.2, 0.0, None),
    ]


def test_zero_grads_of_a_gradient_that_is_a_view_of_its_negative() -> None:
    (a,) = params(1, 2)
    a.grad = torch.view_as_complex(torch.ones(2, 2)).conj().imag
    assert a.grad.is_neg()
    optim.SGD([a], lr=0.1).step(zero_grads=True)
    assert values(a) == [1.1]
    assert a.grad.tolist() == [0, 0]


# Averages


def averaged(in_backward: bool) -> tuple[Any, torch.Tensor]:
    (a,) = params(1)
    opt = optim.SGD([a], lr=0.1, ema_decay=0.5, in_backward=in_backward)
    step(opt, a)
    step(opt, a)
    return opt, a


@both
def test_averages_come_to_where_parameters_are_by_now(in_backward: bool) -> None:
    opt, a = averaged(in_backward)
    a.data = a.data.clone()
    with opt.using_ema():
        assert values(a) == [0.875]
    assert values(a) == [0.8]


@both
def test_weights_come_back_to_where_parameters_are_by_now(in_backward: bool) -> None:
    opt, a = averaged(in_backward)
    with opt.using_ema():
        a.data = a.data.double()
        a.data = a.data.float()
    assert values(a) == [0.8]
    step(opt, a)
    assert values(a, opt.state[a]["ema_param"]) == [0.7, 0.7875]


def test_a_parameter_of_another_dtype_does_not_take_its_weights_back() -> None:
    opt, a = averaged(False)
    opt.swap_ema()
    a.data = a.data.double()
    with pytest.raises(ValueError, match=r"SGD: params\[0\] has another shape or dtype"):
        opt.swap_ema()
    a.data = a.data.float()
    opt.swap_ema()
    assert values(a) == [0.8]


def test_a_removed_group_keeps_its_weights() -> None:
    a, b = params(2)
    opt = optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1, ema_decay=0.5)
    step(opt, a, b)
    del opt.param_groups[0]
    with opt.using_ema():
        assert values(a, b) == [0.9, 0.9]


def test_eval_of_parameters_that_moved() -> None:
    def run(moved: bool) -> list[float]:
        (a,) = params(1)
        opt = optim.ScheduleFreeSGD([a], lr=0.1)
        for _ in range(3):
            step(opt, a)
        if moved:
            a.data = a.data.clone()
        opt.eval()
        return values(a)

    assert run(True) == run(False)


@both
def test_a_state_is_not_loaded_into_averages(in_backward: bool) -> None:
    opt, a = averaged(in_backward)
    state = copy.deepcopy(opt.state_dict())
    with opt.using_ema(), pytest.raises(ValueError, match="swapped for their averages"):
        opt.load_state_dict(state)
    assert values(a, opt.state[a]["ema_param"]) == [0.8, 0.875]


def test_weights_come_back_after_a_change_of_the_state() -> None:
    opt, a = averaged(False)
    with opt.using_ema():
        opt.state[a]["ema_param"] = opt.state[a]["ema_param"]
    assert values(a) == [0.8]


@pytest.mark.parametrize(
    ("state_dict", "error", "text"),
    [
        ([], TypeError, "SGD: state_dict must be a dict, got list"),
        ({}, ValueError, "SGD: state_dict has no 'state', which"),
        (
            {"state": {}, "param_groups": [], "fastopt": 3},
            TypeError,
            r"SGD: state_dict\['fastopt'\] must be a dict, got int",
        ),
    ],
)
def test_what_is_no_state_dict(state_dict: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        optim.SGD(params(1), lr=0.1).load_state_dict(state_dict)


def test_loading_adds_no_hyperparameter() -> None:
    for name in optim.__all__:
        cls = getattr(optim, name)
        if not isinstance(cls, type) or name == "Optimizer":
            continue
        opt = cls([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1)
        before = set(opt.param_groups[0])
        defaults = set(opt.defaults)
        opt.load_state_dict(opt.state_dict())
        for one in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
            assert set(one.param_groups[0]) == before, name
            assert set(one.defaults) == defaults, name
