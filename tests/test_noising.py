"""The diffusion's forward step: the random stream, the statistics, both noises, their gradients.

That backends agree, read nothing outside, ignore the time column and give the same bits for any
number of threads is tested for all ops in test_ops.py.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import philox_oracle
import pytest
import torch
from ops_cases import BACKENDS, generator, tangents
from scipy import stats

from hdrm import ops
from hdrm.ops import philox

ALPHA_BAR = torch.tensor([0.99, 0.7, 0.4, 0.1], dtype=torch.float64)


@pytest.fixture(params=BACKENDS)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def noise_of(
    seed: int, rows: int, width: int, dtype=torch.float32, first_row: int = 0
) -> torch.Tensor:
    """ε (rows, width) but for column 0: isotropic noise at ᾱ = 0 added to nothing."""
    zero, t = torch.zeros(rows, width, dtype=dtype), torch.zeros(rows, dtype=torch.int64)
    alpha_bar = torch.zeros(1, dtype=torch.float64)
    return ops.isotropic_noise(zero, t, alpha_bar, seed=seed, first_row=first_row)


def steps(rows: int) -> torch.Tensor:
    return torch.arange(rows) % len(ALPHA_BAR)


# The stream --------------------------------------------------------------------------------------

PUBLISHED = [  # counter, key, result: Random123's known answers for philox4x32-10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SEEDS = [0, 7, -1, -(2**63), 2**63 - 1, 0x299F31D0A4093822]
INDICES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 0x05A308D3243F6A88, 12345]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_oracle_gives_the_published_answers(counter, key, expected):
    assert philox_oracle.philox(counter, key) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_integers_equal_the_oracle(seed):
    found = philox.randint4x(torch.tensor([seed]), torch.tensor(INDICES))
    expected = [philox_oracle.randint4x(seed, index) for index in INDICES]
    assert torch.equal(torch.stack(found, -1), torch.tensor(expected))


@pytest.mark.parametrize("seed", [7, 0x299F31D0A4093822])
def test_stream_equals_triton(seed, tmp_path):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    index = torch.tensor(INDICES)
    np.save(tmp_path / "index.npy", index.numpy())
    script = Path(__file__).with_name("triton_stream.py")
    subprocess.run(
        [sys.executable, script, str(seed), tmp_path / "index.npy", tmp_path / "stream.npz"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
    )
    with np.load(tmp_path / "stream.npz", allow_pickle=False) as stream:
        integers, normals = stream["integers"], stream["normals"]
    found = torch.stack(philox.randint4x(torch.tensor([seed]), index), -1)
    np.testing.assert_array_equal(found.numpy(), integers & 0xFFFFFFFF)
    np.testing.assert_allclose(
        philox.randn4x(torch.tensor([seed]), index).numpy(), normals, rtol=0, atol=1e-6
    )


def oracle(seed: int, rows: int, width: int, first_row: int = 0) -> torch.Tensor:
    """Element k of row r is component k mod 4 of index r·⌈width/4⌉ + ⌊k/4⌋."""
    quads = -(-width // 4)
    expected = [
        [x for q in range(quads) for x in philox_oracle.randn4x(seed, row * quads + q)][:width]
        for row in range(first_row, first_row + rows)
    ]
    return torch.tensor(expected, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, -5])
@pytest.mark.parametrize("width", [2, 5, 33, 64, 1030])
def test_noise_equals_the_oracle(backend, seed, width):
    rows = max(3, 100 // width)
    found = noise_of(seed, rows, width).double()
    # float32 holds the angle to 2.4e-7, and radii go up to 5.7.
    torch.testing.assert_close(found[:, 1:], oracle(seed, rows, width)[:, 1:], rtol=0, atol=2e-6)


# In the first three an index comes to 2³¹, 2³² and 2³³ within the table, the last has the last index.
LARGE = [2**31 // 9 - 1, 2**32 // 9 - 1, 2**33 // 9 - 1, 2**58, (2**63 - 1) // 9 - 3]


@pytest.mark.parametrize("first_row", LARGE)
def test_rows_of_large_numbers(backend, first_row):
    """Forward, and in the gradient of σ, Σ b·g·sgn(z)|ε| with b = 1."""
    rows, width = 3, 33
    expected = oracle(3, rows, width, first_row)
    found = noise_of(3, rows, width, torch.float64, first_row)
    torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=0, atol=2e-6)
    z, t = tangents(rows, width), torch.zeros(rows, dtype=torch.int64)
    std = torch.ones(width, dtype=torch.float64, requires_grad=True)
    out = ops.directional_noise(
        z, t, 0 * ALPHA_BAR[:1], seed=3, first_row=first_row, statistics=(0 * std.detach(), std)
    )
    (gradient,) = torch.autograd.grad(out.sum(), std)
    wanted = (z.sgn() * expected.abs()).sum(0)
    torch.testing.assert_close(gradient[1:], wanted[1:], rtol=0, atol=1e-5)


def test_noise_is_normal(backend):
    e = noise_of(3, 4000, 65)[:, 1:].double()
    flat = e.flatten().numpy()
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    count = len(flat)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        deviation = {1: 1, 2: 2, 3: 15, 4: 96}[power] ** 0.5
        assert abs((flat**power).mean() - moment) < 4 * deviation / count**0.5
    correlation = torch.corrcoef(e.T).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / e.shape[0] ** 0.5  # columns, Box–Muller pairs among them
    assert abs((e[1:] * e[:-1]).mean()) < 4 / count**0.5  # neighbouring rows


def test_noise_of_a_row_does_not_depend_on_the_others(backend):
    assert torch.equal(noise_of(3, 10, 33), noise_of(3, 700, 33)[:10])


def test_seeds(backend):
    z, t = tangents(6, 9, torch.float32), steps(6)

    def draw(seed=None):
        return ops.isotropic_noise(z, t, ALPHA_BAR, seed=seed)

    torch.manual_seed(1)
    first, second = draw(), draw()
    torch.manual_seed(1)
    assert torch.equal(draw(), first)
    assert torch.equal(draw(), second)
    assert not torch.equal(first, second)
    explicit = draw(5)
    assert torch.equal(draw(torch.tensor([5])), explicit)
    assert not torch.equal(draw(6), explicit)
    assert not torch.equal(draw(5 + 2**32), explicit)  # both words of the seed count
    state = torch.get_rng_state()
    draw(5)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("seed", "error"),
    [
        (1.0, TypeError),
        (True, TypeError),
        (2**63, ValueError),
        (torch.tensor(3), TypeError),
        (torch.tensor([3.0]), TypeError),
    ],
)
def test_bad_seed(seed, error):
    with pytest.raises(error, match="seed must"):
        ops.isotropic_noise(tangents(2, 3), steps(2), ALPHA_BAR, seed=seed)


# Statistics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 127, 128, 129, 1000])
@pytest.mark.parametrize("level", [0.0, 1e4])
def test_statistics_keep_their_digits(backend, rows, level):
    """A column far from 0 whose spread is small: what the sum of squares would lose in float32."""
    z = (level + torch.randn(rows, 33, generator=generator(), dtype=torch.float64) * 0.5).float()
    mean, std = ops.column_statistics(z)
    expected_std, expected_mean = torch.std_mean(z.double(), 0)
    torch.testing.assert_close(mean[1:].double(), expected_mean[1:], rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(std[1:].double(), expected_std[1:], rtol=1e-6, atol=0)
    assert mean[0] == 0 and std[0] == 0


def test_an_outlier_in_the_first_row(backend):
    z = torch.randn(500, 9, generator=generator())
    z[0] = 1e6
    expected_std, expected_mean = torch.std_mean(z.double(), 0)
    mean, std = ops.column_statistics(z)
    assert ((mean - expected_mean)[1:].abs() < 1e-5 * expected_std[1:]).all()
    torch.testing.assert_close(std[1:].double(), expected_std[1:], rtol=1e-6, atol=0)


def test_columns_without_spread(backend):
    z = torch.full((300, 5), 0.1, requires_grad=True)
    mean, std = ops.column_statistics(z)
    assert torch.equal(mean[1:], z[0, 1:]) and (std == 0).all()
    (gradient,) = torch.autograd.grad(std.sum(), z)
    assert (gradient == 0).all()


def test_one_row(backend):
    z = tangents(1, 9, torch.float32).requires_grad_()
    mean, std = ops.column_statistics(z)
    assert torch.equal(mean, z[0]) and (std == 0).all()
    out = ops.directional_noise(z, torch.tensor([1]), ALPHA_BAR, seed=1)
    a, b = ALPHA_BAR[1].sqrt().item(), (1 - ALPHA_BAR[1]).sqrt().item()
    torch.testing.assert_close(out, (a + b) * z)
    (gradient,) = torch.autograd.grad(out.sum(), z)
    torch.testing.assert_close(gradient[:, 1:], torch.full((1, 8), a + b))


def test_statistics_need_a_row():
    with pytest.raises(ValueError, match="at least one row"):
        ops.column_statistics(torch.zeros(0, 3))


# The step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("growth", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["directional", "isotropic"])
def test_value_and_gradient_follow_the_formula(backend, kind, growth):
    """Against autograd through the formula in double, with the same noise."""
    rows, width, c = 300, 17, 0.7
    z = tangents(rows, width).requires_grad_()
    t = steps(rows)
    e = noise_of(11, rows, width, torch.float64)
    a, b = ALPHA_BAR[t].sqrt()[:, None], (1 - ALPHA_BAR[t]).sqrt()[:, None]
    if kind == "directional":
        added = z.mean(0) + z.std(0) * (torch.sgn(z.detach()) * e.abs())
    else:
        added = e
    expected = (a * z + b * added)[:, 1:]
    expected = (
        expected + growth * torch.tanh(c**0.5 * t.double() / len(ALPHA_BAR))[:, None] * z[:, 1:]
    )
    op = ops.directional_noise if kind == "directional" else ops.isotropic_noise
    found = op(z, t, ALPHA_BAR, seed=11, growth=growth, c=c)
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(rows, width, generator=generator(4), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(found, z, weights)
    (wanted,) = torch.autograd.grad(expected, z, weights[:, 1:])
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(300, 5), (70, 64), (9, 1030)])
@pytest.mark.parametrize("kind", ["directional", "isotropic"])
def test_a_slice_of_a_table_is_noised_as_the_table_is(backend, kind, rows, width, dtype):
    z, t = tangents(rows, width, dtype), steps(rows)
    g = tangents(rows, width, dtype, seed=1)
    mean, std = ops.column_statistics(z)

    def noised(first: int, last: int):
        leaves = [leaf.clone().requires_grad_() for leaf in (z[first:last], mean, std)]
        if kind == "directional":
            op, options = ops.directional_noise, {"statistics": leaves[1:]}
        else:
            op, options, leaves = ops.isotropic_noise, {}, leaves[:1]
        out = op(
            leaves[0], t[first:last], ALPHA_BAR, seed=5, first_row=first, growth=0.2, **options
        )
        return out, *torch.autograd.grad(out, leaves, g[first:last])

    whole, gz, *of_statistics = noised(0, rows)
    bounds = [0, 1, rows // 2 + 1, rows]
    shares = [noised(*each) for each in zip(bounds, bounds[1:])]
    assert torch.equal(torch.cat([share[0] for share in shares]), whole)
    assert torch.equal(torch.cat([share[1] for share in shares]), gz)
    for found, *parts in zip(of_statistics, *(share[2:] for share in shares)):
        torch.testing.assert_close(sum(parts), found, rtol=1e-4, atol=1e-5)


def test_one_graph_for_all_first_rows():
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, dynamic=True, backend=count)
    def noised(z, t, first_row):
        return ops.directional_noise(z, t, ALPHA_BAR, seed=3, first_row=first_row)

    for rows, first_row in ((12, 7), (12, 2**40), (5, 9)):
        z, t = tangents(rows, 6, torch.float32), steps(rows)
        expected = ops.directional_noise(z, t, ALPHA_BAR, seed=3, first_row=first_row)
        assert torch.equal(noised(z, t, first_row), expected)
    assert len(graphs) == 1


@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_levels_are_exact_to_rounding(backend, growth):
    """In float32, also where ᾱ is so near 1 that its distance from 1 is lost when it is rounded."""
    t = torch.arange(200)
    alpha_bar = 1 - torch.logspace(-12, -1e-4, 200, dtype=torch.float64)
    a = alpha_bar.sqrt() + growth * torch.tanh(0.9**0.5 * t.double() / 200)
    one = torch.ones(200, 2).requires_grad_()
    statistics = torch.ones(2), torch.zeros(2)
    found = ops.directional_noise(
        one, t, alpha_bar, seed=1, statistics=statistics, growth=growth, c=0.9
    )
    (gradient,) = torch.autograd.grad(found.sum(), one)
    torch.testing.assert_close(gradient[:, 1].double(), a, rtol=3e-7, atol=0)
    found = ops.directional_noise(
        0 * one, t, alpha_bar, seed=1, statistics=statistics, growth=growth, c=0.9
    )
    torch.testing.assert_close(found[:, 1].double(), (1 - alpha_bar).sqrt(), rtol=3e-7, atol=0)


@pytest.mark.parametrize("step", [-1, len(ALPHA_BAR), 2**62])
@pytest.mark.parametrize("kind", ["directional", "isotropic"])
def test_a_step_outside_the_schedule(backend, kind, step):
    """Refused on the CPU; elsewhere its row is NaN, and the others are what they would be."""
    z, t = tangents(5, 9).requires_grad_(), torch.tensor([0, 3, step, 1, 2])
    op = ops.directional_noise if kind == "directional" else ops.isotropic_noise
    if backend == "cpu":
        message = f"^hdrm: t must hold steps from 0 to 3, got {step} in row 2$"
        with pytest.raises(RuntimeError, match=message):
            op(z, t, ALPHA_BAR, seed=1)
        return
    if backend == "reference":  # on a GPU torch stops the process
        if t.device.type == "cpu":
            with pytest.raises(IndexError, match="index out of range"):
                op(z, t, ALPHA_BAR, seed=1)
        return
    statistics = {"statistics": (torch.zeros(9).to(z), torch.ones(9).to(z))}
    if kind == "isotropic":
        statistics = {}
    found, good = (
        op(z, steps, ALPHA_BAR, seed=1, growth=0.1, **statistics) for steps in (t, t.clamp(0, 3))
    )
    others = torch.arange(5) != 2
    for bad, expected in [
        (found, good),
        *zip(*(torch.autograd.grad(out.sum(), z) for out in (found, good))),
    ]:
        assert bad[2, 1:].isnan().all()
        assert torch.equal(bad[others], expected[others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directional_noise_keeps_signs(backend, dtype):
    z, t = tangents(200, 18, dtype), torch.zeros(200, dtype=torch.int64)
    z[:, 3] = 0
    one = torch.ones(18, dtype=dtype)
    out = ops.directional_noise(
        z, t, torch.zeros(1, dtype=torch.float64), seed=2, statistics=(0 * one, one)
    )
    assert torch.equal(out, torch.sgn(z) * noise_of(2, 200, 18, dtype).abs())


def test_isotropic_noise_has_the_right_scale(backend):
    z = tangents(1, 5, torch.float32).expand(10_000, -1)
    for step, level in enumerate(ALPHA_BAR.tolist()):
        t = torch.full((len(z),), step)
        out = ops.isotropic_noise(z, t, ALPHA_BAR, seed=step)[:, 1:].double()
        std, mean = torch.std_mean(out, 0)
        scale = (1 - level) ** 0.5
        assert ((mean - level**0.5 * z[0, 1:]).abs() < 5 * scale / len(z) ** 0.5).all()
        assert ((std / scale - 1).abs() < 5 / (2 * len(z)) ** 0.5).all()


@pytest.mark.parametrize("op", [ops.directional_noise, ops.isotropic_noise])
def test_nan_in_the_time_column_goes_nowhere(backend, op):
    z, t = tangents(40, 6, torch.float32), steps(40)
    poisoned = z.clone()
    poisoned[:, 0] = torch.nan
    found = []
    for table in (z, poisoned):
        leaf = table.requires_grad_()
        out = op(leaf, t, ALPHA_BAR, seed=3)
        found.append((out, torch.autograd.grad(out.square().sum(), leaf)[0]))
    for clean, other in zip(*found):
        assert torch.equal(clean, other)
        assert (clean[:, 0] == 0).all()


def test_given_statistics(backend):
    z, t = tangents(50, 6).requires_grad_(), steps(50)
    own = ops.directional_noise(z, t, ALPHA_BAR, seed=3)
    statistics = tuple(value.detach() for value in ops.column_statistics(z))
    given = ops.directional_noise(z, t, ALPHA_BAR, seed=3, statistics=statistics)
    assert torch.equal(given, own)
    (gradient,) = torch.autograd.grad(given.sum(), z)  # through a·z0 alone
    expected = ALPHA_BAR[t].sqrt()[:, None].expand(-1, 6).clone()
    expected[:, 0] = 0
    torch.testing.assert_close(gradient, expected)


def test_bad_arguments():
    z, t = tangents(4, 6), steps(4)
    mean, std = ops.column_statistics(z)
    with pytest.raises(ValueError, match="statistics' std must have shape"):
        ops.directional_noise(z, t, ALPHA_BAR, statistics=(mean, std[:3]))
    with pytest.raises(TypeError, match="mean is torch.float32"):
        ops.directional_noise(z, t, ALPHA_BAR, statistics=(mean.float(), std))
    with pytest.raises(ValueError, match="t must have shape"):
        ops.isotropic_noise(z, t[:3], ALPHA_BAR)
    with pytest.raises(TypeError, match="t must be an int64 tensor"):
        ops.isotropic_noise(z, t.float(), ALPHA_BAR)
    with pytest.raises(ValueError, match="alpha_bar must be a floating point vector"):
        ops.isotropic_noise(z, t, ALPHA_BAR[None])
    with pytest.raises(ValueError, match="shape"):
        ops.isotropic_noise(z[0], t, ALPHA_BAR)
    most = (2**63 - 1) // 2 - 4  # rows of two indices
    for op in (ops.directional_noise, ops.isotropic_noise):
        for first_row in (-1, most + 1):
            with pytest.raises(ValueError, match=f"first_row must be from 0 to {most}, got"):
                op(z, t, ALPHA_BAR, first_row=first_row)
        with pytest.raises(TypeError, match="first_row must be a whole number, got 1.0"):
            op(z, t, ALPHA_BAR, first_row=1.0)
