"""`device="cuda"` on the CPU: what `devices.open_device` opens is put in the place of CuPy's."""

from collections.abc import Iterator

import pytest

from calmgrad import backend as backends
from calmgrad import devices
from calmgrad.kernels.cuda.device import Precision
from tests.cuda_on_cpu import device as emulator
from tests.cuda_on_cpu import recording
from tests.cuda_on_cpu.device import EmulatedDevice
from tests.cuda_on_cpu.stand_in import StandIn


def open_emulated(monkeypatch: pytest.MonkeyPatch, kernels: str) -> Iterator[EmulatedDevice]:
    """From here on "cuda" and "cuda:1" are emulated; gives the first of them."""
    if kernels == "stand-in":
        monkeypatch.setattr("calmgrad.kernels.cuda.CudaKernels", StandIn)
    elif emulator.compiler() is None:
        pytest.skip("no C++ compiler for the CUDA kernels")
    opened: dict[tuple[int, Precision], EmulatedDevice] = {}

    def open_device(index: int, precision: Precision) -> EmulatedDevice:
        device = opened.setdefault((index, precision), EmulatedDevice())
        device.index, device.precision = index, precision
        device.formulas = kernels == "stand-in"
        return device

    monkeypatch.setattr(devices, "open_device", open_device)
    monkeypatch.setattr(recording, "strict", True)
    backends._on_device.cache_clear()
    yield open_device(0, "float32")
    backends._on_device.cache_clear()


@pytest.fixture(params=["stand-in", "emulator"])
def device(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmulatedDevice]:
    """Emulated, with NumPy's formulas, and with the CUDA kernels."""
    yield from open_emulated(monkeypatch, request.param)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedDevice]:
    """Emulated, with NumPy's formulas: for what the kernels have no part in."""
    yield from open_emulated(monkeypatch, "stand-in")
