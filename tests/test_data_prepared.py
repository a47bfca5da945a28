"""A table becomes the data set that was asked for, and comes back from its folder unchanged."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from test_cli import QUICK, interactions
from test_data_loading import pairs, pairs_of, rows_of, write_lists
from test_movielens import archive_of, core_splits

from hdrm.data import load, writers
from hdrm.data.movielens import read_titles
from hdrm.data.preparation import SPLITS
from hdrm.data.writers import write_folder
from hdrm.report.titles import read_titles as report_titles

# user, item, rating, time: every reader has read some books, later ones are rated higher.
LOG = [(f"reader {u}", f"book {i:02}", 1 + i // 6, 100 * u + i) for u, i in interactions()]


def write_log(path, rows=LOG, columns=("user", "item", "rating", "time")):
    names = ("user", "item", "rating", "time")
    frame = pl.DataFrame(rows, schema=names, orient="row").select(columns)
    (frame.write_parquet if path.suffix == ".parquet" else frame.write_csv)(path)
    return path


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_min_rating(tmp_path, name):
    data = load(write_log(tmp_path / name), min_rating=3)
    assert rows_of(data) == {(user, item) for user, item, rating, _ in LOG if rating >= 3}
    dropped = sum(rating < 3 for _, _, rating, _ in LOG)
    assert f"{dropped:,} interactions rated below 3 were left out" in data.notes
    assert not any("ratings are ignored" in note for note in data.notes)
    headless = "\n".join(",".join(map(str, (u, i + 1, rating, 9))) for u, i, rating in
                         [(1, i, i % 5) for i in range(60)])  # fmt: skip
    (tmp_path / "bare.csv").write_text(headless)
    assert load(tmp_path / "bare.csv", min_rating=4).train.nnz == 9


def test_a_higher_rating_later_counts(tmp_path):
    rows = [("reader 0", "book 99", 1, 0), *LOG, ("reader 0", "book 99", 5, 99)]
    assert ("reader 0", "book 99") in rows_of(
        load(write_log(tmp_path / "a.csv", rows), min_rating=3)
    )


@pytest.mark.parametrize(
    ("rating", "message"),
    [("good", r"line 3: rating is not a number \(.*rating 'good'\)"), ("", "line 3: rating is not"),
     ("inf", "line 3: rating is not a number")],
)  # fmt: skip
def test_bad_ratings(tmp_path, rating, message):
    path = tmp_path / "a.csv"
    path.write_text(f"user,item,rating\n1,2,3\n1,3,{rating}\n")
    with pytest.raises(ValueError, match=message):
        load(path, min_rating=1)


def test_ratings_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="no rating column: expected one named rating"):
        load(write_log(tmp_path / "a.csv", columns=("user", "item")), min_rating=1)
    (tmp_path / "b.csv").write_text("1,2,900\n2,3,901\n")
    with pytest.raises(ValueError, match="without a header there must be four columns"):
        load(tmp_path / "b.csv", min_rating=1)
    pl.DataFrame({"user": [1], "item": [2], "rating": [True]}).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="column rating holds Boolean, not numbers"):
        load(tmp_path / "c.parquet", min_rating=1)


def test_k_core_drops_labels(tmp_path):
    rows = [*LOG, ("passer-by", "book 01", 5, 1), ("reader 0", "leaflet", 5, 2)]
    data = load(write_log(tmp_path / "a.csv", rows), k_core=3)
    assert rows_of(data) == {row[:2] for row in LOG}
    assert "passer-by" not in data.user_labels and "leaflet" not in data.item_labels
    assert "2 interactions outside the 3-core were left out" in data.notes
    with pytest.raises(ValueError, match="a.csv: nothing is left: .* outside the 31-core"):
        load(tmp_path / "a.csv", k_core=31)


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_keeps_all(tmp_path, split):
    data = load(write_log(tmp_path / "a.csv"), split=split)
    assert rows_of(data) == {row[:2] for row in LOG}
    assert any(SPLITS[split] in note for note in data.notes)


def times_of(data) -> dict[str, dict[str, list[int]]]:
    """The times of each user's interactions, by split."""
    when = {row[:2]: row[3] for row in LOG}
    found = {user: {name: [] for name in data.splits} for user in data.user_labels}
    for name, split in data.splits.items():
        for u, i in pairs_of(split):
            user = data.user_labels[u]
            found[user][name].append(when[user, data.item_labels[i]])
    return found


@pytest.mark.parametrize(
    ("split", "order"),
    [
        ("time", ("train", "valid", "test")),
        ("published", ("train", "test", "valid")),
        ("leave-one-out", ("train", "valid", "test")),
    ],
)
def test_the_order_of_splits_by_time(tmp_path, split, order):
    shuffled = np.random.default_rng(0).permutation(len(LOG))
    data = load(write_log(tmp_path / "a.csv", [LOG[at] for at in shuffled]), split=split)
    for times in times_of(data).values():
        row = [sorted(times[name]) for name in order]
        joined = [time for part in row for time in part]
        assert joined == sorted(joined) and len(row[0]) > 0
        assert split != "leave-one-out" or [len(part) for part in row[1:]] == [1, 1]


def test_global_time(tmp_path):
    found = times_of(load(write_log(tmp_path / "a.csv", LOG[::-1]), split="global-time"))
    train, valid, test = ([t for times in found.values() for t in times[name]]
                          for name in ("train", "valid", "test"))  # fmt: skip
    assert max(train) < min(valid) and max(valid) < min(test)


def test_splits_without_times(tmp_path):
    path = write_log(tmp_path / "a.csv", columns=("user", "item"))
    for split in ("time", "global-time", "published"):
        with pytest.raises(ValueError, match=f"a.csv: there are no times; split '{split}'"):
            load(path, split=split)
    first, again, other = (load(path, split="leave-one-out", seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.notes[-1].endswith("before validates, seed 0")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"split": "by moon"}, "split must be time, .*got 'by moon'"), ({"k_core": 0}, "at least 1"),
     ({"min_rating": float("nan")}, "finite number, got nan")],
)  # fmt: skip
def test_refused_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(write_log(tmp_path / "a.csv"), **options)


def test_a_given_split_is_not_prepared(tmp_path):
    lists = write_lists(tmp_path / "mine", train=pairs((0, 0)), valid=pairs((0, 1)),
                        test=pairs((0, 2)))  # fmt: skip
    for source in (lists, "demo"):
        with pytest.raises(
            ValueError, match="no file of interactions, and min_rating, k_core cannot"
        ):
            load(source, min_rating=3, k_core=2)


@pytest.mark.parametrize("kind", ["strings", "numbers", "no labels"])
def test_a_folder_comes_back(tmp_path, kind):
    if kind == "no labels":
        data = load("demo")
    else:
        rows = LOG if kind == "strings" else [(int(row[0][7:]) + 10, int(row[1][5:]) * 3, *row[2:])
                                              for row in LOG]  # fmt: skip
        data = load(write_log(tmp_path / "a.csv", rows))
    write_folder(data, tmp_path / "new" / "folder")
    again = load(tmp_path / "new" / "folder")
    assert again.name == "folder" and again.fingerprint() == data.fingerprint()
    for side in ("user_labels", "item_labels"):
        before, after = getattr(data, side), getattr(again, side)
        assert type(before) is type(after)
        assert after is None if kind == "no labels" else list(before) == list(after)
    description = json.loads((tmp_path / "new" / "folder" / "dataset.json").read_text())
    assert description["fingerprint"] == data.fingerprint()
    assert description["notes"] == list(data.notes)


def test_titles_are_those_of_the_items_kept(tmp_path):
    archive = archive_of(tmp_path / "ml-1m.zip", core_splits())
    data = load("ml-1m", archive=archive)
    titles = {item: f'"Film", {item}' for item in range(200)}
    write_folder(data, tmp_path / "out", titles)
    table = pl.read_csv(tmp_path / "out" / "titles.csv")
    assert table["item"].to_list() == list(data.item_labels)
    assert table["title"].to_list() == [titles[item] for item in data.item_labels]
    names = {str(item): titles[item] for item in data.item_labels}
    assert report_titles(tmp_path / "out" / "titles.csv") == names, "hdrm report reads them"
    assert read_titles("ml-1m", archive)[20] == "Brazil (1985)"


def test_nothing_is_left_of_a_folder_that_fails(tmp_path, monkeypatch):
    data = load("demo")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(
        FileExistsError, match="full is not empty; name another folder for the data"
    ):
        write_folder(data, tmp_path / "full")
    monkeypatch.setattr(writers, "_write_json", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_folder(data, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "labels.json is not an object with lists"),
        ("[1]", "labels.json is not an object"),
        ('{"users": [1, 2, 3]}', "labels.json is not an object"),
        ('{"users": [1, 2, 3], "items": 3}', "labels.json: expected lists of distinct"),
        ('{"users": [1, 2, 2], "items": [1, 2, 3]}', "labels.json: expected lists of distinct"),
        ('{"users": [1, "2", 3], "items": [1, 2, 3]}', "labels.json: expected lists of distinct"),
        ('{"users": [1, true, 3], "items": [1, 2, 3]}', "labels.json: expected lists of distinct"),
        ('{"users": [1, 2, 9223372036854775808], "items": [1, 2, 3]}', "does not fit int64"),
        ('{"users": [1, 2, 3], "items": [1, 2]}', "has 2 items, and the lists have 3; prepare"),
        ("[" * 100_000, "labels.json is not an object"),
    ],
)
def test_damaged_labels(tmp_path, text, message):
    lists = {name: pairs((at, at)) for at, name in enumerate(("train", "valid", "test"))}
    folder = write_lists(tmp_path / "mine", **lists)
    (folder / "labels.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_prepare_train_and_recommend(command, tmp_path):
    write_log(tmp_path / "log.csv")
    options = ("--min-rating", "2", "--k-core", "3", "--split", "leave-one-out", "-o", "loans")
    code, out, err = command("data", "log.csv", *options)
    assert code == 0, err
    assert "leave" not in err and "rated below 2" in out and "written: loans" in out
    assert command("train", "loans", "--out", "kept", *QUICK)[0] == 0
    code, out, _ = command("recommend", "kept", "--user", "reader 7", "-k", "3")
    assert code == 0 and out.count("book ") == 3
    code, _, err = command("data", "log.csv", "-o", "loans")
    assert code == 2 and "loans is not empty" in err


def test_data_of_an_archive(command, tmp_path):
    archive_of(tmp_path / "ml-1m.zip", core_splits())
    code, out, _ = command("data", "ml-1m", "--from", "ml-1m.zip", "-o", "ml-1m_clean")
    assert code == 0 and "rated below 4" in out and "outside the 10-core" in out
    names = sorted(path.name for path in (tmp_path / "ml-1m_clean").iterdir())
    assert names == ["dataset.json", "labels.json", "test_list.npy", "titles.csv",
                     "train_list.npy", "valid_list.npy"]  # fmt: skip
    data = load(tmp_path / "ml-1m_clean")
    for name, expected in core_splits().items():
        assert data.splits[name].nnz == len(expected)
    code, _, err = command("data", "ml-20m", "--from", "ml-1m.zip")
    assert code == 2 and "expected ml-20m/ratings.csv" in err and err.count("\n") == 1


def test_data_prints_a_summary(command):
    code, out, _ = command("data", "demo")
    assert code == 0
    for words in ("2,000 users × 1,500 items", "density", "2.000%", "Gini", "α = ", "δ_rel",
                  "measure it"):  # fmt: skip
        assert words in out
    code, _, err = command("data", "demo", "--k-core", "5")
    assert code == 2 and "k_core cannot be applied" in err and err.count("\n") == 1


def test_labels_are_numbers_of_numpy_or_strings(tmp_path):
    write_folder(load(write_log(tmp_path / "a.csv", [(1, 2 * i, 3, i) for i in range(20)])),
                 tmp_path / "out")  # fmt: skip
    data = load(tmp_path / "out")
    assert data.item_labels.dtype == np.int64 and data.item_labels.tolist() == [*range(0, 40, 2)]
