"""The fault suite, short: each part in seconds, in memory. `python -m tests.faults` is the long."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.report import memory_disk

ROOT = Path(__file__).parents[2]

# Part -> its size here. The fault suite alone reaches the sizes of docs/reliability.md.
QUICK = {
    "resuming": ["--count=8"],
    "kills": ["--count=40"],
    "signals": ["--count=10"],
    "disk": ["--every=80"],
    "power": ["--count=300"],
    "mutations": ["--count=1000"],
    "soak": ["--steps=1000"],
    "room": ["--count=1"],
}


@pytest.mark.parametrize("part", QUICK)
def test_nothing_is_lost(part: str) -> None:
    """Each in a process of its own, as the whole suite runs it: some fork, some mount."""
    from calmgrad.kernels.cpu.compile import FOLDER

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    if FOLDER is not None:
        environment["CALMGRAD_CACHE_DIR"] = str(FOLDER.parent)
    command = [sys.executable, "-m", f"tests.faults.{part}", *QUICK[part]]
    command += ["--memory"] if memory_disk() else []
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["wrong"] == []
    assert done.returncode == 0
    if "skipped" in found:
        pytest.skip(found["skipped"])
