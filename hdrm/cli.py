"""The command line: parses and prints; what is done is decided below, in hdrm.train."""

from __future__ import annotations

import subprocess
import sys
import warnings
from decimal import Decimal, InvalidOperation
from pathlib import Path

import click
from rich.console import Console

from .config import PRESETS, parse_assignments, preset_for

EPILOG = "The data sets, settings and files are described in README.md."
ERRORS = (ValueError, TypeError, OSError, RuntimeError)


def main() -> None:
    """The entry point ``hdrm``: errors are one line on stderr and exit code 2."""
    warnings.formatwarning = lambda message, *rest, **named: f"note: {message}\n"
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message())
    except click.Abort:
        sys.exit(130)
    except ERRORS as error:
        _fail(str(error))
    sys.exit(code or 0)


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(package_name="hdrm")
def cli() -> None:
    """Train, measure and use HDRM, the hyperbolic diffusion recommender model.

    \b
    hdrm train                      a generated data set, about a minute
    hdrm train ml-1m_clean          a data set by name or path
    hdrm evaluate RUN               the metrics of a run again
    hdrm recommend RUN --user 7     the items for one user
    hdrm plan DATASET               the memory that training it needs
    hdrm graph build FILE -o GRAPH  a data set in files, for 10⁷ interactions and more
    """


class _Count(click.ParamType):
    """A positive whole number, also as 1e6."""

    name = "count"

    def convert(self, value, param, ctx):
        if isinstance(value, int):
            return value
        try:
            number = Decimal(value)
            if number == number.to_integral_value() and 1 <= number < 2**63:
                return int(number)
        except InvalidOperation:
            pass
        self.fail(f"{value!r} is not a positive whole number such as 250000 or 2.5e5", param, ctx)


class _Bytes(click.ParamType):
    """An amount of memory."""

    name = "memory"

    def convert(self, value, param, ctx):
        from .memory import parse_bytes

        try:
            return value if isinstance(value, int) else parse_bytes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@cli.command()
@click.argument("dataset", default="demo")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings to start from; by "
              "default those that fit the data set's name, else the general ones.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="The run folder; it must not exist "
              "or be empty.  [default: runs/DATASET-TIME]")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, …")
@click.option("--dim", type=int, help="Width of the embeddings.")
@click.option("--epochs", type=int, help="Upper limit of epochs of each stage.")
@click.option("--seed", type=int, help="Of weights, batches and noise; the data stay the same.")
@click.option("--memory-budget", type=_Bytes(), help="Device memory that may be used, such as 8GiB "
              "(on the CPU: all memory). Settings that need less are chosen if these need "
              "more.")  # fmt: skip
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting; "
              "repeat as needed. `hdrm info --preset NAME` lists them.")  # fmt: skip
def train(dataset, preset, out, device, dim, epochs, seed, memory_budget, assignments) -> int:
    """Train both stages on DATASET and measure the result.

    DATASET is "demo" (the default: generated), a name found under $HDRM_DATA or ../shared/data, or
    a path: a folder with {train,valid,test}_list.npy, with train.txt and test.txt, with one .inter
    file, or of `hdrm graph build`; a .csv, .tsv, .parquet or .inter file of (user, item[, time]).

    The model that ranks the validation split best is kept in the run folder. Ctrl-C ends the
    training early and keeps it too.
    """
    from . import data
    from .train import Trainer, report, runs
    from .train.plan import Sizes

    console = Console()
    changes = {"seed": seed} if seed is not None else {}
    if epochs is not None:
        changes |= {"encoder_epochs": epochs, "diffusion_epochs": epochs}
    config = _config(preset or preset_for(Path(dataset).name), dim, assignments).replace(**changes)
    interactions = data.load(dataset)
    if memory_budget is not None:
        sizes = Sizes.of(interactions)
        config = _within(console, memory_budget, config, sizes, device)
    out = out or runs.default_folder(interactions.name)
    bars = report.Bars(console)
    trainer = Trainer(interactions, config, out, source=dataset, device=device, observer=bars)
    report.print_dataset(console, interactions)
    try:
        result = trainer.fit()
    finally:
        bars.close()
    if result.interrupted:
        console.print(f"stopped; the best model so far is kept: hdrm evaluate {out}")
        return 130
    console.print(report.metrics_table(f"{interactions.name}, test split", result.test))
    report.print_verdict(console, result.model)
    console.print(f"run folder: {out}", highlight=False, soft_wrap=True)
    return 0


def _config(preset, dim, assignments):
    """A preset with what the command line changes."""
    changes = parse_assignments(assignments)
    return PRESETS[preset].replace(**changes | ({"dim": dim} if dim is not None else {}))


def _within(console, budget, config, sizes, device):
    """The settings that fit a budget; prints the plan, and fails with it where none do."""
    from .train import plan, report

    found, fits = plan.fitting(config, sizes, budget, device=device)
    report.print_plan(console, found)
    if not fits:
        phase, peak = found.peak()
        raise ValueError(
            f"the training needs at least {peak / 2**20:,.0f} MiB (in the phase {phase!r}, see "
            f"above), more than the budget of {budget / 2**20:,.0f} MiB; lower dim or "
            f"encoder_batch, or raise --memory-budget"
        )
    return found.config


@cli.command()
@click.argument("dataset", required=False)
@click.option("--users", type=_Count(), help="Instead of DATASET, with --items, --interactions.")
@click.option("--items", type=_Count())
@click.option("--interactions", type=_Count(), help="For training; counts may be written 1e8.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings to start from.")
@click.option("--device", default="cuda", show_default=True, help="cpu, or a device of its own "
              "memory.")  # fmt: skip
@click.option("--dim", type=int, help="Width of the embeddings.")
@click.option("--budget", type=_Bytes(), help="Memory there is, such as 24GiB: choose settings that "
              "fit, or exit with code 2.")  # fmt: skip
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting.")
def plan(dataset, users, items, interactions, preset, device, dim, budget, assignments) -> None:
    """Print what memory a training needs, before anything is allocated."""
    from . import data
    from .train import plan, report

    counts = (users, items, interactions)
    if (dataset is None) == (None in counts):
        raise click.UsageError("give a DATASET, or --users, --items and --interactions")
    sizes = plan.Sizes(*counts) if dataset is None else plan.Sizes.of(data.load(dataset))
    config = _config(preset or preset_for(Path(dataset or "").name), dim, assignments)
    console = Console()
    if budget is not None:
        _within(console, budget, config, sizes, device)
    else:
        report.print_plan(console, plan.plan(config, sizes, device=device))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["test", "valid"]), default="test", show_default=True)
@click.option("--device", default="cpu", show_default=True)
def evaluate(run, split, device) -> None:
    """Rank all items for every user of RUN's data set and print the metrics."""
    from .train import evaluate_split, report, runs

    opened = runs.Run.open(run, device)
    dataset = opened.dataset()
    results = evaluate_split(opened.model, dataset, split)
    Console().print(report.metrics_table(f"{dataset.name}, {split} split", results))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--user", "users", multiple=True, required=True, help="A user's id as in the data; "
              "repeat for several.")  # fmt: skip
@click.option("-k", default=10, show_default=True, help="How many items.")
@click.option("--device", default="cpu", show_default=True)
def recommend(run, users, k, device) -> None:
    """Print the K nearest items of a user that are not among the user's training items."""
    from .train import report, runs

    opened = runs.Run.open(run, device)
    console = Console()
    ids = [opened.user_id(user) for user in users]
    items, distances = opened.model.recommend(ids, k)
    for user, row, lengths in zip(users, items.tolist(), distances.tolist()):
        found = [(opened.item_label(i), d) for i, d in zip(row, lengths) if i >= 0]
        console.print(report.recommendations_table(user, found))


@cli.command()
@click.option("--schedule", type=click.Choice(list(PRESETS)), metavar="PRESET", help="Print the "
              "noise schedule of a preset instead, step by step.")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Print a preset's settings "
              "instead.")  # fmt: skip
def info(schedule, preset) -> None:
    """What this installation consists of: versions, compiled code, backends, devices."""
    from . import available_backends, build_info
    from .model.diffusion import Diffusion
    from .train import report

    console = Console()
    if schedule:
        diffusion = Diffusion.from_config(PRESETS[schedule])
        console.print(report.schedule_table(f"schedule of the preset {schedule}", diffusion))
    elif preset:
        console.print(report.settings_table(f"preset {preset}", PRESETS[preset]))
    else:
        console.print(report.info_table(build_info(), available_backends()))


@cli.command()
@click.option("--full", is_flag=True, help="All tile sizes, widths and dtypes: many minutes.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the tables into a file.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to a "
              "file.")  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for Triton's code.")
def kernels(full, markdown, json_file, keep) -> int:
    """Print what the compilers made of the GPU kernels.

    Triton's are compiled for sm_80, sm_90 and sm_100; those in CUDA C++ are read from the compiled
    module, if they were built. Needs no GPU. Registers, spills, shared memory, occupancy and bytes
    moved are computed, not measured. Exit code 1: something is not as required; the last lines say
    what.
    """
    from .kernels import report

    return report.run(full, markdown, json_file, keep)


@cli.group()
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
    from .data.graph_files import build_graph

    console = Console(stderr=True)
    with console.status("") as status:
        made = build_graph(interactions, out, order=order, progress=status.update)
    console.print(
        f"{made['num_users']:,} users × {made['num_items']:,} items, {made['edges']:,} edges, "
        f"{made['duplicates_dropped']:,} repeated interactions dropped: {out}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@graph.command("generate")
@click.option("--users", type=_Count(), required=True)
@click.option("--items", type=_Count(), required=True)
@click.option("--interactions", type=_Count(), required=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="A new .parquet "
              "file.")  # fmt: skip
def graph_generate(users, items, interactions, seed, out) -> None:
    """Generate interactions with power laws and a tree of tastes; counts may be written 1e6."""
    from .data.synthetic_stream import power_law

    power_law(out, users, items, interactions, seed)
    Console(stderr=True).print(
        f"{interactions:,} interactions: {out}", highlight=False, soft_wrap=True
    )


@cli.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    options_metavar="[OPTIONS]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments) -> int:
    """Time every op beside its peers and write docs/benchmarks.

    Needs a checkout, whose benchmarks/ it runs; `hdrm bench --help` lists the options.
    """
    folder = Path(__file__).resolve().parent.parent / "benchmarks"
    if not (folder / "__main__.py").is_file():
        raise RuntimeError(
            "hdrm bench runs benchmarks/ of a checkout, and this is an installed copy; clone the "
            "sources and install them with: pip install -e '.[bench]'"
        )
    return subprocess.run([sys.executable, str(folder), *arguments], check=False).returncode
