"""What a stopped training goes on from: its position, what a checkpoint holds, a run opened again."""

from __future__ import annotations

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Config
from ..data import Dataset
from ..model import HDRM
from . import runs
from .average import Average
from .checkpoints import Checkpoints
from .stage import Stage, State
from .team import team_of


@dataclass
class Position:
    """How far a training is. With the weights and the stage's state it decides what follows."""

    stage: int = 0  # stages that are finished
    epoch: int = 1
    step: int = 0  # steps of the epoch that are made
    loss: float = 0.0  # the sum of theirs
    seconds: float = 0.0  # that earlier processes spent on the stage
    without_gain: int = 0  # validations since the stage's best one
    best: float | None = None  # CRITERION of the stored model
    records: list[dict] = dataclasses.field(default_factory=list)  # the lines of metrics.jsonl

    def __str__(self) -> str:
        return f"stage {self.stage + 1}, epoch {self.epoch}, step {self.step}"


def identity(config: Config, description: dict) -> dict:
    """The facts that a checkpoint must share with the training that goes on from it."""
    return {"settings": json.loads(config.to_json()), "data": description["fingerprint"]}


def collect(model: HDRM, stage: Stage, average: Average, device: torch.device) -> State:
    """The state of a training, between two steps."""
    generators = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        generators["device"] = torch.get_device_module(device).get_rng_state(device)
    return {
        "model": model.state_dict(),
        "stage": stage.state_dict(),
        "average": average.state_dict(),
        "generators": generators,
    }


def distribute(state: State, stage: Stage, average: Average, device: torch.device) -> None:
    """Give back what collect found, to a stage made with the model of then.

    Raises:
        ValueError: the state is not one of this stage.
    """
    try:
        stage.load_state_dict(state["stage"])
        average.load_state_dict(state["average"])
        torch.set_rng_state(state["generators"]["cpu"].clone())
        if device.type != "cpu":
            generator = state["generators"]["device"].clone()
            torch.get_device_module(device).set_rng_state(generator, device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the checkpoint is not one that this version of hdrm continues: {error}"
        ) from error


@dataclass(frozen=True, eq=False)
class Resumed:
    """A run that goes on: what it is, where it was, and the lock on it."""

    dataset: Dataset
    config: Config
    description: dict  # dataset.json
    device: str
    position: Position
    state: State
    checkpoints: Checkpoints

    @classmethod
    def open(cls, run: Path, dataset: Dataset | None = None) -> Resumed:
        """Arguments and errors as :meth:`hdrm.train.Trainer.resume`."""
        description, config = runs.read_description(run)
        team = None if dataset is None else team_of(dataset.graph)
        if runs.is_finished(run):
            raise ValueError(f"{run} is finished; there is nothing to resume")
        checkpoints = Checkpoints.of(run, config) if team is None else team.checkpoints(run, config)
        checkpoints.acquire()
        try:
            facts, state = checkpoints.read(**identity(config, description))
            dataset = runs.read_dataset(run, description, dataset)
            team, found = team_of(dataset.graph), facts["machine"]
            device = team.device or found["device"]
            now = runs.machine(runs.resolve_device(device)) | team.facts()
        except BaseException:
            checkpoints.release()
            raise
        names = sorted(found.keys() | now.keys())
        changed = [name for name in names if found.get(name) != now.get(name)]
        if changed and team.main:
            was, now_is = (
                ", ".join(f"{name} {where.get(name)}" for name in changed) for where in (found, now)
            )
            warnings.warn(
                f"the run was trained with {was} and goes on with {now_is}: its result is that of "
                f"an unstopped training no longer bit for bit",
                stacklevel=2,
            )
        position = Position(**facts["position"])
        return cls(dataset, config, description, device, position, state, checkpoints)
