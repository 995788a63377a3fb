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


# Memory of the state that somebody moves, as torch.multiprocessing does


@pytest.mark.parametrize("shared", ["step", "exp_avg", "step exp_avg exp_avg_sq"])
def test_a_state_in_shared_memory(shared: str) -> None:
    one, two = params(1, 3), params(1, 3)
    ours, theirs = optim.Adam(one), torch.optim.Adam(two)
    for i in range(300):
        step(ours, *one)
        step(theirs, *two)
        if i == 0:
            for name in shared.split():
                ours.state[one[0]][name].share_memory_()
    torch.testing.assert_close(ours.state_dict()["state"], theirs.state_dict()["state"])
    torch.testing.assert_close(one[0], two[0])
    torch.testing.assert_close(pickle.loads(pickle.dumps(ours)).state_dict()["state"], theirs.state_dict()["state"])


def test_a_state_that_went_to_another_process() -> None:
    (param,) = every = params(1, 100)
    opt = optim.Adam(every)
    step(opt, param)
    torch.multiprocessing.SimpleQueue().put(opt.state_dict())
    for _ in range(99):
        step(opt, param)
    state = opt.state_dict()["state"][0]
    assert float(state["step"]) == 100 and float(state["exp_avg"][0]) > 0.99


# Parameters of one number, and states of torch's in other layouts


@pytest.mark.parametrize("name", ["NAdam", "ASGD", "AdamW", "ScheduleFreeAdamW", "SGD"])
@pytest.mark.parametrize(("before", "after"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_one_number_of_another_dtype(name: str, before: Any, after: Any) -> None:
    def made(param: Any) -> Any:
        return getattr(optim, name)([param], lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))

    first = torch.nn.Parameter(torch.tensor(1.0, dtype=before))
    opt = made(first)
    step_of_one(opt, first)
    second = torch.nn.Parameter(first.detach().to(after))
    loaded = made(second)
    loaded.load_state_dict(opt.state_dict())
    opt.zero_grad()
    first.data = first.data.to(after)
    step_of_one(opt, first)
    step_of_one(loaded, second)
    assert first.dtype is after and first == second != 1


def step_of_one(opt: Any, param: Any) -> None:
    param.grad = torch.ones_like(param)
    opt.step()
    param.grad = None


def test_a_sparse_momentum_of_torchs() -> None:
    def grad() -> Any:
        return torch.sparse_coo_tensor([[1, 4]], torch.ones(2, 3), (7, 3), check_invariants=True)

    theirs = torch.nn.Parameter(torch.ones(7, 3))
    own = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for _ in range(2):
        theirs.grad = grad()
        own.step()
    assert own.state[theirs]["momentum_buffer"].is_sparse
    ours = torch.nn.Parameter(theirs.detach().clone())
    opt = optim.SGD([ours], lr=0.1, momentum=0.9)
    opt.load_state_dict(own.state_dict())
    for _ in range(2):
        theirs.grad, ours.grad = grad(), grad()
        own.step()
        opt.step()
    torch.testing.assert_close(ours, theirs)


def test_parameters_without_a_shape() -> None:
    with pytest.raises(TypeError, match=r"Adam: params\[0\] has no shape yet: run one batch"):
        optim.Adam(torch.nn.LazyLinear(3).parameters())
