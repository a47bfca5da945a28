"""Training: the stages, validation, the best model kept, a log that a program can read, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Config
from ..data import Dataset
from ..model import HDRM, checkpoint
from . import runs
from .average import Average
from .denoising import DenoisingStage, RankingDiffusionStage
from .evaluate import VALIDATED, evaluate, evaluate_split
from .observer import Observer
from .pair_diffusion import PairDiffusionStage
from .resume import Position, Resumed, collect, distribute, identity
from .stage import Stage
from .stages import DiffusionStage, EncoderStage
from .stopping import Stopped, StopSignals
from .team import team_of

CRITERION = "recall@20"  # it depends less than NDCG on what few items are at the top


class Diverged(RuntimeError):
    """The loss or the model is not finite."""


@dataclass(frozen=True)
class Result:
    """What a training came to."""

    run: Path
    model: HDRM
    interrupted: int  # the number of the signal that stopped it: 2 is Ctrl-C; else 0
    test: dict[str, dict[str, float]]  # of popularity, encoder and hdrm; empty if not measured


class Trainer:
    """Trains HDRM on a data set into a new run folder; :meth:`resume` opens one to go on.

    Args:
        dataset: the three splits.
        config: the settings.
        run: the folder to write; it must not exist, or be empty.
        source: what names the data set when the run is evaluated later.
        device: "cpu", "cuda", …
        observer: told of the progress.
        encoder: a run on the same data whose encoder's table is taken instead of training one.
        resumed: the run that goes on, by :meth:`resume`.

    Raises:
        FileExistsError: the folder is not empty.
        FileNotFoundError: ``encoder`` is not a run.
        ValueError: the device does not exist, or the encoder does not fit.

    The seed of the configuration goes into torch's generator. Two trainings with the same data,
    configuration and thread count give the same metrics to the last digit, and the same weights,
    however often one of them is stopped and resumed.
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
        encoder: Path | None = None,
        resumed: Resumed | None = None,
    ) -> None:
        self.dataset, self.config, self.run, self.source = dataset, config, Path(run), source
        self.observer = observer or Observer()
        self.team = team_of(dataset.graph)
        if resumed is None and self.team.main:
            runs.refuse_occupied(self.run)
        self._device = runs.resolve_device(device)
        torch.manual_seed(config.seed)
        model = HDRM(self.team.num_users, self.team.num_items, config, own=self.team.own_nodes)
        model.set_graph(dataset.graph)
        self.encoder = encoder
        if encoder is not None:
            runs.load_encoder(model, Path(encoder), dataset)
        self.model = model.to(self._device)
        # torchrun passes a signal on and sends one of its own: two do not mean "at once" there.
        self._signals = StopSignals(patient=self.team.launched)
        self._resumed, self._saved = resumed, None
        if resumed is None:
            self._at, self._checkpoints = Position(), self.team.checkpoints(self.run, config)
        else:
            self._at, self._checkpoints = resumed.position, resumed.checkpoints
            self._saved = resumed.state  # until the stage has it
            self.model.load_state_dict(resumed.state["model"])

    @classmethod
    def resume(
        cls, run: Path, *, dataset: Dataset | None = None, observer: Observer | None = None
    ) -> Trainer:
        """The trainer whose fit() continues a run that was stopped, with its settings and device.

        Args:
            run: the folder.
            dataset: the run's data; None to read them again.

        Raises:
            FileNotFoundError: there is no such run, or its data are gone.
            ValueError: the run is finished, its data have changed, or no checkpoint is whole.
            RuntimeError: another process trains the run.
        """
        found = Resumed.open(Path(run), dataset)
        return cls(
            found.dataset,
            found.config,
            run,
            source=found.description["source"],
            device=found.device,
            observer=observer,
            resumed=found,
        )

    def fit(self, *, test: bool = True) -> Result:
        """Train what is left of both stages and measure the best model on the test split.

        test: whether to measure; a choice among models must not see it.

        Ctrl-C and SIGTERM end the training early, after the step at hand; a second one at once. The
        best model so far is in the run folder then, and the result says so. After an exception a new
        folder without a model is removed, unless it is an OSError: with room on the disk the run can
        be resumed.

        Raises:
            Diverged: the loss became infinite or NaN; a RuntimeError.
            RuntimeError: another process trains this run.
            OSError: a file cannot be written.
        """
        new, created, main = self._resumed is None, [], self.team.main
        if new:
            created = [path for path in (self.run, *self.run.parents) if not path.exists()]
            self._checkpoints.acquire(create=True)
        try:
            self._begin()
            interrupted = self._train()
            if self._at.best is None:
                self.team.save(self.model, self.run)
            self._restore()
            metrics = self._test() if test and not interrupted else {}
            self._end(interrupted, metrics)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._log(f"ended by {type(error).__name__}: {error}")
            if isinstance(error, OSError) and self._checkpoints.exist():
                raise OSError(
                    f"{error}; the training is kept up to its last checkpoint and continued by: "
                    f"{self.team.going_on(self.run)}"
                ) from error
            # A launcher starts processes again where one of them was lost; what they did is kept.
            useless = not self.team.launched or isinstance(error, Diverged)
            if new and main and useless and not (self.run / checkpoint.MODEL_FILE).exists():
                self._checkpoints.remove()
                runs.remove(self.run, created)
            raise
        finally:
            self._checkpoints.release()
        return Result(self.run, self.model, interrupted, metrics)

    def _begin(self) -> None:
        description = None
        if self._resumed is not None:
            description = self._resumed.description
        elif self.team.main:
            description = runs.describe(self.run, self.config, self.dataset, self.source)
        if self._resumed is not None and self.team.main:
            runs.write_metrics(self.run, self._at.records)
        self._identity = identity(self.config, self.team.shared(description))
        begun = "began" if self._resumed is None else f"resumed at {self._at}"
        facts = (f"{name} {value}" for name, value in self._machine().items())
        self._log(f"{begun}: " + ", ".join(facts))

    def _machine(self) -> dict:
        """Where the training runs."""
        return runs.machine(self._device) | self.team.facts()

    def _log(self, message: str) -> None:
        if self.team.main:
            runs.log(self.run, message)

    def _end(self, interrupted: int, metrics: dict) -> None:
        if interrupted:
            self._log(f"stopped by {signal.Signals(interrupted).name} at {self._at}")
            return
        on_test = f"; {CRITERION} on test {metrics['hdrm'][CRITERION]:.4f}" if metrics else ""
        self._log(f"finished{on_test}")
        self._checkpoints.remove()

    def _train(self) -> int:
        """Train what is left; 0, or the number of the signal that stopped it."""
        softmax = self.config.loss == "softmax"
        encoder = DenoisingStage if softmax else EncoderStage
        diffusion = RankingDiffusionStage if softmax else DiffusionStage
        if self.config.conditioning == "pair":
            diffusion = PairDiffusionStage
        try:
            with self._signals.deferred():
                if self.encoder is not None and self._at.stage == 0:
                    self._take_encoder()
                for make in (encoder, diffusion)[self._at.stage :]:
                    self._fit_stage(make(self.model, self.config))
        except KeyboardInterrupt as stop:
            return int(getattr(stop, "number", signal.SIGINT))
        finally:
            self.observer.close()
        return 0

    def _take_encoder(self) -> None:
        """In place of stage 1: the encoder of another run, validated."""
        self._began = time.perf_counter()
        self._at.epoch = 0
        self._select("encoder", (0.0,), source=str(self.encoder))
        self._at = Position(stage=1, best=self._at.best, records=self._at.records)

    def _fit_stage(self, stage: Stage) -> None:
        at = self._at
        if 0.0 not in stage.omegas and at.epoch == 1 and at.step == 0:
            at.best = None  # with ω fixed the encoder alone is not among the candidates
        average = Average(stage.averaged, self.config.averaging)
        self.observer.stage(stage.name, stage.epochs, stage.steps_per_epoch, stage.examples)
        if self._saved is not None:
            distribute(self._saved, stage, average, self._device)
            self._saved = None
            self.observer.resumed((at.epoch - 1) * stage.steps_per_epoch + at.step, at.records)
        self._began = time.perf_counter() - at.seconds
        self._pause(stage, average)
        while at.epoch <= stage.epochs and at.without_gain < self.config.patience:
            self._fit_epoch(stage, average)
            if self._validates(stage):
                with average.applied():
                    loss = at.loss / stage.steps_per_epoch
                    best = self._select(stage.name, stage.omegas, loss=loss)
                at.without_gain = 0 if best else at.without_gain + 1
            at.epoch, at.step, at.loss = at.epoch + 1, 0, 0.0
            self._pause(stage, average, end_of_epoch=True)
        self._restore()
        self._at = Position(stage=at.stage + 1, best=at.best, records=at.records)

    def _fit_epoch(self, stage: Stage, average: Average) -> None:
        """What is left of one pass."""
        at = self._at
        self.model.train()
        if at.step == 0:
            stage.begin_epoch(at.epoch)
        while at.step < stage.steps_per_epoch:
            loss = stage.step((at.epoch - 1) * stage.steps_per_epoch + at.step)
            average.update()
            at.step, at.loss = at.step + 1, at.loss + loss
            if not math.isfinite(at.loss):
                raise Diverged(
                    f"the loss of stage {stage.name!r} is {loss} at step {at.step} of epoch "
                    f"{at.epoch}; lower {stage.name}_lr or margin"
                )
            self.observer.step(at.loss / at.step)
            self._pause(stage, average)

    def _validates(self, stage: Stage) -> bool:
        """Whether a validation ends the epoch: a multiple of eval_steps is passed, or it is the last."""
        epoch, every = self._at.epoch, self.config.eval_steps
        passed = (
            epoch * stage.steps_per_epoch // every - (epoch - 1) * stage.steps_per_epoch // every
        )
        return passed > 0 or epoch == stage.epochs

    def _select(self, stage: str, omegas: Sequence[float], **more) -> bool:
        """Validate, and store the model if it is the best so far; whether it was.

        ``more``: what else the log says.
        """
        at = self._at
        omega, metrics = self._validate(omegas)
        best = at.best is None or metrics[CRITERION] > at.best
        if best:
            self.model.omega.fill_(omega)
            self.team.save(self.model, self.run)
            at.best = metrics[CRITERION]
        seconds = round(time.perf_counter() - self._began, 3)
        record = {"stage": stage, "epoch": at.epoch, **more, "seconds": seconds, "omega": omega}
        record |= metrics
        at.records.append(record)
        if self.team.main:
            runs.add_metrics(self.run, record)
        self.observer.validated(record, best)
        return best

    def _pause(self, stage: Stage, average: Average, *, end_of_epoch: bool = False) -> None:
        """Between two steps: a checkpoint where one is due, and the end if a signal asked for it."""
        due = self._checkpoints.due(end_of_epoch=end_of_epoch)
        asked, due = self.team.agreed(self._signals.received, due)
        if asked or due:
            seconds = time.perf_counter() - self._began
            facts = {
                **self._identity,
                "machine": self._machine(),
                "position": dataclasses.asdict(dataclasses.replace(self._at, seconds=seconds)),
            }
            state = collect(self.model, stage, average, self._device)
            self._checkpoints.write(facts, state, best=self._at.best is not None)
        if asked:
            raise Stopped(asked)

    def _validate(self, omegas: Sequence[float]) -> tuple[float, dict[str, float]]:
        """The ω that ranks the validation split best, and its metrics."""
        self.model.eval()
        if tuple(omegas) == (0.0,):
            with torch.no_grad():
                h, z = self.model.encoder(self.model.graph), None
        else:
            h, z = self.model.generate(first=self.team.users.start)
        # A hinge is quiet where a comparison with NaN is false, so the loss need not show it.
        if not all(torch.isfinite(vectors).all() for vectors in (h, z) if vectors is not None):
            raise Diverged(
                "the model has values that are not finite; lower encoder_lr or diffusion_lr"
            )
        h = self.team.with_all_items(h)
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
                    gathered=self.team.gathered,
                ),
            )
            for omega in omegas
        ]
        return max(found, key=lambda pair: pair[1][CRITERION])

    def _test(self) -> dict[str, dict[str, float]]:
        """Test metrics of the popularity ranker, the encoder alone and the whole model."""
        result = evaluate_split(self.model, self.dataset, "test")
        if self.team.main:
            checkpoint.write(
                self.run / runs.REPORT_FILE, (json.dumps(result, indent=1) + "\n").encode()
            )
        return result

    def _restore(self) -> None:
        """Go back to the best model that was stored."""
        if self._at.best is not None:
            self.team.restore(self.model, self.run)
        self.model.eval()
