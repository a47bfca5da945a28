"""A search for better settings: trainings whose best validation Recall@20 Optuna maximises.

The test split is never ranked, and no model is kept: a trial is trained again by its command.

The first trial is the settings themselves. Every other is drawn by TPE from the trials before it and
a seed of its own, so a search that was stopped goes on as if it had not been. Where the space is of
few combinations, each is tried once, in a random order. A trial whose process died is marked failed
and made again, once: if it is what kills the process, the search gets past it. One that Ctrl-C ended
is always made again.

Pruned is what has not reached, at an epoch, the median of the trials that were trained to their end.
Hyperband would divide the few trials there are among brackets, and asks for the last epoch, which
patience decides here.

The trials are in SQLite and not in Optuna's journal file: a transaction is there or it is not, and
the lock ends with the process. A journal's lock is a file that outlives a killed process for half a
minute, and half a line at its end makes it unreadable.
"""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Config
from ..seeds import derive_seed
from . import runs, space
from .observer import Observer
from .search_folder import BEST_FILE, DATABASE_FILE, TRIAL_FOLDER, Task, claimed, write_json
from .trainer import CRITERION, Diverged, Trainer

BEST = 5  # trials reported
PRUNED_AFTER = 5  # trials trained to their end
IMPORTANCE_AFTER = 10  # trials trained to their end
FEW = 100  # combinations, up to which each is tried once


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    state: "complete"; "pruned"; or "failed": stopped, by Ctrl-C or with its process.
    value: the best validation Recall@20; None if there was no validation.
    epochs: until the last validation, those of the second stage after all of the first.
    reason: why it was pruned.
    """

    number: int
    state: str
    value: float | None
    epochs: int
    seconds: float
    settings: dict
    reason: str

    @classmethod
    def of(cls, frozen, task: Task) -> Trial:
        """From Optuna's record."""
        complete, reported = frozen.state.name == "COMPLETE", frozen.intermediate_values
        return cls(
            number=frozen.number,
            state="failed" if frozen.state.name == "FAIL" else frozen.state.name.lower(),
            value=frozen.value if complete else max(reported.values(), default=None),
            epochs=max(reported, default=0),
            seconds=round(frozen.duration.total_seconds(), 1),
            settings=task.values(frozen.params),
            reason=frozen.user_attrs.get("reason", ""),
        )


@dataclass(frozen=True)
class Found:
    """What a search has come to so far.

    best: trials that were trained to their end, the best first, at most BEST; there may be none.
    config, command: of the best, and what trains it; of both stages, if trials train the first alone.
    importance: of the fields, the most important first, their sum 1; empty where trials are few.
    """

    task: Task
    counts: dict[str, int]
    best: list[Trial]
    importance: dict[str, float]
    interrupted: bool = False

    @property
    def config(self) -> Config:
        return self.task.config.replace(**self.best[0].settings)

    @property
    def command(self) -> str:
        return self.task.command(self.config)

    def as_json(self) -> dict:
        """For best.json; without a trial that was trained to its end, the counts alone."""
        if not self.best:
            return {"trials": self.counts}
        return {
            "command": self.command,
            f"validation_{CRITERION}": self.best[0].value,
            "trial": self.best[0].number,
            "settings": self.best[0].settings,
            "config": dataclasses.asdict(self.config),
            "dataset": self.task.source,
            "fingerprint": self.task.fingerprint,
            "preset": self.task.preset,
            "encoder_alone": self.task.encoder_alone,
            "trials": self.counts,
            "best": [dataclasses.asdict(trial) for trial in self.best],
            "importance": self.importance,
        }


class SearchObserver(Observer):
    """Told of the trials, too; this one is silent."""

    def trial_begins(self, number: int) -> None:
        """A trial is about to be trained."""

    def trial_ended(self, trial: Trial, best: bool) -> None:
        """A trial has ended; ``best``: it is the best so far."""


def tune(
    task: Task,
    folder: Path,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    observer: SearchObserver | None = None,
) -> Found:
    """Search in a folder, and go on there if it is the folder of this search.

    It ends after so many trials, so much time, or when every combination was tried.

    Args:
        task: what is searched.
        folder: new, empty, or of the same search; see :mod:`hdrm.train.search_folder`.
        trials: how many to make now; None: no limit.
        minutes: after which no trial begins; the one that is trained then is finished.

    KeyboardInterrupt ends the search with the best so far, and the result says so.

    Raises:
        ValueError, FileExistsError, RuntimeError: the folder is not for this search, or in use; the
            device does not exist; Optuna is missing.
        What ends a training, other than that it diverged or that the device had too little memory:
        these are pruned.
    """
    optuna = _optuna()
    observer, folder = observer or SearchObserver(), Path(folder)
    runs.resolve_device(task.device)
    with claimed(folder, task):
        search = _Search(optuna, task, folder, observer)
        ends = math.inf if minutes is None else time.monotonic() + 60 * minutes
        made, interrupted, died = 0, False, True
        try:
            while made != trials and time.monotonic() < ends and search.make_trial():
                made += 1
            died = False
        except KeyboardInterrupt:
            interrupted, died = True, False
        finally:
            search.end(died=died)
        return dataclasses.replace(search.found(), interrupted=interrupted)


def _optuna():
    try:
        import optuna
    except ImportError:
        raise RuntimeError(
            "hdrm tune needs Optuna; install it with: pip install 'hdrm[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class _Search:
    """Optuna's study of a folder."""

    def __init__(self, optuna, task: Task, folder: Path, observer: SearchObserver) -> None:
        self._optuna, self._states = optuna, optuna.trial.TrialState
        self._task, self._folder, self._observer = task, folder, observer
        self._distributions = space.distributions(task.space)
        self._combinations = space.combinations(task.space, FEW)
        if self._combinations is not None:
            random.Random(task.config.seed).shuffle(self._combinations)
        longest = task.trained(task.config)
        self._epochs = longest.encoder_epochs + longest.diffusion_epochs
        database = (folder / DATABASE_FILE).resolve()
        try:
            self._study = optuna.create_study(
                study_name="hdrm",
                storage=f"sqlite:///{database}",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNED_AFTER),
            )
        except Exception as error:  # SQLAlchemy's, SQLite's, Optuna's
            raise ValueError(f"{database} is damaged or of another version: {error}") from error
        self.end(died=True)
        if not self._study.trials and space.contains(task.space, task.config):
            own = {name: getattr(task.config, name) for name in task.space}
            self._study.enqueue_trial(own)

    def end(self, *, died: bool) -> None:
        """Mark trials that were not told the end of as failed, and queue them to be made again.

        died: their process did; a trial in which one did before is not queued.
        """
        shutil.rmtree(self._folder / TRIAL_FOLDER, ignore_errors=True)
        for trial in self._study.get_trials(states=[self._states.RUNNING]):
            before = trial.user_attrs.get("died", False)
            self._study.tell(trial.number, state=self._states.FAIL)
            if not (died and before):
                attributes = {"again": True, "died": died or before}
                self._study.enqueue_trial(trial.params, attributes)

    def make_trial(self) -> bool:
        """Draw a trial, train it, tell Optuna and write best.json; False if there is none to draw.

        An exception leaves the trial running.
        """
        study = self._study
        if self._combinations is not None and not self._queue_a_combination():
            return False
        study.sampler = self._optuna.samplers.TPESampler(seed=self._seed())
        trial = study.ask(self._distributions)
        self._observer.trial_begins(trial.number)
        # Patience says how long a training takes; the epochs of the configuration are a limit.
        reports = _Reports(trial, self._epochs, self._task.config.patience // 2, self._observer)
        reason = self._train(trial, reports)
        if reason:  # pruned, not failed: the sampler shall learn from it
            trial.set_user_attr("reason", reason)
            study.tell(trial, state=self._states.PRUNED)
        else:
            study.tell(trial, reports.value)
        found = self.found()
        write_json(self._folder / BEST_FILE, found.as_json())
        ended = Trial.of(study.trials[trial.number], self._task)
        self._observer.trial_ended(ended, best=found.best[:1] == [ended])
        return True

    def _queue_a_combination(self) -> bool:
        """Queue one that was not tried, unless a trial is queued; False if there is neither."""
        if self._study.get_trials(deepcopy=False, states=[self._states.WAITING]):
            return True
        tried = [trial.params for trial in self._study.get_trials(deepcopy=False)]
        new = next((values for values in self._combinations if values not in tried), None)
        if new is not None:
            self._study.enqueue_trial(new)
        return new is not None

    def _seed(self) -> int:
        """Of the next trial: of how many were drawn, so that one made again changes no other."""
        trials = self._study.get_trials(deepcopy=False)
        drawn = sum(not trial.user_attrs.get("again", False) for trial in trials)
        return derive_seed("tune", self._task.config.seed, drawn) % 2**32

    def _train(self, trial, reports: _Reports) -> str:
        """Train a trial; why it was pruned, or nothing."""
        task, run = self._task, self._folder / TRIAL_FOLDER
        try:
            config = task.config.replace(**task.values(trial.params))
        except ValueError as error:  # each value is valid, but not with the others
            return str(error)
        try:
            result = Trainer(
                task.dataset,
                task.trained(config),
                run,
                source=task.source,
                device=task.device,
                observer=reports,
            ).fit(test=False)
        except _Pruned:
            return "below the median"
        except (Diverged, torch.OutOfMemoryError) as error:
            return str(error)
        finally:
            shutil.rmtree(run, ignore_errors=True)
        if result.interrupted:
            raise KeyboardInterrupt
        return ""

    def found(self) -> Found:
        states = self._states
        trials = self._study.get_trials(deepcopy=False)
        complete = [trial for trial in trials if trial.state == states.COMPLETE]
        best = sorted(complete, key=lambda trial: (-trial.value, trial.number))[:BEST]
        counts = {
            name: sum(trial.state == state for trial in trials)
            for name, state in (
                ("complete", states.COMPLETE),
                ("pruned", states.PRUNED),
                ("failed", states.FAIL),
            )
        }
        importance = {}
        if len(complete) >= IMPORTANCE_AFTER:
            importance = self._importance()
        found = [Trial.of(trial, self._task) for trial in best]
        return Found(self._task, counts, found, importance)

    def _importance(self) -> dict[str, float]:
        of = self._optuna.importance
        with warnings.catch_warnings():
            # That it is experimental (Optuna 4), or that no field matters. Others need scikit-learn.
            warnings.simplefilter("ignore")
            return of.get_param_importances(self._study, evaluator=of.PedAnovaImportanceEvaluator())


class _Pruned(Exception):
    """A trial is not worth its remaining epochs."""


class _Reports(Observer):
    """Passes a training's progress on, reports its validations to Optuna, ends it if told to.

    last: the epoch after which there is nothing to save. warm_up: the number of first validations that
    prune nothing. value: Recall@20 of the model that is stored.
    """

    def __init__(self, trial, last: int, warm_up: int, observer: Observer) -> None:
        self._trial, self._last, self._observer = trial, last, observer
        self._warm_up = warm_up
        self._before = self._epochs = 0
        self.value: float | None = None

    def stage(self, name: str, epochs: int, steps_per_epoch: int, examples: int) -> None:
        self._before += self._epochs
        self._epochs = epochs
        self._observer.stage(name, epochs, steps_per_epoch, examples)

    def step(self, loss: float) -> None:
        self._observer.step(loss)

    def validated(self, record: dict, best: bool) -> None:
        self._observer.validated(record, best)
        if best:
            self.value = record[CRITERION]
        # Patience may end a stage early; an epoch has one number in every trial all the same.
        epoch = self._before + record["epoch"]
        self._trial.report(record[CRITERION], epoch)
        self._warm_up -= 1
        if self._warm_up < 0 and epoch < self._last and self._trial.should_prune():
            raise _Pruned
