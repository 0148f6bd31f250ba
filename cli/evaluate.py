"""calmgrad evaluate"""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import (
    device_options,
    emit,
    json_option,
    load_finite,
    load_kept,
    model_option,
    one_line,
    threads_option,
    to_device,
    users_file,
)
from calmgrad.cli.evaluate_several import report
from calmgrad.errors import UsageError, usage_errors

if TYPE_CHECKING:
    from calmgrad.data import Dataset
    from calmgrad.kernels.cuda.device import Precision
    from calmgrad.model import Model

TEXT_WIDTH = 72  # characters of a sequence that are shown


@click.command("evaluate")
@model_option
@click.option(
    "-d",
    "--dataset",
    "dataset_paths",
    type=click.Path(),
    multiple=True,
    help="CTDS file; may be given several times.  [default: the user's train.ctds]",
)
@click.option(
    "--before",
    "before_path",
    type=click.Path(),
    help="CWGT file of the model before training: report what was learned and what forgotten.",
)
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Also list the N sequences with the highest loss.",
)
@click.option("--completion", is_flag=True, help="Score greedy completions instead of losses.")
@click.option(
    "--typed",
    type=click.IntRange(0),
    metavar="K",
    help="Completion: characters of a command that are there.  [default: 3]",
)
@click.option(
    "--first",
    type=click.IntRange(1),
    metavar="N",
    help="Completion: characters that have to be right at least.  [default: 5]",
)
@click.option(
    "--commands",
    type=click.IntRange(0),
    metavar="N",
    help="Completion: so many, spread over the file; 0: all.  [default: 1000]",
)
@click.option(
    "--pairs",
    type=click.Path(),
    help="Instead of a data set: how well embeddings find the passages of this pair file.",
)
@click.option(
    "--pool-mode",
    type=click.Choice(["mean", "last"]),
    default="mean",
    show_default=True,
    help="With --pairs: what of a sequence becomes its embedding.",
)
@threads_option
@device_options("cpu")
@json_option
def command(
    model_path: str | None,
    dataset_paths: tuple[str, ...],
    before_path: str | None,
    worst: int,
    completion: bool,
    typed: int | None,
    first: int | None,
    commands: int | None,
    pairs: str | None,
    pool_mode: str,
    threads: int | None,
    device: str,
    matmul_precision: "Precision",
    as_json: bool,
) -> None:
    """Loss of a model on a data set, how much typing its completions save, or what it finds.

    Losses are in nats: mean, min and max of the sequences' means, then over all targets. Bits
    per byte count the targets that are bytes.

    With --completion: shares of the commands whose completion is right, whole or in its first
    characters, after K characters; share of the keys saved if the first right completion is
    accepted with one key; and the time a completion takes, in milliseconds, on one thread.

    With --pairs: the share of queries whose passage is first, among the first 5 and 10, and the
    mean of 1 / its rank.
    """
    choices = {"typed": typed, "first": first, "commands": commands}
    given = {name: value for name, value in choices.items() if value is not None}
    if given and not completion:
        raise UsageError(f"--{next(iter(given))} goes with --completion")
    if completion and worst:
        raise UsageError("--worst does not go with --completion")
    if completion and device != "cpu":
        raise UsageError("--device does not go with --completion, which runs on the CPU")

    from calmgrad.suggestions import score

    model = to_device(load_finite(model_path or users_file("user.cwgt")), device, matmul_precision)
    paths = list(dataset_paths) or [str(users_file("train.ctds"))]
    if pairs is not None:
        if dataset_paths or before_path or worst or completion:
            raise UsageError("--pairs goes without --dataset, --before, --worst and --completion")
        emit(of_pairs(model, pairs, pool_mode, threads), as_json)
        return
    if len(paths) > 1 or before_path is not None:
        if worst or completion:
            raise UsageError(
                "--worst and --completion: only with one data set and without --before"
            )
        before = None
        if before_path is not None:
            before = to_device(load_finite(before_path), device, matmul_precision)
        report(model, before, paths, threads, as_json)
        return
    dataset = load_kept(paths[0], model.config.l_max, "evaluate")
    if completion:
        with usage_errors():
            emit(asdict(score(model, dataset, **given)), as_json)
        return
    of_one(model, dataset, worst, threads, as_json)


def of_one(
    model: "Model", dataset: "Dataset", worst: int, threads: int | None, as_json: bool
) -> None:
    """The losses on one data set, and the `worst` sequences."""
    from calmgrad.evaluation import evaluate

    losses: dict[int, float] = {}
    with usage_errors():
        result = asdict(evaluate(model, dataset, threads, losses.__setitem__ if worst else None))
    rows = worst_rows(dataset, losses, worst)
    if as_json:
        emit({**result, "worst": rows} if worst else result, True)
        return
    emit(result, False)
    if rows:
        width = max(len("sequence"), len(f"{max(row['index'] for row in rows):,}"))
        print(f"\n{'sequence':>{width}}  {'loss':>8}  text")
        for row in rows:
            print(f"{row['index']:>{width},}  {row['loss']:>8.4f}  {row['text']}")


def of_pairs(model: "Model", path: str, pool: str, threads: int | None) -> dict[str, Any]:
    """Recall and mean reciprocal rank, each query against all passages of the file."""
    from calmgrad.retrieval import evaluate_pairs, load_pairs

    loaded = load_pairs(path, model.config.l_max)
    with model.runner(threads) as runner:
        return asdict(evaluate_pairs(loaded, len(loaded), 0.07, pool, runner)[1])


def worst_rows(dataset: "Dataset", losses: dict[int, float], count: int) -> list[dict[str, Any]]:
    """The `count` highest losses: position in the file from 0, loss, shortened text.

    Of equal losses the first in the file comes first; not a number counts as highest.
    """

    def rank(index: int) -> tuple[float, int]:
        return (-math.inf if math.isnan(losses[index]) else -losses[index], index)

    sequences = dataset.sequences
    rows = []
    for index in sorted(losses, key=rank)[:count]:
        start, stop = sequences.offsets[index : index + 2]
        text = shown_text(sequences.tokens[start:stop].tolist())
        rows.append({"index": index, "loss": losses[index], "text": text})
    return rows


def shown_text(tokens: list[int]) -> str:
    """Tokens as one line a terminal can print; the middle of a long one is left out.

    The end is kept the longer: there are the targets.
    """
    from calmgrad.tokenizer import decode

    text = decode(tokens, special=True)
    line = one_line(text)
    head = TEXT_WIDTH // 4
    return line if len(line) <= TEXT_WIDTH else f"{line[:head]}…{line[head + 1 - TEXT_WIDTH :]}"
