"""The demo of dropout: it trains, the variances shift where they should, and the shift can be repaired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastopt.cli import main

pytest.importorskip("sklearn", reason="the digits are scikit-learn's: pip install 'fastopt[demo]'")
pytest.importorskip("rich", reason="the tables are rich's: pip install 'fastopt[demo]'")
pytest.importorskip("matplotlib", reason="the pictures are matplotlib's: pip install 'fastopt[demo]'")

from fastopt import nn
from fastopt.cli.demo import dropout
from fastopt.cli.demo.digits import Digits

NONE, BEFORE, BEHIND = dropout.PLACES


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits.load()


@pytest.fixture(scope="module")
def runs(digits: Digits) -> dict[dropout.Place, list[dropout.Run]]:
    return {place: [dropout.train(place, digits, 0.5, 0, 15, lambda: None)] for place in dropout.PLACES}


def test_dropout_is_where_it_should_be() -> None:
    for place, following in ((NONE, []), (BEFORE, ["Linear"] * dropout.BLOCKS), (BEHIND, ["Linear"])):
        layers = dropout.build(place, 0.25, 3).layers
        drops = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Dropout)]
        assert [type(layers[i + 1]).__name__ for i in drops] == following
        assert all(isinstance(layers[i - 2], nn.BatchNorm) for i in drops)
        assert drops[-1:] == [len(layers) - 3] * bool(drops)
        assert sum(isinstance(layer, nn.BatchNorm) for layer in layers) == dropout.BLOCKS
        assert len({layers[i].seed for i in drops}) == len(drops)  # type: ignore[attr-defined]


def test_same_weights_to_begin_with() -> None:
    ours, theirs = (dropout.build(place, 0.5, 1).params for place in (BEFORE, BEHIND))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_variances_shift_behind_dropout_only(runs: dict[dropout.Place, list[dropout.Run]]) -> None:
    for place, (run,) in runs.items():
        assert run.valid_losses[-1] < 0.5 * run.valid_losses[0]
        shifted = place is BEFORE
        assert run.ratios[0] == pytest.approx(1, abs=0.05)
        assert all(0.4 < ratio < 0.8 if shifted else 0.9 < ratio < 1.1 for ratio in run.ratios[1:])


def test_new_statistics_repair_it(runs: dict[dropout.Place, list[dropout.Run]]) -> None:
    ((none,), (before,), (_,)) = runs.values()
    assert none.test.loss < before.repaired.loss < 0.95 * before.test.loss


def test_repaired_variances_are_those_of_evaluation(digits: Digits) -> None:
    network = dropout.build(BEFORE, 0.5, 0)
    first = dropout.shifts(network, digits.train.x)
    assert dropout.shifts(network, digits.train.x) == first  # looking changes nothing
    dropout.repair(network, digits.train.x)
    assert dropout.shifts(network, digits.train.x) == pytest.approx([1] * dropout.BLOCKS, rel=0.01)


def test_same_seed_same_run(digits: Digits, runs: dict[dropout.Place, list[dropout.Run]]) -> None:
    assert dropout.train(BEFORE, digits, 0.5, 0, 15, lambda: None) == runs[BEFORE][0]
    assert dropout.train(BEFORE, digits, 0.5, 1, 1, lambda: None).valid_losses != runs[BEFORE][0].valid_losses[:1]


def test_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "dropout.png"
    argv = ["demo", "dropout", "--epochs", "2", "--seeds", "2", "--p", "0.2", "--output", str(picture)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(place.name in out for place in dropout.PLACES)
    assert all(
        text in out for text in ("dropout 0.2", "2 epochs", "2 seeds", "variance at norm4", "repaired: loss", "±")
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main([*argv[:5], "1", "--no-picture"]) == 0
    assert "one seed" in capsys.readouterr().out


@pytest.mark.parametrize("p", ["1", "-0.1", "nan"])
def test_bad_probability(p: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "dropout", "--p", p])
    assert exit_.value.code == 2
    assert f"argument --p: must be in [0, 1), got {p}" in capsys.readouterr().err
