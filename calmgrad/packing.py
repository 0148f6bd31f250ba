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
        chunk_offsets: (chunks + 1,) int64; a sequence is cut into chunks of 16 tokens, the last
            one shorter. Chunk k is rows chunk_offsets[k] to chunk_offsets[k+1] - 1.
    """

    offsets: Array
    pos: Array
    chunk_offsets: Array

    @property
    def chunks(self) -> int:
        """Number of chunks: of saved scan states."""
        return len(self.chunk_offsets) - 1

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
        chunk_offsets = np.append(np.flatnonzero(pos % CHUNK == 0), pos.size)
        arrays = [offsets, pos, chunk_offsets]
        if xp is not np:
            arrays = [xp.asarray(array) for array in arrays]  # type: ignore[attr-defined]
        return cls(*arrays)
