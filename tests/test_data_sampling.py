"""Batches are a pure function of (seed, step) and cover each epoch exactly once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hdrm.data.sampling import PairSampler

PAIRS = np.stack([np.arange(103), 1_000 + np.arange(103)], axis=1)


def epoch(sampler: PairSampler, number: int) -> list[int]:
    steps = range(number * sampler.steps_per_epoch, (number + 1) * sampler.steps_per_epoch)
    return torch.cat([sampler.batch(step)[0] for step in steps]).tolist()


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 103), (10, 11), (103, 1), (500, 1)])
def test_an_epoch_is_a_permutation(batch_size, steps):
    sampler = PairSampler(PAIRS, batch_size, 0)
    assert sampler.steps_per_epoch == steps
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(first) == sorted(second) == list(range(103))
    assert first != second and first != sorted(first)


def test_users_and_items_stay_paired():
    users, items = PairSampler(PAIRS[::-1], 20, 7).batch(3)
    assert users.dtype == items.dtype == torch.int64 and users.shape == items.shape == (20,)
    assert torch.equal(items, users + 1_000)
    assert users.is_contiguous() and items.is_contiguous()


def test_any_step_in_any_order():
    forward = PairSampler(PAIRS, 10, 3)
    expected = {step: forward.batch(step) for step in range(40)}
    jumping = PairSampler(PAIRS, 10, 3)
    for step in (39, 0, 17, 38, 5, 39):
        for got, want in zip(jumping.batch(step), expected[step]):
            assert torch.equal(got, want)


def test_seed_and_nothing_else():
    torch.manual_seed(0), np.random.seed(0)
    before = torch.get_rng_state()
    assert epoch(PairSampler(PAIRS, 10, 1), 0) != epoch(PairSampler(PAIRS, 10, 2), 0)
    # (seed 0, epoch 1) and (seed 1, epoch 0) must not share an order.
    assert epoch(PairSampler(PAIRS, 10, 0), 1) != epoch(PairSampler(PAIRS, 10, 1), 0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((PAIRS.astype(np.int32), 10, 0), TypeError),
        ((PAIRS[:0], 10, 0), ValueError),
        ((PAIRS[:, :1], 10, 0), ValueError),
        ((PAIRS, 0, 0), ValueError),
        ((PAIRS, 10, -1), ValueError),
    ],
)
def test_refuses(arguments, error):
    with pytest.raises(error, match="pairs|batch_size|seed"):
        PairSampler(*arguments)


def test_refuses_negative_steps():
    with pytest.raises(ValueError, match="step"):
        PairSampler(PAIRS, 10, 0).batch(-1)
