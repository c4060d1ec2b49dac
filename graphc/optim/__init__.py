"""Optimizers: each is arithmetic on symbols, so that updates are differentiated, fused and compiled as all else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import lr_scheduler
from .adam import LAMB, Adam, Adamax, AdamW, NAdam, RAdam
from .adaptive import Adadelta, Adafactor, Adagrad, Ftrl, Muon, RMSprop
from .averaging import EMA
from .groups import ParamGroup
from .optimizer import Optimizer
from .sgd import ASGD, LARS, SGD, Lion, Rprop

__all__ = ["ASGD", "EMA", "LAMB", "LARS", "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl",
           "Lion", "Muon", "NAdam", "Optimizer", "ParamGroup", "RAdam", "RMSprop", "Rprop", "lr_scheduler"]


if TYPE_CHECKING:
    from ..lbfgs import LBFGS as LBFGS
