"""The optimizer: groups of parameters, their hyperparameters, and the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .._check import not_an_array
from .._commit import at_once
from .._core import kernels
from .._rules import AROUND
from .._words import closest, unknown_hyperparameter, unknown_option
from .accumulate import Accumulator, weight_of
from .averages import Averaged
from .parameters import Grads, Ordered, Params, flatten, forms_of
from .plan import begin, step_options


class StepInfo(NamedTuple):
    """The outcome of a step."""

    step: int
    """How many steps the optimizer has taken."""
    grad_norm: float | None = None
    """The norm of all gradients, unscaled and not yet clipped; ``None`` unless ``clip_norm`` or ``skip_nonfinite`` needed it."""
    skipped: bool = False
    """Whether the step was not taken, because a gradient was not finite."""


class Optimizer(Averaged):
    """A list of parameters that one rule updates in place.

    A subclass is a rule: its constructor passes the hyperparameters' defaults to this one, and its ``_rule`` turns a group's
    hyperparameters into the numbers that the kernel takes.

    ``param_groups`` is a list of dicts as in torch.  Between steps, hyperparameters may be changed, parameters replaced (a new
    array begins without state), and groups added and removed: the next step checks and follows.  Every rule has these
    hyperparameters, beside its own:

    - ``weight_decay``: λ, added to the gradient as λp (L2), or with ``decoupled_weight_decay`` p ← (1 − lr·λ) p before the
      update, or with ``fixed_decay`` too p ← (1 − λ) p.  ``decoupled_weight_decay=None`` is the rule's own way, if it has one.
    - ``l1``: added to the gradient as l1·sign(p); with ``proximal_l1`` ``|p| ← max(|p| − r·l1, 0)`` after the update, which makes
      weights exactly zero.  r is the rate at which the rule takes the element's gradient: with the same g in all steps, this one
      is −r·g.  For SGD it is lr, with momentum lr·(1 + μ + μ² + …), for Adam lr / (√v̂ + ε).  So the optimizer ends at the
      minimum of loss + ``l1·|p|``, whatever the rule; with ``weight_decay`` (L2) it is the elastic net.  An element whose gradient
      has always been zero becomes zero at once under rules that divide by gradients.  Lion, Rprop and Muon have no such rate,
      which is an error.  ``proximal_l1="lr"``: r = lr with every rule; with momentum or Adam this is another problem than the
      penalty says.
    - ``l2_init``: like weight decay, but towards p₀, the weights before the first step in which it is not 0 (L2-SP): added as
      l2_init·(p − p₀), or decoupled p ← p + lr·l2_init·(p₀ − p) after the update.
    - ``noise``: the standard deviation of normal noise that is added to the clipped gradient; ``temperature`` T adds that of
      Langevin dynamics, √(2T/lr), which samples at that temperature with plain SGD.  The numbers depend on ``seed``, the
      parameter's number, its count of steps and the position only.
    - ``ema_decay``: d of the weights' moving average a ← d a + (1−d) p, in ``ema_params``; with ``ema_warmup`` min(d,
      (1+t)/(10+t)). It begins with the weights before the parameter's first step with it. ``swa_start`` and ``swa_freq``: the
      plain average of the weights after step swa_start and every swa_freq-th one from there.
    - ``maximize``: the gradient is negated before anything is added to it.
    - ``moments``: the format of means of gradients and of their squares: ``None`` for the one they are computed in,
      ``"bfloat16"``, or ``"8bit"`` in blocks of 64.  ``moment_rounding``: ``"stochastic"``, or ``"nearest"``, which needs
      bfloat16.
    - ``weights``: for 16-bit parameters, the treatment of the bits beyond 16.  ``"stochastic"`` and ``"nearest"`` round them
      off; ``"kahan"`` keeps 16 more, ``"correction"`` 8 more (bfloat16 only), and ``"master"`` a float32 weight of which the
      parameter is a copy, from its first step on.

    Parameters may be float32, float64, float16 or ml_dtypes' bfloat16.  Steps of 16-bit parameters are computed in float32, and
    their averages are float32.  Gradients of these and of float32 parameters may be float32, float16 or bfloat16.

    Several threads may call one optimizer: they take turns.  A step is taken as a whole or not at all; an interrupt (Ctrl-C)
    comes before or after it.  Optimizers can be pickled and deep-copied, with their parameters.

    References:
        Elastic net: Zou & Hastie 2005.  L2-SP: Li, Grandvalet & Davoine 2018, arXiv:1802.01483.  Noise: Neelakantan et al.
        2015, arXiv:1511.06807; Welling & Teh 2011.  Averages: Polyak & Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407.
        Proximal L1 in a rule's metric: Duchi, Hazan & Singer 2011, JMLR 12; Yun, Lozano & Yang 2021, "Adaptive proximal gradient
        methods for structured neural networks", NeurIPS 34.
    """

    def __init__(self, params: Params, around: Mapping[str, Any], **defaults: Any) -> None:
        self._name = name = type(self).__name__
        for key in around:
            if key not in AROUND:
                raise TypeError(unknown_hyperparameter(name, key, (*defaults, *AROUND)))
        self.defaults = {**defaults, **AROUND, **self.around, **around}
        self.param_groups = []
        self._hyperparameters = (*defaults, *AROUND)  # from here on, attributes of these names are errors
        self._groups, self._records, self._labels, self._rules = [], [], [], []
        self._changed, self._added = [False], False
        self._fresh = []
        self._seen = []
        self._shared, self._simple, self._viewed = [False], [None], ([], ())
        self._count = np.zeros((), np.int64)
        self._swapped = np.zeros((), np.bool_)  # whether the parameters' arrays hold the averages
        self._accumulated = None
        self._extents = None
        self._values = itemgetter(*self._hyperparameters)
        self._turn = kernels.Turn(name)
        self._plan = self._make_plan(name, [], self._count)

        if not isinstance(params, Iterable) or isinstance(params, str | bytes):
            raise TypeError(f"{name}: params must be a list, a dict or groups of arrays, got {not_an_array(params)}")
        one = isinstance(params, Mapping | np.ndarray)
        groups: list[Any] = [params] if one else list(params)
        self._grouped = bool(groups) and all(isinstance(group, Mapping) and "params" in group for group in groups)
        for group in groups if self._grouped else [{"params": params if one else groups}]:
            new = self._new_group(group)
            self._groups.append(new)
            self.param_groups.append(new.group)
        self._adopt(self._planned())

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        known, own = self.__dict__.get("_hyperparameters", ()), getattr(type(self), name, None)
        if isinstance(own, property) and own.fset is None:
            raise AttributeError(
                f"{self._name}: {name} cannot be set; its arrays and entries can, and load_state_dict takes another state"
            )
        free = name in vars(self) or own is not None
        meant = name if name in known else "" if free else closest(name, known)
        if meant:
            raise TypeError(
                f"{self._name}: {name} is not an attribute of an optimizer; hyperparameters belong to its groups: "
                f"opt.param_groups[0][{meant!r}] = {value!r}"
            )
        super().__setattr__(name, value)

    # Groups

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Adds a group of parameters, with hyperparameters that differ from the defaults.

        From then on ``step`` takes a list of gradients for each group, or one flat list, or one dict if all groups are dicts.

        Args:
            param_group: ``{"params": a list or dict of arrays, hyperparameter: value, ...}``.

        Raises:
            TypeError: An array's dtype or memory layout is wrong, or a hyperparameter has the wrong type.
            ValueError: A hyperparameter is unknown or out of range, or a parameter overlaps another one.
        """
        with self._turn:
            self._expect_unswapped()
            if self._accumulated is not None and self._accumulated.micro_batches:
                raise ValueError(
                    f"{self._name}: accumulated gradients lack those of a new group; step() or discard_accumulated() first"
                )
            if not self._added or len(self.param_groups) != len(self._groups):
                self._follow()
            first = len(self._labels)
            new = self._new_group(param_group)
            rule = self._rule_for(new.group)
            labels = new.structure.labels(first)
            kernels.expect_disjoint(self._name, new.structure.leaves, labels)
            records = [
                self._new_record(param, label) for param, label in zip(new.structure.leaves, labels, strict=True)
            ]
            members, states, fresh = self._members(records, labels, [0] * len(records), [rule], [new.group])
            self._make_plan(self._name, members)
            for record, state, begun in zip(records, states, fresh, strict=True):
                dict.update(record.state, state)
                record.seen, record.forms, record.fresh = state, forms_of(state), begun
            update = {
                "_added": True,
                "_grouped": True,
                "_extents": self._extents_with(records, labels),
                "_labels": self._labels + labels,
                "_records": self._records + records,
                "_rules": [*self._rules, rule],
                "_groups": [*self._groups, new],
            }
            at_once(
                map(list.__setitem__, [self._simple], [0], [None]),
                map(list.__setitem__, [self._changed], [0], [True]),
                map(dict.update, [vars(self)], [update]),
                map(list.append, [self.param_groups], [new.group]),
            )

    # The step

    def step(
        self,
        grads: Grads | None = None,
        *,
        grad_scale: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clip_param_norm: float | None = None,
        clip_adaptive: float | None = None,
        skip_nonfinite: bool = False,
        zero_grads: bool = False,
        **unknown: NoReturn,
    ) -> StepInfo:
        """Takes one step: updates the parameters and their state in place, in one pass over memory.

        The gradient is divided by ``grad_scale``, then clipped, then negated for ``maximize``; then noise, L2 and L1 are added;
        then the rule is applied.

        Args:
            grads: The gradients, in the structure that ``params`` had: a list (a generator or ``layer.grads.values()`` too), a
                dict with the same keys, or for groups a list with one of these for each group, or always one flat list in the
                order of all parameters.  A gradient has its parameter's shape, in any memory layout, and is only read; its dtype is the
                parameter's; unless that is float64, it may also be float32, float16 or bfloat16.  A :class:`fastopt.SparseRows`
                touches few rows only.  ``None`` leaves the parameter and its state alone, or those of a whole group or part of the
                structure.  Without ``grads`` it is the mean of the gradients that ``accumulate`` has added; with them, these stay
                for a later step.
            grad_scale: The factor by which the loss was multiplied, above 0.
            clip_norm: Largest norm of all gradients together: they are multiplied by min(1, clip_norm / (norm + 1e-6)).
                ``math.inf`` clips nothing, and ``grad_norm`` is there.
            clip_value: Largest absolute value of an element.
            clip_param_norm: Largest norm of each gradient by itself.
            clip_adaptive: Largest norm of each unit of a gradient, relative to that of the unit's weights (or 1e-3, if that is
                larger): a row of a matrix, a filter (the first axis counts units), or a whole vector.
            skip_nonfinite: Take no step, and count none, where a gradient has an infinity or NaN.
            zero_grads: Set the gradients to zero afterwards, also when the step was skipped.
            unknown: There are no other options; the error says which one was probably meant.

        Returns:
            The outcome of the step.

        Raises:
            TypeError: A gradient's dtype is wrong, or an option or hyperparameter has the wrong type.
            ValueError: A gradient's shape is wrong, it overlaps an array that would be written, gradients are missing or too
                many, or an option or hyperparameter is out of range or unknown.  Nothing has been changed then.
            RuntimeError: A signal handler or an array's own code called the optimizer in the middle of one of its calls.

        References:
            Clipping: Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063; Brock et al. 2021, arXiv:2102.06171, eq. 3.
        """
        if unknown:
            raise unknown_option(self._name, Optimizer.step, unknown)
        plain = type(grad_scale) is float and grad_scale == 1.0 and skip_nonfinite is zero_grads is False
        if plain and clip_norm is clip_value is clip_param_norm is clip_adaptive is None:
            options = None
        else:
            options = step_options(
                self._name,
                grad_scale,
                clip_norm,
                clip_value,
                clip_param_norm,
                clip_adaptive,
                skip_nonfinite,
                zero_grads,
            )
        if type(grads) is list and (simple := self._simple[0]) is not None:
            outcome = simple.step_if_current(self._turn, self._simple, self.param_groups, grads, options)
            if outcome is not None:
                return StepInfo(*outcome)
        with self._turn:
            return self._take(grads, options)

    def _take(self, grads: Grads | None, options: tuple[float, ...] | None) -> StepInfo:
        """Takes a step; the caller holds the lock."""
        self._expect_ready()
        sums = None
        if grads is None:
            sums = self._accumulated
            if sums is None or not sums.micro_batches:
                raise ValueError(f"{self._name}: grads is missing, and accumulate has added none")
            scale, *rest = options or (1.0, -1.0, -1.0, -1.0, -1.0, 0.0)
            grads, options = sums.gathered(), (scale * sums.total, *rest[:5], 1.0)
        flat = self._ready(grads, options, gathered=sums is not None)
        if self._fresh:
            if not self._plan.unmoved():
                self._renew(flat, options)
            self._begin(flat)
        emptied = None if sums is None else sums.plan
        outcome = self._plan.step(flat, options, emptied)
        if outcome is None:  # an array has changed since it was checked
            self._renew(flat, options)
            outcome = self._plan.step(flat, options, emptied)
            if outcome is None:
                raise ValueError(f"{self._name}: another thread is changing a parameter or an array of its state")
        if self._fresh:
            self._fresh = [i for i in self._fresh if self._records[i].is_fresh()]
        flat_list = self._groups and all(one.structure.flat and one.structure.whole is None for one in self._groups)
        plain = flat_list and not self._fresh and type(self)._take is Optimizer._take
        self._simple[0] = self._plan if plain and isinstance(self._plan, kernels.Plan) else None
        return StepInfo(*outcome)

    def _ready(self, grads: Any, options: tuple[float, ...] | None = None, gathered: bool = False) -> list[Any]:
        """The gradients in the order of the parameters; puts a plan for them into use.  Changes nothing if they are wrong."""
        if self._plan.current(self.param_groups) or (self._seen and self._revalued()):
            return grads if gathered else flatten(self._name, grads, self._groups, self._grouped)
        new = self._planned()
        grouped = self._grouped or len(new.groups) > 1
        flat: list[Any] = grads if gathered else flatten(self._name, grads, new.groups, grouped)
        if new.states is not None:
            new.plan.check(flat, options)
        self._adopt(new)
        return flat

    def _expect_ready(self) -> None:
        """Raises if the parameters' arrays do not hold the weights that a step updates."""
        self._expect_unswapped()

    def _renew(self, flat: list[Any], options: tuple[float, ...] | None) -> None:
        """Makes a new plan after arrays have changed; changes nothing if the gradients do not fit."""
        new = self._planned(anew=True)
        new.plan.check(flat, options)
        self._adopt(new)

    def _begin(self, flat: list[Any]) -> None:
        """Sets the fresh entries (averages, master weights, initial weights) of parameters that have a gradient to the parameters."""
        for i in self._fresh:
            if flat[i] is not None:
                begin(self._records[i])

    def flatten(self, grads: Grads) -> list[Any]:
        """Gradients as one list, in the order of the parameters in ``param_groups``.

        Args:
            grads: As for ``step``.

        Returns:
            The list, with ``None`` where there is no gradient.  ``step`` takes it.  (A list that you put together yourself is read
            in the order in which the parameters were given, from which the groups of ``no_decay`` differ.)

        Raises:
            TypeError: The structure is not that of the parameters.
            ValueError: Gradients are missing or too many.
        """
        with self._turn:
            return Ordered(
                flatten(self._name, grads, self._looked_at()[0], self._grouped or len(self.param_groups) > 1)
            )

    def accumulate(self, grads: Grads, weight: float | None = None) -> None:
        """Adds the gradients of a micro-batch; the next ``step()`` without gradients takes the mean of all that were added.

        .. code-block:: text

            g = (g₁ + … + gₙ)/n, or with weights g = (w₁g₁ + … + wₙgₙ)/(w₁ + … + wₙ)

        With the gradients of each micro-batch's mean loss, and its number of examples (or tokens) as its weight, the step is
        that of the whole batch, however unequal its parts are.

        Args:
            grads: As for ``step``; ``None`` adds nothing to that parameter.
            weight: The weight of this micro-batch, 0 or in [2⁻⁵³, 2⁵³]; one with weight 0 is left out, whatever its gradients
                are.  All micro-batches of a step have one, or none has.

        Raises:
            TypeError: A gradient's dtype is wrong.
            ValueError: A gradient's shape is wrong, gradients are missing or too many, the weight is out of range, or only some
                micro-batches have one.  Nothing has been added then.

        Example:
            >>> import numpy as np, fastopt as fo
            >>> w = np.ones(2)
            >>> opt = fo.optim.SGD([w], lr=0.5)
            >>> opt.accumulate([np.array([1.0, 0.0])], weight=3)
            >>> opt.accumulate([np.array([1.0, 1.0])], weight=1)
            >>> opt.step(clip_norm=10.0).step
            1
            >>> w
            array([0.5  , 0.875])
        """
        with self._turn:
            self._expect_ready()
            weight = None if weight is None else weight_of(self._name, weight)
            sums = self._accumulated
            if sums is not None:
                sums.expect_alike(weight)
            flat = self._ready(grads)
            if weight == 0:
                self._plan.check(flat)
                return
            params = [record.param for record in self._records]
            if (
                sums is None
                or not all(a is b for a, b in zip(sums.params, params, strict=False))
                or len(sums.params) != len(params)
            ):
                sums = Accumulator(self._name, params, self._labels)
                sums.add(flat, weight)
                self._accumulated = sums
            else:
                sums.add(flat, weight)

    def discard_accumulated(self) -> None:
        """Drops the gradients that ``accumulate`` has added since the last step; does nothing if there are none.

        Example:
            >>> import numpy as np, fastopt as fo
            >>> w = np.ones(2)
            >>> opt = fo.optim.SGD([w], lr=0.5)
            >>> opt.accumulate([np.array([1.0, np.inf])])
            >>> opt.discard_accumulated()
            >>> opt.accumulate([np.array([1.0, 1.0])])
            >>> opt.step().step, w
            (1, array([0.5, 0.5]))
        """
        with self._turn:
            self._accumulated = None

    # State

    @property
    def state(self) -> tuple[dict[str, Any], ...]:
        """The state of each parameter, numbered over all groups: its live arrays under torch's names, and ``step``.

        An entry may be replaced, ``opt.state[0]["momentum_buffer"] = zeros``: the next step checks it and continues with it.
        """
        self._shared[0] = True
        if self._viewed[0] is not self._records:
            self._viewed = self._records, tuple(record.state for record in self._records)
        return self._viewed[1]

    def __repr__(self) -> str:
        groups = [group for group in self.param_groups if isinstance(group, dict)] or [self.defaults]
        usual = {**AROUND, **self.around}
        of = f" in {len(groups)} groups" if len(groups) > 1 else ""
        shown = [f"{len(self._labels)} parameters{of}"]
        for key in self.defaults:
            values = [group.get(key) for group in groups]
            if key in AROUND and all(map(partial(_alike, usual[key]), values)):
                continue
            one = all(map(partial(_alike, values[0]), values))
            shown.append(f"{key}={values[0]!r}" if one else f"{key}=[{', '.join(map(repr, values))}]")
        return f"{self._name}({', '.join(shown)})"


def own(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A rule's hyperparameters from the ``locals()`` of its constructor, whose signature is the only list of them."""
    return {key: value for key, value in arguments.items() if key not in ("self", "__class__", "params", "around")}


def _alike(a: Any, b: Any) -> bool:
    """Whether two hyperparameters of any type have the same repr."""
    return a is b or repr(a) == repr(b)
