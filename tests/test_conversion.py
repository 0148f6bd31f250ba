"""Text to CTDS files: the peer's bytes, the split, and what happens when there is a problem."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import calmgrad
from calmgrad.conversion import Summary, convert_text
from calmgrad.errors import CalmgradError, DiskError, FileError
from calmgrad.formats import ctds
from tests.texts import checksum, some_text

ROOT = Path(__file__).parents[1]

# What calm-mamba 0.1.4 makes of `some_text(0)`, `some_text(1)` …: `python tests/texts.py 0 160`
# with its Python. 29d7a9e0 is no output at all.
PEER = """
29d7a9e0 ad450ded 29d7a9e0 29d7a9e0 7355d895 29d7a9e0 29d7a9e0 57499df6 29d7a9e0 029573f8
b24d5352 59955962 29d7a9e0 29d7a9e0 ef24626f ad89a8c2 92e7c171 29d7a9e0 29d7a9e0 ea3fa219
29d7a9e0 83c1226a 29d7a9e0 d7b99bd1 29d7a9e0 bf6f2996 29d7a9e0 80c4d4eb 6219a609 bfbc9c9b
29d7a9e0 a3ca6c2f 81c4de32 a286492a 2319e9d9 29d7a9e0 a80ca107 bee92613 29d7a9e0 29d7a9e0
29d7a9e0 29d7a9e0 29d7a9e0 29d7a9e0 9eb3ca75 29d7a9e0 29d7a9e0 030acc0e 7c3d898e 29d7a9e0
29d7a9e0 29d7a9e0 05f33335 e41a0639 0c287ddf 29d7a9e0 d1c13f7d 29d7a9e0 d132d654 1aaed12e
82140fb0 4ef46505 6bae9130 704cf3a0 f7bc4c3f 9dabe3b9 29d7a9e0 52b2b839 2da1b268 29d7a9e0
5da29505 29d7a9e0 4d4d2d73 7f76b8ed 29d7a9e0 29d7a9e0 29d7a9e0 e4bca7a1 29d7a9e0 29d7a9e0
1adc7bc0 29d7a9e0 29d7a9e0 bfd9514c 29d7a9e0 29d7a9e0 059ee6d8 ccd17801 7d09da3d 6fd7b800
82679757 4848c675 ebd61f11 29d7a9e0 c1d71b6a 002999e0 ac50d516 29d7a9e0 29d7a9e0 29d7a9e0
d20d2916 7f8588ca 29d7a9e0 29d7a9e0 29d7a9e0 db039139 29d7a9e0 9a377e30 193c7c57 29d7a9e0
79cedd91 97fed10e 1c752a9e 6c0fa9fa 29d7a9e0 29d7a9e0 03e71366 7d5a338f 29d7a9e0 defc37b5
2c856d12 29d7a9e0 064492d9 815d464a 29d7a9e0 a1c48159 5a831cd0 84fe687a 4b02e9de 6a76b7e2
1d6bdc20 29d7a9e0 011d23a6 ec3bea1c 9bb6ffdd 29d7a9e0 54263dea 68a31721 bf7ed745 a005084a
29d7a9e0 d4082318 29d7a9e0 29d7a9e0 f54499d2 bc6b3a08 b796d904 8f803567 d9cdc35b 29d7a9e0
29d7a9e0 0eaefd6f 29d7a9e0 80307c07 a078aca3 7983aab6 d652d5f1 29d7a9e0 12ce95b2 65c9bb68
""".split()


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files: nothing has to reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def outcome(folder: Path, seed: int) -> str:
    """The checksum of what a text becomes."""
    folder.mkdir()
    data, l_max, share = some_text(seed)
    (folder / "t").write_bytes(data)
    try:
        convert_text(folder / "t", folder / "o.ctds", l_max, share)
    except CalmgradError as error:
        assert "nothing to write" in str(error)  # noqa: PT017
    return checksum(folder)


@pytest.mark.usefixtures("quick_disk")
def test_the_bytes_of_calm_mamba(tmp_path: Path) -> None:
    assert [outcome(tmp_path / str(seed), seed) for seed in range(len(PEER))] == PEER
    assert len(set(PEER)) > 80


@pytest.mark.usefixtures("quick_disk")
def test_more_of_them_against_calm_mamba_itself(tmp_path: Path) -> None:
    """CALMGRAD_PEER=/path/to/python, of an environment with calm-mamba; CALMGRAD_PEER_TEXTS=N."""
    python = os.environ.get("CALMGRAD_PEER")
    if not python:
        pytest.skip("CALMGRAD_PEER names no Python with calm-mamba")
    first, last = len(PEER), len(PEER) + int(os.environ.get("CALMGRAD_PEER_TEXTS", "200"))
    script = str(ROOT / "tests" / "texts.py")
    done = subprocess.run(
        [python, script, str(first), str(last)], capture_output=True, text=True, check=True
    )
    expected = dict(line.split() for line in done.stdout.splitlines())
    assert len(expected) == last - first
    found = {str(seed): outcome(tmp_path / str(seed), seed) for seed in range(first, last)}
    assert found == expected


# The split


def convert(folder: Path, text: str, **options: object) -> Summary:
    (folder / "t").write_text(text, encoding="utf-8")
    return convert_text(folder / "t", folder / "o.ctds", **options)  # type: ignore[arg-type]


def texts_of(path: Path) -> list[str]:
    with calmgrad.load_dataset(path) as dataset:
        return [calmgrad.decode(tokens) for tokens, _ in dataset]


def test_the_split_follows_the_content(tmp_path: Path) -> None:
    blocks = [f"<CWD>/{i}\n  <CMD>ls {i}" for i in range(300)]
    summary = convert(tmp_path, "\n\n".join(blocks), val_split=0.2)
    keys = [f"<CWD>/{i}\n<CMD>ls {i}".encode() for i in range(300)]
    expected = [
        f"/{i}ls {i}"
        for i, key in enumerate(keys)
        if int(hashlib.md5(key).hexdigest(), 16) % 1000 < 200
    ]
    assert texts_of(tmp_path / "o_val.ctds") == expected
    assert summary.validation is not None
    assert summary.validation.sequences == len(expected)
    assert len(texts_of(tmp_path / "o.ctds")) == 300 - len(expected) == summary.train.sequences


def test_entries_of_a_head_word_stay_together(tmp_path: Path) -> None:
    words = ["cat", "dog", "Cat", "emu", "DOG", "cat"]
    entries = [f"<WORD>{word}\n<DEF>{i}" for i, word in enumerate(words)]
    entries[0] += "x" * 800  # left out, but it gives the word its place
    convert(tmp_path, "\n\n".join(entries), val_split=0.001, val_output=tmp_path / "v")
    assert texts_of(tmp_path / "o.ctds") == ["Cat2", "cat5", "dog1", "DOG4", "emu3"]
    convert(tmp_path, "\n\n".join(entries))
    assert texts_of(tmp_path / "o.ctds") == ["dog1", "Cat2", "emu3", "DOG4", "cat5"]


def test_a_part_without_sequences_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "o_val.ctds").write_bytes(b"older")
    summary = convert(tmp_path, "<CMD>a", val_split=0.001)
    assert summary.validation is not None
    assert summary.validation.sequences == 0
    assert (tmp_path / "o_val.ctds").read_bytes() == b"older"
    with pytest.raises(FileError, match=r"t: nothing to write to \S+o_val.ctds: there are no"):
        convert(tmp_path, "<CMD>a", val_split=0.001, strict=True)
    convert(tmp_path, "<CMD>a", val_split=1.0)
    assert texts_of(tmp_path / "o_val.ctds") == ["a"]


# What is told, and what is left alone


def test_what_was_left_out_and_why(tmp_path: Path) -> None:
    text = "<WORD>w\n<DEF>d\nlost\nlost too\n\n<WORD>v\n\n<WORD>x\n<DEF>" + "d" * 800
    summary = convert(tmp_path, text)
    assert (summary.format, summary.blocks) == ("dictionary", 3)
    assert summary.train.left_out == {"no <DEF>": 1, "over 768 tokens": 1}
    assert (summary.train.sequences, summary.train.tokens) == (1, 9)
    assert summary.findings == {"continuation line": 2}
    assert summary.validation is None


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "nothing to write: there are no blocks"),
        ("<CMD>long", {"l_max": 5}, r"all blocks are left out \(1 over 5 tokens; empty lines"),
        ("<CMD>a\n<ATN>b", {"strict": True}, "t:2: text after <ATN> is lost: 'b'"),
    ],
)
def test_errors_leave_an_older_file(
    tmp_path: Path, text: str, options: dict[str, object], message: str
) -> None:
    (tmp_path / "o.ctds").write_bytes(b"older")
    with pytest.raises(FileError, match=message):
        convert(tmp_path, text, **options)
    assert (tmp_path / "o.ctds").read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.ctds", "t"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l_max": 0}, "l_max is 0: expected 1 to 65535"),
        ({"l_max": 65536}, "l_max is 65536"),
        ({"val_split": 1.5}, "val_split is 1.5: expected 0 to 1"),
        ({"val_split": float("nan")}, "val_split is nan"),
        ({"val_output": "v"}, "val_output is given without val_split"),
        ({"val_split": 0.5, "val_output": "{}/o.ctds"}, "is the training data already"),
        ({"val_split": 0.5, "val_output": "{}/t"}, "is the text already"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, options: dict[str, object], message: str) -> None:
    filled = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, "<CMD>a", **filled)
    assert not (tmp_path / "o.ctds").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("<CMD>a")
    with pytest.raises(DiskError, match="there is no folder"):
        convert_text(tmp_path / "t", tmp_path / "none" / "o.ctds")
    with pytest.raises(DiskError, match="is a directory"):
        convert_text(tmp_path / "t", tmp_path)
    with pytest.raises(FileError, match="no such file"):
        convert_text(tmp_path / "none", tmp_path / "o.ctds")


def test_the_longest_sequence_there_can_be(tmp_path: Path) -> None:
    summary = convert(tmp_path, "x" * 65533 + "\n\n" + "x" * 65534, l_max=65535)
    assert summary.train.left_out == {"over 65535 tokens": 1}
    assert ctds.read(tmp_path / "o.ctds").max_len == 65535


# Memory

MEASURE = """
import resource, sys
from calmgrad.conversion import convert_text
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
summary = convert_text(sys.argv[1], sys.argv[2], val_split=float(sys.argv[3]))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(after - before, summary.train.sequences)
"""


@pytest.mark.parametrize(
    ("block", "share"),
    [("<CWD>/src/%d\n<CMD>make -C %d all\n\n", 0.1), ("<WORD>w%d\n<DEF>text %d\n\n", 0.1),
     ("one line of a block without an end %d%d\n", 0.0)],
)  # fmt: skip
def test_memory_does_not_grow_with_the_text(tmp_path: Path, block: str, share: float) -> None:
    megabytes = int(os.environ.get("CALMGRAD_TEXT_MB", "2"))
    with open(tmp_path / "t", "w") as file:
        i = 0
        if not share:
            file.write("<CMD>first\n\n")
        while file.tell() < megabytes << 20:
            file.write("".join(block % (j, j) for j in range(i, i + 5000)))
            i += 5000
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "t"), str(tmp_path / "o"), str(share)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    grown, sequences = map(int, done.stdout.split())
    assert sequences == 1 if not share else sequences > i * 0.8
    # A list of tokens takes eight bytes for each byte of text; strings and objects take more.
    assert grown < 12_000 + 300 * megabytes, f"{grown} kB for {megabytes} MB of text"
