"""Going on with a run: what may differ, what is refused, which checkpoint counts, what is kept."""

import json
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad.errors import DiskError, FileError, UsageError
from calmgrad.events import EpochEnd
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.resume import may_begin_in, places
from calmgrad.rundir import RunDirectory
from calmgrad.saving import FIRST_GUESS, SECONDS, SHARE, Saver
from calmgrad.shards import Runner
from tests.faults.runs import KEYS, STEPS, Outcome, stop_at, train, write_data

RUN = Path("run")
CHECKPOINTS = RUN / "checkpoints"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with two data sets, to run in."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the run comes to when it is left alone."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_data(folder)
        train(RUN)
        return Outcome.of(RUN)


def stopped(step: int = 20, **keys: Any) -> Any:
    return train(RUN, **keys, **stop_at(step))


def resume(**keys: Any) -> Any:
    return calmgrad.train(**{"resume": str(RUN), **keys})


def saved() -> list[int]:
    return sorted(checkpoints.steps_in(CHECKPOINTS))


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


# --- a signal while the validation is on ------------------------------------------------------


class Signal:
    """Ends a run while it validates after some step: at the n-th shard of that validation."""

    def __init__(self, step: int, shard: int) -> None:
        self.step, self.left, self.evaluations = step, shard, 0
        self.now = 0

    def on_step(self, report: Any) -> None:
        self.now = report.step

    def on_eval(self, evaluated: Any) -> None:
        self.evaluations += 1

    def should_stop(self) -> bool:
        # Once for the update itself, were it not due for validation.
        self.left -= self.now == self.step
        return self.left < 0

    @property
    def calls(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("on_step", "on_eval", "should_stop")}


@pytest.fixture
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sequence is a shard of its own, so that there is something between them."""
    whole = Runner.pack_targets
    monkeypatch.setattr(
        Runner, "pack_targets", lambda self, rows, positions, _=1: whole(self, rows, positions, 1)
    )


@pytest.fixture(scope="module")
def expected_of_many_shards() -> dict[str, Outcome]:
    """What that run comes to when it is left alone, once somebody has made it."""
    return {}


@pytest.mark.usefixtures("many_shards")
@pytest.mark.parametrize(("step", "shard"), [(6, 0), (24, 5), (STEPS, 3)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_validation_that_is_cut_off_is_made_again(
    step: int, shard: int, threads: int, expected_of_many_shards: dict[str, Outcome]
) -> None:
    if not expected_of_many_shards:
        train(Path("alone"))
        expected_of_many_shards["alone"] = Outcome.of(Path("alone"))
    signal = Signal(step, shard)
    result = train(RUN, threads=threads, **signal.calls)
    assert (result.steps, result.stopped) == (step, "signal")
    assert signal.evaluations == -(-step // 6)  # that before the first step, not the last one
    state = checkpoints.read_state(result.checkpoint).run
    assert state is not None
    assert state["progress"]["unvalidated"]
    again = Signal(0, 4)  # cut off once more
    assert resume(threads=threads, **again.calls).steps == step
    assert again.evaluations == 0
    resume()
    assert expected_of_many_shards["alone"].differing(Outcome.of(RUN)) == []


@pytest.mark.usefixtures("many_shards")
def test_the_end_of_an_epoch_comes_after_its_validation() -> None:
    """Here they come together, and patience counts the validation."""
    keys: dict[str, Any] = dict(eval_every=8, patience=2, lr=0.0, warmup_steps=0)
    ends: list[EpochEnd] = []
    train(Path("alone"), on_epoch=ends.append, **keys)
    cut_off: list[EpochEnd] = []
    signal = Signal(16, 2)
    train(RUN, on_epoch=cut_off.append, **keys, **signal.calls)
    assert len(cut_off) == 1
    result = resume(on_epoch=cut_off.append)
    assert (result.steps, result.stopped) == (16, "patience")
    assert [(e.epoch, e.loss) for e in cut_off] == [(e.epoch, e.loss) for e in ends]
    assert (RUN / "metrics.jsonl").read_bytes() == Path("alone/metrics.jsonl").read_bytes()


@pytest.mark.usefixtures("many_shards")
def test_a_signal_in_the_first_validation_leaves_nothing() -> None:
    result = train(RUN, **Signal(0, 3).calls)
    assert (result.steps, result.stopped, result.weights) == (0, "signal", [])
    assert result.summary()["first_loss"] is None
    assert not RUN.exists()


# --- which run, which checkpoint ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["run", "run/checkpoints", "run/checkpoints/step-000020", "auto"])
def test_ways_to_name_a_run(how: str, expected: Outcome) -> None:
    stopped()
    keys: dict[str, Any] = {"save_dir": "run"} if how == "auto" else {}
    result = calmgrad.train(resume=how, **keys)
    assert result.steps == STEPS
    assert expected.differing(Outcome.of(RUN)) == []
    summary = json.loads((RUN / "result.json").read_text())
    assert (summary["steps"], summary["stopped"]) == (STEPS, None)


def test_auto_takes_the_newest_run_with_these_settings() -> None:
    short = {**KEYS, "epochs": 1}
    for lr in (0.01, 0.02, 0.03):
        calmgrad.train(short, lr=lr, **stop_at(2))
    os.utime("runs/custom-1/checkpoints/step-000002/state.json", (1e9, 1e9))
    assert calmgrad.train(short, lr=0.02, resume="auto").run_directory == Path("runs/custom-2")
    again = calmgrad.train(short, lr=0.02, resume="auto")
    assert again.run_directory == Path("runs/custom-2")


def test_auto_with_nothing_to_resume_begins(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "calmgrad"):
        result = train(RUN, resume="auto", max_steps=2)
        assert result.steps == 2
        calmgrad.train(KEYS, resume="auto", max_steps=2, seed=1)
    assert "no run to resume in run: a new one begins" in said(caplog)
    assert "no run to resume in runs/ with these settings: a new one begins" in said(caplog)


def test_a_run_that_was_ended_before_its_first_checkpoint_begins_again() -> None:
    stopped()
    shutil.rmtree(CHECKPOINTS)
    (RUN / "model.cwgt").unlink()
    (RUN / "loss.svg").unlink()
    assert train(RUN, resume="auto", max_steps=2).steps == 2
    shutil.rmtree(CHECKPOINTS)
    with pytest.raises(UsageError, match="not empty"):  # it has weights: somebody may want them
        train(RUN, resume="auto", max_steps=2)


@pytest.mark.parametrize("path", ["none", "runs", "train.ctds", "run"])
def test_there_is_nothing_to_resume(path: str) -> None:
    Path("runs").mkdir()
    RUN.mkdir()
    with pytest.raises(FileError, match=f"{path}: no "):
        calmgrad.train(resume=path)


def test_from_another_folder(expected: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    calmgrad.train(resume="../run")
    assert expected.differing(Outcome.of(Path("../run"))) == []


def test_weights_go_where_the_run_was_to_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not over a file of that name in the folder where somebody has it go on."""
    stopped(output="out.cwgt")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    trainer_and_model()[1].save("out.cwgt")
    before = Path("out.cwgt").read_bytes()
    calmgrad.train(resume="../run", max_steps=30)
    assert Path("out.cwgt").read_bytes() == before
    assert Path("../out.cwgt").read_bytes() == Path("../run/model.cwgt").read_bytes()
    result = calmgrad.train(resume="../run", max_steps=30, output="out.cwgt")  # now it is meant
    assert result.weights == [Path("../run/model.cwgt"), Path("out.cwgt")]
    assert Path("out.cwgt").read_bytes() == Path("../run/model.cwgt").read_bytes()


def test_a_project_that_has_moved() -> None:
    """Paths begin where the run was started, unless there is nothing any more."""
    started_in = Path("before").resolve()
    values = {"model": "new", "dataset": "train.ctds", "output": "out.cwgt", "lr": 0.1}
    here = {"dataset": "train.ctds", "output": "out.cwgt"}
    assert places(values, str(started_in)) == here
    started_in.mkdir()
    assert places(values, str(started_in)) == here | {"output": str(started_in / "out.cwgt")}


def test_a_model_that_is_fine_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is replaced when the run is over, wherever that was; with EWC data along."""
    keys = {k: v for k, v in KEYS.items() if k not in ("d_model", "n_layers", "continual")}
    keys |= {"model": "m.cwgt", "ewc_lambda": 5.0, "max_steps": 10}
    first, model = trainer_and_model()
    first.compute_fisher(SEQUENCES, [0, 0])
    model.save("m.cwgt")
    before = Path("m.cwgt").read_bytes()
    calmgrad.train(keys, save_dir="alone", output="alone.cwgt")
    calmgrad.train(keys, save_dir="run", **stop_at(4))
    assert Path("m.cwgt").read_bytes() == before
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    calmgrad.train(resume="../run")
    assert Path("../m.cwgt").read_bytes() == Path("../alone.cwgt").read_bytes() != before
    assert Path("../m.cwgt.bak").read_bytes() == before


def test_a_damaged_checkpoint_is_skipped(
    expected: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(checkpoint_every=15)
    assert saved() == [15, 20]
    part = CHECKPOINTS / "step-000020" / checkpoints.TENSORS
    part.write_bytes(part.read_bytes()[:-1])
    with caplog.at_level(logging.INFO, "calmgrad"):
        resume()
    assert f"skipped a checkpoint: {part}: is damaged: its SHA-256" in said(caplog)
    assert expected.differing(Outcome.of(RUN)) == []
    assert (CHECKPOINTS / "step-000020.unused").is_dir()  # nothing was thrown away
    for step in saved():
        (CHECKPOINTS / checkpoints.step_name(step) / checkpoints.STATE).unlink()
    caplog.clear()
    message = (
        rf"run: none of its {len(saved())} checkpoints can be read: \S*40/state\.json: no such"
    )
    with pytest.raises(FileError, match=message):
        resume()
    for step in saved():
        assert f"{checkpoints.step_name(step)}/state.json: no such file" in said(caplog)


def test_from_an_earlier_checkpoint(expected: Outcome) -> None:
    stopped(checkpoint_every=12)
    calmgrad.train(resume=str(CHECKPOINTS / "step-000012"), **stop_at(14))
    assert saved() == [12, 14]
    resume()
    assert expected.differing(Outcome.of(RUN)) == []


def test_a_torn_line_is_made_whole(expected: Outcome) -> None:
    stopped()
    with (RUN / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 21, "epo')
    (RUN / ".calmgrad-1-ab.tmp").write_text("left by an interrupted writer")
    resume()
    assert expected.differing(Outcome.of(RUN)) == []
    assert not (RUN / ".calmgrad-1-ab.tmp").exists()


def test_lost_metrics_are_told(caplog: pytest.LogCaptureFixture, expected: Outcome) -> None:
    stopped()
    (RUN / "metrics.jsonl").unlink()
    with caplog.at_level(logging.INFO, "calmgrad"):
        resume()
    assert "lines before the checkpoint are missing" in said(caplog)
    assert expected.differing(Outcome.of(RUN)) == ["metrics.jsonl"]


# --- what may differ ------------------------------------------------------------------------------


def test_settings_that_may_be_others(expected: Outcome) -> None:
    stopped(threads=1)
    resume(threads=3, log_every=7, checkpoint_every=9, output="out.cwgt", device="cpu")
    assert expected.differing(Outcome.of(RUN)) == []
    assert Path("out.cwgt").read_bytes() == expected.files["model.cwgt"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"lr": 0.1}, "lr = 0.1: the run in run has 0.01, and cannot go on with another"),
    ({"batch_size": 3}, "batch_size = 3: the run in run has 4"),
    ({"d_model": 32}, "d_model = 32: the run in run has 16"),
    ({"model": "other.cwgt"}, "model = other.cwgt: the run in run has new"),
    ({"seed": 1}, "seed = 1: the run in run has 0"),
    ({"eval_every": 5}, "eval_every = 5"),
    ({"continual": {"decay": 0.1}}, r"continual\.decay = 0\.1: the run in run has 0\.5"),
    ({"save_dir": "other"}, "save_dir = other: a run goes on where it is: run"),
    ({"max_steps": 19}, "has made 20 steps already: it cannot end after 19"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=lambda value: str(value)[:20])
def test_settings_that_must_not(keys: dict[str, Any], message: str) -> None:
    stopped()
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=message):
        resume(**keys)
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    resume(max_steps=21)  # the lock is free again


def test_other_data_are_refused(expected: Outcome) -> None:
    stopped()
    Path("train.ctds").rename("moved.ctds")
    with pytest.raises(FileError, match=r"val\.ctds: not the data that the run in run began with"):
        resume(dataset="val.ctds")
    with pytest.raises(FileError, match=r"moved\.ctds: not the data"):
        resume(dataset="moved.ctds", val_dataset="moved.ctds")
    with pytest.raises(FileError, match=r"train\.ctds: no such file"):
        resume()
    resume(dataset="moved.ctds")  # the same data elsewhere
    assert expected.differing(Outcome.of(RUN)) == []


def test_no_validation_data_later() -> None:
    keys = {key: value for key, value in KEYS.items() if key not in ("val_dataset", "eval_every")}
    calmgrad.train(keys, save_dir="run", **stop_at(3))
    with pytest.raises(UsageError, match="has no validation data"):
        resume(val_dataset="val.ctds")


def test_the_mean_of_an_epoch_that_was_interrupted() -> None:
    whole: list[EpochEnd] = []
    train(Path("whole"), on_epoch=whole.append)
    stopped(20)  # four steps into the third epoch
    rest: list[EpochEnd] = []
    resume(on_epoch=rest.append)
    assert [(end.epoch, end.loss) for end in rest] == [(e.epoch, e.loss) for e in whole[2:]]


def test_a_finished_run_has_nothing_to_do(caplog: pytest.LogCaptureFixture) -> None:
    first = train(RUN, max_steps=6)
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    with caplog.at_level(logging.INFO, "calmgrad"):
        again = resume()
    assert "ended after step 6; more --epochs or --max-steps would prolong it" in said(caplog)
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    assert again.steps == 6
    assert again.last_loss == first.last_loss
    assert np.array_equal(again.model.weights, first.model.weights)


def test_a_finished_run_can_be_prolonged(expected: Outcome) -> None:
    """Without a cosine, it is the run that was to be longer from the start."""
    flat = {"warmup_steps": 0}
    train(RUN, epochs=3, **flat)
    resume(epochs=5)
    train(Path("longer"), **flat)
    assert Outcome.of(Path("longer")).differing(Outcome.of(RUN)) == []
    assert "epochs = 5" in (RUN / "config.toml").read_text()


def test_patience_is_remembered() -> None:
    ruin = {"lr": 3.0, "warmup_steps": 0, "grad_clip": 0.1, "eval_every": 1, "patience": 6}
    alone = train(Path("alone"), **ruin)
    assert alone.stopped == "patience"
    stopped(alone.steps - 3, **ruin)
    result = resume()
    assert (result.stopped, result.steps) == ("patience", alone.steps)
    for name in ("model.cwgt", "metrics.jsonl"):
        assert (RUN / name).read_bytes() == Path("alone", name).read_bytes()
    assert resume().stopped == "patience"
    assert resume(patience=8).steps == alone.steps + 2


def test_killed_between_the_last_checkpoint_and_the_weights(expected: Outcome) -> None:
    train(RUN)
    (RUN / "result.json").unlink()
    (RUN / "model.cwgt").unlink()
    resume()
    assert expected.differing(Outcome.of(RUN)) == []


def test_another_version_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped()
    monkeypatch.setattr(np, "__version__", "9.9")
    with caplog.at_level(logging.INFO, "calmgrad"):
        resume()
    assert "numpy is 9.9, was " in said(caplog)


# --- what is written, and kept --------------------------------------------------------------------


def test_the_last_two_and_the_best_are_kept() -> None:
    # After a good start, a learning rate that ruins the model.
    result = train(RUN, checkpoint_every=2, max_steps=7, lr=0.2, warmup_steps=0, eval_every=2)
    assert result.best is not None
    assert result.best.step == 2
    assert saved() == [2, 6, 7]
    assert result.checkpoint == CHECKPOINTS / checkpoints.step_name(result.steps)
    best = calmgrad.load_model(CHECKPOINTS / checkpoints.step_name(result.best.step) / "model.cwgt")
    assert np.array_equal(best.weights, result.model.weights)
    assert np.array_equal(calmgrad.load_model(RUN / "model.cwgt").weights, best.weights)


def test_export_last() -> None:
    ruin = {"lr": 3.0, "warmup_steps": 0, "grad_clip": 0.1, "eval_every": 2, "epochs": 2}
    best, last = (train(Path(export), export=export, **ruin) for export in ("best", "last"))
    newest = calmgrad.load_model(Path("best/checkpoints/step-000016/model.cwgt"))
    assert np.array_equal(last.model.weights, newest.weights)
    assert not np.array_equal(best.model.weights, newest.weights)


def test_force_sets_checkpoints_aside() -> None:
    train(RUN, max_steps=3)
    train(RUN, max_steps=2, force=True, seed=1)
    assert saved() == [2]
    assert (RUN / "checkpoints.old" / "step-000003").is_dir()
    with pytest.raises(UsageError, match="--resume goes on with the run in it, --force begins"):
        train(RUN, max_steps=2)


def test_a_second_writer_is_refused() -> None:
    stopped()
    errors: list[UsageError] = []

    def second(_: object) -> None:
        with pytest.raises(UsageError, match="another run is writing") as caught:
            resume()
        errors.append(caught.value)

    resume(on_step=second, max_steps=22)
    assert len(errors) == 2


def test_checkpoints_come_with_time_and_cost_little() -> None:
    now = 0.0
    saver = Saver(Path("many"), None, clock=lambda: now)
    model = calmgrad.new_model(d_model=16, n_layers=1)
    due_at = []
    with calmgrad.Trainer(model, threads=1) as trainer:
        for step in range(1, 10_001):
            now += 0.1
            if saver.due(step):
                due_at.append(now)
                cost = 3.0  # a slow disk

                def gather(cost: float = cost) -> checkpoints.Checkpoint:
                    nonlocal now
                    now += cost
                    return trainer.checkpoint()

                saver.save(step, gather, None)
    assert due_at[0] == pytest.approx(SECONDS, abs=0.2)
    assert np.diff(due_at).min() >= SECONDS
    assert saver.count == len(due_at) == 3
    assert saver.seconds <= SHARE * now + 3.0
    quick = Saver(Path("quick"), 3, clock=lambda: now)
    quick.wish()
    assert [step for step in range(1, 10) if quick.due(step)] == [3, 6, 9]
    now += FIRST_GUESS / SHARE
    assert quick.due(10)  # something worth keeping, and time enough has gone by


# --- scripts --------------------------------------------------------------------------------------

SEQUENCES = [[257, *b"git add", 258], [257, *b"ls", 258]]


def trainer_and_model(**keys: Any) -> tuple[calmgrad.Trainer, calmgrad.Model]:
    model = calmgrad.new_model(d_model=16, n_layers=1, seed=3)
    return calmgrad.Trainer(model, **{"lr": 0.01, "threads": 1, **keys}), model


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_script_goes_on(optimizer: str) -> None:
    first, model = trainer_and_model(optimizer=optimizer)
    first.compute_fisher(SEQUENCES, [0, 0])
    first.step(SEQUENCES, [0, 0])
    first.set_lr(0.02)
    first.accumulate(SEQUENCES[0])
    for epoch in (3, 4):  # the second takes the place of the first
        first.save_checkpoint("mine", extra={"epoch": epoch})
    second, other = trainer_and_model(optimizer=optimizer, threads=2)
    assert second.load_checkpoint("mine") == {"epoch": 4}
    assert (second.updates, second.lr) == (1, 0.02)
    for trainer in (first, second):
        trainer.accumulate(SEQUENCES[1])
        trainer.update()
        trainer.step(SEQUENCES, [0, 0])
    assert np.array_equal(model.weights, other.weights)
    assert model.fisher is not None
    assert other.fisher is not None
    assert np.array_equal(model.fisher, other.fisher)


def test_a_checkpoint_of_another_thread_is_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, model = trainer_and_model()
    step = threading.Thread(target=trainer.step, args=(SEQUENCES, [0, 0]))
    write = checkpoints.write

    def meanwhile(path: Any, checkpoint: checkpoints.Checkpoint) -> None:
        step.start()
        step.join(0.1)
        assert step.is_alive()
        write(path, checkpoint)

    before = model.weights.copy()
    monkeypatch.setattr(checkpoints, "write", meanwhile)
    trainer.save_checkpoint("mine")
    step.join(60)
    np.testing.assert_array_equal(checkpoints.read("mine").model.weights, before)
    assert trainer.updates == 1
    assert (model.weights != before).any()


def test_a_checkpoint_of_a_script_must_fit() -> None:
    first, _ = trainer_and_model()
    first.save_checkpoint("mine")
    second, model = trainer_and_model(beta1=0.8)
    before = model.weights.copy()
    with pytest.raises(ValueError, match=r"beta1 = 0\.8: the checkpoint was made with 0\.9"):
        second.load_checkpoint("mine")
    with pytest.raises(FileError, match="none: no such checkpoint"):
        second.load_checkpoint("none")
    assert np.array_equal(model.weights, before)
    larger = calmgrad.Trainer(calmgrad.new_model(d_model=32, n_layers=1))
    with pytest.raises(ValueError, match="the checkpoint's model is"):
        larger.load_checkpoint("mine")
    with pytest.raises(FileError, match="a checkpoint of a script, not one of a run"):
        calmgrad.train(resume="mine")


def test_the_last_step_of_a_run_from_a_script() -> None:
    """A run's checkpoint goes into a trainer with the same options."""
    plain = {key: value for key, value in KEYS.items() if key != "continual"}
    calmgrad.train(plain, save_dir="run", **stop_at(20))
    state = checkpoints.read_state(CHECKPOINTS / "step-000020")
    assert state.run is not None
    options: dict[str, Any] = {
        key: value for key, value in state.training.options.items() if key != "shard_tokens"
    }
    trainer, _ = trainer_and_model(**options)
    assert trainer.load_checkpoint(CHECKPOINTS / "step-000020") is None
    assert trainer.updates == 20


# --- a finished run that is to end otherwise ------------------------------------------------------


def test_a_finished_run_gives_its_weights_to_another_file() -> None:
    train(RUN)
    result = resume(output="other.cwgt")
    assert Path("other.cwgt") in result.weights
    assert Path("other.cwgt").read_bytes() == (RUN / "model.cwgt").read_bytes()


def test_a_finished_run_exports_the_last_weights() -> None:
    best = train(RUN)
    last = checkpoints.read(best.checkpoint).model.weights
    result = resume(export="last")
    for model in (result.model, calmgrad.load_model(RUN / "model.cwgt")):
        np.testing.assert_array_equal(model.weights, last)
    again = resume()  # the choice is the run's from now on
    np.testing.assert_array_equal(again.model.weights, last)


def test_an_earlier_checkpoint_of_a_finished_run_as_its_end() -> None:
    train(RUN, checkpoint_every=10)
    step, newest = saved()[-2:]
    assert step < newest
    result = resume(resume=str(CHECKPOINTS / f"step-{step:06d}"), max_steps=step)
    assert result.steps == step
    assert json.loads((RUN / "result.json").read_text())["steps"] == step
    lines = (RUN / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in lines) == step


@pytest.mark.parametrize("name", ["metrics.jsonl", "train.log"])
def test_a_fifo_in_the_place_of_a_run_s_file(name: str) -> None:
    RUN.mkdir()
    os.mkfifo(RUN / name)
    with pytest.raises(DiskError, match=f"{name}: is a FIFO"):
        train(RUN, force=True)


def test_killed_before_the_first_checkpoint_again_and_again() -> None:
    """What such a run leaves behind never keeps the next one from beginning."""
    RUN.mkdir()
    for _ in range(3):
        for name in ("config.toml", "metrics.jsonl", "train.log"):
            (RUN / name).touch()
        (CHECKPOINTS / ".calmgrad-1-abcd.tmp").mkdir(parents=True, exist_ok=True)
        directory = RunDirectory(str(RUN), "", force=may_begin_in(RUN))
        directory.open("")  # and here it is killed
        directory.close()
    assert train(RUN, resume="auto", max_steps=2).steps == 2
