"""A model in one file, ``model.safetensors``: weights, statistics, ω and the training graph.

The header's metadata holds the format, the sizes and the configuration, so the file says by itself
what it is. It is replaced in one step: a run folder holds the old model or the new one, never half.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import Config
from ..graph import BipartiteGraph

if TYPE_CHECKING:
    from .hdrm import HDRM

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TABLE = "encoder.table"
FORMAT = "hdrm model, version 3"


@dataclass(frozen=True, eq=False)
class Stored:
    """What a model file holds."""

    path: Path
    num_users: int
    num_items: int
    config: Config
    weights: dict[str, Tensor]
    adjacency: tuple[Tensor, Tensor]  # rowptr and col, mapped from the file

    def of(self, users: range, items: range) -> Stored:
        """The same, of which the table has the rows of some users and items alone."""
        table = self.weights[TABLE]
        first = len(table) - self.num_items  # 0 where users have no rows
        rows = [table[first + items.start : first + items.stop]]
        if first:
            rows.insert(0, table[users.start : users.stop])
        return dataclasses.replace(self, weights=self.weights | {TABLE: torch.cat(rows)})

    def graph(self) -> BipartiteGraph:
        """The training graph, on the mapped arrays; ValueError if they are not one."""
        try:
            return BipartiteGraph.from_adjacency(*self.adjacency, self.num_users, self.num_items)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: the stored graph is damaged: {error}") from error


def save(model: HDRM, run: str | os.PathLike[str]) -> None:
    """Write ``model.safetensors`` and ``config.json`` into the existing folder ``run``."""
    save_weights(model.state_dict(), model.graph, model.config, run)


def save_weights(
    weights: Mapping[str, Tensor],
    graph: BipartiteGraph,
    config: Config,
    run: str | os.PathLike[str],
) -> None:
    """As save, of the state_dict of a model with this graph and configuration."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in weights.items()}
    tensors |= {"graph.rowptr": graph.rowptr.cpu(), "graph.col": graph.col.cpu()}
    metadata = {
        "format": FORMAT,
        "num_users": str(graph.num_users),
        "num_items": str(graph.num_items),
        "config": config.to_json(),
    }
    # Straight from the tensors into the file: tables may be large.
    replace(Path(run) / MODEL_FILE, lambda path: save_file(tensors, path, metadata))
    write(Path(run) / CONFIG_FILE, (config.to_json() + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    replace(path, lambda temporary: temporary.write_bytes(content))


def replace(path: Path, fill: Callable[[Path], object], *, durable: bool = True) -> None:
    """Replace a file in one step by the one that ``fill`` writes, a temporary one beside it.

    What is written is on the disk then; with ``durable`` its name is too.

    Raises:
        OSError: the file cannot be written, because the disk is full, say.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # of new files here; safetensors' are the owner's alone
        fill(temporary)
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path} cannot be written: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do it, for a folder
            raise
    finally:
        os.close(descriptor)


def read(run: str | os.PathLike[str]) -> Stored:
    """What ``run/model.safetensors`` holds; errors as :meth:`hdrm.HDRM.load`."""
    path = Path(run) / MODEL_FILE
    if not path.is_file():
        what = "it holds no " + MODEL_FILE if Path(run).is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{run} is not a run of `hdrm train`: {what}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(
                    f"its format is {metadata.get('format')!r}, expected {FORMAT!r}; update hdrm if "
                    f"that is a later one, or train again"
                )
            weights = {name: file.get_tensor(name) for name in file.keys()}
        num_users, num_items = int(metadata["num_users"]), int(metadata["num_items"])
        adjacency = weights.pop("graph.rowptr"), weights.pop("graph.col")
        config = Config.from_json(metadata["config"])
    except (SafetensorError, KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a model that this version can load: {error}") from error
    return Stored(path, num_users, num_items, config, weights, adjacency)


def fill(model: HDRM, stored: Stored) -> None:
    """Copy the stored weights into a model of the stored sizes and configuration."""
    expected = model.state_dict()
    _check(stored, expected, sorted(expected.keys() | stored.weights.keys()))
    model.load_state_dict(stored.weights)


def fill_encoder(model: HDRM, stored: Stored) -> None:
    """Copy the encoder's weights alone; the other settings may differ."""
    expected = model.encoder.state_dict(prefix="encoder.")
    _check(stored, expected, expected)
    with torch.no_grad():
        for name, weight in expected.items():
            weight.copy_(stored.weights[name])


def _check(stored: Stored, expected: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """ValueError unless the weights of these names are as expected, and finite."""
    for name in names:
        found = stored.weights.get(name)
        if name not in expected or found is None:
            state = "unknown" if found is not None else "missing"
            raise ValueError(f"{stored.path}: the tensor {name!r} is {state}")
        if found.shape != expected[name].shape or found.dtype != expected[name].dtype:
            raise ValueError(
                f"{stored.path}: {name!r} must be {expected[name].dtype} of shape "
                f"{tuple(expected[name].shape)}, got {found.dtype} of {tuple(found.shape)}"
            )
        # Of the extremes: NaN is both, and no copy of a large table is made.
        if not torch.isfinite(torch.stack(torch.aminmax(found))).all():
            raise ValueError(f"{stored.path}: {name!r} holds values that are not finite")
