"""A step told on the terminal: op by op, then the gradients, the update, and the losses."""

import textwrap
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from calmgrad.errors import UsageError
from calmgrad.explain.formulas import Direction, formula_of
from calmgrad.explain.story import OpStory, Story, TokenStory
from calmgrad.explain.update import UPDATE_NOTES, update_formula
from calmgrad.tokenizer import PAD

BARS = "▁▂▃▄▅▆▇█"
BINS = 16  # of a histogram in a line
WIDTH = 88  # of a paragraph
BESIDE = 40  # columns: where what belongs to a name begins


class _Teller:
    """Prints lines: with colours on a terminal, plain into a pipe, and never cut."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def line(self, text: str = "", style: str | None = None) -> None:
        self.console.print(text, style=style, soft_wrap=True)

    def named(self, name: str, text: str, bars: str = "") -> None:
        """A dim word in front, then what it says; `bars` is the colour of a histogram in front."""
        said = Text(text)
        said.stylize(bars, 0, BINS)
        line = Text("    ").append(f"{name:<10}", style="dim").append(said)
        self.console.print(line, soft_wrap=True)


def tell(
    console: Console, story: Story, about: Mapping[str, str], wanted: str | None = None
) -> None:
    """Print the story, from the first op to the losses.

    Args:
        about: of what it is told, name -> text; they must be fit to print.
        wanted: only the ops with this in their name.

    Raises:
        UsageError: no op has it.
    """
    told = [op for op in story.ops if wanted is None or wanted in op.name]
    if not told:
        names = ", ".join(op.name for op in story.ops[:4])
        raise UsageError(f"--op {wanted!r}: no op has this in its name; there are {names}, …")
    teller = _Teller(console)
    teller.line("; ".join(about.values()), "dim")
    targets = len(story.rows)
    teller.line(f"{len(story.tokens)} tokens, {targets} to predict; loss {story.loss:.4f} nats")
    seen: dict[str, str] = {}
    for op in told:
        _op(teller, story, op, seen)
    if wanted is None:
        _gradients(teller, story)
        _losses(teller, story)


def _op(teller: _Teller, story: Story, op: OpStory, seen: dict[str, str]) -> None:
    formula = formula_of(op.op)
    number = next(i for i, each in enumerate(story.ops, 1) if each is op)
    teller.line()
    layer = "" if op.layer is None else f"block {op.layer}, "
    shape = " x ".join(map(str, op.value.shape))
    title = f"{number:>2}  {op.name}"
    teller.line(f"{title:<{BESIDE}} {op.op}  ({layer}{op.room})  -> {shape}", "bold")
    for symbol, given in op.inputs.items():
        columns = f"[:, {given.columns[0]}:{given.columns[1]}]" if given.columns else ""
        teller.named("reads", f"{symbol} = {given.name}{columns}")
    if op.output != op.name:
        teller.named("makes", op.output)
    before = seen.get(op.op)
    if before is None:
        seen[op.op] = op.name
        _formula(teller, "forward", formula.forward)
        _formula(teller, "backward", formula.backward)
    else:
        teller.named("formulas", f"as those of {before}")
    teller.named("value", _numbers(op.value), "cyan")
    teller.named("gradient", _numbers(op.gradient), "yellow")
    teller.named("time", f"{op.forward * 1e6:.0f} us forward, {op.backward * 1e6:.0f} us backward")


def _formula(teller: _Teller, name: str, direction: Direction) -> None:
    if direction.given:
        teller.named(name, direction.given.replace("`", ""))
        name = ""
    for line in direction.lines:
        teller.named(name, line)
        name = ""


def _numbers(array: NDArray[np.float32]) -> str:
    """`▁▂█▃▁  mean 0.01  std 0.30  min -1.2  max 0.9`, all of an array."""

    wide = np.asarray(array, np.float64).ravel()
    counts, _ = np.histogram(wide, BINS)
    top = int(counts.max()) or 1
    bars = "".join(" " if n == 0 else BARS[min(7, int(8 * (n / top) ** 0.5))] for n in counts)
    parts = {"mean": wide.mean(), "std": wide.std(), "min": wide.min(), "max": wide.max()}
    return f"{bars}  " + "  ".join(f"{k} {v:<9.3g}" for k, v in parts.items()).rstrip()


def _gradients(teller: _Teller, story: Story) -> None:
    """Norms, the clip, and what the optimizer did."""

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
    _formula(teller, "", direction)
    teller.line()
    for line in textwrap.wrap(UPDATE_NOTES[story.optimizer], WIDTH):
        teller.line(f"    {line}")
    teller.line()
    teller.line("    the largest changes", "dim")
    for c in story.changes():
        place = f"{c.parameter}[{', '.join(map(str, c.index))}]"
        moved = f"{c.before:>10.4f} {c.change:+.3e}"
        teller.line(f"    {place:<{width + 10}} {moved}   gradient {c.gradient:.3g}")


def _losses(teller: _Teller, story: Story) -> None:
    """The targets, each with its loss and a bar."""
    teller.line()
    prompt = "".join(_label(t) for t in story.tokens if t.loss is None)
    teller.line("loss of each token, in nats", "bold")
    if prompt:
        teller.named("prompt", prompt)
    top = max(t.loss for t in story.tokens if t.loss is not None) or 1.0
    for position, t in enumerate(story.tokens):
        if t.loss is not None:
            bar = "█" * round(32 * t.loss / top)
            teller.line(f"    {position:>4}  {_label(t):<7} {t.loss:>8.4f}  {bar}")


def _label(token: TokenStory) -> str:
    return f"<{token.label}>" if token.token >= PAD else token.label
