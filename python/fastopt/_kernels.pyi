"""The interface of the modules that ``_bindings.load`` makes: functions and classes that call the kernels in one library."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy import float64, int64
from numpy.typing import NDArray

Array = NDArray[Any]
Statistics = NDArray[float64]
Options = tuple[float, ...]

rules: dict[str, tuple[list[str], list[str], list[str], list[str], bool]]
SHARE: int
PRODUCT_BYTES: int
PRODUCT_PIXELS: int
signatures: dict[str, tuple[str, ...]]  # of the functions of arrays, whose arguments go by position

class Plan:
    def __init__(self, function: str, members: list[Any], count: NDArray[int64] | None = None) -> None: ...
    def set_options(self, options: list[Options]) -> None: ...
    def watch(
        self,
        groups: list[dict[str, Any]],
        names: tuple[str, ...],
        values: list[Any],
        changed: list[bool],
        shared: list[bool],
    ) -> None: ...
    def current(self, groups: Any) -> bool: ...
    def same_members(self, groups: Any) -> bool: ...
    def step_if_current(
        self, turn: Turn, simple: list[Any], groups: Any, grads: list[Any], options: Options | None = None
    ) -> tuple[int, float | None, bool] | None: ...
    def check(self, grads: list[Any], options: Options | None = None) -> None: ...
    def step(
        self,
        grads: list[Any],
        options: Options | None = None,
        emptied: Plan | None = None,
        then: Plan | None = None,
        then_grads: list[Any] = [],
    ) -> tuple[int, float | None, bool] | None: ...
    def unmoved(self) -> bool: ...
    def restart(self) -> None: ...
    def measured(self) -> list[float]: ...

class Turn:
    def __init__(self, name: str) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

class Tensors:
    def __init__(
        self,
        table: Any,
        plain: type,
        tensors: list[Any],
        memories: list[Any],
        arrays: list[Array],
        orders: list[list[int]],
    ) -> None: ...
    def gradients(self, groups: list[Any]) -> tuple[list[Any], list[Any], list[int]] | None: ...
    def release(self) -> None: ...

class TensorClip:
    def __init__(self, table: Any, plain: type, increment_version: Callable[[Any], None]) -> None: ...
    def norm(self, params: list[Any], max_norm: float, error_if_nonfinite: bool) -> tuple[float, int] | None: ...
    def value(self, params: list[Any], clip_value: float) -> bool: ...

def clip_grad_norm(grads: list[Array | None], max_norm: float, error_if_nonfinite: bool) -> float: ...
def clip_grad_value(grads: list[Array | None], clip_value: float) -> None: ...
def square_sum(array: Array) -> float: ...
def coalesce(function: str, indices: Array, values: Array) -> tuple[NDArray[int64], Array]: ...
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
    bias_grad: bool,
    out: tuple[Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]: ...
def rms_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None,
    eps: float,
    out: tuple[Array | None, Statistics | None] | None,
) -> tuple[Array, Statistics]: ...
def rms_norm_backward(
    dy: Array,
    x: Array,
    normalized_shape: int | Sequence[int],
    rstd: Statistics,
    weight: Array | None,
    out: tuple[Array | None, Array | None] | None,
) -> tuple[Array, Array | None]: ...
def cosine_norm(
    x: Array, eps: float, out: tuple[Array | None, Statistics | None] | None
) -> tuple[Array, Statistics]: ...
def cosine_norm_backward(dy: Array, x: Array, rnorm: Statistics, out: Array | None) -> Array: ...
def scale_norm(
    x: Array, g: Array, eps: float, out: tuple[Array | None, Statistics | None] | None
) -> tuple[Array, Statistics]: ...
def scale_norm_backward(
    dy: Array, x: Array, g: Array, rnorm: Statistics, out: tuple[Array | None, Array | None] | None
) -> tuple[Array, Array]: ...
def add_layer_norm(
    x: Array,
    residual: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None,
    bias: Array | None,
    eps: float,
    out: tuple[Array | None, Array | None, Statistics | None, Statistics | None] | None,
) -> tuple[Array, Array, Statistics, Statistics]: ...
def add_layer_norm_backward(
    dy: Array,
    dsum: Array | None,
    sum: Array,
    normalized_shape: int | Sequence[int],
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None,
    bias_grad: bool,
    out: tuple[Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]: ...
def add_rms_norm(
    x: Array,
    residual: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None,
    eps: float,
    out: tuple[Array | None, Array | None, Statistics | None] | None,
) -> tuple[Array, Array, Statistics]: ...
def add_rms_norm_backward(
    dy: Array,
    dsum: Array | None,
    sum: Array,
    normalized_shape: int | Sequence[int],
    rstd: Statistics,
    weight: Array | None,
    out: tuple[Array | None, Array | None] | None,
) -> tuple[Array, Array | None]: ...
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
    num_batches_tracked: NDArray[int64] | None,
) -> tuple[Array, Statistics, Statistics]: ...
def batch_norm_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None,
    training: bool,
    bias_grad: bool,
    channel_axis: int,
    out: tuple[Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]: ...
def batch_norm_relu(
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
    num_batches_tracked: NDArray[int64] | None,
) -> tuple[Array, Statistics, Statistics]: ...
def batch_norm_relu_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    bias_grad: bool,
    channel_axis: int,
    out: tuple[Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]: ...
def batch_norm_add_relu(
    x: Array,
    residual: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: float,
    eps: float,
    channel_axis: int,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None,
    num_batches_tracked: NDArray[int64] | None,
) -> tuple[Array, Statistics, Statistics]: ...
def batch_norm_add_relu_backward(
    dy: Array,
    y: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None,
    training: bool,
    bias_grad: bool,
    channel_axis: int,
    out: tuple[Array | None, Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array, Array | None, Array | None]: ...
def batch_renorm(
    x: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: float,
    eps: float,
    r_max: float,
    d_max: float,
    channel_axis: int,
    out: tuple[Array | None, Statistics | None, Statistics | None, Statistics | None, Statistics | None] | None,
    num_batches_tracked: NDArray[int64] | None,
) -> tuple[Array, Statistics, Statistics, Statistics, Statistics]: ...
def batch_renorm_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    r: Statistics,
    d: Statistics,
    weight: Array | None,
    training: bool,
    bias_grad: bool,
    channel_axis: int,
    out: tuple[Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]: ...
def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    channel_axis: int,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None,
) -> tuple[Array, Statistics, Statistics]: ...
def group_norm_backward(
    dy: Array,
    x: Array,
    num_groups: int,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None,
    bias_grad: bool,
    channel_axis: int,
    out: tuple[Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]: ...
def instance_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    channel_axis: int,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None,
) -> tuple[Array, Statistics, Statistics]: ...
def instance_norm_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None,
    use_input_stats: bool,
    bias_grad: bool,
    channel_axis: int,
    out: tuple[Array | None, Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]: ...
def batch_norm_stats(x: Array, around: Statistics | None, channel_axis: int) -> tuple[int, Statistics, Statistics]: ...
def batch_norm_apply(
    x: Array,
    count: int,
    mean: Statistics,
    m2: Statistics,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    momentum: float,
    eps: float,
    channel_axis: int,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None,
) -> tuple[Array, Statistics, Statistics]: ...
def batch_norm_backward_stats(
    dy: Array, x: Array, mean: Statistics, rstd: Statistics, channel_axis: int
) -> tuple[Statistics, Statistics]: ...
def batch_norm_backward_apply(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    count: int,
    sum_dy: Statistics,
    sum_dy_xhat: Statistics,
    weight: Array | None,
    channel_axis: int,
    out: Array | None,
) -> Array: ...
def weight_norm(
    v: Array, g: Array, dim: int, out: tuple[Array | None, Statistics | None] | None
) -> tuple[Array, Statistics]: ...
def weight_norm_backward(
    dw: Array, v: Array, g: Array, rnorm: Statistics, dim: int, out: tuple[Array | None, Array | None] | None
) -> tuple[Array, Array]: ...
def dropout(
    x: Array, p: float, training: bool, seed: int, step: int, order: Sequence[int] | None, out: Array | None
) -> Array: ...
def dropout_backward(
    dy: Array, p: float, training: bool, seed: int, step: int, order: Sequence[int] | None, out: Array | None
) -> Array: ...
def gaussian_dropout(
    x: Array, p: float, training: bool, seed: int, step: int, order: Sequence[int] | None, out: Array | None
) -> Array: ...
def gaussian_dropout_backward(
    dy: Array, p: float, training: bool, seed: int, step: int, order: Sequence[int] | None, out: Array | None
) -> Array: ...
def channel_dropout(
    x: Array, p: float, training: bool, seed: int, step: int, channel_axis: int, out: Array | None
) -> Array: ...
def channel_dropout_backward(
    dy: Array, p: float, training: bool, seed: int, step: int, channel_axis: int, out: Array | None
) -> Array: ...
def embedding(indices: Array, weight: Array, padding_idx: int | None, out: Array | None) -> Array: ...
def embedding_backward(
    dy: Array, indices: Array, num_embeddings: int, padding_idx: int | None, out: Array | None
) -> Array: ...
def max_pool2d(
    x: Array,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None,
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    ceil_mode: bool,
    return_indices: bool,
    channel_axis: int,
    out: Any,
) -> Any: ...
def max_pool2d_backward(
    dy: Array,
    indices: Array,
    input_size: Sequence[int],
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None,
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    ceil_mode: bool,
    channel_axis: int,
    out: Array | None,
) -> Array: ...
def avg_pool2d(
    x: Array,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None,
    padding: int | tuple[int, int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    channel_axis: int,
    out: Array | None,
) -> Array: ...
def avg_pool2d_backward(
    dy: Array,
    input_size: Sequence[int],
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None,
    padding: int | tuple[int, int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    channel_axis: int,
    out: Array | None,
) -> Array: ...

class Convolution:  # what surrounds the products of conv2d, which checks all arguments
    def __init__(self, y: Sequence[int], x: Sequence[int], columns: bool, groups: int) -> None: ...
    def unfold(self, piece: tuple[int, int], x: Array, matrix: Array) -> None: ...
    def fold(self, piece: tuple[int, int], matrix: Array, dx: Array) -> None: ...
    def place(self, piece: tuple[int, int], matrix: Array, bias: Array | None, y: Array) -> None: ...
    def collect(self, piece: tuple[int, int], dy: Array, matrix: Array) -> None: ...
    def add_bias(self, y: Array, bias: Array) -> None: ...

def floor(
    reads: Sequence[Array], updates: Sequence[Array], writes: Sequence[Array], streaming: bool = False, ahead: int = 0
) -> None: ...
def before_first_region(function: Callable[[], None]) -> None: ...
def forget_first_region() -> None: ...
def pending() -> bool: ...
def borrowed(install: int) -> bool: ...
def lend(install: int, slots: int) -> bool: ...
def lending() -> tuple[int, int]: ...
def expect_products() -> None: ...
def reclaim() -> int: ...
def openmp() -> dict[str, Any]: ...
def places() -> list[int] | None: ...
def empty(shape: tuple[int, ...], dtype: Any) -> Array: ...
def cache_arrays(cached: bool) -> bool: ...
def are_arrays_cached() -> bool: ...
def cache_limit() -> int: ...
def set_cache_limit(bytes: int) -> None: ...
def cached_bytes() -> int: ...
def ask_for_huge_pages(wanted: bool) -> None: ...
def release_blocks() -> int: ...
def set_malloc(maps: bool, kept: int) -> bool: ...
def trim_malloc() -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def swap_num_threads(n: int) -> int: ...
def team(threads: int) -> list[int]: ...
def exp(x: Array, out: Array | None) -> Array: ...
def erf(x: Array, out: Array | None) -> Array: ...
def tanh(x: Array, out: Array | None) -> Array: ...
def sigmoid(x: Array, out: Array | None) -> Array: ...
def activate(
    x: Array, activation: str | None, bias: Array | None, out: tuple[Array | None, Array | None] | None
) -> tuple[Array, Array]: ...
def activate_backward(
    dy: Array,
    saved: Array,
    activation: str | None,
    bias_grad: bool,
    out: tuple[Array | None, Array | None] | None,
) -> tuple[Array, Array | None]: ...
def softmax(x: Array, dim: int, scale: float, causal: bool, out: Array | None) -> Array: ...
def softmax_backward(dy: Array, y: Array, dim: int, scale: float, causal: bool, out: Array | None) -> Array: ...
def log_softmax(x: Array, dim: int, scale: float, causal: bool, out: Array | None) -> Array: ...
def log_softmax_backward(dy: Array, y: Array, dim: int, scale: float, causal: bool, out: Array | None) -> Array: ...
def cross_entropy(
    x: Array,
    target: Array,
    weight: Array | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    dim: int | None,
    grad: bool,
    out: Array | None,
) -> tuple[Any, Array | None]: ...
def mse_loss(
    x: Array, target: Array, reduction: str, weight: Array | None, grad: bool, out: Array | None
) -> tuple[Any, Array | None]: ...
def huber_loss(
    x: Array, target: Array, reduction: str, delta: float, weight: Array | None, grad: bool, out: Array | None
) -> tuple[Any, Array | None]: ...
def binary_cross_entropy_with_logits(
    x: Array,
    target: Array,
    weight: Array | None,
    reduction: str,
    pos_weight: Array | None,
    grad: bool,
    out: Array | None,
) -> tuple[Any, Array | None]: ...
