"""Ranking with a trained model: new users, similar items, batches in files, ids in and out."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import polars as pl
import pytest
import torch

import hdrm
from hdrm import CSR, BipartiteGraph, ops
from hdrm.config import Config
from hdrm.data import Dataset
from hdrm.export import write_lists
from hdrm.train import Trainer, runs

USERS, ITEMS, DIM = 30, 20, 9
CONFIG = Config(dim=DIM, hidden=(12,), steps=6, sampling_steps=2, layers=3, curvature=0.7)


def interactions() -> np.ndarray:
    """The last user and the last item have none."""
    return np.argwhere(np.random.default_rng(0).random((USERS - 1, ITEMS - 1)) < 0.3)


def make_model(
    config: Config = CONFIG, *, omega: float = 0.0, pairs: np.ndarray | None = None
) -> hdrm.HDRM:
    """Random weights in float64."""
    torch.manual_seed(1)
    model = hdrm.HDRM(USERS, ITEMS, config).double()
    pairs = interactions() if pairs is None else pairs
    model.set_graph(BipartiteGraph.from_interactions(*pairs.T, USERS, ITEMS))
    torch.manual_seed(2)
    for parameter in model.denoisers.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    model.set_statistics()
    model.omega.fill_(omega)
    return model.eval()


def items_of(pairs: np.ndarray, user: int) -> list[int]:
    return pairs[pairs[:, 0] == user][:, 1].tolist()


def received(model: hdrm.HDRM, items: list[int]) -> torch.Tensor:
    """h_v of a node that receives from ``items`` and does not send, by a dense matrix with its row."""
    users, own = model.graph.user_items.pairs()
    nodes = USERS + ITEMS
    a = torch.zeros(nodes + 1, nodes + 1, dtype=torch.float64)
    a[users, USERS + own] = a[USERS + own, users] = 1
    a[nodes, USERS + torch.tensor(items, dtype=torch.int64)] = 1
    a += torch.eye(nodes + 1)
    a /= a.sum(1, keepdim=True)
    h = torch.zeros(nodes + 1, DIM, dtype=torch.float64)
    h[model.encoder.at_origin : nodes] = ops.logmap0(
        model.encoder.table.detach(), c=model.config.curvature
    )
    total = torch.zeros(DIM, dtype=torch.float64)
    for _ in range(model.config.layers):
        h = a @ h
        total += h[nodes]
    return total


@pytest.mark.parametrize("users", ["table", "items"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_new_user_receives_and_does_not_send(users, layers):
    """A user who is taken out of the graph and folded in, others with one item and with all."""
    pairs = interactions()
    model = make_model(CONFIG.replace(users=users, layers=layers), pairs=pairs[pairs[:, 0] != 4])
    histories = [items_of(pairs, 4), [7], list(range(ITEMS))]
    expected = torch.stack([received(model, items) for items in histories])
    found = ops.logmap0(model.fold_in(histories), c=0.7)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("omega", [0.0, 0.4])
@pytest.mark.parametrize("users", ["table", "items", "mean"])
def test_a_user_of_the_training_folded_in_again(users, omega):
    """Equal to the user's own point, but for what a row of its own adds."""
    pairs, config = interactions(), CONFIG.replace(users=users)
    model = make_model(config, omega=omega)
    histories = [items_of(pairs, user) for user in range(USERS - 1)]
    h = model.encoder(model.graph)
    own = h[: USERS - 1]
    if users == "table":
        table = ops.logmap0(model.encoder.table[: USERS - 1].detach(), c=0.7)
        n = torch.tensor([[len(items)] for items in histories], dtype=torch.float64)
        own = own - (1 - (n + 1) ** -config.layers) / n * table
        history = model.user_inputs(h, model.graph)[1][: USERS - 1]
        expected = torch.lerp(own, model.generate_from(own, history), omega)
        torch.testing.assert_close(model.fold_in(histories), ops.expmap0(expected, c=0.7))
    else:
        torch.testing.assert_close(model.fold_in(histories), model.points()[0][: USERS - 1])


def test_without_items_a_new_user_is_at_the_origin():
    points = make_model().fold_in([[], [3]])
    assert ops.logmap0(points, c=0.7).abs().sum(1).gt(0).tolist() == [False, True]
    distances = make_model().recommend_for([[]], ITEMS)[1]
    radius = ops.logmap0(make_model().points()[1], c=0.7).norm(dim=1)
    torch.testing.assert_close(distances[0], radius.sort().values)
    assert make_model().fold_in([]).shape == (0, DIM)
    assert make_model().recommend_for([], 5)[0].shape == (0, 5)


def test_lists_arrays_and_matrices_of_items_are_one_thing():
    model = make_model(omega=0.3)
    expected = model.fold_in([[1, 5, 9], [], [2]])
    matrix = CSR.from_pairs([0, 0, 0, 2], [9, 1, 5, 2], 3, ITEMS)
    view = CSR(torch.tensor([2, 5, 5, 6]), torch.tensor([0, 0, 4, 8, 12, 5]).int(), ITEMS, 3)
    for items in (
        [[9, 1, 5, 5, 1], [], [2, 2]],
        [np.array([5, 9, 1]), np.array([]), torch.tensor([2])],
        matrix,
        view,
    ):
        assert torch.equal(model.fold_in(items), expected)
    assert not expected.requires_grad


def test_recommendations_for_new_users_are_the_nearest_other_items():
    model = make_model(omega=0.3)
    histories = [[1, 5, 9], [], list(range(2, ITEMS))]
    found, distances = model.recommend_for(histories, 4)
    assert found.dtype == torch.int64 and found.shape == distances.shape == (3, 4)
    for user, items in enumerate(histories):
        point = model.fold_in(histories)[user]
        lengths = ops.distance(point.expand(ITEMS, -1), model.points()[1], c=0.7)
        lengths[items] = torch.inf
        expected, order = lengths.sort(stable=True)
        order[expected == torch.inf] = -1
        assert found[user].tolist() == order[:4].tolist()
        torch.testing.assert_close(distances[user], expected[:4])
    assert found[2, 2:].tolist() == [-1, -1] and distances[2, 2:].tolist() == [torch.inf] * 2


def test_new_users_in_blocks_are_those_in_one(monkeypatch):
    model = make_model(CONFIG.replace(sampling_noise=True), omega=0.5)
    histories = [items_of(interactions(), user) for user in range(USERS)]
    monkeypatch.setattr("hdrm.model.hdrm.BLOCK", 7)
    points = model.fold_in(histories)
    assert torch.equal(model.fold_in(histories), points)
    seen = CSR.from_pairs(*interactions().T, USERS, ITEMS)
    expected = ops.topk(points, model.points()[1], 5, exclude=seen, c=0.7)
    for block in (7, 14, 100):
        monkeypatch.setattr("hdrm.model.serving.BLOCK", block)
        found, distances = model.recommend_for(seen, 5)
        assert torch.equal(found, expected[1])
        torch.testing.assert_close(distances, expected[0])


def test_rounds_are_those_of_a_table_on_the_host_and_of_exact_work_tables():
    expected = make_model().fold_in([[1, 2], [3]])
    for changes in ({"tables_on": "host"}, {"work_tables": "bfloat16"}):
        torch.manual_seed(1)
        model = hdrm.HDRM(USERS, ITEMS, CONFIG.replace(**changes))
        model.set_graph(BipartiteGraph.from_interactions(*interactions().T, USERS, ITEMS))
        found = model.eval().fold_in([[1, 2], [3]])
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)


def test_what_is_kept_follows_weights_and_graph():
    model = make_model()
    before = model.fold_in([[1, 2]])
    with torch.no_grad():
        model.train().encoder.table.copy_(ops.expmap0(torch.randn(USERS + ITEMS, DIM), c=0.7))
    moved = model.eval().fold_in([[1, 2]])
    assert not torch.allclose(moved, before)
    model.set_graph(BipartiteGraph.from_interactions([0], [1], USERS, ITEMS))
    assert not torch.allclose(model.fold_in([[1, 2]]), moved)


def test_similar_items_are_the_nearest_others():
    model = make_model()
    points = model.points()[1]
    found, distances = model.similar_items([4, 0, 4], ITEMS)
    for row, item in enumerate([4, 0, 4]):
        lengths = ops.distance(points[item].expand_as(points), points, c=0.7)
        lengths[item] = torch.inf
        expected, order = lengths.sort(stable=True)
        assert found[row].tolist() == [*order[:-1].tolist(), -1]
        torch.testing.assert_close(distances[row], expected)
    assert torch.equal(model.similar_items(4, 3)[0], found[:1, :3])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.fold_in([1, 5]), TypeError, r"such as \[\[1, 5, 9\]\] for one user"),
        (lambda m: m.fold_in("15"), TypeError, "a list of item ids for every user"),
        (lambda m: m.fold_in(torch.tensor([1, 5])), TypeError, "a list of item ids for every user"),
        (lambda m: m.fold_in([[1, [5]]]), TypeError, "a list of item ids for every user"),
        (lambda m: m.fold_in([["a"]]), TypeError, "items must be integer ids, got ndarray"),
        (
            lambda m: m.fold_in([[0.5]]),
            TypeError,
            "items must be .* integer ids, got torch.float64",
        ),
        (lambda m: m.fold_in([[ITEMS]]), ValueError, "items must be in 0 … 19, got 20 … 20"),
        (lambda m: m.fold_in([[0], [-1]]), ValueError, "items must be in 0 … 19, got -1 … 0"),
        (
            lambda m: m.fold_in(CSR.from_pairs([0], [0], 1, 3)),
            ValueError,
            "items has 3 columns, the model 20 items",
        ),
        (lambda m: m.recommend_for([[1]], 0), ValueError, "k must be in 1 … 20"),
        (lambda m: m.similar_items(ITEMS), ValueError, "items must be in 0 … 19, got 20"),
        (lambda m: m.similar_items([0.5]), TypeError, "items must be one-dimensional integer ids"),
        (lambda m: m.similar_items("book"), TypeError, "items must be integer ids, got str"),
        (lambda m: m.train().fold_in([[1]]), RuntimeError, "eval"),
        (lambda m: m.train().similar_items([1]), RuntimeError, "eval"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(make_model())


# Files and the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> runs.Run:
    """A trained run whose ids are texts."""
    pairs = np.argwhere(np.random.default_rng(0).random((40, 30)) < 0.3).astype(np.int64)
    data = Dataset.from_pairs(
        "tiny", 40, 30, pairs[::2], pairs[1::4], pairs[3::4],
        [f"reader-{u}" for u in range(40)], [f"book, vol. {i}" for i in range(30)],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "kept"
    config = CONFIG.replace(encoder_epochs=2, diffusion_epochs=0, encoder_batch=200)
    Trainer(data, config, folder, source="demo").fit()
    return runs.Run.open(folder)


def expected_rows(run, users, k):
    items, distances = run.model.recommend(users, k)
    return [
        (f"reader-{user}", rank, f"book, vol. {item}", pytest.approx(distance, rel=1e-5))
        for user, row, lengths in zip(users, items.tolist(), distances.tolist())
        for rank, (item, distance) in enumerate(zip(row, lengths), 1)
        if item >= 0
    ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_lists_of_all_users(run, command, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("hdrm.export.lists.BLOCK", 7)
    code, out, _ = command("recommend", run.folder, "--all", "-k", "25", "-o", f"new/all{suffix}")
    assert code == 0 and "up to 25 items of 40 users" in out
    read = pl.read_csv if suffix == ".csv" else pl.read_parquet
    table = read(tmp_path / "new" / f"all{suffix}")
    assert table.columns == ["user", "rank", "item", "distance"]
    expected = expected_rows(run, list(range(40)), 25)
    assert len(expected) < 40 * 25, "some users have fewer items left"
    assert table.rows() == expected
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"all{suffix}"]


def test_lists_of_some_users_in_their_order(run, command, tmp_path):
    (tmp_path / "users.txt").write_text("\ufeffreader-7\n\n reader-3 \r\n", encoding="utf-8")
    code, *_ = command("recommend", run.folder, "--users-file", "users.txt", "-k", 3, "-o", "a.csv")
    assert code == 0
    assert pl.read_csv(tmp_path / "a.csv").rows() == expected_rows(run, [7, 3], 3)
    assert command("recommend", run.folder, "--user", "reader-7", "-k", 3, "-o", "b.csv")[0] == 0
    assert pl.read_csv(tmp_path / "b.csv").rows() == expected_rows(run, [7], 3)


def test_lists_without_labels_have_the_numbers(run, tmp_path):
    assert write_lists(run.model, [5], 2, tmp_path / "a.csv") == 1
    items = run.model.recommend([5], 2)[0]
    rows = pl.read_csv(tmp_path / "a.csv").rows()
    assert [row[:3] for row in rows] == [(5, 1, int(items[0, 0])), (5, 2, int(items[0, 1]))]
    with pytest.raises(ValueError, match=r"a .csv or .parquet file, got a.json"):
        write_lists(run.model, [5], 2, tmp_path / "a.json")
    with pytest.raises(ValueError, match="k must be in 1 … 30"):
        write_lists(run.model, None, 31, tmp_path / "a.csv")
    assert pl.read_csv(tmp_path / "a.csv").rows() == rows, "the old file stays"


def test_a_table_that_cannot_be_written_leaves_the_old_one(run, tmp_path, monkeypatch):
    write_lists(run.model, [5], 2, tmp_path / "a.csv")
    before = (tmp_path / "a.csv").read_bytes()
    recommend, calls = run.model.recommend, []

    def fail_later(*args):
        calls.append(args)
        if len(calls) > 2:
            raise OSError("no space left")
        return recommend(*args)

    monkeypatch.setattr("hdrm.export.lists.BLOCK", 7)
    monkeypatch.setattr(run.model, "recommend", fail_later)
    with pytest.raises(OSError, match="no space left"):
        write_lists(run.model, None, 2, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_no_writer_comes_late_to_a_failed_table(run, tmp_path, monkeypatch, suffix):
    def fail(*args):
        raise OSError("lost")

    monkeypatch.setattr(run.model, "recommend", fail)
    for i in range(500):  # of which some left a temporary file while polars opened it itself
        with pytest.raises(OSError, match="lost"):
            write_lists(run.model, None, 2, tmp_path / f"{i}.{suffix}")
    time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_new_user_and_similar_items_from_the_command_line(run, command):
    items = '"book, vol. 3", "book, vol. 8"'
    code, out, _ = command("recommend", run.folder, "--items", items, "-k", "4")
    found, distances = run.model.recommend_for([[3, 8]], 4)
    assert code == 0
    for item, distance in zip(found[0].tolist(), distances[0].tolist()):
        assert f" book, vol. {item} " in out and f"{distance:.4f}" in out
    code, out, _ = command("similar", run.folder, "--item", "book, vol. 3", "-k", "4")
    assert code == 0 and "near item book, vol. 3" in out
    for item in run.model.similar_items(3, 4)[0][0].tolist():
        assert f" book, vol. {item} " in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--user", "raeder-7"], "knows no user 'raeder-7'; expected an id .*, such as 'reader-7'"),
        (["--items", "3"], "knows no item '3'; expected an id of the data"),
        (["--items", '"book, vol. 33"'], "such as 'book, vol. 3'"),
        (["--users-file", "absent.txt", "-o", "a.csv"], "absent.txt"),
        (["--users-file", "empty.txt", "-o", "a.csv"], "empty.txt holds no ids"),
        (["--users-file", "latin.txt", "-o", "a.csv"], "latin.txt is not a text of ids"),
        (["--users-file", "users.txt", "-o", "a.csv"], "knows no user 'nobody'"),
        (["--all", "-o", "a.json"], "must be a .csv or .parquet file, got a.json"),
        (["--all"], "--users-file and --all need -o FILE"),
        (["--items", "1", "-o", "a.csv"], "--items prints"),
        ([], "give one of --user, --items, --users-file and --all"),
        (["--all", "--user", "reader-7"], "give one of"),
        (["--all", "-o", "a.csv", "-k", "31"], "k must be in 1 … 30"),
    ],
)
def test_mistakes_are_one_line(run, command, tmp_path, args, words):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1"))
    (tmp_path / "users.txt").write_text("reader-7\nnobody\n")
    before = sorted(tmp_path.iterdir())
    code, _, err = command("recommend", run.folder, *args)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert re.search(words, err), err
    assert sorted(tmp_path.iterdir()) == before


def test_unknown_numbers_are_named(run, command, tmp_path):
    (run.folder / "labels.json").rename(tmp_path / "labels.json")
    try:
        assert command("recommend", run.folder, "--items", "3, 8")[0] == 0
        code, _, err = command("similar", run.folder, "--item", "30")
        assert code == 2 and "knows no item '30'; expected a number in 0 … 29" in err
    finally:
        (tmp_path / "labels.json").rename(run.folder / "labels.json")
    assert json.loads((run.folder / "labels.json").read_text())["users"][7] == "reader-7"
