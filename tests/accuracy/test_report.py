"""The report: its numbers, its pictures and what it says when its extra is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hdrm.accuracy import pairs, report
from hdrm.accuracy.peers import competitors


@pytest.fixture
def one_op(monkeypatch):
    monkeypatch.setattr(report, "MAKERS", {"logmap0": pairs.origin_rows})


def test_measures_every_range_and_competitor(one_op):
    who = competitors()
    lines = report.measure(who, quick=True)
    assert [line.range for line in lines] == list(pairs.ORIGIN_RANGES)
    table = report.error_table(who, lines, 0)
    assert all(peer.name in table.splitlines()[0] for peer in who)
    assert len(table.splitlines()) == 2 + len(lines)
    near = lines[1].errors[:, 0].amax(1)  # the first competitor is ours
    names = [peer.name for peer in who]
    assert near[0] < 1e-6 < near[names.index("geoopt f32")]


def test_same_numbers_every_time(one_op):
    first, second = (report.measure(competitors(), quick=True) for _ in range(2))
    assert all(torch.equal(a.errors, b.errors) for a, b in zip(first, second))


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "finite"), (0.0, "0"), (float("inf"), "NaN"), (2.4e-7, "2e-7")]
)
def test_numbers(value, expected):
    assert report.number(value) == expected


def test_writes_table_and_pictures(one_op, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "storage_table", lambda: "")
    monkeypatch.setattr(
        report, "separation_curve", lambda: ([0.1], pairs.curve([0.1], [1.0], [0.1]))
    )
    monkeypatch.setattr(report, "radius_curve", report.separation_curve)
    threads = torch.get_num_threads()
    text = report.run(tmp_path / "new", quick=True)
    assert torch.get_num_threads() == threads
    assert (tmp_path / "new" / "accuracy.md").read_text(encoding="utf-8") == text
    for kind in report.KINDS:
        assert (tmp_path / "new" / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_missing_extra_is_named():
    code = (
        "import sys; sys.modules['mpmath'] = None; sys.argv = ['accuracy']\n"
        "import runpy; runpy.run_module('hdrm.accuracy', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        'error: mpmath is missing; install it with: pip install -e ".[docs]"'
    )
