"""Which device a name means, and what is told when it cannot be used."""

import errno
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import calmgrad
from calmgrad import backend as backends
from calmgrad import devices, nvidia
from calmgrad.cli import doctor_gpu
from calmgrad.errors import DeviceError, OutOfMemoryError
from calmgrad.kernels.cuda.device import CupyDevice
from calmgrad.nvidia import Driver
from tests.cuda_on_cpu.device import EmulatedDevice
from tests.cuda_on_cpu.fixtures import stand_in

__all__ = ["stand_in"]

GPU = Driver((13, 0), 2)
NONE = Driver(None, 0, "libcuda.so.1: cannot open shared object file")


class CUDARuntimeError(RuntimeError):
    """As CuPy's: its text begins with the name of CUDA's error."""


class DynamicLibNotFoundError(RuntimeError):
    """As cuda.pathfinder's."""


Machine = Callable[..., None]


def around(*_: Any, **__: Any) -> AbstractContextManager[None]:
    """In the place of CuPy's Device and Stream."""
    return nullcontext()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes a machine: driver, CuPys, and what goes wrong in CuPy."""

    def make(driver: Driver, cupys: list[str], **raising: BaseException) -> None:
        def failing(name: str, value: Any) -> Callable[..., Any]:
            def call(*_: Any) -> Any:
                if name in raising:
                    raise raising[name]
                return value

            return call

        monkeypatch.setattr(nvidia, "driver", lambda: driver)
        monkeypatch.setattr(nvidia, "cupy_distributions", lambda: dict.fromkeys(cupys, "14.2.0"))
        monkeypatch.setattr(devices, "find_spec", lambda _: cupys or None)
        monkeypatch.setattr(CupyDevice, "memory", failing("memory", (1 << 30, 1 << 31)))
        monkeypatch.delenv(devices.ENVIRONMENT, raising=False)
        runtime = SimpleNamespace(
            getDeviceCount=failing("count", driver.devices),
            getDeviceProperties=lambda _: {"name": b"NVIDIA H200"},
            runtimeGetVersion=lambda: 13020,
        )
        cuda = SimpleNamespace(runtime=runtime, Device=around, Stream=around)
        modules = {
            "cupy": {"cuda": cuda},
            "cupy_backends": {},
            "cupy_backends.cuda": {},
            "cupy_backends.cuda.api": {"runtime": runtime},
            "cupy_backends.cuda.libs": {
                "cublas": SimpleNamespace(__file__="cublas.so"),
                "nvrtc": SimpleNamespace(getVersion=failing("nvrtc", (13, 0))),
            },
        }
        for name, values in modules.items():
            module = ModuleType(name)
            vars(module).update(values)
            monkeypatch.setitem(sys.modules, name, module)
        if "load" in raising:
            monkeypatch.setitem(sys.modules, "cupy", None)
        backends._on_device.cache_clear()

    return make


@pytest.mark.parametrize(
    ("driver", "cupys", "raising", "message", "fix"),
    [
        (GPU, [], {}, "CuPy is not installed", "-m pip install 'calmgrad[cuda13x]'"),
        (Driver((12, 4), 1), [], {}, "CuPy is not installed", "-m pip install 'calmgrad[cuda12x]'"),
        (NONE, [], {}, "CuPy is not installed", "-m pip install 'calmgrad[cuda12x]'"),
        (
            GPU,
            ["cupy-cuda12x", "cupy-cuda13x"],
            {},
            "2 CuPys overwrite each other: cupy-cuda12x 14.2.0, cupy-cuda13x 14.2.0",
            "-m pip uninstall -y cupy-cuda12x cupy-cuda13x && ",
        ),
        (GPU, ["cupy-cuda13x"], {"load": ImportError()}, "CuPy cannot be loaded", "[ctk]'"),
        (
            NONE,
            ["cupy-cuda13x"],
            {"count": CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is")},
            "no NVIDIA driver was found (libcuda.so.1",
            "",
        ),
        (
            Driver((12, 4), 1),
            ["cupy-cuda13x"],
            {"count": CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is")},
            "cupy-cuda13x needs CUDA 13, the NVIDIA driver runs up to 12.4",
            "-m pip install 'calmgrad[cuda12x]'",
        ),
        (
            Driver((11, 8), 1),
            ["cupy-cuda12x"],
            {"count": CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is")},
            "the NVIDIA driver runs CUDA up to 11.8, expected 12 or newer",
            "install a newer driver",
        ),
        (
            Driver((13, 0), 0),
            ["cupy-cuda13x"],
            {"count": CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")},
            "the NVIDIA driver finds no GPU",
            "--gpus all",
        ),
        (
            GPU,
            ["cupy-cuda13x"],
            {"nvrtc": DynamicLibNotFoundError('Failure finding "libnvrtc.so"')},
            "NVRTC",
            "-m pip install 'cupy-cuda13x[ctk]'",
        ),
        (
            GPU,
            ["cupy-cuda13x"],
            {"nvrtc": RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: libnvrtc.so.13")},
            "NVRTC",
            "-m pip install 'cupy-cuda13x[ctk]'",
        ),
        (
            GPU,
            ["cupy-cuda13x"],
            {"count": ImportError('Failure finding "libcublasLt.so.13": No such file')},
            "cuBLAS) is missing",
            "-m pip install 'cupy-cuda13x[ctk]'",
        ),
        (
            GPU,
            ["cupy-cuda13x"],
            {"count": CUDARuntimeError("cudaErrorUnknown: two\nlines")},
            "cudaErrorUnknown: two lines",
            "",
        ),
        (
            GPU,
            ["cupy-cuda13x"],
            {"memory": CUDARuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is")},
            "another program has the GPU for itself",
            "nvidia-smi",
        ),
        (
            GPU,
            ["cupy-cuda13x"],
            {"memory": CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")},
            "no memory is left on the GPU",
            "nvidia-smi",
        ),
    ],
)
def test_what_a_gpu_lacks(
    machine: Machine,
    driver: Driver,
    cupys: list[str],
    raising: dict[str, BaseException],
    message: str,
    fix: str,
) -> None:
    machine(driver, cupys, **raising)
    with pytest.raises(DeviceError) as told:
        calmgrad.Trainer(calmgrad.new_model(d_model=4, n_layers=1), device="cuda")
    text = str(told.value)
    assert text.startswith("device cuda: ")
    assert message in text
    assert fix in text
    assert "\n" not in text
    assert told.value.exit_code == 2


def test_a_kernel_cache_that_cannot_be_written(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(GPU, ["cupy-cuda13x"])
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "new" / "folder"))
    devices.open_device(0, "float32")
    (tmp_path / "file").touch()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "file" / "kernels"))
    with pytest.raises(DeviceError, match=r"file/kernels: CuPy cannot write .* CUPY_CACHE_DIR"):
        devices.open_device(0, "float32")


def test_a_kernel_cache_in_a_folder_of_somebody_else(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which may not even be looked into: HOME is another user's."""
    machine(GPU, ["cupy-cuda13x"])
    private = tmp_path / "private"
    private.mkdir()
    stat, access = os.stat, os.access

    def no_stat(path: Any, **rest: Any) -> os.stat_result:
        if str(path).startswith(f"{private}/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **rest)

    monkeypatch.setattr(os, "stat", no_stat)
    monkeypatch.setattr(os, "access", lambda path, mode: path != private and access(path, mode))
    monkeypatch.setenv("CUPY_CACHE_DIR", str(private / "kernels"))
    with pytest.raises(DeviceError, match=r"private/kernels: CuPy cannot write"):
        devices.open_device(0, "float32")


def test_there_are_only_so_many(machine: Machine) -> None:
    machine(GPU, ["cupy-cuda13x"])
    with pytest.raises(DeviceError, match=r"there is no cuda:2, only cuda:0, cuda:1"):
        devices.open_device(2, "float32")
    device = devices.open_device(1, "float32")
    assert (device.name, device.index, device.precision) == ("NVIDIA H200", 1, "float32")


def test_threads_take_turns_on_a_device(machine: Machine) -> None:
    """Else one's launches would get into the graph that another captures on the same stream."""
    machine(GPU, ["cupy-cuda13x"])
    device = devices.open_device(0, "float32")
    entered = threading.Event()

    def enter() -> None:
        with device.active():
            entered.set()

    other = threading.Thread(target=enter, daemon=True)
    with device.active(), device.active():
        other.start()
        assert not entered.wait(0.1)
    assert entered.wait(10)
    other.join()


def test_other_errors_are_not_hidden(machine: Machine) -> None:
    machine(GPU, ["cupy-cuda13x"], nvrtc=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        devices.open_device(0, "float32")


def test_auto_takes_a_gpu_that_works(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(GPU, ["cupy-cuda13x"])
    assert devices.resolve("auto").name == "cuda:0"
    monkeypatch.setenv(devices.ENVIRONMENT, "cpu")
    assert devices.resolve("auto") == devices.Choice(None)
    monkeypatch.setenv(devices.ENVIRONMENT, "cuda:1")
    assert devices.resolve("auto").name == "cuda:1"
    assert devices.resolve("cpu").name == "cpu"
    monkeypatch.setenv(devices.ENVIRONMENT, "tpu")
    with pytest.raises(DeviceError, match="CALMGRAD_DEVICE='tpu': expected auto, cpu"):
        devices.resolve("auto")


def test_auto_takes_the_cpu_where_none_works_and_says_why(machine: Machine) -> None:
    machine(GPU, [])
    chosen = devices.resolve("auto")
    assert chosen.name == "cpu"
    assert chosen.why.startswith("there is a GPU, but CuPy is not installed: ")
    unavailable = CUDARuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are")
    machine(GPU, ["cupy-cuda13x"], memory=unavailable)
    chosen = devices.resolve("auto")
    assert (chosen.name, "another program" in chosen.why) == ("cpu", True)
    machine(NONE, ["cupy-cuda13x"], load=AssertionError("CuPy is loaded for nothing"))
    assert devices.resolve("auto") == devices.Choice(None)


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "", "cuda:0000"])
def test_names(name: str) -> None:
    with pytest.raises(ValueError, match="expected auto, cpu, cuda, or cuda:1"):
        devices.resolve(name)


def test_backends(stand_in: EmulatedDevice) -> None:
    assert backends.load("cuda") is backends.load("cuda:0")
    assert backends.load("cuda", "tf32") is not backends.load("cuda")
    assert backends.load("cuda:1").told == "cuda:1 (emulated)"
    assert backends.load("cpu").where == "cpu"
    with pytest.raises(ValueError, match="unknown backend 'rocm'"):
        backends.load("rocm")
    with pytest.raises(ValueError, match="matmul_precision 'fp8': expected one of float32"):
        backends.load("cuda", "fp8")  # type: ignore[arg-type]


def test_out_of_memory_has_its_own_error(stand_in: EmulatedDevice) -> None:
    backend = backends.load("cuda")
    with pytest.raises(OutOfMemoryError, match=r"cuda:0 \(emulated\): Out of memory"):
        with backend.active():
            raise MemoryError("Out of memory allocating\n512 bytes")


# --- calmgrad doctor ----------------------------------------------------------------------------


def looked_at() -> dict[str, tuple[str, str, str]]:
    return {c.name: (c.state, c.text, c.fix) for c in doctor_gpu.check_gpu()}


def test_doctor_sees_each_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(GPU, ["cupy-cuda13x"])
    monkeypatch.setattr(CupyDevice, "memory", lambda _: (10**11, 14 * 10**10))
    found = looked_at()
    assert found["CUDA toolkit"] == ("ok", "NVRTC 13.0, CUDA runtime 13.2, cuBLAS", "")
    for name in ("cuda:0", "cuda:1"):
        assert found[name] == ("ok", "NVIDIA H200, 100.0 GB free of 140.0 GB", "")
    assert found["GPU"][1].startswith("2 NVIDIA GPU(s)")


def test_doctor_sees_what_lacks(machine: Machine) -> None:
    machine(GPU, ["cupy-cuda13x"], nvrtc=DynamicLibNotFoundError("no\nlibnvrtc"))
    found = looked_at()
    assert found["CUDA toolkit"][0] == "problem"
    assert "\n" not in found["CUDA toolkit"][1]
    assert found["CUDA toolkit"][2].endswith("-m pip install 'cupy-cuda13x[ctk]'")
    assert found["cuda:0"][0] == "problem"
    machine(Driver((11, 8), 1), ["cupy-cuda12x"])
    assert looked_at()["GPU"][0] == "problem"
    machine(GPU, ["cupy-cuda12x", "cupy-cuda13x"])
    assert list(looked_at()) == ["GPU", "CuPy"]
