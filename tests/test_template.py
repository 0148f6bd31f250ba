"""Templates as FORMATS §5 describes them, each rule by an example written out by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import calmgrad
from calmgrad.domains import DOMAINS
from calmgrad.template import build_sequence, parse_template
from calmgrad.tokenizer import decode

SHELL = DOMAINS["shell"].metadata.template
WORD = DOMAINS["dictionary"].metadata.template


def built(template: str, fields: dict[str, Any], l_max: int = 768, eos: bool = False) -> str:
    return decode(build_sequence(template, fields, l_max, eos), special=True)


@pytest.mark.parametrize(
    ("template", "fields", "expected"),
    [
        ("BOS;CWD:cwd;ATN", {"cwd": "/é"}, "<BOS><CWD>/é<END><ATN>"),
        (" BOS ; ;ATN;", {}, "<BOS><ATN>"),
        ("BOS;CWD:cwd;ATN;CMD:input", {}, "<BOS><ATN><CMD>"),
        ("BOS;CWD:cwd;ATN;CMD:input", {"cwd": "", "input": "ls"}, "<BOS><ATN><CMD>ls"),
        # Terminal: the last frame after the last ATN.
        ("ATN;CMD:a;ATN;CWD:b;CMD:c;COMP:d+", {"a": "1", "b": "2", "c": "3"},
         "<ATN><CMD>1<END><ATN><CWD>2<END><CMD>3"),
        ("CMD:a;ATN;COMP:d+", {"a": "1", "d": ["x"]}, "<CMD>1<END><ATN><COMP>x<END>"),
        ("BOS;ATN;WORD:w/POS:p", {}, "<BOS><ATN>"),
        ("BOS;ATN;WORD:w/POS:p", {"w": "cat", "p": "n."}, "<BOS><ATN><WORD>cat<POS>n."),
        # Subtokens: left out without a value, alone with an empty one.
        ("WORD:w/POS:p/NOTE:n", {"w": "cat", "p": ""}, "<WORD>cat<POS><END>"),
        ("WORD:w/POS:p", {"p": "n."}, ""),
        ("FILE:f;QUERY:q", {"f": "a", "q": "b"}, "<QUERY>a<END><QUERY>b<END>"),
        # An embedded ATN: END only when every subtoken after it has a value.
        (WORD, {"input": "cat"}, "<BOS><WORD>cat<ATN>"),
        (WORD, {"input": "cat", "pos": "n."}, "<BOS><WORD>cat<ATN><POS>n."),
        (WORD, {"input": "cat", "pos": "", "note": "x", "ipa": "y"},
         "<BOS><WORD>cat<ATN><POS><NOTE>x<IPA>y<END>"),
        ("WORD:w/POS:p/ATN", {"w": "cat"}, "<WORD>cat<ATN><END>"),
        # Lists and repeated entries.
        ("COMP:c+", {"c": ["a", "", "b"]}, "<COMP>a<NEXT><NEXT>b<END>"),
        ("COMP:c+", {"c": [""]}, "<COMP><END>"),
        ("COMP:c+", {"c": []}, ""),
        ("COMP:c+", {"c": ["x"] * 20}, "<COMP>" + "<NEXT>".join("x" * 15) + "<END>"),
        ("ENV:e*", {"e": ["A=1", "", "B=2"]}, "<ENV>A=1<END><ENV>B=2<END>"),
        ("HIST(cmd):h*/EXIT:exit", {"h": [{"cmd": "ls", "exit": 0}, {"exit": 1}, {"cmd": "w"}]},
         "<HIST>ls<EXIT>0<END><HIST>w<END>"),
        ("HIST(cmd):h*/EXIT:exit", {"h": [("ls", 0), "pwd"]},
         "<HIST>ls<EXIT>0<END><HIST>pwd<END>"),
        ("HIST(cmd):h*/ATN/EXIT:exit", {"h": [("ls", 0), ("w",)]},
         "<HIST>ls<ATN><EXIT>0<END><HIST>w<ATN>"),
        ("HIST(cmd):h*", {"h": ["ls", {"cmd": "w"}]}, "<HIST>ls<END><HIST>w<END>"),
        ("HIST:h*", {"h": [b"\xc3\xa9", 7]}, "<HIST>é<END><HIST>7<END>"),
        # A template without fields, and none at all.
        ("BOS;ATN", {"input": "Once"}, "<BOS><ATN>Once"),
        ("", {"input": "Once"}, "<BOS>Once"),
        ("", {}, "<BOS>"),
    ],
)  # fmt: skip
def test_what_is_built(template: str, fields: dict[str, Any], expected: str) -> None:
    assert built(template, fields) == expected


def test_the_whole_shell_template() -> None:
    fields = {
        "cwd": "/src",
        "git": "main",
        "history": [("make", 2), ("vim a.c", 0)],
        "env": ["EDITOR=vim"],
        "completions": ["commit", "checkout"],
        "input": "git c",
    }
    assert built(SHELL, fields) == (
        "<BOS><CWD>/src<END><GIT>main<END><HIST>make<EXIT>2<END><HIST>vim a.c<EXIT>0<END>"
        "<ENV>EDITOR=vim<END><COMP>commit<NEXT>checkout<END><ATN><CMD>git c"
    )


def test_the_budget_drops_the_oldest_items_and_nothing_else() -> None:
    fields = {"history": ["long one", "b", "c"], "env": ["X", "Y"], "input": "i"}
    # BOS ATN CMD i = 4; a frame of one byte is 3; "long one" is 10.
    assert built(SHELL, fields, 4 + 6 + 6) == (
        "<BOS><HIST>b<END><HIST>c<END><ENV>X<END><ENV>Y<END><ATN><CMD>i"
    )
    assert built(SHELL, fields, 4 + 6 + 5) == "<BOS><HIST>b<END><HIST>c<END><ENV>Y<END><ATN><CMD>i"
    assert built(SHELL, fields, 4 + 5) == "<BOS><HIST>c<END><ATN><CMD>i"
    assert built(SHELL, fields, 0) == "<BOS><ATN><CMD>i"
    # An item that does not fit ends the choice, also when an older one would fit.
    assert built("ENV:e*", {"e": ["a", "long one", "b"]}, 8) == "<ENV>b<END>"
    assert built("ENV:e*", {"e": ["a"]}, 3, eos=True) == "<ENV>a<END><EOS>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("BOS;NOPE:x", "entry 'NOPE:x': there is no token NOPE"),
        ("NOPE", "entry 'NOPE': there is no token NOPE"),
        ("BOS;cwd", "entry 'cwd': expected TOKEN"),
        ("CWD:", "entry 'CWD:': expected TOKEN"),
        ("CWD:1a", "entry 'CWD:1a'"),
        ("CWD:a/", "entry 'CWD:a/'"),
        ("CWD:a//POS:b", "entry 'CWD:a//POS:b'"),
        ("CWD:a/pos:b", "'pos:b': expected SUB:field"),
        ("WORD:a/NOPE:b", "there is no token NOPE"),
        ("WORD:a/POS", "POS has no field"),
        ("HIST(cmd):h/EXIT:e", "expected TOKEN"),
        ("HIST(cmd):h*EXIT:e", "expected TOKEN"),
        ("HIST:h*/EXIT:e", "expected TOKEN"),
        ("CWD:a+*", "expected TOKEN"),
        (" ; ;", "it has no entries"),
        ("CWD:a\nb", "expected TOKEN"),
    ],
)
def test_bad_templates(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^template ") as caught:
        parse_template(template)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cwb": "/"}, "no field 'cwb' in the template; there are: cwd, git, history, exit"),
        ({"cwd": ["/"]}, "field 'cwd': expected text, not list"),
        ({"cwd": True}, "field 'cwd': expected text, not bool"),
        ({"history": "ls"}, "field 'history': expected a list, not str"),
        ({"history": [{"command": "ls"}]}, "expected values for cmd, exit"),
        ({"history": [("ls", 0, 1)]}, "expected values for cmd, exit"),
        ({"history": [None]}, "expected values for cmd, exit"),
        ({"env": [("A", "1")]}, "field 'env': expected text, not tuple"),
        ({"completions": [1.5]}, "field 'completions item': expected text, not float"),
    ],
)
def test_bad_values(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^(no )?field ") as caught:
        build_sequence(SHELL, fields)
    assert message in str(caught.value)


def test_every_domain_has_a_template_that_can_be_read() -> None:
    for domain in DOMAINS.values():
        parse_template(domain.metadata.template)
    assert parse_template(SHELL).fields == (
        "cwd", "git", "history", "exit", "env", "completions", "input",
    )  # fmt: skip
    assert parse_template(SHELL).text_fields == ("cwd", "git", "input")
    assert calmgrad.build_sequence is build_sequence


@given(st.text("BOSATNCWDx:;/+*() \n", max_size=30))
def test_any_text_is_a_template_or_a_clear_error(text: str) -> None:
    message = "template "
    try:
        parse_template(text).build({})
    except ValueError as error:
        message = str(error)
    assert message.startswith("template ")
    assert "\n" not in message
