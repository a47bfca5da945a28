"""The page's pictures, as SVG that takes its ink from the page: light or dark.

Axes and text are vectors; what has a mark for every item is a bitmap inside, so that the size of the
page does not follow the number of items.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence

import numpy as np

from .disk import Picture, on_disk

INK = "#010203"  # stands for the page's colour of text
BLUE, ORANGE, GREEN = "#4a86c5", "#d9792b", "#3f9e68"  # readable on white and on black
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hdrm",  # the same picture has the same bytes
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(["figure.facecolor", "axes.facecolor", "savefig.facecolor"], "none"),
    **dict.fromkeys(
        ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], INK
    ),
    "grid.color": INK,
}


def curves(name: str, records: Sequence[dict]) -> str:
    """Loss and validation metrics over the epochs of a stage."""

    def paint(loss, metrics) -> None:
        epochs = [record["epoch"] for record in records]
        # An encoder that was taken from another run has none.
        losses = [record.get("loss", np.nan) for record in records]
        loss.plot(epochs, losses, "o-", ms=3, color=BLUE)
        loss.set(xlabel="epoch", ylabel="loss")
        for metric, label, color in (
            ("recall@20", "Recall@20", GREEN),
            ("ndcg@20", "NDCG@20", ORANGE),
        ):
            metrics.plot(epochs, [record[metric] for record in records], "o-", ms=3, color=color,
                         label=label)  # fmt: skip
        metrics.set(xlabel="epoch", ylabel="validation")
        metrics.legend()

    last = records[-1]
    alt = (
        f"Loss and validation metrics of the stage {name} by epoch; at the last, epoch "
        f"{last['epoch']}, NDCG@20 is {last['ndcg@20']:.4f}"
    )
    return _svg(f"curves-{name}", alt, (8, 2.8), paint, columns=2)


def bars(name: str, alt: str, groups: Sequence[str], series: dict[str, Sequence[float]]) -> str:
    """Numbers of groups beside each other, one colour of each series."""

    def paint(axes) -> None:
        width = 0.8 / len(series)
        for at, ((label, values), color) in enumerate(zip(series.items(), (BLUE, ORANGE, GREEN))):
            place = np.arange(len(groups)) + (at - (len(series) - 1) / 2) * width
            axes.bar(place, values, width, label=label, color=color)
        axes.set_xticks(range(len(groups)), groups)
        axes.set_xlabel("training interactions")
        axes.grid(axis="x", visible=False)
        axes.legend()

    return _svg(name, alt, (8, 2.8), paint)


def radius(distances: np.ndarray, counts: np.ndarray, alt: str) -> str:
    """Distance to the origin of every item over its training interactions."""

    def paint(axes) -> None:
        axes.scatter(counts, distances, s=5, color=BLUE, alpha=0.6, linewidths=0, rasterized=True)
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(-0.3 if counts.min() == 0 else 0.8 * counts.min(), 1.3 * max(counts.max(), 1))
        axes.set(xlabel="training interactions of the item", ylabel="distance to the origin")

    return _svg("radius", alt, (8, 3.4), paint)


def disk(picture: Picture, counts: np.ndarray, c: float, alt: str) -> str:
    """Items on the Poincaré disk, in the colour of their popularity, with circles around the origin.

    The picture ends a little beyond the outermost item.
    """

    def paint(axes) -> None:
        from matplotlib.patches import Circle

        farthest = float(picture.distances.max())
        edge = min(1.12 * float(on_disk(farthest, c)) + 1e-6, 1.02)
        axes.add_patch(Circle((0, 0), 1, facecolor="#eef0f2", edgecolor="#8a8f98", zorder=0))
        for distance in _rings(farthest):
            at = float(on_disk(distance, c))
            axes.add_patch(Circle((0, 0), at, fill=False, edgecolor="#8a8f98", lw=0.7, zorder=1))
            axes.text(0, at, f"{distance:g}", ha="center", va="center", color="#3c4048", zorder=4,
                      bbox={"facecolor": "#eef0f2", "edgecolor": "none", "pad": 1})  # fmt: skip
        axes.plot(0, 0, "+", color="#3c4048", ms=7, zorder=3)
        order = np.argsort(counts, kind="stable")  # the popular ones last, on top
        marks = axes.scatter(
            *picture.positions[order].T, c=np.log10(counts[order] + 1), s=7, alpha=0.8,
            cmap="viridis_r", linewidths=0, zorder=2, rasterized=True,
        )  # fmt: skip
        bar = axes.figure.colorbar(marks, ax=axes, shrink=0.6)
        bar.solids.set_rasterized(True)
        bar.set_label("log₁₀(1 + training interactions)")
        axes.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal")
        axes.axis("off")

    return _svg("disk", alt, (6.6, 5.6), paint)


def _rings(farthest: float) -> np.ndarray:
    """Round distances up to the farthest, two to five; none if all lie at the origin."""
    if farthest <= 0:
        return np.empty(0)
    unit = 10.0 ** np.floor(np.log10(farthest))
    step = next(unit * part for part in (0.2, 0.5, 1, 2) if farthest / (unit * part) < 6)
    return step * np.arange(1, int(farthest / step) + 1)


def _svg(
    name: str,
    alt: str,
    inches: tuple[float, float],
    paint: Callable[..., None],
    columns: int = 1,
) -> str:
    """What ``paint`` draws on the axes, as an element of a page; ``alt`` says it in words."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(inches, layout="constrained")
        paint(*np.ravel(figure.subplots(1, columns)))
        nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(buffer, format="svg", dpi=200, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # An id stands once in a page of several pictures.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
