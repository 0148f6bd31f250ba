"""The CUDA scan, run on the CPU, against the reference kernels in float64."""

from functools import cache

import numpy as np
import pytest

from calmgrad.backend import load
from calmgrad.kernels.cuda import CudaKernels
from calmgrad.kernels.cuda.selective_scan_serial import Mapping
from calmgrad.kernels.protocol import Array
from tests.cuda_on_cpu.device import EmulatedDevice, compiler
from tests.cuda_on_cpu.scan import run_scan
from tests.ops.helpers import assert_near

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
# Lengths around a chunk, and long ones; channels around a warp and a block; states around a tile.
SIZES = [
    ((1,), 1, 1),
    ((15,), 5, 3),
    ((16,), 31, 16),
    ((17,), 33, 17),
    ((255, 256, 257), 20, 16),
    ((768,), 4, 16),
    ((15, 16, 17, 1, 40), 37, 2),
    ((3, 1, 1, 33), 130, 16),
    ((20, 1, 18), 257, 5),
    ((1, 33), 2, 255),
]
# Of the serial mapping: chunks, a warp, a block of 64 (double) and of 128 (float) and more.
SERIAL_SIZES = [
    ((1,), 1, 16),
    ((15, 16, 17, 1, 40), 65, 16),
    ((49,), 130, 16),
    ((20, 1, 18), 257, 16),
]
MIXED = ((15, 16, 17, 1, 40), 130, 17)


def emulated(
    schedule: int,
    lengths: tuple[int, ...],
    channels: int,
    states: int,
    dtype: str,
    mapping: Mapping = "chunks",
    empty_slots: tuple[int, int] = (0, 0),
) -> dict[str, Array]:
    device = EmulatedDevice(schedule)
    kernels = CudaKernels(device)
    kernels.mapping = mapping
    sizes = (lengths, channels, states, dtype)
    found = run_scan(kernels, device.xp, *sizes, empty_slots=empty_slots)
    assert any("serial" in name for name in device.launches) == (mapping == "serial")
    return found


@cache
def expected(lengths: tuple[int, ...], channels: int, states: int) -> dict[str, Array]:
    return run_scan(load("reference").kernels, np, lengths, channels, states, "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("lengths", "channels", "states"), SIZES)
def test_equals_the_reference(
    lengths: tuple[int, ...], channels: int, states: int, dtype: str
) -> None:
    got = emulated(0, lengths, channels, states, dtype)
    tolerance = TOLERANCE[dtype] * (2 if states > 100 else 1)  # added up one after the other
    for name, right in expected(lengths, channels, states).items():
        assert_near(got[name], right, tolerance, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("lengths", "channels", "states"), SERIAL_SIZES)
def test_the_serial_mapping_equals_the_reference(
    lengths: tuple[int, ...], channels: int, states: int, dtype: str
) -> None:
    got = emulated(0, lengths, channels, states, dtype, "serial")
    for name, right in expected(lengths, channels, states).items():
        assert_near(got[name], right, TOLERANCE[dtype], name)


@pytest.mark.parametrize("empty", [(3, 3), (2, 0), (0, 2)])
@pytest.mark.parametrize("mapping", ["chunks", "serial"])
def test_empty_slots_change_nothing(mapping: Mapping, empty: tuple[int, int]) -> None:
    sizes = ((15, 17, 1, 40), 37, 16)
    plain = emulated(0, *sizes, "float32", mapping)
    for schedule in (0, 3):
        filled = emulated(schedule, *sizes, "float32", mapping, empty_slots=empty)
        for name, array in plain.items():
            assert array.tobytes() == filled[name].tobytes(), name


def test_the_mapping_is_chosen_by_size() -> None:
    kernels = CudaKernels(EmulatedDevice())
    single, double = np.dtype("float32"), np.dtype("float64")
    assert not kernels.is_serial(384, 8, 16, single)
    assert kernels.is_serial(384, 64, 16, single)
    assert not kernels.is_serial(384, 64, 8, single), "of 16 states"
    assert not kernels.is_serial(384, 64, 16, double)
    kernels.mapping = "chunks"
    assert not kernels.is_serial(384, 64, 16, single)
    kernels.mapping = "serial"
    assert kernels.is_serial(1, 1, 16, double)
    assert not kernels.is_serial(1, 1, 8, single)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_serial_mapping_in_every_order_of_threads(dtype: str) -> None:
    sizes = ((15, 17, 1, 20), 130, 16)
    first = emulated(0, *sizes, dtype, "serial")
    for schedule in (1, 2, 3, 4, 9):
        other = emulated(schedule, *sizes, dtype, "serial")
        for name, array in first.items():
            assert array.tobytes() == other[name].tobytes(), (schedule, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bytes_in_every_order_of_threads(dtype: str) -> None:
    first = emulated(0, *MIXED, dtype)
    for schedule in (1, 2, 3, 4, 9):
        other = emulated(schedule, *MIXED, dtype)
        for name, array in first.items():
            assert array.tobytes() == other[name].tobytes(), (schedule, name)


def test_workspace_is_bounded() -> None:
    """In (T, C) arrays of a training batch: one for the gradients of states, and little more."""
    kernels = CudaKernels(EmulatedDevice())
    for channels in (96, 256, 1024):
        size = kernels.selective_scan_workspace(6144, 384, channels, 16)
        assert size <= 1.5 * 6144 * channels
