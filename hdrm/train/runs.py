"""The run folder: what is in it besides the model, and how a run is opened again.

config.json          the settings
dataset.json         source, sizes and fingerprint of the data
labels.json          the original ids, where the data were renumbered
model.safetensors    the best model; see hdrm.model.checkpoint
metrics.jsonl        one line per validation
train.log            when the training began, stopped, went on and ended, and why
checkpoints          until the training ends: what it goes on from; see hdrm.train.checkpoints
tensorboard          of `hdrm train --log tensorboard`; see hdrm.train.tensorboard
profile-STAGE.json.gz   of `hdrm train --profile`; see hdrm.train.profiling
report.json          the metrics on the test split
report.html          what `hdrm report` writes
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import __version__, data
from ..config import Config
from ..data import Dataset
from ..model import HDRM, checkpoint
from ..ops import backend
from . import checkpoints, profiling, tensorboard
from .team import team_of

DATASET_FILE = "dataset.json"
LABELS_FILE = "labels.json"
METRICS_FILE = "metrics.jsonl"
LOG_FILE = "train.log"
REPORT_FILE = "report.json"
SEARCHED_FOR = 100_000  # ids at most among which similar ones are looked for: a second


def resolve_device(name: str) -> torch.device:
    """The device of this name; ValueError if torch cannot use it here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"the device {name!r} does not exist here; there are: {', '.join(there)}"
        ) from error
    return device


def default_folder(dataset: str) -> Path:
    """runs/<data set>-<time>."""
    return Path("runs") / f"{dataset}-{time.strftime('%Y%m%d-%H%M%S')}"


def refuse_occupied(run: Path) -> None:
    """FileExistsError unless a run can be written into the folder ``run``."""
    if run.exists() and not run.is_dir():
        raise FileExistsError(f"{run} is a file; name a folder for the run")
    if run.is_dir() and any(run.iterdir()):
        raise FileExistsError(f"{run} is not empty; name another folder for the run")


def describe(run: Path, config: Config, dataset: Dataset, source: str) -> dict:
    """Write config.json, labels.json, if the ids were renumbered, and dataset.json, returned.

    A source that is a path is stored as an absolute one: the run can be evaluated from anywhere.
    """
    if source != "demo" and Path(source).expanduser().exists():
        source = str(Path(source).expanduser().resolve())
    description = {"source": source, **dataset.summary()}
    checkpoint.write(run / checkpoint.CONFIG_FILE, (config.to_json() + "\n").encode())
    labels = {
        side: [_plain(label) for label in found]
        for side, found in (("users", dataset.user_labels), ("items", dataset.item_labels))
        if found is not None
    }
    if labels:
        checkpoint.write(run / LABELS_FILE, _json(labels))
    checkpoint.write(run / DATASET_FILE, _json(description))
    return description


def read_description(run: Path) -> tuple[dict, Config]:
    """What describe wrote.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: a file of it is damaged.
    """
    if not (run / DATASET_FILE).is_file():
        what = f"it holds no {DATASET_FILE}" if run.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{run} is not a run of `hdrm train`: {what}")
    description, path = _description(run), run / checkpoint.CONFIG_FILE
    try:
        return description, Config.from_json(path.read_text())
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_dataset(run: Path, description: dict, dataset: Dataset | None = None) -> Dataset:
    """The data the run is trained on: read again, or ``dataset``, checked.

    Raises:
        ValueError: the data have changed since.
    """
    source, expected = description["source"], description["fingerprint"]
    dataset = data.load(source) if dataset is None else dataset
    if (found := dataset.fingerprint()) != expected:
        raise ValueError(
            f"{source} is not what {run} was trained on: its fingerprint is {found[:12]}…, the "
            f"run's {expected[:12]}…"
        )
    return dataset


def is_finished(run: Path) -> bool:
    """Whether the training of the run has come to its end: it has no checkpoints then."""
    return (run / DATASET_FILE).exists() and not (run / checkpoints.FOLDER).exists()


def machine(device: torch.device) -> dict:
    """Where a training runs: with another of these the last digits are others."""
    found = {
        "device": str(device),
        "backend": backend.backend_of(device.type),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "hdrm": __version__,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def write_metrics(run: Path, records: Iterable[dict]) -> None:
    """Replace metrics.jsonl."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    checkpoint.write(run / METRICS_FILE, lines.encode())


def add_metrics(run: Path, record: dict) -> None:
    """Add a line to metrics.jsonl."""
    _add_line(run / METRICS_FILE, json.dumps(record))


def log(run: Path, message: str) -> None:
    """Add a line to train.log."""
    _add_line(run / LOG_FILE, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}")


def _add_line(path: Path, line: str) -> None:
    try:
        with open(path, "a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from error


def remove(run: Path, created: Sequence[Path]) -> None:
    """Take back what a failed training without a model wrote, and the folders it created."""
    for name in (checkpoint.CONFIG_FILE, DATASET_FILE, LABELS_FILE, METRICS_FILE, LOG_FILE):
        (run / name).unlink(missing_ok=True)
    for trace in run.glob(profiling.trace_file(run, "*").name):
        trace.unlink()
    shutil.rmtree(run / tensorboard.FOLDER, ignore_errors=True)
    for folder in created:
        with contextlib.suppress(OSError):
            folder.rmdir()


def load_encoder(model: HDRM, folder: Path, dataset: Dataset) -> None:
    """Fill the encoder's table of ``model`` with that of the run ``folder``.

    Raises:
        FileNotFoundError: it is not a run.
        ValueError: the run's model is damaged, or was trained on other data or with other settings
            of the encoder than the model's.
    """
    stored = team_of(dataset.graph).stored(folder)
    fingerprint = _description(folder)["fingerprint"]
    if fingerprint != dataset.fingerprint():
        raise ValueError(
            f"the encoder of {folder} was trained on other data than {dataset.name}: its "
            f"fingerprint is {fingerprint[:12]}…, this one's {dataset.fingerprint()[:12]}…"
        )
    for name in ("dim", "curvature", "layers", "users"):
        theirs, ours = getattr(stored.config, name), getattr(model.config, name)
        if theirs != ours:
            raise ValueError(
                f"the encoder of {folder} has {name} = {theirs}, expected {ours}; add --set "
                f"{name}={theirs}, or train it with {name} = {ours}"
            )
    checkpoint.fill_encoder(model, stored)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished (or interrupted) run: its model and what it was trained on."""

    folder: Path
    model: HDRM
    description: dict
    labels: dict[str, list]

    @classmethod
    def open(cls, folder: str | os.PathLike[str], device: str = "cpu") -> Run:
        """Raises as HDRM.load, and ValueError for a damaged description."""
        folder = Path(folder)
        model = HDRM.load(folder, device=resolve_device(device))
        return cls(folder, model, _description(folder), _labels(folder, model))

    def dataset(self) -> Dataset:
        """The data the run was trained on, read again.

        Raises:
            ValueError: the data have changed since.
        """
        return read_dataset(self.folder, self.description)

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl, one of each validation; none if there was none.

        Raises:
            ValueError: a damaged line.
        """
        path = self.folder / METRICS_FILE
        if not path.exists():
            return []
        records = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, is damaged: {error}") from error
        return records

    def user_id(self, label: str) -> int:
        """The user that goes by ``label``: an original id where there are any, else a number.

        Raises:
            ValueError: there is none; the message has ids that look alike.
        """
        return self._id("user", label, self.model.num_users)

    def item_id(self, label: str) -> int:
        """As user_id, of an item."""
        return self._id("item", label, self.model.num_items)

    def user_label(self, user: int) -> str:
        labels = self.labels.get("users")
        return str(labels[user] if labels else user)

    def item_label(self, item: int) -> str:
        labels = self.labels.get("items")
        return str(labels[item] if labels else item)

    @functools.cached_property
    def _numbers(self) -> dict[str, dict[str, int]]:
        """The number of every original id, as text, by side."""
        return {
            side: {str(label): number for number, label in enumerate(labels)}
            for side, labels in self.labels.items()
        }

    def _id(self, kind: str, label: str, count: int) -> int:
        known = self._numbers.get(f"{kind}s")
        if known and label in known:
            return known[label]
        if not known and label.isdecimal() and int(label) < count:
            return int(label)
        expected = (
            "an id of the data it was trained on" if known else f"a number in 0 … {count - 1}"
        )
        alike = difflib.get_close_matches(label, known or ()) if count <= SEARCHED_FOR else []
        if alike:
            expected += f", such as {', '.join(map(repr, alike))}"
        raise ValueError(f"{self.folder} knows no {kind} {label!r}; expected {expected}")


def read_ids(path: Path) -> list[str]:
    """The ids in a text file, one a line; empty lines are skipped.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no ids, or is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text of ids, one a line: {error}") from None
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise ValueError(f"{path} holds no ids; expected one a line")
    return ids


def _plain(label):
    """A label as JSON holds it; numpy's scalars have ``item``."""
    return label.item() if hasattr(label, "item") else label


def _json(value) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _description(run: Path) -> dict:
    """dataset.json."""
    path = run / DATASET_FILE
    found = _read(path)
    named = isinstance(found, dict) and [found.get(name) for name in ("source", "fingerprint")]
    if not named or not all(isinstance(name, str) for name in named):
        raise ValueError(f"{path} is damaged: it names no source and fingerprint")
    return found


def _labels(run: Path, model: HDRM) -> dict[str, list]:
    """labels.json; empty where the ids are as they were."""
    path = run / LABELS_FILE
    if not path.exists():
        return {}
    found, counts = _read(path), {"users": model.num_users, "items": model.num_items}
    fits = isinstance(found, dict) and all(
        isinstance(of, list) and len(of) == counts.get(side) for side, of in found.items()
    )
    if not fits:
        expected = " and ".join(f"{count} {side}" for side, count in counts.items())
        raise ValueError(f"{path} is damaged: expected lists of {expected}")
    return found


def _read(path: Path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; the run is not complete") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
