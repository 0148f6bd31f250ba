"""Which array module and which kernels a tape runs on."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, cast

import numpy as np

from calmgrad import devices
from calmgrad.errors import DeviceError, OutOfMemoryError
from calmgrad.kernels.cuda.cublas import CublasError
from calmgrad.kernels.cuda.device import PRECISIONS, Device, Precision
from calmgrad.kernels.protocol import Array, ArrayModule, Kernels

Name = Literal["reference", "cpu", "cuda"]
NAMES: tuple[Name, ...] = ("reference", "cpu")  # those that every machine has


@dataclass(frozen=True, slots=True)
class Backend:
    """An array module (NumPy or CuPy) and the kernels that go with it.

    Attributes:
        device: the GPU; None: arrays are the host's.
    """

    name: Name
    xp: ArrayModule
    kernels: Kernels
    device: Device | None = None

    def active(self) -> AbstractContextManager[Any]:
        """Around all that is done with arrays of a device, in whichever thread.

        Raises:
            OutOfMemoryError: the device has no room for an array.
        """
        return nullcontext() if self.device is None else _active(self.device)

    @property
    def where(self) -> str:
        """ "cpu" or "cuda:0"."""
        return "cpu" if self.device is None else f"cuda:{self.device.index}"

    @property
    def told(self) -> str:
        """The device in half a line."""
        return "cpu" if self.device is None else f"{self.where} ({self.device.name})"


def load(name: str, precision: Precision = "float32") -> Backend:
    """A backend: `reference` (whole arrays), `cpu` (Numba), `cuda` or `cuda:1` (CuPy).

    Args:
        precision: of a GPU's products: "float32", or "tf32" or "bf16", which round the factors.

    Raises:
        ValueError: there is no backend, or precision, of this name.
        DeviceError: what is missing for it.
    """
    if precision not in PRECISIONS:
        expected = ", ".join(PRECISIONS)
        raise ValueError(f"matmul_precision {precision!r}: expected one of {expected}")
    if name in NAMES:
        return _on_host(name)
    if name.partition(":")[0] != "cuda":
        known = ", ".join((*NAMES, "cuda"))
        raise ValueError(f"unknown backend {name!r}: expected one of {known}")
    index = devices.resolve(name).index
    assert index is not None
    return _on_device(index, precision)


@cache
def _on_host(name: Name) -> Backend:
    return Backend(name, np, cast(Kernels, import_module(f"calmgrad.kernels.{name}")))


@cache
def _on_device(index: int, precision: Precision) -> Backend:
    device = devices.open_device(index, precision)
    with _active(device):
        kernels = import_module("calmgrad.kernels.cuda").CudaKernels(device)
    return Backend("cuda", device.xp, kernels, device)


@contextmanager
def _active(device: Device) -> Iterator[None]:
    try:
        with device.active():
            yield
    except MemoryError as error:
        text = " ".join(str(error).split())
        raise OutOfMemoryError(f"cuda:{device.index} ({device.name}): {text}") from error
    except CublasError as error:
        raise DeviceError(f"cuda:{device.index} ({device.name}): {error}") from error


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


_lock = threading.Lock()
_inside = 0  # blocks that want BLAS at one thread
_limit: Any = None


def _take_control() -> None:
    """Newer releases of threadpoolctl obey the first thread that asks and no other: be that one."""
    for library in _blas().lib_controllers:
        forget = getattr(library, "clear_controlling_thread", None)
        if forget is not None:
            forget(force=True)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """A block in which BLAS uses the calling thread alone.

    Shards are the unit of parallel work; and BLAS gives other bytes with another number of
    threads, so one thread is also what makes runs repeat. The setting is the process's: when
    several threads are in such blocks, the first in sets it and the last out puts it back.
    """
    global _inside, _limit
    with _lock:
        if _inside == 0:
            _take_control()
            _limit = _blas().limit(limits=1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _take_control()
                _limit.restore_original_limits()


def silent_overflow() -> Any:
    """A context in which this thread's NumPy says nothing of infinities and NaN.

    They travel through every op to the loss and the gradient, where they are looked for.
    """
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def to_numpy(array: Array) -> Any:
    """The array on the host."""
    return array.get() if hasattr(array, "get") else array
