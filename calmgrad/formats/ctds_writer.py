"""Writing a CTDS file of any size, sequence by sequence, in little memory.

A CTDS file begins with what is known last: how many sequences there are, and their lengths. So
lengths, positions and tokens each go to a nameless temporary file beside the target, and the
target is put together from them at the end. It needs room on the disk for twice its size.
"""

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from calmgrad.errors import DiskError
from calmgrad.formats.ctds import HEADER, MAGIC, MAX_U16
from calmgrad.formats.files import AnyPath, check_writable, display, write_atomic

U16 = struct.Struct("<H")
MAX_COUNT = 2**32 - 1
CHUNK = 1 << 20  # bytes copied at once
ROWS = 1 << 12  # sequences copied at once where they change places


class Writer:
    """Collects sequences, and writes them with `finish`; without it nothing is ever seen.

    with Writer("train.ctds") as writer:
        writer.add(tokens, position)
        writer.finish()

    Raises:
        DiskError: the folder cannot be written, or the disk is full; the target is untouched.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self.count = 0
        self.token_count = 0
        self.max_len = 0
        check_writable(path)
        folder = os.path.dirname(os.path.realpath(os.fsdecode(path)))
        self._files = ExitStack()
        try:
            self._lengths, self._positions, self._tokens = (
                self._files.enter_context(tempfile.TemporaryFile(buffering=CHUNK, dir=folder))
                for _ in range(3)
            )
        except OSError as error:
            self._files.close()
            raise DiskError(f"{display(path)}: cannot be written: {error.strerror}") from error

    def add(self, tokens: bytes, position: int) -> None:
        """Add a sequence.

        Args:
            tokens: 1 to 65535 of them, each below 320, as little-endian u16.
            position: of ATN, below the number of tokens; 0 = none.
        """
        length = len(tokens) // 2
        if not (1 <= length <= MAX_U16 and 0 <= position < length and self.count < MAX_COUNT):
            raise ValueError(f"{self.count} sequences, another of {length} tokens, ATN {position}")
        try:
            self._lengths.write(U16.pack(length))
            self._positions.write(U16.pack(position))
            self._tokens.write(tokens)
        except OSError as error:
            raise self._error(error) from error
        self.count += 1
        self.token_count += length
        self.max_len = max(self.max_len, length)

    def finish(self, order: NDArray[np.uint32] | None = None) -> None:
        """Put the file in its place.

        Args:
            order: the sequences by number in the order to write them; as added if None.

        Raises:
            ValueError: there is no sequence.
        """
        if not self.count:
            raise ValueError("expected at least one sequence")
        size = HEADER.size + 4 * self.count + 2 * self.token_count
        try:
            for file in (self._lengths, self._positions, self._tokens):
                file.flush()
            write_atomic(self.path, self._chunks(order), size)
        except OSError as error:
            raise self._error(error) from error

    def _chunks(self, order: NDArray[np.uint32] | None) -> Iterator[bytes]:
        yield HEADER.pack(MAGIC, 0, self.count, self.max_len)
        if order is None:
            for file in (self._lengths, self._positions, self._tokens):
                yield from _whole(file)
            return
        lengths, positions = _u16(self._lengths), _u16(self._positions)
        yield lengths[order].tobytes()
        yield positions[order].tobytes()
        starts = np.cumsum(lengths, dtype=np.uint64) - lengths
        tokens = self._tokens.fileno()
        for begin in range(0, len(order), ROWS):
            rows = order[begin : begin + ROWS]
            places = zip(lengths[rows].tolist(), starts[rows].tolist(), strict=True)
            yield b"".join(os.pread(tokens, 2 * length, 2 * start) for length, start in places)

    def _error(self, error: OSError) -> DiskError:
        return DiskError(f"{display(self.path)}: cannot be written: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._files.close()


def _whole(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK):
        yield chunk


def _u16(file: IO[bytes]) -> NDArray[np.uint16]:
    file.seek(0)
    return np.fromfile(file, "<u2")
