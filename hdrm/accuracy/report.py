"""The report: errors per op and range as tables, over separation and radius as pictures."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import ops
from .measure import DRAWS, errors, exact, relative
from .pairs import (
    CURVE_ROWS,
    MAKERS,
    RANGES,
    Batch,
    batches,
    radius_curve,
    separation_curve,
)
from .peers import Competitor, competitors

CEILING = 1e8  # pictures end here; what is worse, or NaN, lies on the edge
KINDS = ("values", "gradients")
COLORS = {
    "hdrm cpu f32": ("#1b6e3c", "-"),
    "hdrm reference f32": ("#7cc08f", "--"),
    "geoopt f64": ("#4878b8", "-"),
    "geoopt f32": ("#d9792b", "-"),
    "authors f32": ("#b0332f", "-"),
}


@dataclass
class Line:
    """One op and range of inputs: errors (competitor, kind, input) of every input in it."""

    op: str
    range: str
    allowed: tuple[float | None, float | None]
    errors: Tensor


def measure(who: list[Competitor], quick: bool = False) -> list[Line]:
    lines = []
    for op in MAKERS:
        parts = {name: [] for name in RANGES[op]}
        for batch in batches(op, quick=quick):
            truth = exact(batch)
            found = torch.stack([torch.stack(errors(peer, batch, truth)) for peer in who])
            for name, collected in parts.items():
                collected.append(found[:, :, torch.tensor([at == name for at in batch.ranges])])
        lines += [
            Line(op, name, RANGES[op][name], torch.cat(collected, 2))
            for name, collected in parts.items()
        ]
    return [line for line in lines if line.errors.shape[2]]


def number(value: float | None) -> str:
    if value is None:
        return "finite"
    if value == 0 or value == float("inf"):
        return "0" if value == 0 else "NaN"
    digits, exponent = f"{value:.0e}".split("e")
    return f"{digits}e{int(exponent)}"


def median_and_worst(values: Tensor) -> str:
    return f"{number(values.median().item())} / {number(values.max().item())}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |\n"
        for line in lines
    )


def error_table(who: list[Competitor], lines: list[Line], kind: int) -> str:
    head = ["op", "inputs", "n", "required", *(peer.name for peer in who)]
    rows = [
        [line.op, line.range, str(line.errors.shape[2]), number(line.allowed[kind])]
        + [median_and_worst(line.errors[k, kind]) for k in range(len(who))]
        for line in lines
    ]
    return markdown(head, rows)


def storage_table() -> str:
    """16-bit tangent vectors: what the op adds to the error that rounding the inputs made."""
    rows = []
    for op in ("expmap0", "sqdist0"):
        batch = next(batches(op, quick=True))
        inside = torch.tensor([at not in ("rho <= 43", "x = y") for at in batch.ranges])
        exact_rows = [part[inside] for part in batch.rows]
        for dtype in (torch.bfloat16, torch.float16):
            stored = [part.to(dtype) for part in exact_rows]
            before, after = (
                exact(Batch(op, batch.c, [part.float() for part in parts], [])).values
                for parts in (exact_rows, stored)
            )
            found = getattr(ops, op)(*stored, c=batch.c).view(after.shape)
            rows.append(
                [op, str(dtype).removeprefix("torch."), median_and_worst(relative(found, after))]
                + [median_and_worst(relative(after, before))]
            )
    return markdown(["op", "storage", "error of the op", "error of rounding its input"], rows)


def write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def picture(who: list[Competitor], kind: int) -> bytes:
    """The worst error of d² over the separation and over the radius of pairs, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    curves = [
        (separation_curve(), "distance d/r between the points, one of them at ρ = 1"),
        (radius_curve(), "radius ρ of a point, the other 0.1·min(ρ, 1) away"),
    ]
    for axes, ((places, batch), label) in zip(panels, curves):
        truth = exact(batch)
        for peer in who:
            color, style = COLORS[peer.name]
            worst = errors(peer, batch, truth)[kind].view(-1, CURVE_ROWS).amax(1)
            worst = worst.clamp(1e-17, CEILING)
            axes.plot(places, worst, style, color=color, lw=1.8, label=peer.name)
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set(ylim=(1e-17, CEILING), xlim=(places[0] / 1.5, places[-1] * 1.5))
        axes.axhline(2.0**-24, color="#666666", lw=0.8, ls=":", label="float32 rounding, 2^-24")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("worst relative error")
    figure.suptitle(f"Squared distance: {KINDS[kind]}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def text(who: list[Competitor], lines: list[Line]) -> str:
    return (
        "# Accuracy of the ops\n\n"
        "Written by `python -m hdrm.accuracy --out docs/numerics`; docs/numerics.md explains it.\n"
        "Relative errors against 150-digit arithmetic, median / worst over the n inputs of a "
        "range\n(`hdrm/accuracy/pairs.py`: curvatures 1e-3, 1 and 1e3, widths 3 to 64). Inputs "
        "are float32 and\ntaken as exact. rho: the larger distance to the origin over r; size: the "
        "larger |xs|/r of the base\npoints; step: the distance between them over r. NaN: at least "
        "one result is not finite. At x = y\nerrors are absolute.\n\n"
        f"## Values\n\n{error_table(who, lines, 0)}\n"
        "## Gradients\n\nBy each argument; of the maps from random gradients of the result, the "
        f"worst of {DRAWS},\nrelative to the length of what backward should return.\n\n"
        f"{error_table(who, lines, 1)}\n"
        "## Tangent vectors kept in 16 bits, radii up to 9\n\n"
        f"{storage_table()}"
    )


def run(out: Path | None, quick: bool) -> str:
    """Measure everything; returns the tables and, with ``out``, writes them and the pictures."""
    who = competitors()
    result = text(who, measure(who, quick))
    if out is not None:
        write(out / "accuracy.md", result.encode())
        for kind, name in enumerate(KINDS):
            write(out / f"{name}.png", picture(who, kind))
    return result
