"""A model in files that need no hdrm to be read.

STEM.safetensors  STEM.npz    users (U, d+1) and items (I, d+1) in a form of hdrm.export.forms;
                              seen_rowptr int64 (U + 1) and seen_col int32: user u has the training
                              items seen_col[seen_rowptr[u] : seen_rowptr[u + 1]]; metadata
STEM.faiss                    an index of the items; STEM.safetensors is written too, in its form
STEM.labels.json              {"users": [...], "items": [...]}: the original ids in the rows' order,
                              null where the ids are the rows' numbers

The metadata, texts in safetensors' header or one JSON text ``metadata`` in the .npz, are format, form,
curvature, num_users, num_items, omega, config (JSON), scale (of the form "euclidean") and, with an index,
what it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from ..model import HDRM, checkpoint
from . import index as indices
from .forms import FORMS, item_vectors, scale_of, user_vectors

FORMAT = "hdrm export, version 1"
TARGETS = ("safetensors", "npz", "faiss")
SEARCHED = ("euclidean", "inner-product")  # forms of which there are indices
SAMPLE = 1000  # users of whom an index's recall is measured


@dataclass(frozen=True)
class Exported:
    """What was written; ``recall``: of the index at k, on ``users`` users."""

    files: tuple[Path, ...]
    form: str
    recall: float | None = None
    k: int = 0
    users: int = 0


def export(
    model: HDRM,
    path: str | os.PathLike[str],
    *,
    to: str,
    form: str | None = None,
    index: str | None = None,
    effort: int | None = None,
    k: int = 10,
    labels: Mapping[str, list] | None = None,
) -> Exported:
    """Write the vectors of users and items, or an index of the items, with what serving needs.

    Args:
        path: STEM.safetensors, STEM.npz or STEM.faiss; see the module for the files beside it.
            Each is replaced in one step, this one last.
        to: "safetensors", "npz" or "faiss".
        form: of hdrm.export.forms; by default "lorentz", for an index "euclidean".
        index, effort: with "faiss", as of hdrm.export.index.build; by default "hnsw".
        k: the recall@k of an index is measured against the exact ranking.
        labels: the original ids of "users" and "items", where they were renumbered.

    Raises:
        ImportError: faiss is needed and not installed.
        ValueError: options that do not fit each other, or a path of another suffix.
        OSError: a file cannot be written.
    """
    path = Path(path).expanduser()
    form = _checked(path, to, form, index, effort)
    tensors, metadata = _contents(model, form)
    texts = _labels(model, labels or {})
    built = found = None
    if to == "faiss":
        kind, inner = index or "hnsw", form == "inner-product"
        built = indices.build(tensors["items"], kind, inner_product=inner, effort=effort)
        found = indices.recall(model, built, form, k, SAMPLE)
        metadata["index"] = json.dumps({"kind": kind, f"recall@{k}": found})
    path.parent.mkdir(parents=True, exist_ok=True)
    names, vectors = path.with_suffix(".labels.json"), path.with_suffix(".safetensors")
    checkpoint.write(names, texts)
    if to == "npz":
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        checkpoint.replace(path, lambda file: _save_npz(file, arrays, json.dumps(metadata)))
    else:
        checkpoint.replace(vectors, lambda file: save_file(tensors, file, metadata))
    if built is None:
        return Exported((path, names), form)
    checkpoint.replace(path, lambda file: indices.write(built, file))
    return Exported((path, vectors, names), form, found, k, min(SAMPLE, model.num_users))


def _checked(path: Path, to: str, form: str | None, index: str | None, effort: int | None) -> str:
    """The form; ValueError for what does not fit, before anything is computed."""
    if to not in TARGETS:
        raise ValueError(f"to must be one of {', '.join(TARGETS)}, got {to!r}")
    if path.suffix != f".{to}":
        raise ValueError(f"the file must be named NAME.{to}, got {path.name}")
    if to == "faiss":
        indices.load_faiss()
        if form not in (None, *SEARCHED):
            raise ValueError(
                f"an index is of the form {' or '.join(SEARCHED)}: its order is that of the "
                f"distance; got {form!r}"
            )
        return form or SEARCHED[0]
    if index is not None or effort is not None:
        raise ValueError(f"index and effort are of an export to faiss, not to {to}")
    if form not in (None, *FORMS):
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    return form or "lorentz"


def _contents(model: HDRM, form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU, and the metadata as texts."""
    users, items = model.points()
    c, seen = model.config.curvature, model.graph.user_items
    scale = scale_of(items) if form == "euclidean" else None
    _, col = seen.pairs()
    tensors = {
        "users": user_vectors(users, form, c=c, scale=scale),
        "items": item_vectors(items, form, c=c),
        "seen_rowptr": seen.rowptr - seen.rowptr[0],
        "seen_col": col.int(),
    }
    metadata = {
        "format": FORMAT,
        "form": form,
        "curvature": repr(c),
        "num_users": str(model.num_users),
        "num_items": str(model.num_items),
        "omega": repr(float(model.omega)),
        "config": model.config.to_json(),
    }
    if scale is not None:
        metadata["scale"] = repr(scale)
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata


def _labels(model: HDRM, labels: Mapping[str, list]) -> bytes:
    sides = {"users": model.num_users, "items": model.num_items}
    for side, count in sides.items():
        if side in labels and len(labels[side]) != count:
            raise ValueError(f"labels: expected {count} {side}, got {len(labels[side])}")
    return json.dumps({side: labels.get(side) for side in sides}, ensure_ascii=False).encode()


def _save_npz(path: Path, arrays: Mapping[str, np.ndarray], metadata: str) -> None:
    with path.open("wb") as file:  # a name would get a suffix
        np.savez(file, metadata=np.array(metadata), **arrays)
