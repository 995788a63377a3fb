"""One network in seven formats: bfloat16 weights with a float32 master, with eight more bits, with nothing; moments of 8 bits.

A step of AdamW is often too small for a bfloat16 weight, whose neighbours are 1/256 to 1/128 of it away.  A float32 master
beside each weight takes every step (Micikevicius et al. 2017, arXiv:1710.03740), `weights="correction"` keeps 8 bits more for
each weight, and `weights="nearest"` rounds, so that weights stand still once the learning rate is low.  Moments take 8
bits each, in blocks that share an exponent (blocks: Dettmers et al. 2021, arXiv:2110.02861).

As on a device, forward and backward see bfloat16 weights, and AdamW gets bfloat16 gradients.  NumPy has no fast product of
bfloat16, so the network computes in float32 from the stored numbers.

    python examples/bfloat16_masters.py [--short]

It prints for each format the bytes of weights and state per parameter, the training loss, a mean over the last tenth of the
steps, and the loss on 4,096 new examples; all formats have the same batches.
"""

import sys

import numpy as np
from ml_dtypes import bfloat16

import fastopt as fo
from fastopt import functional as F
from fastopt import nn

STEPS = 200 if "--short" in sys.argv else 1500
FORMATS = [
    (np.float32, {}),
    (np.float32, {"moments": "8bit"}),
    (bfloat16, {"weights": "master"}),
    (bfloat16, {"weights": "master", "moments": "bfloat16"}),
    (bfloat16, {"weights": "correction", "moments": "8bit"}),
    (bfloat16, {"weights": "stochastic", "moments": "8bit"}),
    (bfloat16, {"weights": "nearest"}),
]


def examples(rng, count):
    """Rows of eight numbers, and the sum of their sines."""
    x = rng.standard_normal((count, 8), dtype=np.float32)
    return x, np.sin(x).sum(axis=1, keepdims=True)


def train(dtype, options):
    """The bytes per parameter, and the losses of training and of new examples."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Linear(8, 128, input_grad=False, seed=rng),
        nn.LayerNorm(128),
        nn.GELU(),
        nn.Linear(128, 128, activation="gelu", seed=rng),
        nn.Linear(128, 1, seed=rng),
    )
    weights = {name: array.astype(dtype) for name, array in model.params.items()}  # what is stored
    opt = fo.optim.AdamW(fo.optim.no_decay(weights), lr=3e-3, **options)
    schedule = fo.schedules.WarmupCosineLR(opt, warmup_steps=STEPS // 20, total_steps=STEPS)

    def computed_with(weights):
        for name, array in model.params.items():
            array[...] = weights[name]
        return model

    losses = []
    for _ in range(STEPS):
        x, y = examples(rng, 64)
        loss, dy = F.mse_loss(computed_with(weights)(x), y)
        model.backward(dy)
        opt.step({name: grad.astype(dtype) for name, grad in model.grads.items()})
        schedule.step()
        losses.append(loss)

    state = [array for one in opt.state for name, array in one.items() if name != "step"]
    stored = sum(array.nbytes for array in [*weights.values(), *state])
    x, y = examples(np.random.default_rng(1), 4096)
    new_loss, _ = F.mse_loss(computed_with(weights)(x), y, grad=False)
    return stored / sum(array.size for array in weights.values()), np.mean(losses[-STEPS // 10 :]), new_loss


print("weights   options                                   bytes  training   new examples")
for dtype, options in FORMATS:
    size, loss, new_loss = train(dtype, options)
    text = ", ".join(f'{name}="{value}"' for name, value in options.items())
    print(f"{np.dtype(dtype).name:8}  {text:40}  {size:5.2f}  {loss:.6f}   {new_loss:.6f}")
