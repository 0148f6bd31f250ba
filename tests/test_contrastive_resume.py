"""Contrastive runs that were ended go on as if nothing had happened."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad.contrastive import train_contrastive
from calmgrad.contrastive.events import Result
from calmgrad.errors import CalmgradError, FileError, UsageError
from calmgrad.rundir import RunDirectory
from calmgrad.settings import TrainConfig

GIVEN: dict[str, Any] = dict(
    d_model=16, n_layers=1, batch_size=8, lr=1e-2, warmup_steps=0, epochs=3, eval_every=2,
    threads=1, checkpoint_every=1,
)  # fmt: skip


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    letters = np.random.default_rng(0).choice(list("abcdefghijklm"), (24, 6))
    words = ["".join(row) for row in letters]
    blocks = [f"<QUERY>{word.upper()}\n<ATN>\n<REF>{word} {word} {word}" for word in words]
    (tmp_path / "pairs.txt").write_text("\n\n".join(blocks))
    return "pairs.txt"


def run(pairs: str, folder: str, stop_after: int | None = None, **keys: Any) -> Result:
    config = TrainConfig(dataset=pairs, val_dataset=pairs, save_dir=folder, **(GIVEN | keys))
    return ended(config, stop_after)


def ended(config: TrainConfig, stop_after: int | None = None) -> Result:
    steps: list[Any] = []
    stop = None if stop_after is None else lambda: len(steps) >= stop_after
    return train_contrastive(config, on_step=steps.append, should_stop=stop)


@pytest.mark.parametrize("step", [1, 3, 4, 8])
def test_a_resumed_run_ends_with_the_same_bytes(pairs: str, step: int) -> None:
    whole = run(pairs, "whole")
    assert whole.steps == 9
    run(pairs, "parts", step)
    again = ended(TrainConfig(resume="parts", threads=2))
    assert again.run_directory == Path("parts")
    for name in ("model.cwgt", "metrics.jsonl"):
        assert (Path("parts") / name).read_bytes() == (Path("whole") / name).read_bytes(), name
    assert again.best == whole.best
    assert (again.first_loss, again.last_loss) == (whole.first_loss, whole.last_loss)


@pytest.mark.parametrize("step", [0, 4, 9])
def test_a_validation_that_is_cut_off_is_made_again(pairs: str, step: int) -> None:
    whole = run(pairs, "whole")
    now = [0]

    def note(report: Any) -> None:
        now[0] = report.step

    config = TrainConfig(dataset=pairs, val_dataset=pairs, save_dir="parts", **GIVEN)
    result = train_contrastive(config, on_step=note, should_stop=lambda: now[0] == step)
    assert (result.steps, result.stopped) == (step, "signal")
    if step == 0:
        assert result.weights == []
        assert not Path("parts").exists()
        return
    looked: list[Any] = []
    resumed = TrainConfig(resume="parts")
    again = train_contrastive(resumed, on_eval=looked.append, should_stop=lambda: True)
    assert (again.steps, looked) == (step, [])
    again = ended(resumed)
    for name in ("model.cwgt", "metrics.jsonl"):
        assert (Path("parts") / name).read_bytes() == (Path("whole") / name).read_bytes(), name
    assert again.best == whole.best


def test_from_an_earlier_checkpoint(pairs: str) -> None:
    """The steps after it are made again: nobody goes on from what they were before."""
    whole = run(pairs, "whole")
    run(pairs, "parts", 5, checkpoint_every=3)
    assert ended(TrainConfig(resume="parts/checkpoints/step-000003"), 1).steps == 4
    assert (Path("parts/checkpoints") / "step-000005.unused").is_dir()
    ended(TrainConfig(resume="parts"))
    for name in ("model.cwgt", "metrics.jsonl"):
        assert (Path("parts") / name).read_bytes() == (whole.run_directory / name).read_bytes()


def test_weights_go_where_the_run_was_to_put_them(
    pairs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not over a file of that name in the folder where somebody has it go on."""
    run(pairs, "parts", 2, output="out.cwgt")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    calmgrad.new_model(d_model=16, n_layers=1, seed=9).save("out.cwgt")
    before = Path("out.cwgt").read_bytes()
    ended(TrainConfig(resume="../parts"))
    assert Path("out.cwgt").read_bytes() == before
    assert Path("../out.cwgt").read_bytes() == Path("../parts/model.cwgt").read_bytes()


def test_the_folder_of_a_run_that_did_nothing_goes_while_it_is_locked(
    pairs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it may be another run's by then."""
    discard = RunDirectory.discard
    refused = []

    def with_another_run(directory: RunDirectory) -> None:
        with pytest.raises(UsageError, match="another run is writing") as caught:
            RunDirectory.existing(directory.path)
        refused.append(caught.value)
        discard(directory)

    monkeypatch.setattr(RunDirectory, "discard", with_another_run)
    assert run(pairs, "parts", 0).steps == 0
    assert len(refused) == 1
    assert not Path("parts").exists()


def test_each_damaged_checkpoint_is_told(pairs: str, caplog: pytest.LogCaptureFixture) -> None:
    run(pairs, "parts", 3)
    states = sorted(Path("parts/checkpoints").glob("*/state.json"))
    assert len(states) > 1
    for path in states:
        path.write_text("{")
    with pytest.raises(FileError, match=f"none of its {len(states)} checkpoints can be read"):
        ended(TrainConfig(resume="parts"))
    assert all(str(path) in caplog.text for path in states)


def test_patience_goes_on_counting(pairs: str) -> None:
    keys: dict[str, Any] = dict(val_dataset=None, lr=0.0, patience=2, epochs=9, shuffle=False)
    config = TrainConfig(dataset=pairs, save_dir="whole", **(GIVEN | keys))
    assert ended(config).steps == 9  # the second and the third epoch were no better
    ended(TrainConfig(dataset=pairs, save_dir="parts", **(GIVEN | keys)), 7)
    again = ended(TrainConfig(resume="parts"))
    assert (again.steps, again.stopped) == (9, "patience")


def test_a_killed_run_goes_on_from_its_last_checkpoint(pairs: str) -> None:
    whole = run(pairs, "whole")

    def die(report: Any) -> None:
        if report.step == 6:
            raise RuntimeError("killed")

    given = GIVEN | {"checkpoint_every": 4}
    config = TrainConfig(dataset=pairs, val_dataset=pairs, save_dir="parts", **given)
    with pytest.raises(RuntimeError):
        train_contrastive(config, on_step=die)
    again = ended(TrainConfig(resume="parts"))
    assert again.model.weights.tobytes() == whole.model.weights.tobytes()
    assert (Path("parts") / "metrics.jsonl").read_bytes() == (
        Path("whole") / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"resume": "none"}, UsageError, "none: no such run directory"),
        ({"resume": "empty"}, FileError, "empty: no checkpoint to resume from"),
        ({"resume": "lm"}, FileError, "not of a contrastive run"),
        ({"lr": 0.5}, UsageError, "lr = 0.5: the run in parts has 0.01"),
        ({"max_steps": 1}, UsageError, "has made 2 steps already"),
        ({"dataset": "other.txt"}, FileError, "other.txt: not the pairs that"),
    ],
)
def test_what_is_refused(
    pairs: str, keys: dict[str, Any], error: type[CalmgradError], message: str
) -> None:
    run(pairs, "parts", 2)
    Path("empty").mkdir()
    Path("other.txt").write_text(Path(pairs).read_text().replace("a", "z"))
    if keys.get("resume") == "lm":
        calmgrad.write_dataset("lm.ctds", [[65, 66, 67, 68, 69]] * 4, [0] * 4)
        calmgrad.train(
            dataset="lm.ctds", model="new", d_model=16, n_layers=1, max_steps=2, save_dir="lm"
        )
    before = sorted(str(p) for p in Path("parts").rglob("*"))
    with pytest.raises(error, match=message):
        train_contrastive(TrainConfig(**({"resume": "parts"} | keys)))
    assert sorted(str(p) for p in Path("parts").rglob("*")) == before
    assert ended(TrainConfig(resume="parts")).steps == 9  # the lock is free, the run is whole


def test_another_temperature_is_refused(pairs: str) -> None:
    run(pairs, "parts", 2)
    with pytest.raises(UsageError, match=r"temperature = 0.5: the run has 0.07"):
        train_contrastive(TrainConfig(resume="parts"), temperature=0.5)
