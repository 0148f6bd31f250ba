"""The whole fault suite, for hours or minutes, and its report.

    python -m tests.faults                       every part, in full: about half an hour
    python -m tests.faults --only kills,signals
    python -m tests.faults --report faults.json

Each part is a process of its own and can be run alone: `python -m tests.faults.kills --help`.
Exit code 1 if anything was lost.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# Part, arguments, and whether it runs in memory: where flushing to a disk shows nothing more.
PARTS: dict[str, tuple[str, list[str], bool]] = {
    "kills": ("kills", ["--count=440"], False),
    "kills of the command": ("kills", ["--count=60", "--command=1"], False),
    "signals": ("signals", ["--count=100"], False),
    "resume at every step": ("resuming", ["--count=40"], False),
    "failing operations": ("disk", ["--every=1"], True),
    "full disks": ("room", ["--count=20"], True),
    "power cuts": ("power", ["--count=20000"], True),
    "damaged checkpoints": ("mutations", ["--count=50000"], True),
    "soak": ("soak", ["--steps=100000"], False),
}


def run_part(name: str) -> dict[str, Any]:
    """What one part finds."""
    module, arguments, memory = PARTS[name]
    command = [sys.executable, "-m", f"tests.faults.{module}", *arguments]
    command += ["--memory"] if memory else []
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        return {"wrong": [f"ended with {done.returncode} and no report"]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run the parts and print the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="parts, separated by commas", default=",".join(PARTS))
    parser.add_argument("--report", type=Path, help="write the report to this file too")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    for name in arguments.only.split(","):
        print(f"{name} …", file=sys.stderr, flush=True)
        report[name] = run_part(name)
        if arguments.report is not None:
            arguments.report.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    lost = [name for name, found in report.items() if isinstance(found, dict) and found["wrong"]]
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
