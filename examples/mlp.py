"""A multilayer perceptron with all that usually stands around one, on the 1,797 handwritten digits of scikit-learn.

Two hidden layers with BatchNorm and ReLU; dropout behind the last BatchNorm, not before one (Li, Chen, Hu & Yang 2018,
arXiv:1801.05134); AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) without decay for biases and norms; a warm-up and a
cosine; gradients clipped to norm 1; and early stopping: training ends when the validation loss has not fallen for ten
epochs, and the test is of the weights with which it was lowest.

    python examples/mlp.py [--short]

It prints the losses of some epochs, the best epoch, and the accuracy on 360 test images.  The digits are 8×8 grey values
that come with scikit-learn, so that nothing is downloaded.
"""

import sys

import numpy as np

import fastopt as fo
from fastopt import functional as F
from fastopt import nn

try:
    from sklearn.datasets import load_digits
except ImportError:
    sys.exit("mlp.py takes its digits from scikit-learn: pip install scikit-learn")

EPOCHS, PATIENCE, BATCH = 12 if "--short" in sys.argv else 60, 10, 32

rng = np.random.default_rng(0)
images, labels = load_digits(return_X_y=True)
order = rng.permutation(len(images))
x, y = (images[order] / 16).astype(np.float32), labels[order]
(x_test, x_valid, x), (y_test, y_valid, y) = (np.split(array, [360, 720]) for array in (x, y))

model = nn.Sequential(
    nn.Linear(64, 128, bias=False, input_grad=False, seed=rng),
    nn.BatchNormReLU(128),
    nn.Linear(128, 128, bias=False, seed=rng),
    nn.BatchNormReLU(128),
    nn.Dropout(0.3, seed=1),
    nn.Linear(128, 10, seed=rng),
)
opt = fo.optim.AdamW(fo.optim.no_decay(model.params), lr=3e-3, weight_decay=0.05)
steps = len(x) // BATCH
schedule = fo.schedules.WarmupCosineLR(opt, warmup_steps=steps, total_steps=EPOCHS * steps)

best = {"loss": np.inf}
for epoch in range(EPOCHS):
    model.train()
    losses = []
    for rows in rng.permutation(len(x))[: steps * BATCH].reshape(steps, BATCH):
        loss, dy = F.cross_entropy(model(x[rows]), y[rows])
        model.backward(dy)
        opt.step(model.grads, clip_norm=1.0)
        schedule.step()
        losses.append(loss)

    loss, _ = F.cross_entropy(model.eval()(x_valid), y_valid, grad=False)
    if loss < best["loss"]:
        best = {"loss": loss, "epoch": epoch, "model": model.state_dict()}
    last = epoch == best["epoch"] + PATIENCE
    if epoch % 5 == 0 or last:
        print(f"epoch {epoch:2}: training loss {np.mean(losses):.4f}, validation loss {loss:.4f}")
    if last:
        break

model.load_state_dict(best["model"])
accuracy = np.mean(model(x_test).argmax(axis=1) == y_test)
print(f"best epoch {best['epoch']}: validation loss {best['loss']:.4f}, test accuracy {accuracy:.3f}")
