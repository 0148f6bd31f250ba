"""Sequences of different lengths, stored back to back, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calmgrad.kernels.protocol import CHUNK, Array


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each sequence of a packed (T, C) array begins.

    Attributes:
        offsets: (B + 1,) int64; sequence b is rows offsets[b] to offsets[b+1] - 1.
        pos: (T,) int64; number of earlier tokens in the same sequence.
        chunks: number of saved scan states, one for every 16 tokens begun in a sequence.
    """

    offsets: Array
    pos: Array
    chunks: int

    @classmethod
    def of(cls, lengths: Sequence[int], xp: object = np) -> "Packing":
        """Pack sequences of these lengths, all at least 1; `xp` is where the arrays shall live.

        Raises:
            ValueError: there is no sequence, or an empty one.
        """
        sizes = np.asarray(lengths, np.int64)
        if sizes.size == 0 or sizes.min() < 1:
            raise ValueError(f"packing: lengths {list(lengths)}, expected all at least 1")
        offsets = np.zeros(sizes.size + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        pos = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        chunks = int((-(-sizes // CHUNK)).sum())
        if xp is not np:
            offsets, pos = xp.asarray(offsets), xp.asarray(pos)  # type: ignore[attr-defined]
        return cls(offsets, pos, chunks)
