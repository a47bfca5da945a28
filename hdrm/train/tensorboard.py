"""`hdrm train --log tensorboard`: the progress as events that TensorBoard shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .observer import Observer

FOLDER = "tensorboard"


def continues(run: Path) -> bool:
    """Whether the run was trained with such a log, so that one that goes on should be."""
    return (run / FOLDER).is_dir()


class TensorBoard(Observer):
    """Events in RUN/tensorboard: a folder for each stage, so that a tag's curves lie in one chart.

    Tags, by the step of the stage: ``loss``, the epoch's average so far, at every step;
    ``validation/recall@20`` and its kin, and ``omega`` at validations. A training that goes on
    withdraws the events of steps that are made again.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(
                "the log needs TensorBoard, of the extra tensorboard: pip install -e '.[tensorboard]'"
            ) from None
        self._make, self._folder = SummaryWriter, Path(run) / FOLDER
        self._writer = None
        self._step = self._earlier = 0

    def stage(self, name: str, epochs: int, steps_per_epoch: int, examples: int) -> None:
        self.close()
        self._name = name
        self._step = self._earlier = 0

    def resumed(self, steps: int, records: Sequence[dict]) -> None:
        self._step = self._earlier = steps

    def step(self, loss: float) -> None:
        self._step += 1
        self._open(self._name).add_scalar("loss", loss, self._step)

    def validated(self, record: dict, best: bool) -> None:
        writer = self._open(record["stage"])
        for name, value in record.items():
            if "@" in name:
                writer.add_scalar(f"validation/{name}", value, self._step)
        writer.add_scalar("omega", record["omega"], self._step)
        writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, stage: str):
        """The stage's writer, made with its first event: before it there is no run folder."""
        if self._writer is None:
            # TensorBoard leaves out what another process wrote from this step on.
            self._writer = self._make(str(self._folder / stage), purge_step=self._earlier + 1)
        return self._writer
