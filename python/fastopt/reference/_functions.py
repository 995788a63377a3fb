"""exp, log, tanh, erf and the logistic function as the kernels compute them: ``csrc/core/functions.hpp`` in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import flushed

# By dtype: where exp is normal and finite, 1/ln 2, ln 2 in two parts, and coefficients, the first one of x⁰.
_LIMITS = {
    "float32": (-87.33654, 88.72283, 9.1, 4.0),
    "float64": (-708.3964185322641, 709.782712893384, 19.1, 6.0),
}
_LN2 = {
    "float32": (1.442695, 0.693145751953125, 1.4286068e-6),
    "float64": (1.4426950408889634, 0.6931471803691238, 1.908214929270588e-10),
}
_EXP = {
    "float32": (0.5, 0.1666652, 0.041666187, 0.008368798, 0.0013951436),
    "float64": (
        0.5,
        0.16666666666666685,
        0.04166666666666673,
        0.008333333333316732,
        0.0013888888888857896,
        0.00019841269897078877,
        2.480158737418005e-05,
        2.7557234222474516e-06,
        2.7557233286542115e-07,
        2.5112241910468827e-08,
        2.0926908657235375e-09,
    ),
}
_ERF_TINY = {
    "float32": (1.1283791, 1e-30),
    "float64": (1.1283791670955126, 1e-290),
}  # the slope, below the second number
_ERF_BELOW_1 = {
    "float32": (0.12837917, -0.37612626, 0.112835996, -0.026854428, 0.0051895054, -0.00080205954, 7.8883546e-05),
    "float64": (
        0.1283791670955126,
        -0.3761263890318355,
        0.11283791670945231,
        -0.02686617064327291,
        0.005223977607398376,
        -0.0008548325988581832,
        0.00012055295289481475,
        -1.492474410734472e-05,
        1.6447511254770074e-06,
        -1.6209129709405018e-07,
        1.3722787997886972e-08,
        -7.800856870185169e-10,
    ),
}
_ERF_FROM_1 = {
    "float32": (0.00035499295, 1.1270348, 0.63823473, 0.10302916, -0.021801168, 0.0029385001, -0.00018545233),
    "float64": (
        1.0843245415219918e-06,
        1.1283685255505025,
        0.636668355807504,
        0.10263566465203601,
        -0.018861901356810068,
        -0.0005885138268361865,
        0.0021030573497729478,
        -0.0009231096664168501,
        0.00023246564962041595,
        -2.881051332382976e-05,
        -3.3293642725562735e-06,
        2.5981360858398447e-06,
        -6.727899289667018e-07,
        1.0604604837503004e-07,
        -1.0686510503092973e-08,
        6.385662296656106e-10,
        -1.7330485698814197e-11,
    ),
}
_LOG = {
    "float32": (0.33333337, 0.19999446, 0.14308257, 0.10715761, 0.121434964),
    "float64": (
        0.33333333333333337,
        0.19999999999996998,
        0.14285714286253626,
        0.1111111106284197,
        0.09090911596896976,
        0.07692226085502589,
        0.06668400918330859,
        0.0585799659115178,
        0.05486142639980619,
        0.03497650333405353,
        0.0823296544600561,
    ),
}


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    of = x.dtype.type
    total = flushed(np.full(x.shape, of(coefficients[-1])))
    for c in coefficients[-2::-1]:
        total = total * x + of(c)
    return total


def _where(condition: Any, a: Any, b: Any) -> Any:
    """Of numbers that are selected, as they are."""
    return flushed(np.where(np.asarray(condition), np.asarray(a), np.asarray(b)))


def _times_power(x: Any, n: Any) -> Any:
    """x·2ⁿ where the exponent of x is not at its limits."""
    bits, mantissa = (np.int32, 23) if x.dtype == np.float32 else (np.int64, 52)
    return flushed((np.asarray(x).view(bits) + (n.astype(bits) << mantissa)).view(x.dtype))


def _reduced(x: Any) -> tuple[Any, Any]:
    """n and eʳ − 1 with x = n·ln 2 + r."""
    of = x.dtype.type
    inverse, high, low = map(of, _LN2[x.dtype.name])
    rounder = of(1.5 * 2.0 ** (23 if x.dtype == np.float32 else 52))
    n = (x * inverse + rounder) - rounder
    r = (x - n * high) - n * low
    with np.errstate(invalid="ignore"):
        whole = np.nan_to_num(np.clip(np.asarray(n), -2000, 2000))
    return whole, r + r * r * _polynomial(r, _EXP[x.dtype.name])


def exp(x: Any) -> Any:
    """eˣ; +0 where that would be subnormal."""
    of = x.dtype.type
    lowest, highest, *_ = map(of, _LIMITS[x.dtype.name])
    n, rest = _reduced(x)
    with np.errstate(all="ignore"):
        power = _times_power(of(1) + rest, n)
    finite = _where(np.asarray(x) <= highest, power, x + of(np.inf))
    return _where(np.asarray(x) < lowest, np.zeros(x.shape, of), finite)


def tanh(x: Any) -> Any:
    """t/(t + 2) with t = e²ˡˣˡ − 1, and the sign of x."""
    of = x.dtype.type
    magnitude = np.abs(np.asarray(x))
    limit = of(_LIMITS[x.dtype.name][2])
    bounded = flushed(np.where(magnitude < limit, magnitude, limit))
    n, rest = _reduced(bounded + bounded)
    power = _times_power(flushed(np.ones(x.shape, of)), n)
    t = power * rest + (power - of(1))
    result = np.copysign(np.asarray(t / (t + of(2))), np.asarray(x))
    return _where(np.asarray(x) == np.asarray(x), result, x)


def erf(x: Any) -> Any:
    """|x| + |x| times a polynomial of x² below 1, and 1 − e^{−polynomial of |x|} from there on."""
    of = x.dtype.type
    magnitude = flushed(np.abs(np.asarray(x)))
    limit = of(_LIMITS[x.dtype.name][3])
    bounded = flushed(np.where(np.asarray(magnitude) < limit, np.asarray(magnitude), limit))
    slope, tiny = map(of, _ERF_TINY[x.dtype.name])
    more = magnitude + magnitude * _polynomial(magnitude * magnitude, _ERF_BELOW_1[x.dtype.name])
    below = _where(np.asarray(magnitude) < tiny, magnitude * slope, more)
    above = of(1) - exp(-_polynomial(bounded, _ERF_FROM_1[x.dtype.name]))
    result = np.copysign(np.asarray(_where(np.asarray(magnitude) < 1, below, above)), np.asarray(x))
    return _where(np.asarray(x) == np.asarray(x), result, x)


def _log_of_ratio(s: Any) -> Any:
    """log((1 + s)/(1 − s))."""
    two, square = s.dtype.type(2), s * s
    return two * s + two * s * square * _polynomial(square, _LOG[s.dtype.name])


def log_above_1(u: Any) -> Any:
    """log(1 + u), 0 ≤ u ≤ 1."""
    return _log_of_ratio(u / (u.dtype.type(2) + u))


def log(x: Any) -> Any:
    """log x of positive float64 numbers; infinity and NaN stay what they are."""
    plain = np.asarray(x)
    bits, two_thirds = plain.view(np.int64), np.int64(0x3FE5555555555555)
    n = (bits - two_thirds) >> 52
    m = flushed((bits - (n << 52)).view(np.float64))
    _, high, low = _LN2["float64"]
    power = flushed(n.astype(np.float64))
    result = power * high + (_log_of_ratio((m - 1.0) / (m + 1.0)) + power * low)
    return _where(plain <= np.finfo(np.float64).max, result, plain)


def sigmoid(x: Any) -> Any:
    """1/(1 + e⁻ˣ)."""
    one = x.dtype.type(1)
    return one / (one + exp(-x))
