"""How much memory a training needs, counted before anything is allocated.

A training goes through phases, and each of its tensors is alive in some of them. A plan lists the
tensors with their bytes and phases; a peak is the phase in which they sum to the most.

N = U + I nodes, E training interactions, d = ``dim``, B rows of a batch. What grows with none of them
is left out. A table is N·d float32 numbers. Full-graph training of the encoder keeps three (points,
momentum, average) and needs two more in the forward (h, a work table) and three in the backward (the
gradients of h and of the points, a work table). Sampled training keeps two, and what a step needs
follows the batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..config import Config
from ..data import Dataset
from ..memory import kept_by_default
from ..model.hdrm import BLOCK as GENERATED
from .evaluate import BLOCK as RANKED

FLOAT, COLUMN, OFFSET, ID = 4, 4, 8, 8  # bytes of a number, a column id, a row offset, an id

BUILDING = "graph building"
ENCODER = ("encoder forward", "encoder backward", "encoder validation")
DIFFUSION = ("next fold", "diffusion forward", "diffusion backward", "diffusion validation")
RESTORING, TEST = "restoring the best model", "test"
PHASES = (BUILDING, *ENCODER, *DIFFUSION, RESTORING, TEST)
LIBRARIES = 450 * 2**20  # resident: torch, polars, their threads' buffers; measured
SMALL_FANOUT = 5  # of layers for which the settings name none


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


@dataclass(frozen=True)
class Sizes:
    """What a training is made on: U, I, E, and interactions for validation and for test."""

    num_users: int
    num_items: int
    num_train: int
    num_valid: int = 0
    num_test: int = 0

    @classmethod
    def of(cls, dataset: Dataset) -> Sizes:
        parts = (dataset.train, dataset.valid, dataset.test)
        return cls(dataset.num_users, dataset.num_items, *(len(part) for part in parts))

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("num_valid", "num_test") else 1
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")


def plan(config: Config, sizes: Sizes, *, device: str = "cuda") -> Plan:
    """The plan of ``hdrm train`` for interactions of these sizes.

    Args:
        config: the settings.
        sizes: of the data.
        device: "cpu" or another one; on the CPU there is one memory.
    """
    counted = _Counts(config, sizes)
    parts = [Part("Python and its libraries", LIBRARIES, PHASES, host=True)]
    parts += [*_common(counted), *_encoder(counted), *_diffusion(counted)]
    unified = device.split(":")[0] == "cpu"
    if unified:  # see hdrm.memory; a table's, for the halves of h that are ranked do not fit its place
        kept = min(counted.table, kept_by_default())
        parts.append(Part("kept of results", kept, (ENCODER[2], DIFFUSION[3], TEST), host=True))
    return Plan(config, tuple(part for part in parts if part.num_bytes), unified)


def fitting(
    config: Config, sizes: Sizes, budget: int, *, device: str = "cuda"
) -> tuple[Plan, bool]:
    """The first plan whose peak is within ``budget`` bytes, and whether there is one.

    Tried are the settings as they are, then cheaper ones: a batch in more parts (``micro_batches``,
    the same step), sampled propagation, sampled propagation with the table in host memory. The last two
    are there for loss = "hinge" alone. If none fits, the plan is the cheapest.
    """
    plans = [plan(c, sizes, device=device) for c in _cheaper(config, device)]
    for found in plans:
        if found.peak()[1] <= budget:
            return found, True
    return min(plans, key=lambda found: found.peak()[1]), False


def _cheaper(config: Config, device: str) -> Iterator[Config]:
    """The settings, and from one to the next what needs less memory on the device."""
    bases = [config]
    if config.loss == "hinge" and config.propagation == "full" and config.tables == "frozen":
        fanouts = (*config.fanouts, *[SMALL_FANOUT] * config.layers)[: config.layers]
        bases.append(config.replace(propagation="sampled", fanouts=fanouts))
    if bases[-1].propagation == "sampled" and device != "cpu":
        bases.append(bases[-1].replace(tables_on="host"))
    for base, parts in itertools.product(bases, (1, 4, 16)):
        yield base.replace(micro_batches=base.micro_batches * parts)


class _Counts:
    """Bytes that several parts are made of."""

    def __init__(self, config: Config, sizes: Sizes) -> None:
        self.config, self.sizes = config, sizes
        self.nodes = sizes.num_users + sizes.num_items
        self.row = config.dim * FLOAT
        self.table = self.nodes * self.row
        rows = sizes.num_items if config.users == "items" else self.nodes
        self.points = rows * self.row
        self.of_users = sizes.num_users * self.row
        widths = [2 * config.dim + 10, *config.hidden, config.dim]
        weights = sum(a * b + b for a, b in itertools.pairwise(widths)) + 10 * 10 + 10
        self.denoisers = 2 * weights * FLOAT

    def graph(self, edges: int) -> int:
        """rowptr, and col in both directions."""
        return (self.nodes + 1) * OFFSET + 2 * edges * COLUMN

    def sampled_rows(self) -> list[int]:
        """Nodes of S_0 … S_L of a part of a batch, if neighbours were drawn uniformly: at most."""
        config = self.config
        drawn = config.encoder_batch * (2 + config.encoder_negatives) / config.micro_batches
        found = [_distinct(self.nodes, drawn)]
        for fanout in config.fanouts:
            known = found[-1]
            found.append(known + _distinct(self.nodes - known, known * fanout))
        return found


def _distinct(count: int, draws: float) -> int:
    """How many of ``count`` are expected among uniform draws with replacement."""
    return round(count * -math.expm1(-draws / count)) if count else 0


def _common(c: _Counts) -> Iterator[Part]:
    """What a training has from its first step to its last, and before and after."""
    s, host = c.sizes, c.config.tables_on == "host"
    known = s.num_train + s.num_valid
    yield Part("interactions", (known + s.num_test) * 2 * ID, PHASES, host=True)
    yield Part("ids while a graph is built", s.num_train * 2 * ID + c.nodes * OFFSET, (BUILDING,), True)
    yield Part("training graph", c.graph(s.num_train), PHASES)
    yield Part("points", c.points, PHASES, host)
    yield Part("denoisers", c.denoisers, PHASES)
    file = c.points + c.denoisers + s.num_train * 2 * COLUMN
    yield Part("model file, mapped", file, (RESTORING,), host=True)
    yield Part("optimiser, average and fold of a stage", 2 * c.points + c.table, (RESTORING,))
    # Ids of the pairs as they are, apart, as keys and as sorted keys; then the CSR.
    yield Part("items not to rank", known * (2 + 2 + 2) * ID + known * COLUMN, (TEST,), host=True)
    yield Part("h of the test", c.table, (TEST,))
    yield from _ranking(c, TEST)


def _encoder(c: _Counts) -> Iterator[Part]:
    config, (forward, backward, validation) = c.config, ENCODER
    host = config.tables_on == "host"
    yield Part("momentum of the points", c.points * bool(config.encoder_momentum), ENCODER, host)
    yield Part("h", c.table, (validation,))
    if host:
        yield Part("points on the device", c.points, (validation,))
    if config.propagation == "full":
        yield Part("average of the points", c.points, ENCODER)
        yield Part("h and a work table", 2 * c.table, (forward,))
        yield Part("round 0", c.table * (config.users == "items"), (forward, backward))
        yield Part("gradients of h and of the points", 2 * c.table, (backward,))
        yield Part("work table", c.table * (config.layers > 1), (backward,))
        if config.micro_batches > 1:
            yield Part("gradient of a part", c.table, (forward,))
    else:
        *_, rows = c.sampled_rows()
        # Points, h_0, the gradients of both and of what passes between the layers.
        yield Part("rows of the neighbourhood", 6 * rows * c.row, (forward, backward))
        yield Part("ids of the neighbourhood", 12 * rows * ID, (forward,))
    if config.loss == "softmax":
        yield from _denoising(c)
    else:
        part = -(-config.encoder_batch // config.micro_batches)
        yield Part("users to draw", c.sizes.num_users * 3 * ID, ENCODER, host=True)
        yield from _compared(c, part, config.encoder_negatives, forward)
    yield from _ranking(c, validation)


def _denoising(c: _Counts) -> Iterator[Part]:
    """What hiding interactions needs, and users of a step beside all items."""
    config, s, (forward, backward, _) = c.config, c.sizes, ENCODER
    users = -(-min(config.softmax_users, s.num_users) // config.micro_batches)
    kept = round(s.num_train * (1 - config.edge_dropout))
    yield Part("ids of the interactions", s.num_train * 2 * ID, ENCODER)
    # The counter and what becomes of it in the hash, and which are hidden.
    yield Part("draws of the hidden", s.num_train * 4 * ID, (forward,))
    yield Part("ids of a graph of the others", kept * (2 + 2) * ID, (forward,), host=True)
    yield Part("graph of the others", c.graph(kept), (forward, backward))
    yield Part("users beside all items", users * s.num_items * FLOAT * 2, (forward,))
    yield Part("items, signed, and their gradients", 4 * s.num_items * c.row, (forward,))


def _diffusion(c: _Counts) -> Iterator[Part]:
    config, s, (fold, forward, backward, validation) = c.config, c.sizes, DIFFUSION
    hidden = s.num_train // config.folds
    rest = s.num_train - hidden
    yield Part("order of the edges", s.num_train * ID, DIFFUSION, host=True)
    yield Part("ids of a fold", s.num_train + rest * (2 + 2) * ID, (fold,), host=True)
    yield Part("next graph of a fold", c.graph(rest), (fold,))
    yield Part("graph of a fold", c.graph(rest), DIFFUSION)
    yield Part("positives of a fold", c.sizes.num_users * 4 * ID + hidden * COLUMN, DIFFUSION, host=True)
    yield Part("moments and average of the denoisers", 3 * c.denoisers, DIFFUSION)
    yield Part("h and histories of a fold", c.table + c.of_users, DIFFUSION)
    yield Part("work table", c.table, (fold,))
    if config.tables == "joint":
        yield Part("momentum and average of the points", 2 * c.points, DIFFUSION)
        yield Part("work tables", 2 * c.table, (forward,))
        yield Part("gradients of h and of the points, work table", 3 * c.table, (backward,))
    rows = _distinct(s.num_users, config.diffusion_batch)
    # Of each denoiser: noisy and masked input, output, prediction, and every hidden layer.
    saved = 2 * rows * (6 * c.row + sum(config.hidden) * FLOAT)
    yield Part("activations", saved, (forward, backward))
    yield Part("gradients of activations", 2 * rows * max(config.hidden) * FLOAT, (backward,))
    yield Part("gradients of the denoisers", c.denoisers, (backward,))
    yield from _compared(c, config.diffusion_batch, config.diffusion_negatives, forward)
    yield Part("h of all edges", c.table, (validation,))
    block = min(GENERATED, s.num_users)
    reverse = block * (6 * c.row + 2 * config.hidden[0] * FLOAT)
    yield Part("histories and generated vectors", 2 * c.of_users + reverse, (validation, TEST))
    yield Part("users mixed", c.of_users, (validation, TEST))
    yield from _ranking(c, validation)


def _compared(c: _Counts, rows: int, negatives: int, phase: str) -> Iterator[Part]:
    """The vectors that a batch compares; of several negatives the nearest is chosen first."""
    yield Part("rows of the batch", 6 * rows * c.row, (phase,))
    if negatives > 1:
        yield Part("candidates", 2 * rows * negatives * c.row, (phase,))


def _ranking(c: _Counts, phase: str) -> Iterator[Part]:
    yield Part("points to rank", c.table, (phase,))
    yield Part("items in panels", c.sizes.num_items * c.row, (phase,))
    yield Part("users being ranked", 2 * min(RANKED, c.sizes.num_users) * c.row, (phase,))
