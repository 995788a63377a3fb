"""Parameters that are stepped together: their optimizer, their gradients as arrays, and their state as tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from operator import is_not, itemgetter
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import increment_version
from torch.nn.parameter import is_lazy

from ... import SparseRows, optim
from ..._core import kernels
from .._differences import ALWAYS_THERE, LAZY, OF_MATRICES, OF_WHOLE, WITHOUT_STEP
from .._tensors import Array, array_of, exchange_table, order_of, tensor_of
from ._shards import OF_WHOLE_GRADIENTS, is_sharded, memory_of, sharded_as
from ._state import NO_NOTE, Note, State

# Hyperparameters with which results depend on the count of steps under every rule.
_COUNTED = ("noise", "temperature", "ema_decay", "swa_start", "moments", "l2_init")
_TURNED = (
    "{}: {} rows of {}, whose first axis is not the outermost one in memory; make it contiguous before the optimizer is made: "
    "p.data = p.data.contiguous()"
)
_SEEDS, _APART = 1 << 53, 0x9E3779B97F4A7
_UNSEEN = object()  # no value of a hyperparameter, not even None
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def expect_usable(name: str, label: str, param: torch.Tensor) -> None:
    """Raises TypeError if a tensor cannot be a parameter of ours."""
    if is_sharded(param):
        if name in OF_WHOLE:
            raise TypeError(f"{name}: {label} is distributed, and {name} looks at all of a parameter at once")
        param = memory_of(param)
    if is_lazy(param):
        raise TypeError(
            f"{name}: {label} has no shape yet: run one batch through the model before the optimizer is made, or use torch.optim"
        )
    if not _is_plain(param):
        raise TypeError(
            f"{name}: {label} is a {type(param).__name__}, and fastopt needs its memory; use torch.optim for it"
        )
    if param.device.type != "cpu":
        raise TypeError(
            f"{name}: {label} is on {param.device}, and fastopt works on the CPU: move the model with "
            '.to("cpu") before the optimizer is made, or use torch.optim'
        )
    if param.layout is not torch.strided:
        raise TypeError(f"{name}: {label} has the layout {param.layout}, expected torch.strided")
    if param.dtype not in _DTYPES:
        raise TypeError(
            f"{name}: {label} has dtype {param.dtype}, expected float32, float64, float16 or bfloat16; "
            "use torch.optim for it"
        )
    _ordered(name, label, param)


def labels(groups: list[dict[str, Any]]) -> list[str]:
    """The parameters in errors: their numbers over all groups, and their names where they have some."""
    names = [name for group in groups for name in group.get("param_names") or [""] * len(group["params"])]
    return [f"params[{i}]" + (f" ({name})" if name else "") for i, name in enumerate(names)]


def _ordered(name: str, label: str, param: torch.Tensor) -> list[int]:
    """The order of the axes in which a parameter is contiguous; raises TypeError if there is none."""
    order = order_of(param)
    if order is not None and order != list(range(param.ndim)) and name in OF_MATRICES:
        raise TypeError(
            f"{name}: {label} is not contiguous in the order of its axes, as channels_last is not, and {name} looks at rows and "
            "columns; make it so before the optimizer is made: p.data = p.data.contiguous()"
        )
    if order is None:
        raise TypeError(
            f"{name}: {label} is not contiguous, and would be updated in place; make it so before the "
            "optimizer is made: p.data = p.data.contiguous()"
        )
    return order


def expect_disjoint(name: str, params: list[torch.Tensor]) -> None:
    """Raises ValueError if two parameters share memory."""
    memories = [memory_of(param) for param in params]
    extents = sorted((one.data_ptr(), one.data_ptr() + one.nbytes, i) for i, one in enumerate(memories) if one.numel())
    for (_, end, i), (begin, _, j) in pairwise(extents):
        if begin < end:
            first, second = sorted((i, j))
            raise ValueError(
                f"{name}: params[{first}] and params[{second}] share memory, and both would be updated; give one of them"
            )


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has memory of its own, which a subclass that wraps others has not."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        or not hasattr(type(tensor), "__torch_dispatch__")
        or (type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__)
    )


class Part:
    """Parameters in groups; each group is a group of torch's and those of its parameters that are in this part."""

    def __init__(
        self,
        name: str,
        rule: Any,
        groups: list[tuple[dict[str, Any], list[torch.Tensor]]],
        labels: list[str],
        watched: list[dict[str, Any]],
        state: State,
        keys: tuple[str, ...],
        extra: Mapping[str, Any],
        notes: Mapping[torch.Tensor, Note],
        only_sparse: str = "",
        first: int = 0,
    ) -> None:
        self._only_sparse, self._first = only_sparse, first
        self.name, self.watched, self._keys = name, watched, keys
        self.groups, self._state = [group for group, _ in groups], state
        self.params = [param for _, params in groups for param in params]
        self._owners = [group for group, params in groups for _ in params]
        self._labels = labels
        for label, param in zip(labels, self.params, strict=True):
            expect_usable(name, label, param)
        self._memories = [memory_of(param) for param in self.params]
        self._sharded = [i for i, param in enumerate(self.params) if is_sharded(param)]
        self._orders = [_ordered(name, label, one) for label, one in zip(labels, self._memories, strict=True)]
        self._turned = [i for i, order in enumerate(self._orders) if order[:1] not in ([], [0])]
        self.arrays = [array_of(one).transpose(order) for one, order in zip(self._memories, self._orders, strict=True)]
        self._values, self._seen = itemgetter(*keys), self._unseen_values()
        self._taken: list[tuple[dict[str, Any], str, Any]] = []
        arrays = iter(self.arrays)
        self.optimizer: optim.Optimizer = rule(
            [
                {"params": [next(arrays) for _ in params], **{key: self._own(key, group[key]) for key in keys}}
                for group, params in groups
            ]
        )
        self._load(extra, notes)
        self._tensors = kernels.Tensors(
            exchange_table(), torch.Tensor, self.params, self._memories, self.arrays, self._orders
        )
        # The counts of steps: the optimizer's, and torch's, which are floating-point.
        self._counts = np.zeros(len(self.params), np.int64)
        wide = torch.get_default_dtype() == torch.float64
        with torch.inference_mode(False):  # so that it tells whether it was changed
            self._steps = torch.zeros(len(self.params), dtype=torch.float64 if wide else torch.float32, device="cpu")
        self._of_steps: Array = self._steps.numpy()
        self._version, self._where = self._steps._version, self._steps.data_ptr()
        self._unseen: list[int] = []
        # The memory of the state's tensors, and where it began.
        self._shown: dict[int, list[tuple[torch.Tensor, int]]] = {}
        self._show_all()

    def step(self, options: Mapping[str, Any]) -> optim.StepInfo | None:
        """Takes a step; ``None`` where parameters have changed, so that another part is needed."""
        if any(memory_of(self.params[i]) is not self._memories[i] for i in self._sharded):
            return None
        if self._sharded and any(options.get(key) for key in OF_WHOLE_GRADIENTS):
            raise ValueError(
                f"{self.name}: parameters are distributed, and each process has a part of the gradients: clip with "
                "torch.nn.utils.clip_grad_norm_, and step without options"
            )
        found = self._tensors.gradients(self.watched)
        if found is None or not self._has_own_counts():
            return None
        arrays, stepped, others = found
        try:
            if self._turned and options.get("clip_adaptive") is not None:
                raise TypeError(_TURNED.format(self.name, "clip_adaptive takes", self._labels[self._turned[0]]))
            if self._only_sparse and len(others) != len(stepped):
                raise RuntimeError(self._only_sparse)
            for i in others:
                arrays[i] = self._other(i, arrays[i])
            self._follow()
            info = self.optimizer.step(arrays, **options)
        except BaseException as error:
            self._unfollow()
            if isinstance(error, TypeError | ValueError):
                raise type(error)(self._named(error)) from None
            raise
        finally:
            self._tensors.release()
        self._taken.clear()
        if others and options.get("zero_grads"):
            self._zero(others)
        increment_version(stepped)
        if self.optimizer._plan is not self._plan:
            self._show_all()
        elif not info.skipped:
            self._of_steps[...] = self._counts
            if self._unseen:
                begun = [i for i in self._unseen if self._counts[i]]
                self._unseen = [i for i in self._unseen if not self._counts[i]]
                for i in begun:
                    self._show(i)
        return info

    def _is_uncounted(self, param: torch.Tensor, group: Mapping[str, Any]) -> bool:
        """Whether torch has no count for this parameter, and no result depends on it."""
        half = param.dtype in (torch.float16, torch.bfloat16)
        return self.name in WITHOUT_STEP and not half and all(group.get(key) in (None, 0) for key in _COUNTED)

    def _load(self, extra: Mapping[str, Any], notes: Mapping[torch.Tensor, Note]) -> None:
        """Takes over the state that the parameters have, and what is noted beside it."""
        saved, fresh = {}, {}
        for i, param in enumerate(self.params):
            note = notes.get(param, NO_NOTE) if param in self._state else NO_NOTE
            entries = self._state.get(param, {})
            one = {key: self._array_of(i, key, value) for key, value in entries.items() if value is not None}
            if note.step is not None:
                one.setdefault("step", note.step)
            if one:
                saved[i] = one
            if note.fresh is not None:
                fresh[str(i)] = note.fresh
        extra = {**extra, "fresh": fresh} if fresh else extra
        if not saved and not extra:
            return
        numbers = iter(range(len(self.params)))
        groups = [
            {**group, "params": [next(numbers) for _ in group["params"]]} for group in self.optimizer.param_groups
        ]
        try:
            self.optimizer.load_state_dict({"state": saved, "param_groups": groups, "fastopt": dict(extra)})
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{self._named(error)}; del opt.state[p] begins without the state of a parameter p, as does "
                "del state_dict['state'][its number] before it is loaded"
            ) from None

    def _named(self, error: Exception) -> str:
        """The text of an error of the optimizer of arrays, with the labels of torch's parameters."""

        def named(found: re.Match[str]) -> str:
            number, _, name = self._labels[int(found["i"])].removeprefix("params").partition(" ")
            return f"{found['list']}{number}{found['part'] or ''}{name and ' '}{name}"

        return re.sub(r"\b(?P<list>params|grads)\[(?P<i>\d+)\](?P<part>\.\w+(\[\d+\])?)?", named, str(error))

    def _array_of(self, i: int, key: str, value: Any) -> Any:
        """An entry of a state as an array, with its axes as those of the parameter's array."""
        if not isinstance(value, torch.Tensor):
            return value
        value = memory_of(value)
        if value.layout is torch.sparse_coo:  # the momentum of torch's SGD, where gradients are sparse
            value = value.to_dense()
        if value.device.type != "cpu" or value.layout is not torch.strided:
            raise TypeError(
                f"{self.name}: the state of {self._labels[i]} must be dense and on the CPU, got {value.layout} on {value.device}"
            )
        computed = torch.float64 if self.params[i].dtype is torch.float64 else torch.float32
        own = self.optimizer.state[i].get(key)  # of one number for a parameter, such as a count, the dtype is another
        of_elements = value.ndim > 0 or (own is not None and tensor_of(own).dtype is computed)
        if of_elements and value.dtype in (torch.float32, torch.float64) and value.dtype is not computed:
            value = value.to(computed)  # the model has another dtype now
        array = array_of(value)
        return array.transpose(self._orders[i]) if value.shape == self._memories[i].shape else array

    def extra(self) -> tuple[dict[str, Any], dict[torch.Tensor, Note]]:
        """What the state has beside the parameters' entries: for the optimizer, and for each parameter."""
        found: dict[str, Any] = self.optimizer.state_dict()["fastopt"]
        if self.optimizer._plan is not self._plan or (self._has_own_counts() and not self._is_shown()):
            self._show_all()
        fresh = found.pop("fresh", {})
        notes = {}
        for i, param in enumerate(self.params):
            step = int(self._counts[i]) if self._hides_step[i] and self._counts[i] else None
            if step is not None or str(i) in fresh:
                notes[param] = Note(step, fresh.get(str(i)))
        return found, notes

    @property
    def swapped(self) -> bool:
        """Whether the parameters hold their averages."""
        return bool(self.optimizer._swapped)

    def expect_unswapped(self) -> None:
        self.optimizer._expect_unswapped()

    def is_current(self) -> bool:
        """Whether the groups have these parameters, where they were in memory."""
        if any(memory_of(self.params[i]) is not self._memories[i] for i in self._sharded):
            return False
        found = self._tensors.gradients(self.watched)
        self._tensors.release()
        return found is not None and self._has_own_counts()

    def expect_returnable(self) -> None:
        """Raises ValueError if a parameter that holds its average cannot take its weights back."""
        for i, (memory, array) in self._averaged():
            if memory.dtype is not array.dtype or memory.shape != array.shape:
                raise ValueError(
                    f"{self.name}: {self._labels[i]} has another shape or dtype than when it was swapped for its average; "
                    "undo that first"
                )

    def _averaged(self) -> Iterator[tuple[int, tuple[torch.Tensor, torch.Tensor]]]:
        """The numbers of parameters with averages, their memory by now, and that of their arrays."""
        for i, one in enumerate(self.optimizer.state):
            if "ema_param" in one:
                yield i, (memory_of(self.params[i]).detach(), self._tensor(i, self.arrays[i]))

    def _tensor(self, i: int, array: Array) -> torch.Tensor:
        """An array that is laid out as a parameter's, as a tensor with the parameter's order of axes."""
        order = self._orders[i]
        return tensor_of(array).permute(sorted(range(len(order)), key=order.__getitem__))

    def apply(self, method: str) -> None:
        """Calls a method of the optimizer that changes the parameters."""
        back = self.swapped
        getattr(self.optimizer, method)()
        if back:  # into the memory that they have by now
            for _, (memory, array) in self._averaged():
                if memory.data_ptr() != array.data_ptr():
                    memory.copy_(array)
        torch.autograd.graph.increment_version(self.params)

    def settle(self) -> None:
        """Follows the hyperparameters that torch's groups have by now, unless the parameters hold averages."""
        if not self.swapped:
            try:
                self._follow()
                self.extra()
            except BaseException:
                self._unfollow()
                raise
            self._taken.clear()

    def settle_if_possible(self) -> None:
        """Follows the hyperparameters, unless they are refused, which the next step says, or the counts are changed from outside."""
        if self._has_own_counts():
            with suppress(TypeError, ValueError):
                self.settle()

    def _has_own_counts(self) -> bool:
        """Whether the counts are as they were left here: nobody has written them or moved their memory, as ``share_memory_`` does."""
        return bool(self._steps._version == self._version and self._steps.data_ptr() == self._where)

    def _show_all(self) -> None:
        """Shows the state in torch's optimizer, anew after a change of hyperparameters has given it other arrays."""
        self._hides_step = [self._is_uncounted(*both) for both in zip(self.params, self._owners, strict=True)]
        begun = self.optimizer.state_dict()["fastopt"].get("fresh", {})  # without steps too
        for i, one in enumerate(self.optimizer.state):
            self._counts[i] = int(one["step"])
            one["step"] = self._counts[i, ...]
        self.optimizer.state_dict()  # follows the change
        self._plan = self.optimizer._plan
        if self._steps.data_ptr() != self._where:
            self._of_steps, self._where = self._steps.numpy(), self._steps.data_ptr()
        self._of_steps[...] = self._counts
        self._unseen = []
        for i in range(len(self.params)):
            if self._counts[i] or self.name in ALWAYS_THERE or str(i) in begun:
                self._show(i)
            else:
                self._unseen.append(i)

    def _is_shown(self) -> bool:
        """Whether the tensors of the state are in the memory where they were shown: ``share_memory_`` gives them a copy of it."""
        return all(memory.data_ptr() == at for memories in self._shown.values() for memory, at in memories)

    def _show(self, i: int) -> None:
        """Shows the state of a parameter in torch's optimizer."""
        param, entries, shown = self.params[i], {}, list[tuple[torch.Tensor, int]]()
        for key, array in self.optimizer.state[i].items():
            if key == "step":
                if not self._hides_step[i]:
                    entries[key] = self._steps[i]
                continue
            if array.shape == self.arrays[i].shape:
                tensor = self._tensor(i, array)
                tensor = sharded_as(param, tensor) if i in self._sharded else tensor
            else:
                tensor = tensor_of(array)
            entries[key] = tensor
            memory = memory_of(tensor)
            shown.append((memory, memory.data_ptr()))
        self._shown[i] = shown
        self._state.put(param, entries)

    def _other(self, i: int, grad: Any) -> Any:
        """A gradient that is no plain tensor of the parameter's dtype."""
        grad = memory_of(grad.detach())
        if grad.device.type != "cpu":
            raise TypeError(f"{self.name}: the gradient of {self._labels[i]} is on {grad.device}, expected the CPU")
        if grad.layout is torch.sparse_coo:
            if grad.sparse_dim() != 1:
                raise TypeError(
                    f"{self.name}: the gradient of {self._labels[i]} is sparse along {grad.sparse_dim()} axes, expected only the "
                    "first one; to_dense() it"
                )
            if i in self._turned:
                raise TypeError(_TURNED.format(self.name, "the sparse gradient has", self._labels[i]))
            values = array_of(grad._values()).transpose(self._orders[i])
            momentum = self._owners[i].get("momentum", True)  # without it, SGD moves no other rows
            exact = self.name not in LAZY and bool(momentum)
            return SparseRows(array_of(grad._indices())[0], values, exact=exact)
        if grad.layout is not torch.strided:
            raise TypeError(
                f"{self.name}: the gradient of {self._labels[i]} has the layout {grad.layout}; to_dense() it"
            )
        if not _is_plain(grad):
            raise TypeError(
                f"{self.name}: the gradient of {self._labels[i]} is a {type(grad).__name__}, expected a Tensor"
            )
        if grad.dtype not in self._dtypes_for(self.params[i]):
            raise TypeError(
                f"{self.name}: the gradient of {self._labels[i]} has dtype {grad.dtype}, expected {self.params[i].dtype}"
            )
        return array_of(grad.resolve_neg()).transpose(self._orders[i])

    @staticmethod
    def _dtypes_for(param: torch.Tensor) -> tuple[torch.dtype, ...]:
        """The dtypes that a parameter's gradient may have."""
        return (torch.float64,) if param.dtype is torch.float64 else (torch.float32, torch.float16, torch.bfloat16)

    def _zero(self, numbers: list[int]) -> None:
        """Sets gradients to zero that the optimizer may have had a copy of."""
        for i in numbers:
            grad = self.params[i].grad
            if grad is not None and grad.layout is torch.strided:
                memory_of(grad.detach()).zero_()

    def _own(self, key: str, value: Any) -> Any:
        """A hyperparameter for the optimizer of arrays.

        It numbers its parameters from 0, and what is drawn at random depends on seed and number: where there are several parts,
        their seeds differ.
        """
        value = plain(self.name, key, value)
        if key == "seed" and self._first and type(value) is int and 0 <= value < _SEEDS:
            return (value + self._first * _APART) % _SEEDS
        return value

    def _unseen_values(self) -> list[tuple[Any, ...]]:
        return [(_UNSEEN,) * len(self._keys) for _ in self.groups]

    def _unfollow(self) -> None:
        """Gives the optimizer its hyperparameters back after new ones were refused."""
        for own, key, value in reversed(self._taken):
            own[key] = value
        self._taken.clear()
        self._seen = self._unseen_values()

    def _follow(self) -> None:
        """Gives the optimizer the hyperparameters that torch's groups have by now."""
        for number, (group, own) in enumerate(zip(self.groups, self.optimizer.param_groups, strict=True)):
            try:
                values = self._values(group)
            except KeyError as error:
                raise ValueError(f"{self.name}: param_groups[{number}] has no {error}") from None
            seen = self._seen[number]
            if any(map(is_not, values, seen)):
                for key, value, old in zip(self._keys, values, seen, strict=True):
                    if value is not old and _differs(own[key], new := self._own(key, value)):
                        self._taken.append((own, key, own[key]))
                        own[key] = new
                # What may change in place is looked at again.
                self._seen[number] = tuple(_UNSEEN if _is_mutable(value) else value for value in values)


def _is_mutable(value: Any) -> bool:
    return isinstance(value, torch.Tensor | list | np.ndarray) or (
        isinstance(value, tuple) and any(map(_is_mutable, value))
    )


def _differs(a: Any, b: Any) -> bool:
    return type(a) is not type(b) or a != b


def plain(name: str, key: str, value: Any) -> Any:
    """A hyperparameter in Python's own types, where tensors may be given."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise ValueError(f"{name}: Tensor {key} must be 1-element, got one of shape {tuple(value.shape)}")
        return (value.detach() if isinstance(value, torch.Tensor) else value).item()
    return tuple(plain(name, key, one) for one in value) if isinstance(value, list | tuple) else value
