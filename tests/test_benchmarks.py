"""The benchmarks: fair turns, tables, the page that is made of the results; and one that runs."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page
from benchmarks.batches import batch_of, lengths_of
from benchmarks.charts import bar_chart, line_chart
from benchmarks.contestants import Contestant, WorkerFailed, race
from benchmarks.tables import markdown_table, text_table

ROOT = Path(__file__).parents[1]


def test_batches_are_the_same_for_all() -> None:
    assert lengths_of("3x17") == [17] * 3
    shell = lengths_of("shell32")
    assert len(shell) == 32
    assert min(shell) >= 8
    assert max(shell) <= 768
    assert batch_of("shell32") == batch_of("shell32")
    assert [len(t) for t in batch_of("shell32")["tokens"]] == shell


WORKER = """
import sys
sys.path.insert(0, {workers!r})
from serving import serve

def prepare(settings):
    print("talk that a library may make")
    log = open(settings["log"], "a")
    def call():
        print(settings["name"], file=log, flush=True)
        if settings.get("fail"):
            raise ValueError("no more")
        return {{"calls": 1}}
    return call, {{"version": "1", "bytes": 5}}

serve(prepare)
"""


def worker(folder: Path, name: str, calls: int = 1, **settings: Any) -> Contestant:
    script = folder / "worker.py"
    script.write_text(WORKER.format(workers=str(ROOT / "benchmarks" / "workers")))
    told = {"name": name, "log": str(folder / "log"), **settings}
    return Contestant(name, str(script), sys.executable, told, calls)


def test_turns(tmp_path: Path) -> None:
    a, b = worker(tmp_path, "a", calls=2), worker(tmp_path, "b")
    race([a, b], seconds=0.0, least=3)
    assert (tmp_path / "log").read_text().split() == ["a", "a", "b", *["a", "a", "b"] * 3]
    assert (len(a.seconds), len(b.seconds)) == (6, 3)  # the first turn does not count
    assert a.about == {"version": "1"}
    assert a.prepared_with == {"bytes": 5}
    assert b.told == {"calls": 1}
    assert 5e6 < a.peak < 100e6  # of a bare Python, not of this process


def test_a_worker_that_fails(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match=r"^a ended with code 1: ValueError: no more$"):
        race([worker(tmp_path, "a", fail=True)], 0.0)


ROWS = [
    {"size": "nano", "shape": "8x256", "threads": 2, "calmgrad": {"ms_best": 1234.5}},
    {"size": "mini", "shape": "8x768", "threads": 2, "ratio_best": 12.34},
]


def test_tables() -> None:
    head, first, second = text_table("train", ROWS).splitlines()
    assert len(head) == len(first) == len(second)
    assert first.split()[:5] == ["nano", "8x256", "2", "1,234.5", "-"]
    assert "12.3x" in second.split()
    lines = markdown_table("train", ROWS).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[1].startswith("|---|---:|")


def test_charts_stand_alone() -> None:
    lines = line_chart("A < B", "x", "y", {"a": [(1, 2), (8, 3)], "a b": [(1, 2)]}, ["a b"])
    bars = bar_chart("Bars", {"nano": {"scan": 0.7, "rest": 0.28, "crumbs": 0.02}})
    for chart in lines, bars:
        assert ET.fromstring(chart).tag.endswith("svg")
        assert "href" not in chart
    assert "crumbs" not in bars
    assert "other: 2.0%" in bars


def test_the_page_is_made_of_the_results() -> None:
    """Else: python -m benchmarks.page."""
    result = json.loads(page.RESULT.read_text(encoding="utf-8"))
    for path, content in page.files(result).items():
        assert path.read_text(encoding="utf-8") == content, path.name


def test_only_what_is_between_the_marks_is_replaced() -> None:
    text = "a\n<!-- one -->\n<!-- end -->\nb\n<!-- two -->\nold\n<!-- end -->\nc\n"
    once = page.filled(page.filled(text, "one", "1"), "two", "2")
    assert once == "a\n<!-- one -->\n1\n<!-- end -->\nb\n<!-- two -->\n2\n<!-- end -->\nc\n"
    assert page.filled(once, "one", "1") == once


def test_the_command(tmp_path: Path) -> None:
    from calmgrad.kernels.cpu.compile import FOLDER

    cache = {} if FOLDER is None else {"CALMGRAD_CACHE_DIR": str(FOLDER.parent)}
    output = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks", "memory", "--quick"]
    done = subprocess.run(
        [*command, "--output", str(output)],
        cwd=ROOT,
        env=os.environ | cache,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "memory"
    found = json.loads(output.read_text())["memory"]
    assert {"commit", "at", "machine", "quick", "versions", "rows"} == set(found)
    [row] = found["rows"]
    assert (row["size"], row["shape"], row["threads"]) == ("nano", "32x256", 2)
    assert row["off"] == pytest.approx(0, abs=0.15)
    wrong = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert "no part nothing: there are train, floor" in wrong.stderr
