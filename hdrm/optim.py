"""Riemannian SGD and Adam: torch's interface, one fused kernel per hyperbolic table and step.

Both take any mixture of parameters:

* ``geoopt.ManifoldParameter`` on :class:`hdrm.Lorentz` or ``geoopt.Lorentz``, of shape
  (..., d+1): all rows are moved by :mod:`hdrm.ops.riemannian_step`, whose head has the formulas;
* Euclidean parameters: ``torch.optim``'s own update.

``geoopt.optim`` is the model and the oracle: on the hyperboloid the steps agree to rounding in
float64. The state is kept lean: Adam's second moment is one number per row, shape (..., 1),
because the squared norm that it averages is one number per row.

Source: Bécigneul, Ganea, *Riemannian adaptive optimization methods*, ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import geoopt
import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from . import ops
from .manifold import Lorentz


class _RiemannianOptimizer(torch.optim.Optimizer):
    """What SGD and Adam share: which parameter takes which road."""

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_group(group)
            for parameter in group["params"]:
                self._check_parameter(parameter)
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict) -> None:
        for name in ("lr", "weight_decay"):
            if not group[name] >= 0:
                raise ValueError(f"{name} must not be negative, got {group[name]}")

    def _check_parameter(self, parameter: Tensor) -> None:
        if _is_euclidean(parameter):
            return
        manifold = getattr(parameter, "manifold", None)
        if not isinstance(manifold, geoopt.Lorentz):
            raise ValueError(
                f"hdrm.optim.{type(self).__name__} steps on Lorentz and Euclidean parameters, got "
                f"one on {manifold}; use geoopt.optim.{type(self).__name__} for it"
            )
        if not parameter.is_contiguous():
            raise ValueError(
                f"a parameter of shape {tuple(parameter.shape)} and strides {parameter.stride()} "
                f"cannot be updated in place; build it from data.contiguous()"
            )

    # A table's step is one kernel already; and what dynamo traces of a ManifoldParameter is a plain
    # Parameter, on which a Euclidean step would be made.
    @torch.compiler.disable(reason="a step of hdrm.optim is one fused kernel and is not compiled")
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step on every parameter that has a gradient. Inside torch.compile it breaks the graph.

        Args:
            closure: computes the loss anew and its gradients; its result is returned.

        Raises:
            RuntimeError: a gradient is sparse; nothing has been moved then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        for parameter in (p for parameters in moving for p in parameters):
            if parameter.grad.is_sparse:
                raise RuntimeError(
                    f"hdrm.optim.{type(self).__name__} takes dense gradients and got a sparse one "
                    f"for a parameter of shape {tuple(parameter.shape)}; build the embedding with "
                    f"sparse=False, or use geoopt.optim.Sparse{type(self).__name__}"
                )
        with torch.no_grad():
            for group, parameters in zip(self.param_groups, moving):
                flat = [p for p in parameters if _is_euclidean(p)]
                if flat:
                    self._step_euclidean(flat, group)
                for parameter in parameters:
                    if not _is_euclidean(parameter):
                        self._step_lorentz(parameter, _curvature(parameter.manifold), group)
        return loss

    def _step_euclidean(self, parameters: list[Tensor], group: dict) -> None:
        raise NotImplementedError

    def _step_lorentz(self, parameter: Tensor, c: float, group: dict) -> None:
        raise NotImplementedError


class RiemannianSGD(_RiemannianOptimizer):
    """Riemannian stochastic gradient descent with geoopt's arguments.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        momentum, dampening, weight_decay, nesterov: as in ``torch.optim.SGD``.
        stabilize: accepted because geoopt has it; every step here ends on the manifold and reads
            no time coordinate, so there is nothing to stabilise.

    Raises:
        ValueError: a hyperparameter is out of range, or a parameter is non-contiguous or on a
            manifold other than the hyperboloid and Euclidean space.

    State: ``momentum_buffer``, the parameter's shape, if there is momentum. On the hyperboloid it
    starts as egrad2rgrad(x, g). geoopt starts with g itself, which is not a tangent vector and
    which it has to project at every step; where the time coordinate of g is 0, as the gradients
    of hdrm's kernels have it, the first step is the same. As in geoopt, the first gradient
    enters twice: m₁ = μ·v₁ + (1−τ)·v₁. Euclidean buffers are torch's, m₁ = g₁.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        stabilize: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict) -> None:
        super()._check_group(group)
        if not group["momentum"] >= 0:
            raise ValueError(f"momentum must not be negative, got {group['momentum']}")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening = 0, got momentum "
                f"{group['momentum']} and dampening {group['dampening']}"
            )

    def _step_euclidean(self, parameters: list[Tensor], group: dict) -> None:
        buffers = [self.state[p].get("momentum_buffer") for p in parameters]
        sgd(
            parameters,
            [_gradient(p) for p in parameters],
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=False,
        )
        if group["momentum"]:
            for parameter, buffer in zip(parameters, buffers):
                self.state[parameter]["momentum_buffer"] = buffer

    def _step_lorentz(self, parameter: Tensor, c: float, group: dict) -> None:
        x = _table(parameter)
        gradient = _gradient(parameter).reshape(x.shape)
        buffer = None
        if group["momentum"]:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                first = ops.egrad2rgrad(x, gradient, c=c)
                state["momentum_buffer"] = first.view(parameter.shape)
            buffer = _table(state["momentum_buffer"])
        ops.riemannian_sgd_step_(
            x,
            gradient,
            buffer,
            lr=float(group["lr"]),
            momentum=group["momentum"],
            dampening=group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            c=c,
        )


class RiemannianAdam(_RiemannianOptimizer):
    """Riemannian Adam with geoopt's arguments.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas, eps, weight_decay: as in ``torch.optim.Adam``.
        amsgrad: must be False; the kernel keeps no running maximum.
        stabilize: accepted because geoopt has it; see :class:`RiemannianSGD`.

    Raises:
        ValueError: a hyperparameter is out of range, ``amsgrad`` is set, or a parameter is
            non-contiguous or on a manifold other than the hyperboloid and Euclidean space.

    State on the hyperboloid: ``step`` (int); ``exp_avg``, tangent vectors of the parameter's
    shape; ``exp_avg_sq`` of shape (..., 1), where geoopt repeats the same number along the row.
    Euclidean parameters have torch's state.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        stabilize: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict) -> None:
        super()._check_group(group)
        if group["amsgrad"]:
            raise ValueError(
                "hdrm.optim.RiemannianAdam has no amsgrad; use amsgrad=False, or "
                "geoopt.optim.RiemannianAdam(..., amsgrad=True), which runs on hdrm.Lorentz"
            )
        if not group["eps"] >= 0:
            raise ValueError(f"eps must not be negative, got {group['eps']}")
        betas = group["betas"]
        two = isinstance(betas, (tuple, list)) and len(betas) == 2
        if not (two and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")

    def _step_euclidean(self, parameters: list[Tensor], group: dict) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        adam(
            parameters,
            [_gradient(p) for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _step_lorentz(self, parameter: Tensor, c: float, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = parameter.new_zeros(parameter.shape)
            state["exp_avg_sq"] = parameter.new_zeros((*parameter.shape[:-1], 1))
        state["step"] += 1
        x = _table(parameter)
        ops.riemannian_adam_step_(
            x,
            _gradient(parameter).reshape(x.shape),
            _table(state["exp_avg"]),
            _table(state["exp_avg_sq"]),
            step=state["step"],
            lr=float(group["lr"]),
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            c=c,
        )


def _is_euclidean(parameter: Tensor) -> bool:
    return not isinstance(parameter, geoopt.ManifoldTensor) or isinstance(
        parameter.manifold, geoopt.Euclidean
    )


def _gradient(parameter: Tensor) -> Tensor:
    """Of a parameter that has one."""
    return cast(Tensor, parameter.grad)


def _curvature(manifold: geoopt.Lorentz) -> float:
    return manifold.c if isinstance(manifold, Lorentz) else 1 / manifold.k.item()


def _table(rows: Tensor) -> Tensor:
    """(..., d+1) as a matrix that shares its storage: what is written there is not lost."""
    return rows.detach().view(-1, rows.shape[-1])
