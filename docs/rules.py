"""A page for each rule: its formula, arguments, bytes of state, advice, and a picture of its path."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import fastopt as fo
from fastopt import optim
from fastopt.cli.demo.picture import BLUE, GREY, INK, ORANGE, STYLE
from fastopt.cli.demo.ravine import SHADES, Beale, Ravine, Saddle, Surface

Rule = Callable[..., optim.Optimizer]

ADVICE = {
    "SGD": "The first choice for convolutional networks with BatchNorm, with `momentum=0.9, nesterov=True` and a schedule that ends at 0. "
    "The learning rate must be tuned: try 0.01, 0.03, 0.1, 0.3.",
    "ASGD": "For convex problems in which the last iterate is noisy and the mean of the iterates is wanted. `swa_start` and `ema_decay` "
    "average the weights of any rule.",
    "Adagrad": "For sparse gradients of convex problems and of embeddings. Its rate only falls, and so a long training of a network stalls.",
    "RMSprop": "For reinforcement learning where recipes ask for it; otherwise Adam, which adds momentum and the correction of the first steps.",
    "Adadelta": "Needs no learning rate, and therefore cannot be told to go faster. Mostly of historical interest.",
    "Adam": "The safe first choice where L2 is wanted as part of the gradient, or no decay at all; with decay, take AdamW.",
    "AdamW": "The first choice for transformers, embeddings and whatever has layers of different kinds: `lr=1e-3`, `weight_decay=0.01`, "
    "with warm-up.",
    "Adamax": "Adam with the largest gradient in place of the mean square: steadier where gradients are rare and large.",
    "NAdam": "Adam with Nesterov's look ahead; worth a try where Adam is a little slow.",
    "RAdam": "Adam whose first steps are damped while its second moment is unreliable: for runs without warm-up.",
    "Rprop": "For small problems with all data in each step. It looks at signs only, and so mini-batches mislead it.",
    "Lion": "One number of state instead of Adam's two. Take a third to a tenth of AdamW's learning rate and three to ten times its decay.",
    "LAMB": "For batches of many thousands, in place of AdamW.",
    "LARS": "For batches of many thousands, in place of SGD with momentum.",
    "Adafactor": "For large matrices and little memory: its second moment is one number per row and one per column.",
    "Adan": "Four numbers of state. Its authors report fewer epochs than AdamW for vision transformers; measure whether it pays.",
    "AdEMAMix": "AdamW with a second, slow moving average, for long runs: old gradients still count after thousands of steps.",
    "ADOPT": "Adam that converges for every β₂, because a gradient is divided by the moment from before it came.",
    "ScheduleFreeSGD": "For runs whose length is not known. Call `opt.eval()` before evaluating, and `opt.train()` after it.",
    "ScheduleFreeAdamW": "For runs whose length is not known: once to ten times AdamW's learning rate and some `warmup_steps`. Call "
    "`opt.eval()` before evaluating, and `opt.train()` after it.",
    "Muon": "For the matrices inside of a network; AdamW for embeddings, norms, biases and the last layer. It takes matrices only.",
    "SwitchOptimizer": "Adam's fast beginning and SGD's end, at a step that is given or when SGD's projected rate has settled.",
}


def rates(rule: str) -> list[float]:
    """Learning rates to choose from."""
    wide = [1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0]
    return [*wide, 10.0, 100.0] if rule in ("Adadelta", "LARS") else wide


def constructor(name: str) -> Rule:
    """The rule as its picture shows it; what is changed is in the caption."""
    return partial(getattr(optim, name), **CHANGED.get(name, {}))


CHANGED: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "AdamW": {"weight_decay": 0.0},
    "RMSprop": {"alpha": 0.9},
    "Adadelta": {"eps": 3e-4},
    "LARS": {"momentum": 0.9},
    "AdEMAMix": {"weight_decay": 0.0},
    "SwitchOptimizer": {"switch_at": 25},
}


def path(rule: Rule, surface: Surface, lr: float, steps: int) -> np.ndarray[Any, Any]:
    """The points of a walk with the gradients of all samples: (steps + 1, 2)."""
    p, rows = np.array(surface.start), np.arange(surface.samples)
    opt = rule([p], lr=lr)
    points = [p.copy()]
    with np.errstate(all="ignore"):
        for _ in range(steps):
            opt.step([surface.gradient(p, rows)])
            points.append(p.copy())
            if not np.all(np.abs(p) < 1e6):
                break
    return np.array(points + points[-1:] * (steps + 1 - len(points)))


def best(rule: Rule, surface: Surface, choice: list[float], steps: int) -> tuple[float, np.ndarray[Any, Any]]:
    """The learning rate with the smallest mean height of the last tenth of its walk, and the walk."""
    found = []
    for lr in choice:
        points = path(rule, surface, lr, steps)
        with np.errstate(all="ignore"):
            height = float(np.mean(surface.height(points[-steps // 10 :])))
        found.append((height if np.isfinite(height) else np.inf, lr, points))
    _, lr, points = min(found, key=lambda one: one[:2])
    return lr, points


def draw(name: str, file: Path, steps: int = 200) -> None:
    """Draws a rule's path on three surfaces."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        surfaces: list[Surface] = [Ravine(np.random.default_rng(0)), Saddle(np.random.default_rng(0)), Beale()]
        for axes, surface in zip(figure.subplots(1, 3), surfaces, strict=True):
            lr, points = best(constructor(name), surface, rates(name), steps)
            left, right, bottom, top = surface.window
            grid = np.stack(np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200)), axis=-1)
            heights = np.log10(surface.height(grid) + 1e-3)
            axes.contourf(grid[..., 0], grid[..., 1], heights, levels=len(SHADES), colors=SHADES)
            axes.plot(points[:, 0], points[:, 1], color=BLUE, linewidth=1.2, marker=".", markersize=3)
            axes.plot(*surface.start, "o", color=INK, markersize=5)
            for minimum in surface.minima:
                axes.plot(*minimum, "*", color=ORANGE, markersize=11)
            axes.set(title=f"{surface.name}, lr {lr:g}", xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
            axes.spines[:].set_color(GREY)
            axes.grid(visible=False)
        figure.savefig(file, dpi=90)


def state_of(name: str) -> str:
    """The bytes of state for a matrix and for a vector, counted in a real optimizer after two steps."""
    rows = []
    for shape in [(512, 512)] if name == "Muon" else [(512, 512), (512,)]:
        for moments in (None, "bfloat16", "8bit"):
            w = np.zeros(shape, np.float32)
            try:
                opt = getattr(optim, name)([w], lr=1e-3, moments=moments)
            except (TypeError, ValueError):
                continue
            for _ in range(2):
                opt.step([np.ones_like(w)])
            arrays = {key: value for key, value in opt.state_dict()["state"][0].items() if getattr(value, "ndim", 0)}
            kinds = {re.sub("_scale$", "", key) for key in arrays}
            total = sum(value.nbytes for value in arrays.values()) / w.size
            what = ", ".join(f"`{kind}`" for kind in sorted(kinds)) or "none"
            label = "moments as computed" if moments is None else f'`moments="{moments}"`'
            rows.append(f"| float32 {' × '.join(map(str, shape))} | {label} | {what} | {total:.2f} |")
    return "\n".join(
        ["| parameter | format | arrays of state | bytes per number |", "|---|---|---|---|", *dict.fromkeys(rows)]
    )


def write(folder: Path) -> None:
    """Writes the pages of all rules and their index.  Files that would be the same, and pictures that are there, stay untouched:
    remove a picture to draw it anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in optim.__all__ if inspect.isclass(getattr(optim, name)) and name in ADVICE]
    for name in names:
        picture = ""
        if name != "Muon":  # which takes matrices only
            image = folder / f"{name}.png"
            if not image.exists():
                draw(name, image)
            changed = ", ".join(f"`{key}={value!r}`" for key, value in CHANGED.get(name, {}).items())
            picture = (
                f"## Its path\n\n![The path of {name} in a ravine, at a saddle and on Beale's function]({name}.png)\n\n"
                "200 steps from ● with gradients of all samples, at the learning rate of a coarse grid that ends lowest; ★ is a minimum"
                f"{'; with ' + changed if changed else ''}. `fastopt demo ravine` draws ten methods together.\n"
            )
        function = next((one for one in fo.functional.__all__ if one.replace("_", "") == name.lower()), "")
        text = f"""# {name}

{ADVICE[name]}

[What to begin with](../../choosing.md). [What all rules have in common](../../optimizers.md): clipping, decay, averages, formats.

```{{eval-rst}}
.. autoclass:: fastopt.optim.{name}
```

## State

{state_of(name)}

{picture}
"""
        if function:
            text += f"""## Without state

```{{eval-rst}}
.. autofunction:: fastopt.functional.{function}
```
"""
        put(folder / f"{name}.md", text)
    listed = "\n".join(names)
    rows = "\n".join(f"| [{name}]({name}.md) | {ADVICE[name]} |" for name in names)
    put(folder / "index.md", f"# Rules\n\n| | |\n|---|---|\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n")


def put(path: Path, text: str) -> None:
    """Writes a file unless it has this text already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def without_links_outside(text: str, page: Path) -> str:
    """The text of a page in which a link to a file outside of ``docs`` is the file's name."""
    root = Path(__file__).parent.resolve()

    def replaced(link: re.Match[str]) -> str:
        label, target = link.groups()
        if "://" in target or target.startswith("#"):
            return link[0]
        file = (page.parent / target.partition("#")[0]).resolve()
        if file.is_relative_to(root):
            return link[0]
        name = file.relative_to(root.parent).as_posix()
        plain = label.strip("`")
        return f"`{name}`" if name.endswith(plain) or plain.endswith(name) else f"{label} (`{name}`)"

    parts = re.split(r"(^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", replaced, part) for part in parts
    )
