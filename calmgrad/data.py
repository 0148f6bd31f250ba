"""Data sets as the trainer sees them: an order of sequences, dealt out in batches."""

import hashlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calmgrad.formats import ctds
from calmgrad.formats.files import AnyPath

MIN_LENGTH = 4  # tokens; trainers leave shorter sequences out (FORMATS §3)

Tokens = NDArray[np.uint16]


class Dataset:
    """Sequences of a CTDS file in file order, or in the order of the last `shuffle`.

    Token arrays are views into one buffer, valid also after `close`. Every use of a closed
    data set raises ValueError.
    """

    def __init__(self, sequences: ctds.Sequences, rows: NDArray[Any] | None = None) -> None:
        self._sequences: ctds.Sequences | None = sequences
        self._rows = np.arange(sequences.count) if rows is None else rows  # file order
        self._order = self._rows

    @property
    def sequences(self) -> ctds.Sequences:
        """The file's whole contents, also what `kept` left out."""
        return self._require_open()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file, in hex: the same for every order and selection of it."""
        digest = hashlib.sha256()
        for chunk in ctds.to_bytes(self.sequences):
            digest.update(chunk)
        return digest.hexdigest()

    def __len__(self) -> int:
        self._require_open()
        return len(self._order)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(len,) position in the file of each sequence, in the present order."""
        self._require_open()
        return np.asarray(self._order, np.int64)

    @property
    def cmd_positions(self) -> NDArray[np.int64]:
        """(len,) ATN position of each sequence, in the present order."""
        return np.asarray(self.sequences.cmd_positions[self._order], np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(len,) number of tokens of each sequence, in the present order."""
        return np.asarray(self.sequences.lengths[self._order], np.int64)

    def count(self) -> int:
        """Number of sequences, as in the Lua API."""
        return len(self)

    def __getitem__(self, index: int) -> tuple[Tokens, int]:
        """Tokens (length,) uint16 and ATN position of a sequence.

        Raises:
            IndexError: the index is past either end.
        """
        sequences, row = self.sequences, self._order[operator.index(index)]
        start, stop = sequences.offsets[row : row + 2]
        return sequences.tokens[start:stop], int(sequences.cmd_positions[row])

    def __iter__(self) -> Iterator[tuple[Tokens, int]]:
        return (self[i] for i in range(len(self)))

    def shuffle(self, seed: int | Sequence[int] | None = None) -> None:
        """Put the sequences into a random order that the seed alone decides.

        Without a seed the order is another one each time.
        """
        self._require_open()
        self._order = np.random.default_rng(seed).permutation(self._rows)

    def batch(self, index: int, size: int) -> tuple[list[Tokens], list[int]]:
        """Token arrays and ATN positions of batch `index`, counted from 0.

        The last batch may be smaller; past it both lists are empty.

        Raises:
            ValueError: index < 0 or size < 1.
        """
        if index < 0 or size < 1:
            raise ValueError(f"batch({index}, {size}): expected index >= 0 and size >= 1")
        first = index * size
        items = [self[i] for i in range(first, min(first + size, len(self)))]
        return [tokens for tokens, _ in items], [position for _, position in items]

    def kept(self, l_max: int) -> tuple[Self, dict[str, int]]:
        """The sequences a model can be trained on, in file order, and why others are left out.

        Args:
            l_max: largest number of tokens.

        Returns:
            The data set of sequences with 4 <= length <= l_max (perhaps none), and
            reason -> number of sequences left out for it, only reasons that occurred.
        """
        lengths = self.sequences.lengths[self._rows]
        short, long = lengths < MIN_LENGTH, lengths > l_max
        reasons = {f"under {MIN_LENGTH} tokens": short, f"over {l_max} tokens": long}
        counts = {reason: int(left_out.sum()) for reason, left_out in reasons.items()}
        rows = self._rows[~(short | long)]
        return type(self)(self.sequences, rows), {k: n for k, n in counts.items() if n}

    def sample(self, count: int, seed: int | Sequence[int] = 0) -> Self:
        """So many of the sequences, drawn by the seed, in file order; all if there are fewer."""
        sequences = self.sequences
        drawn = np.random.default_rng(seed).permutation(self._rows)[:count]
        return type(self)(sequences, np.sort(drawn))

    def close(self) -> None:
        """Let go of the sequences; closing twice does no harm."""
        self._sequences = None

    def _require_open(self) -> ctds.Sequences:
        if self._sequences is None:
            raise ValueError("the data set is closed")
        return self._sequences

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def load_dataset(path: AnyPath) -> Dataset:
    """Read a CTDS file.

    Raises:
        FileError: it is missing or breaks a rule of FORMATS §3.

    Warns:
        VocabularyWarning: its vocabulary version is not 0.
    """
    return Dataset(ctds.read(path))


def write_dataset(
    path: AnyPath, sequences: Iterable[ArrayLike], cmd_positions: Sequence[int] | NDArray[Any]
) -> None:
    """Write a CTDS file, byte for byte as calm-mamba does.

    Args:
        path: the file to make or to replace.
        sequences: lists or 1-D arrays of 1 to 65535 tokens, each 0 to 319.
        cmd_positions: index of the ATN token in each sequence; 0 = none, loss on all of it.

    Raises:
        ValueError: a value that FORMATS §3 does not allow; nothing is written.
        DiskError: the file could not be written whole; what was there before is untouched.
    """
    ctds.write(path, sequences, cmd_positions)
