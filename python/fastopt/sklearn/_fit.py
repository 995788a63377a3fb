"""What is put in the place of scikit-learn's work for one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._step import AdamStep, SGDStep, Step, step_of

Array = NDArray[Any]

_LARGEST = 3e38  # of the factor of the L2 penalty, which is a number of float32, too

# The methods of an estimator and of an optimizer whose work a fit takes over.
_OF_ESTIMATORS = ("_backprop", "_forward_pass", "_compute_loss_grad")
_OF_OPTIMIZERS = ("update_params", "_get_updates")


class Fits(threading.local):
    """The fits that this thread is in: by the ids of their estimators, and of the optimizers that are to update next."""

    def __init__(self) -> None:
        self.of: dict[int, Fit] = {}
        self.waiting: dict[int, Fit] = {}  # from a gradient to its update

    def begin(self, fit: Fit) -> None:
        self.of[id(fit.estimator)] = fit

    def end(self, estimator: Any) -> Fit | None:
        """Ends an estimator's fit, and returns it, if there is one."""
        fit = self.of.pop(id(estimator), None)
        if fit is not None:
            self.waiting.pop(id(fit.optimizer), None)
        return fit


class Theirs:
    """The parts of scikit-learn that a fit needs, as they were when it was accelerated."""

    def __init__(self) -> None:
        self.perceptron: Any = import_module("sklearn.neural_network._multilayer_perceptron")
        self.functions: Any = import_module("sklearn.neural_network._base")
        self.optimizers: Any = import_module("sklearn.neural_network._stochastic_optimizers")
        self.base, self.optimizer = self.perceptron.BaseMultilayerPerceptron, self.optimizers.BaseOptimizer
        self.loop, self.rows = _unwrapped(self.base._fit_stochastic), _unwrapped(self.perceptron._safe_indexing)
        self.backprop, self.update_params = _unwrapped(self.base._backprop), _unwrapped(self.optimizer.update_params)
        self.kinds: dict[type, type[Step]] = {
            self.optimizers.AdamOptimizer: AdamStep,
            self.optimizers.SGDOptimizer: SGDStep,
        }
        self.fits = Fits()

    def knows_estimator(self, estimator: Any, backprop: Any) -> bool:
        """Whether the gradient of this estimator is scikit-learn's; ``backprop`` is what has taken the place of its method."""
        kind, own = type(estimator), vars(estimator)
        return (
            kind._backprop is backprop
            and _is_from(self.backprop, self.perceptron)
            and all(_is_from(getattr(kind, name), self.perceptron) for name in _OF_ESTIMATORS[1:])
            and not any(name in own for name in _OF_ESTIMATORS)
        )

    def knows_optimizer(self, optimizer: Any, update_params: Any) -> bool:
        """The same for an optimizer's update."""
        kind, own = type(optimizer), vars(optimizer)
        return (
            kind in self.kinds
            and kind.update_params is update_params
            and _is_from(self.update_params, self.optimizers)
            and _is_from(kind._get_updates, self.optimizers)
            and not any(name in own for name in _OF_OPTIMIZERS)
        )

    def knows_functions(self, hidden: str, last: str, loss: str) -> bool:
        """Whether an estimator's activations and its loss are scikit-learn's."""
        tables = self.perceptron
        functions = [tables.ACTIVATIONS.get(hidden), tables.DERIVATIVES.get(hidden), tables.ACTIVATIONS.get(last)]
        return all(_is_from(one, self.functions) for one in [*functions, self.loss_of(loss, last)])

    def loss_of(self, loss: str, last: str) -> Any:
        return self.perceptron.LOSS_FUNCTIONS.get(
            "binary_log_loss" if (loss, last) == ("log_loss", "logistic") else loss
        )


def _is_from(function: Callable[..., Any] | None, module: Any) -> bool:
    """Whether a function was defined in a module, and is not somebody else's in its place."""
    return getattr(function, "__globals__", None) is vars(module)


def _unwrapped(function: Any) -> Any:
    """A function of scikit-learn's, where ours may be: that of an earlier acceleration, which somebody has put back."""
    while getattr(function, "__globals__", None) is globals():
        function = function.__wrapped__
    return function


def fit_stochastic(theirs: Theirs, is_on: Callable[[], bool], running: Callable[[], Any]) -> Callable[..., Any]:
    """scikit-learn's loop over epochs and batches, in which this estimator's work for a batch is a :class:`Fit`'s."""

    @wraps(theirs.loop)
    def fit(estimator: Any, X: Any, y: Array, *others: Any) -> Any:
        outer = theirs.fits.end(estimator)  # a fit of the same estimator, which has called this one
        try:
            if not is_on():
                return theirs.loop(estimator, X, y, *others)
            with running() as (backprop, update_params):
                if not theirs.knows_estimator(estimator, backprop):
                    return theirs.loop(estimator, X, y, *others)
                try:
                    theirs.fits.begin(Fit(theirs, estimator, (backprop, update_params)))
                    return theirs.loop(estimator, X, y, *others)
                finally:
                    theirs.fits.end(estimator)
        finally:
            if outer is not None:
                theirs.fits.begin(outer)

    return fit


def backprop(theirs: Theirs) -> Callable[..., Any]:
    """The gradient of an estimator: that of its fit, where it is in one."""

    @wraps(theirs.backprop)
    def backprop(estimator: Any, *arguments: Any) -> Any:
        one = theirs.fits.of.get(id(estimator))
        if one is None:
            return theirs.backprop(estimator, *arguments)
        return one.backprop(*arguments)

    return backprop


def update_params(theirs: Theirs) -> Callable[..., Any]:
    """The update of an optimizer: that of its estimator's fit, where it is in one."""

    @wraps(theirs.update_params)
    def update_params(optimizer: Any, params: list[Array], grads: list[Array]) -> None:
        one = theirs.fits.waiting.pop(id(optimizer), None)
        if one is None:
            theirs.update_params(optimizer, params, grads)
        else:
            one.update_params(params, grads)

    return update_params


def rows_of(original: Callable[..., Any]) -> Callable[..., Any]:
    """The rows of a batch.  The checks of scikit-learn's function take longer than a small network's products."""

    @wraps(original)
    def rows(X: Any, indices: Any, **options: Any) -> Any:
        if type(X) is np.ndarray and type(indices) is np.ndarray and indices.dtype == np.intp and not options:
            return X.take(indices, axis=0)
        return original(X, indices, **options)

    return rows


class Fit:
    """The work of one fit of one estimator: what its ``_backprop`` and its optimizer's ``update_params`` do."""

    def __init__(self, theirs: Theirs, estimator: Any, in_their_place: tuple[Callable[..., Any], ...]) -> None:
        self.theirs, self.estimator = theirs, estimator
        self.in_their_place = in_their_place  # of an estimator's _backprop, and of an optimizer's update_params
        self.optimizer: Any = None  # scikit-learn's, once it is there: with the first batch
        self.step: Step | None = None  # None if this fit is left to scikit-learn
        self.is_known = False  # whether the optimizer's update is scikit-learn's, in this batch
        self.decay = 0.0  # of the L2 penalty that a gradient lacks
        self.functions: Any = None  # the names of activations and loss that are known
        self.shapes: list[tuple[int, ...]] = []
        self.buffers: dict[int, tuple[list[Array], list[Array], list[Array]]] = {}

    def begin(self, X: Any, coef_grads: list[Array], intercept_grads: list[Array]) -> None:
        """Finds the step for the first batch, or for the first one with another optimizer, if fastopt takes the parameters."""
        estimator, theirs = self.estimator, self.theirs
        optimizer = self.optimizer = estimator._optimizer
        self.step = None
        coefs, intercepts = estimator.coefs_, estimator.intercepts_
        params = [*coefs, *intercepts]
        if (
            theirs.knows_optimizer(optimizer, self.in_their_place[1])
            and len(coef_grads) == len(intercept_grads) == len(coefs) == estimator.n_layers_ - 1
            and all(param.dtype == X.dtype for param in params)
        ):
            self.step = step_of(theirs.kinds, optimizer, params)
        if self.step is not None:
            for grads, those in ((coef_grads, coefs), (intercept_grads, intercepts)):
                for i, param in enumerate(those):
                    if grads[i].shape != param.shape or grads[i].dtype != param.dtype:
                        grads[i] = np.empty_like(param)

    def update_params(self, params: list[Array], grads: list[Array]) -> None:
        """Takes the optimizer's step, with the L2 penalty that ``backprop`` has left to it."""
        optimizer, step = self.optimizer, self.step if self.is_known else None
        if step is not None and not step.fits(optimizer, params):  # a callback has changed something, for example
            step = step_of(self.theirs.kinds, optimizer, params)
            self.step = step or self.step
        if step is not None:
            step.take(optimizer, grads, self.decay)
            return
        if self.decay:
            for grad, param in zip(grads, params[: len(params) // 2], strict=False):
                grad += self.decay * param
        self.theirs.update_params(optimizer, params, grads)

    def backprop(self, X: Any, y: Array, *others: Any) -> tuple[Any, list[Array], list[Array]]:
        """The loss of a batch, and its gradients without the L2 penalty, which are written to the arrays of the last two arguments.

        Before 1.7 scikit-learn had no sample weights, which are the first of ``others`` since.
        """
        *weights, _, _, coef_grads, intercept_grads = others
        sample_weight = weights[0] if weights else None
        estimator = self.estimator
        if self.optimizer is not estimator._optimizer:
            self.begin(X, coef_grads, intercept_grads)
        self.is_known = self.step is not None and self.theirs.knows_optimizer(self.optimizer, self.in_their_place[1])
        if self.is_known:
            self.theirs.fits.waiting[id(self.optimizer)] = self
        total = len(y) if sample_weight is None else sample_weight.sum()
        if self.step is None or not self.takes(total):
            self.decay = 0.0
            own: tuple[Any, list[Array], list[Array]] = self.theirs.backprop(estimator, X, y, *others)
            return own
        coefs, last = estimator.coefs_, len(coef_grads) - 1
        outputs, deltas, masks = self.buffers_for(len(y))

        self.forward(X, outputs)
        if sample_weight is None:
            loss = self.loss(y, outputs[last])
        else:
            loss = self.weighted_loss(y, outputs[last], sample_weight)
        self.decay = float(estimator.alpha / total)
        if estimator.alpha:
            loss += 0.5 * self.decay * sum(np.vdot(coef, coef) for coef in coefs)

        # The gradient of the mean loss at the last product's result; each output's memory is free once its gradient is known.
        delta = np.subtract(outputs[last], y, out=outputs[last])
        if sample_weight is None:
            np.divide(delta, total, out=delta)
        else:
            np.multiply(delta, (sample_weight / total).reshape(-1, 1), out=delta)
        derivative = _DERIVATIVES[estimator.activation]
        for i in range(last, -1, -1):
            _product((outputs[i - 1] if i else X).T, delta, coef_grads[i])
            np.add.reduce(delta, axis=0, out=intercept_grads[i])
            if i:
                below = np.matmul(delta, coefs[i].T, out=deltas[i - 1])
                derivative(outputs[i - 1], below, masks[i - 1])
                delta = below
        return loss, coef_grads, intercept_grads

    def takes(self, total: Any) -> bool:
        """Whether a batch is one of those for which all this is right; ``total`` is the sum of its weights."""
        estimator = self.estimator
        if not (self.is_known and self.theirs.knows_estimator(estimator, self.in_their_place[0])):
            return False  # somebody has put something in their place during the fit, and must see whole gradients
        functions = estimator.activation, estimator.out_activation_, estimator.loss
        if functions != self.functions:
            if not self.theirs.knows_functions(*functions):
                return False
            self.functions = functions
        shapes = [coef.shape for coef in estimator.coefs_]
        if shapes != self.shapes:
            self.shapes, self.buffers = shapes, {}
        alpha = estimator.alpha
        return bool(total > 0 and 0 <= alpha < total * _LARGEST)

    def buffers_for(self, rows: int) -> tuple[list[Array], list[Array], list[Array]]:
        """The outputs of all layers, the gradients at the results of all products but the last, and masks, for ``rows`` samples."""
        found = self.buffers.get(rows)
        if found is None:
            coefs = self.estimator.coefs_
            hidden = [(rows, coef.shape[1]) for coef in coefs[:-1]]
            outputs = [np.empty((rows, coef.shape[1]), coef.dtype) for coef in coefs]
            deltas = [np.empty(shape, coefs[0].dtype) for shape in hidden]
            found = self.buffers[rows] = outputs, deltas, [np.empty(shape, bool) for shape in hidden]
        return found

    def forward(self, X: Any, outputs: list[Array]) -> None:
        """Writes the outputs of all layers."""
        estimator, last = self.estimator, len(outputs) - 1
        activations = self.theirs.perceptron.ACTIVATIONS
        hidden = activations[estimator.activation]
        for i, (coef, intercept, z) in enumerate(zip(estimator.coefs_, estimator.intercepts_, outputs, strict=True)):
            _product(outputs[i - 1] if i else X, coef, z)
            np.add(z, intercept, out=z)
            if i < last:
                hidden(z)
        if estimator.out_activation_ == "softmax":
            _softmax(outputs[last])
        else:
            activations[estimator.out_activation_](outputs[last])

    def loss(self, y: Array, output: Array) -> Any:
        """The mean loss of the samples."""
        estimator = self.estimator
        kind = estimator.loss, estimator.out_activation_
        if kind == ("log_loss", "softmax") and y.dtype == bool:
            return _log_loss(output[y], len(y))
        if kind == ("log_loss", "logistic") and y.dtype == bool:
            return _log_loss(np.where(y, output, 1 - output), len(y))
        return self.weighted_loss(y, output)

    def weighted_loss(self, y: Array, output: Array, *sample_weight: Array) -> Any:
        """The mean loss, by scikit-learn's own function."""
        estimator = self.estimator
        return self.theirs.loss_of(estimator.loss, estimator.out_activation_)(y, output, *sample_weight)


# A batch's arithmetic, in place


def _product(a: Any, b: Array, out: Array) -> None:
    """out ← a b, where ``a`` may be sparse."""
    if isinstance(a, np.ndarray):
        np.matmul(a, b, out=out)
    else:
        out[...] = a @ b


def _softmax(z: Array) -> None:
    """z ← softmax(z) in each row."""
    np.subtract(z, np.maximum.reduce(z, axis=1, keepdims=True), out=z)
    np.exp(z, out=z)
    np.divide(z, np.add.reduce(z, axis=1, keepdims=True), out=z)


def _log_loss(chosen: Array, samples: int) -> Any:
    """−Σ log(chosen) / samples, with probabilities kept from 0 and 1 as scikit-learn does; ``chosen`` is overwritten."""
    eps = np.finfo(chosen.dtype).eps
    np.minimum(np.maximum(chosen, eps, out=chosen), 1 - eps, out=chosen)
    return -np.add.reduce(np.log(chosen, out=chosen), axis=None) / samples


# delta ← delta · f'(z), where z = f(…) is not needed any more.


def _identity_derivative(z: Array, delta: Array, mask: Array) -> None:
    pass


def _relu_derivative(z: Array, delta: Array, mask: Array) -> None:
    np.multiply(delta, np.not_equal(z, 0, out=mask), out=delta)


def _tanh_derivative(z: Array, delta: Array, mask: Array) -> None:
    np.subtract(1, np.multiply(z, z, out=z), out=z)
    np.multiply(delta, z, out=delta)


def _logistic_derivative(z: Array, delta: Array, mask: Array) -> None:
    np.multiply(delta, z, out=delta)
    np.multiply(delta, np.subtract(1, z, out=z), out=delta)


_DERIVATIVES = {
    "identity": _identity_derivative,
    "relu": _relu_derivative,
    "tanh": _tanh_derivative,
    "logistic": _logistic_derivative,
}
