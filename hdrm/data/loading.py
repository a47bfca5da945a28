"""Finding and reading a data set: the one function behind every DATASET argument."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from hdrm.data import splits as splitting
from hdrm.data.datasets import MAX_NODES, Dataset
from hdrm.data.graph_files import MANIFEST_FILE, load_graph, load_ids
from hdrm.data.movielens import read_ratings
from hdrm.data.preparation import prepare
from hdrm.data.readers import (
    LABELS_FILE,
    Labels,
    read_labels,
    read_lightgcn_folder,
    read_npy_folder,
)
from hdrm.data.splits import Splits
from hdrm.data.synthetic import demo
from hdrm.data.tables import SUFFIXES, read_table

# How the published ml-1m_clean was made; see hdrm.data.splits.by_time_as_published.
PUBLISHED = {"min_rating": 4.0, "k_core": 10, "split": "published"}


def load(
    source: str | os.PathLike[str],
    *,
    seed: int = 0,
    archive: str | os.PathLike[str] | None = None,
    min_rating: float | None = None,
    k_core: int | None = None,
    split: str | None = None,
) -> Dataset:
    """A data set from ``"demo"``, a path, or the name of something under ``$HDRM_DATA``.

    source: ``"demo"`` (generated); a folder with ``{train,valid,test}_list.npy``, with LightGCN's
    ``train.txt``/``test.txt``, with one ``.inter`` file, or of ``hdrm graph build``; a ``.csv``,
    ``.tsv``, ``.parquet`` or ``.inter`` file; or a name looked up in ``$HDRM_DATA`` and
    ``../shared/data``.
    seed: of the generated data and of random splits. A given split is never changed by it.
    archive: a MovieLens .zip file; ``source`` is then the name of the set in it, such as "ml-1m".
    min_rating, k_core, split: of a file or an archive, which interactions count and how they are
    split, see ``hdrm.data.preparation.prepare``. A file is taken whole unless they say otherwise, an
    archive prepared as the published ml-1m_clean: ratings from 4, the 10-core, split "published".

    Where the source has no split: by time per user, 70/10/20, if there is a time column, else
    at random per user 70/10/20. Where only validation is missing: 10 % of each user's training
    items. Repeated pairs are collapsed, across splits in favour of train, then valid.

    ``load("ml-1m", archive="ml-1m.zip")`` was not seen to give ml-1m_clean, as the archive was not at
    hand. Seen was that the published files are a 10-core, and that the same sets come back from an
    archive written of them, with times in their order. The numbers of users and items follow their
    ids, the published ones do not; ratings of one second stay in the archive's order, which may move
    some between the splits. The counts depend on neither. No options give ml-1m_noisy: it has the
    same test set, 65 % of the clean training interactions and some with lower ratings, drawn at
    random, and how is not published.

    What is read as pairs takes some 50 bytes an interaction meanwhile, a graph's folder 20.

    Raises FileNotFoundError (listing the places searched) and ValueError.
    """
    chosen = {"min_rating": min_rating, "k_core": k_core, "split": split}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if source == "demo" and archive is None:
        _refuse(chosen, "demo")
        return demo(seed=seed)
    path = locate(source) if archive is None else Path(archive)
    try:
        if archive is not None:
            return _load_archive(os.fspath(source), path, seed, chosen)
        return _load_path(path, seed, chosen)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _load_path(path: Path, seed: int, chosen: dict) -> Dataset:
    if path.is_file():
        return _load_table(path, seed, chosen)
    listed = any((path / f"{name}_list.npy").exists() for name in ("train", "valid", "test"))
    texts = (path / "train.txt").exists() or (path / "test.txt").exists()
    inter = sorted(path.glob("*.inter"))
    graph = (path / MANIFEST_FILE).exists()
    if len(inter) == 1 and not (graph or listed or texts):
        return _load_table(inter[0], seed, chosen)
    _refuse(chosen, path)
    if graph:
        return _load_graph(path, seed)
    if listed:
        return _load_split(path, read_npy_folder(path), seed, labels=read_labels(path))
    if texts:
        splits, num_users = read_lightgcn_folder(path)
        return _load_split(path, splits, seed, num_users=num_users)
    raise ValueError(
        f"{path} is no data set: expected {{train,valid,test}}_list.npy, train.txt and test.txt, "
        f"one .inter file, or what `hdrm graph build` writes, found {_listing(path)}"
    )


def _refuse(chosen: dict, source) -> None:
    if chosen:
        raise ValueError(
            f"{source} is no file of interactions, and {', '.join(chosen)} cannot be applied to it; "
            f"give a file {', '.join(SUFFIXES)}, or a MovieLens archive"
        )


def locate(source: str | os.PathLike[str]) -> Path:
    """The path of a data set that ``load`` reads; FileNotFoundError lists the places searched."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    if path.is_absolute():
        raise FileNotFoundError(f"{path} does not exist; give a data set's folder, file or name")
    repository = Path(__file__).resolve().parents[2]
    roots = [Path.cwd().parent / "shared" / "data", repository.parent / "shared" / "data"]
    if os.environ.get("HDRM_DATA"):
        roots.insert(0, Path(os.environ["HDRM_DATA"]).expanduser())
    for root in roots:
        if (root / path).exists():
            return root / path
    searched = "; ".join(
        f"{root} ({_listing(root) if root.is_dir() else 'no such folder'})"
        for root in dict.fromkeys(roots)
    )
    raise FileNotFoundError(
        f"no data set {os.fspath(source)!r}: it is not 'demo', no such file or folder exists, and "
        f"it is not in {searched}; give a path or set HDRM_DATA"
    )


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "") or "nothing"


def _load_split(
    path: Path, splits: Splits, seed: int, *, num_users: int = 0, labels: Labels = (None, None)
) -> Dataset:
    train, valid, test = splits
    for name, pairs in (("train", train), ("test", test)):
        if not len(pairs):
            raise ValueError(f"{path}: the {name} split is empty")
    sizes = [1 + max(int(s[:, side].max(initial=-1)) for s in splits) for side in (0, 1)]
    sizes[0] = max(sizes[0], num_users)
    for side, known in enumerate(labels):
        if known is not None:
            if sizes[side] > len(known):
                what = ("users", "items")[side]
                raise ValueError(
                    f"{path / LABELS_FILE} has {len(known)} {what}, and the lists have "
                    f"{sizes[side]}; prepare the data again with: hdrm data"
                )
            sizes[side] = len(known)
    if sum(sizes) > MAX_NODES:
        raise ValueError(
            f"{path}: the largest ids imply {sizes[0]} users and {sizes[1]} items, together "
            f"more than {MAX_NODES}; renumber the ids from 0"
        )
    (train, valid, test), notes = splitting.make_disjoint((train, valid, test))
    if not len(valid):
        train, valid = splitting.carve_validation(train, seed)
        notes.append(
            f"no validation split: {len(valid):,} training interactions (10 % of each user's, "
            f"seed {seed}) were set aside"
        )
    name = path.resolve().name
    return _with_notes(Dataset.from_pairs(name, *sizes, train, valid, test, *labels, tuple(notes)))


def _load_table(path: Path, seed: int, chosen: dict) -> Dataset:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a file {', '.join(SUFFIXES)}, got {path.suffix!r}")
    table = read_table(path, ratings="min_rating" in chosen)
    return _with_notes(prepare(path.stem, table, seed=seed, **chosen))


def _load_archive(name: str, path: Path, seed: int, chosen: dict) -> Dataset:
    return _with_notes(prepare(name, read_ratings(name, path), seed=seed, **PUBLISHED | chosen))


def _load_graph(path: Path, seed: int) -> Dataset:
    labels = load_ids(path)
    splits = splitting.of_graph(load_graph(path), seed)
    return _with_notes(Dataset(path.resolve().name, *splits, *labels, (split_note(seed),)))


def split_note(seed: int) -> str:
    """The note of a graph that was split."""
    return f"split at random per user, 70/10/20, seed {seed}"


def _with_notes(dataset: Dataset) -> Dataset:
    """The data set with notes that count the users and items without training interactions."""
    sizes = dataset.num_users, dataset.num_items
    more = notes_on_missing(dataset.without_training(), sizes)
    return dataclasses.replace(dataset, notes=(*dataset.notes, *more))


def notes_on_missing(missing: tuple[int, int], sizes: tuple[int, int]) -> list[str]:
    """Of users and items: how many have no training interactions, of how many."""
    return [
        f"{count:,} of {size:,} {what} have no training interactions; they are ranked all the same"
        for count, size, what in zip(missing, sizes, ("users", "items"))
        if count
    ]
