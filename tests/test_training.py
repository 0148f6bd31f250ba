"""`calmgrad.train`: a whole run as a function call."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad import memory
from calmgrad.config import ModelConfig
from calmgrad.cutting import pack_targets
from calmgrad.errors import DivergedError, UsageError
from calmgrad.events import EpochEnd, Evaluated, Prepared, Result
from calmgrad.loop import Report
from calmgrad.settings import read_config
from calmgrad.starting import duration
from calmgrad.tokenizer import encode_raw
from calmgrad.worker import Worker, loss_head

KEYS: dict[str, Any] = {
    "model": "new",
    "d_model": 16,
    "n_layers": 1,
    "dataset": "train.ctds",
    "epochs": 2,
    "batch_size": 8,
    "lr": 0.01,
    "warmup_steps": 3,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with two data sets, to run in."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    words = [b"git add", b"git commit", b"ls", b"make test", b"vim"]
    for name, count in (("train", 60), ("val", 20)):
        rows = [
            [257, *b" ".join(words[k] for k in rng.integers(0, 5, 3)), 258] for _ in range(count)
        ]
        calmgrad.write_dataset(f"{name}.ctds", rows, [0] * count)
    return tmp_path


def lines(result: Result) -> list[dict[str, Any]]:
    text = (result.run_directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_callbacks_and_files() -> None:
    seen: list[Any] = []
    result = calmgrad.train(
        KEYS, val_dataset="val.ctds", on_start=seen.append, on_step=seen.append,
        on_epoch=seen.append, on_eval=seen.append, on_checkpoint=seen.append,
    )  # fmt: skip
    kinds = [type(event) for event in seen]
    assert kinds[:3] == [Prepared, Evaluated, Report]
    assert kinds.count(Report) == result.steps == 16
    assert kinds.count(EpochEnd) == 2
    assert kinds.count(Evaluated) == 3  # before, and after each epoch
    assert seen[-1] == result.run_directory / "model.cwgt" == result.weights[0]
    files = {p.name for p in result.run_directory.iterdir()}
    logs = {"config.toml", "metrics.jsonl", "train.log", "loss.svg", "result.json"}
    assert files == {*logs, "checkpoints", "model.cwgt"}

    steps = [line for line in lines(result) if "loss" in line]
    reports = [event for event in seen if isinstance(event, Report)]
    assert [line["loss"] for line in steps] == [r.loss for r in reports]
    assert [line["step"] for line in steps] == list(range(1, 17))
    assert [r.epoch for r in reports] == [1] * 8 + [2] * 8
    assert reports[0].lr == pytest.approx(0.01 / 3)
    losses = [r.loss for r in reports]
    assert result.first_loss == pytest.approx(losses[0])
    assert result.last_loss == pytest.approx(losses[-1])
    ends = [event for event in seen if isinstance(event, EpochEnd)]
    assert ends[1].loss == pytest.approx(np.mean(losses[8:]))
    assert "<svg" in (result.run_directory / "loss.svg").read_text()
    said = (result.run_directory / "train.log").read_text()
    assert "saved" in said
    assert "MB in use at the end" in said
    assert result.model.loss([257, *b"ls", 258]) > 0


def test_the_settings_of_a_run_give_the_same_run_again() -> None:
    first = calmgrad.train(KEYS)
    config, _ = read_config(first.run_directory / "config.toml")
    calmgrad.train(config, save_dir="again")
    for name in ("model.cwgt", "metrics.jsonl"):
        assert (first.run_directory / name).read_bytes() == (Path("again") / name).read_bytes()


def test_accumulation_is_a_larger_batch() -> None:
    large = calmgrad.train(KEYS, batch_size=16)
    parts = calmgrad.train(KEYS, batch_size=4, accumulation=4)
    assert parts.steps == large.steps == 8
    assert np.array_equal(parts.model.weights, large.model.weights)
    mamba = []
    parts_of_16: list[dict[str, Any]] = [{"batch_size": 16}, {"batch_size": 4, "accumulation": 4}]
    for sizes in parts_of_16:
        sizes = {**sizes, "rules": "calm-mamba", "epochs": 1, "warmup_steps": 0}
        mamba.append(calmgrad.train({**KEYS, **sizes}))
    assert not np.array_equal(mamba[0].model.weights, mamba[1].model.weights)


def test_batches_bounded_by_tokens() -> None:
    reports: list[Report] = []
    result = calmgrad.train(KEYS, batch_tokens=150, on_step=reports.append)
    assert all(r.tokens <= 150 for r in reports)
    assert max(r.tokens for r in reports) > 100
    assert sum(r.sequences for r in reports) == 120
    assert result.steps == len(reports) == reports[0].steps


def test_the_best_weights_are_kept() -> None:
    evaluated: list[Evaluated] = []
    # After a good start, a learning rate that ruins the model.
    result = calmgrad.train(
        KEYS, val_dataset="val.ctds", epochs=3, lr=3.0, warmup_steps=0, eval_every=1,
        patience=4, on_eval=evaluated.append, grad_clip=0.1,
    )  # fmt: skip
    best = min(evaluated, key=lambda e: e.loss)
    assert result.best == best
    assert evaluated[-1].loss > best.loss
    assert result.stopped == "patience"
    assert evaluated[-1].step - best.step == 4
    data = calmgrad.load_dataset("val.ctds")
    losses = [result.model.loss(tokens, position) for tokens, position in data]
    counts = [len(tokens) - 1 for tokens, _ in data]
    assert np.average(losses, weights=counts) == pytest.approx(best.loss, rel=1e-5)
    saved = calmgrad.load_model(result.weights[0])
    assert np.array_equal(saved.weights, result.model.weights)


def test_should_stop_saves_and_ends() -> None:
    reports: list[Report] = []
    calmgrad.new_model(d_model=16, n_layers=1).save("m.cwgt")
    before = Path("m.cwgt").read_bytes()
    keys = {k: v for k, v in KEYS.items() if k not in ("d_model", "n_layers")}
    result = calmgrad.train(
        keys, model="m.cwgt", on_step=reports.append, should_stop=lambda: len(reports) == 5
    )
    assert (result.steps, result.stopped) == (5, "signal")
    assert result.weights == [result.run_directory / "model.cwgt"]
    assert Path("m.cwgt").read_bytes() == before  # an unfinished run replaces nothing


def test_a_stopped_run_keeps_its_last_weights() -> None:
    """Not the best evaluated ones: they may be those of step 0."""
    reports: list[Report] = []
    result = calmgrad.train(
        KEYS, val_dataset="val.ctds", on_step=reports.append,
        should_stop=lambda: len(reports) == 5,
    )  # fmt: skip
    assert result.best is not None
    assert result.best.step == 0
    five = calmgrad.train(KEYS, max_steps=16, should_stop=lambda: len(reports) >= 5)
    saved = calmgrad.load_model(result.weights[0])
    assert np.array_equal(saved.weights, result.model.weights)
    start = calmgrad.new_model(d_model=16, n_layers=1, domain="shell").weights
    assert not np.array_equal(saved.weights, start)
    assert five.steps == 1


def test_the_best_weights_so_far_are_on_disk() -> None:
    steps: list[int] = []
    saved: list[tuple[int, Path]] = []
    seen: dict[int, bytes] = {}

    def look(path: Path) -> None:
        saved.append((len(steps), path))
        if (weights := path.parents[1] / "model.cwgt").exists():
            seen[len(steps)] = weights.read_bytes()

    calmgrad.train(
        KEYS, val_dataset="val.ctds", eval_every=4, checkpoint_every=5, on_checkpoint=look,
        on_step=lambda r: steps.append(r.step),
    )  # fmt: skip
    assert [step for step, _ in saved] == [5, 10, 15, 16, 16]
    early = calmgrad.train(
        KEYS, max_steps=16, save_dir="early", on_step=lambda r: steps.append(r.step),
        should_stop=lambda: steps[-1] == 4,
    )  # fmt: skip
    assert seen[10] == early.weights[0].read_bytes()  # those of step 4, written with step 5's


def test_the_log_tells_all_and_only_of_its_run() -> None:
    import threading

    results: list[Result] = []

    def run(name: str) -> None:
        results.append(calmgrad.train(KEYS, save_dir=name, threads=1))

    threads = [threading.Thread(target=run, args=(f"r{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    weights = {result.weights[0].read_bytes() for result in results}
    assert len(weights) == 1  # and BLAS had one thread all the time
    for result in results:
        text = (result.run_directory / "train.log").read_text()
        assert text.count("step 16/16") == 1
        assert text.count("model    new") == text.count("60 sequences") == 1


@pytest.mark.parametrize(
    ("sequence", "atn", "keys", "names"),
    [
        ("<BOS>A line.<EOS>", 0, {"domain": "shell"}, "shell has ATN and CMD,"),
        ("<BOS>A line.<EOS>", 0, {"domain": "prose"}, "prose has ATN,"),
        ("<BOS>A line.<EOS>", 0, {"domain": "prose", "template": "BOS"}, None),
        ("<BOS>A line.<EOS>", 0, {"domain": "netref"}, None),
        ("<BOS><ATN><CMD>ls<EOS>", 1, {"domain": "shell"}, None),
        ("<BOS><WORD>ship<ATN><DEF>A boat.<END><EOS>", 6, {"domain": "dictionary"}, None),
        ("<BOS><WORD>ship<ATN><DEF>A boat.<END><EOS>", 6, {}, "shell has CMD,"),
        ("<BOS><ATN><CMD>ls<EOS>", 1, {"template": "BOS;HIST:past*"}, None),  # takes no text
    ],
)
def test_prompts_that_the_data_do_not_know(
    sequence: str, atn: int, keys: dict[str, Any], names: str | None
) -> None:
    calmgrad.write_dataset("some.ctds", [encode_raw(sequence)] * 3, [atn] * 3)
    result = calmgrad.train(KEYS, dataset="some.ctds", max_steps=1, **keys)
    text = (result.run_directory / "train.log").read_text()
    assert ("every prompt" in text) == (names is not None)
    assert (names or "") in text


def test_numbers_and_files_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'model = "new"\nd_model = 16\nn_layers = 1\ndataset = "train.ctds"\nmax_steps = 2\n'
    )
    result = calmgrad.train("run.toml", batch_size=np.int64(4), lr=np.float32(0.5))
    assert result.steps == 2


def test_divergence_leaves_no_weights() -> None:
    with pytest.raises(DivergedError):
        calmgrad.train(KEYS, lr=1e30, warmup_steps=0, save_dir="r", output="out.cwgt")
    assert not Path("out.cwgt").exists()
    assert {p.name for p in Path("r").iterdir()} == {"config.toml", "metrics.jsonl", "train.log"}
    metrics = Path("r/metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in metrics)


def test_online_ewc_follows_the_data() -> None:
    continual = {
        "method": "online_ewc", "lambda": 5.0, "decay": 0.5,
        "fisher_update_interval_steps": 4, "fisher_batches": 2, "buffer_batches": 3,
    }  # fmt: skip
    plain = calmgrad.train(KEYS)
    result = calmgrad.train(KEYS, continual=continual)
    model = result.model
    assert model.fisher is not None
    assert model.anchor is not None
    assert model.fisher.max() > 0
    # The last of 16 updates renewed the data: the anchor is what the run ended with.
    assert np.array_equal(model.anchor, model.weights)
    assert not np.array_equal(plain.model.weights, model.weights)
    saved = calmgrad.load_model(result.weights[0])
    assert saved.fisher is not None
    assert np.array_equal(saved.fisher, model.fisher)
    calmgrad.train(KEYS, continual=continual, rules="calm-mamba")


def test_logging_not_printing(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "calmgrad"):
        calmgrad.train(KEYS)
    talk = caplog.text
    for part in ("60 sequences", "16 steps in 2 epochs", "c-engine", "memory", "step 16/16"):
        assert part in talk
    assert capsys.readouterr() == ("", "")


def test_environment_goes_after_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALMGRAD_NUM_THREADS", "0")
    with pytest.raises(UsageError, match="CALMGRAD_NUM_THREADS"):
        calmgrad.train(KEYS)
    monkeypatch.setenv("CALMGRAD_NUM_THREADS", "1")
    result = calmgrad.train(KEYS, threads=2, max_steps=1)
    assert "threads = 2" in (result.run_directory / "config.toml").read_text()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"leraning_rate": 1}, "leraning_rate"),
        ({"lr": "fast"}, "lr"),
        ({"model": "new", "l_max": 0}, "l_max"),
        ({"template": "BOS;CWD:cwd;NOPE:x"}, "template entry 'NOPE:x': there is no token NOPE"),
        ({"report_to": ["tensorboard"]}, "pip install 'calmgrad"),
    ],
)
def test_bad_settings(keys: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(UsageError, match=message):
        calmgrad.train({**KEYS, **keys})


def test_a_failed_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(UsageError, match="tensorboard"):
        calmgrad.train(KEYS, save_dir="new", report_to=["tensorboard"])
    assert not Path("new").exists()
    Path("old").mkdir()
    Path("old/notes.txt").touch()
    with pytest.raises(UsageError, match="tensorboard"):
        calmgrad.train(KEYS, save_dir="old", force=True, report_to=["tensorboard"])
    assert Path("old/notes.txt").exists()


@pytest.mark.parametrize("sizes", [{}, {"d_model": 96, "n_layers": 5, "ffn_expand": 3}])
def test_memory_forecast(sizes: dict[str, int]) -> None:
    config = ModelConfig(**sizes)
    model = calmgrad.new_model(**sizes)  # type: ignore[arg-type]
    sequences = [np.full(128, 65) for _ in range(4)]
    [shard, *_], _ = pack_targets(sequences, [0] * 4, 10**6)
    from calmgrad import backend

    worker = Worker(backend.load("cpu"), config, model.weights)
    for _ in range(2):
        worker.run(shard, loss_head, np.ones(shard.tokens.size, np.float32))
    arenas = worker.tape.values, worker.tape.pool.arena
    used = 4 * sum(arena.mark()[1] for arena in arenas)  # of the second pass: one block each
    forecast = memory.activations(config, shard.tokens.size, len(shard.rows))
    assert forecast == pytest.approx(used, rel=0.05)


def test_duration() -> None:
    assert [duration(s) for s in (3, 89, 600, 11_100)] == ["3 s", "89 s", "10 min", "3 h 05 min"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (dict(max_steps=1, epochs=10, batch_size=64), "1 step, 1 epoch,"),
        (dict(max_steps=3, epochs=2, batch_size=32), "3 steps, 1.5 epochs,"),
        (dict(max_steps=121, epochs=999, batch_size=64), "121 steps, 121 epochs,"),
        (dict(epochs=1, batch_size=32), "2 steps in 1 epoch,"),
    ],
)
def test_the_length_of_a_run_is_told(
    keys: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    calmgrad.write_dataset("length.ctds", [[257, 65, 66, 67, 258]] * 64, [0] * 64)
    with caplog.at_level("INFO", "calmgrad.run"):
        calmgrad.train(dataset="length.ctds", model="new", d_model=16, n_layers=1, **keys)
    [line] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("run ")]
    assert line.startswith(f"run      {told}")
