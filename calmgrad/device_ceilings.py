"""How fast a GPU is at products and at moving memory, measured: as `ceilings` for a CPU's core."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from calmgrad.backend import Backend
from calmgrad.ceilings import LARGE
from calmgrad.config import ModelConfig

TRIES, CALLS = 5, 4


def waiting(backend: Backend) -> Callable[[], None]:
    """A function that waits until the device has done all that it was given."""
    if backend.device is None:
        return lambda: None
    device = backend.device

    def wait() -> None:
        event = device.event()
        event.record()
        event.synchronize()

    return wait


def products(backend: Backend, config: ModelConfig, tokens: int) -> float:
    """Floating-point operations a second of the fastest product in a step of this model."""
    d, di, xp = config.d_model, config.d_inner, backend.xp
    shapes = [(d, 2 * di), (di, d), (d, config.d_ffn), (config.d_ffn, d), (d, config.vocab)]
    best = 0.0
    with backend.active():
        for i, o in shapes:
            x, w = (xp.asarray(np.ones(s, np.float32)) for s in ((tokens, i), (i, o)))
            y = xp.empty((tokens, o), "float32")
            took = _seconds(backend, partial(backend.kernels.matmul, y, x, w))
            best = max(best, 2 * tokens * i * o / took)
    return best


def copies(backend: Backend) -> float:
    """Bytes a second, read and written together, when a large array is copied."""
    with backend.active():
        source, target = (backend.xp.zeros(LARGE // 4, "float32") for _ in range(2))

        def copy() -> None:
            target[...] = source

        return 2 * LARGE / _seconds(backend, copy)


def _seconds(backend: Backend, call: Callable[[], object]) -> float:
    """Of one call among several that the device is given at once, at best."""
    wait = waiting(backend)
    call()
    wait()
    best = float("inf")
    for _ in range(TRIES):
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        wait()
        best = min(best, (time.perf_counter() - began) / CALLS)
    return best
