"""Formulas as MathML, made when the site is built: a browser needs no script and no network."""

import re
from typing import Any
from xml.etree import ElementTree

from docutils.nodes import Element, SkipNode
from latex2mathml.converter import convert
from sphinx.application import Sphinx

# What the converter makes -> what TeX would.
TIDY = [
    (r'</mi><mi mathvariant="normal">', ""),  # an upright name is one, not a product of letters
    (r"<mo>(max|min)</mo>", r"<mi>\1</mi>"),
    (r"<mi>(ln|log|exp|tanh|cos)</mi>(?!<mo)", r'<mi>\1</mi><mspace width="0.17em"/>'),
    (r"<mo>&#x02202;</mo>", "<mi>&#x02202;</mi>"),  # the partial derivative
    (r"<mo>&#x0002F;</mo>", '<mo lspace="0" rspace="0">&#x0002F;</mo>'),  # a / b
]


def mathml(latex: str, display: bool) -> str:
    """A formula; ValueError if a command in it is not known."""
    latex = latex.strip().replace("{aligned}", "{align*}")  # the one of both that is known
    converted = convert(latex, display="block" if display else "inline")
    for pattern, better in TIDY:
        converted = re.sub(pattern, better, converted)
    for leaf in ElementTree.fromstring(converted).iter():
        if leaf.text and ("\\" in leaf.text or leaf.text == "&"):  # unknown: passed on as text
            raise ValueError(f"formula {latex!r}: {leaf.text} is not known")
    return converted


def inline(translator: Any, node: Element) -> None:
    translator.body.append(mathml(node.astext(), display=False))
    raise SkipNode


def block(translator: Any, node: Element) -> None:
    # A wide formula scrolls by itself, not the page; a focus lets the keyboard scroll it.
    formula = mathml(node.astext(), display=True)
    translator.body.append(f'<div class="formula" tabindex="0">{formula}</div>\n')
    raise SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
