"""The vocabulary of FORMATS §4, and text to tokens and back."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calmgrad import tokenizer
from calmgrad.tokenizer import NAMES, decode, encode, encode_raw

ROOT = Path(__file__).parents[1]
SPECIAL = (
    "PAD BOS EOS ATN CWD GIT HIST EXIT CMD ENV COMP QUERY NEXT END"
    " WORD POS NOTE IPA DEF QUOTE BY REF"
).split()


def test_special_tokens_count_from_256() -> None:
    assert list(NAMES) == list(range(256, 278))
    assert list(NAMES.values()) == SPECIAL
    for token, name in enumerate(SPECIAL, start=256):
        assert getattr(tokenizer, name) == token


def test_encode_is_bytes_and_nothing_else() -> None:
    assert encode("aé<CMD>") == [97, 0xC3, 0xA9, 60, 67, 77, 68, 62]
    assert encode(b"\xff\x00") == [255, 0]
    assert encode("") == []
    assert encode("\udcff") == [255]  # an argument that was not UTF-8


@given(st.text())
def test_text_comes_back(text: str) -> None:
    assert decode(encode(text), special=False) == text
    assert decode(encode(text), special=True) == text


@given(st.binary())
def test_any_bytes_decode(data: bytes) -> None:
    assert encode(data) == list(data)
    assert decode(encode(data)) == data.decode("utf-8", "replace")


def test_special_tokens_are_dropped_or_shown() -> None:
    tokens = [257, 104, 264, 0xC3, 269, 0xA9, 277, 278, 319]
    assert decode(tokens) == "hé"
    assert decode(tokens, special=True) == "<BOS>h<CMD>\ufffd<END>\ufffd<REF><:278:><:319:>"


@pytest.mark.parametrize("token", [-1, 320, 65535])
def test_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(ValueError, match=rf"token {token} at position 2: expected 0 to 319"):
        decode([0, 1, token])


def test_raw_text() -> None:
    assert encode_raw("<BOS>a<:259:><FILE>é<:0:>") == [257, 97, 259, 267, 0xC3, 0xA9, 0]
    assert encode_raw("<bos><:a:>< BOS><>") == list(b"<bos><:a:>< BOS><>")
    assert encode_raw("") == []
    assert encode_raw("<:00319:><:300:>") == [319, 300]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<BOS>é<NOPE>", "<NOPE> at character 6: there is no such token"),
        ("<:320:>", "<:320:> at character 0: expected 0 to 319"),
        ("<:" + "9" * 9999 + ":>", "<:999999999…:> at character 0"),
    ],
)
def test_bad_raw_text(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="at character") as caught:
        encode_raw(text)
    assert message in str(caught.value)


@given(st.text("<>:BOS32109 ", max_size=20))
def test_any_raw_text(text: str) -> None:
    message = "at character"
    try:
        assert all(0 <= token < 320 for token in encode_raw(text))
    except ValueError as error:
        message = str(error)
    assert "at character" in message


def test_does_not_wait_for_numpy() -> None:
    code = "import sys, calmgrad.tokenizer; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
