"""calmgrad demo"""

import time
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import data_line, say, threads_option
from calmgrad.cli.train import Progress, RunDirectory, StopSignal, describe
from calmgrad.config import PRESETS, RULES

if TYPE_CHECKING:
    from calmgrad.model import Model

STEPS = 1200
LONGEST = 64  # tokens of a completion


@click.command("demo")
@click.option("--steps", type=click.IntRange(1), default=STEPS, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--save-dir", help="Run directory.  [default: runs/demo-N]")
@click.option("--force", is_flag=True, help="Use a run directory that exists already.")
@threads_option
def command(steps: int, seed: int, save_dir: str | None, force: bool, threads: int | None) -> None:
    """Train a small model for about a minute, and see what it has learnt.

    The data are shell sessions that calmgrad makes up: a user who edits, builds, tests and
    commits. The model sees folder, git state and last commands, and learns to complete the
    next one. Everything is seeded: the same steps give the same model.
    """
    from calmgrad import data, demo, evaluation, loop, model, trainer

    run = RunDirectory(save_dir, "demo", force)
    say("data     making up shell sessions")
    parts = demo.demo_data(seed)
    kept = {}
    for name, (sequences, positions) in zip(("train", "validation"), parts, strict=True):
        path = run.path / f"{name}.ctds"
        data.write_dataset(path, sequences, positions)
        kept[name] = data.load_dataset(path)
        say(data_line(path, kept[name]))
    preset = PRESETS["nano"]
    network = model.new_model("nano", seed=seed, domain="shell")
    say(f"model    new: {describe(network)}")
    say("kernels  compiling for this CPU if that has not been done yet (once, about 20 s)")
    before = evaluation.evaluate(network, kept["validation"], threads)
    plan = loop.Plan(
        epochs=1 + steps * preset.batch_size // len(kept["train"]),
        batch_size=preset.batch_size,
        lr=2 * preset.lr,  # a short run can take larger steps
        warmup_steps=min(preset.warmup_steps, steps // 4),
        max_steps=steps,
        seed=seed,
    )
    teacher = trainer.Trainer(network, lr=plan.lr, threads=threads)
    began = time.perf_counter()
    with StopSignal() as stop:
        progress = Progress(max(1, steps // 12))
        rules = RULES["c-engine"]
        loop.fit(teacher, kept["train"], plan, rules, progress, lambda: stop.caught is not None)
    seconds = time.perf_counter() - began
    path = run.path / "model.cwgt"
    teacher.save(path)
    teacher.close()
    stop.leave_if_caught(f"the weights so far are in {path}")
    after = evaluation.evaluate(network, kept["validation"], threads)
    say()
    print(f"trained {steps} steps in {seconds:.0f} s")
    change = f"{before.bits_per_byte:.2f} before, {after.bits_per_byte:.2f} after"
    print(f"validation: bits per byte {change}")
    for prompt in demo.PROMPTS:
        print(f"\n{prompt.description}\n  $ {prompt.typed}[{complete(network, prompt.tokens)}]")
    print(f"\nwrote {path}")
    print(f"next: calmgrad info {path}")
    print(f"      calmgrad train -m {path} -d YOUR.ctds")


def complete(network: "Model", prompt: list[int]) -> str:
    """The greedy completion of a prompt, up to the end of the command."""
    from calmgrad.tokenizer import decode

    tokens: list[Any] = list(prompt)
    while len(tokens) < min(len(prompt) + LONGEST, network.config.l_max):
        best = int(network.logits(tokens)[-1].argmax())
        if best >= 256:  # EOS or another special token: the command ends here
            break
        tokens.append(best)
    return decode(tokens[len(prompt) :])
