"""Word vectors by skip-gram with negative sampling: each step's gradients touch few rows of two large tables.

A grammar makes the text: sentences have a topic, and words of one topic stand beside each other.  What is learned can be
checked: the neighbours of a word are words of its topic.  With the name of a file, the run may be killed at any time: started
again, it goes on from the file and ends with the same bits.

    python examples/word2vec.py [--short] [word2vec.safetensors]

It prints the loss of each epoch and the nearest words of four words.
Mikolov, Sutskever, Chen, Corrado & Dean 2013, arXiv:1310.4546.
"""

import sys
from pathlib import Path

import numpy as np

import fastopt as fo

SHORT = "--short" in sys.argv
path = next((Path(word) for word in sys.argv[1:] if word != "--short"), None)

TOPICS = {
    "sea": "ship sail harbour wave captain anchor storm deck tide crew",
    "kitchen": "oven butter flour knife recipe sugar salt plate soup bread",
    "forest": "oak fox moss branch owl root deer pine fern trail",
    "music": "violin drum chord singer melody stage tune rhythm choir piano",
}
COMMON = ["the", "a", "of", "and", "in", "with", "some"]
RARE = 2_000 if SHORT else 20_000  # other words, each of which is seen hardly ever: rows that most steps do not touch

rng = np.random.default_rng(0)
topics = [words.split() for words in TOPICS.values()]
words = [*COMMON, *(word for topic in topics for word in topic), *(f"rare{i}" for i in range(RARE))]
number = {word: i for i, word in enumerate(words)}


def sentence() -> list[int]:
    """Eight words: four of one topic, three common ones, and a rare one."""
    topic = topics[rng.integers(len(topics))]
    chosen = [*rng.choice(topic, 4, replace=False), *rng.choice(COMMON, 3), f"rare{rng.integers(RARE)}"]
    return [number[word] for word in rng.permutation(chosen)]


text = np.array([sentence() for _ in range(2_000 if SHORT else 8_000)])
pairs = np.concatenate([text[:, [i, j]] for i in range(8) for j in range(8) if i != j and abs(i - j) <= 3])
frequency = np.bincount(text.ravel(), minlength=len(words)) ** 0.75
noise = np.cumsum(frequency / frequency.sum())

width, negatives, batch = 32, 5, 1024
centre = rng.uniform(-0.5, 0.5, (len(words), width)).astype(np.float32) / width
context = np.zeros((len(words), width), np.float32)
opt = fo.optim.Adam([centre, context], lr=0.02)

run = {"optimizer": opt, "rng": rng}  # the optimizer has the tables
at = fo.load(path, **run) if path and path.exists() else {"step": 0, "order": None, "losses": []}
order, losses = at["order"], at["losses"]  # of the epoch in which the run was saved
steps = len(pairs) // batch
print(f"from step {at['step']} of {3 * steps}", flush=True)

for step in range(at["step"], 3 * steps):
    if step % steps == 0:  # a new epoch
        order, losses = rng.permutation(len(pairs)), []
    some = pairs[order[step % steps * batch :][:batch]]
    wrong = np.searchsorted(noise, rng.random((batch, negatives)))
    others = np.concatenate([some[:, 1:], wrong], axis=1)  # (batch, 1 + negatives): the true one first
    v, u = centre[some[:, 0]], context[others]
    score = np.einsum("bw,bkw->bk", v, u)
    score[:, 0] *= -1  # loss: the sum of softplus(-true) and of softplus(others)
    losses.append(float(np.logaddexp(0, score).sum(axis=1).mean()))
    slope = 1 / (1 + np.exp(-score)) / batch
    slope[:, 0] *= -1
    dv = np.einsum("bk,bkw->bw", slope, u)
    du = slope[:, :, None] * v[:, None, :]
    opt.step([fo.SparseRows(some[:, 0], dv), fo.SparseRows(others.ravel(), du.reshape(-1, width))])
    if (step + 1) % steps == 0:
        print(f"epoch {(step + 1) // steps}: loss {np.mean(losses):.3f}", flush=True)
    if path and (step % 100 == 99 or step + 1 == 3 * steps):
        fo.save(path, **run, extra={"step": step + 1, "order": order, "losses": losses})

unit = centre / np.linalg.norm(centre, axis=1, keepdims=True)
frequent = len(words) - RARE
for word in ("harbour", "butter", "owl", "melody"):
    near = np.argsort(-unit[:frequent] @ unit[number[word]])[1:6]
    print(f"{word:8} {' '.join(words[i] for i in near)}")
