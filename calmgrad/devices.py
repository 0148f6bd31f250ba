"""Which device to compute on, by name; and one clear line when it cannot be used.

"cpu"; "cuda", the first GPU; "cuda:1", the second; "auto": what CALMGRAD_DEVICE says, else the
first GPU when there are one and CuPy, else the CPU.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from calmgrad import nvidia
from calmgrad.errors import DeviceError
from calmgrad.kernels.cuda.device import CupyDevice, Device, Precision

ENVIRONMENT = "CALMGRAD_DEVICE"


@dataclass(frozen=True, slots=True)
class Choice:
    """A device, and why it was chosen.

    Attributes:
        index: of the GPU; None: the CPU.
        why: why "auto" did not take a GPU though there is one; else empty.
    """

    index: int | None
    why: str = ""

    @property
    def name(self) -> str:
        """ "cpu", "cuda:0", …"""
        return "cpu" if self.index is None else f"cuda:{self.index}"


def resolve(name: str) -> Choice:
    """The device that a name means; whether a GPU named here works is told by `open_device`.

    Raises:
        ValueError: no such name.
        DeviceError: CALMGRAD_DEVICE holds none.
    """
    wanted = os.environ.get(ENVIRONMENT) or name if name == "auto" else name
    if wanted == "cpu":
        return Choice(None)
    if match := re.fullmatch(r"cuda(?::(\d{1,3}))?", wanted):
        return Choice(int(match[1] or 0))
    if wanted == "auto":
        return _automatic()
    expected = "expected auto, cpu, cuda, or cuda:1 for the second GPU"
    if wanted != name:
        raise DeviceError(f"{ENVIRONMENT}={wanted!r}: {expected}")
    raise ValueError(f"device {name!r}: {expected}")


def _automatic() -> Choice:
    if nvidia.driver().devices == 0:
        return Choice(None)
    try:
        open_device(0, "float32")
    except DeviceError as error:
        return Choice(None, f"there is a GPU, but {str(error).removeprefix('device cuda: ')}")
    return Choice(0)


def open_device(index: int, precision: Precision) -> Device:
    """GPU number `index`. Tests put another device in its place.

    Raises:
        DeviceError: what is missing, and the command that mends it where there is one.
    """
    _check_installed()
    _check_kernel_cache()
    with _told():
        device = CupyDevice(precision, index)
        device.memory()  # the first work for it: fails where others hold the GPU, or all its memory
        return device


def _check_installed() -> None:
    """CuPy is there, once."""
    cupys = nvidia.cupy_distributions()
    if len(cupys) > 1:
        names = ", ".join(f"{name} {version}" for name, version in cupys.items())
        fix = nvidia.replace_cupy(cupys, nvidia.driver().cuda)
        raise DeviceError(f"device cuda: {len(cupys)} CuPys overwrite each other: {names}: {fix}")
    if find_spec("cupy") is None:
        fix = nvidia.install_cupy(nvidia.driver().cuda)
        raise DeviceError(f"device cuda: CuPy is not installed: {fix}")


def _check_kernel_cache() -> None:
    """CuPy can write where it keeps compiled kernels; it would fail in the middle of a step."""
    chosen = os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")
    folder = Path(os.path.abspath(os.path.expanduser(chosen)))
    # Not Path.exists, which fails inside of a folder that may not be read.
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        raise DeviceError(
            f"device cuda: {folder}: CuPy cannot write its compiled kernels there:"
            " set CUPY_CACHE_DIR to a folder that can be written"
        )


@contextmanager
def _told() -> Iterator[None]:
    """Inside, what CuPy finds missing becomes a DeviceError."""
    try:
        yield
    except IndexError as error:
        raise DeviceError(f"device cuda: {error}") from error
    except Exception as error:
        if (known := _reason(error)) is None:
            raise
        raise DeviceError(f"device cuda: {known}") from error


def _reason(error: Exception) -> str | None:
    """What an error of CuPy means; None: something else than what is foreseen here.

    Its classes are compiled and differ by version, so they are known by name.
    """
    kind = type(error).__name__
    text = " ".join(str(error).split())
    driver, cupys = nvidia.driver(), nvidia.cupy_distributions()
    package = f"'{next(iter(cupys), 'cupy-cuda13x')}[ctk]'"
    if kind == "DynamicLibNotFoundError" or "libcublas" in text or "libnvrtc" in text:
        fix = nvidia.pip(f"install {package}")
        return f"a library of the CUDA toolkit (NVRTC or cuBLAS) is missing: {fix}"
    if isinstance(error, ImportError):
        fix = nvidia.pip(f"install --force-reinstall {package}")
        return f"CuPy cannot be loaded: {text}: {fix}"
    if kind not in ("CUDARuntimeError", "CUDADriverError"):
        return None
    if "InsufficientDriver" in text:
        if driver.cuda is None:
            return f"no NVIDIA driver was found ({driver.why})" if driver.why else "no driver"
        if (reason := nvidia.too_old(driver.cuda)) is not None:
            return reason
        wanted = max((nvidia.made_for(name) or 0 for name in cupys), default=0)
        if wanted <= driver.cuda[0]:
            return f"the NVIDIA driver is too old for {', '.join(cupys)}: install a newer one"
        return (
            f"{', '.join(cupys)} needs CUDA {wanted}, the NVIDIA driver runs up to"
            f" {driver.cuda[0]}.{driver.cuda[1]}: {nvidia.replace_cupy(cupys, driver.cuda)}"
        )
    if "DevicesUnavailable" in text:
        return "another program has the GPU for itself (nvidia-smi shows the compute mode)"
    if "MemoryAllocation" in text:
        return "no memory is left on the GPU (nvidia-smi shows which programs hold it)"
    if "NoDevice" in text:
        return "the NVIDIA driver finds no GPU (in a container: docker run --gpus all)"
    return text
