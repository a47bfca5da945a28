"""train, tune, plan."""

from __future__ import annotations

import warnings
from pathlib import Path

import click
from rich.console import Console

from ..config import PRESETS, parse_assignments, preset_for
from .options import Bytes, Count


@click.command()
@click.argument("dataset", default="demo")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings to start from; by "
              "default best, or large where users × items are very many for the device.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="The run folder; it must not exist "
              "or be empty.  [default: runs/DATASET-TIME]")  # fmt: skip
@click.option("--encoder", type=click.Path(path_type=Path), metavar="RUN", help="Take the encoder of "
              "a run on the same data and train the second stage alone.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, …")
@click.option("--dim", type=int, help="Width of the embeddings.")
@click.option("--epochs", type=int, help="Upper limit of epochs of each stage.")
@click.option("--seed", type=int, help="Of weights, batches and noise; the data stay the same.")
@click.option("--memory-budget", type=Bytes(), help="Device memory that may be used, such as 8GiB "
              "(on the CPU: all memory). Settings that need less are chosen if these need "
              "more.")  # fmt: skip
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, "
              "also one that --dim, --epochs or --seed gives another value; repeat as needed. "
              "`hdrm info --preset NAME` lists them.")  # fmt: skip
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue a run that "
              "was stopped or killed, to the result that it would have had. Everything else comes from "
              "the run.")  # fmt: skip
@click.option("--log", type=click.Choice(["tensorboard"]), help="Beside metrics.jsonl, write events "
              "into RUN/tensorboard; a run that has some goes on to. Needs the extra "
              "tensorboard.")  # fmt: skip
@click.option("--mesh", metavar="RxC", help="Under torchrun: R groups that share the users, and C "
              "slices of the columns.  [default: all processes share the users]")  # fmt: skip
@click.option("--profile", is_flag=True, help="Record some steps of each stage: a Chrome trace in "
              "the run folder, and a table of the ten most expensive ops.")  # fmt: skip
@click.pass_context
def train(
    context, dataset, preset, out, encoder, device, dim, epochs, seed, memory_budget, assignments,
    resume, log, mesh, profile,
) -> int:  # fmt: skip
    """Train both stages on DATASET and measure the result.

    DATASET is "demo" (the default: generated), a name found under $HDRM_DATA or ../shared/data, or
    a path: a folder with {train,valid,test}_list.npy, with train.txt and test.txt, with one .inter
    file, or of `hdrm data` or `hdrm graph build`; a .csv, .tsv, .parquet or .inter file of (user, item[, time]).

    The model that ranks the validation split best is kept in the run folder. Ctrl-C (exit code 130)
    and SIGTERM (143) end the training early and keep it too; --resume goes on.

    Several processes train together where torchrun starts them, with --device cpu or cuda:
    torchrun --nproc-per-node 4 -m hdrm train DATASET --out RUN. Each holds a part of the table and of
    the graph. When processes were restarted, the same command goes on with RUN, with other numbers of
    processes too; so --out is needed. Ctrl-C and SIGTERM to torchrun stop them as one.
    """
    from ..distributed import launch

    given = {"assignments": assignments, "dim": dim, "epochs": epochs, "seed": seed}
    if launch.started():
        if resume is not None or memory_budget is not None:
            raise click.UsageError(
                "under torchrun there are no --resume and --memory-budget: the same command goes on "
                "with the run in --out"
            )
        if out is None:
            raise click.UsageError(
                "under torchrun name the run folder with --out: there processes that are started "
                "again go on"
            )
        return _train_together(dataset, preset, given, out, encoder, device, mesh, log, profile)
    if mesh is not None:
        raise click.UsageError("--mesh is of several processes; torchrun starts them")
    if resume is not None:
        return _resume(context, resume, log, profile)
    from .. import data
    from ..train import Trainer, runs
    from ..train.plan import Sizes

    changes, console = _changes(**given), Console()
    interactions = data.load(dataset)
    config = PRESETS[preset or _preset_of(interactions, device)].replace(**changes)
    if memory_budget is not None:
        sizes = Sizes.of(interactions)
        config = _within(console, memory_budget, config, sizes, device)
    out = out or runs.default_folder(interactions.name)
    observer, profiled = _observers(console, out, log, profile)
    trainer = Trainer(
        interactions, config, out, source=dataset, device=device, observer=observer, encoder=encoder
    )
    return _fit(console, trainer, profiled)


def _train_together(dataset, preset, given, out, encoder, device, mesh, log, profile) -> int:
    """As train, by one of the processes that torchrun has started."""
    from ..distributed import data, launch
    from ..distributed.training import open_trainer

    with launch.joined(device, mesh) as world:
        if world.rank > 0:
            warnings.simplefilter("ignore")  # the first process says the same
        changes = _changes(**given)  # here, where one tells a mistake
        interactions = data.load(dataset, world)
        config = PRESETS[preset or _preset_of(interactions, device)].replace(**changes)
        console, observer, profiled = Console(quiet=world.rank > 0), None, None
        if world.rank == 0:
            observer, profiled = _observers(console, out, log, profile)
        trainer = open_trainer(
            interactions, config, out, source=dataset, observer=observer, encoder=encoder
        )
        if trainer is None:
            console.print(f"{out} is finished: hdrm evaluate {out}", highlight=False)
            return 0
        return _fit(console, trainer, profiled)


def _observers(console, run, log, profile):
    """What watches the training; and of that the profile, or None."""
    from ..train.observer import Observers
    from ..train.profiling import Profile
    from ..train.progress import Bars
    from ..train.tensorboard import TensorBoard

    profiled = Profile(run) if profile else None
    events = TensorBoard(run) if log == "tensorboard" else None
    found = (Bars(console), events, profiled)
    return Observers(*(one for one in found if one is not None)), profiled


def _resume(context, run, log, profile) -> int:
    """Continue a run; options that would change it are refused."""
    from ..train import Trainer, runs, tensorboard

    given = click.core.ParameterSource.COMMANDLINE
    others = [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name) is given
        and parameter.name not in ("resume", "log", "profile")
    ]
    if others:
        raise click.UsageError(
            f"--resume takes everything from the run; leave out {', '.join(others)}"
        )
    console = Console()
    if runs.is_finished(run):
        console.print(f"{run} is finished: hdrm evaluate {run}", highlight=False, soft_wrap=True)
        return 0
    if log is None and tensorboard.continues(run):
        log = "tensorboard"
    observer, profiled = _observers(console, run, log, profile)
    return _fit(console, Trainer.resume(run, observer=observer), profiled)


def _fit(console, trainer, profiled) -> int:
    """Train and print what came of it; the exit code."""
    from ..train import report

    dataset, run = trainer.dataset, trainer.run
    report.print_dataset(console, dataset)
    result = trainer.fit()
    for stage, costs in profiled.found.items() if profiled else ():
        console.print(report.profile_table(stage, costs))
    if result.interrupted:
        report.print_stopped(console, run, trainer.team.going_on(run))
        return 128 + result.interrupted
    console.print(report.metrics_table(f"{dataset.name}, test split", result.test))
    report.print_verdict(console, result.model)
    console.print(f"run folder: {run}", highlight=False, soft_wrap=True)
    return 0


def _preset_of(dataset, device):
    """The name of the preset for a data set on a device."""
    return preset_for(dataset.name, dataset.num_users, dataset.num_items, device)


def _changes(assignments, *, dim=None, epochs=None, seed=None):
    """What the command line changes of a preset; --set has the last word."""
    options = {"dim": dim, "encoder_epochs": epochs, "diffusion_epochs": epochs, "seed": seed}
    given = {name: value for name, value in options.items() if value is not None}
    return given | parse_assignments(assignments)


def _within(console, budget, config, sizes, device):
    """The settings that fit a budget; prints the plan, and fails with it where none do."""
    from ..train import plan, report

    found, fits = plan.fitting(config, sizes, budget, device=device)
    report.print_plan(console, found)
    if not fits:
        phase, peak = found.peak()
        other = "take --preset large, " if config.loss == "softmax" else ""
        raise ValueError(
            f"the training needs at least {peak / 2**20:,.0f} MiB (in the phase {phase!r}, see "
            f"above), more than the budget of {budget / 2**20:,.0f} MiB; {other}lower "
            f"dim or encoder_batch, or raise --memory-budget"
        )
    return found.config


@click.command()
@click.argument("dataset", default="demo")
@click.option("--search", "wanted", multiple=True, metavar="FIELD[,FIELD] or FIELD=VALUES",
              help="What to vary: fields, `encoder`, `diffusion` (what that stage alone reads), or a "
              "field with its values: LOW:HIGH, 0.5x:2x of the preset's, or a,b,c; repeat as "
              "needed.  [default: encoder]")  # fmt: skip
@click.option("--trials", type=click.IntRange(min=1), help="How many to make.  [default: 30, with "
              "--minutes no limit]")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="After which no trial "
              "begins; the one that runs is finished.")  # fmt: skip
@click.option("--study", type=click.Path(path_type=Path), help="The search's folder; the search in "
              "it is continued.  [default: runs/tune-DATASET]")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings to start from.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, …")
@click.option("--seed", type=int, help="Of every training, and of the search.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting, "
              "the same in all trials.")  # fmt: skip
def tune(dataset, wanted, trials, minutes, study, preset, device, seed, assignments) -> int:
    """Search for settings that rank DATASET's validation split better.

    DATASET is as of `hdrm train`. The first trial is the preset itself; trials below the median are
    ended early. The test split is not looked at. Ctrl-C ends the search, the same command continues
    it, even after the process was killed. The command that trains the best settings is printed at
    the end, and is in best.json of the search's folder after every trial.

    Needs Optuna: pip install 'hdrm[tune]'
    """
    from .. import data
    from ..train import report, search_folder, space
    from ..train import tune as tuning
    from ..train.progress import TrialBars

    interactions = data.load(dataset)
    preset = preset or _preset_of(interactions, device)
    config = PRESETS[preset].replace(**_changes(assignments, seed=seed))
    searched = space.search_space(config, wanted)
    task = search_folder.Task(interactions, dataset, preset, config, searched, device)
    folder = study or search_folder.default_folder(interactions.name)
    if trials is None and minutes is None:
        trials = 30
    console = Console()
    report.print_dataset(console, interactions)
    report.print_space(console, searched, encoder_alone=task.encoder_alone)
    bars = TrialBars(console)
    try:
        found = tuning.tune(task, folder, trials=trials, minutes=minutes, observer=bars)
    finally:
        bars.close()
    report.print_found(console, found)
    where = "stopped; the same command goes on in" if found.interrupted else "search folder:"
    console.print(f"{where} {folder}", highlight=False, soft_wrap=True)
    return 130 if found.interrupted else 0


@click.command()
@click.argument("dataset", required=False)
@click.option("--users", type=Count(), help="Instead of DATASET, with --items, --interactions.")
@click.option("--items", type=Count())
@click.option("--interactions", type=Count(), help="For training; counts may be written 1e8.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings to start from.")
@click.option("--device", default="cuda", show_default=True, help="cpu, or a device of its own "
              "memory.")  # fmt: skip
@click.option("--dim", type=int, help="Width of the embeddings.")
@click.option("--budget", type=Bytes(), help="Memory there is, such as 24GiB: choose settings that "
              "fit, or exit with code 2.")  # fmt: skip
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting.")
@click.option("--devices", type=click.IntRange(min=1), help="How many processes of torchrun train "
              "together: what one of them needs, and receives.")  # fmt: skip
@click.option("--mesh", metavar="RxC", help="How they are arranged, as of `hdrm train`.  [default: all "
              "share the users]")  # fmt: skip
def plan(
    dataset, users, items, interactions, preset, device, dim, budget, assignments, devices, mesh,
) -> None:  # fmt: skip
    """Print what memory a training needs, before anything is allocated.

    With --devices or --mesh: of one of several devices, and the bytes that it receives in a step. With a
    DATASET what devices have of each other is counted in it; from counts it is an expectation, at most.
    """
    from .. import data
    from ..train import plan, report

    several = devices is not None or mesh is not None
    if several and budget is not None:
        raise click.UsageError(
            "--budget chooses settings of one device: leave it out, or --devices"
        )
    counts = (users, items, interactions)
    if (dataset is None) == (None in counts):
        raise click.UsageError("give a DATASET, or --users, --items and --interactions")
    if dataset is None:
        sizes, fitting = plan.Sizes(*counts), preset_for("", users, items, device)
    else:
        interactions = data.load(dataset)
        sizes, fitting = plan.Sizes.of(interactions), _preset_of(interactions, device)
    config = PRESETS[preset or fitting].replace(**_changes(assignments, dim=dim))
    console = Console()
    if several:
        from ..distributed import plan as together
        from ..distributed.shares import Shares

        shape = together.mesh_of(devices, mesh)
        expected = dataset is None
        shares = Shares.expected(sizes, *shape) if expected else Shares.of(interactions, *shape)
        report.print_rank_plan(console, together.plan(config, sizes, shares, device=device))
        return
    if budget is not None:
        _within(console, budget, config, sizes, device)
    else:
        report.print_plan(console, plan.plan(config, sizes, device=device))
