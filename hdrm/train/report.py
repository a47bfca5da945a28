"""What a person sees of a training: tables and the lines around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ..config import Config, format_value
from ..data import Dataset
from ..data.summary import FEW, Summary, expectation
from ..model import HDRM
from ..model.diffusion import Diffusion
from . import plan
from .compare import Difference
from .evaluate import CUTOFFS, METRICS
from .profiling import Cost
from .trainer import CRITERION
from .tune import Found

if TYPE_CHECKING:
    from ..distributed.plan import RankPlan

NAMES = {"recall": "Recall", "ndcg": "NDCG", "precision": "Precision", "mrr": "MRR"}
ROWS = {"popularity": "popularity", "encoder": "encoder alone (ω = 0)", "hdrm": "HDRM"}


def print_space(console: Console, space: dict[str, str], *, encoder_alone: bool) -> None:
    """What a search varies."""
    stages = "the encoder's stage" if encoder_alone else "both stages"
    console.print(
        f"trials train {stages}; searched: {assigned(space)}", highlight=False, soft_wrap=True
    )


def print_found(console: Console, found: Found) -> None:
    """The best trials, what made them so, and the command that trains the best."""
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    if not found.best:
        console.print(f"no trial was trained to its end ({counts})", highlight=False)
        return
    console.print(f"the best of {sum(found.counts.values())} trials ({counts}):", highlight=False)
    table = Table()
    table.add_column("trial")
    for trial in found.best:
        table.add_column(str(trial.number), justify="right")
    values = (f"{trial.value:.4f}" for trial in found.best)
    table.add_row(f"validation {metric_name(CRITERION)}", *values, end_section=True)
    for name in found.task.space:
        table.add_row(name, *(format_value(trial.settings[name]) for trial in found.best))
    console.print(table)
    if found.importance:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in found.importance.items())
        console.print(f"importance: {shares}", highlight=False, soft_wrap=True)
    console.print("to train the best settings and measure them on the test split:")
    console.print(f"  {found.command}", highlight=False, soft_wrap=True, markup=False)


def assigned(values: dict) -> str:
    """Settings, or what a search varies, in one line."""
    return " ".join(
        f"{name}={value if isinstance(value, str) else format_value(value)}"
        for name, value in values.items()
    )


def profile_table(stage: str, costs: Sequence[Cost]) -> Table:
    """The ten most expensive ops of a stage's recorded steps."""
    table = Table(title=f"{stage}: where the time goes", title_justify="left")
    table.add_column("op")
    for column in ("calls", "ms, itself", "share"):
        table.add_column(column, justify="right")
    for cost in costs[:10]:
        table.add_row(cost.name, str(cost.calls), f"{1000 * cost.seconds:.1f}", f"{cost.share:.0%}")
    return table


def metrics_table(title: str, results: dict[str, dict[str, float]]) -> Table:
    """Rankers × metrics at every cutoff."""
    table = Table(title=title)
    table.add_column("ranker")
    table.add_column("K", justify="right")
    for metric in METRICS:
        table.add_column(NAMES[metric], justify="right")
    for ranker, metrics in results.items():
        for k in CUTOFFS:
            values = (f"{metrics[f'{metric}@{k}']:.4f}" for metric in METRICS)
            name = ROWS[ranker] if k == CUTOFFS[0] else ""
            table.add_row(name, str(k), *values, end_section=k == CUTOFFS[-1])
    return table


def comparison_table(title: str, found: dict[str, Difference]) -> Table:
    """Metrics of two runs, their difference, its 95 % interval and p-value."""
    table = Table(title=title)
    table.add_column("metric")
    for column in ("A", "B", "B − A", "95 % interval", "p"):
        table.add_column(column, justify="right")
    for metric in METRICS:
        for k in CUTOFFS:
            row = found[f"{metric}@{k}"]
            table.add_row(
                metric_name(f"{metric}@{k}"),
                f"{row.a:.4f}",
                f"{row.b:.4f}",
                _signed(row.difference),
                f"{_signed(row.low)} … {_signed(row.high)}",
                f"{row.p:.2g}",
                end_section=k == CUTOFFS[-1],
            )
    return table


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # + 0.0: nothing is shown as −0.0000


def schedule_table(title: str, diffusion: Diffusion) -> Table:
    """ᾱ_t and the reverse weights of every step."""
    table = Table(title=title)
    for column in ("t", "β", "√ᾱ", "√(1−ᾱ)", "weight of ẑ_0 in reverse", ""):
        table.add_column(column, justify="right")
    for row in diffusion.table():
        numbers = (f"{x:.4g}" for x in (row.beta, row.signal, row.noise, row.weight))
        table.add_row(str(row.t), *numbers, "" if row.acts else "does nothing")
    return table


def recommendations_table(title: str, found: Sequence[tuple[str, float]]) -> Table:
    """Items with their distances, nearest first."""
    table = Table(title=title, title_justify="left")
    for column in ("", "item", "distance"):
        table.add_column(column, justify="right")
    for place, (item, distance) in enumerate(found, 1):
        table.add_row(str(place), item, f"{distance:.4f}")
    return table


def settings_table(title: str, config: Config) -> Table:
    """The fields of a configuration."""
    return _pairs_table(title, dataclasses.asdict(config).items())


def print_plan(console: Console, found: plan.Plan) -> None:
    """The parts of a memory plan, what every phase sums to, and the settings that decide it."""
    parts = Table(title="memory of the training")
    parts.add_column("part")
    parts.add_column("MiB", justify="right")
    parts.add_column("in", style="dim")
    parts.add_column("alive", overflow="fold")
    for part in found.parts:
        where = "host" if part.host and not found.unified else ""
        alive = "always" if part.phases == plan.PHASES else ", ".join(part.phases)
        parts.add_row(part.name, _mib(part.num_bytes), where, alive)
    sums = Table(title="sums")
    sums.add_column("phase")
    sides = {"memory": False} if found.unified else {"device": False, "host": True}
    for side in sides:
        sums.add_column(f"{side}, MiB", justify="right")
    peaks = {side: found.peak(host=host) for side, host in sides.items()}
    for phase in plan.PHASES:
        sums.add_row(phase, *(_mib(found.bytes_in(phase, host=host)) for host in sides.values()))
    sums.add_section()
    sums.add_row("peak", *(_mib(size) for _, size in peaks.values()), style="bold")
    console.print(parts)
    console.print(sums)
    config = found.config
    settings = f"propagation={config.propagation}, micro_batches={config.micro_batches}"
    settings += f", work_tables={config.work_tables}, tables_on={config.tables_on}"
    if config.propagation == "sampled":
        settings += f", fanouts={','.join(map(str, config.fanouts))}"
    console.print(f"for {settings}", highlight=False, soft_wrap=True)


def print_rank_plan(console: Console, found: RankPlan) -> None:
    """The memory plan of one of several devices, and what it receives of the others."""
    shares = found.shares
    console.print(
        f"one of {shares.size} devices, in {shares.rows} groups of users × {shares.cols} slices of "
        f"columns: the one that needs the most",
        highlight=False,
        soft_wrap=True,
    )
    print_plan(console, found.memory)
    table = Table(title="received from others by the device that receives the most")
    for column in ("", "what"):
        table.add_column(column)
    table.add_column("MiB", justify="right")
    for when, parts in found.received.items():
        for first, (what, size) in enumerate(parts.items()):
            about = "" if what in found.exact else "about "
            table.add_row("" if first else when, what, about + _mib(size))
        table.add_row("", "together", _mib(sum(parts.values())), style="bold", end_section=True)
    console.print(table)
    if not shares.exact:
        console.print(
            "halos are those of items that are equally popular: of others they are smaller",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"the first process needs {_mib(found.saving)} MiB of host memory more while it saves the model",
        highlight=False,
        soft_wrap=True,
    )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f}"


def info_table(build: dict, backends: dict[str, str]) -> Table:
    """The installation: what hdrm.build_info() and available_backends() say."""
    rows = []
    for name, value in build.items():
        if isinstance(value, dict):
            rows += [(f"{name} {key}", part) for key, part in value.items()]
        else:
            rows.append((name, ", ".join(value) if isinstance(value, list) else value))
    rows += [(f"backend {name}", state) for name, state in backends.items()]
    return _pairs_table("hdrm", rows)


def print_dataset(console: Console, dataset: Dataset) -> None:
    """Sizes of a data set, and its notes one a line."""
    train, valid, test = dataset.sizes.values()
    console.print(
        f"{dataset.name}: {dataset.num_users:,} users × {dataset.num_items:,} items, "
        f"{train:,} / {valid:,} / {test:,} interactions to train / validate / test",
        highlight=False,
        soft_wrap=True,
    )
    for note in dataset.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def print_summary(console: Console, summary: Summary) -> None:
    """The figures of a data set, and one sentence on what they let one expect."""
    rows = [
        ("interactions in all splits", f"{sum(summary.sizes.values()):,}"),
        ("density", f"{summary.density:.3%}"),
    ]
    for side, degrees in (("user", summary.users), ("item", summary.items)):
        none, few = (
            f"{count:,} ({count / degrees.size:.1%})" for count in (degrees.none, degrees.few)
        )
        rows += [
            (
                f"training interactions of {side}s",
                f"median {degrees.median:g}, most {degrees.largest:,}",
            ),
            (f"{side}s with none; fewer than {FEW}", f"{none}; {few}"),
        ]
    rows.append(("Gini coefficient of item popularity", f"{summary.gini:.2f}"))
    if summary.tail is not None:
        tail = summary.tail
        fit = f"α = {tail.exponent:.2f} from k = {tail.start:,}, {tail.share:.0%} of items"
        rows.append(("its tail as a power law k^−α", fit))
        rows.append(("distance of that fit (KS)", f"{tail.gap:.3f}"))
    if summary.hyperbolicity is not None:
        found = summary.hyperbolicity
        rows += [
            ("Gromov δ: largest, mean", f"{found.delta:g}, {found.mean:.2f} ({found.nodes} nodes)"),
            ("δ_rel = 2δ / diameter", f"{found.relative:.2f}, diameter {found.diameter}"),
        ]
    console.print(_pairs_table("summary", rows))
    console.print(expectation(summary), highlight=False, soft_wrap=True)


def print_stopped(console: Console, run: Path, going_on: str) -> None:
    """What can be done with a run that was stopped; going_on: what continues it."""
    lines = (
        f"stopped; to go on: {going_on}",
        f"the best model so far is kept: hdrm evaluate {run}",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def metric_name(metric: str) -> str:
    """As people write it: "NDCG@20" of "ndcg@20"."""
    name, at, k = metric.partition("@")
    return NAMES[name] + at + k


def print_verdict(console: Console, model: HDRM) -> None:
    """What the diffusion contributes to the model."""
    omega, config = float(model.omega), model.config
    if omega:
        how = "chosen on validation" if config.omega is None else "as it was set"
        text = f"the diffusion's weight, {how}, is ω = {omega:g}"
    elif config.omega is None and config.diffusion_epochs:
        metric = metric_name(CRITERION)
        text = f"the diffusion did not improve the validation {metric}: ω = 0, the encoder ranks"
    else:
        text = "ω = 0: the encoder ranks, without diffusion"
    console.print(text, highlight=False)


def _pairs_table(title: str, rows: Iterable[tuple[str, object]]) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(name, str(value))
    return table
