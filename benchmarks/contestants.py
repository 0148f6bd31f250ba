"""Programs that are measured: each a process of its own, that works only when it is its turn."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Self

WORKERS = Path(__file__).parent / "workers"
PAUSE = 0.05  # seconds between turns: threads that spin after their work shall have stopped


class WorkerFailed(Exception):
    """A worker has ended; the message is the last line it wrote."""


class Contestant:
    """A worker that has been told what to do.

    Args:
        name: what it is called in the results.
        script: in benchmarks/workers.
        python: that runs it.
        settings: what it gets told.
        calls: how many it makes in a turn; few where one takes long.
        environment: variables besides those of this process.

    Attributes:
        about: the versions of what it runs with.
        prepared_with: what else it has said when it was ready.
        first: seconds of its first call, which may have compiled something.
        seconds: of all calls but those that warm up.
        peak: bytes, the most it has had in memory.
        told: what the last call has returned, if anything.
    """

    def __init__(
        self,
        name: str,
        script: str,
        python: str,
        settings: dict[str, Any],
        calls: int = 1,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name, self.script, self.python = name, script, python
        self.settings, self.calls = settings, calls
        self.environment = environment or {}
        self.about: dict[str, str] = {}
        self.prepared_with: dict[str, Any] = {}
        self.first: float | None = None
        self.seconds: list[float] = []
        self.peak = 0
        self.told: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [self.python, str(WORKERS / self.script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | self.environment,
        )
        self._tell(json.dumps(self.settings))
        try:
            for key, value in self._answer().items():
                (self.about if isinstance(value, str) else self.prepared_with)[key] = value
        except BaseException:
            self.__exit__()
            raise
        return self

    def turn(self, count: bool = True) -> None:
        """Make the calls of one turn."""
        self._tell(str(self.calls))
        answer = self._answer()
        if self.first is None:
            self.first = answer["seconds"][0]
        if count:
            self.seconds += answer["seconds"]
        self.peak = answer["peak"]
        self.told = answer.get("told", {})

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def result(self) -> dict[str, Any]:
        """What to keep of the measurement."""
        return {
            "ms_best": 1e3 * min(self.seconds),
            "ms_median": 1e3 * median(self.seconds),
            "calls": len(self.seconds),
            "peak_mb": self.peak / 1e6,
        }

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerFailed(self._last_words()) from None

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        last = lines[-1] if lines else "nothing on stderr"
        return f"{self.name} ended with code {code}: {last}"


def race(contestants: Sequence[Contestant], seconds: float, least: int = 2, most: int = 10) -> None:
    """Let all take turns, one at a time, until `seconds` have passed.

    The first turn of each warms up and does not count. At least `least` turns count, at most
    `most`, whatever the time.
    """
    with ExitStack() as stack:
        for contestant in contestants:
            stack.enter_context(contestant)
            contestant.turn(count=False)
        end = time.perf_counter() + seconds
        for turn in range(most):
            if turn >= least and time.perf_counter() > end:
                break
            for contestant in contestants:
                time.sleep(PAUSE)
                contestant.turn()


def ratios(ours: Contestant, theirs: Contestant) -> dict[str, float]:
    """How many times faster, and how many times smaller."""
    mine, other = ours.result(), theirs.result()
    return {
        "ratio_best": other["ms_best"] / mine["ms_best"],
        "ratio_median": other["ms_median"] / mine["ms_median"],
        "ratio_memory": other["peak_mb"] / mine["peak_mb"],
    }
