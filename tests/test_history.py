"""History files of the three shells, by example, and the sequences made of them."""

from pathlib import Path

import pytest

from calmgrad.errors import FileError
from calmgrad.history import detect, parse, read_histories
from calmgrad.tokenizer import ATN, decode

BASH = b"ls\n#1700000000\nfor i in 1; do\n  echo $i\ndone\n#1700000060\ngit status\n"
ZSH = b": 1700000000:0;ls -l\n: 1700000005:2;echo a\\\nb\nplain\n: 1700000009:0;echo \x83\xbf\n"
FISH = (
    b"- cmd: echo a\\nb \\\\n\n  when: 1700000000\n  paths:\n    - a\n"
    b"- cmd: ls\n  when: 1700000001\n"
)


def commands(data: bytes, shell: str) -> list[tuple[str, int | None]]:
    return [(entry.command, entry.time) for entry in parse(data, shell)]


def test_bash() -> None:
    assert commands(BASH, "bash") == [
        ("ls", None),
        ("for i in 1; do\n  echo $i\ndone", 1700000000),
        ("git status", 1700000060),
    ]
    assert commands(b"a\r\n\n  \n#not a time\nb", "bash") == [
        ("a", None), ("#not a time", None), ("b", None),
    ]  # fmt: skip


def test_zsh() -> None:
    assert commands(ZSH, "zsh") == [
        ("ls -l", 1700000000),
        ("echo a\nb", 1700000005),
        ("plain", None),
        ("echo \udc9f", 1700000009),  # 0x83 0xbf stands for 0x9f
    ]
    assert commands(b"ls\ngit\\", "zsh") == [("ls", None), ("git", None)]


def test_fish() -> None:
    assert commands(FISH, "fish") == [("echo a\nb \\n", 1700000000), ("ls", 1700000001)]


def test_the_shell_is_recognised() -> None:
    assert [detect(data) for data in (BASH, ZSH, FISH, b"")] == ["bash", "zsh", "fish", "bash"]


def shown(folder: Path, *files: bytes, **options: int) -> list[str]:
    paths = []
    for i, data in enumerate(files):
        paths.append(folder / f"h{i}")
        paths[-1].write_bytes(data)
    found = read_histories(paths, **options)  # type: ignore[arg-type]
    assert [row.index(ATN) for row in found.tokens] == found.cmd_positions
    return [decode(row, special=True) for row in found.tokens]


def test_sequences(tmp_path: Path) -> None:
    assert shown(tmp_path, b"ls \nmake\nvim a\n", b"top\n", context=2) == [
        "<BOS><ATN><CMD>ls<EOS>",
        "<BOS><HIST>ls<END><ATN><CMD>make<EOS>",
        "<BOS><HIST>ls<END><HIST>make<END><ATN><CMD>vim a<EOS>",
        "<BOS><ATN><CMD>top<EOS>",
    ]
    assert shown(tmp_path, b"a\nb\n", context=0)[1] == "<BOS><ATN><CMD>b<EOS>"


def test_a_pause_ends_the_context(tmp_path: Path) -> None:
    data = b"#1000\na\n#1100\nb\n#5000\nc\n#5001\nd\n"
    rows = shown(tmp_path, data, gap=3600)
    assert rows[1] == "<BOS><HIST>a<END><ATN><CMD>b<EOS>"
    assert rows[2] == "<BOS><ATN><CMD>c<EOS>"
    assert rows[3] == "<BOS><HIST>c<END><ATN><CMD>d<EOS>"


def test_l_max_drops_context_before_commands(tmp_path: Path) -> None:
    (tmp_path / "h").write_bytes(b"aaaa\nbb\n" + b"c" * 20)
    found = read_histories([tmp_path / "h"], l_max=10)
    assert [decode(row, special=True) for row in found.tokens] == [
        "<BOS><ATN><CMD>aaaa<EOS>", "<BOS><ATN><CMD>bb<EOS>",
    ]  # fmt: skip
    assert found.left_out == {"over 10 tokens": 1}
    assert found.commands == 3


def test_secrets_leave_no_trace(tmp_path: Path) -> None:
    data = b"ls\nexport TOKEN=hunter22\nmake\nlogin hunter22\ngit log\n"
    rows = "".join(shown(tmp_path, data, b"curl hunter22\n"))
    assert "hunter22" not in rows
    assert "<HIST>make<END><ATN><CMD>git log" in rows
    found = read_histories([tmp_path / "h0", tmp_path / "h1"])
    assert [removed.number for removed in found.removed] == [1, 3, 5]
    assert "hunter22" not in str(found.removed)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        read_histories([tmp_path / "none"])
