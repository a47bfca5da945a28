"""hdrm among torch's own tools: compile, export, torch.func, autocast, copies, casts, meta, types.

``data/run-3`` is a run of `hdrm train` on 40 users and 30 items, dim 6, without its log, and what it
recommended then. Where the format of models changes, a run of the new one is put beside it.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from importlib import resources
from pathlib import Path

import geoopt
import numpy as np
import pytest
import torch
from ops_cases import CASES, points, tangents, vectors
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.autograd import forward_ad

from hdrm import CSR, HDRM, BipartiteGraph, Lorentz, ops, optim
from hdrm.config import Config
from hdrm.model.encoder import Encoder
from hdrm.train.denoising import DenoisingStage
from hdrm.train.stages import DiffusionStage, EncoderStage

ROOT = Path(__file__).parent.parent
RUN = Path(__file__).parent / "data" / "run-3"
NUM_USERS, NUM_ITEMS, WIDTH = 30, 20, 9
CONFIG = Config(dim=WIDTH, hidden=(12, 14), steps=6, sampling_steps=2, layers=2, curvature=0.5)
SOFTMAX = CONFIG.replace(loss="softmax", users="items", encoder_optimizer="adam")
by_case = pytest.mark.parametrize("case", CASES, ids=str)
OPTIMIZERS = {
    "adam": lambda parameters: optim.RiemannianAdam(parameters, lr=0.01),
    "sgd": lambda parameters: optim.RiemannianSGD(parameters, lr=0.01, momentum=0.9),
}
by_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def make_model(config: Config = CONFIG, omega: float = 0.4) -> HDRM:
    torch.manual_seed(1)
    model = HDRM(NUM_USERS, NUM_ITEMS, config)
    pairs = np.argwhere(np.random.default_rng(0).random((NUM_USERS, NUM_ITEMS)) < 0.3)
    model.set_graph(BipartiteGraph.from_interactions(*pairs.T, NUM_USERS, NUM_ITEMS))
    for parameter in model.denoisers.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    model.set_statistics()
    model.omega.fill_(omega)
    return model.eval()


def same_recommendations(model: HDRM, other: HDRM) -> bool:
    users = torch.arange(NUM_USERS)
    pairs = zip(model.recommend(users, 5), other.recommend(users, 5))
    return all(torch.equal(a, b) for a, b in pairs)


def encoder_loss(model: HDRM) -> torch.Tensor:
    users, positives, negatives = torch.arange(16), torch.arange(30, 46), torch.arange(34, 50)
    h = model.encoder(model.graph)
    c = model.config.curvature
    return ops.margin_ranking_loss(h[users], h[positives], h[negatives], 0.1, c=c)


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
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a step of hdrm.optim is one fused kernel"):
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


# Derivatives and vmap


@by_case
def test_torch_func_has_autograds_gradient(case):
    inputs = case.make(7, 6, 0.7, torch.float64)

    def total(*xs):
        found = case.run(*xs, c=0.7)
        return sum(out.square().sum() for out in (found if isinstance(found, tuple) else (found,)))

    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(total(*leaves), leaves)
    found = torch.func.grad(total, argnums=tuple(range(len(inputs))))(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert any(gradient.any() for gradient in found)


def test_torch_func_differentiates_the_encoder():
    model = make_model().train()
    weights = {name: p.detach() for name, p in model.encoder.named_parameters()}

    def total(weights):
        return torch.func.functional_call(model.encoder, weights, (model.graph,)).square().sum()

    model.encoder(model.graph).square().sum().backward()
    assert torch.equal(torch.func.grad(total)(weights)["table"], model.encoder.table.grad)


@by_case
def test_what_is_not_a_first_derivative_in_reverse_is_refused(case):
    """torch would take a gradient for a constant, and a tangent for 0."""
    inputs = case.make(7, 6, 0.7, torch.float64)

    def total(*xs):
        found = case.run(*xs, c=0.7)
        return sum(out.square().sum() for out in (found if isinstance(found, tuple) else (found,)))

    leaves = [x.clone().requires_grad_() for x in inputs]
    gradient = torch.autograd.grad(total(*leaves), leaves[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        gradient.sum().backward()
    nested = torch.func.grad(lambda x: torch.func.grad(total)(x, *inputs[1:]).sum())
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        nested(inputs[0])
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: case.run(x, *inputs[1:], c=0.7), (inputs[0],), (inputs[0],))
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.hessian(lambda x: total(x, *inputs[1:]))(inputs[0])
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode derivative"):
        case.run(forward_ad.make_dual(inputs[0], inputs[0]), *inputs[1:], c=0.7)
    with forward_ad.dual_level():  # of what has no tangent nothing is asked
        case.run(*inputs, c=0.7)


def test_a_second_derivative_is_refused_under_compile():
    torch._dynamo.reset()
    u = tangents(5, 6).requires_grad_()
    compiled = torch.compile(lambda u: ops.expmap0(u).square().sum(), backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(u), u, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward|a first derivative only"):
        gradient.sum().backward()


def test_vmap_of_rows_is_a_batch():
    x, y = points(12, 6, 1.0).view(3, 4, 6), points(4, 6, 1.0, seed=1)
    expected = ops.distance(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vmap, grad = torch.func.vmap, torch.func.grad
        assert torch.equal(vmap(ops.distance, (0, None))(x, y), expected)
        assert torch.equal(vmap(ops.distance, (1, 0), 1)(x, y), expected)
        assert torch.equal(vmap(vmap(ops.distance), (0, None))(x, y), expected)
        assert torch.equal(vmap(ops.expmap0)(x), ops.expmap0(x))
        hinge = vmap(lambda u: ops.margin_ranking_loss(u, x[0], y, 0.1))(x)
        gradient = vmap(vmap(grad(ops.sqdist)), (0, None))(x, y)
    for i in range(3):
        torch.testing.assert_close(hinge[i], ops.margin_ranking_loss(x[i], x[0], y, 0.1))
    leaf = x.clone().requires_grad_()
    ops.sqdist(leaf, y).sum().backward()
    assert torch.equal(gradient, leaf.grad)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_of_tables_is_a_loop_and_of_steps_refused():
    model, tables = make_model(), tangents(100, WIDTH).view(2, 50, WIDTH)

    def encode(h):
        return ops.propagate(h, model.graph, 2, space="tangent")

    assert torch.equal(torch.func.vmap(encode)(tables), torch.stack([encode(h) for h in tables]))
    with pytest.raises(RuntimeError, match="riemannian_sgd_step_ works in place and cannot be vmapped"):
        torch.func.vmap(lambda x, g: ops.riemannian_sgd_step_(x, g, None, lr=0.1))(tables, tables)


# Autocast and determinism


def test_autocast_leaves_points_and_distances_exact():
    model = make_model()
    u, x, y = tangents(6, WIDTH, torch.float32), *(points(6, WIDTH, 1.0, torch.float32, seed=s) for s in (0, 1))
    h, d = model.encoder(model.graph), ops.distance(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encoder(model.graph), h) and torch.equal(ops.distance(x, y), d)
        narrow = u @ torch.eye(WIDTH)
        assert narrow.dtype == torch.bfloat16
        assert ops.expmap0(narrow).dtype == ops.sqdist0(narrow, narrow).dtype == torch.float32
        with pytest.raises(TypeError, match="16 bits cannot hold a point"):
            ops.distance(narrow, narrow)
        distances = model.recommend(range(NUM_USERS), 3)[1]
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, make_model().recommend(range(NUM_USERS), 3)[1], rtol=0.05, atol=0)


@pytest.mark.parametrize("stage", [EncoderStage, DenoisingStage, DiffusionStage])
def test_autocast_trains(stage):
    """The encoder's losses are those without it; the denoisers compute in 16 bits."""

    def loss(autocast: bool) -> float:
        model = make_model(SOFTMAX if stage is DenoisingStage else CONFIG).train()
        made = stage(model, model.config)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            made.begin_epoch(1)
            first = made.step(0)
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
        return first

    tolerance = 0.05 if stage is DiffusionStage else 0.0
    assert loss(True) == pytest.approx(loss(False), rel=tolerance, abs=0)


@pytest.mark.parametrize("stage", [EncoderStage, DenoisingStage, DiffusionStage])
def test_deterministic_algorithms_raise_nothing_and_repeat(stage):
    """With other threads too; but not the denoisers, whose matrix products are torch's."""
    torch.use_deterministic_algorithms(True)  # conftest only warns; it sets back what was

    def train(threads: int):
        torch.set_num_threads(threads)
        model = make_model(SOFTMAX if stage is DenoisingStage else CONFIG).train()
        made = stage(model, model.config)
        made.begin_epoch(1)
        losses = made.step(0), made.step(1)
        model.set_statistics()
        return losses, [*model.state_dict().values(), *model.eval().recommend(range(NUM_USERS), 5)]

    before = torch.get_num_threads()
    try:
        for counts in ((1, 1), (2, 2)) + (((1, 2),) if stage is not DiffusionStage else ()):
            (losses, tensors), (again, others) = (train(count) for count in counts)
            assert losses == again
            assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))
    finally:
        torch.set_num_threads(before)


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


# Models on disk


def test_a_stored_run_recommends_what_it_did():
    model, stored = HDRM.load(RUN), json.loads((RUN / "recommendations.json").read_text())
    for which, (items, distances) in {
        "": model.recommend(range(20), 5),
        "new_": model.recommend_for([[1, 5, 9], []], 5),
    }.items():
        assert items.tolist() == stored[f"{which}items"]
        expected = torch.tensor(stored[f"{which}distances"])
        torch.testing.assert_close(distances, expected, rtol=1e-4, atol=1e-5)


def test_a_later_format_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with safe_open(RUN / "model.safetensors", "pt") as file:
        metadata = file.metadata() | {"format": "hdrm model, version 99"}
    save_file(load_file(RUN / "model.safetensors"), path, metadata)
    with pytest.raises(ValueError, match=r"'hdrm model, version 99', expected .* update hdrm if that"):
        HDRM.load(tmp_path)
    shutil.copy(RUN / "model.safetensors", path)
    HDRM.load(tmp_path)


# Copies, casts, devices


def dumped(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("twin", [copy.deepcopy, dumped])
def test_copies(twin):
    model = make_model()
    other = twin(model)
    assert same_recommendations(model, other)
    assert isinstance(other.encoder.table, geoopt.ManifoldParameter)
    with torch.no_grad():
        other.encoder.table.mul_(2)
    assert same_recommendations(model, make_model())
    graph = twin(model.graph)
    assert torch.equal(graph.col, model.graph.col)
    assert graph.user_items.col.data_ptr() == graph.col.data_ptr() != model.graph.col.data_ptr()
    matrix = CSR.from_pairs([0, 1], [1, 0], 2, 2)
    assert torch.equal(twin(matrix).rowptr, matrix.rowptr) and twin(matrix).num_cols == 2
    assert twin(Lorentz(2.0)).c == 0.5
    assert twin(CONFIG) == CONFIG


@by_optimizer
def test_an_optimisers_state_goes_through_weights_only(make):
    def step(model, optimizer):
        optimizer.zero_grad()
        encoder_loss(model).backward()
        model.denoisers["user"].time.bias.square().sum().backward()
        optimizer.step()

    def make_both():
        model = make_model().train()
        return model, make([model.encoder.table, *model.denoisers.parameters()])

    model, optimizer = make_both()
    step(model, optimizer)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other, continued = make_both()
    other.load_state_dict(weights)
    continued.load_state_dict(state)
    step(model, optimizer)
    step(other, continued)
    assert torch.equal(model.encoder.table, other.encoder.table)
    assert all(map(torch.equal, model.denoisers.parameters(), other.denoisers.parameters()))


def test_casts():
    model = make_model()
    wide = copy.deepcopy(model).double()
    assert wide.encoder.table.dtype == wide.recommend([1])[1].dtype == torch.float64
    found, expected = (m.recommend(range(NUM_USERS), 5)[1] for m in (wide, model))
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)
    back = wide.float()
    for name in ("omega", "diffusion.alpha_bar", "diffusion.variance"):  # float64 in any model
        assert torch.equal(back.get_buffer(name), model.get_buffer(name)), name
    assert same_recommendations(back, model)
    for cast in (model.half, model.bfloat16):
        with pytest.raises(TypeError, match="must stay float32 or float64, got torch.b?float16"):
            cast()
    assert same_recommendations(model, make_model())


def test_a_cast_model_can_be_stored_again(tmp_path):
    make_model().double().float().save(tmp_path)
    torch.testing.assert_close(
        HDRM.load(tmp_path).recommend([1, 2], 3), make_model().recommend([1, 2], 3)
    )


def fill_to_empty(model: HDRM, weights) -> None:
    model.to_empty(device="cpu")
    assert isinstance(model.encoder.table.manifold, Lorentz)  # whoever fills the table by hand too
    model.load_state_dict(weights)


def assign(model: HDRM, weights) -> None:
    model.load_state_dict({name: t.clone() for name, t in weights.items()}, assign=True)


@pytest.mark.parametrize("fill", [fill_to_empty, assign])
def test_a_model_made_on_meta(fill):
    original = make_model()
    with torch.device("meta"):
        model = HDRM(NUM_USERS, NUM_ITEMS, CONFIG)
    assert model.encoder.table.is_meta
    fill(model, original.state_dict())
    model.set_graph(original.graph)
    assert same_recommendations(model.eval(), original)
    for each in (model.train(), original.train()):  # the table is still one of points
        encoder_loss(each).backward()
        optim.RiemannianSGD([each.encoder.table], lr=0.1).step()
    assert torch.equal(model.encoder.table, original.encoder.table)


def test_an_encoder_on_meta_tells_shapes():
    graph = make_model().graph.to("meta")
    with torch.device("meta"):
        encoder = Encoder(NUM_USERS, NUM_ITEMS, WIDTH, 2)
    assert encoder(graph).shape == (NUM_USERS + NUM_ITEMS, WIDTH)


def test_gradients_are_clipped_and_tables_parametrized():
    model = make_model().train()
    encoder_loss(model).backward()
    table = model.encoder.table
    before = table.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(model.encoder.parameters(), 0.01)
    torch.testing.assert_close(norm, before.norm())
    torch.testing.assert_close(table.grad, before * (0.01 / norm), rtol=1e-3, atol=1e-9)

    class Exponential(torch.nn.Module):
        def forward(self, u):
            return ops.expmap0(u, c=0.5)

        def right_inverse(self, x):
            return ops.logmap0(x, c=0.5)

    expected = table.detach().clone()
    torch.nn.utils.parametrize.register_parametrization(model.encoder, "table", Exponential())
    model.to("cpu").load_state_dict(model.state_dict())
    torch.testing.assert_close(model.encoder.table, expected)
    encoder_loss(model).backward()
    assert model.encoder.parametrizations.table.original.grad.any()


# Types


def test_what_is_public_is_typed(tmp_path):
    assert resources.files("hdrm").joinpath("py.typed").is_file()
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed (pip install -e '.[test]')")
    mypy = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    found = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    mistakes = tmp_path / "mistakes.py"
    mistakes.write_text("from hdrm import HDRM, ops\nHDRM.load(3)\nops.topk(1, 2, k='3')\n")
    found = subprocess.run([*mypy, str(mistakes)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.count("error:") == 4, found.stdout
