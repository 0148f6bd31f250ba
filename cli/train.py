"""calmgrad train"""

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
    key_of,
    say_stopped,
    setting_options,
    settings_of,
)
from calmgrad.config import PRESETS, RULES

if TYPE_CHECKING:
    from calmgrad.events import Result

PATH = click.Path()

# Every flag but --config, --json is a key of settings.TrainConfig.
_GROUPS: dict[str, list[Setting]] = {
    "model": [
        ("-m --model --init-cwgt", PATH, 'CWGT file to go on from, or "new".  [default: the user'
         " model; without one, new]"),
        ("-s --size --preset", click.Choice(list(PRESETS)), "Of a new model.  [default: nano]"),
        ("--d-model", int, "Width of a new model; the next ones likewise."),
        ("--n-layers", int, "Blocks, at most 16."),
        ("--ffn-expand", int, "Width of the feed-forward network / d_model."),
        ("--expand", int, "Channels of the mixer / d_model."),
        ("--d-state", int, "States of a channel."),
        ("--d-conv", int, "Taps of the convolution."),
        ("--dt-rank", int, "Rank of the step size.  [default: d_model / 16, rounded up]"),
        ("--l-max", int, "Longest sequence in tokens."),
        ("--domain", str, "shell, dictionary, prose, netref or another.  [default: shell]"),
        ("--template", str, "In place of the domain's or the model's."),
        ("--stop-conditions", str, "In place of the domain's or the model's."),
    ],
    "data and files": [
        ("-d --dataset", PATH, "CTDS file to train on.  [default: the user's train.ctds]"),
        ("--val-dataset", PATH, "CTDS file to validate on; the best weights are kept."),
        ("-o --output", PATH, "Where the weights go besides the run directory.  [default:"
         " the model's own path; none for a new model]"),
        ("--save-dir", PATH, "Run directory.  [default: runs/SIZE-N]"),
        ("--export", click.Choice(["best", "last"]), "Which weights a run ends with, if there is"
         " validation data.  [default: best]"),
    ],
    "checkpoints": [
        ("--resume", PATH, "Go on with a run: its directory, one of its checkpoints, or auto (also"
         " without a value): the newest with these settings; without any, a new run."),
        ("--checkpoint-every", int, "Steps; besides the checkpoint every minute."),
    ],
    "training": [
        ("-e --epochs", int, "[default: 10 for a new model, 3]"),
        ("-b --batch-size", int, "Sequences.  [default: the preset's for a new model, 8]"),
        ("--batch-tokens", int, "Bound a batch by its tokens instead."),
        ("--accumulation", int, "Batches to an update.  [default: 1]"),
        ("--lr", float, "[default: the preset's for a new model, 5e-5]"),
        ("--warmup-steps", int, "Above 0: warm-up, then cosine.  [default: the preset's for a new"
         " model, 0]"),
        ("--min-lr", float, "End of the cosine.  [default: 1e-6]"),
        ("--max-steps", int, "End the run, and its schedule, here."),
        ("--optimizer", click.Choice(["adam", "sgd"]), "[default: adam]"),
        ("--beta1", float, "[default: 0.9]"),
        ("--beta2", float, "[default: 0.999]"),
        ("--eps", float, "[default: 1e-8]"),
        ("--weight-decay", float, "[default: 0.01]"),
        ("--grad-clip", float, "Largest norm of the gradient; 0: off.  [default: 1]"),
        ("--ewc-lambda", float, "Strength of the EWC penalty.  [default: 0, off]"),
        ("--seed", int, "[default: 0]"),
        ("--rules", click.Choice(list(RULES)), "Whose answer counts where the existing trainers"
         " differ.  [default: c-engine]"),
    ],
    "validation and reports": [
        ("--eval-every", int, "Steps between validations.  [default: an epoch]"),
        ("--patience", int, "Stop after so many validations without a new best."),
        ("--log-every", int, "Steps between lines.  [default: about 40 lines]"),
        ("--report-to", click.Choice(["tensorboard"]), "Needs the extra of that name."),
    ],
    "machine": [
        ("--threads", int, "Shards worked on at once; results do not depend on it."
         "  [default: one a core]"),
        ("--device", DeviceName(), "auto: a GPU, if there is one that can be used.  [default:"
         " auto]"),
        ("--matmul-precision", PRECISIONS, "Of a GPU's products; tf32 and bf16 round their"
         " factors.  [default: float32]"),
        ("--shard-tokens", int, "Tokens a thread of the CPU works on at a time.  [default: 512]"),
    ],
}  # fmt: skip


class GroupedCommand(click.Command):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {p.name: p.get_help_record(ctx) for p in self.get_params(ctx)}
        for title, rows in _GROUPS.items():
            names = [key_of(flags) for flags, _, _ in rows]
            with formatter.section(title.capitalize()):
                formatter.write_dl([r for name in names if (r := records.pop(name, None))])
        with formatter.section("Others"):
            formatter.write_dl([r for r in records.values() if r])


@click.command("train", cls=GroupedCommand)
@setting_options(*_GROUPS.values(), bare={"resume": "auto"})
@click.option("--shuffle/--no-shuffle", default=None, help="[default: shuffle]")
@click.option("--debug-nan", is_flag=True, default=None, help="When loss or gradient are not"
              " finite, name the op, sequence and token where it began.")  # fmt: skip
@click.option("--force", is_flag=True, default=None, help="Use a run directory that exists.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(),
    help="TOML, or calm-train's YAML; flags go before it.",
)
@click.option("--json", "as_json", is_flag=True, help="Every event as a line of JSON.")
def command(config_path: str | None, as_json: bool, **flags: Any) -> None:
    """Train a model on a CTDS data set.

    A new model takes batch size, learning rate, warm-up and epochs of its size. An existing one
    is fine-tuned, and replaced at the end; its old file is kept once as .bak.
    """
    from calmgrad import training
    from calmgrad.cli.display import display

    given = {name: value for name, value in flags.items() if value is not None}
    if "report_to" in given:
        given["report_to"] = [given["report_to"]]
    config = settings_of(given, config_path)
    with StopSignal() as stop, display() as shown:
        result = training.train(
            config,
            on_start=shown.start,
            on_step=both(shown.step, json_event("step", as_json)),
            on_epoch=json_event("epoch", as_json),
            on_eval=both(shown.evaluated, json_event("evaluation", as_json)),
            should_stop=lambda: stop.caught is not None,
        )
    if as_json:
        print(json.dumps({"event": "end", **result.summary()}))
    _say_end(result)
    stop.leave_if_caught()


def _say_end(result: "Result") -> None:
    from calmgrad.formats.files import counted
    from calmgrad.starting import duration

    if not result.steps:
        say(STOPPED_EARLY)
        return
    loss = f"loss {result.first_loss:.4f} at first, {result.last_loss:.4f} at last"
    say(f"trained  {counted(result.steps, 'step')} in {duration(result.seconds)}: {loss}")
    if result.before is not None and result.best is not None:
        change = f"{result.before.loss:.4f} before, {result.best.loss:.4f} at its best"
        saved = "" if result.stopped == "signal" else "; saved"
        say(f"         validation loss {change} (step {result.best.step:,}{saved})")
    if result.stopped == "patience":
        say("         ended early: no new best validation for as long as patience allows")
    if result.stopped == "signal":
        say_stopped(result)
    say(f"look     calmgrad plot {quote(str(result.run_directory))}")
    say(f"next     calmgrad evaluate -m {quote(str(result.weights[0]))} -d DATA.ctds")
