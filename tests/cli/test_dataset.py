"""calmgrad dataset"""

import json
import subprocess
from pathlib import Path

import click
import pytest

import calmgrad
from calmgrad.cli.common import say
from calmgrad.cli.main import cli
from calmgrad.errors import CalmgradError
from tests.cli.conftest import Run

TEXT = "<CWD>/a\n<HIST>ls<EXIT>0\n<CMD>git status\n\n<CMD>make é\n\n<CMD>" + "x" * 800 + "\n"


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """As `run`, in this process: there are many of them."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        ended = 0
        try:
            cli.main(list(args), prog_name="calmgrad", standalone_mode=False)
        except click.ClickException as error:
            error.show()
            ended = error.exit_code
        except CalmgradError as error:
            say(f"error: {error}")
            ended = error.exit_code
        out, err = capsys.readouterr()
        assert ended == code, err
        return subprocess.CompletedProcess(args, ended, out, err)

    return call


@pytest.fixture
def built(call: Run, tmp_path: Path) -> Path:
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    call("dataset", "build", "t.txt", "-o", "t.ctds")
    return tmp_path / "t.ctds"


def test_build(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT + "\n<ATN>lost" * 8, encoding="utf-8")
    done = run("dataset", "build", "t.txt", "-o", "t.ctds")
    assert done.stdout.splitlines() == [
        "t.txt: generic format, 4 blocks",
        "train       t.ctds: 3 sequences, 47 tokens",
        "            left out 1: over 768 tokens",
        "findings    8: text after a lone tag",
    ]
    lines = done.stderr.splitlines()
    assert lines[0] == "warning: t.txt:9: text after <ATN> is lost: 'lost'"
    assert lines[5:] == ["warning: t.txt: 3 more like this: text after a lone tag"]
    done = run("dataset", "build", "t.txt", "-o", "u.ctds", "--strict", code=3)
    assert done.stderr == "error: t.txt:9: text after <ATN> is lost: 'lost'\n"
    assert not (tmp_path / "u.ctds").exists()


def test_build_as_json(call: Run, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    done = call("dataset", "build", "t.txt", "-o", "t.ctds", "--val-split", "0.001", "--json")
    assert done.stderr == "warning: t_val.ctds: no sequences are left for it: not written\n"
    assert json.loads(done.stdout) == {
        "text": "t.txt", "format": "generic", "blocks": 3,
        "train": {"path": "t.ctds", "sequences": 2, "tokens": 37,
                  "left_out": {"over 768 tokens": 1}},
        "validation": {"path": None, "sequences": 0, "tokens": 0, "left_out": {}},
        "findings": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "none.txt", "-o", "o"], 3, "none.txt: no such file"),
        (["build", "t.txt", "-o", "none/o"], 5, "none/o: cannot be written: there is no folder"),
        (["build", "t.txt", "-o", "t.txt"], 2, "t.txt is the text already"),
        (["build", "t.txt", "-o", "o", "--val-split", "2"], 2, "is not in the range"),
        (["build", "t.txt", "-o", "o", "--val-output", "v"], 2, "without val_split"),
        (["sample", "t.ctds", "-n", "9", "-o", "o"], 2, "9 sequences asked for: expected 1 to 2"),
        (["split", "t.ctds", "-o", "o", "--val-split", "1"], 2, "share of validation is 1.0"),
        (["split", "t.ctds", "-o", "o", "--val-output", "o"], 2, "would both go to o"),
        (["show", "t.ctds", "7"], 2, "there is no sequence 7: it has 2"),
        (["check", "t.txt"], 3, "t.txt: magic (byte 0) is"),
        (["history", "t.ctds", "none", "-o", "o"], 3, "none: no such file"),
        (["history", "t.ctds", "-o", "./t.ctds"], 2, "./t.ctds: is read by this command"),
        (["buidl"], 2, "Did you mean 'build'?"),
        (["dedup", "t.ctds", "--without", "t.ctds", "-o", "o"], 3, "every sequence is in t.ctds"),
    ],
)
def test_errors(call: Run, built: Path, arguments: list[str], code: int, message: str) -> None:
    done = call("dataset", *arguments, code=code)
    assert message in done.stderr
    assert done.stdout == ""
    assert not (built.parent / "o").exists()


def test_info(call: Run, built: Path) -> None:
    done = call("dataset", "info", "t.ctds")
    assert "sequences      2\n" in done.stdout
    assert "atn_share      1.0000\n" in done.stdout
    assert "<EXIT>" in done.stdout
    values = json.loads(call("dataset", "info", "t.ctds", "--json").stdout)
    assert (values["sequences"], values["tokens"], values["with_atn"]) == (2, 37, 2)
    assert values["usage"]["<CMD>"] == 2
    assert sum(bin["count"] for bin in values["lengths"]) == 2
    assert sum(values["usage"].values()) == 37
    assert "\ns " in call("dataset", "info", "t.ctds", "--tokens").stdout


def test_show(call: Run, built: Path) -> None:
    assert call("dataset", "show", "t.ctds").stdout == (
        "0: 25 tokens, ATN at 11\n"
        "<BOS><CWD>/a<END><HIST>ls<EXIT>0<END><ATN>⟦<CMD>git status<END><EOS>⟧\n\n"
        "1: 12 tokens, ATN at 1\n<BOS><ATN>⟦<CMD>make é<END><EOS>⟧\n\n"
    )
    done = call("dataset", "show", "t.ctds", "-n", "1")
    assert "1 of 2 sequences; -n 2 shows all" in done.stderr
    shown = json.loads(call("dataset", "show", "t.ctds", "1", "--json").stdout)["sequences"]
    assert shown == [{"number": 1, "tokens": 12, "atn": 1, "context": "<BOS><ATN>",
                      "targets": "<CMD>make é<END><EOS>"}]  # fmt: skip


def test_what_cannot_be_printed_is_escaped(call: Run, tmp_path: Path) -> None:
    rows = [[257, 27, 10, 0xFF, 0xC3, 0xA9, 300, 258]]
    calmgrad.write_dataset(tmp_path / "o.ctds", rows, [0])
    out = call("dataset", "show", "o.ctds").stdout
    assert out == "0: 8 tokens, no ATN\n<BOS>⟦\\x1b\\n\\xffé<:300:><EOS>⟧\n\n"


def test_check(call: Run, built: Path) -> None:
    done = call("dataset", "check", "t.ctds")
    assert done.stdout == "t.ctds: 2 sequences, every rule of the format holds\n"
    call("dataset", "merge", "t.ctds", "t.ctds", "-o", "m.ctds")
    done = call("dataset", "check", "m.ctds", "--val", "t.ctds", code=6)
    assert "  2 (the first: number 2): same tokens as an earlier sequence\n" in done.stdout
    assert "error: t.ctds: 2 sequences are also in m.ctds" in done.stderr
    call("dataset", "check", "m.ctds")
    call("dataset", "check", "m.ctds", "--strict", code=6)
    found = json.loads(call("dataset", "check", "m.ctds", "--json").stdout)
    assert found["files"]["m.ctds"][0]["count"] == 2


def test_split_merge_sample_dedup(call: Run, dataset: Path) -> None:
    done = json.loads(call("dataset", "split", "train.ctds", "-o", "a.ctds", "--json").stdout)
    assert done["train_sequences"] + done["validation_sequences"] == 62
    assert call("dataset", "check", "a.ctds", "--val", "a_val.ctds").returncode == 0
    call("dataset", "merge", "a.ctds", "a_val.ctds", "a.ctds", "-o", "m.ctds")
    assert calmgrad.load_dataset(dataset.parent / "m.ctds").count() == 62 + done["train_sequences"]
    values = json.loads(
        call(
            "dataset", "dedup", "m.ctds", "--without", "a_val.ctds", "-o", "d.ctds", "--json"
        ).stdout
    )
    assert values["sequences"] + values["repetitions"] + values["in_others"] == (
        62 + done["train_sequences"]
    )
    call("dataset", "check", "d.ctds", "--val", "a_val.ctds")
    call("dataset", "sample", "m.ctds", "-n", "7", "--seed", "3", "-o", "s.ctds")
    assert calmgrad.load_dataset(dataset.parent / "s.ctds").count() == 7


def test_history(call: Run, tmp_path: Path) -> None:
    (tmp_path / "h").write_text("ls\nexport TOKEN=hunter22\nmake\n")
    done = call("dataset", "history", "h", "-o", "h.ctds", "--show-removed")
    assert done.stdout.splitlines() == [
        "h: bash, 3 commands",
        "h.ctds: 2 sequences, 18 tokens",
        "removed 1: secret assigned to a name",
        "  2: export TOKEN=hu…  [secret assigned to a name]",
    ]
    values = json.loads(call("dataset", "history", "h", "-o", "h.ctds", "--json").stdout)
    assert values["removed"] == {"secret assigned to a name": 1}
    assert b"h\0u\0n\0t\0" not in (tmp_path / "h.ctds").read_bytes()
    (tmp_path / "h").write_text("export TOKEN=hunter22\n")
    done = call("dataset", "history", "h", "-o", "n.ctds", code=3)
    assert "of 1 commands 1 hold secrets" in done.stderr
    listed = call("dataset", "history", "--list-patterns").stdout
    assert "URL with credentials" in listed
    for flags in (["--list-patterns", "--json"], ["--json", "--list-patterns"]):
        patterns = json.loads(call("dataset", "history", *flags).stdout)["patterns"]
        assert patterns[0]["name"] == "URL with credentials"
        assert patterns[0]["example"] in listed
        assert len(patterns) == len(listed.splitlines())


def test_help_names_every_command(call: Run) -> None:
    from calmgrad.cli.dataset import COMMANDS

    shown = call("dataset", "--help").stdout
    for name, text in COMMANDS.items():
        assert name in shown
        assert text.split()[0] in shown
        assert "Usage: calmgrad dataset " + name in call("dataset", name, "--help").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("split", "a.ctds", "-o", "a.ctds"),
        ("split", "a.ctds", "-o", "b.ctds", "--val-output", "a.ctds"),
        ("merge", "a.ctds", "a.ctds", "-o", "a.ctds"),
        ("sample", "a.ctds", "-n", "1", "-o", "a.ctds"),
        ("dedup", "b.ctds", "--without", "a.ctds", "-o", "a.ctds"),
    ],
    ids=" ".join,
)
def test_what_is_read_is_not_written_over(call: Run, words: tuple[str, ...]) -> None:
    for name in ("a.ctds", "b.ctds"):
        calmgrad.write_dataset(name, [[257, 259, 65, 258], [257, 259, 66, 258]], [1, 1])
    before = Path("a.ctds").read_bytes()
    done = call("dataset", *words, code=2)
    assert "a.ctds: is read by this command" in done.stderr
    assert Path("a.ctds").read_bytes() == before
