"""`cold-start`: seconds from the start of a process until it has done something."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.batches import batch_of
from benchmarks.contestants import Contestant
from benchmarks.options import ROOT, Options

REPEATS = 5
STEP = {"task": "train", "size": "nano", "threads": 2, **batch_of("8x256")}


def run(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each thing done, each in new processes that take turns."""
    ours, peer = options.python, options.peer
    here = {"PYTHONPATH": str(ROOT)}
    bare = process([ours, "-c", "pass"])
    yield row("python alone", {"calmgrad": bare}, REPEATS)

    imports = {"calmgrad": process([ours, "-c", "import calmgrad; calmgrad.Trainer"], here)}
    helps = {"calmgrad": process([ours, "-m", "calmgrad.cli", "--help"], here)}
    steps = {"calmgrad": first_step("run_calmgrad.py", ours)}
    if peer:
        imports["calm-mamba"] = process([peer, "-c", "import calm"])
        helps["calm-mamba"] = process([str(Path(peer).with_name("calm-train")), "--help"])
        steps["calm-mamba"] = first_step("run_calm_mamba.py", peer)
    yield row("import", imports, REPEATS)
    yield row("--help", helps, REPEATS)
    yield row("first step, nano 8x256", steps, REPEATS)

    folder = tempfile.mkdtemp()
    empty = {"CALMGRAD_CACHE_DIR": folder}
    fresh = first_step("run_calmgrad.py", ours, empty, lambda: shutil.rmtree(folder))
    yield row("first step, kernels to compile", {"calmgrad": fresh}, 1, warm=False)
    shutil.rmtree(folder, ignore_errors=True)


def row(
    what: str, runs: dict[str, Callable[[], float]], repeats: int, warm: bool = True
) -> dict[str, Any]:
    """Best and median of each, interleaved; if `warm`, after a round for the disk's cache."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + warm):
        for name, once in runs.items():
            seconds = once()
            if turn or not warm:
                times[name].append(seconds)
    found: dict[str, Any] = {"what": what}
    for name, seconds in times.items():
        found[name] = {"s_best": min(seconds), "s_median": median(seconds)}
    if len(times) == 2:
        found["ratio_best"] = min(times["calm-mamba"]) / min(times["calmgrad"])
    return found


def process(command: list[str], environment: dict[str, str] | None = None) -> Callable[[], float]:
    """Seconds of a whole process."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(
            command, check=True, env=os.environ | (environment or {}), stdout=subprocess.DEVNULL
        )
        return time.perf_counter() - began

    return once


def first_step(
    script: str,
    python: str,
    environment: dict[str, str] | None = None,
    before: Callable[[], object] = lambda: None,
) -> Callable[[], float]:
    """Seconds until a training step is done, from the start of the process."""

    def once() -> float:
        before()
        began = time.perf_counter()
        with Contestant("first step", script, python, STEP, environment=environment) as worker:
            worker.turn()
            return time.perf_counter() - began

    return once
