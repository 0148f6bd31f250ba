"""calmgrad dataset history"""

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import json_option, not_over, one_line, say
from calmgrad.errors import FileError

if TYPE_CHECKING:
    from calmgrad.history import HistoryData


@click.command("history")
@click.argument("paths", metavar="FILE...", nargs=-1, type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="CTDS file to write.  [required]")
@click.option(
    "--shell",
    type=click.Choice(["bash", "zsh", "fish"]),
    help="Whose histories they are.  [default: as they look]",
)
@click.option(
    "--context",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    metavar="N",
    help="Earlier commands a sequence shows at most.",
)
@click.option(
    "--gap",
    type=click.IntRange(0),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="A pause after which earlier commands are no context, where times are kept.",
)
@click.option(
    "--l-max",
    type=click.IntRange(8, 65535),
    default=768,
    show_default=True,
    help="Longest sequence.",
)
@click.option("--show-removed", is_flag=True, help="List the commands with secrets, masked.")
@click.option(
    "--list-patterns",
    is_flag=True,
    help="Show what is taken for a secret, with examples, and end.",
)
@json_option
def command(
    paths: tuple[str, ...],
    output: str | None,
    shell: str | None,
    context: int,
    gap: int,
    l_max: int,
    show_removed: bool,
    list_patterns: bool,
    as_json: bool,
) -> None:
    """Make a data set of shell histories: bash, zsh (also extended) or fish.

    Commands with passwords, tokens, keys or URLs with credentials are left out as a whole, also
    as context. Nothing is sent anywhere. No list of patterns is complete: look at the result
    with `calmgrad dataset show` before you give it, or a model trained on it, to anybody.
    """
    if list_patterns:
        _list_patterns(as_json)
        return
    if not paths or output is None:
        raise click.UsageError(f"Missing {'option -o' if paths else 'argument FILE...'}.")
    from calmgrad.formats import ctds
    from calmgrad.formats.files import counted
    from calmgrad.history import read_histories

    not_over(output, paths)
    found = read_histories(paths, shell, context, gap * 60, l_max)
    if not found.tokens:
        raise FileError(f"{', '.join(paths)}: nothing to write: {_why_nothing(found)}")
    ctds.write(output, found.tokens, found.cmd_positions)
    if as_json:
        import json

        print(json.dumps(_values(output, found, show_removed)))
        return
    shells = ", ".join(found.shells)
    print(one_line(f"{', '.join(paths)}: {shells}, {counted(found.commands, 'command')}"))
    tokens = sum(map(len, found.tokens))
    print(f"{one_line(output)}: {counted(len(found.tokens), 'sequence')}, {tokens:,} tokens")
    for reason, count in found.left_out.most_common():
        print(f"left out {count:,}: {reason}")
    for kind, count in _kinds(found).most_common():
        print(f"removed {count:,}: {kind}")
    if show_removed:
        for removed in found.removed:
            print(f"  {removed.number + 1}: {one_line(removed.masked)}  [{removed.kind}]")
    elif found.removed:
        say("--show-removed lists the removed commands, with the secrets masked")


def _list_patterns(as_json: bool) -> None:
    """Print what is taken for a secret."""
    from calmgrad.redaction import REUSED
    from calmgrad.secret_patterns import PATTERNS

    rows = [(pattern.name, pattern.example) for pattern in PATTERNS]
    rows.append((REUSED, "wherever it stands"))
    if as_json:
        import json

        found = [{"name": name, "example": example} for name, example in rows]
        print(json.dumps({"patterns": found}))
        return
    width = max(len(name) for name, _ in rows)
    for name, example in rows:
        print(f"{name:<{width}}  {example}")


def _kinds(found: "HistoryData") -> Counter[str]:
    return Counter(removed.kind for removed in found.removed)


def _why_nothing(found: "HistoryData") -> str:
    if not found.commands:
        return "there are no commands"
    return f"of {found.commands:,} commands {len(found.removed):,} hold secrets"


def _values(output: str, found: "HistoryData", show_removed: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "path": output,
        "shells": found.shells,
        "commands": found.commands,
        "sequences": len(found.tokens),
        "tokens": sum(map(len, found.tokens)),
        "left_out": dict(found.left_out),
        "removed": dict(_kinds(found)),
    }
    if show_removed:
        values["removed_commands"] = [
            {"number": r.number + 1, "kind": r.kind, "command": r.masked} for r in found.removed
        ]
    return values
