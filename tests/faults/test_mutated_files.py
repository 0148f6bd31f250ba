"""Broken files of every kind, some thousands: `python -m tests.faults.files` tries millions."""

import random
from pathlib import Path

import numpy as np
import pytest

from calmgrad.errors import FileError
from calmgrad.formats import ctds, cwgt
from tests.faults.files import KINDS, MEASURED, try_files

# All of them take about 8 s. The bars' 20,000 of each would be 3 s for CTDS and for CWGT, 6 s for
# TOML and 45 s for YAML, which PyYAML reads slowly.
QUICK = {"ctds": 10_000, "cwgt": 10_000, "toml": 4_000, "yaml": 700, "metrics": 1_500}


@pytest.mark.parametrize("name", KINDS)
def test_only_calmgrads_own_errors(name: str) -> None:
    kind = KINDS[name]
    report = try_files(kind, QUICK[name])
    assert report.stray == []
    assert report.files == QUICK[name]
    # Both outcomes, and many reasons: else the mutations prove nothing.
    assert report.read > 0.05 * report.files
    assert report.refused > 0.3 * report.files
    assert len(report.refusals) >= kind.refusals, sorted(report.refusals)
    assert report.memory > 0


def test_the_same_number_gives_the_same_file() -> None:
    for kind in KINDS.values():
        mutator = kind.mutator()
        assert mutator(random.Random(5)) == kind.mutator()(random.Random(5))
        assert mutator(random.Random(5)) != mutator(random.Random(6))


@pytest.mark.parametrize("error", [IndexError("deep inside"), FileError("x: another file")])
def test_what_must_not_come_out_is_reported(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that fails in its own way for some files is found."""
    read = ctds.read

    def fail_sometimes(path: str) -> ctds.Sequences:
        if Path(path).stat().st_size % 7 == 0:
            raise error
        return read(path)

    monkeypatch.setattr(ctds, "read", fail_sometimes)
    report = try_files(KINDS["ctds"], 500)
    assert report.stray
    assert str(error) in report.stray[0]


def test_a_file_read_as_something_else_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    read = cwgt.read

    def forget_metadata(path: str) -> cwgt.Weights:
        model = read(path)
        model.metadata = cwgt.Metadata()
        return model

    monkeypatch.setattr(cwgt, "read", forget_metadata)
    assert any("read as something else" in line for line in try_files(KINDS["cwgt"], 200).stray)


def test_memory_for_a_small_file_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def waste(path: str) -> None:
        np.empty(50_000_000, np.uint8)
        raise FileError(f"{path}: no")

    monkeypatch.setattr(ctds, "read", waste)
    report = try_files(KINDS["ctds"], MEASURED + 1)
    assert len(report.stray) == 2  # the first, and the next one that is measured
    assert "bytes for" in report.stray[0]
