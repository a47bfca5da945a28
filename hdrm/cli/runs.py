"""What is said about a run folder: evaluate, compare, report."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["test", "valid"]), default="test", show_default=True)
@click.option("--device", default="cpu", show_default=True)
def evaluate(run, split, device) -> None:
    """Rank all items for every user of RUN's data set and print the metrics."""
    from ..train import evaluate_split, report, runs

    opened = runs.Run.open(run, device)
    dataset = opened.dataset()
    results = evaluate_split(opened.model, dataset, split)
    Console().print(report.metrics_table(f"{dataset.name}, {split} split", results))


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["test", "valid"]), default="test", show_default=True)
@click.option("--resamples", type=click.IntRange(1), default=10_000, show_default=True, help="Of "
              "the users, with replacement.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the "
              "resamples.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True)
def compare(run_a, run_b, split, resamples, seed, device) -> None:
    """Say by how much RUN_B ranks better than RUN_A, and how sure that is.

    Both must be runs on the same data. The 95 % interval and the two-sided p-value of every metric
    are those of a paired bootstrap over the users: they say whether the difference could be one of
    the users drawn, not whether another seed of the training would show it. Each p is of one metric
    alone.
    """
    from ..train import report, runs
    from ..train.compare import compare_runs

    opened = [runs.Run.open(folder, device) for folder in (run_a, run_b)]
    found, users = compare_runs(*opened, split, resamples=resamples, seed=seed)
    title = f"{opened[0].description['name']}, {split} split, {users:,} users"
    console = Console()
    console.print(f"A: {run_a}\nB: {run_b}", highlight=False, soft_wrap=True)
    console.print(report.comparison_table(title, found))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--titles", type=click.Path(path_type=Path), help="Names of items: lines of id and "
              "title, separated by commas, tabs or '::'. Ids are those of the data set's "
              "files.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The page.  [default: "
              "RUN/report.html]")  # fmt: skip
@click.option("--device", default="cpu", show_default=True)
def report(run, titles, out, device) -> None:
    """Write a page about RUN: curves, metrics, groups, geometry, examples.

    One HTML file without references to others. Needs the extra report: pip install -e
    '.[report]'.
    """
    from ..report import write_page
    from ..train import runs

    written = write_page(runs.Run.open(run, device), out, titles)
    Console().print(f"page: {written}", highlight=False, soft_wrap=True)
