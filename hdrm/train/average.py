"""The running average of what a stage trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .stage import State


class Average:
    """The running average a ← δ·a + (1−δ)·w of parameters; it ranks better than the last w.

    δ grows as (1+n)/(10+n) with the number of updates n up to ``decay``. A table of points is
    averaged coordinate by coordinate: the kernels read the spatial part, which has no constraint.
    With decay 0 the average is w, and nothing is stored.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self._parameters, self._decay, self._updates = list(parameters) if decay else [], decay, 0
        self._average = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for average, parameter in zip(self._average, self._parameters):
            average.lerp_(parameter, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters hold their averages inside the ``with`` block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        """Parameters and averages change places: no third copy of a table exists."""
        for parameter, average in zip(self._parameters, self._average):
            parameter.data, average.data = average.data, parameter.data

    def state_dict(self) -> State:
        averages = {str(at): average for at, average in enumerate(self._average)}
        return {"updates": self._updates, "averages": averages}

    def load_state_dict(self, state: State) -> None:
        self._updates = state["updates"]
        for at, average in enumerate(self._average):
            average.copy_(state["averages"][str(at)])
