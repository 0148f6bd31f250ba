"""calmgrad fisher"""

import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from calmgrad.cli.common import (
    device_options,
    emit,
    json_option,
    load_finite,
    load_kept,
    model_option,
    say,
    threads_option,
    users_file,
)
from calmgrad.cli.display import progress
from calmgrad.errors import usage_errors

if TYPE_CHECKING:
    from calmgrad.kernels.cuda.device import Precision


@click.command("fisher")
@model_option
@click.option(
    "-d",
    "--dataset",
    "dataset_paths",
    type=click.Path(),
    multiple=True,
    help="CTDS file of what is to be kept; may be given several times.  [default: the user's"
    " train.ctds]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="CWGT file to write.  [default: the model's own path; its weights stay as they are]",
)
@click.option(
    "--max-sequences",
    type=click.IntRange(1),
    metavar="N",
    help="Draw so many of each data set.  [default: all]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw.")
@threads_option
@device_options("auto")
@json_option
def command(
    model_path: str | None,
    dataset_paths: tuple[str, ...],
    output: str | None,
    max_sequences: int | None,
    seed: int,
    threads: int | None,
    device: str,
    matmul_precision: "Precision",
    as_json: bool,
) -> None:
    """Find out which weights matter for a data set, and store that in the model.

    Computes the Fisher diagonal (the mean squared gradient of each sequence) and takes the
    weights as the anchor. `train --ewc-lambda` then pulls each weight back to the anchor, the
    harder the more it matters.
    """
    from calmgrad.continual import set_fisher
    from calmgrad.starting import check_output, duration
    from calmgrad.trainer import Trainer

    source = Path(model_path or users_file("user.cwgt"))
    paths = [Path(path) for path in dataset_paths] or [users_file("train.ctds")]
    target = Path(output) if output is not None else source
    model = load_finite(source)
    l_max = model.config.l_max
    datasets = [load_kept(path, l_max, "measure") for path in paths]
    check_output(target, *map(str, paths))
    if max_sequences is not None:
        datasets = [dataset.sample(max_sequences, seed) for dataset in datasets]
    if model.fisher is not None:
        say("note     the Fisher data that the model has are replaced")
    began = time.perf_counter()
    with (
        usage_errors(),
        Trainer(
            model, threads=threads, device=device, matmul_precision=matmul_precision
        ) as trainer,
        progress("fisher", "sequences") as report,
    ):
        if trainer.device.index is not None:
            say(f"device   {trainer.told}")
        count = set_fisher(trainer, datasets, report)
        trainer.save(target)
    seconds = time.perf_counter() - began
    assert model.fisher is not None
    say(f"done     {count:,} sequences in {duration(seconds)}")
    again = f"calmgrad train -m {quote(str(target))} -d NEW.ctds"
    say(f"next     {again} --ewc-lambda 100 -o TUNED.cwgt")
    values = {
        "output": str(target),
        "sequences": count,
        "fisher_mean": float(model.fisher.mean(dtype="float64")),
        "fisher_max": float(model.fisher.max()),
        "without_effect": int((model.fisher == 0).sum()),
    }
    emit(values | ({"seconds": round(seconds, 3)} if as_json else {}), as_json)
