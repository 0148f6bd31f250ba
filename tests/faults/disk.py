"""Let each operation on the disk fail, one after the other; see that nothing is lost.

    python -m tests.faults.disk

The n-th write, flush, rename, … fails with each of several errors, for every n until saving
succeeds: while one checkpoint replaces another, and while a whole run goes on.
"""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calmgrad
from calmgrad.errors import DiskError, FileError
from calmgrad.saving import Saver
from tests.faults.report import main
from tests.faults.runs import Outcome, newest_whole, reference, train
from tests.faults.seam import Act, operations

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EINTR": errno.EINTR}
SEQUENCE = [calmgrad.BOS, *b"git add", calmgrad.EOS]


def failing_at(number: int, code: int) -> Act:
    """The operation with this number fails, and what is cleaned up after it works again."""

    def act(count: int, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if count == number:
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    return act


def short_at(number: int, code: int) -> Act:
    """From this operation on, the disk takes half of what it is given; with a code, fails then."""

    def act(count: int, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if name == "write" and count >= number and len(arguments[1]) > 1:
            if count > number and code:
                raise OSError(code, os.strerror(code))
            return real(arguments[0], arguments[1][: len(arguments[1]) // 2])
        return real(*arguments)

    return act


def ways(number: int) -> dict[str, Act]:
    """The faults of one operation, by name."""
    faults = {name: failing_at(number, code) for name, code in ERRORS.items()}
    faults["short write"] = short_at(number, 0)
    faults["short write, then ENOSPC"] = short_at(number, errno.ENOSPC)
    return faults


def saving(wrong: list[dict[str, Any]], folder: Path) -> int:
    """A third checkpoint is written beside two, and again in place of one; the faults tried."""
    model = calmgrad.new_model(d_model=16, n_layers=1)
    cases = 0
    with calmgrad.Trainer(model, threads=1) as trainer:
        trainer.step([SEQUENCE], [0])
        for step in (3, 2):  # 2 is there already: it is replaced
            number, failed = 0, True
            while failed:
                number += 1
                failed = False
                for name in ways(number):
                    shutil.rmtree(folder, ignore_errors=True)
                    saver = Saver(folder, None)
                    for first in (1, 2):
                        saver.save(first, trainer.checkpoint, None)
                    error = None
                    with operations(ways(number)[name]) as seam:
                        try:
                            saver.save(step, trainer.checkpoint, None)
                        except DiskError as raised:
                            error = raised
                    cases += 1
                    failed = failed or seam.count >= number
                    case = {"step": step, "operation": number, "fault": name}
                    left = newest_whole(folder.parent)
                    if left < 2 or (error is None and left != max(step, 2)):
                        wrong.append({**case, "left": left})
                    if error is not None and ("\n" in str(error) or str(folder) not in str(error)):
                        wrong.append({**case, "said": str(error)})
                    if any(path.name[0] == "." for path in folder.iterdir()):
                        wrong.append({**case, "left": sorted(p.name for p in folder.iterdir())})
                    saver.save(4, trainer.checkpoint, None)  # the disk works again
                    if newest_whole(folder.parent) != 4:
                        wrong.append({**case, "afterwards": newest_whole(folder.parent)})
    return cases


def whole_run(wrong: list[dict[str, Any]], every: int, expected: Outcome) -> int:
    """A run meets a fault at every `every`-th operation, and goes on; the faults tried."""
    with operations(failing_at(0, 0)) as seam:
        train(Path("counted"), checkpoint_every=10)
    cases = 0
    for number in range(1, seam.count + 1, every):
        for name, fault in ways(number).items():
            run = Path(f"failing-{cases}")
            cases += 1
            case: dict[str, Any] = {"operation": number, "fault": name}
            try:
                with operations(fault):
                    train(run, checkpoint_every=10)
            except calmgrad.CalmgradError as error:
                case["error"] = str(error)
                # Data and metrics are read too; EINTR at the very start is no matter of the disk.
                expected_kind = isinstance(error, DiskError | FileError) or name == "EINTR"
                if "\n" in str(error) or not expected_kind:
                    wrong.append(case)
            train(run, checkpoint_every=10, resume="auto")
            differing = expected.differing(Outcome.of(run))
            if differing:
                wrong.append({**case, "differing": differing})
            shutil.rmtree(run)
    return cases


def check(folder: Path, every: int = 1, seed: int = 0) -> dict[str, Any]:
    """Every operation of a save; every `every`-th of a run (0: none)."""
    expected = reference(folder)
    wrong: list[dict[str, Any]] = []
    saves = saving(wrong, Path("saver/checkpoints").absolute())
    runs = whole_run(wrong, every, expected) if every else 0
    return {"faults_while_saving": saves, "faults_in_runs": runs, "wrong": wrong}


if __name__ == "__main__":
    main(check, every=1)
