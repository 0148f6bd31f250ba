"""Deliberate mistakes in the CUDA kernels; running them on the CPU must find each.

    python -m tests.cuda_on_cpu.mistakes [--quick | OP...]

Each is tried in a process of its own: some end in a crash, at the forbidden page behind an array.
Exit code 1 if one is not found, or if something is found where no mistake is.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calmgrad.kernels.cuda import launcher
from tests.cuda_on_cpu import kernel_mistakes, scan_mistakes, serial_mistakes

# Round and round, greedy, greedy from the last to the first, shuffled and greedy: a missing
# barrier does not show in all of them.
SCHEDULES = (0, 1, 3, 5)

Check = Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class Mistake:
    """`old`, which stands once in <op>.cu or common.cuh, becomes `new`."""

    op: str
    what: str
    old: str
    new: str
    check: Check

    def __str__(self) -> str:
        return f"{self.op}: {self.what}"


MISTAKES = (
    [
        Mistake("selective_scan", what, old, new, scan_mistakes.check)
        for what, old, new in scan_mistakes.MISTAKES
    ]
    + [
        Mistake("selective_scan_serial", what, old, new, serial_mistakes.check)
        for what, old, new in serial_mistakes.MISTAKES
    ]
    + [
        Mistake(op, what, old, new, kernel_mistakes.CHECKS[op])
        for op, mistakes in kernel_mistakes.MISTAKES.items()
        for what, old, new in mistakes
    ]
)


def outcome(mistake: Mistake) -> str:
    """How a mistake was found; empty if it was not."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, _tried(mistake).encode()[:1000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        found = pipe.read()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    if "compiler refuses" in found or "stands there" in found:
        raise ValueError(f"{mistake}: {found}")
    return found


def _tried(mistake: Mistake) -> str:
    correct = launcher.source

    def spoilt(op: str, dtype: str) -> str:
        text = correct(op, dtype)
        if op != mistake.op:
            return text
        if text.count(mistake.old) != 1:
            raise RuntimeError(f"{mistake.old!r} stands there {text.count(mistake.old)} times")
        return text.replace(mistake.old, mistake.new)

    launcher.source = spoilt  # type: ignore[assignment]
    with np.errstate(all="ignore"):
        try:
            mistake.check(SCHEDULES)
        except (AssertionError, RuntimeError) as error:
            return str(error).strip() or "wrong"
    return ""


def unchanged(op: str) -> Mistake:
    """No mistake at all: it is not the planting that is found."""
    some = next(m for m in MISTAKES if m.op == op)
    return Mistake(op, "the same", some.old, some.old + "/* the same */", some.check)


def quick() -> list[Mistake]:
    """One of each kind: in sizes, in numbers, in what threads wait for."""
    words = ("beyond", "sign", "barrier", "before they are there", "others read", "mask", "leave")
    chosen: list[Mistake] = []
    for word in words:
        found = [m for m in MISTAKES if word in m.what]
        others = [m for m in found if m.op not in {c.op for c in chosen}]
        chosen.append((others or found)[0])
    return chosen


def main(arguments: Sequence[str]) -> int:
    chosen = [m for m in MISTAKES if not arguments or m.op in arguments]
    if arguments == ["--quick"]:
        chosen = quick()
    missed = []
    for mistake in chosen:
        how = outcome(mistake)
        print(f"{mistake}: {how.splitlines()[0] if how else 'NOT FOUND'}", flush=True)
        if not how:
            missed.append(mistake)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} found")
    innocent = [op for op in sorted({m.op for m in chosen}) if outcome(unchanged(op))]
    if innocent:
        print("something is found where there is no mistake:", *innocent)
    return 1 if missed or innocent else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
