"""fastopt.torch's modules and functions against torch's own.

"Relative" is max|a − b| / max|b| over a tensor.  The kernels are called for all sizes, except where a test says so.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from beside_torch import one_thread, torch  # noqa: F401  # one_thread is for all tests here
from tools import NIGHTLY, Each
from torch.utils.checkpoint import checkpoint

from fastopt.torch import functional as F
from fastopt.torch import nn
from fastopt.torch.functional import _choice
from fastopt.torch.functional._dropout import _Dropout

TF = torch.nn.functional
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
OURS = {"_NormalizeBackward", "_DropoutBackward", "_GELUBackward", "_MaxPool2dBackward", "_CrossEntropyBackward"}

Shape = tuple[int, ...]


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    """Calls the kernels whatever the size, from the same random numbers in every test."""
    torch.manual_seed(0)
    with _choice.forced(True):
        yield


def is_ours(y: Any) -> bool:
    return type(y.grad_fn).__name__ in OURS


def assert_close(actual: Any, expected: Any, dtype: Any = torch.float64) -> None:
    if expected is None:
        assert actual is None
        return
    assert actual.shape == expected.shape
    a, b = actual.detach().double(), expected.detach().double()
    assert (a - b).abs().max() <= TOLERANCE[dtype] * b.abs().max().clamp(min=1e-3)


# The modules, their arguments, and a shape of an input.
NORMS: list[tuple[str, tuple[Any, ...], dict[str, Any], Shape]] = [
    ("LayerNorm", (6,), {}, (7, 6)),
    ("LayerNorm", ([5, 6],), {"eps": 1e-3}, (2, 3, 5, 6)),
    ("LayerNorm", (torch.Size([6]),), {"bias": False}, (4, 6)),
    ("LayerNorm", (6,), {"elementwise_affine": False}, (4, 6)),
    ("RMSNorm", (6,), {}, (7, 6)),
    ("RMSNorm", ([5, 6],), {"eps": 1e-3}, (2, 5, 6)),
    ("RMSNorm", (6,), {"elementwise_affine": False}, (4, 6)),
    ("GroupNorm", (2, 6), {}, (3, 6)),
    ("GroupNorm", (3, 6), {"eps": 1e-3}, (3, 6, 4, 5)),
    ("GroupNorm", (1, 6), {"affine": False}, (3, 6, 7)),
    ("BatchNorm1d", (6,), {}, (8, 6)),
    ("BatchNorm1d", (6,), {"momentum": None}, (8, 6, 5)),
    ("BatchNorm2d", (6,), {"momentum": 0.3, "eps": 1e-3}, (3, 6, 4, 5)),
    ("BatchNorm2d", (6,), {"track_running_stats": False}, (3, 6, 4, 5)),
    ("BatchNorm2d", (6,), {"affine": False}, (3, 6, 4, 5)),
    ("BatchNorm3d", (6,), {}, (3, 6, 2, 4, 5)),
    ("BatchNormReLU", (6,), {}, (8, 6)),
    ("BatchNormReLU", (6,), {"momentum": None}, (8, 6, 5)),
    ("BatchNormReLU", (6,), {"affine": False}, (3, 6, 4, 5)),
    ("BatchNormReLU", (6,), {"track_running_stats": False}, (3, 6, 2, 4, 5)),
]
OTHERS: list[tuple[str, tuple[Any, ...], dict[str, Any], Shape]] = [
    ("GELU", (), {}, (3, 4, 5)),
    ("GELU", (), {"approximate": "tanh"}, (3, 4, 5)),
    ("MaxPool2d", (2,), {}, (3, 6, 4, 5)),
    ("MaxPool2d", ((3, 2),), {"stride": [2, 1], "padding": (1,), "dilation": (1, 2), "ceil_mode": True}, (2, 3, 6, 7)),
]
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: (
        x.movedim(1, -1).contiguous().movedim(-1, 1)
        if x.dim() < 4
        else x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    ),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": lambda x: torch.cat([x, x], 1)[:, ::2],
    "sliced channels last": lambda x: torch.stack([x, x], -1).movedim(1, -2).contiguous()[..., 0].movedim(-1, 1),
    "expanded": lambda x: x[:1].expand(x.shape),
}


def pair(name: str, arguments: Any, options: dict[str, Any], shape: Shape, dtype: Any) -> tuple[Any, Any]:
    """A module here and torch's, with the same random parameters."""
    ours = getattr(nn, name)(*arguments, **options).to(dtype)
    if name == "BatchNormReLU":
        dimension = {2: 1, 3: 1, 4: 2, 5: 3}[len(shape)]
        theirs = getattr(torch.nn, f"BatchNorm{dimension}d")(*arguments, **options).to(dtype)
    else:
        theirs = getattr(torch.nn, name)(*arguments, **options).to(dtype)
    for p in ours.parameters():
        torch.nn.init.normal_(p, 1)
    theirs.load_state_dict(ours.state_dict())
    if name == "BatchNormReLU":
        theirs.register_forward_hook(lambda module, inputs, y: y.relu())
    return ours, theirs


def compare(ours: Any, theirs: Any, x: Any, dtype: Any, *, same_strides: bool = False) -> None:
    """Outputs, all gradients and buffers; torch's module works in float64 if dtype has 16 bits."""
    exact = x.double() if x.dtype.itemsize == 2 else x
    inputs = [x.detach().requires_grad_(), exact.detach().requires_grad_()]
    y, y_ = ours(inputs[0]), theirs(inputs[1])
    assert is_ours(y)
    assert y.dtype == x.dtype
    assert_close(y, y_, dtype)
    if same_strides:
        assert y.stride() == y_.stride()
    dy = torch.randn_like(y)
    y.backward(dy)
    y_.backward(dy.to(y_.dtype))
    assert_close(inputs[0].grad, inputs[1].grad, dtype)
    for (key, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert a.grad.dtype == a.dtype, key
        assert_close(a.grad, b.grad, dtype)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert_close(a, b, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_modules_agree(training: bool, layout: str, each: Each) -> None:
    for name, arguments, options, shape in each([*NORMS, *OTHERS]):
        for dtype in torch.float64, torch.float32:
            ours, theirs = pair(name, arguments, options, shape, dtype)
            x = LAYOUTS[layout](torch.randn(shape, dtype=dtype) + 1)
            for module in ours, theirs:
                module.train()(x * 2)  # running statistics that are not the initial ones
                module.train(training).zero_grad()
            images = layout in ("contiguous", "channels last", "sliced channels last") and len(shape) > 3
            compare(ours, theirs, x, dtype, same_strides=images and "Layer" not in name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixed", [False, True])
def test_16_bits_agree(mixed: bool, dtype: Any, each: Each) -> None:
    """The parameters have 16 bits, or float32 ("mixed")."""
    for name, arguments, options, shape in each(NORMS):
        ours, theirs = pair(name, arguments, options, shape, torch.float32 if mixed else dtype)
        x = torch.randn(shape, dtype=dtype)
        if name == "BatchNormReLU":  # rounding to 16 bits must not decide about zero
            ours.eval(), theirs.eval()
            with torch.no_grad():
                x.clamp_(min=0.25)
                for p in [*ours.parameters(), *theirs.parameters()]:
                    p.abs_()
        compare(ours, theirs.double(), x, dtype)
        y = ours(x.requires_grad_())
        torch.relu_(y).sum().backward()  # the result may be changed in place


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_cross_entropy_agrees(label_smoothing: float, reduction: str, each: Each) -> None:
    shapes = [(5,), (7, 5), (4, 5, 3), (2, 5, 3, 2)]
    for shape, weighted, probabilities, dtype in each(shapes, [False, True], [False, True], TOLERANCE):
        classes = shape[1] if len(shape) > 1 else shape[0]
        x = torch.randn(shape, dtype=dtype) * 3
        if probabilities:
            target = torch.rand(shape, dtype=dtype)
        else:
            target = torch.randint(classes, (shape[0], *shape[2:]) if len(shape) > 1 else ())
            if target.dim():
                target.view(-1)[1] = -100
        weight = torch.rand(classes, dtype=dtype) if weighted else None
        options: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing}
        ours = nn.CrossEntropyLoss(weight, **options)
        own = x.clone().requires_grad_()
        loss = ours(own, target)
        assert loss.dtype == dtype
        assert is_ours(loss) or dtype in (torch.bfloat16, torch.float16)
        theirs = torch.nn.CrossEntropyLoss(None if weight is None else weight.double(), **options)
        x_ = x.double().requires_grad_()
        loss_ = theirs(x_, target.double() if probabilities else target)
        assert_close(loss, loss_, dtype)
        dy = torch.rand_like(loss) + 0.5
        loss.backward(dy)
        loss_.backward(dy.double())
        assert_close(own.grad, x_.grad, dtype)
        with torch.no_grad():
            assert_close(ours(x, target), loss_, dtype)


def test_cross_entropy_keeps_its_gradient_while_it_is_needed() -> None:
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(5, (6,))
    (expected,) = torch.autograd.grad(TF.cross_entropy(x, target), x)
    loss = F.cross_entropy(x, target)
    for times in 1, 2, 3:
        loss.backward(retain_graph=times < 3)  # accumulates in place
        assert_close(x.grad, times * expected)
    x.grad = None
    (3 * F.cross_entropy(x, target)).backward()
    assert_close(x.grad, 3 * expected)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def scaled_loss(loss: Any, target: Any, factor: Any) -> Callable[[Any], Any]:
    reduction = "mean" if isinstance(factor, float) else "none"
    return lambda x: (loss(x, target, reduction=reduction) * factor).sum()


@pytest.mark.parametrize("factor", [1.0, 3.0, torch.arange(1.0, 7.0)], ids=["1", "3", "each"])
@pytest.mark.parametrize("pack", ["themselves", "views", "copies", "arrays"])
def test_hooks_of_saved_tensors_see_no_change(pack: str, factor: Any) -> None:
    """What a hook has packed stays as it was, whatever becomes of the gradient."""
    ways: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "themselves": (lambda one: one, lambda one: one),
        "views": (lambda one: one.detach(), lambda one: one),
        "copies": (lambda one: one.clone(), lambda one: one),
        "arrays": (lambda one: one.detach().numpy().copy(), torch.from_numpy),
    }
    packing, unpacking = ways[pack]
    target, packed = torch.randint(5, (6,)), list[Any]()

    def keep(one: Any) -> Any:
        packed.append(packing(one))
        return packed[-1]

    values = torch.randn(6, 5, dtype=torch.float64)
    ours, theirs = (scaled_loss(one, target, factor) for one in (F.cross_entropy, TF.cross_entropy))
    for again in (False, True):
        x, x_ = (values.clone().requires_grad_() for _ in range(2))
        packed.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, unpacking):
            loss = ours(x)
        before = [torch.as_tensor(one).clone() for one in packed]
        loss.backward(retain_graph=again)
        theirs(x_).backward()
        assert_close(x.grad, x_.grad)
        x.grad.zero_()
        assert all(torch.equal(torch.as_tensor(one), old) for one, old in zip(packed, before, strict=True))
        if again:
            loss.backward()
            assert_close(x.grad, x_.grad)


@pytest.mark.parametrize("around", ["nothing", "save_on_cpu", "checkpoint", "reentrant checkpoint"])
def test_cross_entropy_is_differentiated_again(around: str) -> None:
    """A second backward and a second derivative, with what torch has for tensors that are saved."""
    target, values = torch.randint(5, (6,)), torch.randn(6, 5, dtype=torch.float64)
    for factor in (1.0, 3.0, torch.arange(1.0, 7.0)):
        found = []
        for one in (F.cross_entropy, TF.cross_entropy):
            x = values.clone().requires_grad_()
            call = scaled_loss(one, target, factor)
            with torch.autograd.graph.save_on_cpu() if around == "save_on_cpu" else nullcontext():
                y = x * 2.0  # a gradient that is in use elsewhere, too
                again = "checkpoint" in around
                loss = checkpoint(call, y, use_reentrant=around != "checkpoint") if again else call(y)
            loss.backward(retain_graph=True)
            first = x.grad.clone()
            if around != "reentrant checkpoint":  # which has no more than one way back
                (grad,) = torch.autograd.grad(loss, x, create_graph=True)
                (second,) = torch.autograd.grad(grad.square().sum(), x, retain_graph=True)
                first = torch.cat([first, grad.detach(), second])
                loss.backward()
            found.append(torch.cat([first, x.grad]))
        assert_close(*found)


def test_cross_entropy_returns_the_gradient_that_forward_made() -> None:
    x = torch.randn(6, 5, requires_grad=True)
    loss = F.cross_entropy(x, torch.randint(5, (6,)))
    made = loss.grad_fn.saved_tensors[0].data_ptr()
    loss.backward()
    assert x.grad.data_ptr() == made


# Derivatives


def calls() -> Iterator[tuple[str, Callable[..., Any], list[Any]]]:
    """Every module and loss: its name, a function, and inputs in float64 of which all require gradients."""
    for name, arguments, options, shape in [*NORMS, *OTHERS]:
        for training in (True, False) if "Batch" in name else (True,):
            ours, _ = pair(name, arguments, options, shape, torch.float64)
            ours.momentum = 0.0  # so that all calls are alike
            ours.train(training)
            names = [key for key, _ in ours.named_parameters()]

            def call(x: Any, *parameters: Any, ours: Any = ours, names: list[str] = names) -> Any:
                if not names:
                    return ours(x)
                return torch.func.functional_call(ours, dict(zip(names, parameters, strict=True)), (x,))

            inputs = [torch.randn(shape, dtype=torch.float64), *(p.detach().clone() for p in ours.parameters())]
            yield f"{name} {options} {training}", call, [one.requires_grad_() for one in inputs]
    x = torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True)
    labels, weight = torch.tensor([[0, 1], [-100, 4], [2, 2], [3, 0]]), torch.rand(5, dtype=torch.float64)
    for target in labels, torch.rand(4, 5, 2, dtype=torch.float64):
        for reduction in "mean", "none":
            loss = nn.CrossEntropyLoss(weight, reduction=reduction, label_smoothing=0.1)
            yield f"cross_entropy {reduction}", lambda x, loss=loss, target=target: loss(x, target), [x]
    # With the seed that a call drew.
    yield "dropout", lambda x: _Dropout.apply(x, 0.4, 3, (0, 1, 2), False), [x]


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_gradients_are_derivatives(layout: str, each: Each) -> None:
    for _, call, inputs in each(list(calls()), by_day=None if layout == "contiguous" else 8):
        x, *others = inputs
        x = LAYOUTS[layout](x.detach()).requires_grad_()
        assert is_ours(call(x, *others))
        assert torch.autograd.gradcheck(call, (x, *others), check_batched_grad=True, fast_mode=not NIGHTLY)


def test_second_gradients_are_derivatives(each: Each) -> None:
    for _, call, inputs in each(list(calls())):
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_gradients_are_alike_with_and_without_a_graph(each: Each) -> None:
    for _, call, inputs in each(list(calls())):
        y = call(*inputs)
        dy = torch.randn_like(y)
        first = torch.autograd.grad(y, inputs, dy, retain_graph=True)
        second = torch.autograd.grad(y, inputs, dy, create_graph=True)
        for a, b in zip(first, second, strict=True):
            assert_close(a, b)


def test_what_needs_no_gradient_gets_none(each: Each) -> None:
    for _, call, inputs in each(list(calls())):
        every = torch.autograd.grad(call(*inputs).sum(), inputs)
        for i, expected in enumerate(every):
            alone = [one.detach().requires_grad_(i == k) for k, one in enumerate(inputs)]
            y = call(*alone)
            assert is_ours(y)
            y.sum().backward()
            assert [one.grad is not None for one in alone] == [i == k for k in range(len(inputs))]
            assert_close(alone[i].grad, expected)
        assert call(*(one.detach() for one in inputs)).grad_fn is None


def test_saved_tensors_pass_through_hooks(each: Each) -> None:
    """Nothing that backward needs is kept beside them."""
    for _, call, inputs in each(list(calls())):
        packed: list[Any] = []

        def pack(tensor: Any, packed: list[Any] = packed) -> int:
            packed.append(tensor.detach().clone())
            return len(packed) - 1

        def unpack(i: int, packed: list[Any] = packed) -> Any:
            return packed[i]

        expected = torch.autograd.grad(call(*inputs).sum(), inputs)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            y = call(*inputs)
        for a, b in zip(torch.autograd.grad(y.sum(), inputs), expected, strict=True):
            assert_close(a, b)


def test_results_are_no_views(each: Each) -> None:
    """A view that was made without gradients could not be changed in place with them."""
    for dtype in each([torch.float32, torch.bfloat16, torch.float16]):
        with torch.no_grad():
            y = F.layer_norm(torch.randn(4, 6, dtype=dtype), [6])
        assert not y._is_view()
        assert y.untyped_storage().nbytes() == y.numel() * y.itemsize


def test_running_statistics_are_known_to_have_changed() -> None:
    norm = nn.BatchNorm1d(6)
    x = torch.randn(4, 6, requires_grad=True)
    product = norm.running_var * x  # keeps running_var for its backward
    norm(x)
    with pytest.raises(RuntimeError, match="inplace"):
        product.sum().backward()


def test_a_changed_input_is_noticed() -> None:
    x = torch.randn(4, 6, requires_grad=True) * 1
    y = F.layer_norm(x, [6])
    x.add_(1)
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


# Dropout


def test_dropout_drops_and_scales() -> None:
    x = (torch.rand(200, 100) + 1).requires_grad_()
    y = nn.Dropout(0.3)(x)
    assert is_ours(y)
    assert 0.28 < (y == 0).double().mean() < 0.32
    assert_close(y, torch.where(y == 0, 0.0, x / 0.7), torch.float32)
    y.backward(torch.ones_like(y))
    assert_close(x.grad, (y != 0) / 0.7, torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_of_layouts(layout: str, each: Each) -> None:
    """The gradient has the mask of forward, however it lies in memory."""
    for other, dtype in each(LAYOUTS, TOLERANCE):
        x = LAYOUTS[layout](torch.rand(3, 6, 4, 5, dtype=dtype) + 1).requires_grad_()
        y = F.dropout(x, 0.5)
        assert is_ours(y)
        y.backward(LAYOUTS[other](torch.ones_like(y)))
        assert torch.equal(x.grad != 0, y != 0)
        assert torch.equal(y, torch.where(y == 0, torch.zeros_like(x), x * 2))
        if layout != "sliced channels last":
            assert y.stride() == torch.dropout(x, 0.5, True).stride()


def test_batched_gradients_of_dropout_have_its_mask() -> None:
    x = LAYOUTS["transposed"](torch.rand(3, 4, 5) + 1).requires_grad_()
    y = F.dropout(x, 0.5)
    dy = torch.ones(2, *y.shape)
    (dx,) = torch.autograd.grad(y, x, dy, is_grads_batched=True)
    assert torch.equal(dx, dy * (y != 0) * 2)


def test_manual_seed_repeats_dropout() -> None:
    x = torch.ones(50, 50)
    drop = nn.Dropout(0.5)
    torch.manual_seed(5)
    first, second = drop(x), drop(x)
    torch.manual_seed(5)
    assert torch.equal(drop(x), first)
    assert torch.equal(drop(x), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_compute_the_same_mask(reentrant: bool) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(20, 20), nn.Dropout(0.5), nn.LayerNorm(20), nn.GELU("tanh"))
    x = torch.randn(30, 20, requires_grad=True)
    torch.manual_seed(3)
    expected = torch.autograd.grad(layers(x).pow(2).sum(), [x, *layers.parameters()])
    torch.manual_seed(3)
    torch.utils.checkpoint.checkpoint(layers, x, use_reentrant=reentrant).pow(2).sum().backward()
    for a, b in zip([x, *layers.parameters()], expected, strict=True):
        assert torch.equal(a.grad, b)


def test_dropout_in_place() -> None:
    drop = nn.Dropout(0.5, inplace=True)
    leaf = (torch.rand(20, 20) + 1).requires_grad_()
    x = leaf * 1
    version = x._version
    y = drop(x)
    assert y is x
    assert is_ours(y)
    assert y._version == version + 1
    y.sum().backward()
    assert torch.equal(leaf.grad, (y != 0) * 2.0)
    with torch.no_grad():
        x = torch.ones(20, 20)
        version = x._version
        assert drop(x) is x
        assert {*x.unique().tolist()} == {0.0, 2.0}
        assert x._version > version
    values = leaf.detach().clone()
    with pytest.raises(RuntimeError, match="in-place"):
        drop(leaf)
    assert torch.equal(leaf, values)
    some = torch.ones(20, 40)[:, ::2]  # with gaps: torch's own
    assert {*drop(some).unique().tolist()} == {0.0, 2.0}


def test_dropout_without_chance_returns_its_input() -> None:
    x = torch.ones(4, 4)
    assert nn.Dropout(0.5).eval()(x) is x
    assert torch.equal(F.dropout(x, 0.0), x)
    assert torch.equal(F.dropout(x, 1.0), 0 * x)
    with pytest.raises(ValueError, match="between 0 and 1"):
        F.dropout(x, 1.5)


# Modules


def every_module() -> Iterator[tuple[Any, Any, Shape]]:
    for name, arguments, options, shape in NORMS:
        yield *pair(name, arguments, options, shape, torch.float32), shape
    yield nn.Dropout(0.3), torch.nn.Dropout(0.3), (4, 5)
    yield nn.GELU("tanh"), torch.nn.GELU("tanh"), (4, 5)
    yield nn.CrossEntropyLoss(torch.rand(5)), torch.nn.CrossEntropyLoss(torch.rand(5)), (4, 5)


def test_they_are_subclasses_with_the_same_arguments(each: Each) -> None:
    for name in each(set(nn.__all__) - {"BatchNormReLU"}):
        ours, theirs = getattr(nn, name), getattr(torch.nn, name)
        assert ours.replaces is theirs
        assert issubclass(ours, theirs)
        assert inspect.signature(ours) == inspect.signature(theirs)
    assert issubclass(nn.BatchNormReLU, torch.nn.modules.batchnorm._BatchNorm)
    assert inspect.signature(nn.BatchNormReLU) == inspect.signature(torch.nn.BatchNorm2d)
    for name in each(set(F.__all__) - {"batch_norm_relu", "gelu"}):
        own = (
            name + "_with_indices" if name == "max_pool2d" else name
        )  # which of torch's two functions is called depends on it
        ours, theirs = (inspect.signature(one).parameters.values() for one in (getattr(F, name), getattr(TF, own)))
        assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


def test_state_dicts_move_both_ways(each: Each) -> None:
    for ours, theirs, _ in each(list(every_module())):
        for p in theirs.parameters():
            torch.nn.init.normal_(p)
        ours.load_state_dict(theirs.state_dict())
        assert [*ours.state_dict()] == [*theirs.state_dict()]
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value)
        theirs.load_state_dict(ours.state_dict())


def test_modules_are_copied_and_pickled(each: Each) -> None:
    for ours, _, shape in each(list(every_module())):
        file = io.BytesIO()
        torch.save(ours, file)
        file.seek(0)
        x = torch.randn(shape)
        more = (torch.tensor([0, 1, 2, 3]),) if isinstance(ours, torch.nn.CrossEntropyLoss) else ()
        ours.eval()
        for other in (
            copy.deepcopy(ours),
            pickle.loads(pickle.dumps(ours)),
            torch.load(file, weights_only=False).eval(),
        ):
            assert type(other) is type(ours)
            assert torch.equal(other(x, *more), ours(x, *more))
            assert repr(other) == repr(ours)


def test_from_torch_shares_all_that_a_module_has(each: Each) -> None:
    for ours, theirs, shape in each(list(every_module())):
        seen: list[str] = []
        handle = theirs.register_forward_hook(lambda *_, seen=seen: seen.append("forward"))
        theirs.eval()
        made = type(ours).from_torch(theirs)
        assert type(made) is type(ours)
        assert not made.training
        for a, b in zip([*made.parameters(), *made.buffers()], [*theirs.parameters(), *theirs.buffers()], strict=True):
            assert a is b
        x = torch.randn(shape)
        more = (torch.tensor([0, 1, 2, 3]),) if isinstance(ours, torch.nn.CrossEntropyLoss) else ()
        made(x, *more)
        assert seen == ["forward"]
        handle.remove()
        made(x, *more)
        assert seen == ["forward"]
        if not isinstance(ours, nn.BatchNormReLU):
            assert type(made).from_torch(made) is made
            back = made.to_torch()
            assert type(back) is type(theirs)
            assert [*back.parameters()] == [*theirs.parameters()]
            theirs.__class__ = type(ours)  # as no module here has attributes of its own
            assert_close(theirs(x, *more), made(x, *more), torch.float32)


def test_from_torch_takes_no_subclasses() -> None:
    class Other(torch.nn.LayerNorm):
        pass

    with pytest.raises(
        TypeError, match=r"LayerNorm\.from_torch: module must be a torch\.nn\S+LayerNorm itself, got Other"
    ):
        nn.LayerNorm.from_torch(Other(3))
    with pytest.raises(TypeError, match=r"BatchNormReLU\.from_torch: module must be a BatchNorm1d, .* got Linear"):
        nn.BatchNormReLU.from_torch(torch.nn.Linear(2, 2))


def test_backward_of_another_thread() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), nn.BatchNormReLU(6), nn.Dropout(0.5), nn.LayerNorm(6))
    losses = [nn.CrossEntropyLoss()(model(torch.randn(8, 6)), torch.randint(6, (8,))) for _ in range(2)]
    expected = torch.autograd.grad(losses[0], [*model.parameters()], retain_graph=True)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(torch.autograd.grad(losses[0], [*model.parameters()])))
    thread.start()
    thread.join()
    for a, b in zip(found[0], expected, strict=True):
        assert torch.equal(a, b)
