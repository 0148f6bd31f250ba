"""Work recorded once and done again: on the emulated device, and by CuPy's calls, in order."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calmgrad.kernels.cuda import CudaKernels
from calmgrad.kernels.cuda.device import CaptureError, CupyDevice, _CupyGraph, _refuse
from tests.cuda_on_cpu.device import EmulatedDevice, compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


class Scene:
    """y = gelu(x) @ w, and then y += x."""

    def __init__(self) -> None:
        self.device = EmulatedDevice()
        self.kernels = CudaKernels(self.device)
        xp = self.device.xp
        rng = np.random.default_rng(0)
        self.x, self.w = (xp.asarray(rng.standard_normal((4, 4))) for _ in range(2))
        self.h, self.y = xp.empty((4, 4)), xp.empty((4, 4))

    def run(self) -> None:
        self.kernels.gelu_forward(self.h, self.x)
        self.kernels.matmul(self.y, self.h, self.w)
        self.device.xp.add(self.y, self.x, out=self.y)
        self.h[1:, :2] = self.y[:3, 2:]
        self.h.fill(0)

    def eager(self, x: Any) -> bytes:
        other = Scene()
        other.x.set(x)
        other.w.set(self.w.get())
        other.run()
        return bytes(other.y.get().tobytes())


@needs_compiler
def test_a_replay_is_the_work_done_again() -> None:
    scene = Scene()
    scene.run()
    before = scene.y.get()
    with scene.device.capture() as graph:
        scene.x[0, 0] = 0.5
        scene.run()
    assert np.array_equal(scene.y.get(), before), "what is recorded is not done"
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((4, 4))
        scene.x.set(x)
        x[0, 0] = 0.5
        graph.launch()
        assert scene.y.get().tobytes() == scene.eager(x)


@needs_compiler
def test_numbers_and_addresses_stay_as_they_were() -> None:
    device = EmulatedDevice()
    kernels = CudaKernels(device)
    p, g = (device.xp.asarray(np.ones(3)) for _ in range(2))
    rate = 0.25
    kernels.sgd(p, g, 1.0, rate, 0.0)
    with device.capture() as graph:
        kernels.sgd(p, g, 1.0, rate, 0.0)
    rate, recorded = 0.5, g
    g = device.xp.asarray(np.full(3, 100.0))
    graph.launch()
    assert p.get().tolist() == [0.5] * 3
    del recorded
    with pytest.raises(RuntimeError, match="memory that was freed"):
        graph.launch()


FORBIDDEN: dict[str, Any] = {
    "empty": lambda d, x: d.xp.empty(3),
    "zeros": lambda d, x: d.xp.zeros(3),
    "asarray": lambda d, x: d.xp.asarray(np.ones(3)),
    "get": lambda d, x: x.get(),
    "set": lambda d, x: x.set(np.ones((4, 4))),
    "float": lambda d, x: float(x[0, 0]),
    "int": lambda d, x: int(x[0, 0]),
    "bool": lambda d, x: bool(x[0, 0] > 0),
    "sum": lambda d, x: x.sum(),
    "add": lambda d, x: x + x,
    "a function without out": lambda d, x: d.xp.add(x, x),
    "comparison": lambda d, x: x > 0,
    "advanced indexing": lambda d, x: x[[0, 2]],
    "a reshape that copies": lambda d, x: x.T.reshape(-1),
    "a capture within": lambda d, x: d.capture().__enter__(),
}


@needs_compiler
@pytest.mark.parametrize("what", list(FORBIDDEN))
def test_what_cannot_be_recorded_ends_the_capture(what: str) -> None:
    scene = Scene()
    scene.run()
    graphs: list[Any] = []

    def captured() -> None:
        with scene.device.capture() as graph:
            graphs.append(graph)
            scene.run()
            FORBIDDEN[what](scene.device, scene.x)

    with pytest.raises(CaptureError):
        captured()
    with pytest.raises(RuntimeError, match="has failed"):
        graphs[0].launch()
    x = scene.x.get()
    scene.run()  # as before
    assert scene.y.get().tobytes() == scene.eager(x)


@needs_compiler
def test_views_and_work_in_place_can_be_recorded() -> None:
    scene = Scene()
    with scene.device.capture() as graph:
        flat = scene.x[1:].reshape(-1)
        flat[3:5] += 1.0
        scene.w.T[0] = flat[:4]
        scene.x[3, 3] = scene.x[0, 0]
    x, w = scene.x.get(), scene.w.get()
    graph.launch()
    x.reshape(-1)[7:9] += 1
    w[:, 0] = x[1]
    x[3, 3] = x[0, 0]
    assert np.array_equal(scene.x.get(), x)
    assert np.array_equal(scene.w.get(), w)


# --- CuPy's part, by a stand-in that writes down what it is asked for -----------------------------


class FakeStream:
    def __init__(self, log: list[str], fails: str = "") -> None:
        self.log, self.fails = log, fails

    def __enter__(self) -> None:
        self.log.append("stream")

    def __exit__(self, *_: object) -> None:
        self.log.append("stream left")

    def begin_capture(self) -> None:
        self.log.append("begin")

    def end_capture(self) -> Any:
        self.log.append("end")
        if self.fails == "end":
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        return SimpleNamespace(launch=lambda stream: self.log.append(f"launch {stream is self}"))


class FakeContext:
    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def cupy_device(fails: str = "") -> tuple[CupyDevice, list[str]]:
    """One without CuPy, up to the calls that `capture` makes."""
    device, log = CupyDevice.__new__(CupyDevice), list[str]()
    cuda = SimpleNamespace(Device=FakeContext, using_allocator=FakeContext)
    device.xp, device.index = SimpleNamespace(cuda=cuda), 0
    device._stream = FakeStream(log, fails)
    device._turn = threading.RLock()
    return device, log


def test_cupy_begins_and_ends_on_its_stream() -> None:
    device, log = cupy_device()
    with device.capture() as graph:
        log.append("work")
    graph.launch()
    assert log == ["stream", "begin", "work", "end", "stream left", "launch True"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_cupy_ends_the_capture_after_an_error(error: type[BaseException]) -> None:
    device, log = cupy_device("end")  # CUDA refuses to end one that is invalid: not told instead
    with pytest.raises(error, match="in between"), device.capture() as graph:
        raise error("in between")
    assert log == ["stream", "begin", "end", "stream left"]
    assert isinstance(graph, _CupyGraph)
    assert graph.captured is None


def test_cupy_tells_a_capture_that_went_wrong() -> None:
    device, _ = cupy_device("end")
    with pytest.raises(RuntimeError, match="Invalidated"), device.capture():
        pass


def test_no_memory_while_recording() -> None:
    with pytest.raises(CaptureError, match="128 bytes"):
        _refuse(128)
