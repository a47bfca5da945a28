"""What this installation is: info, doctor, kernels, bench."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console

from ..config import PRESETS


@click.command()
@click.option("--schedule", type=click.Choice(list(PRESETS)), metavar="PRESET", help="Print the "
              "noise schedule of a preset instead, step by step.")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Print a preset's settings "
              "instead.")  # fmt: skip
def info(schedule, preset) -> None:
    """What this installation consists of: versions, compiled code, backends, devices."""
    from .. import available_backends, build_info
    from ..model.diffusion import Diffusion
    from ..train import report

    console = Console()
    if schedule:
        diffusion = Diffusion.from_config(PRESETS[schedule])
        console.print(report.schedule_table(f"schedule of the preset {schedule}", diffusion))
    elif preset:
        console.print(report.settings_table(f"preset {preset}", PRESETS[preset]))
    else:
        console.print(report.info_table(build_info(), available_backends()))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def doctor(as_json) -> int:
    """Print what a bug report should say about this machine, and try every backend.

    Exit code 1: something that should work does not; the last lines say what. The home folder is
    written ~.
    """
    from .. import doctor

    found = doctor.examine()
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(doctor.lines(found)))
    return 1 if found["problems"] else 0


@click.command()
@click.option("--full", is_flag=True, help="All tile sizes, widths and dtypes: many minutes.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the tables into a file.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to a "
              "file.")  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for Triton's code.")
def kernels(full, markdown, json_file, keep) -> int:
    """Print what the compilers made of the GPU kernels.

    Triton's are compiled for sm_80, sm_90 and sm_100; those in CUDA C++ are read from the compiled
    module, if they were built. Needs no GPU. Registers, spills, shared memory, occupancy and bytes
    moved are computed, not measured. Exit code 1: something is not as required; the last lines say
    what.
    """
    from ..kernels import report

    return report.run(full, markdown, json_file, keep)


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    options_metavar="[OPTIONS]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments) -> int:
    """Time every op beside its peers and write docs/benchmarks.

    Needs a checkout, whose benchmarks/ it runs; `hdrm bench --help` lists the options.
    """
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    if not (folder / "__main__.py").is_file():
        raise RuntimeError(
            "hdrm bench runs benchmarks/ of a checkout, and this is an installed copy; clone the "
            "sources and install them with: pip install -e '.[bench]'"
        )
    return subprocess.run([sys.executable, str(folder), *arguments], check=False).returncode
