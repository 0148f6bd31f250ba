"""The contrastive loss of a batch of pairs and its gradient, in the memory of a shard.

All shards are embedded, the loss gives the gradient of each embedding, and each shard is run
again with its rows of that gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.config import ModelConfig
from calmgrad.cutting import Shard
from calmgrad.kernels.protocol import Array
from calmgrad.ops.infonce import infonce
from calmgrad.sequences import Tokens, checked_tokens
from calmgrad.shards import Runner
from calmgrad.tape import Tape
from calmgrad.update import adding_to
from calmgrad.worker import Head, embedding_head


@dataclass(frozen=True, slots=True)
class PairLoss:
    """Of a batch of B pairs.

    Attributes:
        loss: (1,), where the backend computes.
        gradient: (2 B, d_model) of the loss in the embeddings: the queries', then the positives'.
        head: what embeds.
    """

    loss: Array
    gradient: Array
    head: Head


def checked_pairs(
    queries: Sequence[Tokens], positives: Sequence[Tokens], config: ModelConfig
) -> list[NDArray[np.int64]]:
    """The queries, then the positives, as arrays.

    Raises:
        ValueError: no pair, unequal numbers, a sequence too long, a token out of range.
    """
    pairs = len(queries)
    if pairs == 0 or pairs != len(positives):
        raise ValueError(
            f"contrastive_step: {pairs} queries, {len(positives)} positives:"
            " expected as many of both, at least one"
        )
    named = [(f"query {i}", s) for i, s in enumerate(queries)]
    named += [(f"positive {i}", s) for i, s in enumerate(positives)]
    arrays = []
    for name, sequence in named:
        array = checked_tokens(sequence, config, name)
        if array.size > config.l_max:
            raise ValueError(
                f"{name}: {array.size} tokens, expected at most l_max = {config.l_max}"
            )
        arrays.append(array)
    return arrays


def of_embeddings(
    runner: Runner, shards: Sequence[Shard], temperature: float, pool: str
) -> PairLoss:
    """Embed the shards of a batch; its loss, and the gradient in the embeddings."""
    backend, head = runner.backend, embedding_head(pool)
    count = sum(len(shard.rows) for shard in shards)
    rows = backend.xp.empty((count, runner.width), "float32")
    rows_of = [_slice(shard.rows) for shard in shards]

    def keep(embedded: Array, _: Array | None, i: int) -> None:
        rows[rows_of[i]] = embedded

    runner.run(shards, head, keep=keep)
    tape = Tape(backend)
    q, p = tape.constant(rows[: count // 2]), tape.constant(rows[count // 2 :])
    with backends.one_blas_thread(), backends.silent_overflow():
        output = infonce(q, p, temperature)
        tape.backward(output, backend.xp.ones(1, "float32"))
    return PairLoss(output.value, backend.xp.concatenate([q.grad, p.grad]), head)


def send_back(runner: Runner, shards: Sequence[Shard], found: PairLoss, total: Array) -> None:
    """Add the gradient of the loss in the parameters to the flat `total`."""
    seeds = [found.gradient[_slice(shard.rows)] for shard in shards]
    runner.run(shards, found.head, seeds, adding_to(runner.backend, total), keep=lambda *_: None)


def _slice(rows: list[int]) -> slice | list[int]:
    """Rows of a batch, as a slice where they follow each other: a device needs no list then."""
    if rows == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return rows
