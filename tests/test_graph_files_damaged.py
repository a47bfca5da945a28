"""What is not a graph in files is refused with one message that says what to do."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from graph_cases import interactions, write

from hdrm.data.graph_files import build_graph, load_graph, load_ids


@pytest.fixture
def folder(tmp_path):
    frame = interactions().with_columns(pl.format("m{}", "movie_id").alias("movie_id"))
    build_graph(write(frame, tmp_path / "a.parquet"), tmp_path / "graph")
    return tmp_path / "graph"


FILES = ["rowptr.npy", "col.npy", "users.npy", "items.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(folder, name):
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{name} is damaged: expected (checksum|offsets)"):
        load_graph(folder, verify=True)
    path.write_bytes(whole[:-8])
    size = len(whole)
    with pytest.raises(ValueError, match=f"expected {size:,} bytes, found {size - 8:,}; build it"):
        load_graph(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing; build it again with: hdrm"):
        load_graph(folder)
    if name in FILES[2:]:
        with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
            load_ids(folder)


@pytest.mark.parametrize("name", FILES[:3])
def test_another_dtype_or_garbage_is_named(folder, name):
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"'<i", b"'<u", 1))
    with pytest.raises(ValueError, match=f"{name}: expected a .npy file of <i.*found.*uint"):
        load_graph(folder)
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(ValueError, match=f"{name}: expected a .npy file of .*magic string"):
        load_graph(folder)


def test_entries_out_of_range_are_refused(folder):
    for name, message in (("col.npy", "columns must be"), ("rowptr.npy", "rowptr must ascend")):
        array = np.load(folder / name, mmap_mode="r+")
        before, array[5] = int(array[5]), 10**9
        with pytest.raises(ValueError, match=f"graph is damaged: CSR: {message}.*build it again"):
            load_graph(folder)
        array[5] = before
    array = np.load(folder / "rowptr.npy", mmap_mode="r+")
    array[-1] -= 1
    with pytest.raises(ValueError, match="rowptr.npy is damaged: expected offsets 0 … "):
        load_graph(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "another"}, "expected format 'hdrm graph', found 'another'"),
        ({"version": 2}, "reads version 1 of the format, found 2; update hdrm"),
        ({"num_users": 299}, "damaged: expected the files and shapes"),
        ({"num_users": "many"}, "damaged"),
        ({"edges": None}, "damaged"),
        ({"files": {}}, "damaged: expected the files and shapes"),
        ({"files": []}, "damaged"),
        ({"files": {"rowptr.npy": {"shape": 3}}}, "damaged"),
    ],
)
def test_a_foreign_manifest_is_refused(folder, change, message):
    path = folder / "graph.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for read in (load_graph, load_ids):
        with pytest.raises(ValueError, match=f"graph.json.*{message}"):
            read(folder)


def test_no_manifest(folder, tmp_path):
    (folder / "graph.json").write_text('{"format": ')
    with pytest.raises(ValueError, match="graph.json is damaged"):
        load_graph(folder)
    (folder / "graph.json").write_text("[1]")
    with pytest.raises(ValueError, match="found \\[1\\]"):
        load_graph(folder)
    (folder / "graph.json").unlink()
    for path in (folder, tmp_path / "nothing", tmp_path / "a.parquet"):
        with pytest.raises(FileNotFoundError, match="is no graph; build it again with: hdrm graph"):
            load_graph(path)
