"""Writing a CTDS file of any size, sequence by sequence, in little memory.

A CTDS file begins with what is known last: how many sequences there are, and their lengths. So
lengths, positions and tokens each go to a nameless temporary file beside the target, and the
target is put together from them at the end. It needs room on the disk for twice its size.
"""

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Self

from calmgrad.errors import DiskError
from calmgrad.formats.ctds import HEADER, MAGIC, MAX_U16
from calmgrad.formats.files import AnyPath, check_writable, display, write_atomic

MAX_COUNT = 2**32 - 1
CHUNK = 1 << 20  # bytes copied at once


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
                self._files.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(3)
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
            self._lengths.write(length.to_bytes(2, "little"))
            self._positions.write(position.to_bytes(2, "little"))
            self._tokens.write(tokens)
        except OSError as error:
            raise self._error(error) from error
        self.count += 1
        self.token_count += length
        self.max_len = max(self.max_len, length)

    def finish(self, order: Iterable[int] | None = None) -> None:
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

    def _chunks(self, order: Iterable[int] | None) -> Iterator[bytes]:
        yield HEADER.pack(MAGIC, 0, self.count, self.max_len)
        if order is None:
            for file in (self._lengths, self._positions, self._tokens):
                yield from _whole(file)
            return
        numbers = array("Q", order)
        lengths, positions = _u16(self._lengths), _u16(self._positions)
        starts, start = array("Q"), 0
        for length in lengths:
            starts.append(start)
            start += length
        for values in (lengths, positions):
            yield from _joined(values[i].to_bytes(2, "little") for i in numbers)
        tokens = self._tokens.fileno()
        yield from _joined(os.pread(tokens, 2 * lengths[i], 2 * starts[i]) for i in numbers)

    def _error(self, error: OSError) -> DiskError:
        return DiskError(f"{display(self.path)}: cannot be written: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._files.close()


def _whole(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK):
        yield chunk


def _u16(file: IO[bytes]) -> "array[int]":
    values = array("H")
    for chunk in _whole(file):
        values.frombytes(chunk)
    return values


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in larger chunks."""
    chunk = bytearray()
    for piece in pieces:
        chunk += piece
        if len(chunk) >= CHUNK:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)
