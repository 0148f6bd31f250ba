"""Texts of all kinds for the converter, good and odd, the same on every Python.

As a program it converts them with calm-mamba, whose Python must run it, and prints a checksum of
each output: `python tests/texts.py FIRST LAST`.
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

T = TypeVar("T")

TAGS = (
    "PAD BOS EOS ATN CWD GIT HIST EXIT CMD ENV COMP QUERY NEXT END"
    " WORD POS NOTE IPA DEF QUOTE BY REF FILE NOPE"
).split()
PIECES = [
    "a", "ls", "git status", "/home/ü", "名前", "x y  z", "🙂", "<", "<CMD", "CMD>", "<cmd>",
    "a<EXIT>0", "<NEXT>", "b<NEXT>", "<POS>n.", "<BY>", "<NOTE>t", "<ATN>", "\t", "\x0b", "\x1c",
    "\u2028", "\xa0", "\u3000", "\x00", "\x7f", "é", "e\u0301", "", "  ", "w" * 40, "\x85q",
]  # fmt: skip
HEADS = ["cat", "Cat", "CAT", "dog", "İ", "ß", "ẞ", "ñu", "a b", "", "word"]


class Dice:
    """Draws from `random()` alone, whose stream no Python version changes."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed).random

    def one(self, items: Sequence[T]) -> T:
        return items[int(self.draw() * len(items))]

    def chance(self, probability: float) -> bool:
        return self.draw() < probability

    def many(self, limit: int, make: Callable[[], T]) -> list[T]:
        return [make() for _ in range(int(self.draw() * limit))]


def content(dice: Dice) -> str:
    return "".join(dice.many(5, lambda: dice.one(PIECES)))


def any_line(dice: Dice) -> str:
    tag = f"<{dice.one(TAGS)}>" if dice.chance(0.75) else ""
    blanks = ["", "", "", " ", "\t", "\xa0"]
    return dice.one(blanks) + tag + content(dice) + dice.one(blanks)


def any_block(dice: Dice) -> list[str]:
    return [any_line(dice), *dice.many(8, lambda: any_line(dice))]


def shell_block(dice: Dice) -> list[str]:
    lines = dice.many(4, lambda: f"<{dice.one(['CWD', 'GIT', 'ENV'])}>{content(dice)}")
    lines += dice.many(4, lambda: f"<HIST>{dice.one(PIECES)}<EXIT>{dice.one('012')}")
    if dice.chance(0.3):
        lines.append("<COMP>" + "<NEXT>".join(dice.many(5, lambda: content(dice))))
    if dice.chance(0.3):
        lines.append("<ATN>")
    return [*lines, *dice.many(3, lambda: f"<CMD>{content(dice)}"), "<CMD>last"]


def entry(dice: Dice, odd: bool) -> list[str]:
    if odd and dice.chance(0.08):
        return any_block(dice)
    head = f"<WORD>{dice.one(['', ' '])}{dice.one(HEADS)}"
    marks = [mark for mark in ("<ATN>", "<POS>", "<NOTE>", "<IPA>") if dice.chance(0.6)]
    if odd and dice.chance(0.4):
        marks = [*marks[1:], *marks[:1], dice.one(["<ATN>", "<POS>", "<DEF>"])]
    for mark in marks:
        lost = odd and dice.chance(0.2)
        head += mark + (dice.one(["", "n.", " x ", "é"]) if lost or mark != "<ATN>" else "")
    lines = [dice.one(["", "", " "]) + head]
    for _ in range(int(dice.draw() * 4) if odd else 1 + int(dice.draw() * 3)):
        if odd and dice.chance(0.15):
            lines.append(dice.one(["text", "<NOPE>x", "<WORD>second", "  ", "<QUOTE>early"]))
        lines.append(f"{dice.one(['', ' '])}<DEF>{content(dice)}")
        lines += dice.many(3, lambda: f"<QUOTE>{content(dice)}{dice.one(['', '<BY>x', '<BY>'])}")
    if dice.chance(0.03):
        lines.append("<DEF>" + "long " * (100 + int(dice.draw() * 100)))
    return lines


def some_text(seed: int) -> tuple[bytes, int, float]:
    """A text, l_max and the share of validation."""
    dice = Dice(seed)
    kinds: list[tuple[Callable[[], list[str]], list[str]]] = [
        (lambda: any_block(dice), ["\n", "\n\n", "\n\n\n", "\n \n", "\n\t\n\n"]),
        (lambda: shell_block(dice), ["\n\n", "\n\n\n", "\n \n"]),
        (lambda: entry(dice, False), ["\n\n", "\n\n\n"]),
        (lambda: entry(dice, True), ["\n", "\n\n", "\n\n\n", "\n \n", "\n\t\n\n"]),
    ]
    make, separators = dice.one(kinds)
    text = dice.one(["", "", "\n", " \n"])
    for _ in range(dice.one([0, 1, 3, 20, 60])):
        text += "\n".join(make()) + dice.one(separators)
    if dice.chance(0.5):
        text = text.rstrip("\n")
    if dice.chance(0.05):
        text += "<CMD>" + "y" * (600 + int(dice.draw() * 200))
    data = text.replace("\n", dice.one(["\n", "\n", "\r\n", "\r"])).encode()
    return (
        data,
        dice.one([768, 768, 768, 100, 30, 5]),
        dice.one([0, 0.05, 0.1, 0.3, 0.5, 0.999, 1.0]),
    )


def checksum(folder: Path) -> str:
    """Of the outputs that are there: the training part, then the validation part."""
    digest = hashlib.sha256()
    for name in ("o.ctds", "o_val.ctds"):
        path = folder / name
        digest.update(path.read_bytes() if path.exists() else b"none")
    return digest.hexdigest()[:8]


def run_peer(first: int, last: int) -> None:
    """Print the checksum of each text in its turn."""
    import contextlib
    import io
    import tempfile

    from calm.cli import text_to_ctds  # type: ignore[import-not-found]

    for seed in range(first, last):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data, l_max, share = some_text(seed)
            (folder / "t").write_bytes(data)
            sys.argv = ["x", str(folder / "t"), "-o", str(folder / "o.ctds")]
            sys.argv += ["--l-max", str(l_max), "--val-split", str(share)]
            with contextlib.redirect_stdout(io.StringIO()):
                text_to_ctds.main()
            print(seed, checksum(folder))


if __name__ == "__main__":
    run_peer(*map(int, sys.argv[1:]))
