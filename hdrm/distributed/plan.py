"""What one of several processes needs of memory, and what it receives of others, before any starts.

Process p = (g, c) of R·C has U_p users, I_p items and E_p interactions, its row group U_g and E_g, and

    H_g   items that users of the group have           A_g   pairs (group, item of g that it has)
    F_g   of H_g and A_g together, those between two different groups
    w     numbers of a row in a round: d, or with C > 1 the process's columns of space and one more

Memory is the plan of one process for its share (:mod:`hdrm.train.plan`), but for what it has of others:

    graph         8·(U_g + H_g + 1) + 8·E_g      the group's; and 8·(U_p + 1) + 4·E_p with items' ids
    halo          8·(H_g + A_g + I_g)            ids, and where they go
    a round       4·w·(2·(U_g + H_g) + A_g + I_g)  what is read and written, sums that come and go
                  + 4·w·I_g                      items of the round before, from the second on
                  + 4·w·(U_g + I_g)              C > 1: what the first round started from
    all items     4·d·I                          where all items are ranked or in a softmax
    all users     32·U                           where batches of pairs are drawn

It receives in one propagation of L rounds, which a backward costs again as does the round of users = mean,

    halo          4·w·F_g·L                      rows of other groups, and their sums of own ones
    columns       4·[w_c·(N_g − N_p) + N_p·(d − 1 − w_c)]   C > 1: own columns w_c, then whole rows

and for all items 4·d·(I − I_p), with the gradient 4·d·(P − 1)·I_p.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..config import Config
from ..memory import kept_by_default
from ..model.slices import WIDTH
from ..train.evaluate import VALIDATED
from ..train.plan import (
    COLUMN,
    DIFFUSION,
    ENCODER,
    FLOAT,
    ID,
    OFFSET,
    PHASES,
    TEST,
    Counts,
    Part,
    Plan,
    Sizes,
    distinct,
    parts_of,
    to_files,
)
from ..train.table_steps import turns_to_choose
from .launch import refuse, shape_of
from .shares import Shares

TURNED = 48  # bytes of an own interaction meanwhile it goes to the item's owner and is sorted there
COUNTED = 3  # numbers of every user, from which batches are drawn


@dataclass(frozen=True)
class RankPlan:
    """Of the process with the largest peak, and of the one that receives the most.

    Attributes:
        memory: its plan.
        received: what comes in a step, and at other times, in bytes: {when: {what: bytes}}.
        exact: names in ``received`` that are counted; the others are expectations.
        saving: bytes of host memory that the first process needs beside its own to save the first
            model: the whole table and graph. The others do without the table, and later ones without
            the graph.
    """

    shares: Shares
    memory: Plan
    received: dict[str, dict[str, int]]
    exact: frozenset[str]
    saving: int


def plan(config: Config, sizes: Sizes, shares: Shares, *, device: str = "cuda") -> RankPlan:
    """The plan of ``hdrm train`` under torchrun.

    Args:
        config: the settings; batches and users of a step are those of all processes together.
        sizes: of the data.
        shares: who has what of them.
        device: as of :func:`hdrm.train.plan.plan`.

    Raises:
        ValueError: settings that need one process.
    """
    refuse(config)
    processes = range(shares.size)
    plans = (_memory(_RankCounts(config, sizes, shares, p), device) for p in processes)
    memory = max(plans, key=lambda found: found.peak()[1])
    traffic = (received(config, sizes, shares, p) for p in processes)
    most = max(traffic, key=lambda found: sum(map(sum, map(dict.values, found.values()))))
    nodes = sizes.num_users + sizes.num_items
    owners = nodes if config.users == "table" else sizes.num_items
    own = int(shares.edges[0])
    saving = owners * config.dim * FLOAT
    saving += max(2 * nodes * OFFSET + 2 * COLUMN * (sizes.num_train + own), TURNED * own)
    exact = {"halo", "columns", "degrees", "all items", "numbers of users"}
    exact |= {"items", "items: ids"} if config.loss == "softmax" else set()
    return RankPlan(shares, memory, most, frozenset(exact if shares.exact else ()), saving)


def mesh_of(devices: int | None, mesh: str | None) -> tuple[int, int]:
    """(R, C) of ``--devices`` and ``--mesh``; ValueError if they differ."""
    shape = shape_of(mesh) or (devices or 1, 1)
    if devices is not None and shape[0] * shape[1] != devices:
        raise ValueError(f"a mesh of {mesh} is of {shape[0] * shape[1]} devices, not of {devices}")
    return shape


class _RankCounts(Counts):
    """Counts of a process: its own users, items and part of a batch; of others what a part says."""

    def __init__(self, config: Config, whole: Sizes, shares: Shares, process: int) -> None:
        users, items, edges = (
            int(of[process]) for of in (shares.users, shares.items, shares.edges)
        )
        of_users, of_edges = users / whole.num_users, edges / whole.num_train
        of_batch = of_users if config.pairs == "users" else of_edges

        def part(count: int, share: float) -> int:
            return max(round(count * share), config.micro_batches)

        own = config.replace(
            encoder_batch=part(config.encoder_batch, of_batch),
            diffusion_batch=part(config.diffusion_batch, of_batch),
            softmax_users=part(min(config.softmax_users, whole.num_users), of_users),
        )
        held_out = (round(count * of_edges) for count in (whole.num_valid, whole.num_test))
        super().__init__(own, Sizes(users, items, max(edges, 1), *held_out), whole)
        self.shares, self.process = shares, process
        members = shares.members(process)
        self.group_users, self.group_items, self.group_edges = (
            int(of[members].sum()) for of in (shares.users, shares.items, shares.edges)
        )
        self.marks = 2 * self.group_edges
        self.halo, self.asked = shares.halo(process)
        self.propagating = self.rounds(config.dim, config.layers)
        self.returning = self.table + self.propagating  # the gradient is divided by degrees first
        wide = min(WIDTH, config.dim)
        self.meaning = 2 * self.nodes * wide * FLOAT + self.rounds(wide, 1)
        self.all_items = whole.num_items * self.row

    def rounds(self, dim: int, count: int) -> int:
        """Work tables of a propagation of rows (·, dim)."""
        width = self.shares.widths(self.process, dim)[1]
        rows = (
            2 * (self.group_users + self.halo) + self.asked + (1 + (count > 1)) * self.group_items
        )
        rows += (self.shares.cols > 1) * (self.group_users + self.group_items)
        return rows * width * FLOAT

    def graph(self, edges: int) -> int:
        """The row group's, degrees, and the own users' items, of which there are ``edges``."""
        share = edges / self.sizes.num_train
        local = (self.group_users + self.halo + 1) * OFFSET + round(8 * share * self.group_edges)
        degrees = (self.nodes + self.group_items) * ID
        return local + degrees + (self.sizes.num_users + 1) * OFFSET + 4 * edges

    def comparing(self, part: int) -> int:
        if self.config.loss == "softmax":  # gradients of h from users and from items
            return 2 * self.table
        rows = self.fetched(part, self.config.encoder_negatives)
        chosen = self.candidates(part * self.config.encoder_negatives)
        return max(chosen, 2 * self.table) + 3 * (part * self.row + rows * self.row)

    def fetched(self, pairs: int, negatives: int) -> int:
        """Distinct items of so many pairs."""
        return distinct(self.whole.num_items, pairs * (1 + negatives))

    def exchanged(self) -> Iterator[Part]:
        """What there is because of other processes."""
        config, whole = self.config, self.whole
        forward, backward, validation = ENCODER
        yield Part("halo", (self.halo + self.asked) * ID, PHASES)
        if config.loss == "softmax":
            yield Part("all items, and their gradients", 2 * self.all_items, (forward,))
        else:
            offsets = (whole.num_users + 1) * OFFSET
            yield Part("offsets of all users", offsets, (*ENCODER, *DIFFUSION))
        if config.propagation == "sampled":
            rows = self.sampled_rows()[-1]
            yield Part("rows on their way", 2 * rows * self.row, (forward, backward))
            own = (self.nodes + 1) * OFFSET + 8 * self.sizes.num_train
            yield Part("neighbours of own nodes", own, ENCODER)
        for phase in (validation, DIFFUSION[-1], TEST):
            yield Part("own items for the others", self.all_items, (phase,))
        if config.tables == "frozen":
            rows = whole.num_items
            if config.loss != "softmax":
                rows = self.fetched(config.diffusion_batch, config.diffusion_negatives)
            yield Part("items of the step", 2 * rows * self.row, DIFFUSION[2:4])
        if config.loss == "softmax":
            yield Part("ids of all items", 5 * whole.num_items * ID, DIFFUSION[1:4])


def _memory(counted: _RankCounts, device: str) -> Plan:
    parts = [*parts_of(counted), *counted.exchanged()]
    unified = device.split(":")[0] == "cpu"
    if unified:  # see hdrm.memory
        kept = min(counted.rounds(counted.config.dim, 1), kept_by_default())
        parts.append(Part("kept of results", kept, (ENCODER[-1], DIFFUSION[-1], TEST), host=True))
    else:
        parts += to_files(counted, 0)
    return Plan(counted.config, tuple(part for part in parts if part.num_bytes), unified)


def received(
    config: Config, sizes: Sizes, shares: Shares, process: int
) -> dict[str, dict[str, int]]:
    """Bytes that a process receives: {when: {what: bytes}}; the names are World.received's.

    Sums of a few numbers are left out. "numbers of users", "hits" and "gradients of the denoisers",
    by a ring, are not among World.received.
    """
    counted, came = _RankCounts(config, sizes, shares, process), _Received(config, shares, process)
    encoded = came.propagation(config.dim, config.layers)
    if config.users == "mean":
        encoded += came.propagation(config.dim, 1)
    softmax, joint = config.loss == "softmax", config.tables == "joint"
    degrees = {"degrees": shares.degrees(process) * ID}
    if config.propagation == "full":
        step = encoded + encoded  # and back
    else:
        step = _sampled(counted)
    if softmax:
        step += Counter(degrees)
        step["all items"] = config.micro_batches * came.all_items(gradient=True)
    elif config.propagation == "full":
        pairs = config.encoder_batch, config.encoder_negatives
        step += came.items(counted, *pairs, parts=config.micro_batches, gradient=True)
    found = {"a step of the encoder": step}
    # Vectors, and the round of the histories.
    entering = encoded.copy()
    for wide in _slices(config.dim):
        entering += came.propagation(wide, 1)
    diffusion: Counter[str] = Counter()
    if softmax:
        diffusion["items"] = came.all_items(gradient=joint)
        diffusion["items: ids"] = (shares.size - 1) * int(shares.items[process]) * ID
        diffusion += Counter(degrees)
    else:
        pairs = config.diffusion_batch, config.diffusion_negatives
        diffusion += came.items(counted, *pairs, parts=1, gradient=joint)
        others = sizes.num_users - int(shares.users[process])
        fold = Counter(degrees | {"numbers of users": COUNTED * ID * others})
        found["a fold of the diffusion"] = fold if joint else fold + entering
    if joint:
        diffusion += entering + entering  # and back
    elif softmax:
        diffusion += entering
    diffusion["gradients of the denoisers"] = (
        2 * counted.denoisers * (shares.size - 1) // shares.size
    )
    found["a step of the diffusion"] = diffusion
    validation = encoded.copy()
    validation["all items"] = came.all_items(gradient=False)
    found_of_user = ID + -(-VALIDATED[-1] // 8)  # how many there are to find, and bits of hits
    tested = min(sizes.num_users, sizes.num_valid)
    validation["hits"] = tested * found_of_user * (shares.size - 1) // shares.size
    found["a validation of the encoder"] = validation
    return {when: {k: v for k, v in of.items() if v} for when, of in found.items()}


class _Received:
    """What comes to a process in the parts of a step."""

    def __init__(self, config: Config, shares: Shares, process: int) -> None:
        self._shares, self._process, self._row = shares, process, config.dim * FLOAT

    def propagation(self, dim: int, rounds: int) -> Counter[str]:
        """Of rows (·, dim), in one direction."""
        shares, members = self._shares, self._shares.members(self._process)
        own, width = shares.widths(self._process, dim)
        nodes = shares.users + shares.items
        mine, group = int(nodes[self._process]), int(nodes[members].sum())
        columns = own * (group - mine) + mine * (dim - 1 - own)
        return Counter(
            {
                "halo": rounds * shares.from_others(self._process) * width * FLOAT,
                "columns": (shares.cols > 1) * columns * FLOAT,
            }
        )

    def all_items(self, *, gradient: bool) -> int:
        own, size = int(self._shares.items[self._process]), self._shares.size
        return (int(self._shares.items.sum()) - own + gradient * (size - 1) * own) * self._row

    def items(
        self, counted: _RankCounts, batch: int, negatives: int, *, parts: int, gradient: bool
    ) -> Counter[str]:
        """Those of the own part of a batch; as many are asked of this process, were all items alike."""
        whole, shares = counted.whole.num_items, self._shares
        of_batch = shares.users if counted.config.pairs == "users" else shares.edges
        pairs = of_batch / of_batch.sum() * batch * (1 + negatives)
        rows = [parts * distinct(whole, float(of) / parts) for of in pairs]
        own = int(shares.items[self._process]) / whole
        asked = (sum(rows) - rows[self._process]) * own
        fetched = rows[self._process] * (1 - own)
        return Counter(
            {
                "items": round(fetched + gradient * asked) * self._row,
                "items: ids": round(asked) * ID,
            }
        )


def _sampled(counted: _RankCounts) -> Counter[str]:
    """A step of sampled propagation, were all nodes drawn alike: popular ones are drawn twice."""
    config, size = counted.config, counted.shares.size
    *before, last = counted.sampled_rows()
    turns = 1 + turns_to_choose(config.encoder_negatives) * (config.encoder_negatives > 1)
    times = turns * config.micro_batches
    others = (size - 1) / size
    asked, drawn = sum(before), sum(n * f for n, f in zip(before, config.fanouts))
    return Counter(
        {
            "neighbours": round(others * times * (asked + drawn)) * ID,
            "neighbours: ids": round(others * times * asked) * ID,
            "rows": round(others * (times + config.micro_batches) * last) * counted.row,
            "rows: ids": round(others * (times + config.micro_batches) * last) * ID,
        }
    )


def _slices(dim: int) -> list[int]:
    """Widths of the slices that histories are computed in; hdrm.model.slices."""
    return [min(WIDTH, dim - first) for first in range(0, dim - 1, WIDTH - 1)]
