"""Random sequences of calls: a Hypothesis state machine over every optimizer.

The optimizer has a twin with equal parameters.  The twin gets the same input in another form: gradients in C order, and
hyperparameters as plain numbers.  Again and again it is rebuilt from the optimizer's state, by ``load_state_dict``, a
file, a pickle or a deep copy.  Both must have the same bits.  Errors happen only in the optimizer, and must leave no
trace; averages are swapped only in the optimizer, and must come back.

``FASTOPT_EXAMPLES=500 pytest tests/test_state_machine.py`` runs 500 random sequences of each optimizer instead of a few fixed ones.
"""

from __future__ import annotations

import copy
import os
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from pairs import (
    BAD_GRADS,
    BAD_LOADS,
    BAD_OPTIONS,
    BAD_VALUES,
    DTYPES,
    ERRORS,
    LAYOUTS,
    OPTIONS,
    VALUES,
    Pair,
    arranged,
    drawn,
    flags,
    numbers,
    seeds,
)
from tables import CLASSES, Array
from test_state import BAD_STATES
from tools import NIGHTLY, leaves

from fastopt import schedules
from fastopt.optim.plan import AS_PARAMETER
from fastopt.optim.state_dict import plain

EXAMPLES = int(os.environ.get("FASTOPT_EXAMPLES", "0"))
FEW = 15 if NIGHTLY else 7


class Machine(Pair):
    """The rules of the state machine."""

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
        averages = [a.astype(np.float64) for a in leaves(self.opt.ema_params)]  # reading it adopts changes
        before = [int(one["step"]) for one in self.opt.state]
        info = self.opt.step(self.built(given, flat), **options)
        assert repr(info) == repr(
            self.twin.step(self.built([None if g is None else g.copy() for g in plain]), **options)
        )
        self.taken += not info.skipped
        assert info.step == self.taken
        assert not options.get("zero_grads") or not any(g is not None and g.any() for g in given)
        self.settled = True
        taken = [g is not None and not info.skipped for g in plain]
        assert [int(one["step"]) for one in self.opt.state] == [*map(sum, zip(before, taken, strict=True))]
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
        self.settled = True

    @rule(seed=seeds, nones=st.sampled_from([0, 2]), layout=st.sampled_from(list(LAYOUTS)))
    def accumulate(self, seed: int, nones: int, layout: str) -> None:
        grads = self.gradients(seed, nones)
        if self.swapped or not self.training:  # otherwise the gradients would belong to other weights
            self.refuse(lambda: self.opt.accumulate(self.built(grads)))
            return
        self.opt.accumulate(self.built([None if g is None else LAYOUTS[layout](g) for g in grads]))
        self.twin.accumulate(self.built(grads))
        self.micro_batches += 1

    @precondition(lambda self: not self.swapped and self.training and self.micro_batches)
    @rule(options=st.sampled_from(OPTIONS))
    def step_with_sums(self, options: dict[str, Any]) -> None:
        info = self.opt.step(**options)
        assert repr(info) == repr(self.twin.step(**options))
        self.taken += not info.skipped
        self.micro_batches, self.settled = 0, True

    @rule()
    def discard(self) -> None:
        self.opt.discard_accumulated()
        self.twin.discard_accumulated()
        self.micro_batches = 0

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
            group[key] = copy.deepcopy(new) if opt is self.opt else plain(new)
            return lambda: group.update({key: old})

        self.change(change)

    @rule(lr=st.sampled_from([0.01, 0.2]))
    def change_lr_in_place(self, lr: float) -> None:
        for group, other in zip(self.opt.param_groups, self.twin.param_groups, strict=True):
            if isinstance(group["lr"], np.ndarray):
                group["lr"][...] = lr
                other["lr"] = lr

    @rule(beta=st.sampled_from([0.3, 0.8]))
    def change_betas_in_place(self, beta: float) -> None:
        for group, other in zip(self.opt.param_groups, self.twin.param_groups, strict=True):
            if isinstance(group.get("betas"), list):
                group["betas"][0] = beta
                other["betas"] = plain(group["betas"])

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

    @rule()
    def swap(self) -> None:
        """Swaps the averages, in the optimizer only."""
        if not self.swapped:
            self.opt.ema_params  # noqa: B018  # adopts changes, as swap_ema does before it looks for averages
        if self.swapped or any("ema_param" in one for one in self.opt.state):
            self.opt.swap_ema()
        else:
            self.refuse(self.opt.swap_ema)

    @precondition(lambda self: not self.swapped)
    @rule()
    def use_averages(self) -> None:
        self.opt.ema_params  # noqa: B018  # adopts changes, as using_ema does before it looks for averages
        if not any("ema_param" in one for one in self.opt.state):
            return
        with self.opt.using_ema():
            self.holds()
            self.refuse(lambda: self.opt.step(self.built(self.gradients(0))))
            self.refuse(self.opt.state_dict)
            self.refuse(lambda: self.opt.add_param_group({"params": [np.ones((2, 2))]}))

    @precondition(lambda self: hasattr(self.opt, "eval") and not self.swapped)
    @rule()
    def change_view(self) -> None:
        for one in self.opt, self.twin:
            one.eval() if one._training else one.train()
        if not self.training:
            self.refuse(lambda: self.opt.step(self.built(self.gradients(0))))

    # Arrays

    @rule(number=numbers, what=st.sampled_from(["read-only", "shape", "integers", "overlap", "strides", "masked"]))
    def spoil_an_array(self, number: int, what: str) -> None:
        i = number % len(self.params())
        p, group, at = self.places()[i]
        if p.size < 2 or (what == "shape" and not self.settled):  # new parameters may have any shape
            return
        if what == "read-only":
            p.flags.writeable = False
            self.refuse_all(reading=False)
            if (
                self.settled and "ema_param" in self.opt.state[i]
            ):  # a new parameter is not adopted while the call is refused
                self.refuse(self.opt.swap_ema)
            if hasattr(self.opt, "eval"):
                self.refuse(self.opt.eval if self.training else self.opt.train)
            p.flags.writeable = True
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
            if self.swapped:
                self.refuse(self.opt.swap_ema)
                self.refuse(lambda: pickle.dumps(self.opt))
            group["params"][at] = p

    def places(self, opt: Any = None) -> list[tuple[Array, dict[str, Any], int]]:
        """Each parameter and its place in its group."""
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

        self.change(change)
        self.saved = None

    @still
    @rule(number=numbers, leaf=st.tuples(numbers, st.sampled_from(DTYPES)), seed=seeds)
    def append_a_parameter(self, number: int, leaf: tuple[int, Any], seed: int) -> None:
        i = number % len(self.forms)

        def change(opt: Any) -> Callable[[], None]:
            opt.param_groups[i]["params"].append(self.new(leaf, seed))
            return lambda: opt.param_groups[i]["params"].pop()

        if self.forms[i] == "list":
            self.change(change)
            self.saved = None

    @still
    @rule(number=numbers)
    def remove_a_parameter(self, number: int) -> None:
        i = number % len(self.forms)
        if self.forms[i] == "list" and len(self.opt.param_groups[i]["params"]) > 1:
            for one in self.opt, self.twin:
                del one.param_groups[i]["params"][number % 2]
            self.saved, self.settled = None, False

    @still
    @rule(
        form=st.sampled_from(["list", "list", "dict", "nested"]),
        leaf=st.tuples(numbers, st.sampled_from(DTYPES)),
        seed=seeds,
    )
    def add_a_group(self, form: str, leaf: tuple[int, Any], seed: int) -> None:
        """The twin gets a group as a whole dict, where the optimizer gets a list."""
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
        self.forms, self.grouped = [*self.forms, form], True
        self.saved, self.schedules = None, None
        self.checked()  # one optimizer has adopted the group by now

    @still
    @rule(number=numbers)
    def remove_a_group(self, number: int) -> None:
        if len(self.forms) > 1:
            i = number % len(self.forms)
            for one in self.opt, self.twin:
                del one.param_groups[i]
            del self.forms[i]
            self.saved, self.schedules, self.settled = None, None, False

    @still
    @rule()
    def reverse_groups(self) -> None:
        for one in self.opt, self.twin:
            one.param_groups.reverse()
        self.forms.reverse()
        self.saved, self.schedules, self.settled = None, None, False

    @rule(number=numbers)
    def wrap_a_group(self, number: int) -> None:
        """Puts another dict around the same parameters, in the optimizer only."""
        i = number % len(self.forms)
        self.opt.param_groups[i] = {**self.opt.param_groups[i]}

    @precondition(lambda self: self.micro_batches or self.swapped)
    @rule(number=numbers, what=st.sampled_from(["replace", "remove", "append", "remove a group", "reverse"]))
    def change_what_may_not_change(self, number: int, what: str) -> None:
        """Changes of parameters are refused while there are accumulated gradients or swapped averages; in the optimizer
        only.
        """
        groups = self.opt.param_groups
        params = groups[number % len(groups)]["params"]
        before, of_group = [*groups], [*params]
        if what == "replace":
            params[number % len(params)] = params[number % len(params)].copy()
        elif what == "remove":
            del params[number % len(params)]
        elif what == "append":
            params.append(np.ones((2, 2)))
        elif what == "remove a group":
            del groups[number % len(groups)]
        elif len(groups) > 1:
            groups.reverse()
        else:
            params.append(params[0])
        self.refuse(self.opt.step)
        self.refuse(lambda: self.opt.step(self.gradients(0)))
        self.refuse(lambda: self.opt.accumulate(self.gradients(0)))
        self.refuse(lambda: self.opt.add_param_group({"params": [np.ones((2, 2))]}))
        self.refuse(self.opt.state_dict)
        self.refuse(self.opt.swap_ema)
        if self.swapped:
            self.refuse(lambda: pickle.dumps(self.opt))
        params[:], groups[:] = of_group, before

    # State

    @precondition(lambda self: not self.micro_batches)
    @rule(number=numbers, which=numbers, seed=seeds)
    def replace_an_entry(self, number: int, which: int, seed: int) -> None:
        """Replaces an entry; in the twin, writes into it unless it will start as a copy of the parameter in the next
        step.
        """
        apart = any(a.keys() != b.keys() for a, b in zip(self.opt.state, self.twin.state, strict=True))
        if apart or not all(
            [*map(id, self.params(o))] == [id(one.param) for one in o._records] for o in (self.opt, self.twin)
        ):
            if self.swapped:
                return
            self.checked()  # the state belongs to the parameters, and has its entries, at the time of the last check
        i = number % len(self.opt.state)
        one, other = self.opt.state[i], self.twin.state[i]
        keys = [key for key in one if not (self.swapped and key in ("master_param", *AS_PARAMETER))]  # exchanged
        key = keys[which % len(keys)]
        if key == "step":
            one[key] = value = np.array(seed)
        elif one[key].dtype.kind in "ui":
            one[key] = value = other[key].copy()
        else:
            value = np.abs(drawn(np.random.default_rng(seed), one[key].shape, one[key].dtype))[...]
            one[key] = np.copy(value, order="F") if seed % 2 else value
        record = self.twin._records[i]
        if record.is_fresh() and key in record.fresh[1]:
            other[key] = value.copy()
        else:
            other[key][...] = value
        self.settled = False

    @rule(number=numbers, which=numbers)
    def spoil_an_entry(self, number: int, which: int) -> None:
        one = self.opt.state[number % len(self.opt.state)]
        keys = list(one)
        if not keys or [*map(id, self.params())] != [id(record.param) for record in self.opt._records]:
            return  # it may be the state of a removed parameter
        key = keys[which % len(keys)]
        old = one[key]
        for bad in (-1 if key == "step" else np.zeros((*old.shape, 7)), "text", np.array([1j]), None):
            one[key] = bad
            self.refuse_state()
            if self.swapped:
                with pytest.raises(ERRORS):
                    self.opt.swap_ema()
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
        self.settled = True
        self.same()

    @still
    @rule(way=st.sampled_from(["load", "file"]))
    def load_into_another(self, way: str) -> None:
        """Loads the state into another optimizer, which is the twin from now on."""
        self.checked()
        self.begin_again()
        self.twin = self.fresh()
        mine, theirs = self.schedules[0] if self.schedules else None, None
        if mine is not None:
            theirs = schedules.StepLR(self.twin, 2, 0.5)
            self.schedules = mine, theirs
        if way == "file":
            self.opt.save(self.path, mine)
            self.twin.load(self.path, theirs)
        else:
            self.twin.load_state_dict(self.opt.state_dict())
            if mine is not None and theirs is not None:
                theirs.load_state_dict(mine.state_dict())
        self.settled = True

    def begin_again(self) -> None:
        """Restarts states that start as the parameter, where no step was taken; loading a state does so too."""
        own = [key for key, begins in self.cls.begins.items() if begins == "param"]
        for one in self.opt.state:
            for key in ("master_param", *own, *AS_PARAMETER):
                if not one["step"] and key in one:
                    del one[key]

    @rule(pickled=flags)
    def copy(self, pickled: bool) -> None:
        """Makes a copy by pickle or copy.deepcopy; it is the twin from now on."""
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
        self.micro_batches, self.settled, self.schedules = 0, True, None

    @precondition(lambda self: self.saved is not None)
    @rule(bad=st.sampled_from(BAD_LOADS))
    def load_what_is_bad(self, bad: str) -> None:
        assert self.saved is not None
        state = copy.deepcopy(self.saved[0])
        BAD_STATES[bad][0](state)
        for one in self.opt, self.twin:
            one.ema_params  # noqa: B018  # adopts changes, as load_state_dict does before it reads
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
    def make() -> Machine:
        return Machine(name)

    run_state_machine_as_test(
        make if EXAMPLES else seed(crc32(name.encode()))(make),  # each has its own sequences
        settings=settings(
            max_examples=EXAMPLES or FEW,
            stateful_step_count=50 if EXAMPLES else 20,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes
            report_multiple_bugs=False,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
