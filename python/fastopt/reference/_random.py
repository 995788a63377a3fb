"""Random numbers that are a function of a key and a position: Philox, and normal deviates from its words."""

from __future__ import annotations

from typing import Any

import numpy as np

ROUNDS = 7
_LOW = 0xFFFFFFFF


def philox(counter: Any, key: Any, rounds: int = ROUNDS) -> Any:
    """Philox4x32: four words of 32 bits, or arrays of them, from a counter of four and a key of two.

    Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    key0, key1 = key
    for _ in range(rounds):
        first, third = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = third >> 32 ^ c1 ^ key0, third & _LOW, first >> 32 ^ c3 ^ key1, first & _LOW
        key0, key1 = key0 + 0x9E3779B9 & _LOW, key1 + 0xBB67AE85 & _LOW
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def words(seed: int, step: int, member: int, blocks: int) -> Any:
    """The first words of a stream, in blocks of 4·16: word w of counter 16·k + j is [k, w, j]."""
    counter = np.arange(16 * blocks, dtype=np.uint64)
    all_words = philox((counter & _LOW, counter >> 32, step & _LOW, member), (seed & _LOW, seed >> 32))
    return all_words.reshape(4, blocks, 16).swapaxes(0, 1)


def pair(word: Any) -> tuple[Any, Any]:
    """Two numbers from N(0, 1) per word: Box & Muller 1958, with polynomials, in float32.

    The upper 16 bits give the radius, the lower ones the angle, two of them the quarter of the circle.
    """
    bits = word.astype(np.int32)
    u = ((word >> 16).astype(np.float32) + 0.5) * 2.0**-16
    # -2 ln u: u = 2ᵉ·m with m in [√½, √2), and f = m - 1
    e = u.view(np.int32) - 0x3F3504F3 >> 23
    f = (u.view(np.int32) - (e << 23)).view(np.float32) - 1
    log = ((((-0.35026127 * f + 0.54699758) * f - 0.6746903) * f + 0.99846715) * f - 1.99983776) * f
    radius = np.sqrt(log - 1.38629436 * e.astype(np.float32))
    # sine and cosine of at most ±45°
    t = ((bits & 0x3FFF).astype(np.float32) - 8191.5) * 2.0**-13
    z = t * t
    sine = ((0.00242711 * z - 0.080714) * z + 0.78539423) * t
    cosine = (0.01537182 * z - 0.3082451) * z + 0.99999003
    swapped, mirrored = bits & 0x4000 != 0, bits & 0x8000 != 0
    radius = np.where(mirrored, -radius, radius)
    return radius * np.where(swapped, -sine, cosine), radius * np.where(swapped, cosine, sine)


def normals(seed: int, step: int, member: int, count: int) -> Any:
    """The first numbers from N(0, 1) of a stream, in float32: word [k, w, j] gives [k, w, 0, j] and [k, w, 1, j]."""
    return np.stack(pair(words(seed, step, member, -(-count // 128))), axis=2).ravel()[:count]
