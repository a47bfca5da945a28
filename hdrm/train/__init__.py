"""Training, evaluation and reports."""

from __future__ import annotations

from .evaluate import evaluate, popularity
from .trainer import Trainer, evaluate_split

__all__ = ["Trainer", "evaluate", "evaluate_split", "popularity"]
