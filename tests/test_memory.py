"""The memory that is told before a run, and what the run then takes."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import calmgrad
from tests.cli.conftest import environment

# A run, then the most memory that this process has had.
RUN = """
import logging, sys
import calmgrad
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
calmgrad.train({
    "model": "new", "size": "nano", "dataset": "train.ctds", "threads": 2,
    "shard_tokens": 2048, "batch_size": 32, "max_steps": 3,
})
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_forecast_of_a_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 256, n) for n in rng.integers(100, 300, 96)]
    calmgrad.write_dataset(tmp_path / "train.ctds", sequences, [0] * len(sequences))
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = float(re.findall(r"^memory +about ([\d,]+) MB", done.stdout, re.MULTILINE)[0])
    used = 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]) / 1e6
    assert told == pytest.approx(used, rel=0.1)
