"""CTDS: packed training sequences, each with the position of its ATN token (FORMATS §3).

A file that is read is exactly its header, `count` lengths, `count` positions and the tokens;
everything else is refused, so reading and writing again gives the same bytes.
"""

import struct
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calmgrad.config import VOCAB
from calmgrad.formats.files import AnyPath, Source, open_source, write_atomic

HEADER = struct.Struct("<4sIIH")  # magic, vocab_version at 4, count at 8, max_len at 12
MAGIC = b"CTDS"
MAX_U16 = 65535


class VocabularyWarning(UserWarning):
    """A CTDS file names a vocabulary version other than 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Token sequences back to back.

    Attributes:
        tokens: (T,) uint16, all below 320.
        offsets: (count + 1,) int64; sequence i is tokens[offsets[i]] to tokens[offsets[i+1] - 1].
        cmd_positions: (count,) int32, index of the ATN token in its sequence; 0 = none.
        vocab_version: as in the header; 0 is the only one known.
    """

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    cmd_positions: NDArray[np.int32]
    vocab_version: int = 0

    @property
    def count(self) -> int:
        """Number of sequences."""
        return len(self.cmd_positions)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(count,) tokens of each sequence."""
        return np.diff(self.offsets)

    @property
    def max_len(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max(initial=0))


def read(path: AnyPath) -> Sequences:
    """Read a data set and hold it against every rule of FORMATS §3.

    Raises:
        FileError: the file breaks a rule; the message says where.

    Warns:
        VocabularyWarning: vocab_version is not 0.
    """
    with open_source(path) as source:
        vocab_version, count, max_len = _read_header(source)
        lengths = source.read_array("u2", count)
        cmd_positions = source.read_array("u2", count)
        offsets = _check_lengths(source, lengths, max_len)
        tokens = source.read_array("u2", int(offsets[-1]))
        _check_positions(source, cmd_positions, lengths)
        _check_tokens(source, tokens, offsets)
        if vocab_version != 0:
            message = f"{source.path}: vocab_version (byte 4) is {vocab_version}: expected 0"
            warnings.warn(message, VocabularyWarning, stacklevel=2)
    return Sequences(tokens, offsets, cmd_positions.astype(np.int32), vocab_version)


def _read_header(source: Source) -> tuple[int, int, int]:
    if source.size < HEADER.size:
        raise source.error(f"{source.size} bytes: expected a CTDS header of {HEADER.size}")
    magic, vocab_version, count, max_len = HEADER.unpack(source.read(HEADER.size))
    if magic != MAGIC:
        hint = ""
        if magic == b"CWGT":
            hint = " (it is a model)"
        elif all(32 <= byte < 127 or byte in b"\t\r\n" for byte in magic):
            hint = " (of a text, calmgrad dataset build makes a data set)"
        raise source.error(f"magic (byte 0) is {magic!r}: expected {MAGIC!r}{hint}")
    if count == 0:
        raise source.error("count (byte 8) is 0: expected at least one sequence")
    needed = HEADER.size + 4 * count
    if needed > source.size:
        raise source.error(
            f"count (byte 8) is {count}: lengths and positions end at byte {needed},"
            f" the file at {source.size}"
        )
    return vocab_version, count, max_len


def _check_lengths(source: Source, lengths: NDArray[Any], max_len: int) -> NDArray[np.int64]:
    """Refuse lengths that disagree with each other or with the file; return the offsets."""
    if not lengths.all():
        i = int(np.argmin(lengths))
        where = f"byte {HEADER.size + 2 * i}"
        raise source.error(f"length of sequence {i} ({where}) is 0: expected at least 1")
    longest = int(lengths.max())
    if max_len != longest:
        raise source.error(f"max_len (byte 12) is {max_len}: the longest sequence has {longest}")
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    end = HEADER.size + 4 * len(lengths) + 2 * int(offsets[-1])
    if end != source.size:
        state = "truncated" if end > source.size else "bytes after the last token"
        raise source.error(f"{state}: {source.size} bytes, expected {end} by its lengths")
    return offsets


def _check_positions(source: Source, positions: NDArray[Any], lengths: NDArray[Any]) -> None:
    wrong = positions >= lengths
    if wrong.any():
        i = int(np.argmax(wrong))
        where = f"byte {HEADER.size + 2 * (len(lengths) + i)}"
        raise source.error(
            f"ATN position {positions[i]} of sequence {i} ({where}): it has {lengths[i]} tokens"
        )


def _check_tokens(source: Source, tokens: NDArray[Any], offsets: NDArray[np.int64]) -> None:
    if tokens.max() >= VOCAB:
        at = int(np.argmax(tokens >= VOCAB))
        i = int(np.searchsorted(offsets, at, side="right")) - 1
        byte = HEADER.size + 4 * (len(offsets) - 1) + 2 * at
        raise source.error(
            f"token {tokens[at]} at sequence {i}, position {at - offsets[i]} (byte {byte}):"
            f" vocabulary is {VOCAB}"
        )


def pack(sequences: Iterable[ArrayLike], cmd_positions: Sequence[int] | NDArray[Any]) -> Sequences:
    """Put sequences back to back, held against the same rules as a file.

    Args:
        sequences: lists or 1-D arrays of 1 to 65535 tokens below 320.
        cmd_positions: one index into each sequence; 0 = no ATN.

    Raises:
        ValueError: a rule is broken; the message says in which sequence.
    """
    rows = [_tokens(i, row) for i, row in enumerate(sequences)]
    if not rows:
        raise ValueError("sequences: expected at least one")
    if len(cmd_positions) != len(rows):
        raise ValueError(f"cmd_positions: {len(cmd_positions)} for {len(rows)} sequences")
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    positions = np.zeros(len(rows), np.int32)
    for i, (row, position) in enumerate(zip(rows, cmd_positions, strict=True)):
        if not (isinstance(position, int | np.integer) and 0 <= position < len(row)):
            raise ValueError(f"cmd_positions[{i}] is {position}: expected 0 to {len(row) - 1}")
        positions[i] = position
    return Sequences(np.concatenate(rows), offsets, positions)


def _tokens(i: int, row: ArrayLike) -> NDArray[np.uint16]:
    array = np.asarray(row)
    if array.ndim != 1 or not 1 <= array.size <= MAX_U16:
        raise ValueError(f"sequence {i}: shape {array.shape}: expected 1 to {MAX_U16} tokens")
    if array.dtype.kind not in "iu":
        raise ValueError(f"sequence {i}: {array.dtype} values: expected whole numbers")
    if array.min() < 0 or array.max() >= VOCAB:
        at = int(np.argmax((array < 0) | (array >= VOCAB)))
        raise ValueError(
            f"sequence {i}, position {at}: token {array[at]}: expected 0 to {VOCAB - 1}"
        )
    return array.astype(np.uint16)


def to_bytes(sequences: Sequences) -> list[bytes]:
    """The file as chunks: header, lengths, positions, tokens."""
    header = HEADER.pack(MAGIC, sequences.vocab_version, sequences.count, sequences.max_len)
    arrays = (sequences.lengths, sequences.cmd_positions, sequences.tokens)
    return [header, *(array.astype("<u2").tobytes() for array in arrays)]


def write(
    path: AnyPath, sequences: Iterable[ArrayLike], cmd_positions: Sequence[int] | NDArray[Any]
) -> None:
    """Write a data set; arguments and ValueError as in `pack`, DiskError as in `write_atomic`."""
    write_atomic(path, to_bytes(pack(sequences, cmd_positions)))


def write_sequences(path: AnyPath, sequences: Sequences) -> None:
    """Write sequences that are packed already.

    Raises:
        ValueError: there are none.
        DiskError: as in `write_atomic`.
    """
    if not sequences.count:
        raise ValueError("sequences: expected at least one")
    write_atomic(path, to_bytes(sequences))
