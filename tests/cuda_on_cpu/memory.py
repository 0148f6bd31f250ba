"""Memory that ends at a page nobody may touch, so that a store behind an array is a crash."""

import ctypes
import math
import mmap
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from calmgrad.kernels.protocol import Array
from calmgrad.tape import Tape

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@dataclass(frozen=True)
class Pointer:
    """As `cupy.ndarray.data`."""

    ptr: int


def guarded(shape: Any, dtype: Any) -> Any:
    """An array filled with NaN (whole numbers: -1), with a forbidden page right behind it."""
    dtype = np.dtype(dtype)
    shape = tuple(shape) if hasattr(shape, "__len__") else (int(shape),)
    size = math.prod(shape) * dtype.itemsize
    page = mmap.PAGESIZE
    body = -(-max(size, 1) // page) * page
    region = mmap.mmap(-1, body + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    if _libc.mprotect(start + body, page, 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    array = np.frombuffer(region, np.uint8, size, body - size).view(dtype).reshape(shape)
    weakref.finalize(array.base, _open, start + body, page)
    array.reshape(-1).view(np.uint8)[...] = 0xFF  # of a float, that is NaN
    return array


def each_by_itself(tape: Tape) -> None:
    """Every array of the tape in memory of its own, so that none hides what is wrong in another."""

    def take(shape: tuple[int, ...]) -> Array:
        return tape.backend.xp.empty(shape, tape.dtype)

    vars(tape.values)["take"] = vars(tape.pool)["take"] = take
    vars(tape.pool)["give"] = lambda array: None


def _open(start: int, size: int) -> None:
    _libc.mprotect(start, size, 3)
