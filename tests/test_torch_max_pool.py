"""fastopt.torch's max pooling against torch's own: the same bits, and gradients of 16 bits are those of float32, rounded once."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from beside_torch import one_thread, torch  # noqa: F401  # one_thread is for all tests here
from tools import Each

from fastopt.torch import functional as F
from fastopt.torch import nn
from fastopt.torch.functional import _choice

TF = torch.nn.functional
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    torch.manual_seed(0)
    with _choice.forced(True):
        yield


def layouts(x: Any) -> dict[str, Any]:
    return {
        "contiguous": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "sliced": torch.cat([x, x], 3)[..., ::2],
        "gaps between channels": torch.stack([x, x], -1).movedim(1, -2).contiguous()[..., 0].movedim(-1, 1),
        "expanded": x[:1].expand(x.shape),
        "offset": torch.cat([x.ravel()[:1], x.ravel()])[1:].view(x.shape),
    }


def same_bits(a: Any, b: Any) -> bool:
    """As both have them, and NaNs, of which there is one in each format."""
    return (
        a.dtype == b.dtype
        and bool(torch.equal(a.isnan(), b.isnan()))
        and bool(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)))
    )


def both(x: Any, *options: Any, dy_of: Any = torch.randn_like) -> None:
    """Results and gradients are torch's."""
    own, theirs = (x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    if x.stride() != own.stride():  # clone() closes gaps
        own, theirs = x.detach().requires_grad_(), x.detach().requires_grad_()
    y, y_ = F.max_pool2d(own, *options), TF.max_pool2d(theirs, *options)
    assert type(y.grad_fn).__name__ == "_MaxPool2dBackward"
    assert same_bits(y, y_)
    assert y.stride() == y_.stride()
    with torch.no_grad():
        assert same_bits(F.max_pool2d(own, *options), y_)
    dy = dy_of(y.detach())
    if x.itemsize == 2:
        theirs = theirs.detach().float().requires_grad_()
        y_, dy_ = TF.max_pool2d(theirs, *options), dy.float()
    else:
        dy_ = dy
    (dx,), (dx_,) = torch.autograd.grad(y, own, dy), torch.autograd.grad(y_, theirs, dy_)
    assert same_bits(dx, dx_.to(x.dtype))


WINDOWS = [
    (2,),
    (2, 2, 0),
    (3, 2, 1),
    ((3, 2), (2, 1), (1, 0)),
    (2, 3),
    (3, 1, 1),
    (2, 1, 0, 2),
    (3, 2, 1, (1, 2), True),
    (4, 3, 2, 1, True),
    ([2], [], [1]),
    (torch.Size([2, 3]), None, 1),
    (1,),
    (2, 2, 1, 1, True),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_and_gradients_are_torchs(dtype: Any, each: Each) -> None:
    for options, shape in each(WINDOWS, [(2, 3, 6, 7), (1, 17, 9, 8), (3, 1, 5, 5), (2, 4, 1, 33)]):
        smallest = options[0] if isinstance(options[0], int) else max(options[0])
        reach = (smallest - 1) * (2 if len(options) > 3 and options[3] != 1 else 1) + 1
        if min(shape[2:]) < reach:
            shape = (*shape[:2], shape[2] + reach, shape[3])
        for x in layouts(torch.randn(shape).to(dtype)).values():
            both(x, *options)


def test_equal_elements_and_nans(each: Each) -> None:
    """Which of several elements gets the gradient, and where a NaN goes."""
    for dtype, options in each(DTYPES, WINDOWS):
        x = torch.randint(-1, 2, (2, 5, 8, 9)).to(dtype)
        x[torch.rand(x.shape) < 0.05] = float("nan")
        x[torch.rand(x.shape) < 0.1] = -float("inf")
        x[torch.rand(x.shape) < 0.1] = -0.0
        for one in layouts(x).values():
            both(one, *options)


def test_gradients_of_other_layouts(each: Each) -> None:
    shape = (2, 4, 8, 8)
    for name in each(["channels last", "transposed", "sliced", "expanded", "offset"]):
        both(torch.randn(shape), 2, dy_of=lambda y, name=name: layouts(torch.randn(y.shape))[name])
        both(torch.randn(shape).contiguous(memory_format=torch.channels_last), 2, dy_of=lambda y: torch.randn(y.shape))


def test_gradients_have_the_inputs_memory_format(each: Each) -> None:
    """torch's follows the input, whatever dy is."""
    some = {**layouts(torch.randn(2, 3, 8, 8)), "expanded channels": torch.randn(2, 1, 8, 8).expand(2, 3, 8, 8)}
    for name, other in each(some, [*layouts(torch.randn(2, 3, 4, 4)).values()]):
        for again in (False, True):
            own, theirs = some[name].detach().requires_grad_(), some[name].detach().requires_grad_()
            y, y_ = F.max_pool2d(own, 2), TF.max_pool2d(theirs, 2)
            assert y.stride() == y_.stride()
            (dx,), (dx_,) = (torch.autograd.grad(*both, other, create_graph=again) for both in ((y, own), (y_, theirs)))
            assert torch.equal(dx, dx_)
            assert dx.stride() == dx_.stride(), name
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    (dx,) = torch.autograd.grad(F.max_pool2d(x, 8).sum(), x)  # a result of one pixel, which lies as either
    assert dx.stride() == x.stride()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
def test_only_ordinary_tensors_are_asked_for_their_layout() -> None:
    class Alone(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return "pooled" if function is TF.max_pool2d else NotImplemented

    assert F.max_pool2d(torch.randn(2, 3, 8, 8).as_subclass(Alone), 2) == "pooled"
    nested = torch.nested.nested_tensor([torch.randn(3, 8, 8), torch.randn(3, 6, 6)])
    for call in F.max_pool2d, TF.max_pool2d:
        with pytest.raises(NotImplementedError, match="max_pool2d"):
            call(nested, 2)


@pytest.mark.parametrize(
    "options", [(np.array(2),), (2, np.array(2)), (2, None, np.array(0)), (2, None, 0, 1, np.True_)]
)
def test_what_torch_refuses_is_refused(options: Any) -> None:
    errors = []
    for call in F.max_pool2d, TF.max_pool2d:
        with pytest.raises((RuntimeError, TypeError)) as found:
            call(torch.randn(2, 3, 8, 8), *options)
        errors.append((type(found.value), str(found.value)))
    assert errors[0] == errors[1]


def test_gradients_of_gradients_and_batches_of_them() -> None:
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    found = []
    for function in F.max_pool2d, TF.max_pool2d:
        y = function(x * 2, 3, 2, 1)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(dx.square().sum(), x, retain_graph=True)
        many = torch.autograd.grad(y, x, torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape), is_grads_batched=True)[
            0
        ]
        found.append((dx.detach(), second, many))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_input_is_not_kept() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    made = x * 1
    freed = weakref.ref(made)
    y = nn.MaxPool2d(2)(made)
    del made
    gc.collect()
    assert freed() is None
    y.sum().backward()
    assert x.grad.sum() == y.numel()


def test_results_may_be_changed_in_place() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    y = F.max_pool2d(x, 2).add_(1).relu_()
    y_ = TF.max_pool2d(x, 2).add_(1).relu_()
    (dx,), (dx_,) = torch.autograd.grad(y.sum(), x), torch.autograd.grad(y_.sum(), x)
    assert torch.equal(dx, dx_)


def test_sizes_decide() -> None:
    _choice._forced = None  # the fixture restores it
    for least, layout in (_choice.MAX_POOL, torch.contiguous_format), (_choice.MAX_POOL_COLUMNS, torch.channels_last):
        for elements, ours in (int(least.training) // 2, False), (int(least.training), True):
            x = torch.randn(elements >> 12, 4, 32, 32).contiguous(memory_format=layout).requires_grad_()
            y = F.max_pool2d(x, 2)
            assert (type(y.grad_fn).__name__ == "_MaxPool2dBackward") == ours, (elements, layout)


def test_large_images_on_threads(each: Each) -> None:
    for threads, format in each([1, 2, 3], [torch.contiguous_format, torch.channels_last]):
        torch.set_num_threads(threads)
        x = torch.randn(5, 24, 40, 41).contiguous(memory_format=format)
        for options in itertools.islice(WINDOWS, 4):
            both(x, *options)
