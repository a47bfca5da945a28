"""The encoder's softmax: its loss against a naive loop, what a step hides, and that it learns."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

import hdrm
from hdrm import ops
from hdrm.config import Config
from hdrm.data import load
from hdrm.graph import BipartiteGraph
from hdrm.model import HDRM
from hdrm.model.encoder import Encoder
from hdrm.seeds import derive_seed
from hdrm.train import Trainer
from hdrm.train.denoising import DenoisingStage, RankingDiffusionStage
from hdrm.train.unseen_softmax import unseen_softmax_loss
from hdrm.train.vectors import TrainedVectors

SEEN = torch.tensor([[0, 1], [0, 4], [1, 0], [1, 1], [1, 2], [1, 3], [1, 4], [1, 5], [2, 3]])
POSITIVES = torch.tensor([[0, 4], [1, 0], [1, 2], [2, 3]])  # user 1 has seen all six items


def points(rows: int, c: float, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rows)
    return ops.expmap0(torch.randn(rows, 5, generator=generator, dtype=dtype), c=c)


def naive(users, items, temperature, weights, c):
    """The definition, pair by pair, from distances; user 1 has no negative."""
    seen, total = set(map(tuple, SEEN.tolist())), 0.0
    for u, i in POSITIVES.tolist():
        d = [float(ops.distance(users[u], item, c=c)) for item in items]
        s = [-2 / c * (math.cosh(math.sqrt(c) * x) - 1) / temperature for x in d]
        rest = sum(math.exp(s[j]) for j in range(len(items)) if (u, j) not in seen)
        if rest:
            total += float(weights[u]) * math.log1p(rest / math.exp(s[i]))
    return total


@pytest.mark.parametrize("c", [1.0, 0.7])
def test_the_loss_is_its_definition(c):
    users, items, weights = points(3, c), points(6, c), torch.tensor([0.5, 2.0, 1.0]).double()
    pairs = POSITIVES.unbind(1), SEEN.unbind(1)
    found = unseen_softmax_loss(users, items, *pairs, 0.8, weights=weights, c=c)
    assert float(found) == pytest.approx(naive(users, items, 0.8, weights, c), rel=1e-12)
    single = unseen_softmax_loss(users.float(), items.float(), *pairs, 0.8, c=c)
    assert float(single) == pytest.approx(naive(users, items, 0.8, torch.ones(3), c), rel=1e-5)


def test_the_gradient_is_that_of_the_loss():
    inputs = [ops.logmap0(points(rows, 1.0)).requires_grad_() for rows in (3, 6)]

    def loss(users, items):
        return unseen_softmax_loss(
            ops.expmap0(users), ops.expmap0(items), POSITIVES.unbind(1), SEEN.unbind(1), 0.8
        )

    assert torch.autograd.gradcheck(loss, inputs)
    loss(*inputs).backward()
    assert torch.equal(inputs[0].grad[1], torch.zeros(5).double()), "no negative, no gradient"


def test_a_nearly_flat_space_is_the_euclidean_one():
    """c → 0 in float32: s = −|u − v|²/τ, although ⟨x, y⟩_L is 1/c and what is left of it."""
    c = 1e-6
    users, items = (
        torch.randn(n, 5, generator=torch.Generator().manual_seed(n)).requires_grad_()
        for n in (3, 6)
    )
    pairs = POSITIVES.unbind(1), SEEN.unbind(1)
    curved = unseen_softmax_loss(ops.expmap0(users, c=c), ops.expmap0(items, c=c), *pairs, 0.8, c=c)
    s = -(users[:, None, 1:] - items[None, :, 1:]).double().square().sum(2) / 0.8
    rest = s.index_put(SEEN.unbind(1), torch.tensor(-torch.inf).double())
    row = POSITIVES[:, 0]
    flat = torch.nn.functional.softplus(rest.logsumexp(1)[row] - s[POSITIVES.unbind(1)])
    torch.testing.assert_close(curved.double(), flat[row != 1].sum(), rtol=1e-5, atol=0)
    for of_curved, of_flat in zip(
        torch.autograd.grad(curved, (users, items)),
        torch.autograd.grad(flat[row != 1].sum(), (users, items)),
    ):
        torch.testing.assert_close(of_curved[:, 1:], of_flat[:, 1:], rtol=1e-3, atol=1e-5)


def model_and_stage(kind=DenoisingStage, **changes):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    users, items = (torch.rand(40, 25, generator=generator) < 0.3).nonzero(as_tuple=True)
    config = Config(dim=9, loss="softmax", softmax_users=16, users="items", **changes)
    model = HDRM(40, 25, config).double()
    model.set_graph(BipartiteGraph.from_interactions(users, items, 40, 25))
    return model, kind(model, config)


def pairs_of(csr) -> set[tuple[int, int]]:
    return set(zip(*(ids.tolist() for ids in csr.pairs())))


def test_an_epoch_meets_every_user_once_and_a_step_ranks_what_it_hides(monkeypatch):
    model, stage = model_and_stage(edge_dropout=0.4)
    known, met, shares, asked = pairs_of(model.graph.user_items), [], [], {}

    def record(users, items, positives, seen, *rest, **more):
        asked.update(positives=positives, seen=seen)

    def descend(graph, losses):
        (loss,) = losses
        loss(model.encoder(graph))
        users = stage._hidden._users(step)
        left, of_batch = pairs_of(graph.user_items), set(users.tolist())
        expected = {"seen": {pair for pair in known if pair[0] in of_batch}}
        expected["positives"] = expected["seen"] - left
        for name, (row, item) in asked.items():
            assert set(zip(users[row].tolist(), item.tolist())) == expected[name], name
        assert left < known
        shares.append(1 - len(left) / len(known))
        met.extend(users.tolist())
        return 0.0

    monkeypatch.setattr("hdrm.train.hidden.unseen_softmax_loss", record)
    monkeypatch.setattr(stage._make, "descend", descend)
    for step in range(4):
        stage.step(step)
    assert stage.steps_per_epoch == 3 and sorted(met[:40]) == list(range(40))
    assert met[40:] != met[:16], "another epoch, another order"
    assert len(set(shares)) > 1 and sum(shares) / 4 == pytest.approx(0.4, abs=0.07)


@pytest.mark.parametrize("pairs", ["users", "interactions"])
def test_parts_of_a_batch_make_the_same_step(pairs):
    tables, losses = [], []
    for parts in (1, 3):
        model, stage = model_and_stage(micro_batches=parts, pairs=pairs)
        losses.append(stage.step(0))
        tables.append(model.encoder.table.detach())
    torch.testing.assert_close(*tables, rtol=1e-12, atol=1e-14)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize("kind", [DenoisingStage, RankingDiffusionStage])
def test_the_learning_rate_goes_with_the_root_of_what_a_step_ranks(kind):
    def stage_of(at):
        settings = {"edge_dropout": 0.4, "encoder_lr": 0.03, "encoder_optimizer": "adam"}
        _, stage = model_and_stage(kind, encoder_lr_at=at, tables="joint", **settings)
        table_step = stage._make if kind is DenoisingStage else stage._vectors._step
        (group,) = table_step._optimizer.param_groups
        return stage, group["lr"]

    stage, lr = stage_of(400)
    whole = [step for step in range(60) if step % 3 < 2]  # an epoch's third step has half the users
    ranked = [len(task.positives[0]) for step in whole for task in stage._hidden.take(step)[1]]
    assert lr == pytest.approx(0.03 * (statistics.mean(ranked) / 400) ** 0.5, rel=0.03)
    for enough in (0, 20):
        assert stage_of(enough)[1] == 0.03


def without_noise(**changes):
    """A diffusion of hardly any noise (the first step has 0.003), so that draws do not matter."""
    return model_and_stage(
        RankingDiffusionStage, dropout=0.0, noise_max=1e-13, noise_min=1e-13, hidden=(8,), **changes
    )


def kept_gradients(model, stage, step=0):
    """The loss and the gradients of a step that moves nothing."""
    for network in model.denoisers.values():  # zero at first: nothing but it would have a gradient
        torch.nn.init.normal_(network.layers[-1].weight, 0, 0.1)
    stage._optimizer.step = stage._optimizer.zero_grad = lambda: None
    table = []
    if isinstance(stage._vectors, TrainedVectors):
        stage._vectors._step.move = lambda gradient: table.append(gradient.clone())
    loss = stage.step(step)
    return loss, [p.grad for p in model.denoisers.parameters()], table


@pytest.mark.filterwarnings("ignore:the schedule")
@pytest.mark.parametrize("pairs", ["users", "interactions"])
@pytest.mark.parametrize("tables", ["frozen", "joint"])
def test_the_diffusion_ranks_what_is_hidden(tables, pairs):
    """Loss and gradients of a step against its definition, by autograd through everything."""
    # Of a joint training the gradient of the error would be that of the noise.
    alpha = 0.3 if tables == "frozen" else 0.0
    model, stage = without_noise(tables=tables, pairs=pairs, reconstruction=alpha)
    torch.manual_seed(3)
    model.train()
    loss, _, of_h = kept_gradients(model, stage)
    rest, (task,) = stage._hidden.take(0)
    h = model.encoder(rest).detach().requires_grad_()
    adjacency = torch.zeros(40, 25).double()
    adjacency[rest.user_items.pairs()] = 1
    mean = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
    user, history = h[:40][task.users], (mean @ h[40:])[task.users]
    t, _ = stage._steps.draw(len(task.users), derive_seed("noise", 0, 0))
    predicted = [
        z0 + 1e-13**0.5 * model.denoisers[name](z0, t, known)
        for name, z0, known in (("user", user, history), ("history", history, user))
    ]
    ranked = unseen_softmax_loss(
        ops.expmap0((predicted[0] + predicted[1]) / 2), ops.expmap0(h[40:]),
        task.positives, task.seen, model.config.temperature, weights=task.weights.double(),
    )  # fmt: skip
    error = sum((z - z0.detach()).square().mean() for z, z0 in zip(predicted, (user, history)))
    expected = (1 - alpha) * ranked + alpha * error
    assert loss == pytest.approx(float(expected), rel=1e-5)
    if tables == "joint":
        (found,) = of_h
        (reference,) = torch.autograd.grad(expected, h)
        scale = float(reference.abs().max())
        torch.testing.assert_close(found[:, 1:], reference[:, 1:], rtol=0.02, atol=0.005 * scale)


@pytest.mark.filterwarnings("ignore:the schedule")
@pytest.mark.parametrize("tables", ["frozen", "joint"])
def test_parts_of_a_batch_make_the_same_step_of_the_diffusion(tables):
    found = []
    for parts in (1, 3):
        model, stage = without_noise(micro_batches=parts, tables=tables)
        torch.manual_seed(3)
        loss, gradients, of_h = kept_gradients(model, stage)
        found.append((torch.tensor(loss), *[g / 1e-13**0.5 for g in gradients], *of_h))
    for whole, in_parts in zip(*found):
        torch.testing.assert_close(whole, in_parts, rtol=1e-3, atol=1e-5)


def test_users_are_what_their_items_say():
    model, _ = model_and_stage()
    assert model.encoder.table.shape == (25, 9)
    h = model.encoder(model.graph)
    x = torch.cat([ops.expmap0(torch.zeros(40, 9).double()), model.encoder.table.detach()])
    expected = ops.logmap0(x) + ops.propagate(x, model.graph, 3)
    torch.testing.assert_close(h.detach(), expected, rtol=1e-12, atol=1e-14)


def test_it_ranks_the_demo_set(tmp_path):
    config = Config(
        loss="softmax", users="items", encoder_optimizer="adam", encoder_lr=0.08,
        encoder_momentum=0.9, encoder_weight_decay=5e-5, pairs="interactions", softmax_users=200,
        encoder_epochs=16, diffusion_epochs=0,
    )  # fmt: skip
    result = Trainer(load("demo"), config, tmp_path / "run", source="demo").fit()
    test = result.test
    assert test["hdrm"]["ndcg@20"] > 1.5 * test["popularity"]["ndcg@20"]
    loaded = hdrm.HDRM.load(tmp_path / "run")
    for found, expected in zip(loaded.recommend([3, 4], 5), result.model.recommend([3, 4], 5)):
        assert torch.equal(found, expected)


def test_a_user_is_the_mean_of_its_items_and_gradients_go_through_it():
    """users = "mean" beside users = "items" of the same table; user 3 has no items."""
    users, items = torch.tensor([[0, 0, 1, 2, 2, 2], [0, 3, 3, 1, 2, 4]])
    graph = BipartiteGraph.from_interactions(users, items, 4, 5)
    interactions = torch.zeros(4, 5, dtype=torch.float64)
    interactions[users, items] = 1
    degree = interactions.sum(1, keepdim=True).clamp(min=1)
    torch.manual_seed(0)
    encoder, of_items = (
        Encoder(4, 5, 6, 3, 1.3, users=kind).double() for kind in ("mean", "items")
    )
    of_items.load_state_dict(encoder.state_dict())
    h, own = encoder(graph), of_items(graph)[4:]
    expected = torch.cat([interactions @ own / degree, own])
    torch.testing.assert_close(h, expected)
    assert not h[3].any() and (h[:3, 1:].abs().sum(1) > 0).all()
    pull = torch.randn(h.shape, dtype=torch.float64)
    h.backward(pull)
    expected.backward(pull)
    torch.testing.assert_close(encoder.table.grad, of_items.table.grad)
