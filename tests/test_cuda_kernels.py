"""The CUDA kernels, run on the CPU: in every order of threads, with mistakes in them, and the
kernels over flat buffers. What each op computes on them is tested with the other backends, in
tests/ops."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest

from calmgrad.backend import load
from calmgrad.kernels.cuda import CudaKernels
from calmgrad.kernels.protocol import CHUNK, Array, Kernels
from calmgrad.op_cases import BUILDERS, Sizes, cases
from tests.cuda_on_cpu.device import EmulatedDevice, compiler, emulated
from tests.cuda_on_cpu.mistakes import MISTAKES, quick
from tests.cuda_on_cpu.updates import expected_steps, run_steps, run_updates
from tests.ops.helpers import assert_near, run

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

OPS = [op for op in BUILDERS if not op.startswith("basic.")]
MIXED = Sizes((22, 1, 45, 150), channels=37, states=35, taps=4, rank=3)
SCHEDULES = (1, 2, 3, 4, 9)  # 0 is what they are compared with
TOLERANCE = {"float32": 3e-6, "float64": 1e-12}

every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@every_dtype
@pytest.mark.parametrize("op", OPS)
def test_the_same_bytes_in_every_order_of_threads(op: str, dtype: str) -> None:
    def results(schedule: int) -> dict[str, bytes]:
        backend = emulated(schedule)
        (*_, case) = cases(op, MIXED, backend.xp)
        passed = run(backend, case, case.inputs, dtype)
        return {what: np.asarray(array).tobytes() for what, array in passed.arrays()}

    first = results(0)
    for schedule in SCHEDULES:
        assert results(schedule) == first, f"schedule {schedule}"


@every_dtype
@pytest.mark.parametrize("size", [1, 255, 256, 257, 3000])
def test_updates(size: int, dtype: str) -> None:
    backend = emulated()
    right = run_updates(load("reference").kernels, np, size, "float64")
    got = run_updates(backend.kernels, backend.xp, size, dtype)
    for name, array in right.items():
        assert_near(got[name], array, TOLERANCE[dtype], name)


@every_dtype
@pytest.mark.parametrize("spoilt", ["g", "nll"])
@pytest.mark.parametrize("size", [1, 1025, 3000])
def test_steps_whose_numbers_stay_on_the_device(size: int, spoilt: str, dtype: str) -> None:
    right = expected_steps(load("reference").kernels, size, spoilt)
    first: dict[str, Array] = {}
    for schedule in (0, *SCHEDULES):
        device = EmulatedDevice(schedule)
        got = run_steps(CudaKernels(device), device.xp, size, dtype, spoilt)
        first = first or got
        for name, array in right.items():
            assert got[name].tobytes() == first[name].tobytes(), (schedule, name)
            finite = np.isfinite(array)
            np.testing.assert_array_equal(np.isfinite(got[name]), finite, err_msg=name)
            assert_near(got[name][finite], array[finite], TOLERANCE[dtype], name)


def test_mistakes_are_found() -> None:
    """Some of them; all with CALMGRAD_TEST_PROFILE=thorough."""
    command = [sys.executable, "-m", "tests.cuda_on_cpu.mistakes"]
    if os.environ.get("CALMGRAD_TEST_PROFILE") != "thorough":
        command.append("--quick")
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # processes are forked
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=os.environ | one
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_mistakes_in_every_source() -> None:
    from calmgrad.kernels.cuda.launcher import FOLDER

    sources = {path.stem for path in FOLDER.glob("*.cu")}
    assert sources == {mistake.op for mistake in MISTAKES}
    assert len(MISTAKES) >= 90
    assert len(quick()) == len({str(mistake) for mistake in quick()}) == 7


def test_they_are_called_as_the_other_backends_are() -> None:
    """All kernels but those for one token at a time, which stay on the CPU."""
    for name, method in inspect.getmembers(Kernels, inspect.isfunction):
        if name.startswith(("_", "decode_", "choose")):
            continue
        expected = list(inspect.signature(method).parameters)
        found = list(inspect.signature(getattr(CudaKernels, name)).parameters)
        assert found == expected, name


# The emulator itself.

HEAD = f"typedef float real;\n#define CHUNK {CHUNK}\ntypedef long long index_t;\n"


def try_kernel(body: str, parameters: str = "", threads: int = 64, schedule: int = 0) -> Array:
    """The float of each thread that `body` leaves in `out`."""
    source = f'{HEAD}extern "C" __global__ void k(real* out{parameters}) {{ {body} }}'
    device = EmulatedDevice(schedule)
    out = device.xp.zeros(threads, "float32")
    device.function(source, "k")((1, 1, 1), (threads, 1, 1), [out])
    return out.get()


def test_shared_memory_begins_as_nan() -> None:
    out = try_kernel("__shared__ real a[64]; out[threadIdx.x] = a[threadIdx.x];")
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 9) __syncwarp();\n else __syncthreads();", "for ever"),
        (
            "if (threadIdx.x < 32) __syncthreads();\n else __syncthreads();",
            "barriers of different lines",
        ),
        ("__shfl_sync(1u << 9, 1.f, 9);", r"lane \d+ is not in its own mask 00000200"),
    ],
)
def test_threads_that_cannot_meet_are_told(body: str, message: str) -> None:
    for schedule in (0, 1, 2, 3, 5):
        with pytest.raises(RuntimeError, match=message):
            try_kernel(body, schedule=schedule)
    np.testing.assert_array_equal(try_kernel("out[threadIdx.x] = threadIdx.x;"), np.arange(64))


def test_what_a_lane_shows_that_has_left() -> None:
    body = (
        "if (threadIdx.x % 32 >= 16) return;"
        "out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.f, threadIdx.x < 8 ? 1 : 16);"
    )
    out = try_kernel(body)
    np.testing.assert_array_equal(out[:8], 1)
    assert np.isnan(out[8:16]).all()


def test_shuffles_within_parts_of_a_warp() -> None:
    lane = np.arange(64) % 32
    out = try_kernel("out[threadIdx.x] = __shfl_down_sync(~0u, real(threadIdx.x % 32), 3, 8);")
    np.testing.assert_array_equal(out, np.where(lane % 8 < 5, lane + 3, lane))
    out = try_kernel("out[threadIdx.x] = __shfl_sync(~0u, real(threadIdx.x % 32), 1, 16);")
    np.testing.assert_array_equal(out, lane // 16 * 16 + 1)
    out = try_kernel("out[threadIdx.x] = __popc(__ballot_sync(~0u, threadIdx.x % 3 == 0));")
    np.testing.assert_array_equal(out, [11] * 32 + [11] * 32)


def test_a_store_behind_an_array_is_a_crash() -> None:
    code = (
        "from tests.test_cuda_kernels import try_kernel\n"
        "try_kernel('out[threadIdx.x] = 1;')\nprint('alive', flush=True)\n"
        "try_kernel('out[threadIdx.x + 1] = 1;')\nprint('still alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["alive", ""], done.stderr
    assert done.returncode < 0


def test_arguments_of_other_types_are_refused() -> None:
    device = EmulatedDevice()
    kernel = device.function(f'{HEAD}extern "C" __global__ void k(real* x, index_t n) {{}}', "k")
    one, x = (1, 1, 1), device.xp.zeros(3, "float32")
    kernel(one, one, [x, np.int64(3)])
    for wrong in (
        [x],
        [x, np.int32(3)],
        [x, np.float32(3)],
        [device.xp.zeros(3, "int64"), np.int64(3)],
        [np.zeros(3, "float32"), np.int64(3)],
    ):
        with pytest.raises(TypeError, match="k: "):
            kernel(one, one, wrong)


def test_numbers_have_the_bytes_that_a_kernel_expects() -> None:
    """CUDA copies as many bytes as a parameter has, whatever they mean: 1 would be 1.4e-45."""
    device = EmulatedDevice()
    kernels = CudaKernels(device)
    p, g = (device.xp.asarray(np.arange(3.0, dtype="float32")) for _ in range(2))
    kernels.sgd(p, g, 1, 1, 2)
    assert p.get().tolist() == [0, -2, -4]
    kernels.ewc_gradient(g, p, g, g, 1)
    assert g.get().tolist() == [0, -2, -10]
    sizes = ((1, 1, 1), (32, 1, 1), p.dtype)
    for wrong in ((p, 0.5), (p,), (device.xp.zeros(3), 3), (3, 3), (p, p)):
        with pytest.raises(TypeError):
            kernels.launch("pool", "pool_forward", *sizes, *wrong)
        with pytest.raises(TypeError):
            kernels.launch("optimizer", "sum_squares", *sizes, device.xp.zeros(1), *wrong)


def test_arrays_of_host_and_device_do_not_mix() -> None:
    xp = EmulatedDevice().xp
    x = xp.asarray(np.arange(3.0))
    for attempt in (
        lambda: x + np.ones(3),
        lambda: np.ones(3) + x,
        lambda: np.asarray(x),
        lambda: xp.maximum(x, np.ones(3)),
        lambda: x.set([1.0, 2.0, 3.0]),
    ):
        with pytest.raises(TypeError):
            attempt()
    np.testing.assert_array_equal((x + 1).get(), [1, 2, 3])
