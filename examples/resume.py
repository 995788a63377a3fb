"""A run that may be killed at any time: started again, it goes on from its one file, and ends with the same bits."""

import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

import fastopt as fo

path = Path(sys.argv[1] if len(sys.argv) > 1 else "run.safetensors")

data = np.random.default_rng(1)  # the same data every time: it is no part of the run
x = data.standard_normal((8192, 8), dtype=np.float32)
y = np.sin(x).sum(axis=1, keepdims=True)

rng = np.random.default_rng(0)
w1 = rng.standard_normal((8, 256), dtype=np.float32) / 3
w2 = rng.standard_normal((256, 1), dtype=np.float32) / 16
norm, dropout = fo.nn.BatchNormReLU(256), fo.nn.Dropout(0.1, seed=2)
opt = fo.optim.AdamW([w1, w2, *norm.params.values()], lr=1e-2)
schedule = fo.schedules.CosineAnnealingLR(opt, T_max=1280)

run = {"params": [w1, w2], "layers": [norm, dropout], "optimizer": opt, "schedule": schedule, "rng": rng}
at = fo.load(path, **run) if path.exists() else {"step": 0, "batches": None}
batches = at["batches"]  # of the epoch in which the run was saved
print(f"from step {at['step']}", flush=True)

for step in range(at["step"], 1280):
    if step % 128 == 0:  # a new epoch
        batches = rng.permutation(8192).reshape(128, 64)
    rows = batches[step % 128]
    hidden = dropout(norm(x[rows] @ w1))
    error = hidden @ w2 - y[rows]
    dout = error * (2 / 64)
    dhidden = norm.backward(dropout.backward(dout @ w2.T))
    opt.step([x[rows].T @ dhidden, hidden.T @ dout, *norm.grads.values()])
    schedule.step()
    if step % 40 == 39:
        fo.save(path, **run, extra={"step": step + 1, "batches": batches})
    if step % 128 == 127:
        print(f"step {step + 1:4}: mean squared error {np.mean(error**2):.4f}", flush=True)

print("weights:", sha256(w1.tobytes() + w2.tobytes()).hexdigest()[:16])
