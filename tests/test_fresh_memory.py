"""conftest's fixture: memory that a kernel leaves unwritten is NaN, in C++ as in Python."""

from __future__ import annotations

import pytest
import torch
from ops_cases import CASES, points
from torch.profiler import ProfilerActivity, profile

from hdrm import ops


def test_fresh_tensors_hold_nan():
    x = torch.ones(3, 5)
    for fresh in (torch.empty(3, 5), x.new_empty(3, 5), torch.empty_like(x), torch.empty(4).half()):
        assert fresh.isnan().all()
    assert (torch.empty(3, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()


def allocations(run) -> list[bool]:
    """For each tensor that ``run`` allocates, in whatever language, whether it was filled."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        run()
    names = [event.name for event in record.events()] + ["end"]
    empty = [k for k, name in enumerate(names) if name in ("aten::empty", "aten::empty_strided")]
    return [names[k + 1] == "aten::fill_" for k in empty]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_come_from_filled_memory(case):
    inputs = case.make(9, 6, 1.0, torch.float64)
    filled = allocations(lambda: case.run(*inputs, c=1.0))
    assert filled and all(filled)


def test_topk_takes_filled_memory():
    x = points(5, 6, 1.0)
    filled = allocations(lambda: ops.topk(x, x, 2))
    assert len(filled) >= 2 and all(filled)


def test_without_the_fixture_it_is_not_filled():
    torch.utils.deterministic.fill_uninitialized_memory = False  # conftest sets it again
    x = points(5, 6, 1.0)
    assert not any(allocations(lambda: ops.expmap0(x)))
