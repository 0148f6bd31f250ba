"""How fast one core of this machine is at what a training step consists of, measured.

Products, moving memory, and exponentials with their multiply-adds: an op cannot be faster than
the slowest of what it needs. Each figure is the best of several tries.
"""

import time
from collections.abc import Callable
from functools import cache

import numpy as np

from calmgrad import backend as backends
from calmgrad.config import ModelConfig

TRIES = 12
LEAST = 2e-4  # seconds of a try: short calls are repeated so often
CACHED, LARGE = 1 << 20, 1 << 26  # bytes: within a core's reach; beyond every cache


def products(config: ModelConfig, tokens: int) -> float:
    """Floating-point operations a second of the fastest product in a step of this model."""
    d, di = config.d_model, config.d_inner
    shapes = [(d, 2 * di), (di, d), (d, config.d_ffn), (config.d_ffn, d), (d, config.vocab)]
    best = 0.0
    with backends.one_blas_thread():
        for i, o in shapes:
            x, w = np.ones((tokens, i), np.float32), np.ones((i, o), np.float32)
            y = np.empty((tokens, o), np.float32)

            def multiply(x: object = x, w: object = w, y: object = y) -> None:
                np.matmul(x, w, out=y)  # type: ignore[call-overload]

            best = max(best, 2 * tokens * i * o / _seconds(multiply))
    return best


@cache
def copies(size: int) -> float:
    """Bytes a second, read and written together, when an array of `size` bytes is copied."""
    source, target = np.ones(size // 4, np.float32), np.zeros(size // 4, np.float32)
    return 2 * size / _seconds(lambda: np.copyto(target, source))


@cache
def exponentials() -> float:
    """Updates of a scan's state a second: an exponential and two multiply-adds each."""
    from calmgrad.kernels.cpu.ceiling import AT_ONCE, decayed

    out = np.zeros(16, np.float32)
    rates = -np.linspace(0.1, 1.0, AT_ONCE, dtype=np.float32)
    steps = np.linspace(0.01, 0.1, 1024, dtype=np.float32)
    return decayed(out, rates, steps) / _seconds(lambda: decayed(out, rates, steps))


def _seconds(call: Callable[[], object]) -> float:
    """Of one call, at best."""
    call()
    began = time.perf_counter()
    call()
    count = max(1, round(LEAST / max(time.perf_counter() - began, 1e-9)))
    best = float("inf")
    for _ in range(TRIES):
        began = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, (time.perf_counter() - began) / count)
    return best
