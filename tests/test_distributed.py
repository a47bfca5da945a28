"""Several processes compute what one computes: real processes, on one machine, over gloo."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from ranks import in_processes
from test_cli import interactions, write_npy

from hdrm import ops
from hdrm.config import PRESETS
from hdrm.data import load as load_whole
from hdrm.distributed.asking import Asking
from hdrm.distributed.cuts import Cuts
from hdrm.distributed.data import load
from hdrm.model import HDRM
from hdrm.train.denoising import DenoisingStage, RankingDiffusionStage
from hdrm.train.evaluate import evaluate, evaluate_split, task
from hdrm.train.stages import DiffusionStage, EncoderStage
from hdrm.train.team import team_of

MESHES = [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2)]
DIM = 16
_SMALL = {
    "dim": DIM, "hidden": (20, 30), "encoder_batch": 500, "encoder_negatives": 4,
    "diffusion_batch": 400, "diffusion_negatives": 2, "softmax_users": 64,
}  # fmt: skip
HINGE, SOFTMAX = (PRESETS[name].replace(**_SMALL) for name in ("large", "best"))
STAGES = {
    "hinge": (EncoderStage, HINGE),
    "hinge by interactions, in parts": (
        EncoderStage, HINGE.replace(pairs="interactions", micro_batches=3),
    ),
    "Adam": (EncoderStage, HINGE.replace(encoder_optimizer="adam")),
    "sampled": (EncoderStage, HINGE.replace(propagation="sampled", fanouts=(3, 2, 2))),
    "softmax": (DenoisingStage, SOFTMAX),
    "softmax in parts": (DenoisingStage, SOFTMAX.replace(micro_batches=2)),
    "diffusion": (DiffusionStage, HINGE),
    "diffusion, joint": (DiffusionStage, HINGE.replace(tables="joint")),
    "diffusion, importance": (
        DiffusionStage, HINGE.replace(step_sampling="importance", steps=2, sampling_steps=2),
    ),
    "ranking diffusion": (RankingDiffusionStage, SOFTMAX),
    "ranking diffusion, joint": (
        RankingDiffusionStage, SOFTMAX.replace(tables="joint", micro_batches=2, noise="directional"),
    ),
}  # fmt: skip
STEPS = 3


def trained(model: HDRM, graph, stage, config) -> dict:
    """Losses and weights after some steps, and vectors that rank."""
    model.set_graph(graph)
    model.train()
    stage = stage(model, config)
    stage.begin_epoch(1)
    losses = [stage.step(step) for step in range(STEPS)]
    model.eval()
    h, z = model.generate(first=team_of(graph).users.start)
    return {
        "losses": losses,
        "table": model.encoder.table.detach().clone(),
        "denoisers": [p.detach().clone() for p in model.denoisers.parameters()],
        "h": h,
        "z": z,
    }


@functools.cache
def of_one_process() -> dict:
    dataset, found = load_whole("demo"), {}
    for name, (stage, config) in STAGES.items():
        torch.manual_seed(config.seed)
        model = HDRM(dataset.num_users, dataset.num_items, config)
        found[name] = trained(model, dataset.graph, stage, config)
    return found


def all_stages(world) -> dict:
    dataset, found = load("demo", world), {}
    graph, team = dataset.graph, dataset.graph.team
    for name, (stage, config) in STAGES.items():
        torch.manual_seed(config.seed)
        model = HDRM(dataset.num_users, dataset.num_items, config, own=team.own_nodes)
        parts = trained(model, graph, stage, config)
        users = graph.num_users if config.users == "table" else 0
        for at, rows in (("table", users), ("h", graph.num_users)):
            split = parts[at].split([rows, graph.num_items])
            parts[at] = torch.cat([world.gathered(part) for part in split])
        parts["z"] = world.gathered(parts["z"])
        found[name] = parts
    found["received"] = dict(world.received)
    return found


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: "x".join(map(str, mesh)))
def test_steps_are_those_of_one_process(mesh):
    ranks = in_processes(mesh, all_stages)
    for name, expected in of_one_process().items():
        for found in ranks:
            found = found[name]
            assert found["losses"] == pytest.approx(expected["losses"], rel=1e-6), name
            for at in ("table", "h", "z"):
                where = f"{name}: {at}: {{}}".format
                torch.testing.assert_close(found[at], expected[at], rtol=1e-6, atol=1e-6, msg=where)
            for ours, one in zip(found["denoisers"], expected["denoisers"]):
                torch.testing.assert_close(ours, one, rtol=0, atol=1e-6)
    moved = [of_one_process()[name]["table"] for name in ("hinge", "Adam")]
    assert (moved[0] - moved[1]).abs().max() > 1e-4  # the stages do something
    assert (sum(ranks[0]["received"].values()) > 0) == (mesh != (1, 1))


def propagated(world, rows, g) -> dict:
    """Propagation, its gradient, histories, and statistics of float64 rows."""
    graph = load("demo", world).graph
    users, items = graph.own_users, graph.own_items
    shift = graph.cuts.num_users
    own = torch.cat(
        [torch.arange(users.start, users.stop), torch.arange(items.start, items.stop) + shift]
    )
    x = rows[own].requires_grad_()
    out = ops.propagate(x, graph, 3)
    out.backward(g[own])
    found = {}
    for name, of in (("out", out.detach()), ("gradient", x.grad)):
        split = of.split([len(users), len(items)])
        found[name] = torch.cat([world.gathered(part) for part in split])
    found["statistics"] = torch.stack(graph.team.column_statistics(out.detach()[: len(users)]))
    return found


@pytest.mark.parametrize(
    "mesh", [(3, 1), (2, 2), (1, 3)], ids=lambda mesh: "x".join(map(str, mesh))
)
def test_propagation_in_float64(mesh):
    graph = load_whole("demo").graph
    torch.manual_seed(0)
    v = torch.randn(graph.num_nodes, 10, dtype=torch.float64)
    v[:, 0] = 0
    x, g = ops.expmap0(v), torch.randn_like(v)
    leaf = x.clone().requires_grad_()
    out = ops.propagate(leaf, graph, 3)
    out.backward(g)
    mean, std = ops.column_statistics(out.detach()[: graph.num_users])
    for found in in_processes(mesh, propagated, x, g):
        torch.testing.assert_close(found["out"], out.detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found["gradient"], leaf.grad, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(
            found["statistics"], torch.stack([mean, std]), rtol=1e-10, atol=0
        )


def ranked(world, source, users, items) -> dict:
    dataset = load(source, world)
    own = dataset.graph.own_users
    points = users[own.start : own.stop], items
    measured = {
        split: evaluate(points, *task(dataset, split), gathered=dataset.graph.team.gathered)
        for split in ("valid", "test")
    }
    torch.manual_seed(0)
    model = HDRM(
        dataset.num_users, dataset.num_items, SOFTMAX, own=dataset.graph.team.own_nodes
    ).eval()
    model.set_graph(dataset.graph)
    return measured | {
        "popularity": evaluate_split(model, dataset, "test")["popularity"],
        "summary": {name: value for name, value in dataset.summary().items() if name != "notes"},
        "notes": dataset.summary()["notes"],
    }


@pytest.mark.parametrize("prepare", [None, "few"], ids=["demo", "a user with all test items"])
def test_metrics_and_summary_are_equal(prepare, tmp_path):
    """Ties included: points are on a lattice, and equal distances go to the smaller item."""
    source = "demo"
    if prepare:
        pairs = interactions()
        test = np.array([[3, 1], [3, 2]])  # two of three processes have nothing to find
        source = str(write_npy(tmp_path / "few", train=pairs, valid=np.array([[5, 4]]), test=test))
    dataset = load_whole(source)
    torch.manual_seed(1)
    v = torch.randint(-2, 3, (dataset.graph.num_nodes, 4)).float() / 4
    v[:, 0] = 0
    points = ops.expmap0(v).split([dataset.num_users, dataset.num_items])
    expected = {split: evaluate(points, *task(dataset, split)) for split in ("valid", "test")}
    summary = dataset.summary()
    for found in in_processes((3, 1), ranked, source, *points):
        assert {split: found[split] for split in expected} == expected
        assert found["summary"] | {"notes": found["notes"]} == summary


def asked(world, bounds, ids) -> dict:
    asking = Asking(world, bounds, ids[world.rank], label="test")
    rows = asking.asked[:, None] * torch.tensor([10, 1])
    lists = torch.repeat_interleave(asking.asked, asking.asked % 3)
    return {
        "rows": asking.answered(rows),
        "lists": asking.answered_lists(lists, asking.asked % 3),
        "given": asking.given(ids[world.rank] + 100 * world.rank),
        "asked": asking.asked,
        "by_asker": asking.by_asker,
    }


def test_rows_by_id():
    """Owners by range, in any order, some asked for nothing and some asking for nothing."""
    bounds = (0, 4, 5, 9, 10, 12, 20)  # 0–3 and 9 of the first, 4 and 10–11, 5–8 and 12–19
    ids = [torch.tensor(of, dtype=torch.int64) for of in ([7, 0, 12, 9, 1], [], [19, 3, 5])]
    found = in_processes((3, 1), asked, bounds, ids)
    for of, mine in zip(found, ids):
        assert of["rows"].tolist() == [[10 * i, i] for i in mine.tolist()]
        assert of["lists"].tolist() == [i for i in mine.tolist() for _ in range(i % 3)]
    assert [of["by_asker"] for of in found] == [[3, 0, 1], [0, 0, 0], [2, 0, 2]]
    assert found[0]["asked"].tolist() == [0, 9, 1, 3]
    assert found[0]["given"].tolist() == [0, 9, 1, 203]


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 40])
def test_cuts_balance_edges_and_leave_nobody_out(processes):
    generator = np.random.default_rng(0)
    degrees = np.sort((generator.pareto(1, 200) * 10).astype(np.int64))[::-1]  # all at one end
    rowptr = torch.from_numpy(np.concatenate([[0], np.cumsum(degrees)]))
    cuts = Cuts.of(rowptr, 60, processes)
    users = [cuts.of_users(p) for p in range(processes)]
    items = [cuts.of_items(p) for p in range(processes)]
    for ranges, count in ((users, 200), (items, 60)):
        assert min(map(len, ranges)) > 0
        assert [i for of in ranges for i in of] == list(range(count))
    work = [int(rowptr[of.stop] - rowptr[of.start]) + len(of) for of in users]
    # A range is at most one user's row more than its share.
    assert max(work) <= sum(work) / processes + degrees.max() + 1


def test_more_processes_than_users():
    rowptr = torch.arange(4)
    with pytest.raises(ValueError, match="5 processes need as many users at least, there are 3"):
        Cuts.of(rowptr, 60, 5)


def started(world, source, seeds) -> list:
    """The initial tables of processes, whatever the number of rows drawn at a time."""
    from hdrm.model import encoder

    encoder.DRAWN = 70
    dataset, found = load(source, world), []
    for config in (HINGE, SOFTMAX):
        torch.manual_seed(seeds)
        model = HDRM(dataset.num_users, dataset.num_items, config, own=dataset.graph.team.own_nodes)
        rows = dataset.graph.num_users if config.users == "table" else 0
        parts = model.encoder.table.detach().split([rows, dataset.graph.num_items])
        found.append(torch.cat([world.gathered(part.contiguous()) for part in parts]))
        found.append(model.denoisers["user"].layers[0].weight.detach())
    return found


def test_weights_start_as_those_of_one_process():
    dataset, expected = load_whole("demo"), []
    for config in (HINGE, SOFTMAX):
        torch.manual_seed(4)
        model = HDRM(dataset.num_users, dataset.num_items, config)
        expected += [
            model.encoder.table.detach(),
            model.denoisers["user"].layers[0].weight.detach(),
        ]
    for found in in_processes((3, 1), started, "demo", 4):
        assert all(map(torch.equal, found, expected))


def continued(world, source, runs) -> list:
    """Test metrics of a training, and of one on the encoder of the first."""
    from pathlib import Path

    from hdrm.distributed.training import open_trainer

    dataset, found = load(source, world), []
    for config, run, encoder in (
        (TINY, Path(runs) / "whole", None),
        (TINY.replace(diffusion_lr=3e-3), Path(runs) / "second", Path(runs) / "whole"),
    ):
        trainer = open_trainer(dataset, config, run, source=source, encoder=encoder)
        found.append(trainer.fit().test["hdrm"])
        assert open_trainer(dataset, config, run, source=source) is None  # it is finished
    return found


TINY = SOFTMAX.replace(encoder_epochs=3, diffusion_epochs=2, omega=0.5, eval_steps=1)


@pytest.mark.parametrize("mesh", [(2, 1), (2, 2)], ids=lambda mesh: "x".join(map(str, mesh)))
def test_a_whole_training(mesh, tmp_path):
    """Its run is one of a single process to whoever opens it."""
    from hdrm.train import Trainer
    from hdrm.train.runs import Run

    source = str(write_npy(tmp_path / "data"))
    dataset = load_whole(source)
    expected = []
    for config, name, encoder in (
        (TINY, "one", None),
        (TINY.replace(diffusion_lr=3e-3), "two", tmp_path / "one"),
    ):
        trainer = Trainer(dataset, config, tmp_path / name, source=source, encoder=encoder)
        expected.append(trainer.fit().test["hdrm"])
    (tmp_path / "runs").mkdir()
    for found in in_processes(mesh, continued, source, str(tmp_path / "runs")):
        for ours, single in zip(found, expected):
            assert ours == pytest.approx(single)
    one, several = (Run.open(tmp_path / name) for name in ("one", "runs/whole"))
    assert several.description == one.description
    assert [r["epoch"] for r in several.metrics()] == [r["epoch"] for r in one.metrics()]
    for ours, single in zip(
        several.model.recommend([0, 7, 39], 5), one.model.recommend([0, 7, 39], 5)
    ):
        torch.testing.assert_close(ours, single)
    assert several.dataset().fingerprint() == one.dataset().fingerprint()
