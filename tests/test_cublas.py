"""Products through a cuBLAS handle of our own: a stand-in, and the real library's names."""

import ctypes
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calmgrad import backend as backends
from calmgrad.errors import DeviceError, OutOfMemoryError
from calmgrad.kernels.cuda import CudaKernels
from calmgrad.kernels.cuda.cublas import (
    SIGNATURES,
    Cublas,
    CublasError,
    status_text,
    workspace_bytes,
)
from calmgrad.kernels.cuda.device import CupyDevice
from tests.cuda_on_cpu import recording
from tests.cuda_on_cpu.array import ArrayModule
from tests.cuda_on_cpu.cublas import FakeCublas
from tests.cuda_on_cpu.device import EmulatedDevice
from tests.cuda_on_cpu.fixtures import stand_in

__all__ = ["stand_in"]

STREAM = 0x5EED
xp = ArrayModule()


def opened(library: Any, precision: str = "float32") -> Cublas:
    return Cublas(library, STREAM, xp.empty(workspace_bytes(80) // 64, "uint8"), precision)


def test_the_stream_is_set_before_the_workspace() -> None:
    """The other way round, cuBLAS would forget the workspace, and ask for memory in a capture."""
    library = FakeCublas()
    opened(library)
    names = [call[0] for call in library.log]
    assert names == ["cublasCreate_v2", "cublasSetStream_v2", "cublasSetWorkspace_v2"]
    assert library.stream == STREAM
    assert library.workspace is not None
    assert library.workspace[1] == workspace_bytes(80) // 64


def test_workspace_as_advised() -> None:
    assert (workspace_bytes(80), workspace_bytes(90)) == (4 << 20, 32 << 20)


LAYOUTS = ("rows", "columns", "part of rows", "part of columns", "every other row")


INTO = ("rows", "part of rows", "every other row")


def laid_out(x: Any, how: str) -> Any:
    """The values of `x`, on the device, with these strides; NaN where it is not."""
    m, n = x.shape
    if "columns" in how:
        return laid_out(x.T, how.replace("columns", "rows")).T
    if how == "every other row":
        high = np.full((2 * m, n), np.nan, x.dtype)
        high[::2] = x
        return xp.asarray(high)[::2]
    wide = np.full((m, n + 5), np.nan, x.dtype)
    wide[:, 2 : n + 2] = x
    return xp.asarray(wide)[:, 2 : n + 2] if "part" in how else xp.asarray(x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "k", "n"), [(3, 5, 2), (1, 4, 6), (4, 1, 3), (5, 3, 1), (1, 1, 1)])
def test_products_of_every_layout(dtype: str, m: int, k: int, n: int) -> None:
    products = opened(FakeCublas())
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n), (m, n)))
    for first, second, into, beta in product(LAYOUTS, LAYOUTS, INTO, (0, 1)):
        out = laid_out(c, into)
        products.gemm(out, laid_out(a, first), laid_out(b, second), float(beta))
        right = a.astype("float64") @ b + beta * c
        assert np.allclose(out.get(), right, atol=1e-5 if dtype == "float32" else 1e-13)


def test_empty_products_do_not_reach_it() -> None:
    library = FakeCublas()
    device: Any = CupyDevice.__new__(CupyDevice)
    device.xp, device._products = xp, lambda: opened(library)
    kernels = CudaKernels(device)
    out = xp.empty((2, 3), "float32")
    kernels.matmul(out, xp.empty((2, 0), "float32"), xp.empty((0, 3), "float32"))
    assert not out.get().any()
    one = xp.asarray(np.ones((2, 3), "float32"))
    kernels.matmul(out, xp.empty((2, 0), "float32"), xp.empty((0, 3), "float32"), one)
    assert (out.get() == 1).all()
    kernels.matmul(out[:0], xp.empty((0, 5), "float32"), xp.empty((5, 3), "float32"))
    assert not library.log
    kernels.matmul(out, one[:, :2], one[:, :3], one)
    assert (out.get() == 3).all()


@pytest.mark.parametrize(
    ("precision", "dtype", "compute"),
    [("float32", "float32", 68), ("tf32", "float32", 77), ("bf16", "float32", 75),
     ("tf32", "float64", 70)],
)  # fmt: skip
def test_the_type_that_it_computes_in(precision: str, dtype: str, compute: int) -> None:
    library = FakeCublas()
    products = opened(library, precision)
    a = xp.asarray(np.ones((2, 2), dtype))
    products.gemm(xp.empty((2, 2), dtype), a, a, 0.0)
    assert library.log[-1][-2:] == (compute, -1)


def test_what_it_cannot_take_is_told() -> None:
    products = opened(FakeCublas())
    one, double = xp.zeros((4, 4), "float32"), xp.zeros((4, 4), "float64")
    for out, a, b, told in (
        (one, one, double, "expected one type of float"),
        (one, one[:3], one, r"product of \(3, 4\) and \(4, 4\) into \(4, 4\)"),
        (one.T, one, one, "its columns must lie together"),
        (
            one[:2, :2],
            xp.zeros((4, 8), "float32")[::2, ::2][:, :2],
            one[:2, :2],
            "a factor of shape",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            products.gemm(out, a, b, 0.0)


@pytest.mark.parametrize("name", list(SIGNATURES))
def test_every_status_is_looked_at(name: str) -> None:
    library = FakeCublas()
    library.fails[name] = 7
    one = xp.zeros((2, 2), "float32")

    def all_of_it() -> None:
        products = opened(library)
        products.gemm(one, one, one, 0.0)
        products.close()

    with pytest.raises(CublasError, match=rf"{name}: the reason 7 \(status 7\)"):
        all_of_it()


def test_no_memory_is_told_as_such(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = FakeCublas()
    library.fails["cublasCreate_v2"] = 3
    monkeypatch.setattr(recording, "strict", False)
    with pytest.raises(MemoryError, match="the reason 3"):
        opened(library)
    backend = backends.load("cuda")
    with (
        pytest.raises(OutOfMemoryError, match=r"cuda:0 \(emulated\): cublasCreate"),
        backend.active(),
    ):
        opened(library)
    library.fails["cublasCreate_v2"] = 1
    with pytest.raises(DeviceError, match=r"cuda:0 \(emulated\): cublasCreate"), backend.active():
        opened(library)


def test_closed_once() -> None:
    library = FakeCublas()
    products = opened(library)
    products.close()
    products.close()
    assert [call[0] for call in library.log].count("cublasDestroy_v2") == 1


def test_an_old_library_tells_the_number() -> None:
    library = FakeCublas()
    del library.cublasGetStatusString
    assert status_text(library, 7) == "status 7"


def real_library() -> ctypes.CDLL | None:
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="no cuda-pathfinder: no cuBLAS")
    try:
        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    except (OSError, RuntimeError):
        return None


def test_the_real_library_has_these_names() -> None:
    library = real_library()
    if library is None:
        pytest.skip("cuBLAS is not installed")
    for name in SIGNATURES:
        assert getattr(library, name)
    assert "status 7" in status_text(library, 7)
    if not Path("/dev/nvidiactl").exists():  # no driver: it says so, in its own words
        with pytest.raises(CublasError, match="cublasCreate_v2"):
            Cublas(library, 0, xp.empty(64, "uint8"), "float32")
