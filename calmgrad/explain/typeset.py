"""Formulas as they stand in a docstring, typeset as MathML.

What the docstrings use is little: names with `_` for what is written below (`dt_bias`, `sum_n`),
`[t, c]` for an index, `^2`, `.T`, and words. Everything else stays as it is written.
"""

import re
from collections.abc import Iterator
from html import escape

FUNCTIONS = {"exp", "log", "tanh", "max", "min", "mean", "softplus", "silu", "sigmoid"}
GREEK = {"eps": "ε", "lambda": "λ", "pi": "π"}
OPERATORS = {"*": "·", "-": "−", "<=": "≤", ">=": "≥", ".": "·"}
WORDS = set(
    "over with of or for its is and where now the a times else argument last without at elsewhere"
    " gradient target put back given got one by".split()
)
TOKEN = re.compile(
    r"(?P<transposed>\.T\b)|(?P<number>\d+(?:\.\d+)?)|(?P<name>[^\W\d]\w*\u0302?['’]?)"
    r"|(?P<operator><=|>=|[^\w\s])"
)


def segments(line: str) -> Iterator[tuple[bool, str]]:
    """The formulas of a line and the remarks beside them: (whether it is a formula, its text)."""
    aligned = re.sub(r"\s+=", " =", line.strip())
    for part in re.split(r"\s{3,}", aligned):
        formula = re.match(r"[\w'’\[\], :-]+ = ", part) and not re.match(r"(or|W is)\b", part)
        yield bool(formula), part


def mathml(text: str) -> str:
    """A formula as a `<math>` element."""
    tokens = [(m.lastgroup or "", m[0]) for m in TOKEN.finditer(text)]
    rows, _ = _row(tokens, 0, None)
    return f'<math alttext="{escape(text)}"><mrow>{"".join(rows)}</mrow></math>'


def _row(tokens: list[tuple[str, str]], at: int, end: str | None) -> tuple[list[str], int]:
    """The elements up to the closing bracket `end`, and the place behind it."""
    row: list[str] = []
    while at < len(tokens):
        kind, text = tokens[at]
        at += 1
        if text == end:
            return row, at
        attached = bool(row) and not row[-1].startswith(("<mo", "<mtext"))
        if kind == "transposed" and attached:
            row[-1] = f"<msup>{row[-1]}<mi>T</mi></msup>"
        elif text == "^" and attached and at < len(tokens):
            row[-1] = f"<msup>{row[-1]}{_atom(*tokens[at])}</msup>"
            at += 1
        elif text == "[":
            inside, at = _row(tokens, at, "]")
            if attached:
                row[-1] = f"<msub>{row[-1]}<mrow>{''.join(inside)}</mrow></msub>"
            else:  # 1 where it holds, else 0
                row.append(f"<mrow><mo>[</mo>{''.join(inside)}<mo>]</mo></mrow>")
        elif text == "(":
            inside, at = _row(tokens, at, ")")
            if row and row[-1] == "<mi>sqrt</mi>":
                row[-1] = f"<msqrt>{''.join(inside)}</msqrt>"
            else:
                brackets = f'<mo stretchy="false">(</mo>{"".join(inside)}'
                row.append(f'<mrow>{brackets}<mo stretchy="false">)</mo></mrow>')
        else:
            row.append(_atom(kind, text))
    return row, at


def _atom(kind: str, text: str) -> str:
    if kind == "number":
        return f"<mn>{text}</mn>"
    if kind == "name":
        return _name(text)
    return f"<mo>{escape(OPERATORS.get(text, text))}</mo>"


def _name(text: str) -> str:
    if text in WORDS:
        return f"<mtext>&nbsp;{text}&nbsp;</mtext>"
    base, _, below = text.partition("_")
    if base == "sum":
        if not below:
            return "<mo>∑</mo>"
        return f"<msub><mo>∑</mo><mi>{escape(below)}</mi></msub>"
    if below:
        return f'<msub>{_name(base)}<mi mathvariant="normal">{escape(below)}</mi></msub>'
    if text in FUNCTIONS:
        return f'<mi mathvariant="normal">{text}</mi>'
    return f"<mi>{escape(GREEK.get(text, text).replace(chr(39), '′'))}</mi>"
