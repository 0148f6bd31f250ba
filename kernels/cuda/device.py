"""A GPU as the launchers see it: memory, compiled kernels, and products.

`CupyDevice` is the real one. The tests have another, which runs the same CUDA source on the CPU;
so nothing outside this file imports CuPy.
"""

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np

from calmgrad.kernels.cuda.cublas import Cublas, workspace_bytes
from calmgrad.kernels.protocol import Array, ArrayModule

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bf16")
OPTIONS = ("-std=c++17",)  # of the compiler; CuPy adds -ftz=true: floats below 2^-126 are 0

Argument = Array | np.generic  # an array of the device, or a typed number
Triple = tuple[int, int, int]


class Function(Protocol):
    """A compiled kernel; it runs later, in the order of the device's stream."""

    def __call__(self, grid: Triple, block: Triple, arguments: Sequence[Argument]) -> None: ...


class Event(Protocol):
    """A point in the order of a device's work."""

    def record(self) -> None:
        """This point is behind all the work that was given to the device so far."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has come to this point."""
        ...


class Graph(Protocol):
    """Work that was recorded: with the addresses of its arrays, and its numbers as they were."""

    def launch(self) -> None:
        """Do it all, in the order of the device's work."""
        ...


class CaptureError(RuntimeError):
    """Something was asked for that cannot be recorded: memory, or a read by the host."""


class Device(Protocol):
    """What launchers, and the trainer above them, ask of a device.

    Attributes:
        xp: its array module (CuPy, or what stands in for it).
        name: what its maker calls it.
        index: among the devices of the machine, from 0.
        precision: of the products of float32 matrices.
    """

    xp: ArrayModule
    name: str
    index: int
    precision: Precision

    def active(self) -> AbstractContextManager[Any]:
        """Inside, this thread's arrays and launches are this device's; others wait outside."""
        ...

    def memory(self) -> tuple[int, int]:
        """Bytes that can be asked for, and bytes there are in all."""
        ...

    def pinned(self, words: int) -> Any:
        """A NumPy array of int64 that the device can copy from by itself."""
        ...

    def copy_later(self, to: Array, pinned: Any) -> None:
        """Copy a contiguous pinned array to the device, in the order of its work."""
        ...

    def event(self) -> Event: ...

    def capture(self) -> AbstractContextManager[Graph]:
        """`with device.capture() as graph:` what is launched inside is recorded, and not done.

        Allowed are kernels and products that have run before, copies within the device, and
        views. With any error inside, nothing is recorded, and the device goes on as before.
        """
        ...

    def function(self, source: str, entry: str) -> Function:
        """The kernel `entry` of a CUDA source, compiled when it is first asked for."""
        ...

    def gemm(self, out: Array, a: Array, b: Array, beta: float) -> None:
        """out = a @ b + beta * out; matrices with one contiguous axis each."""
        ...


class CupyDevice:
    """A CUDA GPU, through CuPy.

    Args:
        precision: of the products of float32 matrices: "float32"; "tf32" or "bf16" round the
            factors to 10 or 7 bits of mantissa on the tensor cores, and sum in float32.
        index: among the GPUs that CUDA_VISIBLE_DEVICES leaves, from 0.

    Raises:
        ImportError: CuPy cannot be loaded.
        IndexError: there is no such GPU.
        Exception: CuPy's own, for what is missing: a driver, NVRTC, cuBLAS.
    """

    def __init__(self, precision: Precision = "float32", index: int = 0) -> None:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        if index >= count:
            there = ", ".join(f"cuda:{i}" for i in range(count))
            raise IndexError(f"there is no cuda:{index}, only {there}")
        from cupy_backends.cuda.libs import cublas, nvrtc

        nvrtc.getVersion()  # loads it: kernels are compiled when they are first used
        self._depends_on_cublas = cublas.__file__
        self.xp: ArrayModule = cupy
        self.index, self.precision = index, precision
        self.name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
        with cupy.cuda.Device(index):
            # All work is given to it, so that a part of it can be captured.
            self._stream = cupy.cuda.Stream(non_blocking=True)
        # Threads take turns: what one launches while another captures would be captured, too, and
        # the kernels' own buffers serve one at a time.
        self._turn = threading.RLock()
        self._module = cache(self._compile)
        self._products = cache(self._open_cublas)

    @contextmanager
    def active(self) -> Iterator[Any]:
        device = self.xp.cuda.Device(self.index)
        with self._turn, device, self._stream:
            yield device

    def memory(self) -> tuple[int, int]:
        with self.active() as device:
            free, total = device.mem_info
            return free + self.xp.get_default_memory_pool().free_bytes(), total

    def pinned(self, words: int) -> Any:
        with self.active():
            return np.frombuffer(self.xp.cuda.alloc_pinned_memory(8 * words), np.int64, words)

    def copy_later(self, to: Array, pinned: Any) -> None:
        to.data.copy_from_host_async(pinned.ctypes.data, pinned.nbytes)

    def event(self) -> Event:
        return self.xp.cuda.Event(disable_timing=True)  # type: ignore[no-any-return]

    def function(self, source: str, entry: str) -> Function:
        kernel = self._module(source).get_function(entry)

        def launch(grid: Triple, block: Triple, arguments: Sequence[Argument]) -> None:
            kernel(grid, block, tuple(arguments))

        return launch

    def _compile(self, source: str) -> Any:
        return self.xp.RawModule(code=source, options=OPTIONS)

    def gemm(self, out: Array, a: Array, b: Array, beta: float) -> None:
        self._products().gemm(out, a, b, beta)

    def _open_cublas(self) -> Cublas:
        with self.active() as device:
            size = workspace_bytes(int(device.compute_capability))
            workspace = self.xp.empty(size, "uint8")
            # CuPy's module depends on cuBLAS: through it, the same library is found.
            library = ctypes.CDLL(self._depends_on_cublas)
            return Cublas(library, self._stream.ptr, workspace, self.precision)

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        graph = _CupyGraph(self._stream)
        with self.active(), self.xp.cuda.using_allocator(_refuse):
            self._stream.begin_capture()
            try:
                yield graph
            except BaseException:
                with suppress(Exception):  # it may have been invalid already
                    self._stream.end_capture()
                raise
            graph.captured = self._stream.end_capture()


class _CupyGraph:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.captured: Any = None

    def launch(self) -> None:
        self.captured.launch(self._stream)


def _refuse(size: int) -> Any:
    raise CaptureError(f"{size} bytes were asked for while work was recorded")
