"""Files made to do harm get the answer of the table in hostile.py, at no great cost of memory.

Here they are given to the commands in this process; a few to the real thing, in another one.
`python -m tests.faults.hostile` gives every one to a process of its own.
"""

import tracemalloc
import warnings
from pathlib import Path

import click
import pytest

from calmgrad.cli.main import cli
from calmgrad.errors import CalmgradError
from tests.faults.hostile import HOSTILE, MEGABYTE, TRAIN, Hostile, ask, name_of, prepare, size_of

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with good files; no user model."""
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All that a command imports and compiles is there: what is measured below is the file's."""
    folder = tmp_path_factory.mktemp("loaded")
    prepare(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lines = (
            "evaluate -m good.cwgt -d good.ctds",
            "plot metrics.jsonl",
            "info good.cwgt",
            TRAIN,
        )
        for line in lines:
            cli.main(line.split(), prog_name="calmgrad", standalone_mode=False)


@pytest.mark.parametrize("row", HOSTILE, ids=name_of)
def test_the_answer(row: Hostile, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / row.file
    row.make(path)
    before = sorted(folder.iterdir())
    size = size_of(path)
    code, message = 0, ""
    tracemalloc.start()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            cli.main(row.arguments, prog_name="calmgrad", standalone_mode=False)
        except (CalmgradError, click.ClickException) as error:
            code, message = error.exit_code, str(error)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert code == row.code, message
    said = message + capsys.readouterr().out + "".join(str(w.message) for w in caught)
    assert row.words in said
    assert message.isprintable()
    if code:
        assert used < 5 * MEGABYTE + 2 * size
        assert sorted(folder.iterdir()) == before  # nothing half-written


SPOKEN = ["pipe.ctds", "/dev/zero", "a\nb.ctds", "\udcff.ctds", "bomb.ctds"]


@pytest.mark.parametrize("file", SPOKEN, ids=ascii)
def test_the_answer_of_the_command(file: str, folder: Path) -> None:
    row = next(row for row in HOSTILE if row.file == file)
    row.make(folder / file)
    answer = ask(["info", file], folder)
    assert answer.code == row.code
    assert answer.output.startswith("error: ")
    assert answer.output.count("\n") == 1
    assert answer.output[:-1].isprintable()
    assert row.words.partition(":")[0] in answer.output


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 60
    assert len({(row.file, row.command) for row in HOSTILE}) >= 60
