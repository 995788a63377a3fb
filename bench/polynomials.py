"""The coefficients of ``csrc/core/functions.hpp`` and ``reference/_functions.py``, and how they were found.

    python bench/polynomials.py

Each polynomial is fitted in 60 digits: by least squares at Chebyshev's points first, and then again with weights that grow where
the error is largest (Lawson 1961), which leads to the smallest largest error.  Coefficients are printed as the shortest decimal
numbers that are read as the nearest of their dtype.  Needs mpmath.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mpmath import mp, mpf

mp.dps = 60


def fitted(
    f: Callable[[Any], Any], low: float, high: float, degree: int, weight: Callable[[Any], Any], rounds: int = 40
) -> tuple[list[Any], float]:
    """The polynomial of x whose largest error times ``weight`` on [low, high] is nearly the smallest, and that error."""
    count = 6 * (degree + 1)
    middle, half = (mpf(low) + mpf(high)) / 2, (mpf(high) - mpf(low)) / 2
    points = [middle + half * mp.cos(mp.pi * (i + mpf(1) / 2) / count) for i in range(count)]
    values, weights = [f(x) for x in points], [weight(x) for x in points]
    shares = [mpf(1) / count] * count
    best: tuple[list[Any], float] = ([], np.inf)
    for _ in range(rounds):
        rows = [
            [mp.sqrt(s) * w * ((x - middle) / half) ** k for k in range(degree + 1)]
            for x, w, s in zip(points, weights, shares, strict=True)
        ]
        right = [mp.sqrt(s) * w * y for y, w, s in zip(values, weights, shares, strict=True)]
        solution = mp.lu_solve(mp.matrix(rows), mp.matrix(right))
        errors = [
            abs(w * (y - mp.polyval(list(reversed(list(solution))), (x - middle) / half)))
            for x, y, w in zip(points, values, weights, strict=True)
        ]
        if float(max(errors)) < best[1]:
            best = (list(solution), float(max(errors)))
        total = sum(s * e for s, e in zip(shares, errors, strict=True))
        shares = [s * e / total for s, e in zip(shares, errors, strict=True)]
    # From powers of (x − middle)/half to powers of x.
    powers = [mpf(0)] * (degree + 1)
    for k, c in enumerate(best[0]):
        for j in range(k + 1):
            powers[j] += c * mp.binomial(k, j) * (-middle) ** (k - j) / half**k
    return powers, best[1]


def printed(name: str, dtype: type, coefficients: list[Any], error: float) -> None:
    numbers = ", ".join(repr(dtype(str(mp.nstr(c, 30)))).split("(")[-1].rstrip(")") for c in coefficients)
    print(f"{name} {dtype.__name__}: {{{numbers}}}  error {error:.2e}\n")


def exp_rest(r: Any) -> Any:
    """q of e^r = 1 + r + r²·q(r)."""
    return sum(r**k / mp.factorial(k + 2) for k in range(40))


def erf_quotient(u: Any) -> Any:
    """erf(x)/x − 1, of u = x²."""
    return -1 + 2 / mp.sqrt(mp.pi) * sum((-u) ** k / (mp.factorial(k) * (2 * k + 1)) for k in range(80))


def log_rest(w: Any) -> Any:
    """P of log((1 + s)/(1 − s)) = 2s + 2s³·P(s²), of w = s²."""
    return sum(w**k / (2 * k + 3) for k in range(80))


if __name__ == "__main__":
    ln2 = mp.log(2)
    for dtype, bits, degree in ((np.float32, 15, 4), (np.float64, 32, 10)):
        high = mp.floor(ln2 * 2**bits) / 2**bits
        print(f"ln 2 {dtype.__name__}: {mp.nstr(high, 25)} + {mp.nstr(ln2 - high, 25)}")
        half = float(ln2) / 2 * 1.0001
        printed("exp", dtype, *fitted(exp_rest, -half, half, degree, lambda r: r**2 + mpf(10) ** -30))
    for dtype, degree, last, many in ((np.float32, 6, 4, 6), (np.float64, 11, 6, 16)):
        printed("erf(x)/x − 1 of x² up to 1", dtype, *fitted(erf_quotient, 0, 1, degree, lambda u: 1))
        printed(
            f"-log(erfc(x)) from 1 to {last}", dtype, *fitted(lambda x: -mp.log(mp.erfc(x)), 1, last, many, mp.erfc)
        )
    for dtype, degree in ((np.float32, 4), (np.float64, 10)):
        printed("log", dtype, *fitted(log_rest, 0, 1 / 9, degree, lambda w: w + mpf(10) ** -30))
