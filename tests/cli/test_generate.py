"""calmgrad generate, and evaluate --completion"""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest

import calmgrad
from calmgrad.cli.generate import harmless
from calmgrad.cli.main import cli
from calmgrad.errors import CalmgradError
from calmgrad.prompt import unescaped
from tests.cli.conftest import Run, environment
from tests.test_decoder import model_of


class Written(NamedTuple):
    """To stdout, and to stderr."""

    stdout: str
    stderr: str


Call = Callable[..., Written]


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A small shell model that has learnt nothing."""
    path = tmp_path / "shell.cwgt"
    model_of(domain="shell").save(path)
    return path


@pytest.fixture
def call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Call:
    """`call("generate", …)` in this process, in an empty folder: what it writes."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments: object) -> Written:
        cli.main([*map(str, arguments)], prog_name="calmgrad", standalone_mode=False)
        return Written(*capsys.readouterr())

    return run_here


def piped(folder: Path, text: bytes, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "calmgrad.cli", "generate", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(folder), input=text, capture_output=True
    )


def test_lines_json_and_python_say_the_same(run: Run, shell: Path) -> None:
    lines = run("generate", "-m", shell, "-i", "git c", "--seed", 4)
    result = json.loads(
        run("generate", "-m", shell, "-i", "git c", "--seed", 4, "--json", "-q").stdout
    )
    expected = calmgrad.load_model(shell).generate("git c", seed=4)
    assert [row["tokens"] for row in result["completions"]] == [c.tokens for c in expected]
    assert [row["text"] for row in result["completions"]] == [c.text for c in expected]
    assert [row["ended"] for row in result["completions"]] == [c.ended for c in expected]
    assert lines.stdout == "".join(
        f"[{i}] {c.score:.4f}  {c.text}\n" for i, c in enumerate(expected, 1)
    )
    count = sum(len(c.tokens) for c in expected)
    assert (result["seed"], result["prompt_tokens"], result["tokens"]) == (4, 8, count)
    assert result["tokens_per_second"] == pytest.approx(count / result["seconds"])
    assert lines.stderr.startswith("model    custom, ")
    assert f"done     {count} token(s) in " in lines.stderr
    assert "; seed 4" in lines.stderr


def test_flags_override_the_file_and_quiet_prints_text_alone(call: Call, shell: Path) -> None:
    flags = "-t 1.5 -k 9 -p 0.9 --min-p 0.01 --max-tokens 7 -n 2 --seed 3 -q".split()
    done = call("generate", "-m", shell, "-i", "ls", *flags)
    expected = calmgrad.load_model(shell).generate(
        "ls", temperature=1.5, top_k=9, top_p=0.9, min_p=0.01, max_tokens=7, candidates=2, seed=3
    )
    assert done.stdout == "".join(f"{c.text}\n" for c in expected)
    assert "done" not in done.stderr


def test_raw_tokens_full_and_special(call: Call, shell: Path) -> None:
    arguments = ["-r", "<BOS><:259:><CMD>git", "-t", 0, "--max-tokens", 6, "--full", "-q"]
    done = call("generate", "-m", shell, *arguments, "-s")
    prompt = [calmgrad.BOS, calmgrad.ATN, calmgrad.CMD, *b"git"]
    (expected,) = calmgrad.load_model(shell).generate(prompt, temperature=0, max_tokens=6)
    assert done.stdout == calmgrad.decode([*prompt, *expected.tokens], special=True) + "\n"
    plain = call("generate", "-m", shell, *arguments).stdout
    assert plain == "git" + expected.text + "\n"


def test_stop_takes_the_place_of_the_models_own(call: Call, shell: Path) -> None:
    arguments: list[object] = ["generate", "-m", shell, "-i", "ls", "--seed", 3, "--json"]
    arguments += ["-n", 1, "-t", 3, "-k", 300, "--max-tokens", 300]

    def ended(*more: object) -> tuple[bytes, str]:
        (row,) = json.loads(call(*arguments, *more).stdout)["completions"]
        return bytes(t for t in row["tokens"] if t < 256), row["ended"]

    whole, _ = ended("--stop", "")
    at = next(i for i, byte in enumerate(whole) if 32 < byte < 127 and i > 3)
    pattern = chr(whole[at])
    assert ended("--stop", pattern) == (whole[: whole.index(pattern.encode())], "stop")
    assert ended("--stop", pattern, "--stop", "not there")[1] == "stop"
    assert ended("--stop", "not there")[0] == whole
    # As typed: an escape, and bytes that are not UTF-8.
    assert unescaped("a\\n b\\\\n") == b"a\n b\\n"
    assert unescaped("\udcff\xfc") == b"\xff\xc3\xbc"


def test_fewer_completions_than_asked_for_are_told(call: Call, shell: Path) -> None:
    done = call("generate", "-m", shell, "-i", "ls", "-n", 4, "-k", 1)
    assert len(done.stdout.splitlines()) == 1
    assert "note     1 of 4 completions: 16 draws in a row brought no other\n" in done.stderr
    done = call("generate", "-m", shell, "-i", "ls", "-n", 4, "-t", 0)
    assert "note     1 of 4 completions: the likeliest token each time" in done.stderr


def test_text_from_a_pipe_loses_the_newline_of_echo(shell: Path, tmp_path: Path) -> None:
    arguments = ("-m", str(shell), "--seed", "1", "-q", "--full", "-n", "1")
    for text, kept in ((b"\xff c\r\n", "\ufffd c".encode()), (b"a\n\n", b"a\n")):
        done = piped(tmp_path, text, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(kept)
        assert not done.stdout.startswith(kept + b"\n")
    empty = piped(tmp_path, b"", *arguments)
    assert empty.returncode == 2
    assert b"error: nothing to complete: give -i TEXT" in empty.stderr


def on_terminal(folder: Path, *arguments: str) -> str:
    """What a terminal shows of stdout."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "calmgrad.cli", "generate", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=slave, stderr=subprocess.PIPE
    ) as process:
        os.close(slave)
        seen = b""
        try:
            while part := os.read(master, 4096):
                seen += part
        except OSError:  # Linux says so that the other side is closed
            pass
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait() == 0, errors
        os.close(master)
    return seen.decode().replace("\r\n", "\n")


def test_a_terminal_shows_one_completion_as_it_comes(shell: Path, tmp_path: Path) -> None:
    arguments = ("-m", str(shell), "-i", "x", "--seed", "2", "-n", "1", "-s", "--full", "-q")
    seen = on_terminal(tmp_path, *arguments)
    (expected,) = calmgrad.load_model(shell).generate("x", seed=2, candidates=1)
    tokens = [calmgrad.BOS, calmgrad.ATN, calmgrad.CMD, ord("x"), *expected.tokens]
    assert seen == harmless(calmgrad.decode(tokens, special=True)) + "\n"
    assert len(on_terminal(tmp_path, *arguments[:-2], "-n", "2").splitlines()) >= 2


def test_nothing_that_moves_the_cursor_reaches_a_terminal() -> None:
    assert harmless("a\x1b]0;x\x07b\n\tü\x9b\u202e\r") == "a\\x1b]0;x\\x07b\n\tü\\x9b\\u202e\\r"


def test_fields_of_the_template(call: Call, shell: Path, tmp_path: Path) -> None:
    text = call("generate", "-m", shell, "--show-fields").stdout
    assert text.splitlines()[0].startswith("template: BOS;CWD:cwd;")
    assert "input            CMD    frame, the model goes on here" in text
    rows = json.loads(call("generate", "-m", shell, "--show-fields", "--json").stdout)["entries"]
    assert {"field": "exit", "token": "EXIT", "kind": "subtoken", "terminal": False,
            "inside": "history"} in rows  # fmt: skip
    model_of().save(tmp_path / "plain.cwgt")
    assert call("generate", "-m", "plain.cwgt", "--show-fields").stdout.startswith("no template")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-i", "a", "-r", "b"], 2, "-i and -r exclude each other"),
        (["-r", "<NOPE>"], 2, "<NOPE> at character 0: there is no such token"),
        (["-r", ""], 2, "-r: the text is empty"),
        (["-i", "a" * 900], 2, "prompt: 903 tokens leave no room for a completion"),
        (["-i", "a", "-t", "nan"], 2, "temperature = nan"),
        (["-i", "a", "-p", "2"], 2, "2.0 is not in the range 0<=x<=1"),
        (["-i", "a", "-m", "none.cwgt"], 3, "none.cwgt: "),
    ],
)
def test_errors(call: Call, shell: Path, arguments: list[str], code: int, message: str) -> None:
    refused(call, ["generate", "-m", shell, *arguments], code, message)


def refused(call: Call, arguments: list[object], code: int, message: str) -> None:
    with pytest.raises((click.ClickException, CalmgradError)) as caught:
        call(*arguments)
    error = caught.value
    assert isinstance(error, click.ClickException | CalmgradError)
    assert error.exit_code == code
    assert message in (
        error.format_message() if isinstance(error, click.ClickException) else str(error)
    )


def test_weights_that_are_not_finite(call: Call, tmp_path: Path) -> None:
    model = model_of()
    model.weights[7] = np.nan
    model.save(tmp_path / "bad.cwgt")
    refused(call, ["generate", "-m", "bad.cwgt", "-i", "a"], 3, "bad.cwgt")


def test_help_is_about_what_calm_inference_knows(call: Call) -> None:
    text = call("generate", "--help").stdout
    for flag in "-i -r -k -p --min-p -t --max-tokens -n -q --full -s --show-fields --seed --json":
        assert flag in text


def test_evaluate_completion(call: Call, shell: Path, tmp_path: Path) -> None:
    head = [calmgrad.BOS, calmgrad.ATN, calmgrad.CMD]
    commands = [b"git commit", b"make", b"ls -la", b"cd"]
    calmgrad.write_dataset(
        tmp_path / "c.ctds", [[*head, *c, calmgrad.EOS] for c in commands], [1] * 4
    )
    evaluate = ["evaluate", "--completion", "-m", shell, "-d", "c.ctds"]
    result = json.loads(call(*evaluate, "--typed", 2, "--first", 1, "--json").stdout)
    assert [result[k] for k in ("commands", "left_out", "typed", "first")] == [3, 1, 2, 1]
    for name in ("exact_match", "first_accuracy", "keystrokes_saved"):
        assert 0 <= result[name] <= 1
    assert 0 < result["latency_ms_p50"] <= result["latency_ms_p99"]
    assert call(*evaluate, "--commands", 1).stdout.startswith("typed ")
    refused(call, [*evaluate, "--typed", 50], 2, "no command has more than 50")
    refused(call, [*evaluate, "--worst", 2], 2, "--worst does not go with --completion")
    evaluate.remove("--completion")
    refused(call, [*evaluate, "--first", 2], 2, "--first goes with --completion")
