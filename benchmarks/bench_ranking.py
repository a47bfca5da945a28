"""The hinge loss, exact top-k over all items, and negative sampling."""

from __future__ import annotations

import graphs
import numpy as np
import torch
from harness import (
    DEVICE,
    OURS,
    SMALL,
    WIDTHS,
    Group,
    LeftOut,
    assert_close,
    peer_rows,
    reference,
    rows,
    scaled,
    tangent_rows,
    with_backward,
)
from peers import authors, topk

from hdrm import ops
from hdrm.accuracy.peers import Authors

MODES = ("forward", "forward+backward")
MARGIN = 0.1
BATCH = scaled(20_000)
K = 20
SIZES = (1, 10, 1_000) if SMALL else (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
SOME = 200  # users of the rows that take long
CHECKED = 64  # users whose ranking is compared with the reference


def loss_guarded(case) -> bool:
    return case[2] == 64


@rows(
    [(mode, BATCH, width) for width in WIDTHS for mode in MODES],
    [*OURS, "authors", "authors compiled"],
    loss_guarded,
)
def test_loss(measured, case, peer):
    measured(loss, case, peer)


@rows([(mode, n, 64) for n in SIZES for mode in MODES], [*OURS, "authors"])
def test_loss_sizes(measured, case, peer):
    measured(loss, case, peer)


@rows(
    [(name, width, None) for name in graphs.REAL for width in WIDTHS],
    [*OURS, *topk.PEERS],
    lambda case: case == ("ML-1M", 64, None),
)
def test_topk(measured, case, peer):
    measured(ranking, case, peer)


@rows([(name, width, SOME) for name in graphs.REAL for width in WIDTHS], [*OURS, "authors"])
def test_topk_of_some_users(measured, case, peer):
    """The authors' loop over users takes minutes for all of them."""
    measured(ranking, case, peer)


@rows(graphs.REAL, [*OURS, "authors", "NumPy"], lambda case: case == "ML-1M")
def test_negatives(measured, case, peer):
    measured(negatives, case, peer)


def loss(case) -> Group:
    mode, num_rows, width = case
    inputs = [tangent_rows(num_rows, width, seed) for seed in range(3)]

    def ours(u, pos, neg):
        return ops.margin_ranking_loss(u, pos, neg, MARGIN)

    def theirs(u, pos, neg):
        return authors.margin_ranking_loss(u, pos, neg, MARGIN)

    one = torch.ones(())
    num_bytes = 3 * inputs[0].numel() * 4
    if mode == "forward+backward":
        num_bytes *= 3
        wide = [tensor.double() for tensor in inputs]
        expected = reference(lambda: with_backward(ours, *wide, weights=one.double())())

        def time(function):
            return with_backward(function, *inputs, weights=one)

        def check(gradients):
            # A pair within rounding of the hinge's corner may fall on either side of it.
            for found, wanted in zip(gradients, expected):
                differs = ((found - wanted).abs() > 1e-3 * wanted.abs().max()).any(1)
                assert differs.sum() <= 1 + num_rows // 10_000, f"{int(differs.sum())} rows differ"
    else:
        expected = reference(ours, *inputs)

        def time(function):
            return lambda: function(*inputs)

        def check(found):
            assert_close(found, expected, tolerance=1e-4)

    return Group(
        "ranking loss", mode, f"{num_rows:,} × {width}", peer_rows(ours, {"authors": theirs}, time),
        check, num_bytes if num_rows * width >= 100_000 else None,
        info={"rows": num_rows, "width": width},
    )  # fmt: skip


def ranking(case) -> Group:
    """Users, all or the first few, against all items, training items masked; rows return ids (U, K)."""
    name, width, num_users = case
    graph = graphs.graph(name)
    seen, num_items = graph.user_items, graph.num_items
    num_users = num_users or (500 if SMALL else graph.num_users)
    if num_users < graph.num_users:
        seen = seen.rows(torch.arange(num_users))
    users, items = (ops.expmap0(tangent_rows(n, width, n)) for n in (num_users, num_items))

    def by_authors():
        lists = [seen.row(user).tolist() for user in range(num_users)]
        return lambda: torch.from_numpy(authors.rank(users, items, lists, K))

    makers = {peer: lambda: lambda: ops.topk(users, items, K, exclude=seen)[1] for peer in OURS}
    makers |= {
        peer: lambda make=make: make(users, items, seen, K) for peer, make in topk.PEERS.items()
    }
    makers["authors"] = by_authors
    some = torch.linspace(0, num_users - 1, CHECKED, device="cpu").long().to(DEVICE)
    part = seen.rows(some)
    nearest, _ = reference(lambda u, i: ops.topk(u, i, K, exclude=part), users[some], items)

    def check(ids):
        ids = ids.to(DEVICE)[some]
        for row, found in enumerate(ids):
            assert not torch.isin(found, part.row(row)).any(), "wrong result: a seen item is ranked"
        far = Authors.sqdist(users[some][:, None].double(), items[ids].double(), 1.0).sqrt()
        assert_close(far, nearest)  # ties may come in any order, so distances are compared

    return Group(
        f"top-{K}", "forward", f"{name}, {num_users:,} users × {num_items:,} items, {width}",
        makers, check, info={"width": width, "graph": name},
    )  # fmt: skip


def negatives(name) -> Group:
    """One unseen item for every interaction of an epoch."""
    pairs, _, num_items = graphs.pairs(name)
    seen = graphs.graph(name).user_items
    drawn_for = torch.from_numpy(pairs[: scaled(len(pairs)), 0].copy()).to(DEVICE)

    def by_authors():
        sets = [set(seen.row(user).tolist()) for user in range(seen.num_rows)]
        users = drawn_for.tolist()
        return lambda: torch.tensor(authors.sample_negatives(users, sets, num_items))[:, None]

    def by_numpy():
        """Draw for all, find the seen ones by binary search in the sorted pairs, draw these again."""
        if DEVICE.type != "cpu":
            raise LeftOut("NumPy's arrays are on the CPU")
        keys = np.sort(pairs[:, 0] * num_items + pairs[:, 1])
        users, generator = drawn_for.numpy(), np.random.default_rng(0)

        def call():
            items = generator.integers(0, num_items, len(users))
            redo = np.arange(len(users))
            while len(redo):
                wanted = users[redo] * num_items + items[redo]
                place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
                redo = redo[keys[place] == wanted]
                items[redo] = generator.integers(0, num_items, len(redo))
            return torch.from_numpy(items)[:, None]

        return call

    makers = {peer: lambda: lambda: ops.sample_negatives(drawn_for, seen) for peer in OURS}
    makers |= {"authors": by_authors, "NumPy": by_numpy}
    known = torch.from_numpy(np.unique(pairs[:, 0] * num_items + pairs[:, 1])).to(DEVICE)

    def check(found):
        assert found.shape == (len(drawn_for), 1)
        assert 0 <= int(found.min()) <= int(found.max()) < num_items
        hit = torch.isin(drawn_for * num_items + found[:, 0], known)
        assert not hit.any(), f"wrong result: {int(hit.sum())} draws are seen items"
        # Uniform draws average to about the middle of the ids that are left.
        assert abs(float(found.double().mean()) / num_items - 0.5) < 0.2

    return Group(
        "negative sampling", "one per interaction", f"{name}, {len(drawn_for):,} draws",
        makers, check, info={"graph": name},
    )  # fmt: skip
