"""What turns benchmark rows into statements: the guard, the report, and the check before a time."""

import importlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
GROUP = "expmap0, forward+backward, 200,000 × 64"


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("bench_command", BENCHMARKS / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(peer, median, group=GROUP, **extra):
    op, mode, size = group.split(", ", 1)[0], "forward+backward", "200,000 × 64"
    extra = {
        "peer": peer, "op": op, "mode": mode, "size": size, "p20": median, "p80": median,
        "peak memory": 2**20, "commit": "abc", "rows": 200_000, "width": 64, **extra,
    }  # fmt: skip
    return {
        "fullname": f"{group}[{peer}]", "name": f"test_map[{peer}]", "group": group,
        "stats": {"median": median, "data": [median]}, "extra_info": extra,
    }  # fmt: skip


def results(*rows, left_out=()):
    machine = {"versions": {"torch": "2"}, "threads": 2, "platform": "Linux", "small": False}
    return {
        "benchmarks": list(rows), "left_out": list(left_out), "datetime": "2026-11-25T00:00:00",
        "machine_info": machine,
    }  # fmt: skip


def test_ratios_are_how_many_times_as_long_a_peer_takes(command):
    found = command.ratios(results(row("hdrm cpu", 0.5), row("geoopt", 8.0)))
    assert found == {GROUP: {"hdrm cpu / geoopt": 16.0}}


@pytest.mark.parametrize(("now", "code"), [(10.0, 0), (5.1, 0), (4.9, 1)])
def test_the_guard_fails_below_half_of_the_recorded_ratio(command, capsys, now, code):
    pair = "hdrm cpu / geoopt"
    assert command.check({GROUP: {pair: 10.0}}, {GROUP: {pair: now}}) == code
    assert ("REGRESSION" in capsys.readouterr().out) == bool(code)


def test_the_guard_fails_if_it_compared_nothing(command, capsys):
    assert command.check({GROUP: {"hdrm cpu / geoopt": 10.0}}, {}) == 1
    assert "not measured here" in capsys.readouterr().out


def test_of_a_row_in_several_files_the_last_counts(command):
    merged = command.merged(
        [results(row("hdrm cpu", 1.0), row("geoopt", 2.0)), results(row("geoopt", 3.0))]
    )
    assert [r["stats"]["median"] for r in merged["benchmarks"]] == [1.0, 3.0]


def test_the_baseline_holds_ratios_of_rows_that_exist(command):
    recorded = json.loads(command.BASELINE.read_text())["ratios"]
    assert recorded and all(ratio > 0 for pairs in recorded.values() for ratio in pairs.values())


def test_the_report_says_what_was_met_what_was_missed_and_what_is_absent(tmp_path):
    report = importlib.import_module("report")
    absent = {"group": GROUP, "peer": "FAISS", "reason": "not installed: faiss"}
    report.write(
        results(
            row("hdrm cpu", 0.5, **{"of copy": 0.8}), row("geoopt", 8.0), row("geoopt compiled", 2.0),
            row("authors compiled", 0.4), left_out=[absent],
        ),
        tmp_path,
    )  # fmt: skip
    text = (tmp_path / "README.md").read_text()
    assert f"| {GROUP} | geoopt | 15.00 | 16.00 | 20.00 | met |" in text
    assert f"| {GROUP} | geoopt compiled | 5.00 | 4.00 | 5.00 | **missed** |" in text
    assert "authors compiled takes 0.80 of ours" in text
    assert "- not installed: faiss" in text
    assert (tmp_path / "relative-64.png").stat().st_size > 0
    assert (
        "data" not in json.loads((tmp_path / "results.json").read_text())["benchmarks"][0]["stats"]
    )


def test_every_target_names_a_group_as_the_suite_does():
    targets = importlib.import_module("targets")
    assert len({(t.group, t.peer) for t in targets.TARGETS}) == len(targets.TARGETS)
    assert all(target.at_least > 0 for target in targets.TARGETS)


def test_a_row_with_a_wrong_result_gets_no_time():
    if torch.cuda.is_available():
        pytest.skip("the harness makes the GPU the default device of its process")
    harness = importlib.import_module("harness")  # benchmarks/ is on pytest's path

    def check(found):
        assert found == 1, f"wrong result: {found}"

    def absent():
        raise ImportError("no such package", name="peer")

    makers = {"right": lambda: lambda: 1, "wrong": lambda: lambda: 2, "absent": absent}
    found = harness.measure(harness.Group("op", "forward", "1", makers, check), makers)
    assert isinstance(found["right"], harness.Row) and min(found["right"].seconds) > 0
    assert isinstance(found["wrong"], AssertionError)
    assert isinstance(found["absent"], harness.LeftOut) and "peer" in str(found["absent"])
