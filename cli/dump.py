"""calmgrad dump"""

import click

from calmgrad.cli.batch import backend_named, backend_option, batch, rows_option, rules_option
from calmgrad.cli.common import (
    data_folder,
    emit,
    json_option,
    load_finite,
    model_option,
    not_over,
    users_file,
)
from calmgrad.errors import usage_errors


@click.command("dump")
@model_option
@click.option(
    "-d",
    "--dataset",
    "dataset_path",
    type=click.Path(),
    help="CTDS file.  [default: the user's train.ctds]",
)
@rows_option
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    required=True,
    help="What to write: a name that ends in .npz is one; any other is in the raw layout.",
)
@backend_option(default="cpu")
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True
)
@rules_option
@click.option("--update", is_flag=True, help="Also an update: norm, moments, new weights.")
@click.option("--lr", type=float, default=1e-4, show_default=True, help="With --update.")
@click.option("--grad-clip", type=float, default=1.0, show_default=True, help="With --update.")
@click.option("--ewc-lambda", type=float, default=0.0, show_default=True, help="With --update.")
@json_option
def command(
    model_path: str | None,
    dataset_path: str | None,
    rows: str,
    output: str,
    backend: str,
    dtype: str,
    rules: str,
    update: bool,
    lr: float,
    grad_clip: float,
    ewc_lambda: float,
    as_json: bool,
) -> None:
    """One forward and backward pass with all its numbers, for another engine to compare with.

    Every value and gradient by its name, the flat buffers, and what was read: docs/dumps.md has
    the names and both layouts. The model is not changed.
    """
    from calmgrad.config import rules_named
    from calmgrad.formats.dump import write
    from calmgrad.formats.files import check_writable
    from calmgrad.parity.runs import pass_dump, update_dump

    path = str(model_path or users_file("user.cwgt"))
    not_over(output, [path, str(dataset_path or data_folder() / "train.ctds")])
    check_writable(output)
    model = load_finite(path)
    sequences, positions = batch(dataset_path, rows, model.config.l_max)
    with usage_errors():
        reduction = rules_named(rules).reduction
        dump = pass_dump(
            model, sequences, positions,
            backend=backend_named(backend), dtype=dtype, reduction=reduction,
        )  # fmt: skip
        if update:
            options = dict(lr=lr, grad_clip=grad_clip, ewc_lambda=ewc_lambda, rules=rules)
            made = update_dump(model, sequences, positions, options)
            dump.arrays.update(made.arrays)
            dump.settings.update(made.settings)
        write(output, dump, raw=not output.endswith(".npz"))
    result = {
        "file": output,
        "layout": "npz" if output.endswith(".npz") else "raw",
        "arrays": len(dump.arrays),
        "bytes": sum(array.nbytes for array in dump.arrays.values()),
        "sequences": len(sequences),
        "tokens": int(dump.arrays["tokens"].size),
        "loss": float(dump.arrays["loss"]),
    }
    emit(result, as_json)
