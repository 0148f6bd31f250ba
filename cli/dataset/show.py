"""calmgrad dataset show"""

import sys
from collections.abc import Iterable

import click

from calmgrad.cli.common import json_option, one_line, say
from calmgrad.errors import UsageError


@click.command("show")
@click.argument("path", type=click.Path())
@click.argument("numbers", metavar="[NUMBER]...", nargs=-1, type=click.IntRange(0))
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="How many, where no NUMBER is given.",
)
@json_option
def command(path: str, numbers: tuple[int, ...], count: int, as_json: bool) -> None:
    """The sequences themselves, with what a model learns of them.

    NUMBER counts from 0. Special tokens are named; what stands between ⟦ and ⟧ are the tokens a
    model learns to predict.
    """
    from calmgrad.data import load_dataset

    dataset = load_dataset(path)
    chosen = numbers or range(min(count, len(dataset)))
    for number in chosen:
        if number >= len(dataset):
            raise UsageError(f"{path}: there is no sequence {number}: it has {len(dataset):,}")
    rows = []
    for number in chosen:
        tokens, position = dataset[number]
        known, learnt = tokens[: position + 1].tolist(), tokens[position + 1 :].tolist()
        rows.append(
            {"number": number, "tokens": len(tokens), "atn": position,
             "context": shown(known), "targets": shown(learnt)}
        )  # fmt: skip
    if as_json:
        import json

        print(json.dumps({"sequences": rows}))
        return
    dim, plain = ("\x1b[2m", "\x1b[0m") if _has_colour() else ("", "")
    for row in rows:
        atn = f"ATN at {row['atn']}" if row["atn"] else "no ATN"
        print(f"{row['number']}: {row['tokens']} tokens, {atn}")
        print(f"{dim}{row['context']}{plain}⟦{row['targets']}⟧\n")
    if not numbers and len(dataset) > len(rows):
        say(f"{path}: {len(rows):,} of {len(dataset):,} sequences; -n {len(dataset)} shows all")


def shown(tokens: Iterable[int]) -> str:
    r"""Tokens as text of one line: specials named, what cannot be printed as \n, \t or \xNN."""
    from calmgrad.tokenizer import NAMES, PAD

    text = bytearray()
    for token in tokens:
        if token < PAD:
            text.append(token)
        else:
            text += f"<{NAMES.get(token, f':{token}:')}>".encode()
    return one_line(text.decode("utf-8", "backslashreplace"))


def _has_colour() -> bool:
    import os

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
