"""What each choice of the model is worth: variants trained with several seeds, and controls.

    python benchmarks/ablations.py ml-1m_clean --runs FOLDER --variants 'best*' --out TABLE.md
    python benchmarks/ablations.py ml-1m_clean --runs FOLDER --variants 'paper*' --dim 64
    python benchmarks/ablations.py demo --runs FOLDER --variants 'paper*' --seeds 0 --set encoder_epochs=4

Every run is `hdrm train` in a process of its own; its folder is FOLDER/VARIANT-SEED. Runs that are there
are not made again, so that the command can be interrupted and repeated. Variants whose tables stay
share the encoder of a seed: `hdrm train --encoder`.

Controls of a run in which the diffusion has a weight: what it generated is replaced, on the same
weights, by its mean over all users, by the mean of each user's own items (no network), and by what one
reverse step gives. Each is measured with the run's ω and with the ω that is best on validation.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import processes

METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")
SHOWN = ("Recall@10", "NDCG@10", "Recall@20", "NDCG@20")
MEASURED = "measured.json"


class Variant(NamedTuple):
    """A preset, what is set besides, and the variant whose encoder it takes."""

    preset: str
    settings: tuple[str, ...] = ()
    encoder: str | None = None


def _paper(*settings: str) -> Variant:
    return Variant("paper", settings, "paper-encoder")


VARIANTS = {
    "best-encoder": Variant("best", ("diffusion_epochs=0",)),
    "best": Variant("best", (), "best-encoder"),
    "best-directional": Variant("best", ("noise=directional",), "best-encoder"),
    "best-joint": Variant("best", ("tables=joint",), "best-encoder"),
    "best-curvature-1": Variant("best", ("curvature=1",)),
    "best-euclidean": Variant("best", ("curvature=1e-6",)),
    "large-encoder": Variant("large", ("diffusion_epochs=0",)),
    "large": Variant("large", (), "large-encoder"),
    "large-isotropic": Variant("large", ("noise=isotropic",), "large-encoder"),
    "large-euclidean": Variant("large", ("curvature=1e-6",)),
    "paper-encoder": Variant("paper", ("diffusion_epochs=0",)),
    "paper": _paper(),
    "paper-isotropic": _paper("noise=isotropic"),
    "paper-joint": _paper("tables=joint"),
    "paper-joint-isotropic": _paper("tables=joint", "noise=isotropic"),
    "paper-euclidean": Variant("paper", ("curvature=1e-6",)),
    **{f"paper-omega-{w}": _paper(f"omega={w}", f"training_omega={w}") for w in (0.1, 0.2, 0.5, 1.0)},
    **{f"paper-steps-{t}": _paper(f"steps={t}", f"sampling_steps={t}") for t in (5, 20, 100)},
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--runs", type=Path, help="folder of the runs; kept")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default="*", help="names with * and ?, separated by commas")
    parser.add_argument("--dim", type=int, help="of all variants; their presets' own unless given")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="of all variants; repeat as needed")  # fmt: skip
    parser.add_argument("--out", type=Path, help="write the tables into this file too")
    parser.add_argument("--controls", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.controls:
        print(json.dumps(controls(options.controls)))
        return 0
    if not options.dataset or not options.runs:
        parser.error("name a data set, and the folder of the runs with --runs")
    try:
        chosen, seeds = _chosen(options.variants), [int(seed) for seed in options.seeds.split(",")]
        found = {}
        for name in _with_encoders(chosen):
            found[name] = [_run(options, name, seed) for seed in seeds]
        text = _tables(options, {name: found[name] for name in chosen}, seeds)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
    if options.out:
        options.out.write_text(text)
    print(text, end="")
    return 0


def _chosen(patterns: str) -> list[str]:
    """Names of variants that match one of the patterns, in VARIANTS' order."""
    found = [v for v in VARIANTS if any(fnmatch.fnmatch(v, p) for p in patterns.split(","))]
    if not found:
        raise ValueError(f"no variant matches {patterns}; there are: {', '.join(VARIANTS)}")
    return found


def _with_encoders(names: Sequence[str]) -> Iterator[str]:
    """The names, each after the variant whose encoder it takes."""
    needed = {VARIANTS[name].encoder for name in names} | set(names)
    return (name for name in VARIANTS if name in needed)


def _run(options: argparse.Namespace, name: str, seed: int) -> Path:
    """The run of a variant and a seed, trained if it is not there yet."""
    run, variant = options.runs / f"{name}-{seed}", VARIANTS[name]
    # The variant's come last: they are what it is.
    settings = [text for s in (*options.set, *variant.settings) for text in ("--set", s)]
    arguments = [
        *("train", options.dataset, "--preset", variant.preset, "--seed", str(seed)),
        *(("--dim", str(options.dim)) if options.dim else ()),
        *settings,
    ]
    if run.exists():
        made = json.loads((run / MEASURED).read_text())["arguments"]
        if made != arguments:
            raise ValueError(
                f"{run} was made by: {' '.join(made)}; name another folder with --runs"
            )
        return run
    partial = options.runs / f"{name}-{seed}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted command
    options.runs.mkdir(parents=True, exist_ok=True)
    print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    encoder = []
    if variant.encoder:
        encoder = ["--encoder", str(options.runs / f"{variant.encoder}-{seed}")]
    with open(options.runs / f"{name}-{seed}.log", "w") as log:
        command = ["-m", "hdrm", *arguments, *encoder, "--out", str(partial)]
        seconds, peak, _ = processes.run(command, log)
    found = json.loads(processes.run([__file__, "--controls", str(partial)]).output)
    measured = {"arguments": arguments, "seconds": seconds, "peak": peak, **found}
    (partial / MEASURED).write_text(json.dumps(measured, indent=1) + "\n")
    partial.rename(run)  # finished: what is there is whole
    return run


def controls(run: Path) -> dict:
    """ω of a run and, unless it is 0, {control: its test metrics and the best ω with its own}."""
    import warnings

    import torch

    from hdrm.train import evaluate, runs
    from hdrm.train.stages import OMEGAS

    warnings.simplefilter("ignore")  # of schedules, which the training has printed
    opened = runs.Run.open(run)
    model, dataset, omega = opened.model, opened.dataset(), float(opened.model.omega)
    if not omega:
        return {"omega": omega, "controls": {}}
    h, generated = model.generate()
    _, history = model.user_inputs(h, model.graph)
    model.config = model.config.replace(sampling_steps=1)
    with torch.no_grad():
        vectors = {
            "as generated": generated,
            "its mean over all users": generated.mean(0).repeat(model.num_users, 1),
            "mean of the user's items": history,
            "one reverse step": model.generate()[1],
        }

    def metrics(z: torch.Tensor, omega: float, split: str) -> dict[str, float]:
        known = [dataset.train] if split == "valid" else [dataset.train, dataset.valid]
        points, c = model.mix(h, z, omega), model.config.curvature
        return evaluate(points, dataset.splits[split], *known, cutoffs=(10, 20), c=c)

    found = {}
    for name, z in vectors.items():
        best = max(OMEGAS, key=lambda w: metrics(z, w, "valid")["ndcg@20"])
        found[name] = {
            "test": metrics(z, omega, "test"),
            "best omega": best,
            "test at best omega": metrics(z, best, "test"),
        }
    return {"omega": omega, "controls": found}


def _tables(options: argparse.Namespace, runs: dict[str, list[Path]], seeds: Sequence[int]) -> str:
    """Both tables in Markdown: mean ± deviation over the seeds."""
    measured = {n: [json.loads((r / MEASURED).read_text()) for r in rs] for n, rs in runs.items()}
    settings_of_all = [f"--dim {options.dim}"] if options.dim else []
    settings_of_all += [f"--set {text}" for text in options.set]
    common = f"Of all variants: `{' '.join(settings_of_all)}`." if settings_of_all else ""
    title = (
        f"`{options.dataset}`, test split, seeds {', '.join(map(str, seeds))}: "
        f"mean ± deviation. Seconds and peak memory are the largest of a training; variants on "
        f"another's encoder train the second stage alone. {common}".rstrip()
    )
    lines = [
        f"{title}\n",
        f"| variant | settings | {' | '.join(SHOWN)} | ω | seconds | peak, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, folders in runs.items():
        reports = [json.loads((run / "report.json").read_text())["hdrm"] for run in folders]
        rows, variant = measured[name], VARIANTS[name]
        settings = " ".join([variant.preset, *variant.settings])
        cells = [name, f"`{settings}`", *(_spread([r[m] for r in reports]) for m in METRICS)]
        cells += [_distinct(row["omega"] for row in rows), f"{max(r['seconds'] for r in rows):.0f}"]
        cells.append(f"{max(row['peak'] for row in rows) / processes.MIB:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "\nControls: what takes the place of the generated vectors, on the same weights.\n",
        "| variant | vectors | Recall@20 | NDCG@20 | best ω | Recall@20 | NDCG@20 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in measured.items():
        with_diffusion = [row["controls"] for row in rows if row["controls"]]
        for control in with_diffusion[0] if with_diffusion else ():
            found = [row[control] for row in with_diffusion]
            seen = "" if len(found) == len(rows) else f", {len(found)} of {len(rows)} seeds"
            cells = [name + seen, control]
            cells += [_spread([f["test"][m] for f in found]) for m in METRICS[2:]]
            cells.append(_distinct(f["best omega"] for f in found))
            cells += [_spread([f["test at best omega"][m] for f in found]) for m in METRICS[2:]]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def _distinct(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values)))


if __name__ == "__main__":
    sys.exit(main())
