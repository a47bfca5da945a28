"""The folder of a search: what is searched in it, and that only one process does.

study.json   what is searched: data, settings, space; another search is refused
study.db     the trials, an Optuna study in SQLite
best.json    what was found, after every trial
trial/       the run folder of the trial that is trained; removed at its end

The process that searches holds a lock on the folder; the kernel lets go of it when the process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import PRESETS, Config, format_assignments
from ..data import Dataset
from ..model import checkpoint
from . import runs, space

STUDY_FILE = "study.json"
DATABASE_FILE = "study.db"
BEST_FILE = "best.json"
TRIAL_FOLDER = "trial"
FORMAT = "hdrm tune, version 1"


@dataclass(frozen=True, eq=False)
class Task:
    """What is searched.

    source: what names the data set on the command line; device: as there.
    config: the settings that are varied, those of the preset with changes. Its seed is the search's.
    space: fields and their values, from :func:`hdrm.train.space.search_space`.
    """

    dataset: Dataset
    source: str
    preset: str
    config: Config
    space: dict[str, str]
    device: str = "cpu"

    @property
    def encoder_alone(self) -> bool:
        """Whether trials leave out the second stage.

        It would cost each as much again and, where it loses against ω = 0, change nothing; but a
        fixed ω makes it part of what is ranked.
        """
        return self.config.omega is None and space.of_encoder(self.config, self.space)

    @functools.cached_property
    def fingerprint(self) -> str:
        return self.dataset.fingerprint()

    def values(self, drawn: dict) -> dict:
        """What is trained of values drawn from the space."""
        return space.shortened(self.space, self.config, drawn)

    def trained(self, config: Config) -> Config:
        """Settings as a trial trains them."""
        return config.replace(diffusion_epochs=0) if self.encoder_alone else config

    def command(self, config: Config) -> str:
        """The command line that trains these settings."""
        return shlex.join(["hdrm", "train", *self._arguments(config)])

    def search_command(self, folder: Path) -> str:
        """The command line of this search."""
        words = ["hdrm", "tune", *self._arguments(self.config)]
        for name, values in self.space.items():
            words += ["--search", f"{name}={values}"]
        return shlex.join([*words, "--study", str(folder)])

    def _arguments(self, config: Config) -> list[str]:
        words = [self.source, "--preset", self.preset]
        for assignment in format_assignments(config, PRESETS[self.preset]):
            words += ["--set", assignment]
        return words + (["--device", self.device] if self.device != "cpu" else [])


def default_folder(dataset: str) -> Path:
    """runs/tune-<data set>."""
    return Path("runs") / f"tune-{dataset}"


@contextlib.contextmanager
def claimed(folder: Path, task: Task) -> Iterator[None]:
    """The folder is this process's, and the search in it is the task's; a new one is begun.

    Raises:
        FileExistsError: it holds something that is not a search.
        ValueError: it is another search.
        RuntimeError: another process searches in it.
    """
    path = folder / STUDY_FILE
    if not path.exists():
        runs.refuse_occupied(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        _lock(lock, folder)
        description = _description(task, folder)
        if path.exists():
            _refuse_another(path, description)
        else:
            write_json(path, description)
        yield
    finally:
        os.close(lock)


def write_json(path: Path, value: dict) -> None:
    checkpoint.write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError(
            f"another process searches in {folder}; wait for it, or name another folder with --study"
        ) from None


def _description(task: Task, folder: Path) -> dict:
    return {
        "format": FORMAT,
        "dataset": {"name": task.dataset.name, "fingerprint": task.fingerprint},
        "preset": task.preset,
        "config": json.loads(task.config.to_json()),
        "space": task.space,
        "command": task.search_command(folder),
    }


def _refuse_another(path: Path, mine: dict) -> None:
    try:
        theirs = json.loads(path.read_text())
        if theirs["format"] != FORMAT:
            raise ValueError(f"its format is {theirs['format']!r}, expected {FORMAT!r}")
        differences, command = _differences(theirs, mine), theirs["command"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or of another version: {error}") from error
    if differences:
        raise ValueError(
            f"{path.parent} is another search: {'; '.join(differences)}. Continue it with "
            f"`{command}`, or name another folder with --study"
        )


def _differences(theirs: dict, mine: dict) -> list[str]:
    """What another search is about, each point in words."""
    found = []
    old, new = theirs["dataset"], mine["dataset"]
    if old["fingerprint"] != new["fingerprint"]:
        names = (f"{side['name']} ({side['fingerprint'][:12]}…)" for side in (old, new))
        found.append("its data are {}, these are {}".format(*names))
    if theirs["preset"] != mine["preset"]:
        return [*found, f"its preset is {theirs['preset']}, this one's {mine['preset']}"]
    for what, verb in (("config", "has"), ("space", "searches")):
        old, new = theirs[what], mine[what]
        for who, names in (("it alone", old.keys() - new), ("this one alone", new.keys() - old)):
            if names:
                found.append(f"{who} {verb} {', '.join(sorted(names))}")
        for name in old:
            if name in new and old[name] != new[name]:
                found.append(f"it {verb} {name} = {old[name]}, this one {new[name]}")
    return found
