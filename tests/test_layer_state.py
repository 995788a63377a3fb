"""The state of layers: saved, loaded, pickled, copied, and shared by threads."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from layers import LAYERS, TWO_INPUTS, assert_same, make, tupled
from numpy.random import Generator
from tables import Array, ordinary
from tools import Each, differing

import fastopt as fo
from fastopt import functional as F
from fastopt import nn

layers = pytest.mark.parametrize("name", LAYERS)


class Bfloat16Tensor:
    """Behaves like torch's bfloat16 tensors: NumPy does not know their dtype, and they refuse copies while they require
    gradients.
    """

    def __init__(self, values: Any, learns: bool = True) -> None:
        self.values, self.learns = np.asarray(values), learns

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        if self.learns:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        if self.values.dtype == np.float32:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values

    def detach(self) -> Bfloat16Tensor:
        return Bfloat16Tensor(self.values, learns=False)

    def cpu(self) -> Bfloat16Tensor:
        return self

    def double(self) -> Bfloat16Tensor:
        return Bfloat16Tensor(self.values.astype(np.float64), learns=self.learns)


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@layers
def test_state_dict_goes_round(name: str, rng: Generator) -> None:
    layer, inputs, _ = make(name, "float32", rng)
    layer(*inputs)
    state = layer.state_dict()
    other = LAYERS[name][0]("float32")
    other.load_state_dict(state)
    for one in layer, other:
        one.eval()
    assert_same(tupled(layer(*inputs)), tupled(other(*inputs)))  # type: ignore[operator]
    assert state.keys() == (layer.params | layer.buffers).keys()
    assert not any(np.shares_memory(array, (layer.params | layer.buffers)[key]) for key, array in state.items())
    assert not any(np.shares_memory(array, (other.params | other.buffers)[key]) for key, array in state.items())


def test_state_dict_has_torchs_keys_and_types() -> None:
    state = nn.BatchNorm(3).state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert (state["num_batches_tracked"].dtype, state["num_batches_tracked"].shape) == (np.int64, ())
    assert np.all(state["running_var"] == 1)
    assert list(nn.LayerNorm(3).state_dict()) == ["weight", "bias"]
    assert list(nn.RMSNorm(3).state_dict()) == ["weight"]
    assert list(nn.InstanceNorm(3).state_dict()) == []
    assert list(nn.WeightNormLinear(3, 2).state_dict()) == ["bias", "weight_g", "weight_v"]


def test_a_bad_state_dict_changes_nothing() -> None:
    layer = nn.BatchNorm(2)
    good = layer.state_dict()
    for bad, error, message in (
        (None, TypeError, r"^BatchNorm: state_dict must be a dict, got NoneType$"),
        ({}, ValueError, r"^BatchNorm: state_dict must have the keys .*, got \[\]$"),
        (good | {"scale": np.ones(2)}, ValueError, r"^BatchNorm: state_dict must have the keys"),
        (good | {"weight": np.ones(3)}, ValueError, r"^BatchNorm: weight has shape \(3,\), expected \(2,\)$"),
        (good | {"weight": [7, 7], "running_var": ["a", "b"]}, TypeError, r"^BatchNorm: running_var must be"),
        (good | {"weight": [7, 7], "num_batches_tracked": None}, TypeError, r"^BatchNorm: num_batches_tracked must be"),
        (
            {"weight": [7, 7], "scale": 1},
            ValueError,
            r"\(missing \['bias', 'running_mean', 'running_var'\] and unexpected \['scale'\]\), got",
        ),
        (good | {"bias": np.array(["1", "0"])}, TypeError, r"^BatchNorm: bias must be .*, got ndarray of dtype <U1$"),
        (good | {"bias": np.array([True, False])}, TypeError, r"^BatchNorm: bias must be .* of dtype bool$"),
        (good | {"bias": np.array([1, 2j])}, TypeError, r"^BatchNorm: bias must be .* of dtype complex128$"),
        (good | {"bias": np.array([1, 2], object)}, TypeError, r"^BatchNorm: bias must be .* of dtype object$"),
        (good | {"bias": np.zeros(2, "M8[s]")}, TypeError, r"^BatchNorm: bias must be .* of dtype datetime64\[s\]$"),
        (good | {"bias": np.ma.masked_array([1.0, 2.0])}, TypeError, r"^BatchNorm: bias is a masked array"),
        (
            good | {"bias": np.array([1, -1e300])},
            ValueError,
            r"^BatchNorm: bias has values that are infinite in float32, such as -1e\+300$",
        ),
        (good | {"num_batches_tracked": 1.5}, ValueError, r"num_batches_tracked must be an integer >= 0, got 1.5$"),
        (good | {"num_batches_tracked": -1}, ValueError, r"num_batches_tracked must be an integer >= 0, got -1$"),
        (good | {"num_batches_tracked": np.nan}, ValueError, r"num_batches_tracked must be an integer >= 0, got"),
        (good | {"num_batches_tracked": np.uint64(2**63)}, ValueError, r"num_batches_tracked must be an integer"),
    ):
        with pytest.raises(error, match=message):
            layer.load_state_dict({"weight": [9, 9], **bad} if bad else bad)
        assert all(differing(array, good[key]) == 0 for key, array in layer.state_dict().items())
    layer.params["bias"].flags.writeable = False
    with pytest.raises(
        ValueError, match=r"^BatchNorm: the layer's bias is read-only, but would be written; give a copy$"
    ):
        layer.load_state_dict(good | {"weight": [9, 9]})
    assert np.all(layer.params["weight"] == 1)


def test_states_are_loaded_from_tensors_and_numbers_of_any_size() -> None:
    layer = nn.LayerNorm(2)
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for dtype in np.float16, np.float64, np.longdouble, np.int8, bfloat16, ">f4":
        layer.load_state_dict({"weight": np.array([1, 2]).astype(dtype), "bias": [3, -4]})
        assert [array.tolist() for array in layer.params.values()] == [[1, 2], [3, -4]]
    layer.load_state_dict({"weight": Bfloat16Tensor(np.float32([5, 6])), "bias": np.array([np.nan, np.inf])})
    assert layer.params["weight"].tolist() == [5, 6]
    assert (np.isnan(layer.params["bias"][0]), layer.params["bias"][1]) == (True, np.inf)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_states_of_torchs_modules_are_loaded(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm1d(3).to(getattr(torch, dtype))
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor([0.5, -2.0, 3.0]))
    for state in theirs.state_dict(), theirs.state_dict(keep_vars=True):
        layer = nn.BatchNorm(3)
        layer.load_state_dict(state)
        assert layer.params["weight"].tolist() == [0.5, -2.0, 3.0]


def test_old_checkpoints_without_a_count_of_batches_are_loaded(rng: Generator) -> None:
    """As in torch, the count does not change."""
    layer, other = nn.BatchNorm(3), nn.BatchNorm(3)
    layer(ordinary(rng, (4, 3), "float32"))
    state = layer.state_dict()
    del state["num_batches_tracked"]
    layer.load_state_dict(state)
    other.load_state_dict(state)
    assert (layer.buffers["num_batches_tracked"], other.buffers["num_batches_tracked"]) == (1, 0)
    assert differing(other.buffers["running_mean"], layer.buffers["running_mean"]) == 0


@layers
def test_pickles_and_copies_go_on_without_the_last_batch(name: str, each: Each, rng: Generator) -> None:
    """They have the hyperparameters, parameters, gradients and buffers."""
    for copied in each([pickled, copy.deepcopy, copy.copy]):
        layer, inputs, gradients = make(name, "float32", rng)
        layer(*inputs)
        layer.backward(*gradients)
        layer.eps = 0.125
        layer.eval()
        other = copied(layer)
        assert (type(other), repr(other), other.training) == (type(layer), repr(layer), False)
        for kind in "params", "grads", "buffers":
            one, another = getattr(layer, kind), getattr(other, kind)
            assert one.keys() == another.keys()
            assert_same(one.values(), another.values())
            assert (copied is copy.copy) == all(one[key] is another[key] for key in one) or not one
        with pytest.raises(RuntimeError, match=rf"^{type(layer).__name__}: backward was called before forward$"):
            other.backward(*gradients)
        outputs, dxs = tupled(layer.train()(*inputs)), tupled(layer.backward(*gradients))
        if copied is not copy.copy:  # it shares running statistics
            assert_same(tupled(other.train()(*inputs)), outputs)
            assert_same(tupled(other.backward(*gradients)), dxs)
            assert_same(other.buffers.values(), layer.buffers.values())


def test_pickles_are_small_and_name_what_is_public(rng: Generator) -> None:
    for name in LAYERS:
        layer, inputs, _ = make(name, "float32", rng)
        before = len(pickle.dumps(layer))
        layer(*(np.concatenate([one] * 3000) for one in inputs))
        data = pickle.dumps(layer)
        assert len(data) < before + 100
        assert b"fastopt.nn._" not in data
        assert layer._kept  # the layer itself still has it
    assert {getattr(nn, name).__module__ for name in nn.__all__} == {"fastopt.nn"}
    assert {getattr(F, name).__module__ for name in F.__all__} == {"fastopt.functional"}
    assert pickled(nn.update_bn) is nn.update_bn


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
def test_what_is_one_array_stays_one_array_in_a_pickle(copied: Callable[[Any], Any], rng: Generator) -> None:
    layer = nn.LayerNorm(4)
    held = {"layer": layer, "params": [*layer.params.values()], "grads": layer.grads}
    other = copied(held)
    assert all(a is b for a, b in zip(other["params"], other["layer"].params.values(), strict=True))
    assert other["grads"] is other["layer"].grads
    x = ordinary(rng, (3, 4), "float32")
    other["layer"](x)
    other["layer"].backward(x)
    assert other["grads"]["bias"].any()


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.GaussianDropout, nn.ChannelDropout])
def test_copies_of_dropout_draw_what_it_would_have_drawn(
    kind: Callable[..., Any], copied: Callable[[Any], Any]
) -> None:
    layer, x = kind(0.25, seed=2**64 - 1), np.ones((30, 40), np.float32)
    layer(x)
    other = copied(layer)
    assert (other.p, other.seed, other.step, other.training) == (0.25, 2**64 - 1, 1, True)
    assert differing(other(x), layer(x)) == 0
    assert (other.step, layer.step) == (2, 2)


@layers
def test_a_pass_writes_to_nothing_that_an_earlier_one_has_left(name: str, rng: Generator) -> None:
    """So another thread may still read the earlier results."""
    layer, inputs, _ = make(name, "float32", rng)

    def left() -> list[Array]:
        return [one for value in vars(layer).values() if isinstance(value, tuple) for one in value if np.ndim(one)]

    for mode in True, False:
        layer.train(mode)(*inputs)
        arrays = left()
        before = [one.copy() for one in arrays]
        assert arrays
        layer(*(2 * one + 1 for one in inputs))
        assert_same(arrays, before)


@layers
def test_threads_may_share_a_layer_in_evaluation(name: str, rng: Generator) -> None:
    """Each gets the results of its own inputs; a backward pass is that of one forward pass."""
    layer, inputs, gradients = make(name, "float32", rng)
    gradients = tuple(np.concatenate([one] * 40) for one in gradients)
    layer.eval()
    batches = [tuple(np.concatenate([one + 100 * i] * 40) for one in inputs) for i in range(2)]
    outputs, dxs = [], []
    for batch in batches:
        outputs.append(tuple(one.copy() for one in tupled(layer(*batch))))
        dxs.append(tuple(one.copy() for one in tupled(layer.backward(*gradients))))

    def run(i: int) -> None:
        with fo.threads(1):
            for _ in range(60):
                assert_same(tupled(layer(*batches[i])), outputs[i])
                dx = tupled(layer.backward(*gradients))
                assert any(all(differing(a, b) == 0 for a, b in zip(dx, one, strict=True)) for one in dxs)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))


# Attributes

CHANGEABLE = {"eps", "momentum", "frozen", "channel_axis", "num_groups", "r_max", "d_max", "p"}
READ = {
    "activation",
    "stride",
    "padding",
    "dilation",
    "groups",
    "input_grad",
    "padding_idx",
}  # of layers outside the table
OTHERS = {
    "eps": 3.0,
    "momentum": 0.9,
    "frozen": True,
    "channel_axis": -1,
    "num_groups": 6,
    "r_max": 1.0,
    "d_max": 0.0,
}
DROPOUTS: dict[str, Callable[[], nn.Layer]] = {
    name: lambda name=name: getattr(nn, name)(0.5, seed=1) for name in ("Dropout", "GaussianDropout", "ChannelDropout")
}
BUILT: dict[str, Callable[[], nn.Layer]] = {
    **{name: lambda make=make: make("float64") for name, (make, _) in LAYERS.items()},
    **DROPOUTS,
    "Linear": lambda: nn.Linear(6, 4),
    "Conv2d": lambda: nn.Conv2d(2, 4, 3),
    "Embedding": lambda: nn.Embedding(6, 4),
}


@pytest.mark.parametrize("name", BUILT)
def test_no_argument_of_a_constructor_is_set_without_effect(name: str) -> None:
    """Each one is refused, with the way out, or shows in the layer's repr and is read in every pass."""
    layer = BUILT[name]()
    arguments = [key for key in inspect.signature(type(layer)).parameters if key not in CHANGEABLE | READ]
    if name in DROPOUTS:
        arguments.remove("seed")
    before, was = pickle.dumps(layer), repr(layer)
    for key in arguments:
        with pytest.raises(
            AttributeError, match=rf"^{type(layer).__name__}: {key} (cannot be changed after|is not an)"
        ) as caught:
            setattr(layer, key, 5)
        assert f"{key}=5)" in str(caught.value) or f"params['{key}'][...] = " in str(caught.value)
    for key in (*layer.params, *layer.buffers):
        kind = "params" if key in layer.params else "buffers"
        with pytest.raises(
            AttributeError, match=rf"{key} is not an attribute; .* layer\.{kind}\['{key}'\]\[\.\.\.\] = "
        ):
            setattr(layer, key, np.ones(6))
        assert not hasattr(layer, key)
    assert pickle.dumps(layer) == before and repr(layer) == was
    for twin in copy.deepcopy(layer), pickle.loads(before):
        assert repr(twin) == was
        for key in arguments:
            with pytest.raises(AttributeError, match=key):
                setattr(twin, key, 5)


@pytest.mark.parametrize("name", [name for name in BUILT if name in LAYERS])
def test_what_may_be_changed_has_an_effect(name: str, rng: Generator) -> None:
    """The next pass is that of a layer that was made with it."""
    layer_of, shape = LAYERS[name]
    arguments = inspect.signature(type(layer_of("float64"))).parameters.keys()
    for key in sorted(arguments & (CHANGEABLE - {"momentum", "channel_axis", "frozen"})):
        layer, other = layer_of("float64"), layer_of("float64")
        inputs = [ordinary(rng, shape, "float64")] * (2 if isinstance(layer, TWO_INPUTS) else 1)
        for one in layer, other:
            one(*inputs)  # running statistics
        setattr(layer, key, OTHERS[key])
        results, others = (tupled(one(*inputs)) for one in (layer, other))
        assert any(not np.array_equal(*both) for both in zip(results, others, strict=True)), key


def test_subclasses_may_have_attributes_of_these_names() -> None:
    class Mine(nn.LayerNorm):
        def __init__(self) -> None:
            super().__init__(3)
            self.normalized_shape = (3,)
            self.weight = self.params["weight"]
            self.bias = True

    mine = Mine()
    assert mine.weight is mine.params["weight"] and mine.bias is True
    assert not hasattr(nn.LayerNorm(3), "bias")
    with pytest.raises(
        AttributeError, match=r"^'LayerNorm' object has no attribute 'weight'; the array is layer.params\['weight'\]$"
    ):
        _ = nn.LayerNorm(3).weight  # type: ignore[attr-defined]
