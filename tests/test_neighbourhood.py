"""Sampled propagation: exact in expectation, the step that uses it, and what the step allocates."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hdrm
from hdrm import BipartiteGraph, ops
from hdrm.config import PRESETS, Config
from hdrm.data import load
from hdrm.model import HDRM
from hdrm.model.neighbourhood import Neighbourhood, _systematic
from hdrm.optim import RiemannianSGD
from hdrm.seeds import derive_seed
from hdrm.train import Trainer
from hdrm.train.rows import RowGradients, RowTable
from hdrm.train.stages import EncoderStage

NUM_USERS, NUM_ITEMS = 24, 17
CONFIG = Config(
    dim=9, hidden=(8,), encoder_batch=40, encoder_negatives=3, fanouts=(3, 2, 2), encoder_lr=0.05
)


def make_pairs() -> np.ndarray:
    """Degrees from 0 (the last user, the last item) to about 15."""
    generator = np.random.default_rng(0)
    popular = np.linspace(0.9, 0.05, NUM_ITEMS)
    pairs = np.argwhere(generator.random((NUM_USERS, NUM_ITEMS)) < popular)
    return pairs[(pairs[:, 0] < NUM_USERS - 1) & (pairs[:, 1] < NUM_ITEMS - 1)]


def make_graph() -> BipartiteGraph:
    pairs = make_pairs()
    return BipartiteGraph.from_interactions(*pairs.T, NUM_USERS, NUM_ITEMS)


def make_points(graph: BipartiteGraph, c: float = 1.0) -> torch.Tensor:
    tangent = torch.randn(
        graph.num_nodes, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    return ops.expmap0(tangent, c=c)


def sampled(graph, x, targets, fanouts, seed, c=1.0):
    neighbourhood = Neighbourhood.sample(graph, targets, fanouts, seed=seed)
    return neighbourhood.propagate(x[neighbourhood.nodes], c=c)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_all_neighbours_are_the_full_propagation(layers):
    """Values and gradients, for nodes in any order, those without neighbours too."""
    graph, c = make_graph(), 0.7
    targets = torch.tensor([NUM_USERS - 1, 30, 0, graph.num_nodes - 1, 5])
    weight = torch.linspace(-1, 2, 35, dtype=torch.float64).view(5, 7)
    results = []
    for whole in (True, False):
        x = make_points(graph, c).requires_grad_()
        if whole:
            h = ops.propagate(x, graph, layers, c=c)[targets]
        else:
            h = sampled(graph, x, targets, [graph.num_nodes] * layers, 3, c)
        (h * weight).sum().backward()
        results.append((h, x.grad))
    for found, expected in zip(results[1], results[0]):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def draws(users, items, num_users, num_items, fanouts, rounds):
    """Σ Âˡ·h_0 in full (N, d), and ``rounds`` samples of it (rounds, N, d), without the time column.

    The samples are those of as many copies of the graph side by side, whose nodes draw for
    themselves.
    """
    sizes, copy = (num_users, num_items), np.arange(rounds)[:, None]
    one = BipartiteGraph.from_interactions(users, items, *sizes)
    many = BipartiteGraph.from_interactions(
        (copy * num_users + users).ravel(), (copy * num_items + items).ravel(),
        *(size * rounds for size in sizes),
    )  # fmt: skip
    x = make_points(one)
    copies = torch.cat([part.repeat(rounds, 1) for part in x.split(sizes)])
    h = sampled(many, copies, torch.arange(many.num_nodes), fanouts, 0)[:, 1:]
    parts = [
        part.view(rounds, size, -1)
        for part, size in zip(h.split([size * rounds for size in sizes]), sizes)
    ]
    return ops.propagate(x, one, len(fanouts))[:, 1:], torch.cat(parts, 1)


@pytest.mark.parametrize("fanouts", [(1, 1, 1), (3, 1, 2), (2, 4)])
def test_the_expectation_is_the_full_propagation(fanouts):
    """The mean of 5,000 draws within 5 standard errors, in every coordinate of every node."""
    pairs = make_pairs()
    expected, found = draws(*pairs.T, NUM_USERS, NUM_ITEMS, fanouts, 5_000)
    error = found.std(0) / 5_000**0.5
    assert bool(((found.mean(0) - expected).abs() <= 5 * error + 1e-12).all())
    # Sampling and nothing else: most coordinates do vary.
    assert float((error > 1e-3).double().mean()) > 0.8


def test_layers_are_drawn_independently():
    """A user whose row is met in layers 1 and 3: the same draw in both would bias the product."""
    users, items = np.array([0, 0, 0, 0, 1]), np.array([0, 1, 2, 3, 0])
    expected, found = draws(users, items, 2, 4, (1, 1, 1), 40_000)
    error = found.std(0) / 40_000**0.5
    assert bool(((found.mean(0) - expected).abs() <= 5 * error + 1e-12).all())


@pytest.mark.parametrize(("degree", "fanout"), [(7, 3), (10, 4), (5, 4), (6, 3), (3, 1)])
def test_every_neighbour_is_expected_equally_often(degree, fanout):
    rounds = 40_000
    nth = torch.arange(fanout).repeat(rounds)
    streams = torch.arange(rounds).repeat_interleave(fanout)
    position = _systematic(streams, nth, torch.full_like(nth, degree), fanout)
    assert int(position.min()) == 0 and int(position.max()) == degree - 1
    counts = torch.zeros(rounds, degree).index_put_(
        (streams, position), torch.tensor(1.0), accumulate=True
    )
    error = counts.std(0) / rounds**0.5
    assert bool(((counts.mean(0) - fanout / degree).abs() <= 5 * error + 1e-6).all())
    # Each draw has a piece of its own: never three times the same neighbour.
    assert int(counts.max()) <= 2


def test_draws_of_a_node_are_independent():
    """Of 6 neighbours 3 are drawn, each from a pair: all 8 outcomes come equally often."""
    rounds = 8_000
    nth, streams = torch.arange(3).repeat(rounds), torch.arange(rounds).repeat_interleave(3)
    second = _systematic(streams, nth, torch.full_like(nth, 6), 3).view(rounds, 3) % 2
    counts = torch.bincount(second @ torch.tensor([4, 2, 1]), minlength=8)
    assert int((counts - 1_000).abs().max()) < 5 * (1_000 * 7 / 8) ** 0.5


def test_draws_depend_on_seed_layer_and_node_alone():
    graph, fanouts = make_graph(), (2, 2, 2)
    x, everyone = make_points(graph), torch.arange(graph.num_nodes)
    whole = sampled(graph, x, everyone, fanouts, 5)
    assert torch.equal(whole, sampled(graph, x, everyone, fanouts, 5))
    assert not torch.allclose(whole, sampled(graph, x, everyone, fanouts, 6))
    some = torch.tensor([33, 2, 17])
    torch.testing.assert_close(sampled(graph, x, some, fanouts, 5), whole[some])
    state = torch.get_rng_state()
    sampled(graph, x, some, fanouts, 5)
    assert torch.equal(state, torch.get_rng_state())


def test_node_sets_grow_and_blocks_are_edges():
    graph = make_graph()
    targets = torch.tensor([4, 0, 30])
    found = Neighbourhood.sample(graph, targets, (2, 3), seed=1)
    assert torch.equal(found.nodes[:3], targets)
    assert len(found.nodes.unique()) == len(found.nodes)
    rows = 3
    for block, fanout in zip(found.blocks, (2, 3)):
        assert len(block.rowptr) == rows + 1
        for v in range(rows):
            neighbours = graph.col[graph.rowptr[found.nodes[v]] : graph.rowptr[found.nodes[v] + 1]]
            drawn = found.nodes[block.col[block.rowptr[v] : block.rowptr[v + 1]]]
            assert len(drawn) == min(fanout, len(neighbours))
            assert int(block.degree[v]) == len(neighbours)
            assert set(drawn.tolist()) <= set(neighbours.tolist())
        rows = max(rows, int(block.col.max()) + 1)
    assert rows == len(found.nodes)


def test_a_graph_without_edges():
    graph = BipartiteGraph.from_interactions([], [], 3, 2)
    x = make_points(graph).requires_grad_()
    h = sampled(graph, x, torch.tensor([4, 1]), (2, 2), 0)
    torch.testing.assert_close(h, ops.propagate(x, graph, 2)[[4, 1]])
    h.sum().backward()
    assert torch.isfinite(x.grad).all()


# Rows of the step


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # the second is another: rows travel
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_only_the_rows_of_a_step_move(device, momentum):
    """Each row as a table of its own, whose buffer starts at 0."""
    torch.manual_seed(0)
    hyper = {"lr": 0.1, "momentum": momentum, "weight_decay": 0.02, "c": 1.3}
    table = ops.expmap0(torch.randn(12, 5), c=1.3)
    expected, buffer = table.clone(), torch.zeros(12, 5) if momentum else None
    rows = RowTable(table, torch.device(device), **hyper)
    for _ in range(4):
        ids, grad, before = torch.randperm(12)[:4], torch.randn(4, 5), table.clone()
        assert torch.equal(rows.fetch(ids), table[ids])
        for row, g in zip(ids.tolist(), grad):
            one = slice(row, row + 1)
            own = None if buffer is None else buffer[one]
            ops.riemannian_sgd_step_(expected[one], g[None], own, **hyper)
        rows.step_(ids, grad)
        torch.testing.assert_close(table, expected, rtol=1e-5, atol=1e-6)
        others = torch.ones(12, dtype=torch.bool).index_fill_(0, ids, False)
        assert torch.equal(table[others], before[others])


def test_row_gradients_sum():
    torch.manual_seed(0)
    dense, found = torch.zeros(12, 4), RowGradients()
    for _ in range(3):
        ids, grad = torch.randperm(12)[:4], torch.randn(4, 4)
        dense.index_add_(0, ids, grad)
        found.add(ids, grad)
    assert len(found.ids.unique()) == len(found.ids) < 12
    total = torch.zeros(12, 4).index_copy_(0, found.ids, found.grad)
    torch.testing.assert_close(total, dense)


# Steps of the encoder stage


def make_stage(config: Config, graph: BipartiteGraph | None = None) -> tuple[HDRM, EncoderStage]:
    graph = graph or make_graph()
    torch.manual_seed(0)
    model = HDRM(graph.num_users, graph.num_items, config).double()
    model.set_graph(graph)
    return model, EncoderStage(model, config)


@pytest.mark.parametrize("propagation", ["full", "sampled"])
@pytest.mark.parametrize("pairs", ["users", "interactions"])
def test_micro_batches_are_the_batch(propagation, pairs):
    results = []
    for parts in (1, 4, 1_000):
        config = CONFIG.replace(propagation=propagation, micro_batches=parts, pairs=pairs)
        model, stage = make_stage(config)
        losses = [stage.step(step) for step in range(3)]
        results.append((torch.tensor(losses), model.encoder.table.detach()))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-6, atol=1e-9)
    assert results[0][0].min() > 0


def test_a_full_step_is_autograd_and_the_optimizer():
    """Against the loss written down and one gradient through everything."""
    model, stage = make_stage(CONFIG)
    oracle, other = make_stage(CONFIG)
    optimizer = RiemannianSGD(
        [oracle.encoder.table],
        lr=CONFIG.encoder_lr,
        momentum=CONFIG.encoder_momentum,
        weight_decay=CONFIG.encoder_weight_decay,
    )
    for step in range(3):
        users, positives, negatives = other._batches.batch(step)
        h = oracle.encoder(oracle.graph)
        u, items = h[users], h[NUM_USERS:]
        near = ops.sqdist0(u[:, None].expand(-1, 3, -1), items[negatives]).min(1).values
        loss = (ops.sqdist0(u, items[positives]) - near + CONFIG.margin).relu().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert stage.step(step) == pytest.approx(loss.item(), rel=1e-9)
        torch.testing.assert_close(
            model.encoder.table.detach(), oracle.encoder.table.detach(), rtol=1e-9, atol=1e-12
        )
    assert model.encoder.table.grad is None, "the gradient is not kept between steps"


def test_choosing_first_changes_neither_loss_nor_gradient(monkeypatch):
    """Against one propagation of all candidates with gradient, as written down; float64."""
    config = CONFIG.replace(propagation="sampled", encoder_negatives=7, fanouts=(2, 1, 2))
    model, stage = make_stage(config)
    moved = {}
    monkeypatch.setattr(
        stage._make._rows, "step_", lambda ids, grad: moved.update(ids=ids, grad=grad)
    )
    for step in range(3):
        users, positives, candidates = stage._batches.batch(step)
        seed = derive_seed("neighbours", config.seed, step)
        x = model.encoder.table.detach().clone().requires_grad_()
        h = sampled(model.graph, x, torch.arange(model.graph.num_nodes), config.fanouts, seed)
        u, items = h[users], h[NUM_USERS:]
        near = ops.sqdist0(u[:, None].expand(-1, 7, -1), items[candidates])
        loss = (ops.sqdist0(u, items[positives]) - near.min(1).values + config.margin).relu().sum()
        loss.backward()
        assert stage.step(step) == pytest.approx(loss.item(), rel=1e-12)
        found = torch.zeros_like(x).index_copy_(0, moved["ids"], moved["grad"])
        torch.testing.assert_close(found, x.grad, rtol=1e-10, atol=1e-12)
        chosen = candidates.gather(1, near.argmin(1, keepdim=True))[:, 0]
        targets = torch.cat([users, positives + NUM_USERS, chosen + NUM_USERS]).unique()
        reached = Neighbourhood.sample(model.graph, targets, config.fanouts, seed=seed).nodes
        assert torch.equal(moved["ids"].sort().values, reached.sort().values)


def test_all_neighbours_and_no_decay_are_the_full_step_of_the_rows():
    """Where everything is drawn, a first step without momentum is that of the full mode."""
    plain = {"encoder_momentum": 0, "encoder_weight_decay": 0, "encoder_batch": 400}
    tables = []
    for changes in ({}, {"propagation": "sampled", "fanouts": (50, 50, 50)}):
        model, stage = make_stage(CONFIG.replace(**plain, **changes))
        stage.step(0)
        tables.append(model.encoder.table.detach())
    # Who was not touched has the time coordinate it started with, of float32.
    torch.testing.assert_close(tables[1][:, 1:], tables[0][:, 1:], rtol=1e-10, atol=1e-12)


def test_a_table_on_the_host_is_trained_to_the_same_bits(monkeypatch):
    tables = []
    for on in ("device", "host"):
        config = CONFIG.replace(propagation="sampled", tables_on=on)
        model, stage = make_stage(config)
        if on == "host":  # "cpu:0" is another device than "cpu": rows travel as to a GPU
            monkeypatch.setattr(stage._make._rows, "_device", torch.device("cpu:0"))
        for step in range(4):
            stage.step(step)
        tables.append((model.encoder.table.detach(), model.encoder(model.graph)))
    assert torch.equal(tables[0][0], tables[1][0])
    torch.testing.assert_close(tables[0][1], tables[1][1])  # propagated in blocks and slices


class Largest(TorchDispatchMode):
    """Remembers the largest storage, in bytes, that an operation made."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.bytes = max(self.bytes, storage.nbytes())
        return found


@pytest.mark.parametrize("changes", [{}, {"tables_on": "host", "micro_batches": 2}])
@pytest.mark.parametrize("pairs", ["users", "interactions"])
def test_a_step_allocates_in_proportion_to_the_batch(changes, pairs):
    """120,000 nodes and 600,000 interactions; 32 rows reach about 3,000 of the nodes."""
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, (80_000, 40_000), (600_000, 2)).T
    graph = BipartiteGraph.from_interactions(users, items, 80_000, 40_000)
    config = CONFIG.replace(
        propagation="sampled", encoder_batch=32, encoder_negatives=1, pairs=pairs, **changes
    )
    model, stage = make_stage(config, graph)
    stage.step(0)
    before = model.encoder.table.detach().clone()
    buffer = stage._make._rows._buffer
    with Largest(model.encoder.table, buffer, graph.rowptr, graph.col) as largest:
        tracemalloc.start()
        stage.step(1)
        in_numpy = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    limit = min(before.nbytes, 8 * graph.num_nodes, graph.col.nbytes)
    assert largest.bytes + in_numpy < limit / 2, (largest.bytes, in_numpy, limit)
    moved = (model.encoder.table.detach() != before).any(1)
    assert 100 < int(moved.sum()) < graph.num_nodes / 20


def test_many_candidates_take_the_memory_of_one():
    """They are chosen from a few users at a time; together their neighbourhood is five times as large."""
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, (80_000, 40_000), (600_000, 2)).T
    graph = BipartiteGraph.from_interactions(users, items, 80_000, 40_000)
    sizes = []
    for negatives in (1, 16):
        config = CONFIG.replace(
            propagation="sampled", encoder_batch=60, encoder_negatives=negatives
        )
        model, stage = make_stage(config, graph)
        buffer = stage._make._rows._buffer
        with Largest(model.encoder.table, buffer, graph.rowptr, graph.col) as largest:
            stage.step(1)
        sizes.append(largest.bytes)
    assert sizes[1] < 1.5 * sizes[0], sizes


class Full(TorchDispatchMode):
    """Counts the floating-point tensors of N rows that operations make."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.seen = rows, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        whole = isinstance(found, torch.Tensor) and found.dim() == 2 and len(found) == self.rows
        if whole and found.is_floating_point():
            self.seen[str(func)] = self.seen.get(str(func), 0) + 1
        return found


def test_a_full_step_has_one_dense_gradient_of_its_gathers():
    config = CONFIG.replace(encoder_negatives=1)
    model, stage = make_stage(config)
    stage.step(0)
    with Full(model.graph.num_nodes) as full:
        stage.step(1)
    assert full.seen.get("aten.embedding_dense_backward.default") == 1, full.seen
    assert not any("add" in name for name in full.seen), full.seen


@pytest.mark.slow
def test_sampled_training_ranks_as_well_as_full_training(tmp_path):
    best = {}
    for propagation in ("full", "sampled"):
        config = PRESETS["demo"].replace(
            propagation=propagation, fanouts=(8, 4, 2), encoder_negatives=2, encoder_epochs=6,
            diffusion_epochs=0, omega=0.0,
        )  # fmt: skip
        run = tmp_path / propagation
        model = Trainer(load("demo"), config, run, source="demo").fit().model
        best[propagation] = hdrm.train.evaluate_split(model, load("demo"), "valid")["encoder"]
    assert best["sampled"]["ndcg@20"] >= 0.8 * best["full"]["ndcg@20"]
