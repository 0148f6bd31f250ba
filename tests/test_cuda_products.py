"""How products go to cuBLAS, with a cuBLAS that does on the CPU what its manual says."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calmgrad.kernels.cuda import CudaKernels
from calmgrad.kernels.cuda.device import CupyDevice
from calmgrad.kernels.protocol import Array
from tests.cuda_on_cpu.array import ArrayModule

WIDTH = {0: np.float32, 1: np.float64}  # cudaDataType
COMPUTE_32F, COMPUTE_64F, FAST_TF32 = 68, 70, 77


def matrix(pointer: int, kind: int, rows: int, columns: int, leading: int) -> Array:
    """A matrix of columns one after the other, `leading` elements apart."""
    assert leading >= max(1, rows), f"leading dimension {leading} of {rows} rows"
    assert isinstance(leading, int)
    size = np.dtype(WIDTH[kind]).itemsize
    interface = {
        "data": (pointer, False),
        "typestr": np.dtype(WIDTH[kind]).str,
        "shape": (rows, columns),
        "strides": (size, leading * size),
        "version": 3,
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))


class Cublas:
    """cublasGemmEx as documented; scalars are read from the host."""

    CUBLAS_COMPUTE_64F, CUBLAS_GEMM_DEFAULT = COMPUTE_64F, -1

    def __init__(self) -> None:
        self.computed: list[int] = []

    def gemmEx(
        self, handle: int, transa: int, transb: int, m: int, n: int, k: int,
        alpha: int, A: int, Atype: int, lda: int, B: int, Btype: int, ldb: int,
        beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
    ) -> None:  # fmt: skip
        assert (handle, algo) == (17, -1)
        assert computeType == COMPUTE_64F if Ctype == 1 else computeType != COMPUTE_64F
        assert Atype == Btype == Ctype
        a = matrix(A, Atype, *((k, m) if transa else (m, k)), lda)
        b = matrix(B, Btype, *((n, k) if transb else (k, n)), ldb)
        c = matrix(C, Ctype, m, n, ldc)
        factors = [float(matrix(scalar, Ctype, 1, 1, 1)[0, 0]) for scalar in (alpha, beta)]
        product = factors[0] * ((a.T if transa else a) @ (b.T if transb else b))
        c[...] = product + factors[1] * c if factors[1] else product
        self.computed.append(computeType)


def device(compute: int = COMPUTE_32F) -> Any:
    """A CupyDevice on a machine without CuPy."""
    made: Any = CupyDevice.__new__(CupyDevice)
    made.xp = ArrayModule()
    made.xp.cuda = SimpleNamespace(device=SimpleNamespace(get_cublas_handle=lambda: 17))
    made._cublas, made._compute = Cublas(), compute
    return made


def layouts(xp: Any, values: Array) -> dict[str, Array]:
    """The same matrix in all the ways that it may lie in memory."""
    height, width = values.shape
    wide = xp.asarray(np.full((height, width + 3), np.nan, values.dtype))
    high = xp.asarray(np.full((width, height + 2), np.nan, values.dtype))
    sparse = xp.asarray(np.full((2 * height, width), np.nan, values.dtype))
    found = {
        "plain": xp.asarray(values),
        "columns": wide[:, 1 : width + 1],
        "every other row": sparse[::2],
        "transposed": xp.asarray(np.ascontiguousarray(values.T)).T,
        "transposed columns": high[:, 2:].T,
    }
    for array in found.values():
        array[...] = xp.asarray(values)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("add", [False, True])
def test_products_of_all_layouts(dtype: str, add: bool) -> None:
    rng = np.random.default_rng(0)
    made = device()
    kernels, xp = CudaKernels(made), made.xp
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for height, inner, width in itertools.product((1, 3), repeat=3):
        left = rng.standard_normal((height, inner)).astype(dtype)
        right = rng.standard_normal((inner, width)).astype(dtype)
        residual = rng.standard_normal((height, width)).astype(dtype)
        expected = left @ right + (residual if add else 0)
        for (how, a), (how_too, b) in itertools.product(
            layouts(xp, left).items(), layouts(xp, right).items()
        ):
            outs = layouts(xp, np.full_like(expected, np.nan))
            for name in ("plain", "columns", "every other row"):
                kernels.matmul(outs[name], a, b, xp.asarray(residual) if add else None)
                np.testing.assert_allclose(
                    outs[name].get(), expected, tolerance, tolerance,
                    err_msg=f"{name} = {how} @ {how_too}, {height} x {inner} x {width}",
                )  # fmt: skip


def test_empty_products() -> None:
    made = device()
    kernels, xp = CudaKernels(made), made.xp
    out = xp.empty((2, 3))
    kernels.matmul(out, xp.empty((2, 0)), xp.empty((0, 3)))
    np.testing.assert_array_equal(out.get(), 0)
    kernels.matmul(out, xp.empty((2, 0)), xp.empty((0, 3)), xp.asarray(np.ones((2, 3))))
    np.testing.assert_array_equal(out.get(), 1)
    kernels.matmul(xp.empty((0, 3)), xp.empty((0, 5)), xp.empty((5, 3)))
    assert made._cublas.computed == []


def test_what_cannot_be_multiplied() -> None:
    made = device()
    x = made.xp.asarray(np.ones((6, 6)))
    for out, a in ((x[:2, :2], x[:4:2, ::2]), (x[:2, :2].T, x[:2, :3])):
        with pytest.raises(ValueError, match="strides"):
            made.gemm(out, a, x[: a.shape[1], :2], 0.0)


def test_precision_is_that_of_float32_products_alone() -> None:
    made = device(FAST_TF32)
    for dtype, compute in (("float32", FAST_TF32), ("float64", COMPUTE_64F)):
        x = made.xp.asarray(np.ones((2, 2), dtype))
        made.gemm(made.xp.empty((2, 2), dtype), x, x, 0.0)
        assert made._cublas.computed[-1] == compute
