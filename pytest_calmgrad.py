"""calmgrad's pytest plugin: fixtures for suites of operations and of other engines.

Where calmgrad is installed, every run of pytest loads this module: it imports pytest and nothing
else until a test asks for a fixture. The strategies for hypothesis are in `calmgrad.testing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from calmgrad.backend import Backend
    from calmgrad.gradient_check import GradientErrors
    from calmgrad.tape import Tape


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "calm_backend" in metafunc.fixturenames:
        from calmgrad.backend import NAMES

        metafunc.parametrize("calm_backend", NAMES, indirect=True, scope="session")


@pytest.fixture(scope="session")
def calm_backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn: a test with it runs once for `reference` and once for `cpu`."""
    from calmgrad.backend import load

    return load(request.param)


@pytest.fixture
def calm_tape(calm_backend: Backend) -> Tape:
    """A new float64 tape on each backend."""
    from calmgrad.tape import Tape

    return Tape(calm_backend, "float64")


@pytest.fixture(scope="session")
def calm_gradcheck(calm_backend: Backend) -> Callable[..., GradientErrors]:
    """`calmgrad.gradcheck` on each backend."""
    from functools import partial

    from calmgrad.gradient_check import gradcheck

    return partial(gradcheck, backend=calm_backend.name)
