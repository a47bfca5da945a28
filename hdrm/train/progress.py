"""Progress bars: what a person sees while a training or a search runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..memory import format_bytes, resident
from .observer import Observer
from .report import assigned, metric_name
from .trainer import CRITERION
from .tune import SearchObserver, Trial


class Bars(Observer):
    """One progress bar per stage, one line per validation.

    A bar shows the epoch and its loss, the last and the best validation of the stage, examples a
    second since the stage began or went on, this process's memory and the time that is left if the
    stage does not end early.
    """

    transient = False  # whether a bar disappears when its stage has ended

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    def stage(self, name: str, epochs: int, steps_per_epoch: int, examples: int) -> None:
        self.close()
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=16),
            TextColumn("epoch {task.fields[epoch]:.0f}/{task.fields[epochs]}"),
            TextColumn("loss {task.fields[loss]:.5g}"),
            TextColumn("{task.fields[validation]}"),
            TextColumn("{task.fields[speed]:,.0f} examples/s"),
            TextColumn("{task.fields[memory]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            transient=self.transient,
            disable=self.transient and not self._console.is_terminal,
        )
        self._name, self._steps_per_epoch = name, steps_per_epoch
        self._examples = examples / max(steps_per_epoch, 1)  # of a step
        self._values: list[float] = []  # of the stage's validations
        self._task = self._progress.add_task(
            name,
            total=max(epochs * steps_per_epoch, 1),
            epoch=0,
            epochs=epochs,
            loss=float("nan"),
            validation="",
            speed=0.0,
            memory=_memory(),
        )
        self._earlier = 0
        self._progress.start()

    def resumed(self, steps: int, records: Sequence[dict]) -> None:
        self._earlier = steps
        self._progress.update(self._task, completed=steps, epoch=-(-steps // self._steps_per_epoch))
        for record in records:
            if record["stage"] == self._name:
                self._note(record)

    def step(self, loss: float) -> None:
        task = self._progress.tasks[0]
        done = int(task.completed) + 1
        self._progress.update(
            self._task,
            advance=1,
            loss=loss,
            epoch=-(-done // self._steps_per_epoch),
            speed=self._examples * (done - self._earlier) / max(task.elapsed or 0.0, 1e-9),
            memory=_memory(),
        )

    def validated(self, record: dict, best: bool) -> None:
        if self._progress is not None:  # else the encoder of another run, before any stage
            self._note(record)
        k = CRITERION.partition("@")[2]
        ndcg = f"validation NDCG@{k} {record[f'ndcg@{k}']:.4f}"
        omega = f", ω = {record['omega']:g}" if record["stage"] == "diffusion" else ""
        loss = f"loss {record['loss']:<9.5g}" if "loss" in record else f"of {record['source']}"
        self._console.print(
            f"{record['stage']:<10} epoch {record['epoch']:>3}  {loss} {ndcg}  "
            f"{metric_name(CRITERION)} {record[CRITERION]:.4f}{omega}{'  (stored)' if best else ''}",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _note(self, record: dict) -> None:
        """Show a validation of the stage."""
        self._values.append(record[CRITERION])
        text = f"{metric_name(CRITERION)} {self._values[-1]:.4f}, best {max(self._values):.4f}"
        self._progress.update(self._task, validation=text)


class TrialBars(Bars, SearchObserver):
    """A bar while a trial trains, and one line when it has ended."""

    transient = True

    def trial_begins(self, number: int) -> None:
        self._trial = number

    def stage(self, name: str, epochs: int, steps_per_epoch: int, examples: int) -> None:
        super().stage(f"trial {self._trial}, {name}", epochs, steps_per_epoch, examples)

    def validated(self, record: dict, best: bool) -> None:
        self._note(record)

    def trial_ended(self, trial: Trial, best: bool) -> None:
        self.close()
        value = "     –" if trial.value is None else f"{trial.value:.4f}"
        how = f"  (pruned at epoch {trial.epochs}: {trial.reason})" if trial.reason else ""
        self._console.print(
            f"trial {trial.number:>3}  {metric_name(CRITERION)} {value}  {trial.seconds:6.1f} s  "
            f"{assigned(trial.settings)}{how}{'  (best)' if best else ''}",
            highlight=False,
            soft_wrap=True,
        )


def _memory() -> str:
    """What this process takes of the host's memory, and its tensors of the GPU's."""
    text = format_bytes(resident())
    if torch.cuda.is_initialized():
        text += f", GPU {format_bytes(torch.cuda.memory_allocated())}"
    return text
