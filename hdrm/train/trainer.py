"""Training: both stages, validation, the best model kept, a log that a program can read."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import Config
from ..data import Dataset
from ..model import HDRM, checkpoint
from . import runs
from .denoising import DenoisingStage
from .evaluate import VALIDATED, evaluate, popularity, task
from .stages import DiffusionStage, EncoderStage

CRITERION = "ndcg@20"


class Diverged(RuntimeError):
    """The loss or the model is not finite."""


class Observer:
    """Told of a training's progress; this one is silent (:mod:`hdrm.train.report` shows it).

    An exception raised by one ends the training and leaves :meth:`Trainer.fit`.
    """

    def stage(self, name: str, epochs: int, steps_per_epoch: int) -> None:
        """A stage begins."""

    def step(self, loss: float) -> None:
        """A step was made; ``loss`` is the epoch's average so far."""

    def validated(self, record: dict, best: bool) -> None:
        """A line was added to metrics.jsonl; ``best``: the model was stored."""


@dataclass(frozen=True)
class Result:
    """What a training came to."""

    run: Path
    model: HDRM
    interrupted: bool
    test: dict[str, dict[str, float]]  # of popularity, encoder and hdrm; empty if not measured


class Trainer:
    """Trains HDRM on a data set into a new run folder.

    Args:
        dataset: the three splits.
        config: the settings.
        run: the folder to write; it must not exist, or be empty.
        source: what names the data set when the run is evaluated later.
        device: "cpu", "cuda", …

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: the device does not exist.

    The seed of the configuration goes into torch's generator. Two trainings with the same data,
    configuration and thread count give the same metrics to the last digit.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        run: Path,
        *,
        source: str,
        device: str = "cpu",
        observer: Observer | None = None,
    ) -> None:
        self.dataset, self.config, self.run, self.source = dataset, config, Path(run), source
        self.observer = observer or Observer()
        runs.refuse_occupied(self.run)
        device = runs.resolve_device(device)
        torch.manual_seed(config.seed)
        model = HDRM(dataset.num_users, dataset.num_items, config)
        model.set_graph(dataset.graph)
        self.model = model.to(device)
        self._best = -math.inf

    def fit(self, *, test: bool = True) -> Result:
        """Train both stages and measure the best model on the test split.

        test: whether to measure; a choice among models must not see it.

        KeyboardInterrupt ends the training early: the best model so far is in the run folder, and
        the result says so. After any other exception a folder without a model is removed.

        Raises:
            Diverged: the loss became infinite or NaN; a RuntimeError.
        """
        created = [path for path in (self.run, *self.run.parents) if not path.exists()]
        self.run.mkdir(parents=True, exist_ok=True)
        interrupted = False
        try:
            runs.describe_dataset(self.run, self.dataset, self.source)
            encoder_stage = DenoisingStage if self.config.loss == "softmax" else EncoderStage
            self._fit_stage(encoder_stage(self.model, self.config))
            self._fit_stage(DiffusionStage(self.model, self.config))
        except KeyboardInterrupt:
            interrupted = True
            if self._best == -math.inf:
                self.model.save(self.run)
        except BaseException:
            if not (self.run / checkpoint.MODEL_FILE).exists():
                self._remove(created)
            raise
        self._restore()
        metrics = self._test() if test and not interrupted else {}
        return Result(self.run, self.model, interrupted, metrics)

    def _fit_stage(self, stage: EncoderStage | DiffusionStage) -> None:
        self.observer.stage(stage.name, stage.epochs, stage.steps_per_epoch)
        average = Average(stage.averaged, self.config.averaging)
        began, without_gain = time.perf_counter(), 0
        for epoch in range(1, stage.epochs + 1):
            loss = self._fit_epoch(stage, epoch, average)
            if epoch % self.config.eval_every and epoch < stage.epochs:
                continue
            with average.applied():
                omega, metrics = self._validate(stage.omegas)
                best = metrics[CRITERION] > self._best
                if best:
                    self._best = metrics[CRITERION]
                    self.model.omega.fill_(omega)
                    self.model.save(self.run)
            record = {
                "stage": stage.name,
                "epoch": epoch,
                "loss": loss,
                "seconds": round(time.perf_counter() - began, 3),
                "omega": omega,
                **metrics,
            }
            self._log(record)
            self.observer.validated(record, best)
            without_gain = 0 if best else without_gain + 1
            if without_gain == self.config.patience:
                break
        self._restore()

    def _fit_epoch(self, stage: EncoderStage | DiffusionStage, epoch: int, average) -> float:
        """One pass; the average loss of its steps."""
        self.model.train()
        stage.begin_epoch(epoch)
        total = 0.0
        for i in range(stage.steps_per_epoch):
            loss = stage.step((epoch - 1) * stage.steps_per_epoch + i)
            average.update()
            total += loss
            if not math.isfinite(total):
                raise Diverged(
                    f"the loss of stage {stage.name!r} is {loss} at step {i + 1} of epoch "
                    f"{epoch}; lower {stage.name}_lr or margin"
                )
            self.observer.step(total / (i + 1))
        return total / stage.steps_per_epoch

    def _validate(self, omegas: Sequence[float]) -> tuple[float, dict[str, float]]:
        """The ω that ranks the validation split best, and its metrics."""
        self.model.eval()
        if tuple(omegas) == (0.0,):
            with torch.no_grad():
                h, z = self.model.encoder(self.model.graph), None
        else:
            h, z = self.model.generate()
        # A hinge is quiet where a comparison with NaN is false, so the loss need not show it.
        if not all(torch.isfinite(vectors).all() for vectors in (h, z) if vectors is not None):
            raise Diverged(
                "the model has values that are not finite; lower encoder_lr or diffusion_lr"
            )
        seen = self.model.graph.user_items
        found = [
            (
                omega,
                evaluate(
                    self.model.mix(h, z, omega),
                    self.dataset.valid,
                    seen,
                    cutoffs=VALIDATED,
                    c=self.config.curvature,
                ),
            )
            for omega in omegas
        ]
        return max(found, key=lambda pair: pair[1][CRITERION])

    def _test(self) -> dict[str, dict[str, float]]:
        """Test metrics of the popularity ranker, the encoder alone and the whole model."""
        result = evaluate_split(self.model, self.dataset, "test")
        checkpoint.write(
            self.run / runs.REPORT_FILE, (json.dumps(result, indent=1) + "\n").encode()
        )
        return result

    def _restore(self) -> None:
        """Go back to the best model that was stored."""
        if (self.run / checkpoint.MODEL_FILE).exists():
            checkpoint.fill(self.model, checkpoint.read(self.run))
        self.model.eval()

    def _log(self, record: dict) -> None:
        with open(self.run / runs.METRICS_FILE, "a") as file:
            file.write(json.dumps(record) + "\n")

    def _remove(self, created: Sequence[Path]) -> None:
        """Take back what a failed training wrote: its files, and the folders it created."""
        for name in (runs.DATASET_FILE, runs.LABELS_FILE, runs.METRICS_FILE):
            (self.run / name).unlink(missing_ok=True)
        for folder in created:
            with contextlib.suppress(OSError):
                folder.rmdir()


def evaluate_split(model: HDRM, dataset: Dataset, split: str) -> dict[str, dict[str, float]]:
    """Metrics on "valid" or "test" of popularity, the encoder alone (ω = 0) and the model.

    Training items are not ranked; on the test split neither are validation items.
    """
    device, c = model.omega.device, model.config.curvature
    popular = popularity(dataset.graph, device)
    with torch.no_grad():
        h = model.encoder(model.graph)
        encoded = model.mix(h, None, 0.0)
    return {
        "popularity": evaluate(popular, *task(dataset, split)),
        "encoder": evaluate(encoded, *task(dataset, split), c=c),
        "hdrm": evaluate(model.points(), *task(dataset, split), c=c),
    }


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
