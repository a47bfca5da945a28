"""docs/benchmarks from the results: README.md with the tables, results.json, and the plots."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import plots
import targets


@dataclass
class Row:
    """A measured row; or, with a reason, one that was left out."""

    group: str
    peer: str
    median: float | None = None
    extra: dict | None = None
    sweep: bool = False  # of the groups that show the cost of a call over the sizes
    reason: str = ""

    @property
    def ours(self) -> bool:
        return self.peer.startswith("hdrm")


def rows_of(results: dict) -> list[Row]:
    measured = [
        Row(row["group"], row["extra_info"]["peer"], row["stats"]["median"], row["extra_info"],
            "sizes" in row["name"])
        for row in results["benchmarks"]
    ]  # fmt: skip
    return measured + [
        Row(entry["group"], entry["peer"], reason=entry["reason"])
        for entry in results.get("left_out", [])
    ]


def groups_of(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def best_of_ours(rows: Iterable[Row]) -> Row | None:
    ours = (row for row in rows if row.ours and row.median)
    return min(ours, key=lambda row: row.median, default=None)


def fastest_of_ours(rows: Iterable[Row]) -> float | None:
    best = best_of_ours(rows)
    return best and best.median


def write(results: dict, folder: Path) -> None:
    """Write everything; each file is complete or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(results)
    for row in results["benchmarks"]:
        row["stats"] = {"median": row["stats"]["median"]}  # the quantiles are in extra_info
        row["extra_info"].pop("versions", None)  # machine_info has them
    results["machine_info"].pop("node", None)
    _replace(folder / "results.json", json.dumps(results, ensure_ascii=False) + "\n")
    pictures = plots.draw(groups_of(rows), folder)
    _replace(folder / "README.md", markdown(results, rows, pictures))


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)


def markdown(results: dict, rows: list[Row], pictures: dict[str, str]) -> str:
    machine = results["machine_info"]
    commits = sorted({row.extra["commit"] for row in rows if row.extra})
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    cpu = machine.get("gpu") or machine.get("cpu", {}).get("brand_raw", "unknown CPU")
    parts = [
        "# Benchmarks\n",
        f"Written by `hdrm bench` on {results['datetime'][:10]}: {cpu}, {machine['threads']} threads "
        f"for every row, {machine['platform']}; {versions}; commit {', '.join(commits)}.\n",
        "The rows of a group were called in turns, round by round, each after its result was "
        "compared with the reference. Times are medians of the rounds, with the 20th and 80th "
        "percentile. “× ours” is how many times as long a row takes as the fastest backend of "
        "hdrm. GB/s counts the bytes that no implementation can avoid moving; “of copy” is its "
        "fraction of the bandwidth of a large copy made in the same rounds (more than 1: the "
        "caches helped). Peak memory is how far resident memory grew during a call. Large results "
        "of torch live in fresh memory, whose page faults are part of the time, and those of hdrm in "
        "memory that it keeps, as either does by itself; in groups “outputs touched” all memory is "
        "kept.\n",
    ]
    if machine.get("small"):
        parts.append(
            "**HDRM_BENCH_SMALL was set: sizes are divided, and the times mean nothing.**\n"
        )
    parts += [f"![{text}]({name})\n" for name, text in pictures.items()]
    groups = groups_of(rows)
    slower = _slower(groups)
    parts.append("## Targets\n")
    parts.append(targets.table(groups, best_of_ours))
    parts.append("## Where a peer is faster\n")
    parts.append("\n".join(slower) + "\n" if slower else "Nowhere.\n")
    absent = sorted({row.reason for row in rows if row.reason.startswith("not installed")})
    if absent:
        parts.append("## Peers that were not installed\n")
        parts.append("\n".join(f"- {reason}" for reason in absent) + "\n")
    parts.append("## All groups\n")
    for name, group in groups.items():
        if not any(row.sweep for row in group):
            parts.append(_table(name, group))
    parts.append("## Every size\n")
    parts.append(_sweep_table(groups))
    return "\n".join(parts)


def _slower(groups: dict[str, list[Row]]) -> list[str]:
    lines = []
    for name, group in groups.items():
        ours = fastest_of_ours(group)
        for row in group:
            bound = row.peer == targets.PRODUCTS  # a lower bound, not a rival
            if ours and not row.ours and row.median and row.median < ours and not bound:
                lines.append(f"- {name}: {row.peer} takes {row.median / ours:.2f} of ours")
    return lines


def _table(name: str, group: list[Row]) -> str:
    ours = fastest_of_ours(group)
    lines = [f"### {name}\n", "| row | median | p20 … p80 | × ours | GB/s | of copy | peak memory |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in group:
        if row.reason:
            lines.append(f"| {row.peer} | {row.reason} | | | | | |")
            continue
        extra = row.extra
        cells = [
            row.peer,
            duration(row.median),
            f"{duration(extra['p20'])} … {duration(extra['p80'])}",
            f"{row.median / ours:.2f}" if ours else "",
            f"{extra['GB/s']:.1f}" if "GB/s" in extra else "",
            f"{extra['of copy']:.2f}" if "of copy" in extra else "",
            memory(extra["peak memory"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _sweep_table(groups: dict[str, list[Row]]) -> str:
    """A line per group: ours, and the factor of each peer."""
    lines = ["| group | ours | peers, × ours |", "|---|---|---|"]
    for name, group in groups.items():
        ours = fastest_of_ours(group)
        if not ours or not any(row.sweep for row in group):
            continue
        others = ", ".join(
            f"{row.peer} {row.median / ours:.2f}" if row.median else f"{row.peer}: {row.reason}"
            for row in group
            if not row.ours
        )
        lines.append(f"| {name} | {duration(ours)} | {others} |")
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    units = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
    scale, unit = next((found for found in units if seconds >= found[0]), units[-1])
    return f"{seconds / scale:.3g} {unit}"


def memory(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / 2**20:.1f} MiB"
