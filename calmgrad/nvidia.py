"""What of NVIDIA's there is on this machine: driver, GPUs, and the CuPy that goes with them.

Looks without loading CuPy, which takes a second, and without NumPy.
"""

import ctypes
import re
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

OLDEST_CUDA = 12  # major version that a CuPy of ours is made for


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver's library.

    Attributes:
        cuda: newest version of CUDA it can run; None: there is no driver.
        devices: GPUs that it offers.
        why: what went wrong; empty if nothing did.
    """

    cuda: tuple[int, int] | None
    devices: int = 0
    why: str = ""


def driver() -> Driver:
    """The driver, as its library answers."""
    try:
        library: Any = ctypes.CDLL("libcuda.so.1")
        version, count = ctypes.c_int(), ctypes.c_int()
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError) as error:
        return Driver(None, 0, str(error))
    if failed:
        return Driver(None, 0, f"libcuda.so.1 answers with error {failed}")
    cuda = (version.value // 1000, version.value % 1000 // 10)
    failed = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count))
    return Driver(cuda, count.value, f"no usable NVIDIA GPU: CUDA error {failed}" if failed else "")


def cupy_distributions() -> dict[str, str]:
    """Every installed distribution that provides CuPy, and its version."""
    found = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if re.fullmatch(r"cupy|cupy-(cuda|rocm|wheel)[\w.-]*", name):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def made_for(distribution: str) -> int | None:
    """The major version of CUDA a CuPy is made for; None where its name does not say."""
    match = re.fullmatch(r"cupy-cuda(\d\d)\w*", distribution)
    return int(match[1]) if match else None


def pip(arguments: str) -> str:
    """A pip command for this very Python."""
    return f"{shlex.quote(sys.executable)} -m pip {arguments}"


def install_cupy(cuda: tuple[int, int] | None) -> str:
    """The command that installs the CuPy for a driver."""
    return pip(f"install 'calmgrad[cuda{13 if cuda and cuda[0] >= 13 else 12}x]'")


def replace_cupy(cupys: dict[str, str], cuda: tuple[int, int] | None) -> str:
    """The command that puts the CuPy for a driver in the place of others."""
    return f"{pip('uninstall -y ' + ' '.join(cupys))} && {install_cupy(cuda)}"


def too_old(cuda: tuple[int, int] | None) -> str | None:
    """What is wrong with a driver that no CuPy of ours can use; None: nothing is."""
    if cuda is None or cuda[0] >= OLDEST_CUDA:
        return None
    return (
        f"the NVIDIA driver runs CUDA up to {cuda[0]}.{cuda[1]}, expected {OLDEST_CUDA} or newer:"
        " install a newer driver (525 or later)"
    )
