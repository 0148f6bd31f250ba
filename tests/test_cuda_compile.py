"""What the CUDA compiler makes of the kernels: registers, spills, shared memory, types.

The table of all kernels is committed (benchmarks/results/cuda_kernels.json). Without nvcc it is
held against the sources and the limits; with nvcc some kernels are compiled anew, and all with
CALMGRAD_TEST_PROFILE=thorough.
"""

import json
import os
import re
from collections.abc import Sequence
from importlib import import_module, util
from typing import Any

import pytest

from benchmarks import cuda_kernels
from benchmarks.cuda_kernels import ARCHITECTURES, RESULTS, Kernel
from calmgrad.kernels.cuda.device import OPTIONS
from calmgrad.kernels.cuda.launcher import FOLDER, REALS, source

TABLE: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
ROWS = [Kernel(**row) for row in TABLE["kernels"]]
THOROUGH = os.environ.get("CALMGRAD_TEST_PROFILE") == "thorough"
STATIC = 48 * 1024  # bytes of shared memory that a block may declare
REGISTERS = 65536  # of a multiprocessor: a block's threads share them
BOUNDS = re.compile(r"__global__ void __launch_bounds__\(([^)]*)\)\s*(\w+)")

# Sums of many squares, and numbers that are one a step; the others take them as they are.
DOUBLE = {"sum_squares", "sum_of_squares", "sum_losses", "begin_step", "judge"}
READING = {"adamw_step", "sgd_step"}

needs_nvcc = pytest.mark.skipif(cuda_kernels.version() is None, reason="no nvcc")


def entries(op: str) -> set[str]:
    text = (FOLDER / f"{op}.cu").read_text(encoding="utf-8")
    return set(re.findall(r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(", text))


def test_the_table_is_that_of_these_sources() -> None:
    stale = [op for op in cuda_kernels.ops() if TABLE["sources"].get(op) != cuda_kernels.digest(op)]
    assert not stale, f"run `python -m benchmarks.cuda_kernels`: changed since: {stale}"
    assert sorted(TABLE["sources"]) == cuda_kernels.ops()
    expected = {
        (op, entry, real, architecture)
        for op in cuda_kernels.ops()
        for entry in entries(op)
        for real in REALS.values()
        for architecture in ARCHITECTURES
    }
    assert {(row.op, row.entry, row.real, row.architecture) for row in ROWS} == expected


def outside(rows: Sequence[Kernel]) -> list[str]:
    """What is beyond the limits, one line each."""
    wrong = []
    for row in rows:
        where = f"{row.entry}, {row.real}, {row.architecture}"
        if row.real == "float" and row.spilled:
            wrong.append(f"{where}: spills {row.spilled} bytes")
        if row.shared > STATIC:
            wrong.append(f"{where}: {row.shared} bytes of shared memory, at most {STATIC}")
        if row.registers * threads(row) > REGISTERS:
            wrong.append(f"{where}: {row.registers} registers for {threads(row)} threads")
    return wrong


def threads(row: Kernel) -> int:
    """The most that a block of this kernel has."""
    text = source(row.op, "float32")
    text = text.replace("int(sizeof(real))", "4" if row.real == "float" else "8")
    numbers = dict(re.findall(r"^#define (\w+) (\d+|\(\d+ / \d+\))(?: |$)", text, re.MULTILINE))
    for bound, entry in BOUNDS.findall(text):
        if entry == row.entry:
            most = bound.split(",")[0]
            return int(eval(re.sub(r"[A-Z]\w*", lambda name: numbers[name[0]], most)))
    return 256


def test_limits() -> None:
    assert not outside(ROWS)


def test_what_is_beyond_a_limit_is_told() -> None:
    row = Kernel("pool", "pool_forward", "float", "sm_90", 200, 0, 8, 50_000)
    lines = "\n".join(outside([row]))
    assert "spills 8 bytes" in lines
    assert "50000 bytes of shared memory" in lines
    assert "200 registers for 512 threads" in lines


@needs_nvcc
@pytest.mark.parametrize("op", cuda_kernels.ops() if THOROUGH else ["causal_conv1d"])
@pytest.mark.parametrize("dtype", REALS if THOROUGH else ["float32"])
@pytest.mark.parametrize("architecture", ARCHITECTURES if THOROUGH else ["sm_90"])
def test_nvcc_says_the_same(op: str, dtype: str, architecture: str) -> None:
    found = list(cuda_kernels.kernels(op, dtype, architecture))
    assert not outside(found)
    if cuda_kernels.version() == TABLE["nvcc"]:
        assert set(found) <= set(ROWS)


@needs_nvcc
@pytest.mark.parametrize("op", cuda_kernels.ops() if THOROUGH else ["gelu", "optimizer"])
def test_float_kernels_do_not_compute_in_double(op: str) -> None:
    """A literal without `real(...)`, or a function of C's that knows one type, would."""
    found = cuda_kernels.double_arithmetic(op)
    assert set(found) == entries(op)
    for entry, instructions in found.items():
        if entry in DOUBLE:
            continue
        allowed = {"ld", "cvt", "setp"} if entry in READING else set()
        assert {name.split(".")[0] for name in instructions} <= allowed, entry


@needs_nvcc
def test_double_arithmetic_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(op: str, dtype: str) -> str:
        return source(op, dtype).replace("real(0.5) * v", "0.5 * v")

    monkeypatch.setattr(cuda_kernels, "source", careless)
    assert "mul.f64" in cuda_kernels.double_arithmetic("gelu")["gelu_forward"]


@pytest.mark.parametrize("op", cuda_kernels.ops())
def test_sources_need_no_other_file(op: str) -> None:
    """NVRTC has no headers of the C library."""
    assert "#include" not in source(op, "float32")


@pytest.mark.parametrize("op", cuda_kernels.ops() if THOROUGH else ["pool", "optimizer"])
def test_nvrtc_takes_it_too(op: str) -> None:
    """The compiler that CuPy uses, where it is installed, with the options that it is given."""
    if util.find_spec("cupy_backends") is None:
        pytest.skip("no CuPy")
    nvrtc: Any = import_module("cupy_backends.cuda.libs.nvrtc")
    try:
        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"no NVRTC: {error}")
    program = nvrtc.createProgram(source(op, "float32"), f"{op}.cu", (), ())
    try:
        added = ("-ftz=true", "-arch=sm_90", "--device-as-default-execution-space")  # by CuPy
        nvrtc.compileProgram(program, (*OPTIONS, *added))
    except Exception:
        pytest.fail(nvrtc.getProgramLog(program))
    assert nvrtc.getCUBIN(program)
