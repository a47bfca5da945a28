"""Whatever bytes a file holds, reading it ends with a data set or one error that names the file."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hdrm.data import Dataset, load
from hdrm.data.graph_files import build_graph
from hdrm.data.movielens import read_titles

LOG = [(u, 3 * i, 1 + (u + i) % 5, 900_000_000 + 7 * i) for u in range(12) for i in range(12)]
PAIRS = np.array([row[:2] for row in LOG])


def text(separator: str, header: str | None = None) -> bytes:
    lines = ([header] if header else []) + [separator.join(map(str, row)) for row in LOG]
    return ("\n".join(lines) + "\n").encode()


def parquet(**options) -> bytes:
    columns = zip(("user", "item", "rating", "time"), zip(*LOG))
    buffer = io.BytesIO()
    pl.DataFrame({name: list(column) for name, column in columns}).write_parquet(buffer, **options)
    return buffer.getvalue()


def npy(pairs: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pairs)
    return buffer.getvalue()


def archive(ratings: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as zipped:
        zipped.writestr("ml-1m/ratings.dat", ratings)
        zipped.writestr("ml-1m/movies.dat", "0::Un été::Drama\n".encode("latin-1"))
    return buffer.getvalue()


ADJACENCY = "\n".join(f"{u} " + " ".join(str(i) for i in range(u, u + 12)) for u in range(12))
LABELS = {"users": [f"u{u}" for u in range(12)], "items": list(range(100, 134))}
LISTS = {
    **{f"{name}_list.npy": npy(PAIRS[at::3]) for at, name in enumerate(("train", "valid", "test"))},
    "labels.json": json.dumps(LABELS).encode(),
}
TEXTS = {"train.txt": ADJACENCY.encode(), "test.txt": b"0 40\n1 41\n"}
# The file that is damaged, those beside it, and what is loaded.
SOURCES = {
    "log.csv": {"log.csv": text(",", "user,item,rating,time")},
    "log.tsv": {"log.tsv": text("\t")},
    "log.inter": {"log.inter": text("\t", "user_id:token\titem_id:token\trating:float\tts:float")},
    "log.parquet": {"log.parquet": parquet()},
    "train_list.npy": LISTS,
    "labels.json": LISTS,
    "train.txt": TEXTS,
    "test.txt": TEXTS,
    "ml-1m.zip": {"ml-1m.zip": archive(text("::"))},
}
FILES = ("log.csv", "log.tsv", "log.inter", "log.parquet")


def read(folder: Path, name: str) -> Dataset:
    if name == "ml-1m.zip":
        read_titles("ml-1m", folder / name)
        return load("ml-1m", archive=folder / name, k_core=2)
    return load(folder / name, min_rating=2) if name in FILES else load(folder)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """The bytes with a few of them changed, put in, taken out or cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        what = draw(st.sampled_from(("change", "insert", "delete", "cut")))
        if what == "cut":
            del content[at:]
        elif what == "delete":
            del content[at : at + draw(st.integers(1, 40))]
        else:
            new = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(PIECES)))
            content[at : at + (len(new) if what == "change" else 0)] = new
    return bytes(content)


PIECES = (b"\n", b"\r", b'"', b"\x00", b"\xff", b",,", b"\t", b"::", b"-1", b"nan", b"1e400", b" ",
          b"99999999999999999999", b"9223372036854775807", b"[", b"{", b"null")  # fmt: skip


def survives(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    try:
        assert isinstance(read(folder, name), Dataset)
    except (ValueError, OSError) as error:
        assert str(folder) in str(error), error
        assert len(str(error)) < 1000


@pytest.fixture(params=SOURCES)
def source(request, tmp_path) -> tuple[Path, str]:
    for beside, content in SOURCES[request.param].items():
        (tmp_path / beside).write_bytes(content)
    assert read(tmp_path, request.param).num_users > 1, "undamaged, it is read"
    return tmp_path, request.param


QUICKLY = settings(
    max_examples=60, deadline=5_000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICKLY
@given(data=st.data())
def test_damaged_files(source, data):
    folder, name = source
    survives(folder, name, data.draw(damaged(SOURCES[name][name])))


@QUICKLY
@given(content=st.binary(max_size=200))
def test_random_bytes(source, content):
    survives(*source, content)


@QUICKLY
@given(data=st.data())
def test_archives_of_damaged_members(tmp_path, data):
    """Not compressed, or packed after the damage: what is in the archive is reached."""
    content = data.draw(damaged(text("::")))
    survives(tmp_path, "ml-1m.zip", archive(content, zipfile.ZIP_STORED))


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


LARGE = "{'descr': '<i8', 'fortran_order': False, 'shape': (2000000000000, 2)}\n"
FOUND = [
    ("train_list.npy", npy_header(LARGE)),  # was allocated
    ("train_list.npy", npy_header(LARGE.replace("2000000000000", "-1")) + PAIRS.tobytes()),
    ("train_list.npy", npy_header("{'descr': '<i8', 'shape': (")),  # TokenError
    ("train_list.npy", npy_header("\0")),  # SyntaxError
    ("train.txt", b"-1"),  # TypeError
    ("log.tsv", b"\n" + text("\t")),  # IndexError
    ("log.csv", b"x" * 5_000 + b",y\n1,2\n"),  # the whole line was in the message
    ("labels.json", b"[" * 100_000),  # RecursionError
    ("ml-1m.zip", archive(text("::"))[100:]),  # OSError without the file's name
]


@pytest.mark.parametrize(("name", "content"), FOUND)
def test_what_was_found(tmp_path, name, content):
    for beside, whole in SOURCES[name].items():
        (tmp_path / beside).write_bytes(whole)
    survives(tmp_path, name, content)
    with pytest.raises((ValueError, OSError)):
        read(tmp_path, name)


def test_a_manifest_without_a_checksum_or_with_a_strange_dtype(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n" + "\n".join(f"{u},x{i}" for u, i in PAIRS))
    build_graph(tmp_path / "log.csv", tmp_path / "graph")
    path = tmp_path / "graph" / "graph.json"
    whole = path.read_text()
    for damage in (whole.replace("blake2b", "blake2c"), whole.replace("<i8", ",")):
        path.write_text(damage)
        with pytest.raises(ValueError, match="graph.json is damaged"):
            load(tmp_path / "graph")


def test_every_truncation_of_binary_files(tmp_path):
    for name in ("log.parquet", "train_list.npy", "ml-1m.zip"):
        for beside, content in SOURCES[name].items():
            (tmp_path / beside).write_bytes(content)
        whole = SOURCES[name][name]
        for size in range(0, len(whole), max(len(whole) // 60, 1)):
            survives(tmp_path, name, whole[:size])
            with pytest.raises((ValueError, OSError)):
                read(tmp_path, name)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "name", ["graph.json", "rowptr.npy", "col.npy", "users.npy", "items.parquet"]
)
@QUICKLY
@given(data=st.data())
def test_damaged_graphs(tmp_path, name, data):
    folder = tmp_path / "graph"
    if not folder.exists():
        rows = [f"{u},film {i}" for u, i in PAIRS.tolist()]
        (tmp_path / "log.csv").write_text("\n".join(["user,item", *rows]) + "\n")
        build_graph(tmp_path / "log.csv", folder)
        (tmp_path / "whole").write_bytes((folder / name).read_bytes())
    content = data.draw(damaged((tmp_path / "whole").read_bytes()))
    (folder / name).write_bytes(content)
    try:
        assert isinstance(load(folder), Dataset)
    except (ValueError, OSError) as error:
        assert str(folder) in str(error), error
