"""Each line of the pages about other libraries (docs/coming_from*.md) is run on both sides, and compared."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import elsewhere
import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

import fastopt as fo
from fastopt import functional as F
from fastopt import nn, optim, schedules

Array = NDArray[Any]
DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("coming_from", "coming_from_torch", "coming_from_keras", "coming_from_optax")
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="needs the pages")
NONE = ("none", "none that is equal")
ONLY_SAID = {"Arguments that every optimizer has", "Chains and wrappers", "scikit-learn"}  # with prose in some lines


class Line(NamedTuple):
    """A line of a table: the other library's code, and ours."""

    page: str
    section: str
    theirs: str
    ours: str


def lines() -> Iterator[Line]:
    for page in PAGES:
        path, section = DOCS / f"{page}.md", ""
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            if text.startswith("#"):
                section = text.lstrip("# ")
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", text)[1:-1]]
            if len(cells) == 3 and cells[0].startswith("`"):
                yield Line(page, section, cells[0], cells[1].strip("`"))


LINES = list(lines())
RUN = [line._replace(theirs=line.theirs.strip("`")) for line in LINES if line.ours not in NONE]


def rng_of(line: Line) -> np.random.Generator:
    return np.random.default_rng([*line.theirs.encode()])


def start(rng: np.random.Generator) -> Array:
    return rng.uniform(0.5, 2, (4, 3)) * rng.choice([-1, 1], (4, 3))


def rates(lr: float, count: int = 12) -> Iterator[float]:
    """Learning rates that change in the middle."""
    return (lr if t < count // 2 else lr / 4 for t in range(count))


# Optimizers


def optimizer_of(code: str, params: list[Array], **names: Any) -> Any:
    return eval(code, {**vars(optim), "params": params, "np": np, **names})


def compare_steps(
    line: Line, make: Callable[[Array], tuple[float, Callable[[Array, float], Array]]], **names: Any
) -> None:
    """``make`` returns their learning rate, and a function of a gradient and learning rate that returns their weights."""
    rng = rng_of(line)
    p = start(rng)
    lr, theirs = make(p.copy())
    opt = optimizer_of(line.ours, [p], **names)
    first = opt.param_groups[0]["lr"]
    for rate in rates(lr):
        g = rng.standard_normal(p.shape)
        opt.param_groups[0]["lr"] = rate * first / lr
        opt.step([g])
        assert_allclose(p, theirs(g, rate), rtol=1e-12, atol=1e-14)


def of_formula(line: Line, names: dict[str, Any]) -> None:
    def make(p: Array) -> Any:
        one, weights = eval(line.theirs, dict(names)), [p]

        def step(g: Array, lr: float) -> Array:
            weights[0] = one.step(weights[0], g, lr)
            return weights[0]

        return one.lr, step

    compare_steps(line, make)


def of_torch_optimizer(line: Line) -> None:
    torch = torch_or_skip()

    def make(p: Array) -> Any:
        weight = torch.nn.Parameter(torch.from_numpy(p))
        opt = eval(line.theirs, {**vars(torch.optim), "params": [weight]})

        def step(g: Array, lr: float) -> Array:
            weight.grad, opt.param_groups[0]["lr"] = torch.from_numpy(g), lr
            opt.step()
            return weight.detach().numpy()

        return opt.param_groups[0]["lr"], step

    torch.set_default_dtype(torch.float64)
    try:
        compare_steps(line, make)
    finally:
        torch.set_default_dtype(torch.float32)


def of_sklearn(line: Line) -> None:
    theirs = pytest.importorskip("sklearn.neural_network._stochastic_optimizers", reason="compares with scikit-learn")

    def make(p: Array) -> Any:
        opt = eval(line.theirs, {**vars(theirs), "params": [p]})

        def step(g: Array, lr: float) -> Array:
            opt.learning_rate = opt.learning_rate_init = lr
            opt.update_params([p], [g])
            return p

        return opt.learning_rate_init, step

    compare_steps(line, make)


NUMBERS = dict(lr=0.1, mu=0.9, rho=0.9, b1=0.9, b2=0.999, eps=1e-3, reg=0.1)


def of_numpy_step(line: Line) -> None:
    """Both learning rates are changed, by the same factor."""

    def make(p: Array) -> Any:
        known = {**NUMBERS, "np": np, "w": p, **{name: np.zeros_like(p) for name in "vsm"}, "t": 0}

        def step(g: Array, lr: float) -> Array:
            known.update(g=g.copy(), t=known["t"] + 1, lr=lr)  # type: ignore[operator]
            exec(line.theirs, known)
            return known["w"]  # type: ignore[return-value]

        return NUMBERS["lr"], step

    rng = rng_of(line)
    p = start(rng)
    _, theirs = make(p.copy())
    opt = optimizer_of(line.ours.replace("[w]", "params"), [p], **NUMBERS)
    first = opt.param_groups[0]["lr"]
    for rate in rates(1.0):
        g = rng.standard_normal(p.shape)
        opt.param_groups[0]["lr"] = rate * first
        opt.step([g])
        assert_allclose(p, theirs(g, rate * NUMBERS["lr"]), rtol=1e-12, atol=1e-14)


# Options of a step, seen in a step of SGD


def after(code: str, grads: list[Array], params: list[Array], **names: Any) -> list[Array]:
    """What a step with these options subtracts from the weights."""
    p = [one.copy() for one in params]
    opt = optim.SGD(p, lr=1.0)
    eval(f"opt.{code}", {"opt": opt, "grads": grads, **names})
    return [before - now for before, now in zip(params, p, strict=True)]


CLIPS: dict[str, Any] = dict(
    clipnorm=elsewhere.by_each_norm, global_clipnorm=elsewhere.by_global_norm, clipvalue=elsewhere.by_value,
    clip_by_global_norm=elsewhere.by_global_norm, clip=elsewhere.by_value, adaptive_grad_clip=elsewhere.by_unit,
)  # fmt: skip


def of_clip(line: Line) -> None:
    rng = rng_of(line)
    grads, params = [rng.standard_normal((4, 3)) for _ in range(2)], [start(rng) for _ in range(2)]
    if line.page == "coming_from":
        known = {"np": np, "g": grads[0].copy(), "c": 0.5, "n": 8.0}
        exec(line.theirs, known)
        expected, mine = [known["g"]], after(line.ours, grads, params[:1], g=grads[0], c=0.5, n=8.0)
    elif line.page == "coming_from_torch":
        torch = torch_or_skip()
        parameters = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
        for one, g in zip(parameters, grads, strict=True):
            one.grad = torch.from_numpy(g.copy())
        eval(line.theirs, {**vars(torch.nn.utils), "parameters": parameters})
        expected, mine = [one.grad.numpy() for one in parameters], after(line.ours, grads, params)
    else:
        code = re.sub(r"^(\w+)=(.*)$", r"\1(\2)", line.theirs)
        clip = eval(code, dict(CLIPS))
        expected = clip(grads, params) if "adaptive" in code else clip(grads)
        mine = after(line.ours, grads, params)
    close = 1e-12 if "value" in line.ours or "scale" in line.ours or line.page == "coming_from_torch" else 1e-5
    for a, b, g in zip(mine, expected, grads, strict=False):
        assert_allclose(a, b, rtol=close, atol=close)
        assert not np.allclose(b, g)


def of_chain(line: Line) -> None:
    """add_decayed_weights before or behind the rule."""
    coupled = "sgd" in line.theirs

    def make(p: Array) -> Any:
        of = elsewhere.optax_sgd() if coupled else elsewhere.optax_adam()
        weights = [p]

        def step(g: Array, lr: float) -> Array:
            q = weights[0]
            weights[0] = q - lr * (of(q, g + 0.1 * q) if coupled else of(q, g) + 0.1 * q)
            return weights[0]

        return 0.1, step

    compare_steps(line, make)


def test_averages_begin_as_the_pages_say() -> None:
    p, g = np.ones(2), np.ones(2)
    opt = optim.SGD([p], lr=0.1, ema_decay=0.99)
    average, after_first = p.copy(), None
    for _ in range(4):
        opt.step([g])
        average = 0.99 * average + 0.01 * p
        after_first = p.copy() if after_first is None else 0.99 * after_first + 0.01 * p
        assert_allclose(opt.ema_params[0], average, rtol=1e-12)
    assert after_first is not None
    assert not np.allclose(after_first, average, rtol=1e-6)


# Schedules


def lrs_of(opt: Any, schedule: Any, count: int = 20) -> list[float]:
    found = []
    for t in range(count):
        found.append(float(opt.param_groups[0]["lr"]))
        schedule.step(*([metric(t)] if "Plateau" in type(schedule).__name__ else []))
    return found


def metric(t: int) -> float:
    return 2.0 - 0.25 * t if t < 4 else 0.993 if t == 8 else 1.0  # once better, by less than the threshold


def keras_plateau(factor: float, patience: int, min_delta: float) -> list[float]:
    found, lr, best, wait = [], 0.1, math.inf, 0
    for t in range(20):
        found.append(lr)
        wait = 0 if metric(t) < best - min_delta else wait + 1
        best = metric(t) if wait == 0 else best
        if wait >= patience:
            lr, wait = lr * factor, 0
    return found


def of_schedule(line: Line) -> None:
    opt = optim.SGD([np.ones(2)], lr=0.1)
    made = eval(line.ours, {**vars(schedules), "opt": opt, "fo": fo, "cos": math.cos, "pi": math.pi})
    if line.page == "coming_from_torch":
        torch = torch_or_skip()
        its = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        theirs = eval(line.theirs, {**vars(torch.optim.lr_scheduler), "opt": its})
        its.step()
        expected = lrs_of(its, theirs)
    elif "Plateau" in line.theirs:
        expected = eval(line.theirs, {"ReduceLROnPlateau": keras_plateau})
    else:
        expected = [*map(eval(line.theirs, dict(elsewhere.SCHEDULES)), range(20))]
    assert_allclose(lrs_of(opt, made), expected, rtol=1e-12, atol=1e-15)
    assert len(set(expected)) > 1 or "constant" in line.theirs


# Layers


def doubled(module: Any = nn) -> dict[str, Any]:
    """The layers' classes, with parameters in float64."""
    made = {name: getattr(module, name) for name in module.__all__}
    return {
        name: partial(one, dtype=np.float64) if "dtype" in inspect.signature(one).parameters else one
        for name, one in made.items()
    }


def of_layer(line: Line) -> None:
    rng = rng_of(line)
    layer = eval(line.ours, doubled()) if line.ours != "cosine_norm" else lambda x: F.cosine_norm(x)[0]
    if line.page == "coming_from_keras":
        if "ropout" in line.ours:
            of_dropout(line, layer)
            return
        x = rng.standard_normal((3, 4, 6, 8))
        assert_allclose(layer(x), eval(line.theirs, dict(elsewhere.LAYERS))(x), rtol=1e-12, atol=1e-12)
        if "BatchNorm" in line.ours:
            n = x.size // 8
            assert_allclose(layer.buffers["running_mean"], 0.01 * x.mean((0, 1, 2)), rtol=1e-12)
            keras = 0.99 + 0.01 * x.var((0, 1, 2))
            assert_allclose(layer.buffers["running_var"] - 0.99, (keras - 0.99) * n / (n - 1), rtol=1e-10)
        return
    torch = torch_or_skip()
    its = eval(line.theirs, vars(torch.nn)).double()
    if "ropout" in line.ours:
        of_dropout(line, layer, its)
        return
    flat = "1d" in line.theirs or re.match(r"Linear|LayerNorm|RMSNorm", line.theirs)
    x = rng.standard_normal((5, 8) if flat else (3, 8, 4, 6))
    with torch.no_grad():
        for parameter in its.parameters():
            parameter += torch.from_numpy(rng.standard_normal(parameter.shape)) * 0.1
    if getattr(layer, "params", None):
        layer.load_state_dict(its.state_dict())
    of = torch.from_numpy(x).requires_grad_()
    y = its(of)
    dy = rng.standard_normal(tuple(y.shape))
    y.backward(torch.from_numpy(dy))
    assert_allclose(layer(x), y.detach().numpy(), rtol=1e-11, atol=1e-12)
    assert_allclose(layer.backward(dy), of.grad.numpy(), rtol=1e-9, atol=1e-11)
    for name, buffer in its.named_buffers():
        assert_allclose(layer.buffers[name], buffer.numpy(), rtol=1e-12)


def of_dropout(line: Line, layer: Any, its: Any = None) -> None:
    """Each side makes other zeros: their share, and what is kept, are compared."""
    last = "channel_axis=-1" in line.ours
    x = np.ones((200, 8, 8, 20) if last else (200, 20, 8, 8))
    results = [np.asarray(layer(x))]
    if its is not None:
        results.append(its(importlib.import_module("torch").from_numpy(x)).numpy())
    for y in results:
        if "Gaussian" in line.ours:
            assert_allclose([y.mean(), y.std()], [1, math.sqrt(0.25 / 0.75)], rtol=0.01)
            continue
        assert_allclose(y[y != 0], 1 / 0.75, rtol=1e-12)
        assert abs(np.mean(y == 0) - 0.25) < 0.03
        channels = y.reshape(200, -1, 20) if last else np.moveaxis(y.reshape(200, 20, -1), 1, 2)
        assert np.all(np.ptp(channels, axis=1) == 0) == ("Channel" in line.ours)


# Losses and functions


def of_loss(line: Line) -> None:
    rng = rng_of(line)
    x, real, share = rng.standard_normal((5, 4)), rng.standard_normal((5, 4)), rng.uniform(0, 1, (5, 4))
    share, label = share / share.sum(1, keepdims=True), rng.integers(4, size=5)
    targets = dict(real=real, share=share, label=label)

    def ours(x: Array) -> Any:
        code = re.sub(r"\b(\w+\(x, .*\))$", r"\1[0]", line.ours)
        return eval(code, {**vars(F), "x": x, "np": np, **targets})

    (target,) = (value for name, value in targets.items() if re.search(rf"\b{name}\b", line.ours))
    if line.page == "coming_from_torch":
        torch = torch_or_skip()
        of = torch.from_numpy(x).requires_grad_()
        its = {name: torch.from_numpy(value) for name, value in targets.items()}
        loss = eval(line.theirs, {**vars(torch.nn.functional), "x": of, **its})
        loss.backward()
        assert_allclose(ours(x), loss.item(), rtol=1e-12)
        assert_allclose(eval(line.ours, {**vars(F), "x": x, "np": np, **targets})[1], of.grad.numpy(), rtol=1e-11)
        return
    if line.page == "coming_from_keras":
        loss = eval(line.theirs, dict(elsewhere.LOSSES))
    else:
        name, _, rest = line.theirs.partition("(")
        loss = partial(elsewhere.LOSSES[name], **eval(f"dict({rest}" if rest else "dict()"))
    assert_allclose(ours(x), loss(x, target), rtol=1e-12)


def of_numpy_function(line: Line) -> None:
    rng = rng_of(line)
    x, running = rng.standard_normal((6, 4)), np.full(4, 0.5)

    def running_of(momentum: float) -> tuple[Array, Array]:
        mean, var = running.copy(), running.copy()
        F.batch_norm(x, mean, var, training=True, momentum=momentum)
        return mean, var

    known = dict(
        x=x, z=rng.standard_normal((6, 4)), k=rng.integers(4, size=6), eps=1e-3, F=F, np=np,
        gamma=rng.standard_normal(4), beta=rng.standard_normal(4), running=running, running_of=running_of,
    )  # fmt: skip
    mine = eval(line.ours, dict(known))
    exec(line.theirs, known)
    assert_allclose(mine, known["running" if line.theirs.startswith("running") else "y"], rtol=1e-12, atol=1e-15)


# Which lines are compared how


def torch_or_skip() -> Any:
    return pytest.importorskip("torch", reason="compares with torch")


def check_of(line: Line) -> Callable[[Line], None] | None:
    """The comparison for a line; ``None`` where a line has prose."""
    if line.ours.startswith("step("):
        return of_clip
    if line.section in ("Optimizers", "Aliases"):
        if line.page == "coming_from_torch":
            return of_torch_optimizer
        return partial(of_formula, names=elsewhere.KERAS if line.page == "coming_from_keras" else elsewhere.OPTAX)
    if line.section == "scikit-learn":
        return of_sklearn if "Optimizer(" in line.theirs else None
    if line.section == "NumPy by hand":
        return of_numpy_step if "([w]" in line.ours else of_numpy_function
    if line.theirs.startswith("chain("):
        return of_chain
    by_section = {"Schedules": of_schedule, "Layers": of_layer, "Losses": of_loss}
    return by_section.get(line.section)


@pytest.mark.parametrize("line", RUN, ids=lambda line: f"{line.page.removeprefix('coming_from_')}-{line.theirs}"[:70])
def test_a_line_is_true(line: Line) -> None:
    check = check_of(line)
    if check is None:
        assert line.section in ONLY_SAID
        return
    check(line)


def test_scikit_learns_alpha_is_divided_by_the_batch() -> None:
    neural_network = pytest.importorskip("sklearn.neural_network", reason="compares with scikit-learn")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal(8)

    def trained(lr: float) -> list[Array]:
        model = neural_network.MLPRegressor(
            hidden_layer_sizes=(2,), activation="identity", solver="sgd", momentum=0.0, alpha=0.5, batch_size=8,
            learning_rate_init=lr, shuffle=False, random_state=0,
        )  # fmt: skip
        model.partial_fit(x, y)
        return [*model.coefs_, *model.intercepts_]

    *w, b0, b1 = trained(1e-300)  # the initial weights
    hidden = x @ w[0] + b0
    d = (hidden @ w[1] + b1 - y[:, None]) / 8
    grads = [x.T @ (d @ w[1].T), hidden.T @ d, (d @ w[1].T).sum(0), d.sum(0)]
    optim.SGD(optim.no_decay([*w, b0, b1]), lr=0.1, weight_decay=0.5 / 8).step(grads)
    for mine, its in zip([*w, b0, b1], trained(0.1), strict=True):
        assert_allclose(mine, its, rtol=1e-12)


def test_scikit_learns_power_t_is_a_schedule() -> None:
    theirs = pytest.importorskip("sklearn.neural_network._stochastic_optimizers", reason="compares with scikit-learn")
    its = theirs.SGDOptimizer([np.ones(2)], learning_rate_init=0.1, lr_schedule="invscaling", power_t=0.5)
    opt, n, power_t = optim.SGD([np.ones(2)], lr=0.1), 50, 0.5
    schedule = schedules.LambdaLR(opt, lambda epoch: (epoch * n + 1) ** -power_t)
    for epoch in range(1, 4):
        its.iteration_ends(epoch * n)  # examples so far
        schedule.step()
        assert_allclose(opt.param_groups[0]["lr"], its.learning_rate, rtol=1e-12)


# Whether everything is there


def test_pages_have_every_class_of_ours() -> None:
    """torch's page has all schedules; the pages together have all layers and rules that other libraries have too."""
    text = {page: (DOCS / f"{page}.md").read_text(encoding="utf-8") for page in PAGES}
    of_torch, together = text["coming_from_torch"], " ".join(text.values())
    own = {"InverseSqrtLR", "LRScheduler", "PiecewiseLR", "WarmupCosineLR", "WarmupStableDecayLR"}
    assert [name for name in schedules.__all__ if name not in own and f"`{name}(" not in of_torch] == []
    own = {"ADOPT", "AdEMAMix", "Optimizer", "StepInfo", "SwitchOptimizer", "no_decay", "unpacked"}
    assert [name for name in optim.__all__ if name not in own and f"`{name}" not in together] == []
    own = {"Layer", "Sequential", "update_bn", "AddLayerNorm", "AddRMSNorm", "BatchNormAddReLU", "BatchNormReLU"}
    own |= {"BatchRenorm", "ScaleNorm"}
    assert [name for name in nn.__all__ if name not in own and f"`{name}" not in together] == []


def test_pages_have_every_class_of_torchs() -> None:
    torch = torch_or_skip()
    text = (DOCS / "coming_from_torch.md").read_text(encoding="utf-8")
    names = [name for name in torch.optim.__all__ if name != "Optimizer" and name[0].isupper()]
    schedulers = [name for name in torch.optim.lr_scheduler.__all__ if name != "LRScheduler"]
    assert [name for name in names + schedulers if name not in text] == []


def test_no_line_is_twice() -> None:
    assert len({(line.page, line.theirs) for line in LINES}) == len(LINES) > 150
