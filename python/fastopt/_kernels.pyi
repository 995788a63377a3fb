"""What every extension module ``_kernels_*`` has: the same sources, compiled for one instruction set each."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy import float64, int64
from numpy.typing import NDArray

Array = NDArray[Any]
Statistics = NDArray[float64]
Options = tuple[float, ...]

rules: dict[str, tuple[list[str], list[str], list[str], list[str]]]
SHARE: int

class Plan:
    def __init__(
        self,
        function: str,
        rules: list[str],
        groups: list[int],
        params: list[Array],
        states: list[list[Array]],
        scales: list[list[Array | None]],
        numbers: list[list[Array]],
        rests: list[Array | None],
        initials: list[Array | None],
        averages: list[Array | None],
        formats: list[tuple[str, str, str]],
        steps: NDArray[int64],
        labels: list[str],
    ) -> None: ...
    def step(
        self, grads: list[Array | None], options: list[Options], around: Options | None = None
    ) -> tuple[float | None, bool]: ...
    def measured(self) -> list[float]: ...

def square_sum(array: Array) -> float: ...
def expect_disjoint(function: str, params: list[Array], labels: list[str]) -> None: ...
def unpack(numbers: Array, kind: str, scales: Array | None = None) -> Array: ...
def pack(values: Array, kind: str, numbers: Array, scales: Array | None = None) -> None: ...
def unpack_weights(numbers: Array, rest: Array | None = None) -> Array: ...
def pack_weights(values: Array, numbers: Array, rest: Array | None = None) -> None: ...
def layer_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None,
    bias: Array | None,
    eps: float,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None,
) -> tuple[Array, Statistics, Statistics]: ...
def layer_norm_backward(
    dy: Array,
    x: Array,
    normalized_shape: int | Sequence[int],
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None,
    out: tuple[Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]: ...
def batch_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: float,
    eps: float,
    channel_axis: int,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None,
) -> tuple[Array, Statistics, Statistics]: ...
def batch_norm_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None,
    training: bool,
    channel_axis: int,
    out: tuple[Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]: ...
def floor(
    reads: Sequence[Array], updates: Sequence[Array], writes: Sequence[Array], streaming: bool = False, ahead: int = 0
) -> None: ...
def before_first_region(function: Callable[[], None]) -> None: ...
def forget_first_region() -> None: ...
def pending() -> bool: ...
def borrowed(install: int) -> bool: ...
def lend(install: int, slots: int) -> bool: ...
def lending() -> tuple[int, int]: ...
def reclaim() -> int: ...
def openmp() -> dict[str, Any]: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def swap_num_threads(n: int) -> int: ...
def team(threads: int) -> list[int]: ...
