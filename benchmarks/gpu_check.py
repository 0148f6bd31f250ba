"""calmgrad's CUDA kernels on a real GPU: are they right, and how fast are they?

    python -m benchmarks.gpu_check [--peer PYTHON_WITH_CALM_MAMBA] [PHASE ...]

Some ten minutes. The phases do not depend on each other: after one that fails, the next is run.
Each is a process of its own, for after a kernel's bad access no other can run in that process, and
is ended where it takes too long, for a kernel may wait for ever. Each writes a JSON file as soon as
it is done. Exit code 1 if a phase has failed.

--emulate runs it all at tiny sizes on the tests' stand-in for a GPU, which needs only a C++
compiler: so that the script itself is known to work. Its times measure nothing.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import (
    about,
    build,
    gradients,
    graph,
    kernels,
    network,
    precision,
    sanitizer,
    steps,
    timings,
)
from benchmarks.gpu.subject import Failed, Subject, rehearsal
from benchmarks.options import ROOT
from benchmarks.result_files import read, write
from calmgrad.errors import DeviceError

PHASES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "about": about.run,
    "build": build.run,
    "kernels": kernels.run,
    "gradcheck": gradients.run,
    "golden": network.golden,
    "parity": network.parity,
    "precision": precision.run,
    "determinism": network.determinism,
    "graph": graph.run,
    "sanitizer": sanitizer.run,
    "timings": timings.run,
    "steps": steps.run,
}
SECONDS = {"sanitizer": 480, "steps": 420}  # that a phase may take
MOST_SECONDS = 200  # that any other may
UNFINISHED = "unfinished"  # the outcome of what a phase keeps before its end
MESSAGE = 1000  # characters of it on the screen; the file has them all
RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    arguments = parse()
    subject = rehearsal() if arguments.emulate else Subject(arguments.device)
    subject = Subject(subject.name, subject.emulated, arguments.peer)
    try:
        folder = arguments.output or default_folder(subject)
    except DeviceError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return error.exit_code
    began = time.perf_counter()
    summary: dict[str, Any] = {"emulated": subject.emulated, "phases": {}}
    for number, name in enumerate(PHASES):
        if arguments.phases and name not in arguments.phases:
            continue
        path = folder / f"{number:02d}-{name}.json"
        together = subject.emulated or arguments.together
        result = one(name, subject, path) if together else apart(name, path, arguments)
        write(path, result)
        summary["phases"][name] = {key: result[key] for key in ("outcome", "seconds", "message")}
        summary["seconds"] = time.perf_counter() - began
        write(folder / "summary.json", summary)
        told = f"{name}: {result['outcome']}, {result['seconds']:.1f} s"
        message = " ".join(result["message"].split())[:MESSAGE]
        print(f"{told}: {message}" if message else told, flush=True)
        for line in table(name, result):
            print(f"  {line}")
    print(f"{summary['seconds']:.0f} s; results in {folder}")
    return int(any(phase["outcome"] == "failed" for phase in summary["phases"].values()))


def one(name: str, subject: Subject, path: Path) -> dict[str, Any]:
    """Run a phase; what it found, whether it passed, and how long it took.

    What it keeps before its end is written to `path`.
    """
    began = time.perf_counter()
    result: dict[str, Any] = {"phase": name, "outcome": "passed", "message": ""}
    result["emulated"] = subject.emulated
    if subject.emulated:
        result["times"] = "emulated, not a measurement"

    def keep(found: dict[str, Any]) -> None:
        write(path, found | result | {"outcome": UNFINISHED})

    try:
        found = PHASES[name](replace(subject, keep=keep))
        if "skipped" in found:
            result |= {"outcome": "skipped", "message": found["skipped"]}
    except Failed as failure:
        result |= {"outcome": "failed", "message": str(failure)}
        found = failure.found
    except Exception as error:
        last = "".join(traceback.format_exception_only(error)).strip()
        result |= {"outcome": "failed", "message": last}
        found = {"traceback": traceback.format_exc()}
    result["seconds"] = time.perf_counter() - began
    return found | result


def apart(name: str, path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`one`, in a process of its own; what it has written to `path`, or how it ended without."""
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--together", name]
    command += ["--device", arguments.device, "--output", str(path.parent.absolute())]
    command += ["--peer", arguments.peer] if arguments.peer else []
    seconds, began = SECONDS.get(name, MOST_SECONDS), time.perf_counter()
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=told, stderr=told, start_new_session=True
        )
        try:
            code = process.wait(seconds)
            ended = f"ended with code {code}"
        except subprocess.TimeoutExpired:
            ended = f"not done after {seconds} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # it and the programs it has started
                process.wait()
        told.seek(0)
        output = told.read()
    result = read(path)
    if result.get("outcome", UNFINISHED) != UNFINISHED:
        return result
    return result | {
        "phase": name, "outcome": "failed", "message": ended, "output": output[-4000:],
        "emulated": False, "seconds": time.perf_counter() - began,
    }  # fmt: skip


def table(name: str, result: dict[str, Any]) -> list[str]:
    """The lines worth seeing on the screen."""
    rows = result.get("rows", [])
    if name == "timings":
        return [
            f"{r['size']:6} {r['shape']:7} {r['op']:38} {r['us_median']:9.1f} us"
            f"  {r['of_floor']:6.1%} of {result['copy_gb_per_second']:,.0f} GB/s"
            for r in rows
        ]
    if name == "graph":
        return [
            f"{r['size']:6} {r['shape']:7} {how:20} {r[f'{how}_ms_median']:9.3f} ms"
            for r in result.get("steps", [])
            for how in ("eager", "replayed")
        ]
    if name == "steps":
        return [
            f"{r['size']:6} {r['shape']:7} {who:20} {found['ms_median']:9.3f} ms"
            + "".join(
                f"  {ratio:.1f}x {theirs}"
                for theirs, ratio in r.get("times_faster", {}).get(who, {}).items()
            )
            for r in rows
            for who, found in r.items()
            if isinstance(found, dict) and "ms_median" in found
        ]
    return []


def default_folder(subject: Subject) -> Path:
    """benchmarks/results/gpu-NAME; what was not measured goes elsewhere."""
    if subject.emulated:
        return Path(tempfile.mkdtemp(prefix="gpu_check-"))
    return RESULTS / ("gpu-" + re.sub(r"[^a-z0-9]+", "-", subject.device.name.lower()).strip("-"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("phases", nargs="*", metavar="PHASE", help=f"of {', '.join(PHASES)}")
    parser.add_argument("--device", default="cuda:0", help="cuda:0 if not given")
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment with calm-mamba")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for the JSON files")
    parser.add_argument("--together", action="store_true", help="all phases in this process")
    parser.add_argument("--emulate", action="store_true", help="a rehearsal, without a GPU")
    arguments = parser.parse_args()
    unknown = set(arguments.phases) - set(PHASES)
    if unknown:
        parser.error(f"no phase {', '.join(sorted(unknown))}: there are {', '.join(PHASES)}")
    output = arguments.output
    if arguments.emulate and output and output.resolve().is_relative_to(RESULTS.resolve()):
        parser.error("--emulate measures nothing: its results do not go to benchmarks/results")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
