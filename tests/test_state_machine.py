"""Sequences of calls that nobody thought of: a Hypothesis state machine over every optimizer.

Beside the optimizer there is a twin of equal parameters.  It gets what the optimizer gets, in another way: gradients in C order,
hyperparameters as plain numbers, and again and again it is made anew from the optimizer's state, by ``load_state_dict``, a file,
a pickle or a deep copy.  Both must have the same bits.  Errors happen to the optimizer only, and must leave no trace; averages
are exchanged in the optimizer only, and must come back.

``FASTOPT_EXAMPLES=500 pytest tests/test_state_machine.py`` runs 500 random sequences of each optimizer instead of a few fixed ones.
"""

from __future__ import annotations

import copy
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.random import Generator
from optimizers import CLASSES, Array, everything, leaves, shapes_for
from test_state import BAD_STATES

from fastopt import optim, schedules

EXAMPLES = int(os.environ.get("FASTOPT_EXAMPLES", "0"))
ERRORS = (TypeError, ValueError)
DTYPES = ["float64", "float32", "float16", ml_dtypes.bfloat16]
FORMATS = ("weights", "moments", "moment_rounding", "ema_warmup", "swa_freq")  # what load_state_dict may leave as it is
FLAG = [False, True]

# Values of hyperparameters; whether they are legal beside the others a new optimizer says.
VALUES: dict[str, list[Any]] = {
    "lr": [0.01, 0.0, 0.1, np.array(0.02), np.float32(0.25)],
    "weight_decay": [0.0, 0.1],
    "decoupled_weight_decay": [False, True, None],
    "fixed_decay": FLAG,
    "l1": [0.0, 0.01],
    "proximal_l1": FLAG,
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
    "betas": [(0.5, 0.9), (0.9, 0.99), (0.9, 0.5, 0.99), (np.float32(0.5), 0.75)],
    "eps": [1e-8, 1e-3, (None, 1e-3)],
    "warmup_steps": [0, 3],
}
BAD_VALUES: list[tuple[str, Any]] = [
    *(("lr", bad) for bad in (-1.0, np.nan, "fast", None, True, (0.1,))),
    *(("learning_rate", 0.1), ("moment", "8bit"), ("seed", -1), ("maximize", 1), ("weights", "most"), ("swa_start", 0)),
    *(("ema_decay", 1.5), ("weight_decay", -0.1), ("l2_init", np.inf), ("moments", "16bit")),
]
OPTIONS: list[dict[str, Any]] = [
    *(
        {},
        {"clip_norm": 1.0},
        {"clip_value": 0.5},
        {"clip_param_norm": 1.0},
        {"clip_adaptive": 0.1},
        {"grad_scale": 4.0},
    ),
    *({"zero_grads": True}, {"skip_nonfinite": True}, {"skip_nonfinite": True, "zero_grads": True, "clip_norm": 2.0}),
]
BAD_OPTIONS: list[dict[str, Any]] = [
    *({"clip_norm": 1.0, "clip_value": 1.0}, {"grad_scale": 0.0}, {"zero_grads": 1}, {"clip_norm": np.nan}),
]
BAD_LOADS = (
    *(
        "class",
        "no groups",
        "groups",
        "fewer parameters",
        "more parameters",
        "parameters of no group",
        "unknown buffer",
    ),
    *("text", "negative step", "several steps", "unknown hyperparameter", "lr", "lr that is text", "count", "fastopt"),
)


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


def drawn(rng: Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


seeds, numbers, flags = st.integers(0, 999), st.integers(0, 11), st.booleans()


class Machine(RuleBasedStateMachine):
    """An optimizer ``opt`` and its twin."""

    opt: Any
    twin: Any
    steps: ClassVar[int] = 0  # rules that were run, of all machines

    def __init__(self, name: str) -> None:
        super().__init__()
        self.cls = CLASSES[name]
        self.shapes = [(70,) if shape == (71,) else shape for shape in shapes_for(name) if shape != (30, 5)]
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state"
        self.taken = 0  # steps
        self.micro_batches = 0
        self.settled = True  # whether no change waits for the next step
        self.moved = False  # whether the change is one of groups or parameters
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
        except ERRORS:  # a format that is not for this rule
            self.opt = self.make(params, [{"lr": 0.05}] * len(groups), **more)
        self.twin = copy.deepcopy(self.opt)

    def make(self, params: list[list[Array]], hyperparameters: list[dict[str, Any]], **more: Any) -> Any:
        arguments = [arranged(form, some) for form, some in zip(self.forms, params, strict=True)]
        if not self.grouped:
            return self.cls(arguments[0], **hyperparameters[0], **more)
        return self.cls([{"params": p, **h} for p, h in zip(arguments, hyperparameters, strict=True)], **more)

    def fresh(self, keys: Any = None) -> Any:
        """Another optimizer of copies of the parameters, with some of the hyperparameters; by default only with formats."""
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
        """Of any legal dtype; about one in ``nones`` is None, 0 for not any."""
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
        Machine.steps += 1
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
        before = everything(self.opt)
        with pytest.raises(ERRORS):
            call()
        assert everything(self.opt) == before

    def refuse_all(self, reading: bool = True) -> None:
        """Every call that would go on with what is wrong."""
        grads = self.built(self.gradients(0))
        self.refuse(lambda: self.opt.step(grads))
        if reading:
            self.refuse(lambda: self.opt.accumulate(grads))
            self.refuse(self.opt.state_dict)
            self.refuse(lambda: self.opt.save(self.path))

    def change(self, change: Callable[[Any], Callable[[], None]], moves: bool = False) -> None:
        """Changes both, if it is legal: if another optimizer could be made so.  Otherwise it is refused, and undone."""
        undo = change(self.opt)
        try:
            self.fresh({*self.opt.defaults})
        except ERRORS:
            self.refuse_all()
            undo()
        else:
            change(self.twin)
            self.settled, self.moved = False, self.moved or moves

    # Steps

    @precondition(lambda self: not self.swapped and self.training)
    @rule(
        seed=seeds,
        nones=st.sampled_from([0, 2, 1]),
        layout=st.sampled_from(list(LAYOUTS)),
        options=st.sampled_from(OPTIONS),
        infinite=st.sampled_from([False, False, True]),
        flat=flags,
    )
    def step(self, seed: int, nones: int, layout: str, options: dict[str, Any], infinite: bool, flat: bool) -> None:
        plain = self.gradients(seed, nones)
        first = next((g for g in plain if g is not None and g.size), None)
        if infinite and options.get("skip_nonfinite") and first is not None:
            first.flat[-1] = np.inf
        given = [None if g is None else LAYOUTS[layout](g) for g in plain]
        moved = self.moved
        before, averages = [int(one.get("step", 0)) for one in self.opt.state], leaves(self.opt.ema_params)
        averages = [a.astype(np.float64) for a in averages]
        info = self.opt.step(self.built(given, flat), **options)
        assert repr(info) == repr(
            self.twin.step(self.built([None if g is None else g.copy() for g in plain]), **options)
        )
        self.taken += not info.skipped
        assert info.step == self.taken
        assert not options.get("zero_grads") or not any(g is not None and g.any() for g in given)
        self.settled, self.moved = True, False
        if not moved:
            taken = [g is not None and not info.skipped for g in plain]
            for one, has_moved, count in zip(self.opt.state, taken, before, strict=True):
                assert int(one["step"]) in (count + has_moved, int(has_moved))  # as for momentum that is switched on
            self.check_averages(averages, taken)

    def check_averages(self, before: list[Array], moved: list[bool]) -> None:
        """a ← d a + (1−d) p."""
        of_params = [group for group in self.opt.param_groups for _ in group["params"]]
        every = zip(before, leaves(self.opt.ema_params), self.params(), of_params, moved, strict=True)
        for old, average, p, group, has_moved in every:
            d = group["ema_decay"]
            if d is not None and not group["ema_warmup"] and p.dtype.itemsize > 2 and np.isfinite(p).all():
                np.testing.assert_allclose(average, d * old + (1 - d) * p if has_moved else old, 1e-5, 1e-6)

    @precondition(lambda self: not self.swapped and self.training)
    @rule(seed=seeds, count=st.integers(1, 3))
    def step_in_two_threads(self, seed: int, count: int) -> None:
        grads = self.gradients(seed)
        with ThreadPoolExecutor(2) as pool:
            infos = [*pool.map(self.opt.step, [self.built(grads) for _ in range(2 * count)])]
        assert sorted(info.step for info in infos) == [*range(self.taken + 1, self.taken + 2 * count + 1)]
        for _ in range(2 * count):
            self.twin.step(self.built(grads))
        self.taken += 2 * count
        self.settled, self.moved = True, False

    @rule(seed=seeds, nones=st.sampled_from([0, 2]), layout=st.sampled_from(list(LAYOUTS)))
    def accumulate(self, seed: int, nones: int, layout: str) -> None:
        grads = self.gradients(seed, nones)
        self.opt.accumulate(self.built([None if g is None else LAYOUTS[layout](g) for g in grads]))
        self.twin.accumulate(self.built(grads))
        self.micro_batches += 1

    @precondition(lambda self: not self.swapped and self.training and self.micro_batches)
    @rule(options=st.sampled_from(OPTIONS))
    def step_with_sums(self, options: dict[str, Any]) -> None:
        info = self.opt.step(**options)
        assert repr(info) == repr(self.twin.step(**options))
        self.taken += not info.skipped
        self.micro_batches, self.settled, self.moved = 0, True, False

    @rule(bad=st.sampled_from(list(BAD_GRADS)), number=numbers, options=st.sampled_from(OPTIONS))
    def step_with_a_bad_gradient(self, bad: str, number: int, options: dict[str, Any]) -> None:
        grads: list[Any] = self.gradients(number)
        i = number % len(grads)
        grads[i] = BAD_GRADS[bad](grads[i], self.params()[i])
        self.refuse(lambda: self.opt.step(self.built(grads), **options))
        if bad != "parameter":
            self.refuse(lambda: self.opt.accumulate(self.built(grads)))

    @rule(options=st.sampled_from(BAD_OPTIONS), seed=seeds)
    def step_with_bad_options(self, options: dict[str, Any], seed: int) -> None:
        self.refuse(lambda: self.opt.step(self.built(self.gradients(seed)), **options))
        self.refuse(lambda: self.opt.step([*self.gradients(seed), np.ones(2)]))
        if not self.micro_batches:
            self.refuse(self.opt.step)

    # Hyperparameters

    @rule(key=st.sampled_from(list(VALUES)), value=numbers, number=numbers)
    def set_hyperparameter(self, key: str, value: int, number: int) -> None:
        i = number % len(self.opt.param_groups)
        if key not in self.opt.defaults:
            return
        new = VALUES[key][value % len(VALUES[key])]

        def change(opt: Any) -> Callable[[], None]:
            group, old = opt.param_groups[i], opt.param_groups[i][key]
            group[key] = copy.deepcopy(new) if opt is self.opt else new.item() if isinstance(new, np.ndarray) else new
            return lambda: group.update({key: old})

        self.change(change)

    @rule(lr=st.sampled_from([0.01, 0.2]))
    def change_lr_in_place(self, lr: float) -> None:
        for group, other in zip(self.opt.param_groups, self.twin.param_groups, strict=True):
            if isinstance(group["lr"], np.ndarray):
                group["lr"][...] = lr
                other["lr"] = lr

    @rule(bad=st.sampled_from(BAD_VALUES), number=numbers)
    def set_bad_hyperparameter(self, bad: tuple[str, Any], number: int) -> None:
        group = self.opt.param_groups[number % len(self.opt.param_groups)]
        before = dict(group)
        group[bad[0]] = bad[1]
        self.refuse_all()
        del group[bad[0]]
        if bad[0] in before:
            self.refuse_all()
        group.update(before)
        with pytest.raises(TypeError):
            self.opt.lr = 0.1

    # Averages and views

    @precondition(lambda self: not self.moved)
    @rule()
    def swap(self) -> None:
        """In the optimizer only."""
        if self.swapped or any("ema_param" in one for one in self.opt.state):
            self.opt.swap_ema()
        else:
            self.refuse(self.opt.swap_ema)

    @precondition(
        lambda self: not self.moved and not self.swapped and any("ema_param" in one for one in self.opt.state)
    )
    @rule()
    def use_averages(self) -> None:
        with self.opt.using_ema():
            self.holds()
            self.refuse(lambda: self.opt.step(self.built(self.gradients(0))))
            self.refuse(self.opt.state_dict)
            self.refuse(lambda: self.opt.add_param_group({"params": [np.ones((2, 2))]}))

    @precondition(lambda self: hasattr(self.opt, "eval") and not self.swapped)
    @rule()
    def change_view(self) -> None:
        for one in self.opt, self.twin:
            one.eval() if self.training_of(one) else one.train()
        if not self.training:
            self.refuse(lambda: self.opt.step(self.built(self.gradients(0))))

    @staticmethod
    def training_of(opt: Any) -> bool:
        return bool(opt._training)

    # Arrays

    @rule(number=numbers, what=st.sampled_from(["param", "state", "shape", "integers", "overlap", "strides", "masked"]))
    def spoil_an_array(self, number: int, what: str) -> None:
        i = number % len(self.params())
        p, group, at = self.places()[i]
        if p.size < 2 or not self.settled:
            return
        if what in ("param", "state"):
            some = [a for a in self.opt.state[i].values() if a.size > 1] if what == "state" else [p]
            for array in some:
                array.flags.writeable = False
                self.refuse_all(reading=False)
                if "ema_param" in self.opt.state[i] and (array is p or array is self.opt.state[i]["ema_param"]):
                    self.refuse(self.opt.swap_ema)
                if what == "param" and hasattr(self.opt, "eval"):
                    self.refuse(self.opt.eval if self.training else self.opt.train)
                array.flags.writeable = True
        elif what == "shape":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                shape, p.shape = p.shape, (1, p.size)
                self.refuse_state(reading=False)
                p.shape = shape
        else:
            bad = {
                "integers": np.ones(p.shape, int),
                "overlap": next((q for q in self.params() if q is not p and q.size), p.astype(complex)),
                "strides": np.ones((*p.shape, 2), p.dtype)[..., 0],
                "masked": np.ma.masked_array(p, mask=np.ones(p.shape, bool)),
            }
            group["params"][at] = bad[what]
            self.refuse_state()
            group["params"][at] = p

    def places(self, opt: Any = None) -> list[tuple[Array, dict[str, Any], int]]:
        """Each parameter, and where it is in its group."""
        return [(p, group, at) for group in (opt or self.opt).param_groups for at, p in enumerate(group["params"])]

    still = precondition(lambda self: not self.swapped and not self.micro_batches)  # groups and parameters may change

    @still
    @rule(number=numbers, leaf=st.tuples(numbers, st.sampled_from(DTYPES)), seed=seeds)
    def replace_a_parameter(self, number: int, leaf: tuple[int, Any], seed: int) -> None:
        i = number % len(self.params())

        def change(opt: Any) -> Callable[[], None]:
            old, group, at = self.places(opt)[i]
            group["params"][at] = self.new(leaf, seed)
            return lambda: group["params"].__setitem__(at, old)

        self.change(change, True)
        self.saved = None

    @still
    @rule(number=numbers, leaf=st.tuples(numbers, st.sampled_from(DTYPES)), seed=seeds)
    def append_a_parameter(self, number: int, leaf: tuple[int, Any], seed: int) -> None:
        i = number % len(self.forms)

        def change(opt: Any) -> Callable[[], None]:
            opt.param_groups[i]["params"].append(self.new(leaf, seed))
            return opt.param_groups[i]["params"].pop

        if self.forms[i] == "list":
            self.change(change, True)
            self.saved = None

    @still
    @rule(number=numbers)
    def remove_a_parameter(self, number: int) -> None:
        i = number % len(self.forms)
        if self.forms[i] == "list" and len(self.opt.param_groups[i]["params"]) > 1:
            for one in self.opt, self.twin:
                del one.param_groups[i]["params"][number % 2]
            self.saved, self.settled, self.moved = None, False, True

    @still
    @rule(
        form=st.sampled_from(["list", "list", "dict", "nested"]),
        leaf=st.tuples(numbers, st.sampled_from(DTYPES)),
        seed=seeds,
    )
    def add_a_group(self, form: str, leaf: tuple[int, Any], seed: int) -> None:
        """To the twin as a whole dict, where it is a list."""
        self.checked()  # a removed group and a new one at its number: the new one would get the structure of the old one
        group = {key: value for key, value in self.opt.param_groups[-1].items() if key in self.opt.defaults}
        try:
            self.opt.add_param_group({**group, "params": arranged(form, [self.new(leaf, seed)])})
        except ERRORS:
            return
        new = {**group, "params": arranged(form, [self.new(leaf, seed)])}
        if form == "list" and not getattr(self.twin, "switched", False):
            self.twin.param_groups.append(new)
        else:
            self.twin.add_param_group(new)
        self.forms = [*self.forms, form]
        if not self.grouped:  # which one optimizer knows by now
            self.grouped = True
            self.checked()
        self.saved, self.schedules, self.settled, self.moved = None, None, False, True

    @still
    @rule(number=numbers)
    def remove_a_group(self, number: int) -> None:
        if len(self.forms) > 1:
            i = number % len(self.forms)
            for one in self.opt, self.twin:
                del one.param_groups[i]
            del self.forms[i]
            self.saved, self.schedules, self.settled, self.moved = None, None, False, True

    # State

    @still
    @rule(number=numbers, which=numbers, seed=seeds)
    def replace_an_entry(self, number: int, which: int, seed: int) -> None:
        """And write into the twin's."""
        self.checked()
        i = number % len(self.params())
        one, other = self.opt.state[i], self.twin.state[i]
        key = list(one)[which % len(one)]
        if key == "step":
            one[key] = value = np.array(seed)
        elif one[key].dtype.kind in "ui":
            one[key] = value = other[key].copy()
        else:
            value = np.abs(drawn(np.random.default_rng(seed), one[key].shape, one[key].dtype))[...]
            one[key] = np.copy(value, order="F") if seed % 2 else value
        other[key][...] = value
        self.settled, self.moved = False, True

    @rule(number=numbers, which=numbers)
    def spoil_an_entry(self, number: int, which: int) -> None:
        one = self.opt.state[number % len(self.opt.state)]
        keys = list(one)
        if not self.settled or not keys:
            return
        key = keys[which % len(keys)]
        old = one[key]
        for bad in (-1 if key == "step" else np.zeros((*old.shape, 7)), "text", np.array([1j]), None):
            one[key] = bad
            self.refuse_state()
        one[key] = old
        one["speed"] = old
        self.refuse_state()
        del one["speed"]

    def refuse_state(self, reading: bool = True) -> None:
        with pytest.raises(ERRORS):
            self.opt.step(self.built(self.gradients(0)))
        if reading:
            with pytest.raises(ERRORS):
                self.opt.state_dict()

    @still
    @rule(number=numbers)
    def clear_a_state(self, number: int) -> None:
        self.checked()
        for one in self.opt, self.twin:
            one.state[number % len(one.state)].clear()
        self.settled = False
        self.checked()

    @still
    @rule()
    def checked(self) -> None:
        for one in self.opt, self.twin:
            one.state_dict()
        self.settled, self.moved = True, False
        self.same()

    @still
    @rule(way=st.sampled_from(["load", "file"]))
    def load_into_another(self, way: str) -> None:
        """Which is the twin from now on."""
        self.twin = self.fresh()
        if way == "file":
            self.opt.save(self.path, *[one for one, _ in [self.schedules] if one] if self.schedules else [])
            theirs = schedules.StepLR(self.twin, 2, 0.5) if self.schedules else None
            self.twin.load(self.path, theirs)
        else:
            self.twin.load_state_dict(self.opt.state_dict())
            theirs = schedules.StepLR(self.twin, 2, 0.5) if self.schedules else None
            if theirs is not None and self.schedules:
                theirs.load_state_dict(self.schedules[0].state_dict())
        self.schedules = self.schedules and (self.schedules[0], theirs)
        self.settled, self.moved = True, False

    @precondition(lambda self: not self.moved)
    @rule(pickled=flags)
    def copy(self, pickled: bool) -> None:
        """As pickle or copy.deepcopy make it, which is the twin from now on."""
        sums = self.opt._accumulated
        if sums and [*map(id, sums.params)] != [*map(id, self.params())]:  # sums of parameters that are gone
            return
        both = self.opt, self.schedules and self.schedules[0]
        self.twin, theirs = pickle.loads(pickle.dumps(both)) if pickled else copy.deepcopy(both)
        self.schedules = self.schedules and (self.schedules[0], theirs)
        if self.swapped:
            self.twin.swap_ema()

    @precondition(lambda self: not self.swapped)
    @rule()
    def change_places(self) -> None:
        self.opt, self.twin = self.twin, self.opt
        self.schedules = self.schedules and (self.schedules[1], self.schedules[0])

    @still
    @rule()
    def keep(self) -> None:
        """Saves everything for later."""
        self.checked()
        self.opt.save(self.path)
        state = self.opt.state_dict(copy=True)
        self.saved = state, self.path.read_bytes(), [p.copy() for p in self.params()], self.taken

    @precondition(lambda self: self.saved is not None and not self.swapped)
    @rule()
    def load(self) -> None:
        assert self.saved is not None
        state, file, params, self.taken = self.saved
        self.opt.load_state_dict(state)
        self.path.write_bytes(file)
        self.twin.load(self.path)
        for one in self.opt, self.twin:
            for p, saved in zip(self.params(one), params, strict=True):
                p[...] = saved
        self.micro_batches, self.settled, self.moved, self.schedules = 0, True, False, None

    @precondition(lambda self: self.saved is not None)
    @rule(bad=st.sampled_from(BAD_LOADS))
    def load_what_is_bad(self, bad: str) -> None:
        assert self.saved is not None
        state = copy.deepcopy(self.saved[0])
        BAD_STATES[bad][0](state)
        self.refuse(lambda: self.opt.load_state_dict(state))

    # Schedules

    @precondition(lambda self: self.schedules is None)
    @rule()
    def make_schedules(self) -> None:
        self.schedules = schedules.StepLR(self.opt, 2, 0.5), schedules.StepLR(self.twin, 2, 0.5)

    @precondition(lambda self: self.schedules is not None)
    @rule()
    def step_schedules(self) -> None:
        for one in self.schedules or ():
            one.step()


@pytest.mark.parametrize("name", CLASSES)
def test_any_sequence_of_calls(name: str) -> None:
    run_state_machine_as_test(
        lambda: Machine(name),
        settings=settings(
            max_examples=EXAMPLES or 6,
            stateful_step_count=50 if EXAMPLES else 30,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
