"""calmgrad demo"""

import json
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import json_option, say, threads_option
from calmgrad.cli.runs import StopSignal, say_stopped

if TYPE_CHECKING:
    from calmgrad.events import Result
    from calmgrad.model import Model

STEPS = 1800
LONGEST = 64  # tokens of a completion


@click.command("demo")
@click.option("--steps", type=click.IntRange(1), default=STEPS, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--save-dir", help="Where data and run go.  [default: runs/demo-N]")
@click.option("--force", is_flag=True, help="Use a folder that exists already.")
@threads_option
@json_option
def command(
    steps: int,
    seed: int,
    save_dir: str | None,
    force: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Train a small model for about a minute, and see what it has learnt.

    The data are shell sessions that calmgrad makes up: a user who edits, builds, tests and
    commits. The model sees folder, git state and last commands, and learns to complete the
    next one. Everything is seeded: the same steps give the same model.
    """
    from calmgrad import data, demo, rundir, training
    from calmgrad.cli.display import display

    directory = rundir.RunDirectory(save_dir, "demo", force)
    directory.close()  # the run itself takes it over
    folder = directory.path
    say("demo     making up shell sessions")
    parts = demo.demo_data(seed)
    paths = [folder / "train.ctds", folder / "validation.ctds"]
    for path, (sequences, positions) in zip(paths, parts, strict=True):
        data.write_dataset(path, sequences, positions)
    with StopSignal() as stop, display() as shown:
        result = training.train(
            model="new",
            size="nano",
            dataset=str(paths[0]),
            val_dataset=str(paths[1]),
            save_dir=str(folder),
            force=True,  # the data are in it already
            batch_size=16,  # many small, large steps: the most to be learnt in a minute
            lr=4e-3,
            warmup_steps=min(100, steps // 4),
            max_steps=steps,
            eval_every=max(1, -(-steps // 3)),
            seed=seed,
            log_every=max(1, steps // 12),
            threads=threads,
            on_start=shown.start,
            on_step=shown.step,
            on_eval=shown.evaluated,
            should_stop=lambda: stop.caught is not None,
        )
    if stop.caught is not None:
        say_stopped(result)
        if not result.steps:
            directory.discard()
    stop.leave_if_caught()
    assert result.before is not None
    assert result.best is not None
    completions = [
        dict(description=p.description, typed=p.typed, completion=complete(result.model, p.tokens))
        for p in demo.PROMPTS
    ]
    outcome = {
        "weights": str(result.weights[0]),
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "bits_per_byte_before": result.before.bits_per_byte,
        "bits_per_byte_after": result.best.bits_per_byte,
        "completions": completions,
    }
    if as_json:
        print(json.dumps(outcome))
        return
    say()
    tell(outcome, result)


def tell(outcome: dict[str, Any], result: "Result") -> None:
    """What has been learnt, in words, and what to do next."""
    from calmgrad.starting import duration

    print(f"trained {result.steps:,} steps in {duration(result.seconds)}")
    change = "{bits_per_byte_before:.2f} before, {bits_per_byte_after:.2f} after"
    print(f"validation: bits per byte {change.format(**outcome)}")
    for shown_one in outcome["completions"]:
        print("\n{description}\n  $ {typed}[{completion}]".format(**shown_one))
    weights = outcome["weights"]
    print(f"\nwrote {weights}")
    print(f"next: calmgrad plot {result.run_directory}")
    print(f"      calmgrad generate -m {weights} -i 'git c'")
    print(f"      calmgrad train -m {weights} -d YOUR.ctds")


def complete(network: "Model", prompt: list[int]) -> str:
    """The greedy completion of a prompt, up to the end of the command."""
    from calmgrad.tokenizer import decode

    tokens = network.generate(prompt, temperature=0, max_tokens=LONGEST)[0].tokens
    # EOS ends a completion; another special token ends the command too.
    end = next((i for i, token in enumerate(tokens) if token >= 256), len(tokens))
    return decode(tokens[:end])
