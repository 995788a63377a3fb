"""A step of a small transformer in NumPy: as people write it, and with fastopt's functions, beside torch.

    python bench/transformer.py               # two layers of width 256, four heads, 8x128 tokens, 8,192 words
    python bench/transformer.py --rounds 10

Forward, backward and AdamW.  The three alternate in one process; times are medians.  ``products`` are the matrix products of the
step alone: what would be left if everything else were free.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import fastopt as fo
from fastopt import functional as F

WIDTH, HEADS, LAYERS, BATCH, TOKENS, WORDS = 256, 4, 2, 8, 128, 8192
SIZE = WIDTH // HEADS
SCALE = SIZE**-0.5


def weights(rng: np.random.Generator) -> dict[str, Any]:
    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32) * np.float32(0.02)

    params = {"words": normal(WORDS, WIDTH), "places": normal(TOKENS, WIDTH), "head": normal(WORDS, WIDTH)}
    for i in range(LAYERS):
        for name, out, inputs in (("qkv", 3, 1), ("mix", 1, 1), ("up", 4, 1), ("down", 1, 4)):
            params[f"{i}.{name}.w"] = normal(out * WIDTH, inputs * WIDTH)
            params[f"{i}.{name}.b"] = np.zeros(out * WIDTH, np.float32)
    for name in [f"{i}.{n}" for i in range(LAYERS) for n in ("norm1", "norm2")] + ["norm"]:
        params[f"{name}.w"], params[f"{name}.b"] = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    return params


class Idiomatic:
    """The functions of a loop as people write them."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.state = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in params.items()}
        self.t = 0
        self.mask = np.triu(np.full((TOKENS, TOKENS), -np.inf, np.float32), 1)

    def norm(self, x: Any, w: Any, b: Any) -> tuple[Any, Any]:
        mean = x.mean(-1, keepdims=True)
        rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + np.float32(1e-5))
        xhat = (x - mean) * rstd
        return xhat * w + b, (xhat, rstd)

    def norm_backward(self, dy: Any, kept: Any, x: Any, w: Any) -> tuple[Any, Any, Any]:
        xhat, rstd = kept
        g = dy * w
        dx = rstd * (g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True))
        return dx, (dy * xhat).sum(0), dy.sum(0)

    def linear(self, x: Any, w: Any, b: Any, gelu: bool = False) -> tuple[Any, Any]:
        z = x @ w.T + b
        if not gelu:
            return z, None
        t = np.tanh(np.float32(0.7978845608) * (z + np.float32(0.044715) * z**3))
        return 0.5 * z * (1 + t), (z, t)

    def linear_backward(self, dy: Any, x: Any, w: Any, kept: Any, gelu: bool = False) -> tuple[Any, Any, Any]:
        if gelu:
            z, t = kept
            slope = np.float32(0.7978845608) * (1 + np.float32(0.134145) * z**2)
            dy = dy * (0.5 * (1 + t) + 0.5 * z * (1 - t**2) * slope)
        return dy @ w, dy.T @ x, dy.sum(0)

    def attend(self, scores: Any) -> Any:
        scores = scores * np.float32(SCALE) + self.mask
        e = np.exp(scores - scores.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def attend_backward(self, dp: Any, p: Any) -> Any:
        return p * (dp - (dp * p).sum(-1, keepdims=True)) * np.float32(SCALE)

    def loss(self, logits: Any, labels: Any) -> tuple[float, Any]:
        e = np.exp(logits - logits.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
        rows = np.arange(len(labels))
        value = -np.log(p[rows, labels]).mean()
        p[rows, labels] -= 1
        return float(value), p / len(labels)

    def look_up(self, table: Any, words: Any) -> Any:
        return table[words]

    def look_up_backward(self, dy: Any, words: Any) -> Any:
        d = np.zeros((WORDS, WIDTH), np.float32)
        np.add.at(d, words, dy)
        return d

    def step(self, params: dict[str, Any], grads: dict[str, Any]) -> None:
        self.t += 1
        for name, p in params.items():
            g, (m, v) = grads[name], self.state[name]
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p *= 1 - 3e-4 * 0.1
            p -= 3e-4 * (m / (1 - 0.9**self.t)) / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)


class Fast(Idiomatic):
    """The same with fastopt."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.opt = fo.optim.AdamW(params, lr=3e-4, weight_decay=0.1)

    def norm(self, x: Any, w: Any, b: Any) -> tuple[Any, Any]:
        y, *kept = F.layer_norm(x, WIDTH, w, b)
        return y, kept

    def norm_backward(self, dy: Any, kept: Any, x: Any, w: Any) -> Any:
        return F.layer_norm_backward(dy, x, WIDTH, *kept, w)

    def linear(self, x: Any, w: Any, b: Any, gelu: bool = False) -> tuple[Any, Any]:
        return F.linear(x, w, b, "gelu_tanh" if gelu else None)

    def linear_backward(self, dy: Any, x: Any, w: Any, kept: Any, gelu: bool = False) -> Any:
        return F.linear_backward(dy, x, w, kept, "gelu_tanh" if gelu else None)

    def attend(self, scores: Any) -> Any:
        return F.softmax(scores, scale=SCALE, causal=True, out=scores)

    def attend_backward(self, dp: Any, p: Any) -> Any:
        return F.softmax_backward(dp, p, scale=SCALE, causal=True, out=dp)

    def loss(self, logits: Any, labels: Any) -> tuple[float, Any]:
        return F.cross_entropy(logits, labels, out=logits)

    def look_up(self, table: Any, words: Any) -> Any:
        return F.embedding(words, table)

    def look_up_backward(self, dy: Any, words: Any) -> Any:
        return F.embedding_backward(dy, words, WORDS)

    def step(self, params: dict[str, Any], grads: dict[str, Any]) -> None:
        self.opt.step(grads)


def heads(x: Any) -> Any:
    """(BATCH·TOKENS, WIDTH) as (BATCH, HEADS, TOKENS, SIZE)."""
    return x.reshape(BATCH, TOKENS, HEADS, SIZE).transpose(0, 2, 1, 3)


def joined(x: Any) -> Any:
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(BATCH * TOKENS, WIDTH)


def train(ops: Idiomatic, params: dict[str, Any], words: Any, labels: Any) -> float:
    """One step; returns the loss before it."""
    p, grads, tape = params, {}, []
    x = ops.look_up(p["words"], words) + np.tile(p["places"], (BATCH, 1))
    for i in range(LAYERS):
        a, n1 = ops.norm(x, p[f"{i}.norm1.w"], p[f"{i}.norm1.b"])
        qkv, _ = ops.linear(a, p[f"{i}.qkv.w"], p[f"{i}.qkv.b"])
        q, k, v = (heads(part) for part in np.split(qkv, 3, axis=1))
        probs = ops.attend(q @ k.transpose(0, 1, 3, 2))
        mixed = joined(probs @ v)
        y, _ = ops.linear(mixed, p[f"{i}.mix.w"], p[f"{i}.mix.b"])
        mid = x + y
        c, n2 = ops.norm(mid, p[f"{i}.norm2.w"], p[f"{i}.norm2.b"])
        up, kept = ops.linear(c, p[f"{i}.up.w"], p[f"{i}.up.b"], gelu=True)
        down, _ = ops.linear(up, p[f"{i}.down.w"], p[f"{i}.down.b"])
        tape.append((x, a, n1, q, k, v, probs, mixed, mid, c, n2, up, kept))
        x = mid + down
    last, n = ops.norm(x, p["norm.w"], p["norm.b"])
    loss, d = ops.loss(last @ p["head"].T, labels)
    grads["head"] = d.T @ last
    d, grads["norm.w"], grads["norm.b"] = ops.norm_backward(d @ p["head"], n, x, p["norm.w"])
    for i in reversed(range(LAYERS)):
        x, a, n1, q, k, v, probs, mixed, mid, c, n2, up, kept = tape[i]
        g, grads[f"{i}.down.w"], grads[f"{i}.down.b"] = ops.linear_backward(d, up, p[f"{i}.down.w"], d)
        g, grads[f"{i}.up.w"], grads[f"{i}.up.b"] = ops.linear_backward(g, c, p[f"{i}.up.w"], kept, gelu=True)
        g, grads[f"{i}.norm2.w"], grads[f"{i}.norm2.b"] = ops.norm_backward(g, n2, mid, p[f"{i}.norm2.w"])
        d = d + g
        g, grads[f"{i}.mix.w"], grads[f"{i}.mix.b"] = ops.linear_backward(d, mixed, p[f"{i}.mix.w"], d)
        g = heads(g)
        dv = probs.transpose(0, 1, 3, 2) @ g
        ds = ops.attend_backward(g @ v.transpose(0, 1, 3, 2), probs)
        dqkv = np.concatenate([joined(ds @ k), joined(ds.transpose(0, 1, 3, 2) @ q), joined(dv)], axis=1)
        g, grads[f"{i}.qkv.w"], grads[f"{i}.qkv.b"] = ops.linear_backward(dqkv, a, p[f"{i}.qkv.w"], dqkv)
        g, grads[f"{i}.norm1.w"], grads[f"{i}.norm1.b"] = ops.norm_backward(g, n1, x, p[f"{i}.norm1.w"])
        d = d + g
    grads["words"] = ops.look_up_backward(d, words)
    grads["places"] = d.reshape(BATCH, TOKENS, WIDTH).sum(0)
    ops.step(params, {name: grads[name] for name in params})
    return loss


def products(params: dict[str, Any]) -> Any:
    """The matrix products of a step."""
    rng = np.random.default_rng(1)
    pairs = []
    for name, w in params.items():
        if name == "head" or (name.endswith(".w") and w.ndim == 2):
            x, dy = (rng.standard_normal((BATCH * TOKENS, n), np.float32) for n in w.shape[::-1])
            pairs.append((x, w, dy, np.empty_like(dy), np.empty_like(x), np.empty_like(w)))
    q = rng.standard_normal((BATCH, HEADS, TOKENS, SIZE), np.float32)
    s = rng.standard_normal((BATCH, HEADS, TOKENS, TOKENS), np.float32)

    def call() -> None:
        for x, w, dy, y, dx, dw in pairs:
            np.matmul(x, w.T, out=y)
            np.matmul(dy, w, out=dx)
            np.matmul(dy.T, x, out=dw)
        for _ in range(LAYERS):
            for _ in range(2):
                _ = q @ q.transpose(0, 1, 3, 2)
            for _ in range(4):
                _ = s @ q

    return call


def of_torch(torch: Any, words: Any, labels: Any) -> Any:
    from torch import nn

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.mix = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.mlp = nn.Sequential(
                nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(approximate="tanh"), nn.Linear(4 * WIDTH, WIDTH)
            )

        def forward(self, x: Any) -> Any:
            q, k, v = (
                part.view(BATCH, TOKENS, HEADS, SIZE).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
            )
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.mix(y.transpose(1, 2).reshape(BATCH * TOKENS, WIDTH))
            return x + self.mlp(self.norm2(x))

    table, places = nn.Embedding(WORDS, WIDTH), nn.Embedding(TOKENS, WIDTH)
    body = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False))
    model = nn.ModuleList([table, places, body])
    opt = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)
    at, where, target = torch.from_numpy(words), torch.arange(TOKENS).repeat(BATCH), torch.from_numpy(labels)

    def call() -> None:
        opt.zero_grad()
        nn.functional.cross_entropy(body(table(at) + places(where)), target).backward()
        opt.step()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    words, labels = rng.integers(0, WORDS, (2, BATCH * TOKENS))
    models = {"numpy": weights(rng), "fastopt": None}
    models["fastopt"] = {name: array.copy() for name, array in models["numpy"].items()}  # type: ignore[union-attr]
    ops = {"numpy": Idiomatic(models["numpy"]), "fastopt": Fast(models["fastopt"])}  # type: ignore[arg-type]
    first = [train(ops[name], models[name], words, labels) for name in ops]  # type: ignore[arg-type]
    assert abs(first[0] - first[1]) < 1e-3, first
    calls = {name: lambda name=name: train(ops[name], models[name], words, labels) for name in ops}
    calls["products"] = products(models["numpy"])  # type: ignore[arg-type]
    try:
        import torch

        torch.set_num_threads(fo.get_num_threads())
        calls["torch"] = of_torch(torch, words, labels)
    except ImportError:
        pass
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    medians = {name: float(np.median(found[1:])) for name, found in times.items()}
    print(f"{fo.get_num_threads()} threads, {fo.isa()}, medians of {rounds} steps")
    for name, median in medians.items():
        print(f"{name:10} {median * 1e3:8.1f} ms   {median / medians['fastopt']:.2f} of fastopt's")
    after = [train(ops[name], models[name], words, labels) for name in ops]  # type: ignore[arg-type]
    print(f"losses after {rounds + 2} steps: {after[0]:.4f} and {after[1]:.4f}")


if __name__ == "__main__":
    main()
