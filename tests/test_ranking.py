"""Top-k and the hinge loss against plain rankings and loops."""

from __future__ import annotations

import geoopt
import pytest
import torch
from ops_cases import BACKENDS, CURVATURES, generator, points, tangents

from hdrm import CSR, ops

by_backend = pytest.mark.parametrize("backend", BACKENDS)


def ranking(users, items, k, c, seen=None):
    """Every distance, masked, sorted by (distance, id)."""
    with ops.use_backend("reference"):
        distance = ops.distance(users[:, None], items[None], c=c)
    for user, hidden in enumerate(seen or []):
        distance[user, hidden] = torch.inf
    value, index = torch.sort(distance, dim=1, stable=True)
    return value[:, :k], torch.where(value[:, :k] < torch.inf, index[:, :k], -1)


@by_backend
@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("k", [1, 7, 60])
def test_topk_is_the_full_ranking(backend, c, k):
    users, items = points(23, 9, c), points(60, 9, c, seed=1)
    with ops.use_backend(backend):
        value, index = ops.topk(users, items, k, c=c)
    expected_value, expected_index = ranking(users, items, k, c)
    assert torch.equal(index, expected_index)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-14)


@by_backend
def test_topk_leaves_out_what_is_excluded(backend):
    users, items = points(5, 6, 1.0), points(8, 6, 1.0, seed=1)
    seen = [[], [0], list(range(8)), list(range(7)), [1, 3, 5]]
    pairs = [(u, i) for u, hidden in enumerate(seen) for i in hidden]
    exclude = CSR.from_pairs(*zip(*pairs), 5, 8)
    with ops.use_backend(backend):
        value, index = ops.topk(users, items, 4, exclude=exclude)
    expected_value, expected_index = ranking(users, items, 4, 1.0, seen)
    assert torch.equal(index, expected_index)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-14)
    assert index[2].tolist() == [-1] * 4 and (value[2] == torch.inf).all()
    assert index[3].tolist() == [7, -1, -1, -1]


@by_backend
@pytest.mark.parametrize("radius", [1e-4, 1.0, 9.0, 20.0])
def test_topk_in_float32_where_the_product_cancels(backend, radius):
    """x0·y0 − xs·ys rounds away the order; the exact distance has to restore it."""
    centre = torch.nn.functional.normalize(
        torch.randn(1, 7, generator=generator(), dtype=torch.float64)
    )
    near = torch.randn(300, 7, generator=generator(1), dtype=torch.float64) * 1e-2
    rows = torch.cat([torch.zeros(300, 1), (centre + near) * radius], 1)
    with ops.use_backend("reference"):
        table = ops.expmap0(rows).float()
    users, items = table[:20], table[20:]
    with ops.use_backend(backend):
        value, index = ops.topk(users, items, 10)
        expected = ops.distance(users[:, None], items[None])
    exact = ranking(users.double(), items.double(), 10, 1.0)[0]
    torch.testing.assert_close(value.double(), exact, rtol=3e-5, atol=0)
    # Two compilations of one formula may differ in the last bits, and so in the order of what is
    # as good as equal; nothing further away is taken, and nothing twice.
    order, _ = torch.sort(expected, dim=1)
    torch.testing.assert_close(value, order[:, :10], rtol=1e-6, atol=0)
    torch.testing.assert_close(value, expected.gather(1, index), rtol=1e-6, atol=0)
    assert (value.diff(dim=1) >= 0).all()
    assert all(len(set(row)) == 10 for row in index.tolist())


@by_backend
def test_equal_distances_are_ordered_by_id(backend):
    items = points(4, 5, 1.0, torch.float32)[[0, 1, 0, 2, 0, 1]]
    with ops.use_backend(backend):
        value, index = ops.topk(items[:1], items, 6)
    assert index[0, :3].tolist() == [0, 2, 4]
    assert (value[0].diff() >= 0).all()


@by_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_topk_of_many_equal_items(backend, dtype):
    """More items at the same distance than are wanted: the smaller ids, without those seen."""
    users, some = points(3, 5, 1.0, dtype), points(2, 5, 1.0, dtype, seed=1)
    items = some[torch.arange(120) % 2]
    seen = [list(range(0, 120, 3)), [], list(range(118))]
    pairs = [(u, i) for u, hidden in enumerate(seen) for i in hidden]
    with ops.use_backend(backend):
        value, index = ops.topk(users, items, 3, exclude=CSR.from_pairs(*zip(*pairs), 3, 120))
    near = ranking(users, some, 1, 1.0)[1].flatten().tolist()
    for user in (0, 1):
        allowed = [i for i in range(near[user], 120, 2) if i not in seen[user]]
        assert index[user].tolist() == allowed[:3]
        assert (value[user] == value[user, 0]).all()
    assert sorted(index[2].tolist()) == [-1, 118, 119]


@by_backend
def test_topk_of_many_items_within_the_rounding_of_the_product(backend):
    """Far out, the product cannot tell them apart: all are candidates, and the nearest is the last."""
    angle = torch.linspace(0.03, 0.0, 151, dtype=torch.float64)[:, None] / 27
    rows = torch.cat([0 * angle, 4 * angle.cos(), 4 * angle.sin(), 0 * angle], 1)
    with ops.use_backend("reference"):
        items = ops.expmap0(rows).float()
    with ops.use_backend(backend):
        value, index = ops.topk(items[-1:], items[:-1], 3)
    assert index.tolist() == [[149, 148, 147]]
    exact = ranking(items[-1:].double(), items[:-1].double(), 3, 1.0)[0]
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)


@by_backend
def test_topk_at_the_origin(backend):
    origin = torch.zeros(5, 4)
    with ops.use_backend(backend):
        value, index = ops.topk(origin[:2], origin, 3)
    assert (value == 0).all()
    assert index.tolist() == [[0, 1, 2]] * 2


@by_backend
def test_topk_of_many_users_who_have_seen_much(backend):
    """Several blocks of users and ranges of items, each user with another part of them seen."""
    users, items = points(66, 5, 0.5), points(200, 5, 0.5, seed=1)
    seen = [list(range(user, 200, 1 + user % 7)) for user in range(66)]
    pairs = [(u, i) for u, hidden in enumerate(seen) for i in hidden]
    with ops.use_backend(backend):
        value, index = ops.topk(
            users, items, 4, exclude=CSR.from_pairs(*zip(*pairs), 66, 200), c=0.5
        )
    expected_value, expected_index = ranking(users, items, 4, 0.5, seen)
    assert torch.equal(index, expected_index)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-14)


@by_backend
def test_topk_does_not_trust_the_time_coordinate(backend):
    users, items = points(5, 6, 1.0), points(8, 6, 1.0, seed=1)
    wrong = items.clone()
    wrong[:, 0] = torch.nan
    with ops.use_backend(backend):
        assert torch.equal(ops.topk(users, wrong, 3)[1], ops.topk(users, items, 3)[1])


def test_topk_of_more_equal_items_than_can_wait():
    """All are candidates to the end, and yet the memory is bounded: the ids decide."""
    users, items = points(2, 3, 1.0, torch.float32), points(1, 3, 1.0, torch.float32, seed=1)
    value, index = ops.topk(users, items.expand(25_000, 3).contiguous(), 3)
    assert index.tolist() == [[0, 1, 2]] * 2
    assert (value == value[:, :1]).all()


def test_topk_of_thousands_is_the_full_ranking():
    users, items = points(3, 5, 1.0), points(30_000, 5, 1.0, seed=1)
    value, index = ops.topk(users, items, 12_000)
    expected_value, expected_index = ranking(users, items, 12_000, 1.0)
    assert torch.equal(index, expected_index)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-14)


def test_topk_works_in_blocks():
    """More users than share a walk over the items, and the same ranks with other threads."""
    users, items = points(700, 4, 1.0, torch.float32), points(3000, 4, 1.0, torch.float32, seed=1)
    value, index = ops.topk(users, items, 5)
    with ops.use_backend("reference"):
        expected = ops.topk(users[-3:], items, 5)
    assert torch.equal(index[-3:], expected[1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = ops.topk(users, items, 5)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again[0], value) and torch.equal(again[1], index)


def test_topk_without_users():
    value, index = ops.topk(points(0, 5, 1.0), points(3, 5, 1.0), 2)
    assert value.shape == index.shape == (0, 2)


def test_topk_refuses():
    users, items = points(3, 5, 1.0), points(4, 5, 1.0)
    with pytest.raises(ValueError, match=r"k must be in 1 … 4 \(items\), got 5"):
        ops.topk(users, items, 5)
    with pytest.raises(ValueError, match="one row per user, 3, got 2"):
        ops.topk(users, items, 1, exclude=CSR.from_pairs([0], [0], 2, 4))
    with pytest.raises(ValueError, match="has 9 columns, but there are 4 items"):
        ops.topk(users, items, 1, exclude=CSR.from_pairs([0], [0], 3, 9))
    with pytest.raises(TypeError, match="exclude must be a CSR, got list"):
        ops.topk(users, items, 1, exclude=[[0]])


@by_backend
@pytest.mark.parametrize("c", CURVATURES)
def test_hinge_is_the_authors_order_of_steps(backend, c):
    """expmap0, projection, geoopt's distance in float64, squared, hinge, sum."""
    u, pos, neg = (tangents(40, 8, radius=2.0, seed=k).requires_grad_() for k in range(3))
    manifold = geoopt.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))
    x, y, z = (manifold.expmap0(row) for row in (u, pos, neg))
    hinge = torch.relu(manifold.dist(x, y) ** 2 - manifold.dist(x, z) ** 2 + 0.3)
    assert 0 < (hinge > 0).sum() < 40
    wanted = torch.autograd.grad(hinge.sum(), (u, pos, neg))
    with ops.use_backend(backend):
        loss = ops.margin_ranking_loss(u, pos, neg, 0.3, c=c, reduction="sum")
        mean = ops.margin_ranking_loss(u, pos, neg, 0.3, c=c)
        found = torch.autograd.grad(loss, (u, pos, neg))
    torch.testing.assert_close(loss, hinge.sum(), rtol=1e-7, atol=0)
    torch.testing.assert_close(mean, hinge.mean(), rtol=1e-7, atol=0)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a[:, 1:], b[:, 1:], rtol=1e-6, atol=1e-7)


@by_backend
def test_quiet_hinge_has_no_gradient(backend):
    u = tangents(3, 5).requires_grad_()
    far = 5 * tangents(3, 5, seed=1)
    with ops.use_backend(backend):
        loss = ops.margin_ranking_loss(u, u.detach(), far, 0.0)
    assert loss == 0 and (torch.autograd.grad(loss, u)[0] == 0).all()


@by_backend
def test_nan_is_not_mistaken_for_a_quiet_hinge(backend):
    u, pos, neg = (tangents(3, 5, seed=k) for k in range(3))
    u[1] = torch.nan
    with ops.use_backend(backend):
        assert ops.margin_ranking_loss(u, pos, neg, 0.1).isnan()
