"""AdamW with fewer bytes, beside the same step in float32 and the floor with the bytes of the format."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ml_dtypes  # registers bfloat16 with NumPy
import numpy as np

import fastopt as fo

from . import peers
from .case import Calls, Race, power
from .data import Array, Data
from .floors import floor
from .peers import Call
from .steps import RULES

SINGLE, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
_OPTIONS = RULES["AdamW"]


@dataclass(frozen=True)
class Format:
    """The formats of parameters, gradients and moments."""

    param: np.dtype[Any] = SINGLE
    grad: np.dtype[Any] = SINGLE
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    as_torch: bool = False  # whether torch's fused step moves the same bytes

    def optimizer(self, params: list[Array]) -> fo.optim.AdamW:
        return fo.optim.AdamW(params, **_OPTIONS, **self.options)

    @property
    def copies(self) -> bool:
        """Whether the parameter is a copy, which a step writes and does not read."""
        return self.options.get("weights") == "master"

    @property
    def bytes(self) -> float:
        """The number of bytes that a step moves per parameter."""
        size = 64
        state = self.optimizer([np.zeros(size, self.param)]).state[0].values()
        of_state: float = sum(array.nbytes for array in state if array.ndim) / size
        return self.grad.itemsize + self.param.itemsize * (1 if self.copies else 2) + 2 * of_state


def _of_16_bits(weights: str, moments: str | None = None, dtype: Any = BFLOAT16, **more: Any) -> Format:
    as_torch = weights in ("nearest", "stochastic") and moments == "bfloat16"
    options = {"weights": weights, "moments": moments, **more}
    return Format(np.dtype(dtype), np.dtype(dtype), options, as_torch)


FLOAT32 = Format()
FORMATS = {
    "moments bfloat16": Format(options={"moments": "bfloat16"}),
    "moments 8bit": Format(options={"moments": "8bit"}),
    "gradients bfloat16": Format(grad=BFLOAT16),
    "bfloat16, stochastic": _of_16_bits("stochastic"),
    "bfloat16, nearest, moments bfloat16": _of_16_bits("nearest", "bfloat16", moment_rounding="nearest"),
    "bfloat16, stochastic, moments bfloat16": _of_16_bits("stochastic", "bfloat16"),
    "bfloat16, stochastic, moments 8bit": _of_16_bits("stochastic", "8bit"),
    "bfloat16, kahan, moments bfloat16": _of_16_bits("kahan", "bfloat16"),
    "bfloat16, correction, moments 8bit": _of_16_bits("correction", "8bit"),
    "bfloat16, master": _of_16_bits("master"),
    "bfloat16, master, moments bfloat16": _of_16_bits("master", "bfloat16"),
    "bfloat16, master, moments 8bit": _of_16_bits("master", "8bit"),
    "float16, master": _of_16_bits("master", dtype=np.float16),
}
QUICK = (
    "moments bfloat16",
    "moments 8bit",
    "bfloat16, stochastic, moments bfloat16",
    "bfloat16, correction, moments 8bit",
    "bfloat16, master, moments 8bit",
)


def adamw(name: str, size: int, data: Data) -> Race:
    """A step of an optimizer object with one tensor; float32 has its own arrays.

    torch's fused step keeps everything in the dtype of the parameters; it takes part where that makes the same number of bytes.
    """
    form = FORMATS[name]

    def make(form: Format) -> tuple[Array, Array, fo.optim.AdamW]:
        param = data.normal(size, scale=0.02, dtype=form.param)
        return param, data.normal(size, scale=1e-3, dtype=form.grad), form.optimizer([param])

    def calls() -> Calls:
        (param, grad, ours), (_, other_grad, other) = make(form), make(FLOAT32)
        found: dict[str, Call] = {"fastopt": partial(ours.step, [grad]), "float32": partial(other.step, [other_grad])}
        if form.as_torch and peers.torch():
            state = [[data.normal(size, scale=scale, dtype=form.param)] for scale in (0.02, 1e-3, 1e-3, 1e-3)]
            state[3][0] *= state[3][0]
            found["torch"] = peers.torch_adamw(*state)
        updates = [array for array in ours.state[0].values() if array.ndim]
        return found | (floor([grad], updates, [param]) if form.copies else floor([grad], [param, *updates], []))

    moved, in_float32 = (round(one.bytes * size) for one in (form, FLOAT32))
    return Race("format", f"{name} {power(size)}", moved, calls, {"float32": in_float32})
