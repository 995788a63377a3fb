"""Where fastopt.torch's modules and functions step aside for torch's own: modes, transforms, compilers, errors, sizes."""

from __future__ import annotations

import abc
import copy
import pickle
import subprocess
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beside_torch import one_thread, torch  # noqa: F401  # one_thread is for all tests here
from tools import Each

import fastopt.torch
from fastopt.torch import functional as F
from fastopt.torch import nn
from fastopt.torch.functional import _choice

TF = torch.nn.functional


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    """Calls the kernels whatever the size, from the same random numbers in every test."""
    torch.manual_seed(0)
    with _choice.forced(True):
        yield


def model() -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(6, 6), nn.LayerNorm(6), nn.BatchNormReLU(6), nn.GELU("tanh"), nn.Dropout(0.0), nn.RMSNorm(6)
    )


QUESTIONS = ("dim", "is_floating_point", "numel", "stride")  # which our functions ask a tensor before they step aside
CALLS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "layer_norm": (lambda x: F.layer_norm(x, [6]), lambda x: TF.layer_norm(x, [6])),
    "rms_norm": (lambda x: F.rms_norm(x, [6]), lambda x: TF.rms_norm(x, [6])),
    "group_norm": (lambda x: F.group_norm(x, 2), lambda x: TF.group_norm(x, 2)),
    "batch_norm": (
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: TF.batch_norm(x, None, None, training=True),
    ),
    "gelu": (lambda x: F.gelu(x, "tanh"), lambda x: TF.gelu(x, approximate="tanh")),
    "max_pool2d": (
        lambda x: F.max_pool2d(x.reshape(-1, 1, 2, 3), 2),
        lambda x: TF.max_pool2d(x.reshape(-1, 1, 2, 3), 2),
    ),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, torch.arange(len(x)) % 6),
        lambda x: TF.cross_entropy(x, torch.arange(len(x)) % 6),
    ),
}


def steps_aside(run: Callable[[Any], Any], each: Each) -> None:
    """Our functions under something are torch's, to the last bit."""
    for name in each(CALLS):
        ours, theirs = CALLS[name]
        with warnings.catch_warnings():  # torch compiles decompositions with what it has deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            assert torch.equal(run(ours), run(theirs))


def test_transforms_see_torchs_operations(each: Each) -> None:
    x = torch.randn(3, 4, 6)
    steps_aside(lambda call: torch.vmap(call)(x), each)
    steps_aside(lambda call: torch.func.grad(lambda x: call(x).sum())(x[0]), each)
    steps_aside(lambda call: torch.func.jvp(call, (x[0],), (x[1],))[1], each)
    steps_aside(lambda call: torch.func.jacrev(call)(x[0]), each)


def test_forward_mode_sees_torchs_operations(each: Each) -> None:
    x, tangent = torch.randn(2, 4, 6)

    def derivative(call: Any) -> Any:
        with torch.autograd.forward_ad.dual_level():
            return torch.autograd.forward_ad.unpack_dual(call(torch.autograd.forward_ad.make_dual(x, tangent))).tangent

    steps_aside(derivative, each)


def test_modes_and_subclasses_see_torchs_operations(each: Each) -> None:
    seen: list[str] = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    class FunctionMode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function.__name__)
            return function(*args, **(kwargs or {}))

    class Subclass(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(getattr(function, "__name__", ""))
            return super().__torch_function__(function, types, args, kwargs or {})

    for called in each(CALLS):
        x = torch.randn(4, 6)
        for mode in Mode(), FunctionMode():
            seen_of: list[list[str]] = []
            for call in CALLS[called]:
                seen.clear()
                with mode:
                    call(x)
                seen_of.append([name for name in seen if name not in QUESTIONS])
            assert seen_of[0] == seen_of[1]
        seen.clear()
        CALLS[called][0](x.as_subclass(Subclass))
        assert called in seen
        with torch.device("cpu"):  # a mode, too, but one that changes nothing here
            y = CALLS[called][0](x.requires_grad_())
        assert type(y.grad_fn).__name__.startswith("_")


def test_other_devices_and_dtypes_are_torchs(each: Each) -> None:
    for name in each(CALLS):
        if name != "cross_entropy":
            assert CALLS[name][0](torch.empty(4, 6, device="meta")).is_meta
    z = torch.randn(4, 6, dtype=torch.complex64)
    with pytest.raises((RuntimeError, NotImplementedError)):
        F.layer_norm(z, [6])
    with torch._subclasses.FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.randn(4, 6))
        assert type(F.layer_norm(fake, [6])) is type(fake)
    negative = torch.randn(4, 6, dtype=torch.complex64).conj().imag
    assert negative.is_neg()
    assert torch.equal(F.layer_norm(negative, [6]), TF.layer_norm(negative, [6]))


def test_traces_hold_torchs_operations() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(nn.LayerNorm(6), torch.randn(4, 6))
        assert "aten::layer_norm" in str(traced.inlined_graph)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(backend: str) -> None:
    """The whole graph is torch's operations."""
    ours = model()
    loss = nn.CrossEntropyLoss()

    def step(x: Any, target: Any) -> Any:
        return loss(ours(x), target)

    x, target = torch.randn(8, 6), torch.randint(6, (8,))
    with _choice.forced(False):
        expected = torch.autograd.grad(step(x, target), [*ours.parameters()])
    compiled = torch.compile(step, backend=backend, fullgraph=True)
    for a, b in zip(torch.autograd.grad(compiled(x, target), [*ours.parameters()]), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert ours[2].num_batches_tracked == 2
    torch._dynamo.reset()


def test_export() -> None:
    exported = torch.export.export(model().eval(), (torch.randn(8, 6),))
    names = [node.name for node in exported.graph.nodes]
    assert "layer_norm" in names and "gelu" in names


def test_autocast_has_torchs_dtypes(each: Each) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in torch.float32, torch.bfloat16:
            for name in each(CALLS):
                ours, theirs = (call(torch.randn(4, 6, dtype=dtype)) for call in CALLS[name])
                assert ours.dtype is theirs.dtype
        x = torch.randn(8, 6, requires_grad=True)
        y = model()(x)
        assert y.dtype is torch.bfloat16
        loss = F.cross_entropy(y, torch.randint(6, (8,)))
        assert loss.dtype is torch.float32
    loss.backward()
    assert x.grad.dtype is torch.float32


def test_without_gradients(each: Each) -> None:
    x = torch.randn(4, 6)
    for name in each(CALLS):
        ours, theirs = CALLS[name]
        for context in torch.no_grad, torch.inference_mode:
            with context():
                y = ours(x.clone().requires_grad_())
                assert y.grad_fn is None and not y.requires_grad
                assert y.is_inference() == (context is torch.inference_mode)
                torch.testing.assert_close(y, theirs(x))
    with torch.inference_mode():
        norm = nn.BatchNorm1d(6)  # whose buffers are inference tensors
        theirs = torch.nn.BatchNorm1d(6)
        inside = torch.randn(4, 6)
        torch.testing.assert_close(norm(inside), theirs(inside))
        torch.testing.assert_close(norm.running_var, theirs.running_var)
        nn.Dropout(0.5, inplace=True)(inside)
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensor"):
        nn.LayerNorm(6)(inside)
    outside = torch.randn(4, 6)
    for functions, module in (F, norm), (TF, theirs):  # torch's function changes inference tensors outside, too
        functions.batch_norm(outside, module.running_mean, module.running_var, training=True)
    torch.testing.assert_close(norm.running_var, theirs.running_var)


def both_raise(call: Callable[[Any, Any], Any]) -> None:
    """Ours raises the error that torch's own raises, with its text and without another one in its context."""
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(TF, torch.nn)
    with pytest.raises(type(theirs.value)) as ours:
        call(F, nn)
    assert str(ours.value) == str(theirs.value)
    assert ours.value.__context__ is None


def test_errors_are_torchs(each: Each) -> None:
    x, images, labels = torch.randn(4, 6), torch.randn(2, 6, 4, 4), torch.tensor([0, 1, 2, 6])
    wrong: list[Callable[[Any, Any], Any]] = [
        lambda f, n: f.layer_norm(x, [5]),
        lambda f, n: f.layer_norm(x, [6], torch.ones(5)),
        lambda f, n: f.layer_norm(x, [6], torch.ones(6, dtype=torch.float64)),
        lambda f, n: f.layer_norm(x.long(), [6]),
        lambda f, n: f.layer_norm(x.numpy(), [6]),
        lambda f, n: f.layer_norm(x, 6),
        lambda f, n: f.rms_norm(x, [5]),
        lambda f, n: f.rms_norm(x, 6),
        lambda f, n: f.group_norm(x, 4),
        lambda f, n: f.group_norm(x[0], 2),
        lambda f, n: f.group_norm(x[:1, :2], 2),
        lambda f, n: f.batch_norm(x[:1], None, None, training=True),
        lambda f, n: f.batch_norm(x, None, None),
        lambda f, n: f.batch_norm(x, torch.zeros(5), torch.ones(5), training=True),
        lambda f, n: f.batch_norm(x, None, None, training=True, eps=0.0),
        lambda f, n: f.batch_norm(x, None, None, torch.ones(6).bfloat16(), training=True),
        lambda f, n: n.BatchNorm1d(6)(x[:1]),
        lambda f, n: n.BatchNorm1d(6)(images),
        lambda f, n: n.BatchNorm2d(6)(x),
        lambda f, n: n.BatchNorm3d(5)(x),
        lambda f, n: n.GroupNorm(4, 6),
        lambda f, n: n.Dropout(2.0),
        lambda f, n: f.gelu(x, approximate="other"),
        lambda f, n: f.max_pool2d(x, 2),
        lambda f, n: f.max_pool2d(images, 0),
        lambda f, n: f.max_pool2d(images, 9),
        lambda f, n: f.max_pool2d(images, (2, 2, 2)),
        lambda f, n: f.max_pool2d(images, 2, stride=0),
        lambda f, n: f.max_pool2d(images, 2, padding=2),
        lambda f, n: f.max_pool2d(images, 2, dilation=0),
        lambda f, n: f.max_pool2d(images, 2.0),
        lambda f, n: f.max_pool2d(images, "2"),
        lambda f, n: f.max_pool2d(images.numpy(), 2),
        lambda f, n: f.max_pool2d(images, ()),
        lambda f, n: n.MaxPool2d(2, padding=2)(images),
        lambda f, n: f.cross_entropy(x, labels),
        lambda f, n: f.cross_entropy(x, labels[:2]),
        lambda f, n: f.cross_entropy(x, labels.int()),
        lambda f, n: f.cross_entropy(x, labels, torch.ones(5)),
        lambda f, n: f.cross_entropy(x, x.softmax(1), ignore_index=3),
        lambda f, n: f.cross_entropy(x, labels - 1, reduction="median"),
        lambda f, n: f.cross_entropy(x, labels - 1, label_smoothing=2.0),
        lambda f, n: f.cross_entropy(x, labels.numpy()),
    ]
    for call in each(wrong):
        both_raise(call)
        both_raise(lambda f, n, call=call: call(f, n))
    with pytest.raises(ValueError, match="expected 2D to 5D input"):
        nn.BatchNormReLU(6)(torch.randn(6))


def test_what_the_kernels_do_not_take_is_torchs(each: Each) -> None:
    x = torch.randn(4, 6)
    alike: list[Callable[[Any], Any]] = [
        lambda f: f.layer_norm(x[:0], [6]),
        lambda f: f.group_norm(x[:0], 2),
        lambda f: f.batch_norm(x[:0], None, None, training=True),
        lambda f: f.cross_entropy(x[:0], torch.arange(0), reduction="sum"),
        lambda f: f.batch_norm(x, torch.zeros(6), torch.ones(6), training=True, momentum=1.5),
        lambda f: f.cross_entropy(x, torch.arange(4), reduce=False),
        lambda f: f.cross_entropy(x, torch.arange(4), size_average=False),
        lambda f: f.cross_entropy(x.bfloat16(), x.softmax(1)),
        lambda f: f.max_pool2d(x[None], 2),
        lambda f: f.max_pool2d(x[:0].reshape(0, 1, 2, 3), 2),
        lambda f: f.max_pool2d(x.reshape(4, 1, 2, 3), 2, return_indices=True)[1],
        lambda f: f.max_pool2d(x.reshape(4, 1, 2, 3), [2], [], [0]),
        lambda f: f.max_pool2d(x.reshape(4, 1, 2, 3).char(), 2),
    ]
    for call in each(alike):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(call(F), call(TF))
    q = x.softmax(1).requires_grad_()
    ours, theirs = (torch.autograd.grad(f.cross_entropy(x, q), q)[0] for f in (F, TF))
    assert torch.equal(ours, theirs)


def test_sizes_decide() -> None:
    least = _choice.DROPOUT
    small, large = (torch.ones(int(n), requires_grad=True) for n in (least.training - 1, least.training))
    with _choice.forced(False):
        assert type(F.dropout(large).grad_fn).__name__ != "_DropoutBackward"
    _choice._forced = None  # the fixture restores it
    assert type(F.dropout(small).grad_fn).__name__ != "_DropoutBackward"
    assert type(F.dropout(large).grad_fn).__name__ == "_DropoutBackward"
    assert type(F.dropout(large.half()).grad_fn).__name__ != "_DropoutBackward"
    x = torch.randn(3, 4, requires_grad=True)
    assert type(F.gelu(x.repeat(1000, 1000)).grad_fn).__name__ == "GeluBackward0"
    assert type(F.rms_norm(x, [4]).grad_fn).__name__ == "_NormalizeBackward"


def test_patched_functions_do_not_call_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own are those that were there when fastopt.torch was imported."""
    for name in F.__all__:
        monkeypatch.setattr(TF, name, getattr(F, name), raising=False)
    with _choice.forced(False):
        x = torch.randn(4, 6, requires_grad=True)
        torch.nn.LayerNorm(6)(torch.nn.functional.dropout(x)).sum().backward()
        torch.nn.CrossEntropyLoss()(torch.nn.BatchNorm1d(6)(x), torch.arange(4)).backward()


def test_the_page_has_the_sizes_in_force() -> None:
    page = (Path(__file__).parents[1] / "docs" / "torch_modules.md").read_text(encoding="utf-8")
    of_rows = {
        "`RMSNorm`": "RMS_NORM",
        "`Dropout`": "DROPOUT",
        "`CrossEntropyLoss`: labels": "CROSS_ENTROPY",
        "… with label smoothing": "CROSS_ENTROPY_SMOOTHED",
        "… of probabilities": "CROSS_ENTROPY_OF_DISTRIBUTIONS",
        '`GELU("tanh")`': "GELU_TANH",
        "`BatchNorm2d`, `3d`, and `1d` of (N, C, L)": "BATCH_NORM",
        "… channels innermost in memory, (N, C) too": "BATCH_NORM_COLUMNS",
        "… `eval()`": "BATCH_NORM_EVAL",
        "`BatchNormReLU`": "BATCH_NORM_RELU",
        "… channels innermost in memory": "BATCH_NORM_RELU_COLUMNS",
        "… after ReLU, `eval()`": "BATCH_NORM_RELU_EVAL",
        "`MaxPool2d`": "MAX_POOL",
        "… of channels last": "MAX_POOL_COLUMNS",
        "`LayerNorm`": "LAYER_NORM",
        "`GroupNorm`": "GROUP_NORM",
    }
    words = {1: "all", _choice.NEVER: "never"}
    for row, constant in of_rows.items():
        sizes = [words.get(size) or f"{size:,}" for size in getattr(_choice, constant)]
        assert f"| {row} | {' | '.join(sizes)} |" in page
    every = {name for name, value in vars(_choice).items() if isinstance(value, _choice.Least)}
    assert every == {*of_rows.values(), "GELU"}


def test_torch_is_imported_when_it_is_needed() -> None:
    code = """if True:
        import sys, fastopt.torch
        assert "torch" not in sys.modules
        assert not hasattr(fastopt.torch, "other")
        sys.modules["torch"] = None
        for name in "nn", "functional":
            try:
                __import__(f"fastopt.torch.{name}")
            except ImportError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        "fastopt.torch.nn needs torch",
        "fastopt.torch.functional needs torch",
    ]


def test_symbolic_traces_keep_modules() -> None:
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.LayerNorm(8), torch.nn.Dropout(0.5),
    )  # fmt: skip
    x = torch.randn(3, 1, 6, 6)
    for fuse in (False, True):
        network = copy.deepcopy(plain)
        fastopt.torch.accelerate(network, fuse=fuse)
        traced = torch.fx.symbolic_trace(network)
        called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
        assert called == [
            name for name in "0123456" if not (fuse and name == "2")
        ]  # a ReLU that passes on what it gets
        assert torch.equal(traced.eval()(x), network.eval()(x))
    assert repr(nn.Dropout) == "<class 'fastopt.torch.nn.Dropout'>"
    assert type(pickle.loads(pickle.dumps(nn.Dropout()))) is nn.Dropout


@pytest.mark.parametrize("argument", ["input", "target", "weight"])
def test_cross_entropy_of_what_is_changed_since(argument: str) -> None:
    """torch's own gradient needs only what it has computed; a gradient of the gradient needs the input."""
    x = torch.randn(5, 4, requires_grad=True)

    def loss_of(function: Any) -> tuple[Any, dict[str, Any]]:
        given = {"input": x * 1, "target": torch.arange(5) % 4, "weight": torch.rand(4, generator=torch.Generator())}
        return function(**given), given

    for create_graph in (False, True):
        loss, given = loss_of(F.cross_entropy)
        (expected,) = torch.autograd.grad(loss_of(TF.cross_entropy)[0], x)
        with torch.no_grad():
            given[argument].zero_()
        if create_graph:
            with pytest.raises(RuntimeError, match="cross_entropy: input, target or weight was changed in place"):
                torch.autograd.grad(loss, x, create_graph=True)
        else:
            torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)


def test_cross_entropy_lets_go_of_its_input() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    logits = x * 1
    gone = weakref.ref(logits)
    loss = F.cross_entropy(logits, torch.arange(5) % 4)
    del logits
    loss.backward(retain_graph=True)
    assert gone() is not None
    loss.backward()
    assert gone() is None
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_cross_entropy_under_checkpoints() -> None:
    """Hooks on saved tensors, such as a checkpoint's, see the input, so that it does not live from forward to backward."""
    gone: list[Any] = []

    def loss_of(x: Any) -> Any:
        logits = x * 1
        gone.append(weakref.ref(logits))
        return F.cross_entropy(logits, torch.arange(5) % 4)

    x = torch.randn(5, 4, requires_grad=True)
    loss = torch.utils.checkpoint.checkpoint(loss_of, x, use_reentrant=False)
    assert gone[0]() is None
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(grad, torch.autograd.grad(TF.cross_entropy(x, torch.arange(5) % 4), x)[0])


class Mixin(abc.ABC):  # noqa: B024
    pass


def test_modules_are_subclassed_as_torchs_are() -> None:
    class WithMixin(nn.LayerNorm, Mixin):
        pass

    made = [type("Made", (nn.LayerNorm,), {})(4), types.new_class("New", (nn.LayerNorm,))(4), WithMixin(4)]
    for module in made:
        assert not module.__module__.startswith("torch")  # a user's own class is traced
        assert torch.equal(module(torch.ones(2, 4)), torch.zeros(2, 4))
    normed = torch.nn.utils.parametrizations.weight_norm(nn.LayerNorm((4, 4)), "weight")
    assert normed(torch.ones(2, 4, 4)).shape == (2, 4, 4)
    for module in (nn.LayerNorm(4), copy.deepcopy(nn.LayerNorm(4)), pickle.loads(pickle.dumps(nn.LayerNorm(4)))):
        assert module.__module__ == "torch.nn" and type(module).__module__ == "fastopt.torch.nn"
        theirs = module.to_torch()
        assert "__module__" not in vars(theirs) and vars(nn.LayerNorm.from_torch(theirs))["__module__"] == "torch.nn"
    network = torch.nn.Sequential(torch.nn.LayerNorm(4))
    before = set(vars(network[0]))
    fastopt.torch.accelerate(network)
    fastopt.torch.restore(network)
    assert set(vars(network[0])) == before
