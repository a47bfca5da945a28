"""What torch's transforms make of an op: gradients once, torch.func's, and vmap.

An op with a gradient is differentiated in reverse, once. The other derivatives are refused here,
because torch would not: it takes the gradient of an op that was not told for a constant, and the
tangent of one for 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

_BelowAutograd = torch._C._AutoDispatchBelowAutograd  # looked up once: it is in every call
_PLAIN = "or take this part from geoopt.Lorentz, which is plain torch"


class Eager(NamedTuple):
    """The ways to call an op in eager mode."""

    with_gradient: Callable
    without: Callable
    transformed: Callable  # under torch.func


def asked(args: Sequence) -> bool:
    """Whether a derivative of a call with these arguments may be asked for, in either mode."""
    if forward_ad._current_level >= 0:
        return True
    if torch.is_grad_enabled():
        for x in args:  # any(… for x in args) takes twice as long
            if isinstance(x, Tensor) and x.requires_grad:
                return True
    return False


def register(
    library: torch.library.Library,
    namespace: str,
    name: str,
    num_arguments: int,
    tensors: Sequence[int],
    constants: Sequence[int],
    differentiable: int,
) -> Eager:
    """Give the op the gradient that ``<name>_backward`` computes; the ways to call it.

    The backward takes these tensors of the op's arguments, then these constants, by their places.
    The first ``differentiable`` arguments have a gradient.
    """
    constant = (None,) * (num_arguments - differentiable)
    operations = getattr(torch.ops, namespace)
    forward, backward_op = (getattr(operations, op).default for op in (name, f"{name}_backward"))
    differentiate = _once(name, backward_op)
    tensors_of, constants_of = _taking(tensors), _taking(constants)

    def below_autograd(*args):
        with _BelowAutograd():
            return forward(*args)

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*tensors_of(inputs))
        ctx.constants = constants_of(inputs)

    def backward(ctx, *grads):
        found = differentiate(*grads, *ctx.saved_tensors, *ctx.constants)
        return (found, *constant) if differentiable == 1 else (*found, *constant)

    torch.library.register_autograd(
        f"{namespace}::{name}", backward, setup_context=setup_context, lib=library
    )

    def forward_in_eager(ctx, *args):  # a setup_context of its own would take twice the time
        output = below_autograd(*args)
        setup_context(ctx, args, output)
        return output

    function = _function(name, forward_in_eager, backward)
    # torch.func takes an autograd.Function with a setup_context, and not what torch.library makes.
    transformed = _function(name, forward, backward, setup_context)
    return Eager(function.apply, below_autograd, transformed.apply)


def _taking(places: Sequence[int]) -> Callable[[tuple], tuple]:
    """What takes the arguments at these places out of all."""
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))


def _once(name: str, backward_op: Callable) -> Callable:
    """The op's gradient, which refuses to be differentiated."""

    def refuse(ctx, *grads):
        raise RuntimeError(
            f"hdrm.ops: {name} has a first derivative only and was differentiated twice; leave "
            f"create_graph=True out, {_PLAIN}"
        )

    def setup_context(ctx, inputs, output):
        pass

    function = _function(name, backward_op, refuse, setup_context)

    def differentiate(*args):
        if torch.compiler.is_compiling():
            return backward_op(*args)
        if torch._C._are_functorch_transforms_active() or asked(args):
            return function.apply(*args)
        with _BelowAutograd():
            return backward_op(*args)

    return differentiate


def _function(
    name: str, forward: Callable, backward: Callable, setup_context: Callable | None = None
) -> type[torch.autograd.Function]:
    """An autograd.Function without a forward-mode derivative, which says so."""

    def jvp(ctx, *tangents):
        raise RuntimeError(
            f"hdrm.ops: {name} has no forward-mode derivative (jvp, jacfwd, hessian); use reverse "
            f"mode (vjp, jacrev), {_PLAIN}"
        )

    methods = {"forward": forward, "backward": backward, "jvp": jvp}
    if setup_context:
        methods["setup_context"] = setup_context
    members: dict[str, object] = {key: staticmethod(method) for key, method in methods.items()}
    # vmap of the function is vmap of the ops inside.
    members["generate_vmap_rule"] = setup_context is not None
    return type(name, (torch.autograd.Function,), members)


def register_rowwise_vmap(library: torch.library.Library, op: str) -> None:
    """An op on rows of tensors of one shape: a vmapped dimension is one more of theirs.

    Other ops are called once per element, which torch does, with a warning that this is slower.
    """
    packet = getattr(getattr(torch.ops, library.ns), op).default

    def vmap(info, in_dims, *args):
        moved = [
            arg
            if not isinstance(arg, Tensor)
            else arg.expand(info.batch_size, *arg.shape)
            if dim is None
            else arg.movedim(dim, 0)
            for arg, dim in zip(args, in_dims)
        ]
        found = packet(*moved)
        return found, (0,) * len(found) if isinstance(found, tuple) else 0

    torch.library.register_vmap(f"{library.ns}::{op}", vmap, lib=library)


def refuse_vmap(library: torch.library.Library, op: str) -> None:
    """An op that writes into its arguments."""

    def vmap(info, in_dims, *args):
        raise RuntimeError(
            f"hdrm.ops.{op} works in place and cannot be vmapped; it moves every row of a table "
            f"(n, d+1) by itself, so call it once on x.view(-1, x.shape[-1])"
        )

    torch.library.register_vmap(f"{library.ns}::{op}", vmap, lib=library)
