"""hdrm.Lorentz: geoopt's numbers in float64, right numbers in float32, geoopt's habits kept."""

from __future__ import annotations

import copy
import io

import geoopt
import mpmath
import pytest
import torch

import hdrm

CURVATURES = (0.3, 1.0, 4.0)
WIDTH = 5


def pair(k: float, dtype=torch.float64) -> tuple[hdrm.Lorentz, geoopt.Lorentz]:
    k = torch.tensor(k, dtype=dtype)
    return hdrm.Lorentz(k), geoopt.Lorentz(k)


def points(manifold, *shape: int, radius: float = 2.0, seed: int = 0, dtype=torch.float64):
    """Points between half the radius and the radius, which counts in units of sqrt(k)."""
    u = ambient(*shape, seed=seed)
    u[..., 0] = 0
    lengths = 0.5 + 0.5 * torch.rand(*shape[:-1], 1, generator=torch.Generator().manual_seed(seed))
    u *= radius * manifold.k.item() ** 0.5 * lengths / u.norm(dim=-1, keepdim=True)
    return manifold.projx(manifold.expmap0(u)).to(dtype)


def ambient(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Every method as (name, what to call it with): x, y points, u, v tangent at x, a ambient,
# o tangent at the origin.
METHODS = {
    "dist": "x y",
    "dist2": "x y",
    "dist0": "x",
    "norm": "u",
    "inner": "x u v",
    "inner0": "x",
    "component_inner": "x u v",
    "projx": "a",
    "proju": "x a",
    "egrad2rgrad": "x a",
    "expmap": "x u",
    "retr": "x u",
    "expmap0": "o",
    "logmap": "x y",
    "logmap0": "y",
    "logmap0back": "x",
    "transp": "x y u",
    "transp0": "y o",
    "transp0back": "x u",
    "transp_follow_expmap": "x u v",
    "transp_follow_retr": "x u v",
    "expmap_transp": "x u v",
    "retr_transp": "x u v",
}
SHAPES = {
    "one": ((WIDTH,), (WIDTH,)),
    "rows": ((6, WIDTH), (6, WIDTH)),
    "batch": ((2, 3, WIDTH), (2, 3, WIDTH)),
    "broadcast": ((3, WIDTH), (2, 1, WIDTH)),
    "line": ((4, 2), (4, 2)),
}


def operands(manifold, shapes) -> dict[str, torch.Tensor]:
    left, right = shapes

    def tangent_at_origin(*shape: int, seed: int) -> torch.Tensor:
        u = ambient(*shape, seed=seed) * manifold.k.sqrt() / shape[-1] ** 0.5
        u[..., 0] = 0
        return u

    x, y = points(manifold, *left, seed=1), points(manifold, *right, seed=2)
    return {
        "x": x,
        "y": y,
        "u": manifold.transp0(x, tangent_at_origin(*left, seed=4)),
        "v": manifold.transp0(x, tangent_at_origin(*left, seed=5)),
        "a": ambient(*left, seed=6),
        "o": tangent_at_origin(*right, seed=3),
    }


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_agrees_with_geoopt_in_float64(method, shapes, k):
    ours, theirs = pair(k)
    given = operands(theirs, shapes)
    names = METHODS[method].split()
    found = getattr(ours, method)(*(given[name] for name in names))
    # clones: geoopt's egrad2rgrad writes to its argument
    wanted = getattr(theirs, method)(*(given[name].clone() for name in names))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", ["dist", "dist2", "dist0", "norm", "inner"])
def test_keepdim_keeps_the_axis(method):
    ours, _ = pair(1.0)
    given = operands(ours, SHAPES["batch"])
    rows = [given[name] for name in METHODS[method].split()]
    plain, kept = getattr(ours, method)(*rows), getattr(ours, method)(*rows, keepdim=True)
    assert plain.shape == (2, 3) and kept.shape == (2, 3, 1)
    torch.testing.assert_close(kept.squeeze(-1), plain)


@pytest.mark.parametrize("dim", [0, 1, -2, -3])
@pytest.mark.parametrize("method", [name for name in METHODS if "_" not in name])
def test_dim_moves_the_coordinates(method, dim):
    ours, _ = pair(0.3)
    given = operands(ours, SHAPES["batch"])
    rows = [given[name] for name in METHODS[method].split()]
    wanted = getattr(ours, method)(*rows)
    found = getattr(ours, method)(*(row.movedim(-1, dim) for row in rows), dim=dim)
    if wanted.dim() == 3:
        found = found.movedim(dim, -1)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", ["dist", "dist2", "dist0", "norm"])
def test_dim_and_keepdim_together(method):
    ours, _ = pair(1.0)
    given = operands(ours, SHAPES["batch"])
    rows = [given[name].movedim(-1, 0) for name in METHODS[method].split()]
    kept = getattr(ours, method)(*rows, dim=0, keepdim=True)
    assert kept.shape == (1, 2, 3)
    torch.testing.assert_close(kept[0], getattr(ours, method)(*rows, dim=0))


def test_geodesic_unit_walks_at_unit_speed():
    ours, theirs = pair(4.0)
    given = operands(theirs, SHAPES["rows"])
    u = given["u"] / theirs.norm(given["u"], keepdim=True)
    t = torch.linspace(-1, 2, 6, dtype=torch.float64).unsqueeze(-1)
    found = ours.geodesic_unit(t, given["x"], u)
    torch.testing.assert_close(found, theirs.geodesic_unit(t, given["x"], u))
    torch.testing.assert_close(ours.dist(given["x"], found), t.squeeze(-1).abs())


def test_proju_is_the_orthogonal_projection():
    ours, _ = pair(0.3)
    given = operands(ours, SHAPES["rows"])
    tangent = ours.proju(given["x"], given["a"])
    assert ours.check_vector_on_tangent(given["x"], tangent)
    # what was taken away is a multiple of x
    removed = (given["a"] - tangent) / given["x"]
    torch.testing.assert_close(removed, removed[:, :1].expand_as(removed))
    torch.testing.assert_close(ours.proju(given["x"], tangent), tangent)


def test_egrad2rgrad_leaves_its_argument_as_it_was():
    ours, theirs = pair(1.0)
    given = operands(ours, SHAPES["rows"])
    gradient = given["a"].clone()
    ours.egrad2rgrad(given["x"], gradient)
    assert torch.equal(gradient, given["a"])


def test_inner_is_the_minkowski_product_of_any_vectors():
    # what code on geoopt.Lorentz does with it: inner(None, x, y) of points, inner(None, x) = -k
    ours, theirs = pair(4.0)
    given = operands(ours, SHAPES["rows"])
    for first in (None, given["x"]):
        found = ours.inner(first, given["x"], given["y"])
        torch.testing.assert_close(found, theirs.inner(first, given["x"], given["y"]))
    torch.testing.assert_close(ours.inner(None, given["x"]), torch.full((6,), -4.0).double())


# float32: the reason to be here ----------------------------------------------------------------


def exact_distance(x: torch.Tensor, y: torch.Tensor, k: float) -> list[float]:
    """Distance of the points with these spatial parts, in 60 digits."""
    found = []
    with mpmath.workdps(60):
        for a, b in zip(x.tolist(), y.tolist()):
            a, b = [mpmath.mpf(value) for value in a[1:]], [mpmath.mpf(value) for value in b[1:]]
            a0, b0 = (mpmath.sqrt(k + mpmath.fdot(p, p)) for p in (a, b))
            found.append(float(mpmath.sqrt(k) * mpmath.acosh((a0 * b0 - mpmath.fdot(a, b)) / k)))
    return found


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("radius", [1e-3, 1.0, 9.0])
@pytest.mark.parametrize("gap", [1e-4, 1e-2])
def test_distance_of_near_points_in_float32(radius, gap, k):
    ours = hdrm.Lorentz(k)
    k = ours.k.item()
    far = points(ours, 8, 33, radius=radius, seed=1, dtype=torch.float32)
    near = ours.projx(far * (1 + gap * ambient(8, 33, seed=2).float()))
    found = ours.dist(far, near)
    torch.testing.assert_close(
        found.double(), torch.tensor(exact_distance(far, near, k)).double(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(ours.dist2(far, near), found**2, rtol=1e-6, atol=0)
    origin = torch.zeros_like(far)
    torch.testing.assert_close(
        ours.dist0(far).double(),
        torch.tensor(exact_distance(far, origin, k)).double(),
        rtol=1e-6,
        atol=0,
    )
    lengths = ours.component_inner(far, ours.logmap(far, near)).sqrt().squeeze(-1)
    torch.testing.assert_close(lengths, found, rtol=1e-5, atol=0)


@pytest.mark.parametrize("radius", [0.0, 1.0, 9.0])
@pytest.mark.parametrize(
    "method", ["dist", "dist2", "logmap", "transp", "dist0", "logmap0", "norm", "expmap"]
)
def test_gradients_at_coinciding_points_are_finite_in_float32(method, radius):
    ours = hdrm.Lorentz()
    x = points(ours, 4, 9, radius=radius, dtype=torch.float32).requires_grad_()
    y = x.detach().clone().requires_grad_()
    zero = torch.zeros(4, 9, requires_grad=True)
    given = {"x": x, "y": y, "u": zero}
    result = getattr(ours, method)(*(given[name] for name in METHODS[method].split()))
    assert torch.isfinite(result).all()
    result.sum().backward()
    for row in (x, y, zero):
        assert row.grad is None or torch.isfinite(row.grad).all()
    if method in ("dist", "dist2", "norm"):
        assert not result.any()


def test_component_inner_is_never_negative_and_right_in_float32():
    ours = hdrm.Lorentz(0.3)
    x = points(ours, 50, 65, radius=9, seed=1, dtype=torch.float32)
    u = ours.egrad2rgrad(x, ambient(50, 65, seed=2).float())
    found = ours.component_inner(x, u)
    assert found.min() > 0
    exact = hdrm.Lorentz(ours.k.double())
    wanted = exact.component_inner(x.double(), u.double())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


def test_norm_has_no_floor_and_shows_nan():
    ours = hdrm.Lorentz()
    u = torch.tensor([[0.0, 1e-7, 0.0], [0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]])
    found = ours.norm(u)
    assert found[0] == pytest.approx(1e-7) and found[1] == 0 and found[2].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [0.0, 1.0, 9.0])
def test_membership_checks_know_rounding_from_error(radius, dtype):
    ours = hdrm.Lorentz(0.3)  # k is float32 whatever x is
    x = points(ours, 20, 33, radius=radius, seed=1, dtype=dtype)
    u = ours.egrad2rgrad(x, ambient(20, 33, seed=2).to(dtype))
    ours.assert_check_point_on_manifold(x)
    ours.assert_check_vector_on_tangent(x, u)
    lifted, leaning = x.clone(), u.clone()
    lifted[3, 0] *= 1.001
    leaning[3, 0] += 0.01 * u[3].norm()
    assert not ours.check_point_on_manifold(lifted)
    assert not ours.check_vector_on_tangent(x, leaning)
    lifted[3, 0] = leaning[3, 0] = float("nan")
    assert not ours.check_point_on_manifold(lifted)
    assert not ours.check_vector_on_tangent(x, leaning)


# curvature -------------------------------------------------------------------------------------


def test_curvature_follows_k():
    manifold = hdrm.Lorentz(torch.tensor(0.3, dtype=torch.float64))
    assert manifold.c == 1 / 0.3
    assert manifold.to(torch.float32).c == 1 / manifold.k.item() != 1 / 0.3
    manifold.load_state_dict({"k": torch.tensor(4.0)})
    assert manifold.c == 0.25
    manifold.load_state_dict({"k": torch.tensor(2.0)}, assign=True)
    assert manifold.c == 0.5
    with torch.no_grad():
        manifold.k.fill_(8.0)
    assert manifold.c == 0.125
    twin = copy.deepcopy(manifold)
    with torch.no_grad():
        twin.k.fill_(1.0)
    assert (twin.c, manifold.c) == (1.0, 0.125)


def test_curvature_follows_k_in_a_larger_module():
    model = torch.nn.ModuleDict({"space": hdrm.Lorentz(2.0)})
    model.load_state_dict({"space.k": torch.tensor(0.5)})
    assert model["space"].c == 2.0


def test_a_manifold_made_on_meta_is_filled_later():
    with torch.device("meta"):
        manifold = hdrm.Lorentz(2.0)
    x = points(hdrm.Lorentz(), 3, 4)
    with pytest.raises(ValueError, match="c must be positive"):
        manifold.dist0(x)
    manifold.to_empty(device="cpu").load_state_dict({"k": torch.tensor(2.0)})
    assert manifold.c == 0.5


def test_compiles_whole_and_sees_a_new_curvature():
    manifold = hdrm.Lorentz(1.0)
    x = geoopt.ManifoldParameter(points(manifold, 4, WIDTH, seed=1), manifold=manifold)
    y = points(manifold, 4, WIDTH, seed=2)

    def everything(y):
        u = manifold.logmap(x, manifold.projx(y))
        moved = manifold.expmap(x, 0.5 * u)
        step, carried = manifold.retr_transp(x, u, u)
        return (
            manifold.dist2(moved, y).sum() + manifold.component_inner(step, carried).sum()
        ) + manifold.norm(u).sum()

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(y), everything(y))
    manifold.load_state_dict({"k": torch.tensor(4.0)})
    torch.testing.assert_close(compiled(y), everything(y))


@pytest.mark.parametrize("k", [0, -1.0, float("nan"), float("inf"), torch.ones(2)])
def test_refuses_a_curvature_that_is_none(k):
    with pytest.raises(ValueError, match="k must be"):
        hdrm.Lorentz(k)


def test_refuses_to_learn_the_curvature():
    with pytest.raises(ValueError, match="geoopt.Lorentz"):
        hdrm.Lorentz(1.0, learnable=True)


# geoopt's own machinery ------------------------------------------------------------------------


def test_is_a_geoopt_lorentz_with_the_same_state():
    ours, theirs = pair(0.3)
    assert isinstance(ours, geoopt.Lorentz) and geoopt.utils.ismanifold(ours, geoopt.Lorentz)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    buffer = io.BytesIO()
    torch.save(ours.state_dict(), buffer)
    buffer.seek(0)
    theirs.load_state_dict(torch.load(buffer, weights_only=True))


def test_origin_and_random_normal_lie_on_the_manifold():
    ours = hdrm.Lorentz(0.3)
    torch.manual_seed(0)
    for made in (ours.origin(7, WIDTH), ours.random_normal(7, WIDTH)):
        assert made.manifold is ours and made.shape == (7, WIDTH)
        ours.assert_check_point_on_manifold(made)
    assert not ours.dist0(ours.origin(7, WIDTH)).any()


def test_manifold_tensors_use_the_kernels():
    ours, _ = pair(1.0)
    given = operands(ours, SHAPES["rows"])
    x = geoopt.ManifoldParameter(given["x"], manifold=ours)
    assert torch.equal(x.dist(given["y"], p="g"), ours.dist(given["x"], given["y"]))
    assert torch.equal(x.retr(given["u"]), ours.expmap(given["x"], given["u"]))
    assert torch.equal(copy.deepcopy(x).manifold.k, ours.k)


def test_scaled_multiplies_distances():
    ours, _ = pair(1.0)
    given = operands(ours, SHAPES["rows"])
    scaled = geoopt.Scaled(ours, 2.0)
    torch.testing.assert_close(
        scaled.dist(given["x"], given["y"]), 2 * ours.dist(given["x"], given["y"])
    )
    torch.testing.assert_close(
        scaled.retr(given["x"], given["u"]), ours.retr(given["x"], given["u"] / 2)
    )


def product_step(lorentz) -> torch.Tensor:
    space = geoopt.ProductManifold((lorentz, WIDTH), (geoopt.Euclidean(1), 3))
    rows = torch.cat([points(lorentz, 4, WIDTH, seed=1), ambient(4, 3, seed=2)], -1)
    goal = torch.cat([points(lorentz, 4, WIDTH, seed=3), ambient(4, 3, seed=4)], -1)
    x = geoopt.ManifoldParameter(rows, manifold=space)
    optimiser = geoopt.optim.RiemannianAdam([x], lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        space.dist2(x, goal).sum().backward()
        optimiser.step()
    return x.detach()


def test_product_manifold_trains_as_with_geoopt():
    ours, theirs = pair(0.3)
    torch.testing.assert_close(product_step(ours), product_step(theirs), rtol=1e-7, atol=1e-8)
