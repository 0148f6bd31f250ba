"""Making data sets out of data sets: some of the sequences, or those of several files."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calmgrad.dataset_statistics import digests, overlap, repeated
from calmgrad.formats.ctds import Sequences


def take(sequences: Sequences, rows: NDArray[np.int64]) -> Sequences:
    """The sequences with these numbers, in this order."""
    lengths = sequences.lengths[rows]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    # Where each token stands in the source: its own place, moved by its sequence's shift.
    shifts = np.repeat(sequences.offsets[rows] - offsets[:-1], lengths)
    tokens = sequences.tokens[np.arange(offsets[-1]) + shifts]
    return Sequences(tokens, offsets, sequences.cmd_positions[rows], sequences.vocab_version)


def merge(parts: Sequence[Sequences]) -> Sequences:
    """All sequences, one data set after the other."""
    offsets = np.zeros(sum(part.count for part in parts) + 1, np.int64)
    np.cumsum(np.concatenate([part.lengths for part in parts]), out=offsets[1:])
    return Sequences(
        np.concatenate([part.tokens for part in parts]),
        offsets,
        np.concatenate([part.cmd_positions for part in parts]),
        parts[0].vocab_version,
    )


def split(sequences: Sequences, fraction: float, seed: int = 0) -> tuple[Sequences, Sequences]:
    """Training and validation data, chosen by the tokens alone.

    The same tokens always go the same way, so no sequence is in both parts.

    Args:
        sequences: the data to split.
        fraction: share of the sequences that is to go into validation, to a thousandth.
        seed: another one gives another choice.

    Raises:
        ValueError: the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the share of validation is {fraction}: expected above 0 and below 1")
    validation = digests(sequences, seed) % 1000 < fraction * 1000
    rows = np.arange(sequences.count)
    return take(sequences, rows[~validation]), take(sequences, rows[validation])


def sample(sequences: Sequences, count: int, seed: int = 0) -> Sequences:
    """So many sequences, chosen at random, in file order.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= count <= sequences.count:
        raise ValueError(f"{count} sequences asked for: expected 1 to {sequences.count}")
    rows = np.random.default_rng(seed).permutation(sequences.count)[:count]
    return take(sequences, np.sort(rows))


def dedup(sequences: Sequences, without: Sequence[Sequences] = ()) -> tuple[Sequences, int, int]:
    """Each sequence once, the first of the same tokens, and none that is in `without`.

    Returns:
        The rest; how many were repetitions; how many of the others were in `without`.
    """
    again = repeated(digests(sequences))
    elsewhere = np.zeros(sequences.count, np.bool_)
    for other in without:
        elsewhere |= overlap(sequences, other)
    rows = np.flatnonzero(~again & ~elsewhere)
    return take(sequences, rows), int(again.sum()), int((elsewhere & ~again).sum())
