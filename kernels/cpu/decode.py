"""One token through the whole network, in one kernel.

For a single token, a call for each part of each layer would cost more than the arithmetic.

Matrices are read where they stand in the flat buffer. What goes by channel (conv taps, decays,
dt_bias, D) is copied by `decode_prepare` into rows of whole lanes, the decays ready for exp2; so
only products, norms and the logits ever meet a last few columns.
"""

import math

import numpy as np

from calmgrad.kernels.cpu.compile import inlined, kernel
from calmgrad.kernels.cpu.functions import sigmoid, softplus
from calmgrad.kernels.cpu.gelu import CUBIC, LINEAR
from calmgrad.kernels.cpu.sampling import choose
from calmgrad.kernels.cpu.simd import (
    WIDTH,
    all_lanes,
    constant,
    exp2_of_negative,
    first_lanes,
    load,
    splat,
    store,
    total,
)
from calmgrad.kernels.protocol import (
    A_LOG,
    CONV,
    DT,
    DT_BIAS,
    FC1,
    FC2,
    IN,
    LN1,
    LN2,
    OUT,
    PER_LAYER,
    SKIP,
    Array,
    Sizes,
    X,
)

LOG2E = 1 / math.log(2)
VECTORS = 8  # of scratch memory


def decode_channels(channels: int) -> int:
    return -(-channels // WIDTH) * WIDTH


def _own_rows(s):
    """Rows of private copies of a layer: decays, conv taps, dt_bias, D."""
    return s.d_state + s.d_conv + 2


def decode_workspace(s: Sizes) -> int:
    """The private copies, and vectors that are each as long as the network's longest."""
    own = s.n_layers * _own_rows(s) * decode_channels(s.d_inner)
    longest = max(s.d_model, s.d_inner, s.d_ffn, s.dt_rank + 2 * s.d_state, s.vocab)
    return int(own + VECTORS * decode_channels(longest))


def decode_prepare(work: Array, weights: Array, starts: Array, s: Sizes) -> None:
    rows, row = _own_rows(s), decode_channels(s.d_inner)
    work[:] = 0
    for layer in range(s.n_layers):
        own = work[layer * rows * row : (layer + 1) * rows * row].reshape(rows, row)
        own = own[:, : s.d_inner]
        at = starts[1 + layer * PER_LAYER : 1 + (layer + 1) * PER_LAYER]
        decays, taps = own[: s.d_state], own[s.d_state : -2]
        for part, start in ((decays, at[A_LOG]), (taps, at[CONV])):
            part[...] = weights[start : start + part.size].reshape(part.shape[::-1]).T
        np.exp(decays, out=decays)
        decays *= -LOG2E
        own[-2] = weights[at[DT_BIAS] : at[DT_BIAS] + s.d_inner]
        own[-1] = weights[at[SKIP] : at[SKIP] + s.d_inner]


@inlined
def _eight(y, v0, v1, v2, v3, v4, v5, v6, v7, w, at, stride, c, lanes):
    a = load(y, c, all_lanes())
    a += v0 * load(w, at + c, lanes)
    a += v1 * load(w, at + stride + c, lanes)
    a += v2 * load(w, at + 2 * stride + c, lanes)
    a += v3 * load(w, at + 3 * stride + c, lanes)
    a += v4 * load(w, at + 4 * stride + c, lanes)
    a += v5 * load(w, at + 5 * stride + c, lanes)
    a += v6 * load(w, at + 6 * stride + c, lanes)
    a += v7 * load(w, at + 7 * stride + c, lanes)
    store(y, c, a, all_lanes())


@kernel
def _add_product(y, x, w, start, stride, rows, columns):
    """y += x @ W with W[i, c] = w[start + i stride + c], eight rows of W at a time.

    `y` has whole lanes; those beyond `columns` stay as they are.
    """
    full = columns // WIDTH * WIDTH
    tail = first_lanes(columns - full)
    eights = rows // 8 * 8
    for i in range(0, eights, 8):
        at = start + i * stride
        v0, v1, v2, v3 = splat(x, i), splat(x, i + 1), splat(x, i + 2), splat(x, i + 3)
        v4, v5, v6, v7 = splat(x, i + 4), splat(x, i + 5), splat(x, i + 6), splat(x, i + 7)
        for c in range(0, full, WIDTH):
            _eight(y, v0, v1, v2, v3, v4, v5, v6, v7, w, at, stride, c, all_lanes())
        if full < columns:
            _eight(y, v0, v1, v2, v3, v4, v5, v6, v7, w, at, stride, full, tail)
    for i in range(eights, rows):
        at = start + i * stride
        v = splat(x, i)
        for c in range(0, full, WIDTH):
            a = load(y, c, all_lanes()) + v * load(w, at + c, all_lanes())
            store(y, c, a, all_lanes())
        if full < columns:
            a = load(y, full, all_lanes()) + v * load(w, at + full, tail)
            store(y, full, a, all_lanes())


@kernel
def _product(y, x, w, start, stride, rows, columns):
    """y = x @ W, as above."""
    for c in range(0, columns, WIDTH):
        store(y, c, constant(y, 0.0), all_lanes())
    _add_product(y, x, w, start, stride, rows, columns)


@kernel
def _norm(y, x, w, start, channels, eps):
    """LayerNorm; its weight begins at w[start], its bias follows."""
    every = all_lanes()
    full = channels // WIDTH * WIDTH
    tail = first_lanes(channels - full)
    sums = constant(x, 0.0)
    for c in range(0, channels, WIDTH):  # x is 0 beyond its channels
        sums += load(x, c, every)
    m = total(sums) / channels
    squares = constant(x, 0.0)
    for c in range(0, full, WIDTH):
        v = load(x, c, every) - m
        squares += v * v
    variance = total(squares)
    for c in range(full, channels):
        variance += (x[c] - m) * (x[c] - m)
    r = 1.0 / math.sqrt(variance / channels + eps)
    y[0] = r
    r = splat(y, 0)
    for c in range(0, full, WIDTH):
        v = (load(x, c, every) - m) * r
        store(y, c, v * load(w, start + c, every) + load(w, start + channels + c, every), every)
    if full < channels:
        v = (load(x, full, every) - m) * r
        bias = load(w, start + channels + full, tail)
        store(y, full, v * load(w, start + full, tail) + bias, every)


@kernel
def _convolve(u, conv, layer, own, at, row, taps):
    """u = silu(conv), and the columns kept for the next token move on by one."""
    every = all_lanes()
    for c in range(0, row, WIDTH):
        x = load(u, c, every)
        a = x * load(own, at + c, every)
        for j in range(1, taps):
            a += load(conv, (layer, j - 1, c), every) * load(own, at + j * row + c, every)
        for j in range(taps - 2, 0, -1):
            store(conv, (layer, j, c), load(conv, (layer, j - 1, c), every), every)
        if taps > 1:
            store(conv, (layer, 0, c), x, every)
        store(u, c, a * sigmoid(a), every)


@kernel
def _scan(out, u, z, dt, bc, rank, scan, layer, own, decays, bias, row):
    """One step of the recurrence, and the gate."""
    every = all_lanes()
    states = scan.shape[1]
    for c in range(0, row, WIDTH):
        dt_t = softplus(load(dt, c, every) + load(own, bias + c, every), dt)
        u_t = load(u, c, every)
        drive = dt_t * u_t
        y_t = load(own, bias + row + c, every) * u_t
        for n in range(states):
            decay = exp2_of_negative(dt_t * load(own, decays + n * row + c, every))
            h_n = decay * load(scan, (layer, n, c), every) + drive * splat(bc, rank + n)
            store(scan, (layer, n, c), h_n, every)
            y_t += h_n * splat(bc, rank + states + n)
        z_t = load(z, c, every)
        store(out, c, y_t * z_t * sigmoid(z_t), every)


@kernel
def _gelu(x, columns):
    for c in range(0, columns, WIDTH):
        x_t = load(x, c, all_lanes())
        store(x, c, x_t * sigmoid(x_t * (x_t * x_t * CUBIC + LINEAR)), all_lanes())


@kernel
def _step(conv, scan, weights, starts, s, eps, work, token):
    """One token into the state; returns the output of the final LayerNorm."""
    d, di, bc_columns = s.d_model, s.d_inner, s.dt_rank + 2 * s.d_state
    row = conv.shape[2]
    own_rows = s.d_state + s.d_conv + 2
    start = s.n_layers * own_rows * row
    long = (work.size - start) // VECTORS
    x, h = work[start : start + long], work[start + long : start + 2 * long]
    u, z = work[start + 2 * long : start + 3 * long], work[start + 3 * long : start + 4 * long]
    bc, dt = work[start + 4 * long : start + 5 * long], work[start + 5 * long : start + 6 * long]
    f = work[start + 6 * long : start + 7 * long]
    for c in range(d):
        x[c] = weights[starts[0] + token * d + c]
    for layer in range(s.n_layers):
        p = 1 + layer * PER_LAYER
        own = layer * own_rows * row
        taps = own + s.d_state * row
        _norm(h, x, weights, starts[p + LN1], d, eps)
        _product(u, h, weights, starts[p + IN], 2 * di, d, di)
        _product(z, h, weights, starts[p + IN] + di, 2 * di, d, di)
        _convolve(u, conv, layer, work, taps, row, s.d_conv)
        _product(bc, u, weights, starts[p + X], bc_columns, di, bc_columns)
        _product(dt, bc, weights, starts[p + DT], di, s.dt_rank, di)
        bias = taps + s.d_conv * row
        _scan(h, u, z, dt, bc, s.dt_rank, scan, layer, work, own, bias, row)
        _add_product(x, h, weights, starts[p + OUT], d, di, d)
        _norm(h, x, weights, starts[p + LN2], d, eps)
        _product(f, h, weights, starts[p + FC1], s.d_ffn, d, s.d_ffn)
        _gelu(f, s.d_ffn)
        _add_product(x, f, weights, starts[p + FC2], d, s.d_ffn, d)
    _norm(h, x, weights, starts[1 + s.n_layers * PER_LAYER], d, eps)
    return h


@kernel
def _head(logits, h, weights, start, d):
    """logits[v] = h . token_emb[v]."""
    full = d // WIDTH * WIDTH
    tail = first_lanes(d - full)
    for v in range(logits.size):
        at = start + v * d
        a = constant(h, 0.0)
        for c in range(0, full, WIDTH):
            a += load(h, c, all_lanes()) * load(weights, at + c, all_lanes())
        if full < d:
            a += load(h, full, tail) * load(weights, at + full, tail)
        logits[v] = total(a)


@kernel
def decode_tokens(
    chosen: Array,
    log_probs: Array,
    logits: Array,
    conv: Array,
    scan: Array,
    weights: Array,
    starts: Array,
    s: Sizes,
    eps: float,
    work: Array,
    tokens: Array,
    pauses: Array,
    draws: Array,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> int:
    # One loop with one call of _step: compiled twice, it might round differently.
    spare = work[work.size - logits.size :]
    known = tokens.size
    for i in range(known + max(chosen.size - 1, 0)):
        token = tokens[i] if i < known else chosen[i - known]
        h = _step(conv, scan, weights, starts, s, eps, work, token)
        if i < known - 1:
            continue
        _head(logits, h, weights, starts[0], s.d_model)
        if chosen.size == 0:
            break
        j = i - known + 1
        pick, log_prob = choose(logits, spare, draws[j], temperature, top_k, top_p, min_p)
        chosen[j] = pick
        log_probs[j] = log_prob
        if pauses[pick]:
            return int(j + 1)
    return int(chosen.size)
