"""``python benchmarks`` or ``hdrm bench``: run the suite and write docs/benchmarks, or guard against
regressions.

The suite takes most of an hour on two cores, half of it torch.compile; nothing else should run
meanwhile. The guard takes less than three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
BASELINE = FOLDER / "baseline.json"
TOLERATED = 0.5  # a ratio below this part of the recorded one is a regression, not noise


def main() -> int:
    parser = argparse.ArgumentParser(prog="hdrm bench", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="compare ratios with baseline.json: exit "
                      "code 1 if one is below half of the recorded ratio")  # fmt: skip
    what.add_argument("--write-baseline", action="store_true", help="record the guard's ratios; on "
                      "a quiet machine")  # fmt: skip
    what.add_argument("--report", type=Path, metavar="JSON", nargs="+", help="only write the tables "
                      "and plots, from what earlier runs left; of a row in several files the last "
                      "counts")  # fmt: skip
    parser.add_argument("--largest", action="store_true", help="also the graphs of 10⁸ edges: 16 GB "
                        "of memory, some minutes more")  # fmt: skip
    parser.add_argument("-k", metavar="EXPRESSION", help="rows to run, as pytest's -k")
    parser.add_argument("--threads", type=int, help="threads for every row")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    arguments = parser.parse_args()
    guard = arguments.check or arguments.write_baseline
    if arguments.check and not BASELINE.exists():
        sys.exit("error: there is no benchmarks/baseline.json; make one on a quiet machine with: "
                 "hdrm bench --write-baseline")  # fmt: skip
    if not guard:
        _need("matplotlib")
    if arguments.report:
        code, results = 0, merged([_read(path) for path in arguments.report])
    else:
        _need("pytest_benchmark")
        marker = "guard" if guard else "slow or not slow" if arguments.largest else None
        code, results = run(arguments.k, marker, arguments.threads)
    if guard and code:
        sys.exit("error: rows failed, so there are no ratios to trust; see above")
    if results["machine_info"].get("small") and guard:
        sys.exit("error: HDRM_BENCH_SMALL is set, and its times mean nothing; unset it")
    if arguments.check:
        return check(json.loads(BASELINE.read_text())["ratios"], ratios(results))
    if arguments.write_baseline:
        write_baseline(results)
        return 0
    import report

    report.write(results, arguments.out)
    print(f"written: {arguments.out}")
    return code


def _need(module: str) -> None:
    try:
        __import__(module)
    except ImportError:
        sys.exit(f'error: {module} is missing; install it with: pip install -e ".[bench]"')


def _read(path: Path) -> dict:
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {path} cannot be read: {error}")
    if "benchmarks" not in results:
        sys.exit(f"error: {path} is not a file of pytest-benchmark")
    return results


def merged(files: list[dict]) -> dict:
    """One file's worth of results; machine and versions are the first's."""
    rows = {row["fullname"]: row for results in files for row in results["benchmarks"]}
    left_out = [entry for results in files for entry in results.get("left_out", [])]
    return files[0] | {"benchmarks": list(rows.values()), "left_out": left_out}


def run(select: str | None, marker: str | None, threads: int | None) -> tuple[int, dict]:
    """pytest's exit code and pytest-benchmark's results."""
    environment = dict(os.environ)
    if threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(threads)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "results.json"
        command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "--benchmark-only",
                   "--benchmark-columns=median", f"--benchmark-json={file}"]  # fmt: skip
        command += ["-k", select] if select else []
        command += ["-m", marker] if marker else []
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if not file.exists() or not file.stat().st_size:
            sys.exit(f"error: pytest ended with code {code} and no result; see above")
        return code, _read(file)


def ratios(results: dict) -> dict[str, dict[str, float]]:
    """group → {"OURS / PEER": how many times as fast ours is}."""
    groups: dict[str, dict[str, float]] = {}
    for row in results["benchmarks"]:
        medians = groups.setdefault(row["group"], {})
        medians[row["extra_info"]["peer"]] = row["stats"]["median"]
    return {
        group: {
            f"{ours} / {peer}": medians[peer] / medians[ours]
            for ours in medians if ours.startswith("hdrm")
            for peer in medians if not peer.startswith("hdrm")
        }
        for group, medians in groups.items()
    }  # fmt: skip


def check(recorded: dict, found: dict) -> int:
    """Print every comparison; 1 if a ratio is lost, or nothing could be compared."""
    compared, lost = 0, 0
    for group, pairs in recorded.items():
        for pair, ratio in pairs.items():
            now = found.get(group, {}).get(pair)
            if now is None:
                print(f"not measured here   {group}: {pair}")
                continue
            compared += 1
            bad = now < TOLERATED * ratio
            lost += bad
            print(f"{'REGRESSION' if bad else 'ok':10} {now:8.2f} × (recorded {ratio:.2f})   "
                  f"{group}: {pair}")  # fmt: skip
    if not compared:
        print("error: none of the recorded ratios was measured here", file=sys.stderr)
    elif lost:
        print(f"error: {lost} of {compared} ratios are below half of the recorded one",
              file=sys.stderr)  # fmt: skip
    return int(lost > 0 or not compared)


def write_baseline(results: dict) -> None:
    rounded = {
        group: {pair: float(f"{ratio:.3g}") for pair, ratio in pairs.items()}
        for group, pairs in ratios(results).items()
        if pairs
    }
    machine = results["machine_info"]
    content = {
        "made by": "hdrm bench --write-baseline",
        "cpu": machine.get("cpu", {}).get("brand_raw"),
        "threads": machine["threads"],
        "versions": machine["versions"],
        "ratios": rounded,
    }
    partial = BASELINE.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, BASELINE)
    print(f"written: {BASELINE}")


if __name__ == "__main__":
    sys.exit(main())
