"""Exports: what other systems read back ranks as HDRM.recommend does."""

from __future__ import annotations

import json
import os
import stat
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import hdrm
from hdrm import BipartiteGraph, cli, ops
from hdrm.config import Config
from hdrm.export import FORMS, export, item_vectors, scale_of, user_vectors
from hdrm.export import index as indices
from hdrm.model import checkpoint

CONFIG = Config(dim=9, hidden=(12,), steps=6, sampling_steps=2, layers=2, curvature=0.7)


def make_model(users=60, items=40, config=CONFIG, omega=0.0, width=0.1, dtype=torch.float64):
    """Random weights; the last user has no items. ``width``: how far from the origin, about."""
    torch.manual_seed(1)
    model = hdrm.HDRM(users, items, config)
    model = model.double() if dtype == torch.float64 else model
    c = config.curvature
    with torch.no_grad():
        model.encoder.table.copy_(
            ops.expmap0(width * torch.randn(users + items, config.dim, dtype=dtype), c=c)
        )
    seen = torch.randint(users - 1, (6 * users,)), torch.randint(items, (6 * users,))
    model.set_graph(BipartiteGraph.from_interactions(*seen, users, items))
    model.set_statistics()
    model.omega.fill_(omega)
    return model.eval()


def score(users: np.ndarray, items: np.ndarray, form: str) -> np.ndarray:
    """Larger is nearer: how a system that knows no hyperbolic space ranks a form."""
    if form == "inner-product":
        return users @ items.T
    if form == "euclidean":
        return -np.linalg.norm(users[:, None] - items[None], axis=2)
    assert form == "lorentz"
    return users[:, 1:] @ items[:, 1:].T - users[:, :1] @ items[:, :1].T


RANKED = FORMS[1:]


@pytest.mark.parametrize("width", [1e-3, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("form", RANKED)
def test_every_form_but_the_tangent_ranks_by_lorentz_distance(form, width):
    torch.manual_seed(0)
    for c in (0.7, 1.0, 2.5):
        points = ops.expmap0(width * torch.randn(90, 7, dtype=torch.float64), c=c)
        users, items = points[:30], points[30:]
        queries = user_vectors(users, form, c=c, scale=scale_of(items))
        vectors = item_vectors(items, form, c=c)
        assert queries.shape == (30, 7) and vectors.shape == (60, 7)
        order = np.argsort(-score(queries.numpy(), vectors.numpy(), form), 1, kind="stable")
        distances = ops.distance(users[:, None], items[None], c=c)
        assert torch.equal(torch.from_numpy(order), distances.argsort(dim=1, stable=True))


def test_distances_come_back_from_inner_products():
    points = ops.expmap0(torch.randn(20, 7, dtype=torch.float64), c=0.7)
    q = user_vectors(points, "inner-product", c=0.7)
    found = torch.arccosh(-0.7 * (q * points.roll(1, 0)).sum(1)) / 0.7**0.5
    torch.testing.assert_close(found, ops.distance(points, points.roll(1, 0), c=0.7))


def test_euclidean_distances_are_as_documented():
    """|q − x|² = 2t·(i0 − (us/u0)·is) + const(u), and no |q − x|² is of a negative a²."""
    points = ops.expmap0(torch.randn(50, 7, dtype=torch.float64), c=2.0)
    users, items, scale = points[:20], points[20:], scale_of(points[20:])
    q, x = (
        user_vectors(users, "euclidean", c=2.0, scale=scale),
        item_vectors(items, "euclidean", c=2.0),
    )
    assert scale == pytest.approx(float(items[:, 0].max())) and bool(x.isfinite().all())
    inner = items[:, 0] - users[:, 1:] / users[:, :1] @ items[:, 1:].T
    rest = (q[:, None] - x).square().sum(2) - 2 * scale * inner
    torch.testing.assert_close(rest, rest[:, :1].expand_as(rest))


def test_near_the_origin_the_euclidean_form_has_the_digits():
    torch.manual_seed(0)
    points = ops.expmap0(3e-4 * torch.randn(1200, 17))
    users, items = points[:200], points[200:]
    exact = ops.topk(users.double(), items.double(), 1)[1]
    hits = {}
    for form in ("euclidean", "inner-product"):
        queries = user_vectors(users, form, scale=scale_of(items)).numpy()
        best = score(queries, item_vectors(items, form).numpy(), form).argmax(1)
        hits[form] = (torch.from_numpy(best) == exact[:, 0]).double().mean()
    assert hits["euclidean"] > 0.99 and hits["inner-product"] < 0.7


def read(path) -> tuple[dict[str, np.ndarray], dict]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file}
        return arrays, json.loads(str(arrays.pop("metadata")))
    with safe_open(path, "np") as file:
        return load_file(path), file.metadata()


@pytest.mark.parametrize("to", ["npz", "safetensors"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_back_ranks_as_recommend(tmp_path, to, form):
    """With numpy alone, of a model whose diffusion is on."""
    model = make_model(omega=0.4)
    path = tmp_path / "new" / f"vectors.{to}"
    made = export(model, path, to=to, form=form)
    assert made.files == (path, tmp_path / "new" / "vectors.labels.json") and made.recall is None
    assert sorted(path.parent.iterdir()) == sorted(made.files)
    assert json.loads(made.files[1].read_text()) == {"users": None, "items": None}
    arrays, metadata = read(path)
    assert metadata["format"] == "hdrm export, version 1" and metadata["form"] == form
    assert (metadata["num_users"], metadata["num_items"]) == ("60", "40")
    assert float(metadata["curvature"]) == 0.7 and float(metadata["omega"]) == 0.4
    assert Config.from_json(metadata["config"]) == CONFIG
    assert ("scale" in metadata) == (form == "euclidean")
    users, items = arrays["users"], arrays["items"]
    if form == "tangent":
        for found, points in zip((users, items), model.points()):
            torch.testing.assert_close(torch.from_numpy(found), ops.logmap0(points, c=0.7))
        return
    scores = score(users, items, form)
    for user in range(60):
        first, last = arrays["seen_rowptr"][user : user + 2]
        scores[user, arrays["seen_col"][first:last]] = -np.inf
    expected, _ = model.recommend(list(range(60)), 7)
    assert np.array_equal(np.argsort(-scores, 1, kind="stable")[:, :7], expected.numpy())


def test_folded_in_users_are_ranked_by_an_export(tmp_path):
    model = make_model()
    export(model, tmp_path / "v.npz", to="npz", form="euclidean")
    arrays, metadata = read(tmp_path / "v.npz")
    points = model.fold_in([[3, 8], [0]])
    queries = user_vectors(points, "euclidean", c=0.7, scale=float(metadata["scale"]))
    scores = score(queries.numpy(), arrays["items"], "euclidean")
    scores[[0, 0, 1], [3, 8, 0]] = -np.inf
    expected, _ = model.recommend_for([[3, 8], [0]], 5)
    assert np.array_equal(np.argsort(-scores, 1)[:, :5], expected.numpy())


def test_labels_are_beside_the_vectors_and_follow_them(tmp_path):
    model, path = make_model(), tmp_path / "v.npz"
    labels = {"items": [f"Straße {i}" for i in range(40)]}
    export(model, path, to="npz", labels=labels)
    beside = tmp_path / "v.labels.json"
    assert json.loads(beside.read_text(encoding="utf-8")) == {"users": None, **labels}
    export(model, path, to="npz")
    assert json.loads(beside.read_text()) == {"users": None, "items": None}
    with pytest.raises(ValueError, match="labels: expected 40 items, got 1"):
        export(model, path, to="npz", labels={"items": ["a"]})


def test_others_may_read_what_this_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        export(make_model(), tmp_path / "v.safetensors", to="safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "v.safetensors").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("named", "options", "message"),
    [
        ("v.pt", {"to": "pt"}, "to must be one of safetensors, npz, faiss, got 'pt'"),
        ("v.bin", {"to": "npz"}, "the file must be named NAME.npz, got v.bin"),
        ("v.npz", {"to": "npz", "form": "klein"}, "form must be one of tangent, .*, got 'klein'"),
        ("v.npz", {"to": "npz", "index": "hnsw"}, "of an export to faiss, not to npz"),
        ("v.npz", {"to": "npz", "effort": 3}, "of an export to faiss, not to npz"),
        ("v.faiss", {"to": "faiss", "form": "lorentz"}, "of the form euclidean or inner-product"),
        ("v.faiss", {"to": "faiss", "index": "tree"}, "index must be one of flat, hnsw, ivf"),
        ("v.faiss", {"to": "faiss", "index": "ivf", "effort": 0}, "at least 1, got 0"),
        ("v.faiss", {"to": "faiss", "index": "flat", "effort": 9}, "flat looks at every item"),
        ("v.faiss", {"to": "faiss", "k": 41}, "k must be in 1 … 40"),
        ("v.faiss", {"to": "faiss", "k": 0}, "k must be in 1 … 40"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(tmp_path, named, options, message):
    if options["to"] == "faiss":
        pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    with pytest.raises(ValueError, match=message):
        export(make_model(), tmp_path / named, **options)
    assert not list(tmp_path.iterdir())


def test_forms_refuse():
    points = make_model().points()[0]
    with pytest.raises(ValueError, match="form must be one of .*, got 'klein'"):
        item_vectors(points, "klein")
    with pytest.raises(ValueError, match="needs the scale of its items"):
        user_vectors(points, "euclidean")


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "v.npz"
    export(make_model(), path, to="npz")
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez", lambda *a, **b: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        export(make_model(omega=0.4), path, to="npz")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_written_is_one_kind_of_error(tmp_path):
    """The libraries have kinds of their own; /dev/full is a disk without space."""
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="v.safetensors cannot be written: .*No such file"):
        checkpoint.replace(
            tmp_path / "v.safetensors",
            lambda path: save_file({"x": np.zeros(3)}, path.parent / "absent" / "v"),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    with pytest.raises(OSError, match="the index cannot be written"):
        indices.write(indices.build(torch.zeros(2**16, 2), "flat"), full)


def test_without_faiss_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[faiss\]'"):
        export(make_model(), tmp_path / "v.faiss", to="faiss")
    assert not list(tmp_path.iterdir())


# Indices

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")


@pytest.fixture(scope="module")
def wide() -> hdrm.HDRM:
    """5,000 items; points at distances of about 1, as trained ones."""
    config = CONFIG.replace(dim=33, curvature=1.0, layers=1)
    return make_model(400, 5000, config, width=0.2, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("form", ["euclidean", "inner-product"])
def test_an_index_of_few_items_is_exact(tmp_path, kind, form):
    model = make_model(dtype=torch.float32)
    path = tmp_path / "items.faiss"
    made = export(model, path, to="faiss", form=form, index=kind, k=7)
    beside = tmp_path / "items.safetensors", tmp_path / "items.labels.json"
    assert made.files == (path, *beside) and made.recall == 1.0 and made.users == 60
    assert sorted(tmp_path.iterdir()) == sorted(made.files)
    arrays, metadata = read(beside[0])
    assert metadata["form"] == form
    assert json.loads(metadata["index"]) == {"kind": kind, "recall@7": 1.0}
    index = faiss.read_index(str(path))
    assert index.ntotal == 40 and index.d == 9
    assert indices.recall(model, index, form, 40) == 1.0, "though nobody has 40 unseen items"
    users = torch.arange(60)
    found = indices.search(
        index, torch.from_numpy(arrays["users"]), 7, model.graph.user_items.rows(users)
    )
    expected = model.recommend(users, 7)[0]
    if form == "inner-product":  # float32 may swap neighbours
        found, expected = found.sort(1).values, expected.sort(1).values
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("hnsw", 0.97), ("ivf", 0.9)])
def test_recall_of_5000_items(wide, kind, least):
    vectors = item_vectors(wide.points()[1], "euclidean")
    index = indices.build(vectors, kind)
    found = indices.recall(wide, index, "euclidean", 10, sample=300)
    assert least <= found <= 1.0


def test_hnsw_finds_little_by_inner_product(wide):
    """Why there is a Euclidean form."""
    vectors = item_vectors(wide.points()[1], "inner-product")
    index = indices.build(vectors, "hnsw", inner_product=True)
    assert indices.recall(wide, index, "inner-product", 10, sample=300) < 0.6


def test_recall_is_the_share_that_is_found(wide):
    """Against sets in a loop, of an index that is poor on purpose and that misses items."""
    vectors = item_vectors(wide.points()[1], "euclidean")
    index = indices.build(vectors, "ivf", effort=1)
    found = indices.recall(wide, index, "euclidean", 10, sample=wide.num_users)
    queries = user_vectors(wide.points()[0], "euclidean", scale=scale_of(wide.points()[1]))
    hits = 0
    for user in range(wide.num_users):
        seen = set(wide.graph.user_items.row(user).tolist())
        near = index.search(queries[user : user + 1].numpy(), 10 + len(seen))[1][0].tolist()
        near = [item for item in near if item >= 0 and item not in seen][:10]
        hits += len(set(near) & set(wide.recommend(user, 10)[0][0].tolist()))
    assert found < 0.9
    # A block's users fetch as many items as the one of them who has seen most.
    assert hits / (10 * wide.num_users) == pytest.approx(found, abs=0.01)


def test_effort_is_stored_in_the_index(tmp_path, wide):
    for kind, name in (("hnsw", "efSearch"), ("ivf", "nprobe")):
        found = {}
        for effort in (2, 5):
            path = tmp_path / "items.faiss"
            made = export(wide, path, to="faiss", index=kind, effort=effort)
            index = faiss.read_index(str(path))
            assert getattr(index.hnsw if kind == "hnsw" else index, name) == effort
            found[effort] = made.recall
        assert found[2] < found[5], "more effort finds more"


def test_search_leaves_out_what_was_seen_and_says_where_nothing_is_left():
    vectors = torch.arange(5.0)[:, None]
    index = indices.build(vectors, "flat")
    seen = hdrm.CSR.from_pairs([0, 0, 1, 1, 1, 1], [0, 2, 0, 1, 2, 3], 3, 5)
    found = indices.search(index, torch.tensor([[0.0], [0.0], [3.2]]), 3, seen)
    assert found.tolist() == [[1, 3, 4], [4, -1, -1], [3, 4, 2]]
    assert indices.search(index, torch.zeros(1, 1), 7, seen.rows(torch.tensor([2]))).tolist() == [
        [0, 1, 2, 3, 4, -1, -1]
    ]


def test_the_command(tmp_path, monkeypatch, capsys):
    make_model(dtype=torch.float32).save(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"source": "demo", "fingerprint": "0"}))
    names = {"users": [f"u{i}" for i in range(60)], "items": [f"i{i}" for i in range(40)]}
    (tmp_path / "labels.json").write_text(json.dumps(names))

    def command(*args):
        monkeypatch.setattr(sys, "argv", ["hdrm", "export", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    code, out, _ = command(tmp_path, "--to", "faiss", "-o", tmp_path / "a.faiss", "-k", "5")
    assert code == 0
    assert "recall@5 against the exact ranking: 1.0000 (60 users" in out
    assert "euclidean: " in out and str(tmp_path / "a.faiss") in out
    assert json.loads((tmp_path / "a.labels.json").read_text()) == names
    for args, words in (
        (("--to", "faiss", "-o", "a.index"), "the file must be named NAME.faiss, got a.index"),
        (("--to", "onnx", "-o", "a.onnx"), "to must be one of safetensors, npz, faiss, got 'onnx'"),
    ):
        code, _, err = command(tmp_path, *args)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and words in err
