"""Optimizers: one class a rule.  Names, defaults and argument order are torch's."""

from .adam import Adam, AdamW
from .base import Optimizer, StepInfo
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "StepInfo"]
