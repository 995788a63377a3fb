"""``docs/formats.md``: its bytes are those of real optimizers (``test_docs.py`` runs its examples)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tables import CLASSES, FORMATS

import fastopt as fo

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below the heading, without code marks."""
    table = re.search(rf"^## {heading}\n.*?^\|[-|]+\|\n(.*?)^$", PAGE, re.MULTILINE | re.DOTALL)
    assert table
    return [[cell.strip(' `"') for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


@pytest.mark.parametrize("row", rows("Bytes"), ids=lambda row: " ".join(row[:2]))
def test_bytes(row: list[str]) -> None:
    """The bytes of all arrays of AdamW are right in every format."""
    dtype, weights, beside, *bytes_of_moments = row
    for moments, written in zip((None, "bfloat16", "8bit"), bytes_of_moments, strict=True):
        param = np.zeros((10, 640), dtype)
        options: dict[str, Any] = {"weights": weights} if weights else {}
        if not written:
            with pytest.raises(TypeError, match=r"has dtype float64; moments=.* is for float32 and 16 bits"):
                fo.optim.AdamW([param], moments=moments, **options)
            continue
        (state,) = fo.optim.AdamW([param], moments=moments, **options).state
        arrays = {name: array for name, array in state.items() if name != "step"}
        assert written == f"{(param.nbytes + sum(array.nbytes for array in arrays.values())) / param.size:.3g}"
        name, _, its_dtype = beside.replace("`", "").partition(", ")
        more = {key: array.dtype.name for key, array in arrays.items() if not key.startswith("exp_avg")}
        assert more == ({name: its_dtype} if name else {})


def test_rules_without_moments_are_named() -> None:
    refused = set()
    for name, optimizer in CLASSES.items():
        try:
            optimizer([np.zeros((4, 4), np.float32)], moments="bfloat16")
        except ValueError:
            refused.add(name)
    (row,) = (row for row in rows("What is refused, and why") if "Rprop" in row[0])
    assert set(re.findall(r"`(\w+)", row[0])) == refused


def test_every_format_has_its_bytes() -> None:
    known = {(dtype, options.get("weights", "")) for dtype, options in FORMATS.values()}
    assert {(row[0], row[1]) for row in rows("Bytes")} == known | {("float64", "")}
