"""Batches filled up to a few sizes, so that a step recorded for one batch fits many.

A recorded step (replay.py) works on arrays of the sizes it was recorded with. So a batch on a
device is filled up to a bucket: with tokens whose losses weigh nothing, in sequences of their own
behind the others; with empty sequences; and with rows that have no target. Their gradients are 0,
and so the batch's are the same but for the last digits. Steps that are not recorded are filled up
too: both give the same bytes.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calmgrad.cutting import Shard
from calmgrad.kernels.protocol import CHUNK
from calmgrad.packing import Packing

STEPS = 16  # buckets between a number and its double: at most 1 in 16 is filling
LEAST_TOKENS = 64
LEAST_SEQUENCES = 8
PIECE = 128  # filling is cut into sequences of so many tokens, or of the longest's length


class Bucket(NamedTuple):
    """The sizes of a shard.

    Attributes:
        rows: tokens whose losses are computed; None: all, as they stand.
    """

    tokens: int
    sequences: int
    chunks: int
    rows: int | None


def padded(shard: Shard, seed: NDArray[np.float32]) -> tuple[Shard, NDArray[np.float32], Bucket]:
    """A shard with targets, filled up; and the gradient of its losses."""
    assert shard.targets is not None
    lengths = np.diff(shard.packing.offsets)
    tokens = _rounded(shard.tokens.size, LEAST_TOKENS)
    tail = tokens - shard.tokens.size
    piece = max(PIECE, int(lengths.max()))
    pieces = [min(piece, tail - start) for start in range(0, tail, piece)]
    sequences = _rounded(lengths.size + len(pieces), LEAST_SEQUENCES)
    chunks = tokens // CHUNK + sequences
    packing = Packing.of([*lengths, *pieces])
    targets = np.append(shard.targets, np.full(tail, -1))
    asked, weights = _questions(targets, tail, seed)
    filled = replace(
        shard,
        tokens=np.append(shard.tokens, np.zeros(tail, np.int64)),
        packing=Packing(
            _filled(packing.offsets, sequences + 1),
            packing.pos,
            _filled(packing.chunk_offsets, chunks + 1),
        ),
        targets=targets,
        asked=asked,
    )
    rows = None if asked[1] is None else asked[1].size
    return filled, weights, Bucket(tokens, sequences, chunks, rows)


def sizes(tokens: int, sequences: int) -> tuple[int, int]:
    """About what a shard of so many tokens and sequences is filled up to."""
    return _rounded(tokens, LEAST_TOKENS), _rounded(sequences + 1, LEAST_SEQUENCES)


def _questions(
    targets: NDArray[np.int64], tail: int, seed: NDArray[np.float32]
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64] | None], NDArray[np.float32]]:
    """(targets, rows) as `Shard.questions` has them, some without a target; what each weighs."""
    wanted = targets >= 0
    count, given = targets.size, int(wanted.sum())
    rows = None
    if given < count - tail:  # there are prompts among the tokens
        count = min(_rounded(given, LEAST_TOKENS), count)
        others = np.flatnonzero(~wanted)
        rows = np.sort(np.append(np.flatnonzero(wanted), others[others.size - (count - given) :]))
        targets, wanted = targets[rows], wanted[rows]
    weights = np.zeros(count, np.float32)
    weights[wanted] = seed
    return (targets, rows), weights


def _rounded(count: int, least: int) -> int:
    """The least bucket that holds `count`: a multiple of `least`, and of 1/16 of a power of 2."""
    step = max(least, (1 << count.bit_length() - 1) // STEPS)
    return -(-count // step) * step


def _filled(starts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Where parts begin; those that are added are empty, at the end."""
    return np.append(starts, np.full(size - starts.size, starts[-1]))
