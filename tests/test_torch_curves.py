"""Whole training runs in torch, with fastopt's optimizers and modules and without: the same losses."""

from __future__ import annotations

from typing import Any

import pytest
from beside_torch import one_thread, torch  # noqa: F401  # one_thread is for all tests here

import fastopt.torch
from fastopt.torch.functional import _choice


def perceptron() -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU("tanh"), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5)
    )  # fmt: skip


def convolutions() -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8),
        nn.Flatten(), nn.Linear(8 * 2 * 2, 5),
    )  # fmt: skip


MODELS = {"perceptron": (perceptron, (64, 16)), "convolutions": (convolutions, (16, 1, 8, 8))}
RULES: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 1e-2, "weight_decay": 0.1},
    "SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
}


def losses_of(model: str, rule: str, dtype: Any, how: str) -> Any:
    """20 losses, with torch's default or fused optimizer, or with all of fastopt's that there is."""
    torch.manual_seed(0)
    make, shape = MODELS[model]
    network, loss_of = make().to(dtype), torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    x, labels = torch.randn(shape, dtype=dtype), torch.randint(5, shape[:1])
    kind = getattr(fastopt.torch.optim if how == "ours" else torch.optim, rule)
    optimizer = kind(network.parameters(), **RULES[rule], **({"fused": True} if how == "fused" else {}))
    if how == "ours":
        fastopt.torch.accelerate(network, fuse=True)
        fastopt.torch.accelerate(loss_of)
    losses = []
    with _choice.forced(True):
        for _ in range(20):
            loss = loss_of(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", MODELS)
def test_losses_are_torchs(model: str, rule: str) -> None:
    theirs = losses_of(model, rule, torch.float64, "default")
    assert float(theirs[-1]) < 0.8 * float(theirs[0])
    assert float((losses_of(model, rule, torch.float64, "ours") - theirs).abs().max()) < 1e-9
    single = losses_of(model, rule, torch.float32, "default")
    ours, fused = (
        float((losses_of(model, rule, torch.float32, how) - single).abs().max()) for how in ("ours", "fused")
    )
    # As near as two of torch's own, but for the rounding of modules that are replaced too.
    assert ours <= 2 * fused + 2e-6, (ours, fused)
