"""A network trained by hand: NumPy multiplies the matrices, fastopt does the norm and the optimizer step."""

import numpy as np

import fastopt as fo

rng = np.random.default_rng(0)
x = rng.standard_normal((8192, 8), dtype=np.float32)
y = np.sin(x).sum(axis=1, keepdims=True)

w1 = rng.standard_normal((8, 256), dtype=np.float32) / 3
w2 = rng.standard_normal((256, 1), dtype=np.float32) / 16
norm = fo.nn.LayerNorm(256)
opt = fo.optim.AdamW([w1, w2, *norm.params.values()], lr=1e-2)

for epoch in range(1, 11):
    for rows in rng.permutation(8192).reshape(-1, 64):
        hidden = np.maximum(norm(x[rows] @ w1), 0)
        error = hidden @ w2 - y[rows]
        dout = error * (2 / len(rows))
        dhidden = norm.backward(dout @ w2.T * (hidden > 0))
        opt.step([x[rows].T @ dhidden, hidden.T @ dout, *norm.grads.values()])
    print(f"epoch {epoch:2}: mean squared error {np.mean(error**2):.4f}")
