"""The page: what is shown of a run, gathered and put into page.html."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import __version__, ops
from ..data import Dataset
from ..model import checkpoint
from ..train import evaluate_split
from ..train.evaluate import CUTOFFS, METRICS, Rank, by_distance, task, user_metrics
from ..train.report import NAMES, ROWS
from ..train.runs import Run
from . import disk, figures, groups
from .titles import read_titles

PAGE_FILE = "report.html"
K = 20  # the cutoff of groups
EXAMPLES, SHOWN = 5, 10  # users, and items of each


@dataclass(frozen=True)
class Example:
    """A user, the nearest of its training items and the recommended ones: (name, distance, hit)."""

    user: str
    trained: int
    relevant: int
    known: list[str]
    recommended: list[tuple[str, float, bool]]


def write_page(run: Run, out: Path | None = None, titles: Path | None = None) -> Path:
    """Write the page about a run as one HTML file, by default ``report.html`` in its folder.

    The same run gives the same bytes. The file is replaced in one step.

    Args:
        run: an opened run; its data are read again.
        out: the file to write.
        titles: a file of item names, see :func:`hdrm.report.titles.read_titles`.

    Returns:
        The file.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
        FileNotFoundError, IsADirectoryError: no such file of titles; ``out`` cannot be written there.
        ValueError: the data have changed; titles that cannot be read or fit no item.
    """
    out = run.folder / PAGE_FILE if out is None else Path(out)
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; name a file for the page")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} for the page does not exist")
    template = _template()
    names = _names(run, read_titles(titles), titles) if titles is not None else {}
    checkpoint.write(out, template.render(_content(run, names)).encode())
    return out


def _template():
    try:
        import matplotlib  # noqa: F401
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ImportError(
            f"the page needs {error.name}, of the extra report: pip install -e '.[report]'"
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(text)


def _names(run: Run, titles: dict[str, str], path: Path) -> dict[int, str]:
    """The titles by item."""
    labels = (run.item_label(item) for item in range(run.model.num_items))
    found = {item: titles[label] for item, label in enumerate(labels) if label in titles}
    if not found:
        raise ValueError(
            f"{path} has a title of no item of {run.folder}, whose ids are such as "
            f"{run.item_label(0)!r}"
        )
    return found


def _content(run: Run, names: dict[int, str]) -> dict:
    """The variables of page.html."""
    model, dataset, c = run.model, run.dataset(), run.model.config.curvature
    relevant, *known = task(dataset, "test")
    rank = by_distance(model.points(), *known, c=c)
    degrees = dataset.graph.rowptr.diff().numpy()
    active, popular = np.split(degrees, [dataset.num_users])
    found = dict(user_metrics(rank, relevant, (K,)))
    who = torch.nonzero(relevant.degrees)[:, 0].numpy()
    users = groups.by_activity(active[who], found[f"recall@{K}"], found[f"ndcg@{K}"])
    counts = groups.ItemCounts.of(rank, relevant, K)
    items = groups.by_popularity(popular, counts)
    picture = disk.picture(model.points()[1], c)
    spearman = _spearman(picture.distances, popular)
    return {
        "version": __version__,
        "dataset": dataset,
        "run": run.folder.resolve().name,
        "omega": float(model.omega),
        "k": K,
        "settings": dataclasses.asdict(model.config),
        "stages": _stages(run.metrics()),
        "metrics": [(metric, NAMES[metric]) for metric in METRICS],
        "cutoffs": CUTOFFS,
        "rankers": [
            (ROWS[name], of) for name, of in evaluate_split(model, dataset, "test").items()
        ],
        "users": users,
        "users_figure": _users_figure(users),
        "items": items,
        "items_figure": _items_figure(items),
        "recommended": int((counts.recommended > 0).sum()),
        "spearman": spearman,
        "radius_figure": figures.radius(
            picture.distances,
            popular,
            f"Distance to the origin of {len(popular):,} items over their training interactions; "
            f"Spearman's correlation is {spearman:.3f}",
        ),
        "distances": np.quantile(picture.distances, [0, 0.5, 1]).tolist(),
        "share": picture.share,
        "disk_figure": figures.disk(
            picture, popular, c, f"{len(popular):,} items in the Poincaré disk"
        ),
        "named": len(names),
        "examples": _examples(run, dataset, rank, names),
    }


def _stages(records: list[dict]) -> list[tuple[str, str]]:
    """Every stage that was validated, and its curves."""
    names = dict.fromkeys(record["stage"] for record in records)
    return [
        (name, figures.curves(name, [record for record in records if record["stage"] == name]))
        for name in names
    ]


def _users_figure(users: list[groups.UserGroup]) -> str:
    series = {
        f"Recall@{K}": [group.recall for group in users],
        f"NDCG@{K}": [group.ndcg for group in users],
    }
    alt = f"Recall@{K} and NDCG@{K} of groups of users; the numbers are in the table above"
    return figures.bars("activity", alt, [group.label for group in users], series)


def _items_figure(items: list[groups.ItemGroup]) -> str:
    series = {
        "share of training": [group.of_training for group in items],
        f"share of top {K}": [group.of_recommended for group in items],
        f"Recall@{K}": [group.recall or 0.0 for group in items],
    }
    alt = f"Shares and Recall@{K} of groups of items; the numbers are in the table above"
    return figures.bars("popularity", alt, [group.label for group in items], series)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their average rank; NaN if all of a side are equal."""
    import polars as pl

    return pl.select(pl.corr(pl.Series(a), pl.Series(b), method="spearman")).item()


def _examples(run: Run, dataset: Dataset, rank: Rank, names: dict[int, str]) -> list[Example]:
    """Users with training and test items, from the least active one to the most active one."""
    trained = dataset.train.degrees
    able = torch.nonzero((trained > 0) & (dataset.test.degrees > 0))[:, 0]
    by_count = able[trained[able].argsort(stable=True)]
    places = np.linspace(0, len(able) - 1, min(EXAMPLES, len(able))).round().astype(np.int64)
    users = by_count[torch.from_numpy(places)]
    if not len(users):
        return []

    def name(item: int) -> str:
        label = run.item_label(item)
        return f"{names[item]} ({label})" if item in names else label

    found = []
    for user, row in zip(users.tolist(), rank(users, min(SHOWN, dataset.num_items)).cpu()):
        known, wanted = dataset.train.row(user), set(dataset.test.row(user).tolist())
        nearest = known[_distances(run, user, known).argsort(stable=True)[:SHOWN]]
        items = row[row >= 0]
        shown = zip(items.tolist(), _distances(run, user, items).tolist())
        found.append(
            Example(
                run.user_label(user),
                len(known),
                len(wanted),
                [name(item) for item in nearest.tolist()],
                [(name(item), distance, item in wanted) for item, distance in shown],
            )
        )
    return found


def _distances(run: Run, user: int, items: Tensor) -> Tensor:
    users, points = run.model.points()
    found = ops.distance(users[user], points[items.to(points.device)], c=run.model.config.curvature)
    return found.cpu()
