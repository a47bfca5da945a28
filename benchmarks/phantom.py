"""A device that is not there: steps run on it as on a GPU, and what they allocate is counted.

Tensors of the device "phantom" are torch's fake tensors (sizes and dtypes, no data) under torch's
memory tracker. It takes the place of "cuda" because autograd asks a CUDA driver for its streams even
where all tensors are fake, and there need not be one.

Sizes may depend on data: distinct ids, sampled neighbours. So whatever follows from ids alone is known:
it has a copy on the host, computed there. What is computed from embeddings has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from unittest import mock

import geoopt.optim.rsgd
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)
from torch.utils.weak import WeakTensorKeyDictionary


class _Absent(_DummyBackendModule):
    def is_available(self) -> bool:
        return False  # so that torch makes no real tensors on it, not even those of torch.tensor


_setup_privateuseone_for_python_backend(rename="phantom", backend_module=_Absent())
DEVICE = torch.device("phantom", 0)


@dataclass(frozen=True)
class Peak:
    """The most bytes alive at once, on the device and on the host."""

    device: int
    host: int


def peak(make: Callable[[], Callable[[], object]], steps: int = 2) -> Peak:
    """What steps allocate, with all that is alive around them.

    Args:
        make: makes models, graphs and optimisers on :data:`DEVICE`, and returns the step.
        steps: how many; a momentum exists from the first one's end.
    """
    tracker, known = _Tracker(), _KnownValues()
    stand_in = {"ManifoldParameter": _Points, "ManifoldTensor": _Points}
    with (
        mock.patch.multiple(geoopt, **stand_in),
        mock.patch.multiple(geoopt.optim.rsgd, **stand_in),
        mock.patch.object(FakeTensor, "numpy", lambda tensor: known.numpy(tensor)),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        with tracker, known:
            step = make()
        with tracker, known:  # entered anew, the tracker's peak begins at what is alive
            for _ in range(steps):
                step()
    peaks = {at.type: found["Total"] for at, found in tracker.get_tracker_snapshot("peak").items()}
    return Peak(peaks.get(DEVICE.type, 0), peaks.get("cpu", 0))


def place(module: nn.Module, keep: Sequence[Tensor] = ()) -> None:
    """Move a module's parameters and buffers, but those to ``keep``, as ``module.to(DEVICE)``.

    That would exchange fake parameters with their copies, which trackers' references forbid.
    """
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if any(parameter is kept for kept in keep):
                continue
            moved = nn.Parameter(parameter.detach().to(DEVICE))
            if isinstance(parameter, _Points):
                moved.manifold = parameter.manifold
            setattr(owner, name, moved)
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, buffer.to(DEVICE))


away = _disable_current_modes  # inside, tensors are real again


class _Tracker(MemTracker):
    """Without its tracker of modules, whose hooks keep leaves and their gradients alive."""

    def __init__(self) -> None:
        super().__init__()
        self._mod_tracker = mock.MagicMock(parents=(), is_bw=False)


class _HasManifold(type):
    def __instancecheck__(cls, instance) -> bool:
        return hasattr(instance, "manifold")


class _Points(metaclass=_HasManifold):
    """geoopt's parameter, for fake tensors: they cannot be of a subclass of Tensor of their own."""

    def __new__(cls, data: Tensor, manifold: geoopt.Manifold) -> nn.Parameter:
        points = nn.Parameter(data)
        points.manifold = manifold
        return points


class _KnownValues(TorchDispatchMode):
    """Computes what follows from ids on the host too, for sizes that depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        values = self._computed(func, args, kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.0 if values is None else values  # of a loss, which nobody computed
        held = _scratch(func, args)
        try:
            results = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if values is None:
                raise
            where = next(x.device for x in tree_leaves(args) if isinstance(x, Tensor))
            results = tree_map(lambda v: torch.empty_like(v, device=where), values)
        del held
        if func is torch.ops.aten.argmin.default and values is None:
            # Which candidate is the nearest, nobody knows; sizes hardly depend on it.
            with _disable_current_modes():
                values = torch.zeros(results.shape, dtype=results.dtype)
        if values is not None:
            self._known.update(zip(_tensors(results), _tensors(values)))
        else:  # what an op writes without being known is known no more
            self._forget({_storage(tensor) for tensor in _written(func, args, kwargs)})
        return results

    def numpy(self, tensor: Tensor):
        """Takes the place of ``Tensor.numpy``."""
        with _disable_current_modes():
            return self._known[tensor].numpy()

    def _computed(self, func, args, kwargs):
        """The op's result on the host, or None: it has inputs that are not known, or makes floats."""
        inputs = _tensors((args, kwargs))
        if not all(self._is_known(x) for x in inputs):
            return None
        if not inputs and not _makes_ids(func, kwargs):
            return None
        with _disable_current_modes():
            on_host = [tree_map(self._on_host, part) for part in (args, kwargs)]
            return func(*on_host[0], **on_host[1])

    def _forget(self, storages: set[int]) -> None:
        for tensor in [t for t in self._known if _storage(t) in storages] if storages else ():
            del self._known[tensor]

    def _is_known(self, tensor: Tensor) -> bool:
        return tensor in self._known or not isinstance(tensor, FakeTensor)

    def _on_host(self, x):
        if isinstance(x, Tensor):
            return self._known.get(x, x)
        return torch.device("cpu") if isinstance(x, torch.device) else x


def _tensors(tree) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(func, args, kwargs) -> list[Tensor]:
    """The arguments that an op changes in place."""
    given = dict(zip((a.name for a in func._schema.arguments), args)) | kwargs
    written = [a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    return _tensors([given.get(name) for name in written])


def _scratch(func, args) -> list[Tensor]:
    """What a kernel allocates for the time of its run, where it is of a table's size."""
    if func.overloadpacket not in (torch.ops.hdrm.propagate, torch.ops.hdrm.propagate_backward):
        return []
    given = dict(zip((a.name for a in func._schema.arguments), args))
    x, factor = given["x"], given["x"].new_empty(given["x"].shape[0])
    if given["narrow"]:
        return [factor, torch.empty_like(x, dtype=torch.bfloat16)]
    return [factor] + [torch.empty_like(x)] * (given["num_layers"] > 1)


def _makes_ids(func, kwargs) -> bool:
    """A factory of integers; what is drawn or left empty is taken as it comes."""
    dtype = kwargs.get("dtype")
    if dtype is None:
        return func.overloadpacket is torch.ops.aten.arange
    return not dtype.is_floating_point
