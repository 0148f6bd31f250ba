"""calmgrad verify-resume"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

import calmgrad
from calmgrad.cli.common import json_option, say, threads_option
from calmgrad.config import PRESETS
from calmgrad.errors import CalmgradError, CheckFailed

STEPS = 24
EVERY = 2  # steps between checkpoints
LEAST = 6 * EVERY  # then the newest checkpoint has one before it when the power is cut
COMPARED = ("model.cwgt", "metrics.jsonl")


@dataclass(frozen=True, slots=True)
class Leg:
    """One process of the interrupted run: how it ended, and which steps it made."""

    ended: str
    first_step: int
    last_step: int
    threads: int


@click.command("verify-resume")
@click.option("-m", "--model", type=click.Path(), help="As for train.")
@click.option("-s", "--size", type=click.Choice(list(PRESETS)), help="Of a new model.")
@click.option("-d", "--dataset", type=click.Path(), help="As for train.")
@click.option("--val-dataset", type=click.Path(), help="As for train.")
@click.option("--config", "config_path", type=click.Path(), help="Settings of the run to try.")
@click.option("--steps", type=click.IntRange(LEAST), default=STEPS, show_default=True)
@click.option("--save-dir", type=click.Path(), help="Where to try it.  [default: a new folder in"
              " the one for temporary files, removed at the end]")  # fmt: skip
@threads_option
@json_option
def command(
    config_path: str | None, steps: int, save_dir: str | None, as_json: bool, **flags: Any
) -> None:
    """Interrupt a run in four ways, and see that it ends with the same bytes.

    Trains twice on your data: once left alone; once ended by Ctrl-C, by kill -9, by a power cut
    (made up: the newest checkpoint is cut off) and by TERM, going on each time, the last time
    with another number of threads. Weights and metrics must be the same. Your model is not touched.
    """
    from calmgrad import settings

    sources = [settings.from_mapping(flags, flags=True), settings.environment()]
    if config_path is not None:
        sources.append(settings.read_config(config_path)[0])
    given = settings.to_dict(settings.merge(*sources))
    for key in ("force", "resume", "report_to", "epochs"):
        given.pop(key, None)
    with _place(save_dir) as folder:
        given |= dict(epochs=steps, max_steps=steps, checkpoint_every=EVERY, patience=0)
        given |= dict(output=str(folder / "finished.cwgt"))
        if "val_dataset" in given:
            given["eval_every"] = 3
        config = folder / "settings.toml"
        config.write_text(settings.to_toml(settings.from_mapping({**given, "save_dir": None})))
        alone = _leg(config, folder / "alone", None, 0, None)
        say(f"alone      {alone.last_step} steps, left alone")
        legs = list(_interrupted(config, folder / "interrupted", steps, alone.threads))
        differing = [
            name
            for name in COMPARED
            if (folder / "alone" / name).read_bytes()
            != (folder / "interrupted" / name).read_bytes()
        ]
    if as_json:
        print(json.dumps({"legs": [asdict(leg) for leg in legs], "differing": differing}))
    else:
        print(f"compared   {', '.join(COMPARED)}: {'different' if differing else 'the same bytes'}")
    if differing:
        raise CheckFailed(f"the interrupted run has left another {' and another '.join(differing)}")


@contextmanager
def _place(chosen: str | None) -> Iterator[Path]:
    if chosen is None:
        with tempfile.TemporaryDirectory(prefix="calmgrad-") as folder:
            yield Path(folder)
        return
    from calmgrad.rundir import RunDirectory

    directory = RunDirectory(chosen, "", force=False)
    try:
        yield directory.path
    finally:
        directory.close()


def _interrupted(config: Path, run: Path, steps: int, threads: int) -> Iterator[Leg]:
    """The run that is ended four times."""
    ends = [("Ctrl-C", signal.SIGINT), ("kill -9", signal.SIGKILL), ("power cut", signal.SIGKILL)]
    ends += [("TERM", signal.SIGTERM)]
    for number, (name, how) in enumerate(ends, 1):
        leg = _leg(config, run, how, number * steps // 6, None, name)
        if name == "power cut":
            _cut_power(run)
        yield _told(leg)
    yield _told(_leg(config, run, None, 0, threads + 1))


def _told(leg: Leg) -> Leg:
    say(f"{leg.ended:11}steps {leg.first_step} to {leg.last_step}, {leg.threads} thread(s)")
    return leg


def _leg(
    config: Path,
    run: Path,
    how: signal.Signals | None,
    after: int,
    threads: int | None,
    name: str = "end",
) -> Leg:
    """Run, or go on, in a process of its own, until a signal after a step or until the end."""
    command = [sys.executable, "-m", "calmgrad.cli", "train", "--config", str(config), "--json"]
    command += ["--save-dir", str(run), "--resume"]
    command += [] if threads is None else ["--threads", str(threads)]
    seen: list[int] = []
    log = run.parent / "talk"
    places = [str(Path(calmgrad.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    with (
        log.open("wb") as talk,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=talk, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            with_step = json.loads(line) if line.endswith("\n") else {}
            if with_step.get("event") == "step":
                seen.append(with_step["step"])
            if how is not None and seen and seen[-1] >= after and process.poll() is None:
                process.send_signal(how)
                if how == signal.SIGKILL:
                    break
                how = None
    said = log.read_text(errors="replace").strip()
    if process.returncode not in (0, 130, 143, -signal.SIGKILL) or not seen:
        last = said.splitlines()[-1:] or ["no message"]
        error = CalmgradError(f"the run to try: {last[0].removeprefix('error: ')}")
        error.exit_code = max(1, process.returncode)
        raise error
    memory = next(line for line in said.splitlines() if line.startswith("memory "))
    return Leg(name, seen[0], seen[-1], int(memory.rpartition(", ")[2].split()[0]))


def _cut_power(run: Path) -> None:
    """What a power cut may leave: the newest checkpoint and the last line of metrics cut off.

    No more of the metrics: what was written before a checkpoint is on the disk before it.
    """
    from calmgrad.formats import checkpoint as checkpoints

    newest = next(iter(checkpoints.steps_in(run / "checkpoints").values()))
    for path, lost in ((newest / checkpoints.TENSORS, 1000), (run / "metrics.jsonl", 20)):
        os.truncate(path, path.stat().st_size - lost)
