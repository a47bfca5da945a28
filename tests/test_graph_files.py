"""Graphs in files: the same graph as in memory, in bounded memory, whole or not there at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from graph_cases import interactions, write

from hdrm import BipartiteGraph, cli
from hdrm.data import adjacency, graph_build, graph_files, id_codes
from hdrm.data.graph_files import build_graph, load_graph, load_ids

REPOSITORY = Path(__file__).resolve().parents[1]
ORDERS = pytest.mark.parametrize("order", graph_files.ORDERS)


@pytest.fixture
def small_steps(monkeypatch):
    """Many batches and slabs, some of a single row that is larger than a slab."""
    monkeypatch.setattr(adjacency, "BATCH_ROWS", 1000)
    monkeypatch.setattr(adjacency, "SLAB_ENTRIES", 300)


def edges_of(folder: Path) -> list[tuple]:
    """(user, item) under their original ids, sorted."""
    graph = load_graph(folder, verify=True)
    users, items = load_ids(folder)
    rows = np.repeat(np.arange(graph.num_users), graph.user_items.degrees.numpy())
    cols = graph.col[: graph.num_edges].numpy() - graph.num_users
    return sorted((users[u], items[i]) for u, i in zip(rows, cols))


def same_layout(graph: BipartiteGraph) -> bool:
    """Whether from_interactions makes the same arrays of the graph's own edges."""
    rows = np.repeat(np.arange(graph.num_users), graph.user_items.degrees.numpy())
    cols = graph.col[: graph.num_edges].numpy() - graph.num_users
    again = BipartiteGraph.from_interactions(rows, cols, graph.num_users, graph.num_items)
    same = torch.equal(graph.rowptr, again.rowptr) and torch.equal(graph.col, again.col)
    return same and torch.equal(graph.user_items.rowptr, again.user_items.rowptr)


def test_equals_the_graph_in_memory(tmp_path, small_steps):
    frame = interactions()
    made = build_graph(write(frame, tmp_path / "a.parquet"), tmp_path / "graph", order="none")
    graph = load_graph(tmp_path / "graph", verify=True)
    users, user = np.unique(frame["userId"], return_inverse=True)
    items, item = np.unique(frame["movie_id"], return_inverse=True)
    expected = BipartiteGraph.from_interactions(user, item)
    assert torch.equal(graph.rowptr, expected.rowptr) and torch.equal(graph.col, expected.col)
    assert (graph.num_users, graph.num_items) == (len(users), len(items))
    assert graph.user_items.col.data_ptr() == graph.col.data_ptr() and same_layout(graph)
    found = load_ids(tmp_path / "graph")
    assert np.array_equal(found[0], users) and np.array_equal(found[1], items)
    assert made["edges"] == expected.num_edges and made["source"] == "a.parquet"
    assert made["duplicates_dropped"] == 20_000 - expected.num_edges > 0
    assert json.loads((tmp_path / "graph" / "graph.json").read_text()) == made
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "graph"]
    assert len(os.listdir(tmp_path / "graph")) == 5


@ORDERS
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".inter"])
@pytest.mark.parametrize("kind", ["integers", "strings", "far apart"])
def test_formats_ids_and_orders(tmp_path, small_steps, monkeypatch, suffix, kind, order):
    frame = interactions(3000, 90, 70)
    if kind == "strings":
        frame = frame.with_columns(pl.format("réader {}", "userId").alias("userId"))
    if kind == "far apart":
        monkeypatch.setattr(id_codes, "DENSE_SPAN", 64)
        frame = frame.with_columns(pl.col("userId") * 2**40)
    folder = tmp_path / "graph"
    build_graph(write(frame, tmp_path / f"a{suffix}"), folder, order=order)
    expected = sorted(set(zip(frame["userId"].to_list(), frame["movie_id"].to_list())))
    assert edges_of(folder) == expected
    assert same_layout(load_graph(folder))
    assert (folder / "users.parquet").exists() == (kind == "strings")


def test_ids_are_read_as_tables_are(tmp_path):
    (tmp_path / "a.csv").write_text("item,user\n 7,x\n\n07, x\nA,NA\n8,y\n")
    build_graph(tmp_path / "a.csv", tmp_path / "strings", order="none")
    assert load_ids(tmp_path / "strings") == (["NA", "x", "y"], ["07", "7", "8", "A"])
    (tmp_path / "b.csv").write_text("item,user\n7,10\n 7,9\n800000000,9\n")
    made = build_graph(tmp_path / "b.csv", tmp_path / "integers", order="none")
    users, items = load_ids(tmp_path / "integers")
    assert users.tolist() == [9, 10] and items.tolist() == [7, 800000000]
    assert made["edges"] == 3
    (tmp_path / "c.csv").write_text("item,user\n7,10\n07,9\n8,9\n")
    build_graph(tmp_path / "c.csv", tmp_path / "padded", order="none")
    users, items = load_ids(tmp_path / "padded")
    assert users.tolist() == [9, 10] and items == ["07", "7", "8"]


def test_one_edge_and_one_row_slabs(tmp_path):
    for order in graph_files.ORDERS:
        frame = pl.DataFrame({"user": [4, 4, 4], "item": [9, 9, 9]})
        made = build_graph(write(frame, tmp_path / "a.parquet"), tmp_path / order, order=order)
        graph = load_graph(tmp_path / order)
        assert graph.col.tolist() == [1, 0] and graph.rowptr.tolist() == [0, 1, 2]
        assert made["duplicates_dropped"] == 2


def test_locality_brings_neighbours_together(tmp_path):
    """Two groups of users and items that never meet are numbered one after the other."""
    generator = np.random.default_rng(0)
    user = generator.integers(0, 200, 20_000)
    item = generator.integers(0, 50, 20_000) * 2 + user % 2
    frame = pl.DataFrame({"user": user, "item": item})
    build_graph(write(frame, tmp_path / "a.parquet"), tmp_path / "graph")
    for ids in load_ids(tmp_path / "graph"):
        assert (np.diff(ids % 2) != 0).sum() <= len(ids) // 20


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_from_the_limit_on_columns_have_64_bits(tmp_path, monkeypatch, kind):
    frame = interactions(2000, 40, 60)
    if kind == "strings":
        frame = frame.with_columns(pl.format("u{}", "userId").alias("userId"))
    source = write(frame, tmp_path / "a.parquet")
    build_graph(source, tmp_path / "narrow", order="none")
    narrow = load_graph(tmp_path / "narrow")
    with monkeypatch.context() as patch:
        patch.setattr(graph_files, "INT32_NODES", narrow.num_nodes)
        with pytest.raises(ValueError, match=f"has {narrow.num_nodes} nodes.*--order none"):
            build_graph(source, tmp_path / "wide")
        build_graph(source, tmp_path / "wide", order="none")
        with pytest.raises(ValueError, match=f"int32 columns number fewer than {narrow.num_nodes}"):
            load_graph(tmp_path / "wide")
    assert np.load(tmp_path / "wide" / "col.npy", allow_pickle=False).dtype == np.int64
    assert np.load(tmp_path / "narrow" / "col.npy", allow_pickle=False).dtype == np.int32
    graph = load_graph(tmp_path / "wide", verify=True)
    assert graph.col.dtype == torch.int32 and torch.equal(graph.col, narrow.col)
    col = np.load(tmp_path / "wide" / "col.npy", mmap_mode="r+")
    col[3] += 2**32
    col.flush()
    with pytest.raises(ValueError, match="wide is damaged: columns out of range"):
        load_graph(tmp_path / "wide")


def test_the_files_are_never_written(tmp_path):
    build_graph(write(interactions(), tmp_path / "a.parquet"), tmp_path / "graph")
    graph = load_graph(tmp_path / "graph")
    before = graph.col.clone()
    graph.col.zero_()
    assert torch.equal(load_graph(tmp_path / "graph", verify=True).col, before)


# What stops a build.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "user,item\n", "a.csv holds no interactions"),
        ("a.csv", "user,rank\n1,2\n", "no item column"),
        ("a.csv", "user,item\n1,2\n1,2,3\n", "line 3: expected 2 columns, got 3"),
        ("a.csv", "user,item\n1,2\n\n3\n", "line 4: missing item id"),
        ("a.csv", "user,item\n1,2\nnan,3\n", "line 3: missing user id"),
        ("a.csv", "user,item\n1,2\n2,-3\n", "line 3: negative item id .user '2', item '-3'"),
        ("a.csv", 'user,item\n1,2\n"2,3\n', "a.csv"),
        ("a.parquet", "PAR1 and then nothing", "not a readable Parquet file"),
        ("a.txt", "1 2\n", "expected a file .csv, .*got '.txt'"),
    ],
)
def test_refuses_text(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        build_graph(tmp_path / name, tmp_path / "graph")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1, None], "item": [1, 2]}, "row 1: missing user id"),
        ({"user": ["a", ""], "item": [1, 2]}, "row 1: missing user id"),
        ({"user": [1, 2], "item": [3, -4]}, r"row 1: negative item id \(user 2, item -4\)"),
        ({"user": [1.0, 2.0], "item": [3, 4]}, "ids must be integers or strings"),
        ({"user": [], "item": []}, "column user holds Null|no interactions"),
        ({"user": [1, 2], "thing": [3, 4]}, "no item column"),
    ],
)
def test_refuses_parquet(tmp_path, columns, message):
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        build_graph(tmp_path / "a.parquet", tmp_path / "graph")
    assert os.listdir(tmp_path) == ["a.parquet"]


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_refuses_a_cut_or_damaged_parquet_file(tmp_path, keep):
    source = write(interactions(), tmp_path / "a.parquet")
    whole = source.read_bytes()
    source.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match="a.parquet is not a readable Parquet file"):
        build_graph(source, tmp_path / "graph")
    middle = len(whole) // 2  # the footer is good, a page is not
    source.write_bytes(whole[: middle - 500] + bytes(1000) + whole[middle + 500 :])
    with pytest.raises(ValueError, match="a.parquet is not a readable Parquet file"):
        build_graph(source, tmp_path / "graph")
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_refuses_places_and_orders(tmp_path):
    source = write(interactions(100), tmp_path / "a.parquet")
    with pytest.raises(FileNotFoundError, match=r"b.parquet is no file; give a .csv"):
        build_graph(tmp_path / "b.parquet", tmp_path / "graph")
    with pytest.raises(FileExistsError, match="is not empty; name another folder"):
        build_graph(source, tmp_path)
    with pytest.raises(FileExistsError, match="a.parquet is a file"):
        build_graph(source, source)
    with pytest.raises(ValueError, match="order must be 'locality' or 'none', got 'degree'"):
        build_graph(source, tmp_path / "graph", order="degree")
    (tmp_path / "empty").mkdir()
    build_graph(source, tmp_path / "empty")
    build_graph(source, tmp_path / "new" / "folder")
    assert load_graph(tmp_path / "empty").num_edges == load_graph(tmp_path / "new/folder").num_edges


STEPS = [
    (adjacency, "user_rows"),
    (adjacency, "_distribute"),
    (graph_build, "locality_order"),
    (graph_build, "_write_ids"),
    (graph_files, "checksum"),
    (os, "replace"),
]


@pytest.mark.parametrize(("module", "step"), STEPS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_nothing_is_left_of_a_build_that_stops(tmp_path, monkeypatch, module, step, error):
    source = write(interactions(), tmp_path / "a.parquet")

    def stop(*args, **named):
        raise error

    monkeypatch.setattr(module, step, stop)
    message = r"graph: the disk is full: .* takes 320,000 bytes or more, [\d,]+ are free; free some"
    with pytest.raises(type(error), match=message if isinstance(error, OSError) else None):
        build_graph(source, tmp_path / "graph")
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_a_full_disk_is_noticed_before(tmp_path, monkeypatch):
    source = write(interactions(), tmp_path / "a.parquet")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1234))
    monkeypatch.setattr(graph_build, "write", None)
    with pytest.raises(OSError, match="320,000 bytes or more, 1,234 are free") as caught:
        build_graph(source, tmp_path / "graph")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["a.parquet"]


HANG = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have made it ignored
from hdrm.data import adjacency, graph_files
adjacency._sorted_slabs = lambda *args: (print("working", flush=True), time.sleep(600))
graph_files.build_graph(*sys.argv[1:])
"""


def run_python(code: str, *args, **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


def test_a_killed_build_is_no_graph_and_is_removed_by_the_next(tmp_path):
    source = write(interactions(), tmp_path / "a.parquet")
    process = run_python(HANG, source, tmp_path / "graph")
    try:
        assert process.stdout.readline() == "working\n"
        (partial,) = tmp_path.glob("graph.partial-*")
        build_graph(source, tmp_path / "graph.other")
        build_graph(source, tmp_path / "graph")  # beside one that is at work
        assert partial.exists()
        shutil.rmtree(tmp_path / "graph")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "graph").exists() and partial.exists()
    with pytest.raises(FileNotFoundError, match="is no graph; build it again"):
        load_graph(partial)
    build_graph(source, tmp_path / "graph")
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "graph", "graph.other"]


def test_an_interrupted_build_cleans_up(tmp_path):
    source = write(interactions(), tmp_path / "a.parquet")
    process = run_python(HANG, source, tmp_path / "graph", stderr=subprocess.PIPE)
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert process.returncode != 0 and os.listdir(tmp_path) == ["a.parquet"]


# Memory and the command line.

PEAK = """
import sys
from hdrm import BipartiteGraph, ops
from hdrm.data import adjacency, graph_build  # and with it polars
from hdrm.data.graph_files import build_graph

def peak():
    # ru_maxrss would count what the parent process had before exec.
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

ops.propagate(__import__("torch").ones(3, 8), BipartiteGraph.from_interactions([0], [1]), 1,
              space="tangent")  # loads the compiled code
adjacency.BATCH_ROWS, adjacency.SLAB_ENTRIES = 2**17, 2**18  # as small as this graph is
before = peak()
build_graph(*sys.argv[1:3], order=sys.argv[3])
print(peak() - before)
"""


@ORDERS
def test_memory_is_bounded_by_the_graph(tmp_path, order):
    """Of 10^8 rows it is far less: batches and slabs do not grow."""
    source = tmp_path / "a.parquet"
    generator = np.random.default_rng(0)
    rows = 5_000_000
    user, item = generator.integers(0, 100_000, rows), generator.integers(0, 50_000, rows)
    pl.DataFrame({"user": user, "item": item}).write_parquet(source, row_group_size=2**18)
    process = run_python(PEAK, source, tmp_path / "graph", order)
    above, _ = process.communicate(timeout=120)
    size = sum((tmp_path / "graph" / name).stat().st_size for name in ("col.npy", "rowptr.npy"))
    assert int(above) <= 2 * size + ALLOWANCE


ALLOWANCE = 64 * 2**20  # polars' reading of a file


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["hdrm", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().err

    sizes = ["--users", "2e2", "--items", "100", "--interactions", "1e3"]
    code, err = run("graph", "generate", *sizes, "-o", "big.parquet")
    assert code == 0 and "1,000 interactions" in err
    code, err = run("graph", "build", "big.parquet", "-o", "graph", "--order", "none")
    assert code == 0 and "200 users" in err and "1,000 edges, 0 repeated" in err
    assert load_graph("graph").num_edges == 1000
    code, err = run("graph", "build", "big.parquet", "-o", "graph")
    assert code == 2 and err.startswith("error: graph is not empty") and err.count("\n") == 1
    code, err = run("graph", "generate", *sizes, "-o", "big.parquet")
    assert code == 2 and "big.parquet exists" in err
    code, err = run("graph", "generate", "--users", "1.5", *sizes[2:], "-o", "b.parquet")
    assert code == 2 and "'1.5' is not a positive whole number" in err
