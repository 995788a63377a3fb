"""Formats with fewer bits than float32, in which the numbers are computed: 16 bits, or 8 bits in blocks.

In every format, encoding adds half a unit or a random threshold to the bits of a number before it cuts off the last bits.  With
a random threshold, the probability of rounding up is the distance from the lower number in units.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ._arithmetic import flushed
from ._random import words

# rounding(numbers, bits) returns the addends of integers whose last ``bits`` bits will be cut off.
Rounding: TypeAlias = Callable[[Any, int], Any]

SHARE = 64  # number of elements that share an exponent
SEGMENT = 1024  # number of elements whose thresholds share a random number
GOLDEN = 0x9E39E377  # the golden ratio times 2³², and its last 20 bits the ratio times 2²⁰
INFINITY, LARGEST = 0x7F800000, 0x7F7FFFFF


def bits_of(x: Any) -> Any:
    """The bits of float32 numbers, as 64-bit integers."""
    return np.asarray(x).view(np.uint32).astype(np.int64)


def float_of(bits: Any) -> Any:
    return np.asarray(bits).astype(np.uint32).view(np.float32)


# Rounding


def nearest(numbers: Any, dropped: int) -> Any:
    """Half a unit; at a tie, the addend that leads to the even number."""
    return (1 << dropped - 1) - 1 + (numbers >> dropped & 1)


@cache
def _table() -> Any:
    return words(2**64 - 1, 0, 0, SEGMENT // 64).ravel().astype(np.int64)


def thresholds(stream: tuple[int, int, int], size: int, number: int) -> Rounding:
    """Random thresholds for the elements of one array.

    Over the steps, the thresholds of an element are a Weyl sequence with the golden ratio (1916), so that a number that drifts
    slowly moves at regular intervals.  Two arrays share each 32-bit word.

    Args:
        stream: Seed, step and the parameter's number.
        size: The number of elements.
        number: The number of the array: its position in the kernel's state, or 4 for the parameter itself.
    """
    seed, step, member = stream
    role, low = divmod(number, 2)

    def threshold(numbers: Any, dropped: int) -> Any:
        element = np.arange(size)
        key = words(seed, 0, member, -(-size // SEGMENT))[:, 0, role].astype(np.int64)
        word = _table()[element % SEGMENT] + key[element // SEGMENT] + step * GOLDEN % 2**32 & 0xFFFFFFFF
        return ((word & 0xFFFFF) >> 20 - dropped if low else word >> 32 - dropped).reshape(numbers.shape)

    return threshold


# 16 bits


def is_half(array: Any) -> bool:
    return array.dtype.itemsize == 2 and bool(array.dtype == np.float16 or array.dtype.name == "bfloat16")


def from_16_bits(array: Any) -> Any:
    """16-bit numbers converted to float32."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return float_of(np.asarray(array).view(np.uint16).astype(np.int64) << 16)


def to_16_bits(x: Any, like: Any, rounding: Rounding) -> Any:
    """float32 numbers rounded to the type of ``like``; those beyond its range become infinite."""
    if like.dtype == np.float16:
        return _to_float16(x, rounding)
    bits = bits_of(x)
    kept = bits + rounding(bits, 16) >> 16
    return np.where(np.isnan(x), 0x7FC0, kept).astype(np.uint16).view(like.dtype)


def _to_float16(x: Any, rounding: Rounding) -> Any:
    if rounding is nearest:
        return x.astype(np.float16)
    smallest = 113 << 23  # normal number
    sign, magnitude = bits_of(x) & 1 << 31, bits_of(abs(x))
    # Units of 2⁻¹³ of the last place; the last place of subnormal numbers is 2⁻²⁴.
    subnormal = (np.minimum(abs(x), np.float32(2.0**-14)) * 2.0**37).astype(np.int64)
    units = np.where(magnitude < smallest, subnormal, magnitude - (112 << 23))
    code = np.minimum(units + rounding(units, 13) >> 13, 0x7C00)
    return (sign >> 16 | np.where(np.isnan(x), 0x7E00, code)).astype(np.uint16).view(np.float16)


# 16 bits and a residual array


def read_weights(param: Any, weights: str, rest: Any) -> Any:
    """The weights of a parameter in the precision of the computation, with the residual array."""
    if not is_half(param):
        return param
    if weights == "master":
        return rest
    if weights == "kahan":
        return np.asarray(flushed(from_16_bits(param)) + flushed(from_16_bits(rest)))
    if weights == "correction":
        near = from_16_bits(param)
        return float_of(bits_of(near) + np.where(np.isinf(near), 0, rest.astype(np.int64) * 2**8))
    return from_16_bits(param)


def write_weights(x: Any, param: Any, weights: str, rest: Any, random: Rounding) -> None:
    """Stores float32 weights in a 16-bit parameter and its residual array, which depends on the format:

    - ``"stochastic"``, ``"nearest"``: there is none.
    - ``"master"``: the float32 weights, of which the parameter is a copy.
    - ``"kahan"``: the rounding error, in the type of the parameter.  Kahan 1965.
    - ``"correction"``: the next 8 bits of a bfloat16, as an addend to its bits from −128 to 127 units.
    """
    if weights == "correction":
        bits = bits_of(x)
        bits = np.where(np.isnan(x), 0x7FC00000, bits + np.where(np.isinf(x), 0, random(bits, 8))) >> 8
        param[...] = (bits + 2**7 >> 8).astype(np.uint16).view(param.dtype)
        rest[...] = bits.astype(np.uint8).view(np.int8)
        return
    param[...] = near = to_16_bits(x, param, random if weights == "stochastic" else nearest)
    if weights == "master":
        rest[...] = x
    if weights == "kahan":
        lost = np.asarray(flushed(x) - flushed(from_16_bits(near)))
        rest[...] = to_16_bits(np.where(np.isfinite(from_16_bits(near)), lost, np.float32(0)), rest, nearest)


# 8 bits, with an exponent b for each block


class Code(NamedTuple):
    """float32 with the bits b·2²³ + c·2²⁰, where c is the code."""

    signed: bool  # the first bit of the code is the sign; a code whose other bits are 0 is 0
    below: int  # number of exponents below that of the largest number
    most: int  # the largest code


CODES = {"moment": Code(True, 15, 127), "square": Code(False, 31, 255)}


def from_8_bits(codes: Any, scales: Any, kind: str) -> Any:
    code = CODES[kind]
    c, b = codes.ravel().astype(np.int64), np.repeat(scales.astype(np.int64), SHARE)[: codes.size]
    magnitude = c & code.most
    x = float_of((b << 23) + (magnitude << 20))
    if code.signed:
        x = np.where(magnitude == 0, np.float32(0), np.where(c > code.most, -x, x))
    return x.reshape(codes.shape)


def to_8_bits(x: Any, kind: str, rounding: Rounding) -> tuple[Any, Any]:
    """The codes and the exponents of float32 numbers: b is the smallest that the largest finite number of its block allows.

    Infinities become the largest numbers with their sign, and NaN the largest positive one.  A number that is too small becomes
    0, or the smallest square.
    """
    code, flat = CODES[kind], x.ravel()
    bits = bits_of(abs(flat))
    finite = np.where(bits < INFINITY, bits, 0)
    largest = np.pad(finite, (0, -flat.size % SHARE)).reshape(-1, SHARE).max(axis=1)
    # Numbers from 1.75 on have the exponent of 2, to which they may be rounded up.
    top = np.minimum(largest >> 16, 0x7F40) + 0x20 >> 7
    scales = np.maximum(top - code.below, 0)
    least = np.repeat(scales, SHARE)[: flat.size] << 23
    bits = np.minimum(bits, LARGEST)
    bits = bits + rounding(bits, 20)
    c = np.minimum(np.maximum(bits - least, 0) >> 20, code.most)
    if code.signed:
        c = np.where(np.signbit(flat) & ~np.isnan(flat), c | 0x80, c)
    return c.reshape(x.shape).astype(np.uint8), scales.astype(np.uint8)


# State


def read(array: Any, kind: str = "exact", scales: Any = None) -> Any:
    """The numbers of an array in the precision of the computation; the array itself if it has that."""
    if array.dtype == np.uint8:
        return from_8_bits(array, scales, kind)
    return from_16_bits(array) if is_half(array) else array


def write(x: Any, array: Any, kind: str, scales: Any, rounding: Rounding) -> None:
    """Stores numbers in the format of the array."""
    if array.dtype == np.uint8:
        array[...], scales[...] = to_8_bits(x, kind, rounding)
    else:
        array[...] = to_16_bits(x, array, rounding) if is_half(array) else x
