"""The trainer of several processes: a new run, or the one that was begun before they were restarted."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..config import Config
from ..model import checkpoint
from ..train import Trainer, checkpoints, runs
from ..train.observer import Observer
from .data import RankDataset
from .launch import refuse
from .team import RankTeam


def open_trainer(
    dataset: RankDataset,
    config: Config,
    run: Path,
    *,
    source: str,
    observer: Observer | None = None,
    encoder: Path | None = None,
) -> Trainer | None:
    """The trainer whose fit() trains or goes on; None if the run is finished. All call it together.

    torchrun starts all processes again with the command they had, when one of them died or another
    machine came: a run that was begun with the same settings is continued. All processes must see the
    folder.

    Raises:
        ValueError: the run was begun with other settings, or settings need one process.
        FileExistsError: the folder is not empty and holds no run.
    """
    refuse(config)
    team = dataset.graph.team
    if _state(team, config, run) == "finished":
        return None
    if team.shared(checkpoints.exist(run)):
        return Trainer.resume(run, dataset=dataset, observer=observer)
    return Trainer(
        dataset,
        config,
        run,
        source=source,
        device=team.device,
        observer=observer,
        encoder=encoder,
    )


def _state(team: RankTeam, config: Config, run: Path) -> str:
    """One of "new", "begun" and "finished"; of what was begun, what has no checkpoint is taken back."""
    answer = None
    if team.main:
        try:
            answer = {"state": _look(config, run)}
        except (OSError, ValueError) as error:
            answer = {"error": str(error)}
    answer = team.shared(answer)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["state"]


def _look(config: Config, run: Path) -> str:
    if runs.is_finished(run) and (run / runs.REPORT_FILE).exists():
        return "finished"
    if checkpoints.exist(run):
        if runs.read_description(run)[1] != config:
            raise ValueError(
                f"{run} was begun with other settings; name another folder with --out, or give the "
                f"settings in {run / checkpoint.CONFIG_FILE}"
            )
        return "begun"
    if (run / checkpoints.FOLDER).is_dir():  # ended before the first step
        shutil.rmtree(run / checkpoints.FOLDER)
        runs.remove(run, [])
    return "new"
