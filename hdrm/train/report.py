"""What a person sees: progress bars and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..config import Config, format_value
from ..data import Dataset
from ..data.summary import FEW, Summary, expectation
from ..model import HDRM
from ..model.diffusion import Diffusion
from . import plan
from .compare import Difference
from .evaluate import CUTOFFS, METRICS
from .trainer import CRITERION, Observer
from .tune import Found, SearchObserver, Trial

NAMES = {"recall": "Recall", "ndcg": "NDCG", "precision": "Precision", "mrr": "MRR"}
ROWS = {"popularity": "popularity", "encoder": "encoder alone (ω = 0)", "hdrm": "HDRM"}


class Bars(Observer):
    """One progress bar per stage with loss and speed, one line per validation."""

    transient = False  # whether a bar disappears when its stage has ended

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    def stage(self, name: str, epochs: int, steps_per_epoch: int) -> None:
        self.close()
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]:.0f}/{task.fields[epochs]}"),
            TextColumn("loss {task.fields[loss]:.5g}"),
            TextColumn("{task.fields[speed]:.1f} steps/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=self.transient,
            disable=self.transient and not self._console.is_terminal,
        )
        self._steps_per_epoch = steps_per_epoch
        self._task = self._progress.add_task(
            name,
            total=max(epochs * steps_per_epoch, 1),
            epoch=0,
            epochs=epochs,
            loss=float("nan"),
            speed=0.0,
        )
        self._earlier = 0
        self._progress.start()

    def resumed(self, steps: int) -> None:
        self._earlier = steps
        self._progress.update(self._task, completed=steps, epoch=-(-steps // self._steps_per_epoch))

    def step(self, loss: float) -> None:
        task = self._progress.tasks[0]
        done = int(task.completed) + 1
        self._progress.update(
            self._task,
            advance=1,
            loss=loss,
            epoch=-(-done // self._steps_per_epoch),
            speed=(done - self._earlier) / max(task.elapsed or 0.0, 1e-9),
        )

    def validated(self, record: dict, best: bool) -> None:
        metric = f"validation {CRITERION.upper()} {record[CRITERION]:.4f}"
        recall = f"Recall@20 {record['recall@20']:.4f}"
        omega = f", ω = {record['omega']:g}" if record["stage"] == "diffusion" else ""
        loss = f"loss {record['loss']:<9.5g}" if "loss" in record else f"of {record['source']}"
        self._console.print(
            f"{record['stage']:<10} epoch {record['epoch']:>3}  {loss} "
            f"{metric}  {recall}{omega}{'  (stored)' if best else ''}",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class TrialBars(Bars, SearchObserver):
    """A bar while a trial trains, and one line when it has ended."""

    transient = True

    def trial_begins(self, number: int) -> None:
        self._name = f"trial {number}"

    def stage(self, name: str, epochs: int, steps_per_epoch: int) -> None:
        super().stage(f"{self._name}, {name}", epochs, steps_per_epoch)

    def validated(self, record: dict, best: bool) -> None:
        pass

    def trial_ended(self, trial: Trial, best: bool) -> None:
        self.close()
        value = "     –" if trial.value is None else f"{trial.value:.4f}"
        how = f"  (pruned at epoch {trial.epochs}: {trial.reason})" if trial.reason else ""
        self._console.print(
            f"trial {trial.number:>3}  {CRITERION.upper()} {value}  {trial.seconds:6.1f} s  "
            f"{_assigned(trial.settings)}{how}{'  (best)' if best else ''}",
            highlight=False,
            soft_wrap=True,
        )


def print_space(console: Console, space: dict[str, str], *, encoder_alone: bool) -> None:
    """What a search varies."""
    stages = "the encoder's stage" if encoder_alone else "both stages"
    console.print(
        f"trials train {stages}; searched: {_assigned(space)}", highlight=False, soft_wrap=True
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
    table.add_row(f"validation {CRITERION.upper()}", *values, end_section=True)
    for name in found.task.space:
        table.add_row(name, *(format_value(trial.settings[name]) for trial in found.best))
    console.print(table)
    if found.importance:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in found.importance.items())
        console.print(f"importance: {shares}", highlight=False, soft_wrap=True)
    console.print("to train the best settings and measure them on the test split:")
    console.print(f"  {found.command}", highlight=False, soft_wrap=True, markup=False)


def _assigned(values: dict) -> str:
    return " ".join(
        f"{name}={value if isinstance(value, str) else format_value(value)}"
        for name, value in values.items()
    )


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
                f"{NAMES[metric]}@{k}",
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
    console.print(
        f"{dataset.name}: {dataset.num_users:,} users × {dataset.num_items:,} items, "
        f"{dataset.train.nnz:,} / {dataset.valid.nnz:,} / {dataset.test.nnz:,} interactions "
        f"to train / validate / test",
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
        none, few = (f"{count:,} ({count / degrees.size:.1%})" for count in (degrees.none, degrees.few))
        rows += [
            (f"training interactions of {side}s", f"median {degrees.median:g}, most {degrees.largest:,}"),
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


def print_stopped(console: Console, run: Path) -> None:
    """What can be done with a run that was stopped."""
    lines = (
        f"stopped; to go on: hdrm train --resume {run}",
        f"the best model so far is kept: hdrm evaluate {run}",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def print_verdict(console: Console, model: HDRM) -> None:
    """What the diffusion contributes to the model."""
    omega, config = float(model.omega), model.config
    if omega:
        how = "chosen on validation" if config.omega is None else "as it was set"
        text = f"the diffusion's weight, {how}, is ω = {omega:g}"
    elif config.omega is None and config.diffusion_epochs:
        text = "the diffusion did not improve the validation NDCG@20: ω = 0, the encoder ranks"
    else:
        text = "ω = 0: the encoder ranks, without diffusion"
    console.print(text, highlight=False)


def _pairs_table(title: str, rows: Iterable[tuple[str, object]]) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(name, str(value))
    return table
