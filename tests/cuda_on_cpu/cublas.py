"""What stands for the library cuBLAS: C functions that check what they are given, and compute."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from calmgrad.kernels.protocol import Array

OK, NOT_INITIALIZED, INVALID_VALUE = 0, 1, 7
HANDLE = 0xCAFE
REALS: dict[int, Any] = {0: np.float32, 1: np.float64}  # cudaDataType
COMPUTES = {68: 0, 75: 0, 77: 0, 70: 1}  # cublasComputeType_t -> the cudaDataType it is for

_pointer, _int, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t


class FakeCublas:
    """Columns first, as the library counts.

    Attributes:
        log: every call, with what it was given.
        fails: name -> status to give back instead.
    """

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.fails: dict[str, int] = {}
        self.stream: int | None = None
        self.workspace: tuple[int, int] | None = None
        self._kept: list[Any] = []
        self._function("cublasCreate_v2", self._create, ctypes.POINTER(_pointer))
        self._function("cublasDestroy_v2", self._ok, _pointer)
        self._function("cublasSetStream_v2", self._set_stream, _pointer, _pointer)
        self._function("cublasSetWorkspace_v2", self._set_workspace, _pointer, _pointer, _size)
        self._function(
            "cublasGemmEx", self._gemm, _pointer, *[_int] * 5, *[_pointer] * 2, *[_int] * 2,
            _pointer, *[_int] * 2, *[_pointer] * 2, *[_int] * 4,
        )  # fmt: skip
        self.cublasGetStatusString = ctypes.CFUNCTYPE(_pointer, _int)(self._describe)

    def _describe(self, status: int) -> int:
        text = ctypes.create_string_buffer(b"the reason %d" % status)
        self._kept.append(text)
        return ctypes.addressof(text)

    def _function(self, name: str, body: Callable[..., int], *types: Any) -> None:
        def call(*arguments: Any) -> int:
            self.log.append((name, *arguments))
            return self.fails.get(name) or body(*arguments)

        function = ctypes.CFUNCTYPE(_int, *types)(call)
        self._kept.append(function)
        setattr(self, name, function)

    def _create(self, handle: Any) -> int:
        handle[0] = HANDLE
        return OK

    def _ok(self, handle: int) -> int:
        return OK if handle == HANDLE else NOT_INITIALIZED

    def _set_stream(self, handle: int, stream: Any) -> int:
        self.stream, self.workspace = stream, None
        return self._ok(handle)

    def _set_workspace(self, handle: int, start: Any, size: int) -> int:
        self.workspace = (start, size)
        return self._ok(handle)

    def _gemm(
        self, handle: int, a_op: int, b_op: int, m: int, n: int, k: int, alpha: int,
        a: int, a_type: int, a_row: int, b: int, b_type: int, b_row: int,
        beta: int, c: int, c_type: int, c_row: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        if self.workspace is None or self._ok(handle) or algorithm != -1:
            return NOT_INITIALIZED
        if not (a_type == b_type == c_type == COMPUTES.get(compute)):
            return INVALID_VALUE
        real = REALS[c_type]
        x = columns(a, real, (m, k), a_op, a_row)
        y = columns(b, real, (k, n), b_op, b_row)
        out = columns(c, real, (m, n), 0, c_row)
        if x is None or y is None or out is None:
            return INVALID_VALUE
        one, factor = (np.ndarray((), real, _memory(p, real().itemsize)) for p in (alpha, beta))
        total = one * (x @ y)
        out[...] = total if factor == 0 else total + factor * out
        return OK


def columns(start: int, real: Any, shape: tuple[int, int], op: int, row: int) -> Array:
    """op(A), of `shape`, where A lies column by column, `row` elements apart; None if it cannot."""
    rows, width = shape if op == 0 else shape[::-1]
    if op not in (0, 1) or row < max(1, rows):
        return None
    item = real().itemsize
    extent = ((width - 1) * row + rows) * item
    found = np.ndarray((rows, width), real, _memory(start, extent), 0, (item, row * item))
    return found if op == 0 else found.T


def _memory(start: int, size: int) -> Any:
    return (ctypes.c_char * size).from_address(start)
