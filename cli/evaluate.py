"""calmgrad evaluate"""

from dataclasses import asdict

import click

from calmgrad.cli.common import (
    data_folder,
    emit,
    json_option,
    load_finite,
    load_kept,
    threads_option,
    usage_errors,
)


@click.command("evaluate")
@click.option("-m", "--model", "model_path", help="CWGT file.  [default: the user model]")
@click.option(
    "-d", "--dataset", "dataset_path", help="CTDS file.  [default: the user's train.ctds]"
)
@threads_option
@json_option
def command(
    model_path: str | None, dataset_path: str | None, threads: int | None, as_json: bool
) -> None:
    """Loss of a model on a data set.

    Losses are in nats: mean, min and max of the sequences' means, then over all targets. Bits
    per byte count the targets that are bytes.
    """
    from calmgrad.evaluation import evaluate

    model = load_finite(model_path or data_folder() / "user.cwgt")
    dataset = load_kept(
        dataset_path or data_folder() / "train.ctds", model.config.l_max, "evaluate"
    )
    with usage_errors():
        result = evaluate(model, dataset, threads)
    emit(asdict(result), as_json)
