"""A GPU as the launchers see it: memory, compiled kernels, and products.

`CupyDevice` is the real one. The tests have another, which runs the same CUDA source on the CPU;
so nothing outside this file imports CuPy.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np

from calmgrad.kernels.protocol import Array, ArrayModule

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bf16")

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
        """Inside, this thread's arrays and launches are this device's."""
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
        from cupy_backends.cuda.libs import cublas, nvrtc

        count = cupy.cuda.runtime.getDeviceCount()
        if index >= count:
            there = ", ".join(f"cuda:{i}" for i in range(count))
            raise IndexError(f"there is no cuda:{index}, only {there}")
        nvrtc.getVersion()  # loads it: kernels are compiled when they are first used
        self.xp: ArrayModule = cupy
        self.index, self.precision = index, precision
        self.name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
        self._cublas = cublas
        self._compute = {
            "float32": cublas.CUBLAS_COMPUTE_32F,
            "tf32": cublas.CUBLAS_COMPUTE_32F_FAST_TF32,
            "bf16": cublas.CUBLAS_COMPUTE_32F_FAST_16BF,
        }[precision]
        self._module = cache(self._compile)

    def active(self) -> AbstractContextManager[Any]:
        return self.xp.cuda.Device(self.index)  # type: ignore[no-any-return]

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
        return self.xp.RawModule(code=source, options=("-std=c++17",))

    def gemm(self, out: Array, a: Array, b: Array, beta: float) -> None:
        # cuBLAS counts in columns: it sees every matrix of ours as its transpose, and makes
        # out.T = b.T @ a.T.
        cublas, double = self._cublas, out.dtype == np.float64
        b_op, b_row = _as_columns(b)
        a_op, a_row = _as_columns(a)
        one, factor = (np.array(x, out.dtype) for x in (1.0, beta))
        kind = CUDA_R_64F if double else CUDA_R_32F
        cublas.gemmEx(
            self.xp.cuda.device.get_cublas_handle(), b_op, a_op,
            out.shape[1], out.shape[0], a.shape[1], one.ctypes.data,
            b.data.ptr, kind, b_row, a.data.ptr, kind, a_row,
            factor.ctypes.data, out.data.ptr, kind, _as_columns(out)[1],
            cublas.CUBLAS_COMPUTE_64F if double else self._compute, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip


CUDA_R_32F, CUDA_R_64F = 0, 1  # cudaDataType
NORMAL, TRANSPOSED = 0, 1  # cublasOperation_t


def _as_columns(x: Array) -> tuple[int, int]:
    """How cuBLAS reads the transpose of `x`: operation and leading dimension."""
    rows, columns = (s // x.itemsize for s in x.strides)
    if columns == 1 or x.shape[1] == 1:
        return NORMAL, max(rows, x.shape[1])
    return TRANSPOSED, max(columns, x.shape[0])
