"""The paths of L1-regularized linear and logistic regression: which features keep a weight, for 40 penalties.

Minimizes loss + l1·Σ|weight| for all penalties at once, one group of the optimizer for each, with the gradient of all rows.
With `proximal_l1=True` the minimum does not depend on the rule, and weights become exactly zero: SGD with momentum finds the
lasso here, and Adam the logistic regression.  Four of the twelve features matter, and all are correlated.  Tibshirani 1996,
"Regression shrinkage and selection via the lasso", JRSS B 58; for Adam's metric: Yun, Lozano & Yang 2021, NeurIPS 34.

    python examples/regression_paths.py [--short] [picture.png]

It prints which features have a weight for some of the penalties, and how far the weights are from a minimum, at which the
loss has the slope -l1·sign(weight), and one within ±l1 where the weight is zero.  Where scikit-learn is installed, it counts
the zeros that its `Lasso` and `LogisticRegression` have otherwise.  With the name of a file it draws the paths (matplotlib).
"""

import importlib.util
import sys

import numpy as np

import fastopt as fo
from fastopt import functional as F

PENALTIES = 8 if "--short" in sys.argv else 40
PICTURE = next((word for word in sys.argv[1:] if word.endswith(".png")), None)
STEPS, ROWS, FEATURES, MATTER = 2000, 200, 12, 4

rng = np.random.default_rng(0)
x = rng.standard_normal((ROWS, FEATURES)) + 0.7 * rng.standard_normal((ROWS, 1))  # what is added to all correlates them
x = (x - x.mean(axis=0)) / x.std(axis=0)
score = x[:, :MATTER] @ [3.0, -2.0, 1.5, 0.8]
value = score + 2 * rng.standard_normal(ROWS)
label = np.where(score + 2 * rng.standard_normal(ROWS) > 0, 1.0, 0.0)


def linear(weights):
    """The gradient of half the mean squared error, for each row of weights."""
    return (weights @ x.T - value) @ x / ROWS


def logistic(weights):
    """The gradient of the mean cross entropy, for each row of weights."""
    return (F.sigmoid(weights @ x.T) - label) @ x / ROWS


def path(gradient, rule, **options):
    """The penalties, and the weights of each: from the smallest penalty at which all weights are zero to a hundredth."""
    l1 = np.abs(gradient(np.zeros(FEATURES))).max() * np.geomspace(1, 0.01, PENALTIES)
    weights = np.zeros((PENALTIES, FEATURES))
    groups = [{"params": [row], "l1": penalty} for row, penalty in zip(weights, l1, strict=True)]
    opt = rule(groups, proximal_l1=True, **options)
    for _ in range(STEPS):
        opt.step(list(gradient(weights)))
    return l1, weights


def from_sklearn(name, l1):
    """The same minimum by coordinate descent."""
    from sklearn.linear_model import Lasso, LogisticRegression

    if name == "linear":
        return Lasso(l1, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(x, value).coef_
    kind = {"penalty": "l1"} if LogisticRegression().penalty == "l2" else {"l1_ratio": 1}  # before 1.8, and since
    options = {"C": 1 / (l1 * ROWS), "solver": "liblinear", "fit_intercept": False, "tol": 1e-10}
    return LogisticRegression(**kind, **options).fit(x, label).coef_[0]


paths = {
    "linear": path(linear, fo.optim.SGD, lr=0.02, momentum=0.9),
    "logistic": path(logistic, fo.optim.Adam, lr=0.03),
}
for (name, (l1, weights)), gradient in zip(paths.items(), (linear, logistic), strict=True):
    slope = gradient(weights)
    beyond = np.where(weights == 0, np.abs(slope) - l1[:, None], np.abs(slope + l1[:, None] * np.sign(weights)))
    print(f"{name} regression: the conditions of a minimum hold to {max(beyond.max(), 0):.0e}")
    for penalty, row in list(zip(l1, weights, strict=True))[:: PENALTIES // 4]:
        print(f"  l1 {penalty:.3f}: features {' '.join(map(str, np.flatnonzero(row))) or 'none'}")
    if importlib.util.find_spec("sklearn"):
        theirs = np.array([from_sklearn(name, penalty) for penalty in l1])
        differ, most = np.sum((theirs == 0) != (weights == 0)), np.abs(theirs - weights).max()
        print(f"  scikit-learn: {differ} of {weights.size} zeros differ, weights by at most {most:.0e}")

if PICTURE:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=110, layout="constrained")
    for axes, (name, (l1, weights)) in zip(figure.subplots(1, 2), paths.items(), strict=True):
        for i, one in enumerate(weights.T):
            axes.plot(l1, one, color=f"C{i}" if i < MATTER else "0.75", zorder=MATTER - i)
            if i < MATTER:
                axes.annotate(f" feature {i}", (l1[-1], one[-1]), color=f"C{i}", va="center")
        axes.set(
            xscale="log", xlim=(l1[0], l1[-1] / 4), xlabel="l1, falling", ylabel="weight", title=f"{name} regression"
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE)
