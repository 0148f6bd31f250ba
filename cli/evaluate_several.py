"""What `calmgrad evaluate` says of several data sets, and of a model before and after training."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from calmgrad.cli.common import emit, load_kept, one_line
from calmgrad.errors import usage_errors

if TYPE_CHECKING:
    from calmgrad.model import Model


def report(
    model: "Model", before: "Model | None", paths: list[str], threads: int | None, as_json: bool
) -> None:
    """A row for each data set; with an older model, what training has changed."""
    from calmgrad.evaluation import compare, evaluate

    l_max = min(m.config.l_max for m in (model, before) if m is not None)
    datasets = [load_kept(path, l_max, "evaluate") for path in paths]
    rows = []
    for path, dataset in zip(paths, datasets, strict=True):
        with usage_errors():
            if before is None:
                rows.append({"dataset": path, **asdict(evaluate(model, dataset, threads))})
                continue
            change = compare(before, model, dataset, threads)
        difference = {"token_mean": change.loss, "bits_per_byte": change.bits_per_byte}
        rows.append({"dataset": path, **asdict(change), "change": difference})
    if as_json:
        emit({"datasets": rows}, True)
    elif before is None:
        print_table(["loss", "bits/byte", "perplexity", "sequences"], [
            (row["dataset"], row["token_mean"], row["bits_per_byte"], row["perplexity"],
             row["sequences"]) for row in rows
        ])  # fmt: skip
    else:
        print_changes(rows)


def print_changes(rows: list[dict[str, Any]]) -> None:
    """The table of losses and bits before and after, and a verdict in words for each row."""
    names = ["loss before", "after", "change", "bits/byte before", "after", "change"]
    table = []
    for row in rows:
        numbers = [
            (row["before"][key], row["after"][key], row["change"][key])
            for key in ("token_mean", "bits_per_byte")
        ]
        table.append((row["dataset"], *numbers[0], *numbers[1]))
    print_table(names, table, signed=(2, 5))
    print()
    for row in rows:
        print(f"{one_line(row['dataset'])}: {verdict(row['before'], row['change'])}")


def verdict(before: dict[str, Any], change: dict[str, Any]) -> str:
    """What happened to a data set, in words."""
    rise = change["token_mean"]
    share = rise / before["token_mean"] if before["token_mean"] else math.inf
    if not math.isfinite(rise):
        return "cannot be told: a loss is not finite"
    if abs(share) < 0.005 or rise == 0:
        return "kept: the loss is the same within 0.5 %"
    what = "forgotten: the loss rose" if rise > 0 else "learned: the loss fell"
    percent = f" ({abs(share):.0%})" if math.isfinite(share) else ""
    return f"{what} by {abs(rise):.4f} nats a token{percent}"


def print_table(
    names: list[str], rows: list[tuple[Any, ...]], signed: tuple[int, ...] = ()
) -> None:
    """Data sets with numbers; those in the columns `signed` with their sign."""

    def shown(column: int, value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, int):
            return f"{value:,}"
        return f"{value:+.4f}" if column in signed else f"{value:.4f}"

    lines = [["data set", *names]]
    lines += [[one_line(row[0]), *(shown(i, v) for i, v in enumerate(row[1:]))] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        numbers = (f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        print("  ".join([f"{line[0]:<{widths[0]}}", *numbers]))
