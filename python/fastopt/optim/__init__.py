"""Optimizers: one class per rule.  Names, defaults and argument order are torch's where torch has the rule."""

from ._no_decay import no_decay
from ._unpacked import unpacked
from .optimizer import Optimizer, StepInfo
from .rules.adadelta import Adadelta
from .rules.adafactor import Adafactor
from .rules.adagrad import Adagrad
from .rules.adam import Adam, AdamW
from .rules.adamax import Adamax
from .rules.adan import Adan
from .rules.ademamix import AdEMAMix
from .rules.adopt import ADOPT
from .rules.asgd import ASGD
from .rules.lion import Lion
from .rules.muon import Muon
from .rules.nadam import NAdam
from .rules.radam import RAdam
from .rules.rmsprop import RMSprop
from .rules.rprop import Rprop
from .rules.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from .rules.sgd import SGD
from .rules.switch import SwitchOptimizer
from .rules.trust import LAMB, LARS

__all__ = [
    "ADOPT",
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

for _name in __all__:  # pickles and documentation show the public path
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
