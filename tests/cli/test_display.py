"""What a terminal shows while training: a panel of 80 columns, or plain lines."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from calmgrad.cli.common import say
from tests.cli.conftest import environment

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")


def on_a_terminal(folder: Path, dataset: Path, **variables: str) -> str:
    """What `calmgrad train` writes to a terminal of 80 x 24."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    arguments = ["train", "-m", "new", "--d-model", "16", "--n-layers", "1", "-b", "4"]
    arguments += ["-d", str(dataset), "--val-dataset", str(dataset), "-e", "12", "--lr", "0.01"]
    with subprocess.Popen(
        [sys.executable, "-m", "calmgrad.cli", *arguments],
        cwd=folder,
        env={**environment(folder), "TERM": "xterm-256color", **variables},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            written += part
    os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


def test_a_panel(dataset: Path, tmp_path: Path) -> None:
    shown = on_a_terminal(tmp_path, dataset)
    for part in ("╭", "180/180", "validation", "best", "tokens/s", "MB", "gradient"):
        assert part in shown
    assert COLOUR.search(shown)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert not re.search(r"^step ", plain, re.M)  # the panel has them
    boxes = [line for line in re.split(r"[\r\n]+", plain) if line.startswith(("│", "╭", "╰"))]
    assert boxes
    assert max(map(len, boxes)) <= 80
    assert plain.index("data     ") < plain.index("╭") < plain.rindex("trained  180 steps")


def test_no_color(dataset: Path, tmp_path: Path) -> None:
    shown = on_a_terminal(tmp_path, dataset, NO_COLOR="1")
    assert "180/180" in shown
    assert not COLOUR.search(shown)


@pytest.mark.parametrize("term", ["dumb", ""])
def test_plain_lines_where_nothing_can_be_drawn(dataset: Path, tmp_path: Path, term: str) -> None:
    shown = on_a_terminal(tmp_path, dataset, TERM=term)
    assert "\x1b" not in shown
    assert re.search(r"^step 180/180  loss", shown, re.M)


def test_facts_are_folded_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((40, 24)))
    fact = "run      40 steps in 2 epochs, batches of 32 sequences"
    command = "resume   calmgrad train --resume runs/a-run-with-a-long-name"
    for line in (fact, command, "error: a long line that says what is wrong"):
        say(line)
    assert capsys.readouterr().err.count("\n") == 3  # no terminal: nothing is folded
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)
    say(fact)
    say(command)
    error = "error: a file that is no model, where a model was expected"
    say(error)
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "run      40 steps in 2 epochs, batches",
        "         of 32 sequences",
        command,
        error,
    ]
