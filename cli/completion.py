"""calmgrad completion"""

import click
from click.shell_completion import get_completion_class

from calmgrad.cli.common import emit, json_option
from calmgrad.errors import UsageError

PROGRAM = "calmgrad"
VARIABLE = "_CALMGRAD_COMPLETE"  # click looks for this one, by the program's name


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
def command(shell: str, as_json: bool) -> None:
    """Print the script that makes a shell complete calmgrad's commands and options.

    \b
    bash  eval "$(calmgrad completion bash)"    in ~/.bashrc
    zsh   eval "$(calmgrad completion zsh)"     in ~/.zshrc, after compinit
    fish  calmgrad completion fish > ~/.config/fish/completions/calmgrad.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"{shell}: this version of click has no completion for it")
    # Not source(): that starts a bash to look at its version.
    completion = found(click.get_current_context().find_root().command, {}, PROGRAM, VARIABLE)
    script = completion.source_template % completion.source_vars()
    if as_json:
        emit({"shell": shell, "script": script}, True)
    else:
        print(script)
