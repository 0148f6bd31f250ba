import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from calmgrad.explain import Story
from calmgrad.explain.formulas import formula_of
from calmgrad.explain.typeset import mathml, segments
from calmgrad.explain.update import UPDATE_NOTES, update_formula
from calmgrad.trainer import Trainer

ROOT = Path(__file__).parents[2]
OPS = sorted(p.stem for p in (ROOT / "calmgrad/ops").glob("*.py") if p.stem not in
             ("__init__", "basic"))  # fmt: skip


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_its_formulas_and_nothing_else(op: str) -> None:
    formula = formula_of(op)
    source = (ROOT / formula.file).read_text(encoding="utf-8")
    assert formula.summary.endswith(".")
    assert formula.arguments
    for direction in (formula.forward, formula.backward):
        assert any(" = " in line for line in direction.lines)
        for line in direction.lines:
            assert line in source
            assert "::" not in line
            assert "Args:" not in line


def test_the_whole_of_one() -> None:
    formula = formula_of("layer_norm")
    assert formula.forward.given == "with mean m and (biased) variance v of a row"
    assert formula.forward.lines == (
        "rstd = 1 / sqrt(v + eps)",
        "n = (x - m) * rstd",
        "y = n * weight + bias",
    )
    assert len(formula.backward.lines) == 3
    assert formula.arguments == {
        "x": "(T, D)",
        "weight": "(D,)",
        "bias": "(D,)",
        "eps": "added to the variance",
    }
    assert formula.returns == "y, (T, D)"
    assert formula.source == "Ba et al. (arXiv:1607.06450), section 3"
    assert formula_of("add").backward.lines == ("da = dy,  db = dy",)


def test_what_the_tape_names_is_what_the_docstring_names(story: Story) -> None:
    for op in story.ops:
        assert set(op.inputs) <= set(formula_of(op.op).arguments), op.name


def test_an_op_of_somebody_else_has_none() -> None:
    formula = formula_of("conjure")
    assert formula.file == ""
    assert formula.forward.lines == formula.backward.lines == ()


def test_the_update_of_each_optimizer() -> None:
    name, direction = update_formula("adam")
    assert name == "AdamW"
    assert direction.lines == ("p = p - lr * weight_decay * p - lr * m̂ / (sqrt(v̂) + eps)",)
    assert update_formula("sgd")[1].lines == ("p = p - lr * weight_decay * p - lr * g",)
    assert set(UPDATE_NOTES) == {"adam", "sgd"}
    assert callable(Trainer)


def test_formulas_and_remarks_of_a_line() -> None:
    line = 'y[b] = sum_t x[t] / n            or, with "last", x[its last t]'
    assert list(segments(line)) == [
        (True, "y[b] = sum_t x[t] / n"),
        (False, 'or, with "last", x[its last t]'),
    ]
    assert list(segments("dz    = dout * y")) == [(True, "dz = dout * y")]
    assert [f for f, _ in segments("da = dy @ W.T        dW = x.T @ dy")] == [True, True]


@pytest.mark.parametrize("op", [*OPS, "tanh", "softplus"])
def test_what_is_typeset_is_well_formed_and_says_all(op: str) -> None:
    formula = formula_of(op)
    for line in (*formula.forward.lines, *formula.backward.lines):
        for is_formula, text in segments(line):
            if is_formula:
                tree = ET.fromstring(mathml(text).replace("&nbsp;", " "))
                assert tree.get("alttext") == text
                shown = "".join(tree.itertext())
                for letter in filter(str.isalnum, text.replace("sum", "").replace("sqrt", "")):
                    assert letter in shown or letter in "epsi", (letter, shown)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("y = W.T", "<msup><mi>W</mi><mi>T</mi></msup>"),
        ("y = x^2", "<msup><mi>x</mi><mn>2</mn></msup>"),
        ("y = sqrt(v)", "<msqrt><mrow><mi>v</mi></mrow></msqrt>"),
        ("y = sum_n a", "<msub><mo>∑</mo><mrow><mi>n</mi></mrow></msub>"),
        ("y = a[t-1]", "<mi>t</mi><mo>−</mo><mn>1</mn>"),
        ("y = p - [v = w]", '<mo stretchy="false">[</mo>'),
        ("y = <b>&", "<mo>&lt;</mo><mi>b</mi><mo>&gt;</mo><mo>&amp;</mo>"),
    ],
)
def test_notation(text: str, inside: str) -> None:
    assert inside in mathml(text)
