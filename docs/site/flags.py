"""The page of all commands and flags, made of what click knows."""

from collections.abc import Iterator

import click

from calmgrad.cli.main import COMMANDS, cli

INTRODUCTION = """\
# All flags

What `calmgrad COMMAND --help` says, on one page. [Commands](commands.md) tells what the commands
are for.
"""


def page() -> str:
    """All commands, in Markdown."""
    parts = [INTRODUCTION]
    with click.Context(cli, info_name="calmgrad") as context:
        for name in COMMANDS:
            command = cli.get_command(context, name)
            assert command is not None
            parts += sections(command, name, context)
    return "\n".join(parts)


def sections(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    with click.Context(command, info_name=name, parent=parent) as context:
        level = "##" if parent.parent is None else "###"
        path = context.command_path.removeprefix("calmgrad ")
        yield f"{level} {path}\n\n```text\n{context.get_usage()}\n```\n"
        text = command.help or command.short_help or ""
        yield paragraphs(text)
        yield table(command, context)
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                leaf = command.get_command(context, inner)
                if leaf is not None:
                    yield from sections(leaf, inner, context)


def paragraphs(text: str) -> str:
    """Help text as Markdown: what click leaves as it is (\\b) is a block, the rest flows."""
    parts = []
    for part in click.formatting.wrap_text(text, 10_000, preserve_paragraphs=True).split("\n\n"):
        kept = "\n" in part.strip()
        parts.append(f"```text\n{part}\n```" if kept else escaped(part.strip()))
    return "\n\n".join(parts) + "\n"


def table(command: click.Command, context: click.Context) -> str:
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            said, told = record[0].replace("|", "\\|"), " ".join(record[1].split())
            rows.append(f"| `{said}` | {escaped(told)} |")
    return "\n".join(["| | |", "|---|---|", *rows, ""])


def escaped(text: str) -> str:
    """Plain text in Markdown."""
    for character in "\\`*_<>[]|$":
        text = text.replace(character, "\\" + character)
    return text
