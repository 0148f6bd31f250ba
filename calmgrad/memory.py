"""How much memory a run takes: what it will need, and what it uses."""

import sys
from pathlib import Path

from calmgrad.buckets import sizes
from calmgrad.config import ModelConfig
from calmgrad.kernels.protocol import CHUNK

FLOAT = 4  # bytes


def activations(config: ModelConfig, tokens: int, sequences: int) -> int:
    """Bytes of values and gradients one shard needs at most, by what the ops keep."""
    d, di, n, f = config.d_model, config.d_inner, config.d_state, config.d_ffn
    rank = config.dt_rank + 2 * n
    chunks = tokens // CHUNK + sequences
    # layer_norm y; in_proj xz; conv u; x_proj p; scan out, y, dt; out_proj: then the same for ffn
    layer = tokens * (d + 2 + 2 * di + di + rank + 3 * di + d) + chunks * n * di
    layer += tokens * (d + 2 + 2 * f + d)
    values = config.n_layers * layer + tokens * (2 * d + 2 + config.vocab + 2)
    # The pool keeps buffers by size: so many (T, columns) of each are alive at once.
    pool: dict[int, int] = {}
    for columns, count in ((config.vocab, 1), (d, 2), (di, 3), (2 * di, 1), (rank, 1), (f, 2)):
        pool[columns] = max(pool.get(columns, 0), count)
    gradients = tokens * sum(columns * count for columns, count in pool.items())
    scan = 3 * n * di + 16 * (4 * CHUNK + 1) * n  # its scratch
    return FLOAT * (values + gradients + scan)


def forecast(
    config: ModelConfig, shard_tokens: int, shard_sequences: int, threads: int, adam: bool
) -> int:
    """Bytes that training adds to a process that has loaded its data and the kernels."""
    # weights, total gradient, a gradient for each worker; m and v
    buffers = 2 + threads + (2 if adam else 0)
    return FLOAT * config.param_count * buffers + threads * activations(
        config, shard_tokens, shard_sequences
    )


# --- on a device ----------------------------------------------------------------------------------

SHARE = 0.75  # of a device's memory that a batch may take; the rest: CUDA, kernels, other programs
BUFFERS = 8  # flat ones on it: weights, gradients of shard and batch, m, v, Fisher, anchor, a copy
MOST_TOKENS = 1 << 21  # of a shard: a kernel has at most 65,535 blocks of 64 tokens
TYPICAL = (4096, 16)  # tokens and sequences, to tell the bytes of a token


def bytes_of_a_token(config: ModelConfig) -> float:
    """About what one more token of a shard takes."""
    return activations(config, *TYPICAL) / TYPICAL[0]


def device_shard_tokens(config: ModelConfig, total: int) -> int:
    """The most tokens of a shard on a device with so many bytes of memory.

    A larger batch is cut into several. It depends on what the device has, not on what is free
    now, so that the cut, and with it the last bits, are the same at every run.
    """
    room = SHARE * total - FLOAT * config.param_count * BUFFERS
    tokens = int(room / bytes_of_a_token(config))
    return min(max(tokens // 1024 * 1024, 1024), MOST_TOKENS)


def device_forecast(config: ModelConfig, shard_tokens: int, shard_sequences: int) -> int:
    """Bytes that training takes on a device, without CUDA's own (about 500 MB)."""
    return FLOAT * config.param_count * BUFFERS + activations(
        config, *sizes(shard_tokens, shard_sequences)
    )


# --- on the host ----------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of memory this process holds now (its peak, where the system does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    import os

    return pages * os.sysconf("SC_PAGE_SIZE")
