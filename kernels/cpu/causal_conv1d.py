"""Causal convolution and SiLU: a row of channels after the other, sixteen channels at a time."""

from calmgrad.kernels.cpu.compile import kernel
from calmgrad.kernels.cpu.functions import sigmoid
from calmgrad.kernels.cpu.simd import WIDTH, all_lanes, first_lanes, load, store
from calmgrad.kernels.protocol import Array


def causal_conv1d_workspace(channels: int, taps: int) -> int:
    """Weights by tap, weight gradients by tap, and the last `taps` rows of da."""
    return 3 * taps * channels


@kernel
def _convolve(x, w, t, c, reach, lanes):
    """sum_j w[j, c] x[t-j, c] for 0 <= j <= reach."""
    a = load(x, (t, c), lanes) * load(w, (0, c), lanes)
    for j in range(1, reach + 1):
        a += load(x, (t - j, c), lanes) * load(w, (j, c), lanes)
    return a


@kernel
def _forward(y, x, w, t, c, reach, lanes):
    a = _convolve(x, w, t, c, reach, lanes)
    store(y, (t, c), a * sigmoid(a), lanes)


@kernel
def causal_conv1d_forward(y: Array, x: Array, weight: Array, pos: Array, work: Array) -> None:
    tokens, channels = x.shape
    taps = weight.shape[1]
    w = work[: taps * channels].reshape(taps, channels)
    w[:] = weight.T
    full = channels // WIDTH * WIDTH
    for t in range(tokens):
        reach = min(taps - 1, pos[t])
        for c in range(0, full, WIDTH):
            _forward(y, x, w, t, c, reach, all_lanes())
        if full < channels:
            _forward(y, x, w, t, full, reach, first_lanes(channels - full))


@kernel
def _backward(dx, dw, dy, x, w, ring, pos, t, c, lanes):
    taps = w.shape[0]
    reach = min(taps - 1, pos[t])
    a = _convolve(x, w, t, c, reach, lanes)
    s = sigmoid(a)
    da = load(dy, (t, c), lanes) * s * (a * (1.0 - s) + 1.0)
    store(ring, (t % taps, c), da, lanes)
    for j in range(reach + 1):
        store(dw, (j, c), load(dw, (j, c), lanes) + da * load(x, (t - j, c), lanes), lanes)
    g = da * load(w, (0, c), lanes)
    for j in range(1, min(taps, x.shape[0] - t)):
        if pos[t + j] < j:  # t + j begins or lies in the next sequence
            break
        g += load(ring, ((t + j) % taps, c), lanes) * load(w, (j, c), lanes)
    store(dx, (t, c), g, lanes)


@kernel
def causal_conv1d_backward(
    dx: Array, dweight: Array, dy: Array, x: Array, weight: Array, pos: Array, work: Array
) -> None:
    tokens, channels = x.shape
    taps = weight.shape[1]
    size = taps * channels
    w = work[:size].reshape(taps, channels)
    dw = work[size : 2 * size].reshape(taps, channels)
    ring = work[2 * size : 3 * size].reshape(taps, channels)
    w[:] = weight.T
    dw[:] = 0
    full = channels // WIDTH * WIDTH
    for t in range(tokens - 1, -1, -1):  # backwards: dx[t] needs da[t], da[t+1], …
        for c in range(0, full, WIDTH):
            _backward(dx, dw, dy, x, w, ring, pos, t, c, all_lanes())
        if full < channels:
            _backward(dx, dw, dy, x, w, ring, pos, t, full, first_lanes(channels - full))
    dweight[:] = dw.T
