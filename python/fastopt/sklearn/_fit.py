"""What is put in the place of scikit-learn's work for one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._step import Step, step_of

Array = NDArray[Any]


def fit_stochastic(theirs: Any) -> Callable[..., Any]:
    """scikit-learn's loop over epochs and batches, in which this estimator's work for a batch is a :class:`Fit`'s."""
    base = theirs.BaseMultilayerPerceptron
    loop = base._fit_stochastic
    ours = {name: getattr(base, name) for name in ("_backprop", "_forward_pass", "_compute_loss_grad")}

    def fit(estimator: Any, X: Any, y: Array, *others: Any) -> Any:
        if any(getattr(type(estimator), name) is not method for name, method in ours.items()):
            return loop(estimator, X, y, *others)  # a subclass with another gradient
        one = Fit(theirs, estimator)
        try:
            return loop(estimator, X, y, *others)
        finally:
            one.end()

    return fit


def rows_of(original: Callable[..., Any]) -> Callable[..., Any]:
    """The rows of a batch.  The checks of scikit-learn's function take longer than a small network's products."""

    def rows(X: Any, indices: Any, **options: Any) -> Any:
        if type(X) is np.ndarray and type(indices) is np.ndarray and indices.dtype == np.intp and not options:
            return X.take(indices, axis=0)
        return original(X, indices, **options)

    return rows


class Fit:
    """The work of one fit of one estimator: it takes the place of its ``_backprop``, and of its optimizer's ``update_params``.

    Both are attributes of the two objects while the fit lasts; nothing stays in them when it has ended.
    """

    def __init__(self, theirs: Any, estimator: Any) -> None:
        self.theirs, self.estimator = theirs, estimator
        self.optimizer: Any = None  # scikit-learn's, once it is there: with the first batch
        self.step: Step
        self.buffers: dict[int, tuple[list[Array], list[Array], list[Array]]] = {}
        estimator._backprop = self.first

    def end(self) -> None:
        """Takes this away from the two objects, and brings the optimizer's attributes up to date."""
        vars(self.estimator).pop("_backprop", None)
        if self.optimizer is not None:
            vars(self.optimizer).pop("update_params", None)
            self.step.publish(self.optimizer)

    def first(self, X: Any, y: Array, *others: Any) -> Any:
        """``_backprop`` of the first batch: leaves the fit to scikit-learn if fastopt does not take the parameters."""
        estimator = self.estimator
        del estimator._backprop
        params = estimator.coefs_ + estimator.intercepts_
        if all(param.dtype == X.dtype for param in params):
            step = step_of(self.theirs, estimator._optimizer, params)
            if step is not None:
                self.optimizer, self.step = estimator._optimizer, step
                self.optimizer.update_params = self.update_params
                estimator._backprop = self.backprop
        return estimator._backprop(X, y, *others)

    def update_params(self, params: list[Array], grads: list[Array]) -> None:
        """Takes the optimizer's step, with the L2 penalty that ``backprop`` has left to it."""
        self.step.take(self.optimizer, grads, self.decay)

    def backprop(self, X: Any, y: Array, *others: Any) -> tuple[Any, list[Array], list[Array]]:
        """The loss of a batch, and its gradients without the L2 penalty, which are written to the arrays of the last two arguments.

        Before 1.7 scikit-learn had no sample weights, which are the first of ``others`` since.
        """
        *weights, _, _, coef_grads, intercept_grads = others
        sample_weight = weights[0] if weights else None
        estimator = self.estimator
        coefs, last = estimator.coefs_, len(coef_grads) - 1
        outputs, deltas, masks = self.buffers_for(len(y))

        self.forward(X, outputs)
        if sample_weight is None:
            total, loss = len(y), self.loss(y, outputs[last])
        else:
            total, loss = sample_weight.sum(), self.weighted_loss(y, outputs[last], sample_weight)
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
        hidden = self.theirs.ACTIVATIONS[estimator.activation]
        for i, (coef, intercept, z) in enumerate(zip(estimator.coefs_, estimator.intercepts_, outputs, strict=True)):
            _product(outputs[i - 1] if i else X, coef, z)
            np.add(z, intercept, out=z)
            if i < last:
                hidden(z)
        if estimator.out_activation_ == "softmax":
            _softmax(outputs[last])
        else:
            self.theirs.ACTIVATIONS[estimator.out_activation_](outputs[last])

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
        name = estimator.loss
        if name == "log_loss" and estimator.out_activation_ == "logistic":
            name = "binary_log_loss"
        return self.theirs.LOSS_FUNCTIONS[name](y, output, *sample_weight)


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
