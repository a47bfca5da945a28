"""What watches a training: told of its progress, of no influence on what it computes."""

from __future__ import annotations

from collections.abc import Sequence


class Observer:
    """Told of a training's progress; this one is silent.

    An exception raised by one ends the training and leaves :meth:`hdrm.train.Trainer.fit`.
    """

    def stage(self, name: str, epochs: int, steps_per_epoch: int, examples: int) -> None:
        """A stage begins; ``examples``: how many pairs, or users where whole users are ranked, an
        epoch looks at."""

    def resumed(self, steps: int, records: Sequence[dict]) -> None:
        """So many steps of the stage were made before the training was stopped, and the records of
        validations so far, of earlier stages too."""

    def step(self, loss: float) -> None:
        """A step was made; ``loss`` is the epoch's average so far."""

    def validated(self, record: dict, best: bool) -> None:
        """A line was added to metrics.jsonl; ``best``: the model was stored."""

    def close(self) -> None:
        """The stages are over, whether or not by an error; perhaps told twice."""


class Observers(Observer):
    """Several in one; each is told everything, in the order given."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def stage(self, name: str, epochs: int, steps_per_epoch: int, examples: int) -> None:
        for observer in self._observers:
            observer.stage(name, epochs, steps_per_epoch, examples)

    def resumed(self, steps: int, records: Sequence[dict]) -> None:
        for observer in self._observers:
            observer.resumed(steps, records)

    def step(self, loss: float) -> None:
        for observer in self._observers:
            observer.step(loss)

    def validated(self, record: dict, best: bool) -> None:
        for observer in self._observers:
            observer.validated(record, best)

    def close(self) -> None:
        for observer in self._observers:
            observer.close()
