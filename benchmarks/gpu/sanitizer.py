"""NVIDIA's compute-sanitizer over all kernels at small sizes: memory, races, barriers.

    python -m benchmarks.gpu.sanitizer [DEVICE]

runs the program that it watches.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.subject import Failed, Subject, mapped, rehearsal
from benchmarks.options import ROOT
from calmgrad.kernels.cuda.selective_scan_serial import STATES

TOOLS = ("memcheck", "racecheck", "synccheck")
FOUND = 9  # exit code of the watched program when something was found
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: .*")
SECONDS = 150  # for each tool


def run(subject: Subject) -> dict[str, Any]:
    """What each tool says at its end."""
    program = _program()
    if subject.emulated or program is None:
        return {"skipped": "emulated" if subject.emulated else "compute-sanitizer was not found"}
    rows, wrong = [], []
    for tool in TOOLS:
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND), sys.executable]
        command += ["-m", "benchmarks.gpu.sanitizer", subject.name]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            wrong.append(f"{tool}: not done after {SECONDS} s")
            continue
        output = done.stdout + done.stderr
        summary = SUMMARY.findall(output)
        rows.append({"tool": tool, "code": done.returncode, "summary": summary})
        if done.returncode:
            rows[-1]["output"] = output[-4000:]
            wrong.append(f"{tool}: exit code {done.returncode} {' '.join(summary)}")
    if wrong:
        raise Failed("; ".join(wrong), rows=rows)
    return {"rows": rows}


def _program() -> str | None:
    places = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    path = os.pathsep.join([os.environ.get("PATH", ""), *(f"{p}/bin" for p in places if p)])
    return shutil.which("compute-sanitizer", path=path)


def watched(subject: Subject) -> None:
    """All ops and updates, the scan with arrays of their own, and a training step; all small."""
    from benchmarks.gpu import kernels, network
    from tests.cuda_on_cpu.scan import run_scan

    if not subject.emulated:
        subject.xp.cuda.set_allocator(None)  # no pool: what lies behind an array is not ours
    with subject.active():
        for lengths, channels, states in (((20, 1, 18), 37, 17), ((33, 16), 130, 16)):
            run_scan(subject.backend.kernels, subject.xp, lengths, channels, states, "float32")
        with mapped(subject.backend.kernels, "serial"):
            run_scan(subject.backend.kernels, subject.xp, (20, 1, 18), 130, STATES, "float32")
    kernels.run(Subject(subject.name, emulated=True))  # tiny sizes
    network.determinism(Subject(subject.name, emulated=True))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(ROOT)))
    chosen = sys.argv[1] if len(sys.argv) > 1 else "cuda:0"
    watched(rehearsal() if chosen == "emulated" else Subject(chosen))
