"""calmgrad dataset check"""

from typing import TYPE_CHECKING

import click

from calmgrad.cli.common import json_option, one_line
from calmgrad.errors import CheckFailed

if TYPE_CHECKING:
    from calmgrad.formats.ctds import Sequences


@click.command("check")
@click.argument("path", type=click.Path())
@click.option(
    "--val",
    "val_path",
    type=click.Path(),
    help="Validation data: none of its sequences may be in FILE.",
)
@click.option(
    "--l-max",
    type=click.IntRange(1, 65535),
    default=768,
    show_default=True,
    help="Longest sequence the model will take.",
)
@click.option("--strict", is_flag=True, help="Every finding is a failure, not only an overlap.")
@json_option
def command(path: str, val_path: str | None, l_max: int, strict: bool, as_json: bool) -> None:
    """Look for what may be wrong with a data set.

    A file that breaks a rule of the format is an error. What is allowed but odd is told. Training
    and validation data that share sequences fail the check (exit code 6).
    """
    from calmgrad.formats import ctds

    files = {name: ctds.read(name) for name in (path, val_path) if name}
    findings = {name: _oddities(sequences, l_max) for name, sequences in files.items()}
    shared, first = _overlap(files[path], files[val_path]) if val_path else (0, None)
    if as_json:
        import json

        print(json.dumps({"files": findings, "overlap": shared, "overlap_first": first}))
    else:
        for name, sequences in files.items():
            print(
                f"{one_line(name)}: {sequences.count:,} sequences, every rule of the format holds"
            )
            for row in findings[name]:
                print(f"  {row['count']:,} (the first: number {row['first']:,}): {row['what']}")
        if val_path:
            where = f" (the first: number {first:,})" if shared else ""
            print(one_line(f"{val_path}: {shared:,} sequences are also in {path}{where}"))
    if shared:
        fix = f"calmgrad dataset dedup {path} --without {val_path} -o NEW leaves them out"
        raise CheckFailed(f"{val_path}: {shared:,} sequences are also in {path}; {fix}")
    if strict and any(findings.values()):
        raise CheckFailed(f"{sum(map(len, findings.values()))} findings")


def _oddities(sequences: "Sequences", l_max: int) -> list[dict[str, int | str]]:
    from dataclasses import asdict

    from calmgrad.dataset_statistics import oddities

    return [asdict(oddity) for oddity in oddities(sequences, l_max)]


def _overlap(train: "Sequences", validation: "Sequences") -> tuple[int, int | None]:
    """How many validation sequences are training sequences too, and the first of them."""
    from calmgrad.dataset_statistics import overlap

    rows = overlap(validation, train)
    return int(rows.sum()), int(rows.argmax()) if rows.any() else None
