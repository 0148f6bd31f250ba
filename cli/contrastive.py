"""calmgrad contrastive"""

import json
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import PRECISIONS, DeviceName, say
from calmgrad.cli.runs import (
    STOPPED_EARLY,
    Setting,
    StopSignal,
    both,
    json_event,
    say_stopped,
    setting_options,
    settings_of,
)
from calmgrad.config import PRESETS

if TYPE_CHECKING:
    from calmgrad.contrastive.events import Result

PATH = click.Path()

# Every one is a key of settings.TrainConfig; the first long flag names it.
_SETTINGS: list[Setting] = [
    ("--dataset -p --pairs", PATH, "Pair file to train on."),
    ("--val-dataset --val-pairs", PATH, "Pair file to validate on; the best weights are kept."),
    ("-m --model --init-cwgt", PATH, 'CWGT file to go on from, or "new".  [default: new]'),
    ("-s --size --preset", click.Choice(list(PRESETS)), "Of a new model.  [default: nano]"),
    ("--domain", str, "[default: the model's own; netref]"),
    ("--template", str, "In place of the domain's or the model's."),
    ("--stop-conditions", str, "In place of the domain's or the model's."),
    ("-o --output", PATH, "Where the weights go besides the run directory."),
    ("--save-dir", PATH, "Run directory.  [default: runs/contrastive-N]"),
    ("-e --epochs", int, "[default: 10 for a new model, 5]"),
    ("-b --batch-size", int, "Pairs.  [default: the preset's for a new model, 16]"),
    ("--lr", float, "[default: the preset's for a new model, 1e-4]"),
    ("--warmup-steps", int, "Above 0: warm-up, then cosine.  [default: the preset's for a new"
     " model, 0]"),
    ("--min-lr", float, "End of the cosine.  [default: 1e-6]"),
    ("--max-steps", int, "End the run, and its schedule, here."),
    ("--weight-decay", float, "[default: 0.01]"),
    ("--grad-clip", float, "Largest norm of the gradient; 0: off.  [default: 1]"),
    ("--rules", click.Choice(["c-engine", "calm-mamba"]), "calm-mamba: its warm-up from step 0, and"
     " no update of a single pair.  [default: c-engine]"),
    ("--seed", int, "[default: 0]"),
    ("--eval-every", int, "Steps between validations.  [default: an epoch]"),
    ("--checkpoint-every", int, "Steps between checkpoints.  [default: a minute or so]"),
    ("--resume", PATH, "Go on with a run: its directory, or one of its checkpoints."),
    ("--patience", int, "Stop after so many validations (without pairs for these: epochs)"
     " without a new best; 0: never.  [default: 5]"),
    ("--log-every", int, "Steps between lines.  [default: about 40 lines]"),
    ("--threads", int, "Shards worked on at once; results do not depend on it."
     "  [default: one a core]"),
    ("--device", DeviceName(), "auto: a GPU, if there is one that can be used.  [default: auto]"),
    ("--matmul-precision", PRECISIONS, "Of a GPU's products; tf32 and bf16 round their factors."
     "  [default: float32]"),
]  # fmt: skip


@click.command("contrastive")
@setting_options(_SETTINGS)
@click.option("--temperature", type=float, help="Of the loss's softmax.  [default: 0.07]")
@click.option(
    "--pool-mode",
    type=click.Choice(["mean", "last"]),
    help="What of a sequence becomes its embedding.  [default: mean]",
)
@click.option("--shuffle/--no-shuffle", default=None, help="[default: shuffle]")
@click.option("--force", is_flag=True, default=None, help="Use a run directory that exists.")
@click.option("--strict", is_flag=True, help="Refuse a pair file with anything odd in it.")
@click.option(
    "--config",
    "config_path",
    type=PATH,
    help="TOML, or calm-train's YAML; flags go before it.",
)
@click.option("--json", "as_json", is_flag=True, help="Every event as a line of JSON.")
def command(
    temperature: float | None,
    pool_mode: str | None,
    strict: bool,
    config_path: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a model on pairs of a query and the passage that answers it.

    Afterwards a query's embedding is near that of its passage, and far from those of others. The
    weights go to the run directory, and where -o says; the model that it began with stays as it is.
    """
    from calmgrad import contrastive
    from calmgrad.cli.display import display

    given = {name: value for name, value in flags.items() if value is not None}
    config = settings_of(given, config_path)
    with StopSignal() as stop, display("contrastive") as shown:
        result = contrastive.train_contrastive(
            config,
            temperature=temperature,
            pool=pool_mode,
            strict=strict,
            on_start=shown.start,  # type: ignore[arg-type]
            on_step=both(shown.step, json_event("step", as_json)),
            on_eval=both(shown.evaluated, json_event("evaluation", as_json)),
            should_stop=lambda: stop.caught is not None,
        )
    if as_json:
        print(json.dumps({"event": "end", **result.summary()}))
    _say_end(result)
    stop.leave_if_caught()


def _say_end(result: "Result") -> None:
    from calmgrad.formats.files import counted
    from calmgrad.retrieval import figures
    from calmgrad.starting import duration

    if not result.steps:
        say(STOPPED_EARLY)
        return
    loss = f"loss {result.first_loss:.4f} at first, {result.last_loss:.4f} at last"
    say(f"trained  {counted(result.steps, 'step')} in {duration(result.seconds)}: {loss}")
    if result.before is not None and result.best is not None:
        say(f"         before: {figures(result.before.found)}")
        saved = "" if result.stopped == "signal" else "; these weights are saved"
        say(f"         best:   {figures(result.best.found)} (step {result.best.step:,}{saved})")
    if result.stopped == "patience":
        say("         ended early: nothing better for as long as patience allows")
    if result.stopped == "signal":
        say_stopped(result, "contrastive")
    say(f"look     calmgrad plot {quote(str(result.run_directory))}")
    say(f"next     calmgrad embed -m {quote(str(result.weights[0]))} TEXT -o TEXT.index")
