"""Broken texts, pair files, histories and templates: clear errors, or files that can be read.

CALMGRAD_FUZZ=100000 tries that many inputs instead of a few thousand.
"""

import os
import random
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from calmgrad.conversion import convert_text
from calmgrad.domains import DOMAINS
from calmgrad.errors import CalmgradError, FileError
from calmgrad.formats import ctds, pairs
from calmgrad.history import read_histories
from calmgrad.prompt import InputWarning, prompt, stop_patterns
from calmgrad.tokenizer import encode_raw
from tests.faults.mutate import ANY
from tests.texts import some_text

COUNT = int(os.environ.get("CALMGRAD_FUZZ", "2000"))

PAIR = "<QUERY>how does it work\n<ATN>\n<REF>The handshake negotiates it.\nMore of it.\n\n"
HISTORIES = (
    b"ls\n#1700000000\nfor i in 1; do\n  echo $i\ndone\n#1700000060\nexport TOKEN=hunter22\n",
    b": 1700000000:0;ls -l\n: 1700000005:2;echo a\\\nb\nplain\n: 1700000009:0;echo \x83\xbf\n",
    b"- cmd: echo a\\nb \\\\n\n  when: 1700000000\n  paths:\n    - a\n- cmd: curl -u a:b h\n",
)
TEMPLATES = [domain.metadata.template.encode() for domain in DOMAINS.values()] + [
    b"cwd:/home/user git:main history:x input:git c", b"<BOS><:259:><CMD>git\\n<FILE>| && \\n",
]  # fmt: skip
CAN_BE_ODD = ("<", ">", ":", ";", "\n", "\n\n", " ", "\r", "\ufeff", "<WORD>", "<ATN>", "<DEF>",
              "<QUERY>", "<REF>", "\x00", "\\", "*", "/", "#1\n", "- cmd: ")  # fmt: skip


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The data after a few changes, of bytes or of what the formats are made of."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.5:
            rng.choice(ANY)(rng, changed)
        else:
            at = rng.randrange(len(changed) + 1)
            changed[at : at + rng.choice((0, 0, 3))] = rng.choice(CAN_BE_ODD).encode()
    return bytes(changed)


def try_text(path: Path, rng: random.Random) -> None:
    data, l_max, share = some_text(rng.randrange(5000))
    path.write_bytes(mutated(rng, data[:3000]))
    out = path.with_name("o.ctds")
    findings: list[object] = []
    summary = convert_text(
        path, out, l_max, share, strict=rng.random() < 0.2, report=findings.append
    )
    assert sum(summary.findings.values()) == len(findings)
    for part in (summary.train, summary.validation):
        if part and part.sequences:
            sequences = ctds.read(part.path)  # every rule of the format holds
            assert (sequences.count, sequences.lengths.sum()) == (part.sequences, part.tokens)
            assert sequences.max_len <= l_max
    kept = summary.train.sequences + (summary.validation.sequences if summary.validation else 0)
    out_of = sum(sum(p.left_out.values()) for p in (summary.train, summary.validation) if p)
    assert kept + out_of == summary.blocks


def try_pairs(path: Path, rng: random.Random) -> None:
    path.write_bytes(mutated(rng, PAIR.encode() * rng.randrange(4)))
    for pair in pairs.read(path).pairs:
        assert len(pair.query) >= pairs.MIN_QUERY
        assert len(pair.passage) >= pairs.MIN_PASSAGE
        assert 2 <= len(pairs.tokens(pair.passage, 30)) <= 30


def try_history(path: Path, rng: random.Random) -> None:
    path.write_bytes(mutated(rng, rng.choice(HISTORIES)))
    found = read_histories([path], rng.choice((None, "bash", "zsh", "fish")), l_max=60)
    assert found.commands == (len(found.tokens) + len(found.removed) + sum(found.left_out.values()))
    assert all(len(row) <= 60 for row in found.tokens)


def try_template(path: Path, rng: random.Random) -> None:
    text = mutated(rng, rng.choice(TEMPLATES)).decode("utf-8", "surrogateescape")
    typed = mutated(rng, TEMPLATES[-2]).decode("utf-8", "surrogateescape")
    stop_patterns(text.encode("utf-8", "replace").decode())
    try:
        encode_raw(text)
    except ValueError as error:
        assert " at character " in str(error)  # noqa: PT017
    tokens = prompt(text, typed)
    assert all(0 <= token < 320 for token in tokens)


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "text": try_text, "pairs": try_pairs, "history": try_history, "template": try_template,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_only_clear_errors(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    outcomes: Counter[str] = Counter()
    for seed in range(COUNT // len(KINDS)):
        outcomes[outcome(kind, tmp_path / "t", seed)] += 1
    # Both outcomes, else the changes prove nothing; only templates and texts can be wrong.
    assert outcomes["fine"] > 0.05 * COUNT / len(KINDS)
    assert (outcomes["refused"] > 0.1 * COUNT / len(KINDS)) == (kind in ("text", "template"))


def outcome(kind: str, path: Path, seed: int) -> str:
    """Whether an input is fine or refused; anything else fails the test, and names the seed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            KINDS[kind](path, random.Random(seed))
    except (FileError, ValueError) as error:
        clear = isinstance(error, CalmgradError) or str(error).startswith(("template", "the temp"))
        assert clear, f"{kind} {seed}: {error!r}"  # noqa: PT017
        assert "\n" not in str(error), f"{kind} {seed}: {error!r}"  # noqa: PT017
        return "refused"
    except Exception as error:
        raise AssertionError(f"{kind} {seed}: {error!r}") from error
    return "fine"
