"""Optimizers: one class a rule.  Names, defaults and argument order are torch's, where torch has the rule."""

from ._no_decay import no_decay
from ._unpacked import unpacked
from .adadelta import Adadelta
from .adafactor import Adafactor
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .adamax import Adamax
from .adan import Adan
from .ademamix import AdEMAMix
from .asgd import ASGD
from .lion import Lion
from .muon import Muon
from .nadam import NAdam
from .optimizer import Optimizer, StepInfo
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from .sgd import SGD
from .switch import SwitchOptimizer
from .trust import LAMB, LARS

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "AdEMAMix",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "StepInfo",
    "SwitchOptimizer",
    "no_decay",
    "unpacked",
]

for _name in __all__:  # pickles and documentation name the public path
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
