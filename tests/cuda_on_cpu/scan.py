"""The scan's kernels, called with drawn arrays: those of a GPU, or the reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from calmgrad.kernels.protocol import Array, ArrayModule
from calmgrad.packing import Packing


def run_scan(
    kernels: Any,  # with the scan among them
    xp: ArrayModule,
    lengths: Sequence[int],
    channels: int,
    states: int,
    dtype: str,
    inputs: str = "float32",
    empty_slots: tuple[int, int] = (0, 0),
) -> dict[str, Array]:
    """Forward and backward; every result by name, as arrays of the host.

    What may be a view of columns is one, of an array that is NaN elsewhere. The inputs are rounded
    to the type `inputs` before they become `dtype`. The packing has so many empty
    sequences, and chunks, behind the others.
    """
    rng = np.random.default_rng(channels)
    packing = Packing.of(lengths)
    tokens, filled = sum(lengths), packing.chunks
    offsets, chunk_offsets = (
        np.append(starts, np.full(count, tokens))
        for starts, count in zip((packing.offsets, packing.chunk_offsets), empty_slots, strict=True)
    )
    packing = Packing(*map(xp.asarray, (offsets, packing.pos, chunk_offsets)))

    def given(x: Any, margin: int = 0) -> Array:
        wide = np.full((*x.shape[:-1], margin + x.shape[-1]), np.nan, dtype)
        wide[..., margin:] = x.astype(inputs)
        return xp.asarray(wide)[..., margin:]

    def drawn(*shape: int, margin: int = 0) -> Array:
        return given(rng.standard_normal(shape), margin)

    def empty(*shape: int, margin: int = 0) -> Array:
        return xp.empty((*shape[:-1], margin + shape[-1]), dtype)[..., margin:]

    per_token = (tokens, channels)
    u, z, bc = (
        drawn(*per_token, margin=3),
        drawn(*per_token, margin=5),
        drawn(tokens, 2 * states, margin=1),
    )
    dt, dout, D = drawn(*per_token), drawn(*per_token, margin=4), drawn(channels)
    dt_bias = given(rng.standard_normal(channels) - 2)
    A_log = given(np.log(rng.uniform(0.5, 16, (channels, states))))
    chunks = packing.chunks
    out, y = empty(*per_token), empty(*per_token)
    checkpoints = empty(chunks, states, channels)
    size = kernels.selective_scan_workspace(tokens, chunks, channels, states)
    where = (packing.offsets, packing.chunk_offsets)
    kernels.selective_scan_forward(
        out, y, dt, checkpoints, u, z, bc, dt_bias, A_log, D, *where, empty(size)
    )
    du, dz = empty(*per_token, margin=2), empty(*per_token, margin=7)
    ddt, dbc = empty(*per_token), empty(tokens, 2 * states, margin=3)
    ddt_bias, dA_log, dD = empty(channels), empty(channels, states), empty(channels)
    kernels.selective_scan_backward(
        du, dz, ddt, dbc, ddt_bias, dA_log, dD,
        dout, y, dt, checkpoints, u, z, bc, A_log, D, *where, empty(size),
    )  # fmt: skip
    results = {
        "out": out, "y": y, "dt": dt, "checkpoints": checkpoints, "du": du, "dz": dz,
        "ddt": ddt, "dbc": dbc, "ddt_bias": ddt_bias, "dA_log": dA_log, "dD": dD,
    }  # fmt: skip
    results["checkpoints"] = checkpoints[:filled]
    return {name: x.get() if hasattr(x, "get") else x for name, x in results.items()}
