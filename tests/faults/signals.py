"""Send INT, TERM or HUP at random moments, every third time twice; go on, compare every byte.

python -m tests.faults.signals --count 100
"""

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

from calmgrad.cli.runs import SIGNALS
from tests.faults.kills import duration_of_a_run, start, write_settings
from tests.faults.report import main
from tests.faults.runs import Outcome, newest_whole, reference


def check(folder: Path, count: int = 100, seed: int = 0, command: int = 0) -> dict[str, Any]:
    """Interrupt runs `count` times; one signal saves, a second one leaves at once."""
    chance = random.Random(seed)
    expected = reference(folder)
    write_settings()
    longest = duration_of_a_run(bool(command))
    sent = resumable = saved = 0
    wrong: list[dict[str, Any]] = []
    while sent < count:
        run = Path(f"signalled-{sent}")
        number = chance.choice(list(SIGNALS))
        twice = sent % 3 == 2
        pid = start(run, bool(command))
        time.sleep(chance.uniform(0.02, longest))
        os.kill(pid, number)
        if twice:
            time.sleep(chance.uniform(0, 0.01))
            os.kill(pid, number)
        _, status = os.waitpid(pid, 0)
        sent += 1
        case = {"signal": number.name, "twice": twice, "status": status}
        code = os.waitstatus_to_exitcode(status)
        # Before the command listens and after its end, the system's own ways hold.
        if code not in (0, SIGNALS[number], -number):
            wrong.append({**case, "exit": code})
        if code == SIGNALS[number] and not twice:
            saved += 1
            # In the first validation there is nothing to save: then the folder is gone.
            if newest_whole(run) == 0 and run.exists():
                wrong.append({**case, "left": "no checkpoint"})
        for _ in range(2):  # the second time, there is nothing to do
            pid = start(run, bool(command))
            _, status = os.waitpid(pid, 0)
        differing = expected.differing(Outcome.of(run)) if status == 0 else ["did not go on"]
        resumable += not differing
        if differing:
            wrong.append({**case, "differing": differing})
        shutil.rmtree(run, ignore_errors=True)
    return {"signals": sent, "resumable": resumable, "stopped_and_saved": saved, "wrong": wrong}


if __name__ == "__main__":
    main(check, count=100, command=0)
