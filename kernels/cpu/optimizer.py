"""Updates over flat buffers: sums and AdamW on lanes; the plain loops LLVM vectorises itself."""

from calmgrad.kernels.cpu.compile import inlined, kernel
from calmgrad.kernels.cpu.simd import (
    WIDTH,
    all_lanes,
    constant,
    first_lanes,
    load,
    sqrt,
    store,
    total,
)
from calmgrad.kernels.protocol import Array

BLOCK = 1024  # elements summed in their own dtype before the sum goes on in float64


@kernel
def _squared_norm(flat):
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


def squared_norm(x: Array) -> float:
    """Sum of squares, in float64 over blocks."""
    return float(_squared_norm(x.reshape(-1)))


@inlined
def _adamw_lanes(p, m, v, g, scale, decay, beta1, beta2, rate, correction, eps, i, lanes):
    """`decay` is lr * decay, `rate` lr / (1 - beta1^k), `correction` 1 / (1 - beta2^k)."""
    g_i = load(g, i, lanes) * scale
    m_i = load(m, i, lanes) * beta1 + g_i * (1.0 - beta1)
    v_i = load(v, i, lanes) * beta2 + g_i * g_i * (1.0 - beta2)
    store(m, i, m_i, lanes)
    store(v, i, v_i, lanes)
    p_i = load(p, i, lanes)
    change = p_i * decay + m_i * rate / (sqrt(v_i * correction) + eps)
    store(p, i, p_i - change, lanes)


@kernel
def _adamw(p, m, v, g, scale, decay, beta1, beta2, rate, correction, eps):
    full = p.size // WIDTH * WIDTH
    for i in range(0, full, WIDTH):
        _adamw_lanes(
            p, m, v, g, scale, decay, beta1, beta2, rate, correction, eps, i, all_lanes()
        )  # fmt: skip
    if full < p.size:
        some = first_lanes(p.size - full)
        _adamw_lanes(p, m, v, g, scale, decay, beta1, beta2, rate, correction, eps, full, some)


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
    rate, correction = lr / (1 - beta1**step), 1 / (1 - beta2**step)
    _adamw(p, m, v, g, scale, lr * decay, beta1, beta2, rate, correction, eps)


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
