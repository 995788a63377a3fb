"""The tables of what is tested: one of optimizers, one of normalizations.

Every property test runs over a whole table.  Optimizers enter their table by themselves: their classes name their
hyperparameters and their states.  A normalization needs one entry here; ``test_house.py`` finds what is missing.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fastopt import _core, functional, optim

Array: TypeAlias = NDArray[Any]
Options: TypeAlias = dict[str, Any]
Place: TypeAlias = Callable[[Array], Array]

DTYPES = ("float32", "float64")
HALVES = ("float16", "bfloat16")
EVERY_DTYPE = (*DTYPES, *HALVES)


# Numbers


def ordinary(rng: Generator, shape: int | Sequence[int], dtype: str = "float64") -> Array:
    """Normally distributed numbers."""
    return np.asarray(rng.standard_normal(shape), dtype)


def extreme(rng: Generator, shape: int | Sequence[int], dtype: str) -> Array:
    """Numbers of every magnitude, including subnormal numbers, zeros of both signs, infinities and NaN."""
    low, high = {"float32": (-45, 38), "float64": (-323, 308), "float16": (-8, 4.8), "bfloat16": (-41, 38)}[dtype]
    x = (rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(low, high, shape)).astype(dtype)
    least = ml_dtypes.finfo(dtype)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, least.tiny, -least.smallest_subnormal], dtype)
    return np.where(rng.random(shape) < 0.2, rng.choice(special, shape), x)


def mixed(rng: Generator, shape: int | Sequence[int], dtype: str) -> Array:
    """Three ordinary numbers for each extreme one."""
    return np.where(rng.random(shape) < 0.75, ordinary(rng, shape, dtype), extreme(rng, shape, dtype))


# Optimizers

# The values with which hyperparameters are tried, in all combinations.  A rule that has the name takes the values that
# look like its default and that it accepts; flags need no entry.  A new rule needs an entry only for a name that is not
# here.
VALUES: dict[str, tuple[Any, ...]] = {
    "lr": (0.7,),
    "momentum": (0.9, 0.0),
    "dampening": (0.0, 0.3),
    "weight_decay": (0.0,),  # varied in SURROUNDINGS
    "betas": ((0.9, 0.99), (0.8, 0.9, 0.99)),
    "eps": (1e-8, (None, 1e-3), (1e-5, 1e-2)),
    "alpha": (0.9,),
    "rho": (0.9,),
    "lr_decay": (0.0, 0.1),
    "initial_accumulator_value": (0.0, 0.1),
    "momentum_decay": (4e-3,),
    "lambd": (1e-2,),
    "t0": (2.0, 1e6),
    "etas": ((0.5, 1.2),),
    "step_sizes": ((1e-6, 50.0), (0.1, 0.8)),
    "trust_coefficient": (0.1,),
    "alpha_warmup": (None, 3),
    "beta3_warmup": (None, 3),
    "warmup_steps": (0, 3),
    "r": (0.0, 1.5),
    "weight_lr_power": (2.0,),
    "clip_exponent": (0.25, None),
    "beta2_decay": (-0.8,),
    "d": (1.0,),
    "ns_coefficients": ((3.4445, -4.775, 2.0315), (1.5, -0.5, 0.0)),
    "ns_steps": (5, 2),
    "adjust_lr_fn": (None, "original", "match_rms_adamw"),
}
_EXACT = {"ns_coefficients"}  # must not be scaled

# The options around every rule: each is tried alone with each rule, and they are tried together at random.
SURROUNDINGS: dict[str, Options] = {
    "weight_decay": {"weight_decay": 0.1},  # the rule's own way
    "l2": {"weight_decay": 0.1, "decoupled_weight_decay": False},
    "decoupled_weight_decay": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "fixed_decay": {"weight_decay": 0.1, "decoupled_weight_decay": True, "fixed_decay": True},
    "l1": {"l1": 0.03},
    "proximal_l1": {"l1": 0.3, "proximal_l1": True},
    "proximal_l1_lr": {"l1": 0.3, "proximal_l1": "lr"},
    "l2_init": {"l2_init": 0.1},
    "l2_init_decoupled": {"l2_init": 0.1, "decoupled_weight_decay": True},
    "noise": {"noise": 0.1, "seed": 3 * 2**48 + 12_345},
    "temperature": {"temperature": 0.01},
    "maximize": {"maximize": True},
    "ema": {"ema_decay": 0.9},
    "ema_warmup": {"ema_decay": 0.9, "ema_warmup": True},
    "swa": {"swa_start": 2, "swa_freq": 2},
}
# The options of a step.
STEPS: dict[str, Options] = {
    "grad_scale": {"grad_scale": 3.0},
    "clip_norm": {"clip_norm": 2.0},
    "clip_norm_far_above": {"clip_norm": 1e6},
    "clip_value": {"clip_value": 0.5},
    "clip_param_norm": {"clip_param_norm": 1.5},
    "clip_adaptive": {"clip_adaptive": 0.5},
    "skip_nonfinite": {"skip_nonfinite": True},
    "zero_grads": {"zero_grads": True},
}
OF_STEP = frozenset().union(*STEPS.values())

# Formats: the dtype of the parameters, and options.
MOMENTS: dict[str, Options] = {
    "bfloat16 moments": {"moments": "bfloat16"},
    "nearest bfloat16 moments": {"moments": "bfloat16", "moment_rounding": "nearest"},
    "8bit moments": {"moments": "8bit"},
}
WEIGHTS = ("stochastic", "nearest", "kahan", "master", "correction")
FORMATS: dict[str, tuple[str, Options]] = {
    **{name: ("float32", options) for name, options in MOMENTS.items()},
    **{f"float16 {weights}": ("float16", {"weights": weights}) for weights in WEIGHTS[:-1]},
    **{f"bfloat16 {weights}": ("bfloat16", {"weights": weights}) for weights in WEIGHTS},
}


@dataclass(frozen=True)
class Rule:
    """An optimizer.  Its properties follow from its class; many need a stateless function."""

    optimizer: type[optim.Optimizer]

    @cached_property
    def function(self) -> str:
        return self.optimizer.function or self.optimizer.__name__.lower()

    @cached_property
    def own(self) -> dict[str, Any]:
        """The rule's own hyperparameters and their defaults."""
        parameters = inspect.signature(self.optimizer.__init__).parameters
        return {name: one.default for name, one in parameters.items() if name not in ("self", "params", "around")}

    @cached_property
    def values(self) -> dict[str, tuple[Any, ...]]:
        """The values with which its own hyperparameters are tried."""

        def like(default: Any) -> Callable[[Any], bool]:
            length = len(default) if isinstance(default, tuple) else None
            return lambda value: (len(value) if isinstance(value, tuple) else None) == length

        unknown = [name for name, default in self.own.items() if not isinstance(default, bool) and name not in VALUES]
        assert not unknown, f"tables.VALUES has nothing to try {self.optimizer.__name__}'s {', '.join(unknown)} with"
        return {
            name: (False, True) if isinstance(default, bool) else tuple(filter(like(default), VALUES[name]))
            for name, default in self.own.items()
        }

    def accepts(self, options: Options) -> bool:
        try:
            self.optimizer([], **hyperparameters(options))
        except (TypeError, ValueError):
            return False
        return True

    @cached_property
    def combinations(self) -> list[Options]:
        """Every combination of these values that it accepts."""
        every = (dict(zip(self.values, one, strict=True)) for one in itertools.product(*self.values.values()))
        return [options for options in every if self.accepts(options)]

    @cached_property
    def surroundings(self) -> dict[str, Options]:
        """The options around the rule and of the step that it accepts."""
        every = {**SURROUNDINGS, **STEPS}
        return {name: more for name, more in every.items() if self.accepts(self.plain | more)}

    @cached_property
    def formats(self) -> dict[str, tuple[str, Options]]:
        """The formats that it accepts."""
        return {name: one for name, one in FORMATS.items() if self.accepts(self.plain | one[1])}

    @cached_property
    def plain(self) -> Options:
        """The first combination."""
        return self.combinations[0]

    @cached_property
    def fullest(self) -> Options:
        """The first of the combinations with the most state."""
        states = {i: len(self.states(options)) for i, options in enumerate(self.combinations)}
        return self.combinations[max(states, key=lambda i: (states[i], -i))]

    @cached_property
    def variants(self) -> list[Options]:
        """No options, and each flag switched by itself; if it has momentum, all of these with and without momentum."""
        flags: list[Options] = [{}, *({name: not value} for name, value in self.own.items() if isinstance(value, bool))]
        momenta: list[Options] = [{}, {"momentum": 0.8}] if "momentum" in self.own else [{}]
        every = [momentum | flag for momentum, flag in itertools.product(momenta, flags)]
        return [options for options in every if self.accepts(options)]  # Nesterov needs momentum, for example

    @cached_property
    def richest(self) -> Options:
        """The first of the variants with the most state."""
        return max(self.variants, key=lambda options: len(self.make([np.ones((2, 2))], options).state[0]))

    def sample(
        self, rng: Generator, *, around: bool = True, step: bool = False, without: Sequence[str] = ()
    ) -> Options:
        """A combination with random numbers, and with some of the options around every rule.

        ``step``: also with options of the step.  ``without``: options that are left out.
        """
        rng = self._own(rng)
        while True:
            options = dict(self.combinations[rng.integers(len(self.combinations))])
            others = {**(SURROUNDINGS if around else {}), **(STEPS if step else {})}
            for name in rng.permutation(list(others)):
                if rng.random() < 0.2 and not others[name].keys() & {*without}:
                    options |= others[name]
            options = {name: _scaled(rng, name, value) for name, value in options.items()}
            if self.accepts(options) and len(clips(options)) < 2:
                return options

    def sample_moments(self, rng: Generator, options: Options) -> Options:
        """The options with a random format for moments, if the rule has any."""
        ways = [options, *(options | one for one in MOMENTS.values() if self.accepts(options | one))]
        return ways[self._own(rng, options).integers(len(ways))]

    def sample_format(self, rng: Generator, options: Options) -> tuple[str, Options]:
        """A random dtype, and the options with random formats for its parameters and for moments."""
        ways = [("float32", {}), *(one for one in FORMATS.values() if "weights" in one[1])]
        dtype, kept = ways[self._own(rng, options).integers(len(ways))]
        return dtype, self.sample_moments(rng, options | kept)

    def _own(self, rng: Generator, options: Options | None = None) -> Generator:
        """Random numbers that differ between rules and options."""
        return np.random.default_rng([rng.integers(2**32), *self.function.encode(), *repr(options or "").encode()])

    def make(self, params: Any, options: Options) -> optim.Optimizer:
        return self.optimizer(params, **hyperparameters(options))

    # Parameters

    @cached_property
    def matrices_only(self) -> bool:
        try:
            self.optimizer([np.ones(3)])
        except ValueError:
            return True
        return False

    def fit(self, shape: int | Sequence[int]) -> tuple[int, ...]:
        """A shape of that many numbers that the rule takes: any shape, or a matrix."""
        shape = (int(shape),) if isinstance(shape, int | np.integer) else tuple(shape)
        if not self.matrices_only or len(shape) == 2:
            return shape
        size = math.prod(shape)
        rows = max((n for n in range(1, math.isqrt(size) + 1) if size % n == 0), default=1)
        return (size // rows, rows) if size % 3 == 0 else (rows, size // rows)

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of parameters that it takes: longer than a vector register, without axes, and empty."""
        shapes: list[tuple[int, ...]] = [(4, 3), (30, 5)]
        return shapes + ([(5, 20), (0, 2)] if self.matrices_only else [(71,), (), (2, 3, 4), (0, 2)])

    def arrays(
        self, rng: Generator, shapes: Sequence[Any] | None = None, dtype: str = "float64", *, numbers: Any = ordinary
    ) -> list[Array]:
        """Parameters or gradients of these shapes, or of ``shapes``."""
        return [numbers(rng, self.fit(shape), dtype) for shape in (self.shapes if shapes is None else shapes)]

    # State

    def states(self, options: Options) -> tuple[str, ...]:
        """The names of its states in the order of the function's arguments, with those of options around the rule."""
        params = [np.ones(shape, np.float32) for shape in ((2, 2), *([] if self.matrices_only else [(2,)]))]
        opt = self.make(params, options)
        names = {f"{name}s": name for one in opt.state for name in one}
        return tuple(
            names[name] for name in inspect.signature(getattr(functional, self.function)).parameters if name in names
        )

    @cached_property
    def numbers(self) -> frozenset[str]:
        """The names of the numbers that it keeps for each parameter."""
        kernels = (_core.kernels.rules[kernel] for kernel in self.optimizer.kernels)
        return frozenset(name for kernel in kernels for name in kernel[1])

    def new_states(self, options: Options, params: Sequence[Array]) -> dict[str, list[Array | None]]:
        """The arguments of the function that are state, with their values before the first step."""
        state = self.make(params, options).state
        arguments: dict[str, list[Array | None]] = {}
        for name, parameter in inspect.signature(getattr(functional, self.function)).parameters.items():
            of_params = [one.get(name[:-1]) if name.endswith("s") else None for one in state]
            needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            if any(one is not None for one in of_params) or (needed and name not in ("params", "grads")):
                arguments[name] = [None if one is None else one.copy() for one in of_params]
        return arguments

    # Properties

    @cached_property
    def uses_blas(self) -> bool:
        """Whether it has matrix products, whose bits may depend on the number of BLAS's threads."""
        return self.optimizer._make_plan.__func__ is not optim.Optimizer._make_plan.__func__  # type: ignore[attr-defined]

    @cached_property
    def elementwise(self) -> bool:
        """Whether each element is updated by itself, without matrix products and sums over elements."""
        if self.uses_blas:
            return False
        opt = self.make([np.ones((2, 2))], self.plain)
        opt.step([np.ones((2, 2))])
        return not any(opt._plan.measured())

    @cached_property
    def shapeless(self) -> bool:
        """Whether an array of any shape gives the same results as a flat one."""
        shapes = (
            array.shape
            for one in self.new_states(self.fullest, [np.ones((2, 3))]).values()
            for array in one
            if array is not None
        )
        return not self.matrices_only and {*shapes} <= {(2, 3), ()}

    @cached_property
    def moves_from(self) -> int:
        """The number of the first step that moves a parameter by its gradient."""
        return self.optimizer.moves_from

    # Steps

    def update(
        self, module: ModuleType, params: Any, grads: Any, states: Mapping[str, Any], step: Any, options: Options
    ) -> Any:
        """One stateless step."""
        function = getattr(module, self.function)
        known = inspect.signature(function).parameters
        renamed = {name: f"{name.removesuffix('s')}_limits" for name in options if name in self.own}
        arguments = {renamed[name] if renamed.get(name) in known else name: value for name, value in options.items()}
        return function(params, grads, **states, step=step, **arguments)

    def run(
        self,
        module: ModuleType,
        params: Any,
        grads: Any,
        options: Options,
        place: Place = np.copy,
        place_grad: Place | None = None,
        taken: Sequence[int] = (),
    ) -> dict[str, Array]:
        """All results after one step with each of the lists of gradients, in buffers that ``place`` makes.

        They include the functions' return values, and the parameters after every step, as a NaN may spread later.
        ``taken``: how many steps the parameters have taken before.
        """
        states = {
            name: [None if one is None else place(one) for one in some]
            for name, some in self.new_states(options, params).items()
        }
        params, counts, results = [place(p) for p in params], np.array(taken or [0] * len(params)), {}
        for step, some in enumerate(grads):
            given = [None if g is None else (place_grad or place)(g) for g in some]
            norm, skipped = self.update(module, params, given, states, list(map(int, counts + 1)), options)
            counts += [g is not None and not skipped for g in given]
            results[f"grad_norm at {step}"] = np.array(-1.0 if norm is None else norm)
            results[f"skipped at {step}"] = np.array(float(skipped))
            results |= {f"grads[{i}] at {step}": g for i, g in enumerate(given) if g is not None}
            results |= {f"params[{i}] at {step}": p.copy() for i, p in enumerate(params) if step + 1 < len(grads)}
        for name, arrays in {"params": params, **states}.items():
            results |= {f"{name}[{i}]": array for i, array in enumerate(arrays) if array is not None}
        return results


def _scaled(rng: Generator, name: str, value: Any) -> Any:
    """A number somewhat closer to zero."""
    if isinstance(value, tuple) and name not in _EXACT:
        return tuple(_scaled(rng, name, one) for one in value)
    return value * rng.uniform(0.5, 1) if isinstance(value, float) else value


def hyperparameters(options: Options) -> Options:
    """The options that are hyperparameters and not options of the step."""
    return {name: value for name, value in options.items() if name not in OF_STEP}


def of_step(options: Options) -> Options:
    return {name: value for name, value in options.items() if name in OF_STEP}


def clips(options: Options) -> list[str]:
    """The names of the ways in which the step clips gradients."""
    return [name for name in of_step(options) if name.startswith("clip")]


OPTIMIZERS = {
    name: Rule(one)
    for name, one in sorted(vars(optim).items())
    if isinstance(one, type) and issubclass(one, optim.Optimizer) and one is not optim.Optimizer
}
CLASSES: dict[str, type[Any]] = {name: rule.optimizer for name, rule in OPTIMIZERS.items()}
SCHEDULE_FREE = [name for name, cls in CLASSES.items() if hasattr(cls, "eval")]
# The rules that have a stateless function, by its name.
RULES = {
    rule.function: rule
    for rule in OPTIMIZERS.values()
    if rule.optimizer.kernels and rule.optimizer.function is not None
}


def rules_and_formats() -> Iterator[tuple[str, str]]:
    return ((name, kept) for name, rule in RULES.items() for kept in rule.formats)


# Normalizations

# The results of each forward function and its backward function, besides y and dx.
_RESULTS = {
    "layer_norm": ("mean rstd", "dweight dbias"),
    "add_layer_norm": ("sum mean rstd", "dweight dbias"),
    "rms_norm": ("rstd", "dweight"),
    "add_rms_norm": ("sum rstd", "dweight"),
    "cosine_norm": ("rnorm", ""),
    "scale_norm": ("rnorm", "dg"),
    "batch_norm": ("mean rstd", "dweight dbias"),
    "batch_norm_relu": ("mean rstd", "dweight dbias"),
    "batch_norm_add_relu": ("mean rstd", "dresidual dweight dbias"),
    "batch_renorm": ("mean rstd r d", "dweight dbias"),
    "batch_norm_apply": ("mean rstd", ""),
    "group_norm": ("mean rstd", "dweight dbias"),
    "instance_norm": ("mean rstd", "dweight dbias"),
    "weight_norm": ("rnorm", "dg"),
}
RESULTS = {norm: (("y", *one.split()), ("dx", *other.split())) for norm, (one, other) in _RESULTS.items()}
LIKE_X = {"y", "sum", "dx", "dresidual"}
LIKE_WEIGHT = {"dweight", "dbias", "dg", "running_mean", "running_var"}  # the others are statistics


def computed(dtype: str) -> str:
    """The dtype in which numbers of a dtype are computed; weights and running statistics have it, too."""
    return "float32" if dtype in HALVES else dtype


def parameters(function: str) -> list[str]:
    return [*inspect.signature(getattr(functional, function)).parameters]


@dataclass
class Call:
    """A forward pass and its backward pass."""

    norm: str
    x: Array
    dy: Array
    arguments: Options = field(default_factory=dict)  # of both functions, besides x and dy

    @property
    def functions(self) -> tuple[str, str]:
        return self.norm, f"{self.norm}_backward"

    def placed(self, place: Place) -> Call:
        """The same call with other buffers."""
        arguments = {
            name: place(value) if isinstance(value, np.ndarray) else value for name, value in self.arguments.items()
        }
        return replace(self, x=place(self.x), dy=place(self.dy), arguments=arguments)

    def forward_arguments(self, module: ModuleType) -> Options:
        first, *names = parameters(self.functions[0])
        return {first: self.x} | {name: self.arguments[name] for name in names if name in self.arguments}

    def backward_arguments(self, module: ModuleType, results: Sequence[Any]) -> Options:
        """``results``: the results of forward."""
        first, *names = parameters(self.functions[1])
        known = self.arguments | {"x": self.x, "v": self.x}
        known |= dict(zip(RESULTS[self.norm][0], results, strict=True))
        return {first: self.dy} | {name: known[name] for name in names if name in known}

    def forward(self, module: ModuleType, **more: Any) -> tuple[Array, ...]:
        """The results that ``RESULTS`` names."""
        results: tuple[Array, ...] = getattr(module, self.functions[0])(**self.forward_arguments(module), **more)
        return results

    def backward(self, module: ModuleType, results: Sequence[Any], **more: Any) -> tuple[Array, ...]:
        """The results that ``RESULTS`` names, always as a tuple, even a single one; ``out`` is a tuple here, too."""
        single = len(RESULTS[self.norm][1]) == 1
        if single and more.get("out") is not None:
            (more["out"],) = more["out"]
        gradients: Any = getattr(module, self.functions[1])(**self.backward_arguments(module, results), **more)
        return (gradients,) if single else gradients

    def run(self, module: ModuleType) -> dict[str, Array]:
        """All results of both passes, and the statistics that they update; the call itself does not change."""
        running = {
            name: np.copy(value)
            for name, value in self.arguments.items()
            if name.startswith("running") and value is not None
        }
        fresh = replace(self, arguments=self.arguments | running)
        forward = fresh.forward(module)
        results = dict(zip(RESULTS[self.norm][0], forward, strict=True))
        results |= dict(zip(RESULTS[self.norm][1], fresh.backward(module, forward), strict=True))
        return {name: array for name, array in (results | running).items() if array is not None}

    def sets(self, array: Array) -> Array:
        """An array like x, as (set, number): a set is normalized together; sets are in the order of the statistics."""
        axis: Any = self.arguments.get("channel_axis", self.arguments.get("dim"))
        if self.norm in ("group_norm", "instance_norm"):
            moved = np.moveaxis(array, axis, 1)
            return moved.reshape(len(array) * self.arguments.get("num_groups", moved.shape[1]), -1)
        if axis is not None:
            return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        shape = array.shape if "dim" in self.arguments else self.arguments.get("normalized_shape", array.shape[-1:])
        return array.reshape(-1, math.prod(shape))


class InHalves(Call):
    """BatchNorm in two halves; between them the statistics of the parts of a batch are combined."""

    @property
    def functions(self) -> tuple[str, str]:
        return "batch_norm_apply", "batch_norm_backward_apply"

    def forward_arguments(self, module: ModuleType) -> Options:
        stats = module.batch_norm_stats(self.x, channel_axis=self.arguments["channel_axis"])
        return super().forward_arguments(module) | {"stats": stats}

    def backward_arguments(self, module: ModuleType, results: Sequence[Any]) -> Options:
        axis = self.arguments["channel_axis"]
        sums = module.batch_norm_backward_stats(self.dy, self.x, *results[1:], channel_axis=axis)
        known = {"count": self.x.size // max(self.x.shape[axis], 1), "sum_dy": sums[0], "sum_dy_xhat": sums[1]}
        return super().backward_arguments(module, results) | known

    def run(self, module: ModuleType) -> dict[str, Array]:
        results = super().run(module)
        forward = self.forward_arguments(module)
        sums = self.backward_arguments(module, [results[name] for name in ("y", "mean", "rstd")])
        return results | {"m2": forward["stats"][2], **{name: sums[name] for name in ("sum_dy", "sum_dy_xhat")}}


@dataclass(frozen=True)
class Norm:
    """A normalization in one layout of ``rows`` times ``width`` numbers: ``width`` weights, sums over ``rows``."""

    norm: str
    view: Callable[[Array], Array]  # turns (rows, width) into x in that layout
    options: tuple[Options, ...]
    keywords: Callable[[Array], Options]  # the arguments that name the normalized axes

    def call(
        self, rng: Generator, dtype: str, rows: int, width: int, *, numbers: Any = ordinary, **options: Any
    ) -> Call:
        """A call with random numbers, in training.  weight, bias, running, dsum: whether they are given."""
        given = {name: options.pop(name, True) for name in ("weight", "bias", "running", "dsum")}
        x, dy = (self.view(numbers(rng, (rows, width), dtype)) for _ in range(2))
        call = (InHalves if self.norm == "batch_norm_apply" else Call)(self.norm, x, dy, self.keywords(x))
        names = {name for function in call.functions for name in parameters(function)}
        if "training" in names:
            call.arguments["training"] = True
        call.arguments |= options
        shape = call.arguments.get("normalized_shape", width)
        for name in sorted(names & {"weight", "bias", "running_mean", "running_var"}):
            values = ordinary(rng, shape, computed(dtype))
            values = values * values if name == "running_var" else values
            call.arguments[name] = values if given[name.partition("_")[0]] else None
        for name in sorted(names & {"residual", "dsum"}):
            call.arguments[name] = self.view(numbers(rng, (rows, width), dtype)) if given.get(name, True) else None
        if "g" in names:
            dim = call.arguments.get("dim")
            axes = () if dim is None else [n if axis == dim % x.ndim else 1 for axis, n in enumerate(x.shape)]
            call.arguments["g"] = np.asarray(ordinary(rng, axes, computed(dtype)))
        return call


def _gapped(x: Array) -> Array:
    """The same numbers in rows that lie apart."""
    return np.concatenate([x, np.full_like(x, np.nan)], axis=-1)[..., : x.shape[-1]]


def _parts(rows: int) -> tuple[int, int, int, int]:
    """``rows`` as a product, for samples and three axes of space."""
    factors = []
    for most in (4, 3, 2):
        factors.append(math.gcd(rows, most))
        rows //= factors[-1]
    return factors[0], factors[1], factors[2], rows


def _places_last(x: Array) -> Array:
    return x.reshape(*_parts(len(x)), x.shape[1])


def _planes(axes: int) -> Callable[[Array], Array]:
    """(N, C, and a number of axes of space), contiguous."""

    def view(x: Array) -> Array:
        a, b, c, d = _parts(len(x))
        shape = {1: (a, b * c * d), 2: (b * d, c, a), 3: (a, b, c, d)}[axes]
        return np.ascontiguousarray(np.moveaxis(x.reshape(*shape, x.shape[1]), -1, 1))

    return view


def _gapped_planes(x: Array) -> Array:
    """(N, C, L) out of a larger array: samples lie apart, and planes too if they are longer than one number."""
    room = np.full((x.shape[0], x.shape[1] + 1, x.shape[2] + (x.shape[2] > 1)), np.nan, x.dtype)
    room[:, :-1, : x.shape[2]] = x
    return room[:, :-1, : x.shape[2]]


def _samples(x: Array) -> Array:
    """(N, H, W, C) with at least two places a sample."""
    count = max(n for n in (1, 2, 3, 4) if len(x) % n == 0 and len(x) >= 2 * n)
    height = math.gcd(len(x) // count, 6)
    return x.reshape(count, height, -1, x.shape[1])


def _sample_planes(axis: int) -> Callable[[Array], Array]:
    """The same with C at the given axis, contiguous."""
    return lambda x: np.ascontiguousarray(np.moveaxis(_samples(x), -1, axis))


def _lines(x: Array) -> Array:
    samples = _sample_planes(1)(x)
    return samples.reshape(*samples.shape[:2], -1)


def _divisor(n: int) -> int:
    """The largest divisor up to the square root."""
    return max(k for k in range(1, math.isqrt(n) + 1) if n % k == 0)


View: TypeAlias = Callable[[Array], Array]
# Views of (rows, width), and the axis of width.
CHANNELS: dict[str, tuple[View, int]] = {
    "NC": (lambda x: x, 1),
    "NCL": (_planes(1), 1),
    "NCHW": (_planes(2), 1),
    "NCDHW": (_planes(3), 1),
    "NHWC": (_places_last, -1),
    "NHWC seen as NCHW": (lambda x: np.moveaxis(_places_last(x), -1, 1), 1),
    "CL": (lambda x: np.ascontiguousarray(x.T), 0),
    "NC of a slice": (_gapped, 1),
    "NCL of a slice": (lambda x: _gapped_planes(_planes(1)(x)), 1),
}
SAMPLES: dict[str, tuple[View, int]] = {
    "NCL": (_lines, 1),
    "NCHW": (_sample_planes(1), 1),
    "NTCL": (_sample_planes(2), 2),
    "NHWC": (_samples, -1),
    "NHWC seen as NCHW": (lambda x: np.moveaxis(_samples(x), -1, 1), 1),
    "NHWC of a slice": (lambda x: _gapped(_samples(x)), -1),
    "NCL of a slice": (lambda x: _gapped_planes(_lines(x)), 1),
}
ROWS: dict[str, tuple[View, int]] = {  # the view, and how many axes are normalized
    "": (lambda x: x, 1),
    " of two axes": (lambda x: x.reshape(len(x), math.gcd(x.shape[1], 6), -1), 2),
    " with two axes of rows": (lambda x: x.reshape(math.gcd(len(x), 4), -1, x.shape[1]), 1),
    " of a slice": (_gapped, 1),
}
OUTPUTS: dict[str, tuple[View, int | None]] = {
    "of outputs first": (lambda x: np.ascontiguousarray(x.T), 0),
    "of outputs last": (lambda x: x, -1),
    "OIHW": (lambda x: np.ascontiguousarray(np.moveaxis(_places_last(x), -1, 0)), 0),
    "IOHW": (_planes(2), 1),
    "of one axis": (lambda x: x.ravel(), 0),
    "of everything": (lambda x: x, None),
    "of a slice": (_gapped, 1),
    "IOH of a slice": (lambda x: _gapped_planes(_planes(1)(x)), 1),
}


# The views that are tried: all of them for one normalization of each kind, and some for the others.
_SOME_CHANNELS = ("NC", "NCHW", "NHWC", "NHWC seen as NCHW", "NCL of a slice")
_SOME_ROWS = ("", " of a slice")

_OF_ROWS: tuple[Options, ...] = (
    {},
    {"bias": False},
    {"weight": False},
    {"weight": False, "bias": False, "bias_grad": False, "eps": 1e-3},
)
_OF_SUMS: tuple[Options, ...] = (
    {},
    {"dsum": False},
    {"weight": False, "bias": False, "bias_grad": False, "eps": 1e-3},
    {"bias": False, "dsum": False},
)
_OF_CHANNELS = (
    {"training": True},
    {"training": True, "weight": False, "running": False, "momentum": 0.3},
    {"training": True, "bias": False, "momentum": 1.0, "eps": 1e-3},
    {"training": False},
    {"training": False, "weight": False, "bias": False, "bias_grad": False, "eps": 1e-3},
)
_OF_RENORM = (
    {"training": True},
    {"training": True, "weight": False, "momentum": 0.3, "r_max": 1.2, "d_max": 0.1},
    {"training": True, "bias": False, "eps": 1e-3, "r_max": 1.0, "d_max": 0.0},
    {"training": False},
    {"training": False, "weight": False, "bias": False, "bias_grad": False, "eps": 1e-3},
)
_OF_PARTS: tuple[Options, ...] = (
    {},
    {"weight": False, "running": False},
    {"bias": False, "bias_grad": False, "momentum": 1.0, "eps": 1e-3},
)
_OF_GROUPS: tuple[Options, ...] = (
    {},
    {"weight": False},
    {"bias": False, "bias_grad": False, "eps": 1e-3},
    {"num_groups": 1},
)
_OF_INSTANCES = (
    *_OF_PARTS,
    {"use_input_stats": False},
    {"use_input_stats": False, "weight": False, "bias": False, "bias_grad": False, "eps": 1e-3},
)


def _row_norm(norm: str, options: tuple[Options, ...], views: Iterable[str]) -> dict[str, Norm]:
    def keywords(axes: int) -> Callable[[Array], Options]:
        return lambda x: (
            {"normalized_shape": x.shape[x.ndim - axes :]} if "normalized_shape" in parameters(norm) else {}
        )

    return {f"{norm}{view}": Norm(norm, ROWS[view][0], options, keywords(ROWS[view][1])) for view in views}


def _channel_norm(
    norm: str, options: tuple[Options, ...], views: Mapping[str, tuple[View, int | None]], **more: Any
) -> dict[str, Norm]:
    """``more``: functions of the number of channels."""
    name = "dim" if norm == "weight_norm" else "channel_axis"

    def keywords(axis: int | None) -> Callable[[Array], Options]:
        return lambda x: {name: axis} | {key: value(x.shape[axis or 0]) for key, value in more.items()}

    return {f"{norm} {layout}": Norm(norm, view, options, keywords(axis)) for layout, (view, axis) in views.items()}


_SOME = {layout: CHANNELS[layout] for layout in _SOME_CHANNELS}
NORMS = {
    **_row_norm("layer_norm", _OF_ROWS, ROWS),
    **_row_norm("add_layer_norm", _OF_SUMS, _SOME_ROWS),
    **_row_norm("rms_norm", ({}, {"weight": False}, {"eps": 1e-3}), ROWS),
    **_row_norm("add_rms_norm", _OF_SUMS, _SOME_ROWS),
    **_row_norm("cosine_norm", ({}, {"eps": 1e-3}), _SOME_ROWS),
    **_row_norm("scale_norm", ({}, {"eps": 1e-3}), _SOME_ROWS),
    **_channel_norm("batch_norm", _OF_CHANNELS, CHANNELS),
    **_channel_norm("batch_norm_relu", _OF_CHANNELS, _SOME),
    **_channel_norm("batch_norm_add_relu", _OF_CHANNELS, _SOME),
    **_channel_norm("batch_renorm", _OF_RENORM, _SOME),
    **_channel_norm("batch_norm_apply", _OF_PARTS, _SOME),
    **_channel_norm("group_norm", _OF_GROUPS, SAMPLES | {"NC": CHANNELS["NC"]}, num_groups=_divisor),
    **_channel_norm("instance_norm", _OF_INSTANCES, SAMPLES),
    **_channel_norm("weight_norm", ({},), OUTPUTS),
}


# Memory layouts of inputs: the same numbers, except in broadcast arrays.
def every_second(x: Array) -> Array:
    """Every second element of a larger array, along the last axis."""
    return np.repeat(x, 2, axis=-1)[..., ::2]


def windows(x: Array) -> Array:
    """A window into a larger array, along the last two axes."""
    room = np.full([n + 3 * (axis >= x.ndim - 2) for axis, n in enumerate(x.shape)], np.nan, x.dtype)
    inner = room[tuple(slice(1, n + 1) if axis >= x.ndim - 2 else slice(None) for axis, n in enumerate(x.shape))]
    inner[...] = x
    return inner


def axes_reversed(x: Array) -> Array:
    """Axes in reverse order in memory, except the first and the last."""
    axes = [0, *range(x.ndim - 2, 0, -1), x.ndim - 1][: x.ndim]
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


def between_bytes(x: Array) -> Array:
    """The elements in records that are one byte longer."""
    records = np.zeros(x.shape, np.dtype({"names": ["x"], "formats": [x.dtype], "itemsize": x.itemsize + 1}))
    records["x"] = x
    field: Array = records["x"]
    return field


_LAYOUTS: dict[str, View] = {
    "flipped": lambda x: np.flip(np.flip(x).copy()),
    "flipped in its last axis": lambda x: x[..., ::-1].copy()[..., ::-1],
    "flipped in its first axis": lambda x: x[::-1].copy()[::-1],
    "every second": every_second,
    "a window": windows,
    "in Fortran order": np.asfortranarray,
    "with its inner axes reversed": axes_reversed,
    "the same everywhere in its last axis": lambda x: np.broadcast_to(x[..., :1], x.shape),
    "the same everywhere in its first axis": lambda x: np.broadcast_to(x[:1], x.shape),
    "between the bytes of records": between_bytes,
    "one number": lambda x: np.broadcast_to(x.ravel()[0], x.shape),
}
LAYOUTS: dict[str, View] = {name: lambda x, place=place: place(x) if x.ndim else x for name, place in _LAYOUTS.items()}


def far_at_first(x: Array, sets: Array, away: float) -> Array:
    """x with the first 16 numbers, or a third, of each set shifted far away; ``sets`` are flat indices."""
    far = np.copy(x, order="K")
    first = sets[:, : min(16, sets.shape[1] // 3)].ravel()
    far.flat[first] = far.flat[first] + np.asarray(away, x.dtype)
    return far
