"""How the site is made of the pages; `./dev docs` builds it, which the base environment cannot."""

from pathlib import Path

import pytest

from calmgrad.cli.main import COMMANDS
from docs.site import arrange, check


def test_the_site_is_arranged(tmp_path: Path) -> None:
    """Sphinx sees each page, and each link that is none of a page leads to what shows the file."""
    files = arrange.arrange(tmp_path / "source", run=lambda notebook: f"# {notebook.stem}\n")
    assert {"calmgrad/tape.py", "calmgrad/ops"} <= files
    written = {p.relative_to(tmp_path / "source").as_posix() for p in tmp_path.rglob("*.md")}
    assert {"index.md", "flags.md", "changes.md", "api/calmgrad.trainer.md"} <= written
    page = (tmp_path / "source" / "ops" / "gelu.md").read_text(encoding="utf-8")
    assert "[test](source:../source/tests/ops/test_gelu.py.html)" in page
    flags = (tmp_path / "source" / "flags.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"\n## {name}\n" in flags
    index = (tmp_path / "source" / "index.md").read_text(encoding="utf-8")
    assert "Quickstart </quickstart>" in index


def test_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    site = arrange.Site(tmp_path)
    site.page("docs/x.md", "# X\n\n[tape](../calmgrad/tape.py), [a page](data.md#pairs)\n")
    assert (
        (tmp_path / "x.md")
        .read_text()
        .endswith("[tape](source:source/calmgrad/tape.py.html), [a page](data.md#pairs)\n")
    )
    with pytest.raises(FileNotFoundError, match=r"calmgrad/tapes\.py: a page leads to it"):
        site.page("docs/x.md", "[tape](../calmgrad/tapes.py)\n")
    site.page("docs/x.md", "see [data.md](data.md)\n")
    assert (tmp_path / "x.md").read_text() == "see [Data](data.md)\n"
    site.page("docs/x.md", "```text\n[no link](../calmgrad/tapes.py)\n```\n")


def test_what_the_finished_site_must_not_have(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        """<script src="https://cdn.example/x.js"></script><img src="data:image/png;base64,">
        <a href="sub/a.html#here">fine</a> <a href="https://example.org">not followed</a>
        <a href="sub/a.html#there">no place</a> <a href="none.html">no page</a> <a href="#">up</a>
        <link rel="stylesheet" href="_static/none.css">"""
    )
    (tmp_path / "sub" / "a.html").write_text('<p id="here"><a href="../index.html">up</a></p>')
    assert check.faults(tmp_path) == [
        "index.html: is loaded from elsewhere: https://cdn.example/x.js",
        "index.html: leads nowhere: _static/none.css",
        "index.html: leads nowhere: none.html",
        "index.html: there is no such place: sub/a.html#there",
    ]


def test_attributes_become_definitions() -> None:
    docstrings = pytest.importorskip("docs.site.docstrings", reason="pip install 'calmgrad[docs]'")
    lines = ["Attributes:", "    a, b: both", "        of them.", "    c: one.", "", "End."]
    expected = [
        "**Attributes**",
        "",
        "a, b",
        "    both",
        "    of them.",
        "c",
        "    one.",
        "",
        "End.",
    ]
    assert list(docstrings.with_attributes(lines)) == expected


def test_formulas_without_a_script() -> None:
    mathml = pytest.importorskip("docs.site.mathml", reason="pip install 'calmgrad[docs]'").mathml
    assert '<mi mathvariant="normal">pos</mi>' in mathml(r"\mathrm{pos}_t", display=False)
    assert "<mtable" in mathml(r"\begin{aligned} a &= b \\\\ c &= d \end{aligned}", display=True)
    with pytest.raises(ValueError, match="is not known"):
        mathml(r"\nosuchthing{x}", display=False)
