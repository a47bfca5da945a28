"""Batches are a pure function of (seed, step), cover each epoch exactly once and copy nothing."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch

from hdrm import CSR
from hdrm.data.sampling import shuffled
from hdrm.seeds import hashed, uniform
from hdrm.train.batches import Batches

# Users with 0 … 9 items; 55 interactions, each user's items are its own.
USERS = np.repeat(np.arange(11), np.arange(11))
PAIRS = CSR.from_pairs(USERS, np.arange(len(USERS)), 11, 80)


def pairs_of(batches: Batches, number: int) -> list[tuple[int, int]]:
    """(user, positive) of an epoch."""
    steps = range(number * batches.steps_per_epoch, (number + 1) * batches.steps_per_epoch)
    found = []
    for step in steps:
        users, positives, _ = batches.batch(step)
        found += zip(users.tolist(), positives.tolist())
    return found


def by_interaction(batch_size=10, seed=0, positives=PAIRS) -> Batches:
    return Batches(positives, PAIRS, batch_size, 1, seed, by_user=False)


def test_the_hash_is_splitmix64():
    """The first outputs for the seed 0, from the generator's reference code."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [x % 2**64 for x in hashed(0, torch.arange(1, 4)).tolist()] == expected
    u = uniform(torch.tensor(5), torch.arange(100_000))
    assert u.dtype == torch.float64 and 0 <= float(u.min()) and float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 5 / math.sqrt(12 * 100_000)


@pytest.mark.parametrize("sizes", [range(1, 70), (127, 128, 129, 997, 65_536, 65_537, 100_003)])
def test_shuffled_is_a_bijection(sizes):
    for size in sizes:
        for seed in (0, 1):
            found = shuffled(torch.arange(size), size, seed)
            assert torch.equal(found.sort().values, torch.arange(size)), (size, seed)
            part = torch.arange(size // 3, size)
            assert torch.equal(shuffled(part, size, seed), found[part]), (size, seed)


def test_shuffled_is_an_order_without_order():
    """Displacements and neighbours as a random order has them (5 standard deviations)."""
    size = 10_007
    orders = [shuffled(torch.arange(size), size, seed).double() for seed in (3, 4)]
    positions = torch.arange(size, dtype=torch.float64)
    pairs = [(orders[0], positions), tuple(orders), (orders[0][1:], orders[0][:-1])]
    for a, b in pairs:
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 5 / math.sqrt(size)
    # How many seeds send position 0 of 8 to each number.
    first = torch.cat([shuffled(torch.tensor([0]), 8, seed) for seed in range(800)])
    assert (torch.bincount(first, minlength=8) - 100).abs().max() < 5 * math.sqrt(100 * 7 / 8)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 55), (10, 6), (55, 1), (500, 1)])
def test_an_epoch_has_every_interaction_once(batch_size, steps):
    batches = by_interaction(batch_size)
    assert batches.steps_per_epoch == steps
    first, second = pairs_of(batches, 0), pairs_of(batches, 1)
    assert sorted(first) == sorted(second) == list(zip(USERS.tolist(), range(55)))
    assert first != second and first != sorted(first)


def test_any_step_in_any_order():
    forward, jumping = by_interaction(seed=3), by_interaction(seed=3)
    expected = {step: forward.batch(step) for step in range(20)}
    for step in (19, 0, 17, 8, 5, 19):
        for got, want in zip(jumping.batch(step), expected[step]):
            assert torch.equal(got, want)


def test_seed_and_nothing_else():
    torch.manual_seed(0), np.random.seed(0)
    before = torch.get_rng_state()
    assert pairs_of(by_interaction(seed=1), 0) != pairs_of(by_interaction(seed=2), 0)
    # (seed 0, epoch 1) and (seed 1, epoch 0) must not share an order.
    assert pairs_of(by_interaction(seed=0), 1) != pairs_of(by_interaction(seed=1), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_who_has_seen_everything_is_left_out_of_an_epoch():
    seen = CSR.from_pairs([0, 0, 1, 2, 2], [0, 1, 1, 0, 1], 4, 2)
    assert pairs_of(Batches(seen, seen, 3, 1, 0, by_user=False), 0) == [(1, 1)]


@pytest.mark.parametrize("by_user", [True, False])
def test_the_interactions_may_lie_in_a_file(tmp_path, by_user):
    """Mapped arrays give the same batches, as do rows in the middle of a longer array."""
    arrays = {}
    for name in ("rowptr", "col"):
        array = getattr(PAIRS, name).numpy()
        array.tofile(tmp_path / name)
        arrays[name] = torch.from_numpy(np.memmap(tmp_path / name, dtype=array.dtype, mode="r+"))
    mapped = CSR(**arrays, num_cols=80)
    padding = torch.full((3,), 5, dtype=torch.int32)
    shifted = CSR(PAIRS.rowptr + 3, torch.cat([padding, PAIRS.col + 7, padding]), 80, offset=7)
    expected = Batches(PAIRS, PAIRS, 10, 2, 0, by_user=by_user).batch(4)
    for positives in (mapped, shifted):
        found = Batches(positives, PAIRS, 10, 2, 0, by_user=by_user).batch(4)
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("by_user", [True, False])
def test_no_memory_of_the_interactions_size(by_user):
    """200 users with 10,000 items each: batches need far less than a byte an interaction."""
    rowptr = torch.arange(0, 2_000_001, 10_000)
    csr = CSR(rowptr, torch.arange(10_000, dtype=torch.int32).repeat(200), 20_000)
    tracemalloc.start()
    try:
        batches = Batches(csr, csr, 50, 2, 0, by_user=by_user)
        batches.batch(3), batches.batch(batches.steps_per_epoch + 3)
        assert tracemalloc.get_traced_memory()[1] < csr.nnz / 8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PAIRS, CSR.from_pairs([0], [0], 11, 81), 10, 1, 0), "one size, got 11 × 80 and 11 × 81"),
        ((PAIRS, PAIRS, 0, 1, 0), "batch_size must be at least 1, got 0"),
        ((PAIRS, PAIRS, 10, 1, -1), "seed must not be negative, got -1"),
        ((CSR.from_pairs([], [], 11, 80), PAIRS, 10, 1, 0), "nothing to learn to rank"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Batches(*arguments, by_user=True)


def test_refuses_negative_steps():
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        by_interaction().batch(-1)
