"""The published diffusion against formulas written out in float64, its leak, its inference, its runs."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hdrm import HDRM, BipartiteGraph, ops
from hdrm.config import PRESETS, Config
from hdrm.data import Dataset
from hdrm.data.splits import per_user
from hdrm.model.denoiser import time_embedding
from hdrm.seeds import derive_seed
from hdrm.train import Trainer, evaluate_split
from hdrm.train.pair_diffusion import PairDiffusionStage
from hdrm.train.stages import DiffusionStage
from hdrm.train.table_steps import FullStep

USERS, ITEMS = 40, 30
CONFIG = PRESETS["paper"].replace(
    dim=9,
    hidden=(12, 16),
    steps=6,
    sampling_steps=4,
    noise_scale=1.0,
    noise_min=0.01,
    noise_max=0.4,
    encoder_momentum=0.0,
    encoder_lr=0.05,
    diffusion_batch=50,
    diffusion_lr=0.01,
    dropout=0.0,
    margin=2.0,
    training_omega=0.3,
    reconstruction=0.4,
)
TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}


def make_model(config: Config) -> HDRM:
    """In float64; the last user and the last item have no neighbours."""
    torch.manual_seed(3)
    ids = torch.randint(USERS - 1, (300,)), torch.randint(ITEMS - 1, (300,))
    model = HDRM(USERS, ITEMS, config)
    model.set_graph(BipartiteGraph.from_interactions(*ids, USERS, ITEMS))
    for parameter in model.denoisers.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    return model.double().train()


def make_stage(config: Config) -> PairDiffusionStage:
    stage = PairDiffusionStage(make_model(config), config)
    stage.begin_epoch(1)
    return stage


# The formulas of model.md, c = 1, one after the other.


def propagated(model: HDRM, table: Tensor) -> Tensor:
    """Σ_l Âˡ·logmap0(table), Â = D⁻¹(A + I), with a dense matrix."""
    matrix = torch.eye(USERS + ITEMS, dtype=table.dtype)
    user, item = model.graph.user_items.pairs()
    matrix[user, USERS + item] = matrix[USERS + item, user] = 1
    matrix = matrix / matrix.sum(1, keepdim=True)
    x = table[:, 1:]
    norm = x.norm(dim=1, keepdim=True)
    h = F.pad(torch.asinh(norm) / norm * x, (1, 0))
    total = 0
    for _ in range(model.config.layers):
        h = matrix @ h
        total = total + h
    return total


def network(model: HDRM, name: str, z_t: Tensor, t: Tensor, known: Tensor) -> Tensor:
    denoiser = model.denoisers[name]
    time = denoiser.time(time_embedding(t, 10).double())
    out = denoiser.layers(torch.cat([z_t, time, known], 1))
    return F.pad(out[:, 1:], (1, 0))


def sqdist(u: Tensor, v: Tensor) -> Tensor:
    """arcosh² of the Lorentz product of the points that u and v are tangent vectors of."""
    points = []
    for w in (u[:, 1:], v[:, 1:]):
        norm = w.norm(dim=1, keepdim=True)
        points.append(torch.cat([torch.cosh(norm), torch.sinh(norm) / norm * w], 1))
    x, y = points
    return torch.acosh(x[:, 0] * y[:, 0] - (x[:, 1:] * y[:, 1:]).sum(1)) ** 2


def naive_loss(stage: PairDiffusionStage, table: Tensor, step: int) -> Tensor:
    model, config = stage._model, stage._config
    users, positives, negatives = stage._batches.batch(step)
    h = propagated(model, table)
    user, item, negative = h[users], h[USERS + positives], h[USERS + negatives[:, 0]]
    seed = derive_seed("noise", config.seed, step)
    t, _ = stage._steps.draw(len(users), seed)
    level = model.diffusion.alpha_bar[t][:, None]
    mixed, error = [], 0.0
    for k, (name, z0, known) in enumerate((("user", user, item), ("history", item, user))):
        zeros = torch.zeros(len(z0), dtype=torch.int64)
        eps = ops.isotropic_noise(z0.detach(), zeros, torch.zeros(1), seed=seed + k)
        if config.noise == "directional":
            eps = z0.mean(0) + z0.std(0) * torch.sign(z0) * eps.abs()
        z_t = level.sqrt() * z0 + (1 - level).sqrt() * eps
        output = network(model, name, z_t, t, known)
        mixed.append((1 - config.training_omega) * z0 + config.training_omega * output)
        error = error + ((z0 - mixed[-1]) ** 2).mean()
    gap = sqdist(*mixed) - sqdist(mixed[0], negative)
    rank = torch.clamp(gap + config.margin, min=0).mean()
    return (1 - config.reconstruction) * rank + config.reconstruction * error


@pytest.mark.parametrize("noise", ["directional", "isotropic"])
def test_the_loss_is_the_formula_s(noise):
    stage = make_stage(CONFIG.replace(noise=noise))
    for step in (0, 3):
        expected = naive_loss(stage, stage._model.encoder.table.detach(), step)
        torch.testing.assert_close(stage._loss(step).detach(), expected.detach(), **TOLERANCE)


@pytest.mark.parametrize("tables_on", ["device", "host"])
@pytest.mark.parametrize("noise", ["directional", "isotropic"])
def test_a_joint_step_goes_down_the_gradient_of_everything(noise, tables_on):
    config = CONFIG.replace(noise=noise, tables="joint")
    naive = make_stage(config)
    table = naive._model.encoder.table
    loss = naive_loss(naive, table, 0)
    loss.backward()
    FullStep(naive._model, config)._optimizer.step()
    ours = make_stage(config.replace(tables_on=tables_on))
    before = ours._model.encoder.table.detach().clone()
    expected = [p.grad.clone() for p in naive._model.denoisers.parameters()]
    ours._optimizer.zero_grad = lambda: None  # to look at what it would clear
    assert ours.step(0) == pytest.approx(loss.item(), rel=1e-12)
    for found, gradient in zip(ours._model.denoisers.parameters(), expected):
        torch.testing.assert_close(found.grad, gradient, **TOLERANCE)
    moved = ours._model.encoder.table.detach()
    torch.testing.assert_close(moved[:, 1:], table.detach()[:, 1:], **TOLERANCE)
    assert (moved - before).abs().max() > 1e-4


def test_a_frozen_table_stays_and_the_denoisers_move():
    stage = make_stage(CONFIG)
    table = stage._model.encoder.table.detach().clone()
    weights = [p.detach().clone() for p in stage._model.denoisers.parameters()]
    stage.step(0)
    assert torch.equal(stage._model.encoder.table, table)
    for before, after in zip(weights, stage._model.denoisers.parameters()):
        assert not torch.equal(before, after)


@pytest.mark.parametrize(("conditioning", "leaks"), [("pair", True), ("history", False)])
def test_the_label_leaks_into_pairs_and_not_into_histories(conditioning, leaks, monkeypatch):
    """What the denoisers make of a user, when its positive item is exchanged for another."""
    config = CONFIG.replace(conditioning=conditioning, training_omega=1.0, folds=2)
    model = make_model(config)
    stage = (PairDiffusionStage if leaks else DiffusionStage)(model, config)
    stage.begin_epoch(1)
    stage.step(0)
    made, denoise = [], model.denoise

    def kept(*args, **options):
        made.append(denoise(*args, **options))
        return made[-1]

    monkeypatch.setattr(model, "denoise", kept)
    users, positives, negatives = stage._batches.batch(0)
    for items in (positives, (positives + 1) % ITEMS):
        monkeypatch.setattr(stage._batches, "batch", lambda step, i=items: (users, i, negatives))
        stage._loss(0)
    changed = [not torch.equal(before, after) for before, after in zip(*made)]
    assert changed == [leaks, leaks]


@pytest.mark.parametrize("noise", ["directional", "isotropic"])
def test_inference_is_the_naive_loop(noise):
    config = CONFIG.replace(noise=noise)
    model = make_model(config).eval()
    model.set_statistics()
    model.omega.fill_(0.25)
    h = propagated(model, model.encoder.table.detach())
    history = torch.zeros(USERS, config.dim, dtype=torch.float64)
    for user in range(USERS - 1):
        history[user] = h[USERS + model.graph.user_items.row(user)].mean(0)
    beta, level = model.diffusion.beta, model.diffusion.alpha_bar
    last = config.sampling_steps - 1
    noise_mean = torch.zeros_like(history)  # the mean of |ε| is √(2/π)
    if noise == "directional":
        direction = torch.sign(history) * math.sqrt(2 / math.pi)
        noise_mean = history.mean(0) + history.std(0) * direction
    z = level[last].sqrt() * history + (1 - level[last]).sqrt() * noise_mean
    for t in range(last, -1, -1):
        x0 = network(model, "history", z, torch.full((USERS,), t), h[:USERS])
        before = level[t - 1] if t else torch.ones(()).double()
        z = (
            before.sqrt() * beta[t] / (1 - level[t]) * x0
            + (1 - beta[t]).sqrt() * (1 - before) / (1 - level[t]) * z
        )
    found_h, found = model.generate()
    torch.testing.assert_close(found_h, h, **TOLERANCE)
    torch.testing.assert_close(found, z, **TOLERANCE)
    users, items = model.points()
    torch.testing.assert_close(users, ops.expmap0(0.75 * h[:USERS] + 0.25 * z), **TOLERANCE)
    torch.testing.assert_close(items, ops.expmap0(h[USERS:]), **TOLERANCE)


def test_the_presets_are_the_published_settings():
    """The table of the paper's settings. On ML-1M one reverse step of 50 acts, which is warned of."""
    for name, hidden, steps, noise, alpha, layers in (
        ("paper", (200, 1100), 50, (1e-5, 1e-5, 1e-4), 0.05, 3),
        ("paper-yelp", (200, 1000), 30, (1e-4, 1e-4, 1e-2), 0.3, 3),
        ("paper-amazon-book", (200, 1000), 50, (1e-2, 1e-4, 1e-3), 0.5, 2),
    ):
        config = PRESETS[name]
        assert (config.hidden, config.steps, config.sampling_steps) == (hidden, steps, steps)
        assert (config.noise_scale, config.noise_min, config.noise_max) == noise
        assert (config.reconstruction, config.layers) == (alpha, layers)
        assert (config.omega, config.training_omega) == (0.05, 0.05)
        assert (config.noise, config.schedule) == ("directional", "linear-var")
        with warnings.catch_warnings(record=True) as warned:
            denoiser = HDRM(3, 4, config.replace(dim=8)).denoisers["user"]
        degenerate = ["49 of 50 reverse steps" in str(w.message) for w in warned]
        assert degenerate == ([True] if name == "paper" else [])
        assert denoiser.layers[-1].weight.any(), "Xavier, not zero: the output is ẑ_0 itself"
    with pytest.raises(ValueError, match="training_omega = 0.5 needs conditioning = pair"):
        Config(training_omega=0.5)


# Whole trainings.

SHORT = PRESETS["paper"].replace(
    dim=9,
    hidden=(12, 16),
    encoder_epochs=6,
    encoder_batch=300,
    encoder_lr=0.02,
    diffusion_epochs=4,
    diffusion_batch=300,
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    generator = np.random.default_rng(0)
    same_group = np.arange(120)[:, None] % 4 == np.arange(60) % 4
    pairs = np.argwhere(generator.random(same_group.shape) < np.where(same_group, 0.5, 0.03))
    return Dataset.from_pairs("tiny", 120, 60, *per_user(pairs, 0))


def train(dataset, run, config=SHORT, **options):
    return Trainer(dataset, config, run, source="tiny", **options).fit()


def log_of(result) -> list[dict]:
    lines = (result.run / "metrics.jsonl").read_text().splitlines()
    left_out = ("seconds", "source", "loss")
    return [{k: v for k, v in json.loads(line).items() if k not in left_out} for line in lines]


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    return train(dataset, tmp_path_factory.mktemp("run") / "a")


@pytest.mark.filterwarnings("ignore:the schedule")
class TestRuns:
    def test_the_same_seed_gives_the_same_digits(self, dataset, trained, tmp_path):
        again = train(dataset, tmp_path / "again")
        assert log_of(again) == log_of(trained) and again.test == trained.test
        other = train(dataset, tmp_path / "other", SHORT.replace(seed=1))
        assert log_of(other) != log_of(trained)
        loaded = HDRM.load(trained.run)
        assert evaluate_split(loaded, dataset, "test") == trained.test

    def test_a_fixed_omega_is_kept_whatever_it_costs(self, dataset, trained, tmp_path):
        stages = [(record["stage"], record["omega"]) for record in log_of(trained)]
        assert set(stages) == {("encoder", 0.0), ("diffusion", 0.05)}
        assert float(trained.model.omega) == 0.05
        useless = SHORT.replace(omega=1.0, training_omega=1.0, diffusion_lr=1e-9)
        result = train(dataset, tmp_path / "run", useless)
        assert float(result.model.omega) == 1.0
        valid = evaluate_split(result.model, dataset, "valid")
        assert valid["hdrm"]["ndcg@20"] < valid["encoder"]["ndcg@20"]

    @pytest.mark.parametrize("tables", ["frozen", "joint"])
    def test_a_run_lends_its_encoder(self, dataset, tmp_path, tables):
        """Both stages, and the second alone on the first one's encoder, come to the same."""
        config = SHORT.replace(tables=tables, encoder_momentum=0.0)
        whole = train(dataset, tmp_path / "whole", config)
        encoder = train(dataset, tmp_path / "encoder", config.replace(diffusion_epochs=0))
        assert float(encoder.model.omega) == 0
        lent = train(dataset, tmp_path / "lent", config, encoder=encoder.run)
        assert lent.test == whole.test
        second_stage = [r for r in log_of(whole) if r["stage"] == "diffusion"]
        assert log_of(lent)[1:] == second_stage
        assert log_of(lent)[0]["epoch"] == 0 and log_of(lent)[0]["stage"] == "encoder"
        if tables == "frozen":
            for kind in ("encoder", "popularity"):
                assert lent.test[kind] == encoder.test[kind]

    def test_an_encoder_that_does_not_fit_is_refused_before_anything_is_written(
        self, dataset, trained, tmp_path
    ):
        run = tmp_path / "run"
        for changes, words in (
            ({"dim": 17}, "has dim = 9, expected 17; add --set dim=9"),
            ({"layers": 2}, "has layers = 3, expected 2"),
            ({"curvature": 2.0}, "has curvature = 1.0, expected 2.0"),
            ({"users": "items"}, "has users = table, expected items"),
        ):
            with pytest.raises(ValueError, match=words):
                train(dataset, run, SHORT.replace(**changes), encoder=trained.run)
        other = np.stack(dataset.train.pairs(), 1)[1:]
        valid, test = (np.stack(split.pairs(), 1) for split in (dataset.valid, dataset.test))
        changed = Dataset.from_pairs("other", 120, 60, other, valid, test)
        with pytest.raises(ValueError, match="was trained on other data than other"):
            train(changed, run, encoder=trained.run)
        with pytest.raises(FileNotFoundError, match="is not a run"):
            train(dataset, run, encoder=tmp_path / "nowhere")
        assert not run.exists()
