"""One file for a run: what is resumed is the same run to the last bit, and a load changes everything or nothing."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from layers import LAYERS
from numpy.random import Generator
from safetensors.numpy import load_file, save_file
from schedule_cases import CASES
from tables import CLASSES, MOMENTS, OPTIMIZERS, SCHEDULE_FREE, Array, Options, ordinary
from tools import Each, bits, everything

import fastopt as fo
from fastopt import _files

classes = pytest.mark.parametrize("name", CLASSES)
AROUND: Options = {"noise": 0.1, "seed": 5, "ema_decay": 0.9, "l2_init": 0.01}
OTHERS: Options = {"lr": 0.7, "weight_decay": 0.3, "seed": 9, "swa_start": 1, "l1": 0.2}
BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.safetensors"


def generator(name: str, seed: int) -> Generator:
    return np.random.Generator(getattr(np.random, name)(seed))


# Optimizers


class Run:
    """Weights that one optimizer trains on random gradients, with a schedule; ``twin`` makes another with other values."""

    def __init__(self, name: str, number: int, dtype: str = "float64", **options: Any) -> None:
        self.name, self.number, self.dtype, self.options = name, number, dtype, options
        self.rng = np.random.default_rng(number)
        self.params = OPTIMIZERS[name].arrays(self.rng, dtype=dtype)
        self.opt = CLASSES[name](self.params, **options)
        self.schedule = fo.schedules.CosineAnnealingLR(self.opt, T_max=12)

    def twin(self) -> Run:
        return Run(
            self.name, self.number + 1, self.dtype, **{**OTHERS, "weights": self.options.get("weights", "kahan")}
        )

    def go(self, steps: int) -> None:
        for _ in range(steps):
            grads: list[Any] = OPTIMIZERS[self.name].arrays(self.rng, dtype=self.dtype)
            grads[self.rng.integers(len(grads))] = None
            self.opt.step(grads, clip_norm=2.0)
            self.schedule.step()

    @property
    def parts(self) -> dict[str, Any]:
        return {"params": self.params, "optimizer": self.opt, "schedule": self.schedule, "rng": self.rng}

    def all(self) -> Any:
        return everything(self.opt), self.schedule.state_dict(), self.rng.bit_generator.state


@classes
def test_a_resumed_run_is_the_same_run(name: str, each: Each, path: Path) -> None:
    for options, around in each(OPTIMIZERS[name].variants, ({}, AROUND), by_day=4):
        run = Run(name, 1, lr=0.05, **options, **around)
        run.go(5)
        fo.save(path, **run.parts, extra={"epoch": 5})
        other = run.twin()
        other.go(2)
        assert fo.load(path, **other.parts) == {"epoch": 5}
        assert other.all() == run.all()
        run.go(5)
        other.go(5)
        assert other.all() == run.all()


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "SwitchOptimizer"])
def test_so_it_is_in_every_format(name: str, each: Each, path: Path) -> None:
    """Weights of 16 bits, with what is kept beside them, and packed moments; formats are restored too."""
    rule = OPTIMIZERS[name]
    both = ((dtype, one | more) for dtype, one in rule.formats.values() for more in ({}, *MOMENTS.values()))
    for dtype, options in each([one for one in both if rule.accepts(rule.plain | one[1])], by_day=5):
        run = Run(name, 1, dtype, lr=0.05, ema_decay=0.9, **options)
        run.go(4)
        fo.save(path, **run.parts)
        other = run.twin()
        fo.load(path, **other.parts)
        assert other.all() == run.all()
        run.go(4)
        other.go(4)
        assert other.all() == run.all()


@classes
def test_a_run_may_be_resumed_before_its_first_step(name: str, path: Path) -> None:
    run = Run(name, 1, lr=0.05, **AROUND)
    fo.save(path, **run.parts)
    other = run.twin()
    other.go(3)
    fo.load(path, **other.parts)
    run.go(4)
    other.go(4)
    assert other.all() == run.all()


@pytest.mark.parametrize("name", SCHEDULE_FREE)
@pytest.mark.parametrize("at", ["train", "eval"])
@pytest.mark.parametrize("now", ["train", "eval"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_without_schedule_is_resumed_in_its_mode(name: str, at: str, now: str, dtype: str, path: Path) -> None:
    run = Run(name, 1, dtype, lr=0.05)
    run.go(4)
    getattr(run.opt, at)()
    fo.save(path, **run.parts)
    other = run.twin()
    other.go(2)
    getattr(other.opt, now)()
    fo.load(path, **other.parts)
    assert other.all() == run.all()
    for one in run, other:
        one.opt.train()
        one.go(4)
    assert other.all() == run.all()


def test_a_switch_is_resumed_on_either_side(path: Path) -> None:
    for steps in 3, 8:
        run = Run("SwitchOptimizer", 1, lr=0.05, switch_at=6)
        run.go(steps)
        fo.save(path, **run.parts)
        for before in 0, 7:
            other = Run("SwitchOptimizer", 2, lr=0.01, switch_at=7 if before else 100)
            other.go(before)
            fo.load(path, **other.parts)
            assert other.all() == run.all()
            assert other.opt.switched is (steps > 6)
            first = copy.deepcopy(run)
            first.go(5)
            other.go(5)
            assert other.all() == first.all()


def test_groups_with_hyperparameters_of_their_own(path: Path, rng: Generator) -> None:
    def make(**options: Any) -> tuple[Any, dict[str, Array]]:
        params = {"w": np.zeros((3, 3), np.float32), "b": np.zeros(3, np.float32)}
        return fo.optim.AdamW(fo.optim.no_decay(params), **options), params

    opt, params = make(lr=0.1)
    opt.param_groups[1]["moments"] = "bfloat16"
    grads = [{"w": ordinary(rng, (3, 3), "float32"), "b": ordinary(rng, 3, "float32")} for _ in range(4)]
    for one in grads[:2]:
        opt.step(one)
    fo.save(path, params=params, optimizer=opt)
    other, others = make(lr=0.3, weight_decay=0.7)
    fo.load(path, params=others, optimizer=other)
    for one in grads[2:]:
        opt.step(one)
        other.step(one)
    assert everything(other) == everything(opt)


def test_parameters_are_matched_by_their_names(path: Path, rng: Generator) -> None:
    first = {"a": ordinary(rng, 3), "b": ordinary(rng, 3)}
    opt = fo.optim.Adam(first)
    opt.step({"a": ordinary(rng, 3), "b": ordinary(rng, 3)})
    for given in {"params": first}, {}:
        fo.save(path, optimizer=opt, **given)
        other = {"b": np.zeros(3), "a": np.zeros(3)}
        mine = {"params": other} if given else {}
        twin = fo.optim.Adam(other)
        fo.load(path, optimizer=twin, **mine)
        assert bits(other.values()) == bits([first["b"], first["a"]])
        assert twin.state[0]["exp_avg"].tobytes() == opt.state[1]["exp_avg"].tobytes()
    renamed = {"a": np.zeros(3), "c": np.zeros(3)}
    with pytest.raises(ValueError, match=r"^load: optimizer: Adam: .*missing: 'c', unknown: 'b'$"):
        fo.load(path, optimizer=fo.optim.Adam(renamed))


def test_several_optimizers(path: Path, rng: Generator) -> None:
    def make(seed: int) -> tuple[dict[str, Any], list[Array]]:
        weights = [ordinary(np.random.default_rng(seed), 4) for _ in range(2)]
        opts = {
            "actor": fo.optim.Adam([weights[0]], lr=0.1),
            "critic": fo.optim.SGD([weights[1]], lr=0.1, momentum=0.9),
        }
        schedules = [fo.schedules.StepLR(opts["critic"], 1), fo.schedules.ExponentialLR(opts["actor"], 0.9)]
        rngs = {"data": np.random.default_rng(seed), "noise": generator("SFC64", seed)}
        return {"optimizer": opts, "schedule": schedules, "rng": rngs}, weights

    def go(parts: dict[str, Any]) -> None:
        for one, its in zip(parts["optimizer"].values(), parts["rng"].values(), strict=True):
            one.step([its.standard_normal(4)])
        for schedule in parts["schedule"]:
            schedule.step()

    (parts, weights), (others, twins) = make(1), make(2)
    go(parts)
    fo.save(path, **parts)
    fo.load(path, **others)
    go(parts)
    go(others)
    assert bits(twins) == bits(weights)
    assert [one.state_dict() for one in others["schedule"]] == [one.state_dict() for one in parts["schedule"]]
    with pytest.raises(
        ValueError, match=r"^load: optimizer must be the optimizers in the file, but lacks 'optimizer.critic'$"
    ):
        fo.load(path, optimizer={"actor": others["optimizer"]["actor"]}, partial=True)
    with pytest.raises(ValueError, match=r"^save: optimizer\[1\] is the same object as optimizer\[0\]$"):
        fo.save(path, optimizer=[parts["optimizer"]["actor"]] * 2)


def test_groups_in_another_order_and_a_schedule(path: Path, rng: Generator) -> None:
    """Groups are found by the names of their parameters; a schedule's numbers are in the order of the groups."""

    def make(names: str) -> tuple[Any, Any, dict[str, Array]]:
        params = {name: ordinary(rng, 3) for name in names}
        opt = fo.optim.SGD([{"params": {name: w}, "lr": 0.1 * ord(name)} for name, w in params.items()])
        return opt, fo.schedules.StepLR(opt, 3), params

    (opt, schedule, params), (other, twin, others) = make("ab"), make("ba")
    fo.save(path, optimizer=opt, schedule=schedule)
    before = everything(other)
    with pytest.raises(
        ValueError, match=r"^load: schedule has the groups in another order than optimizer; give these as"
    ):
        fo.load(path, optimizer=other, schedule=twin)
    assert everything(other) == before
    fo.load(path, optimizer=other, partial=True)
    assert {name: w.tobytes() for name, w in others.items()} == {name: w.tobytes() for name, w in params.items()}
    assert [group["lr"] for group in other.param_groups] == [0.1 * ord("b"), 0.1 * ord("a")]


@pytest.mark.parametrize("case", CASES)
def test_every_schedule(case: str, path: Path) -> None:
    def make() -> tuple[Any, Any]:
        opt = fo.optim.SGD([{"params": [np.ones(2)], "lr": 0.3}, {"params": [np.ones(2)], "lr": 0.1}], momentum=0.8)
        return opt, CASES[case](fo.schedules, opt)

    def step(schedule: Any) -> None:
        schedule.step(*([0.5] if isinstance(schedule, fo.schedules.ReduceLROnPlateau) else []))

    (opt, schedule), (other, twin) = make(), make()
    for _ in range(30):
        step(schedule)
    fo.save(path, optimizer=opt, schedule=schedule)
    fo.load(path, optimizer=other, schedule=twin)
    for _ in range(30):
        assert twin.state_dict() == schedule.state_dict()
        assert [group["lr"] for group in other.param_groups] == [group["lr"] for group in opt.param_groups]
        step(schedule)
        step(twin)


# Layers


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, path: Path, rng: Generator) -> None:
    """Parameters, running statistics, their count, and the mode."""
    layer, other = (LAYERS[name][0]("float64") for _ in range(2))
    for one in layer, other:
        for array in (one.params | one.buffers).values():
            array[...] = rng.integers(1, 9, array.shape)
    layer.eval()
    fo.save(path, layers=[layer])
    fo.load(path, layers=[other])
    assert {key: array.tobytes() for key, array in layer.state_dict().items()} == {
        key: array.tobytes() for key, array in other.state_dict().items()
    }
    assert not other.training


class Net:
    """A small network with layers that have all kinds of state, trained on random numbers."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.w = [self.rng.standard_normal(shape) / 3 for shape in ((5, 8), (8, 8), (8, 1))]
        self.layers = [
            fo.nn.BatchNormReLU(8, dtype=np.float64),
            fo.nn.Dropout(0.3, seed=seed),
            fo.nn.BatchRenorm(8, dtype=np.float64, momentum=None),
            fo.nn.GaussianDropout(0.2, seed=seed + 1),
            fo.nn.LayerNorm(8, dtype=np.float64),
            fo.nn.ChannelDropout(0.1, seed=seed + 2),
        ]
        params = {f"w{i}": w for i, w in enumerate(self.w)}
        for i, layer in enumerate(self.layers):
            params |= {f"{i}.{key}": param for key, param in layer.params.items()}
        self.params = params
        self.opt = fo.optim.AdamW(params, lr=0.01 * seed, noise=0.01, seed=seed)
        self.schedule = fo.schedules.CosineAnnealingLR(self.opt, T_max=20)

    def go(self, steps: int) -> None:
        first, second, third = self.layers[:2], self.layers[2:4], self.layers[4:]
        for _ in range(steps):
            inputs = [self.rng.standard_normal((6, 5))]
            for w, some in zip(self.w, (first, second, third), strict=True):
                h = inputs[-1] @ w
                for layer in some if w.shape[1] == 8 else ():
                    h = layer(h)  # type: ignore[operator]
                inputs.append(h)
            x, h1, h2, out = inputs
            h3 = third[1](third[0](h2))  # type: ignore[operator]
            dout = h3.mean(axis=1, keepdims=True) * out / 6
            grads = {"w2": h2.T @ dout}
            dh2 = dout @ self.w[2].T + third[0].backward(third[1].backward(h3 / 8))  # type: ignore[attr-defined]
            dz2 = second[0].backward(second[1].backward(dh2))  # type: ignore[attr-defined]
            grads["w1"] = h1.T @ dz2
            dz1 = first[0].backward(first[1].backward(dz2 @ self.w[1].T))  # type: ignore[attr-defined]
            grads["w0"] = x.T @ dz1
            for i, layer in enumerate(self.layers):
                grads |= {f"{i}.{key}": grad for key, grad in layer.grads.items()}
            self.opt.step(grads)
            self.schedule.step()
            self.layers[2].r_max *= 1.01  # type: ignore[attr-defined]
            self.layers[1].p *= 0.99  # type: ignore[attr-defined]

    @property
    def parts(self) -> dict[str, Any]:
        return {
            "params": self.params,
            "layers": self.layers,
            "optimizer": self.opt,
            "schedule": self.schedule,
            "rng": self.rng,
        }

    def all(self) -> Any:
        arrays = [array.tobytes() for layer in self.layers for array in layer.state_dict().values()]
        attributes = [layer._attributes() for layer in self.layers]
        return everything(self.opt), arrays, attributes, self.schedule.state_dict(), self.rng.bit_generator.state


def test_a_network_is_resumed(path: Path, each: Each) -> None:
    for steps in each([0, 1, 7]):
        net, other = Net(1), Net(2)
        net.go(steps)
        other.go(3)
        for layer in other.layers[:2]:
            layer.eval()
        fo.save(path, **net.parts)
        fo.load(path, **other.parts)
        assert other.all() == net.all()
        net.go(6)
        other.go(6)
        assert other.all() == net.all()


def test_layers_in_layers(path: Path) -> None:
    class Block(fo.nn.Layer):
        def __init__(self, seed: int) -> None:
            super().__init__({"scale": ((2,), float(seed))})
            self.norm = fo.nn.BatchNorm(2)
            self._more = [fo.nn.Dropout(0.5, seed=seed), {"last": fo.nn.LayerNorm(2)}]
            self.params["norm.weight"] = self.norm.params["weight"]
            self.norm.inside = self  # type: ignore[attr-defined]

    block, other = Block(3), Block(4)
    block.norm(np.float32([[1, 2], [3, 5]]))
    block._more[0].step = 9  # type: ignore[attr-defined]
    fo.save(path, layers=block)
    names = {"scale", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert {*load_file(path)} == {f"layers.{name}" for name in (*names, "more.1.last.weight", "more.1.last.bias")}
    fo.load(path, layers=other)
    assert other.norm.buffers["running_mean"].tobytes() == block.norm.buffers["running_mean"].tobytes()
    assert (other._more[0].seed, other._more[0].step, *other.params["scale"]) == (3, 9, 3, 3)  # type: ignore[attr-defined]


# Random numbers


@pytest.mark.parametrize("name", BIT_GENERATORS)
@pytest.mark.parametrize("legacy", [False, True])
def test_generators(name: str, legacy: bool, path: Path) -> None:
    """The next numbers are the same, also of those that take half of what the generator gives, and of spawned generators."""

    def make(seed: int) -> Any:
        bit_generator = getattr(np.random, name)(seed)
        return np.random.RandomState(bit_generator) if legacy else np.random.Generator(bit_generator)

    def draw(rng: Any) -> list[bytes]:
        some = [rng.normal(size=7), rng.permutation(9), rng.standard_normal(3)]
        if not legacy:
            some += [rng.integers(0, 9, size=3, dtype=np.uint32), *(one.random(2) for one in rng.spawn(2))]
            some.append(rng.random(1, np.float32))
        return bits(some)

    rng, other = make(1), make(2)
    for _ in range(3):
        draw(rng)
        fo.save(path, rng=rng)
        draw(other)
        assert fo.load(path, rng=other) is None
        assert draw(other) == draw(rng)


def test_a_bit_generator_by_itself(path: Path) -> None:
    rng = np.random.default_rng(np.random.SeedSequence([1, 2], spawn_key=(3,)))
    fo.save(path, rng=rng.bit_generator)
    other = np.random.default_rng(7)
    fo.load(path, rng=other.bit_generator)
    assert other.random() == rng.random() and other.spawn(1)[0].random() == rng.spawn(1)[0].random()


def test_generators_that_share_their_numbers(path: Path) -> None:
    first = np.random.PCG64(1)
    both = [np.random.Generator(first), np.random.Generator(first)]
    fo.save(path, rng=both)
    numbers = [one.random() for one in both]
    fo.load(path, rng=both)
    assert [one.random() for one in both] == numbers


def test_other_generators_are_errors(path: Path) -> None:
    rng = np.random.default_rng(0)
    fo.save(path, rng=rng)
    with pytest.raises(
        ValueError, match=r"^load: rng is a Generator of MT19937, and in the file a Generator of PCG64$"
    ):
        fo.load(path, rng=generator("MT19937", 0))
    with pytest.raises(
        ValueError, match=r"^load: rng is a RandomState of PCG64, and in the file a Generator of PCG64$"
    ):
        fo.load(path, rng=np.random.RandomState(np.random.PCG64()))
    for wrong in np.random, 5:
        with pytest.raises(TypeError, match=r"^save: rng must be a numpy.random.Generator, got "):
            fo.save(path, rng=wrong)


# The file


def test_names_in_the_file(path: Path) -> None:
    """As docs/checkpoints.md says."""
    w, layer, rng = np.ones((2, 2), np.float32), fo.nn.BatchNorm(2), generator("MT19937", 0)
    other = np.ones(3)
    opt = fo.optim.SGD([w, layer.params["weight"], other], lr=0.1, momentum=0.9)
    fo.save(path, params={"dense": {"w": w}}, layers=[layer], optimizer=opt, rng=rng, extra={"best": [other]})
    assert {*load_file(path)} == {
        "params.dense.w",
        "layers.0.weight",
        "layers.0.bias",
        "layers.0.running_mean",
        "layers.0.running_var",
        "layers.0.num_batches_tracked",
        "optimizer.params.2",
        *(f"optimizer.state.{i}.{name}" for i in range(3) for name in ("step", "momentum_buffer")),
        "rng.state.state.key",
        "extra.best.0",
    }


def test_extra_comes_back(path: Path) -> None:
    extra = {
        "epoch": np.int64(3),
        "loss": np.float32(0.1),
        "nested": [1, (2.5, None), {"a": np.arange(3), "b": [np.float16([1, 2]), True, np.True_]}],
        "text": "µ\n",
        "big": 1 << 200,
        "inf": -np.inf,
        "empty": [{}, []],
    }
    fo.save(path, extra=extra)
    back = fo.load(path)
    assert repr(back) == repr(
        {
            "epoch": 3,
            "loss": float(np.float32(0.1)),
            "nested": [1, [2.5, None], {"a": np.arange(3), "b": [np.float16([1, 2]), True, True]}],
            "text": "µ\n",
            "big": 1 << 200,
            "inf": -np.inf,
            "empty": [{}, []],
        }
    )
    for one in np.arange(4.0), 5, "text", False, [], {}:
        fo.save(path, extra=one)
        back = fo.load(path)
        assert type(back) is type(one) and np.array_equal(back, one)
    with pytest.raises(TypeError, match=r"^save: extra\['a'\]\[1\] must be a number, .* or None, got object$"):
        fo.save(path, extra={"a": [1, object()]})
    with pytest.raises(TypeError, match=r"^save: extra must have strings as keys, got 1$"):
        fo.save(path, extra={1: 2})
    with pytest.raises(
        ValueError, match=r"^save: extra\['a'\]\['b'\] would be a second array with the name 'extra.a.b'"
    ):
        fo.save(path, extra={"a.b": np.ones(1), "a": {"b": np.ones(2)}})
    with pytest.raises(TypeError, match=r"^save: extra has dtype complex128, expected floats, integers or bools$"):
        fo.save(path, extra=np.ones(1, complex))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "uint64", "bool", ">f4"])
def test_weights_of_every_kind(dtype: str, path: Path, rng: Generator) -> None:
    """Nested, in any layout, empty ones and single numbers."""

    def make(seed: int) -> Any:
        numbers = ordinary(np.random.default_rng(seed), (4, 6)).astype(
            ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        )
        return {
            "a": numbers,
            "rest": [
                numbers.T.copy().T,
                (numbers.copy()[::-2, ::3], np.array(numbers[0, 0])),
                {"none": numbers[:0].copy()},
            ],
        }

    def flat(params: Any) -> list[bytes]:
        return bits([params["a"], params["rest"][0], *params["rest"][1], params["rest"][2]["none"]])

    params, other = make(1), make(2)
    fo.save(path, params=params)
    fo.load(path, params=other)
    assert flat(other) == flat(params)
    fo.save(path, params=(one for one in [params["a"]]))
    fo.load(path, params=[other["a"]])


def test_a_group_has_no_hyperparameters_here(path: Path) -> None:
    groups = [{"params": [np.ones(2)], "lr": 0.1}, {"params": {"b": np.ones(3)}}]
    fo.save(path, params=groups)
    assert {*load_file(path)} == {"params.0.0", "params.1.b"}
    twins = [{"params": [np.zeros(2)], "lr": 0.2}, {"params": {"b": np.zeros(3)}}]
    fo.load(path, params=twins)
    assert twins[0]["params"][0].tolist() == [1, 1]  # type: ignore[index]
    assert twins[0]["lr"] == 0.2


# Arrays that are one


def test_one_array_is_in_the_file_once(path: Path) -> None:
    w, layer = np.ones(1000), fo.nn.LayerNorm(1000, dtype=np.float64)
    opt = fo.optim.SGD([w, *layer.params.values()], lr=0.1)
    fo.save(path, params={"w": w, "tied": w[:], "ours": layer.params["bias"]}, layers=[layer], optimizer=opt)
    names = {"params.w", "params.ours", "layers.0.weight"}
    assert {name for name, array in load_file(path).items() if array.size == 1000} == names

    other, norm = np.zeros(1000), fo.nn.LayerNorm(1000, dtype=np.float64)
    twin = fo.optim.SGD([other, *norm.params.values()], lr=0.1)
    params = {"w": other, "tied": other, "ours": norm.params["bias"]}
    before = state_of([other, *norm.params.values()], [norm], twin, None, None)
    untied = r"^load: params\['tied'\] and params\['w'\] are two arrays, and in the file they are one$"
    with pytest.raises(ValueError, match=untied):
        fo.load(path, params={**params, "tied": np.zeros(1000)}, layers=[norm], optimizer=twin)
    elsewhere = fo.optim.SGD([np.zeros(1000), *norm.params.values()], lr=0.1)
    with pytest.raises(ValueError, match=r"^load: params\[0\] of optimizer and params\['w'\] are two arrays"):
        fo.load(path, params=params, layers=[norm], optimizer=elsewhere)
    assert state_of([other, *norm.params.values()], [norm], twin, None, None) == before
    fo.load(path, params=params, layers=[norm], optimizer=twin)
    assert (other == 1).all()


def test_two_arrays_stay_two(path: Path) -> None:
    fo.save(path, params=[np.ones(3), np.zeros(3)])
    w = np.full(3, 7.0)
    with pytest.raises(
        ValueError, match=r"^load: params\[1\] and params\[0\] are one array, and in the file they are two$"
    ):
        fo.load(path, params=[w, w])
    assert (w == 7).all()


def test_views_of_one_buffer(path: Path, rng: Generator) -> None:
    """They may overlap as they did when they were saved, and not otherwise."""

    def make(offset: int = 0) -> tuple[Array, Any]:
        flat = ordinary(rng, 10)
        return flat, fo.optim.Adam([flat[: 4 + offset][:4], flat[4 + offset : 10][:5]])

    (flat, opt), (other, twin), (third, wrong) = make(), make(), make(1)
    opt.step([ordinary(rng, 4), ordinary(rng, 5)])
    fo.save(path, params=[flat], optimizer=opt)
    before = third.copy()
    with pytest.raises(
        ValueError,
        match=r"^load: params\[0\] shares memory with params\[0\] of optimizer and params\[1\] of optimizer, and their",
    ):
        fo.load(path, params=[third], optimizer=wrong)
    assert (third == before).all() and not wrong.state_dict()["fastopt"]["step"]
    fo.load(path, params=[other], optimizer=twin)
    assert other.tobytes() == flat.tobytes()
    whole = np.zeros(10)
    fo.save(path, params=[flat[::2], flat[1::2]])
    fo.load(path, params=[whole[::2], whole[1::2]])
    assert whole.tobytes() == flat.tobytes()


# Errors


def state_of(params: Any, layers: Any, opt: Any, schedule: Any, rng: Any) -> Any:
    """All that a load may change."""
    return copy.deepcopy(
        (
            bits(params),
            [bits(layer.state_dict().values()) for layer in layers],
            [layer._attributes() for layer in layers],
            everything(opt),
            schedule and schedule.state_dict(),
            rng and rng.bit_generator.state,
        )
    )


class Whole:
    """A run with a part of every kind."""

    def __init__(self, seed: int = 1, *, size: int = 3) -> None:
        self.rng = np.random.default_rng(seed)
        self.w = ordinary(self.rng, (size, size))
        self.layers: list[Any] = [fo.nn.BatchNorm(size, dtype=np.float64), fo.nn.Dropout(0.5, seed=seed)]
        self.opt = fo.optim.AdamW([self.w, *self.layers[0].params.values()], lr=0.1)
        self.schedule = fo.schedules.StepLR(self.opt, 2)
        for _ in range(seed):
            h = self.layers[1](self.layers[0](ordinary(self.rng, (4, size)) @ self.w))
            self.layers[0].backward(self.layers[1].backward(h))
            self.opt.step([self.w.copy(), *self.layers[0].grads.values()])
            self.schedule.step()

    @property
    def parts(self) -> dict[str, Any]:
        return {
            "params": [self.w],
            "layers": self.layers,
            "optimizer": self.opt,
            "schedule": self.schedule,
            "rng": self.rng,
        }

    def all(self) -> Any:
        return state_of([self.w], self.layers, self.opt, self.schedule, self.rng)


def other_class(whole: Whole) -> dict[str, Any]:
    opt = fo.optim.Adam([whole.w, *whole.layers[0].params.values()])
    return {"optimizer": opt, "schedule": fo.schedules.StepLR(opt, 2)}


def read_only(whole: Whole) -> dict[str, Any]:
    whole.layers[0].buffers["running_var"].flags.writeable = False
    return {}


def swapped(whole: Whole) -> dict[str, Any]:
    whole.opt.param_groups[0]["ema_decay"] = 0.5
    whole.opt.swap_ema()
    return {}


MISTAKES: dict[str, tuple[Callable[[Whole], dict[str, Any]], type[Exception], str]] = {
    "no params": (lambda _: {"params": None}, ValueError, "has params too; give all parts, or partial=True"),
    "no rng, no schedule": (
        lambda _: {"rng": None, "schedule": None},
        ValueError,
        "run.safetensors has schedule and rng too; give all parts, or partial=True to leave some out$",
    ),
    "a shape": (lambda _: {"params": [np.ones((3, 4))]}, ValueError, r"params\[0\] has shape \(3, 4\), and in the file \(3, 3\)$"),
    "a dtype": (
        lambda _: {"params": [np.ones((3, 3), np.float32)]},
        TypeError,
        r"params\[0\] has dtype float32, and in the file float64$",
    ),
    "too many": (lambda one: {"params": [one.w, one.w]}, ValueError, "params must be the arrays in the file, but has '1'$"),
    "names": (lambda one: {"params": {"w": one.w}}, ValueError, "the arrays in the file, but lacks '0' and has 'w'$"),
    "untied": (lambda one: {"params": [one.w.copy()]}, ValueError, r"params\[0\] of optimizer and params\[0\] are two arrays"),
    "no array": (lambda _: {"params": [[1.0]]}, TypeError, r"params\[0\]\[0\] must be a numpy array, got float$"),
    "no list": (lambda one: {"params": one.w}, TypeError, "params must be a list or a dict of arrays, got ndarray$"),
    "a layer less": (lambda one: {"layers": one.layers[:1]}, ValueError, "layers must be the layers in the file, but lacks 'layers.1'$"),
    "order of layers": (
        lambda one: {"layers": one.layers[::-1]},
        ValueError,
        r"layers\[0\] is a Dropout, and in the file a BatchNorm$",
    ),
    "no layer": (lambda _: {"layers": [5]}, TypeError, r"layers\[0\] must be a layer of fastopt.nn, got int$"),
    "features": (
        lambda one: {"layers": [fo.nn.BatchNorm(4), one.layers[1]]},
        ValueError,
        r"layers\[0\] has num_features = 4, and in the file it has 3$",
    ),
    "an axis": (
        lambda one: {"layers": [fo.nn.BatchNorm(3, channel_axis=-1), one.layers[1]]},
        ValueError,
        r"layers\[0\] has channel_axis = -1, and in the file it has 1$",
    ),
    "statistics": (
        lambda one: {"layers": [fo.nn.BatchNorm(3, track_running_stats=False), one.layers[1]]},
        ValueError,
        r"layers\[0\] must be the arrays in the file, but lacks 'running_mean', 'running_var', 'num_batches_tracked'$",
    ),
    "read-only": (read_only, TypeError, r"running_var of layers\[0\] is read-only, but would be written; give a copy$"),
    "another rule": (other_class, ValueError, "optimizer: Adam: state_dict is that of AdamW$"),
    "no optimizer": (lambda _: {"optimizer": []}, ValueError, "optimizer must be the optimizers in the file, but lacks 'optimizer'$"),
    "a torch optimizer": (lambda _: {"optimizer": "x"}, TypeError, "optimizer must be an optimizer of fastopt.optim, got str$"),
    "swapped": (swapped, ValueError, "optimizer: AdamW: the parameters are swapped for their averages"),
    "another schedule": (
        lambda one: {"schedule": fo.schedules.LinearLR(one.opt)},
        ValueError,
        "schedule: LinearLR: state_dict must be of the same class, got 'StepLR'$",
    ),
    "a stranger's schedule": (
        lambda _: {"schedule": fo.schedules.StepLR(fo.optim.SGD([np.ones(1)]), 2)},
        ValueError,
        "schedule is that of another optimizer$",
    ),
    "no schedule": (lambda _: {"schedule": 5}, TypeError, "schedule must be a schedule of fastopt.schedules, got int$"),
    "another generator": (
        lambda _: {"rng": generator("Philox", 0)},
        ValueError,
        "rng is a Generator of Philox, and in the file a Generator of PCG64$",
    ),
    "a number": (lambda _: {"partial": 1}, TypeError, "partial must be a bool, got 1$"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_changes_nothing(mistake: str, path: Path) -> None:
    run, other = Whole(3), Whole(1)
    fo.save(path, **run.parts)
    make, error, text = MISTAKES[mistake]
    wrong = make(other)
    before = other.all()
    with pytest.raises(error, match=rf"^load: .*{text}"):
        fo.load(path, **{**other.parts, **wrong})
    assert other.all() == before


def test_whatever_part_does_not_fit_nothing_changes(path: Path, each: Each) -> None:
    """Each part from another run that has other shapes, while all others fit."""
    run, large = Whole(3), Whole(3, size=4)
    fo.save(path, **run.parts)
    for part in each([part for part in run.parts if part != "rng"]):
        other = Whole(1)
        before, theirs = other.all(), large.all()
        with pytest.raises(ValueError, match=r"^load: "):
            fo.load(path, **{**other.parts, part: large.parts[part]})
        assert other.all() == before and large.all() == theirs


def test_damaged_files(path: Path, each: Each, rng: Generator) -> None:
    run, other = Whole(3), Whole(1)
    fo.save(path, **run.parts)
    whole, before = path.read_bytes(), other.all()
    for at in each(rng.integers(0, len(whole), 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"^load: path .*(damaged|fastopt's|format|safetensors)"):
            fo.load(path, **other.parts)
        path.write_bytes(whole[:at])
        with pytest.raises(ValueError, match=r"^load: path .*(truncated|empty)"):
            fo.load(path, **other.parts)
        assert other.all() == before
    path.unlink()
    with pytest.raises(FileNotFoundError, match="load: path cannot be read: there is no such file"):
        fo.load(path, **other.parts)


def test_files_of_another_kind(path: Path) -> None:
    run = Whole(1)
    run.opt.save(path)
    with pytest.raises(ValueError, match=r"is not the file of a run: load it with the optimizer's load$"):
        fo.load(path, **run.parts)
    save_file({"w": np.ones(2)}, path)
    with pytest.raises(ValueError, match=r"^load: path .* is not a file of fastopt's"):
        fo.load(path, **run.parts)
    fo.save(path, **run.parts)
    with pytest.raises(ValueError, match=r"^AdamW: .* is the file of a run: load it with fastopt.load$"):
        run.opt.load(path)


def test_a_part_alone(path: Path) -> None:
    run = Whole(3)
    fo.save(path, **run.parts, extra="more")
    for part in run.parts:
        other = Whole(1)
        assert fo.load(path, **{part: other.parts[part]}, partial=True) == "more"
        alone = Whole(1)
        mine, before, theirs = (
            dict(zip(Whole(1).parts, one.all_parts(), strict=True)) for one in map(Parts, (other, alone, run))
        )
        assert mine[part] == theirs[part] != before[part]
        assert part == "rng" or mine["rng"] == before["rng"]
        assert part == "layers" or mine["layers"][1] == before["layers"][1]
    fo.save(path, layers=run.layers)
    with pytest.raises(ValueError, match=r"^load: params is not in .*run.safetensors, which has layers$"):
        fo.load(path, params=[run.w], partial=True)


class Parts:
    """A run, part by part."""

    def __init__(self, run: Whole) -> None:
        self.run = run

    def all_parts(self) -> list[Any]:
        weights, arrays, attributes, opt, schedule, rng = self.run.all()
        return [weights, (arrays, attributes), opt["state"], schedule, rng]


def test_what_cannot_be_saved(path: Path) -> None:
    with pytest.raises(ValueError, match=r"^save: there is nothing to save; give params, layers"):
        fo.save(path)
    with pytest.raises(TypeError, match=r"^save: params\['a'\] has dtype object, expected floats, integers or bools$"):
        fo.save(path, params={"a": np.array([None])})
    with pytest.raises(TypeError, match=r"^save: params\[0\] is a masked array, whose mask would be lost$"):
        fo.save(path, params=[np.ma.masked_array([1.0], [True])])
    with pytest.raises(ValueError, match=r"^save: params\['a'\]\['b'\] would be a second array with the name 'a.b'"):
        fo.save(path, params={"a.b": np.ones(1), "a": {"b": np.ones(1)}})
    with pytest.raises(TypeError, match=r"^save: schedule must have strings as keys, got 1$"):
        fo.save(path, schedule={1: 2})
    run = Whole(1)
    with pytest.raises(ValueError, match=r"^save: schedule is that of another optimizer$"):
        fo.save(path, optimizer=Whole(1).opt, schedule=run.schedule)
    run.opt.accumulate([run.w.copy(), None, None])
    with pytest.raises(
        ValueError,
        match=r"^save: optimizer: AdamW: accumulated gradients would be lost; step\(\) or discard_accumulated\(\) first$",
    ):
        fo.save(path, **run.parts)
    run = Whole(1)
    swapped(run)
    with pytest.raises(ValueError, match=r"^save: optimizer: AdamW: the parameters are swapped for their averages"):
        fo.save(path, **run.parts)
    assert not path.exists()


def nested_in_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"n": 10**5000}, r"extra\['n'\] must be an integer of at most 14000 bits"),
        ({"x": np.ma.masked_array([1.0], [True])}, r"extra\['x'\] is a masked array, whose mask would be lost"),
        ([np.timedelta64(5, "ns")], r"extra\[0\] must be a number, string, .* got timedelta64"),
        (nested_in_itself(), r"extra is nested more than 100 deep, or holds itself"),
        ({"\ud800": 1}, r"a key of extra must be text that UTF-8 can hold, got '\\ud800'"),
        (["\ud800"], r"extra\[0\] must be text that UTF-8 can hold"),
    ],
    ids=range(6),
)
def test_values_that_a_file_cannot_hold(extra: Any, text: str, path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^save: {text}"):
        fo.save(path, extra=extra)
    with pytest.raises(ValueError, match=r"^save: names of arrays must be text that UTF-8 can hold"):
        fo.save(path, params={"\ud800": np.zeros(2)})
    assert not path.exists()
    deep: Any = [1.5]
    for _ in range(90):
        deep = [deep]
    fo.save(path, extra={"deep": deep, "n": 10**4000})
    assert fo.load(path) == {"deep": deep, "n": 10**4000}


def test_metadata_of_no_run(path: Path) -> None:
    """A file with the right checksum that fastopt did not write."""
    run = Whole(1)
    fo.save(path, **run.parts)
    arrays, metadata = _files.load(path)
    before = run.all()
    for part in ("params", "layers", "optimizer", "schedule", "rng"):
        for wrong in (1, [1], {}, {"": 1}, *([] if part == "params" else [{key: {} for key in metadata[part]}])):
            _files.save(path, arrays, {**metadata, part: wrong})
            with pytest.raises((TypeError, ValueError), match=r"^load: "):
                fo.load(path, **run.parts)
            assert run.all() == before


def test_accumulated_gradients_are_dropped_by_a_load(path: Path) -> None:
    run, other = Whole(2), Whole(1)
    fo.save(path, **run.parts)
    other.opt.accumulate([other.w.copy(), None, None])
    fo.load(path, **other.parts)
    assert other.all() == run.all()


# In the middle of things


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_load_is_made_or_not(path: Path) -> None:
    """Wherever Ctrl-C comes, every part is from one of the two files."""
    runs = [Whole(2), Whole(5)]
    for i, run in enumerate(runs):
        fo.save(path.parent / str(i), **run.parts)
    ends = [run.all() for run in runs]
    armed: list[bool] = []

    def interrupt(*_: Any) -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    other, seen = Whole(1), 0
    fo.load(path.parent / "0", **other.parts)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for k in range(400):
            try:
                armed[:] = [True]
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (k % 200 + 1))
                fo.load(path.parent / str(k % 2), **other.parts)
                armed.clear()
            except KeyboardInterrupt:
                seen += 1
            assert other.all() in ends
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(0.001)
        signal.signal(signal.SIGALRM, before)
    assert seen > 0


def test_threads_that_step_while_another_saves(path: Path) -> None:
    """Weights and state in the file are of the same step: each step adds 1 to both."""
    w = np.zeros(1 << 15)
    opt = fo.optim.SGD([w], lr=1.0, momentum=1.0, maximize=True)
    grads, done = [np.ones(1 << 15)], threading.Event()

    def step() -> None:
        while not done.is_set():
            opt.step(grads)

    threads = [threading.Thread(target=step) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            fo.save(path, params=[w], optimizer=opt)
            arrays = load_file(path)
            n = float(arrays["optimizer.state.0.step"])
            assert (arrays["optimizer.state.0.momentum_buffer"] == -n).all()  # of the negated gradient
            assert (arrays["params.0"] == n * (n + 1) / 2).all()
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_two_optimizers_in_two_threads(path: Path) -> None:
    """In either order: nobody waits for ever."""
    opts = [fo.optim.SGD([np.ones(9)], lr=0.1) for _ in range(2)]

    def save(name: str, some: list[Any]) -> None:
        for _ in range(20):
            fo.save(path.parent / name, optimizer=some)

    threads = [threading.Thread(target=save, args=one, daemon=True) for one in (("a", opts), ("b", opts[::-1]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


# Killed


EXAMPLES = Path(__file__).parents[1] / "examples"
# For each example that saves: after how many saves it is killed, at most, how often, and how long after a save, in seconds.
KILLED = {"resume.py": (12, 6, 2e-3), "word2vec.py": (3, 2, 0.2)}


def test_every_example_that_saves_is_killed() -> None:
    assert {one.name for one in EXAMPLES.glob("*.py") if ".save(" in one.read_text("utf-8")} == {*KILLED}


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_ends_with_the_same_bits(name: str, path: Path, rng: Generator) -> None:
    """Killed after a few of its saves, perhaps in the middle of one, again and again; in the end there is the same file."""
    most, times, late = KILLED[name]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # NumPy's products have the same bits

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, str(EXAMPLES / name), str(path)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    with start() as whole:
        output = whole.communicate(timeout=300)[0]
    assert whole.returncode == 0 and output.startswith("from step 0")
    last, contents = output.splitlines()[-1], path.read_bytes()
    path.unlink()

    begins = []
    for saves in [*rng.integers(1, most, times), 1000]:
        before = path.stat().st_mtime_ns if path.exists() else None
        with start() as child:
            assert child.stdout is not None
            begins.append(int(child.stdout.readline().split()[2]))
            seen = 0
            while child.poll() is None and seen < saves:
                now = path.stat().st_mtime_ns if path.exists() else None
                seen += now != before
                before = now
                time.sleep(1e-4)
            time.sleep(rng.uniform(0, late))
            if seen >= saves:
                child.kill()
            output = child.stdout.read()
        if child.returncode == 0:
            break
    assert child.returncode == 0 and output.splitlines()[-1] == last
    assert path.read_bytes() == contents
    assert begins[0] == 0 and len(begins) > 2 and sorted({*begins}) == begins[: len({*begins})]
    assert os.listdir(path.parent) == [path.name]  # the last save has swept up what the killed ones left
