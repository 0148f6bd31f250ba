"""Formulas as they stand in a docstring, typeset as MathML.

What the docstrings use is little: names with `_` for what is written below (`dt_bias`, `sum_n`),
`[t, c]` for an index, `^2`, `.T`, and words. Everything else stays as it is written.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

FUNCTIONS = {"exp", "log", "tanh", "max", "min", "mean", "softplus", "silu", "sigmoid"}
GREEK = {"eps": "ε", "lambda": "λ", "pi": "π"}
OPERATORS = {"*": "·", "-": "−", "<=": "≤", ">=": "≥", ".": "·"}
WORDS = set("over with of or for its is and where now the times else last at elsewhere".split())
TOKEN = re.compile(
    r"(?P<transposed>\.T\b)|(?P<number>\d+(?:\.\d+)?)|(?P<name>[^\W\d]\w*\u0302?['\u2019]?)"
    r"|(?P<operator><=|>=|[^\w\s])"
)

Tokens = list[tuple[str, str]]  # (the group of TOKEN that matched, its text)


def segments(line: str) -> Iterator[tuple[bool, str]]:
    """The formulas of a line and the remarks beside them: (whether it is a formula, its text)."""
    aligned = re.sub(r"\s+=", " =", line.strip())
    for part in re.split(r"\s{3,}|, (?=times )", aligned):
        formula = re.match(r"[\w'\u2019\[\], :-]+ = ", part) and not re.match(
            r"(or|W is|times) ", part
        )
        yield bool(formula), part


def mathml(text: str) -> str:
    """A formula as a `<math>` element."""
    tokens = [(m.lastgroup or "", m[0]) for m in TOKEN.finditer(text)]
    row, _ = _row(tokens, 0, None)
    return f'<math alttext="{escape(text)}">{_mrow(row)}</math>'


@dataclass(slots=True)
class _Item:
    """Something in a row, what is written below and above it, and whether it can have these."""

    base: str
    attachable: bool = True
    below: list[str] = field(default_factory=list)
    above: str = ""

    def __str__(self) -> str:
        if not self.below and not self.above:
            return self.base
        below = '<mspace width="0.25em"/>'.join(self.below)
        if not self.above:
            return f"<msub>{self.base}<mrow>{below}</mrow></msub>"
        if not self.below:
            return f"<msup>{self.base}{self.above}</msup>"
        return f"<msubsup>{self.base}<mrow>{below}</mrow>{self.above}</msubsup>"


def _mrow(items: list[_Item]) -> str:
    return f"<mrow>{''.join(map(str, items))}</mrow>"


def _row(tokens: Tokens, at: int, end: str | None) -> tuple[list[_Item], int]:
    """What stands before the closing bracket `end`, and the place behind it."""
    row: list[_Item] = []
    while at < len(tokens):
        kind, text = tokens[at]
        at += 1
        if text == end:
            break
        last = row[-1] if row and row[-1].attachable else None
        if kind == "transposed" and last:
            last.above = "<mi>T</mi>"
        elif text == "^" and last and at < len(tokens):
            last.above = str(_item(*tokens[at]))
            at += 1
        elif text == "[":
            inside, at = _row(tokens, at, "]")
            if last:
                last.below.append(_mrow(inside))
            else:  # 1 where it holds, else 0
                row.append(_bracketed("[", inside, "]"))
        elif text == "(":
            inside, at = _row(tokens, at, ")")
            if last and last.base == "<mi>sqrt</mi>":
                last.base = f"<msqrt>{_mrow(inside)}</msqrt>"
            else:
                row.append(_bracketed("(", inside, ")"))
        else:
            row.append(_item(kind, text))
    return row, at


def _bracketed(left: str, inside: list[_Item], right: str) -> _Item:
    brackets = [f'<mo stretchy="false">{bracket}</mo>' for bracket in (left, right)]
    return _Item(f"<mrow>{brackets[0]}{_mrow(inside)}{brackets[1]}</mrow>")


def _item(kind: str, text: str) -> _Item:
    if kind == "number":
        return _Item(f"<mn>{text}</mn>")
    if kind != "name":
        return _Item(f"<mo>{escape(OPERATORS.get(text, text))}</mo>", attachable=False)
    if text in WORDS:
        return _Item(f"<mtext>&nbsp;{text}&nbsp;</mtext>", attachable=False)
    base, _, below = text.partition("_")
    if base == "sum":
        return _Item("<mo>∑</mo>", False, [f"<mi>{escape(below)}</mi>"] if below else [])
    upright = base in FUNCTIONS
    name = escape(GREEK.get(base, base).replace("'", "\u2032"))
    item = _Item(f'<mi class="upright">{name}</mi>' if upright else f"<mi>{name}</mi>")
    if below:
        item.below.append(f'<mi class="upright">{escape(below)}</mi>')
    return item
