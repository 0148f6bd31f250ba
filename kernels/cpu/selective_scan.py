"""The selective scan: sixteen channels at a time through all tokens, their states in cache.

Inside, A is kept by state as A2[n, c] = A[c, n] * log2(e), so that the decay exp(dt * A) is
exp2(dt * A2). The forward pass saves the states before every sixteenth token; the backward pass
computes those between again and walks over them in reverse.

An array's name with _t is its row t, sixteen channels from c on: u_t is u[t, c : c+16].
"""

import math

from calmgrad.kernels.cpu.compile import columns, inlined, kernel
from calmgrad.kernels.cpu.functions import one_minus_exp_minus, sigmoid, softplus
from calmgrad.kernels.cpu.simd import (
    WIDTH,
    all_lanes,
    constant,
    exp2,
    exp2_of_negative,
    first_lanes,
    lanes_up_to,
    load,
    row_totals,
    splat,
    store,
)
from calmgrad.kernels.protocol import CHUNK, Array

LOG2E = 1 / math.log(2)
LN2 = math.log(2)
GAP = 5 * WIDTH  # else arrays may lie 4096 bytes apart, where a load waits for another's store


def selective_scan_workspace(tokens: int, chunks: int, channels: int, states: int) -> int:
    """A2, dA and dh of all channels; states, decays, dB and dC of a chunk of sixteen channels."""
    width, rows = -(-channels // WIDTH) * WIDTH, -(-states // WIDTH) * WIDTH
    sizes = 3 * states * width + WIDTH * ((2 * CHUNK + 1) * states + 2 * CHUNK * rows)
    return sizes + 7 * GAP


@inlined
def _softplus(dt, dt_bias, start, stop, c, lanes):
    """The step sizes, in place of the product that they are made of."""
    bias = load(dt_bias, c, lanes)
    for t in range(start, stop):
        store(dt, (t, c), softplus(load(dt, (t, c), lanes) + bias, dt), lanes)


@inlined
def _scan(y, dt, u, bc, D, A2, h, start, stop, c, lanes):
    """Carry the states h through the tokens of a chunk; y is what they and the skip give out."""
    states = A2.shape[0]
    every = all_lanes()
    skip = load(D, c, lanes)
    for t in range(start, stop):
        dt_t = load(dt, (t, c), lanes)
        u_t = load(u, (t, c), lanes)
        drive = dt_t * u_t
        y_t = skip * u_t
        for n in range(states):
            h_n = exp2_of_negative(dt_t * load(A2, (n, c), every)) * load(h, (n, 0), every)
            h_n += drive * splat(bc, (t, n))
            store(h, (n, 0), h_n, every)
            y_t += h_n * splat(bc, (t, states + n))
        store(y, (t, c), y_t, lanes)


@inlined
def _gate(out, y, z, start, stop, c, lanes):
    for t in range(start, stop):
        z_t = load(z, (t, c), lanes)
        store(out, (t, c), load(y, (t, c), lanes) * z_t * sigmoid(z_t), lanes)


# Three passes over a chunk, not one: the softplus of a token takes long and its scan waits for
# it; side by side, sixteen of them fill the time.


@kernel
def _forward(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets, c, lanes):
    every = all_lanes()
    chunk = 0
    for b in range(offsets.size - 1):
        for n in range(A2.shape[0]):
            store(h, (n, 0), constant(h, 0.0), every)
        for start in range(offsets[b], offsets[b + 1], CHUNK):
            stop = min(start + CHUNK, offsets[b + 1])
            for n in range(A2.shape[0]):
                store(checkpoints, (chunk, n, c), load(h, (n, 0), every), lanes)
            chunk += 1
            _softplus(dt, dt_bias, start, stop, c, lanes)
            _scan(y, dt, u, bc, D, A2, h, start, stop, c, lanes)
            _gate(out, y, z, start, stop, c, lanes)


@kernel
def _scaled_A(A2, A_log):
    A2[...] = 0.0  # the columns beyond the last channel
    for c in range(A_log.shape[0]):
        for n in range(A_log.shape[1]):
            A2[n, c] = A_log[c, n] * LOG2E
    for n in range(A2.shape[0]):
        for c in range(0, A2.shape[1], WIDTH):
            store(A2, (n, c), exp2(load(A2, (n, c), all_lanes())) * -LOG2E, all_lanes())


# A width of a multiple of sixteen needs no masks, and a kernel without them is half as long.


@kernel
def _forward_blocks(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets):
    for c in range(0, D.size, WIDTH):
        _forward(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets, c, all_lanes())


@kernel
def _forward_ragged(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets):
    for c in range(0, D.size, WIDTH):
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
    chunk_offsets: Array,
    work: Array,
) -> None:
    channels, states = A_log.shape
    width = -(-channels // WIDTH) * WIDTH
    A2, h = _parts(work, (states, width), (states, WIDTH))
    _scaled_A(A2, A_log)
    forward = _forward_ragged if channels % WIDTH else _forward_blocks
    z, bc = columns(z), columns(bc)
    forward(out, y, dt, checkpoints, u, z, bc, dt_bias, D, A2, h, offsets)


def _parts(work: Array, *shapes: tuple[int, ...]) -> list[Array]:
    """Arrays of these shapes out of `work`, with a gap after each."""
    parts, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        parts.append(work[start:stop].reshape(shape))
        start = stop + GAP
    return parts


@inlined
def _gate_backward(dz, dy, dD, dout, y, u, z, start, stop, c, lanes):
    """Through the gate, to dz and dy; and dD."""
    dD_sum = load(dD, c, lanes)
    for t in range(start, stop):
        z_t = load(z, (t, c), lanes)
        s = sigmoid(z_t)
        dout_t = load(dout, (t, c), lanes)
        slope = s * (z_t * (1.0 - s) + 1.0)  # of silu
        store(dz, (t, c), dout_t * load(y, (t, c), lanes) * slope, lanes)
        dy_t = dout_t * z_t * s
        store(dy, (t, c), dy_t, lanes)
        dD_sum += dy_t * load(u, (t, c), lanes)
    store(dD, c, dD_sum, lanes)


@inlined
def _recompute(hs, decays, dt, u, bc, A2, start, stop, c, lanes):
    """States hs[q + 1] after and decays[q] at each token of a chunk, from hs[0] before it."""
    states = A2.shape[0]
    every = all_lanes()
    for t in range(start, stop):
        q = t - start
        dt_t = load(dt, (t, c), lanes)
        drive = dt_t * load(u, (t, c), lanes)
        for n in range(states):
            decay = exp2_of_negative(dt_t * load(A2, (n, c), every))
            store(decays, (q, n, 0), decay, every)
            h_n = decay * load(hs, (q, n, 0), every) + drive * splat(bc, (t, n))
            store(hs, (q + 1, n, 0), h_n, every)


@inlined
def _scan_backward(du, ddt, dB, dC, dA, dh, hs, decays, dt, u, bc, D, A2, start, stop, c, lanes):
    """Walk a chunk from its end; du holds dy before and du after.

    dh[n, c] is what the later tokens send back to the state after the one at hand.
    """
    states = A2.shape[0]
    every = all_lanes()
    skip = load(D, c, lanes)
    for t in range(stop - 1, start - 1, -1):
        q = t - start
        dy_t = load(du, (t, c), lanes)
        dt_t = load(dt, (t, c), lanes)
        u_t = load(u, (t, c), lanes)
        drive = dt_t * u_t
        dE_A2, ddrive = constant(hs, 0.0), constant(hs, 0.0)  # sum_n dE * A2, sum_n dh * B
        for n in range(states):
            dh_n = load(dh, (n, c), every) + dy_t * splat(bc, (t, states + n))
            dC_n = load(dC, (q, n, 0), every) + dy_t * load(hs, (q + 1, n, 0), every)
            store(dC, (q, n, 0), dC_n, every)
            store(dB, (q, n, 0), load(dB, (q, n, 0), every) + dh_n * drive, every)
            ddrive += dh_n * splat(bc, (t, n))
            carried = dh_n * load(decays, (q, n, 0), every)
            store(dh, (n, c), carried, every)
            dE = carried * load(hs, (q, n, 0), every)
            dE_A2 += dE * load(A2, (n, c), every)
            store(dA, (n, c), load(dA, (n, c), every) + dE * dt_t, every)
        store(ddt, (t, c), dE_A2 * LN2 + u_t * ddrive, lanes)
        store(du, (t, c), dt_t * ddrive + skip * dy_t, lanes)


@inlined
def _softplus_backward(ddt, ddt_bias, dt, start, stop, c, lanes):
    """From the gradient of dt to that of softplus' argument, in place; and ddt_bias."""
    bias_sum = load(ddt_bias, c, lanes)
    for t in range(start, stop):
        slope = one_minus_exp_minus(load(dt, (t, c), lanes))
        ddt_t = load(ddt, (t, c), lanes) * slope
        store(ddt, (t, c), ddt_t, lanes)
        bias_sum += ddt_t
    store(ddt_bias, c, bias_sum, lanes)


@inlined
def _store_sums(dbc, t, column, sums, q, states):
    """dbc[t, column + n] = sum over lanes of sums[q, n], sixteen n at a time."""
    for n in range(0, states, WIDTH):
        value = row_totals(sums, (q, n, 0))
        if n + WIDTH <= states:
            store(dbc, (t, column + n), value, all_lanes())
        else:
            store(dbc, (t, column + n), value, first_lanes(states - n))


# The sums over channels in dB and dC are gathered lane by lane from all blocks of channels, and
# the lanes added up once a token: so the chunk is the outer loop and the channels the inner one.


@kernel
def _backward(
    du, dz, ddt, dbc, ddt_bias, dA, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
    hs, decays, dh, dB, dC, offsets, kind,
):  # fmt: skip
    channels, states = D.size, bc.shape[1] // 2
    every = all_lanes()
    dA[...] = 0.0
    dD[...] = 0.0
    ddt_bias[...] = 0.0
    chunk = checkpoints.shape[0]
    for b in range(offsets.size - 2, -1, -1):
        dh[...] = 0.0
        begin, end = offsets[b], offsets[b + 1]
        for start in range(begin + (end - begin - 1) // CHUNK * CHUNK, begin - 1, -CHUNK):
            chunk -= 1
            stop = min(start + CHUNK, end)
            dB[...] = 0.0
            dC[...] = 0.0
            for c in range(0, channels, WIDTH):
                lanes = lanes_up_to(kind, channels - c)
                for n in range(states):
                    store(hs, (0, n, 0), load(checkpoints, (chunk, n, c), lanes), every)
                _gate_backward(dz, du, dD, dout, y, u, z, start, stop, c, lanes)
                _recompute(hs, decays, dt, u, bc, A2, start, stop, c, lanes)
                _scan_backward(
                    du, ddt, dB, dC, dA, dh, hs, decays, dt, u, bc, D, A2, start, stop, c, lanes
                )
                _softplus_backward(ddt, ddt_bias, dt, start, stop, c, lanes)
            for t in range(start, stop):
                _store_sums(dbc, t, 0, dB, t - start, states)
                _store_sums(dbc, t, states, dC, t - start, states)


@kernel
def _store_dA_log(dA_log, dA, A2):
    """dA_log = dA * A, back in the parameter's layout."""
    for n in range(dA_log.shape[1]):
        for c in range(dA_log.shape[0]):
            dA_log[c, n] = dA[n, c] * A2[n, c] * LN2


@kernel
def _backward_blocks(
    du, dz, ddt, dbc, ddt_bias, dA, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
    hs, decays, dh, dB, dC, offsets,
):  # fmt: skip
    _backward(
        du, dz, ddt, dbc, ddt_bias, dA, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
        hs, decays, dh, dB, dC, offsets, all_lanes(),
    )  # fmt: skip


@kernel
def _backward_ragged(
    du, dz, ddt, dbc, ddt_bias, dA, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
    hs, decays, dh, dB, dC, offsets,
):  # fmt: skip
    _backward(
        du, dz, ddt, dbc, ddt_bias, dA, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
        hs, decays, dh, dB, dC, offsets, first_lanes(WIDTH),
    )  # fmt: skip


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
    chunk_offsets: Array,
    work: Array,
) -> None:
    channels, states = A_log.shape
    width, rows = -(-channels // WIDTH) * WIDTH, -(-states // WIDTH) * WIDTH
    A2, dA, dh, hs, decays, dB, dC = _parts(
        work, (states, width), (states, width), (states, width),
        (CHUNK + 1, states, WIDTH), (CHUNK, states, WIDTH),
        (CHUNK, rows, WIDTH), (CHUNK, rows, WIDTH),
    )  # fmt: skip
    _scaled_A(A2, A_log)
    backward = _backward_ragged if channels % WIDTH else _backward_blocks
    dz, dbc, z, bc = map(columns, (dz, dbc, z, bc))
    backward(
        du, dz, ddt, dbc, ddt_bias, dA, dD, dout, y, dt, checkpoints, u, z, bc, D, A2,
        hs, decays, dh, dB, dC, offsets,
    )  # fmt: skip
    _store_dA_log(dA_log, dA, A2)
