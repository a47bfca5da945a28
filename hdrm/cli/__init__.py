"""The command line: parses and prints; what is done is decided below, in hdrm.train."""

from __future__ import annotations

import os
import sys
import warnings

import click

from . import data, graph, installation, runs, serving, training

EPILOG = "The data sets, settings and files are described in README.md."
ERRORS = (ValueError, TypeError, RuntimeError, ImportError)


def main() -> None:
    """The entry point ``hdrm``: errors are one line on stderr and exit code 2."""
    warnings.formatwarning = lambda message, *rest, **named: f"note: {message}\n"
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        if os.environ.get("RANK", "0") != "0":
            sys.exit(2)  # torchrun gave all processes this command: the first one tells
        _fail(error.format_message())
    except click.Abort:
        sys.exit(130)
    except OSError as error:
        _fail(_words(error))
    except ERRORS as error:
        _fail(str(error))
    sys.exit(code or 0)


def _words(error: OSError) -> str:
    """What the system says, without its number: "ids.txt: No such file or directory"."""
    said = error.strerror or str(error)
    return f"{error.filename}: {said}" if error.filename else said


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(package_name="hdrm")
def cli() -> None:
    """Train, measure and use HDRM, the hyperbolic diffusion recommender model.

    \b
    hdrm train                      a generated data set, about a minute
    hdrm train ml-1m_clean          a data set by name or path
    hdrm tune DATASET               better settings, by trials on the validation split
    hdrm train --resume RUN         a run that was stopped or killed, continued
    hdrm evaluate RUN               the metrics of a run again
    hdrm compare RUN_A RUN_B        which ranks better, and how sure that is
    hdrm recommend RUN --user 7     the items for one user
    hdrm export RUN --to npz -o F   vectors or an index for other systems
    hdrm report RUN                 a page about a run, to look at
    hdrm data DATASET               what a data set looks like; prepares one
    hdrm plan DATASET               the memory that training it needs
    hdrm doctor                     what a bug report should say; what works here
    hdrm graph build FILE -o GRAPH  a data set in files, for 10⁷ interactions and more
    """


for _command in (
    training.train,
    training.tune,
    training.plan,
    runs.evaluate,
    runs.compare,
    runs.report,
    serving.recommend,
    serving.similar,
    serving.export,
    data.data,
    graph.graph,
    installation.info,
    installation.doctor,
    installation.kernels,
    installation.bench,
):
    cli.add_command(_command)
