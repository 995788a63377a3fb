"""What fastopt.torch.optim knows of a parameter beside torch's state: it stays with the parameter, whatever happens to groups and numbers."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from fastopt.torch import optim  # noqa: E402


def run_of(events: Callable[[Any, list[torch.Tensor]], Any], in_backward: bool = False, **later: Any) -> list[float]:
    """The weights and averages after six steps of SGD, in the middle of which ``events`` makes another optimizer of this one."""
    a, b = (torch.nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    opt: Any = optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1, in_backward=in_backward)
    for step in range(6):
        if step == 3:
            opt = events(opt, [a, b]) or opt
            for group in opt.param_groups:
                group.update(later)
        for group in opt.param_groups:
            for p in group["params"]:
                p.grad = torch.full_like(p, 0.5 + step)
        opt.step()
    params = [p for group in opt.param_groups for p in group["params"]]
    return [
        float(one.detach())
        for p in params
        for one in (p, *(v for k, v in sorted(opt.state[p].items()) if k == "ema_param"))
    ]


def reloaded(opt: Any, params: list[torch.Tensor]) -> Any:
    new = optim.SGD([{"params": [p]} for p in params], lr=0.1)
    new.load_state_dict(opt.state_dict())
    return new


def replaced(opt: Any, params: list[torch.Tensor]) -> None:
    for p in params:
        p.data = p.data.clone()


def grown(opt: Any, params: list[torch.Tensor]) -> None:
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    opt.state_dict()
    del opt.param_groups[-1]


@pytest.mark.parametrize(
    "later", [{"swa_start": 5}, {"ema_decay": 0.9, "ema_warmup": True}, {"noise": 1.0}], ids=lambda one: "-".join(one)
)
@pytest.mark.parametrize(
    "event",
    [
        reloaded,
        replaced,
        grown,
        lambda opt, params: copy.deepcopy(opt),
        lambda opt, params: pickle.loads(pickle.dumps(opt)),
    ],
    ids=["reloaded", "replaced", "grown", "deepcopy", "pickle"],
)
def test_a_count_that_torch_does_not_keep_goes_on(event: Callable[..., Any], later: dict[str, Any]) -> None:
    """torch's SGD has no count of steps; what is switched on later depends on it."""
    assert run_of(event, **later) == run_of(lambda opt, params: None, **later)


def begun_again(turn: Callable[[Any], Any]) -> list[float]:
    """An average of b goes on while its count has begun again; then ``turn`` changes the optimizer."""
    a, b = (torch.nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    opt: Any = optim.SGD([{"params": [a]}, {"params": [b], "ema_decay": 0.5}], lr=0.1)
    for step in range(5):
        a.grad, b.grad = torch.ones(1), torch.ones(1)
        if step == 3:
            opt.param_groups[1]["momentum"], b.grad = 0.9, None
        if step == 4:
            opt = turn(opt) or opt
            (b,) = (
                p for p in (q for group in opt.param_groups for q in group["params"]) if "ema_param" in opt.state[p]
            )
            b.grad = torch.ones(1)
        opt.step()
    return [float(b.detach()), float(opt.state[b]["ema_param"])]


def without_the_first(opt: Any) -> None:
    del opt.param_groups[0]


def turned(opt: Any) -> None:
    opt.param_groups.reverse()


def other_numbers(opt: Any) -> Any:
    state = copy.deepcopy(opt.state_dict())
    (first,), (second,) = (group["params"] for group in state["param_groups"])
    state["param_groups"][0]["params"], state["param_groups"][1]["params"] = [second], [first]
    state["state"] = {second: state["state"].get(first, {}), first: state["state"][second]}
    extra = state["fastopt"]
    for name in extra.keys() & {"fresh", "steps"}:
        extra[name] = {str(first + second - int(number)): one for number, one in extra[name].items()}
    new = optim.SGD(
        [{"params": group["params"], "ema_decay": group["ema_decay"]} for group in opt.param_groups], lr=0.1
    )
    new.load_state_dict(state)
    return new


@pytest.mark.parametrize("turn", [without_the_first, turned, other_numbers, copy.deepcopy])
def test_notes_belong_to_parameters(turn: Callable[[Any], Any]) -> None:
    assert begun_again(turn) == begun_again(lambda opt: None)


@pytest.mark.parametrize("in_backward", [False, True])
def test_averages_of_some_groups(in_backward: bool) -> None:
    a, b = (torch.nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    opt = optim.SGD([{"params": [a], "ema_decay": 0.5}, {"params": [b]}], lr=0.1, in_backward=in_backward)
    for _ in range(2):
        (a + b).sum().backward()
        opt.step()
    before = float(a.detach()), float(b.detach())
    with opt.using_ema():
        assert float(a.detach()) > before[0]
        assert float(b.detach()) == before[1]
    assert (float(a.detach()), float(b.detach())) == before
    opt.state_dict()
    (a + b).sum().backward()


def test_averages_that_were_just_switched_on() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    opt = optim.SGD([p], lr=0.1)
    p.grad = torch.ones(2)
    opt.step()
    opt.param_groups[0]["ema_decay"] = 0.5
    with opt.using_ema():
        assert torch.equal(p.detach(), torch.full((2,), 0.9))


def test_foreign_words_in_groups_of_any_rule() -> None:
    opt = optim.SGD([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="SGD: in a group: there is no epsilon; this rule does not divide by a root"):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "epsilon": 0.1})


def test_a_refused_step_keeps_no_gradient() -> None:
    p = torch.nn.Parameter(torch.ones(3, 2).t())
    opt = optim.SGD([p], lr=0.1)
    p.grad = torch.ones_like(p)
    alive = weakref.ref(p.grad)
    with pytest.raises(TypeError, match="clip_adaptive takes rows"):
        opt.step(clip_adaptive=0.1)
    p.grad = None
    gc.collect()
    assert alive() is None
