"""What :mod:`hdrm.kernels.report` compiles: calls of every op, on tensors that have a shape and no
memory, and the kernels that they would start.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..ops.backend import backward_arguments
from . import launch as launching
from .launch import Launch

if TYPE_CHECKING:
    from .compiled import Compiled

FAMILIES = (
    "lorentz_maps", "distance", "message_passing", "noising", "ranking", "riemannian_step",
)  # fmt: skip
ELEMENTS = 1 << 27  # of a table; more rows than columns at every width
DEGREE = 32  # neighbours of a node, seen items of a user
USERS, NEAREST = 4096, 20  # of topk
ROUNDS = 3  # of propagate
STEPS = 50  # of the diffusion

QUICK = {torch.float32: (64, 8192)}
FULL = {dtype: (64, 65, 88, 512, 8192) for dtype in (torch.float32, torch.bfloat16, torch.float64)}
SIXTEEN_BITS = (
    "expmap0", "sqdist0", "margin_ranking", "propagate", "directional_noise", "isotropic_noise",
    "column_statistics",
)  # fmt: skip
# Ways to call an op that start other kernels, or the same otherwise specialised.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "propagate": {
        "": {},
        "LightGCN": {"lorentz": False, "symmetric": True, "mean": True},
        "bfloat16 work tables": {"narrow": True},
    },
    "riemannian_sgd_step_": {"": {}, "no momentum": {"momentum_buffer": None}},
    "directional_noise": {"": {"growth": 0.0}, "radial growth": {}},
    "isotropic_noise": {"": {"growth": 0.0}, "radial growth": {}},
    "topk": {"": {}, "nothing excluded": {"rowptr": None, "col": None}},
}


@dataclass
class Call:
    """A call of an op and the kernels that it would start, each with how often it runs."""

    op: str
    variant: str
    dtype: str
    width: int
    rows: int
    minimum: int  # bytes that the op has to move
    launches: list[tuple[Launch, int]]
    compiled: list[list[Compiled]] = field(default_factory=list)  # of each launch

    def __str__(self) -> str:
        variant = f" ({self.variant})" if self.variant else ""
        return f"{self.op}{variant}, {self.dtype}, width {self.width}"


def declared_ops() -> list[str]:
    """The ops of the backend triton."""
    names = (name.partition("::") for name in torch._C._dispatch_get_all_op_names())
    return sorted({name.split(".")[0] for space, _, name in names if space == "hdrm_triton"})


def arguments(op: str, dtype: torch.dtype, width: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call of the op, by name."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    items = ELEMENTS // width
    rows = USERS if op == "topk" else items

    def tensor(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    tensors = {
        "mean": tensor(width, dtype=wide),
        "std": tensor(width, dtype=wide),
        "t": tensor(rows, dtype=torch.int64),
        "alpha_bar": tensor(STEPS, dtype=torch.float64),
        "seed": tensor(1, dtype=torch.int64),
        "exp_avg_sq": tensor(rows, 1),
        "rowptr": tensor(rows + 1, dtype=torch.int64),
        "col": tensor(rows * DEGREE, dtype=torch.int32),
        "items": tensor(items, width),
    }
    if op == "sample_negatives":
        tensors["users"] = tensor(rows, dtype=torch.int64)
    numbers = {
        "num_layers": ROUNDS, "offset": 0, "first_row": 0, "k": NEAREST, "num_items": items, "num": 1,
    }  # fmt: skip
    found = {}
    for argument in getattr(torch.ops.hdrm_triton, op).default._schema.arguments:
        name, kind = argument.name, str(argument.type)
        if "Tensor" in kind:
            found[name] = tensors.get(name, tensor(rows, width))
        elif kind == "bool":
            found[name] = name == "lorentz" and dtype.itemsize > 2
        else:
            found[name] = numbers[name] if kind == "int" else 0.5
    return found | changes


def launcher(op: str) -> Callable | None:
    """The op's function in hdrm.kernels."""
    for family in FAMILIES:
        try:
            module = importlib.import_module(f"hdrm.kernels.{family}")
        except ModuleNotFoundError:
            continue
        if hasattr(module, op):
            return getattr(module, op)
    return None


def calls(op: str, dtypes: dict[torch.dtype, Iterable[int]]) -> Iterator[Call]:
    """All calls of an op that are compiled; none if the op has no kernel."""
    start, forward = launcher(op), op.removesuffix("_backward")
    if start is None:
        return
    for variant, changes in VARIANTS.get(forward, {"": {}}).items():
        for dtype, widths in dtypes.items():
            if dtype.itemsize == 2 and forward not in SIXTEEN_BITS:
                continue
            if dtype == torch.float64 and changes.get("narrow"):  # refused
                continue
            for width in widths:
                inputs = arguments(forward, dtype, width, changes)
                args = list(inputs.values())
                results = _results(forward, args)
                if op != forward:
                    args = backward_arguments(forward, map(torch.empty_like, results), args)
                    results = _results(op, args)
                with launching.recording() as found:
                    start(*args)
                rows = next(iter(inputs.values())).shape[0]
                minimum = _bytes([*args, *results]) + _more(op, inputs)
                kind = str(dtype).removeprefix("torch.")
                yield Call(op, variant, kind, width, rows, minimum, _unique(found))


def _results(op: str, args: list[Any]) -> list[Tensor]:
    """The tensors that a call writes: what it returns, or its arguments if it works in place."""
    declared = getattr(torch.ops.hdrm_triton, op).default
    returned = declared(*args)
    changed = [
        arg
        for arg, argument in zip(args, declared._schema.arguments)
        if argument.alias_info is not None
    ]
    return changed + ([returned] if isinstance(returned, Tensor) else list(returned or ()))


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def _more(op: str, inputs: dict[str, Any]) -> int:
    """What an op has to move besides its arguments and results once each."""
    if not op.startswith("propagate"):
        return 0
    # All rounds but the last write a table, which the next one reads, and the graph again. Of narrow
    # tables there is one more, for the first round.
    size = 2 if inputs["narrow"] else max(inputs["x"].element_size(), 4)
    table, again = inputs["x"].numel() * size, inputs["num_layers"] - 1
    graph = _bytes([inputs["rowptr"], inputs["col"]])
    linear = op == "propagate_backward" and not inputs["lorentz"]
    tables = 2 * table * (again + inputs["narrow"])
    return tables + again * graph - linear * inputs["x"].nbytes


def _unique(launches: list[Launch]) -> list[tuple[Launch, int]]:
    """Launches of the same code on tensors of the same shapes, once with their number."""
    keys = [
        (code_of(each), *(tuple(arg.shape) for arg in each.arguments if isinstance(arg, Tensor)))
        for each in launches
    ]
    return [(launches[keys.index(key)], count) for key, count in Counter(keys).items()]


def code_of(launch: Launch) -> tuple:
    """What Triton compiles a launch's kernel for."""

    def kind(name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.dtype
        if name == "width":  # a constant to the compiler
            return value
        return (value == 1, value % 16 == 0) if isinstance(value, int) else type(value)

    meta = tuple(sorted((name, str(value)) for name, value in launch.meta.items()))
    arguments = tuple(map(kind, launch.kernel.arg_names, launch.arguments))
    return id(launch.kernel), arguments, meta
