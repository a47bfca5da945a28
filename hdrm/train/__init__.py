"""Training, evaluation and reports."""

from __future__ import annotations

from .evaluate import evaluate, popularity
#from .trainer import Trainer

pass
