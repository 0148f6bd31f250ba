"""The text formats of FORMATS §6: each rule by a small text, and what is told of losses."""

import io
from pathlib import Path

import pytest

from calmgrad.formats import blocks, lines
from calmgrad.formats.blocks import Block
from calmgrad.formats.lines import Finding, open_text
from calmgrad.formats.text import read_blocks
from calmgrad.tokenizer import decode


def blocks_of(text: str | bytes, l_max: int = 768) -> tuple[str, list[Block], list[Finding]]:
    """What the reader makes of a text."""
    findings: list[Finding] = []
    data = text if isinstance(text, bytes) else text.encode()
    file = io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline=None)
    form, blocks = read_blocks(file, l_max, findings.append)
    return form, list(blocks), findings


def shown(text: str) -> list[str]:
    """The sequences of a text, specials named."""
    return [decode(map(ord, block.tokens), special=True) for block in blocks_of(text)[1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<CWD>/a\n<CMD>ls", "<BOS><CWD>/a<END><ATN><CMD>ls<END><EOS>"),
        ("<CWD>/a\n<ATN>\n<CMD>ls", "<BOS><CWD>/a<END><ATN><CMD>ls<END><EOS>"),
        ("<CMD>a\n<CMD>b", "<BOS><ATN><CMD>a<END><ATN><CMD>b<END><EOS>"),
        ("<CMD>a\n<ATN>\n<CMD>b", "<BOS><CMD>a<END><ATN><CMD>b<END><EOS>"),
        ("<PAD>\n<BOS>\n<EOS>", "<BOS><PAD><BOS><EOS><EOS>"),
        ("<HIST>ls<EXIT>0<EXIT>", "<BOS><HIST>ls<EXIT>0<EXIT><END><EOS>"),
        ("<COMP>a<NEXT>b<NEXT>", "<BOS><COMP>a<NEXT>b<NEXT><END><EOS>"),
        ("x\n\n<WORD>cat<POS>n<NOTE>x<IPA>k", "<BOS><WORD>cat<POS>n<NOTE>x<IPA>k<END><EOS>"),
        ("<QUERY>q\n<ATN>\n<REF>r<NOTE>n", "<BOS><QUERY>q<END><ATN><REF>r<NOTE>n<END><EOS>"),
        ("<DEF>d\n<QUOTE>q<BY>b", "<BOS><DEF>d<END><QUOTE>q<BY>b<END><EOS>"),
        ("<CMD>", "<BOS><ATN><CMD><END><EOS>"),
        (" one \n\tTwo\u3000\nthree", "<BOS>oneTwothree<EOS>"),
        ("a  b", "<BOS>a  b<EOS>"),
        ("<CWD> /a b \n", "<BOS><CWD> /a b<END><EOS>"),
        ("é\u0301", "<BOS>é\u0301<EOS>"),
        ("a\r\nb\rc\nd", "<BOS>abcd<EOS>"),
        ("a\x0bb\x00c", "<BOS>a\x0bb\x00c<EOS>"),
        ("<cmd>x", "<BOS><cmd>x<EOS>"),
        ("< CMD>x", "<BOS>< CMD>x<EOS>"),
    ],
)
def test_generic(text: str, expected: str) -> None:
    assert shown(text)[-1] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<WORD>cat<ATN><POS>n.<IPA>kat\n<DEF>A pet.\n<QUOTE>A cat!<BY>Ann\n<DEF>Two",
         "<BOS><WORD>cat<ATN><POS>n.<IPA>kat<END><DEF>A pet.<END><QUOTE>A cat!<BY>Ann<END>"
         "<DEF>Two<END><EOS>"),
        ("<WORD> cat \n<DEF> a  b ", "<BOS><WORD>cat<ATN><END><DEF> a  b<END><EOS>"),
        ("<WORD>cat<IPA>k<NOTE> n <POS>\n<DEF>",
         "<BOS><WORD>cat<ATN><NOTE>n<IPA>k<END><DEF><END><EOS>"),
        ("<WORD>\n<DEF>d\n<QUOTE><BY>", "<BOS><WORD><ATN><END><DEF>d<END><QUOTE><END><EOS>"),
        ("\n \n<WORD>cat\n \n<DEF>d", "<BOS><WORD>cat<ATN><END><DEF>d<END><EOS>"),
        ("<WORD>Été\n<DEF>\xa0d\xa0", "<BOS><WORD>Été<ATN><END><DEF>\xa0d<END><EOS>"),
    ],
)  # fmt: skip
def test_dictionary(text: str, expected: str) -> None:
    form, blocks, findings = blocks_of(text)
    assert (form, findings) == ("dictionary", [])
    assert [decode(map(ord, block.tokens), special=True) for block in blocks] == [expected]
    assert blocks[0].atn == blocks[0].tokens.index(chr(259))


def test_blocks_and_positions() -> None:
    _, blocks, findings = blocks_of("\n\nplain\n \t\n<CWD>/\n<CMD>ls\n\n\n<ATN>\n<CMD>x")
    assert [(b.line, b.atn, len(b.tokens)) for b in blocks] == [(3, 0, 7), (5, 4, 10), (9, 1, 6)]
    assert findings == []
    assert blocks[0].data == blocks[0].tokens.encode("utf-16-le")


def test_limits_count_tokens() -> None:
    for l_max, left_out in ((8, ""), (7, "over 7 tokens")):
        _, blocks, _ = blocks_of("<CMD>äb", l_max)  # BOS ATN CMD ä b END EOS: 8
        assert [block.left_out for block in blocks] == [left_out]
    _, blocks, _ = blocks_of("<WORD>w\n<DEF>d", 9)  # BOS WORD w ATN END DEF d END EOS
    assert blocks[0].left_out == ""
    _, blocks, _ = blocks_of("<WORD>w\n\n<WORD>v\n<DEF>d\n<DEF>d", 9)
    assert [block.left_out for block in blocks] == ["no <DEF>", "over 9 tokens"]


def test_a_text_without_blocks() -> None:
    for text in ("", "\n\n \n", "\u2028\n"):
        assert blocks_of(text) == ("generic", [], [])


@pytest.mark.parametrize(
    ("text", "line", "kind"),
    [
        ("\ufeff<CMD>a", 1, "byte order mark"),
        (b"<CMD>a\n<CMD>\xff", 2, "not UTF-8"),
        ("x\n<ATN> y", 2, "text after a lone tag"),
        ("x\n<BOS>y", 2, "text after a lone tag"),
        ("<NOPE>x", 1, "unknown tag"),
        ("<FILE>x", 1, "unknown tag"),
        ("<EXIT>0", 1, "unknown tag"),
        ("<CWD>/a<GIT>main", 1, "tag inside a line"),
        ("<CMD>a\n\n<WORD>cat", 3, "mixed blocks"),
        ("<WORD>w\n<DEF>d\n\n<CMD>a\n<CMD>b", 4, "mixed blocks"),
        ("<WORD>w\n<DEF>d\n \n<WORD>v\n<DEF>e", 4, "merged entries"),
        ("<WORD>w\n<DEF>d\n<WORD>v", 3, "second head line"),
        ("<WORD>w\n<QUOTE>q\n<DEF>d", 2, "early quote"),
        ("<WORD>w\n<DEF>d\nand more", 3, "continuation line"),
        ("<WORD>w\n<DEF>d\n<NOPE>x", 3, "unknown tag"),
        ("<WORD>w\n<DEF>d\n<POS>x", 3, "unknown tag"),
        ("<WORD>w<ATN>lost<POS>n\n<DEF>d", 1, "text after a lone tag"),
        ("<WORD>w<POS>a<POS>b\n<DEF>d", 1, "tag inside a line"),
        ("<WORD>w\n<DEF>d\n<QUOTE>a<BY>b<BY>c", 3, "tag inside a line"),
    ],
)
def test_what_is_lost_is_told(text: str | bytes, line: int, kind: str) -> None:
    assert [(f.line, f.kind) for f in blocks_of(text)[2]] == [(line, kind)]


def test_a_byte_order_mark_does_not_hide_the_format() -> None:
    assert blocks_of("\ufeff<WORD>w\n<DEF>d")[0] == "dictionary"


def test_bytes_that_are_no_text_are_kept() -> None:
    _, blocks, _ = blocks_of(b"<CMD>a\xff\xc3")
    assert list(map(ord, blocks[0].tokens)) == [257, 259, 264, 97, 255, 0xC3, 269, 258]


def test_lines_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 10)
    monkeypatch.setattr(blocks, "MAX_LINE", 10)
    _, found, _ = blocks_of("<CMD>abcde   \n\n<CMD>abcdef\n\n" + " " * 30 + "x\n\n<CMD>b")
    assert [block.left_out for block in found] == [
        "", "a line over 10 characters", "a line over 10 characters", "",
    ]  # fmt: skip
    assert [block.line for block in found] == [1, 3, 5, 7]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b"<CMD>a\r\n")

    monkeypatch.setattr("sys.stdin", Stdin)
    with open_text("-") as text:
        assert text.read() == "<CMD>a\n"
    assert not Stdin.buffer.closed


def test_a_file_is_closed(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"a\nb")
    with open_text(tmp_path / "t") as text:
        next(text)
    assert text.closed
