"""Learning-rate schedules: names, arguments, defaults and values are torch's.

A schedule sets the learning rate of each of an optimizer's groups when it is made, and again whenever its ``step`` is called:
once after each of the optimizer's steps, or once an epoch; what it counts is up to the caller.

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

Where torch's schedule multiplies the learning rate that it finds, so does ours, and several can act on one optimizer
(:class:`ChainedScheduler`).  :class:`LambdaLR`, :class:`CosineAnnealingWarmRestarts`, :class:`OneCycleLR` and those that torch
has not set it, whatever it was.

A step changes all groups and the schedule, or raises and changes nothing, also when Ctrl-C is pressed in the middle of it.
Schedules can be pickled and deep-copied with their optimizer: ``copy.deepcopy((opt, schedule))`` gives two that belong
together.

What differs from torch:

- ``load_state_dict`` brings back learning rates and momenta too: it may come before or after the optimizer's.  The arguments
  are not in the state: the new schedule has those that it was made with.
- ``last_epoch=k`` makes a schedule as it is after k + 1 steps from the groups' ``initial_lr``.  Torch's classes disagree
  about what it means.
- When a group has been added to the optimizer, the next ``step`` is an error: make a new schedule.
- :class:`OneCycleLR` stays at its end; torch extrapolates in the step after the last, to below ``min_lr`` if linear.
- In a :class:`SequentialLR` there may be a :class:`ChainedScheduler` or another :class:`SequentialLR`.
- Arguments with which torch divides by zero, or does not do what it says, are errors.
"""

from .base import LRScheduler
from .composite import ChainedScheduler, SequentialLR
from .cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts, WarmupCosineLR
from .cycle import OneCycleLR
from .decay import ConstantLR, ExponentialLR, InverseSqrtLR, LinearLR, MultiStepLR, PolynomialLR, StepLR
from .functions import LambdaLR, MultiplicativeLR, PiecewiseLR
from .plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
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
]

for _name in __all__:
    globals()[_name].__module__ = __name__  # which pickles name, wherever a class is written


def __dir__() -> list[str]:
    return sorted(__all__)
