"""Schedules against naive loops, the reverse step against Bayes' rule."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from hdrm.config import Config
from hdrm.model.diffusion import SCHEDULES, Diffusion, betas
from hdrm.train.step_sampling import HISTORY, StepSampler

LOW, HIGH, SCALE = 1e-3, 0.5, 0.8


def naive_betas(schedule: str, steps: int) -> list[float]:
    """One step at a time, as the definitions read."""
    found = []
    level = 1.0
    for t in range(steps):
        share = t / (steps - 1) if steps > 1 else 0.0
        ramp = SCALE * LOW + share * (SCALE * HIGH - SCALE * LOW)
        if schedule == "linear":
            beta = ramp
        elif schedule == "linear-var":
            beta = 1 - (1 - ramp) / level
            level = 1 - ramp
        elif schedule == "cosine":
            now = math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2
            then = math.cos(((t + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = min(1 - then / now, 0.999)
        else:
            beta = 1 / (steps - t + 1)
        found.append(1e-5 if t == 0 else beta)
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_betas_equal_the_naive_loop(schedule, steps):
    found = betas(schedule, steps, SCALE, LOW, HIGH)
    assert found.dtype == np.float64 and found.shape == (steps,)
    np.testing.assert_allclose(found, naive_betas(schedule, steps), rtol=1e-10)


def test_linear_var_levels_have_a_closed_form():
    """1−ᾱ_t is the ramp, but for the first step, which is replaced by 1e-5."""
    diffusion = Diffusion("linear-var", 20, SCALE, LOW, HIGH)
    ramp = torch.linspace(SCALE * LOW, SCALE * HIGH, 20, dtype=torch.float64)
    expected = (1 - ramp) * (1 - 1e-5) / (1 - SCALE * LOW)
    torch.testing.assert_close(diffusion.alpha_bar[1:], expected[1:], rtol=1e-12, atol=0)
    assert diffusion.alpha_bar[0] == 1 - 1e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_reverse_step_is_bayes_rule(schedule):
    """Product of the Gaussians q(z_t | z_{t−1}) and q(z_{t−1} | z_0), by precision."""
    diffusion = Diffusion(schedule, 12, SCALE, LOW, HIGH)
    x0, z_t = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.2]]).double()
    for step in range(1, 12):
        beta, before = float(diffusion.beta[step]), float(diffusion.alpha_bar[step - 1])
        precision = (1 - beta) / beta + 1 / (1 - before)
        mean = (
            math.sqrt(1 - beta) / beta * z_t + math.sqrt(before) / (1 - before) * x0
        ) / precision
        torch.testing.assert_close(diffusion.reverse_step(x0, z_t, step), mean)
        spread = torch.ones_like(x0)
        moved = diffusion.reverse_step(x0, z_t, step, spread) - mean
        torch.testing.assert_close(moved, torch.full_like(x0, precision**-0.5))


def test_a_perfect_prediction_comes_back():
    diffusion = Diffusion("linear-var", 10, SCALE, LOW, HIGH)
    x0, z = torch.randn(2, 5, 9, dtype=torch.float64)
    for step in range(9, -1, -1):
        z = diffusion.reverse_step(x0, z, step)
    torch.testing.assert_close(z, x0)


def test_noise_that_is_predicted_exactly_gives_z0_back():
    diffusion = Diffusion("cosine", 10, SCALE, LOW, HIGH, noise="isotropic", predict="eps")
    z0 = torch.randn(4, 6, dtype=torch.float64)
    t = torch.tensor([0, 3, 5, 8])
    eps = torch.randn_like(z0)
    level = diffusion.alpha_bar[t][:, None]
    z_t = level.sqrt() * z0 + (1 - level).sqrt() * eps
    torch.testing.assert_close(diffusion.predicted_x0(eps, z_t, t), z0)


def test_forward_noise_keeps_the_sign_of_directional_and_not_of_isotropic_noise():
    z0 = torch.full((2000, 3), 0.3)
    z0[:, 0] = 0
    statistics = torch.zeros(3), torch.ones(3)
    t = torch.full((2000,), 9)
    for noise, keeps in (("directional", True), ("isotropic", False)):
        diffusion = Diffusion("linear-var", 10, 1.0, LOW, 0.9, noise=noise)
        z_t = diffusion.add_noise(z0, t, statistics, seed=1)
        assert bool((z_t[:, 1:] > 0).all()) == keeps
        assert not z_t[:, 0].any()


def test_the_published_schedule_is_called_degenerate():
    with pytest.warns(UserWarning, match="49 of 50 reverse steps do nothing"):
        diffusion = Diffusion("linear-var", 50, 1e-5, 1e-5, 1e-4)
    assert [row.acts for row in diffusion.table()] == [True] + [False] * 49


def test_the_default_schedule_is_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = Diffusion.from_config(Config()).table()
    assert all(row.acts for row in table) and table[-1].noise > 0.5
    assert all(row.signal**2 + row.noise**2 == pytest.approx(1) for row in table)


@pytest.mark.parametrize(
    ("schedule", "steps", "high", "message"),
    [
        ("sine", 5, 0.5, "schedule must be one of"),
        ("linear", 0, 0.5, "at least one step"),
        ("linear-var", 5, 2.0, "noise_scale·noise_max"),
        ("linear", 5, 1e-9, "noise_scale·noise_max"),
    ],
)
def test_bad_schedules_are_refused(schedule, steps, high, message):
    with pytest.raises(ValueError, match=message):
        betas(schedule, steps, 1.0, LOW, high)


class TestStepSampling:
    """Importance sampling of t: probabilities by hand, unbiased weights, a pure function of seeds."""

    def test_uniform_until_all_steps_are_known(self):
        sampler = StepSampler(4, importance=True)
        for _ in range(HISTORY):
            assert torch.equal(sampler.probabilities(), torch.full((4,), 0.25).double())
            sampler.record(torch.tensor([0, 1, 2, 2]), torch.tensor([1.0, 2.0, 2.0, 4.0]))
        assert torch.equal(sampler.probabilities(), torch.full((4,), 0.25).double())
        for _ in range(HISTORY):
            sampler.record(torch.tensor([3]), torch.tensor([4.0]))
        expected = 0.999 * torch.tensor([1.0, 2.0, 3.0, 4.0]).double() / 10 + 0.001 / 4
        torch.testing.assert_close(sampler.probabilities(), expected)

    def test_old_losses_are_forgotten(self):
        sampler = StepSampler(2, importance=True)
        for loss in [100.0] * HISTORY + [1.0] * HISTORY:
            sampler.record(torch.tensor([0, 1]), torch.tensor([loss, 1.0]))
        torch.testing.assert_close(sampler.probabilities(), torch.full((2,), 0.5).double())

    def test_weights_leave_the_expectation_unchanged(self):
        sampler = StepSampler(3, importance=True)
        losses = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
        for _ in range(HISTORY):
            sampler.record(torch.arange(3), losses)
        t, weight = sampler.draw(200_000, seed=1)
        assert (weight * losses[t]).mean().item() == pytest.approx(losses.mean().item(), rel=0.01)
        share = torch.bincount(t).double() / len(t)
        torch.testing.assert_close(share, sampler.probabilities(), rtol=0.05, atol=1e-3)
        assert torch.equal(sampler.draw(9, seed=2)[0], sampler.draw(9, seed=2)[0])

    def test_uniform_by_default(self):
        sampler = StepSampler(3, importance=False)
        for _ in range(HISTORY):
            sampler.record(torch.arange(3), torch.tensor([0.1, 1.0, 5.0]))
        t, weight = sampler.draw(30_000, seed=1)
        assert (weight == 1).all() and torch.bincount(t).min() > 9_500
