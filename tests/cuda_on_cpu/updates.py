"""The kernels over flat buffers, and of the control vector, called with drawn arrays."""

import math
from typing import Any

import numpy as np

from calmgrad.kernels.cuda import CudaKernels, control
from calmgrad.kernels.protocol import Array, ArrayModule, Kernels

DECAY, BETA1, BETA2, EPS, CLIP = 0.1, 0.8, 0.95, 1e-6, 0.3


def drawn(xp: ArrayModule, size: int, dtype: str, seed: int) -> Array:
    values = np.random.default_rng(seed).standard_normal(size).astype("float32")
    return xp.asarray(values.astype(dtype))


def on_host(x: Any) -> Any:
    return x.get() if hasattr(x, "get") else x


def run_updates(kernels: Kernels, xp: ArrayModule, size: int, dtype: str) -> dict[str, Array]:
    """What the host's numbers decide about: every buffer that changes, by name."""
    p, m, g, other, fisher, anchor = (drawn(xp, size, dtype, seed) for seed in range(6))
    v = xp.asarray(np.abs(on_host(drawn(xp, size, dtype, 6))))
    norm = kernels.squared_norm(g)
    for step in (3, 4):
        kernels.adamw(p, m, v, g, 0.5, 0.01, DECAY, BETA1, BETA2, EPS, step)
    kernels.sgd(other, g, 0.3, 0.1, DECAY)
    kernels.ewc_gradient(g, p, fisher, anchor, 7.0)
    found = {"p": p, "m": m, "v": v, "sgd": other, "ewc": g, "norm": np.array(norm)}
    return {name: on_host(x) for name, x in found.items()}


def run_steps(
    kernels: CudaKernels, xp: ArrayModule, size: int, dtype: str, spoilt: str
) -> dict[str, Array]:
    """Three training steps whose numbers stay on the device; in the second one, the gradient ("g")
    or the loss ("nll") is not finite."""
    p, m, g, other = (drawn(xp, size, dtype, seed) for seed in range(4))
    v = xp.asarray(np.abs(on_host(drawn(xp, size, dtype, 6))))
    state = xp.asarray(np.zeros(control.SIZE))
    state[control.HEALTHY], state[control.LR], state[control.STEP] = 1.0, 0.01, 2.0
    found = {}
    for step in range(3):
        if (step, spoilt) == (1, "g"):
            g[size - 1] = math.inf
        kernels.begin_step(state)
        for shard in (7, 8):
            nll, weights = (drawn(xp, size, dtype, seed) for seed in (shard, shard + 2))
            if (step, spoilt) == (1, "nll"):
                nll[0] = math.nan
            kernels.sum_losses(state, nll, weights)
        kernels.judge(state, g, CLIP, BETA1, BETA2)
        kernels.adamw_step(p, m, v, g, state, DECAY, BETA1, BETA2, EPS)
        kernels.sgd_step(other, g, state, DECAY)
        for name, array in (("p", p), ("m", m), ("v", v), ("sgd", other), ("control", state)):
            found[f"{name} after step {step}"] = on_host(array).copy()
        if step:
            g = drawn(xp, size, dtype, 20)
    return found


def expected_steps(kernels: Kernels, size: int, spoilt: str) -> dict[str, Array]:
    """The same in float64, with another backend's updates and Python's numbers."""
    p, m, g, other = (drawn(np, size, "float64", seed) for seed in range(4))
    v = np.abs(drawn(np, size, "float64", 6))
    loss = sum(
        float((drawn(np, size, "float64", a) * drawn(np, size, "float64", a + 2)).sum())
        for a in (7, 8)
    )
    norm = math.sqrt(float((g * g).sum()))
    scale = min(1.0, CLIP / (norm + 1e-6))
    kernels.adamw(p, m, v, g, scale, 0.01, DECAY, BETA1, BETA2, EPS, 3)
    kernels.sgd(other, g, scale, 0.01, DECAY)
    state = np.array([loss, norm, scale, 1, 0.01, 3, 1 - BETA1**3, 1 - BETA2**3])
    later = drawn(np, size, "float64", 20)
    wrong = state.copy()
    wrong[control.HEALTHY] = 0
    if spoilt == "g":
        wrong[[control.NORM, control.SCALE]] = math.inf, 0.0
    else:
        wrong[control.LOSS] = math.nan
    last = wrong.copy()
    last[control.LOSS] = loss
    last[control.NORM] = math.sqrt(float((later * later).sum()))
    last[control.SCALE] = min(1.0, CLIP / (last[control.NORM] + 1e-6))
    found = {}
    for step, numbers in enumerate((state, wrong, last)):
        for name, array in (("p", p), ("m", m), ("v", v), ("sgd", other), ("control", numbers)):
            found[f"{name} after step {step}"] = array
    return found
