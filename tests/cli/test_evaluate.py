"""calmgrad evaluate --worst; the other figures are tested with the other commands."""

import json
import math
from pathlib import Path

import pytest

import calmgrad
from calmgrad.cli.evaluate import TEXT_WIDTH, shown_text, worst_rows
from calmgrad.evaluation import evaluate
from tests.cli.conftest import Run


@pytest.fixture
def files(tmp_path: Path) -> tuple[calmgrad.Model, list[list[int]]]:
    """m.cwgt and d.ctds, with sequences that are left out among the others."""
    model = calmgrad.new_model(d_model=16, n_layers=1, l_max=100)
    model.save(tmp_path / "m.cwgt")
    sequences = []
    for i in range(600):
        text = bytes((i * 7 + k * k) % 256 for k in range(1 + i % 9))
        sequences.append([calmgrad.BOS, *text, calmgrad.EOS] if i % 50 else [65] * (101 + i % 3))
    calmgrad.write_dataset(tmp_path / "d.ctds", sequences, [0] * len(sequences))
    return model, sequences


def test_the_worst_are_those_with_the_highest_loss(
    run: Run, files: tuple[calmgrad.Model, list[list[int]]]
) -> None:
    model, sequences = files
    kept = [i for i, s in enumerate(sequences) if 4 <= len(s) <= 100]
    losses = {i: model.loss(sequences[i]) for i in kept}
    expected = sorted(kept, key=lambda i: -losses[i])[:7]
    done = run("evaluate", "-m", "m.cwgt", "-d", "d.ctds", "--worst", 7, "--json")
    assert "left out" in done.stderr
    result = json.loads(done.stdout)
    worst = result["worst"]
    assert [row["loss"] for row in worst] == pytest.approx([losses[i] for i in expected], rel=1e-5)
    assert worst[0]["loss"] == pytest.approx(result["max"])
    for row in worst:
        assert row["loss"] == pytest.approx(losses[row["index"]], rel=1e-5)
        assert row["text"] == shown_text(sequences[row["index"]])


def test_the_table(run: Run, files: tuple[calmgrad.Model, list[list[int]]]) -> None:
    arguments = ["evaluate", "-m", "m.cwgt", "-d", "d.ctds"]
    lines = run(*arguments, "--worst", 2).stdout.splitlines()
    assert lines[-3].split() == ["sequence", "loss", "text"]
    assert all("<BOS>" in line for line in lines[-2:])
    plain = run(*arguments).stdout.splitlines()
    assert plain == lines[: len(plain)]
    assert len(json.loads(run(*arguments, "--worst", 1000, "--json").stdout)["worst"]) < 600
    assert "worst" not in json.loads(run(*arguments, "--json").stdout)
    assert "range" in run(*arguments, "--worst", -1, code=2).stderr


def test_positions_are_those_of_the_file_in_any_order(tmp_path: Path) -> None:
    model = calmgrad.new_model(d_model=16, n_layers=1)
    sequences = [[65] * (2 + i % 7) for i in range(40)]
    calmgrad.write_dataset(tmp_path / "d.ctds", sequences, [0] * 40)
    dataset = calmgrad.load_dataset(tmp_path / "d.ctds").kept(768)[0]
    dataset.shuffle(seed=3)
    found: dict[int, float] = {}
    evaluate(model, dataset, 1, found.__setitem__)
    assert set(found) == {i for i, s in enumerate(sequences) if len(s) >= 4}
    for index, loss in found.items():
        assert loss == pytest.approx(model.loss(sequences[index]), rel=1e-5)


def test_equal_losses_and_losses_that_are_no_number(tmp_path: Path) -> None:
    calmgrad.write_dataset(tmp_path / "d.ctds", [[65, 66 + i] for i in range(5)], [0] * 5)
    dataset = calmgrad.load_dataset(tmp_path / "d.ctds")
    losses = {4: 1.0, 3: 2.0, 1: 2.0, 0: math.nan, 2: math.inf}
    rows = worst_rows(dataset, losses, 4)
    assert [row["index"] for row in rows] == [0, 2, 1, 3]
    assert [row["text"] for row in rows] == ["AB", "AD", "AC", "AE"]


def test_text_is_one_printable_line() -> None:
    assert shown_text([calmgrad.BOS, *b"ls\n\x1b[31m", calmgrad.EOS, 300]) == (
        "<BOS>ls\\n\\x1b[31m<EOS><:300:>")  # fmt: skip
    text = "".join(chr(ord("a") + i % 26) for i in range(500))
    shown = shown_text(list(text.encode()))
    assert len(shown) == TEXT_WIDTH
    head, tail = shown.split("…")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(tail) > len(head)
    assert shown_text([65] * TEXT_WIDTH) == "A" * TEXT_WIDTH
