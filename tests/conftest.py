"""Fixtures for all tests, and how hard hypothesis tries.

CALMGRAD_TEST_PROFILE chooses: `default` draws few examples and the same ones every time, so the
suite is quick and repeats; `thorough` draws many, and new ones every time.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from calmgrad import nvidia
from calmgrad.backend import Backend

pytest_plugins = ["pytest_calmgrad"]  # in a checkout that is not installed, too

ROOT = Path(__file__).parents[1]

if nvidia.driver().devices:  # "auto" means the CPU, also where there is a GPU
    os.environ.setdefault("CALMGRAD_DEVICE", "cpu")

# The first call of a kernel compiles it, which takes seconds; hence no deadlines.
UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "default", max_examples=6, derandomize=True, deadline=None, suppress_health_check=UNHURRIED
)
settings.register_profile(
    "thorough", max_examples=200, deadline=None, suppress_health_check=UNHURRIED
)
settings.load_profile(os.environ.get("CALMGRAD_TEST_PROFILE", "default"))


@pytest.fixture(scope="session")
def backend(calm_backend: Backend) -> Backend:
    """Each backend in turn."""
    return calm_backend


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of notes, formats and golden files beside the project; skips where it is not."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name}/ beside the project")
    return folder


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Waiting for a FIFO or a device fails instead of stopping the suite."""

    def fail(*_: object) -> None:
        raise TimeoutError("hangs")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)
