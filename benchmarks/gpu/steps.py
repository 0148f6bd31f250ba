"""Whole training steps, beside calm-mamba's with its Triton kernels; they take turns."""

from typing import Any

from benchmarks.batches import batch_of, lengths_of
from benchmarks.contestants import Contestant, WorkerFailed, race
from benchmarks.gpu.subject import Failed, Subject
from benchmarks.gpu.timings import SHAPES, SIZES
from benchmarks.options import Options

SECONDS = 6.0  # for a row, after the first call of each, which compiles kernels
Results = dict[str, Any]


def run(subject: Subject) -> Results:
    """A row for each model size and batch; calm-mamba in mixed precision and in float32."""
    if subject.peer is None:
        note = "without calm-mamba: --peer was not given"
    else:
        note = "on the CPU, for a rehearsal" if subject.emulated else ""
    options = Options(peer=subject.peer)
    rows: list[Results] = []
    failed = []
    for size in SIZES[:1] if subject.emulated else SIZES:
        for shape in ("2x9",) if subject.emulated else SHAPES:
            try:
                rows.append(_row(subject, options, size, shape))
            except WorkerFailed as failure:
                failed.append(f"{size} {shape}: {failure}")
    found = {"note": note, "versions": options.versions, "rows": rows}
    if failed:
        raise Failed("; ".join(failed), **found)
    return found


def _row(subject: Subject, options: Options, size: str, shape: str) -> Results:
    settings = {"size": size, "threads": 1, **batch_of(shape)}
    calls = 1 if subject.emulated else 10
    ours = settings | {"device": subject.name, "rehearsal": subject.emulated}
    contestants = [
        options.calmgrad("train", ours | {"matmul_precision": precision}, calls, f"calmgrad {precision}")
        for precision in ("float32", "tf32")
    ]
    if options.peer is not None:
        contestants += _calm_mamba(subject, options.peer, settings, calls)
    if subject.emulated:
        race(contestants, 0.0, least=1, most=1)
    else:
        race(contestants, SECONDS, least=3, most=50)
    options.note_versions(contestants)
    row: Results = {"size": size, "shape": shape, "tokens": sum(lengths_of(shape))}
    for contestant in contestants:
        row[contestant.name] = contestant.result() | contestant.told
        row[contestant.name]["first_s"] = contestant.first
    for theirs in contestants[2:]:
        for mine in contestants[:2]:
            ratio = row[theirs.name]["ms_median"] / row[mine.name]["ms_median"]
            row[f"{mine.name} over {theirs.name}"] = ratio
    return row


def _calm_mamba(
    subject: Subject, python: str, settings: Results, calls: int
) -> list[Contestant]:
    device = "cpu" if subject.emulated else subject.name
    return [
        Contestant(
            f"calm-mamba {name}", "run_calm_mamba.py", python,
            {"task": "train", **settings, "device": device, "amp": amp}, calls=calls,
        )
        for name, amp in (("AMP", True), ("float32", False))
    ]  # fmt: skip
