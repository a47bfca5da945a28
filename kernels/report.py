"""Compiles every Triton kernel for sm_80, sm_90 and sm_100, and reads the CUDA C++ kernels that are
built into hdrm._C, no GPU needed; prints what the compilers made of them. docs/kernels.md explains
the tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

from rich.console import Console

MARK = "<!-- from here on written by python -m hdrm.kernels.report -->\n"
COLUMNS = 140  # of tables in a file
NOTE = (
    "computed, not measured; three figures are those of sm_80/90/100; docs/kernels.md explains the "
    "columns"
)


def run(
    full: bool = False,
    markdown: Path | None = None,
    json_file: Path | None = None,
    keep: Path | None = None,
) -> int:
    """Compile Triton's kernels, read the built ones, print the tables, and then a line for
    everything not as required.

    Args:
        full: all tile sizes, widths and dtypes; else float32 at two widths with the largest tile.
        markdown: a file that gets the tables, behind the line MARK; what stands before it stays.
        json_file: gets all figures.
        keep: a folder for the PTX and the machine code of Triton's kernels.

    Returns:
        0, or 1 if something is not as required.

    Raises:
        RuntimeError: Triton is not installed or set to interpret, or a kernel does not compile.
    """
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError("the report compiles kernels with Triton: pip install triton")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise RuntimeError("TRITON_INTERPRET is set, so Triton does not compile; unset it")
    from . import built_figures, figures
    from .calls import declared_ops
    from .compiled import versions

    all_calls, missing = figures.measure(full)
    built, build_report = built_figures.measure()
    titled = [
        *figures.lay_out(all_calls, full),
        *built_figures.lay_out(built, all_calls, full),
    ]
    broken = figures.violations(all_calls, missing)
    if built:
        broken += built_figures.violations(built, declared_ops()) + built_figures.unregistered()
    console = Console(width=None if sys.stdout.isatty() else COLUMNS)
    figures.print_tables(console, titled)
    summary = built_figures.summary(built, build_report)
    for line in (NOTE, summary, *broken):
        console.print(line, highlight=False, soft_wrap=True)
    if markdown:
        before = markdown.read_text().partition(MARK)[0] if markdown.exists() else ""
        text = figures.markdown([*versions(), summary], titled, broken)
        _write(markdown, (before + MARK + text).encode())
    if json_file:
        found = figures.as_json(all_calls) | {
            "cuda": built_figures.as_json(built, build_report),
            "violations": broken,
        }
        _write(json_file, json.dumps(found, indent=1).encode())
    if keep:
        for name, one in figures.files(all_calls):
            _write(keep / f"{name}.ptx", one.ptx.encode())
            _write(keep / f"{name}.cubin", one.cubin)
    return 1 if broken else 0


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hdrm.kernels.report", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all tile sizes, widths and dtypes")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables into FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep PTX and cubins there")
    given = parser.parse_args()
    try:
        sys.exit(run(given.full, given.markdown, given.json, given.keep))
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
