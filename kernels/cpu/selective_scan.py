"""The selective scan: sixteen channels at a time through all tokens, their states in cache.

Inside, A is kept by state as A2[n, c] = -exp(A_log[c, n]) * log2(e), so that the decay is
exp2(dt * A2). The forward pass saves the states of every sixteenth token; the backward pass
recomputes the fifteen between and walks over them in reverse.
"""

import math

from calmgrad.kernels.cpu.compile import inlined, kernel
from calmgrad.kernels.cpu.functions import one_minus_exp_minus, sigmoid, softplus
from calmgrad.kernels.cpu.simd import (
    WIDTH,
    all_lanes,
    constant,
    exp2_of_negative,
    first_lanes,
    load,
    row_totals,
    splat,
    store,
)
from calmgrad.kernels.protocol import CHUNK, Array

LOG2E = 1 / math.log(2)
LN2 = math.log(2)


def selective_scan_workspace(channels: int, states: int) -> int:
    """A2, and for sixteen channels: a chunk of states and decays, dh, dA, and sums over lanes."""
    rows = -(-states // WIDTH) * WIDTH
    return channels * states + WIDTH * ((2 * CHUNK + 1) * states + 2 * states + 2 * rows) + WIDTH


@kernel
def _forward(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets, c, lanes):
    states = A2.shape[0]
    every = all_lanes()
    chunk = 0
    bias = load(dt_bias, c, lanes)
    skip = load(D, c, lanes)
    for b in range(offsets.size - 1):
        for n in range(states):
            store(h, (n, 0), constant(h, 0.0), every)
        for t in range(offsets[b], offsets[b + 1]):
            if (t - offsets[b]) % CHUNK == 0:
                for n in range(states):
                    store(checkpoints, (chunk, n, c), load(h, (n, 0), every), lanes)
                chunk += 1
            step = softplus(load(dt, (t, c), lanes) + bias, dt)
            store(dt, (t, c), step, lanes)
            x = load(u, (t, c), lanes)
            drive = step * x
            total = skip * x
            for n in range(states):
                state = exp2_of_negative(step * load(A2, (n, c), lanes)) * load(h, (n, 0), every)
                state += drive * splat(bc, (t, n))
                store(h, (n, 0), state, every)
                total += state * splat(bc, (t, states + n))
            store(y, (t, c), total, lanes)
            gate = load(z, (t, c), lanes)
            store(out, (t, c), total * gate * sigmoid(gate), lanes)


@kernel
def _scaled_A(A2, A_log):
    for c in range(A_log.shape[0]):
        for n in range(A_log.shape[1]):
            A2[n, c] = -math.exp(A_log[c, n]) * LOG2E


# Whole blocks of channels and the last few are two kernels: most models need only the first.


@kernel
def _forward_blocks(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets):
    for c in range(0, D.size // WIDTH * WIDTH, WIDTH):
        _forward(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets, c, all_lanes())


@kernel
def _forward_rest(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets):
    c = D.size // WIDTH * WIDTH
    some = first_lanes(D.size - c)
    _forward(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets, c, some)


def selective_scan_forward(
    out: Array,
    y: Array,
    dt: Array,
    checkpoints: Array,
    u: Array,
    z: Array,
    bc: Array,
    dt_bias: Array,
    A_log: Array,
    D: Array,
    offsets: Array,
    work: Array,
) -> None:
    channels, states = A_log.shape
    A2, h = _parts(work, (states, channels), (states, WIDTH))
    _scaled_A(A2, A_log)
    arguments = (out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets)
    if channels >= WIDTH:
        _forward_blocks(*arguments)
    if channels % WIDTH:
        _forward_rest(*arguments)


def _parts(work: Array, *shapes: tuple[int, ...]) -> list[Array]:
    """Arrays of these shapes, one after the other out of `work`."""
    parts, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        parts.append(work[start:stop].reshape(shape))
        start = stop
    return parts


@inlined
def _recompute(hs, decays, dt, u, bc, A2, start, stop, c, lanes):
    """States hs[q + 1] after and decays[q] at each token of a chunk, from hs[0] before it."""
    states = A2.shape[0]
    every = all_lanes()
    for t in range(start, stop):
        q = t - start
        step = load(dt, (t, c), lanes)
        drive = step * load(u, (t, c), lanes)
        for n in range(states):
            decay = exp2_of_negative(step * load(A2, (n, c), lanes))
            store(decays, (q, n, 0), decay, every)
            state = decay * load(hs, (q, n, 0), every) + drive * splat(bc, (t, n))
            store(hs, (q + 1, n, 0), state, every)


@inlined
def _add_sums(dbc, t, column, sums, states, first):
    """dbc[t, column + n] (+)= sum over lanes of sums[n], sixteen n at a time."""
    for n in range(0, states, WIDTH):
        if n + WIDTH <= states:
            value = row_totals(sums, (n, 0))
            if not first:
                value += load(dbc, (t, column + n), all_lanes())
            store(dbc, (t, column + n), value, all_lanes())
        else:
            some = first_lanes(states - n)
            value = row_totals(sums, (n, 0))
            if not first:
                value += load(dbc, (t, column + n), some)
            store(dbc, (t, column + n), value, some)


@kernel
def _backward(
    du, dz, ddt, dbc, ddt_bias, dA, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
    hs, decays, dh, dB, dC, offsets, c, first, lanes,
):  # fmt: skip
    states = A2.shape[0]
    every = all_lanes()
    zero = constant(hs, 0.0)
    skip = load(D, c, lanes)
    bias_sum, skip_sum = zero, zero
    for n in range(states):
        store(dA, (n, 0), zero, every)
    chunk = checkpoints.shape[0]
    for b in range(offsets.size - 2, -1, -1):
        for n in range(states):
            store(dh, (n, 0), zero, every)
        begin, end = offsets[b], offsets[b + 1]
        for start in range(begin + (end - begin - 1) // CHUNK * CHUNK, begin - 1, -CHUNK):
            chunk -= 1
            stop = min(start + CHUNK, end)
            for n in range(states):
                store(hs, (0, n, 0), load(checkpoints, (chunk, n, c), lanes), every)
            _recompute(hs, decays, dt, u, bc, A2, start, stop, c, lanes)
            for t in range(stop - 1, start - 1, -1):
                q = t - start
                gate = load(z, (t, c), lanes)
                s = sigmoid(gate)
                dgated = load(dout, (t, c), lanes)
                slope = s * (gate * (1.0 - s) + 1.0)  # of silu
                store(dz, (t, c), dgated * load(y, (t, c), lanes) * slope, lanes)
                dy = dgated * gate * s
                step = load(dt, (t, c), lanes)
                x = load(u, (t, c), lanes)
                drive = step * x
                dexponent, ddrive = zero, zero
                for n in range(states):
                    g = load(dh, (n, 0), every) + dy * splat(bc, (t, states + n))
                    store(dC, (n, 0), dy * load(hs, (q + 1, n, 0), every), every)
                    store(dB, (n, 0), g * drive, every)
                    ddrive += g * splat(bc, (t, n))
                    g = g * load(decays, (q, n, 0), every)
                    store(dh, (n, 0), g, every)
                    g = g * load(hs, (q, n, 0), every)
                    dexponent += g * load(A2, (n, c), lanes)
                    store(dA, (n, 0), load(dA, (n, 0), every) + g * step, every)
                dstep = (dexponent * LN2 + x * ddrive) * one_minus_exp_minus(step)
                store(ddt, (t, c), dstep, lanes)
                store(du, (t, c), step * ddrive + skip * dy, lanes)
                bias_sum += dstep
                skip_sum += dy * x
                _add_sums(dbc, t, 0, dB, states, first)
                _add_sums(dbc, t, states, dC, states, first)
    store(ddt_bias, c, bias_sum, lanes)
    store(dD, c, skip_sum, lanes)


@kernel
def _store_dA_log(dA_log, dA, A2, c, count):
    """dA_log = dA * A, back in the parameter's layout."""
    for n in range(dA.shape[0]):
        for k in range(count):
            dA_log[c + k, n] = dA[n, k] * A2[n, c + k] * LN2


@kernel
def _backward_blocks(
    du, dz, ddt, dbc, ddt_bias, dA_log, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
    hs, decays, dh, dA, dB, dC, offsets,
):  # fmt: skip
    for c in range(0, D.size // WIDTH * WIDTH, WIDTH):
        _backward(
            du, dz, ddt, dbc, ddt_bias, dA, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
            hs, decays, dh, dB, dC, offsets, c, c == 0, all_lanes(),
        )  # fmt: skip
        _store_dA_log(dA_log, dA, A2, c, WIDTH)


@kernel
def _backward_rest(
    du, dz, ddt, dbc, ddt_bias, dA_log, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
    hs, decays, dh, dA, dB, dC, offsets,
):  # fmt: skip
    c = D.size // WIDTH * WIDTH
    _backward(
        du, dz, ddt, dbc, ddt_bias, dA, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
        hs, decays, dh, dB, dC, offsets, c, c == 0, first_lanes(D.size - c),
    )  # fmt: skip
    _store_dA_log(dA_log, dA, A2, c, D.size - c)


def selective_scan_backward(
    du: Array,
    dz: Array,
    ddt: Array,
    dbc: Array,
    ddt_bias: Array,
    dA_log: Array,
    dD: Array,
    dout: Array,
    y: Array,
    dt: Array,
    checkpoints: Array,
    u: Array,
    z: Array,
    bc: Array,
    A_log: Array,
    D: Array,
    offsets: Array,
    work: Array,
) -> None:
    channels, states = A_log.shape
    rows = -(-states // WIDTH) * WIDTH
    one = (states, WIDTH)
    A2, hs, decays, dh, dA, dB, dC = _parts(
        work, (states, channels), (CHUNK + 1, *one), (CHUNK, *one), one, one,
        (rows, WIDTH), (rows, WIDTH),
    )  # fmt: skip
    dB[...] = 0  # the rows beyond d_state stay 0
    dC[...] = 0
    _scaled_A(A2, A_log)
    arguments = (
        du, dz, ddt, dbc, ddt_bias, dA_log, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
        hs, decays, dh, dA, dB, dC, offsets,
    )  # fmt: skip
    if channels >= WIDTH:
        _backward_blocks(*arguments)
    if channels % WIDTH:
        _backward_rest(*arguments)
