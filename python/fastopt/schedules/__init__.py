"""Learning-rate schedules: names, arguments, defaults and values are torch's.

A schedule sets the learning rate of each of an optimizer's groups when it is made and in every call of its ``step``.  The
caller decides what it counts: ``step`` once after each of the optimizer's steps, or once per epoch.

>>> import numpy as np, fastopt as fo
>>> opt = fo.optim.SGD([np.ones(3)], lr=0.1)
>>> schedule = fo.schedules.LinearLR(opt, start_factor=0.25, total_iters=3)
>>> for _ in range(4):
...     info = opt.step([np.ones(3)])
...     print(round(schedule.get_last_lr()[0], 6))
...     schedule.step()
0.025
0.05
0.075
0.1

A schedule multiplies the present learning rate where torch's does, so that several can act on one optimizer
(:class:`ChainedScheduler`).  :class:`LambdaLR`, :class:`CosineAnnealingWarmRestarts`, :class:`CyclicLR`, :class:`OneCycleLR` and
the schedules that torch does not have set it, whatever it was.  Where it is an array or a tensor without axes, the new value is
written into that.

A step changes all groups and the schedule, or raises and changes nothing, even if Ctrl-C is pressed in the middle of it.
Schedules can be pickled and deep-copied with their optimizer: ``copy.deepcopy((opt, schedule))`` returns a pair that belongs
together.

Differences from torch:

- ``load_state_dict`` restores learning rates and momenta too: it may be called before or after the optimizer's.  The state does
  not contain the arguments: the new schedule has its own.
- ``last_epoch=k`` makes the schedule that k + 1 steps from the groups' ``initial_lr`` would lead to.  Torch's classes disagree
  about its meaning.  ``initial_lr`` may be given in the optimizer's groups, ``{"params": ..., "initial_lr": 0.1}``, and comes with
  a loaded state of the optimizer.
- After a group was added to the optimizer, the next ``step`` is an error: make a new schedule.
- :class:`OneCycleLR` stays at its end; torch extrapolates in the step after the last, to below ``min_lr`` if linear.
- A :class:`SequentialLR` may contain a :class:`ChainedScheduler` or another :class:`SequentialLR`.
- Arguments with which torch divides by zero, or contradicts its documentation, are errors.
"""

from .base import LRScheduler
from .composite import ChainedScheduler, SequentialLR
from .cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts, WarmupCosineLR, WarmupStableDecayLR
from .cycle import CyclicLR, OneCycleLR
from .decay import ConstantLR, ExponentialLR, InverseSqrtLR, LinearLR, MultiStepLR, PolynomialLR, StepLR
from .functions import LambdaLR, MultiplicativeLR, PiecewiseLR
from .plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "InverseSqrtLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PiecewiseLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupCosineLR",
    "WarmupStableDecayLR",
]

for _name in __all__:
    globals()[_name].__module__ = __name__  # pickles keep this name, so that files may move


def __dir__() -> list[str]:
    return sorted(__all__)
