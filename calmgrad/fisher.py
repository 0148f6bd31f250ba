"""The Fisher diagonal of a model on some sequences: which weights matter for them (FORMATS §7)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.backend import to_numpy
from calmgrad.cutting import SHARD_TOKENS, seeds_of
from calmgrad.kernels.protocol import Array
from calmgrad.shards import Runner
from calmgrad.update import adding_to
from calmgrad.worker import loss_head

AT_ONCE = 64  # sequences handed to the threads


def of_sequences(
    runner: Runner, size: int, arrays: Sequence[NDArray[np.int64]], cmd_positions: Sequence[int]
) -> NDArray[np.float64]:
    """(size,) mean over the sequences of the squared gradient of each one's mean loss.

    A sequence without targets counts with gradient 0.
    """
    backend = runner.backend
    with backend.active():
        total = backend.xp.zeros(size, "float64")

        def add_square(grads: Array, _: int) -> None:
            backend.xp.multiply(grads, grads, out=grads)
            backend.xp.add(total, grads, out=total)

        pairs = list(zip(arrays, cmd_positions, strict=True))
        for first in range(0, len(pairs), AT_ONCE):  # a shard each, on all threads
            shards, seeds = [], []
            for array, position in pairs[first : first + AT_ONCE]:
                alone, counts = runner.pack_targets([array], [int(position)])
                shards += alone
                seeds += seeds_of(alone, 1 / np.maximum(counts, 1))
            runner.run(shards, loss_head, seeds, add_square, keep=lambda *_: None)
        return np.asarray(to_numpy(total)) / len(arrays)


def of_batch(
    runner: Runner,
    size: int,
    arrays: Sequence[NDArray[np.int64]],
    shard_tokens: int = SHARD_TOKENS,
) -> NDArray[np.float64]:
    """(size,) the squared gradient of the mean loss over all tokens: calm-mamba's rule."""
    backend = runner.backend
    shards, counts = runner.pack_targets(arrays, [0] * len(arrays), shard_tokens)
    seeds = seeds_of(shards, np.full(counts.size, 1 / max(counts.sum(), 1)))
    with backend.active():
        gradient = backend.xp.zeros(size, "float32")
        runner.run(shards, loss_head, seeds, adding_to(backend, gradient), keep=lambda *_: None)
        on_host: NDArray[np.float32] = to_numpy(gradient)
    with backends.silent_overflow():
        return (on_host * on_host).astype(np.float64)
