"""docs/formats.md: each statement has a number of its own, and a test that is there."""

import ast
import re
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

from calmgrad.config import ModelConfig
from calmgrad.layout import layout

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "formats.md"
ROW = re.compile(r"\| ([A-Z]+)-(\d+) \| .* \| `([\w.]+::)?(test_\w+)` \|")


class Statement(NamedTuple):
    """A row of the page; `files` are those its section names, or the one it names itself."""

    format: str
    number: int
    files: list[Path]
    test: str


def statements() -> list[Statement]:
    found = []
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        named = [ROOT / path for path in re.findall(r"\(\.\./(tests/\S+\.py)\)", section)]
        for line in section.splitlines():
            if row := ROW.fullmatch(line):
                alone = [ROOT / "tests" / row[3].removesuffix("::")] if row[3] else named
                found.append(Statement(row[1], int(row[2]), alone, row[4]))
            else:
                assert not re.match(r"\| [A-Z]+-\d", line), f"no test is named: {line}"
    return found


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("statement", statements(), ids=lambda s: f"{s.format}-{s.number}")
def test_a_statement_is_checked(statement: Statement) -> None:
    assert any(statement.test in functions_of(path) for path in statement.files)


def test_numbers_count_from_1() -> None:
    formats = [(name, list(rows)) for name, rows in groupby(statements(), lambda s: s.format)]
    assert [name for name, _ in formats][:2] == ["CWGT", "CTDS"]
    assert len(formats) >= 7
    for name, rows in formats:
        assert [row.number for row in rows] == list(range(1, len(rows) + 1)), name


def test_a_paragraph_that_the_source_names_is_told() -> None:
    known = set(re.findall(r"^\| FORMATS §(\d) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    for folder in ("calmgrad", "kernels", "cli", "tests"):
        for path in (ROOT / folder).rglob("*.py"):  # does not follow links
            for where in re.findall(r"FORMATS ((?:§\d| and )+)", path.read_text(encoding="utf-8")):
                assert set(re.findall(r"\d", where)) <= known, path


def test_the_order_of_the_parameters() -> None:
    numbered = re.findall(r"\| (\d+) \| `([\w.]+)` \|", PAGE.read_text(encoding="utf-8"))
    told = {int(number): name for number, name in numbered}
    order = [entry.name for entry in layout(ModelConfig(d_model=16, n_layers=1))]
    assert [told[i] for i in sorted(told)] == [n.removeprefix("blocks.0.") for n in order[:-2]]
    assert order[-2:] == ["ln_f.weight", "ln_f.bias"]
