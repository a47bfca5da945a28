"""The compiled ops called past hdrm.ops and its checks, as torch.ops.hdrm and torch.ops.hdrm_cuda:
what would read or write outside a tensor, or stop the process, is refused. But a device's tensors
are not looked into."""

from __future__ import annotations

import pytest
import torch
from ops_cases import BACKENDS

pytestmark = pytest.mark.skipif("cpu" not in BACKENDS, reason="needs the compiled module")

NAMESPACES = ["hdrm"] + ["hdrm_cuda"] * ("cuda" in BACKENDS)
X, Y = torch.ones(3, 4), torch.ones(5, 4)
PER_ROW, PER_COLUMN, SEED = torch.ones(3), torch.ones(4), torch.tensor([1])
ROWPTR, COL = torch.tensor([0, 1, 1, 3]), torch.tensor([0, 1, 2], dtype=torch.int32)
HUGE = torch.ones(0, 2**31 + 5)  # rows that an int cannot count
NOTHING = torch.ones(3, 0)
STEPS, ALPHA_BAR = torch.tensor([1, 0, 3]), torch.tensor([0.9, 0.5, 0.2, 0.1]).double()


def changed(valid: tuple, **bad: tuple) -> list:
    """(arguments, id) where one or more positions, as (position, value) pairs, are replaced."""
    result = []
    for name, changes in bad.items():
        arguments = list(valid)
        for position, value in zip(changes[::2], changes[1::2]):
            arguments[position] = value
        result.append((name, arguments))
    return result


OPS = {
    "expmap0": ((X, 1.0), dict(huge=(0, HUGE), empty=(0, NOTHING), scalar=(0, torch.tensor(1.0)))),
    "expmap0_backward": (
        (X, X, 1.0),
        dict(short=(1, PER_ROW), number=(0, PER_ROW), fewer=(0, X[:2])),
    ),
    "expmap": ((X, X, 1.0), dict(short=(1, PER_ROW), first=(0, PER_ROW), dtype=(1, X.double()))),
    "distance": ((X, X, 1.0), dict(short=(1, PER_ROW), rows=(1, Y), narrow=(1, X[:, :2]))),
    "distance_backward": (
        (PER_ROW, X, X, 1.0),
        dict(grad=(0, torch.ones(2)), rows=(0, X), short=(1, PER_ROW)),
    ),
    "margin_ranking": ((X, X, X, 0.1, 1.0), dict(short=(2, PER_ROW), integers=(0, X.long()))),
    "propagate": (
        (X, ROWPTR, COL, 2, 1.0, True, False, False, False),
        dict(
            rowptr_size=(1, ROWPTR[:3]),
            rowptr_dtype=(1, ROWPTR.int()),
            col_dtype=(2, COL.long()),
            col_size=(2, COL[:2]),
            col_outside=(2, COL + 1),
            col_negative=(2, COL - 1),
            descending=(1, torch.tensor([0, 2, 1, 3])),
            negative=(1, torch.tensor([-1, 1, 1, 3])),
            layers=(3, 0),
            huge=(0, HUGE, 1, ROWPTR[:1]),
            empty=(0, NOTHING),
            vector=(0, PER_ROW),
            points_of_16_bits=(0, X.half()),
            integers=(0, X.long(), 5, False),
            narrow_double=(0, X.double(), 8, True),
        ),
    ),
    "propagate_backward": (
        (X, X, ROWPTR, COL, 2, 1.0, True, False, False, False),
        dict(grad=(0, X[:2]), dtype=(0, X.double()), col_outside=(3, COL + 1)),
    ),
    "directional_noise": (
        (X, PER_COLUMN, PER_COLUMN, STEPS, ALPHA_BAR, SEED, 0.1, 1.0, 0),
        dict(
            mean=(1, PER_ROW),
            std=(2, PER_ROW),
            steps=(3, STEPS[:2]),
            steps_dtype=(3, STEPS.int()),
            step_beyond=(3, STEPS + 1),
            step_negative=(3, STEPS - 1),
            no_schedule=(4, ALPHA_BAR[:0]),
            schedule_dtype=(4, ALPHA_BAR.float()),
            seed=(5, SEED[:0]),
            seed_dtype=(5, SEED.int()),
            row_negative=(8, -1),
            row_beyond=(8, 2**63 - 3),
            mean_dtype=(1, PER_COLUMN.double()),
            mean_of_16_bits=(0, X.half(), 1, PER_COLUMN.half()),
            empty=(0, NOTHING, 1, PER_ROW[:0], 2, PER_ROW[:0]),
            vector=(0, PER_ROW),
        ),
    ),
    "directional_noise_backward": (
        (X, X, PER_COLUMN, PER_COLUMN, STEPS, ALPHA_BAR, SEED, 0.1, 1.0, 0),
        dict(
            grad=(0, X[:2]),
            grad_dtype=(0, X.half()),
            std=(3, PER_ROW),
            step_beyond=(4, STEPS + 1),
            row_negative=(9, -1),
            vector=(1, PER_ROW),
        ),
    ),
    "isotropic_noise": (
        (X, STEPS, ALPHA_BAR, SEED, 0.1, 1.0, 0),
        dict(
            steps=(1, STEPS[:2]),
            step_beyond=(1, STEPS + 1),
            row_negative=(6, -1),
            empty=(0, NOTHING),
            huge=(0, HUGE, 1, STEPS[:0]),
        ),
    ),
    "isotropic_noise_backward": (
        (X, STEPS, ALPHA_BAR, 0.1, 1.0),
        dict(
            grad=(0, X[:2]),
            steps=(1, STEPS[:2]),
            step_beyond=(1, STEPS + 1),
            schedule_dtype=(2, ALPHA_BAR.float()),
            vector=(0, PER_ROW),
        ),
    ),
    "column_statistics": ((X,), dict(rows=(0, X[:0]), empty=(0, NOTHING), vector=(0, PER_ROW))),
    "column_statistics_backward": (
        (PER_COLUMN, PER_COLUMN, X),
        dict(mean=(0, PER_ROW), std=(1, PER_ROW), vector=(2, PER_ROW), empty=(2, NOTHING)),
    ),
    "topk": (
        (X, Y, ROWPTR, COL, 0, 2, 1.0),
        dict(
            none=(5, 0),
            negative=(5, -1),
            too_many=(5, 6),
            rowptr_dtype=(2, ROWPTR.int()),
            rowptr_size=(2, ROWPTR[:3]),
            descending=(2, torch.tensor([0, 2, 1, 3])),
            col_dtype=(3, COL.long()),
            col_missing=(3, None),
            col_outside=(3, COL + 3),
            col_before=(4, 1),
            offset=(4, -(2**63)),
            width=(1, X[:, :2]),
            empty=(0, NOTHING, 1, torch.ones(5, 0)),
            of_16_bits=(0, X.half(), 1, Y.half()),
            integers=(0, X.long(), 1, Y.long()),
        ),
    ),
    "sample_negatives": (
        (torch.tensor([0, 2]), ROWPTR, COL, 0, 5, 2, SEED),
        dict(
            users_dtype=(0, torch.tensor([0, 2], dtype=torch.int32)),
            users_shape=(0, torch.tensor([[0, 2]])),
            rowptr_dtype=(1, ROWPTR.int()),
            rowptr_empty=(1, ROWPTR[:0]),
            none=(5, 0),
            seed=(6, SEED[:0]),
        ),
    ),
    "riemannian_sgd_step_": (
        (X, X, X, 0.1, 0.9, 0.0, 0.0, False, 1.0),
        dict(
            empty=(0, NOTHING, 1, NOTHING, 2, NOTHING),
            huge=(0, HUGE, 1, HUGE, 2, HUGE),
            grad=(1, X[:2]),
            moment=(2, X[:2]),
            moment_dtype=(2, X.double()),
            strided=(0, torch.ones(4, 3).T),
        ),
    ),
    "riemannian_adam_step_": (
        (X, X, X, PER_ROW[:, None], 0.1, 0.9, 0.99, 1e-8, 0.0, 0.1, 0.1, 1.0),
        dict(
            empty=(0, NOTHING, 1, NOTHING, 2, NOTHING),
            second=(3, PER_ROW[:2]),
            moment=(2, X[:, :2]),
            grad_dtype=(1, X.double()),
        ),
    ),
}
IN_CONTENTS = {
    "propagate": ("col_size", "col_outside", "col_negative", "descending", "negative"),
    "propagate_backward": ("col_outside",),
    "topk": ("descending", "col_outside", "col_before"),
    "directional_noise": ("step_beyond", "step_negative", "no_schedule"),
    "directional_noise_backward": ("step_beyond",),
    "isotropic_noise": ("step_beyond",),
    "isotropic_noise_backward": ("step_beyond",),
}
CASES = [
    pytest.param(namespace, name, arguments, id=f"{namespace}-{name}-{what}")
    for namespace in NAMESPACES
    for name, (valid, bad) in OPS.items()
    for what, arguments in changed(valid, **bad)
    if namespace == "hdrm" or what not in IN_CONTENTS.get(name, ())
]


def copies(arguments):
    return [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in arguments]


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("name", OPS)
def test_the_arguments_that_are_made_bad_are_good(namespace, name):
    getattr(getattr(torch.ops, namespace), name)(*copies(OPS[name][0]))


@pytest.mark.parametrize(("namespace", "name", "arguments"), CASES)
def test_bad_arguments_are_refused(namespace, name, arguments):
    with pytest.raises(RuntimeError, match="hdrm"):
        getattr(getattr(torch.ops, namespace), name)(*arguments)


def test_rows_beyond_the_columns_are_refused():
    with pytest.raises(ValueError, match="row 2 of exclude is 1 … 3, but col has 2 entries"):
        torch.ops.hdrm.sample_negatives(torch.tensor([2]), ROWPTR, COL[:2], 0, 5, 2, SEED)
