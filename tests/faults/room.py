"""Train on a disk that fills up; see that it is told, that nothing is lost, and go on with room.

    python -m tests.faults.room --count 20

Each disk is a small tmpfs in a mount namespace of this process (`unshare`), of another size; then
the command line trains on it until it is full, and again after it was made larger.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from calmgrad.formats import checkpoint as checkpoints
from tests.faults.kills import ROOT, write_settings
from tests.faults.report import main
from tests.faults.runs import STEPS, Outcome, newest_whole, reference

SMALLEST, LARGEST = 8, 420  # kilobytes: from hardly a file to nearly all that a run needs


def namespaces_work() -> bool:
    """Whether an ordinary user may mount a file system for himself here."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


def check(folder: Path, count: int = 20, seed: int = 0, inside: int = 0) -> dict[str, Any]:
    """`count` sizes of the disk; `inside` says that we are in the namespace already."""
    if not inside:
        if not namespaces_work():
            return {"disks": 0, "skipped": "no mount namespaces for ordinary users", "wrong": []}
        return in_namespace(count)
    expected = reference(folder)
    write_settings()
    disk = folder / "disk"
    disk.mkdir()
    full = late = 0
    wrong: list[dict[str, Any]] = []
    for number in range(count):
        size = SMALLEST + number * (LARGEST - SMALLEST) // max(1, count - 1)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "t", disk], check=True)
        run = disk / "run"
        done = command(run)
        case: dict[str, Any] = {"kilobytes": size, "exit": done.returncode, "said": done.stderr}
        full += done.returncode == 5
        left = newest_whole(run)
        late += 0 < left < STEPS
        told = re.search(
            r"error: .*cannot write \d+ bytes \(\d+ free\): No space left", done.stderr
        )
        if done.returncode not in (0, 5) or "Traceback" in done.stderr:
            wrong.append(case)
        elif done.returncode == 5 and (told is None or left == 0 != named(run)):
            wrong.append({**case, "left": left})
        subprocess.run(["mount", "-o", "remount,size=50m", "t", disk], check=True)
        done = command(run)
        if done.returncode != 0:
            wrong.append({**case, "afterwards": done.stderr})
        else:
            differing = expected.differing(Outcome.of(run))
            if differing:
                wrong.append({**case, "differing": differing})
        subprocess.run(["umount", disk], check=True)
    return {"disks": count, "full": full, "with_a_checkpoint_before": late, "wrong": wrong}


def named(run: Path) -> int:
    """Checkpoints by name, readable or not."""
    return len(checkpoints.steps_in(run / "checkpoints"))


def command(run: Path) -> "subprocess.CompletedProcess[str]":
    """`calmgrad train`, beginning or going on."""
    arguments = ["--config", "run.toml", "--save-dir", str(run), "--resume"]
    return subprocess.run(
        [sys.executable, "-m", "calmgrad.cli", "train", *arguments, "--log-every", "1000"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip


def in_namespace(count: int) -> dict[str, Any]:
    """The same check as another process, which may mount what it likes and nobody sees it."""
    import json

    arguments = [f"--count={count}", "--inside=1"]
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-m", "tests.faults.room", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    del found["seconds"]
    return found


if __name__ == "__main__":
    main(check, count=20, inside=0)
