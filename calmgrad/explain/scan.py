"""What happens inside a selective scan: the states of some channels, token by token.

The op keeps its states to itself, so they are computed again here, in float64 and by the formula
as it stands in `calmgrad.ops.selective_scan`; a test compares with what the op gave.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScanStates:
    """K channels of one scan, over T tokens, with N states each.

    Attributes:
        layer: the block, from 0.
        channels: which of the C, K of them.
        h: (K, T, N) states after each token; lost: (K, T, N), the share of the state before that
            is forgotten, 1 - exp(dt * A).
        B, C: (T, N), what goes in and what is read out; the same for all channels.
        dt, u, z, y, out: (K, T) step, input, gate, read-out and gated output.
    """

    layer: int
    channels: list[int]
    h: Floats
    lost: Floats
    B: Floats
    C: Floats
    dt: Floats
    u: Floats
    z: Floats
    y: Floats
    out: Floats


def scan_states(
    layer: int, channels: list[int], arrays: dict[str, NDArray[np.float32]]
) -> ScanStates:
    """The states of some channels.

    Args:
        layer: the block, from 0.
        channels: which.
        arrays: the op's arguments by name: u, z, p, dt_weight, dt_bias, A_log, D; one sequence.
    """
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    rank = wide["dt_weight"].shape[0]
    A = -np.exp(wide["A_log"][channels])  # (K, N)
    states = A.shape[1]
    p = wide["p"]
    dt_raw, B, C = p[:, :rank], p[:, rank : rank + states], p[:, rank + states :]
    u, z = wide["u"].T[channels], wide["z"].T[channels]  # (K, T)
    sums = dt_raw @ wide["dt_weight"][:, channels] + wide["dt_bias"][channels]
    dt = np.logaddexp(0, sums).T
    lost = -np.expm1(dt[:, :, None] * A[:, None, :])
    drive = (dt * u)[:, :, None] * B
    h = np.empty_like(lost)
    state = np.zeros_like(A)
    for t in range(h.shape[1]):
        state = state - lost[:, t] * state + drive[:, t]
        h[:, t] = state
    y = (h * C).sum(axis=2) + wide["D"][channels, None] * u
    out = y * z * np.exp(-np.logaddexp(0, -z))
    return ScanStates(layer, channels, h, lost, B, C, dt, u, z, y, out)
