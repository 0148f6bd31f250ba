"""Products by cuBLAS through a handle of our own, by ctypes: CuPy's refuses to be captured.

While a stream is captured, CuPy raises NotImplementedError for every call of cuBLAS, because the
stream of its handle is set before each. Ours is set once, with workspace of our own: so a captured
product finds all it needs, and an eager one chooses the same algorithm.
"""

import ctypes
from typing import Any

from calmgrad.kernels.protocol import Array

CUDA_R_32F, CUDA_R_64F = 0, 1  # cudaDataType
NORMAL, TRANSPOSED = 0, 1  # cublasOperation_t
COMPUTE = {"float32": 68, "tf32": 77, "bf16": 75, "float64": 70}  # cublasComputeType_t
DEFAULT_ALGORITHM = -1  # cublasGemmAlgo_t

ALLOC_FAILED = 3  # cublasStatus_t
HOPPER = 90
MIB = 1 << 20

_pointer, _int = ctypes.c_void_p, ctypes.c_int
SIGNATURES: dict[str, list[Any]] = {
    "cublasCreate_v2": [ctypes.POINTER(_pointer)],
    "cublasDestroy_v2": [_pointer],
    "cublasSetStream_v2": [_pointer, _pointer],
    "cublasSetWorkspace_v2": [_pointer, _pointer, ctypes.c_size_t],
    "cublasGemmEx": [
        _pointer, _int, _int, _int, _int, _int,  # handle, operations, m, n, k
        _pointer, _pointer, _int, _int, _pointer, _int, _int,  # alpha; A, type, row; B, type, row
        _pointer, _pointer, _int, _int, _int, _int,  # beta; C, type, row; compute type, algorithm
    ],
}  # fmt: skip


class CublasError(RuntimeError):
    """A call of cuBLAS failed."""


def workspace_bytes(compute_capability: int) -> int:
    """What NVIDIA advises: 32 MiB from Hopper on, 4 MiB before."""
    return (32 if compute_capability >= HOPPER else 4) * MIB


class Cublas:
    """A handle of cuBLAS on one stream of one device.

    Args:
        library: the loaded library, or what stands in for it. Any ctypes library that depends on
            cuBLAS will do: its symbols are found through it.
        stream: the address of the stream that all products run on, in order.
        workspace: device memory for it alone, as long as it lives.
        precision: of products of float32 matrices: "float32", "tf32" or "bf16".

    Raises:
        CublasError: cuBLAS cannot be used.
        MemoryError: it finds no memory on the device.
    """

    def __init__(self, library: Any, stream: int, workspace: Array, precision: str) -> None:
        self._library = library
        self._workspace = workspace
        self._compute = COMPUTE[precision]
        for name, arguments in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _int
        self._handle = _pointer()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._call("cublasSetStream_v2", self._handle, stream)  # forgets a workspace set before
        self._call("cublasSetWorkspace_v2", self._handle, workspace.data.ptr, int(workspace.nbytes))
        self._factors = {
            (dtype, factor): kind(factor)
            for dtype, kind in (("float32", ctypes.c_float), ("float64", ctypes.c_double))
            for factor in (0.0, 1.0)
        }

    def gemm(self, out: Array, a: Array, b: Array, beta: float) -> None:
        """out = a @ b + beta * out, beta 0 or 1; matrices with one contiguous axis each.

        cuBLAS counts in columns: it sees every matrix of ours as its transpose, and makes
        out.T = b.T @ a.T.

        Raises:
            CublasError: it could not be started.
            ValueError: types, shapes or strides that it cannot take.
        """
        dtype = _checked(out, a, b)
        double = dtype == "float64"
        kind = CUDA_R_64F if double else CUDA_R_32F
        b_op, b_row = _as_columns(b)
        a_op, a_row = _as_columns(a)
        out_op, out_row = _as_columns(out)
        if out_op == TRANSPOSED:
            raise ValueError(f"a product of strides {out.strides}: its columns must lie together")
        self._call(
            "cublasGemmEx", self._handle, b_op, a_op, out.shape[1], out.shape[0], a.shape[1],
            ctypes.byref(self._factors[dtype, 1.0]),
            b.data.ptr, kind, b_row, a.data.ptr, kind, a_row,
            ctypes.byref(self._factors[dtype, beta]), out.data.ptr, kind, out_row,
            COMPUTE["float64"] if double else self._compute, DEFAULT_ALGORITHM,
        )  # fmt: skip

    def close(self) -> None:
        """Free the handle; no captured product may be replayed afterwards."""
        if self._handle:
            self._call("cublasDestroy_v2", self._handle)
            self._handle = _pointer()

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            error = MemoryError if status == ALLOC_FAILED else CublasError
            raise error(f"{name}: {status_text(self._library, status)}")


def status_text(library: Any, status: int) -> str:
    """What cuBLAS says about a status, with its number."""
    try:
        describe = library.cublasGetStatusString
    except AttributeError:  # before cuBLAS 11.4
        return f"status {status}"
    describe.argtypes, describe.restype = [_int], ctypes.c_char_p
    return f"{(describe(status) or b'unknown').decode()} (status {status})"


def _checked(out: Array, a: Array, b: Array) -> str:
    """The type of all three."""
    dtypes = {out.dtype.name, a.dtype.name, b.dtype.name}
    if len(dtypes) > 1 or out.dtype.name not in ("float32", "float64"):
        raise ValueError(f"product of {', '.join(sorted(dtypes))}: expected one type of float")
    if (a.shape[0], b.shape[1], a.shape[1]) != (*out.shape, b.shape[0]):
        raise ValueError(f"product of {a.shape} and {b.shape} into {out.shape}")
    return str(out.dtype.name)


def _as_columns(x: Array) -> tuple[int, int]:
    """How cuBLAS reads the transpose of `x`: operation and leading dimension.

    Raises:
        ValueError: neither the rows nor the columns lie side by side.
    """
    height, width = x.shape
    rows, columns = (s // x.itemsize for s in x.strides)
    if width == 1 or columns == 1:
        operation, leading, least = NORMAL, rows if height > 1 else width, width
    elif height == 1 or rows == 1:
        operation, leading, least = TRANSPOSED, columns, height
    else:
        leading = least = -1
    if leading < max(least, 1):
        raise ValueError(f"a factor of shape {x.shape} with strides {x.strides}")
    return operation, leading
