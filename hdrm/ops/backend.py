"""Which implementation of an op runs, and why.

Every op is declared once with :func:`define` and lives in the dispatcher four times:

* ``torch.ops.hdrm.<name>`` is the automatic choice. PyTorch's dispatcher takes the compiled
  kernel of the tensor's device, on CUDA without one the Triton kernel, and the reference
  implementation where there is neither.
* ``torch.ops.hdrm_cuda.<name>`` is always the CUDA kernel of ``csrc/cuda``, if the build has them.
* ``torch.ops.hdrm_triton.<name>`` is always the Triton kernel: the function of that name in
  ``hdrm/kernels``, in the file that is named as the one here.
* ``torch.ops.hdrm_reference.<name>`` is always the reference implementation.

All carry the same schema, fake implementation and autograd formula, so each passes
``opcheck``, ``gradcheck`` and ``torch.compile(fullgraph=True)``. This module is the only place
that knows which implementations exist; above :mod:`hdrm.ops` a backend is reported, never chosen.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from .. import memory, native
from . import checks, derivatives, radial

BACKENDS = ("reference", "cpu", "cuda", "triton")

_NAMESPACES = {  # "cpu" is "hdrm" on the CPU
    "reference": "hdrm_reference",
    "cuda": "hdrm_cuda",
    "triton": "hdrm_triton",
}
_LIBRARIES = {name: torch.library.Library(name, "DEF") for name in ("hdrm", *_NAMESPACES.values())}
_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_COMPILED = native.load() is not None
_forced: str | None = None
_namespace = "hdrm"  # of the forced backend, or the automatic one
_devices: tuple[str, ...] = ()  # types of device that the forced backend takes; empty for any
_told: set[str] = set()
_mistakes: list[str] = []  # in the environment variables; the first op says them, not the import


def _has_kernel(op: str, key: str) -> bool:
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(op, key)
    except RuntimeError:  # neither declared yet nor registered by a compiled module
        return False


def _unavailable() -> dict[str, str]:
    """The backends that cannot be chosen here, each with the reason."""
    reasons = {}
    if not _cuda_devices():
        reasons["cuda"] = _why_no_cuda()
    if not _TRITON:
        reasons["triton"] = "Triton is not installed (pip install triton)"
    elif not (torch.cuda.is_available() or _INTERPRETED):
        reasons["triton"] = (
            "there is no CUDA device; with TRITON_INTERPRET=1 set before Python starts, Triton's "
            "interpreter runs the kernels on the CPU, slowly"
        )
    if not _COMPILED:
        reasons["cpu"] = native.error() or "the compiled module is missing"
    return reasons


def _cuda_devices() -> tuple[str, ...]:
    """Types of device whose tensors the CUDA kernels take here. The dispatcher knows: tests let an
    emulator run them on the CPU."""
    devices = ["cuda"] * torch.cuda.is_available() + ["cpu"]
    return tuple(name for name in devices if _has_kernel("hdrm_cuda::expmap0", name.upper()))


def _why_no_cuda() -> str:
    module = native.load()
    if module is None:
        return native.error() or "the compiled module is missing"
    if not _has_kernel("hdrm_cuda::expmap0", "CUDA"):
        return module.build_report()["cuda"]
    return "there is no CUDA device"


def mistakes() -> list[str]:
    """What is wrong with HDRM_BACKEND and HDRM_KEPT_MEMORY, which were read at import."""
    return list(_mistakes)


def available_backends() -> dict[str, str]:
    """Every backend with ``"available"`` or the reason why it cannot be used."""
    reasons = _unavailable()
    return {name: reasons.get(name, "available") for name in BACKENDS}


def backend_of(device: str) -> str:
    """The backend that ops run on now, for tensors on this type of device."""
    if _forced:
        return _forced
    if device == "cpu":
        return "cpu" if _COMPILED else "reference"
    if _has_kernel("hdrm_cuda::expmap0", device.upper()):
        return "cuda"
    return "triton" if device == "cuda" and _TRITON else "reference"


def _check_choice(name: str, origin: str) -> str:
    states = available_backends()
    if states.get(name) != "available":
        table = ";\n".join(f"  {backend}: {state}" for backend, state in states.items())
        raise RuntimeError(f"{origin} asks for the backend {name!r}; there are:\n{table}")
    return name


def _choose(name: str | None, devices: tuple[str, ...]) -> None:
    global _forced, _devices, _namespace
    _forced, _devices = name, devices
    _namespace = _NAMESPACES.get(name or "", "hdrm")


def _force(name: str, origin: str) -> None:
    devices = {"cpu": ("cpu",), "cuda": _cuda_devices(), "triton": ("cuda",) * (not _INTERPRETED)}
    _choose(_check_choice(name, origin), devices.get(name, ()))


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op of the ``with`` block on one backend.

    Args:
        name: ``"reference"``, ``"cpu"``, ``"cuda"`` or ``"triton"``.

    Raises:
        RuntimeError: the backend does not exist or cannot be used here; the message lists what
            there is and why the others are not.

    The choice is global to the process, as it has to be seen by autograd's threads. The
    environment variable ``HDRM_BACKEND`` makes the same choice for the whole process; if it names
    none that can be used, the first op outside such a block raises that error.
    """
    before = _forced, _devices
    _force(name, "use_backend()")
    try:
        yield
    finally:
        _choose(*before)


def call(name: str, *args):
    """Run op ``name`` on the chosen backend; ``args`` follow the op's schema.

    In eager mode this goes past the Python that torch.library puts before an op for autograd, which
    takes longer than a small table does: the same formula as an autograd.Function if something
    requires a gradient, and none of it if nothing does.
    """
    if _mistakes and _forced is None:
        raise RuntimeError("\n".join(_mistakes))
    if _devices:
        for arg in args:
            if isinstance(arg, Tensor) and arg.device.type not in _devices:
                raise RuntimeError(
                    f"hdrm.ops.{name}: the backend {_forced!r} was chosen, but a tensor is on "
                    f"{arg.device}; move it to {_devices[0]!r} or leave the choice automatic"
                )
    if torch.compiler.is_compiling():
        return getattr(getattr(torch.ops, _namespace), name)(*args)
    eager = _EAGER[_namespace][name]
    if torch._C._are_functorch_transforms_active():
        return eager.transformed(*args)
    if derivatives.asked(args):
        return eager.with_gradient(*args)
    return eager.without(*args)


_EAGER: dict[str, dict[str, derivatives.Eager]] = {name: {} for name in _LIBRARIES}  # of each op


def _fallback(name: str, reference: Callable) -> Callable:
    """The reference as the automatic op's last resort: says so once per device type."""

    def run(*args):
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        if (device != "cpu" or _COMPILED) and device not in _told:
            _told.add(device)
            warnings.warn(
                f"hdrm has no {device} kernel for {name} in this build and runs the reference "
                f"implementation in plain torch, which is slower; `hdrm info` says what is built",
                stacklevel=2,
            )
        return reference(*args)

    return run


def _triton(name: str, module: str) -> Callable:
    """The op's launcher in hdrm.kernels, imported when it is first called."""
    family = module.rpartition(".")[2]

    def run(*args):
        return getattr(importlib.import_module(f"hdrm.kernels.{family}"), name)(*args)

    return run


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Let autograd record inside an op, where the dispatcher has already left it behind."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradCPU", "AutogradCUDA", "ADInplaceOrView"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield


def _is_floating(arg) -> bool:
    return isinstance(arg, Tensor) and arg.is_floating_point()


def _float64(arg):
    return arg.double() if _is_floating(arg) else arg


def _like(results, promised):
    """Results in the dtypes that the fake promises, contiguous."""
    if promised is None:
        return None
    if isinstance(promised, tuple):
        return tuple(_like(result, promise) for result, promise in zip(results, promised))
    return results.to(promised.dtype).contiguous()


def define(
    name: str,
    schema: str,
    *,
    reference: Callable,
    fake: Callable,
    differentiable: int = 0,
    unread: Mapping[str, Callable[[Tensor], object]] = {},
    widen: bool = True,
    rowwise: bool = False,
) -> None:
    """Declare an op: schema, reference, fake and, if it has one, its gradient.

    Args:
        name: the op's name, the same on every floor of the package.
        schema: its arguments and results in torch's schema language, without the name; tensors
            come first if it has a gradient.
        reference: plain torch, differentiable by autograd; the oracle of all other backends.
        fake: the shapes and dtypes of the results.
        differentiable: how many of its arguments, the first ones, have a gradient. If there are
            any, a second op ``<name>_backward`` is declared: it takes the gradients of the
            results, then the arguments, and returns one gradient for each of these.
            Its reference is autograd through ``reference``, so no formula of ours takes part.
            Compiled backends register the op and its backward under these names.
        unread: arguments by name that no gradient depends on: the backward does not take them, and
            nothing of them is kept for it. Its reference is differentiated with what stands for each,
            made of the result's gradient.
        widen: the reference computes in float64, whatever the dtypes of the arguments, and its
            results are rounded once to the fake's. An oracle should not need tolerances.
        rowwise: all tensors have one shape (..., d+1) and rows do not meet.
    """
    module = reference.__module__
    _declare(name, module, schema, reference, fake, widen)
    if not differentiable:
        return
    declared, results = schema.split("->")
    arguments = [argument.strip() for argument in declared.strip(" ()").split(",")]
    names, num_results = [argument.split()[-1] for argument in arguments], results.count("Tensor")
    read = [i for i, name_of in enumerate(names) if name_of not in unread]
    backward_schema = "({}) -> {}".format(
        ", ".join([f"Tensor grad{i}" for i in range(num_results)] + [arguments[i] for i in read]),
        "Tensor" if differentiable == 1 else f"({', '.join(['Tensor'] * differentiable)})",
    )

    def all_arguments(grads, given):
        given = iter(given)
        return [unread[of](*grads) if of in unread else next(given) for of in names]

    def backward_reference(*args):
        grads, inputs = args[:num_results], all_arguments(args[:num_results], args[num_results:])
        with _recording():
            leaves = [x.detach().requires_grad_() for x in inputs[:differentiable]]
            outputs = reference(*leaves, *inputs[differentiable:])
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            found = torch.autograd.grad(
                outputs, leaves, grads, allow_unused=True, materialize_grads=True
            )
        return found if len(found) > 1 else found[0]

    def backward_fake(*args):
        inputs = all_arguments(args[:num_results], args[num_results:])
        found = tuple(x.new_empty(x.shape) for x in inputs[:differentiable])
        return found if len(found) > 1 else found[0]

    _declare(f"{name}_backward", module, backward_schema, backward_reference, backward_fake, widen)
    tensors = [i for i in read if arguments[i].startswith("Tensor")]
    for namespace, library in _LIBRARIES.items():
        _EAGER[namespace][name] = derivatives.register(
            library, namespace, name, len(names), tensors, read[len(tensors) :], differentiable
        )
        if rowwise:
            derivatives.register_rowwise_vmap(library, name)
            derivatives.register_rowwise_vmap(library, f"{name}_backward")


def backward_arguments(name: str, grads: Iterable, args: Iterable) -> list:
    """What ``<name>_backward`` takes: the results' gradients, and what it reads of the op's arguments."""
    forward, backward = (
        [argument.name for argument in getattr(torch.ops.hdrm, op).default._schema.arguments]
        for op in (name, f"{name}_backward")
    )
    grads, given = list(grads), dict(zip(forward, args))
    return grads + [given[of] for of in backward[len(grads) :]]


def _declare(
    name: str, module: str, schema: str, reference: Callable, fake: Callable, widen: bool
) -> None:
    mutated = [i for i, argument in enumerate(schema.split("->")[0].split(",")) if "!" in argument]

    def implementation(*args):
        wide = [_float64(arg) for arg in args] if widen else args
        dtype = next((arg.dtype for arg in args if _is_floating(arg)), torch.float64)
        with radial.range_of(checks.arithmetic(dtype)):
            results = reference(*wide)
        for i in mutated:
            if args[i] is not wide[i]:
                args[i].copy_(wide[i])
        return _like(results, fake(*args))

    triton = _triton(name, module)
    for namespace, kernel in (
        ("hdrm", _fallback(name, implementation)),
        ("hdrm_reference", implementation),
        ("hdrm_triton", triton),
        ("hdrm_cuda", None),  # the compiled module registers it, if it has it
    ):
        library = _LIBRARIES[namespace]
        library.define(f"{name}{schema}")
        if kernel:
            library.impl(name, kernel, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
        if mutated:
            derivatives.refuse_vmap(library, name)
        packet = getattr(getattr(torch.ops, namespace), name)
        _EAGER[namespace][name] = derivatives.Eager(packet.default, packet.default, packet.default)
    if _TRITON and not _has_kernel(f"hdrm::{name}", "CUDA"):
        _LIBRARIES["hdrm"].impl(name, triton, "CUDA")


if not _COMPILED:
    warnings.warn(
        f"hdrm runs its reference implementations in plain torch: {native.error()}", stacklevel=2
    )
try:
    memory.keep(memory.kept_by_default())
except ValueError as error:
    _mistakes.append(str(error))
try:
    if os.environ.get("HDRM_BACKEND"):
        _force(os.environ["HDRM_BACKEND"], "HDRM_BACKEND")
except RuntimeError as error:
    _mistakes.append(str(error))
