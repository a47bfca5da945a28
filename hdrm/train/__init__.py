"""Training, evaluation and reports."""

from __future__ import annotations

from .evaluate import evaluate, evaluate_split, popularity
from .trainer import Trainer

__all__ = ["Trainer", "evaluate", "evaluate_split", "popularity"]
