"""Stop a run after each of its steps, go on with other threads, compare every byte.

python -m tests.faults.resuming
"""

import shutil
from pathlib import Path
from typing import Any

from tests.faults.report import main
from tests.faults.runs import STEPS, Outcome, reference, stop_at, train


def check(folder: Path, count: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """Interrupt a run once, at `count` different steps of its 40."""
    expected = reference(folder)
    wrong = []
    for step in range(1, STEPS + 1, STEPS // count):
        run = Path(f"stopped-{step}")
        first = train(run, **stop_at(step))
        assert first.steps == step
        train(run, resume="auto", threads=1 + step % 3)
        differing = expected.differing(Outcome.of(run))
        if differing:
            wrong.append({"stopped_after": step, "differing": differing})
        shutil.rmtree(run)
    return {"stops": count, "identical": count - len(wrong), "wrong": wrong}


if __name__ == "__main__":
    main(check, count=STEPS)
