"""Plain prose: paragraphs that end with an empty line, which a model can learn to stop at."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import calmgrad
from calmgrad import ATN, BOS, EOS
from calmgrad.conversion import convert_text
from calmgrad.formats import prose
from calmgrad.formats.lines import read_lines
from calmgrad.formats.prose import SHORTEST, read_prose


def paragraphs(text: str, l_max: int = 768) -> list[bytes]:
    """What stands between BOS ATN and EOS."""
    blocks = list(read_prose(read_lines(io.StringIO(text), lambda finding: None), l_max))
    for block in blocks:
        assert [ord(c) for c in (*block.tokens[:2], block.tokens[-1])] == [BOS, ATN, EOS]
        assert len(block.tokens) <= l_max
        assert block.atn == 1
    return [block.tokens[2:-1].encode("latin-1") for block in blocks]


def test_paragraphs() -> None:
    text = "\n  It rained\nall night. \n\n\n<CMD>Nobody\n \nhad sëen it."
    expected = [b"It rained all night.\n\n", b"<CMD>Nobody\n\n", "had sëen it.\n\n".encode()]
    assert paragraphs(text) == expected
    assert paragraphs("") == paragraphs(" \n\n") == []
    lines = read_lines(io.StringIO(text), lambda finding: None)
    assert [block.line for block in read_prose(lines, 768)] == [2, 6, 8]


def test_a_long_paragraph_is_cut_after_a_sentence() -> None:
    text = (
        "The first one is here. \u2018And the second?\u2019 A third one follows it, and has no end"
    )
    assert paragraphs(text, 52) == [
        "The first one is here. \u2018And the second?\u2019".encode(),
        b"A third one follows it, and has no end\n\n",
    ]
    # Between words where a sentence ends too early, anywhere where there are none.
    assert paragraphs("A. " + "word " * 10, 32) == [
        b"A. word word word word word", b"word word word word word\n\n"
    ]  # fmt: skip
    pieces = paragraphs("é" * 40, 32)
    assert "".join(piece.decode() for piece in pieces) == "é" * 40 + "\n\n"


@given(text=st.text("ab. \né", max_size=300), l_max=st.integers(SHORTEST, 60))
def test_no_word_is_lost(text: str, l_max: int) -> None:
    found = paragraphs(text, l_max)
    joined = b"".join(found).decode()
    assert "".join(joined.split()) == "".join(text.split())
    assert all(piece.strip() for piece in found)


def test_a_line_that_fits_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calmgrad.formats.lines.MAX_LINE", 40)
    lines = read_lines(io.StringIO("before\n" + "x" * 100 + "\nafter"), lambda finding: None)
    blocks = list(read_prose(lines, 768))
    assert [bool(block.left_out) for block in blocks] == [True, False, False]


def test_a_data_set_of_prose_and_what_a_model_learns_of_it(tmp_path: Path) -> None:
    """It writes the paragraph, and stops where the domain prose says."""
    text = tmp_path / "book.txt"
    text.write_text("the cat sat\non the mat.\n\n" * 3)
    summary = convert_text(text, tmp_path / "book.ctds", prose=True)
    assert (summary.format, summary.blocks, summary.train.sequences) == ("prose", 3, 3)
    dataset = calmgrad.load_dataset(tmp_path / "book.ctds")
    model = calmgrad.new_model(d_model=32, n_layers=1, domain="prose")
    with calmgrad.Trainer(model, lr=1e-2) as trainer:
        for _ in range(60):
            trainer.step(*dataset.batch(0, 3))
    (found,) = model.generate("the c", temperature=0)
    assert (found.text, found.ended) == ("at sat on the mat.", "stop")
    with pytest.raises(ValueError, match="l_max is 31: expected 32 or more for prose"):
        convert_text(text, tmp_path / "no.ctds", l_max=31, prose=True)
    assert prose.END_OF_PARAGRAPH == b"\n\n"
