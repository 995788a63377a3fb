"""A character transformer with its backward pass written by hand, trained on the Zen of Python until it makes up sayings.

Two blocks of causal attention and GELU, each after a LayerNorm and around a shortcut (Vaswani et al. 2017, arXiv:1706.03762;
LayerNorm first: Xiong et al. 2020, arXiv:2002.04745).  It sees 16 characters: enough to spell, and too few to know what
"... is better than " began with.  The layers that fastopt lacks are written here.

    python examples/character_transformer.py [--short]

It prints the gradient's relative distance from finite differences, losses, a text that it wrote, and how many words of that
text are words of the Zen.  The Zen comes with Python, so that nothing is downloaded.
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
CONTEXT, WIDTH, HEADS, BLOCKS = 16, 64, 4, 2
BATCH, STEPS = (16, 200) if "--short" in sys.argv else (64, 500)


class Positions(nn.Layer):
    """Adds a learned vector to the characters at each position."""

    def __init__(self, dtype):
        super().__init__({"weight": ((CONTEXT, WIDTH), 0.0)}, dtype)

    def __call__(self, x):
        return x + self.params["weight"]

    def backward(self, dy):
        np.sum(dy, axis=0, out=self.grads["weight"])
        return dy


class Attention(nn.Layer):
    """softmax(q kᵀ/√size) v of each head; an input has q, k and v of all heads side by side."""

    scale = (WIDTH // HEADS) ** -0.5

    def split(self, x, parts):  # (batch, time, parts·width) to (parts, batch, heads, time, size)
        return x.reshape(*x.shape[:2], parts, HEADS, -1).transpose(2, 0, 3, 1, 4)

    def joined(self, *parts):  # and back
        return np.stack(parts).transpose(1, 3, 0, 2, 4).reshape(len(parts[0]), parts[0].shape[2], -1)

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


def transformer(rng, dtype):
    options, norms = {"seed": rng, "dtype": dtype}, [nn.LayerNorm(WIDTH, dtype=dtype) for _ in range(2 * BLOCKS + 1)]
    layers = [nn.Embedding(len(CHARACTERS), WIDTH, **options), Positions(dtype)]
    for _ in range(BLOCKS):
        qkv, out = nn.Linear(WIDTH, 3 * WIDTH, **options), nn.Linear(WIDTH, WIDTH, **options)
        up, down = nn.Linear(WIDTH, 4 * WIDTH, activation="gelu", **options), nn.Linear(4 * WIDTH, WIDTH, **options)
        layers += [Shortcut(norms.pop(), qkv, Attention(), out), Shortcut(norms.pop(), up, down)]
    return nn.Sequential(*layers, norms.pop(), nn.Linear(WIDTH, len(CHARACTERS), **options))


rng = np.random.default_rng(0)
text = np.array([CHARACTERS.index(character) for character in ZEN])


def batch(size):
    windows = text[rng.integers(0, len(text) - CONTEXT, (size, 1)) + np.arange(CONTEXT + 1)]
    return windows[:, :-1], windows[:, 1:]


def backward(model, x, y):
    loss, dy = F.cross_entropy(model(x), y, dim=-1)
    model.backward(dy)
    return loss


# Three points on a line, in float64: the slope of the loss at the middle one, by its gradient and by the losses of the others.
model = transformer(rng, np.float64)
x, y = batch(4)
line = {name: rng.standard_normal(array.shape) for name, array in model.params.items()}
move, losses, slopes = fo.optim.SGD(model.params, lr=1e-5), [], []
for _ in range(3):
    losses.append(backward(model, x, y))
    slopes.append(sum(np.sum(grad * line[name]) for name, grad in model.grads.items()))
    move.step(line)
print(f"gradient: {abs((losses[0] - losses[2]) / 2e-5 / slopes[1] - 1):.0e} from finite differences")

model = transformer(rng, np.float32)
opt = fo.optim.AdamW(fo.optim.no_decay(model.params), lr=3e-3, weight_decay=0.1)
schedule = fo.schedules.WarmupCosineLR(opt, warmup_steps=20, total_steps=STEPS)
for step in range(1, STEPS + 1):
    loss = backward(model, *batch(BATCH))
    opt.step(model.grads, clip_norm=1.0)
    schedule.step()
    if step in (1, STEPS) or step % 100 == 0:
        print(f"step {step:3}: loss {loss:.3f}")

written = list(text[:CONTEXT])
for _ in range(500):
    probability = F.softmax(model(np.array([written[-CONTEXT:]]))[0, -1], scale=1.5)  # a temperature of 2/3
    written.append(rng.choice(len(CHARACTERS), p=probability))
sample = "".join(CHARACTERS[i] for i in written).rpartition("\n")[0]  # whole lines
known = [word in ZEN.split() for word in sample.split()]
print(f"{sample}\n{np.mean(known):.0%} of its {len(known)} words are words of the Zen")
