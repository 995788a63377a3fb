"""The style of the demo's pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, GREY, FAINT, BLUE, ORANGE = "#24292f", "#8c959f", "#d0d7de", "#1f6feb", "#d9480f"
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "figure.constrained_layout.w_pad": 0.12,
    "figure.dpi": 110,
    "font.size": 10,
    "grid.color": "#eaeef2",
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def picture(path: Path, columns: int, *, size: tuple[float, float], **grid: Any) -> Iterator[Any]:
    """A row of axes in the demo's style, which is written to ``path`` at the end; a missing folder is made."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure.subplots(1, columns, **grid)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def heading(figure: Any, title: str, handles: Sequence[Any], **layout: Any) -> None:
    """A bold title over a figure, with the legend below it."""
    figure.legend(
        handles=handles,
        title=title,
        title_fontproperties={"weight": "bold"},
        alignment="left",
        loc="outside upper left",
        **layout,
    )
