"""A convolutional network without a framework, on the 1,797 handwritten digits of scikit-learn as 8×8 images.

Two stages of convolution, BatchNorm with ReLU, and pooling.  `nn.Conv2d` makes a matrix of an image's windows and multiplies
it with the weights (im2col: Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document
processing"), so the products are NumPy's.  Each training image is moved by up to one pixel, anew in every epoch.

    python examples/cnn.py [--short]

It prints loss and test accuracy, and then the test image of which it was least right, drawn with characters.  The digits
come with scikit-learn, so that nothing is downloaded.
"""

import sys

import numpy as np

import fastopt as fo
from fastopt import functional as F
from fastopt import nn

try:
    from sklearn.datasets import load_digits
except ImportError:
    sys.exit("cnn.py takes its digits from scikit-learn: pip install scikit-learn")

EPOCHS, BATCH = 3 if "--short" in sys.argv else 20, 32

rng = np.random.default_rng(0)
images, labels = load_digits(return_X_y=True)
order = rng.permutation(len(images))
x, y = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]
x_test, y_test, x, y = x[:360], y[:360], x[360:], y[360:]

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding="same", bias=False, input_grad=False, seed=rng),
    nn.BatchNormReLU(16),
    nn.MaxPool2d(2),  # 4×4
    nn.Conv2d(16, 32, 3, padding="same", bias=False, seed=rng),
    nn.BatchNormReLU(32),
    nn.MaxPool2d(2),  # 2×2
    nn.Flatten(),
    nn.Linear(32 * 2 * 2, 10, seed=rng),
)
opt = fo.optim.AdamW(fo.optim.no_decay(model.params), lr=3e-3, weight_decay=0.05)
steps = len(x) // BATCH
schedule = fo.schedules.CosineAnnealingLR(opt, T_max=EPOCHS * steps)
print(f"{sum(array.size for array in model.params.values())} parameters")


def moved(images: np.ndarray) -> np.ndarray:
    """Each image shifted by -1, 0 or 1 pixels in both directions, with zeros where nothing was."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), axis=(2, 3))  # (n, 1, 3, 3, 8, 8)
    down, right = rng.integers(0, 3, (2, len(images)))
    return windows[np.arange(len(images)), :, down, right]


def accuracy() -> float:
    return float(np.mean(model.eval()(x_test).argmax(axis=1) == y_test))


for epoch in range(1, EPOCHS + 1):
    model.train()
    losses = []
    for rows in rng.permutation(len(x))[: steps * BATCH].reshape(steps, BATCH):
        loss, dy = F.cross_entropy(model(moved(x[rows])), y[rows])
        model.backward(dy)
        opt.step(model.grads)
        schedule.step()
        losses.append(loss)
    if epoch % 5 == 0 or epoch in (1, EPOCHS):
        print(f"epoch {epoch:2}: loss {np.mean(losses):.4f}, test accuracy {accuracy():.3f}")

probability = F.softmax(model(x_test))
worst = int(np.argmin(probability[np.arange(len(y_test)), y_test]))
guesses = [f"{digit} ({probability[worst, digit]:.0%})" for digit in np.argsort(-probability[worst])[:2]]
print(f"its worst answer: for this {y_test[worst]} it says {' or '.join(guesses)}")
for row in x_test[worst, 0]:
    print("".join(2 * " .:-=+*#%@"[int(9 * value)] for value in row).rstrip())
