"""The kinds of mistakes in an argument, all such mistakes in a call, and the check that a mistake is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from good_calls import INVOCATIONS, OPTIONS_OF_STEP, THOROUGHLY, Change, Invocation, Path, snapshot
from tables import RULES, Array

from fastopt._rules import AROUND

# Changes of an array


def unaligned(a: Array) -> Array:
    return np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)


def read_only(a: Array) -> Array:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def swapped(a: Array) -> Array:
    return a.astype(a.dtype.newbyteorder())


def strided(a: Array) -> Array:
    return np.repeat(a, 2, axis=-1)[..., ::2]


def backwards(a: Array) -> Array:
    return a[..., ::-1].copy()[..., ::-1]


def rows_backwards(a: Array) -> Array:
    return a[::-1].copy()[::-1]


def other_float(a: Array) -> Array:
    return a.astype(np.float64 if a.dtype == np.float32 else np.float32)


def integers(a: Array) -> Array:
    return a.astype(np.int32)


def half(a: Array) -> Array:
    return a.astype(np.float16)


def longer(a: Array) -> Array:
    return np.concatenate([a, a])


def shared(a: Array, b: Array) -> Array:
    """An array like a in the memory at the end of b."""
    return b.reshape(-1).view(np.uint8)[b.nbytes - a.nbytes :].view(a.dtype).reshape(a.shape)


ANYWHERE: dict[str, Callable[[Array], Any]] = {
    "integers": integers,
    "booleans": lambda a: a.astype(bool),
    "half": half,
    "long double": lambda a: a.astype(np.longdouble),
    "complex": lambda a: a.astype(np.complex64),
    "objects": lambda a: a.astype(object),
    "strings": lambda a: a.astype(str),
    "records": lambda a: a.astype([("x", a.dtype)]),
    "swapped": swapped,
    "list": lambda a: a.tolist(),
    "number": lambda _: 1.0,
    "text": lambda _: "array",
    "strided": strided,
    "backwards": backwards,
    "rows backwards": rows_backwards,
    "unaligned": unaligned,
}
WHERE_SHAPES_ARE_FIXED: dict[str, Callable[[Array], Any]] = {
    "other float": other_float,
    "longer": longer,
    "shorter": lambda a: a[:-1].copy(),
    "empty": lambda a: a[:0],
    "another axis": lambda a: a[None],
    "flat and longer": lambda a: np.append(a.ravel(), a.dtype.type(0)),
    "0-d": lambda a: a.ravel()[0].reshape(()).copy(),
}


def legal(path: Path, good: Array, other: Any) -> bool:
    """Whether ``other`` is legal in place of ``good``: it is equivalent, or a 16-bit parameter or gradient."""
    if not isinstance(other, np.ndarray) or other.shape != good.shape:
        return False
    other_will_do = (np.float16,) if good.dtype.itemsize > 2 else (np.float16, np.float32)
    same = other.dtype == good.dtype or (path[0] in ("params", "grads", "param_group") and other.dtype in other_will_do)
    return same and other.flags.c_contiguous and other.flags.aligned and other.flags.writeable


# Every kind of mistake


@dataclass(frozen=True)
class Mistake:
    """A mistake in one argument of a call."""

    kind: str
    path: Path
    change: Change

    def __str__(self) -> str:
        return f"{text_of(self.path)}: {self.kind}"


def mistakes(name: str) -> Iterator[Mistake]:
    """All mistakes that can be made in one argument of a call.

    Arguments that are the same for all optimizers, such as arrays and options around the rule, get only some of the
    mistakes in most optimizers.
    """
    rng = np.random.default_rng([*name.encode()])
    rule = {RULES[rule].optimizer.__name__: rule for rule in RULES}.get(name.split(".")[0], name)
    invocation = INVOCATIONS[name]()
    found = invocation.arrays()
    for path, array in found.items():
        kinds = ANYWHERE | (WHERE_SHAPES_ARE_FIXED if invocation.fixed else {})
        if path[0] in invocation.written:
            kinds["read-only"] = read_only
        for kind in invocation.loose.get(path[0], ()):
            kinds.pop(kind, None)
        some = 10 if rule in RULES and rule not in THOROUGHLY else None
        of_state = name in RULES and path[0] not in ("params", "grads")
        for kind in rng.permutation(list(kinds))[: 8 if of_state else some]:
            try:
                harmless = legal(path, array, kinds[kind](array))
            except (ValueError, IndexError, TypeError):  # impossible for arrays without axes or in bfloat16
                continue
            if not harmless:
                yield Mistake(str(kind), path, lambda call, path=path, make=kinds[kind]: make(call.get(path)))
        overlapping = [
            other
            for other, target in found.items()
            if path != other
            and (path[0] in invocation.written or other[0] in invocation.written)
            and array.nbytes <= target.nbytes
        ]
        for i in rng.permutation(len(overlapping))[: 2 if name in RULES else None]:
            yield Mistake(f"overlaps {text_of(overlapping[i])}", path, partial(move_into, path, overlapping[i]))
    for argument in sorted(invocation.bad.keys() & invocation.arguments.keys()):
        everywhere = argument in AROUND or argument in OPTIONS_OF_STEP
        values = invocation.bad[argument]
        for i in rng.permutation(len(values))[: 2 if everywhere else None]:
            yield Mistake(f"{values[i]!r:.40}", (argument,), lambda _, value=values[i]: value)


def move_into(path: Path, other: Path, call: Invocation) -> Array:
    return shared(call.get(path), call.get(other))


def text_of(path: Path) -> str:
    return ".".join(map(str, path))


@cache
def mistakes_of(name: str) -> list[Mistake]:
    """The mistakes, the same ones in the same order in every run."""
    return sorted(mistakes(name), key=lambda mistake: (mistake.kind, text_of(mistake.path)))


# An error


@cache
def what_is_right(name: str) -> Any:
    """The results of the good call, and its arguments afterwards."""
    call = INVOCATIONS[name]()
    result = snapshot(call())
    return result, snapshot([call.arguments, call.reach])


def assert_raises(
    name: str, changes: Mapping[Path, Change], error: Any = (TypeError, ValueError), message: str = r"^\w+: "
) -> None:
    """The call with these changes raises an error and changes nothing; afterwards the good call works as usual."""
    invocation = INVOCATIONS[name]()
    good = {path: invocation.get(path) for path in changes}
    values = {path: change(invocation) for path, change in changes.items()}
    for path, value in values.items():
        invocation.set(path, value)
    everything = [invocation.arguments, invocation.reach, list(good.values())]
    before = snapshot(everything)
    with pytest.raises(error, match=message) as raised:
        invocation()
    assert type(raised.value) in (TypeError, ValueError)
    assert snapshot(everything) == before

    for path, value in good.items():
        invocation.set(path, value)
    result = snapshot(invocation())
    assert (result, snapshot([invocation.arguments, invocation.reach])) == what_is_right(name)
