"""Updates over flat buffers (FORMATS §7)."""

import numpy as np

from calmgrad.kernels.protocol import Array


def squared_norm(x: Array) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def adamw(
    p: Array,
    m: Array,
    v: Array,
    g: Array,
    scale: float,
    lr: float,
    decay: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
) -> None:
    g = g * scale
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g * g
    p *= 1 - lr * decay
    p -= lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)


def sgd(p: Array, g: Array, scale: float, lr: float, decay: float) -> None:
    p *= 1 - lr * decay
    p -= lr * scale * g


def ewc_gradient(g: Array, p: Array, fisher: Array, anchor: Array, strength: float) -> None:
    g += strength * fisher * (p - anchor)
