"""Read many broken files; see that each is refused in one line, or read as what it says.

    python -m tests.faults.files                        a million CTDS, a million CWGT, 20,000
                                                        of each kind of text
    python -m tests.faults.files ctds --count 5000      one kind
    python -m tests.faults.files ctds --only 1234       file number 1234 alone

Prints a report as JSON; exit code 1 if anything but calmgrad's own errors came out.
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calmgrad import plots, settings
from calmgrad.errors import CalmgradError, FileError, UsageError
from calmgrad.formats import ctds, cwgt
from tests.faults import mutate

MEGABYTE = 1_000_000
MEMORY = 32 * MEGABYTE  # beyond twice the file
SECONDS = 1.0  # for one file
DT_RANK = 38  # byte of the header
MEASURED = 499  # memory is measured for one file out of so many: it makes reading slow


# --- what reading a file must come to ---------------------------------------------------------


def read_ctds(path: str, data: bytes) -> None:
    """Accepted: writing it again gives the same bytes."""
    assert b"".join(ctds.to_bytes(ctds.read(path))) == data, "read as something else"


def read_cwgt(path: str, data: bytes) -> None:
    """Accepted: writing it again gives the same bytes, but for a rank of 0 that is resolved."""
    model = cwgt.read(path)
    again = b"".join(bytes(chunk) for chunk in cwgt.to_bytes(model))
    expected = bytearray(data)
    expected[DT_RANK] = expected[DT_RANK] or model.config.dt_rank
    assert again == expected, "read as something else"
    finite = all(np.isfinite(flat).all() for flat in model.buffers().values())
    try:
        model.check_finite(path)
    except FileError:
        assert not finite
        raise
    assert finite, "NaN or Inf not found"


def read_config(path: str, data: bytes) -> None:
    """Accepted: it resolves or is refused, and its TOML says the same."""
    config, _ = settings.read_config(path)
    assert settings.from_mapping(settings.to_dict(config)) == config
    try:
        settings.to_toml(settings.resolve(config, new_model=True))
    except UsageError as error:  # sizes that do not go together: no file is named
        raise FileError(f"{path}: {error}") from error


def read_metrics(path: str, data: bytes) -> None:
    """Accepted: the curves can be drawn."""
    curves = plots.read_metrics(path)
    if curves.steps:
        plots.terminal_plot({"run": curves}, 60, 12)


@dataclass(frozen=True)
class Kind:
    """How files of one kind are made and read; `count` of them in the long form."""

    suffix: str
    mutator: Callable[[], mutate.Mutator]
    read: Callable[[str, bytes], None]
    count: int
    refusals: int  # at least so many different messages must be seen


KINDS = {
    "ctds": Kind("", mutate.ctds_mutator, read_ctds, 1_000_000, 10),
    "cwgt": Kind("", mutate.cwgt_mutator, read_cwgt, 1_000_000, 20),
    "toml": Kind(".toml", mutate.toml_mutator, read_config, 20_000, 25),
    "yaml": Kind(".yaml", mutate.yaml_mutator, read_config, 20_000, 25),
    "metrics": Kind(".jsonl", mutate.metrics_mutator, read_metrics, 20_000, 2),
}


# --- trying them ------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of all files of one kind."""

    files: int = 0
    read: int = 0
    refused: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    stray: list[str] = field(default_factory=list)  # what should not have happened
    slowest: float = 0.0  # seconds
    memory: int = 0  # bytes, the most for one file of those measured
    grown: int = 0  # bytes of the process, by all of them
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        return {
            "files": self.files,
            "read": self.read,
            "refused": self.refused,
            "different_refusals": len(self.refusals),
            "stray": self.stray,
            "slowest_ms": round(1000 * self.slowest, 1),
            "memory_mb": round(self.memory / MEGABYTE, 3),
            "grown_mb": round(self.grown / MEGABYTE, 1),
            "seconds": round(self.seconds, 1),
            "refusals": dict(self.refusals.most_common()),
        }


@contextmanager
def one_file(suffix: str) -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A path, and a function that gives the file there another content, fast."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.NamedTemporaryFile(suffix=suffix, dir=folder) as file:
        number = file.fileno()

        def fill(data: bytes) -> None:
            os.ftruncate(number, len(data))
            os.pwrite(number, data, 0)

        yield file.name, fill


def try_files(
    kind: Kind, count: int, first: int = 0, until: float = float("inf"), measured: int = MEASURED
) -> Report:
    """Read the files `first` to `first + count - 1`, until a time at the latest."""
    report = Report()
    mutator = kind.mutator()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with one_file(kind.suffix) as (path, fill), warnings.catch_warnings():
        warnings.simplefilter("ignore", ctds.VocabularyWarning)
        for number in range(first, first + count):
            data = mutator(random.Random(number))
            fill(data)
            if number % measured == 0:
                tracemalloc.start()
            start = time.perf_counter()
            try:
                _try_one(kind, path, data, report)
            except Exception as error:
                report.stray.append(f"file {number}: {type(error).__name__}: {error}"[:300])
            took = time.perf_counter() - start
            if number % measured == 0:
                used = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                report.memory = max(report.memory, used)
                if used > 2 * len(data) + MEMORY:
                    report.stray.append(f"file {number}: {used} bytes for {len(data)}")
            elif took > SECONDS and time.process_time() > SECONDS:
                report.stray.append(f"file {number}: took {took:.1f} s")
            report.slowest = max(report.slowest, took)
            report.files += 1
            if len(report.stray) >= 20 or time.monotonic() > until:
                break
    report.seconds = time.monotonic() - began
    report.grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    return report


def _try_one(kind: Kind, path: str, data: bytes, report: Report) -> None:
    refusal: CalmgradError | None = None
    try:
        kind.read(path, data)
    except CalmgradError as error:
        refusal = error
    if refusal is None:
        report.read += 1
        return
    message = str(refusal)
    assert refusal.exit_code in (2, 3), f"exit code {refusal.exit_code}: {message}"
    assert message.startswith(f"{path}: "), f"names another file: {message}"
    assert message.isprintable(), f"not one line of text: {message!r}"
    assert len(message) < 500, f"{len(message)} characters: {message}"
    report.refused += 1
    if len(report.refusals) < 10_000:
        report.refusals[_shape(message.removeprefix(f"{path}: "))] += 1


def _shape(message: str) -> str:
    """A message without what differs from file to file."""
    message = re.sub(r"b?'[^']*'?|\"[^\"]*\"?", "'…'", message)
    message = re.sub(r"[\w.]*\[[^\]]*\]", "x[…]", message)
    return re.sub(r"-?\d[\d.e+-]*|\binf\b|\bnan\b", "0", message)[:80]


# --- the command ------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.files", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all")
    parser.add_argument("--count", type=int, help="files of each kind")
    parser.add_argument("--seconds", type=float, help="for each kind, at most")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--only", type=int, help="this file alone; it is kept, and its path told")
    parser.add_argument("--report", type=Path, help="write the report here, not to stdout")
    given = parser.parse_args()
    if unknown := set(given.kinds) - set(KINDS):
        parser.error(f"unknown kinds: {', '.join(unknown)}")
    chosen = {name: KINDS[name] for name in given.kinds or KINDS}
    if given.only is not None:
        for name, kind in chosen.items():
            path = Path(tempfile.gettempdir(), f"fault-{name}-{given.only}{kind.suffix}")
            path.write_bytes(kind.mutator()(random.Random(given.only)))
            print(path, file=sys.stderr)
            kind.read(str(path), path.read_bytes())
        return 0
    reports = {}
    for name, kind in chosen.items():
        until = time.monotonic() + given.seconds if given.seconds else float("inf")
        reports[name] = try_files(kind, given.count or kind.count, given.first, until)
        line = {k: v for k, v in reports[name].summary().items() if k != "refusals"}
        print(f"{name}: {line}", file=sys.stderr, flush=True)
    text = json.dumps({name: report.summary() for name, report in reports.items()}, indent=1)
    if given.report is not None:
        given.report.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    return int(any(report.stray for report in reports.values()))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
