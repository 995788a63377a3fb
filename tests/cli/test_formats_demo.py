"""``fastopt demo formats``: the transformer's gradients are right, and with fewer bytes all formats but one learn as
much.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools import Each

from fastopt.cli import main

pytest.importorskip("sklearn", reason="the digits are scikit-learn's: pip install 'fastopt[demo]'")
pytest.importorskip("rich", reason="the tables are rich's: pip install 'fastopt[demo]'")
pytest.importorskip("matplotlib", reason="the pictures are matplotlib's: pip install 'fastopt[demo]'")

from fastopt.cli.demo import formats, transformer
from fastopt.cli.demo.network import Network, cross_entropy

Array = Any
CONTEXT = transformer.CONTEXT


@pytest.fixture(scope="module")
def text() -> transformer.Text:
    return transformer.Text.load()


def double(network: Network) -> Network:
    """The network in float64."""
    arrays = {id(array): array.astype(np.float64) for array in [*network.params.values(), *network.grads.values()]}

    def convert(layer: Any) -> None:
        for named in (layer.params, layer.grads):
            named.update({name: arrays[id(array)] for name, array in named.items()})
        for inner in getattr(layer, "layers", ()):
            convert(inner)

    convert(network)
    return network


# The text


def test_text_is_fixed_disjoint_and_readable(text: transformer.Text) -> None:
    again = transformer.Text.load()
    for one, other in zip(text, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.max() < len(transformer.CHARACTERS) == 96
    assert 200_000 < len(text.train) < 1_000_000
    assert len(text.valid) == pytest.approx(len(text.train) / 9, rel=1e-3)
    source = "".join(transformer.CHARACTERS[i] for i in text.train)
    assert "\nclass ArgumentParser(" in source and "\n    def choice(self, seq):\n" in source


def test_targets_are_the_characters_that_follow(text: transformer.Text) -> None:
    x, target = transformer.windows(text.train, np.array([0, 7, len(text.train) - CONTEXT - 1]))
    assert x.shape == (3, CONTEXT) and target.shape == (3 * CONTEXT, 96)
    np.testing.assert_array_equal(target.sum(axis=1), 1)
    following = target.argmax(axis=1).reshape(3, CONTEXT)
    np.testing.assert_array_equal(following[:, :-1], x[:, 1:])
    np.testing.assert_array_equal(following[:, -1], text.train[[CONTEXT, 7 + CONTEXT, -1]])


# The transformer


@pytest.fixture(scope="module")
def small() -> Network:
    """Two blocks in float64.  The weights are so large that every part matters, and the norms are not the identity."""
    network = double(transformer.build(0, width=16, blocks=2, heads=2))
    rng = np.random.default_rng(1)
    for name, param in network.params.items():
        param += (0.3 if param.ndim == 1 else 0.1) * rng.standard_normal(param.shape)
        assert name in network.grads
    return network


def test_gradients_are_the_loss_s(small: Network, text: transformer.Text) -> None:
    """The gradients agree with central differences along a random direction for each parameter."""
    rng = np.random.default_rng(0)
    x, target = transformer.windows(text.train, rng.integers(100_000, size=3))
    _, dlogits = cross_entropy(small.forward(x), target)
    small.backward(dlogits)
    assert len(small.params) == 2 + 2 * (2 + 2 + 2 + 2) + 3
    for name, param in small.params.items():
        grad = small.grads[name]
        direction = rng.standard_normal(param.shape) * np.sqrt(np.mean(np.square(grad)))
        direction += grad
        direction /= np.linalg.norm(direction)
        before, losses = param.copy(), []
        for step in (1e-6, -1e-6):
            param += step * direction
            losses.append(cross_entropy(small.forward(x), target)[0])
            param[...] = before
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(np.vdot(grad, direction), rel=1e-6), name


def test_attention_is_the_formula() -> None:
    rng, heads, size, texts = np.random.default_rng(0), 3, 5, 2
    attention = transformer.Attention(heads)
    x = rng.standard_normal((texts * CONTEXT, 3 * heads * size))
    q, k, v = (part.reshape(texts, CONTEXT, heads, size) for part in np.split(x, 3, axis=1))
    weights = np.exp(np.einsum("nihs,njhs->nhij", q, k) / np.sqrt(size)) * np.tri(CONTEXT)
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("nhij,njhs->nihs", weights, v).reshape(texts * CONTEXT, heads * size)
    for out in (None, np.empty_like(expected)):
        np.testing.assert_allclose(attention(x, out=out), expected, rtol=1e-12, atol=1e-12)


def test_nobody_sees_what_follows(small: Network, text: transformer.Text) -> None:
    x, _ = transformer.windows(text.train, np.array([0, 5000]))
    before = small.forward(x).copy().reshape(2, CONTEXT, -1)
    changed = x.copy()
    changed[1, 40:] = (changed[1, 40:] + 1) % 96
    after = small.forward(changed).reshape(2, CONTEXT, -1)
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1, :40], before[1, :40], rtol=1e-12, atol=1e-12)
    assert np.all(np.any(after[1, 40:] != before[1, 40:], axis=1))


def test_validation_in_other_sizes_leaves_no_trace(small: Network, text: transformer.Text) -> None:
    x, target = transformer.windows(text.train, np.array([0, 1000, 2000]))
    seen = []
    for _ in range(2):
        loss, dlogits = cross_entropy(small.forward(x), target)
        small.backward(dlogits)
        seen.append((loss, {name: grad.copy() for name, grad in small.grads.items()}))
        small.forward(transformer.windows(text.valid, np.arange(5))[0])
    assert seen[0][0] == seen[1][0]
    for name in small.grads:
        np.testing.assert_array_equal(seen[0][1][name], seen[1][1][name])


# The formats


BYTES = {
    "float32": 16,
    "float32, nudged": 16,
    "moments bfloat16": 12,
    "moments 8bit": 10,
    "weights nearest": 12,
    "weights stochastic": 12,
    "weights kahan": 14,
    "weights correction": 13,
    "weights master": 16,
    "correction + 8bit": 7,
    "master + bfloat16": 12,
}


def run(name: str, *, task: formats.Task | None = None, seed: int = 0, steps: int = 264) -> formats.Run:
    (kept,) = (one for one in formats.FORMATS if one.name == name)
    return formats.train(task or formats.Digits(), kept, seed, steps, lambda: None)


def test_all_formats_are_known() -> None:
    assert [one.name for one in formats.FORMATS] == list(BYTES)
    assert len({one.color for one in formats.FORMATS}) == len(BYTES)


def test_formats_have_their_bytes_and_all_but_the_plain_one_learn_as_well(each: Each) -> None:
    reference = run("float32")
    assert reference.size == BYTES["float32"]
    others = [name for name in BYTES if name != "weights nearest"]
    for name in each(["weights nearest", *each(others, by_day=4)]):
        one = run(name)
        # A scale is one byte for at most 64 numbers.
        assert BYTES[name] <= one.size < BYTES[name] + (0.04 if "8bit" in name else 1e-9)
        assert one.losses[0] == pytest.approx(reference.losses[0], rel=1e-2)
        assert one.train_loss < 0.5 * one.losses[0]
        if name == "weights nearest":
            assert one.train_loss > 1.5 * reference.train_loss and one.valid_loss > 1.2 * reference.valid_loss
        else:
            assert one.train_loss == pytest.approx(reference.train_loss, rel=0.02)
            assert one.valid_loss == pytest.approx(reference.valid_loss, rel=0.02)


@pytest.mark.parametrize("name", BYTES)
def test_seeds_decide(name: str) -> None:
    digits = formats.Digits()
    one, again, other = (run(name, task=digits, seed=seed, steps=8) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.losses, again.losses)
    assert one.valid_loss == again.valid_loss
    assert np.all(one.losses != other.losses)


def test_the_transformer_learns() -> None:
    one = run("float32", task=formats.Transformer(), steps=30)
    assert one.losses[0] == pytest.approx(np.log(96), rel=0.05)
    assert one.train_loss < 3.2 and one.valid_loss < 3.2


@pytest.mark.parametrize("task", [formats.Digits(), formats.Transformer()], ids=lambda task: task.name)
def test_batches_are_new_and_the_seed_s(task: formats.Task) -> None:
    some, again, others = (list(islice(task.batches(seed), 40)) for seed in (1, 1, 2))
    assert {len(x) for x, _ in some} == {task.size}
    assert len({x.tobytes() for x, _ in [*some, *others]}) == 80
    for (x, target), (same, targets) in zip(some, again, strict=True):
        np.testing.assert_array_equal(x, same)
        np.testing.assert_array_equal(target, targets)
    assert sum(len(x) for x, _ in task.valid()) >= 360


def test_beside() -> None:
    assert formats.beside(np.array([1.01, 2.06]), np.array([1.0, 2.0])) == "+2.00±1.41"
    assert formats.beside(np.array([0.5]), np.array([2.0])) == "-75.0"


def test_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, each: Each
) -> None:
    text = transformer.Text.load()
    monkeypatch.setattr(transformer.Text, "load", lambda: text._replace(valid=text.valid[:2000]))
    always = ["float32", "weights nearest", "correction + 8bit"]  # they have lines of their own in the picture
    some = [*always, *each([name for name in BYTES if name not in always], by_day=1)]
    monkeypatch.setattr(formats, "FORMATS", [one for one in formats.FORMATS if one.name in some])
    monkeypatch.setattr(
        formats, "FAMILIES", [[one for one in family if one.name in some] for family in formats.FAMILIES]
    )
    picture = tmp_path / "new" / "formats.png"
    argv = ["demo", "formats", "--steps", "2", "--epochs", "1", "--seeds", "2", "--output", str(picture)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"│ {name} " in out for name in some)
    assert all(part in out for part in ("33 steps · means of 2 seeds", "transformer · AdamW · 2 steps", "±", "7.03"))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_seed_has_no_deviation(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", [formats.FLOAT32])
    monkeypatch.setattr(formats, "FAMILIES", [[formats.FLOAT32]])
    assert main(["demo", "formats", "--steps", "1", "--epochs", "1", "--no-picture"]) == 0
    out = capsys.readouterr().out
    assert "one seed" in out and "±" not in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds", "0"], "argument --seeds: must be at least 1, got 0"),
        (["--steps", "-1"], "argument --steps: must be at least 1, got -1"),
        (["--epochs", "many"], "argument --epochs: must be a whole number, such as 12, got 'many'"),
        (["--output", "formats.jpg"], "argument --output: must end in .pdf, .png or .svg, got formats.jpg"),
    ],
)
def test_bad_options(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "formats", *argv])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
