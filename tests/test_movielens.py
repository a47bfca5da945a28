"""MovieLens archives: every layout is read, every kind of damage refused, nothing extracted."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_data_loading import real

from hdrm.data import load, movielens
from hdrm.data.movielens import NAMES, read_ratings, read_titles

RATINGS = [(1, 10, 5, 103), (1, 20, 3.5, 101), (7, 10, 4, 102), (7, 30, 1, 100)]
TITLES = {10: "Amélie, or: the fabulous one (2001)", 20: "Brazil (1985)", 30: "Cube (1997)"}


def ratings_text(suffix: str, rows) -> str:
    separator, header = {"data": ("\t", ""), "dat": ("::", ""),
                         "csv": (",", "userId,movieId,rating,timestamp\r\n")}[suffix]  # fmt: skip
    end = "\r\n" if suffix == "csv" else "\n"
    return header + "".join(separator.join(map(str, row)) + end for row in rows)


def titles_bytes(suffix: str) -> bytes:
    if suffix == "csv":
        lines = ["movieId,title,genres", *(f'{i},"{title}",Drama' for i, title in TITLES.items())]
        return "\r\n".join(lines).encode()
    separator = {"data": "|", "dat": "::"}[suffix]
    lines = [separator.join((str(i), title, "Drama")) for i, title in TITLES.items()]
    return "\n".join(lines).encode("latin-1")


def write_archive(path: Path, members: dict[str, str | bytes], **options) -> Path:
    with zipfile.ZipFile(path, "w", **{"compression": zipfile.ZIP_DEFLATED} | options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def movielens_1m(path: Path, ratings=RATINGS, **options) -> Path:
    text = ratings if isinstance(ratings, (str, bytes)) else ratings_text("dat", ratings)
    members = {"ml-1m/ratings.dat": text, "ml-1m/movies.dat": titles_bytes("dat")}
    return write_archive(path, members, **options)


@pytest.mark.parametrize("name", NAMES)
def test_every_layout(tmp_path, name):
    suffix = {"ml-100k": "data", "ml-1m": "dat", "ml-10m": "dat"}.get(name, "csv")
    folder = "ml-10M100K" if name == "ml-10m" else name
    files = ("u.data", "u.item") if suffix == "data" else (f"ratings.{suffix}", f"movies.{suffix}")
    members = {
        f"{folder}/README": "read me",
        f"{folder}/{files[0]}": ratings_text(suffix, RATINGS),
        f"{folder}/{files[1]}": titles_bytes(suffix),
    }
    archive = write_archive(tmp_path / "a.zip", members)
    table = read_ratings(name, archive)
    assert table.user_labels.tolist() == [1, 7] and table.item_labels.tolist() == [10, 20, 30]
    assert table.pairs.tolist() == [[0, 0], [0, 1], [1, 0], [1, 2]]
    assert table.rating.tolist() == [5, 3.5, 4, 1] and table.time.tolist() == [103, 101, 102, 100]
    assert read_titles(name, archive) == TITLES
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"], "nothing is extracted"


def test_utf8_titles_of_ml_10m(tmp_path):
    members = {"ml-10M100K/ratings.dat": ratings_text("dat", RATINGS),
               "ml-10M100K/movies.dat": "5::Amélie::Comedy\n".encode()}  # fmt: skip
    assert read_titles("ml-10m", write_archive(tmp_path / "a.zip", members)) == {5: "Amélie"}


def test_chunks_are_put_together(tmp_path, monkeypatch):
    rows = [(u, i, 1 + (u * i) % 5, 1000 * u + i) for u in range(30) for i in range(20)]
    archive = movielens_1m(tmp_path / "a.zip", rows)
    whole = read_ratings("ml-1m", archive)
    monkeypatch.setattr(movielens, "CHUNK", 64)
    table = read_ratings("ml-1m", archive)
    assert np.array_equal(table.pairs, whole.pairs) and len(whole.pairs) == 600
    assert np.array_equal(table.rating, whole.rating)
    bad = ratings_text("dat", rows).replace("\n7::3::", "\n7:3::")
    with pytest.raises(ValueError, match="ratings.dat, line 144: expected user::item.*b'7:3::"):
        read_ratings("ml-1m", movielens_1m(tmp_path / "b.zip", bad))
    with pytest.raises(ValueError, match="a line is longer than 64 bytes"):
        read_ratings("ml-1m", movielens_1m(tmp_path / "c.zip", "1" * 200))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ratings.dat holds no ratings"),
        ("1::2::3::4\n1::2::3\n", "line 2: expected user::item::rating::time .*b'1::2::3'"),
        ("1::2::3::4::5\n", "line 1"),
        ("1::2::good::4\n", "line 1"),
        ("1::2::nan::4\n", "line 1"),
        ("1::2::3::4\n-1::2::3::4\n", "line 2"),
        ("1::2::3::4\n\n1::2::3::4\n", "line 2"),
        ("99999999999999999999::2::3::4\n", "line 1"),
        ("1\t2\t3\t4\n", "line 1"),
    ],
)
def test_damaged_ratings(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_ratings("ml-1m", movielens_1m(tmp_path / "a.zip", text))


def test_members_are_named(tmp_path):
    archive = write_archive(tmp_path / "a.zip", {"ml-20m/ratings.csv": "x", "notes.txt": "y"})
    with pytest.raises(ValueError, match="expected ml-1m/ratings.dat and ml-1m/movies.dat in it, "
                       "found ml-20m/ratings.csv, notes.txt"):  # fmt: skip
        read_ratings("ml-1m", archive)
    with pytest.raises(ValueError, match="found nothing"):
        read_titles("ml-1m", write_archive(tmp_path / "b.zip", {}))
    with pytest.raises(ValueError, match="holds one of ml-100k, ml-1m, .*got 'ml-7b'"):
        read_ratings("ml-7b", archive)
    with pytest.raises(FileNotFoundError, match="c.zip is no file; give the .zip"):
        read_ratings("ml-1m", tmp_path / "c.zip")
    (tmp_path / "d.zip").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="d.zip is not a readable .zip file"):
        read_ratings("ml-1m", tmp_path / "d.zip")


def test_bombs_are_refused_before_they_are_read(tmp_path, monkeypatch):
    bomb = movielens_1m(tmp_path / "a.zip", "1::2::3::4\n" * 2**18)
    assert bomb.stat().st_size < 2**16
    with pytest.raises(ValueError, match="claims 2,883,584 bytes out of .* and 100 times"):
        read_ratings("ml-1m", bomb)
    monkeypatch.setattr(movielens, "MAX_RATINGS", 40)
    with pytest.raises(ValueError, match="claims 58 bytes .*at most 40"):
        read_ratings("ml-1m", movielens_1m(tmp_path / "b.zip"))
    monkeypatch.setattr(movielens, "MAX_TITLES", 40)
    with pytest.raises(ValueError, match="movies.dat claims"):
        read_titles("ml-1m", tmp_path / "b.zip")


def test_a_member_that_hides_its_size(tmp_path):
    """Sizes in the directory are claims; no more is read than was claimed, and then it is damaged."""
    archive = movielens_1m(tmp_path / "a.zip", [(u, 1, 4, u) for u in range(1000)])
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 100)
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="a.zip is not a readable .zip file: Bad CRC-32"):
        read_ratings("ml-1m", archive)


def test_encrypted_archives(tmp_path):
    archive = movielens_1m(tmp_path / "a.zip")
    content = bytearray(archive.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + flags] |= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="password required"):
        read_ratings("ml-1m", archive)


def test_damaged_titles(tmp_path):
    members = {"ml-1m/ratings.dat": "", "ml-1m/movies.dat": "1::A::\n\n2\n"}
    with pytest.raises(
        ValueError, match="movies.dat, entry 3: expected an item's id and its title"
    ):
        read_titles("ml-1m", write_archive(tmp_path / "a.zip", members))


def core_splits() -> dict[str, np.ndarray]:
    """A clean set like the published one: a 10-core, split by the published rule."""
    random = np.random.default_rng(0)
    train, test, valid = [], [], []
    for user in range(60):
        n = int(random.integers(12, 30))
        items = random.permutation(30)[:n]
        a, b = sum(i <= 0.7 * n for i in range(n)), sum(i <= 0.8 * n for i in range(n))
        for part, chosen in ((train, items[:a]), (test, items[a:b]), (valid, items[b:])):
            part += [(user, item) for item in chosen.tolist()]
    return {"train": np.array(train), "valid": np.array(valid), "test": np.array(test)}


def archive_of(path: Path, splits: dict[str, np.ndarray]) -> Path:
    """An archive in the format of MovieLens-1M of which the published procedure makes ``splits``.

    Times follow train, test, valid. What the procedure has to leave out is in it too: low ratings,
    users of 9 good ratings, and films that 9 users rated.
    """
    random = np.random.default_rng(1)
    pairs = np.concatenate([splits[name] for name in ("train", "test", "valid")]) + 5
    num_users, num_items = pairs.max(axis=0) + 1
    order = np.argsort(pairs[:, 0], kind="stable")
    counts = np.bincount(pairs[:, 0])
    step = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    good = np.column_stack((pairs[order], random.integers(4, 6, len(pairs)), 10 * step))
    low = random.integers(5, (num_users, num_items), (len(pairs) // 3, 2))
    keys = [users * num_items + items for users, items in (low.T, pairs.T)]
    low = low[np.unique(keys[0], return_index=True)[1]]
    low = low[~np.isin(np.unique(keys[0]), keys[1])]
    low = np.column_stack(
        (low, random.integers(1, 4, (len(low))), random.integers(0, 999, len(low)))
    )
    idle = [(u, 5 + i, 5, i) for u in range(5) for i in range(9)]
    rare = [(5 + u, i, 5, 1) for i in range(5) for u in range(9)]
    rows = random.permutation(np.concatenate((good, low, idle, rare)))
    rows = rows * (1, 3, 1, 1) + (1, 2, 0, 956_703_932)  # ids from 1, with gaps, and seconds
    text = pl.DataFrame(rows).write_csv(separator="\t", include_header=False)
    return movielens_1m(path, text.replace("\t", "::"))


def assert_prepared_alike(archive: Path, splits: dict[str, np.ndarray]) -> None:
    data = load("ml-1m", archive=archive)
    users, items = data.user_labels - 6, (data.item_labels - 2) // 3 - 5
    for name, expected in splits.items():
        found = [ids.numpy() for ids in data.splits[name].pairs()]
        found = np.column_stack((users[found[0]], items[found[1]]))
        assert np.array_equal(np.unique(found, axis=0), np.unique(expected, axis=0)), name
        assert len(found) == len(expected)


def test_an_archive_becomes_the_split_it_was_made_of(tmp_path):
    splits = core_splits()
    assert_prepared_alike(archive_of(tmp_path / "ml-1m.zip", splits), splits)


def test_an_archive_of_the_published_split_becomes_it(tmp_path):
    folder = real("ml-1m_clean")
    splits = {name: np.load(folder / f"{name}_list.npy") for name in ("train", "valid", "test")}
    assert [len(splits[name]) for name in splits] == [403_277, 110_722, 57_532]
    pairs = np.concatenate(list(splits.values()))
    assert [len(np.unique(ids)) for ids in pairs.T] == [5949, 2810]
    assert [np.bincount(ids).min() for ids in pairs.T] == [10, 10]
    assert_prepared_alike(archive_of(tmp_path / "ml-1m.zip", splits), splits)


def test_what_is_asked_for_replaces_the_published_preparation(tmp_path):
    archive = archive_of(tmp_path / "ml-1m.zip", core_splits())
    data = load("ml-1m", archive=archive, min_rating=0, k_core=1, split="leave-one-out")
    sizes = [split.nnz for split in data.splits.values()]
    assert data.num_users == 65 and data.num_items == 35 and sizes[1:] == [65, 65]
    assert sum(sizes) == len(read_ratings("ml-1m", archive).pairs)
