"""The kinds of case.

The candidates of a race do the same work on the same arrays.  ``floor/plain`` and ``floor/ahead`` are variants of one
candidate, of which the fastest counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

from .measure import Effort, alternate, march, race
from .peers import Call

Calls: TypeAlias = Mapping[str, Call]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """The measurements of a case for every candidate, in seconds per call unless they are ratios: a row of a table, or several."""

    group: str
    label: str
    columns: dict[str, dict[str, float]]
    bytes: int = 0  # number of bytes that a call has to move; 0 if the case is not a race
    rounds: int = 0
    interruptions: float = 0.0  # number of times per second that another process took a core
    variants: dict[str, str] = field(default_factory=dict)  # the fastest variant of each candidate

    @property
    def name(self) -> str:
        return f"{self.group} {self.label}"

    @property
    def is_race(self) -> bool:
        return self.bytes > 0

    def seconds(self, candidate: str) -> float | None:
        return self.columns.get(candidate, {}).get("seconds")

    def ratio(self, candidate: str) -> float | None:
        """The candidate's time over fastopt's: the median over the rounds in which both took part."""
        return self.columns.get(candidate, {}).get("ratio")

    def ratio_of_bytes(self, candidate: str) -> float | None:
        """The bytes that the candidate moves over those that fastopt moves, if they differ."""
        moved = self.columns.get(candidate, {}).get("bytes")
        return moved / self.bytes if moved else None


@dataclass(frozen=True)
class Case(ABC):
    """Work to be measured."""

    group: str
    label: str

    @property
    def name(self) -> str:
        return f"{self.group} {self.label}"

    @abstractmethod
    def measure(self, effort: Effort) -> Result: ...


@dataclass(frozen=True)
class Race(Case):
    """Candidates that do the same work take turns."""

    bytes: int
    calls: Callable[[], Calls]
    # Bytes of the candidates that have to move another number.
    bytes_of: Mapping[str, int] = field(default_factory=dict, hash=False)

    def measure(self, effort: Effort) -> Result:
        samples, interruptions = race(self.calls(), effort)
        fastest: dict[str, str] = {}
        for call in sorted(samples, key=lambda call: effort.of(samples[call])):
            fastest.setdefault(call.partition("/")[0], call)
        columns, ours = {}, samples[fastest["fastopt"]]
        for candidate, call in fastest.items():
            ratio = median(theirs / own for theirs, own in zip(samples[call], ours, strict=True))
            columns[candidate] = {"seconds": effort.of(samples[call]), "ratio": ratio}
            if candidate in self.bytes_of:
                columns[candidate]["bytes"] = self.bytes_of[candidate]
        variants = {candidate: call.partition("/")[2] for candidate, call in fastest.items() if "/" in call}
        return Result(self.group, self.label, columns, self.bytes, len(ours), interruptions, variants)


@dataclass(frozen=True)
class Alternating(Case):
    """A kernel in turn with a NumPy matrix product, against both alone: the loop should cost the sum of its parts."""

    kernel: Race
    product: Callable[[], Call]

    def measure(self, effort: Effort) -> Result:
        product, columns = self.product(), {}
        for name, call in self.kernel.calls().items():
            candidate = name.partition("/")[0]
            if candidate != "floor" and candidate not in columns:
                alone, other, both = alternate(product, call, effort)
                parts = {"product": alone, "kernel": other, "in turn": both}
                columns[candidate] = {**parts, "in turn ÷ sum": both / (alone + other)}
        return Result(self.group, self.label, columns)


@dataclass(frozen=True)
class Dead(Case):
    """Parameters with one gradient followed by zeros: their moments become subnormal after about 700 steps."""

    steps: int
    calls: Callable[[], Calls]

    def measure(self, effort: Effort) -> Result:
        columns = {}
        for candidate, samples in march(self.calls(), self.steps).items():
            first, last = effort.of(samples[:100]), effort.of(samples[-100:])
            columns[candidate] = {"first hundred": first, "last hundred": last, "last ÷ first": last / first}
        return Result(self.group, self.label, columns)


def power(size: int) -> str:
    return f"2^{size.bit_length() - 1}" if size & (size - 1) == 0 else str(size)
