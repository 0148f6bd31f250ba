"""calmgrad explain, as a user runs it; what it tells is tested in tests/explain."""

import json
import os
import re
from pathlib import Path

import pytest

import calmgrad
from calmgrad.cli.main import cli
from calmgrad.explain import tell_step
from tests.cli.conftest import Run

RAW = "<BOS><ATN><CMD>git add<EOS>"


@pytest.fixture
def model(tmp_path: Path) -> calmgrad.Model:
    """m.cwgt"""
    model = calmgrad.new_model(d_model=16, n_layers=1, seed=1)
    model.save(tmp_path / "m.cwgt")
    return model


def test_the_story_on_a_pipe(run: Run, model: calmgrad.Model, dataset: Path) -> None:
    before = (dataset.parent / "m.cwgt").read_bytes()
    done = run("explain", "-m", "m.cwgt", "-d", "train.ctds", "--sequence", 3)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    tokens, position = calmgrad.load_dataset(dataset)[3]
    story = tell_step(model, tokens, position)
    assert f"loss {story.loss:.4f} nats" in done.stdout
    assert "train.ctds, sequence 3" in done.stdout
    at = [done.stdout.index(f"{i:>2}  {op.name} ") for i, op in enumerate(story.ops, 1)]
    assert at == sorted(at)
    assert "y = 0.5 * x * (1 + tanh(v))" in done.stdout
    assert "    makes     blocks.0.mixer.u\n" in done.stdout  # what is read next has a maker
    assert done.stdout.count("dx = dy @ W.T ") == 1  # the others refer to the first
    assert done.stdout.count("as those of blocks.0.mixer.in_proj") == 5
    assert "AdamW, lr 0.001" in done.stdout
    for t in story.tokens:
        if t.loss is not None:
            assert f" {t.loss:8.4f}  " in done.stdout
    assert (dataset.parent / "m.cwgt").read_bytes() == before


def test_only_some_ops(run: Run, model: calmgrad.Model) -> None:
    done = run("explain", "-m", "m.cwgt", "-r", RAW, "--op", "mixer.")
    assert "blocks.0.mixer.conv1d" in done.stdout
    assert "ffn_fc1" not in done.stdout
    assert "AdamW" not in done.stdout
    wrong = run("explain", "-m", "m.cwgt", "-r", RAW, "--op", "attention", code=2)
    assert wrong.stdout == ""
    line = wrong.stderr.splitlines()[-1]
    assert "no op has this in its name; there are token_emb" in line


def test_json(run: Run, model: calmgrad.Model) -> None:
    done = run("explain", "-m", "m.cwgt", "-r", RAW, "--json", "--optimizer", "sgd", "--lr", 0)
    told = json.loads(done.stdout)
    assert told["data"] == "a text of tokens"
    assert (told["cmd_pos"], told["optimizer"], told["lr"]) == (1, "sgd", 0)
    assert [t["text"] for t in told["tokens"]][:4] == ["BOS", "ATN", "CMD", "g"]
    assert [t["loss"] is None for t in told["tokens"]][:3] == [True, True, False]
    assert told["loss"] == pytest.approx(model.loss([257, 259, 264, *b"git add", 258], 1), rel=1e-6)
    assert all(change["change"] == 0 for change in told["changes"])


def test_a_page(run: Run, model: calmgrad.Model, tmp_path: Path) -> None:
    done = run("explain", "-m", "m.cwgt", "--text", "a</script>b", "--html", "step.html")
    assert done.stdout.split()[:2] == ["html", "step.html"]
    page = (tmp_path / "step.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("</script>") == 3
    assert f"{len(page.encode()):,}" in done.stdout
    told = json.loads(
        run("explain", "-m", "m.cwgt", "--text", "b", "--html", "t.html", "--channel", 3, "--json")
        .stdout
    )  # fmt: skip
    assert told["bytes"] == (tmp_path / "t.html").stat().st_size
    assert '"channels":[3]' in (tmp_path / "t.html").read_text(encoding="utf-8")


def test_on_a_fresh_machine(run: Run) -> None:
    done = run("explain", "--op", "nll")
    assert "a new nano (none given, and none at " in done.stderr
    assert "an invented shell session" in done.stderr
    assert "cross_entropy" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-r", "<NIX>"], 2, "there is no such token"),
        (["-r", "<BOS><ATN>"], 2, "nothing to learn"),
        (["--text", "x", "-r", "y"], 2, "exclude each other"),
        (["--text", "x", "--sequence", "1"], 2, "--sequence goes with --dataset"),
        (["--text", "x" * 767], 2, "at most l_max"),
        (["--text", "x", "--channel", "99"], 2, "channel 99: expected 0 to 31"),
        (["-d", "none.ctds"], 3, "none.ctds: no such file"),
        (["-d", "train.ctds", "--sequence", "62"], 2, "sequence 62: expected 0 to 61"),
        (["--sequence", "1000"], 2, "at most 999"),
        (["--text", "x", "--html", "no/where.html"], 5, "there is no folder"),
        (["--text", "x", "--html", "m.cwgt"], 2, "is read by this command"),
        (["--text", "x", "--html", "."], 5, "is a directory"),
    ],
)
def test_what_does_not_fit(
    model: calmgrad.Model,
    dataset: Path,
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(dataset.parent)
    monkeypatch.setenv("XDG_DATA_HOME", str(dataset.parent))
    before = Path("m.cwgt").read_bytes()
    command = ["explain", "-m", "m.cwgt", *arguments]
    with pytest.raises(calmgrad.CalmgradError, match=re.escape(message)) as caught:
        cli.main(command, prog_name="calmgrad", standalone_mode=False)
    assert caught.value.exit_code == code
    assert capsys.readouterr().out == ""
    assert Path("m.cwgt").read_bytes() == before


def test_weights_that_are_not_finite(run: Run, model: calmgrad.Model, tmp_path: Path) -> None:
    model.weights[7] = float("nan")
    model.save(tmp_path / "nan.cwgt")
    assert "nan.cwgt" in run("explain", "-m", "nan.cwgt", "--text", "x", code=3).stderr
    model.weights[:] = 1e20  # finite, and no step is
    model.save(tmp_path / "wild.cwgt")
    run("explain", "-m", "wild.cwgt", "--text", "x", code=4)


def test_names_that_are_no_text(run: Run, model: calmgrad.Model, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\x1b[31m<b>.cwgt")
    (tmp_path / "m.cwgt").rename(tmp_path / name)
    done = run("explain", "-m", name, "--text", "x")
    assert "\x1b" not in done.stdout
    assert "<b>.cwgt (custom)" in done.stdout
