"""CTDS files as FORMATS §3 describes them; every other file is refused in one line."""

import random
import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calmgrad.errors import CalmgradError, FileError
from calmgrad.formats import ctds
from calmgrad.formats.ctds import Sequences, VocabularyWarning

ROWS = [[257, 104, 258], [1], [257, 260, 47, 269, 259, 264, 108, 258]]
POSITIONS = [0, 0, 4]
# The same by hand: header, lengths (byte 14), positions (byte 20), tokens (byte 26).
DATA = b"CTDS" + struct.pack(
    "<IIH3H3H12H", 0, 3, 8, *(3, 1, 8), *POSITIONS, *(token for row in ROWS for token in row)
)


def patched(offset: int, code: str, value: int, data: bytes = DATA) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<" + code, changed, offset, value)
    return bytes(changed)


def load(path: Path, data: bytes) -> Sequences:
    path.unlink(missing_ok=True)  # some file systems flush a file that is overwritten
    path.write_bytes(data)
    return ctds.read(path)


def file_bytes(sequences: Sequences) -> bytes:
    return b"".join(ctds.to_bytes(sequences))


def attempt(path: Path, data: bytes) -> Sequences | str:
    """What reading gives, or the one kind of error it may raise."""
    try:
        return load(path, data)
    except CalmgradError as error:
        return str(error)


def rows_of(sequences: Sequences) -> list[list[int]]:
    return [row.tolist() for row in np.split(sequences.tokens, sequences.offsets[1:-1])]


# What is accepted


def test_the_file_byte_by_byte(tmp_path: Path) -> None:
    ctds.write(tmp_path / "d", ROWS, POSITIONS)
    assert (tmp_path / "d").read_bytes() == DATA
    sequences = ctds.read(tmp_path / "d")
    assert rows_of(sequences) == ROWS
    assert sequences.cmd_positions.tolist() == POSITIONS
    assert sequences.offsets.tolist() == [0, 3, 4, 12]
    assert sequences.lengths.tolist() == [3, 1, 8]
    assert (sequences.count, sequences.max_len, sequences.vocab_version) == (3, 8, 0)
    assert str(sequences.tokens.dtype) == "uint16"
    assert str(sequences.offsets.dtype) == "int64"


rows = st.lists(st.integers(0, 319), min_size=1, max_size=30)
pairs = st.lists(
    rows.flatmap(lambda row: st.tuples(st.just(row), st.integers(0, len(row) - 1))), min_size=1
)


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[list[int], int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.ctds"
    tokens, positions = [row for row, _ in pairs], [position for _, position in pairs]
    ctds.write(path, tokens, positions)
    sequences = ctds.read(path)
    assert rows_of(sequences) == tokens
    assert sequences.cmd_positions.tolist() == positions
    assert sequences.max_len == max(map(len, tokens))
    assert file_bytes(sequences) == path.read_bytes()


def test_the_longest_sequence_there_is(tmp_path: Path) -> None:
    ctds.write(tmp_path / "d", [np.full(65535, 319), [5]], np.array([65534, 0]))
    sequences = ctds.read(tmp_path / "d")
    assert sequences.lengths.tolist() == [65535, 1]
    assert sequences.cmd_positions.tolist() == [65534, 0]


@pytest.mark.parametrize("version", [1, 7, 0xFFFFFFFF])
def test_another_vocabulary_version_warns_and_is_kept(tmp_path: Path, version: int) -> None:
    path, data = tmp_path / "d", patched(4, "I", version)
    with pytest.warns(VocabularyWarning, match="vocab_version .byte 4. is") as caught:
        sequences = load(path, data)
    assert str(caught[0].message).startswith(f"{path}: ")
    assert rows_of(sequences) == ROWS
    assert file_bytes(sequences) == data


# What is refused

BAD = {
    "magic": (patched(0, "B", 0), "magic (byte 0) is b'\\x00TDS': expected b'CTDS'"),
    "big-endian": (patched(8, "I", 0x03000000), "count (byte 8) is 50331648: "),
    "count 0": (patched(8, "I", 0), "count (byte 8) is 0: expected at least one sequence"),
    "count 1": (patched(8, "I", 1), "max_len (byte 12) is 8: the longest sequence has 3"),
    "count max": (patched(8, "I", 0xFFFFFFFF), "lengths and positions end at byte 17179869194"),
    "max_len 0": (patched(12, "H", 0), "max_len (byte 12) is 0: the longest sequence has 8"),
    "max_len 7": (patched(12, "H", 7), "max_len (byte 12) is 7: the longest sequence has 8"),
    "max_len max": (patched(12, "H", 65535), "max_len (byte 12) is 65535: the longest"),
    "length 0": (patched(16, "H", 0), "length of sequence 1 (byte 16) is 0: expected at least 1"),
    "length +1": (patched(14, "H", 4), f"truncated: {len(DATA)} bytes, expected 52 by its lengths"),
    "length -1": (patched(14, "H", 2), "after the last token: 50 bytes, expected 48"),
    "position": (patched(22, "H", 1), "ATN position 1 of sequence 1 (byte 22): it has 1 tokens"),
    "position max": (patched(24, "H", 65535), "ATN position 65535 of sequence 2 (byte 24)"),
    "token": (
        patched(26 + 2 * 11, "H", 320),
        "token 320 at sequence 2, position 7 (byte 48): vocabulary is 320",
    ),
    "first token": (patched(26, "H", 65535), "token 65535 at sequence 0, position 0 (byte 26): "),
    "second row": (patched(32, "H", 999), "token 999 at sequence 1, position 0 (byte 32): "),
    "trailing": (DATA + b"\0", "bytes after the last token: 51 bytes, expected 50"),
    "junk": (DATA + bytes(1 << 20), "bytes after the last token"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(tmp_path: Path, name: str) -> None:
    data, words = BAD[name]
    with pytest.raises(FileError) as caught:
        load(tmp_path / "d", data)
    assert str(caught.value).startswith(f"{tmp_path / 'd'}: ")
    assert str(caught.value).isprintable()
    assert words in str(caught.value)


def test_truncated_anywhere(tmp_path: Path) -> None:
    assert isinstance(attempt(tmp_path / "d", DATA), Sequences)
    for size in range(len(DATA)):
        message = attempt(tmp_path / "d", DATA[:size])
        assert isinstance(message, str)
        expected = "CTDS header of 14" if size < 14 else "end at byte" if size < 26 else "truncated"
        assert expected in message


def test_a_count_is_no_reason_to_take_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    message = attempt(tmp_path / "d", DATA[:8] + b"\xff\xff\xff\xff\x08\x00")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(message, str)
    assert "the file at 14" in message
    assert peak < 5_000_000


def test_memory_is_at_most_twice_the_file(tmp_path: Path) -> None:
    path = tmp_path / "d"
    ctds.write(path, [[1, 2, 3, 4]] * 100_000, [0] * 100_000)
    tracemalloc.start()
    ctds.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size == 1_200_014
    assert peak < 2.1 * path.stat().st_size


def test_mutations(tmp_path: Path) -> None:
    """Whatever a file turns into: refused in one line, or written again as it was."""
    rng = random.Random(0)
    accepted = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VocabularyWarning)
        for _ in range(5000):
            data = bytearray(DATA)
            for _ in range(rng.choice([1, 1, 2, 3])):
                at = rng.randrange(len(data) + 1)
                match rng.randrange(4):
                    case 0:
                        data[at : at + 1] = rng.randbytes(1)
                    case 1:
                        at -= at % 2
                        value = rng.choice([0, 1, 2, 3, 319, 320, 65535])
                        data[at : at + 2] = value.to_bytes(2, "little")
                    case 2:
                        del data[at : at + rng.choice([1, 2, 8])]
                    case 3:
                        data[at:at] = rng.randbytes(rng.choice([1, 2, 8]))
            outcome = attempt(tmp_path / "d", bytes(data))
            if isinstance(outcome, Sequences):
                accepted += 1
                assert file_bytes(outcome) == data
            else:
                assert outcome.startswith(f"{tmp_path / 'd'}: ")
                assert outcome.isprintable()
    assert accepted > 100  # else the mutations show nothing about what passes


@pytest.mark.parametrize(
    ("sequences", "positions", "message"),
    [
        ([], [], "sequences: expected at least one"),
        ([[1], []], [0, 0], r"sequence 1: shape \(0,\): expected 1 to 65535 tokens"),
        ([[1] * 65536], [0], r"sequence 0: shape \(65536,\)"),
        ([[[1]]], [0], r"sequence 0: shape \(1, 1\)"),
        ([[1, 320]], [0], "sequence 0, position 1: token 320: expected 0 to 319"),
        ([[1], [2, -1]], [0, 0], "sequence 1, position 1: token -1: expected 0 to 319"),
        ([[1 << 70]], [0], "sequence 0: object values: expected whole numbers"),
        ([[1.0]], [0], "sequence 0: float64 values: expected whole numbers"),
        (["abc"], [0], r"sequence 0: shape \(\)"),
        ([[1], [2]], [0], "cmd_positions: 1 for 2 sequences"),
        ([[1], [2, 3]], [0, 2], r"cmd_positions\[1\] is 2: expected 0 to 1"),
        ([[1]], [-1], r"cmd_positions\[0\] is -1: expected 0 to 0"),
        ([[1, 2]], [0.5], r"cmd_positions\[0\] is 0.5: expected 0 to 1"),
        ([[1]], [None], r"cmd_positions\[0\] is None"),
    ],
)
def test_what_may_not_be_written(
    tmp_path: Path, sequences: Any, positions: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ctds.write(tmp_path / "d", sequences, positions)
    assert not list(tmp_path.iterdir())
