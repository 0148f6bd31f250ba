"""calmgrad dataset build"""

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import json_option, one_line, say
from calmgrad.errors import usage_errors

if TYPE_CHECKING:
    from calmgrad.conversion import Part, Summary
    from calmgrad.formats.lines import Finding

SHOWN = 5  # findings of a kind that are shown one by one


@click.command("build")
@click.argument("text", type=click.Path(allow_dash=True))
@click.option("-o", "--output", required=True, type=click.Path(), help="CTDS file to write.")
@click.option(
    "--l-max",
    type=click.IntRange(1, 65535),
    default=768,
    show_default=True,
    help="Longer sequences are left out.",
)
@click.option(
    "--val-split",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Share of the blocks for validation, chosen by their content.  [default: none]",
)
@click.option(
    "--val-output",
    type=click.Path(),
    help="CTDS file of the validation part.  [default: <output>_val.ctds]",
)
@click.option("--prose", is_flag=True, help="Plain text: each paragraph becomes a sequence.")
@click.option("--strict", is_flag=True, help="End with an error where something would be lost.")
@json_option
def command(
    text: str,
    output: str,
    l_max: int,
    val_split: float,
    val_output: str | None,
    prose: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Make a CTDS data set of a text file.

    TEXT is blocks of lines that begin with tags such as <CWD> and <CMD>, blocks apart by blank
    lines; or, if the first line begins with <WORD>, dictionary entries. With --prose it is plain
    text, such as a book. "-" is standard input.
    """
    from calmgrad.conversion import convert_text
    from calmgrad.formats.files import counted

    name = "standard input" if text == "-" else text
    teller = Teller(name)
    with usage_errors():
        summary = convert_text(text, output, l_max, val_split, val_output, strict, teller, prose)
    teller.rest()
    for _, part in _parts(summary):
        if not part.sequences:
            say(f"warning: {part.path}: no sequences are left for it: not written")
    if as_json:
        import json

        print(json.dumps(_values(text, summary)))
        return
    print(one_line(f"{name}: {summary.format} format, {counted(summary.blocks, 'block')}"))
    for name, part in _parts(summary):
        print(_line(name, part))
        for reason, count in part.left_out.most_common():
            print(f"{'':<10}  left out {count:,}: {reason}")
    for kind, count in summary.findings.most_common():
        print(f"{'findings':<10}  {count:,}: {kind}")


class Teller:
    """Says the first findings of each kind, and of the rest how many there are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: Counter[str] = Counter()

    def __call__(self, finding: "Finding") -> None:
        self.told[finding.kind] += 1
        if self.told[finding.kind] <= SHOWN:
            say(f"warning: {self.name}:{finding.line}: {finding.message}")

    def rest(self) -> None:
        """Say how many more there were."""
        for kind, count in self.told.items():
            if count > SHOWN:
                say(f"warning: {self.name}: {count - SHOWN:,} more like this: {kind}")


def _parts(summary: "Summary") -> list[tuple[str, "Part"]]:
    parts = [("train", summary.train), ("validation", summary.validation)]
    return [(name, part) for name, part in parts if part]


def _line(name: str, part: "Part") -> str:
    from calmgrad.formats.files import counted

    if not part.sequences:
        return f"{name:<10}  no sequences"
    sizes = f"{counted(part.sequences, 'sequence')}, {counted(part.tokens, 'token')}"
    return f"{name:<10}  {part.path}: {sizes}"


def _values(text: str, summary: "Summary") -> dict[str, Any]:
    values: dict[str, Any] = {"text": text, "format": summary.format, "blocks": summary.blocks}
    for name, part in _parts(summary):
        values[name] = {
            "path": part.path if part.sequences else None,
            "sequences": part.sequences,
            "tokens": part.tokens,
            "left_out": dict(part.left_out),
        }
    return {**values, "findings": dict(summary.findings)}
