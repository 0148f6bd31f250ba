"""calmgrad fisher, train --ewc-lambda from its file, and evaluate --before."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import calmgrad
from calmgrad.cli.evaluate_several import print_changes, verdict
from calmgrad.cli.main import cli
from calmgrad.errors import CalmgradError

Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("fisher", …)` in this process, which is quicker; `code` is the error's, if any."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object, code: int = 0) -> SimpleNamespace:
        capsys.readouterr()
        caught, message = 0, ""
        try:
            cli.main([str(a) for a in args], prog_name="calmgrad", standalone_mode=False)
        except CalmgradError as error:
            caught, message = error.exit_code, str(error)
        assert caught == code, message
        out, err = capsys.readouterr()
        return SimpleNamespace(stdout=out, stderr=err + message)

    return call


def test_from_fisher_to_the_report(run: Run, dataset: Path, tmp_path: Path) -> None:
    """The whole way, and each file on it."""
    model = calmgrad.new_model(d_model=16, n_layers=1, domain="shell")
    model.save(tmp_path / "m.cwgt")
    rows = [[calmgrad.BOS, *b"other words", calmgrad.EOS]] * 4
    calmgrad.write_dataset(tmp_path / "b.ctds", rows, [0] * 4)

    done = run("fisher", "-m", "m.cwgt", "-d", dataset, "-o", "f.cwgt", "--json")
    result = json.loads(done.stdout)
    assert (result["output"], result["sequences"]) == ("f.cwgt", 60)
    stored = calmgrad.load_model(tmp_path / "f.cwgt")
    kept = calmgrad.load_dataset(dataset).kept(768)[0]
    with calmgrad.Trainer(model) as trainer:
        trainer.compute_fisher([s for s, _ in kept], kept.cmd_positions.tolist())
    assert stored.fisher is not None
    assert stored.anchor is not None
    assert model.fisher is not None
    np.testing.assert_allclose(stored.fisher, model.fisher, rtol=1e-5)
    assert np.array_equal(stored.anchor, model.weights)
    assert np.array_equal(stored.weights, model.weights)
    assert stored.metadata == model.metadata
    assert result["fisher_max"] == pytest.approx(float(stored.fisher.max()))

    tuned = ["-d", "b.ctds", "-e", 8, "--lr", "3e-3"]
    for strength, name in ((0, "plain"), (1e7, "kept")):
        run("train", "-m", "f.cwgt", *tuned, "--ewc-lambda", strength, "-o", f"{name}.cwgt")
    again = calmgrad.load_model(tmp_path / "kept.cwgt")
    assert again.fisher is not None
    assert again.anchor is not None
    assert np.array_equal(again.fisher, stored.fisher)
    assert np.array_equal(again.anchor, stored.anchor)

    def report(name: str) -> list[dict[str, dict[str, float]]]:
        arguments = ["--before", "f.cwgt", "-m", f"{name}.cwgt", "-d", dataset, "-d", "b.ctds"]
        rows: list[dict[str, dict[str, float]]]
        rows = json.loads(run("evaluate", *arguments, "--json").stdout)["datasets"]
        return rows

    plain, ewc = report("plain"), report("kept")
    assert plain[0]["before"] == ewc[0]["before"]
    for row in plain:
        expected = row["after"]["token_mean"] - row["before"]["token_mean"]
        assert row["change"]["token_mean"] == pytest.approx(expected)
    assert abs(ewc[0]["change"]["token_mean"]) < abs(plain[0]["change"]["token_mean"])
    assert plain[1]["change"]["bits_per_byte"] < 0


def test_the_models_own_file_and_a_sample(run: Run, dataset: Path, tmp_path: Path) -> None:
    model = calmgrad.new_model(d_model=16, n_layers=1)
    model.save(tmp_path / "m.cwgt")
    done = run("fisher", "-m", "m.cwgt", "-d", dataset, "-d", dataset, "--max-sequences", 5)
    assert done.stdout.splitlines()[1].split() == ["sequences", "10"]
    assert "next     calmgrad train -m m.cwgt -d NEW.ctds --ewc-lambda" in done.stderr
    first = calmgrad.load_model(tmp_path / "m.cwgt")
    assert first.fisher is not None
    assert np.array_equal(first.weights, model.weights)
    done = run("fisher", "-m", "m.cwgt", "-d", dataset, "--max-sequences", 5, "--seed", 1)
    assert "the Fisher data that the model has are replaced" in done.stderr
    second = calmgrad.load_model(tmp_path / "m.cwgt")
    assert second.fisher is not None
    assert not np.array_equal(second.fisher, first.fisher)


def test_what_is_refused(run: Run, dataset: Path, tmp_path: Path) -> None:
    calmgrad.new_model(d_model=16, n_layers=1).save(tmp_path / "m.cwgt")
    before = dataset.read_bytes()
    said = run("fisher", "-m", "m.cwgt", "-d", dataset, "-o", dataset, code=2).stderr
    assert "would replace the data set" in said
    assert dataset.read_bytes() == before
    both = ("-m", "m.cwgt", "-d", dataset)
    said = run("train", *both, "--ewc-lambda", 1, code=2).stderr
    assert "m.cwgt has no Fisher data; `calmgrad fisher`" in said
    said = run("evaluate", *both, "-d", dataset, "--worst", 1, code=2).stderr
    assert "only with one data set and without --before" in said
    said = run("fisher", *both, "-o", "no/f.cwgt", code=5).stderr
    assert "no/f.cwgt: cannot be written" in said


def test_several_data_sets(run: Run, dataset: Path, tmp_path: Path) -> None:
    calmgrad.new_model(d_model=16, n_layers=1).save(tmp_path / "m.cwgt")
    arguments = ["evaluate", "-m", "m.cwgt", "-d", dataset]
    one = json.loads(run(*arguments, "--json").stdout)
    two = json.loads(run(*arguments, "-d", dataset, "--json").stdout)
    assert two == {"datasets": [{"dataset": str(dataset), **one}] * 2}
    lines = run(*arguments, "-d", dataset).stdout.splitlines()
    assert lines[0].split() == ["data", "set", "loss", "bits/byte", "perplexity", "sequences"]
    assert lines[1] == lines[2]
    assert lines[1].split()[1:] == [
        f"{one['token_mean']:.4f}", f"{one['bits_per_byte']:.4f}", f"{one['perplexity']:.4f}", "60",
    ]  # fmt: skip


def row(name: str, before: float, after: float) -> dict[str, object]:
    losses = [{"token_mean": loss, "bits_per_byte": None} for loss in (before, after)]
    change = {"token_mean": after - before, "bits_per_byte": None}
    return {"dataset": name, "before": losses[0], "after": losses[1], "change": change}


def test_the_table_of_changes(capsys: pytest.CaptureFixture[str]) -> None:
    print_changes([row("a.ctds", 0.5, 1.0), row("longer name.ctds", 2.0, 1.5)])
    assert capsys.readouterr().out == (
        "data set          loss before   after   change  bits/byte before  after  change\n"
        "a.ctds                 0.5000  1.0000  +0.5000                 -      -       -\n"
        "longer name.ctds       2.0000  1.5000  -0.5000                 -      -       -\n"
        "\n"
        "a.ctds: forgotten: the loss rose by 0.5000 nats a token (100%)\n"
        "longer name.ctds: learned: the loss fell by 0.5000 nats a token (25%)\n"
    )


@pytest.mark.parametrize(
    ("before", "rise", "words"),
    [
        (2.0, 0.009, "kept: the loss is the same within 0.5 %"),
        (2.0, -0.011, "learned: the loss fell by 0.0110 nats a token (1%)"),
        (2.0, float("nan"), "cannot be told: a loss is not finite"),
        (0.0, 0.1, "forgotten: the loss rose by 0.1000 nats a token"),
    ],
)
def test_the_verdict(before: float, rise: float, words: str) -> None:
    assert verdict({"token_mean": before}, {"token_mean": rise}).startswith(words)
