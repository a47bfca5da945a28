"""Both stages on a small generated data set: they learn, repeat, stop and leave nothing half."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import hdrm
from hdrm.config import Config
from hdrm.data import Dataset
from hdrm.data.splits import per_user
from hdrm.train import Trainer, evaluate_split
from hdrm.train.average import Average
from hdrm.train.batches import Batches
from hdrm.train.stages import DiffusionStage
from hdrm.train.trainer import CRITERION, Observer

CONFIG = Config(
    dim=17,
    hidden=(20, 30),
    steps=8,
    encoder_negatives=4,
    sampling_steps=2,
    folds=3,
    averaging=0.9,
    encoder_epochs=16,
    encoder_batch=600,
    encoder_lr=0.01,
    diffusion_epochs=4,
    diffusion_batch=600,
    eval_steps=6,
    patience=8,
)
NUM_USERS, NUM_ITEMS = 160, 100


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Four groups of users, each with items of its own that it takes half of, and a few others."""
    generator = np.random.default_rng(0)
    same_group = np.arange(NUM_USERS)[:, None] % 4 == np.arange(NUM_ITEMS) % 4
    pairs = np.argwhere(generator.random(same_group.shape) < np.where(same_group, 0.5, 0.03))
    return Dataset.from_pairs("tiny", NUM_USERS, NUM_ITEMS, *per_user(pairs, 0))


def train(dataset, run, config=CONFIG, observer=None):
    return Trainer(dataset, config, run, source="tiny", observer=observer).fit()


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    return train(dataset, tmp_path_factory.mktemp("run") / "a")


def pairs_of(csr) -> set[tuple[int, int]]:
    return set(zip(*(ids.tolist() for ids in csr.pairs())))


def log_of(result) -> list[dict]:
    lines = (result.run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_training_beats_popularity(trained):
    test = trained.test
    assert test["hdrm"]["ndcg@20"] > 1.3 * test["popularity"]["ndcg@20"]
    assert test["hdrm"]["recall@20"] > 1.3 * test["popularity"]["recall@20"]


def test_the_second_stage_is_never_worse_on_validation(dataset, trained):
    valid = evaluate_split(trained.model, dataset, "valid")
    assert valid["hdrm"][CRITERION] >= valid["encoder"][CRITERION]
    best = max(record[CRITERION] for record in log_of(trained))
    assert valid["hdrm"][CRITERION] == best


def test_a_run_folder_is_complete(dataset, trained):
    names = {path.name for path in trained.run.iterdir()}
    described = {"config.json", "dataset.json", "train.log"}
    assert names == described | {"model.safetensors", "metrics.jsonl", "report.json"}
    assert Config.from_json((trained.run / "config.json").read_text()) == CONFIG
    description = json.loads((trained.run / "dataset.json").read_text())
    assert description["fingerprint"] == dataset.fingerprint()
    assert json.loads((trained.run / "report.json").read_text()) == trained.test
    stages = [record["stage"] for record in log_of(trained)]
    assert stages.count("encoder") == 8 and stages.count("diffusion") == 2


def test_a_loaded_run_recommends_as_the_trained_model(trained):
    users = torch.arange(NUM_USERS)
    loaded = hdrm.HDRM.load(trained.run)
    for found, expected in zip(loaded.recommend(users, 10), trained.model.recommend(users, 10)):
        assert torch.equal(found, expected)
    seen = trained.model.graph.user_items
    for user in range(0, NUM_USERS, 17):
        assert not set(loaded.recommend(user, 10)[0][0].tolist()) & set(seen.row(user).tolist())


def test_the_same_seed_gives_the_same_digits(dataset, trained, tmp_path):
    again = train(dataset, tmp_path / "again")
    assert log_of(again) == log_of(trained) and again.test == trained.test
    short = CONFIG.replace(seed=1, encoder_epochs=2, diffusion_epochs=0)
    assert log_of(train(dataset, tmp_path / "other", short))[0] != log_of(trained)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"tables": "joint"},
        {"noise": "isotropic", "predict": "eps", "noise_max": 0.05},
        {
            "pairs": "interactions",
            "encoder_negatives": 1,
            "diffusion_negatives": 3,
            "schedule": "cosine",
            "curvature": 2.0,
        },
        {"sampling_steps": 3, "sampling_noise": True, "omega": 0.3, "growth": 0.1},
        {"step_sampling": "importance", "steps": 4, "sampling_steps": 4},
        {"propagation": "sampled", "fanouts": (4, 2, 2), "micro_batches": 3},
        {"propagation": "sampled", "tables_on": "host", "tables": "joint", "encoder_momentum": 0},
    ],
)
def test_the_options_train(dataset, tmp_path, changes):
    config = CONFIG.replace(encoder_epochs=4, diffusion_epochs=2, **changes)
    result = train(dataset, tmp_path / "run", config)
    assert result.test["hdrm"]["ndcg@20"] > result.test["popularity"]["ndcg@20"]
    if "omega" in changes:
        assert log_of(result)[-1]["omega"] == 0.3


def test_joint_training_moves_the_table_and_frozen_does_not(dataset, tmp_path):
    moved = {}
    for tables in ("joint", "frozen"):
        config = CONFIG.replace(tables=tables, diffusion_batch=5_000, folds=2)
        model = Trainer(dataset, config, tmp_path / tables, source="tiny").model
        stage = DiffusionStage(model, config)
        before = model.encoder.table.detach().clone()
        stage.begin_epoch(1)
        stage.step(0)
        moved[tables] = not torch.equal(model.encoder.table, before)
    assert moved == {"joint": True, "frozen": False}


def test_the_positives_of_stage_2_are_not_in_its_graph(dataset, tmp_path):
    model = Trainer(dataset, CONFIG, tmp_path / "run", source="tiny").model
    stage = DiffusionStage(model, CONFIG)
    entered, enter = [], stage._vectors.enter
    stage._vectors.enter = lambda graph: enter(entered.append(graph) or graph)
    stage.begin_epoch(1)
    hidden = set()
    for step in range(stage.steps_per_epoch):
        stage.step(step)
        graph = entered[-1].user_items
        users, positives, _ = stage._batches.batch(step)
        for user, item in zip(users.tolist(), positives.tolist()):
            assert item not in graph.row(user).tolist()
        for user in range(NUM_USERS):
            missing = set(model.graph.user_items.row(user).tolist()) - set(graph.row(user).tolist())
            hidden |= {(user, item) for item in missing}
    assert hidden == pairs_of(dataset.train), "every edge is hidden once"


def test_every_epoch_has_folds_of_its_own_and_a_seed_repeats_them(dataset, tmp_path):
    def positives(seed, epoch, fold=1):
        config = CONFIG.replace(seed=seed)
        model = Trainer(dataset, config, tmp_path / "run", source="tiny").model
        stage = DiffusionStage(model, config)
        stage.begin_epoch(epoch)
        stage.step((epoch - 1) * stage.steps_per_epoch + fold * stage.steps_per_epoch // 3)
        return pairs_of(stage._batches._positives)

    first = positives(0, 1)
    assert abs(len(first) - dataset.train.nnz / 3) < 5 * math.sqrt(dataset.train.nnz)
    assert positives(0, 1) == first
    assert positives(0, 2) != first and positives(1, 1) != first
    assert not positives(0, 1, fold=2) & first


def test_few_interactions_make_few_folds(tmp_path):
    """A fold without an edge would have nothing to learn from."""
    pairs = np.argwhere(np.ones((5, 9), dtype=bool))
    small = Dataset.from_pairs("small", 5, 20, pairs, pairs[:5] + [0, 9], pairs[:5] + [0, 10])
    result = train(small, tmp_path / "run", CONFIG.replace(folds=45, diffusion_epochs=1))
    stage = DiffusionStage(result.model, CONFIG.replace(folds=45))
    assert stage.steps_per_epoch == 2


class Interrupting(Observer):
    """Presses Ctrl-C at the n-th step."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 30, 55])  # before any validation, in stage 1, in stage 2
def test_an_interrupted_run_is_usable(dataset, tmp_path, at):
    result = train(dataset, tmp_path / "run", observer=Interrupting(at))
    assert result.interrupted and not result.test
    loaded = hdrm.HDRM.load(result.run)
    assert torch.equal(loaded.recommend([3], 5)[0], result.model.recommend([3], 5)[0])
    valid = evaluate_split(loaded, dataset, "valid")
    if at > 1:
        assert valid["hdrm"][CRITERION] == max(r[CRITERION] for r in log_of(result))


def test_an_infinite_loss_ends_the_run_and_leaves_nothing(dataset, tmp_path):
    config = CONFIG.replace(encoder_lr=1e30)
    with pytest.raises(RuntimeError, match="lower encoder_lr"):
        train(dataset, tmp_path / "runs" / "a", config)
    assert not any(tmp_path.iterdir())


def test_occupied_folders_are_refused(dataset, tmp_path):
    (tmp_path / "file").touch()
    for run in (tmp_path, tmp_path / "file"):
        with pytest.raises(FileExistsError, match="name another folder|name a folder"):
            Trainer(dataset, CONFIG, run, source="tiny")


def test_early_stopping_counts_from_the_start(dataset, tmp_path):
    config = CONFIG.replace(encoder_lr=1e-9, patience=2, diffusion_epochs=0)
    result = train(dataset, tmp_path / "run", config)
    records = log_of(result)
    best = max(range(len(records)), key=lambda i: records[i][CRITERION])
    assert len(records) == best + 3 < 8


def test_batches_are_a_function_of_seed_and_step(dataset):
    seen, known = dataset.train, pairs_of(dataset.train)
    for by_user in (True, False):
        a, b = (Batches(seen, seen, 64, 5, 7, by_user=by_user) for _ in range(2))
        b.batch(9)
        for found, expected in zip(a.batch(3), b.batch(3)):
            assert torch.equal(found, expected)
        assert not torch.equal(a.batch(3)[0], a.batch(4)[0])
        users, positives, negatives = a.batch(0)
        assert negatives.shape == (64, 5)
        assert set(zip(users.tolist(), positives.tolist())) <= known
        drawn = zip(users.repeat_interleave(5).tolist(), negatives.flatten().tolist())
        assert not set(drawn) & known


def test_user_batches_draw_users_alike():
    """Users with 1 and 9 items come equally often (binomial, 5 standard deviations)."""
    pairs = np.array([[0, 0], *([1, item] for item in range(9))])
    seen = hdrm.CSR.from_pairs(*pairs.T, 2, 20)
    users, positives, _ = Batches(seen, seen, 4_000, 1, 0, by_user=True).batch(0)
    assert abs(int((users == 0).sum()) - 2_000) < 5 * math.sqrt(1_000)
    counts = torch.bincount(positives[users == 1], minlength=9)
    assert int(counts.min()) > 150


def test_users_who_have_seen_everything_are_left_out():
    pairs = np.array([[0, 0], [0, 1], [1, 0]])
    seen = hdrm.CSR.from_pairs(*pairs.T, 2, 2)
    users, _, negatives = Batches(seen, seen, 10, 3, 0, by_user=True).batch(0)
    assert users.unique().tolist() == [1] and negatives.unique().tolist() == [1]
    full = hdrm.CSR.from_pairs([0, 0], [0, 1], 1, 2)
    with pytest.raises(ValueError, match="every user has seen every item"):
        Batches(full, full, 10, 3, 0, by_user=True)


def test_the_average_follows_its_formula_and_gives_the_weights_back():
    weight = torch.nn.Parameter(torch.zeros(2))
    average = Average([weight], decay=0.5)
    expected = 0.0
    for n in range(1, 20):
        with torch.no_grad():
            weight.fill_(n)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    with average.applied():
        assert weight.tolist() == pytest.approx([expected] * 2)
    assert weight.tolist() == [19.0, 19.0]
