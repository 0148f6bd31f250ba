"""The selective scan, one token after the other, all channels and states at once."""

from itertools import pairwise

import numpy as np

from calmgrad.kernels.protocol import CHUNK, Array


def selective_scan_workspace(tokens: int, chunks: int, channels: int, states: int) -> int:
    return 0


def _sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


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
    n = A_log.shape[1]
    A = -np.exp(A_log)
    dt[...] = np.logaddexp(0, dt + dt_bias)
    chunk = 0
    for start, stop in pairwise(offsets):
        h = np.zeros_like(A)
        for t in range(start, stop):
            if (t - start) % CHUNK == 0:
                checkpoints[chunk] = h.T
                chunk += 1
            h = np.exp(dt[t, :, None] * A) * h + (dt[t] * u[t])[:, None] * bc[t, :n]
            y[t] = h @ bc[t, n:] + D * u[t]
    out[...] = y * z * _sigmoid(z)


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
    n = A_log.shape[1]
    A = -np.exp(A_log)
    s = _sigmoid(z)
    dy = dout * z * s
    dz[...] = dout * y * s * (1 + z * (1 - s))
    dD[...] = (dy * u).sum(axis=0)
    dA = np.zeros_like(A)
    for start, stop in pairwise(offsets):
        states = [np.zeros_like(A)]
        for t in range(start, stop):
            decay = np.exp(dt[t, :, None] * A)
            states.append(decay * states[-1] + (dt[t] * u[t])[:, None] * bc[t, :n])
        dh = np.zeros_like(A)  # of the state after token t, from later tokens
        for t in range(stop - 1, start - 1, -1):
            before, after = states[t - start], states[t - start + 1]
            dh = dh + dy[t][:, None] * bc[t, n:]
            dbc[t, n:] = dy[t] @ after
            dbc[t, :n] = (dt[t] * u[t]) @ dh
            db_u = dh @ bc[t, :n]
            decay = np.exp(dt[t, :, None] * A)
            dexponent = dh * before * decay  # of dt * A
            dA += dexponent * dt[t][:, None]
            ddt[t] = (dexponent * A).sum(axis=1) + u[t] * db_u
            du[t] = dt[t] * db_u + D * dy[t]
            dh = dh * decay
    dA_log[...] = dA * A
    ddt *= -np.expm1(-dt)  # softplus'(x) = 1 - exp(-softplus(x))
    ddt_bias[...] = ddt.sum(axis=0)
