"""graph build, graph generate."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from .options import Count


@click.group()
def graph() -> None:
    """Build graphs in files: data sets that `hdrm train` reads in less memory."""


@graph.command("build")
@click.argument("interactions", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The graph's "
              "folder; it must not exist or be empty.")  # fmt: skip
@click.option("--order", type=click.Choice(["locality", "none"]), default="locality",
              show_default=True, help="Number nodes with common neighbours close to each other, or "
              "as their ids are sorted.")  # fmt: skip
def graph_build(interactions, out, order) -> None:
    """Build the graph of INTERACTIONS, a .parquet, .csv, .tsv or .inter file, in a folder.

    Columns are found as `hdrm train` finds them; times are ignored, repeated pairs count once. The
    file is streamed: memory stays below twice the graph's size. `hdrm train OUT` trains on it.
    """
    from ..data.graph_files import build_graph

    console = Console(stderr=True)
    with console.status("") as status:
        made = build_graph(interactions, out, order=order, progress=status.update)
    console.print(
        f"{made['num_users']:,} users × {made['num_items']:,} items, {made['edges']:,} edges, "
        f"{made['duplicates_dropped']:,} repeated interactions dropped: {out}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@graph.command("generate")
@click.option("--users", type=Count(), required=True)
@click.option("--items", type=Count(), required=True)
@click.option("--interactions", type=Count(), required=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="A new .parquet "
              "file.")  # fmt: skip
def graph_generate(users, items, interactions, seed, out) -> None:
    """Generate interactions with power laws and a tree of tastes; counts may be written 1e6."""
    from ..data.synthetic_stream import power_law

    power_law(out, users, items, interactions, seed)
    Console(stderr=True).print(
        f"{interactions:,} interactions: {out}", highlight=False, soft_wrap=True
    )
