"""Writes ``_updates.py``: a typed stateless function for each optimizer's rule, from its class.

    python -m fastopt.functional._generate > python/fastopt/functional/_updates.py

A test compares the file with the output of this module.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from .. import _rules, optim
from .._core import kernels
from ._update import STEP, WANTED, arguments_of

HEAD = '''"""Stateless updates, one per optimizer's rule.  ``_generate.py`` writes this file; do not edit it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

from .. import optim
from .._sparse import SparseRows
from ._update import Outcome, update

__all__ = {names}

Arrays: TypeAlias = Iterable[NDArray[Any]]
OptionalArrays: TypeAlias = Iterable[NDArray[Any] | None]
Grads: TypeAlias = Iterable[NDArray[Any] | SparseRows | None]
'''

FUNCTION = '''

def {name}(
{parameters}
) -> Outcome:
    """{text}
    """
    return update(optim.{optimizer}, locals())
'''

BESIDE_TEXTS = {
    "master_params": 'With ``weights="master"``, the float32 weights of 16-bit parameters, of the same shapes; updated.',
    "compensations": 'With ``weights="kahan"``, the residuals of 16-bit parameters, of the same dtypes; 0 before step 1; updated.',
    "corrections": 'With ``weights="correction"``, the next 8 bits of 16-bit parameters, int8; 0 before step 1; updated.',
    "initial_params": "With ``l2_init``, the weights p₀ towards which it pulls, of the same shapes.",
    "ema_params": "With ``ema_decay`` or ``swa_start``, the averages of the parameters, of the same shapes; updated.",
}
STEP_TYPES = {
    "grad_scale": "float",
    **dict.fromkeys(("clip_norm", "clip_value", "clip_param_norm", "clip_adaptive"), "float | None"),
    **dict.fromkeys(("skip_nonfinite", "zero_grads"), "bool"),
}


def optimizers() -> Iterator[type[optim.Optimizer]]:
    """The optimizers whose rule has a function."""
    for name in optim.__all__:
        one = getattr(optim, name)
        if isinstance(one, type) and issubclass(one, optim.Optimizer) and one.kernels and one.function is not None:
            yield one


def source() -> str:
    """The text of the whole file."""
    functions = {arguments_of(one).name: one for one in optimizers()}
    names = sorted(functions)
    return HEAD.format(names=repr(names)) + "".join(_function(functions[name]) for name in names)


def _function(optimizer: type[optim.Optimizer]) -> str:
    arguments = arguments_of(optimizer)
    made: optim.Optimizer = cast(Any, optimizer)([])
    around = inspect.get_annotations(_rules.Around)
    lines = ["params: Arrays", "grads: Grads"]
    for key, (state, needed) in arguments.buffers.items():
        some = "OptionalArrays" if _shown(optimizer, state) is None else "Arrays"
        lines.append(f"{key}: {some}" if needed else f"{key}: {some} | None = None")
    lines += ["*", "step: int | Sequence[int]"]
    for key, one in arguments.hyperparameters.items():
        default = "" if key == "lr" else f" = {one.default!r}"
        lines.append(f"{arguments.names[key]}: {one.annotation}{default}")
    for key in _rules.AROUND:
        kind = around[key]
        lines.append(f"{key}: {getattr(kind, '__forward_arg__', kind)} = {made.defaults[key]!r}")
    lines += [f"{key}: OptionalArrays | None = None" for key in (*arguments.scales.values(), *WANTED)]
    lines += [f"{key}: {STEP_TYPES[key]} = {default!r}" for key, default in STEP.items()]
    text = "\n".join(f"    {line}".rstrip() for line in _documentation(optimizer).splitlines()).strip()
    return FUNCTION.format(
        name=arguments.name,
        parameters="\n".join(f"    {line}," for line in lines),
        text=text,
        optimizer=optimizer.__name__,
    )


def _documentation(optimizer: type[optim.Optimizer]) -> str:
    """The documentation of the function, from that of the class."""
    arguments, sections = arguments_of(optimizer), _sections(inspect.getdoc(optimizer) or "")
    summary, _, formula = sections["Summary"].partition("\n")
    own = _entries(sections["Args"])
    one_step = f"One step of {summary}" if summary.startswith(optimizer.__name__) else f"One step. {summary}"
    example = [shown for state, needed in arguments.buffers.values() if needed for shown in [_shown(optimizer, state)]]
    call = ", ".join(["[p]", "[g]", *(f"[{shown}]" for shown in example), f"step={optimizer.moves_from}", "lr=0.1"])
    return "\n".join(
        [
            one_step,
            "",
            f"In place; the stateless form of :class:`fastopt.optim.{optimizer.__name__}`.",
            formula.rstrip(),
            "",
            "Args:",
            "    params: Parameters, float32, float64, float16 or bfloat16, any shapes; updated.",
            "    grads: Their gradients, of the same shapes and dtypes; unless that is float64, also float32, float16 or bfloat16.",
            "        A :class:`fastopt.SparseRows` for one that touches few rows.",
            "        ``None`` leaves that parameter and its state alone.",
            *(f"    {key}: {_of_state(optimizer, *one)}" for key, one in arguments.buffers.items()),
            "    step: t, the step that is being taken, from 1: one number, or one for each parameter.",
            *(f"    {arguments.names[key]}: {own[key]}" for key in arguments.hyperparameters),
            *(f"    {key}: See :class:`fastopt.optim.Optimizer`." for key in _rules.AROUND),
            *(
                f'    {key}: With ``moments="8bit"``, the exponents of ``{state}s``: uint8, one for 64 elements; updated.'
                for state, key in arguments.scales.items()
            ),
            *(f"    {key}: {text}" for key, text in BESIDE_TEXTS.items()),
            *(f"    {key}: See :meth:`fastopt.optim.Optimizer.step`." for key in STEP),
            "",
            "Returns:",
            "    The norm of the gradients, if it was needed, and whether the step was skipped.",
            "",
            "Raises:",
            "    TypeError: A dtype, memory layout or type of argument is wrong.",
            "    ValueError: A shape or range is wrong, arrays overlap, or an array would not be used.  Nothing has been changed then.",
            "",
            "Example:",
            "    >>> import numpy as np",
            "    >>> from fastopt import functional as F",
            "    >>> p, g = np.ones((2, 2)), np.full((2, 2), 0.5)",
            f"    >>> outcome = F.{arguments.name}({call})",
            "    >>> bool(np.all(p < 1))",
            "    True",
            "",
            "References:",
            sections["References"].rstrip(),
        ]
    )


def _of_state(optimizer: type[optim.Optimizer], state: str, needed: bool) -> str:
    begins = optimizer.begins.get(state, 0.0)
    what = "the parameter" if begins == "param" else f"``{begins}``" if isinstance(begins, str) else f"{begins:g}"
    numbers = {number for kernel in optimizer.kernels for number in kernels.rules[kernel][1]}
    shape = "float64 arrays without axes; " if state in numbers else ""
    return f"State ``{state}``, {what} before step 1; {shape}updated." + (
        "" if needed else "  Only for the variant that has it."
    )


def _shown(optimizer: type[optim.Optimizer], state: str) -> str | None:
    """The code for a state before the first step of the example; None if its parameter does not have this state."""
    (one,) = cast(Any, optimizer)([np.ones((2, 2))], lr=0.1).state
    array = one.get(state)
    if array is None:
        return None
    if optimizer.begins.get(state) == "param":
        return "p.copy()"
    (value,) = set(array.ravel().tolist())
    if array.ndim == 0:
        return f"np.array({value!r})"
    return f"np.full({array.shape}, {value!r})" if value else f"np.zeros({array.shape})"


def _sections(text: str) -> dict[str, str]:
    """A docstring's sections by their headings; the text before the first one is the summary."""
    parts = re.split(r"^(\w+):\n(?=    )", text, flags=re.MULTILINE)
    return {"Summary": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def _entries(section: str) -> dict[str, str]:
    """The texts of a section of arguments, by argument, with the lines that are indented further."""
    entries = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)
    return {key: text.rstrip() for key, text in zip(entries[1::2], entries[2::2], strict=True)}


if __name__ == "__main__":
    print(source(), end="")
