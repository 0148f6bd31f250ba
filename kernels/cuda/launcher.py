"""From a kernel's name to its launch: source files, types, arguments."""

import operator
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from calmgrad.kernels.cuda.device import Device, Function, Triple
from calmgrad.kernels.protocol import CHUNK, Array

WARP = 32
WARPS = 8  # of a block where a warp takes a row
REALS = {"float32": "float", "float64": "double"}
FOLDER = Path(__file__).parent
INCLUDE = re.compile(r'^#include "[\w.]+"$', re.MULTILINE)
KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)'
)


@cache
def source(op: str, dtype: str) -> str:
    """The CUDA source of an op for one type: constants, common.cuh, <op>.cu."""
    constants = f"typedef {REALS[dtype]} real;\n#define CHUNK {CHUNK}\n"
    return constants + _file("common.cuh") + _file(f"{op}.cu")


def _file(name: str) -> str:
    """A file, and those it includes in their places: the compiler looks for none."""
    text = f'#line 1 "{name}"\n' + (FOLDER / name).read_text(encoding="utf-8")
    for line in INCLUDE.findall(text):
        before, after = text.split(line, 1)
        number = before.count("\n")
        text = before + _file(line.split('"')[1]) + f'#line {number + 1} "{name}"' + after
    return text


@cache
def parameters(text: str, entry: str) -> list[str]:
    """The types of a kernel's parameters: "real*", "index_t", …, without const."""
    for name, declared in KERNEL.findall(text):
        if name == entry:
            parts = [re.sub(r"\b(const|__restrict__)\b", "", part) for part in declared.split(",")]
            return [re.sub(r"\w+\s*$", "", part).replace(" ", "").strip() for part in parts]
    raise KeyError(f"no kernel {entry}")


def blocks(count: int, size: int) -> int:
    """How many blocks of `size` hold `count`."""
    return -(-count // size)


def row(x: Array) -> int:
    """Elements from one row of a matrix to the next.

    Raises:
        ValueError: the columns do not lie side by side.
    """
    if x.shape[1] > 1 and x.strides[1] != x.itemsize:
        raise ValueError(f"strides {x.strides}: the columns of a matrix must lie side by side")
    return int(x.strides[0] // x.itemsize)


def flat(x: Array) -> Array:
    """`x`, for a kernel that sees all its elements in a row.

    Raises:
        ValueError: they are not.
    """
    if not x.flags.c_contiguous:
        raise ValueError(f"strides {x.strides}: the elements must lie side by side")
    return x


class Launcher:
    """What the launchers of all ops share. Each op's are a class that derives from this one.

    A kernel's parameters are pointers, `index_t` (long long), `real` (float or double, the type of
    the arrays) and `double`; `launch` passes arrays and numbers for them, in order. CUDA copies
    bytes and asks nothing, so each argument is held against the parameter's declaration here.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._functions: dict[tuple[str, str, str], tuple[Function, list[str]]] = {}

    def launch(
        self, op: str, entry: str, grid: Triple, block: Triple, dtype: Any, *arguments: Any
    ) -> None:
        """Run the kernel `entry` of <op>.cu for arrays of `dtype`.

        Nothing happens where the grid is empty.

        Raises:
            TypeError: an argument that the kernel does not expect.
        """
        if 0 in grid:
            return
        key = (op, entry, dtype.name)
        if key not in self._functions:
            text = source(op, dtype.name)
            self._functions[key] = self.device.function(text, entry), parameters(text, entry)
        function, kinds = self._functions[key]
        if len(arguments) != len(kinds):
            raise TypeError(f"{entry}: {len(arguments)} arguments, expected {len(kinds)}")
        pairs = zip(arguments, kinds, strict=True)
        function(grid, block, [_typed(entry, x, kind, dtype) for x, kind in pairs])

    def launch_rows(self, op: str, entry: str, rows: int, dtype: Any, *arguments: Any) -> None:
        """As `launch`, with a warp for each row."""
        self.launch(op, entry, (blocks(rows, WARPS), 1, 1), (WARP, WARPS, 1), dtype, *arguments)


def _typed(entry: str, x: Any, kind: str, dtype: Any) -> Any:
    """`x` for a parameter of this kind: an array as it is, a number with the kind's bytes."""
    if kind.endswith("*"):
        expected = {"index_t*": "int64", "double*": "float64"}.get(kind, dtype.name)
        found = getattr(x, "dtype", None)
        if found is None or found.name != expected:
            raise TypeError(f"{entry}: {type(x).__name__} of {found}, expected {expected} ({kind})")
        return x
    if kind == "index_t":
        return np.int64(operator.index(x))
    return np.float64(x) if kind == "double" else dtype.type(x)
