"""Updates over flat buffers; LLVM vectorises these plain loops by itself."""

import math

from calmgrad.kernels.cpu.compile import kernel
from calmgrad.kernels.cpu.simd import WIDTH, all_lanes, constant, load, total
from calmgrad.kernels.protocol import Array

BLOCK = 1024  # elements summed in their own dtype before the sum goes on in float64


@kernel
def squared_norm(x: Array) -> float:
    """Sum of squares, in float64 over blocks."""
    flat = x.reshape(-1)
    result = 0.0
    full = flat.size // WIDTH * WIDTH
    for start in range(0, full, BLOCK):
        sums = constant(flat, 0.0)
        for i in range(start, min(start + BLOCK, full), WIDTH):
            v = load(flat, i, all_lanes())
            sums += v * v
        result += total(sums)
    for i in range(full, flat.size):
        result += float(flat[i]) * float(flat[i])
    return result


@kernel
def _adamw(p, m, v, g, scale, decay, beta1, beta2, rate, correction, eps):
    one = p.dtype.type(1)
    for i in range(p.size):
        gradient = g[i] * scale
        m[i] = beta1 * m[i] + (one - beta1) * gradient
        v[i] = beta2 * v[i] + (one - beta2) * gradient * gradient
        p[i] -= decay * p[i] + rate * m[i] / (math.sqrt(v[i] * correction) + eps)


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
    cast = p.dtype.type
    rate, correction = lr / (1 - beta1**step), 1 / (1 - beta2**step)
    _adamw(
        p, m, v, g,
        cast(scale), cast(lr * decay), cast(beta1), cast(beta2),
        cast(rate), cast(correction), cast(eps),
    )  # fmt: skip


@kernel
def _sgd(p, g, rate, decay):
    for i in range(p.size):
        p[i] -= decay * p[i] + rate * g[i]


def sgd(p: Array, g: Array, scale: float, lr: float, decay: float) -> None:
    cast = p.dtype.type
    _sgd(p, g, cast(lr * scale), cast(lr * decay))


@kernel
def _ewc_gradient(g, p, fisher, anchor, strength):
    for i in range(p.size):
        g[i] += strength * fisher[i] * (p[i] - anchor[i])


def ewc_gradient(g: Array, p: Array, fisher: Array, anchor: Array, strength: float) -> None:
    _ewc_gradient(g, p, fisher, anchor, p.dtype.type(strength))
