"""The notebooks run: cell after cell in this process, and as Jupyter does where it is installed."""

import json
import os
from pathlib import Path

import pytest

from docs.site import notebooks

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@by_name
def test_a_notebook_runs(path: Path) -> None:
    before = Path.cwd()
    cells = notebooks.run(path)
    assert Path.cwd() == before
    assert sum(len(cell.pictures) for cell in cells) >= 2
    for cell in cells:
        for picture in cell.pictures:
            assert picture.startswith("<svg ")
            assert "nan" not in picture


@by_name
def test_it_is_stored_without_outputs(path: Path) -> None:
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    for cell in stored["cells"]:
        assert not cell.get("outputs"), "clear all outputs before you save it"
        assert cell.get("execution_count") is None


@by_name
def test_a_notebook_runs_in_jupyter(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="pip install 'calmgrad[notebooks]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'calmgrad[notebooks]'")
    pytest.importorskip("ipykernel", reason="pip install 'calmgrad[notebooks]'")
    if os.environ.get("CALMGRAD_TEST_PROFILE") != "thorough":
        pytest.skip("starts kernels of its own: CALMGRAD_TEST_PROFILE=thorough")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    shown = [o for c in notebook.cells for o in c.get("outputs", ()) if "data" in o]
    assert any("image/svg+xml" in output["data"] for output in shown)


def test_the_runner(tmp_path: Path) -> None:
    """What a cell prints, its value, a picture; and an error names the notebook and the cell."""

    def cell(kind: str, *lines: str) -> dict[str, object]:
        return {"cell_type": kind, "source": [*lines]}

    path = tmp_path / "x.ipynb"
    picture = "class P:\n    def _repr_svg_(self): return '<svg/>'\nP()"
    cells = [
        cell("markdown", "# Title"),
        cell("code", "a = 2\n", "print('said')\n", "a + 1"),
        cell("code", "a\n", "b = 1"),
        cell("code", picture),
    ]
    path.write_text(json.dumps({"cells": cells}))
    read = notebooks.run(path)
    assert [c.printed for c in read] == ["", "said\n3\n", "", ""]
    assert read[3].pictures == ["<svg/>"]
    text = notebooks.to_markdown(path)
    assert text.startswith("# Title\n\n```python\na = 2\n")
    assert "```text\nsaid\n3\n```" in text
    assert "```{raw} html\n<svg/>\n```" in text
    path.write_text(json.dumps({"cells": [*cells, cell("code", "1 / 0")]}))
    with pytest.raises(ZeroDivisionError) as caught:
        notebooks.run(path)
    assert str(caught.traceback[-1].path).endswith("x.ipynb, cell 4")
