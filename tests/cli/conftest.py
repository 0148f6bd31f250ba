"""Running the command line as a user does: another process, its streams and its exit code."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import calmgrad

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(home: Path) -> dict[str, str]:
    """A home without a user model; kernels from the cache of this test run."""
    from calmgrad.kernels.cpu.compile import FOLDER

    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "NUMBA_CPU_NAME")}
    cache = {} if FOLDER is None else {"CALMGRAD_CACHE_DIR": str(FOLDER.parent)}
    return {**inherited, **cache, "HOME": str(home), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("train", …)` in an empty folder; `code` is the exit code it must have.

    `cache` is where kernels are kept, in place of this test run's folder.
    """

    def call(
        *args: object, code: int = 0, cache: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "calmgrad.cli", *map(str, args)]
        env = environment(tmp_path) | ({"CALMGRAD_CACHE_DIR": str(cache)} if cache else {})
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        if code not in (0, 1):
            assert "Traceback" not in done.stderr
        return done

    return call


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set: lines of a tiny language, some with ATN."""
    rng = np.random.default_rng(0)
    words = ["ls", "cd", "git add", "git commit", "make", "vim"]
    sequences, positions = [], []
    for i in range(60):
        line = " ".join(words[k] for k in rng.integers(0, 6, 3)).encode()
        head = [calmgrad.BOS] if i % 3 else [calmgrad.BOS, *b"old", calmgrad.ATN]
        sequences.append([*head, *line, calmgrad.EOS])
        positions.append(0 if i % 3 else 4)
    sequences += [[calmgrad.BOS, 65, calmgrad.EOS], [65] * 900]
    path = tmp_path / "train.ctds"
    calmgrad.write_dataset(path, sequences, [*positions, 0, 0])
    return path
