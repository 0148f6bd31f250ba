"""calmgrad dataset split, merge, sample and dedup"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import emit, json_option, not_over
from calmgrad.errors import FileError, UsageError, usage_errors

if TYPE_CHECKING:
    from calmgrad.formats.ctds import Sequences

output_option = click.option(
    "-o", "--output", required=True, type=click.Path(), help="CTDS file to write."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, help="Another choice.  [default: 0]"
)


@click.command("split")
@click.argument("path", type=click.Path())
@output_option
@click.option(
    "--val-split",
    type=float,
    default=0.1,
    show_default=True,
    metavar="SHARE",
    help="Share of the sequences for validation.",
)
@click.option(
    "--val-output",
    type=click.Path(),
    help="CTDS file of the validation part.  [default: <output>_val.ctds]",
)
@seed_option
@json_option
def split(
    path: str, output: str, val_split: float, val_output: str | None, seed: int, as_json: bool
) -> None:
    """Cut a data set into training and validation.

    The choice follows from a sequence's tokens: repetitions always go together.
    """
    from calmgrad import dataset_editing
    from calmgrad.formats import ctds

    not_over(output, [path])
    out = Path(output)
    val_output = val_output or str(out.with_name(f"{out.stem}_val.ctds"))
    if Path(val_output).resolve() == out.resolve():
        raise UsageError(f"training and validation would both go to {output}")
    not_over(val_output, [path])
    sequences = ctds.read(path)
    with usage_errors():
        parts = dataset_editing.split(sequences, val_split, seed)
    for name, part in zip(("training", "validation"), parts, strict=True):
        if not part.count:
            raise FileError(f"{path}: {sequences.count:,} sequences are too few: none for {name}")
    names = (output, val_output)
    _check_writable(*names)
    for name, part in zip(names, parts, strict=True):
        ctds.write_sequences(name, part)
    emit({"train": output, "train_sequences": parts[0].count,
          "validation": val_output, "validation_sequences": parts[1].count}, as_json)  # fmt: skip


@click.command("merge")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@output_option
@json_option
def merge(paths: tuple[str, ...], output: str, as_json: bool) -> None:
    """Put data sets together, one after the other; repetitions stay."""
    not_over(output, paths)
    from calmgrad import dataset_editing
    from calmgrad.formats import ctds

    parts = [ctds.read(path) for path in paths]
    versions = {part.vocab_version for part in parts}
    if len(versions) > 1:
        raise FileError(f"{', '.join(paths)}: of different vocabulary versions: {versions}")
    _write(output, dataset_editing.merge(parts), {"files": len(parts)}, as_json)


@click.command("sample")
@click.argument("path", type=click.Path())
@output_option
@click.option("-n", "--count", required=True, type=click.IntRange(1), help="How many sequences.")
@seed_option
@json_option
def sample(path: str, output: str, count: int, seed: int, as_json: bool) -> None:
    """Choose some of the sequences at random; they stay in order."""
    not_over(output, [path])
    from calmgrad import dataset_editing
    from calmgrad.formats import ctds

    sequences = ctds.read(path)
    with usage_errors():
        chosen = dataset_editing.sample(sequences, count, seed)
    _write(output, chosen, {"of": sequences.count}, as_json)


@click.command("dedup")
@click.argument("path", type=click.Path())
@output_option
@click.option(
    "--without",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Also leave out what is in this data set; may be given again.",
)
@json_option
def dedup(path: str, output: str, without: tuple[str, ...], as_json: bool) -> None:
    """Leave out repetitions, or what another data set holds; the first of each stays."""
    not_over(output, [path, *without])
    from calmgrad import dataset_editing
    from calmgrad.formats import ctds

    sequences = ctds.read(path)
    others = [ctds.read(name) for name in without]
    rest, again, elsewhere = dataset_editing.dedup(sequences, others)
    if not rest.count:
        raise FileError(f"{path}: nothing to write: every sequence is in {', '.join(without)}")
    values = {"repetitions": again}
    if without:
        values["in_others"] = elsewhere
    _write(output, rest, values, as_json)


def _write(output: str, sequences: "Sequences", values: dict[str, Any], as_json: bool) -> None:
    from calmgrad.formats import ctds

    ctds.write_sequences(output, sequences)
    emit({"file": output, "sequences": sequences.count, **values}, as_json)


def _check_writable(*paths: str) -> None:
    from calmgrad.formats.files import check_writable

    for path in paths:
        check_writable(path)
