"""`calmgrad`: finds the command, loads it, and turns errors into one line and an exit code."""

import errno
import os
import signal
import sys
import warnings
from importlib import import_module
from io import TextIOWrapper

import click

from calmgrad import __version__, blas
from calmgrad.cli.common import LazyGroup, say
from calmgrad.cli.display import log_to_stderr
from calmgrad.errors import CalmgradError, DiskError, OutOfMemoryError

# Command -> what `--help` says of it. The code is calmgrad.cli.<command>, its `command`.
COMMANDS = {
    "train": "Train a model, new or existing, on a CTDS data set.",
    "contrastive": "Train a model on pairs of texts, so that it embeds them.",
    "embed": "Texts to vectors: .npy, JSON lines, or an index to search.",
    "search": "The passages nearest in meaning to a query, from an index of texts.",
    "evaluate": "Loss, perplexity and bits per byte of a model on a data set.",
    "generate": "Complete a text with a model.",
    "fisher": "Which weights matter for a data set: what EWC needs, stored in the model.",
    "dataset": "Make, look at and change CTDS data sets.",
    "explain": "A training step told op by op, on the terminal or as a page of HTML.",
    "info": "What is inside a CWGT or CTDS file.",
    "demo": "Train a small model for a minute on generated shell sessions.",
    "dump": "One pass with all its numbers, for another engine to compare with.",
    "parity": "The first op in which another engine differs, and what it does instead.",
    "diff": "What differs between two models.",
    "convert": "A model to safetensors and back; a calm-mamba checkpoint to CWGT.",
    "plot": "Loss curves of runs, in the terminal, as SVG or as PNG.",
    "benchmark": "How fast this machine runs and trains models.",
    "warmup": "Compile all kernels now, so that no later command has to.",
    "gradcheck": "Whether every gradient is right: each op, and the whole model.",
    "verify-resume": "Whether an interrupted run ends with the same bytes, on this machine.",
    "doctor": "What is installed, what is missing, and what would fix it.",
    "completion": "The script for completion in bash, zsh or fish.",
}


def _load(name: str) -> click.Command:
    module = f"calmgrad.cli.{name.replace('-', '_')}"
    command: click.Command = import_module(module).command
    return command


@click.command(
    cls=LazyGroup,
    commands_with_help=COMMANDS,
    load=_load,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-V", "--version", message="calmgrad %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Say what was chosen for this machine.")
def cli(verbose: bool) -> None:
    """Train CALM models: byte-level Mamba language models for the Lilush shell."""
    if verbose:
        say(f"blas     {blas.told()}")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}")


def _error(message: object) -> None:
    say(f"error: {message}")


def _show(error: click.ClickException) -> None:
    """One line; the help, where a group of commands was called without one."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2
        error.show()
        return
    context = getattr(error, "ctx", None)
    help_of = f" (see {context.command_path} --help)" if context else ""
    _error(f"{' '.join(error.format_message().split()).removesuffix('.')}{help_of}")


def main() -> None:
    """Entry point of the console script."""
    # Before NumPy loads: our threads run whole shards, each with BLAS at one thread.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    warnings.showwarning = _show_warning
    log_to_stderr()
    for name in ("stdout", "stderr"):  # None where it was closed before
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a plot must not fail where UTF-8 is not spoken
            stream.reconfigure(errors="backslashreplace")
    # A reader of our output that has had enough ends us quietly; `train` sees to it itself.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        code = cli.main(prog_name="calmgrad", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _show(error)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _error("interrupted")
        code = 130
    except CalmgradError as error:
        _error(error)
        code = error.exit_code
    except MemoryError as error:
        _error(f"out of memory: {error}" if str(error) else "out of memory")
        code = OutOfMemoryError.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EFBIG):
            raise
        _error(f"the results cannot be written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DiskError.exit_code
    sys.exit(code if isinstance(code, int) else 0)
