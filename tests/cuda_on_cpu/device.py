"""A device that compiles CUDA sources with the C++ compiler and runs them on the CPU."""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from calmgrad.backend import Backend
from calmgrad.kernels.cuda import CudaKernels
from calmgrad.kernels.cuda.device import Argument, Event, Function, Graph, Precision, Triple
from calmgrad.kernels.cuda.launcher import KERNEL, parameters
from calmgrad.kernels.protocol import Kernels
from tests.cuda_on_cpu import recording
from tests.cuda_on_cpu.array import ArrayModule, DeviceArray

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-U_FORTIFY_SOURCE", "-ffp-contract=off"]
FLAGS += ["-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-maybe-uninitialized"]
NUMBERS: dict[str, Any] = {
    "int32": ctypes.c_int32,
    "int64": ctypes.c_int64,
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
}
SHARED = re.compile(r"__shared__\s+([\w ]+?)\s+(\w+)((?:\[[^\]]+\])+);")


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return shutil.which(os.environ.get("CXX", "g++"))


class EmulatedDevice:
    """Runs kernels one after the other, at once.

    Args:
        schedule: in which order the threads of a block take turns (cuda_on_cpu.h).

    Attributes:
        launches: the kernels that ran, by name, in order.
    """

    name = "emulated"
    formulas = False  # in place of the kernels
    index = 0
    precision: Precision = "float32"

    def __init__(self, schedule: int = 0) -> None:
        self.xp: Any = ArrayModule()
        self.schedule = schedule
        self.launches: list[str] = []

    def function(self, source: str, entry: str) -> Function:
        types = parameters(source, entry)
        run = getattr(_library(source), f"run_{entry}")
        run.restype = ctypes.c_char_p

        def launch(grid: Triple, block: Triple, arguments: Sequence[Argument]) -> None:
            if len(arguments) != len(types):
                raise TypeError(f"{entry}: {len(arguments)} arguments, expected {len(types)}")
            cells = [_cell(entry, x, kind) for x, kind in zip(arguments, types, strict=True)]
            sides = [(ctypes.c_uint * 3)(*side) for side in (grid, block)]
            if np.prod(block) > 1024:
                raise ValueError(f"{entry}: {block} threads in a block, at most 1024")

            def step() -> None:
                addresses = (ctypes.c_void_p * len(cells))(*map(ctypes.addressof, cells))
                error = run(*sides, addresses, ctypes.c_uint(self.schedule))
                if error is not None:
                    raise RuntimeError(f"{entry}: {error.decode()}")
                self.launches.append(entry)

            if (graph := recording.current()) is None:
                step()
            else:
                arrays = [x.held for x in arguments if isinstance(x, DeviceArray)]
                graph.add(entry, step, *arrays)

        return launch

    def active(self) -> Any:
        return recording.active()

    def memory(self) -> tuple[int, int]:
        return 1 << 33, 1 << 34

    def pinned(self, words: int) -> Any:
        return np.empty(words, np.int64)

    def copy_later(self, to: Any, pinned: Any) -> None:
        to.set(pinned)

    def event(self) -> Event:
        return _Done()

    def gemm(self, out: Any, a: Any, b: Any, beta: float) -> None:
        recording.do("gemm", _product, out.held, a.held, b.held, beta)

    def capture(self) -> AbstractContextManager[Graph]:
        return recording.recording()


def _product(out: Any, a: Any, b: Any, beta: float) -> None:
    total = a @ b
    out[...] = total if beta == 0 else total + beta * out


class _Done:
    """An event of a device that has always done everything."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def emulated(schedule: int = 0) -> Backend:
    """The backend of the CUDA kernels, on a device of its own."""
    device = EmulatedDevice(schedule)
    return Backend("cuda", device.xp, cast(Kernels, CudaKernels(device)), device)


def _cell(entry: str, x: Argument, kind: str) -> Any:
    """A C variable that holds an argument; TypeError where the kernel expects another type."""
    dtypes = {"index_t": "int64", "longlong": "int64", "double": "float64", "int": "int32"}
    real = _real_of(x)
    base = kind.rstrip("*")
    expected = dtypes.get(base, real if base == "real" else base)
    if x.dtype != expected:
        raise TypeError(f"{entry}: an argument is {x.dtype}, the kernel expects {kind}")
    if isinstance(x, DeviceArray):
        if not kind.endswith("*"):
            raise TypeError(f"{entry}: an array, the kernel expects {kind}")
        return ctypes.c_void_p(x.data.ptr)
    if kind.endswith("*"):
        raise TypeError(f"{entry}: a number, the kernel expects {kind}")
    return NUMBERS[str(x.dtype)](x.item())


def _real_of(x: Argument) -> str:
    return str(x.dtype) if x.dtype.kind == "f" else "float32"


@cache
def _library(source: str) -> ctypes.CDLL:
    """The compiled source; kept in a temporary folder for the next run of the tests."""
    kernels = [name for name, _ in KERNEL.findall(source)]
    text = SHARED.sub(
        r"static \1 \2\3; static const bool \2_is_shared ="
        r" ::emulator::declare_shared(&\2, sizeof \2); (void)\2_is_shared;",
        source,
    )
    text += "\n" + "\n".join(f"EMULATOR_EXPORT({name})" for name in kernels)
    header = _header()
    return ctypes.CDLL(str(_built(text, ".cpp", ".so", "-shared", "-include", str(header))))


@cache
def _header() -> Path:
    """A copy of the header, with its compiled form beside it, where the compiler looks for it."""
    text = HEADER.read_text(encoding="utf-8").replace("#pragma once", "")
    return _built(text, ".h", ".h.gch", "-x", "c++-header").with_suffix("")


def _built(text: str, kind: str, result: str, *flags: str) -> Path:
    """The file that the compiler makes of a text, from this run or an earlier one."""
    cxx = compiler()
    assert cxx is not None
    key = hashlib.sha256(repr((text, cxx, FLAGS, flags)).encode()).hexdigest()[:24]
    path = _folder() / f"{key}{result}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            written, built = Path(scratch, f"{key}{kind}"), Path(scratch, "built")
            written.write_text(text, encoding="utf-8")
            command = [cxx, *FLAGS, *flags, str(written), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise RuntimeError(f"the C++ compiler refuses a kernel:\n{done.stderr}")
            if kind == ".h":
                written.rename(path.with_suffix(""))
            built.rename(path)
    return path


def _folder() -> Path:
    uid = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"calmgrad-cuda-on-cpu-{uid}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != uid or status.st_mode & 0o022:
        raise PermissionError(f"{folder}: others can write what would run here")
    return folder
