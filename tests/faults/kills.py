"""End runs with kill -9 at random moments, go on, compare every byte.

    python -m tests.faults.kills --count 500
    python -m tests.faults.kills --count 60 --command 1     through the command line

A run is a process of its own: forked from this one, which has the kernels loaded, or with
`--command 1` a fresh `calmgrad train`. Each is killed, again and again, until it comes to its
end. It saves after every third step. Every second kill comes at a random operation on the disk
instead of a random moment (not with `--command 1`), so that it meets the run while it is saving.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calmgrad.cli.runs import SIGNALS, StopSignal
from calmgrad.settings import from_mapping, to_toml
from tests.faults.report import main
from tests.faults.runs import KEYS, Outcome, newest_whole, reference, train
from tests.faults.seam import Act, operations

ROOT = Path(__file__).parents[2]
EVERY = 3  # steps


def start(run: Path, command: bool, kill_at: int | None = None) -> int:
    """The run as a process that goes on from where it is; its id.

    Args:
        command: through the command line.
        kill_at: it kills itself at this operation on the disk, counted from the start.
    """
    if command:
        arguments = ["--config", "run.toml", "--save-dir", str(run), "--resume"]
        process = subprocess.Popen(
            [sys.executable, "-m", "calmgrad.cli", "train", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return process.pid
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:  # nothing of the parent's may run in here
        sys.stderr = open(os.devnull, "w")
        with StopSignal() as stop, operations(killing_at(kill_at)):
            train(run, resume="auto", checkpoint_every=EVERY,
                  should_stop=lambda: stop.caught is not None)  # fmt: skip
        code = 0 if stop.caught is None else SIGNALS[stop.caught]
    except KeyboardInterrupt:  # before anybody listened
        code = 130
    except SystemExit as leaving:  # a second signal
        code = int(leaving.code or 0)
    finally:
        os._exit(code)


def killing_at(number: int | None) -> Act:
    """Lets every operation through, and kills the process at one."""

    def act(count: int, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    return act


def write_settings() -> None:
    """`run.toml`, for the command line."""
    Path("run.toml").write_text(to_toml(from_mapping({**KEYS, "checkpoint_every": EVERY})))


def was_saving(run: Path) -> bool:
    """Whether an end came while a checkpoint was being written, put in its place or removed."""
    return any(path.suffix in (".tmp", ".old") for path in (run / "checkpoints").iterdir())


def duration_of_a_run(command: bool) -> float:
    """Seconds from start to end."""
    began = time.perf_counter()
    _, status = os.waitpid(start(Path("timed"), command), 0)
    assert status == 0, status
    return time.perf_counter() - began


def check(folder: Path, count: int = 500, seed: int = 0, command: int = 0) -> dict[str, Any]:
    """Kill runs `count` times at random moments."""
    chance = random.Random(seed)
    expected = reference(folder)
    write_settings()
    longest = duration_of_a_run(bool(command))
    kills = saving = runs = 0
    wrong: list[dict[str, Any]] = []
    while kills < count:
        run = Path(f"killed-{runs}")
        runs += 1
        while True:
            before = newest_whole(run)
            at_operation = not command and kills % 2 == 1 and kills < count
            pid = start(run, bool(command), chance.randint(1, 150) if at_operation else None)
            if kills < count and not at_operation:
                time.sleep(chance.uniform(0, longest))
                os.kill(pid, signal.SIGKILL)  # it may have ended: then it waits to be asked
            _, status = os.waitpid(pid, 0)
            if os.WIFEXITED(status):
                if os.WEXITSTATUS(status) != 0:
                    wrong.append({"run": runs, "kills": kills, "exit": os.WEXITSTATUS(status)})
                break
            kills += 1
            saving += (run / "checkpoints").is_dir() and was_saving(run)
            after = newest_whole(run)
            if after < before:
                wrong.append({"run": runs, "kills": kills, "had": before, "left": after})
        differing = expected.differing(Outcome.of(run))
        if differing:
            wrong.append({"run": runs, "kills": kills, "differing": differing})
        shutil.rmtree(run)
    return {"kills": kills, "while_saving": saving, "runs": runs, "wrong": wrong}


if __name__ == "__main__":
    main(check, count=500, command=0)
