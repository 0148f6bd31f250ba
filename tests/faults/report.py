"""What each part of the fault suite shares: its arguments, its folder, its report."""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Check = Callable[..., dict[str, Any]]


def memory_disk() -> str | None:
    """A folder in memory, where the quick forms run: flushing costs nothing there."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def report(check: Check, place: str | None = None, **arguments: Any) -> dict[str, Any]:
    """What a check finds, in a folder of its own in `place`; `wrong` must be empty."""
    logging.getLogger("calmgrad").setLevel(logging.ERROR)
    here, began = Path.cwd(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="calmgrad-faults-", dir=place) as folder:
        try:
            found = check(Path(folder), **arguments)
        finally:
            os.chdir(here)
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


def main(check: Check, **defaults: int) -> None:
    """Run one check from the command line; exit code 1 if it finds something."""
    parser = argparse.ArgumentParser()
    for name, value in {**defaults, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--memory", action="store_true", help="in memory instead of on the disk")
    arguments = vars(parser.parse_args())
    place = memory_disk() if arguments.pop("memory") else None
    found = report(check, place, **arguments)
    print(json.dumps(found, indent=2))
    sys.exit(1 if found["wrong"] else 0)
