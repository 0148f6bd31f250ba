"""Whole training steps, beside calm-mamba's with its Triton kernels; they take turns."""

import time
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.batches import batch_of, lengths_of
from benchmarks.contestants import Contestant, WorkerFailed, race
from benchmarks.gpu.subject import Failed, Subject
from benchmarks.gpu.timings import SIZES
from benchmarks.options import Options
from calmgrad.kernels.cuda.device import PRECISIONS

SHAPES = ("8x768", "64x768", "shell64")
SECONDS = 6.0  # for a row, after the first call of each, which compiles kernels
BUDGET = 300.0  # seconds; no row is begun after them
STEPS = 10  # in a call: calmgrad reads their losses at the end, calm-mamba each at once
Results = dict[str, Any]


def run(subject: Subject) -> Results:
    """A row for each model size and batch; calm-mamba in mixed precision and in float32."""
    if subject.peer is None:
        note = "without calm-mamba: --peer was not given"
    else:
        note = "on the CPU, for a rehearsal" if subject.emulated else ""
    options = Options(peer=subject.peer)
    rows: list[Results] = []
    failed: list[str] = []
    began = time.perf_counter()
    for size in SIZES[:1] if subject.emulated else SIZES:
        for shape in ("2x9",) if subject.emulated else SHAPES:
            if time.perf_counter() - began > BUDGET:
                failed.append(f"{size} {shape}: not begun, {BUDGET:.0f} s have passed")
                continue
            # Where calm-mamba cannot be run, calmgrad's times are still worth having.
            for chosen in (options, replace(options, peer=None)) if options.peer else (options,):
                try:
                    rows.append(_row(subject, chosen, size, shape))
                    break
                except WorkerFailed as failure:
                    failed.append(f"{size} {shape}: {failure}")
            subject.keep({"note": note, "versions": options.versions, "rows": rows})
    found = {"note": note, "versions": options.versions, "rows": rows}
    if failed:
        raise Failed("; ".join(failed), **found)
    return found


def _row(subject: Subject, options: Options, size: str, shape: str) -> Results:
    steps = 1 if subject.emulated else STEPS
    settings = {"size": size, "threads": 1, "steps": steps, **batch_of(shape)}
    ours = settings | {"device": subject.name, "rehearsal": subject.emulated}
    own = [
        options.calmgrad(
            "train on device", ours | {"matmul_precision": precision}, 1, f"calmgrad {precision}"
        )
        for precision in PRECISIONS
    ]
    others = [] if options.peer is None else _calm_mamba(subject, options.peer, settings)
    contestants = own + others
    if subject.emulated:
        race(contestants, 0.0, least=1, most=1)
    else:
        race(contestants, SECONDS, least=3, most=50)
    options.note_versions(contestants)
    row: Results = {"size": size, "shape": shape, "tokens": sum(lengths_of(shape))}
    for contestant in contestants:
        row[contestant.name] = _per_step(contestant, steps)
    if not subject.emulated:
        row["times_faster"] = {
            mine.name: {
                theirs.name: row[theirs.name]["ms_median"] / row[mine.name]["ms_median"]
                for theirs in others
            }
            for mine in own
        }
    return row


def _per_step(contestant: Contestant, steps: int) -> Results:
    seconds = [x / steps for x in contestant.seconds]
    return {
        "ms_best": 1e3 * min(seconds),
        "ms_median": 1e3 * median(seconds),
        "calls": len(seconds),
        "steps_in_a_call": steps,
        "first_call_s": contestant.first,
        **contestant.told,
    }


def _calm_mamba(subject: Subject, python: str, settings: Results) -> list[Contestant]:
    device = "cpu" if subject.emulated else subject.name
    return [
        Contestant(
            f"calm-mamba {name}", "run_calm_mamba.py", python,
            {"task": "train", **settings, "device": device, "amp": amp},
        )
        for name, amp in (("AMP", True), ("float32", False))
    ]  # fmt: skip
