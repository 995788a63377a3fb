"""Makes scikit-learn's neural networks train with fastopt.

``accelerate()`` reaches every ``MLPClassifier`` and ``MLPRegressor`` of this process, with the solvers ``"adam"`` and ``"sgd"``:

.. code-block:: python

    import numpy as np
    from sklearn.neural_network import MLPClassifier
    import fastopt.sklearn

    x = np.random.default_rng(0).standard_normal((500, 20)).astype(np.float32)
    y = x[:, 0] * x[:, 1] > 0

    with fastopt.sklearn.accelerate():
        model = MLPClassifier((64, 64), batch_size=32, max_iter=20, tol=0).fit(x, y)

    model.predict(x)  # an estimator of scikit-learn's own, which can be pickled and loaded without fastopt

scikit-learn's own loop over epochs and batches stays; what it does with a batch is replaced.  The losses and gradients of a batch
are computed in buffers that are allocated once, and the optimizer's step, with the L2 penalty in it, is one pass over memory.
What a fit computes agrees with scikit-learn's to rounding, and its attributes are the same, those of the optimizer too.

A fit goes on as it began: ``accelerate`` and ``restore`` have an effect on those that begin later.  They may be called by any thread.
Left alone are ``solver="lbfgs"``, parameters that fastopt does not take, ``update_params`` of an optimizer outside a fit, and
all that is not scikit-learn's own: a method of a subclass, of an instance or patched into a class, an activation, a loss, an optimizer.
What a callback changes in the estimator or in its optimizer counts from the next batch, as always.

Importing this module does not import scikit-learn; ``accelerate`` does.
"""

from ._switch import Accelerated, accelerate, is_accelerated, restore

__all__ = ["Accelerated", "accelerate", "is_accelerated", "restore"]

for _name in __all__:
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
