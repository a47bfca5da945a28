"""hdrm.optim against geoopt.optim on the hyperboloid and torch.optim elsewhere."""

from __future__ import annotations

import io

import geoopt
import pytest
import torch

import hdrm
from hdrm.optim import RiemannianAdam, RiemannianSGD

CURVATURES = (0.3, 1.0, 4.0)
MANIFOLDS = {"hdrm": hdrm.Lorentz, "geoopt": geoopt.Lorentz}
SGD_OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.02},
    "momentum": {"momentum": 0.8},
    "dampening": {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.02},
    "nesterov": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.02},
}
ADAM_OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.02},
    "betas": {"betas": (0.5, 0.9), "eps": 1e-3, "lr": 0.1},
}


def normal(*shape: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parameter(manifold, *shape: int, radius: float = 1.0, dtype=torch.float64):
    """Points at the radius (in units of sqrt(k))."""
    u = normal(*shape, seed=0)
    u[..., 0] = 0
    u *= radius * manifold.k.item() ** 0.5 / u.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    exact = hdrm.Lorentz(manifold.k.detach().double())
    return geoopt.ManifoldParameter(exact.expmap0(u).to(dtype), manifold=manifold)


def take_steps(optimiser, p: torch.Tensor, count: int = 5, first: int = 1, scale: float = 0.3):
    """Steps along gradients that do not depend on p; their time coordinates are not 0."""
    for step in range(first, first + count):
        p.grad = scale * normal(*p.shape, seed=step, dtype=p.dtype)
        optimiser.step()


def manifold_of(kind: str, k: float):
    return MANIFOLDS[kind](torch.tensor(k, dtype=torch.float64))


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("kind", MANIFOLDS)
@pytest.mark.parametrize("options", SGD_OPTIONS.values(), ids=SGD_OPTIONS)
def test_sgd_equals_geoopts(options, kind, k):
    manifold = manifold_of(kind, k)
    ours, theirs = parameter(manifold, 6, 5), parameter(manifold, 6, 5)
    optimiser = RiemannianSGD([ours], lr=0.1, **options)
    oracle = geoopt.optim.RiemannianSGD([theirs], lr=0.1, **options)
    if "momentum" in options:
        # geoopt would start from the Euclidean gradient; see the next test
        first = 0.3 * normal(6, 5, seed=1)
        oracle.state[theirs]["momentum_buffer"] = manifold.egrad2rgrad(theirs.detach(), first)
    take_steps(optimiser, ours)
    take_steps(oracle, theirs)
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-9, atol=1e-10)
    if "momentum" in options:
        torch.testing.assert_close(
            optimiser.state[ours]["momentum_buffer"],
            oracle.state[theirs]["momentum_buffer"],
            rtol=1e-8,
            atol=1e-9,
        )


@pytest.mark.parametrize("k", CURVATURES)
def test_first_momentum_is_the_tangent_part_of_geoopts(k):
    manifold = manifold_of("geoopt", k)
    ours, theirs = parameter(manifold, 6, 5), parameter(manifold, 6, 5)
    gradient = normal(6, 5, seed=1)
    gradient[:, 0] = 0  # as the gradients of hdrm's kernels are
    optimiser = RiemannianSGD([ours], lr=0.1, momentum=0.8)
    oracle = geoopt.optim.RiemannianSGD([theirs], lr=0.1, momentum=0.8)
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    optimiser.step()
    oracle.step()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-9, atol=1e-10)
    exact = hdrm.Lorentz(manifold.k)
    assert exact.check_vector_on_tangent(ours, optimiser.state[ours]["momentum_buffer"])
    assert not exact.check_vector_on_tangent(theirs, oracle.state[theirs]["momentum_buffer"])


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("kind", MANIFOLDS)
@pytest.mark.parametrize("options", ADAM_OPTIONS.values(), ids=ADAM_OPTIONS)
def test_adam_equals_geoopts(options, kind, k):
    manifold = manifold_of(kind, k)
    ours, theirs = parameter(manifold, 6, 5), parameter(manifold, 6, 5)
    options = {"lr": 0.03, **options}
    optimiser = RiemannianAdam([ours], **options)
    oracle = geoopt.optim.RiemannianAdam([theirs], **options)
    take_steps(optimiser, ours)
    take_steps(oracle, theirs)
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-9, atol=1e-10)
    found, wanted = optimiser.state[ours], oracle.state[theirs]
    assert found["step"] == wanted["step"] == 5
    assert found["exp_avg_sq"].shape == (6, 1)
    torch.testing.assert_close(found["exp_avg"], wanted["exp_avg"], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(
        found["exp_avg_sq"].expand(6, 5), wanted["exp_avg_sq"], rtol=1e-8, atol=0
    )


EUCLIDEAN = {
    "sgd": (RiemannianSGD, torch.optim.SGD, {"lr": 0.1}),
    "momentum": (
        RiemannianSGD,
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01},
    ),
    "nesterov": (RiemannianSGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (RiemannianAdam, torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.01}),
}


@pytest.mark.parametrize("ours_type, oracle_type, options", EUCLIDEAN.values(), ids=EUCLIDEAN)
@pytest.mark.parametrize("wrapped", [False, True], ids=["parameter", "manifold_parameter"])
def test_euclidean_parameters_are_updated_as_torch_does(ours_type, oracle_type, options, wrapped):
    start = normal(3, 4, seed=9)
    ours = geoopt.ManifoldParameter(start.clone()) if wrapped else torch.nn.Parameter(start.clone())
    theirs = torch.nn.Parameter(start.clone())
    take_steps(ours_type([ours], **options), ours)
    take_steps(oracle_type([theirs], **options), theirs)
    assert torch.equal(ours.detach(), theirs.detach())


OURS = {
    "sgd": lambda p: RiemannianSGD(p, lr=0.05, momentum=0.8, weight_decay=0.01),
    "adam": lambda p: RiemannianAdam(p, lr=0.05, weight_decay=0.01),
}


@pytest.mark.parametrize(
    "make, radius",
    [
        (lambda p: RiemannianSGD(p, lr=0.05), 0.0),
        (lambda p: RiemannianSGD(p, lr=0.05), 9.0),
        (lambda p: RiemannianSGD(p, lr=0.05, momentum=0.8), 0.0),
        (lambda p: RiemannianSGD(p, lr=0.05, momentum=0.8), 9.0),
        (lambda p: RiemannianAdam(p, lr=0.05), 0.0),
        (lambda p: RiemannianAdam(p, lr=0.05), 9.0),
    ],
)
def test_float32_steps_are_right_near_and_far(make, radius):
    narrow = parameter(hdrm.Lorentz(0.3), 8, 33, radius=radius, dtype=torch.float32)
    exact = hdrm.Lorentz(narrow.manifold.k.double())
    wide = geoopt.ManifoldParameter(narrow.detach().double(), manifold=exact)
    start = wide.detach().clone()
    # a Riemannian gradient is x0 times as long as the Euclidean one: equal steps at every radius
    scale = 0.3 / narrow.detach()[:, :1]
    for p in (narrow, wide):
        optimiser = make([p])
        for seed in (1, 2, 3):
            p.grad = (scale * normal(8, 33, seed=seed, dtype=torch.float32)).to(p.dtype)
            optimiser.step()
    assert narrow.manifold.check_point_on_manifold(narrow.detach())
    # float32 resolves a length of about eps * x0 across the radius
    resolution = torch.finfo(torch.float32).eps * wide.detach()[:, 0].clamp(min=1)
    error = exact.dist(wide.detach(), narrow.detach().double())
    assert (error < 10 * resolution).all()
    assert (exact.dist(wide.detach(), start) > 0.01).any()


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (0, 5), (4, 2)], ids=str)
def test_batch_shapes_are_tables(make, shape):
    manifold = manifold_of("hdrm", 1.0)
    batch = parameter(manifold, *shape)
    table = geoopt.ManifoldParameter(
        batch.detach().clone().reshape(-1, shape[-1]), manifold=manifold
    )
    one, other = make([batch]), make([table])
    for seed in (1, 2):
        gradient = normal(*shape, seed=seed)
        batch.grad, table.grad = gradient, gradient.reshape(table.shape)
        one.step()
        other.step()
    assert batch.shape == shape
    assert torch.equal(batch.detach().reshape(table.shape), table.detach())


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_non_contiguous_gradients_are_accepted(make):
    manifold = manifold_of("hdrm", 1.0)
    plain, strided = parameter(manifold, 4, 6), parameter(manifold, 4, 6)
    plain.grad = normal(6, 4, seed=1).t().contiguous()
    strided.grad = normal(6, 4, seed=1).t()
    assert not strided.grad.is_contiguous()
    make([plain]).step()
    make([strided]).step()
    assert torch.equal(plain.detach(), strided.detach())


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_gradients_are_read_only(make):
    p = parameter(manifold_of("hdrm", 1.0), 4, 6)
    gradient = normal(4, 6, seed=1)
    p.grad = gradient.clone()
    make([p]).step()
    assert torch.equal(p.grad, gradient)


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_state_dict_continues_where_it_stopped(make):
    manifold = manifold_of("hdrm", 0.3)

    def model():
        return [parameter(manifold, 6, 5), torch.nn.Parameter(normal(3, 4, seed=9))]

    def advance(optimiser, parameters, seeds):
        for seed in seeds:
            for p in parameters:
                p.grad = 0.3 * normal(*p.shape, seed=seed)
            optimiser.step()

    straight, stopped = model(), model()
    advance(make(straight), straight, (1, 2, 3, 4))
    first, second = make(stopped), make(stopped)
    advance(first, stopped, (1, 2))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    advance(second, stopped, (3, 4))
    for p, q in zip(straight, stopped):
        assert torch.equal(p.detach(), q.detach())


def test_groups_closure_and_scheduler():
    manifold = hdrm.Lorentz()
    table = parameter(manifold, 6, 5, dtype=torch.float32)
    still = parameter(manifold, 6, 5, radius=0.5, dtype=torch.float32)
    weight = torch.nn.Parameter(torch.ones(5))
    unused = torch.nn.Parameter(torch.ones(5))
    optimiser = RiemannianAdam(
        [{"params": [table, weight]}, {"params": [still], "lr": 0.0}, {"params": [unused]}],
        lr=0.1,
        stabilize=10,
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 1, gamma=0.5)
    before = [p.detach().clone() for p in (table, still, weight)]

    def closure():
        assert torch.is_grad_enabled()
        optimiser.zero_grad()
        loss = (manifold.dist2(table, still) + (table.detach() * weight).sum(-1)).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [optimiser.step(closure).item() for _ in range(3)]
    assert losses[2] < losses[0]
    assert still.grad.any()
    assert (manifold.dist(table.detach(), before[0]) > 0.1).all()
    assert not torch.equal(weight, before[2])
    torch.testing.assert_close(still.detach(), before[1])
    assert torch.equal(unused, torch.ones(5)) and unused not in optimiser.state
    scheduler.step()
    assert [group["lr"] for group in optimiser.param_groups] == [0.05, 0.0, 0.05]


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_a_sparse_gradient_moves_nothing(make):
    manifold = hdrm.Lorentz()
    dense = parameter(manifold, 4, 6, dtype=torch.float32)
    sparse = parameter(manifold, 4, 6, dtype=torch.float32)
    before = dense.detach().clone()
    optimiser = make([dense, sparse])
    torch.nn.functional.embedding(torch.tensor([1]), sparse, sparse=True).sum().backward()
    dense.grad = torch.ones(4, 6)
    with pytest.raises(RuntimeError, match="sparse=False"):
        optimiser.step()
    assert torch.equal(dense.detach(), before) and not optimiser.state


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_other_manifolds_are_refused_by_name(make):
    sphere = geoopt.ManifoldParameter(torch.eye(3), manifold=geoopt.Sphere())
    with pytest.raises(ValueError, match=r"Sphere.*geoopt\.optim\.Riemannian"):
        make([sphere])
    optimiser = make([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(ValueError, match="Sphere"):
        optimiser.add_param_group({"params": [sphere]})
    assert len(optimiser.param_groups) == 1


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_a_non_contiguous_parameter_is_refused(make):
    manifold = hdrm.Lorentz()
    columns = parameter(manifold, 4, 6, dtype=torch.float32).detach().t().contiguous().t()
    with pytest.raises(ValueError, match="contiguous"):
        make([geoopt.ManifoldParameter(columns, manifold=manifold)])


@pytest.mark.parametrize(
    "optimiser, options, message",
    [
        (RiemannianSGD, {"lr": -1.0}, "lr must not be negative, got -1.0"),
        (RiemannianSGD, {"lr": 0.1, "momentum": -0.5}, "momentum must not be negative"),
        (RiemannianSGD, {"lr": 0.1, "weight_decay": -0.5}, "weight_decay must not be negative"),
        (RiemannianSGD, {"lr": 0.1, "nesterov": True}, "nesterov needs momentum"),
        (
            RiemannianSGD,
            {"lr": 0.1, "nesterov": True, "momentum": 0.9, "dampening": 0.1},
            "nesterov needs momentum",
        ),
        (RiemannianAdam, {"lr": float("nan")}, "lr must not be negative"),
        (RiemannianAdam, {"betas": (0.9, 1.0)}, "betas must be two numbers"),
        (RiemannianAdam, {"eps": -1.0}, "eps must not be negative"),
        (RiemannianAdam, {"amsgrad": True}, r"geoopt\.optim\.RiemannianAdam"),
    ],
)
def test_hyperparameters_are_checked_for_every_group(optimiser, options, message):
    p = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=message):
        optimiser([p], **options)
    with pytest.raises(ValueError, match=message):
        optimiser([{"params": [p], **options}], lr=0.1)


# training --------------------------------------------------------------------------------------


def tree_losses(lorentz, make_optimiser, dtype=torch.float64, steps: int = 40) -> list[float]:
    """Embed the complete binary tree of 15 nodes: distances should be 0.7 × path lengths."""
    paths = torch.full((15, 15), 99.0, dtype=dtype).fill_diagonal_(0)
    for node in range(1, 15):
        paths[node, (node - 1) // 2] = paths[(node - 1) // 2, node] = 1
    for via in range(15):
        paths = torch.minimum(paths, paths[:, via : via + 1] + paths[via : via + 1])
    left, right = torch.triu_indices(15, 15, offset=1)
    wanted = 0.7 * paths[left, right]
    x = parameter(lorentz, 15, 4, radius=0.3, dtype=dtype)
    optimiser = make_optimiser([x])
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = (lorentz.dist(x[left], x[right]) - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert lorentz.check_point_on_manifold(x.detach())
    return losses


GEOOPT_OPTIMISERS = {
    "adam": lambda p: geoopt.optim.RiemannianAdam(p, lr=0.03, stabilize=10),
    "amsgrad": lambda p: geoopt.optim.RiemannianAdam(p, lr=0.03, amsgrad=True),
    "sgd": lambda p: geoopt.optim.RiemannianSGD(p, lr=0.5, weight_decay=1e-3),
}


@pytest.mark.parametrize("optimiser", GEOOPT_OPTIMISERS)
@pytest.mark.parametrize("k", [0.3, 1.0])
def test_geoopts_optimisers_train_a_tree_as_on_geoopts_manifold(optimiser, k):
    found, wanted = (
        tree_losses(manifold_of(kind, k), GEOOPT_OPTIMISERS[optimiser]) for kind in MANIFOLDS
    )
    assert found[-1] < 0.3 * found[0]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-5, atol=0)


def test_geoopts_sgd_with_momentum_trains_on_it():
    # Its first momentum is a Euclidean gradient, not a tangent vector, which each manifold reads
    # its own way: the path is not geoopt.Lorentz's.
    def momentum(parameters):
        return geoopt.optim.RiemannianSGD(parameters, lr=0.1, momentum=0.8)

    losses = tree_losses(manifold_of("hdrm", 1.0), momentum)
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_our_optimisers_train_a_tree_in_float32_as_in_float64(make):
    found = tree_losses(hdrm.Lorentz(), make, dtype=torch.float32)
    wanted = tree_losses(manifold_of("hdrm", 1.0), make)
    assert found[-1] < 0.3 * found[0]
    assert found[-1] == pytest.approx(wanted[-1], rel=1e-2)
