"""One file for a run: its weights, layers, optimizer, schedule and random numbers are saved and restored together.

The parts of a run have names, which begin the names of their arrays in the file: ``params``, ``layers.0``, ``optimizer``, or
with several of them ``optimizer.actor``.  An array that several parts hold is in the file once, under its first name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._check import flag, not_an_array, type_of
from ._generators import Generator, bits_of, restore, restoring, state_of
from ._plain import apart, together
from ._targets import checked, memory_of

if TYPE_CHECKING:
    from .nn import Layer
    from .optim import Optimizer
    from .schedules.base import Schedule

Array: TypeAlias = NDArray[Any]
Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Named: TypeAlias = dict[str, tuple[str, Any]]  # by its name in the file, its name in errors and the thing itself

RUN = 1  # the version of the metadata
PARTS = ("params", "layers", "optimizer", "schedule", "rng")


def save(
    path: Path,
    *,
    params: Any = None,
    layers: Any = None,
    optimizer: Any = None,
    schedule: Any = None,
    rng: Any = None,
    extra: Any = None,
) -> None:
    """Writes what a run needs to be continued to one safetensors file, which replaces an old file whole or not at all.

    A run that is resumed with :func:`load` is the same run to the last bit, if everything that changes in it is given here.
    A process that is killed in the middle leaves the old file.  Arrays are only read; one that several arguments hold is
    written once.

    Args:
        path: The file.
        params: Weights that neither layers nor the optimizer hold, or all of them: a list or dict of arrays, nested ones, or
            groups, as optimizers take them.
        layers: A layer, or a list or dict of layers: parameters, running statistics and their count, the seed and the step of
            dropout, whether it is in training, and hyperparameters such as ``p`` or ``momentum``; of layers in it too.
        optimizer: An optimizer, or a list or dict of them: its parameters, state, counts, and groups with hyperparameters.
        schedule: A schedule of :mod:`fastopt.schedules`, or a list or dict of them.
        rng: A ``numpy.random.Generator`` or ``RandomState``, or a list or dict of them: the position in its numbers, and how
            many generators it has spawned.
        extra: Anything else: numbers, strings, bools, ``None`` and arrays, in lists and dicts with strings as keys.

    Raises:
        TypeError: An argument is of the wrong kind, or a value cannot be written.
        ValueError: Nothing is given, two arrays would have one name, accumulated gradients have not been used, or parameters
            are swapped for their averages.
        OSError: The file cannot be written; an old one is still there.

    Example:
        >>> import os, tempfile
        >>> import numpy as np, fastopt as fo
        >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
        >>> w, rng = np.zeros(3), np.random.default_rng(0)
        >>> opt = fo.optim.Adam([w], lr=0.1)
        >>> info = opt.step([rng.standard_normal(3)])
        >>> fo.save(path, optimizer=opt, rng=rng, extra={"epoch": 1})
        >>> before = w.copy(), rng.random()
        >>> info = opt.step([rng.standard_normal(3)])
        >>> fo.load(path, optimizer=opt, rng=rng)
        {'epoch': 1}
        >>> (w == before[0]).all(), rng.random() == before[1]
        (np.True_, True)
    """
    from . import _files  # imports json, hashlib and safetensors

    run = _Run("save", params, layers, optimizer, schedule, rng)
    if not run.given and extra is None:
        raise ValueError("save: there is nothing to save; give params, layers, optimizer, schedule, rng or extra")
    arrays: dict[str, Array] = {}
    metadata: dict[str, Any] = {"run": RUN}

    def add(name: str, label: str, array: Array) -> None:
        if array.dtype.name not in _files.DTYPES:
            raise TypeError(f"save: {label} has dtype {array.dtype}, expected floats, integers or bools")
        if name in arrays:
            raise ValueError(f"save: {label} would be a second array with the name {name!r}; rename a key")
        arrays[name] = array

    def add_value(name: str, label: str, value: Any) -> dict[str, Any]:
        plain, found = apart("save", label, value)
        for place, array in found:
            add(_joined(name, place), label + "".join(f"[{key!r}]" for key in place), array)
        return {"value": plain, "arrays": [place for place, _ in found]}

    with run.locked():
        if params is not None:
            metadata["params"] = [*run.params]
        if layers is not None:
            metadata["layers"] = {
                name: {
                    "class": type(layer).__name__,
                    "arrays": [*_arrays_of(layer)],
                    "shapes": layer._shapes_of(),
                    "attributes": apart("save", label, layer._attributes())[0],
                }
                for name, (label, layer) in run.layers.items()
            }
        states: dict[str, Array] = {}
        for name, (label, opt) in run.optimizers.items():
            with _naming("save", label):
                entries, own = opt._written()
            states.update((f"{name}.state.{key}", array) for key, array in entries.items())
            metadata.setdefault("optimizer", {})[name] = own
        same = metadata["same"] = {}
        names: dict[str, Any] = {}  # the memory of the array with this name
        first: dict[Any, str] = {}  # the first name of what is in this memory
        for name, label, array in run.weights():
            memory = memory_of(array)
            if names.setdefault(name, memory) != memory:
                raise ValueError(f"save: {label} would be a second array with the name {name!r}; rename a key")
            if (before := first.setdefault(memory, name)) != name:
                same[name] = before
            elif name not in arrays:
                add(name, label, array)
        for name, array in states.items():
            add(name, name, array)
        for name, (label, one) in run.schedules.items():
            with _naming("save", label):
                metadata.setdefault("schedule", {})[name] = one.state_dict()
        for name, (label, generator) in run.rngs.items():
            metadata.setdefault("rng", {})[name] = add_value(name, label, state_of("save", label, generator))
        if extra is not None:
            metadata["extra"] = add_value("extra", "extra", extra)
        for part in run.given:
            metadata.setdefault(part, {})  # an empty list or dict
        _files.save(path, arrays, metadata)


def load(
    path: Path,
    *,
    params: Any = None,
    layers: Any = None,
    optimizer: Any = None,
    schedule: Any = None,
    rng: Any = None,
    partial: bool = False,
) -> Any:
    """Restores a run from a file that :func:`save` wrote, all of it or nothing.

    The arguments are made as for a new run, in the same way as those that were saved; what the file has is written into them,
    into the same arrays.  Everything is checked before: after an error nothing has changed.

    Args:
        path: The file.
        params: Weights, with the names, shapes and dtypes of those that were saved.
        layers: The layers.
        optimizer: The optimizer, of parameters like those that were saved; all hyperparameters are restored, too.
        schedule: The schedule.
        rng: The generator, with a bit generator of the same class.
        partial: Leave out what the file has and is not given here; otherwise that is an error.

    Returns:
        ``extra``, as it was saved; ``None`` without one.  Tuples have become lists, and NumPy's numbers Python's.

    Raises:
        TypeError: An argument is of the wrong kind, or an array has another dtype than in the file or is read-only.
        ValueError: The file is truncated, damaged, or not one of a run; a part is missing, or in the file and not given;
            names, shapes or classes differ; or arrays share memory otherwise than they did.
        OSError: The file cannot be read.

    Example:
        >>> import os, tempfile
        >>> import numpy as np, fastopt as fo
        >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
        >>> fo.save(path, params={"w": np.arange(3.0)}, layers=[fo.nn.Dropout(0.5, seed=7)], extra={"epoch": 1})
        >>> w, dropout = np.zeros(3), fo.nn.Dropout(0.5)
        >>> fo.load(path, params={"w": w}, layers=[dropout])["epoch"], w, dropout.seed
        (1, array([0., 1., 2.]), 7)
    """
    from . import _files

    run = _Run("load", params, layers, optimizer, schedule, rng)
    partial = flag("load", "partial", partial)
    arrays, metadata = _files.load(path)
    file = os.fsdecode(path)
    if "run" not in metadata:
        hint = ": load it with the optimizer's load" if "param_groups" in metadata else ""
        raise ValueError(f"load: path {file} is not the file of a run{hint}")
    if metadata["run"] != RUN:
        raise ValueError(f"load: path {file} has version {metadata['run']!r}, this version of fastopt reads {RUN}")
    there = [part for part in PARTS if part in metadata]
    for part in run.given:
        if part not in there:
            raise ValueError(f"load: {part} is not in {file}, which has {', '.join(there) or 'extra only'}")
    if (left := [part for part in there if part not in run.given]) and not partial:
        raise ValueError(
            f"load: {file} has {' and '.join(left)} too; give all parts, or partial=True to leave some out"
        )

    def value_of(name: str, saved: Mapping[str, Any]) -> Any:
        return together(saved["value"], ((place, arrays[_joined(name, place)]) for place in saved["arrays"]))

    with run.locked(), _well_formed(file):
        calls: list[Iterable[Any]] = []
        forth: list[Callable[[], Any]] = []
        back: list[Callable[[], Any]] = []
        if params is not None:
            _expect_names("params", "arrays", metadata["params"], run.params)
        if layers is not None:
            _expect_names("layers", "layers", metadata["layers"], run.layers)
        for name, (label, layer) in run.layers.items():
            calls += _layer_calls(label, layer, metadata["layers"][name])
        if optimizer is not None:
            _expect_names("optimizer", "optimizers", metadata["optimizer"], run.optimizers)
        for name, (label, opt) in run.optimizers.items():
            begin = f"{name}.state."
            entries = {key.removeprefix(begin): array for key, array in arrays.items() if key.startswith(begin)}
            calls += run.load_optimizer(name, label, opt, entries, metadata["optimizer"][name])
        if schedule is not None:
            _expect_names("schedule", "schedules", metadata["schedule"], run.schedules)
        for name, (label, one) in run.schedules.items():
            calls += run.load_schedule(label, one, metadata["schedule"][name])
        if rng is not None:
            _expect_names("rng", "generators", metadata["rng"], run.rngs)
        for name, (label, generator) in run.rngs.items():
            its_forth, its_back = restoring("load", label, generator, value_of(name, metadata["rng"][name]))
            forth += its_forth
            back += its_back
        stored = {name: metadata["same"].get(name, name) for name, _, _ in run.weights()}
        targets = [(label, array, stored[name]) for name, label, array in run.weights()]
        targets = checked(targets, arrays)
        into = [array for _, array, _ in targets]
        calls.append(map(np.ndarray.__setitem__, into, repeat(...), [arrays[name] for _, _, name in targets]))
        extra = value_of("extra", metadata["extra"]) if "extra" in metadata else None
        restore(forth, back, calls)
    return extra


class _Run:
    """The arguments of :func:`save` or :func:`load`, checked, and their parts by their names."""

    def __init__(self, function: str, params: Any, layers: Any, optimizer: Any, schedule: Any, rng: Any) -> None:
        self.function = function
        every = dict(zip(PARTS, (params, layers, optimizer, schedule, rng), strict=True))
        self.given = [part for part, value in every.items() if value is not None]
        self.params = {} if params is None else _params(function, params)
        self.layers: dict[str, tuple[str, Layer]] = {}
        for name, (label, layer) in _named(function, "layers", layers, _expect_layer).items():
            for more, part in _nested(layer):
                if name + more in self.layers:
                    raise ValueError(
                        f"{function}: {label}{more} is a second layer with the name {name}{more}; rename a key"
                    )
                self.layers[name + more] = (label + more, part)
        self.optimizers: dict[str, tuple[str, Optimizer]] = _named(function, "optimizer", optimizer, _expect_optimizer)
        self.schedules: dict[str, tuple[str, Schedule]] = _named(function, "schedule", schedule, _expect_schedule)
        self.rngs: dict[str, tuple[str, Generator]] = _named(function, "rng", rng, bits_of)
        for these in self.optimizers, self.schedules, self.rngs:
            labels: dict[int, str] = {}
            for label, one in these.values():
                if (other := labels.setdefault(id(one), label)) != label:
                    raise ValueError(f"{function}: {label} is the same object as {other}")
        optimizers = [one for _, one in self.optimizers.values()]
        for label, one in self.schedules.values():
            if optimizers and not any(one.optimizer is other for other in optimizers):
                raise ValueError(f"{function}: {label} is that of another optimizer")
        self.numbers: dict[str, list[int]] = {}  # of the optimizers' parameters in the file
        self.learning_rates: dict[int, list[float]] = {}  # in the file, by the optimizer's id

    def locked(self) -> AbstractContextManager[None]:
        """A context in which no other thread uses the optimizers and generators."""
        locks = [one._turn for _, one in self.optimizers.values()]
        locks += [bits_of(self.function, label, one).lock for label, one in self.rngs.values()]
        locks = [*{id(lock): lock for lock in locks}.values()]  # generators may share theirs
        return _held(sorted(locks, key=id))  # in one order, so that two threads do not wait for each other

    def weights(self) -> Iterator[tuple[str, str, Array]]:
        """All arrays that are written in place: their names in the file, their names in errors, and themselves."""
        for name, (label, array) in self.params.items():
            yield f"params.{name}", label, array
        for part, (label, layer) in self.layers.items():
            for key, array in _arrays_of(layer).items():
                if not isinstance(array, np.ndarray):
                    raise TypeError(f"{self.function}: {key} of {label} must be a numpy array, got {type_of(array)}")
                yield f"{part}.{key}", f"{key} of {label}", array
        for part, (label, one) in self.optimizers.items():
            numbers = self.numbers.get(part, range(len(one._records)))
            for number, record, own in zip(numbers, one._records, one._labels, strict=True):
                yield f"{part}.params.{number}", f"params{own} of {label}", record.param

    def load_optimizer(
        self, name: str, label: str, one: Any, entries: dict[str, Array], saved: Mapping[str, Any]
    ) -> Iterable[Iterable[Any]]:
        from .optim.state_dict import read_back

        with _naming("load", label):
            found, calls = one._prepared(read_back(entries, saved), by_position=None, everything=True)
        self.numbers[name] = found.numbers
        self.learning_rates[id(one)] = [group["lr"] for group in found.groups]
        return calls  # type: ignore[no-any-return]

    def load_schedule(self, label: str, one: Schedule, saved: Any) -> list[Iterable[Any]]:
        with _naming("load", label):
            draft = one._drafted(saved)
        rates = self.learning_rates.get(id(one.optimizer))
        if rates is not None and rates != draft.lrs:
            raise ValueError(
                f"load: {label} has the groups in another order than optimizer; give these as they were saved"
            )
        return [draft.writes()]


# Arguments


def _params(function: str, params: Any) -> Named:
    """The arrays in a list, a dict, nested ones or groups, by their names."""
    from .optim.parameters import Structure

    if isinstance(params, np.ndarray | str | bytes) or not isinstance(params, Iterable):
        raise TypeError(f"{function}: params must be a list or a dict of arrays, got {type_of(params)}")
    if not isinstance(params, Mapping):
        params = list(params)
        if params and all(isinstance(one, Mapping) and "params" in one for one in params):
            params = [[*one["params"]] if not isinstance(one["params"], Mapping) else one["params"] for one in params]
    structure = Structure(function, params)
    names = structure.names or [str(i) for i in range(len(structure.leaves))]
    found: Named = {}
    for name, label, array in zip(names, structure.labels(0), structure.leaves, strict=True):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{function}: params{label} must be a numpy array, got {not_an_array(array)}")
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{function}: params{label} is a masked array, whose mask would be lost")
        if name in found:
            raise ValueError(f"{function}: params{label} would be a second array with the name {name!r}; rename a key")
        found[name] = (f"params{label}", array)
    return found


def _named(function: str, argument: str, value: Any, expect: Callable[[str, str, Any], Any]) -> Named:
    """One object, or those in a list or dict, by their names in the file."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{function}: {argument} must have strings as keys, got {key!r}")
        found = {f"{argument}.{key}": (f"{argument}[{key!r}]", one) for key, one in value.items()}
    elif isinstance(value, list | tuple):
        found = {f"{argument}.{i}": (f"{argument}[{i}]", one) for i, one in enumerate(value)}
    else:
        found = {argument: (argument, value)}
    for label, one in found.values():
        expect(function, label, one)
    return found


def _expect_layer(function: str, label: str, value: Any) -> None:
    from .nn import Layer

    if not isinstance(value, Layer):
        raise TypeError(f"{function}: {label} must be a layer of fastopt.nn, got {type_of(value)}")


def _expect_optimizer(function: str, label: str, value: Any) -> None:
    from .optim import Optimizer

    if not isinstance(value, Optimizer):
        raise TypeError(f"{function}: {label} must be an optimizer of fastopt.optim, got {type_of(value)}")


def _expect_schedule(function: str, label: str, value: Any) -> None:
    from .schedules.base import Schedule

    if not isinstance(value, Schedule):
        raise TypeError(f"{function}: {label} must be a schedule of fastopt.schedules, got {type_of(value)}")


# Layers


def _nested(layer: Layer, name: str = "", around: tuple[Layer, ...] = ()) -> Iterator[tuple[str, Layer]]:
    """A layer and the layers in it, with their names behind that of the layer; ``around`` are those that it is in."""
    if any(layer is one for one in around):  # a layer that knows the one that it is in
        return
    yield name, layer
    for key, part in layer._parts():
        yield from _nested(part, f"{name}.{key}", (*around, layer))


def _arrays_of(layer: Layer) -> dict[str, Array]:
    return {**layer.params, **layer.buffers}


def _layer_calls(label: str, layer: Layer, saved: Mapping[str, Any]) -> list[Iterable[Any]]:
    """The iterators that restore a layer's attributes, if it is like the one in the file."""
    if type(layer).__name__ != saved["class"]:
        raise ValueError(f"load: {label} is a {type(layer).__name__}, and in the file a {saved['class']}")
    shapes = {key: _listed(value) for key, value in layer._shapes_of().items()}
    for key in shapes.keys() | saved["shapes"].keys():
        if shapes.get(key) != saved["shapes"].get(key):
            raise ValueError(
                f"load: {label} has {key} = {shapes.get(key)}, and in the file it has {saved['shapes'].get(key)}"
            )
    _expect_names(label, "arrays", saved["arrays"], _arrays_of(layer))
    own, values = layer._attributes(), saved["attributes"]
    if unknown := [key for key in values if key not in own]:
        raise ValueError(f"load: {label} has no attribute {', '.join(unknown)}, which is in the file")
    changed = [(key, _tupled(value)) for key, value in values.items()]
    return [map(setattr, repeat(layer), [key for key, _ in changed], [value for _, value in changed])]


def _listed(value: Any) -> Any:
    return [*map(_listed, value)] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


# Names


def _joined(name: str, place: Iterable[str | int]) -> str:
    return ".".join(map(str, chain([name], place)))


def _expect_names(label: str, what: str, expected: Iterable[str], found: Iterable[str]) -> None:
    """Raises if the names in the file and those that are given differ."""
    missing, unknown = [n for n in expected if n not in found], [n for n in found if n not in expected]
    if missing or unknown:
        texts = (
            f"{text} {', '.join(map(repr, some))}" for text, some in (("lacks", missing), ("has", unknown)) if some
        )
        raise ValueError(f"load: {label} must be the {what} in the file, but {' and '.join(texts)}")


@contextmanager
def _held(locks: list[Any]) -> Iterator[None]:
    """A context that holds all locks; an interrupt on the way into it releases those that it has (an ExitStack could lose one)."""
    if locks:
        with locks[0], _held(locks[1:]):
            yield
    else:
        yield


@contextmanager
def _well_formed(file: str) -> Iterator[None]:
    """A file's metadata that have other keys or kinds of values than those of a run are a ValueError."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        if str(error).startswith("load: "):
            raise
        text = f"load: path {file} is not the file of a run: its metadata are wrong ({type(error).__name__}: {error})"
        raise ValueError(text) from None


@contextmanager
def _naming(function: str, label: str) -> Iterator[None]:
    """A context in which errors begin with the function and the argument."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{function}: {label}: {error}") from None
