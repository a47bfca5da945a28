"""How much memory a training needs, counted before anything is allocated.

A training goes through phases, and each of its tensors is alive in some of them. A plan lists the
tensors with their bytes and phases; a peak is the phase in which they sum to the most. It begins where
the data have been read; what that takes is said at :func:`hdrm.data.load`.

N = U + I nodes, E training interactions, d = ``dim``, B rows of a batch. What grows with none of them
is left out. A table is N·d float32 numbers. Full-graph training of the encoder keeps three (points,
momentum, average) and needs two more in the forward (h, a work table or the gradient of h) and three
in the backward (the gradients of h and of the points, a work table, which is half of one in
bfloat16). Sampled training keeps two, and what a step needs
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
from ..model.slices import WIDTH
from .evaluate import BLOCK as RANKED
from .evaluate import CUTOFFS, VALIDATED
from .stages import COMPARED

FLOAT, COLUMN, OFFSET, ID = 4, 4, 8, 8  # bytes of a number, a column id, a row offset, an id

ENCODER = ("encoder forward", "encoder backward", "encoder validation")
DIFFUSION = (
    "next fold", "diffusion propagation", "diffusion forward", "diffusion backward",
    "diffusion table step", "diffusion validation",
)  # fmt: skip
RESTORING, TEST = "restoring the best model", "test"
PHASES = (*ENCODER, *DIFFUSION, RESTORING, TEST)
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
        return cls(dataset.num_users, dataset.num_items, *dataset.sizes.values())

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
    counted = Counts(config, sizes)
    parts = parts_of(counted)
    unified = device.split(":")[0] == "cpu"
    if unified:
        # See hdrm.memory; a table's, for the halves of h that are ranked do not fit its place.
        kept = min(counted.table, kept_by_default())
        parts.append(Part("kept of results", kept, (ENCODER[-1], DIFFUSION[-1], TEST), host=True))
        if config.conditioning == "pair":  # noisy vectors and gradients: up to three rows of a pair
            kept = min(3 * config.diffusion_batch * counted.row, kept_by_default())
            parts.append(Part("kept of pairs", kept, DIFFUSION[2:4], host=True))
    else:
        graph = counted.graph(sizes.num_train)
        parts.append(Part("training graph as it was read", graph, PHASES, host=True))
        parts += to_files(counted, graph)
    return Plan(config, tuple(part for part in parts if part.num_bytes), unified)


def parts_of(counted: Counts) -> list[Part]:
    """What a training needs wherever it runs."""
    libraries = Part("Python and its libraries", LIBRARIES, PHASES, host=True)
    return [libraries, *_common(counted), *_encoder(counted), *_diffusion(counted)]


def fitting(
    config: Config, sizes: Sizes, budget: int, *, device: str = "cuda"
) -> tuple[Plan, bool]:
    """The first plan whose peak is within ``budget`` bytes, and whether there is one.

    Tried are the settings as they are, then cheaper ones: a batch in more parts (``micro_batches``,
    the same step), work tables of bfloat16, the table in host memory, sampled propagation, and that
    with the table in host memory; sampling is for loss = "hinge" alone, and both are for users =
    "table" and SGD alone. If none fits, the plan is the cheapest.
    """
    plans = [plan(c, sizes, device=device) for c in _cheaper(config, device)]
    for found in plans:
        if found.peak()[1] <= budget:
            return found, True
    return min(plans, key=lambda found: found.peak()[1]), False


def _cheaper(config: Config, device: str) -> Iterator[Config]:
    """The settings, and from one to the next what needs less memory on the device."""
    bases = [config]
    full, of_rows = config.propagation == "full", config.users == "table"
    of_rows = of_rows and config.encoder_optimizer == "sgd"
    if full and config.work_tables == "float32":
        bases.append(config.replace(work_tables="bfloat16"))
    if full and of_rows and device != "cpu":
        bases.append(bases[-1].replace(tables_on="host"))
    if full and of_rows and config.loss == "hinge" and config.tables == "frozen":
        fanouts = (*config.fanouts, *[SMALL_FANOUT] * config.layers)[: config.layers]
        bases.append(config.replace(propagation="sampled", fanouts=fanouts))
    if bases[-1].propagation == "sampled" and device != "cpu":
        bases.append(bases[-1].replace(tables_on="host"))
    for base, parts in itertools.product(bases, (1, 4, 16)):
        yield base.replace(micro_batches=base.micro_batches * parts)


class Counts:
    """Bytes that several parts are made of.

    Args:
        config: the settings.
        sizes: what this process computes.
        whole: what all processes together do; None if this is the only one.
    """

    def __init__(self, config: Config, sizes: Sizes, whole: Sizes | None = None) -> None:
        self.config, self.sizes, self.whole = config, sizes, whole or sizes
        self.nodes = sizes.num_users + sizes.num_items
        self.row = config.dim * FLOAT
        self.table = self.nodes * self.row
        owners = self.nodes if config.users == "table" else sizes.num_items
        self.points = owners * self.row
        narrow = config.work_tables == "bfloat16"  # the first round fills one too then
        work = self.table // 2 if narrow else self.table * (config.layers > 1)
        # Tables on the host are propagated in slices: a slice, its result, and their share of work.
        wide = config.dim > WIDTH
        a_slice = self.nodes * min(WIDTH, config.dim) * FLOAT
        in_slices = config.tables_on == "host"
        share = work * min(WIDTH, config.dim) // config.dim
        # What comes beside h, beside its gradient on its way to the points, and with histories.
        self.propagating = a_slice * (1 + wide) + share if in_slices else work
        self.returning = 2 * a_slice + share if in_slices else self.table + work
        self.meaning = a_slice * (1 + wide)
        self.of_users = sizes.num_users * self.row
        self.ranked = self.of_users + self.whole.num_items * self.row
        self.marks = 2 * sizes.num_train  # a byte an edge of the graph
        users = -(-min(config.softmax_users, sizes.num_users) // config.micro_batches)
        self.beside_items = users * self.whole.num_items * FLOAT
        widths = [2 * config.dim + 10, *config.hidden, config.dim]
        weights = sum(a * b + b for a, b in itertools.pairwise(widths)) + 10 * 10 + 10
        self.denoisers = 2 * weights * FLOAT

    def graph(self, edges: int) -> int:
        """rowptr, and col in both directions."""
        return (self.nodes + 1) * OFFSET + 2 * edges * COLUMN

    def candidates(self, count: int) -> int:
        """The vectors that are compared at a time, to choose the nearest of them."""
        return 2 * min(count * self.row, COMPARED * FLOAT)

    def comparing(self, part: int) -> int:
        """A loss of h and the gradient of h, of a part of a batch."""
        if self.config.loss == "softmax":
            return self.table
        batch, negatives = 3 * part * self.row, self.config.encoder_negatives
        # Its rows; then their gradients are one with that of h.
        needed = max(2 * batch, batch + self.table)
        if negatives > 1:
            needed = max(needed, part * self.row + self.candidates(part * negatives))
        return needed

    def sampled_rows(self) -> list[int]:
        """Nodes of S_0 … S_L of a part of a batch, if neighbours were drawn uniformly: at most."""
        config = self.config
        # Users, positives, chosen negatives.
        drawn = 3 * config.encoder_batch / config.micro_batches
        nodes = self.whole.num_users + self.whole.num_items
        found = [distinct(nodes, drawn)]
        for fanout in config.fanouts:
            known = found[-1]
            new = 1 - known / nodes
            found.append(known + round(new * distinct(nodes, known * fanout)))
        return found


def distinct(count: int, draws: float) -> int:
    """How many of ``count`` are expected among uniform draws with replacement."""
    return round(count * -math.expm1(-draws / count)) if count else 0


def _common(c: Counts) -> Iterator[Part]:
    """What a training has from its first step to its last, and before and after."""
    s, host = c.sizes, c.config.tables_on == "host"
    held_out = 2 * (s.num_users + 1) * OFFSET + (s.num_valid + s.num_test) * COLUMN
    yield Part("validation and test interactions", held_out, PHASES, host=True)
    yield Part("training graph", c.graph(s.num_train), PHASES)
    yield Part("points", c.points, PHASES, host)
    yield Part("denoisers", c.denoisers, PHASES)
    # Of the graph in the file nothing is read.
    yield Part("model file, mapped", c.points + c.denoisers, (RESTORING,), host=True)
    yield Part("optimiser, average and fold of a stage", 2 * c.points + c.table, (RESTORING,))
    yield Part("h of the test", c.ranked, (TEST,))
    yield from _ranking(c, TEST, s.num_train + s.num_valid, c.whole.num_test, CUTOFFS[-1])


def _encoder(c: Counts) -> Iterator[Part]:
    config, (forward, backward, validation) = c.config, ENCODER
    host = config.tables_on == "host"
    part = -(-config.encoder_batch // config.micro_batches)
    moments = 2 if config.encoder_optimizer == "adam" else bool(config.encoder_momentum)
    yield Part("momentum of the points", c.points * moments, ENCODER, host)
    yield Part("h", c.ranked, (validation,))
    if config.propagation == "full":
        yield Part("average of the points", c.points * bool(config.averaging), ENCODER, host)
        yield Part("h, then its gradient", c.table, (forward, backward))
        yield Part("round 0", c.table * (config.users != "table"), (forward, backward))
        if config.users == "mean":  # h and a round of it; gone before users are beside all items
            in_front = 2 * c.table - c.beside_items * (config.loss == "softmax")
            yield Part("means of items", max(in_front, 0), (forward,))
            yield Part("gradients of means", 2 * c.table, (backward,))
        work = max(c.propagating, c.comparing(part))
        yield Part("work tables, then gradients", work, (forward,))
        yield Part("gradient of the points and work tables", c.returning, (backward,))
        if config.micro_batches > 1:
            yield Part("gradient of a part", c.table, (forward,))
    else:
        *_, before, rows = c.sampled_rows()
        # Points, h_0, and in either direction what one round makes of another.
        yield Part("rows of the neighbourhood", (4 * rows + before) * c.row, (forward, backward))
        yield Part("ids of the neighbourhood", 3 * rows * ID, (forward, backward))
        yield Part("rows of the batch", 6 * part * c.row, (forward,))
    if config.loss == "softmax":
        yield from _hiding(c, (forward,), (forward, backward), (forward,))
    else:
        yield Part("users to draw", c.whole.num_users * 3 * ID, ENCODER, host=True)
    yield from _ranking(c, validation, c.sizes.num_train, c.whole.num_valid, VALIDATED[-1])


def to_files(c: Counts, graph: int) -> Iterator[Part]:
    """Copies of what is on a device of its own memory, on their way to a file: between two steps a
    checkpoint's, after a validation those of the best model, which has the graph in it."""
    config = c.config
    points = c.points * (config.tables_on == "device")
    moments = 2 if config.encoder_optimizer == "adam" else bool(config.encoder_momentum)
    averaged, joint = bool(config.averaging), config.tables == "joint"
    remembered = points * (moments + averaged * (config.propagation == "full"))
    model = points + c.denoisers
    yield Part("copies for files", max(model + remembered, model + graph), ENCODER, host=True)
    remembered = points * (moments + averaged) * joint + 3 * c.denoisers
    yield Part("copies for files", max(model + remembered, model + graph), DIFFUSION, host=True)


def _hiding(
    c: Counts, taking: tuple[str, ...], alive: tuple[str, ...], ranking: tuple[str, ...]
) -> Iterator[Part]:
    """What hiding interactions needs, and users of a step beside all items; each with its phases."""
    config, s = c.config, c.sizes
    yield Part("marks of the interactions", c.marks, taking)
    kept = round(s.num_train * (1 - config.edge_dropout))
    yield Part("graph of the others", c.graph(kept), alive)
    yield Part("users beside all items", c.beside_items, ranking)
    yield Part("items, signed, and their gradients", 4 * c.whole.num_items * c.row, ranking)


def _diffusion(c: Counts) -> Iterator[Part]:
    config, s = c.config, c.sizes
    fold, propagation, forward, backward, table_step, validation = DIFFUSION
    batch, negatives = config.diffusion_batch, config.diffusion_negatives
    users, pairs = distinct(s.num_users, batch), config.conditioning == "pair"
    softmax = config.loss == "softmax" and not pairs
    if softmax:
        users = min(config.softmax_users, s.num_users)
        batch = negatives = 0  # all items are ranked
        yield from _hiding(c, (fold,), DIFFUSION, (forward,))
    elif not pairs:
        hidden = s.num_train // config.folds
        yield Part("marks of the edges", c.marks, (fold,))
        yield Part("graph of a fold", c.graph(s.num_train - hidden), DIFFUSION)
        yield Part("positives of a fold", s.num_users * OFFSET + hidden * COLUMN, DIFFUSION)
    if not softmax:
        yield Part("users to draw", c.whole.num_users * 3 * ID, DIFFUSION, host=True)
    yield Part("moments and average of the denoisers", 3 * c.denoisers, DIFFUSION)
    if config.tables == "joint":
        host = config.tables_on == "host"
        moments = 2 if config.encoder_optimizer == "adam" else bool(config.encoder_momentum)
        moments += bool(config.averaging)
        yield Part("momentum and average of the points", moments * c.points, DIFFUSION, host)
        yield Part("h", c.table, (propagation,))
        items = c.whole.num_items
        items = items if softmax else distinct(items, batch * (1 + negatives))
        rows = users * (2 - pairs) + items
        # Vectors and histories of users, vectors of items; their gradients come as activations go.
        yield Part("rows of the step", rows * c.row, (propagation, forward, backward))
        yield Part("work tables", max(c.propagating, c.meaning * (not pairs)), (propagation,))
        yield Part("gradient of h", c.table, (table_step,))
        yield Part("gradient of the points and work tables", c.returning, (table_step,))
    else:
        yield Part("h of the positives", c.table, DIFFUSION)
        yield Part("histories", c.of_users, (fold,) if pairs else DIFFUSION)
        yield Part("work tables", max(c.propagating, c.meaning), (fold,))
    denoised, joint = batch if pairs else users, config.tables == "joint"
    # Of each denoiser: input, masked input, output, hidden layers. If it is joint, the inputs of users
    # are among those rows; of pairs the outputs are gone.
    vectors = 2 if joint or pairs else 3
    saved = 2 * denoised * (vectors * c.row + sum(config.hidden) * FLOAT)
    yield Part("activations", saved, (forward, backward))
    yield Part("gradients of activations", 2 * denoised * max(config.hidden) * FLOAT, (backward,))
    yield Part("gradients of the denoisers", c.denoisers, (backward, table_step))
    if pairs:  # predicted, mixed, negatives; gradients of ranking, reconstruction and the inputs
        yield Part("rows of the batch", (8 + 3 * joint) * batch * c.row, (forward,))
        yield Part("gradients of pairs", (2 + 2 * joint) * batch * c.row, (backward,))
        yield Part("ids and time embeddings", batch * (10 * ID + 50 * FLOAT), (forward, backward))
    else:
        yield Part("gradients of predictions", 2 * users * c.row, (forward,))
        yield Part("rows of the batch", 6 * batch * c.row, (forward,))
    if negatives > 1:
        yield Part("candidates", c.candidates(batch * negatives), (forward,))
    yield Part("h of all edges", c.ranked, (validation,))
    block = min(GENERATED, s.num_users)
    reverse = block * (6 * c.row + 2 * config.hidden[0] * FLOAT)
    yield Part("histories and generated vectors", 2 * c.of_users + reverse, (validation, TEST))
    yield Part("users mixed", c.of_users, (validation, TEST))
    yield from _ranking(c, validation, c.sizes.num_train, c.whole.num_valid, VALIDATED[-1])


def _ranking(c: Counts, phase: str, known: int, relevant: int, deepest: int) -> Iterator[Part]:
    """Of ``known`` interactions that are not ranked, and ``relevant`` ones to be found."""
    users = c.sizes.num_users
    ranked = min(RANKED, users)
    yield Part("points to rank", c.ranked, (phase,))
    yield Part("items in panels", c.whole.num_items * c.row, (phase,))
    yield Part("users being ranked", 2 * ranked * c.row, (phase,))
    # Ids of a block's pairs: rows, columns, keys of either matrix, and sorted.
    yield Part("items not to rank", 6 * ID * known * ranked // users, (phase,))
    yield Part("hits", min(c.whole.num_users, relevant) * deepest, (phase,), host=True)
