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
