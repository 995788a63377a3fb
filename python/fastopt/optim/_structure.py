"""Structures of arrays: flat lists, and dicts, lists and tuples within each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class Structure:
    """The shape of what holds a group's parameters; gradients come in the same one."""

    def __init__(self, function: str, params: Any, first: int) -> None:
        """``first``: the number of the first parameter, for the labels of a flat list."""
        self.leaves: list[Any] = []
        self.labels: list[str] = []  # for errors: "[0]" or "['layer']['bias']"
        self.names: list[str] = []  # "layer.bias"
        self.flat = not isinstance(params, Mapping) and not any(
            isinstance(one, Mapping | list | tuple) for one in params
        )
        if self.flat:
            self.leaves = list(params)
            self.labels = [f"[{first + i}]" for i in range(len(self.leaves))]
            self.template: Any = None
        else:
            self.template = self._read(function, params, "", "")

    def _read(self, function: str, value: Any, label: str, name: str) -> Any:
        """The template of a value: its containers, with the numbers of leaves."""
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"{function}: params{label} must have keys that are strings, got {key!r}")
            return {key: self._read(function, one, f"{label}[{key!r}]", f"{name}.{key}") for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._read(function, one, f"{label}[{i}]", f"{name}.{i}") for i, one in enumerate(value)]
        self.leaves.append(value)
        self.labels.append(label)
        self.names.append(name.removeprefix("."))
        return len(self.leaves) - 1

    def flatten(self, function: str, grads: Any) -> list[Any]:
        """What stands where the parameters stood; ``None`` may stand for a whole part."""
        if self.flat:
            if not isinstance(grads, list | tuple):
                raise TypeError(f"{function}: grads must be a list as params, got {type(grads).__name__}")
            if len(grads) != len(self.leaves):
                raise ValueError(
                    f"{function}: grads has {len(grads)} entries, expected {len(self.leaves)}, one a parameter"
                )
            return grads if isinstance(grads, list) else list(grads)
        flat: list[Any] = [None] * len(self.leaves)
        self._flatten(function, self.template, grads, "", flat)
        return flat

    def _flatten(self, function: str, template: Any, grads: Any, label: str, flat: list[Any]) -> None:
        if isinstance(template, int):
            flat[template] = grads
            return
        if grads is None and label:
            return
        parts: Iterable[Any]
        if isinstance(template, dict):
            if not isinstance(grads, Mapping):
                raise TypeError(f"{function}: grads{label} must be a dict as params, got {type(grads).__name__}")
            if grads.keys() != template.keys():
                missing, unknown = (
                    ", ".join(map(repr, keys)) or "nothing"
                    for keys in ([k for k in template if k not in grads], [k for k in grads if k not in template])
                )
                raise ValueError(
                    f"{function}: grads{label} must have the keys of params; missing: {missing}, unknown: {unknown}"
                )
            parts = template
        else:
            if not isinstance(grads, list | tuple):
                raise TypeError(f"{function}: grads{label} must be a list as params, got {type(grads).__name__}")
            if len(grads) != len(template):
                raise ValueError(
                    f"{function}: grads{label} has {len(grads)} entries, expected {len(template)}, one a parameter"
                )
            parts = range(len(template))
        for key in parts:
            self._flatten(function, template[key], grads[key], f"{label}[{key!r}]", flat)

    def build(self, leaves: list[Any]) -> Any:
        """The leaves in this structure."""
        if self.flat:
            return list(leaves)

        def fill(template: Any) -> Any:
            if isinstance(template, int):
                return leaves[template]
            if isinstance(template, dict):
                return {key: fill(one) for key, one in template.items()}
            return [fill(one) for one in template]

        return fill(self.template)


class SplitGroups(list[dict[str, Any]]):
    """Groups that follow the order of a structure, in which gradients are going to come."""

    def __init__(self, groups: Iterable[dict[str, Any]], structure: Structure) -> None:
        super().__init__(groups)
        self.structure = structure
