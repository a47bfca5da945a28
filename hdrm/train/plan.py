"""How much memory a training needs, counted before anything is allocated.

A training goes through phases, and each of its tensors is alive in some of them. A plan lists the
tensors with their bytes and phases; a peak is the phase in which they sum to the most.

N = U + I nodes, E training interactions, d = ``dim``, B rows of a batch. What grows with none of them
is left out. A table is N·d float32 numbers. Full-graph training of the encoder keeps three (points,
momentum, average) and needs two more in the forward (h, a work table) and three in the backward (the
gradients of h and of the points, a work table).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..config import Config
from ..model import hdrm as model_blocks
from .evaluate import BLOCK as RANKED

FLOAT, INDEX, OFFSET = 4, 4, 8  # bytes of a number, of a column id, of a row offset

BUILDING = "graph building"
ENCODER = ("encoder forward", "encoder backward", "encoder validation")
FOLD = "diffusion fold"
DIFFUSION = (FOLD, "diffusion forward", "diffusion backward", "diffusion validation")
PHASES = (BUILDING, *ENCODER, *DIFFUSION)


@dataclass(frozen=True)
class Part:
    """Tensors of one purpose: how many bytes, in which phases, and whether in host memory always."""

    name: str
    num_bytes: int
    phases: tuple[str, ...]
    host: bool = False


@dataclass(frozen=True)
class Plan:
    """The memory of one training.

    Attributes:
        config: the settings that it is for.
        parts: the tensors that matter, on the host and on the device.
        unified: the device is the CPU: host and device are one memory.
    """

    config: Config
    parts: tuple[Part, ...]
    unified: bool

    def bytes_in(self, phase: str, *, host: bool = False) -> int:
        """What is alive in a phase on the device or, if that is another memory, on the host."""
        return sum(
            part.num_bytes
            for part in self.parts
            if phase in part.phases and (self.unified or part.host == host)
        )

    def peak(self, *, host: bool = False) -> tuple[str, int]:
        """The phase that needs the most, and its bytes."""
        return max(((p, self.bytes_in(p, host=host)) for p in PHASES), key=lambda found: found[1])


def plan(
    config: Config,
    num_users: int,
    num_items: int,
    num_train: int,
    num_held_out: int = 0,
    *,
    device: str = "cuda",
    process: int = 0,
) -> Plan:
    """The plan of a training from interactions in memory.

    Args:
        config: the settings.
        num_users, num_items, num_train: U, I and E.
        num_held_out: interactions for validation and test.
        device: "cpu" or another one; on the CPU there is one memory.
        process: bytes that the interpreter and its libraries take, counted as host memory.
    """
    sizes = _Sizes(config, num_users, num_items, num_train, num_held_out)
    parts = [Part("Python and its libraries", process, PHASES, host=True)]
    parts += [*_common(sizes), *_encoder(sizes), *_diffusion(sizes)]
    return Plan(config, tuple(part for part in parts if part.num_bytes), device == "cpu")


def fitting(config: Config, *sizes: int, device: str, process: int = 0, budget: int) -> Plan:
    """The first plan that meets a budget: of the settings as they are, then of cheaper ones.

    Cheaper are, in this order: parts of a batch (micro_batches), which only cost time; sampled
    propagation; sampled propagation with the table in host memory.

    Args:
        config: the settings wished for.
        sizes: as :func:`plan`.
        device, process: as :func:`plan`.
        budget: bytes of device memory; on the CPU of all memory.

    Raises:
        MemoryError: nothing fits; its plan, the cheapest, is the second argument of the exception.
    """
    cheapest = None
    for candidate in _cheaper(config, device):
        found = plan(candidate, *sizes, device=device, process=process)
        if found.peak()[1] <= budget:
            return found
        if cheapest is None or found.peak()[1] < cheapest.peak()[1]:
            cheapest = found
    raise MemoryError("no setting fits the budget", cheapest)


def _cheaper(config: Config, device: str) -> Iterator[Config]:
    """The settings, and from step to step what needs less memory on the device."""
    bases = [config]
    if config.propagation == "full" and config.tables == "frozen":
        fanouts = (config.fanouts + (SMALL_FANOUT,) * config.layers)[: config.layers]
        bases.append(config.replace(propagation="sampled", fanouts=fanouts))
    if bases[-1].propagation == "sampled" and device != "cpu":
        bases.append(bases[-1].replace(tables_on="host"))
    for base in bases:
        for parts in (1, 4, 16):
            yield base.replace(micro_batches=base.micro_batches * parts)


class _Sizes:
    """The numbers that the parts are made of."""

    def __init__(self, config: Config, users: int, items: int, train: int, held_out: int) -> None:
        self.config, self.users, self.items, self.train = config, users, items, train
        self.held_out, self.nodes = held_out, users + items
        self.row = config.dim * FLOAT
        self.table = self.nodes * self.row
        self.of_users = users * self.row
        widths = [2 * config.dim + 10, *config.hidden, config.dim]
        weights = sum(a * b + b for a, b in zip(widths, widths[1:])) + 10 * 10 + 10
        self.denoisers = 2 * weights * FLOAT

    def graph(self, edges: int) -> int:
        """rowptr, and col in both directions."""
        return (self.nodes + 1) * OFFSET + 2 * edges * INDEX


def _common(s: _Sizes) -> Iterator[Part]:
    """What a training keeps from its first step to its last."""
    yield Part("interactions (user, item)", (s.train + s.held_out) * 2 * 8, PHASES, host=True)
    yield Part("ids of graph building", s.train * 2 * 8 + s.nodes * 8, (BUILDING,), host=True)
    yield Part("graph", s.graph(s.train), PHASES)
    yield Part("points", s.table, PHASES)
    yield Part("denoisers", s.denoisers, PHASES)


def _encoder(s: _Sizes) -> Iterator[Part]:
    config, forward, backward, validation = s.config, *ENCODER
    if config.encoder_momentum:
        yield Part("momentum of the points", s.table, ENCODER)
    yield Part("average of the points", s.table, ENCODER)
    yield Part("users to draw", s.users * 8, ENCODER, host=True)
    yield Part("h", s.table, (forward, validation))
    if config.layers > 1:
        yield Part("work table", s.table, (forward, backward))
    yield Part("gradients of h and of the points", 2 * s.table, (backward,))
    yield from _rows_of_ranking(s, config.encoder_batch, config.encoder_negatives, (forward, backward))
    yield from _ranking(s, validation)


def _diffusion(s: _Sizes) -> Iterator[Part]:
    config, (fold, forward, backward, validation) = s.config, DIFFUSION
    joint = config.tables == "joint"
    hidden = s.train // config.folds
    yield Part("moments and average of the denoisers", 3 * s.denoisers, DIFFUSION)
    yield Part("order of the edges", s.train * 8, DIFFUSION, host=True)
    yield Part("graph of a fold", s.graph(s.train - hidden), DIFFUSION)
    yield Part("positives of a fold", (s.users + 1) * OFFSET + hidden * INDEX, DIFFUSION)
    rest = (s.train - hidden) * 2 * 8
    yield Part("ids of a fold", s.train + 2 * rest + s.nodes * 8, (fold,), host=True)
    yield Part("h", s.table, DIFFUSION)
    yield Part("work table", s.table, (fold, validation))
    yield Part("histories", s.of_users, DIFFUSION)
    if joint:
        yield Part("momentum and average of the points", 2 * s.table, DIFFUSION)
        yield Part("work tables", 2 * s.table, (forward,))
        yield Part("gradients of h, histories and points", 4 * s.table, (backward,))
    batch = config.diffusion_batch
    rows = round(s.users * -math.expm1(-batch / s.users)) if s.users else 0  # distinct users
    width = sum(config.hidden)
    saved = rows * (5 * s.row + width * FLOAT) * 2
    yield Part("activations", saved, (forward, backward))
    yield Part("gradients of activations and weights",
               2 * rows * max(config.hidden) * FLOAT + s.denoisers, (backward,))  # fmt: skip
    yield from _rows_of_ranking(s, batch, config.diffusion_negatives, (forward, backward))
    yield Part("generated vectors", s.of_users, (validation,))
    block = min(model_blocks.BLOCK, s.users)
    yield Part("a block's reverse process", block * (6 * s.row + 2 * config.hidden[0] * FLOAT),
               (validation,))  # fmt: skip
    yield from _ranking(s, validation)


def _rows_of_ranking(s: _Sizes, batch: int, negatives: int, phases: tuple[str, ...]) -> Iterator[Part]:
    """The vectors that a batch compares; of several negatives the nearest is chosen first."""
    yield Part("rows of the batch", 2 * 3 * batch * s.row, phases)
    if negatives > 1:
        yield Part("candidates", 2 * batch * negatives * s.row, phases[:1])


def _ranking(s: _Sizes, phase: str) -> Iterator[Part]:
    yield Part("points to rank", s.table, (phase,))
    yield Part("items in panels", s.items * s.row, (phase,))
    yield Part("users being ranked", 2 * min(RANKED, s.users) * s.row, (phase,))
    yield Part("held-out pairs", s.held_out * 3 * 8, (phase,), host=True)


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip


def parse_bytes(text: str) -> int:
    """Bytes from "8GiB", "500 MB" or "1e9".

    Raises:
        ValueError: not such a text, or not positive.
    """
    found = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    try:
        size = float(found[1]) * _UNITS[found[2] or ""]
    except (TypeError, ValueError):
        size = 0.0
    if not size >= 1:
        raise ValueError(f"expected an amount of memory such as 8GiB or 500MB, got {text!r}")
    return int(size)
