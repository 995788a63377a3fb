"""The demo of saddles and local minima: its derivatives are right, and every method does what its picture says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastopt.cli import main

pytest.importorskip("rich", reason="the tables are rich's: pip install 'fastopt[demo]'")
pytest.importorskip("matplotlib", reason="the pictures are matplotlib's: pip install 'fastopt[demo]'")

from fastopt.cli.demo import escape

SURFACE = escape.Beacons()
LEFT, RIGHT, BOTTOM, TOP = escape.WINDOW
STARTS = np.random.default_rng(1).uniform((LEFT, BOTTOM), (RIGHT, TOP), (100, 2))


def by_name(name: str) -> escape.Method:
    (method,) = (method for method in escape.METHODS if method.name == name)
    return method


def share(name: str) -> float:
    """The share of the starts that end at the place."""
    return float(np.mean(SURFACE.arrived(escape.walk(by_name(name), SURFACE, STARTS, 400, seed=1).ends)))


def test_derivatives_are_the_surface_s() -> None:
    """They agree with central differences; single samples' gradients have the gradient as their mean."""
    for p in STARTS[:10]:
        whole = SURFACE.gradient(p)
        slopes = [(SURFACE.height(p + h) - SURFACE.height(p - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
        np.testing.assert_allclose(whole, slopes, rtol=1e-6, atol=1e-6)
        bends = [(SURFACE.gradient(p + h) - SURFACE.gradient(p - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
        np.testing.assert_allclose(SURFACE.hessian(p), bends, rtol=1e-5, atol=1e-5)
        singles = SURFACE.gradient(np.tile(p, (7, 1)), np.arange(7)[:, None])
        np.testing.assert_allclose(np.mean(singles, axis=0), whole, rtol=1e-9, atol=1e-9)


def test_single_samples_agree_at_the_place_only() -> None:
    (mirror, _) = escape.descend(SURFACE, np.array(escape.SHOWN))
    for p, alike in ((SURFACE.place, True), (mirror.point, False)):
        singles = SURFACE.gradient(np.tile(p, (7, 1)), np.arange(7)[:, None])
        assert np.allclose(singles, 0) == alike
        assert np.linalg.norm(SURFACE.gradient(p)) <= escape.TOLERANCE


def test_gradient_descent_stops_at_two_minima_and_a_saddle() -> None:
    stops = [escape.descend(SURFACE, np.array(start))[0] for start in ((1.0, 3.0), escape.SHOWN, SURFACE.ridge)]
    assert [stop.kind for stop in stops] == ["minimum", "minimum", "saddle"]
    heights = [SURFACE.height(stop.point) for stop in stops]
    assert heights[0] < 1e-9 < heights[1] < heights[2]
    assert SURFACE.arrived(stops[0].point) and not SURFACE.arrived(stops[1].point)
    for stop in stops:
        np.testing.assert_allclose(SURFACE.hessian(stop.point) @ stop.vectors, stop.values * stop.vectors, atol=1e-12)


def test_walks_end_where_the_pictures_say() -> None:
    shares = {method.name: share(method.name) for method in escape.METHODS}
    assert 0.4 < shares["gradient descent"] < 0.65 < shares["momentum"] < 0.9 < shares["annealed temperature"]
    assert shares["constant temperature"] < 0.4
    assert shares["single samples"] == 1
    assert shares["eight restarts"] > 0.95


@pytest.mark.parametrize("name", ["momentum", "single samples", "annealed temperature"])
def test_others_leave_the_saddle_long_before_gradient_descent(name: str) -> None:
    (saddle, _) = escape.descend(SURFACE, SURFACE.ridge)
    leaves = []
    for one in ("gradient descent", name):
        points = escape.walk(by_name(one), SURFACE, SURFACE.ridge[None], 250, seed=0).points
        left = SURFACE.height(points[:, 0]) < SURFACE.height(saddle.point) - escape.BELOW
        assert left.any()
        leaves.append(int(np.argmax(left)))
    assert leaves[1] < leaves[0] / 2


def test_restarts_keep_the_best() -> None:
    walks = escape.walk(by_name("eight restarts"), SURFACE, STARTS[:5], 80, seed=0)
    runs = walks.points.reshape(8, 11, 5, 2)
    np.testing.assert_array_equal(runs[0, 0], STARTS[:5])
    np.testing.assert_array_equal(SURFACE.height(walks.ends), SURFACE.height(runs[:, -1]).min(axis=0))


def test_only_noise_depends_on_the_seed() -> None:
    for method in escape.METHODS:
        one, again, other = (escape.walk(method, SURFACE, STARTS[:3], 16, seed=seed).points for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert np.array_equal(one, other) == (method.name in ("gradient descent", "momentum"))


def test_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "escape.png"
    argv = ["demo", "escape", "--starts", "20", "--steps", "40"]
    assert main([*argv, "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert all(method.name in out for method in escape.METHODS)
    assert all(text in out for text in ("20 starts", "40 steps each", "8 × 5", "saddle", "eigenvalues"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main([*argv, "--no-picture", "--seed", "3"]) == 0
    assert main(["demo", "escape", "--starts", "1", "--steps", "1", "--no-picture"]) == 0
    assert "–" in capsys.readouterr().out
