"""Propagation some columns at a time, and the steps of tables that are trained with the denoisers."""

import pytest
import torch

from hdrm import HDRM, BipartiteGraph, ops
from hdrm.config import Config
from hdrm.model import slices
from hdrm.train.stages import DiffusionStage, EncoderStage
from hdrm.train.table_steps import FullStep

USERS, ITEMS = 40, 30
CONFIG = Config(
    dim=70,  # two slices
    hidden=(12, 16),
    steps=6,
    sampling_steps=2,
    encoder_batch=50,
    encoder_negatives=3,
    encoder_lr=0.05,
    encoder_momentum=0,
    diffusion_batch=50,
    diffusion_negatives=2,
    dropout=0,
)


def make_graph() -> BipartiteGraph:
    """The last user and the last item have no neighbours."""
    torch.manual_seed(3)
    ids = torch.randint(USERS - 1, (300,)), torch.randint(ITEMS - 1, (300,))
    return BipartiteGraph.from_interactions(*ids, USERS, ITEMS)


def make_model(config: Config) -> HDRM:
    torch.manual_seed(0)
    model = HDRM(USERS, ITEMS, config)
    model.set_graph(make_graph())
    for parameter in model.denoisers.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    return model.double().train()


def vectors(*shape: int) -> torch.Tensor:
    found = torch.randn(*shape, dtype=torch.float64)
    found[:, 0] = 0
    return found


@pytest.mark.parametrize("width", [2, 63, 64, 65, 200])
@pytest.mark.parametrize("layers", [1, 3])
def test_propagation_in_place_and_its_transpose(width, layers):
    graph = make_graph()
    h, g = vectors(USERS + ITEMS, width), vectors(USERS + ITEMS, width)
    leaf = h.clone().requires_grad_()
    expected = ops.propagate(leaf, graph, layers, space="tangent")
    expected.backward(g)
    h[:, 0] = 7  # whatever is in the time column is not read
    torch.testing.assert_close(slices.propagate_(h, graph, layers), expected.detach())
    found = slices.propagate_(g, graph, layers, transposed=True)
    torch.testing.assert_close(found, leaf.grad)


@pytest.mark.parametrize("width", [5, 130])
def test_histories_are_means_and_their_gradient_is_the_transpose(width):
    graph, users = make_graph(), torch.tensor([5, USERS - 1, 0, 17])
    h = vectors(USERS + ITEMS, width)
    found = slices.histories(h, graph, users)
    for row, user in zip(found, users):
        items = USERS + graph.user_items.row(int(user))
        expected = h[items].mean(0) if len(items) else torch.zeros_like(row)
        torch.testing.assert_close(row, expected)
    of, gradient = vectors(4, width), vectors(USERS + ITEMS, width)
    added = gradient.clone()
    slices.add_history_gradient_(added, graph, users, of)
    torch.testing.assert_close(((added - gradient) * h).sum(), (of * found).sum())


@pytest.mark.parametrize("changes", [{}, {"micro_batches": 3, "layers": 2}])
def test_a_table_on_the_host_moves_as_one_on_the_device(changes, monkeypatch):
    monkeypatch.setattr("hdrm.model.encoder.BLOCK", 800)
    moved = []
    for on in ("device", "host"):
        model = make_model(CONFIG.replace(tables_on=on, **changes))
        before = model.encoder.table.detach().clone()
        stage = EncoderStage(model, model.config)
        if on == "host":  # "cpu:0" is another device than "cpu": rows travel as to a GPU
            monkeypatch.setattr(stage._make._rows, "_device", torch.device("cpu:0"))
        losses = [stage.step(step) for step in range(3)]
        moved.append((model.encoder.table.detach(), losses))
    torch.testing.assert_close(moved[0][0], moved[1][0])
    assert moved[0][1] == pytest.approx(moved[1][1], rel=1e-12)
    assert (moved[0][0] - before).abs().max() > 1e-3


class ByAutograd:
    """The vectors of a trained table as one writes them down: all of them, all differentiable."""

    averaged = ()

    def __init__(self, model: HDRM) -> None:
        self.model = model

    def enter(self, graph: BipartiteGraph) -> None:
        self.graph = graph

    def leave(self) -> None:
        pass

    def rows(self, users, items):
        h = self.model.encoder(self.graph)
        seen = self.graph.user_items
        row = torch.repeat_interleave(seen.degrees)
        totals = torch.zeros(USERS, h.shape[1], dtype=h.dtype)
        totals = totals.index_add(0, row, h[USERS + seen.col[: seen.nnz].long() - seen.offset])
        means = totals / seen.degrees.clamp(min=1)[:, None]
        return h[users], means[users], h, items + USERS

    def move(self) -> None:
        full = FullStep(self.model, self.model.config)
        full._optimizer.step()


@pytest.mark.parametrize("on", ["device", "host"])
def test_trained_tables_move_by_the_gradient_of_everything(on, monkeypatch):
    monkeypatch.setattr("hdrm.model.encoder.BLOCK", 800)
    moved = []
    for naive in (True, False):
        config = CONFIG.replace(tables="joint", tables_on="device" if naive else on)
        model = make_model(config)
        before = model.encoder.table.detach().clone()
        stage = DiffusionStage(model, config)
        if naive:
            stage._vectors = ByAutograd(model)
        stage.begin_epoch(1)
        losses = [stage.step(0)]
        moved.append((model.encoder.table.detach(), losses))
    torch.testing.assert_close(moved[0][0], moved[1][0])
    assert moved[0][1] == pytest.approx(moved[1][1], rel=1e-12)
    assert (moved[0][0] - before).abs().max() > 1e-5
