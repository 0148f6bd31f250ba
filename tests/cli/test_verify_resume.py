"""calmgrad verify-resume."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from calmgrad.cli import verify_resume
from calmgrad.errors import CheckFailed
from tests.cli.conftest import Run


def test_a_run_that_goes_on_as_it_should(run: Run, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('model = "new"\nd_model = 16\nn_layers = 1\nbatch_size = 4\n')
    arguments = ["-d", dataset, "--config", "s.toml", "--steps", 12, "--threads", 1, "--json"]
    done = run("verify-resume", *arguments)
    found = json.loads(done.stdout)
    assert found["differing"] == []
    ended = [leg["ended"] for leg in found["legs"]]
    assert ended == ["Ctrl-C", "kill -9", "power cut", "TERM", "end"]
    assert [leg["threads"] for leg in found["legs"]] == [1, 1, 1, 1, 2]
    assert found["legs"][-1]["last_step"] == 12
    for before, after in zip(found["legs"], found["legs"][1:], strict=False):
        assert after["first_step"] <= before["last_step"] + 1
    assert {path.name for path in tmp_path.iterdir()} == {"train.ctds", "s.toml"}


def test_a_difference_is_found(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Legs that only pretend: the last one leaves other weights."""

    def pretend(config: Path, run: Path, *_: object) -> verify_resume.Leg:
        run.mkdir(exist_ok=True)
        for name in verify_resume.COMPARED:
            same = name == "metrics.jsonl"
            (run / name).write_text("x" if same else run.name)
        return verify_resume.Leg("end", 1, 8, 1)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verify_resume, "_leg", pretend)
    monkeypatch.setattr(verify_resume, "_cut_power", lambda run: None)
    done = CliRunner().invoke(verify_resume.command, ["-d", str(dataset), "--json"])
    assert json.loads(done.stdout)["differing"] == ["model.cwgt"]
    assert isinstance(done.exception, CheckFailed)


def test_too_few_steps_for_four_interruptions(run: Run, dataset: Path) -> None:
    """The power cut needs a whole checkpoint before the one that it takes."""
    assert "x>=12" in run("verify-resume", "-d", dataset, "--steps", 11, code=2).stderr


def test_what_is_wrong_with_the_run_is_told(run: Run, tmp_path: Path) -> None:
    done = run("verify-resume", "-d", "none.ctds", code=3)
    assert "error: the run to try: none.ctds: no such file" in done.stderr
    assert list(tmp_path.iterdir()) == []
