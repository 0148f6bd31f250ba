"""calmgrad gradcheck"""

import json
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import json_option, load_finite, load_kept, one_line, say
from calmgrad.cli.display import progress
from calmgrad.config import PRESETS
from calmgrad.errors import CheckFailed, UsageError, usage_errors

if TYPE_CHECKING:
    from calmgrad.model_check import Batch, Manner, Row, Subject

TOKENS = 96
HEADINGS = ("op", "input", "places", "worst error", "gradients probed", "1 % shows from")


@click.command("gradcheck")
@click.option(
    "-m", "--model", "model_path", type=click.Path(), help="CWGT file.  [default: a new model]"
)
@click.option("-s", "--size", type=click.Choice(list(PRESETS)), help="Of a new model.  [nano]")
@click.option(
    "-d", "--dataset", type=click.Path(), help="CTDS file.  [default: generated sequences]"
)
@click.option(
    "--tokens", type=click.IntRange(12), default=TOKENS, show_default=True, help="To run on."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
              help="Of the sequences drawn, the directions and a new model.")  # fmt: skip
@click.option(
    "--backend", default="cpu", show_default=True, help="What computes: reference or cpu."
)
@click.option(
    "--op", "ops", multiple=True, metavar="NAME",
    help="Check this alone: gelu, basic.exp, …, loss, contrastive; may be given several times.",
)  # fmt: skip
@click.option("--rtol", type=click.FloatRange(0, min_open=True), default=1e-6, show_default=True,
              help="Largest relative error allowed.")  # fmt: skip
@click.option("--probes", type=click.IntRange(0), default=5, show_default=True,
              help="Elements of each input compared alone, small gradients to large.")  # fmt: skip
@click.option(
    "--full", is_flag=True, help="Compare every element alone: of a whole model, for hours."
)
@click.option("--self-test", is_flag=True, help="Plant errors, and see that each is found.")
@json_option
def command(
    model_path: str | None,
    size: str | None,
    dataset: str | None,
    tokens: int,
    seed: int,
    backend: str,
    ops: tuple[str, ...],
    rtol: float,
    probes: int,
    full: bool,
    self_test: bool,
    as_json: bool,
) -> None:
    """Compare every gradient with central differences, in float64.

    Each op on the arrays it gets inside the model, wherever it stands; and the losses of the whole
    model by each of its parameters. Along a random direction, and element by element, from the
    smallest gradients to the largest. Ends with 6 if one is wrong.

    With --self-test: on random weights of the same sizes, errors are planted in the gradients, one
    at a time.
    """
    from calmgrad import backend as backends
    from calmgrad import model_check

    if size is not None and model_path is not None:
        raise UsageError(f"--size: only for a new model; {model_path} has its own sizes")
    unknown = [name for name in ops if name not in model_check.names()]
    if unknown:
        raise UsageError(f"--op {unknown[0]}: expected one of {', '.join(model_check.names())}")
    with usage_errors():
        loaded = backends.load(backend)
    manner = model_check.Manner(loaded, rtol, 0 if full else 1, 0 if full else probes, full, seed)
    batch, arrays = given(model_path, size, dataset, tokens, seed, self_test)
    subjects = model_check.subjects(batch, arrays, loaded, ops)
    if self_test:
        plant_errors(subjects, batch, arrays, manner, as_json)
    else:
        compare(subjects, manner, as_json)


def given(
    model_path: str | None,
    size: str | None,
    dataset: str | None,
    tokens: int,
    seed: int,
    self_test: bool,
) -> tuple["Batch", dict[str, Any]]:
    """The sequences and the parameters to check with; for the self-test only a model's sizes."""
    from calmgrad import model_check
    from calmgrad.config import resolve
    from calmgrad.demo import sessions
    from calmgrad.layout import views
    from calmgrad.starting import describe

    model = None if model_path is None else load_finite(model_path)
    config = resolve(size or "nano", {}) if model is None else model.config
    if model is None or self_test:
        weights = model_check.fresh_weights(config, seed)
        say(f"model    new, with random weights: {describe(config)}")
    else:
        weights = model.weights
        say(f"model    {model_path}: {describe(config)}")
    if dataset is None:
        pairs: Any = zip(*sessions(tokens // 4, seed), strict=True)
    else:
        kept = load_kept(dataset, config.l_max, "check")
        kept.shuffle(seed)
        pairs = iter(kept)
    sequences, positions = model_check.shortened(pairs, min(tokens, config.l_max))
    count = sum(map(len, sequences))
    whose = "generated " if dataset is None else ""
    say(f"taken    {len(sequences)} {whose}sequences, {count} tokens")
    try:
        batch = model_check.Batch(config, sequences, positions)
    except ValueError as error:
        raise UsageError(f"{error}: try other --tokens or another --seed") from error
    return batch, {name: view.astype("float64") for name, view in views(config, weights).items()}


def compare(subjects: Sequence["Subject"], manner: "Manner", as_json: bool) -> None:
    """Check all; tell all; fail if one is wrong."""
    from calmgrad.model_check import check

    rows: list[Row] = []
    comparisons, began = 0, time.perf_counter()
    total = sum(len(s.arrays) for s in subjects)
    with progress("gradcheck", "inputs") as report:

        def tick() -> None:
            nonlocal comparisons
            comparisons += 1
            report(len(rows), total)

        for subject in subjects:
            rows.extend(check(subject, manner, tick))
    seconds = time.perf_counter() - began
    wrong = [row.line for row in rows if row.line is not None]
    if as_json:
        values = {
            "agree": not wrong, "backend": manner.backend.name, "rtol": manner.rtol,
            "comparisons": comparisons, "seconds": round(seconds, 3),
            "rows": [json_of(row) for row in rows],
        }  # fmt: skip
        print(json.dumps(values))
    else:
        print_rows(summed(rows))
        print(f"\n{len(rows):,} inputs in {len(subjects):,} places: {comparisons:,} comparisons in"
              f" {seconds:.1f} s, on {manner.backend.name}")  # fmt: skip
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CheckFailed(f"gradcheck: {wrong[0]}{more}")


def plant_errors(
    subjects: Sequence["Subject"],
    batch: "Batch",
    arrays: dict[str, Any],
    manner: "Manner",
    as_json: bool,
) -> None:
    """Plant errors, one at a time; fail if one is not found."""
    from calmgrad.planted_errors import missed, plants

    planted = list(plants(subjects, batch, arrays))
    left: list[str] = []
    with progress("self-test", "planted errors") as report:
        for done, plant in enumerate(missed(planted, manner), 1):
            report(done, len(planted))
            left += [] if plant is None else [str(plant)]
    found = len(planted) - len(left)
    if as_json:
        print(json.dumps({"planted": len(planted), "found": found, "missed": left}))
    else:
        print(f"planted  {len(planted):,}\nfound    {found:,}")
        for line in left:
            print(f"missed   {one_line(line)}")
    if left:
        raise CheckFailed(f"gradcheck: {len(left)} planted errors were not found; first: {left[0]}")


def json_of(row: "Row") -> dict[str, Any]:
    """A row as JSON has it: no infinities."""
    found = asdict(row.found)
    values = {"op": row.op, "where": row.where, "input": found.pop("name"), **found}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def summed(rows: Sequence["Row"]) -> list[tuple[str, str, list["Row"]]]:
    """Op and input, with the rows of all layers and places."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        name = re.sub(r"^blocks\.\d+\.", "blocks.*.", row.found.name)
        groups.setdefault((row.op, name), []).append(row)
    ops = list(dict.fromkeys(row.op for row in rows))
    ordered = sorted(groups.items(), key=lambda item: ops.index(item[0][0]))
    return [(op, name, group) for (op, name), group in ordered]


def print_rows(groups: list[tuple[str, str, list["Row"]]]) -> None:
    """A line for each op and input: the worst of all places."""
    lines = []
    for op, name, rows in groups:
        found = [row.found for row in rows]
        small, large = min(f.smallest for f in found), max(f.largest for f in found)
        lines.append(
            (
                op, one_line(name), f"{len(rows):,}",
                f"{max(f.error for f in found):.1e}",
                f"{small:.0e} to {large:.0e}" if large else "-",
                f"{limit:.0e}" if (limit := max(f.limit for f in found)) else "-",
                any(f.message for f in found),
            )
        )  # fmt: skip
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for number, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if number > 1 else "left")
        for *cells, wrong in lines:
            style = "bold red" if wrong else ""
            table.add_row(*(Text(str(cell), style=style) for cell in cells))
        Console().print(table)
        return
    shown = [HEADINGS, *(cells for *cells, _ in lines)]
    widths = [max(len(str(row[column])) for row in shown) for column in range(len(HEADINGS))]
    for row, wrong in zip(shown, [False, *(line[-1] for line in lines)], strict=True):
        cells = [f"{row[0]:<{widths[0]}}", f"{row[1]:<{widths[1]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
        print("  ".join(cells) + ("  wrong" if wrong else ""))
