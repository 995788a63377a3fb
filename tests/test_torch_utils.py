"""fastopt.torch.utils beside torch.nn.utils: values, dtypes, what torch's own functions do, versions, and mistakes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from tools import Each

torch = pytest.importorskip("torch", reason="needs torch")
from fastopt.torch import optim, utils  # noqa: E402

THEIRS = torch.nn.utils
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 4e-3, torch.bfloat16: 3e-2}
NORM, VALUE = "clip_grad_norm_", "clip_grad_value_"
both = pytest.mark.parametrize("function", [NORM, VALUE])


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of torch's own functions that fastopt has called."""
    found: list[str] = []
    for attribute, name in (("_torchs_norm", NORM), ("_torchs_value", VALUE)):

        def ask(*args: Any, _name: str = name, **kwargs: Any) -> Any:
            found.append(_name)
            return getattr(THEIRS, _name)(*args, **kwargs)

        monkeypatch.setattr(utils, attribute, ask)
    return found


def param(grad: Any) -> Any:
    made = torch.nn.Parameter(torch.zeros_like(grad) if grad.layout is torch.strided else grad.to_dense() * 0)
    made.grad = grad
    return made


def params(*kinds: Any, scale: float = 1.0) -> list[Any]:
    random = torch.Generator().manual_seed(len(kinds))
    shapes = [(64,), (3, 5), (), (0, 2), (20_000,), (2, 3, 4, 5)]
    made = [
        param((torch.randn(shape, generator=random, dtype=torch.float64) * scale).to(kinds[i % len(kinds)]))
        for i, shape in enumerate(shapes)
    ]
    made[5].grad = made[5].grad.contiguous(memory_format=torch.channels_last)
    return [*made, torch.nn.Parameter(torch.ones(3))]  # the last one has no gradient


def copies(some: list[Any]) -> list[Any]:
    return [torch.nn.Parameter(p.detach().clone()) if p.grad is None else param(p.grad.clone()) for p in some]


def assert_close(ours: list[Any], theirs: list[Any], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=tolerance, atol=0.0)


def equal(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and torch.equal(torch.nan_to_num(a, 7.0), torch.nan_to_num(b, 7.0))


KINDS = [*((one,) for one in DTYPES), DTYPES[::3], DTYPES[2:], DTYPES[:2], DTYPES]


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_gradients_are_torchs(kinds: tuple[Any, ...], asked: list[str]) -> None:
    for scale, most in ((1.0, 1.0), (1e-4, 1e3), (1.0, 0.0), (1.0, math.inf)):
        ours = params(*kinds, scale=scale)
        theirs = copies(ours)
        norm, expected = utils.clip_grad_norm_(ours, most), THEIRS.clip_grad_norm_(theirs, most)
        tolerance = max(TOLERANCE[one] for one in kinds)
        assert norm.shape == () and norm.dtype == expected.dtype and norm.device.type == "cpu"
        assert not norm.requires_grad
        torch.testing.assert_close(norm, expected, rtol=tolerance, atol=0.0)
        assert_close(ours, theirs, tolerance)
    assert utils.clip_grad_value_(ours, 0.3) is None
    THEIRS.clip_grad_value_(theirs, 0.3)
    assert_close(ours, theirs, tolerance)
    assert asked == []


def test_the_norm_is_that_of_a_step() -> None:
    model = torch.nn.Linear(40, 30)
    model(torch.randn(5, 40)).square().sum().backward()
    opt = optim.SGD(model.parameters(), lr=0.0)
    for most in (math.inf, 1.0):  # an infinite one only finds the norm
        opt.step(clip_norm=most)
        assert opt.info is not None
        assert utils.clip_grad_norm_(model.parameters(), most) == torch.tensor(opt.info.grad_norm)


@both
def test_what_torch_accepts(function: str, asked: list[str]) -> None:
    ours, theirs, both = params(torch.float32), params(torch.float32), (utils, THEIRS)
    for module, some in zip(both, (ours, theirs), strict=True):
        clip = getattr(module, function)
        clip(some[0], 0.1)
        clip((one for one in some), torch.tensor(0.05), foreach=True)
        clip({"a": some[1]}.values(), 0.01, foreach=False)
        clip(tuple(some[2:]), 1)
        clip(torch.nn.ParameterList(some), True)
    assert asked == []
    assert_close(ours, theirs, 1e-5)


def test_nothing_to_clip(asked: list[str]) -> None:
    missing = torch.nn.Parameter(torch.ones(3))
    for some in ([], [missing], missing):
        assert equal(utils.clip_grad_norm_(some, 1.0), torch.tensor(0.0))
    with pytest.warns(UserWarning, match="`parameters` is an empty generator") as seen:
        utils.clip_grad_norm_((one for one in []), 1.0)
    assert [one.filename for one in seen] == [__file__]
    assert asked == [NORM] * 4
    outcomes = []
    for module in (utils, THEIRS):
        for some in ([], [missing], missing, (one for one in [])):
            try:
                outcomes.append(module.clip_grad_value_(some, 1.0))
            except RuntimeError as error:  # of torch 2.13
                outcomes.append(str(error))
    assert outcomes[:4] == outcomes[4:]


def grad_of(values: Any, kind: Any = torch.float32) -> Any:
    return param(torch.tensor(values, dtype=kind))


# What may be given as the parameters, made anew for each call.
GIVEN: dict[str, Callable[[], Any]] = {
    "an empty list": list,
    "an empty tuple": tuple,
    "an empty generator": lambda: (one for one in []),
    "an empty iterator": lambda: iter([]),
    "no gradient": lambda: torch.nn.Parameter(torch.ones(3)),
    "a generator without gradients": lambda: (torch.nn.Parameter(torch.ones(3)) for _ in range(2)),
    "a parameter": lambda: grad_of([3.0, -4.0, 0.0]),
    "a generator": lambda: (grad_of([3.0, i]) for i in (1.0, -2.0)),
    "one without a gradient": lambda: [torch.nn.Parameter(torch.ones(3)), grad_of([3.0, -4.0])],
    "an empty gradient": lambda: grad_of([]),
    "an empty gradient and others": lambda: [grad_of([]), grad_of([5.0, 1.0], torch.float64)],
    "an infinity": lambda: [grad_of([math.inf, 1.0]), grad_of([3.0])],
    "None": lambda: None,
    "a list of None": lambda: [None],
    "a number": lambda: 3,
    "a module": lambda: torch.nn.Linear(2, 2),
}
LIMITS = (1.0, 0.0, math.inf, -1.0, math.nan, "1", "a", None, torch.tensor(0.5), torch.ones(2))
OPTIONS: dict[str, list[dict[str, Any]]] = {
    VALUE: [{}, {"foreach": True}, {"foreach": False}],
    NORM: [
        *({"foreach": one} for one in (None, True, False)),
        *({"error_if_nonfinite": one} for one in (True, 1, None, torch.ones(2))),
        *({"norm_type": one} for one in (1, 2, True, "2", "x", None, math.inf, torch.tensor(2.0))),
    ],
}


def outcome(call: Callable[..., Any], made: Any, *args: Any, **options: Any) -> Any:
    """The result or the error of a call, its warnings, and the gradients after it."""
    some = made
    if hasattr(made, "__next__"):
        kept = list(made)
        some, made = ((one for one in kept) if "generator" in type(made).__name__ else iter(kept)), kept
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            result = call(some, *args, **options)
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            result = error
    listed = [made] if isinstance(made, torch.Tensor) else made if isinstance(made, list) else []
    grads = [str(one.grad) for one in listed if one is not None]
    return (
        type(result),
        str(result),
        getattr(result, "dtype", None),
        [(str(one.message), one.filename) for one in seen],
        grads,
    )


@both
@pytest.mark.parametrize("given", GIVEN)
def test_results_errors_and_warnings_are_torchs(given: str, function: str, each: Each) -> None:
    for limit, options in each(LIMITS, OPTIONS[function]):
        ours, theirs = (outcome(getattr(one, function), GIVEN[given](), limit, **options) for one in (utils, THEIRS))
        assert ours == theirs


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_norms_that_are_not_finite(kind: Any, asked: list[str]) -> None:
    for value in (math.inf, -math.inf, math.nan):
        ours = params(kind)
        ours[0].grad[5] = value
        theirs, before = copies(ours), copies(ours)
        errors = []
        for module, some in ((utils, ours), (THEIRS, theirs)):
            with pytest.raises(RuntimeError) as error:
                module.clip_grad_norm_(some, 1.0, error_if_nonfinite=True)
            errors.append(str(error.value))
        assert errors[0] == errors[1]
        assert all(a.grad is None or equal(a.grad, b.grad) for a, b in zip(ours, before, strict=True))
        assert {a.grad._version for a in ours[:1]} == {1}  # from the value that was set
        assert equal(utils.clip_grad_norm_(ours, 1.0), THEIRS.clip_grad_norm_(theirs, 1.0))
        assert all(a.grad is None or equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert asked == []


def test_a_norm_beyond_its_dtype() -> None:
    """float16 ends at 65,504: the result is infinite as torch's is, and the gradients are clipped all the same."""
    some = [param(torch.full((4,), 6e4, dtype=torch.float16))]
    with pytest.raises(RuntimeError, match="non-finite"):
        utils.clip_grad_norm_(some, 2.0, error_if_nonfinite=True)
    assert utils.clip_grad_norm_(some, 2.0) == math.inf
    assert equal(some[0].grad, torch.ones(4, dtype=torch.float16))


# Where torch's own functions are called


class Wrapped(torch.Tensor):
    pass


def with_gaps() -> Any:
    return torch.arange(12.0).reshape(3, 4)[:, ::2]


def unusual() -> dict[str, Callable[[], list[Any]]]:
    shared = torch.arange(6.0)
    twice = param(torch.arange(5.0))
    return {
        "sparse": lambda: [param(torch.eye(3).to_sparse())],
        "complex": lambda: [param(torch.ones(3, dtype=torch.complex64))],
        "a subclass": lambda: [param(torch.arange(4.0).as_subclass(Wrapped))],
        "gaps": lambda: [param(with_gaps())],
        "expanded": lambda: [param(torch.ones(1).expand(4).as_strided((4,), (0,)))],
        "shared memory": lambda: [param(shared[:4].clone()), param(shared[2:]), param(shared[:4])],
        "a parameter twice": lambda: [twice, twice],
        "another device": lambda: [param(torch.ones(3, device="meta"))],
    }


@both
@pytest.mark.parametrize("kind", unusual())
def test_torchs_own_function_does_the_rest(kind: str, function: str, asked: list[str]) -> None:
    ours, theirs = unusual()[kind](), unusual()[kind]()
    results: list[Any] = []
    for module, some in ((utils, ours), (THEIRS, theirs)):
        try:
            results.append(getattr(module, function)(some, 0.5))
        except (RuntimeError, NotImplementedError) as error:  # torch cannot do all of them either
            results.append(str(error))
    assert asked == [function]
    assert (type(results[0]), str(results[0])) == (type(results[1]), str(results[1]))
    if kind != "another device":
        assert all(torch.equal(a.grad.to_dense(), b.grad.to_dense()) for a, b in zip(ours, theirs, strict=True))


def test_memory_that_was_freed() -> None:
    """As FSDP frees it; torch's own function would crash."""
    freed = params(torch.float32)[0]
    freed.grad.untyped_storage().resize_(0)
    assert utils._clip.norm([freed], 1.0, False) is None and not utils._clip.value([freed], 1.0)


def test_torchs_own_function_takes_other_norms(asked: list[str]) -> None:
    for arguments in ((1.0, 1), (1.0, math.inf), (1.0, "inf"), (1.0, 3.0), (-1.0,), (math.nan,)):
        ours = [one for one in params(torch.float64) if one.numel()]
        theirs = copies(ours)
        assert equal(utils.clip_grad_norm_(ours, *arguments), THEIRS.clip_grad_norm_(theirs, *arguments))
        assert all(a.grad is None or equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    for value in (-1.0, math.nan):
        utils.clip_grad_value_(ours, value)
        THEIRS.clip_grad_value_(theirs, value)
        assert all(a.grad is None or equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert asked == [NORM] * 6 + [VALUE] * 2
    utils.clip_grad_norm_(ours, 1.0, "2")
    utils.clip_grad_norm_(ours, 1.0, 2)
    assert asked == [NORM] * 6 + [VALUE] * 2 + [NORM]


def test_what_torch_compiles(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    ours = params(torch.float32)
    theirs = copies(ours)
    assert equal(utils.clip_grad_norm_(ours, 0.1), THEIRS.clip_grad_norm_(theirs, 0.1))
    utils.clip_grad_value_(ours, 1e-3)
    THEIRS.clip_grad_value_(theirs, 1e-3)
    assert all(a.grad is None or equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert asked == [NORM, VALUE]


# Autograd


def test_autograd_hears_of_writes(asked: list[str]) -> None:
    some = params(torch.float32)[:3]
    versions = [one.grad._version for one in some]
    utils.clip_grad_norm_(some, 1e6)
    assert [one.grad._version for one in some] == versions  # nothing was written
    utils.clip_grad_norm_(some, 0.1)
    assert all(one.grad._version > version for one, version in zip(some, versions, strict=True))
    versions = [one.grad._version for one in some]
    utils.clip_grad_value_(some, 0.1)
    assert all(one.grad._version > version for one, version in zip(some, versions, strict=True))

    factor = torch.ones(64, requires_grad=True)
    saved = (factor * some[0].grad).sum()
    utils.clip_grad_norm_(some, 1e-3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()
    assert asked == []


def test_gradients_that_have_a_history(asked: list[str]) -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    (grad,) = torch.autograd.grad((weight**3).sum(), weight, create_graph=True)
    weight.grad = grad
    norm = utils.clip_grad_norm_(weight, 1.0)
    assert not norm.requires_grad and grad.requires_grad and asked == []
    assert float(grad.detach().norm()) == pytest.approx(1.0, rel=1e-5)


def test_the_module_shows_public_names() -> None:
    assert dir(utils) == sorted(utils.__all__) == [NORM, VALUE]


@both
def test_what_is_no_parameter(function: str) -> None:
    for some in ([3], ["a"], [None]):
        with pytest.raises(AttributeError, match="has no attribute 'grad'"):
            getattr(utils, function)(some, 1.0)
    with pytest.raises(TypeError, match="not iterable"):
        getattr(utils, function)(3, 1.0)
    with pytest.raises((TypeError, ValueError)):
        getattr(utils, function)(params(torch.float32), "a")
