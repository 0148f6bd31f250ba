"""Causal convolution and SiLU: a row of channels after the other, sixteen channels at a time.

`w` is `weight` by tap, w[j, c], so that the weights of sixteen channels lie side by side; `reach`
is how many taps before the current token are inside of the sequence.
"""

from calmgrad.kernels.cpu.compile import columns, inlined, kernel
from calmgrad.kernels.cpu.functions import sigmoid
from calmgrad.kernels.cpu.simd import WIDTH, all_lanes, first_lanes, load, store
from calmgrad.kernels.protocol import Array


def causal_conv1d_workspace(tokens: int, channels: int, taps: int) -> int:
    """For `w` and its gradient `dw`."""
    return 2 * taps * channels


@inlined
def _convolve(x, w, t, c, reach, lanes):
    """sum_j w[j, c] x[t-j, c] for 0 <= j <= reach."""
    a = load(x, (t, c), lanes) * load(w, (0, c), lanes)
    for j in range(1, reach + 1):
        a += load(x, (t - j, c), lanes) * load(w, (j, c), lanes)
    return a


@inlined
def _forward(y, x, w, t, c, reach, lanes):
    a = _convolve(x, w, t, c, reach, lanes)
    store(y, (t, c), a * sigmoid(a), lanes)


@kernel
def _forward_all(y, x, w, pos):
    tokens, channels = pos.size, x.shape[1]
    taps = w.shape[0]
    full = channels // WIDTH * WIDTH
    for t in range(tokens):
        reach = min(taps - 1, pos[t])
        for c in range(0, full, WIDTH):
            _forward(y, x, w, t, c, reach, all_lanes())
        if full < channels:
            _forward(y, x, w, t, full, reach, first_lanes(channels - full))


def causal_conv1d_forward(y: Array, x: Array, weight: Array, pos: Array, work: Array) -> None:
    w = work[: weight.size].reshape(weight.shape[::-1])
    w[...] = weight.T
    _forward_all(y, columns(x), w, pos)


@inlined
def _backward_silu(dx, dw, dy, x, w, t, c, reach, lanes):
    """dx[t] = da[t] for now, and this token's share of dweight."""
    a = _convolve(x, w, t, c, reach, lanes)
    s = sigmoid(a)
    da = load(dy, (t, c), lanes) * s * (a * (1.0 - s) + 1.0)
    store(dx, (t, c), da, lanes)
    for j in range(reach + 1):
        store(dw, (j, c), load(dw, (j, c), lanes) + da * load(x, (t - j, c), lanes), lanes)


@inlined
def _backward_taps(dx, w, t, c, ahead, lanes):
    """dx[t] = sum_j w[j] da[t+j]: in place, since no earlier token needs da[t] any more."""
    g = load(dx, (t, c), lanes) * load(w, (0, c), lanes)
    for j in range(1, ahead + 1):
        g += load(dx, (t + j, c), lanes) * load(w, (j, c), lanes)
    store(dx, (t, c), g, lanes)


@kernel
def _backward_all(dx, dw, dy, x, w, pos):
    tokens, channels = pos.size, x.shape[1]
    taps = w.shape[0]
    full = channels // WIDTH * WIDTH
    tail = first_lanes(channels - full)
    for t in range(tokens):
        reach = min(taps - 1, pos[t])
        for c in range(0, full, WIDTH):
            _backward_silu(dx, dw, dy, x, w, t, c, reach, all_lanes())
        if full < channels:
            _backward_silu(dx, dw, dy, x, w, t, full, reach, tail)
    for t in range(tokens):
        ahead = 0  # later tokens of the same sequence that this one reaches
        while ahead < taps - 1 and t + ahead + 1 < tokens and pos[t + ahead + 1] > ahead:
            ahead += 1
        for c in range(0, full, WIDTH):
            _backward_taps(dx, w, t, c, ahead, all_lanes())
        if full < channels:
            _backward_taps(dx, w, t, full, ahead, tail)


def causal_conv1d_backward(
    dx: Array, dweight: Array, dy: Array, x: Array, weight: Array, pos: Array, work: Array
) -> None:
    w, dw = work[: 2 * weight.size].reshape(2, *weight.shape[::-1])
    w[...] = weight.T
    dw[...] = 0
    _backward_all(columns(dx), dw, dy, columns(x), w, pos)
    dweight[...] = dw.T
