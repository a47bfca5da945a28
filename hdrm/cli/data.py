"""data."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from ..data.preparation import SPLITS


@click.command()
@click.argument("dataset")
@click.option("--from", "archive", type=click.Path(path_type=Path), help="A MovieLens .zip file as "
              "GroupLens publishes it; DATASET is then which one: ml-100k, ml-1m, ml-10m, ml-20m, "
              "ml-25m, ml-32m, ml-latest or ml-latest-small.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the data set into this "
              "folder, which must not exist or be empty.")  # fmt: skip
@click.option("--min-rating", type=float, help="Leave out lower ratings.  [default with --from: 4]")
@click.option("--k-core", type=click.IntRange(1), help="Leave out users and items until all have K "
              "interactions.  [default with --from: 10]")  # fmt: skip
@click.option("--split", type=click.Choice(list(SPLITS)), help="[default: time, or random where "
              "there are no times; with --from: published]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of random "
              "splits, and of the nodes that δ is taken over.")  # fmt: skip
def data(dataset, archive, out, min_rating, k_core, split, seed) -> None:
    """Describe DATASET, or prepare it and write it into a folder that `hdrm train` reads.

    \b
    hdrm data ml-1m_clean                                  sizes, popularity, how tree-like it is
    hdrm data ratings.csv --k-core 5 --split leave-one-out -o ratings/
    hdrm data ml-1m --from ml-1m.zip -o ml-1m_clean        with titles.csv

    DATASET is what `hdrm train` takes. --min-rating, --k-core and --split are for a file of
    interactions or an archive. Splits: time takes each user's first 70 % to train, 10 % to validate
    and last 20 % to test; global-time the same of all interactions at once; random the same at
    random; leave-one-out each user's last interaction to test, the one before to validate; published
    is that of ml-1m_clean as DiffRec published it: as time, but the 10 % test and the last 20 %
    validate.
    """
    from ..data import load
    from ..data.folders import refuse_occupied
    from ..data.movielens import read_titles
    from ..data.summary import summarise
    from ..data.writers import write_folder
    from ..train import report

    if out is not None:
        refuse_occupied(out, "data set")  # before anything is read
    console = Console()
    found = load(
        dataset, seed=seed, archive=archive, min_rating=min_rating, k_core=k_core, split=split
    )
    report.print_dataset(console, found)
    if out is None:
        report.print_summary(console, summarise(found, seed=seed))
        return
    write_folder(found, out, read_titles(dataset, archive) if archive else None)
    console.print(f"written: {out}", highlight=False, soft_wrap=True)
