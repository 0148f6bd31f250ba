"""Typed text to prompts, and stop conditions (FORMATS §5 and §8)."""

import warnings

import pytest

from calmgrad.domains import DOMAINS
from calmgrad.prompt import InputWarning, prompt, stop_patterns, typed_fields
from calmgrad.template import parse_template
from calmgrad.tokenizer import BOS, decode

SHELL = DOMAINS["shell"].metadata.template
WORD = DOMAINS["dictionary"].metadata.template


def typed(text: str, template: str = SHELL) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return typed_fields(parse_template(template), text)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("git c", {"input": "git c"}),
        ("", {"input": ""}),
        ("cwd:/home/user git:main input:git c",
         {"cwd": "/home/user", "git": "main", "input": "git c"}),
        ("cwd:/a  input:ls  ", {"cwd": "/a", "input": "ls "}),
        ("cwd:/a   input:ls", {"cwd": "/a ", "input": "ls"}),
        ("cwd: input:", {"cwd": "", "input": ""}),
        ("cwd:git:main", {"cwd": "git:main"}),
        ("xcwd:/a", {"input": "xcwd:/a"}),
        ("a\tcwd:/a", {"input": "a\tcwd:/a"}),
        ("lost cwd:/a", {"cwd": "/a"}),
        ("cwd:/a cwd:/b", {"cwd": "/b"}),
        ("cwd:/a history:ls input:x", {"cwd": "/a", "input": "x"}),
        ("Cwd:/a", {"input": "Cwd:/a"}),
    ],
)  # fmt: skip
def test_inline_fields(text: str, fields: dict[str, str]) -> None:
    assert typed(text) == fields


def test_where_text_without_fields_goes() -> None:
    assert typed("a:b", "BOS;CWD:a") == {"a": "a:b"}  # one field: no inline values
    assert typed("x", "CWD:a;GIT:b") == {"a": "x"}
    assert typed("x", "BOS;ATN") == {"input": "x"}
    assert typed("x", "") == {"input": "x"}
    assert typed("", "COMP:c+") == {}
    for template in ("COMP:c+", "CWD:c;COMP:c+"):  # a field cannot be a text and a list
        with pytest.raises(ValueError, match="first field, c, cannot hold typed text"):
            typed("x", template)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lost cwd:/a", "text before the first field is not used: 'lost'"),
        ("cwd:/a cwd:/b", "field cwd comes twice: the last one counts"),
        ("cwd:/a history:ls", "field history is a list: typed text cannot fill it"),
        ("cwd:/a exit:1", "field exit is a list"),
    ],
)
def test_what_is_lost_is_told(text: str, message: str) -> None:
    with pytest.warns(InputWarning, match=message):
        typed_fields(parse_template(SHELL), text)


def test_prompts() -> None:
    assert decode(prompt(SHELL, "cwd:/a input:l"), special=True) == "<BOS><CWD>/a<END><ATN><CMD>l"
    assert prompt("", "hé") == [BOS, *"hé".encode()]
    assert decode(prompt("BOS;ATN", "Once upon"), special=True) == "<BOS><ATN>Once upon"
    assert decode(prompt(WORD, "cat"), special=True) == "<BOS><WORD>cat<ATN>"


def test_stop_patterns() -> None:
    assert stop_patterns("| ; && ||") == [b"|", b";", b"&&", b"||"]
    assert stop_patterns(DOMAINS["prose"].metadata.stop_conditions) == [b"\n\n"]
    assert stop_patterns(r"\ \t \\n \x é") == [b"\\", b"\t", b"\\n", b"\\x", "é".encode()]
    assert stop_patterns("") == []
