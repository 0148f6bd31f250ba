"""A device without CUDA sources: strict arrays of the device, NumPy's formulas behind them.

It shows what the room above the kernels does wrong (an array of the host among the device's, a
value read in the middle of a step, an array asked for in every step) where there is no compiler.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from calmgrad.kernels import reference
from calmgrad.kernels.cuda.control import (
    CORRECTION1,
    CORRECTION2,
    HEALTHY,
    LOSS,
    LR,
    NORM,
    SCALE,
    STEP,
)
from tests.cuda_on_cpu import recording
from tests.cuda_on_cpu.array import DeviceArray, _unwrapped
from tests.cuda_on_cpu.device import EmulatedDevice


class StandIn:
    """The reference kernels on device arrays, and those that keep their numbers on the device."""

    def __init__(self, device: EmulatedDevice) -> None:
        self.device = device
        self._own = _Control()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kernel = getattr(self._own, name, None) or getattr(reference, name)

        def call(*arguments: Any) -> Any:
            for x in arguments:
                if isinstance(x, np.ndarray):
                    raise TypeError(f"{name}: an array of the host")
            held = [_held(x) for x in arguments]
            sizes = name.endswith("_workspace")  # asked for, also while work is recorded
            return kernel(*held) if sizes else recording.do(name, kernel, *held)

        return call


class _Control:
    """The kernels that work on the control vector."""

    def begin_step(self, control: Any) -> None:
        control[LOSS] = 0

    def sum_losses(self, control: Any, nll: Any, weights: Any) -> None:
        control[LOSS] += np.dot(nll.astype(np.float64), weights)

    def judge(self, control: Any, g: Any, clip: float, beta1: float, beta2: float) -> None:
        c = control
        c[NORM] = math.sqrt(reference.squared_norm(g))
        if not np.isfinite(c[[LOSS, NORM]]).all():
            c[HEALTHY] = 0
        if c[HEALTHY]:
            c[STEP] += 1
            c[SCALE] = min(1.0, clip / (c[NORM] + 1e-6)) if clip > 0 else 1.0
            c[CORRECTION1], c[CORRECTION2] = 1 - beta1 ** c[STEP], 1 - beta2 ** c[STEP]

    def adamw_step(
        self, p: Any, m: Any, v: Any, g: Any, c: Any,
        decay: float, beta1: float, beta2: float, eps: float,
    ) -> None:  # fmt: skip
        if c[HEALTHY]:
            reference.adamw(p, m, v, g, c[SCALE], c[LR], decay, beta1, beta2, eps, int(c[STEP]))

    def sgd_step(self, p: Any, g: Any, c: Any, decay: float) -> None:
        if c[HEALTHY]:
            reference.sgd(p, g, c[SCALE], c[LR], decay)


def _held(x: Any) -> Any:
    return _unwrapped(x)


@contextmanager
def counted(device: EmulatedDevice) -> Iterator[dict[str, int]]:
    """Arrays asked for, and arrays or numbers read by the host, inside."""
    counts = {"empty": 0, "read": 0}

    def watch(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[what] += 1
            return function(*args, **kwargs)

        return call

    reads = ("get", "__float__", "__int__", "__bool__")
    kept = {name: getattr(DeviceArray, name) for name in reads}
    module = type(device.xp)
    asked = ("empty", "zeros", "asarray", "array")
    made = {name: module.__dict__[name] for name in asked}
    for name in reads:
        setattr(DeviceArray, name, watch("read", kept[name]))
    for name in asked:
        setattr(module, name, staticmethod(watch("empty", made[name].__func__)))
    try:
        yield counts
    finally:
        for name in reads:
            setattr(DeviceArray, name, kept[name])
        for name in asked:
            setattr(module, name, made[name])
