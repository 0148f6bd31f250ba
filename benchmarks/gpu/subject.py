"""The GPU that is checked; or its stand-in on the CPU, on which the checks are rehearsed."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import calmgrad
from calmgrad import backend as backends
from calmgrad.backend import Backend
from calmgrad.kernels.cuda.selective_scan_serial import Mapping
from calmgrad.model import Model

FILLER = 256 << 20  # bytes; copying them keeps the GPU busy while launches are queued behind


@dataclass(frozen=True)
class Times:
    """Microseconds a call took on the device."""

    median: float
    least: float
    calls: int


@dataclass(frozen=True)
class Subject:
    """What the phases are given.

    Attributes:
        name: the device, as calmgrad calls it: "cuda:0".
        emulated: it is the tests' stand-in: sizes are tiny, and times no measurement.
        peer: the Python of an environment with calm-mamba, or None.
        keep: called with what a long phase has found so far, lest it is lost when that is ended.
    """

    name: str = "cuda:0"
    emulated: bool = False
    peer: str | None = None
    keep: Callable[[dict[str, Any]], None] = lambda _: None

    @cached_property
    def backend(self) -> Backend:
        return backends.load(self.name)

    @property
    def device(self) -> Any:
        return self.backend.device

    @property
    def xp(self) -> Any:
        return self.backend.xp

    def active(self) -> AbstractContextManager[Any]:
        """Around all that uses the device's arrays."""
        return self.backend.active()

    def new_model(self, size: str) -> Model:
        """A model of a preset's sizes; in a rehearsal narrow, with one layer."""
        if self.emulated:
            return calmgrad.new_model(size, d_model=8, n_layers=1, seed=1)
        return calmgrad.new_model(size, seed=1)

    def times(self, call: Callable[[], object], calls: int = 20, warm: int = 3) -> Times:
        """How long `call` keeps the device busy, between two CUDA events.

        Before each, the GPU copies memory, and its second-level cache with it, while the host
        queues the launches: so neither the host's time nor a warm cache is measured.
        """
        for _ in range(warm):
            call()
        if self.emulated:
            found = [_wall(call) for _ in range(2)]
        else:
            found = [self._between_events(call) for _ in range(calls)]
        return Times(median(found), min(found), len(found))

    @cached_property
    def _filler(self) -> tuple[Any, Any]:
        return self.xp.zeros(FILLER, "uint8"), self.xp.zeros(FILLER, "uint8")

    def _between_events(self, call: Callable[[], object]) -> float:
        cuda = self.xp.cuda
        begin, end = cuda.Event(), cuda.Event()
        for _ in range(4):
            self.xp.copyto(*self._filler)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return 1e3 * float(cuda.get_elapsed_time(begin, end))


def _wall(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - began)


@contextmanager
def mapped(kernels: Any, mapping: Mapping) -> Iterator[None]:
    """Inside, the scan is mapped like this."""
    before, kernels.mapping = kernels.mapping, mapping
    try:
        yield
    finally:
        kernels.mapping = before


def rehearsal() -> Subject:
    """The stand-in, put in the place of every GPU of this process."""
    from calmgrad import devices
    from tests.cuda_on_cpu.device import EmulatedDevice

    devices.open_device = lambda index, precision: EmulatedDevice()
    return Subject(emulated=True)


class Failed(Exception):
    """A check that found something wrong; the rows it had by then go into the result, too."""

    def __init__(self, message: str, **found: Any) -> None:
        super().__init__(message)
        self.found = found
