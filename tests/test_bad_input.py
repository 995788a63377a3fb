"""Bad input: an error that names the argument, before anything is written.

The generated calls make every kind of mistake in every argument of every function and class, one at a time and several together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from good_calls import INVOCATIONS, Change, Path, arrays, busy, snapshot, update
from mistakes import assert_raises, mistakes_of, read_only
from tables import RULES
from tools import Each

from fastopt import functional as F
from fastopt import optim


@pytest.mark.parametrize("name", INVOCATIONS)
def test_every_mistake_in_an_argument_is_an_error(name: str, each: Each) -> None:
    for mistake in each(mistakes_of(name), by_day=12):
        assert_raises(name, {mistake.path: mistake.change})


@pytest.mark.parametrize("name", INVOCATIONS)
def test_several_mistakes_are_an_error(name: str, each: Each) -> None:
    """The mistakes are of different kinds in different places, because two mistakes of one kind may cancel out."""
    for seed in each(range(3), by_day=1):
        kinds: set[str] = set()
        changes: dict[Path, Change] = {}
        for i in np.random.default_rng(seed).permutation(len(mistakes_of(name))):
            mistake = mistakes_of(name)[i]
            apart = not any(mistake.path[: len(other)] == other[: len(mistake.path)] for other in changes)
            if len(changes) < 3 and apart and mistake.kind not in kinds and not mistake.kind.startswith("overlaps"):
                kinds.add(mistake.kind)
                changes[mistake.path] = mistake.change
        assert_raises(name, changes)


# What must not overlap, and flags


@pytest.mark.parametrize("rule", RULES)
def test_overlap_says_which_arrays(rule: str) -> None:
    a, b = arrays(rule)
    invocation = update(rule)
    good = invocation.arguments
    memory = np.zeros(a.size + 1, np.float32)
    twice = [memory[:-1].reshape(a.shape), memory[1:].reshape(a.shape)]
    alike = {
        name: [one[0] if one[0] is None else one[0].copy() for _ in twice]
        for name, one in good.items()
        if name in RULES[rule].new_states(busy(rule), [a])
    }
    with pytest.raises(ValueError, match=rf"^{rule}: params\[0\] would be written, but overlaps params\[1\]$"):
        invocation.call(**good | alike | {"params": twice, "grads": [a.copy(), a.copy()]})
    with pytest.raises(ValueError, match=rf"^{rule}: params\[1\] would be written, but overlaps grads\[1\]$"):
        invocation.call(**good | {"grads": [a.copy(), good["params"][1]]})
    optimizer = RULES[rule].optimizer([a, b])
    of_one = a.reshape(-1)[: b.size].reshape(b.shape)
    with pytest.raises(ValueError, match=r"params\[0\] would be written, but overlaps grads\[1\]$"):
        optimizer.step([None, of_one])
    for name, buffer in optimizer.state[0].items():
        if name != "step" and buffer.shape == a.shape:
            with pytest.raises(ValueError, match=rf"{name}s\[0\] would be written, but overlaps grads\[0\]$"):
                optimizer.step([buffer, None])
    with pytest.raises(ValueError, match=r"would be written, but overlaps params\["):
        optimizer.add_param_group({"params": [a[1:]]})


@pytest.mark.parametrize("rule", RULES)
def test_gradients_that_would_be_zeroed_are_checked(rule: str) -> None:
    """They must be writeable and must not overlap; gradients that are only read need neither."""
    params, grads = arrays(rule), arrays(rule)
    optimizer = RULES[rule].optimizer(params, lr=0.1)
    before = snapshot([params, optimizer])
    locked = [grads[0], read_only(grads[1])]
    with pytest.raises(
        TypeError, match=r"^\w+: grads\[1\] is read-only, but would be zeroed; give a copy, or zero_grads=False$"
    ):
        optimizer.step(locked, zero_grads=True)
    of_first = grads[0].reshape(-1)[: params[1].size].reshape(params[1].shape)
    with pytest.raises(ValueError, match=r"^\w+: grads\[[01]\] would be zeroed, but overlaps grads\[[01]\]$"):
        optimizer.step([grads[0], of_first], zero_grads=True)
    assert snapshot([params, optimizer]) == before
    assert grads[0].any()
    optimizer.step(locked)
    optimizer.step([grads[0], of_first])
    optimizer.step([grads[0], None], zero_grads=True)
    assert not grads[0].any()


@pytest.mark.parametrize("flag", ["skip_nonfinite", "zero_grads"])
@pytest.mark.parametrize("value", [None, [], "", 0.0, "no", np.zeros(2)])
def test_flags_of_a_step_are_checked(flag: str, value: Any) -> None:
    """They are checked even if no other option is given."""
    a, b = arrays()
    optimizer = optim.SGD([a], lr=0.1)
    with pytest.raises(TypeError, match=rf"^SGD: {flag} must be a bool, got "):
        optimizer.step([a.copy()], **{flag: value})
    with pytest.raises(TypeError, match=rf"^sgd: {flag} must be a bool, got "):
        F.sgd([b], [b.copy()], step=1, lr=0.1, **{flag: value})
    assert optimizer.state[0]["step"] == 0


def test_overlap_over_groups_is_found() -> None:
    """Each of the groups has a rule of its own."""
    a, b, g = (np.ones(5, np.float32) for _ in range(3))
    optimizer = optim.SGD([{"params": [a], "momentum": 0.0}, {"params": [b], "momentum": 0.9}], lr=0.1)
    for grads in ([g], [a]), ([b], [g]):
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=r"^SGD: params\[[01]\] would be written, but overlaps grads\[[01]\]$"):
            optimizer.step(grads)
        assert snapshot(optimizer) == before
