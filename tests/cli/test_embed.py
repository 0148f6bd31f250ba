"""calmgrad embed, search and contrastive, as commands."""

import json
from pathlib import Path

import numpy as np
import pytest

import calmgrad
from tests.cli.conftest import Run

LINES = "first line\n\nthird: naïve\n"


@pytest.fixture
def model(tmp_path: Path) -> calmgrad.Model:
    made = calmgrad.new_model(d_model=16, n_layers=1)
    made.save(tmp_path / "m.cwgt")
    (tmp_path / "a.txt").write_text(LINES)
    return made


def test_matrix_and_lines(run: Run, model: calmgrad.Model, tmp_path: Path) -> None:
    expected = model.embed(LINES.splitlines())
    done = run("embed", "-m", "m.cwgt", "a.txt", "-o", "a.npy", "--json")
    assert json.loads(done.stdout) == {"output": "a.npy", "texts": 3, "d_model": 16}
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    done = run("embed", "-m", "m.cwgt", "a.txt", "--threads", "1")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(v["file"], v["line"], v["text"]) for v in lines] == [
        ("a.txt", i, text) for i, text in enumerate(LINES.splitlines(), 1)
    ]
    got = np.array([v["embedding"] for v in lines], np.float32)
    np.testing.assert_array_equal(got, expected)
    run("embed", "-m", "m.cwgt", "a.txt", "-o", "b.jsonl")
    assert (tmp_path / "b.jsonl").read_text() == done.stdout


def test_nothing_to_embed_is_said(run: Run, model: calmgrad.Model, tmp_path: Path) -> None:
    done = run("embed", "-m", "m.cwgt", "a.txt", "--by", "passage", "-o", "none.npy")
    assert "none.npy: no rows: there is no passage in what was read" in done.stderr
    assert np.load(tmp_path / "none.npy").shape == (0, 16)


@pytest.mark.parametrize("files", [["-m", "m.cwgt", "a.npy"], ["-m", "a.npy", "a.txt"]])
def test_what_is_read_is_not_replaced(
    run: Run, model: calmgrad.Model, tmp_path: Path, files: list[str]
) -> None:
    (tmp_path / "a.npy").write_bytes((tmp_path / "m.cwgt").read_bytes())
    done = run("embed", *files, "-o", "a.npy", code=2)
    assert "a.npy: is read by this command" in done.stderr
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "m.cwgt").read_bytes()


def test_index_and_search(run: Run, model: calmgrad.Model, tmp_path: Path) -> None:
    run("embed", "-m", "m.cwgt", "a.txt", "-o", "a.index")
    done = run("search", "a.index", "third: naïve", "-k", 1, "--json")
    found = json.loads(done.stdout)
    [hit] = found["results"]
    assert found["query"] == hit["text"] == "third: naïve"
    assert hit["score"] == pytest.approx(1, abs=1e-5)
    assert (hit["file"], hit["line"]) == ("a.txt", 3)
    shown = run("search", "a.index", "first line").stdout.splitlines()
    assert shown[0] == " 1.000  a.txt:1  first line"
    calmgrad.new_model(d_model=16, n_layers=1, seed=9).save(tmp_path / "other.cwgt")
    refused = run("search", "a.index", "q", "-m", "other.cwgt", code=2).stderr
    assert refused.startswith("error: a.index: made with another model")
    assert "error: m.cwgt: " in run("search", "m.cwgt", "q", code=3).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.txt", "-o", "a.csv"], 2, "a.csv: expected a name that ends in .npy, .jsonl, .index"),
        (["a.txt", "-o", "no/such.npy"], 5, "no/such.npy: cannot be written: there is no folder"),
        (["a.txt", "-o", "a.index", "--no-normalize"], 2, "--no-normalize: an index holds"),
        (["none.txt"], 3, "none.txt: no such file"),
        (["blank.txt", "-o", "blank.index"], 3, "nothing to index"),
    ],
)
def test_what_is_refused(
    run: Run, model: calmgrad.Model, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert message in run("embed", "-m", "m.cwgt", *arguments, code=code).stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == before


def test_contrastive(run: Run, tmp_path: Path) -> None:
    words = ["amber", "basalt", "cedar", "dune", "ember", "fjord"]
    blocks = [f"<QUERY>what is {w}\n<ATN>\n<REF>{w} is a thing one finds" for w in words]
    (tmp_path / "pairs.txt").write_text("\n\n".join(blocks))
    done = run("contrastive", "-p", "pairs.txt", "--val-pairs", "pairs.txt", "-b", 3, "-e", 1,
               "--save-dir", "r", "-o", "e.cwgt", "--json")  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events] == ["evaluation", "step", "step", "evaluation", "end"]
    assert events[0]["found"]["queries"] == 6
    assert events[-1]["weights"] == ["r/model.cwgt", "e.cwgt"]
    assert set(events[-1]["best"]) == {
        "recall_1", "recall_5", "recall_10", "mrr", "queries", "passages",
    }  # fmt: skip
    assert "recall@10" not in done.stdout
    assert "@10" in done.stderr
    assert "expected a pair file" in run("contrastive", code=2).stderr
