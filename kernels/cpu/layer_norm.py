"""LayerNorm, row by row: two sums, then one pass."""

import math

from calmgrad.kernels.cpu.compile import inlined, kernel
from calmgrad.kernels.cpu.simd import (
    WIDTH,
    all_lanes,
    constant,
    first_lanes,
    load,
    splat,
    store,
    total,
)
from calmgrad.kernels.protocol import Array


def layer_norm_workspace(tokens: int, channels: int) -> int:
    return 0


@kernel
def layer_norm_forward(
    y: Array, mean: Array, rstd: Array, x: Array, weight: Array, bias: Array, eps: float
) -> None:
    tokens, channels = x.shape
    every = all_lanes()
    full = channels // WIDTH * WIDTH
    tail = first_lanes(channels - full)
    for t in range(tokens):
        sums = constant(x, 0.0)
        for c in range(0, full, WIDTH):
            sums += load(x, (t, c), every)
        if full < channels:
            sums += load(x, (t, full), tail)
        m = total(sums) / channels
        squares = constant(x, 0.0)
        for c in range(0, full, WIDTH):
            d = load(x, (t, c), every) - m
            squares += d * d
        variance = total(squares)
        for c in range(full, channels):  # few: a masked lane would count as -mean
            variance += (x[t, c] - m) * (x[t, c] - m)
        mean[t] = m
        rstd[t] = 1.0 / math.sqrt(variance / channels + eps)
        r = splat(rstd, t)
        for c in range(0, full, WIDTH):
            d = (load(x, (t, c), every) - m) * r
            store(y, (t, c), d * load(weight, c, every) + load(bias, c, every), every)
        if full < channels:
            d = (load(x, (t, full), tail) - m) * r
            store(y, (t, full), d * load(weight, full, tail) + load(bias, full, tail), tail)


@inlined
def _sums(dweight, dbias, dy, x, weight, t, c, m, r, lanes):
    """Add this row to dweight and dbias; return its shares of sum(g) and sum(g * normed)."""
    normed = (load(x, (t, c), lanes) - m) * r
    upstream = load(dy, (t, c), lanes)  # 0 in masked lanes, and so is all that it multiplies
    store(dweight, c, load(dweight, c, lanes) + upstream * normed, lanes)
    store(dbias, c, load(dbias, c, lanes) + upstream, lanes)
    g = upstream * load(weight, c, lanes)
    return g, g * normed


@inlined
def _result(dx, dy, x, weight, t, c, m, r, mean_g, mean_along, accumulate, lanes):
    normed = (load(x, (t, c), lanes) - m) * r
    g = load(dy, (t, c), lanes) * load(weight, c, lanes)
    value = r * (g - mean_g - normed * mean_along)
    if accumulate:
        value += load(dx, (t, c), lanes)
    store(dx, (t, c), value, lanes)


@kernel
def layer_norm_backward(
    dx: Array,
    dweight: Array,
    dbias: Array,
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array,
    accumulate: bool,
    work: Array,
) -> None:
    tokens, channels = x.shape
    every = all_lanes()
    full = channels // WIDTH * WIDTH
    tail = first_lanes(channels - full)
    dweight[:] = 0
    dbias[:] = 0
    for t in range(tokens):
        m, r = splat(mean, t), splat(rstd, t)
        sum_g, sum_along = constant(x, 0.0), constant(x, 0.0)
        for c in range(0, full, WIDTH):
            g, along = _sums(dweight, dbias, dy, x, weight, t, c, m, r, every)
            sum_g += g
            sum_along += along
        if full < channels:
            g, along = _sums(dweight, dbias, dy, x, weight, t, full, m, r, tail)
            sum_g += g
            sum_along += along
        mean_g = total(sum_g) / channels
        mean_along = total(sum_along) / channels
        for c in range(0, full, WIDTH):
            _result(dx, dy, x, weight, t, c, m, r, mean_g, mean_along, accumulate, every)
        if full < channels:
            _result(dx, dy, x, weight, t, full, m, r, mean_g, mean_along, accumulate, tail)
