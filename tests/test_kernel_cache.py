"""Compiled kernels: kept in a private folder, and done without where there is none.

Each test runs a small kernel in a process of its own, with a cache folder of its own.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Two kernels, so that what is said twice would be seen.
RUN = """
import numpy as np
from calmgrad.kernels.cpu import optimizer, gelu
x = np.ones(20, np.float32)
print(optimizer.squared_norm(x))
y = np.empty((1, 20), np.float32)
gelu.gelu_forward(y, x[None])
print(round(float(y[0, 0]), 3))
"""


def run(
    cache: Path, prepare: Callable[[], object] | None = None
) -> "subprocess.CompletedProcess[str]":
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "NUMBA_CPU_NAME")}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env={**kept, "CALMGRAD_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)},
        preexec_fn=prepare,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["20.0", "0.841"]
    return done


def full_disk() -> None:
    """No file can hold a byte: as on a full disk, but for the name of the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_kernels_are_kept_and_found_again(tmp_path: Path) -> None:
    assert run(tmp_path).stderr == ""
    files = sorted(tmp_path.rglob("*.nb[ci]"))
    assert len(files) >= 4
    for folder in tmp_path, *tmp_path.glob("kernels-*"):
        assert folder.stat().st_mode & 0o022 == 0
    times = [file.stat().st_mtime_ns for file in files]
    assert run(tmp_path).stderr == ""
    assert sorted(tmp_path.rglob("*.nb[ci]")) == files
    assert [file.stat().st_mtime_ns for file in files] == times

    for file in files:  # cut short, by a crash say
        file.write_bytes(file.read_bytes()[:40])
    assert run(tmp_path).stderr == ""
    assert all(file.stat().st_size > 40 for file in files)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = run(tmp_path / "file" / "cache").stderr
    assert said.count("RuntimeWarning") == 1
    assert "no private cache folder: kernels are compiled anew in every process" in said


def test_a_folder_that_others_can_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert run(tmp_path).stderr.count("RuntimeWarning") == 1
    assert not list(tmp_path.rglob("*.nb[ci]"))


def test_a_full_disk(tmp_path: Path) -> None:
    said = run(tmp_path, full_disk).stderr
    assert said.count("RuntimeWarning") == 1
    assert "kernels are compiled anew in every process" in said
