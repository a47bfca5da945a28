"""Every format is read back exactly, and every kind of damage has one clear error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from hdrm import CSR
from hdrm.data import Dataset, load
from hdrm.data.graph_files import build_graph

REPOSITORY = Path(__file__).resolve().parents[1]


def write_lists(folder: Path, **splits) -> Path:
    folder.mkdir(exist_ok=True)
    for name, pairs in splits.items():
        np.save(folder / f"{name}_list.npy", pairs)
    return folder


def pairs(*rows) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def rows_of(dataset: Dataset) -> set:
    """All interactions under their original ids, as strings."""
    users, items = dataset.user_labels, dataset.item_labels
    every = [pair for split in dataset.splits.values() for pair in pairs_of(split)]
    return {(str(users[u]), str(items[i])) for u, i in every}


def pairs_of(split: CSR) -> list[list[int]]:
    """(user, item), sorted."""
    return torch.stack(split.pairs(), 1).tolist()


def counts(split: CSR) -> list[int]:
    """Interactions of each user up to the last that has any."""
    return np.trim_zeros(split.degrees.numpy(), "b").tolist()


TRAIN, VALID, TEST = pairs((0, 1), (1, 0), (2, 2)), pairs((0, 0)), pairs((1, 4), (0, 2))


def test_npy_lists_are_taken_as_they_are(tmp_path):
    folder = write_lists(tmp_path / "mine", train=TRAIN, valid=VALID, test=TEST.astype(np.uint16))
    data = load(folder)
    assert (data.name, data.num_users, data.num_items) == ("mine", 3, 5)
    for name, expected in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        assert pairs_of(data.splits[name]) == sorted(expected.tolist())
    assert data.user_labels is None
    (note,) = data.notes
    assert note.startswith("2 of 5 items have no training interactions")


def test_npy_repeats_are_dropped_with_a_note(tmp_path):
    folder = write_lists(tmp_path, train=TRAIN, valid=VALID, test=pairs((0, 1), (1, 4), (1, 4)))
    data = load(folder)
    assert pairs_of(data.test) == [[1, 4]] and "2 repeated interactions" in data.notes[0]


def test_npy_empty_validation_is_carved(tmp_path):
    train = pairs(*[(0, i) for i in range(20)])
    folder = write_lists(tmp_path, train=train, valid=pairs(), test=pairs((0, 20)))
    data = load(folder)
    assert data.valid.nnz == 2 and data.train.nnz == 18
    assert "no validation split" in data.notes[0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 3), np.int64), r"expected shape \(n, 2\).*\(3, 3\)"),
        (np.zeros(4, np.int64), r"\(4,\)"),
        (np.array([[0.0, np.nan]]), "float64 with NaN"),
        (np.array([[0.0, 1.0]]), "expected integer ids, got float64"),
        (np.zeros((1, 2), bool), "bool"),
        (np.array([[1, 2], [3, -4]]), r"negative id in row 1: \[3, -4\]"),
        (np.array([[0, 2**63]], np.uint64), "does not fit int64"),
        (np.array([[0, 2**40]]), "renumber"),
        (pairs(), "train split is empty"),
    ],
)
def test_npy_refuses(tmp_path, bad, message):
    folder = write_lists(tmp_path, train=bad, valid=VALID, test=TEST)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_npy_never_unpickles(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    folder = write_lists(tmp_path, valid=VALID, test=TEST)
    np.save(folder / "train_list.npy", np.array([[Bomb(), 1]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a readable .npy array of integers"):
        load(folder)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00"])
def test_npy_damaged_file(tmp_path, content):
    folder = write_lists(tmp_path, valid=VALID, test=TEST)
    (folder / "train_list.npy").write_bytes(content)
    with pytest.raises(ValueError, match="train_list.npy is not a readable") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_npy_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="test_list.npy is missing"):
        load(write_lists(tmp_path, train=TRAIN, valid=VALID))


def write_lightgcn(folder: Path, train: str, test: str) -> Path:
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    return folder


def test_lightgcn(tmp_path):
    train = "\n".join(f"{u} " + " ".join(str(10 * u + i) for i in range(10)) for u in range(3))
    data = load(write_lightgcn(tmp_path, train + "\n3\n", "0 29\n\n1 28\n4\n"))
    assert (data.num_users, data.num_items) == (5, 30)
    assert pairs_of(data.test) == [[0, 29], [1, 28]]
    assert counts(data.valid) == [1, 1, 1] and data.train.nnz == 27
    assert any(note.startswith("2 of 5 users have no training") for note in data.notes)
    again = load(tmp_path, seed=1)
    assert pairs_of(again.test) == pairs_of(data.test)
    assert again.fingerprint() != data.fingerprint() == load(tmp_path).fingerprint()


def test_lightgcn_uses_valid_txt(tmp_path):
    (tmp_path / "valid.txt").write_text("0 3\n")
    data = load(write_lightgcn(tmp_path, "0 1 2\n", "0 4\n"))
    assert pairs_of(data.valid) == [[0, 3]] and pairs_of(data.train) == [[0, 1], [0, 2]]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("0 1 2\n1 x 3\n", r"train.txt, line 2: expected integers .* got '1 x 3'"),
        ("0 1 2\n1 2.5\n", "line 2"),
        ("0 nan\n", "line 1"),
        ("0 1\n\n-1 3\n", "line 3: negative id -1"),
        ("0 1 -7\n", "line 1: negative id -7"),
        ("0 99999999999999999999\n", "line 1"),
        ("", "train split is empty"),
        ("0\n1\n", "train split is empty"),
    ],
)
def test_lightgcn_refuses(tmp_path, train, message):
    with pytest.raises(ValueError, match=message):
        load(write_lightgcn(tmp_path, train, "0 1\n"))


def test_lightgcn_missing_test(tmp_path):
    (tmp_path / "train.txt").write_text("0 1\n")
    with pytest.raises(FileNotFoundError, match="test.txt is missing"):
        load(tmp_path)


# 40 interactions of 4 users, every fifth line first in time.
LOG = [
    (f"{7 * u + 3}", f"{100 + i}", f"{(13 * (10 * u + i)) % 40}")
    for u in range(4)
    for i in range(10)
]


def write_table(path: Path, header: str | None, rows, separator: str) -> Path:
    lines = ([header] if header else []) + [separator.join(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "header", "columns"),
    [
        ("a.csv", "userId,movieId,timestamp", (0, 1, 2)),
        ("a.csv", "ts,ITEM_ID,User", (2, 1, 0)),
        ("a.csv", None, (0, 1, 2)),
        ("a.csv", "User ID;item-id;Timestamp", (0, 1, 2)),
        ("a.csv", "user\titem\ttime", (0, 1, 2)),
        ("a.tsv", "user\titem\ttime", (0, 1, 2)),
        ("a.inter", "user_id:token\titem_id:token\ttimestamp:float", (0, 1, 2)),
    ],
)
def test_tables_split_by_time(tmp_path, name, header, columns):
    separator = next((mark for mark in "\t;" if mark in (header or "")), ",")
    path = write_table(tmp_path / name, header, [[r[c] for c in columns] for r in LOG], separator)
    data = load(path)
    assert rows_of(data) == {row[:2] for row in LOG}
    assert data.user_labels.tolist() == [3, 10, 17, 24]
    assert [data.train.nnz, data.valid.nnz, data.test.nnz] == [28, 4, 8]
    when = {row[:2]: int(row[2]) for row in LOG}
    for user, label in enumerate(data.user_labels):
        times = sorted(when[key] for key in when if key[0] == str(label))
        items = (str(data.item_labels[i]) for i in data.test.row(user))
        last = [when[str(label), item] for item in items]
        assert sorted(last) == times[-2:]


def test_ids_come_out_as_they_went_in(tmp_path):
    """An id that is not written as an integer is would be another one: 0007, or 7.0."""
    padded = [(f"{int(u):05d}", i, t) for u, i, t in LOG]
    data = load(write_table(tmp_path / "a.csv", "user,item,time", padded, ","))
    assert data.user_labels == ["00003", "00010", "00017", "00024"]
    assert data.item_labels.tolist() == list(range(100, 110))
    both = [*LOG, *[("007", i, t) for _, i, t in LOG[:3]], *[("7", i, t) for _, i, t in LOG[:3]]]
    data = load(write_table(tmp_path / "b.csv", "user,item,time", both, ","))
    assert data.user_labels == ["007", "10", "17", "24", "3", "7"]


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-16", "a.csv is encoded as UTF-16; save it as UTF-8"),
        ("latin-1", "a.csv cannot be read as text columns: .*utf-8.*; save it as UTF-8"),
    ],
)
def test_another_encoding_is_said(tmp_path, encoding, words):
    text = "user,item,time\n" + "".join(f"Zoë{u},{i},{t}\n" for u, i, t in LOG)
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "a.csv")


def test_headerless_movielens_order(tmp_path):
    rows = [(u, i, "4.5", t) for u, i, t in LOG]
    four = load(write_table(tmp_path / "four.csv", None, rows, ","))
    three = load(write_table(tmp_path / "three.csv", None, LOG, ","))
    assert four.fingerprint() == three.fingerprint()


def test_parquet_equals_csv(tmp_path):
    csv = load(write_table(tmp_path / "a.csv", "user,item,time", LOG, ","))
    users, items, times = (list(map(int, column)) for column in zip(*LOG))
    pl.DataFrame({"time": times, "item": items, "user": users}).write_parquet(
        tmp_path / "a.parquet"
    )
    assert load(tmp_path / "a.parquet").fingerprint() == csv.fingerprint()


def test_dates_order_like_numbers(tmp_path):
    dated = [(u, i, f"2024-01-{int(t) // 20 + 1:02d} {int(t) % 20:02d}:30:00") for u, i, t in LOG]
    csv = load(write_table(tmp_path / "a.csv", "user,item,date", dated, ","))
    assert (
        csv.fingerprint()
        == load(write_table(tmp_path / "b.csv", "user,item,time", LOG, ",")).fingerprint()
    )


def test_strings_without_time_split_per_user(tmp_path):
    rows = [(f"user {u}", f'"item, {i}"') for u, i, _ in LOG]
    data = load(write_table(tmp_path / "a.csv", "user,item", rows, ","))
    assert rows_of(data) == {(f"user {u}", f"item, {i}") for u, i, _ in LOG}
    assert list(data.user_labels) == sorted({row[0] for row in rows})
    assert counts(data.test) == [2] * 4
    assert counts(data.valid) == [1] * 4
    assert load(tmp_path / "a.csv", seed=5).fingerprint() != data.fingerprint()


def test_repeats_keep_the_earliest(tmp_path):
    later = [(u, i, "1000") for u, i, _ in LOG[:7]]
    rows = [*later[:4], *LOG, *later[4:]]
    data = load(write_table(tmp_path / "a.csv", "user,item,time", rows, ","))
    clean = load(write_table(tmp_path / "b.csv", "user,item,time", LOG, ","))
    assert data.fingerprint() == clean.fingerprint()
    assert "7 repeated interactions were collapsed" in data.notes


def test_recbole_folder_and_ignored_ratings(tmp_path):
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    rows = [(u, i, "3", t) for u, i, t in LOG]
    write_table(tmp_path / "ml.inter", header, rows, "\t")
    (tmp_path / "ml.item").write_text("item_id:token\n")
    data = load(tmp_path)
    assert data.name == "ml" and rows_of(data) == {row[:2] for row in LOG}
    assert any("ratings are ignored" in note for note in data.notes)
    write_table(tmp_path / "ml.test.inter", header, rows, "\t")
    with pytest.raises(ValueError, match="one .inter file"):
        load(tmp_path)


def test_a_graph_in_files(tmp_path):
    rows = [(f"user {u}", i) for u, i, _ in LOG]
    build_graph(write_table(tmp_path / "a.csv", "user,item", rows, ","), tmp_path / "graph")
    data = load(tmp_path / "graph")
    assert data.name == "graph" and rows_of(data) == set(rows)
    assert [counts(split) for split in data.splits.values()] == [[7] * 4, [1] * 4, [2] * 4]
    assert data.notes[0] == "split at random per user, 70/10/20, seed 0"
    assert load(tmp_path / "graph").fingerprint() == data.fingerprint()
    assert load(tmp_path / "graph", seed=5).fingerprint() != data.fingerprint()
    (tmp_path / "graph" / "users.parquet").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="users.parquet: expected"):
        load(tmp_path / "graph")


GROWTH = """
import os, sys
from hdrm.data import load

load("demo")


def status(name):
    return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) * 1024


open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here
before = status("VmRSS")
data = load(sys.argv[1])
print((status("VmHWM") - before) / sum(split.nnz for split in data.splits.values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_graph_in_files_is_split_without_pairs(tmp_path):
    """8 bytes an interaction are mapped and 7 are the result; a pair of int64 would be 16 more."""
    generator = np.random.default_rng(0)
    ids = {"user": generator.integers(0, 40_000, 3_000_000)}
    ids["item"] = generator.integers(0, 20_000, 3_000_000)
    pl.DataFrame(ids).write_parquet(tmp_path / "a.parquet")
    build_graph(tmp_path / "a.parquet", tmp_path / "graph", order="none")
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "graph")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < 25


BODY = "\n".join(",".join(row) for row in LOG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("user,item\n", "holds no interactions"),
        ("user,rating\n1,2\n", "no item column: .* found user, rating"),
        ("user,item,movieId\n1,2,3\n", "columns item, movieId could all be the item"),
        ("1\n2\n", "got 1; add a header"),
        ("1,2,3,4,5\n", "got 5; add a header"),
        (f"user,item,time\n{BODY}\n5,6,7,8\n", "line 42: expected 3 columns, got 4"),
        (f"user,item,time\n{BODY}\n5\n", "line 42: missing item id"),
        (f"user,item,time\n\n{BODY}\n,6,7\n", "line 43: missing user id"),
        (f"user,item,note\n{BODY}\n,,x\n", "line 42: missing user id"),
        (f"\n\nuser,item,time\n{BODY}\nNaN,6,7\n", "line 44: missing user id"),
        (f"{BODY}\n5,nan,7\n", "line 41: missing item id"),
        (f"user,item,time\n{BODY}\n-5,6,7\n", "line 42: negative user id"),
        (f"user,item,time\n5,6,\n{BODY}\n", "line 2: missing time"),
        (f"user,item,time\n{BODY}\n5,6,nan\n", "line 42: time is not finite"),
        (f"user,item,time\n{BODY}\n5,6,noon\n", "line 42: time is neither"),
        ("user,item\n1,2\n1,3\n", "too few interactions to split"),
        ("".join(f"{n % 20},{n},{n % 5 + 1}\n" for n in range(200)), "look like ratings"),
        ('user,item\n1,"2\n', "cannot be read"),
        ('user,item\n1,"2\n' + "3,4\n" * 50_000, "line 2.*: field larger"),
    ],
)
def test_tables_refuse(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1.0, float("nan")], "item": [1, 2]}, "user holds Float64 with NaN"),
        ({"user": [1.0, 2.0], "item": [1, 2]}, "must be integers or strings"),
        ({"user": [1, None], "item": [1, 2]}, "row 1: missing user id"),
        ({"user": ["a", ""], "item": [1, 2]}, "row 1: missing user id"),
        ({"user": [1, 2], "item": [3, -1]}, "row 1: negative item id"),
        (
            {"user": [1, 2], "item": [1, 2], "time": [0.0, float("inf")]},
            "row 1: time is not finite",
        ),
        ({"user": [1, 2], "item": [1, 2], "time": [None, 3]}, "row 0: missing time"),
        ({"user": [1, 2], "item": [1, 2], "time": [True, False]}, "not numbers or dates"),
        ({"user": [1, 2]}, "no item column"),
    ],
)
def test_parquet_refuses(tmp_path, columns, message):
    path = tmp_path / "bad.parquet"
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_parquet_garbage(tmp_path):
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"PAR1 nothing here")
    with pytest.raises(ValueError, match="not a readable Parquet file") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_unknown_files_and_folders(tmp_path):
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(ValueError, match="expected a file .csv"):
        load(tmp_path / "notes.docx")
    with pytest.raises(ValueError, match="is no data set: .* found notes.docx"):
        load(tmp_path)


def test_names_are_searched(tmp_path, monkeypatch):
    write_lists(tmp_path / "known", train=TRAIN, valid=VALID, test=TEST)
    monkeypatch.setenv("HDRM_DATA", str(tmp_path))
    assert load("known").name == "known"
    with pytest.raises(FileNotFoundError, match="no data set 'unknown'") as caught:
        load("unknown")
    assert f"{tmp_path} (known)" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="unknown.csv does not exist"):
        load(tmp_path / "unknown.csv")
    (tmp_path / "project").mkdir()
    shared = tmp_path / "shared" / "data"
    shared.mkdir(parents=True)
    write_lists(shared / "beside", train=TRAIN, valid=VALID, test=TEST)
    monkeypatch.delenv("HDRM_DATA")
    monkeypatch.chdir(tmp_path / "project")
    assert load("beside").name == "beside"
    monkeypatch.chdir(shared / "beside")
    assert load(".").name == "beside"


def real(name: str) -> Path:
    roots = [REPOSITORY.parent / "shared" / "data"]
    if os.environ.get("HDRM_DATA"):
        roots.insert(0, Path(os.environ["HDRM_DATA"]))
    for root in roots:
        if (root / name).is_dir():
            return root / name
    pytest.skip(f"{name} is neither under $HDRM_DATA nor in ../shared/data")


def test_ml_1m_clean_is_the_published_split():
    folder = real("ml-1m_clean")
    data = load(folder)
    assert (data.num_users, data.num_items) == (5949, 2810)
    for name, size in (("train", 403_277), ("valid", 110_722), ("test", 57_532)):
        assert data.splits[name].nnz == size
        stored = np.load(folder / f"{name}_list.npy", allow_pickle=False)
        assert pairs_of(data.splits[name]) == sorted(stored.tolist())
    assert data.notes == ()


def test_gowalla_is_the_lightgcn_split():
    data = load(real("gowalla"))
    assert (data.num_users, data.num_items) == (29_858, 40_981)
    assert data.train.nnz + data.valid.nnz == 810_128 and data.test.nnz == 217_242
    assert abs(data.valid.nnz / 810_128 - 0.1) < 0.01
    assert data.without_training()[0] == 0
