"""``python -m hdrm.accuracy [--out DIR] [--quick]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hdrm.accuracy", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for accuracy.md and the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer inputs: seconds, not minutes")
    arguments = parser.parse_args()
    try:
        import matplotlib  # noqa: F401
        import mpmath  # noqa: F401
    except ImportError as error:
        sys.exit(f'error: {error.name} is missing; install it with: pip install -e ".[docs]"')
    from .report import run

    print(run(arguments.out, arguments.quick))


if __name__ == "__main__":
    main()
