"""hdrm among torch's own tools: autocast, determinism, copies, casts, meta devices, types.

``data/run-3`` is a run of `hdrm train` on 40 users and 30 items, dim 6, without its log, and what it
recommended then. Where the format of models changes, a run of the new one is put beside it.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import pickle
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import geoopt
import pytest
import torch
from model_cases import (
    CONFIG,
    NUM_ITEMS,
    NUM_USERS,
    SOFTMAX,
    WIDTH,
    by_optimizer,
    encoder_loss,
    make_model,
    same_recommendations,
)
from ops_cases import points, tangents
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hdrm import CSR, HDRM, Lorentz, ops, optim
from hdrm.model.encoder import Encoder
from hdrm.train.denoising import DenoisingStage
from hdrm.train.stages import DiffusionStage, EncoderStage

ROOT = Path(__file__).parent.parent
RUN = Path(__file__).parent / "data" / "run-3"

# Autocast and determinism


def test_autocast_leaves_points_and_distances_exact():
    model = make_model()
    u, x, y = (
        tangents(6, WIDTH, torch.float32),
        *(points(6, WIDTH, 1.0, torch.float32, seed=s) for s in (0, 1)),
    )
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
    torch.testing.assert_close(
        distances, make_model().recommend(range(NUM_USERS), 3)[1], rtol=0.05, atol=0
    )


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
    with pytest.raises(
        ValueError, match=r"'hdrm model, version 99', expected .* update hdrm if that"
    ):
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
    found = subprocess.run(
        [*mypy, str(mistakes)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.stdout.count("error:") == 4, found.stdout
