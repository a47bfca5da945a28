"""Negative sampling: uniform over the unseen, a pure function of the seed, errors with names."""

from __future__ import annotations

import philox_oracle
import pytest
import torch
from ops_cases import BACKENDS, generator, small_graph
from scipy import stats

from hdrm import ops
from hdrm.graph import CSR

NUM_USERS, NUM_ITEMS = 60, 40
WITHOUT_RAISING = ("triton", "cuda")  # they do not wait for the device: −1


@pytest.fixture(params=BACKENDS)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def some_seen() -> tuple[torch.Tensor, CSR]:
    """Seen items as a mask and as a CSR: users from one who saw nothing to one who lacks one."""
    degree = torch.linspace(0, NUM_ITEMS - 1, NUM_USERS).long()
    order = torch.rand(NUM_USERS, NUM_ITEMS, generator=generator()).argsort(1)
    mask = order < degree[:, None]
    return mask, CSR.from_pairs(*mask.nonzero(as_tuple=True), NUM_USERS, NUM_ITEMS)


def test_never_a_seen_item(backend):
    mask, seen = some_seen()
    users = torch.arange(NUM_USERS).repeat(3)
    items = ops.sample_negatives(users, seen, 50, seed=1)
    assert items.shape == (3 * NUM_USERS, 50) and items.dtype == torch.int64
    assert not mask[users[:, None], items].any()


def test_uniform_over_the_unseen(backend):
    mask, seen = some_seen()
    draws = 500
    items = ops.sample_negatives(torch.arange(NUM_USERS), seen, draws, seed=2)
    worst = 1.0
    for user in range(NUM_USERS - 1):  # the last has one item left
        counts = torch.bincount(items[user], minlength=NUM_ITEMS)[~mask[user]]
        assert (counts > 0).all()
        worst = min(worst, stats.chisquare(counts.numpy()).pvalue)
    assert worst > 1e-3 / NUM_USERS


def test_draws_equal_the_oracle(backend):
    """Draw i of a user without history: the 64-bit number of index i, times the items, over 2⁶⁴."""
    num_items = 2**31 - 1
    nothing = CSR(torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), num_items)
    seed = -3
    found = ops.sample_negatives(torch.zeros(5, dtype=torch.int64), nothing, 7, seed=seed)
    words = [philox_oracle.randint4x(seed, index) for index in range(35)]
    expected = [(high << 32 | low) * num_items >> 64 for high, low, _, _ in words]
    assert found.flatten().tolist() == expected


def test_backends_agree_bit_for_bit():
    _, seen = some_seen()
    users = torch.randint(NUM_USERS, (500,), generator=generator())
    found = []
    for name in BACKENDS:
        with ops.use_backend(name):
            found.append(ops.sample_negatives(users, seen, 3, seed=4))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_columns_with_an_offset(backend):
    """The view of a graph's adjacency, whose columns are numbered behind the users."""
    graph = small_graph()
    users = torch.arange(graph.num_users)
    items = ops.sample_negatives(users, graph.user_items, 200, seed=5)
    for user in range(graph.num_users):
        unseen = set(range(graph.num_items)) - set(graph.user_items.row(user).tolist())
        assert set(items[user].tolist()) == unseen


def test_the_seed_decides(backend):
    _, seen = some_seen()
    users = torch.randint(NUM_USERS - 5, (3000,), generator=generator())
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            found.append(ops.sample_negatives(users, seen, 2, seed=6))
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(*found)
    assert not torch.equal(ops.sample_negatives(users, seen, 2, seed=7), found[0])
    torch.manual_seed(0)
    first = ops.sample_negatives(users, seen)
    assert not torch.equal(ops.sample_negatives(users, seen), first)
    torch.manual_seed(0)
    assert torch.equal(ops.sample_negatives(users, seen), first)


def test_empty_batch(backend):
    _, seen = some_seen()
    assert ops.sample_negatives(torch.zeros(0, dtype=torch.int64), seen, 3).shape == (0, 3)


def test_a_user_who_has_seen_everything(backend):
    rows = [0] + [1] * NUM_ITEMS + [2] * NUM_ITEMS
    cols = [3] + 2 * list(range(NUM_ITEMS))
    seen = CSR.from_pairs(rows, cols, 3, NUM_ITEMS)
    assert ops.sample_negatives(torch.tensor([0]), seen).item() != 3
    batch = torch.tensor([0, 2, 1])
    if backend in WITHOUT_RAISING:
        assert (ops.sample_negatives(batch, seen, 2)[1:] == -1).all()
        return
    with pytest.raises(ValueError, match=r"user 2 has seen all 40 items; leave that user out"):
        ops.sample_negatives(batch, seen)


@pytest.mark.parametrize("user", [-1, NUM_USERS])
def test_a_user_out_of_range(backend, user):
    _, seen = some_seen()
    batch = torch.tensor([3, user])
    if backend in WITHOUT_RAISING:
        draws = ops.sample_negatives(batch, seen).flatten().tolist()
        assert draws[0] >= 0 and draws[1] == -1
        return
    with pytest.raises(ValueError, match=rf"users must be in 0 … 59, got {user}$"):
        ops.sample_negatives(batch, seen)


def test_bad_arguments():
    _, seen = some_seen()
    with pytest.raises(ValueError, match="num must be at least 1, got 0"):
        ops.sample_negatives(torch.tensor([0]), seen, 0)
    with pytest.raises(TypeError, match="users must be an int64 tensor"):
        ops.sample_negatives(torch.tensor([0], dtype=torch.int32), seen)
    with pytest.raises(TypeError, match="seed must"):
        ops.sample_negatives(torch.tensor([0]), seen, seed=0.5)
