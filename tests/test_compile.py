"""hdrm through torch.compile and torch.export."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import geoopt
import pytest
import torch
from model_cases import NUM_USERS, WIDTH, by_optimizer, encoder_loss, make_model
from ops_cases import points, tangents, vectors

from hdrm import Lorentz, ops

ROOT = Path(__file__).parent.parent


# torch.compile


@by_optimizer
def test_a_training_step_is_one_graph_and_the_same_training(make):
    torch._dynamo.reset()
    model, plain = make_model().train(), make_model().train()
    assert torch._dynamo.explain(encoder_loss)(plain).graph_break_count == 0
    loss = torch.compile(encoder_loss, fullgraph=True, backend="aot_eager")
    steps = make([model.encoder.table]), make([plain.encoder.table])
    for _ in range(3):
        for optimizer, value in zip(steps, (loss(model), encoder_loss(plain))):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    assert torch.equal(model.encoder.table, plain.encoder.table)
    assert not torch.equal(model.encoder.table, make_model().encoder.table)


@by_optimizer
def test_an_optimiser_inside_compile_runs_as_outside(make):
    torch._dynamo.reset()
    tables = [geoopt.ManifoldParameter(points(7, 6, 0.5), manifold=Lorentz(2.0)) for _ in range(2)]
    optimizers = [make([table]) for table in tables]
    compiled = torch.compile(lambda: optimizers[0].step(), backend="aot_eager")
    for seed in range(3):
        for table, step in zip(tables, (compiled, optimizers[1].step)):
            table.grad = vectors(7, 6, seed=seed)
            step()
    assert torch.equal(*tables)
    whole = torch.compile(lambda: optimizers[0].step(), backend="aot_eager", fullgraph=True)
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match="a step of hdrm.optim is one fused kernel"
    ):
        whole()


@pytest.mark.parametrize("training", [False, True])
def test_the_denoisers_are_one_graph(training):
    torch._dynamo.reset()
    model = make_model().train(training)
    z, t = tangents(2000, WIDTH, torch.float32), torch.arange(2000) % 6
    compiled = torch.compile(model.denoise, fullgraph=True, backend="aot_eager")
    found = compiled(z, z.flip(0), t, seed=3)
    if not training:
        torch.testing.assert_close(found, model.denoise(z, z.flip(0), t, seed=3))
        return
    sum(part.square().sum() for part in found).backward()
    assert all(weight.grad is not None for weight in model.denoisers.parameters())
    mask = model.denoisers["user"].mask
    kept = torch.compile(mask, fullgraph=True, backend="aot_eager")(torch.ones(400, 500))
    assert abs(float(kept.mean()) - mask.kept / 2**16) < 0.01


def test_a_training_step_through_inductor():
    torch._dynamo.reset()
    model, plain = make_model().train(), make_model().train()
    for each, loss in ((model, torch.compile(encoder_loss, fullgraph=True)), (plain, encoder_loss)):
        loss(each).backward()
    torch.testing.assert_close(model.encoder.table.grad, plain.encoder.table.grad)


def test_a_second_derivative_is_refused_under_compile():
    torch._dynamo.reset()
    u = tangents(5, 6).requires_grad_()
    compiled = torch.compile(lambda u: ops.expmap0(u).square().sum(), backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(u), u, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward|a first derivative only"):
        gradient.sum().backward()


# torch.export


def test_an_exported_recommender_is_the_same_one_in_another_process(tmp_path):
    model = make_model()
    program = torch.export.export(
        model.exportable(k=4),
        (torch.tensor([7, 8]),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    torch.export.save(program, tmp_path / "recommender.pt2")
    script = (
        "import hdrm, torch\n"
        "module = torch.export.load('recommender.pt2').module()\n"
        "found = [module(torch.tensor(ids, dtype=torch.int64)) for ids in ([5], [29, 0, 0], [])]\n"
        "torch.save(found, 'found.pt')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    for ids, found in zip(([5], [29, 0, 0], []), torch.load(tmp_path / "found.pt")):
        expected = model.recommend(torch.tensor(ids, dtype=torch.int64), 4)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for outside in (-1, NUM_USERS):
        with pytest.raises(RuntimeError, match=r"users must be in 0 … 29"):
            program.module()(torch.tensor([outside]))


def test_an_exportable_module_is_refused_or_stands_by_itself():
    model = make_model()
    with pytest.raises(ValueError, match=r"k must be in 1 … 20 \(items\), got 21"):
        model.exportable(21)
    module = model.exportable(3)
    expected = module(torch.tensor([1, 2]))
    model.omega.fill_(1.0)
    with torch.no_grad():
        model.encoder.table.copy_(model.encoder.table.roll(1, 0))
    assert all(torch.equal(a, b) for a, b in zip(module(torch.tensor([1, 2])), expected))
    with pytest.raises(RuntimeError, match="call eval"):
        model.train().exportable(3)
