"""Checkpoints: all that a training needs to go on, in the folder ``checkpoints`` of its run.

000007.json                the numbers of the state; size and CRC-32 of the files below
000007.safetensors         the tensors of the state
000007.best.safetensors    model.safetensors as it was then: a hard link, where there are such
lock                       held (flock) by the process that trains

The .json is written last, and a checkpoint without it is none. The folder exists from the first step
of a training to its end: a run without one is finished, or never began.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import Config
from ..model import checkpoint
from .stage import State

FOLDER = "checkpoints"
LOCK_FILE = "lock"
FORMAT = "hdrm checkpoint, version 1"
OF_SEVERAL = "hdrm checkpoint of several processes, version 1"
CONTINUED = {  # how a run with checkpoints of a format goes on
    FORMAT: "one process has trained {run} so far; go on with: hdrm train --resume {run}",
    OF_SEVERAL: "several processes have trained {run} so far; go on with the command that began it: "
    "torchrun … -m hdrm train … --out {run}",
}
SHARE = 0.01  # of the time that is spent on the checkpoints at the ends of epochs


class Checkpoints:
    """The checkpoints of one run, of which the newest ``keep`` stay.

    Args:
        run: the run folder.
        keep: at least 1.
        minutes: the longest time without one.
    """

    format = FORMAT

    def __init__(self, run: Path, *, keep: int, minutes: float) -> None:
        self.folder = run / FOLDER
        self._model_file, self._keep, self._minutes = run / checkpoint.MODEL_FILE, keep, minutes
        self._lock: int | None = None  # a file descriptor
        self._written: float | None = None  # when the last one was
        self._took = 0.0  # seconds
        self._known: tuple[tuple, dict] | None = None  # the best model's file, and its entry

    @classmethod
    def of(cls, run: Path, config: Config) -> Checkpoints:
        """As the settings of a run want them."""
        return cls(run, keep=config.checkpoints_kept, minutes=config.checkpoint_minutes)

    def acquire(self, *, create: bool = False) -> None:
        """Take the run for this process, until release.

        Raises:
            FileNotFoundError: there is no folder of checkpoints, and none is to be created.
            RuntimeError: another process has the run.
        """
        if create:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise RuntimeError(
                f"another process trains {self.folder.parent}; wait for its end or stop it"
            ) from None

    def release(self) -> None:
        """Leave the run to other processes."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def due(self, *, end_of_epoch: bool = False) -> bool:
        """Whether it is time for one: the first; after ``minutes``; at the end of an epoch, if
        writing it will have taken at most a hundredth of the time since the last one."""
        if self._written is None:
            return True
        passed = time.perf_counter() - self._written
        return passed >= 60 * self._minutes or (end_of_epoch and SHARE * passed >= self._took)

    def exist(self) -> bool:
        """Whether one was completed."""
        return bool(self._numbers())

    def write(self, facts: Mapping, state: State, *, best: bool) -> None:
        """Write one, then delete those that are not kept.

        Args:
            facts: what JSON can hold.
            state: tensors are written from where they are; those of a device are copied once.
            best: model.safetensors belongs to it.

        Raises:
            OSError: the disk is full, say; the older ones are as they were.
        """
        began = time.perf_counter()
        number = max(self._numbers(), default=0) + 1
        tensors: dict[str, Tensor] = {}
        values = split(state, "", tensors)
        names = self._names(number)
        try:
            target = self.folder / names["tensors"]
            # All names are durable with the .json, the last one.
            checkpoint.replace(target, lambda path: save_file(tensors, path), durable=False)
            files = {"tensors": entry_of(target)}
            if best:
                files["best"] = self._link_best(number)
            self._complete(number, {"facts": facts, "state": values, "files": files})
        except BaseException:
            self._delete(number)
            raise
        self._written = time.perf_counter()
        self._took = self._written - began

    def _complete(self, number: int, content: dict) -> None:
        """Write the .json of a checkpoint whose other files are there, and delete old ones."""
        content = {"format": self.format, **content}
        content["crc32"] = _crc32_of_json(content)
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        checkpoint.write(self.folder / self._names(number)["json"], text.encode())
        for old in self._numbers()[: -self._keep]:
            self._delete(old)

    def _link_best(self, number: int) -> dict:
        """Keep model.safetensors as it is; its entry."""
        path = self.folder / self._names(number)["best"]
        _link(self._model_file, path)
        return self._entry_of_best(path)

    def read(self, **expected) -> tuple[dict, State]:
        """Facts and state of the newest one that is whole; model.safetensors is put back too.

        Tensors are mapped from the file: take copies. What newer ones and a killed process left is
        removed; a warning names each that is not whole.

        Args:
            expected: facts that must be the same: of one of another training they are not.

        Raises:
            ValueError: none can be used; the message says why.
            RuntimeError: they are of several processes, or this is one of several and they are not.
        """
        number, content = self._newest(expected)
        tensors = load_file(self.folder / self._names(number)["tensors"])
        self._written = time.perf_counter()
        return content["facts"], join(content["state"], tensors)

    def _newest(self, expected: Mapping) -> tuple[int, dict]:
        """Number and .json of the newest one that is whole; see read."""
        problems = []
        for number in reversed(self._numbers()):
            try:
                content = self._read(number, expected)
                break
            except (OSError, ValueError) as error:
                problems.append(str(error))
        else:
            raise ValueError(
                f"no checkpoint in {self.folder} can be used, so that the run has to be trained "
                f"again: {'; '.join(problems) or 'there is none'}"
            )
        for problem in problems:
            warnings.warn(f"{problem}; the checkpoint before it is used", stacklevel=2)
        if "best" in content["files"]:
            best = self.folder / self._names(number)["best"]
            checkpoint.replace(self._model_file, lambda path: _link(best, path))
        self._clean(number)
        return number, content

    def remove(self) -> None:
        """Delete all; the training is finished."""
        # Under another name first: a kill leaves the folder whole, or no folder.
        condemned = self.folder.with_name(f".{FOLDER}.{os.getpid()}.tmp")
        self.folder.rename(condemned)
        shutil.rmtree(condemned)

    def _read(self, number: int, expected: Mapping) -> dict:
        """The .json of a checkpoint that is whole; ValueError otherwise, RuntimeError as read."""
        names = self._names(number)
        path = self.folder / names["json"]
        try:
            content = json.loads(path.read_bytes())
            found = content.pop("crc32")
            if content["format"] != self.format:
                if how := CONTINUED.get(content["format"]):
                    raise RuntimeError(how.format(run=self.folder.parent))
                raise ValueError(f"its format is {content['format']!r}, expected {self.format!r}")
            if found != _crc32_of_json(content):
                raise ValueError("its checksum is wrong")
            facts, files = content["facts"], content["files"]
            for name, value in expected.items():
                if facts[name] != value:
                    raise ValueError(f"it belongs to a training with other {name}")
            for kind, entry in files.items():
                part = self.folder / names[kind]
                if (found := entry_of(part)) != entry:
                    raise ValueError(f"{part.name} has {found}, expected {entry}")
            return content
        except FileNotFoundError as error:
            raise ValueError(f"{path} is damaged: {error.filename} is missing") from error
        except KeyError as error:
            raise ValueError(f"{path} is damaged: it lacks {error}") from error
        except (ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    def _entry_of_best(self, path: Path) -> dict:
        """entry_of, of a file that was the best model's at the last checkpoint too, as a rule."""
        status = path.stat()
        key = status.st_ino, status.st_mtime_ns
        if self._known is None or self._known[0] != key:
            self._known = key, entry_of(path)
        return self._known[1]

    def _names(self, number: int) -> dict[str, str]:
        kinds = {"json": "json", "tensors": "safetensors", "best": "best.safetensors"}
        return {kind: f"{number:06d}.{suffix}" for kind, suffix in kinds.items()}

    def _numbers(self) -> list[int]:
        return completed(self.folder)

    def _delete(self, number: int) -> None:
        for name in self._names(number).values():  # the .json is the first
            _remove(self.folder / name)

    def _clean(self, newest: int) -> None:
        """Delete what does not belong to a checkpoint up to ``newest``."""
        numbers = [number for number in self._numbers() if number <= newest]
        kept = {name for n in numbers for name in self._names(n).values()}
        for path in self.folder.iterdir():
            if re.match(r"\.?\d{6,}\.", path.name) and path.name not in kept:
                _remove(path)
        for path in self.folder.parent.glob(".*.tmp"):
            _remove(path)


def exist(run: Path) -> bool:
    """Whether a checkpoint of the run was completed."""
    return bool(completed(run / FOLDER))


def completed(folder: Path) -> list[int]:
    """The numbers of the checkpoints in a folder that were completed, in order."""
    matches = (re.fullmatch(r"(\d{6,})\.json", path.name) for path in folder.glob("*.json"))
    return sorted(int(match[1]) for match in matches if match)


def split(state: State, path: str, tensors: dict[str, Tensor]) -> dict:
    """The state with None in place of tensors, which go to ``tensors`` under their paths."""
    values = {}
    for name, value in state.items():
        if isinstance(value, dict):
            values[name] = split(value, f"{path}{name}/", tensors)
        elif isinstance(value, Tensor):
            tensors[path + name] = value.detach().cpu().contiguous()
            values[name] = None
        else:
            values[name] = value
    return values


def join(values: dict, tensors: Mapping[str, Tensor], path: str = "") -> State:
    """The inverse of split."""
    return {
        name: join(value, tensors, f"{path}{name}/")
        if isinstance(value, dict)
        else (tensors[path + name] if value is None else value)
        for name, value in values.items()
    }


def _crc32_of_json(value) -> int:
    return zlib.crc32(json.dumps(value).encode())


def entry_of(path: Path) -> dict:
    """Size and CRC-32 of a file; of a folder, those of its files by name."""
    if path.is_dir():
        return {part.name: entry_of(part) for part in sorted(path.iterdir())}
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return {"bytes": size, "crc32": crc}


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
