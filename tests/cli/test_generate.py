"""calmgrad generate, and evaluate --completion"""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import calmgrad
from tests.cli.conftest import Run, environment
from tests.test_decoder import model_of


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A small shell model that has learnt nothing."""
    path = tmp_path / "shell.cwgt"
    model_of(domain="shell").save(path)
    return path


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


def test_flags_override_the_file_and_quiet_prints_text_alone(run: Run, shell: Path) -> None:
    flags = "-t 1.5 -k 9 -p 0.9 --min-p 0.01 --max-tokens 7 -n 2 --seed 3 -q".split()
    done = run("generate", "-m", shell, "-i", "ls", *flags)
    expected = calmgrad.load_model(shell).generate(
        "ls", temperature=1.5, top_k=9, top_p=0.9, min_p=0.01, max_tokens=7, candidates=2, seed=3
    )
    assert done.stdout == "".join(f"{c.text}\n" for c in expected)
    assert "done" not in done.stderr


def test_raw_tokens_full_and_special(run: Run, shell: Path) -> None:
    arguments = ["-r", "<BOS><:259:><CMD>git", "-t", 0, "--max-tokens", 6, "--full", "-q"]
    done = run("generate", "-m", shell, *arguments, "-s")
    prompt = [calmgrad.BOS, calmgrad.ATN, calmgrad.CMD, *b"git"]
    (expected,) = calmgrad.load_model(shell).generate(prompt, temperature=0, max_tokens=6)
    assert done.stdout == calmgrad.decode([*prompt, *expected.tokens], special=True) + "\n"
    plain = run("generate", "-m", shell, *arguments).stdout
    assert plain == "git" + expected.text + "\n"


def test_text_from_a_pipe_loses_the_newline_of_echo(shell: Path, tmp_path: Path) -> None:
    arguments = ("-m", str(shell), "--seed", "1", "-q", "--full", "-n", "1")
    for text, kept in ((b"git c\n", b"git c"), (b"a\r\n", b"a"), (b"a\n\n", b"a\n")):
        done = piped(tmp_path, text, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(kept)
        assert not done.stdout.startswith(kept + b"\n")
    assert piped(tmp_path, b"\xff\xfe", *arguments).returncode == 0  # not UTF-8
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
    from calmgrad.cli.generate import harmless

    assert seen == harmless(calmgrad.decode(tokens, special=True)) + "\n"
    assert len(on_terminal(tmp_path, *arguments[:-2], "-n", "2").splitlines()) >= 2


def test_nothing_that_moves_the_cursor_reaches_a_terminal() -> None:
    from calmgrad.cli.generate import harmless

    assert harmless("a\x1b]0;x\x07b\n\tü\x9b\u202e\r") == "a\\x1b]0;x\\x07b\n\tü\\x9b\\u202e\\r"


def test_fields_of_the_template(run: Run, shell: Path, tmp_path: Path) -> None:
    text = run("generate", "-m", shell, "--show-fields").stdout
    assert text.splitlines()[0].startswith("template: BOS;CWD:cwd;")
    assert "input            CMD    frame, the model goes on here" in text
    rows = json.loads(run("generate", "-m", shell, "--show-fields", "--json").stdout)["entries"]
    assert {"field": "exit", "token": "EXIT", "kind": "subtoken", "terminal": False,
            "inside": "history"} in rows  # fmt: skip
    model_of().save(tmp_path / "plain.cwgt")
    assert run("generate", "-m", "plain.cwgt", "--show-fields").stdout.startswith("no template")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-i", "a", "-r", "b"], 2, "-i and -r exclude each other"),
        (["-r", "<NOPE>"], 2, "error: <NOPE> at character 0: there is no such token"),
        (["-r", ""], 2, "-r: the text is empty"),
        (["-i", "a" * 900], 2, "error: prompt: 903 tokens leave no room for a completion"),
        (["-i", "a", "-t", "nan"], 2, "error: temperature = nan"),
        (["-i", "a", "-p", "2"], 2, "2.0 is not in the range 0<=x<=1"),
        (["-i", "a", "-m", "none.cwgt"], 3, "error: none.cwgt: "),
    ],
)
def test_errors(run: Run, shell: Path, arguments: list[str], code: int, message: str) -> None:
    done = run("generate", "-m", shell, *arguments, code=code)
    assert message in done.stderr
    assert done.stdout == ""


def test_weights_that_are_not_finite(run: Run, tmp_path: Path) -> None:
    model = model_of()
    model.weights[7] = np.nan
    model.save(tmp_path / "bad.cwgt")
    assert "bad.cwgt" in run("generate", "-m", "bad.cwgt", "-i", "a", code=3).stderr


def test_help_is_about_what_calm_inference_knows(run: Run) -> None:
    text = run("generate", "--help").stdout
    for flag in "-i -r -k -p --min-p -t --max-tokens -n -q --full -s --show-fields --seed --json":
        assert flag in text


def test_evaluate_completion(run: Run, shell: Path, tmp_path: Path) -> None:
    head = [calmgrad.BOS, calmgrad.ATN, calmgrad.CMD]
    commands = [b"git commit", b"make", b"ls -la", b"cd"]
    calmgrad.write_dataset(
        tmp_path / "c.ctds", [[*head, *c, calmgrad.EOS] for c in commands], [1] * 4
    )
    call = ["evaluate", "--completion", "-m", shell, "-d", "c.ctds"]
    result = json.loads(run(*call, "--typed", 2, "--first", 1, "--json").stdout)
    assert (result["commands"], result["left_out"], result["typed"], result["first"]) == (
        3,
        1,
        2,
        1,
    )
    for name in ("exact_match", "first_accuracy", "keystrokes_saved"):
        assert 0 <= result[name] <= 1
    assert 0 < result["latency_ms_p50"] <= result["latency_ms_p99"]
    assert run(*call, "--commands", 1).stdout.startswith("typed ")
    assert "no command has more than 50" in run(*call, "--typed", 50, code=2).stderr
    bad = run("evaluate", "-m", shell, "-d", "c.ctds", "--first", 2, code=2)
    assert "--first goes with --completion" in bad.stderr
    assert "--worst" in run(*call, "--worst", 2, code=2).stderr
