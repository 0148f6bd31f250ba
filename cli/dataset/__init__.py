"""calmgrad dataset: the group, which imports a command when it is named"""

from importlib import import_module

import click

from calmgrad.cli.common import LazyGroup

# Command -> what `--help` says of it. The code is calmgrad.cli.dataset.<module>, its function
# of the command's name.
COMMANDS = {
    "build": "Make a CTDS data set of a text file.",
    "info": "Counts, lengths and tokens of a data set.",
    "check": "Look for what may be wrong with a data set.",
    "show": "The sequences themselves, with what a model learns of them.",
    "split": "Cut a data set into training and validation.",
    "merge": "Put data sets together.",
    "sample": "Choose some of the sequences at random.",
    "dedup": "Leave out repetitions, or what another data set holds.",
    "history": "Make a data set of shell histories, without the secrets in them.",
}
_MODULES = dict.fromkeys(("split", "merge", "sample", "dedup"), "edit")


def _load(name: str) -> click.Command:
    module = import_module(f"calmgrad.cli.dataset.{_MODULES.get(name, name)}")
    command: click.Command = getattr(module, name if name in _MODULES else "command")
    return command


@click.command("dataset", cls=LazyGroup, commands_with_help=COMMANDS, load=_load)
def command() -> None:
    """Make, look at and change CTDS data sets."""
