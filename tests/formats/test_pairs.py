"""Pair files as FORMATS §6 describes them, and what is told of those that lose something."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calmgrad.errors import FileError
from calmgrad.formats import pairs
from calmgrad.tokenizer import BOS, EOS

QUERY, PASSAGE = "<QUERY>how does it work", "<REF>The handshake negotiates it."


def load(path: Path, text: str | bytes) -> pairs.Pairs:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return pairs.read(path)


def test_pairs_with_continuation_lines(tmp_path: Path) -> None:
    text = (
        f"{QUERY}\n<ATN>\n{PASSAGE}\n  Second line \n \n<ATN>\nthird\n"
        f"\n\n{QUERY} \r\n<ATN>\r\n{PASSAGE}\r\n\r\n{QUERY}\r{PASSAGE}"
    )
    found = load(tmp_path / "p", text)
    assert [(p.line, p.query, p.passage) for p in found.pairs] == [
        (1, "how does it work", "The handshake negotiates it.\n  Second line \n \nthird"),
        (10, "how does it work ", "The handshake negotiates it."),
        (14, "how does it work", "The handshake negotiates it."),
    ]
    assert not found.left_out
    assert not found.findings


def test_short_ones_are_counted(tmp_path: Path) -> None:
    text = "\n\n".join(
        [f"<QUERY>four\n{PASSAGE}", f"<QUERY>fiver\n{PASSAGE}", f"{QUERY}\n<REF>{'é' * 19}",
         f"{QUERY}\n<REF>{'é' * 20}", QUERY, PASSAGE, "<QUERY>four\n<REF>short"]
    )  # fmt: skip
    found = load(tmp_path / "p", text)
    assert [p.query for p in found.pairs] == ["fiver", "how does it work"]
    assert found.left_out == {
        "query under 5 characters": 2, "passage under 20 characters": 1,
        "without <REF>": 1, "without <QUERY>": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (f"{QUERY}\n<QUERY>second\n{PASSAGE}", 2, "a second <QUERY> replaces the first: 'how do"),
        (f"{QUERY}\n{PASSAGE}\n{PASSAGE}", 3, "a second <REF> replaces the first: 'The hand"),
        (f"{QUERY}\nmore of it\n{PASSAGE}", 2, "a line outside <QUERY> and <REF> is lost: 'more"),
        (f"{QUERY}\n<ATN>lost\n{PASSAGE}", 2, "text after <ATN> is lost: 'lost'"),
        (f"\ufeff{QUERY}\n{PASSAGE}", 1, "a byte order mark: left out"),
        (f"{QUERY}\n{PASSAGE}".encode() + b"\xff", 2, "not UTF-8"),
    ],
)
def test_what_is_lost_is_told(tmp_path: Path, text: str | bytes, line: int, message: str) -> None:
    found = load(tmp_path / "p", text)
    assert len(found.pairs) == 1
    assert [(f.line, f.message.startswith(message)) for f in found.findings] == [(line, True)]


def test_tokens() -> None:
    assert pairs.tokens("aé", 5).tolist() == [BOS, 97, 0xC3, 0xA9, EOS]
    assert pairs.tokens("aé", 4).tolist() == [BOS, 97, 0xC3, EOS]
    assert pairs.tokens("aé", 2).tolist() == [BOS, EOS]
    with pytest.raises(ValueError, match="l_max is 1: expected at least 2"):
        pairs.tokens("a", 1)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        pairs.read(tmp_path / "none")


@given(st.lists(st.sampled_from([QUERY, PASSAGE, "<ATN>", "<REF>", "x", " ", "", "\ufeff"])))
def test_any_text_is_read(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "pairs"
    assert len(load(path, "\n".join(lines)).pairs) <= lines.count(QUERY)
