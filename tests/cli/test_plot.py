"""calmgrad plot"""

import importlib.util
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.cli.conftest import Run

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Three run directories, two of them of the same name."""
    names = ["runs/nano-1", "runs/nano-2", "old/nano-1"]
    for i, name in enumerate(names):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        lines = [{"step": step, "loss": i + 4 / step} for step in range(1, 41)]
        lines.append({"step": 20, "val_loss": i + 0.75})
        lines.append({"step": 40, "val_loss": i + 0.875})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text + '{"step": 4')
    return names


def test_in_the_terminal(run: Run, runs: list[str]) -> None:
    done = run("plot", runs[0])
    assert done.stderr == ""
    *_, heading, line = done.stdout.splitlines()
    assert heading.split() == "run steps first last smoothed best val at step".split()
    assert line.split() == "nano-1 40 4.0000 0.1000 0.1000 0.7500 20".split()
    assert "┤" in done.stdout
    assert done.stdout.count("o") >= 2
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_several_runs_and_their_names(run: Run, runs: list[str]) -> None:
    lines = run("plot", *runs, runs[0]).stdout.splitlines()
    assert [line.split()[:2] for line in lines[-3:]] == [
        ["a", "runs/nano-1"], ["b", "nano-2"], ["c", "old/nano-1"]]  # fmt: skip


def test_json(run: Run, runs: list[str]) -> None:
    done = run("plot", f"{runs[1]}/metrics.jsonl", "--json")
    assert json.loads(done.stdout) == {
        "runs": [
            {
                "run": "nano-2",
                "steps": 40,
                "first": 5.0,
                "last": 1.1,
                "last_smoothed": pytest.approx(1.1),
                "best_val": 1.75,
                "best_val_step": 20,
            }
        ],
        "output": None,
    }


def test_svg(run: Run, runs: list[str], tmp_path: Path) -> None:
    done = run("plot", runs[0], runs[1], "-o", "loss.svg")
    assert done.stderr == "saved    loss.svg\n"
    assert "┤" not in done.stdout
    root = ET.parse(tmp_path / "loss.svg").getroot()
    assert root.tag.endswith("svg")
    assert {"nano-1", "nano-2"} <= set(root.itertext())
    first = (tmp_path / "loss.svg").read_bytes()
    run("plot", runs[0], runs[1], "-o", "loss.svg", "--json")
    assert (tmp_path / "loss.svg").read_bytes() == first


@pytest.mark.skipif(HAS_MATPLOTLIB, reason="matplotlib is installed")
def test_png_without_matplotlib(run: Run, runs: list[str], tmp_path: Path) -> None:
    done = run("plot", runs[0], "-o", "loss.png", code=2)
    assert "pip install 'calmgrad[plot]'" in done.stderr
    assert not (tmp_path / "loss.png").exists()


@pytest.mark.skipif(not HAS_MATPLOTLIB, reason="matplotlib is not installed")
def test_png(run: Run, runs: list[str], tmp_path: Path) -> None:
    run("plot", *runs, "-o", "loss.PNG")
    assert (tmp_path / "loss.PNG").read_bytes().startswith(b"\x89PNG\r\n")


def test_losses_that_are_not_finite_are_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": NaN}\n')
    done = run("plot", "m.jsonl")
    assert done.stderr == "m.jsonl: left out 1 losses that are not finite\n"
    assert done.stdout.splitlines()[-1].split()[:2] == ["m.jsonl", "1"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument"),
        (["none"], 3, "none: no such file"),
        (["."], 3, "metrics.jsonl: no such file"),
        (["empty"], 3, "empty: no loss to plot yet"),
        (["broken"], 3, "broken: line 1: not JSON: expected one object"),
        (["good", "-o", "loss.gif"], 2, "loss.gif: expected a name that ends in .svg or .png"),
        (["good", "-o", "no/where.svg"], 5, "no/where.svg: cannot be written"),
        (["good", "-o", "folder.svg"], 5, "folder.svg: is a directory"),
    ],
)
def test_bad_calls(run: Run, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "good").write_text('{"step": 1, "loss": 2}\n')
    (tmp_path / "broken").write_text('{"step": 1\n{"step": 2, "loss": 2}\n')
    done = run("plot", *arguments, code=code)
    assert message in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
