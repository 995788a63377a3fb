"""An optimizer and its twin, as test_state_machine.py drives them: how they are made, and the invariants after every
rule.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
)
from numpy.random import Generator
from tables import CLASSES, OPTIMIZERS, Array
from tools import everything, leaves

from fastopt import optim

ERRORS = (TypeError, ValueError)
DTYPES = ["float64", "float32", "float16", ml_dtypes.bfloat16]
FORMATS = ("weights", "moments", "moment_rounding", "ema_warmup", "swa_freq")  # load_state_dict may keep these
FLAG = [False, True]

# Values of hyperparameters; constructing a new optimizer shows whether a combination is legal.
VALUES: dict[str, list[Any]] = {
    "lr": [0.01, 0.0, 0.1, np.array(0.02), np.float32(0.25)],
    "weight_decay": [0.0, 0.1],
    "decoupled_weight_decay": [False, True, None],
    "fixed_decay": FLAG,
    "l1": [0.0, 0.01],
    "proximal_l1": [False, True, "lr"],
    "l2_init": [0.0, 0.05],
    "noise": [0.0, 0.1],
    "temperature": [0.0, 0.01],
    "seed": [0, 7],
    "ema_decay": [None, 0.5, 0.9],
    "ema_warmup": FLAG,
    "swa_start": [None, 1, 3],
    "swa_freq": [1, 2],
    "maximize": FLAG,
    "weights": ["stochastic", "nearest", "kahan", "correction", "master"],
    "moments": [None, "bfloat16", "8bit"],
    "moment_rounding": ["stochastic", "nearest"],
    "momentum": [0.0, 0.5, 0.9],
    "dampening": [0.0, 0.5],
    **dict.fromkeys(("nesterov", "velocity", "amsgrad", "centered", "eps_hat"), FLAG),
    "betas": [(0.5, 0.9), [0.6, 0.9], [0.6, 0.5, 0.9], (0.9, 0.99), (0.9, 0.5, 0.99), (np.float32(0.5), 0.75)],
    "eps": [1e-8, 1e-3, (None, 1e-3)],
    "warmup_steps": [0, 3],
}


def strided(g: Array) -> Array:
    wide = np.zeros((*g.shape, 2), g.dtype)
    wide[..., 0] = g
    return wide[..., 0]


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": np.copy,
    "Fortran": lambda g: np.copy(g, order="F"),
    "flipped": lambda g: np.flip(np.flip(g).copy())[...],
    "strided": strided,
}


BAD_VALUES: list[tuple[str, Any]] = [
    *(("lr", bad) for bad in (-1.0, np.nan, "fast", None, True, (0.1,))),
    *(("learning_rate", 0.1), ("moment", "8bit"), ("seed", -1), ("maximize", 1), ("weights", "most"), ("swa_start", 0)),
    *(("ema_decay", 1.5), ("weight_decay", -0.1), ("l2_init", np.inf), ("moments", "16bit")),
]
OPTIONS: list[dict[str, Any]] = [
    *({}, {"clip_norm": 1.0}, {"clip_value": 0.5}, {"clip_param_norm": 1.0}),
    *({"clip_adaptive": 0.1}, {"grad_scale": 4.0}),
    *({"zero_grads": True}, {"skip_nonfinite": True}, {"skip_nonfinite": True, "zero_grads": True, "clip_norm": 2.0}),
]
BAD_OPTIONS: list[dict[str, Any]] = [
    *({"clip_norm": 1.0, "clip_value": 1.0}, {"grad_scale": 0.0}, {"zero_grads": 1}, {"clip_norm": np.nan}),
]
BAD_LOADS = (
    *("class", "no groups", "groups", "fewer parameters", "more parameters", "parameters of no group"),
    *("unknown buffer", "text", "negative step", "several steps", "unknown hyperparameter"),
    *("lr", "lr that is text", "count", "fastopt"),
)
BAD_GRADS: dict[str, Callable[[Array, Array], Any]] = {
    "shape": lambda g, p: np.zeros((*g.shape, 2), g.dtype),
    "dtype": lambda g, p: g.astype(np.int64),
    "wide": lambda g, p: g.astype(np.float32 if p.dtype == np.float64 else np.float64),
    "masked": lambda g, p: np.ma.masked_array(g, mask=np.ones(g.shape, bool)),
    "object": lambda g, p: "gradient",
    "parameter": lambda g, p: p if p.size else "parameter",
}


def arranged(form: str, some: list[Any]) -> Any:
    """Parameters or gradients in the structure of one group."""
    if form == "dict":
        return {f"p{i}": one for i, one in enumerate(some)}
    if form == "nested":
        return {"first": some[0], "rest": [{"w": one} for one in some[1:]]}
    return [{"w": one} for one in some] if form == "dicts" else list(some)


def outline(tree: Any) -> Any:
    """A structure with shapes in place of arrays."""
    if isinstance(tree, np.ndarray):
        return tree.shape
    return {k: outline(v) for k, v in tree.items()} if isinstance(tree, dict) else [outline(one) for one in tree]


def traces(opt: Any) -> dict[str, Any]:
    """Everything that a failing call must not change; except the contents of states that start as the parameter."""
    found = everything(opt, False)
    for record, one in zip(opt._records, found["state"], strict=True):
        for key in record.fresh[1] if record.is_fresh() else ():
            if key in one and record.state[key] is record.seen[key]:
                one[key] = one[key][:2]
    return found


def drawn(rng: Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


seeds, numbers, flags = st.integers(0, 999), st.integers(0, 11), st.booleans()


class Pair(RuleBasedStateMachine):
    """An optimizer ``opt`` and its twin."""

    opt: Any
    twin: Any
    steps: ClassVar[int] = 0  # rules that were run, over all machines

    def __init__(self, name: str) -> None:
        super().__init__()
        self.cls = CLASSES[name]
        self.shapes = [(70,) if shape == (71,) else shape for shape in OPTIMIZERS[name].shapes if shape != (30, 5)]
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state"
        self.taken = 0  # steps
        self.micro_batches = 0
        self.settled = True  # whether no change is waiting for the next step
        self.saved: tuple[Any, ...] | None = None
        self.schedules: tuple[Any, Any] | None = None

    def teardown(self) -> None:
        self.folder.cleanup()

    # What there is

    def new(self, leaf: tuple[int, Any], seed: int) -> Array:
        return drawn(np.random.default_rng(seed), self.shapes[leaf[0] % len(self.shapes)], leaf[1])

    @initialize(
        groups=st.lists(
            st.tuples(
                st.sampled_from(["list", "dict", "nested", "dicts"]),
                st.lists(st.tuples(numbers, st.sampled_from(DTYPES)), min_size=1, max_size=3),
            ),
            min_size=1,
            max_size=3,
        ),
        grouped=flags,
        options=st.fixed_dictionaries(
            {}, optional={key: st.sampled_from(VALUES[key]) for key in ("ema_decay", *FORMATS)}
        ),
        seed=seeds,
    )
    def begin(self, groups: list[Any], grouped: bool, options: dict[str, Any], seed: int) -> None:
        self.grouped = grouped or len(groups) > 1
        self.forms = [form for form, _ in groups]
        params = [[self.new(leaf, seed + i) for i, leaf in enumerate(some)] for _, some in groups]
        more = {"switch_at": 4} if self.cls is optim.SwitchOptimizer else {}
        try:
            self.opt = self.make(params, [{"lr": 0.05, **options}] * len(groups), **more)
        except ERRORS:  # this rule does not have the format
            self.opt = self.make(params, [{"lr": 0.05}] * len(groups), **more)
        self.twin = copy.deepcopy(self.opt)

    def make(self, params: list[list[Array]], hyperparameters: list[dict[str, Any]], **more: Any) -> Any:
        arguments = [arranged(form, some) for form, some in zip(self.forms, params, strict=True)]
        if not self.grouped:
            hyperparameters[0].pop("switch_lr", None)  # it is for groups only
            return self.cls(arguments[0], **hyperparameters[0], **more)
        return self.cls([{"params": p, **h} for p, h in zip(arguments, hyperparameters, strict=True)], **more)

    def fresh(self, keys: Any = None) -> Any:
        """Another optimizer of copies of the parameters, with some hyperparameters, by default only the formats."""
        groups = self.opt.param_groups
        params = [[p.copy() for p in group["params"]] for group in groups]
        some = [
            {k: v for k, v in group.items() if k != "params" and (k in FORMATS if keys is None else k in keys)}
            for group in groups
        ]
        return self.make(params, [{"lr": 0.7, **h} for h in some])

    def params(self, opt: Any = None) -> list[Array]:
        return [p for group in (opt or self.opt).param_groups for p in group["params"]]

    def gradients(self, seed: int, nones: int = 0) -> list[Array | None]:
        """Gradients of any legal dtype; about one in ``nones`` is None, and none of them if it is 0."""
        rng, grads = np.random.default_rng(seed), []
        for p in self.params():
            other = DTYPES[rng.integers(1, 4)] if p.dtype != np.float64 and rng.random() < 0.3 else p.dtype
            grads.append(None if nones and rng.random() < 1 / nones else drawn(rng, p.shape, other))
        return grads

    def built(self, grads: list[Any], flat: bool = False) -> Any:
        """Gradients as ``step`` takes them."""
        if flat and (self.grouped or self.forms == ["list"]):
            return iter(grads)
        rest = iter(grads)
        parts = [[next(rest) for _ in group["params"]] for group in self.opt.param_groups]
        trees = [arranged(form, some) for form, some in zip(self.forms, parts, strict=True)]
        return trees if self.grouped else trees[0]

    @property
    def swapped(self) -> bool:
        return bool(self.opt._swapped)

    @property
    def training(self) -> bool:
        return bool(getattr(self.opt, "_training", True))

    # What must hold

    def same(self) -> None:
        for one in self.opt, self.twin:
            assert outline(one.ema_params) == outline(self.built(self.params()))
        assert everything(self.opt) == everything(self.twin)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "opt"):
            return
        Pair.steps += 1
        assert f"{self.cls.__name__}({len(self.params())} parameters" in repr(self.opt) or not self.settled
        assert int(self.opt._count) == int(self.twin._count) == self.taken
        if self.swapped:
            averages = [a.astype(p.dtype) for a, p in zip(leaves(self.twin.ema_params), self.params(), strict=True)]
            assert [p.tobytes() for p in self.params()] == [a.tobytes() for a in averages]
        else:
            assert [p.tobytes() for p in self.params()] == [p.tobytes() for p in self.params(self.twin)]
            if self.settled:
                self.same()

    def refuse(self, call: Callable[[], Any]) -> None:
        before = traces(self.opt)
        with pytest.raises(ERRORS):
            call()
        assert traces(self.opt) == before

    def refuse_all(self, reading: bool = True) -> None:
        """Checks that every call that would use the wrong values is refused."""
        grads = self.built(self.gradients(0))
        self.refuse(lambda: self.opt.step(grads))
        if reading:
            self.refuse(lambda: self.opt.accumulate(grads))
            self.refuse(self.opt.state_dict)
            self.refuse(lambda: self.opt.save(self.path))

    def change(self, change: Callable[[Any], Callable[[], None]]) -> None:
        """Makes a legal change in both: one with which a new optimizer can be made.  Others are refused and undone."""
        undo = change(self.opt)
        try:
            self.fresh({*self.opt.defaults})
        except ERRORS:
            self.refuse_all()
            undo()
        else:
            change(self.twin)
            self.settled = False
