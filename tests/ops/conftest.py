"""The ops run on one backend more: the CUDA kernels, on the CPU."""

import pytest

from calmgrad.backend import NAMES, Backend, load
from tests.cuda_on_cpu.device import compiler, emulated


@pytest.fixture(params=[*NAMES, "cuda-on-cpu"], scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    if request.param in NAMES:
        return load(request.param)
    if compiler() is None:
        pytest.skip("no C++ compiler to run CUDA kernels on the CPU")
    return emulated()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """General arithmetic has no kernels of its own: it says nothing about CUDA."""
    items[:] = [
        item
        for item in items
        if not (
            "cuda-on-cpu" in item.name and ("basic." in item.name or "/test_basic" in item.nodeid)
        )
    ]
