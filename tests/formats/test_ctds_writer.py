"""The writer for data sets of any size: the same bytes as ctds.write, all or nothing."""

import os
from pathlib import Path

import numpy as np
import pytest

from calmgrad.errors import DiskError
from calmgrad.formats import ctds, ctds_writer
from calmgrad.formats.ctds_writer import Writer

ROWS = [[257, 104, 258], [1], [257, 260, 47, 269, 259, 264, 108, 258]]
POSITIONS = [0, 0, 4]


def data(row: list[int]) -> bytes:
    return np.array(row, "<u2").tobytes()


def fill(writer: Writer) -> None:
    for row, position in zip(ROWS, POSITIONS, strict=True):
        writer.add(data(row), position)


def test_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctds.write(tmp_path / "a", ROWS, POSITIONS)
    monkeypatch.setattr(ctds_writer, "CHUNK", 5)
    with Writer(tmp_path / "b") as writer:
        fill(writer)
        writer.finish()
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctds.write(tmp_path / "a", [ROWS[2], ROWS[0], ROWS[1]], [4, 0, 0])
    monkeypatch.setattr(ctds_writer, "ROWS", 2)
    with Writer(tmp_path / "b") as writer:
        fill(writer)
        writer.finish(np.array([2, 0, 1], np.uint32))
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_without_finish_nothing_is_seen(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"older")
    with Writer(tmp_path / "b") as writer:
        fill(writer)
        assert os.listdir(tmp_path) == ["b"]
    assert (tmp_path / "b").read_bytes() == b"older"
    with pytest.raises(ValueError, match="at least one"), Writer(tmp_path / "b") as writer:
        writer.finish()
    assert (tmp_path / "b").read_bytes() == b"older"


@pytest.mark.parametrize(("row", "position"), [([], 0), ([1] * 65536, 0), ([1], 1), ([1], -1)])
def test_what_no_file_could_hold(tmp_path: Path, row: list[int], position: int) -> None:
    with Writer(tmp_path / "b") as writer, pytest.raises(ValueError, match="tokens, ATN"):
        writer.add(data(row), position)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").write_bytes(b"older")
    with Writer(tmp_path / "b") as writer:
        fill(writer)

        def fail(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", fail)
        with pytest.raises(DiskError, match=r"b: cannot write 50 bytes \(\d+ free\): No space"):
            writer.finish()
    assert (tmp_path / "b").read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["b"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="there is no folder"):
        Writer(tmp_path / "none" / "b")
    (tmp_path / "b").write_bytes(b"older")
    (tmp_path / "b").chmod(0o444)
    if os.geteuid():
        with pytest.raises(DiskError, match="is write-protected"):
            Writer(tmp_path / "b")
