"""CUDA's stream capture, on the CPU: what is launched is written down, and done at each replay.

As with CUDA, an array is recorded as its address and a number as its value: one that is changed
afterwards has no effect on a replay. What a capture cannot hold is an error here as there: memory
that is asked for, and whatever makes the host wait for the device.
"""

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from calmgrad.kernels.cuda.device import CaptureError

_open: list["Recording"] = []  # one at most
_inside = threading.local()  # how often `active` was entered by this thread
strict = False  # work of a device outside `active` is an error: a GPU would do it out of order


@contextmanager
def active() -> Iterator[None]:
    """Around all that is done with a device's arrays."""
    _inside.depth = getattr(_inside, "depth", 0) + 1
    try:
        yield
    finally:
        _inside.depth -= 1


def _require_active() -> None:
    if strict and not getattr(_inside, "depth", 0):
        raise RuntimeError("work of a device outside `active`")


class Recording:
    """The graph of a capture. `launch` does all of it, again and again."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], None]]] = []
        self._memories: dict[int, tuple[str, weakref.ref[Any]]] = {}
        self.whole = False

    def add(self, name: str, step: Callable[[], None], *arrays: Any) -> None:
        """Write a step down, and which memory it touches."""
        for array in arrays:
            root = _root(array)
            self._memories.setdefault(id(root), (name, weakref.ref(root)))
        self._steps.append((name, step))

    def launch(self) -> None:
        if not self.whole:
            raise RuntimeError("launch of a graph whose capture has failed, or has not ended")
        for name, memory in self._memories.values():
            if memory() is None:
                raise RuntimeError(f"{name}: the graph works on memory that was freed")
        for _, step in self._steps:
            step()

    @property
    def names(self) -> list[str]:
        """What it does, in order."""
        return [name for name, _ in self._steps]


@contextmanager
def recording() -> Iterator[Recording]:
    """Record until the end; always ended, and not whole after an error."""
    if _open:
        raise CaptureError("a capture within a capture")
    graph = Recording()
    _open.append(graph)
    try:
        yield graph
        graph.whole = True
    finally:
        _open.clear()


def current() -> Recording | None:
    """The recording that is going on."""
    _require_active()
    return _open[0] if _open else None


def refuse(what: str) -> None:
    """An error while something is recorded."""
    _require_active()
    if _open:
        raise CaptureError(f"{what} while work was recorded")


def do(name: str, step: Callable[..., Any], *arrays: Any) -> Any:
    """Call `step` with NumPy arrays (or numbers): now, or, while recording, at each launch."""
    graph = current()
    if graph is None:
        return step(*arrays)
    places = [_place(x) for x in arrays]
    views = [x for x in arrays if isinstance(x, np.ndarray)]
    graph.add(name, lambda: step(*(place() for place in places)), *views)
    return None


def view_of(whole: Any, part: Any) -> Any:
    """`part`, which must be a view of `whole` while something is recorded."""
    if _open and part.size and _root(part) is not _root(whole):
        raise CaptureError(
            "memory was asked for (an array that is no view) while work was recorded"
        )
    return part


def _root(array: Any) -> Any:
    """The memory that an array lies in."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


def _place(array: Any) -> Callable[[], Any]:
    """Makes the array anew from its address; does not keep its memory alive. Numbers stay."""
    if not isinstance(array, np.ndarray):
        return lambda: array
    address, shape, strides, dtype = array.ctypes.data, array.shape, array.strides, array.dtype
    if array.size == 0:
        return lambda: np.empty(shape, dtype)
    extent = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + array.itemsize

    def again() -> Any:
        memory = (ctypes.c_char * extent).from_address(address)
        return np.ndarray(shape, dtype, memory, 0, strides)

    return again
