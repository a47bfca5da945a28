"""What a run is made of: steps of both stages, inference, evaluation.

Beside the authors' operations in eager torch, and, where a network does most of the work, beside its
matrix products alone: the least that any implementation of it computes.
"""

from __future__ import annotations

import itertools

import geoopt
import graphs
import numpy as np
import torch
from harness import DEVICE, OURS, SMALL, WIDTHS, Group, assert_close, normal, rows
from peers import authors, topk
from peers.sparse import Edges
from targets import PRODUCTS

from hdrm import HDRM, use_backend
from hdrm.config import Config
from hdrm.model.denoiser import Denoiser
from hdrm.train.batches import Batches
from hdrm.train.evaluate import evaluate
from hdrm.train.stages import DiffusionStage, EncoderStage

NAME = "ML-1M"
BATCH = 500 if SMALL else 10_000
CASES = [(NAME, width) for width in WIDTHS]


def narrow(case) -> bool:
    return case[1] == 64


@rows(CASES, [*OURS, "authors"], narrow)
def test_encoder_step(measured, case, peer):
    measured(encoder_step, case, peer)


@rows(CASES, [*OURS, PRODUCTS, "authors"], narrow)
def test_diffusion_step(measured, case, peer):
    measured(diffusion_step, case, peer)


@rows(CASES, [*OURS, PRODUCTS])
def test_inference(measured, case, peer):
    measured(inference, case, peer)


@rows(CASES, [*OURS, "matmul + topk", "authors"])
def test_evaluation(measured, case, peer):
    measured(evaluation, case, peer)


def _model(case) -> HDRM:
    """A new model, the same each time, with the data set's graph."""
    name, width = case
    dataset = graphs.dataset(name)
    config = Config(dim=width, encoder_batch=BATCH, diffusion_batch=BATCH, encoder_negatives=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HDRM(dataset.num_users, dataset.num_items, config)
    model.set_graph(dataset.graph)
    return model.to(DEVICE)


def _stepper(stage):
    """Steps as Trainer makes them, one a call; they return the loss."""
    steps = itertools.count()
    stage.begin_epoch(1)

    return lambda: torch.tensor(stage.step(next(steps)))


def _authors_batches(case):
    """(users, items, unseen items) of one batch a call, the last drawn in Python."""
    graph = graphs.graph(case[0])
    known = torch.stack(graph.user_items.pairs(), 1).cpu().numpy()
    seen = [set(graph.user_items.row(user).tolist()) for user in range(graph.num_users)]
    generator, first = np.random.default_rng(0), graph.num_users

    def draw():
        users, positives = known[generator.integers(0, len(known), BATCH)].T
        negatives = authors.sample_negatives(users.tolist(), seen, graph.num_items)
        ids = (users, positives + first, np.array(negatives) + first)
        return [torch.from_numpy(np.ascontiguousarray(part)).to(DEVICE) for part in ids]

    return draw


def encoder_step(case) -> Group:
    """Batch, propagation, loss, backward, Riemannian SGD. An epoch is 41 of them."""
    graph = graphs.graph(case[0])

    def ours():
        model = _model(case)
        return _stepper(EncoderStage(model, model.config))

    def theirs():
        model, draw, matrix = _model(case), _authors_batches(case), Edges.of(graph).coo()
        config = model.config
        table = geoopt.ManifoldParameter(model.encoder.table.detach(), manifold=geoopt.Lorentz())
        optimizer = geoopt.optim.RiemannianSGD(
            [table],
            lr=config.encoder_lr,
            momentum=config.encoder_momentum,
            weight_decay=config.encoder_weight_decay,
        )

        def call():
            users, positives, negatives = draw()
            h = authors.propagate(table, matrix, config.layers)
            loss = authors.margin_ranking_loss(
                h[users], h[positives], h[negatives], config.margin
            ) * len(users)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return call

    with use_backend("reference"):
        expected = ours()().view(1)  # the loss of a first step

    def check(loss):
        assert_close(loss.view(1), expected, tolerance=0.15)  # other pairs and negatives

    makers = dict.fromkeys(OURS, ours) | {"authors": theirs}
    return _group("encoder step", "batch to optimiser", case, makers, check)


def diffusion_step(case) -> Group:
    """A step with frozen tables. Ours runs the networks on the batch's users, the authors' on its pairs.

    Ours enters another fold of the edges every few steps, which its 80th percentile shows.
    """

    def ours():
        model = _model(case).train()
        return _stepper(DiffusionStage(model, model.config))

    def products():
        model = _model(case)
        seen = model.graph.user_items
        batches = Batches(seen, seen, BATCH, 1, 0, by_user=True)
        return _products(model, len(torch.unique(batches.batch(0)[0])), backward=True)

    def theirs():
        model, draw = _model(case), _authors_batches(case)
        config, matrix = model.config, Edges.of(graphs.graph(case[0])).coo()
        with torch.no_grad():
            h = authors.propagate(model.encoder.table, matrix, config.layers)
        nets = [
            Denoiser(config.dim, config.hidden, config.activation, config.dropout).to(DEVICE)
            for _ in range(2)
        ]
        optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], lr=1e-3)
        alpha_bar = model.diffusion.alpha_bar

        def call():
            loss = authors.diffusion_loss(
                h,
                model.num_users,
                draw(),
                nets,
                alpha_bar,
                margin=config.margin,
                reconstruction=config.reconstruction,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return call

    def check(loss):  # the authors' loss is another one; that the steps are right, the tests show
        assert torch.isfinite(loss).all(), "the loss is not finite"

    makers = dict.fromkeys(OURS, ours) | {PRODUCTS: products, "authors": theirs}
    return _group("diffusion step", "batch to optimiser", case, makers, check)


def inference(case) -> Group:
    """Generated vectors of all users: reverse steps of both networks."""

    def ours():
        model = _model(case).eval()
        model.set_statistics()
        return lambda: model.generate()[1]

    def products():
        model = _model(case)
        call = _products(model, model.num_users, backward=False)
        return lambda: [call() for _ in range(model.config.sampling_steps)][-1]

    with use_backend("reference"):
        expected = ours()()

    def check(found):
        if found.shape == expected.shape:
            assert_close(found, expected)

    makers = dict.fromkeys(OURS, ours) | {PRODUCTS: products}
    return _group("inference", "all users", case, makers, check)


def _products(model: HDRM, num_rows: int, *, backward: bool):
    """The matrix products of both denoisers on num_rows rows, and nothing between them."""
    config = model.config
    widths = [2 * config.dim + 10, *config.hidden, config.dim]
    weights = [
        normal(b, a, seed=k).mul_(a**-0.5).requires_grad_(backward)
        for k in range(2)
        for a, b in itertools.pairwise(widths)
    ]
    start, one = normal(num_rows, widths[0]), torch.ones(num_rows, config.dim)
    layers = len(widths) - 1

    def call():
        results = []
        for network in (weights[:layers], weights[layers:]):
            h = start
            for weight in network:
                h = torch.nn.functional.linear(h, weight)
            results.append(h)
        if backward:
            torch.autograd.backward(results, [one, one])
            for weight in weights:
                weight.grad = None
        return results[0].detach()[:1, :1]

    return call


def evaluation(case) -> Group:
    """All users of the test split: ranking to depth 100 and metrics; rows return Recall@20."""
    dataset = graphs.dataset(case[0])
    model = _model(case)
    with torch.no_grad():
        points = model.mix(model.encoder(model.graph), None, 0.0)
    seen = dataset.train.union(dataset.valid).to(DEVICE)
    sizes = dataset.test.degrees.numpy()
    users, items = (ids.numpy() for ids in dataset.test.pairs())
    keys = users * dataset.num_items + items

    def recall(ranked):
        """Recall@20 over users with test items, in NumPy."""
        at = np.arange(dataset.num_users)[:, None] * dataset.num_items + np.asarray(ranked)[:, :20]
        hits = np.isin(at, keys).sum(1)
        return float((hits[sizes > 0] / sizes[sizes > 0]).mean())

    def by_matmul():
        ranked = topk.matmul(*points, seen, 100)
        return lambda: recall(ranked().cpu())

    def by_authors():
        lists = [seen.row(user).tolist() for user in range(dataset.num_users)]
        return lambda: recall(authors.rank(*points, lists, 100))

    expected = evaluate([p.double() for p in points], dataset.test, seen)["recall@20"]

    def check(found):
        assert abs(found - expected) < 2e-3, f"wrong result: recall {found} for {expected}"

    makers = {
        peer: lambda: lambda: evaluate(points, dataset.test, seen)["recall@20"] for peer in OURS
    }
    makers |= {"matmul + topk": by_matmul, "authors": by_authors}
    return _group("evaluation", "test split", case, makers, check)


def _group(op, mode, case, makers, check) -> Group:
    name, width = case
    return Group(op, mode, f"{name}, {width}", makers, check, info={"graph": name, "width": width})
