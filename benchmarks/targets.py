"""What hdrm means to reach on two CPU cores, and what the results say: a table of the report.

A figure is how many times as long the peer takes; for "copy bandwidth" the fraction of it that is
achieved, for "…, memory" how many times as much the peer's memory grows. Not to be more than 1.35
times as slow as the matrix products alone is a figure of 1/1.35. Where a task is a walk over memory,
the table also says what the figure would be if we moved the least bytes as fast as a plain copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

COPY = "copy bandwidth"
MEMORY = ", memory"
PRODUCTS = "matrix products alone"


class Target(NamedTuple):
    group: str
    peer: str
    at_least: float


def _all() -> Iterator[Target]:
    for op in ("expmap0", "logmap0", "expmap", "logmap", "distance"):
        size = "200,000 × 64"
        for mode in ("forward+backward", "forward+backward, outputs touched"):
            for peer, least in (("geoopt", 15), ("geoopt compiled", 5), ("authors compiled", 2.5)):
                yield Target(f"{op}, {mode}, {size}", peer, least)
        yield Target(f"{op}, forward, outputs touched, {size}", COPY, 0.6)
    for graph in ("ML-1M", "Gowalla"):
        for mode in ("forward", "forward+backward"):
            for peer, least in (("torch COO", 15), ("torch CSR", 3), ("gather–scatter", 80)):
                yield Target(f"one round, {mode}, {graph}, 64", peer, least)
        whole = f"propagate L=3, forward+backward, {graph}, 64"
        yield Target(whole, "authors", 12)
        yield Target(whole, f"authors{MEMORY}", 2)
    for width in (64, 512):
        noise = f"directional noise, forward+backward, 20,000 × {width}"
        yield Target(noise, "authors", 10)
        yield Target(noise, "authors compiled", 4)
        yield Target(f"ranking loss, forward+backward, 20,000 × {width}", "authors", 10)
    for optimiser in ("RiemannianSGD", "RiemannianAdam"):
        yield Target(f"{optimiser}, step, 100,000 × 64", "geoopt", 10)
    for name, users, items in (("ML-1M", "5,949", "2,810"), ("Gowalla", "29,858", "40,981")):
        ranked = f"top-20, forward, {name}, {{}} users × {items} items, 64"
        yield Target(ranked.format(users), "matmul + topk", 1.3)
        yield Target(ranked.format("200"), "authors", 100)
    for width in (64, 512):
        yield Target(f"encoder step, batch to optimiser, ML-1M, {width}", "authors", 6)
        yield Target(f"diffusion step, batch to optimiser, ML-1M, {width}", PRODUCTS, 1 / 1.35)
        yield Target(f"inference, all users, ML-1M, {width}", PRODUCTS, 1 / 1.35)


TARGETS = list(_all())


def table(groups: Mapping[str, Sequence], best: Callable) -> str:
    """Markdown of every target whose rows were measured; best(rows) is the fastest of ours."""
    lines = [
        "| group | against | at least | found | at a copy's speed | |",
        "|---|---|---|---|---|---|",
    ]
    for target in TARGETS:
        rows = groups.get(target.group, ())
        found = _found(target, rows, best)
        if found is not None:
            met = "met" if found >= target.at_least else "**missed**"
            lines.append(f"| {target.group} | {target.peer} | {target.at_least:.2f} | {found:.2f} "
                         f"| {_bound(target, found, best(rows))} | {met} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def _bound(target: Target, found: float, ours) -> str:
    """What `found` would be at the bandwidth of a copy; empty where caches make us faster than that."""
    of_copy = ours.extra.get("of copy", 1)
    timed = target.peer != COPY and not target.peer.endswith(MEMORY)
    return f"{found / of_copy:.2f}" if timed and of_copy < 1 else ""


def _found(target: Target, rows: Sequence, best: Callable) -> float | None:
    ours = best(rows)
    if ours is None:
        return None
    if target.peer == COPY:
        return ours.extra.get("of copy")
    name = target.peer.removesuffix(MEMORY)
    peer = next((row for row in rows if row.peer == name and row.median), None)
    if peer is None:
        return None
    if target.peer == name:
        return peer.median / ours.median
    return peer.extra["peak memory"] / max(ours.extra["peak memory"], 1)
