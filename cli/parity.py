"""calmgrad parity"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.batch import backend_named, backend_option, batch, rows_option, rules_option
from calmgrad.cli.common import (
    data_folder,
    json_option,
    load_finite,
    model_option,
    one_line,
    say,
    users_file,
)
from calmgrad.errors import CheckFailed, FileError, UsageError, usage_errors

if TYPE_CHECKING:
    from calmgrad.formats.dump import Dump
    from calmgrad.model import Model
    from calmgrad.parity.report import Report


@click.command("parity")
@click.argument("other", type=click.Path(), required=False)
@model_option
@click.option(
    "-d",
    "--dataset",
    "dataset_path",
    type=click.Path(),
    help="CTDS file that was read.  [default: what the dump says; else the user's train.ctds]",
)
@rows_option
@click.option(
    "--parameter", metavar="NAME", help="OTHER is the gradient of this parameter, or its number."
)
@click.option("--peer", metavar="PYTHON", help="Check calm-mamba, as installed for this Python.")
@click.option("--step", is_flag=True, help="Check the decoder that reads a token at a time.")
@click.option(
    "--against-rules",
    type=click.Choice(["c-engine", "calm-mamba"]),
    help="Check a run by these rules.",
)
@backend_option()
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), help="Check a run in this type."
)
@rules_option
@click.option("--rtol", type=click.FloatRange(0, min_open=True), help="Allowed for one op.")
@click.option("--no-hints", is_flag=True, help="Do not try known mistakes.")
@json_option
def command(
    other: str | None,
    model_path: str | None,
    dataset_path: str | None,
    rows: str,
    parameter: str | None,
    peer: str | None,
    step: bool,
    against_rules: str | None,
    backend: str | None,
    dtype: str | None,
    rules: str,
    rtol: float | None,
    no_hints: bool,
    as_json: bool,
) -> None:
    """The first op in which another engine differs, forward, backward or in the update.

    OTHER is a dump (docs/dumps.md), a file of float32 gradients as get_grad gives them, or the
    CWGT file of another model, which is then run beside. Without OTHER, a run of this engine is
    checked: --backend and --dtype say which, --step the decoder, --peer calm-mamba.

    Each op is made again in float64 from what the other engine itself says the op has read. So
    an op is not blamed for those before it. Ends with 6 if one differs by more than rounding.
    """
    ways = {"OTHER": other, "--peer": peer, "--step": step, "--against-rules": against_rules}
    chosen = [name for name, value in ways.items() if value]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)}: expected one of them")
    if parameter is not None and other is None:
        raise UsageError("--parameter goes with OTHER, a file of gradients")
    if other is not None and (backend or dtype):
        raise UsageError("--backend and --dtype say which run is checked: they go without OTHER")

    if step and (backend or "cpu").startswith("cuda"):
        raise UsageError("--step: the decoder reads on the CPU: --backend cpu or reference")

    model = load_finite(model_path or users_file("user.cwgt"))
    with usage_errors():
        report = _report(
            model, other, dataset_path, rows, parameter, peer, step, against_rules,
            backend_named(backend or "cpu"), dtype or "float32", rules, rtol, not no_hints,
        )  # fmt: skip
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        show(report)
    if not report.ok:
        raise CheckFailed(report.sentence())


def _report(
    model: "Model", other: str | None, dataset_path: str | None, rows: str,
    parameter: str | None, peer: str | None, step: bool, against_rules: str | None,
    backend: Any, dtype: str, rules: str, rtol: float | None, hints: bool,
) -> "Report":  # fmt: skip
    import numpy as np

    from calmgrad.config import rules_named
    from calmgrad.parity.report import check
    from calmgrad.parity.runs import pass_dump, step_dump
    from calmgrad.trace import batch_of

    config, reduction = model.config, rules_named(rules).reduction
    dump, kind = (None, "") if other is None else _open(model, other, parameter)
    read = None
    sequences: list[Any] = []
    positions: list[int] = []
    if dataset_path is not None or dump is None or "tokens" not in dump.arrays:
        if kind == "dump" and dataset_path is None and not (data_folder() / "train.ctds").exists():
            raise FileError(f"{other}: has no tokens: name what was read with -d and --rows")
        sequences, positions = batch(dataset_path, rows, config.l_max)
        read = batch_of(config, sequences, positions, reduction)
    name = str(other)
    settings: dict[str, Any] = {"reduction": reduction}
    if kind == "CWGT":
        beside = _other_model(model, str(other))
        dump = pass_dump(beside, sequences, positions, reduction=reduction)
    elif peer is not None:
        from calmgrad.parity.peer import peer_dump

        assert read is not None
        dump, name = peer_dump(peer, model, read), f"calm-mamba ({peer})"
    elif step:
        assert read is not None
        weights = np.asarray(model.weights, dtype)
        dump, name = step_dump(config, weights, read, backend), f"the decoder ({backend}, {dtype})"
    elif dump is None:
        by = rules_named(against_rules).reduction if against_rules else reduction
        dump = pass_dump(model, sequences, positions, backend=backend, dtype=dtype, reduction=by)
        name = f"the run ({backend}, {dtype}{f', rules {against_rules}' if against_rules else ''})"
    buffers = {
        key: flat for key, flat in (("fisher", model.fisher), ("anchor", model.anchor))
        if flat is not None
    }  # fmt: skip
    if other is not None and kind == "dump" and rules == "c-engine":
        settings = {} if "reduction" in dump.settings else settings
    return check(
        dump, config, model.weights, read,
        buffers=buffers, settings=settings, rtol=rtol, explain=hints, name=name, tell=say,
    )  # fmt: skip


def _open(model: "Model", path: str, parameter: str | None) -> "tuple[Dump | None, str]":
    """What OTHER is: a dump, flat gradients, or a model (which is left to the caller)."""
    import numpy as np

    from calmgrad.formats import dump
    from calmgrad.formats.files import open_source
    from calmgrad.parity.runs import gradient_dump

    with open_source(path) as source:
        head = source.read(min(4, source.size))
        source.file.seek(0)
        if head == b"CWGT":
            return None, "CWGT"
        if not dump.is_dump(source):
            if source.size % 4 or source.size == 0:
                raise source.error(
                    f"begins with {head!r}, {source.size} bytes: expected a dump, a CWGT file or"
                    " float32 gradients"
                )
            flat = source.read_array("f4", source.size // 4)
            try:
                return gradient_dump(model.config, np.asarray(flat), parameter), "gradients"
            except FileError as error:
                raise source.error(str(error)) from error
    return dump.read(path), "dump"


def _other_model(model: "Model", path: str) -> "Model":
    from calmgrad.model import load_model

    other = load_model(path)
    if other.config != model.config:
        theirs, ours = asdict(other.config), asdict(model.config)
        apart = [
            f"{key} {theirs[key]}, expected {ours[key]}" for key in ours if theirs[key] != ours[key]
        ]
        raise FileError(f"{path}: has other sizes than the model: {'; '.join(apart)}")
    return other


def show(report: "Report") -> None:
    """The table of ops, then the result."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from calmgrad.parity.summary import lines

    console = Console()
    narrow = console.width < 60
    table = Table(box=None, pad_edge=False, collapse_padding=narrow, header_style="bold")
    names = ("op", "forward", "backward", "apart", "ULPs", "differs")
    for name in ("op", "forw.", "back", "differs") if narrow else names:
        words = name in ("op", "differs")
        table.add_column(
            name, justify="left" if words else "right", no_wrap=not words, overflow="fold",
            min_width=min(20, max(4, console.width - 20)) if name == "op" else len(name),
        )  # fmt: skip
    for line in lines(report):
        style, cells = "" if line.good else "bold red", line.cells()
        cells = line.few_cells() if narrow else cells
        table.add_row(*(Text(one_line(cell), style) for cell in cells))
    if table.row_count:
        console.print(table)
        console.print()
    if report.ignored:
        more = f", … ({len(report.ignored)} in all)" if len(report.ignored) > 5 else ""
        some = ", ".join(report.ignored[:5]) + more
        say(f"warning: names that mean nothing here: {some}")
    for note in report.notes:
        say(f"note: {note}")
    if report.ok:
        console.print(Text(one_line(report.sentence())), soft_wrap=True)
    elif report.elsewhere():
        console.print(Text(f"Also: {', '.join(report.elsewhere()[:8])}"), soft_wrap=True)
