"""The program of the documentation's pictures: it draws, and every picture is there and stands on a page."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from tools import program

DOCS = Path(__file__).parents[1] / "docs"
pytest.importorskip("matplotlib", reason="the pictures need it")
pytest.importorskip("sklearn", reason="its digits are the data")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    return program(DOCS / "figures.py")


@pytest.mark.parametrize("name", ["momentum", "schedules"])
def test_pictures_are_drawn(figures: ModuleType, name: str, tmp_path: Path) -> None:
    figures.PICTURES[name](tmp_path / "folder" / f"{name}.png")
    assert (tmp_path / "folder" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_every_picture_is_on_a_page(figures: ModuleType) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    for name in figures.PICTURES:
        assert (DOCS / "images" / f"{name}.png").stat().st_size < 120_000
        assert f"](images/{name}.png)" in pages


def test_unknown_pictures_are_an_error(
    figures: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["figures.py", "momentun"])
    with pytest.raises(SystemExit):
        figures.main()
    assert "no picture momentun; there are momentum, " in capsys.readouterr().err
