"""calmgrad warmup"""

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_what_is_compiled_is_not_compiled_again(run: Run) -> None:
    run("warmup")
    result = json.loads(run("warmup", "--json").stdout)
    assert result["compiled"] == 0
    assert list(Path(result["folder"]).rglob("*.nbc"))
    assert result["seconds"] > 0


def test_no_folder_to_keep_them(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("warmup", code=5, cache=tmp_path / "file" / "cache")
    assert done.stderr.splitlines()[-1].startswith("error: no private folder")
    assert done.stdout == ""


def test_verbose(run: Run) -> None:
    done = run("-v", "info", "nothing.cwgt", code=3)
    assert done.stderr.startswith("blas     ")
