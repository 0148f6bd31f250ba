"""Which array module and which kernels a tape runs on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, cast

import numpy as np

from calmgrad.kernels.protocol import Array, ArrayModule, Kernels

Name = Literal["reference", "cpu", "cuda"]
NAMES: tuple[Name, ...] = ("reference", "cpu")


@dataclass(frozen=True, slots=True)
class Backend:
    """An array module (NumPy or CuPy) and the kernels that go with it."""

    name: Name
    xp: ArrayModule
    kernels: Kernels


@cache
def load(name: Name) -> Backend:
    """Import a backend: `reference` (whole arrays) or `cpu` (Numba).

    Raises:
        ValueError: there is no backend of this name.
    """
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r}: expected one of {', '.join(NAMES)}")
    kernels = import_module(f"calmgrad.kernels.{name}")
    return Backend(name, np, cast(Kernels, kernels))


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


_lock = threading.Lock()
_inside = 0  # blocks that want BLAS at one thread
_limit: Any = None


def _take_control() -> None:
    """Newer releases of threadpoolctl obey the first thread that asks and no other: be that one."""
    for library in _blas().lib_controllers:
        forget = getattr(library, "clear_controlling_thread", None)
        if forget is not None:
            forget(force=True)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """A block in which BLAS uses the calling thread alone.

    Shards are the unit of parallel work; and BLAS gives other bytes with another number of
    threads, so one thread is also what makes runs repeat. The setting is the process's: when
    several threads are in such blocks, the first in sets it and the last out puts it back.
    """
    global _inside, _limit
    with _lock:
        if _inside == 0:
            _take_control()
            _limit = _blas().limit(limits=1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _take_control()
                _limit.restore_original_limits()


def silent_overflow() -> Any:
    """A context in which this thread's NumPy says nothing of infinities and NaN.

    They travel through every op to the loss and the gradient, where they are looked for.
    """
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def to_numpy(array: Array) -> Any:
    """The array on the host."""
    return array.get() if hasattr(array, "get") else array
