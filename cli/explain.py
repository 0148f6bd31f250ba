"""calmgrad explain"""

import json
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import (
    data_folder,
    emit,
    json_option,
    load_finite,
    not_over,
    one_line,
    say,
    size_name,
)
from calmgrad.errors import UsageError, usage_errors

if TYPE_CHECKING:
    from calmgrad.model import Model


@click.command("explain")
@click.option(
    "-m",
    "--model",
    "model_path",
    type=click.Path(),
    help="CWGT file, or `new`.  [default: the user model; a new nano if there is none]",
)
@click.option(
    "-d",
    "--dataset",
    "dataset_path",
    type=click.Path(),
    help="CTDS file.  [default: the user's train.ctds; an invented shell session without it]",
)
@click.option(
    "--sequence", type=click.IntRange(0), help="Which of its sequences, from 0.  [default: 0]"
)
@click.option("--text", help="Instead of a data set: BOS, this text, EOS.")
@click.option("-r", "--raw", help="Instead of a data set: tokens, <NAME> and <:ID:> in it.")
@click.option("--lr", type=click.FloatRange(0), default=1e-3, show_default=True)
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option("--weight-decay", type=click.FloatRange(0), default=0.01, show_default=True)
@click.option(
    "--grad-clip", type=click.FloatRange(0), default=1.0, show_default=True, help="0: off."
)
@click.option("--op", "wanted", metavar="TEXT", help="Tell only the ops with this in their name.")
@click.option("--html", "html_path", type=click.Path(), help="Write a page instead of telling it.")
@click.option(
    "--channel",
    "channels",
    type=click.IntRange(0),
    multiple=True,
    help="On the page: show these channels of the scans.  [default: the 8 that matter most]",
)
@json_option
def command(
    model_path: str | None,
    dataset_path: str | None,
    sequence: int | None,
    text: str | None,
    raw: str | None,
    wanted: str | None,
    html_path: str | None,
    channels: tuple[int, ...],
    as_json: bool,
    **update: Any,
) -> None:
    """A training step on one sequence, told op by op.

    The step is made on a copy: no file is changed. For each op: what it reads, its formula, its
    values and gradient as histogram, mean, standard deviation, least and largest, and its time;
    then the gradients, the update, and the loss of each token.
    """
    if sum(x is not None for x in (dataset_path, text, raw)) > 1:
        raise UsageError("--dataset, --text and --raw exclude each other")
    if sequence is not None and (text is not None or raw is not None):
        raise UsageError("--sequence goes with --dataset")
    if wanted is not None and (as_json or html_path is not None):
        raise UsageError("--op goes without --json and --html")
    if html_path is not None:
        from calmgrad.formats.files import check_writable

        not_over(html_path, [p for p in (model_path, dataset_path) if p is not None])
        check_writable(html_path)
    from calmgrad.explain import html_page, summary, tell, tell_step

    model, model_name = chosen_model(model_path)
    with usage_errors():
        tokens, cmd_pos, source = chosen_sequence(dataset_path, sequence, text, raw)
        story = tell_step(model, tokens, cmd_pos, channels=channels, **update)
    about = {"model": model_name, "data": source}
    if html_path is not None:
        from calmgrad.formats.files import write_atomic

        page = html_page(story, about).encode()
        write_atomic(html_path, [page])
        written = {"html": html_path, "bytes": len(page)}
    if as_json:
        print(json.dumps({**about, **(written if html_path else {}), **summary(story)}))
    elif html_path is not None:
        emit(written | {"loss": story.loss, "grad_norm": story.grad_norm}, False)
    else:
        from rich.console import Console

        console = Console(highlight=False, markup=False, emoji=False)
        tell(console, story, {name: one_line(value) for name, value in about.items()}, wanted)


def chosen_model(path: str | None) -> tuple["Model", str]:
    """The model, and what to call it."""
    from calmgrad.model import new_model

    user = data_folder() / "user.cwgt"
    if path == "new" or (path is None and not user.exists()):
        if path is None:
            say(f"model    a new nano (none given, and none at {user})")
        return new_model("nano"), "a new nano"
    model = load_finite(path or user)
    size = size_name(model.config)
    return model, f"{path or user} ({size})"


def chosen_sequence(
    path: str | None, number: int | None, text: str | None, raw: str | None
) -> tuple[list[int], int, str]:
    """The tokens, the position of ATN, and where they are from."""
    from calmgrad.tokenizer import ATN, BOS, EOS, encode, encode_raw

    if text is not None:
        return [BOS, *encode(text), EOS], 0, "a text"
    if raw is not None:
        tokens = encode_raw(raw)
        return tokens, tokens.index(ATN) if ATN in tokens else 0, "a text of tokens"
    user = data_folder() / "train.ctds"
    if path is None and not user.exists():
        from calmgrad.demo import sessions

        number = number or 0
        if number >= 1000:
            raise ValueError(f"sequence {number}: expected at most 999 without a data set")
        say(f"data     an invented shell session (none given, and none at {user})")
        sequences, positions = sessions(number + 1, 0)
        return sequences[number], positions[number], f"an invented shell session, {number}"
    from calmgrad.data import load_dataset

    dataset = load_dataset(path or user)
    number = number or 0
    if number >= len(dataset):
        raise ValueError(f"sequence {number}: expected 0 to {len(dataset) - 1}")
    sequence, position = dataset[number]
    return sequence.tolist(), position, f"{path or user}, sequence {number}"
