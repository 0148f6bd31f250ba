"""The selective scan, one token after the other, all channels and states at once.

The backward pass computes all states of a sequence again, and asks for no saved ones.
"""

from itertools import pairwise

import numpy as np

from calmgrad.kernels.protocol import CHUNK, Array
from calmgrad.kernels.reference.functions import sigmoid


def selective_scan_workspace(tokens: int, chunks: int, channels: int, states: int) -> int:
    return 0


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
    B, C = np.split(bc, 2, axis=1)
    A = -np.exp(A_log)
    dt[...] = np.logaddexp(0, dt + dt_bias)
    drive = dt * u
    chunk = 0
    for start, stop in pairwise(offsets):
        h = np.zeros_like(A)
        for t in range(start, stop):
            if (t - start) % CHUNK == 0:
                checkpoints[chunk] = h.T
                chunk += 1
            h = np.exp(dt[t, :, None] * A) * h + drive[t, :, None] * B[t]
            y[t] = h @ C[t] + D * u[t]
    out[...] = y * z * sigmoid(z)


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
    (B, C), (dB, dC) = np.split(bc, 2, axis=1), np.split(dbc, 2, axis=1)
    A = -np.exp(A_log)
    s = sigmoid(z)
    dy = dout * z * s
    dz[...] = dout * y * s * (1 + z * (1 - s))
    dD[...] = (dy * u).sum(axis=0)
    drive = dt * u
    dA = np.zeros_like(A)
    for start, stop in pairwise(offsets):
        states, decays = [np.zeros_like(A)], []
        for t in range(start, stop):
            decays.append(np.exp(dt[t, :, None] * A))
            states.append(decays[-1] * states[-1] + drive[t, :, None] * B[t])
        dh = np.zeros_like(A)  # of the state after token t, from later tokens
        for t in range(stop - 1, start - 1, -1):
            before, after, decay = states[t - start], states[t - start + 1], decays[t - start]
            dh = dh + dy[t, :, None] * C[t]
            dC[t] = dy[t] @ after
            dB[t] = drive[t] @ dh
            ddrive = dh @ B[t]
            dE = dh * before * decay  # of the exponent, dt * A
            dA += dE * dt[t, :, None]
            ddt[t] = (dE * A).sum(axis=1) + u[t] * ddrive
            du[t] = dt[t] * ddrive + D * dy[t]
            dh = dh * decay
    dA_log[...] = dA * A
    ddt *= -np.expm1(-dt)  # softplus'(x) = 1 - exp(-softplus(x))
    ddt_bias[...] = ddt.sum(axis=0)
