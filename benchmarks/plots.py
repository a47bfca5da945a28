"""The plots of docs/benchmarks: against peers, against the bandwidth, over edges, over rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OURS = "#1b6e3c"


def draw(groups: dict[str, list], folder: Path) -> dict[str, str]:
    """Write the plots that the results have figures for; file name → what it shows."""
    full = {name: rows for name, rows in groups.items() if not any(row.sweep for row in rows)}
    swept = {name: rows for name, rows in groups.items() if name not in full}
    wanted: dict[str, tuple[str, Callable, dict]] = {
        "relative-64.png": ("Time relative to hdrm, width 64", _relative, _of_width(full, 64)),
        "relative-512.png": ("Time relative to hdrm, width 512", _relative, _of_width(full, 512)),
        "roofline.png": ("Fraction of the copy bandwidth", _roofline, full),
        "edges.png": ("One round of aggregation over the number of edges", _edges, full),
        "sizes.png": ("Eager formulas relative to hdrm, from one row on", _sizes, swept),
    }
    written = {}
    for name, (title, plot, chosen) in wanted.items():
        figure = plot(chosen, title)
        if figure is None:
            continue
        figure.savefig(folder / f"{name}.partial", dpi=110, format="png", bbox_inches="tight")
        os.replace(folder / f"{name}.partial", folder / name)
        plt.close(figure)
        written[name] = title
    return written


def _of_width(groups, width):
    return {
        name: rows for name, rows in groups.items()
        if any(row.extra and row.extra.get("width") == width for row in rows)
    }  # fmt: skip


def _measured(rows):
    return [row for row in rows if row.median]


def _best(rows):
    return min((row.median for row in rows if row.ours and row.median), default=None)


def _colors(names):
    return {name: plt.get_cmap("tab20")(i % 20) for i, name in enumerate(sorted(names))}


def _relative(groups, title):
    shown = {
        name: rows for name, rows in groups.items() if _best(rows) and len(_measured(rows)) > 1
    }
    if not shown:
        return None
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.22 * len(shown)))
    colors = _colors({row.peer for rows in shown.values() for row in rows if not row.ours})
    for y, rows in enumerate(shown.values()):
        for row in _measured(rows):
            if not row.ours:
                axes.plot(row.median / _best(rows), y, "o", color=colors[row.peer], label=row.peer)
    axes.axvline(1, color=OURS, label="hdrm")
    axes.set(
        xscale="log", xlabel="time ÷ hdrm's time (right of the line: hdrm is faster)", title=title
    )
    axes.set_yticks(range(len(shown)), shown, fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3, which="both")
    labels = dict(zip(*reversed(axes.get_legend_handles_labels())))
    axes.legend(labels.values(), labels, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _roofline(groups, title):
    bars = [
        (f"{name} ({row.peer})", row.extra["of copy"])
        for name, rows in groups.items()
        for row in _measured(rows)
        if row.ours and "of copy" in row.extra
    ]
    if not bars:
        return None
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.2 * len(bars)))
    axes.barh(range(len(bars)), [bar[1] for bar in bars], color=OURS)
    axes.axvline(1, color="black", lw=1)
    axes.axvline(0.6, color="gray", ls="--", lw=1)
    axes.set(xlabel="bytes that must move ÷ time ÷ copy bandwidth of the same rounds", title=title)
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=7)
    axes.invert_yaxis()
    return figure


def _edges(groups, title):
    """Time, time per edge and memory per edge of width 64, generated graphs as lines."""
    modes: dict[str, dict[str, list]] = {}
    for rows in groups.values():
        for row in _measured(rows):
            extra = row.extra
            if extra["op"] == "one round" and extra["width"] == 64:
                point = (
                    extra["edges"],
                    row.median,
                    extra["peak memory"],
                    "edges" in extra["graph"],
                )
                modes.setdefault(extra["mode"], {}).setdefault(row.peer, []).append(point)
    if not modes:
        return None
    figure, grid = plt.subplots(len(modes), 3, figsize=(15, 4.2 * len(modes)), squeeze=False)
    colors = _colors({peer for lines in modes.values() for peer in lines})
    for axes, (mode, lines) in zip(grid, modes.items()):
        for peer, points in lines.items():
            ours = peer.startswith("hdrm")
            style = {"color": OURS if ours else colors[peer], "lw": 2.5 if ours else 1}
            generated = sorted(point for point in points if point[3])
            real = [point for point in points if not point[3]]
            for k, value in enumerate(_per_edge):
                usable = [p for p in generated if value(p) is not None]
                axes[k].plot([p[0] for p in usable], [value(p) for p in usable], "o-", label=peer,
                             **style)  # fmt: skip
                axes[k].plot([p[0] for p in real if value(p) is not None],
                             [value(p) for p in real if value(p) is not None], "*",
                             color=style["color"])  # fmt: skip
        for k, label in enumerate(("seconds", "nanoseconds an edge", "peak bytes an edge")):
            axes[k].set(xscale="log", yscale="log", xlabel="edges", ylabel=label, title=mode)
            axes[k].grid(alpha=0.3, which="both")
        axes[0].legend(fontsize=7)
    figure.suptitle(f"{title}, width 64 (stars: ML-1M and Gowalla)")
    figure.tight_layout()
    return figure


_per_edge = (
    lambda point: point[1],
    lambda point: point[1] / point[0] * 1e9,
    lambda point: point[2] / point[0] if point[2] else None,
)


def _sizes(groups, title):
    """For each op the slimmest lead: the fastest peer's time over ours."""
    lines: dict[tuple, list] = {}
    for rows in groups.values():
        best = _best(rows)
        peers = [row.median for row in _measured(rows) if not row.ours]
        if best and peers:
            extra = next(row.extra for row in rows if row.extra)
            lines.setdefault((extra["op"], extra["mode"]), []).append(
                (extra["rows"], min(peers) / best)
            )
    if not lines:
        return None
    figure, axes = plt.subplots(figsize=(9, 6))
    colors = _colors({op for op, _ in lines})
    for (op, mode), points in sorted(lines.items()):
        axes.plot(*zip(*sorted(points)), "-" if mode == "forward" else "--", marker=".",
                  color=colors[op], label=f"{op}, {mode}")  # fmt: skip
    axes.axhline(1, color="black", lw=1)
    axes.set(
        xscale="log", yscale="log", xlabel="rows", ylabel="fastest eager peer ÷ hdrm", title=title
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
