"""What a mistake in Python is answered with: one table of calls, the exception and its message.

A message says what was expected, what came, and where it is not plain what to do.
tests/test_errors_files.py has files, the command line and the environment.
"""

from __future__ import annotations

import re

import geoopt
import numpy as np
import pytest
import torch

from hdrm import CSR, HDRM, BipartiteGraph, Lorentz, ops, optim
from hdrm.config import Config, parse_assignments
from hdrm.memory import keep, parse_bytes
from hdrm.train.evaluate import evaluate
from hdrm.train.plan import Sizes

X, Y = torch.zeros(5, 4), torch.zeros(3, 4)
META = torch.zeros(5, 4, device="meta")
GRAPH = BipartiteGraph.from_interactions([0, 1, 1], [0, 1, 2], 2, 3)
SEEN = GRAPH.user_items  # 2 × 3
T, BAR = torch.zeros(5, dtype=torch.int64), torch.linspace(0.9, 0.1, 8)
USER = torch.tensor([0])
INT32 = torch.zeros(2, dtype=torch.int32)
NAN, INF = float("nan"), float("inf")
SMALL = Config(dim=4, hidden=(4,), layers=1, steps=2, sampling_steps=1)


def model(graph=GRAPH) -> HDRM:
    made = HDRM(2, 3, SMALL).eval()
    if graph is not None:
        made.set_graph(graph)
    return made


def point(x=X, manifold=None):
    return geoopt.ManifoldParameter(x.clone(), manifold=manifold or Lorentz())


def sgd(*args, **named):
    return optim.RiemannianSGD(args or [point()], **{"lr": 0.1, **named})


def adam(*args, **named):
    return optim.RiemannianAdam(args or [point()], **named)


def noise(z0=X, t=T, bar=BAR, **named):
    return ops.directional_noise(z0, t, bar, **named)


def sgd_step(x, grad=X, buffer=None, **named):
    return ops.riemannian_sgd_step_(x, grad, buffer, lr=0.1, **named)


def adam_step(square=X[:, :1], **named):
    named = {"step": 1, "lr": 0.1, **named}
    return ops.riemannian_adam_step_(X.clone(), X, X.clone(), square.clone(), **named)


DENSE = "must be a tensor, got {}"
FLOATS = r"u must be float32 or float64, got torch\.{}; convert it with \.float\(\)"
ROWS = r"must have shape \(\.\.\., d\+1\) with d >= 1, time coordinate first; got {}"
MATRIX = r"must have shape \(n, d\+1\), got {}"
POINTS = "16 bits cannot hold a point.*Keep tangent vectors in 16 bits"
CURVATURE = "c must be positive and finite .*, got {}"
WHOLE = "{} must be a whole number, got {}"
NO_CSR = r"exclude must be a CSR, got {}; CSR\.from_pairs builds one"
IDS = "{} must be one-dimensional integer ids, got {}"
RANGE = "{} must be in 0 … {}, got {}"
K = r"k must be in 1 … 3 \(items\), got {}"
K_NUMBER = r"k must be positive and finite \(the space has curvature -1/k\), got {}"
AT_LEAST = "{} must be at least {}, got {}"
NESTED = r"items must be a list of item ids for every user, such as \[\[1, 5, 9\]\]"

OPS = [
    ("a list", lambda: ops.expmap0([0.0, 1.0]), TypeError, "expmap0: u " + DENSE.format("list")),
    ("an array", lambda: ops.expmap0(np.ones((2, 3))), TypeError, DENSE.format("ndarray")),
    ("no tensor", lambda: ops.transport(X, X, None), TypeError, "v " + DENSE.format("NoneType")),
    ("integers", lambda: ops.expmap0(X.long()), TypeError, FLOATS.format("int64")),
    ("complex", lambda: ops.expmap0(X.cfloat()), TypeError, FLOATS.format("complex64")),
    ("booleans", lambda: ops.expmap0(X.bool()), TypeError, FLOATS.format("bool")),
    ("sparse", lambda: ops.expmap0(X.to_sparse()), TypeError, r"must be a dense.*\.to_dense\(\)"),
    ("a number", lambda: ops.expmap0(torch.tensor(1.0)), ValueError, ROWS.format(r"\(\)")),
    ("no space", lambda: ops.expmap0(X[:, :1]), ValueError, ROWS.format(r"\(5, 1\)")),
    ("bfloat16 points", lambda: ops.logmap0(X.bfloat16()), TypeError, POINTS),
    ("float16 points", lambda: ops.distance(X.half(), X.half()), TypeError, POINTS),
    ("c = 0", lambda: ops.expmap0(X, c=0), ValueError, CURVATURE.format("0")),
    ("c < 0", lambda: ops.logmap(X, X, c=-1.0), ValueError, CURVATURE.format("-1.0")),
    ("c NaN", lambda: ops.distance(X, X, c=NAN), ValueError, CURVATURE.format("nan")),
    ("c infinite", lambda: ops.project(X, c=INF), ValueError, CURVATURE.format("inf")),
    ("c a tensor", lambda: ops.expmap0(X, c=BAR[0]), TypeError, r"pass c=float\(c\)"),
    ("c a text", lambda: ops.expmap0(X, c="1"), TypeError, "c must be a number, got str"),
    ("c None", lambda: ops.expmap0(X, c=None), TypeError, "c must be a number, got NoneType"),
    ("widths", lambda: ops.distance(X, X[:, 1:]), ValueError,
     r"x and y must have the same width d\+1, got \(5, 4\) and \(5, 3\)"),
    ("dtypes", lambda: ops.distance(X, X.double()), TypeError,
     r"x is torch\.float32, y is torch\.float64; convert one of them"),
    ("devices", lambda: ops.sqdist(X, META), ValueError,
     "x is on cpu, y on meta; move both to one device"),
    ("no broadcast", lambda: ops.expmap(X, Y), ValueError,
     r"expmap: the shapes do not broadcast: x \(5, 4\), v \(3, 4\)"),
    ("16 and 32 bits", lambda: ops.sqdist0(X, X.half()), TypeError, r"v is torch\.float16"),
    ("propagate: a CSR", lambda: ops.propagate(X, SEEN, 2), TypeError,
     r"must be a BipartiteGraph, got CSR; BipartiteGraph\.from_interactions builds one"),
    ("propagate: rows", lambda: ops.propagate(Y, GRAPH, 2), ValueError,
     r"one row per node, 5 \(2 users \+ 3 items\), got \(3, 4\)"),
    ("propagate: L = 0", lambda: ops.propagate(X, GRAPH, 0), ValueError,
     AT_LEAST.format("num_layers", 1, 0)),
    ("propagate: L = 1.5", lambda: ops.propagate(X, GRAPH, 1.5), TypeError,
     WHOLE.format("num_layers", 1.5)),
    ("propagate: a cube", lambda: ops.propagate(X[None], GRAPH, 2), ValueError,
     MATRIX.format(r"\(1, 5, 4\)")),
    ("propagate: space", lambda: ops.propagate(X, GRAPH, 2, space="ball"), ValueError,
     "space must be 'tangent' or 'lorentz', got 'ball'"),
    ("propagate: combine", lambda: ops.propagate(X, GRAPH, 2, combine="max"), ValueError,
     "combine must be 'sum' or 'mean', got 'max'"),
    ("propagate: normalization", lambda: ops.propagate(X, GRAPH, 2, normalization="column"),
     ValueError, "normalization must be 'row' or 'symmetric', got 'column'"),
    ("propagate: device", lambda: ops.propagate(META, GRAPH, 2), ValueError,
     r"x is on meta, the graph on cpu; use graph\.to\(x\.device\)"),
    ("propagate: work_dtype", lambda: ops.propagate(X, GRAPH, 2, work_dtype=torch.half), TypeError,
     r"must be torch\.float32 or torch\.bfloat16 where x is torch\.float32, got torch\.float16"),
    ("noise: t float", lambda: noise(t=T.float()), TypeError,
     r"t must be an int64 tensor, got torch\.float32"),
    ("noise: t shorter", lambda: noise(t=T[:3]), ValueError,
     r"t must have shape \(5,\), got \(3,\)"),
    ("noise: t = T", lambda: noise(t=T + 8), (RuntimeError, IndexError), "8|out of"),
    ("noise: ᾱ integer", lambda: noise(bar=T), ValueError,
     r"alpha_bar must be a floating point vector \(T,\), got torch\.int64 of shape \(5,\)"),
    ("noise: ᾱ a matrix", lambda: noise(bar=BAR[None]), ValueError, r"of shape \(1, 8\)"),
    ("noise: ᾱ a list", lambda: noise(bar=[0.9]), TypeError, "alpha_bar " + DENSE.format("list")),
    ("noise: seed 0.5", lambda: noise(seed=0.5), TypeError, "must be an int, None or a tensor"),
    ("noise: seed 2⁶⁴", lambda: noise(seed=2**64), ValueError, "fit in 64 bits, got 18446744"),
    ("noise: two seeds", lambda: noise(seed=T[:2]), TypeError, r"of shape \(1,\).*\(2,\)"),
    ("noise: one statistic", lambda: noise(statistics=X[0]), TypeError, "two tensors, mean and"),
    ("noise: lists", lambda: noise(statistics=([0.0], [1.0])), TypeError, "two tensors"),
    ("noise: statistics' width", lambda: noise(statistics=(X[0, :2], X[0, :2])), ValueError,
     r"mean must have shape \(4,\), got \(2,\)"),
    ("noise: statistics' dtype", lambda: noise(statistics=(X[0].double(), X[0].double())),
     TypeError, r"mean is torch\.float64; convert"),
    ("noise: growth", lambda: noise(growth=NAN), ValueError, "at least 0 and finite, got nan"),
    ("statistics of none", lambda: ops.column_statistics(X[:0]), ValueError, "at least one row"),
    ("statistics of a row", lambda: ops.column_statistics(X[0]), ValueError, MATRIX.format(r"\(4,\)")),
    ("loss: margin", lambda: ops.margin_ranking_loss(X, X, X, -0.1), ValueError,
     AT_LEAST.format("margin", 0, -0.1)),
    ("loss: reduction", lambda: ops.margin_ranking_loss(X, X, X, 0.1, reduction="none"),
     ValueError, "reduction must be 'mean' or 'sum', got 'none'"),
    ("loss: shapes", lambda: ops.margin_ranking_loss(X, X, Y, 0.1), ValueError, r"neg \(3, 4\)"),
    ("topk: k = 0", lambda: ops.topk(X, Y, 0), ValueError, K.format(0)),
    ("topk: k > I", lambda: ops.topk(X, Y, 4), ValueError, K.format(4)),
    ("topk: k = 1.5", lambda: ops.topk(X, Y, 1.5), TypeError, WHOLE.format("k", 1.5)),
    ("topk: a tensor", lambda: ops.topk(X, Y, 1, exclude=X), TypeError, NO_CSR.format("Tensor")),
    ("topk: users", lambda: ops.topk(X, Y, 1, exclude=SEEN), ValueError,
     r"one row per user, 5, got 2; exclude\.rows\(index\) picks rows"),
    ("topk: items", lambda: ops.topk(X[:2], X, 1, exclude=SEEN), ValueError,
     "exclude has 3 columns, but there are 5 items"),
    ("topk: widths", lambda: ops.topk(X, Y[:, 1:], 1), ValueError, r"got \(5, 4\) and \(3, 3\)"),
    ("topk: one row", lambda: ops.topk(X[0], Y, 1), ValueError, MATRIX.format(r"\(4,\)")),
    ("negatives: user", lambda: ops.sample_negatives(USER + 2, SEEN), ValueError,
     RANGE.format("users", 1, 2)),
    ("negatives: a list", lambda: ops.sample_negatives([0], SEEN), TypeError, "int64 tensor, got list"),
    ("negatives: none", lambda: ops.sample_negatives(USER, SEEN, 0), ValueError,
     AT_LEAST.format("num", 1, 0)),
    ("negatives: 1.5", lambda: ops.sample_negatives(USER, SEEN, 1.5), TypeError,
     WHOLE.format("num", 1.5)),
    ("negatives: all seen", lambda: ops.sample_negatives(USER, CSR.from_pairs([0], [0], 1, 1)),
     ValueError, "user 0 has seen all 1 items; leave that user out"),
    ("negatives: a graph", lambda: ops.sample_negatives(USER, GRAPH), TypeError,
     NO_CSR.format("BipartiteGraph")),
    ("sgd step: shapes", lambda: sgd_step(X.clone(), Y), ValueError,
     r"grad must have x's shape \(5, 4\), got \(3, 4\)"),
    ("sgd step: strides", lambda: sgd_step(torch.zeros(4, 5).t()), ValueError,
     "x is updated in place and must be contiguous"),
    ("sgd step: no buffer", lambda: sgd_step(X.clone(), momentum=0.9), ValueError,
     r"momentum = 0\.9 needs a momentum_buffer of x's shape"),
    ("adam step: square", lambda: adam_step(X), ValueError,
     r"exp_avg_sq must be contiguous of shape \(5, 1\), got \(5, 4\)"),
    ("adam step: step 0", lambda: adam_step(step=0), ValueError, AT_LEAST.format("step", 1, 0)),
    ("adam step: betas", lambda: adam_step(betas=(1.0, 2.0)), ValueError, r"in \[0, 1\), got \(1"),
    ("a backend", lambda: ops.use_backend("gpu").__enter__(), RuntimeError,
     r"asks for the backend 'gpu'; there are:\s+reference: available"),
]  # fmt: skip

GRAPHS = [
    ("CSR: floats", lambda: CSR.from_pairs([0.5], [1], 2, 2), TypeError, IDS.format("rows", "float64")),
    ("CSR: texts", lambda: CSR.from_pairs(["a"], [0], 1, 1), TypeError, IDS.format("rows", "<U1")),
    ("CSR: a matrix", lambda: CSR.from_pairs([[0]], [0], 1, 1), TypeError, r"of shape \(1, 1\)"),
    ("CSR: ragged", lambda: CSR.from_pairs([[0], [1, 2]], [0], 1, 1), TypeError, "got nested lists"),
    ("CSR: lengths", lambda: CSR.from_pairs([0, 1], [1], 2, 2), ValueError,
     "one id of each kind is needed per interaction, got 2 and 1"),
    ("CSR: negative", lambda: CSR.from_pairs([-1], [1], 2, 2), ValueError,
     "rows must not be negative, got -1 at 0"),
    ("CSR: too large", lambda: CSR.from_pairs([0, 1], [0, 2], 2, 2), ValueError,
     "cols must be below 2, got 2 at position 1"),
    ("CSR: size", lambda: CSR.from_pairs([], [], -1, 1), ValueError,
     "the number of rows must be a whole number from 0, got -1"),
    ("CSR: lists", lambda: CSR([0, 1], [0], 1), TypeError,
     r"rowptr must be a tensor, got list; CSR\.from_pairs builds"),
    ("CSR: dtype", lambda: CSR(T[:2], T[:0], 1), TypeError,
     r"col must be a 1-d torch\.int32 tensor, got torch\.int64 of shape \(0,\)"),
    ("CSR: descending", lambda: CSR(torch.tensor([0, 2, 1]), INT32, 1), ValueError,
     r"rowptr must ascend within 0 … 2 \(col's length\), got 0 … 2, ending at 1"),
    ("CSR: columns", lambda: CSR(torch.tensor([0, 2]), INT32 + 5, 2), ValueError,
     "columns must be in 0 … 1, got 5 … 5"),
    ("CSR: no rows", lambda: CSR(T[:0], INT32, 2), ValueError, r"num_rows \+ 1 entries, got none"),
    ("CSR: union", lambda: SEEN.union(CSR.from_pairs([0], [0], 1, 1)), ValueError,
     "matrices of one size, got 2 × 3 and 1 × 1"),
    ("graph: duplicates", lambda: BipartiteGraph.from_interactions([0], [0], duplicates="sum"),
     ValueError, "must be 'collapse' or 'keep', got 'sum'"),
    ("graph: too large", lambda: BipartiteGraph.from_interactions([3], [0], 2, 2), ValueError,
     "users must be below 2, got 3 at position 0"),
    ("graph: nodes", lambda: BipartiteGraph.from_interactions([0], [0], 2**31, 2), ValueError,
     "2,147,483,650 nodes, more than int32 columns number"),
    ("graph: booleans", lambda: BipartiteGraph.from_interactions([True], [0]), TypeError,
     IDS.format("users", "bool")),
    ("graph: size", lambda: BipartiteGraph.from_interactions([0], [0], "2", 2), ValueError,
     "the number of users must be a whole number from 0, got '2'"),
    ("graph: sizes", lambda: BipartiteGraph(GRAPH.rowptr, GRAPH.col, 3, 2, SEEN), ValueError,
     r"user_items must describe 3 rows and 2 columns, got 2 and 3"),
    ("graph: short", lambda: BipartiteGraph.from_adjacency(GRAPH.rowptr[:3], GRAPH.col, 2, 3),
     ValueError, "rowptr must describe 5 rows and 5 columns, got 2 and 5"),
]  # fmt: skip

OPTIMISERS = [
    ("lr", lambda: sgd(lr=-1), ValueError, "lr must not be negative, got -1"),
    ("momentum", lambda: sgd(momentum=-1), ValueError, "momentum must not be negative, got -1"),
    ("nesterov", lambda: sgd(nesterov=True), ValueError,
     "nesterov needs momentum > 0 and dampening = 0, got momentum 0"),
    ("no parameters", lambda: optim.RiemannianSGD([], lr=1), ValueError, "empty parameter list"),
    ("amsgrad", lambda: adam(amsgrad=True), ValueError,
     r"use amsgrad=False, or geoopt\.optim\.RiemannianAdam"),
    ("betas", lambda: adam(betas=(1.0, 0.9)), ValueError, r"two numbers in \[0, 1\), got \(1\.0, 0"),
    ("one beta", lambda: adam(betas=0.9), ValueError, r"two numbers in \[0, 1\), got 0\.9"),
    ("eps", lambda: adam(eps=-1), ValueError, "eps must not be negative, got -1"),
    ("weight decay", lambda: adam(weight_decay=-1), ValueError, "weight_decay must not be negative"),
    ("a ball", lambda: adam(point(manifold=geoopt.PoincareBall())), ValueError,
     r"Lorentz and Euclidean parameters, got one on PoincareBall.*use geoopt\.optim"),
    ("strides", lambda: adam(geoopt.ManifoldParameter(torch.zeros(4, 5).t(), manifold=Lorentz())),
     ValueError, r"strides \(1, 5\) cannot be updated in place; build it from data\.contiguous\(\)"),
    ("learnable", lambda: Lorentz(learnable=True), ValueError, "cannot learn its curvature.*use"),
    ("k = 0", lambda: Lorentz(0.0), ValueError, K_NUMBER.format(0.0)),
    ("k < 0", lambda: Lorentz(-2.0), ValueError, K_NUMBER.format(-2.0)),
    ("k infinite", lambda: Lorentz(INF), ValueError, K_NUMBER.format("inf")),
    ("two k", lambda: Lorentz(torch.ones(2)), ValueError, r"one number, got a tensor of shape \(2,\)"),
    ("k a text", lambda: Lorentz("1"), TypeError, "k must be a number or a tensor of one, got str"),
    ("manifold's dtypes", lambda: Lorentz().dist(X, X.double()), TypeError, "distance: x is"),
]  # fmt: skip

SETTINGS = [
    ("dim", lambda: Config(dim=1), ValueError, AT_LEAST.format("dim", 2, 1)),
    ("dim 2.5", lambda: Config(dim=2.5), TypeError, r"dim must be int, got 2\.5"),
    ("dim True", lambda: Config(dim=True), TypeError, "dim must be int, got True"),
    ("curvature", lambda: Config(curvature=0), ValueError, r"curvature must be above 0, got 0\.0"),
    ("curvature ∞", lambda: Config(curvature=INF), ValueError, "must be finite, got inf"),
    ("curvature NaN", lambda: Config(curvature=NAN), ValueError, "must be above 0, got nan"),
    ("users", lambda: Config(users="both"), ValueError, "one of table, items, mean, got"),
    ("hidden", lambda: Config(hidden=(8, 0)), ValueError, r"widths must be at least 1, got \[8, 0\]"),
    ("hidden 8", lambda: Config(hidden=8), TypeError, "hidden must be a list of integers, got 8"),
    ("dropout", lambda: Config(dropout=1.5), ValueError, "at least 0 and at most 1, got 1.5"),
    ("dropout 1", lambda: HDRM(2, 3, SMALL.replace(dropout=1.0)), ValueError, "below 1, got 1.0"),
    ("noise_max", lambda: HDRM(2, 3, SMALL.replace(noise_max=1.5)), ValueError,
     "0 < noise_scale·noise_min ≤ noise_scale·noise_max < 1, got 0.001 and 1.5"),
    ("a flag", lambda: Config(sampling_noise=1), TypeError, "sampling_noise must be bool, got 1"),
    ("omega", lambda: Config(omega="auto"), TypeError, "omega must be float or null, got 'auto'"),
    ("sampling_steps", lambda: Config(steps=3, sampling_steps=4), ValueError,
     "must not exceed steps = 3, got 4"),
    ("fanouts", lambda: Config(propagation="sampled", fanouts=(5,)), ValueError,
     r"fanouts must be 3 numbers, one of each of the layers, got \[5\]"),
    ("sampled softmax", lambda: Config(propagation="sampled", loss="softmax"), ValueError,
     "loss = softmax needs propagation = full"),
    ("host without users", lambda: Config(tables_on="host", users="items"), ValueError,
     "users = items needs tables_on = device"),
    ("sampled means", lambda: Config(propagation="sampled", users="mean"), ValueError,
     "users = mean needs propagation = full"),
    ("training_omega", lambda: Config(training_omega=0.5), ValueError, "needs conditioning = pair"),
    ("unknown", lambda: SMALL.replace(colour=1), ValueError, "unknown setting colour; there are: act"),
    ("no object", lambda: Config.from_json("[1]"), ValueError, "is a JSON object, got list"),
    ("no value", lambda: parse_assignments(("dim",)), ValueError, "expected key=value, got 'dim'"),
    ("no key", lambda: parse_assignments(("=3",)), ValueError, "expected key=value, got '=3'"),
    ("a word", lambda: parse_assignments(("dim=wide",)), TypeError, "dim must be int, got 'wide'"),
    ("a list", lambda: parse_assignments(("hidden=8,x",)), TypeError, r"integers, got \[8, 'x'\]"),
    ("yes", lambda: parse_assignments(("sampling_noise=yes",)), TypeError, "must be bool, got 'yes'"),
    ("memory", lambda: parse_bytes("lots"), ValueError, "such as 8GiB or 500MB, got 'lots'"),
    ("too much", lambda: parse_bytes("1e30"), ValueError, "such as 8GiB or 500MB, got '1e30'"),
    ("kept", lambda: keep(-1), ValueError, "num_bytes must not be negative, got -1"),
    ("plan", lambda: Sizes(0, 1, 1), ValueError, AT_LEAST.format("num_users", 1, 0)),
]  # fmt: skip

MODEL = [
    ("no users", lambda: HDRM(0, 3, SMALL), ValueError, "num_users must be a whole number from 1, got 0"),
    ("a text", lambda: HDRM(2, "3", SMALL), ValueError, "num_items must be a whole.* got '3'"),
    ("settings", lambda: HDRM(2, 3, {"dim": 4}), TypeError, r"hdrm\.config\.Config, got dict"),
    ("no graph", lambda: HDRM(2, 3, SMALL).set_graph(None), TypeError, "BipartiteGraph, got NoneType"),
    ("another graph", lambda: HDRM(4, 3, SMALL).set_graph(GRAPH), ValueError,
     "the model has 4 users and 3 items, the graph 2 and 3"),
    ("before set_graph", lambda: model(None).recommend(0, 1), RuntimeError, r"call set_graph\(graph\)"),
    ("training", lambda: model().train().recommend(0, 1), RuntimeError, r"call eval\(\) before"),
    ("user", lambda: model().recommend([2], 1), ValueError, RANGE.format("users", 1, "2 … 2")),
    ("user -1", lambda: model().recommend(-1, 1), ValueError, RANGE.format("users", 1, "-1 … -1")),
    ("user 0.5", lambda: model().recommend([0.5], 1), TypeError, IDS.format("users", "torch.float32")),
    ("user '7'", lambda: model().recommend("7", 1), TypeError, "users must be integer ids, got str"),
    ("user None", lambda: model().recommend(None, 1), TypeError, "integer ids, got NoneType"),
    ("k", lambda: model().recommend([0], 4), ValueError, K.format(4)),
    ("k 1.0", lambda: model().recommend([0], 1.0), TypeError, WHOLE.format("k", 1.0)),
    ("exclude", lambda: model().recommend([1], 1, exclude=CSR.from_pairs([0], [0], 1, 3)),
     ValueError, "exclude must be a CSR of 2 users × 3 items"),
    ("exclude a list", lambda: model().recommend([1], 1, exclude=[0]), ValueError, "must be a CSR of"),
    ("fold_in: flat", lambda: model().fold_in([1, 2]), TypeError, NESTED),
    ("fold_in: None", lambda: model().fold_in(None), TypeError, NESTED),
    ("fold_in: item", lambda: model().fold_in([[3]]), ValueError, RANGE.format("items", 2, "3 … 3")),
    ("fold_in: 0.5", lambda: model().fold_in([[0.5]]), TypeError, IDS.format("items", "torch.float64")),
    ("fold_in: CSR", lambda: model().fold_in(CSR.from_pairs([0], [0], 1, 2)), ValueError,
     "items has 2 columns, the model 3 items"),
    ("recommend_for: k", lambda: model().recommend_for([[0]], 9), ValueError, K.format(9)),
    ("similar: item", lambda: model().similar_items([3], 1), ValueError,
     RANGE.format("items", 2, "3 … 3")),
    ("similar: k", lambda: model().similar_items([0], 7), ValueError, K.format(7)),
    ("load", lambda: HDRM.load("nowhere"), FileNotFoundError,
     "nowhere is not a run of `hdrm train`: there is no such folder"),
    ("save", lambda: model().save("nowhere"), OSError, r"model\.safetensors cannot be written: No such"),
    ("evaluate", lambda: evaluate((X[:2], Y), CSR.from_pairs([], [], 2, 3)), ValueError,
     "no user has a relevant item"),
]  # fmt: skip

TABLE = [
    pytest.param(*rest, id=f"{part}: {name}")
    for part, rows in (
        ("ops", OPS),
        ("graph", GRAPHS),
        ("optimiser", OPTIMISERS),
        ("setting", SETTINGS),
        ("model", MODEL),
    )
    for name, *rest in rows
]


@pytest.mark.parametrize(("call", "exception", "message"), TABLE)
def test_a_mistake_is_answered(call, exception, message):
    with pytest.raises(exception) as caught:
        call()
    text = " ".join(str(caught.value).split())
    assert re.search(message, text), text
    # Neither Python's nor torch's own words about what went wrong inside.
    assert not re.search("not supported between|has no attribute|Declaration:|unpack", text), text
