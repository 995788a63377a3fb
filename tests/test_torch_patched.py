"""Optimizers in torch's place that become torch's own in the middle of a run, where fastopt does not take what torch does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from beside_torch import one_thread, torch  # noqa: F401  # one_thread is for all tests here

import fastopt.torch
from fastopt.torch import _patch

RULES: dict[str, dict[str, Any]] = {
    "SGD": {},
    "SGD with momentum": {"momentum": 0.9, "nesterov": True},
    "Adam": {},
    "AdamW": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adagrad": {},
    "NAdam": {},
    "ASGD": {},
    "Rprop": {},
    "Adamax": {},
    "RAdam": {},
    "Adadelta": {},
}


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    yield
    fastopt.torch.unpatch()


def parameters() -> list[Any]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))]


def optimizer(rule: str, params: list[Any]) -> Any:
    return getattr(torch.optim, rule.split()[0])(params, lr=0.1, **RULES[rule])


def negative_rate(opt: Any, params: list[Any]) -> None:
    opt.param_groups[0]["lr"] = -0.05


def rate_that_is_no_number(opt: Any, params: list[Any]) -> None:
    opt.param_groups[0]["lr"] = float("nan")


def complex_group(opt: Any, params: list[Any]) -> None:
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))]})


def overlapping_group(opt: Any, params: list[Any]) -> None:
    memory = torch.zeros(6)
    opt.add_param_group({"params": [torch.nn.Parameter(memory[:4]), torch.nn.Parameter(memory[2:])]})


def memory_with_gaps(opt: Any, params: list[Any]) -> None:
    params[0].data = torch.ones(4, 6)[:, ::2]


CHANGES = [negative_rate, rate_that_is_no_number, complex_group, overlapping_group, memory_with_gaps]


def trained(rule: str, change: Callable[[Any, list[Any]], None]) -> Any:
    """An optimizer after six steps, before the fourth of which something is changed."""
    params = parameters()
    opt = optimizer(rule, params)
    for i in range(6):
        if i == 3:
            change(opt, params)
        for param in (param for group in opt.param_groups for param in group["params"]):
            param.grad = param.detach() / 3
        evaluated = [0]

        def closure(evaluated: list[int] = evaluated) -> float:
            assert torch.is_grad_enabled()
            evaluated[0] += 1
            return 1.5

        assert opt.step(closure) == 1.5
        assert evaluated == [1]
    return opt


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rule", RULES)
def test_it_goes_on_as_torchs(rule: str, change: Callable[[Any, list[Any]], None]) -> None:
    theirs = trained(rule, change)
    fastopt.torch.patch(only=["optim"])
    made = _patch.counts.left.copy()
    ours = trained(rule, change)
    assert type(ours) is type(theirs)
    copies = pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)
    fastopt.torch.unpatch()
    for one in (*copies, pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(one.state_dict()["state"], ours.state_dict()["state"], equal_nan=True)
    assert _patch.counts.left[type(theirs).__name__] == made[type(theirs).__name__] + 1
    torch.testing.assert_close(
        ours.state_dict()["state"],
        theirs.state_dict()["state"],
        rtol=1e-4,
        atol=1e-6,
        equal_nan=True,
        check_dtype=False,
    )  # NAdam's and ASGD's numbers are of float64 here
    for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
        torch.testing.assert_close(a["params"], b["params"], rtol=1e-4, atol=1e-6, equal_nan=True)


def test_a_schedule_that_ends_below_zero() -> None:
    fastopt.torch.patch(only=["optim"])
    (param, _) = params = parameters()
    opt = optimizer("SGD", params)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda epoch: 1 - epoch / 3)
    before, hooked = param.detach().clone(), [0]
    opt.register_step_post_hook(lambda *_: hooked.__setitem__(0, hooked[0] + 1))
    for _ in range(6):
        param.grad = torch.ones(4, 3)
        opt.step()
        schedule.step()
    assert hooked == [6]
    torch.testing.assert_close(before - param.detach(), torch.full((4, 3), 0.1 * (1 + 2 / 3 + 1 / 3 - 1 / 3 - 2 / 3)))


def test_a_state_that_only_torch_loads() -> None:
    params = parameters()
    state = optimizer("Adam", params).state_dict()
    state["state"][0] = {
        "step": torch.tensor(1.0),
        "exp_avg": torch.ones(4, 3),
        "exp_avg_sq": torch.ones(4, 3),
        "more": 1,
    }
    fastopt.torch.patch(only=["optim"])
    opt = optimizer("Adam", params)
    opt.load_state_dict(state)
    assert type(opt) is torch.optim.Adam.original
    assert opt.state[params[0]]["more"] == 1


def test_wrong_arguments_are_torchs_errors() -> None:
    fastopt.torch.patch(only=["optim"])
    opt = optimizer("AdamW", parameters())
    with pytest.raises(TypeError, match="param_group must be a dict"):
        opt.add_param_group([1])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        opt.load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(ValueError, match="clip_norm"):
        optimizer("AdamW", parameters()).step(clip_norm=-1.0)


def test_mistakes_leave_it_as_it_is() -> None:
    """What torch refuses, too, changes nothing: the optimizer stays fastopt's, and steps."""
    fastopt.torch.patch(only=["optim"])
    params = parameters()
    opt = optimizer("AdamW", params)

    def step() -> None:
        for param in params:
            param.grad = torch.ones_like(param)
        opt.step()

    step()
    with pytest.raises(ValueError, match="parameters appear in more than one parameter group"):
        opt.add_param_group({"params": [params[0]]})
    with pytest.raises(ValueError, match="different number of parameter groups"):
        opt.load_state_dict({"state": {}, "param_groups": []})
    opt.param_groups[0]["lr"] = "x"
    with pytest.raises(TypeError):
        step()
    opt.param_groups[0]["lr"] = 0.1
    step()
    assert type(opt) is torch.optim.AdamW and len(opt.param_groups) == 1
    assert float(opt.state[params[0]]["step"]) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", ["SGD with momentum", "Adam", "AdamW", "NAdam", "Adamax", "RAdam", "ASGD", "Adagrad"])
def test_states_of_16_bits_have_torchs_dtypes(rule: str, dtype: Any) -> None:
    def trained() -> Any:
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.ones(5, dtype=dtype))]
        opt = optimizer(rule, params)
        for i in range(4):
            if i == 2:
                opt.param_groups[0]["lr"] = -0.01
            params[0].grad = torch.full((5,), 0.5, dtype=dtype)
            opt.step()
        return opt

    theirs = trained()
    fastopt.torch.patch(only=["optim"])
    ours = trained()
    assert type(ours) is type(theirs)
    for mine, other in zip(ours.state_dict()["state"].values(), theirs.state_dict()["state"].values(), strict=True):
        assert {key: value.dtype for key, value in mine.items() if value.ndim} == {
            key: value.dtype for key, value in other.items() if value.ndim
        }
    torch.testing.assert_close(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], rtol=0.03, atol=0.03)


def test_a_state_that_processes_share() -> None:
    fastopt.torch.patch(only=["optim"])
    params = parameters()
    opt = optimizer("Adagrad", params)
    opt.share_memory()
    params[0].grad = torch.ones(4, 3)
    opt.step()
    assert opt.state[params[0]]["sum"].is_shared()
    assert bool((opt.state[params[0]]["sum"] == 1).all())
