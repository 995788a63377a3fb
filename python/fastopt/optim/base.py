"""What all optimizers share: parameters in a list, a dict or groups, their state, and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._core import kernels
from .._rules import Rule

Array: TypeAlias = NDArray[Any]
Params: TypeAlias = Iterable[Array] | Mapping[str, Array] | Iterable[Mapping[str, Any]]
Grads: TypeAlias = Sequence[Array | None] | Mapping[str, Array | None] | Sequence[Any]


class StepInfo(NamedTuple):
    """What a step did."""

    step: int
    """How many steps the optimizer has taken."""


class _Plan(NamedTuple):
    """The kernel's view of the parameters that share a rule and a dtype."""

    kernel: Any
    chosen: list[int]  # which parameters
    groups: list[int]  # whose options they follow


class _Plans(NamedTuple):
    """What follows from the groups' hyperparameters."""

    values: list[Any]  # these hyperparameters
    rules: list[Rule]
    plans: list[_Plan]
    state: list[dict[str, Array]]
    options: list[list[tuple[float, ...]]]  # for each plan, the numbers of the groups that it follows


def _zeros_like(param: Array) -> Array:
    """Zeros that begin as far into a cache line as the parameter does, so that whole vectors of both can begin with one."""
    space = np.zeros(param.nbytes + 64, np.uint8)
    first = (param.ctypes.data - space.ctypes.data) % 64
    return space[first : first + param.nbytes].view(param.dtype).reshape(param.shape)


def _options(rules: list[Rule], plans: list[_Plan]) -> list[list[tuple[float, ...]]]:
    return [[rules[group].options for group in plan.groups] for plan in plans]


class Optimizer:
    """A list of parameters that one rule updates in place.

    A subclass is a rule: its constructor passes the hyperparameters' defaults here, and ``_rule`` makes of a group's
    hyperparameters what the kernel takes.

    ``param_groups`` is a list of dicts as in torch, whose hyperparameters may be changed between steps.
    """

    _rule: ClassVar[Callable[..., Rule]]  # what (function, **hyperparameters) mean; raises what is wrong with them

    def __init__(self, params: Params, **defaults: Any) -> None:
        self._name = type(self).__name__
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._count = 0
        self._labels: list[str] = []  # of the parameters, for errors: "[0]" or "['bias']"
        self._values = itemgetter(*defaults)
        self._plans = _Plans([], [], [], [], [])

        if not isinstance(params, Iterable):
            raise TypeError(
                f"{self._name}: params must be a list, a dict or groups of arrays, got {type(params).__name__}"
            )
        groups: list[Any] = [params] if isinstance(params, Mapping | np.ndarray) else list(params)
        if not groups or not all(isinstance(group, Mapping) and "params" in group for group in groups):
            groups = [{"params": params if isinstance(params, Mapping | np.ndarray) else groups}]
            self._grouped = False
        else:
            self._grouped = True
        for group in groups:
            self._add(group)

    @property
    def state(self) -> list[dict[str, Array]]:
        """For each parameter, numbered over all groups, its buffers under torch's names, and ``step``: the live arrays."""
        return self._plans.state

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Adds parameters, with hyperparameters of their own where they differ from the defaults.

        From then on ``step`` takes a list of gradients for each group, or one flat list.

        Args:
            param_group: ``{"params": a list or dict of arrays, hyperparameter: value, ...}``.

        Raises:
            TypeError: An array's dtype or memory layout is wrong, or a hyperparameter has the wrong type.
            ValueError: A hyperparameter is unknown or out of range, or a parameter overlaps another one.
        """
        self._add(param_group)
        self._grouped = True

    def _add(self, param_group: Mapping[str, Any]) -> None:
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f"{self._name}: a group must be a dict with params, got {param_group!r}")
        params = param_group["params"]
        unknown = param_group.keys() - self.defaults.keys() - {"params"}
        if unknown:
            raise ValueError(
                f"{self._name}: unknown hyperparameter {', '.join(sorted(map(repr, unknown)))}; it has {', '.join(self.defaults)}"
            )
        if not isinstance(params, Iterable) or isinstance(params, np.ndarray | str):
            raise TypeError(f"{self._name}: params must be a list or a dict of arrays, got {type(params).__name__}")
        group: dict[str, Any] = {**self.defaults, **param_group}
        if isinstance(params, Mapping):
            group["params"], group["param_names"] = list(params.values()), list(params)
            labels = [f"[{name!r}]" for name in params]
        else:
            group["params"] = list(params)
            labels = [f"[{len(self._labels) + i}]" for i in range(len(group["params"]))]
        groups, labels = [*self.param_groups, group], self._labels + labels
        self._plans = self._plan(groups, labels)
        self.param_groups, self._labels = groups, labels

    def _plan(self, groups: list[dict[str, Any]], labels: list[str]) -> _Plans:
        """What follows from the groups; changes nothing but lists of hyperparameters, which become tuples."""
        for group in groups:
            group.update({name: tuple(group[name]) for name in self.defaults if isinstance(group[name], list)})
        rules = [self._rule(self._name, **{name: group[name] for name in self.defaults}) for group in groups]
        values = [self._values(group) for group in groups]
        if [rule.name for rule in rules] == [rule.name for rule in self._plans.rules]:
            return self._plans._replace(values=values, rules=rules, options=_options(rules, self._plans.plans))

        params = [(param, number) for number, group in enumerate(groups) for param in group["params"]]
        kernels.expect_disjoint(self._name, [param for param, _ in params], labels)
        state = [dict(one) for one in self.state] + [{} for _ in params[len(self.state) :]]
        members: dict[tuple[str, Any], list[int]] = {}
        for i, (param, number) in enumerate(params):
            members.setdefault((rules[number].name, param.dtype), []).append(i)
        plans = []
        for (rule, _), chosen in members.items():
            names = kernels.rules[rule][0]
            counts = []
            for i in chosen:
                begins = names and not state[i].keys() & set(names)  # a rule whose state is new has taken no step
                counts.append(0 if begins else int(state[i].get("step", 0)))
                for name in names:
                    state[i].setdefault(name, _zeros_like(params[i][0]))
            steps = np.array(counts, np.int64)
            for k, i in enumerate(chosen):
                state[i]["step"] = steps[k : k + 1].reshape(())
            follow = sorted({params[i][1] for i in chosen})
            kernel = kernels.Plan(
                rule,
                self._name,
                [params[i][0] for i in chosen],
                [[state[i][name] for i in chosen] for name in names],
                steps,
                [follow.index(params[i][1]) for i in chosen],
                [labels[i] for i in chosen],
            )
            plans.append(_Plan(kernel, chosen, follow))
        return _Plans(values, rules, plans, state, _options(rules, plans))

    def _changed(self) -> bool:
        """Whether somebody has changed a group's hyperparameters since the last step."""
        try:
            return [self._values(group) for group in self.param_groups] != self._plans.values
        except ValueError:  # an array, which does not compare
            return True

    def step(self, grads: Grads) -> StepInfo:
        """Takes one step: updates the parameters and their state in place, in one pass over memory.

        Args:
            grads: The gradients, in the structure that ``params`` had: a list, a dict with the same keys, or for groups a list
                with one of these for each group; a flat list in the order of all parameters will do too.  A gradient has its
                parameter's shape and dtype and is only read; ``None`` leaves the parameter and its state alone.

        Returns:
            What the step did.

        Raises:
            TypeError: A gradient's dtype or memory layout is wrong, or a hyperparameter has the wrong type.
            ValueError: A gradient's shape is wrong, it overlaps what would be written, gradients are missing or too many,
                or a hyperparameter is out of range.  Nothing has been changed then.
        """
        flat = self._flatten(grads)
        now = self._plan(self.param_groups, self._labels) if self._changed() else self._plans
        if now is self._plans and len(now.plans) == 1:
            now.plans[0].kernel.step(flat, now.options[0])
        else:
            work = [
                (plan.kernel, [flat[i] for i in plan.chosen], options)
                for plan, options in zip(now.plans, now.options, strict=True)
            ]
            for kernel, part, _ in work:
                kernel.check(part)
                kernel.expect_apart(flat, self._labels)
            self._plans = now
            for kernel, part, options in work:
                kernel.step(part, options)
        self._count += 1
        return StepInfo(self._count)

    def _flatten(self, grads: Grads) -> list[Array | None]:
        """The gradients in the order of the parameters."""
        if not self._grouped:
            return self._of_group(self.param_groups[0], grads)
        if isinstance(grads, Mapping) or not isinstance(grads, Sequence):
            raise TypeError(
                f"{self._name}: grads must be a list, with one list for each group or flat, got {type(grads).__name__}"
            )
        if len(grads) == len(self.param_groups) and all(isinstance(part, Mapping | list | tuple) for part in grads):
            flat = []
            for group, part in zip(self.param_groups, grads, strict=True):
                flat += self._of_group(group, part)
            return flat
        return self._counted(list(grads), len(self._labels))

    def _of_group(self, group: dict[str, Any], grads: Any) -> list[Array | None]:
        names = group.get("param_names")
        if names is None:
            if not isinstance(grads, list | tuple):
                raise TypeError(f"{self._name}: grads must be a list as params, got {type(grads).__name__}")
            return self._counted(grads if isinstance(grads, list) else list(grads), len(group["params"]))
        if not isinstance(grads, Mapping):
            raise TypeError(f"{self._name}: grads must be a dict as params, got {type(grads).__name__}")
        if grads.keys() != set(names):
            missing, unknown = (
                ", ".join(map(repr, keys)) or "nothing"
                for keys in ([n for n in names if n not in grads], [n for n in grads if n not in names])
            )
            raise ValueError(
                f"{self._name}: grads must have the keys of params; missing: {missing}, unknown: {unknown}"
            )
        return [grads[name] for name in names]

    def _counted(self, grads: list[Array | None], expected: int) -> list[Array | None]:
        if len(grads) != expected:
            raise ValueError(f"{self._name}: grads has {len(grads)} entries, expected {expected}, one a parameter")
        return grads

    def __repr__(self) -> str:
        return (
            f"{self._name}({len(self._labels)} parameters, {', '.join(f'{k}={v!r}' for k, v in self.defaults.items())})"
        )
