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
    from calmgrad.explain import Story
    from calmgrad.explain.formulas import Direction
    from calmgrad.explain.story import OpStory
    from calmgrad.model import Model

BARS = "▁▂▃▄▅▆▇█"
BINS = 16  # of a histogram in a line
BESIDE = 30  # columns: where what belongs to a name begins


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
@click.option(
    "--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True
)
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
    if html_path is not None:
        from calmgrad.formats.files import check_writable

        not_over(html_path, [p for p in (model_path, dataset_path) if p is not None])
        check_writable(html_path)
    from calmgrad.explain import html_page, summary, tell_step

    model, model_name = chosen_model(model_path)
    with usage_errors():
        tokens, cmd_pos, source = chosen_sequence(dataset_path, sequence, text, raw, model)
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
        tell(story, about, wanted)


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
    path: str | None, number: int | None, text: str | None, raw: str | None, model: "Model"
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


# --- on the terminal ----------------------------------------------------------------------------


class Teller:
    """Prints lines: with colours on a terminal, plain into a pipe, never cut or wrapped there."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, markup=False, emoji=False)

    def line(self, text: str = "", style: str | None = None) -> None:
        self.console.print(one_line(text), style=style, soft_wrap=True)

    def named(self, name: str, text: str) -> None:
        """A dim word in front, then what it says."""
        from rich.text import Text

        line = Text("    ").append(f"{name:<10}", style="dim").append(one_line(text))
        self.console.print(line, soft_wrap=True)


def tell(story: "Story", about: dict[str, str], wanted: str | None) -> None:
    """The story, from the first op to the update."""
    teller = Teller()
    targets = len(story.rows)
    teller.line(f"{about['model']}; {about['data']}", "dim")
    teller.line(f"{len(story.tokens)} tokens, {targets} to predict; loss {story.loss:.4f} nats")
    told = [op for op in story.ops if wanted is None or wanted in op.name]
    if not told:
        names = ", ".join(op.name for op in story.ops[:4])
        raise UsageError(f"--op {wanted!r}: no op has this in its name; there are {names}, …")
    seen: dict[str, str] = {}
    for op in told:
        tell_op(teller, story, op, seen)
    if wanted is None:
        tell_gradients(teller, story)
        tell_losses(teller, story)


def tell_op(teller: Teller, story: "Story", op: "OpStory", seen: dict[str, str]) -> None:
    from calmgrad.explain.formulas import formula_of

    formula = formula_of(op.op)
    number = next(i for i, each in enumerate(story.ops, 1) if each is op)
    teller.line()
    layer = "" if op.layer is None else f"block {op.layer}, "
    shape = " x ".join(map(str, op.value.shape))
    title = f"{number:>2}  {op.name}"
    teller.line(f"{title:<{BESIDE + 10}} {op.op}  ({layer}{op.room})  -> {shape}", "bold")
    for symbol, given in op.inputs.items():
        columns = f"[:, {given.columns[0]}:{given.columns[1]}]" if given.columns else ""
        teller.named("reads", f"{symbol} = {given.name}{columns}")
    before = seen.get(op.op)
    if before is None:
        seen[op.op] = op.name
        tell_formula(teller, "forward", formula.forward)
        tell_formula(teller, "backward", formula.backward)
    else:
        teller.named("formulas", f"as those of {before}")
    teller.named("value", numbers(op.value))
    teller.named("gradient", numbers(op.gradient))
    teller.named("time", f"{op.forward * 1e6:.0f} us forward, {op.backward * 1e6:.0f} us backward")


def tell_formula(teller: Teller, name: str, direction: "Direction") -> None:
    if direction.given:
        teller.named(name, direction.given.replace("`", ""))
        name = ""
    for line in direction.lines:
        teller.named(name, line)
        name = ""


def numbers(array: Any) -> str:
    """`▁▂█▃▁  mean 0.01  std 0.30  min -1.2  max 0.9`, all of an array."""
    import numpy as np

    wide = np.asarray(array, np.float64).ravel()
    counts, _ = np.histogram(wide, BINS)
    top = int(counts.max()) or 1
    bars = "".join(" " if n == 0 else BARS[min(7, int(8 * (n / top) ** 0.5))] for n in counts)
    parts = {"mean": wide.mean(), "std": wide.std(), "min": wide.min(), "max": wide.max()}
    return f"{bars}  " + "  ".join(f"{k} {v:<9.3g}" for k, v in parts.items()).rstrip()


def tell_gradients(teller: Teller, story: "Story") -> None:
    """Norms, the clip, and what the optimizer did."""
    import numpy as np

    from calmgrad.explain.formulas import update_formula

    teller.line()
    teller.line("gradients and update", "bold")
    width = max(len(p.name) for p in story.parameters)
    head = f"{'parameter':<{width}}  {'gradient':>9}  {'value':>9}  {'update':>9}"
    teller.line(f"    {head}  L2 norms", "dim")
    for p in story.parameters:
        norms = [
            float(np.linalg.norm(a.astype(np.float64))) for a in (p.gradient, p.value, p.change)
        ]
        teller.line(f"    {p.name:<{width}}  " + "  ".join(f"{norm:>9.3g}" for norm in norms))
    clipped = f"multiplied by {story.clip:.3g}" if story.clip < 1 else "not clipped"
    teller.line(f"    norm of the whole gradient {story.grad_norm:.4g}, {clipped}")
    name, direction = update_formula(story.optimizer)
    teller.line()
    teller.line(f"    {name}, lr {story.lr:g}, weight decay {story.weight_decay:g}")
    tell_formula(teller, "", direction)
    teller.line()
    teller.line("    the largest changes", "dim")
    for c in story.changes():
        place = f"{c.parameter}[{', '.join(map(str, c.index))}]"
        moved = f"{c.before:>10.4f} {c.change:+.3e}"
        teller.line(f"    {place:<{width + 10}} {moved}   gradient {c.gradient:.3g}")


def tell_losses(teller: Teller, story: "Story") -> None:
    """The targets, each with its loss and a bar."""
    teller.line()
    prompt = "".join(t.label for t in story.tokens if t.loss is None)
    teller.line("loss of each token, in nats", "bold")
    if prompt:
        teller.named("prompt", prompt)
    top = max(t.loss for t in story.tokens if t.loss is not None) or 1.0
    for position, t in enumerate(story.tokens):
        if t.loss is not None:
            bar = "█" * round(32 * t.loss / top)
            teller.line(f"    {position:>4}  {t.label:<6} {t.loss:>8.4f}  {bar}")
