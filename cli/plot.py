"""calmgrad plot"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import json_option, say
from calmgrad.errors import FileError, UsageError

if TYPE_CHECKING:
    from calmgrad.plots import Curves


@click.command("plot")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Write FILE.svg or FILE.png instead.")
@json_option
def command(runs: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Loss curves of one or more runs: in the terminal, as SVG or as PNG.

    RUN is a run directory or a metrics.jsonl. A PNG needs matplotlib.
    """
    import json

    kind = check_output(output)
    from calmgrad import plots

    curves = {}
    for name, path in names_of(runs).items():
        curves[name] = plots.read_metrics(path)
        if curves[name].left_out:
            say(f"{path}: left out {curves[name].left_out:,} losses that are not finite")
    if not any(run.steps or run.val_steps for run in curves.values()):
        raise FileError(f"{', '.join(runs)}: no loss to plot yet")
    if output is not None:
        from calmgrad.formats.files import write_atomic

        title = f"Loss of {next(iter(curves))}" if len(curves) == 1 else "Loss"
        draw_svg = kind == ".svg"
        write_atomic(
            output,
            [plots.loss_svg(curves, title).encode() if draw_svg else plots.loss_png(curves, title)],
        )
        say(f"saved    {output}")
    rows = [row(name, run) for name, run in curves.items()]
    if as_json:
        print(json.dumps({"runs": rows, "output": output}))
        return
    if output is None:
        size = shutil.get_terminal_size()
        print(plots.terminal_plot(curves, min(size.columns, 100), min(size.lines - 4, 18)))
        print()
    print_table(rows)


def check_output(output: str | None) -> str | None:
    """The kind of file wanted, if it can be made here.

    Raises:
        UsageError: another suffix, or a PNG without matplotlib.
    """
    if output is None:
        return None
    kind = Path(output).suffix.lower()
    if kind not in (".svg", ".png"):
        raise UsageError(f"{output}: expected a name that ends in .svg or .png")
    if kind == ".png":
        from importlib.util import find_spec

        if find_spec("matplotlib") is None:
            raise UsageError(
                f"{output}: a PNG needs matplotlib: pip install 'calmgrad[plot]' (SVG does not)"
            )
    return kind


def names_of(runs: tuple[str, ...]) -> dict[str, str]:
    """A short name for each run, and where its metrics are; the same run twice counts once."""
    from calmgrad.formats.files import display

    paths = {run: os.path.join(run, "metrics.jsonl") if os.path.isdir(run) else run for run in runs}
    short = {}
    for run, path in paths.items():
        folder, file = os.path.split(os.path.abspath(path))
        short[run] = os.path.basename(folder) if file == "metrics.jsonl" else file
    names: dict[str, str] = {}
    for run, path in paths.items():
        unique = list(short.values()).count(short[run]) == 1
        names[display(short[run] if unique else run)] = path
    return names


def row(name: str, run: "Curves") -> dict[str, Any]:
    """A run in numbers."""
    best = run.best_validation()
    return {
        "run": name,
        "steps": max([*run.steps[-1:], *run.val_steps[-1:]], default=0),
        "first": run.losses[0] if run.steps else None,
        "last": run.losses[-1] if run.steps else None,
        "last_smoothed": run.smoothed()[-1] if run.steps else None,
        "best_val": best[1] if best else None,
        "best_val_step": best[0] if best else None,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """The runs, a line each; with a, b, c … as the terminal plot has them if there are several."""

    def loss(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    marks = ["" if len(rows) == 1 else f"{chr(ord('a') + i % 26)} " for i in range(len(rows))]
    width = max(len("run"), *(len(m + r["run"]) for m, r in zip(marks, rows, strict=True)))
    head = f"{'run':<{width}}  {'steps':>7}  {'first':>7}  {'last':>7}  smoothed  best val"
    print(f"{head}  at step")
    for mark, r in zip(marks, rows, strict=True):
        losses = "  ".join(f"{loss(r[key]):>7}" for key in ("first", "last"))
        others = "  ".join(f"{loss(r[key]):>8}" for key in ("last_smoothed", "best_val"))
        at = "-" if r["best_val_step"] is None else f"{r['best_val_step']:,}"
        print(f"{mark + r['run']:<{width}}  {r['steps']:>7,}  {losses}  {others}  {at:>7}")
