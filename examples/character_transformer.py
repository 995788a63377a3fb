"""A character transformer with a backward pass written by hand, trained on the Zen of Python until it makes up sayings.

Two blocks of causal attention and GELU, each behind a LayerNorm and around a shortcut (Vaswani et al. 2017,
arXiv:1706.03762; LayerNorm first: Xiong et al. 2020, arXiv:2002.04745).  Three layers are written here as subclasses of
`nn.Layer`, each of which is a forward and a backward pass; the others are fastopt's.  It sees 16 characters at a time: enough
to spell, and too few to know what "... is better than " began with.

    python examples/character_transformer.py [--short]

It prints how far the gradient is from finite differences, some losses, a text that it wrote, and how many of the words in
it are words of the Zen.  The text comes with Python, so that nothing is downloaded.
"""

import codecs
import contextlib
import io
import sys

import numpy as np

import fastopt as fo
from fastopt import functional as F
from fastopt import nn

with contextlib.redirect_stdout(io.StringIO()):  # the module prints its text
    import this

ZEN = codecs.decode(this.s, "rot13")
CHARACTERS = sorted(set(ZEN))
CONTEXT, WIDTH, HEADS, BLOCKS, BATCH = 16, 64, 4, 2, 64
STEPS = 60 if "--short" in sys.argv else 800


class Positions(nn.Layer):
    """Adds a learned vector to the characters at each position."""

    def __init__(self, dtype):
        super().__init__({"weight": ((CONTEXT, WIDTH), 0.0)}, dtype)

    def __call__(self, x):
        return x + self.params["weight"][: x.shape[1]]

    def backward(self, dy):
        np.sum(dy, axis=0, out=self.grads["weight"][: dy.shape[1]])
        return dy


class Attention(nn.Layer):
    """softmax(q kᵀ/√size) v of each head; an input has q, k and v of all heads side by side."""

    scale = (WIDTH // HEADS) ** -0.5

    def split(self, x, parts):  # (batch, time, parts·width) to (parts, batch, heads, time, size)
        return x.reshape(*x.shape[:2], parts, HEADS, -1).transpose(2, 0, 3, 1, 4)

    def joined(self, *parts):
        x = np.stack(parts).transpose(1, 3, 0, 2, 4)
        return x.reshape(*x.shape[:2], -1)

    def __call__(self, x):
        q, k, v = self.split(x, 3)
        p = F.softmax(q @ k.swapaxes(-1, -2), scale=self.scale, causal=True)
        self.last = q, k, v, p
        return self.joined(p @ v)

    def backward(self, dy):
        q, k, v, p = self.last
        (dy,) = self.split(dy, 1)
        ds = F.softmax_backward(dy @ v.swapaxes(-1, -2), p, scale=self.scale, causal=True)
        return self.joined(ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy)


class Shortcut(nn.Sequential):
    """y = x + f(x), with the layers as f."""

    def __call__(self, x):
        return x + super().__call__(x)

    def backward(self, dy):
        return dy + super().backward(dy)


def transformer(rng, dtype=np.float32):
    def linear(*sizes, activation=None):
        return nn.Linear(*sizes, activation=activation, seed=rng, dtype=dtype)

    def norm():
        return nn.LayerNorm(WIDTH, dtype=dtype)

    layers = [nn.Embedding(len(CHARACTERS), WIDTH, seed=rng, dtype=dtype), Positions(dtype)]
    for _ in range(BLOCKS):
        layers.append(Shortcut(norm(), linear(WIDTH, 3 * WIDTH), Attention(), linear(WIDTH, WIDTH)))
        layers.append(Shortcut(norm(), linear(WIDTH, 4 * WIDTH, activation="gelu"), linear(4 * WIDTH, WIDTH)))
    return nn.Sequential(*layers, norm(), linear(WIDTH, len(CHARACTERS)))


rng = np.random.default_rng(0)
text = np.array([CHARACTERS.index(character) for character in ZEN])


def batch(size):
    windows = text[rng.integers(0, len(text) - CONTEXT, (size, 1)) + np.arange(CONTEXT + 1)]
    return windows[:, :-1], windows[:, 1:]


# In float64 the slope of the loss in a random direction is that of the gradient to nearly all digits.
model = transformer(rng, np.float64)
x, y = batch(4)
loss, dy = F.cross_entropy(model(x), y, dim=-1)
model.backward(dy)
direction = {name: rng.standard_normal(array.shape) for name, array in model.params.items()}
slope, losses = sum(np.sum(model.grads[name] * direction[name]) for name in direction), []
for distance in (1e-5, -2e-5):
    for name, array in model.params.items():
        array += distance * direction[name]
    losses.append(F.cross_entropy(model(x), y, dim=-1, grad=False)[0])
print(f"gradient: {abs((losses[0] - losses[1]) / 2e-5 / slope - 1):.0e} from finite differences")

model = transformer(rng)
opt = fo.optim.AdamW(fo.optim.no_decay(model.params), lr=3e-3, weight_decay=0.1)
schedule = fo.schedules.WarmupCosineLR(opt, warmup_steps=20, total_steps=STEPS)
for step in range(1, STEPS + 1):
    x, y = batch(BATCH)
    loss, dy = F.cross_entropy(model(x), y, dim=-1)
    model.backward(dy)
    opt.step(model.grads, clip_norm=1.0)
    schedule.step()
    if step in (1, STEPS) or step % 200 == 0:
        print(f"step {step:3}: loss {loss:.3f}")

written = list(text[:CONTEXT])
for _ in range(400):
    probability = F.softmax(model(np.array([written[-CONTEXT:]]))[0, -1])
    written.append(int(np.searchsorted(np.cumsum(probability), rng.random())))
sample = "".join(CHARACTERS[i] for i in written).rpartition(" ")[0]
words = sample.split()
print(sample)
print(f"{np.mean([word in ZEN.split() for word in words]):.0%} of its {len(words)} words are words of the Zen")
