"""Train for long; see that memory and open files stay as they are, and steps as fast.

python -m tests.faults.soak --steps 100000
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import calmgrad
from calmgrad.loop import Report
from calmgrad.memory import resident
from tests.faults.report import main

WARM = 1000  # steps, before which memory may grow
MEGABYTE = 1e6
DRIFT = 0.05  # of the time of a step


def check(folder: Path, steps: int = 100_000, seed: int = 0) -> dict[str, Any]:
    """A nano model, two short sequences a step, a checkpoint and a validation every 500 steps."""
    os.chdir(folder)
    rng = np.random.default_rng(seed)  # all as long: a batch larger than any before takes memory
    for name, count in (("train", 64), ("val", 8)):
        rows = rng.integers(32, 127, (count, 24))
        calmgrad.write_dataset(f"{name}.ctds", rows, [0] * count)
    warm = min(WARM, steps // 2)
    # Written to before the first step, so that what is noted takes no more memory later.
    times = np.full(steps, -1.0)
    memory, files = (np.full(steps // 100, -1) for _ in range(2))

    def watch(report: Report) -> None:
        times[report.step - 1] = report.seconds
        if report.step % 100 == 0:
            memory[report.step // 100 - 1] = resident()
            files[report.step // 100 - 1] = len(os.listdir("/proc/self/fd"))

    began = time.perf_counter()
    calmgrad.train(
        model="new", size="nano", dataset="train.ctds", val_dataset="val.ctds", patience=0,
        epochs=steps, max_steps=steps, batch_size=2, lr=1e-4, warmup_steps=0, seed=seed,
        eval_every=min(500, warm // 2), checkpoint_every=min(500, warm // 2), save_dir="run",
        threads=1, on_step=watch,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    memory, files = memory[warm // 100 - 1 :], files[warm // 100 - 1 :]
    growth = int((memory - memory[0]).max())
    # Other work on the machine only ever adds to a step: compare the quick steps of each part.
    early, late = (
        float(np.quantile(part, 0.1)) for part in (times[warm : 2 * warm], times[-2 * warm :])
    )
    wrong = []
    if growth > MEGABYTE:
        wrong.append(f"memory grew by {growth} bytes")
    if np.unique(files).size > 1:
        wrong.append("the number of open files changed")
    drift = late / early - 1
    if steps >= 100 * WARM and drift > DRIFT:  # of a short run, the rest of the machine decides
        wrong.append(f"steps take {drift:.1%} longer")
    return {
        "steps": steps,
        "memory_when_warm_mb": round(int(memory[0]) / 1e6, 1),
        "memory_growth_mb": round(growth / 1e6, 3),
        "open_files": np.unique(files).tolist(),
        "step_ms_early": round(1000 * early, 3),
        "step_ms_late": round(1000 * late, 3),
        "drift": round(drift, 4),
        "steps_per_second": round(steps / seconds, 1),
        "wrong": wrong,
    }


if __name__ == "__main__":
    main(check, steps=100_000)
