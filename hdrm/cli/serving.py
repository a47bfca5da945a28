"""What a trained model is used for: recommend, similar, export."""

from __future__ import annotations

import csv
from pathlib import Path

import click
from rich.console import Console


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--user", "users", multiple=True, help="A user's id as in the data; repeat for "
              "several.")  # fmt: skip
@click.option("--items", help="Instead of a user: items of a new one, ids as in the data, separated "
              "by commas.")  # fmt: skip
@click.option("--users-file", type=click.Path(path_type=Path), help="Users' ids, one a line.")
@click.option("--all", "everyone", is_flag=True, help="All users.")
@click.option("-k", default=10, show_default=True, help="How many items.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write a .csv or .parquet table: "
              "user, rank, item, distance.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True)
def recommend(run, users, items, users_file, everyone, k, out, device) -> None:
    """The K nearest items of users, without the items that they were trained with.

    --items recommends to a user who is not in the data, from the items that the user likes.
    """
    from ..export import write_lists
    from ..train import runs

    if sum(map(bool, (users, items, users_file, everyone))) != 1:
        raise click.UsageError("give one of --user, --items, --users-file and --all")
    if items and out:
        raise click.UsageError("-o is for users of the data; --items prints")
    if (users_file or everyone) and not out:
        raise click.UsageError("--users-file and --all need -o FILE")
    opened = runs.Run.open(run, device)
    if items:
        ids = [opened.item_id(item) for item in _separated(items)]
        _print(opened, [f"user with {items}"], *opened.model.recommend_for([ids], k))
        return
    names = runs.read_ids(users_file) if users_file else users
    ids = None if everyone else [opened.user_id(name) for name in names]
    if out is None:
        _print(opened, [f"user {user}" for user in users], *opened.model.recommend(ids, k))
        return
    count = write_lists(opened.model, ids, k, out, labels=opened.labels)
    _say(f"up to {k} items of {count:,} users: {out}")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--item", "items", multiple=True, required=True, help="An item's id as in the data; "
              "repeat for several.")  # fmt: skip
@click.option("-k", default=10, show_default=True, help="How many items.")
@click.option("--device", default="cpu", show_default=True)
def similar(run, items, k, device) -> None:
    """Print the K items nearest to an item."""
    from ..train import runs

    opened = runs.Run.open(run, device)
    ids = [opened.item_id(item) for item in items]
    _print(opened, [f"near item {item}" for item in items], *opened.model.similar_items(ids, k))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="safetensors|npz|faiss")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="NAME.safetensors, "
              "NAME.npz or NAME.faiss; replaced if it exists, with the files beside it.")  # fmt: skip
@click.option("--form", metavar="tangent|lorentz|inner-product|euclidean", help="Of the vectors.  "
              "[default: lorentz; for an index euclidean]")  # fmt: skip
@click.option("--index", metavar="flat|hnsw|ivf", help="With faiss.  [default: hnsw]")
@click.option("--effort", type=int, help="With faiss, what a search takes: efSearch of hnsw, nprobe "
              "of ivf.")  # fmt: skip
@click.option("-k", default=10, show_default=True, help="The recall@K of an index is measured.")
@click.option("--device", default="cpu", show_default=True)
def export(run, to, out, form, index, effort, k, device) -> None:
    """Write users and items as vectors, or an index of the items, for other systems.

    The files hold the users' training items too, which a recommender leaves out, and the original
    ids. docs/serving.md says what a form is ranked by.
    """
    from .. import export as exports
    from ..train import runs

    opened = runs.Run.open(run, device)
    made = exports.export(
        opened.model, out, to=to, form=form, index=index, effort=effort, k=k, labels=opened.labels
    )
    _say(f"{made.form}: {', '.join(map(str, made.files))}")
    if made.recall is not None:
        _say(
            f"recall@{made.k} against the exact ranking: {made.recall:.4f} "
            f"({made.users:,} users, their training items left out)"
        )


def _separated(text: str) -> list[str]:
    """1, 5, 9 of "1, 5,9"; an id with a comma is quoted as in a .csv file."""
    return [
        part.strip() for part in next(csv.reader([text], skipinitialspace=True)) if part.strip()
    ]


def _print(run, titles, items, distances) -> None:
    from ..train import report

    console = Console()
    for title, row, lengths in zip(titles, items.tolist(), distances.tolist()):
        found = [(run.item_label(i), d) for i, d in zip(row, lengths) if i >= 0]
        console.print(report.recommendations_table(title, found))


def _say(text: str) -> None:
    Console().print(text, highlight=False, soft_wrap=True)
