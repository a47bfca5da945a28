"""One optimiser step on the hyperboloid, in place: a single pass over the table.

For each row, with the Euclidean gradient g and weight decay λ as geoopt applies it (λ·x is added
to g before the conversion, which makes it 2λ(x0²/K)·xs in the tangent space):

    v = egrad2rgrad(x, g + λx)
    SGD:   m ← μ·m + (1−τ)·v;   n = m, or v + μ·m with Nesterov;   y = expmap(x, −lr·n)
    Adam:  m ← β₁m + (1−β₁)v;   q ← β₂q + (1−β₂)‖v‖²_L;
           y = expmap(x, −lr·(m/(1−β₁ᵗ))/(√(q/(1−β₂ᵗ)) + ε))
    m ← transport(x, y, m);   x ← y

Source of the algorithms: Bécigneul, Ganea, *Riemannian adaptive optimization methods*, ICLR 2019;
the update order is geoopt's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend, checks
from .lorentz_maps import _egrad2rgrad, _expmap, _transport
from .radial import across, dot, spatial


def riemannian_sgd_step_(
    x: Tensor,
    grad: Tensor,
    momentum_buffer: Tensor | None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    c: float = 1.0,
) -> None:
    """One step of Riemannian SGD on the rows of x; see the module's formulas.

    Args:
        x: points (n, d+1), contiguous; overwritten.
        grad: Euclidean gradient (n, d+1).
        momentum_buffer: tangent vectors at x (n, d+1), contiguous, overwritten by their
            transport to the new points; None without momentum.
        lr, momentum, dampening, weight_decay, nesterov: as in ``torch.optim.SGD``.
        c: the curvature is −c.

    Raises:
        TypeError, ValueError: shapes, dtypes or devices do not fit, x or the buffer is not
            contiguous, there is momentum without a buffer, c ≤ 0.
    """
    c = checks.curvature(c)
    if momentum and momentum_buffer is None:
        raise ValueError(
            f"riemannian_sgd_step_: momentum = {momentum} needs a momentum_buffer of x's shape"
        )
    state = {} if momentum_buffer is None else {"momentum_buffer": momentum_buffer}
    _check("riemannian_sgd_step_", x, grad, state)
    backend.call(
        "riemannian_sgd_step_",
        x, grad, momentum_buffer, lr, momentum, dampening, weight_decay, nesterov, c,
    )  # fmt: skip


def riemannian_adam_step_(
    x: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    c: float = 1.0,
) -> None:
    """One step of Riemannian Adam on the rows of x; see the module's formulas.

    Args:
        x: points (n, d+1), contiguous; overwritten.
        grad: Euclidean gradient (n, d+1).
        exp_avg: first moment, tangent vectors at x (n, d+1), contiguous; overwritten.
        exp_avg_sq: second moment, one number per row (n, 1), contiguous; overwritten.
        step: t ≥ 1, the number of this step.
        lr, betas, eps, weight_decay: as in ``torch.optim.Adam``.
        c: the curvature is −c.

    Raises:
        TypeError, ValueError: shapes, dtypes or devices do not fit, a state is not contiguous,
            c ≤ 0, step < 1, a β is not in [0, 1).
    """
    c = checks.curvature(c)
    _check("riemannian_adam_step_", x, grad, {"exp_avg": exp_avg})
    if exp_avg_sq.shape != (x.shape[0], 1) or not exp_avg_sq.is_contiguous():
        raise ValueError(
            f"riemannian_adam_step_: exp_avg_sq must be contiguous of shape ({x.shape[0]}, 1), "
            f"got {tuple(exp_avg_sq.shape)}"
        )
    checks.same_as("riemannian_adam_step_", "x", x, "exp_avg_sq", exp_avg_sq)
    if step < 1:
        raise ValueError(f"riemannian_adam_step_: step must be at least 1, got {step}")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"riemannian_adam_step_: betas must be in [0, 1), got {betas}")
    correction1, correction2 = 1 - betas[0] ** step, 1 - betas[1] ** step
    backend.call(
        "riemannian_adam_step_",
        x, grad, exp_avg, exp_avg_sq, lr, betas[0], betas[1], eps, weight_decay,
        correction1, correction2, c,
    )  # fmt: skip


def _check(op: str, x: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
    checks.table(op, storage=False, x=x, grad=grad, **state)
    for name, tensor in {"grad": grad, **state}.items():
        if tensor.shape != x.shape:
            raise ValueError(
                f"{op}: {name} must have x's shape {tuple(x.shape)}, got {tuple(tensor.shape)}"
            )
    for name, tensor in {"x": x, **state}.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{op}: {name} is updated in place and must be contiguous")


def _gradient(x: Tensor, grad: Tensor, weight_decay: float, c: float) -> Tensor:
    """v of the module's formulas, spatial part."""
    xs = spatial(x)
    return spatial(_egrad2rgrad(x, grad, c)) + 2 * weight_decay * (1 + c * dot(xs, xs)) * xs


def _move_(x: Tensor, direction: Tensor, lr: float, moment: Tensor | None, c: float) -> None:
    """x ← expmap(x, −lr·direction), and the moment goes along."""
    y = _expmap(x, torch.cat([torch.zeros_like(x[:, :1]), -lr * direction], -1), c)
    if moment is not None:
        moment.copy_(_transport(x, y, moment, c))
    x.copy_(y)


def _sgd(
    x: Tensor,
    grad: Tensor,
    buffer: Tensor | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    c: float,
) -> None:
    direction = _gradient(x, grad, weight_decay, c)
    if buffer is not None:
        moment = spatial(buffer)
        moment.mul_(momentum).add_(direction, alpha=1 - dampening)
        direction = direction + momentum * moment if nesterov else moment
    _move_(x, direction, lr, buffer, c)


def _adam(
    x: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    correction1: float,
    correction2: float,
    c: float,
) -> None:
    gradient, xs = _gradient(x, grad, weight_decay, c), spatial(x)
    tau, rest = across(gradient, xs)
    xx = dot(xs, xs)
    sqnorm = dot(rest, rest) + tau * tau * xx / (1 + c * xx)
    moment = spatial(exp_avg)
    moment.mul_(beta1).add_(gradient, alpha=1 - beta1)
    exp_avg_sq.mul_(beta2).add_(sqnorm, alpha=1 - beta2)
    denominator = (exp_avg_sq / correction2).sqrt() + eps
    _move_(x, moment / correction1 / denominator, lr, exp_avg, c)


backend.define(
    "riemannian_sgd_step_",
    "(Tensor(a!) x, Tensor grad, Tensor(b!)? momentum_buffer, float lr, float momentum, "
    "float dampening, float weight_decay, bool nesterov, float c) -> ()",
    reference=_sgd,
    fake=lambda *args: None,
)
backend.define(
    "riemannian_adam_step_",
    "(Tensor(a!) x, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, float lr, "
    "float beta1, float beta2, float eps, float weight_decay, float correction1, "
    "float correction2, float c) -> ()",
    reference=_adam,
    fake=lambda *args: None,
)
