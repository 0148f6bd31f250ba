"""Contrastive steps, and whole runs on pair files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import calmgrad
from calmgrad import backend as backends
from calmgrad.contrastive import train_contrastive
from calmgrad.contrastive.events import Evaluated, Result
from calmgrad.errors import CalmgradError, FileError, UsageError
from calmgrad.layout import views
from calmgrad.loop import Report
from calmgrad.model import Model
from calmgrad.network import embeddings
from calmgrad.ops.basic import getitem
from calmgrad.ops.infonce import infonce
from calmgrad.packing import Packing
from calmgrad.retrieval import (
    evaluate_pairs,
    load_pairs,
    ranks_of,
    retrieval,
    without_repeats,
)
from calmgrad.schedule import Schedule
from calmgrad.settings import TrainConfig
from calmgrad.shards import Runner
from calmgrad.tape import Tape

Sequences = list[NDArray[np.int64]]


def small(seed: int = 0) -> Model:
    return calmgrad.new_model(d_model=24, n_layers=2, l_max=120, seed=seed)


def sequences(count: int, seed: int, longest: int = 60) -> Sequences:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, n) for n in rng.integers(2, longest, count)]


def one_pass(
    model: Model, queries: Sequences, positives: Sequences, temperature: float, pool: str
) -> tuple[float, NDArray[np.float64]]:
    """Loss and gradient in float64 by the reference kernels: all sequences on one tape."""
    tape = Tape(backends.load("reference"), "float64")
    weights = model.weights.astype(np.float64)
    gradient = np.zeros_like(weights)
    grads = views(model.config, gradient)
    named = views(model.config, weights)
    parameters = {name: tape.parameter(value, grads[name]) for name, value in named.items()}
    both = [*queries, *positives]
    rows = embeddings(
        parameters, model.config, np.concatenate(both), Packing.of([s.size for s in both]),
        pool, True,
    )  # fmt: skip
    count = len(queries)
    loss = infonce(getitem(rows, slice(count)), getitem(rows, slice(count, None)), temperature)
    tape.backward(loss, np.ones(1))
    return float(loss.value[0]), gradient


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("pairs", [2, 18])
def test_the_gradient_is_that_of_one_pass_in_float64(pairs: int, pool: str) -> None:
    model, queries, positives = small(), sequences(pairs, 1), sequences(pairs, 2)
    loss, expected = one_pass(model, queries, positives, 0.07, pool)
    with calmgrad.Trainer(model, lr=0.0, shard_tokens=64) as trainer:
        got = trainer.contrastive_step(queries, positives, 0.07, pool)
        error = np.abs(trainer.grads - expected).max() / np.abs(expected).max()
    assert got == pytest.approx(loss, rel=1e-5)
    assert error < 2e-5


def test_threads_change_no_byte() -> None:
    results = []
    for threads in (1, 2, 3):
        model = small()
        with calmgrad.Trainer(model, lr=1e-3, shard_tokens=64, threads=threads) as trainer:
            for step in range(3):
                trainer.contrastive_step(sequences(9, step), sequences(9, 50 + step))
        results.append(model.weights.tobytes())
    assert results[0] == results[1] == results[2]


def test_a_larger_batch_takes_no_more_memory_for_activations() -> None:
    def capacity(pairs: int) -> int:
        with calmgrad.Trainer(small(), shard_tokens=128, threads=1) as trainer:
            trainer.contrastive_step(sequences(pairs, 1), sequences(pairs, 2))
            [worker] = trainer.runner._workers
            return worker.tape.values.capacity + worker.tape.pool.arena.capacity

    assert capacity(80) <= 1.2 * capacity(8)


# --- retrieval --------------------------------------------------------------------------------


def test_ranks() -> None:
    passages = np.eye(3, dtype=np.float32)
    queries = np.array([[1, 0, 0], [0.5, 0.4, 0], [0.1, 0.2, 0.3]], np.float32)
    ranks = ranks_of(queries, passages, np.array([0, 1, 0]))
    assert ranks.tolist() == [1, 2, 3]
    found = retrieval(ranks, 3)
    assert found.recall_1 == pytest.approx(1 / 3)
    assert found.recall_5 == 1
    assert found.mrr == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_a_model_that_tells_nothing_apart_finds_nothing() -> None:
    same = np.ones((20, 4), np.float32)
    assert set(ranks_of(same, same, np.arange(20))) == {20}


def test_ranks_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, passages = rng.standard_normal((2, 30, 5)).astype(np.float32)
    whole = ranks_of(queries, passages, np.arange(30))
    monkeypatch.setattr("calmgrad.retrieval.SCORES", 100)
    np.testing.assert_array_equal(ranks_of(queries, passages, np.arange(30)), whole)


def test_repeated_passages_count_once() -> None:
    a, b = np.array([1, 2], np.uint16), np.array([3], np.uint16)
    first, which = without_repeats([a, b, a.copy(), b, a])
    assert first == [0, 1]
    assert which.tolist() == [0, 1, 0, 1, 0]


# --- runs -------------------------------------------------------------------------------------

SIZES: dict[str, Any] = dict(d_model=24, n_layers=2)


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """48 pairs whose query is the passage's word in capitals, and one that is too short."""
    monkeypatch.chdir(tmp_path)
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), (48, 6))
    words = ["".join(row) for row in letters]
    blocks = [f"<QUERY>{word.upper()}\n<ATN>\n<REF>{word} {word} {word}" for word in words]
    (tmp_path / "pairs.txt").write_text("\n\n".join([*blocks, "<QUERY>abc\n<REF>" + "x" * 30]))
    return "pairs.txt"


def contrast(pairs: str, **keys: Any) -> Result:
    given: dict[str, Any] = SIZES | dict(batch_size=16, lr=3e-3, warmup_steps=0, threads=1) | keys
    return train_contrastive(TrainConfig(dataset=pairs, **given), temperature=0.1)


def metrics(result: Result) -> list[dict[str, Any]]:
    lines = (result.run_directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_learns(pairs: str) -> None:
    result = contrast(pairs, val_dataset=pairs, epochs=40, eval_every=40)
    assert result.run_directory == Path("runs/contrastive-1")
    assert result.steps == 120
    assert result.before is not None
    assert result.best is not None
    assert result.best.found.queries == result.best.found.passages == 48
    assert result.before.found.recall_10 < 0.5
    assert result.best.found.recall_10 > result.before.found.recall_10 + 0.3
    assert result.best.loss < result.before.loss
    lines = metrics(result)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 121))
    assert [line["step"] for line in lines if "val_mrr" in line] == [0, 40, 80, 120]
    assert "pairs.txt" in (result.run_directory / "train.log").read_text()
    assert "left out 1" in (result.run_directory / "train.log").read_text()
    assert (result.run_directory / "loss.svg").exists()
    assert json.loads((result.run_directory / "result.json").read_text()) == result.summary()
    saved = calmgrad.load_model(result.run_directory / "model.cwgt")
    assert saved.metadata.domain == "netref"
    assert saved.weights.tobytes() == result.model.weights.tobytes()


def test_a_run_repeats(pairs: str) -> None:
    first = contrast(pairs, max_steps=4, val_dataset=pairs)
    second = contrast(pairs, max_steps=4, val_dataset=pairs, threads=2)
    names = ("metrics.jsonl", "model.cwgt")
    for name in names:
        files = [(run.run_directory / name).read_bytes() for run in (first, second)]
        assert files[0] == files[1], name


def test_the_best_weights_are_saved_and_patience_ends_a_run(pairs: str) -> None:
    seen: list[Evaluated] = []
    given: Any = SIZES | dict(
        batch_size=16, lr=0.3, warmup_steps=0, grad_clip=0.0, patience=2, eval_every=1, epochs=20
    )
    config = TrainConfig(dataset=pairs, val_dataset=pairs, **given)
    result = train_contrastive(config, on_eval=seen.append)
    assert result.stopped == "patience"
    assert result.steps < 60
    best = max(seen, key=lambda e: e.found.mrr)
    assert result.best == best
    assert [e.best for e in seen[-2:]] == [False, False]
    # The weights that were saved are those of the best evaluation: they give its figures again.
    model = calmgrad.load_model(result.run_directory / "model.cwgt")
    runner = Runner(backends.load("cpu"), model.config, model.weights, 1)
    _, found = evaluate_pairs(load_pairs(pairs, 768), 16, 0.07, "mean", runner)
    assert found == best.found


def test_without_validation_patience_looks_at_the_epochs(pairs: str) -> None:
    result = contrast(pairs, lr=0.0, patience=1, epochs=9, shuffle=False)
    assert result.stopped == "patience"
    assert result.steps == 6  # the second epoch was no better than the first


def test_the_model_that_a_run_begins_with_stays(pairs: str) -> None:
    small().save("base.cwgt")
    before = Path("base.cwgt").read_bytes()
    config = TrainConfig(dataset=pairs, model="base.cwgt", max_steps=2, output="out.cwgt")
    result = train_contrastive(config)
    assert Path("base.cwgt").read_bytes() == before != Path("out.cwgt").read_bytes()
    text = (result.run_directory / "config.toml").read_text()
    for line in ("batch_size = 16", "epochs = 5", "lr = 0.0001", "patience = 5"):
        assert line in text
    assert result.model.metadata.domain == "netref"


def test_a_model_that_is_replaced_is_kept(pairs: str) -> None:
    small().save("base.cwgt")
    before = Path("base.cwgt").read_bytes()
    config = TrainConfig(dataset=pairs, model="base.cwgt", output="base.cwgt", max_steps=2)
    train_contrastive(config)
    assert Path("base.cwgt").read_bytes() != before == Path("base.cwgt.bak").read_bytes()


def test_the_best_weights_so_far_are_on_the_disk(pairs: str) -> None:
    def die(report: object) -> None:
        if getattr(report, "step", 0) == 2:
            raise KeyboardInterrupt

    given: Any = SIZES | dict(batch_size=16, lr=1e-2, warmup_steps=0, eval_every=1)
    config = TrainConfig(dataset=pairs, val_dataset=pairs, **given)
    with pytest.raises(KeyboardInterrupt):
        train_contrastive(config, on_step=die)
    assert calmgrad.load_model("runs/contrastive-1/model.cwgt")


@pytest.mark.parametrize(("batch_size", "steps"), [(47, 2), (7, 14), (2, 48)])
def test_calm_mambas_rules(pairs: str, batch_size: int, steps: int) -> None:
    """No update of a single pair, warm-up from step 0, a cosine over the whole batches."""
    reports: list[Report] = []
    given: Any = SIZES | dict(batch_size=batch_size, warmup_steps=1, lr=0.1, epochs=2, patience=0)
    config = TrainConfig(dataset=pairs, rules="calm-mamba", **given)
    train_contrastive(config, on_step=reports.append)
    assert [r.step for r in reports] == [*range(1, steps + 1)]
    assert all(r.sequences > 1 for r in reports)
    schedule = Schedule(0.1, 1, 2 * (48 // batch_size), 1e-6, 0)
    assert [r.lr for r in reports] == [schedule.at(step) for step in range(steps)]
    assert reports[0].lr == 0


def test_a_signal_ends_a_run_with_its_weights(pairs: str) -> None:
    config = TrainConfig(dataset=pairs, **SIZES)
    result = train_contrastive(config, should_stop=lambda: True)
    assert (result.stopped, result.steps) == ("signal", 1)
    assert result.weights[0].exists()
    assert not (result.run_directory / "result.json").exists()  # it may go on


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"batch_size": 1}, UsageError, "batch_size = 1: expected 2 or more"),
        ({"accumulation": 2}, UsageError, "accumulation: not for contrastive.*no larger one"),
        ({"batch_tokens": 99}, UsageError, "batch_tokens: not for contrastive"),
        ({"dataset": "none.txt"}, FileError, "none.txt: no such file"),
        ({"dataset": "one.txt"}, FileError, "one.txt: expected 2 pairs or more, found 1"),
        ({"output": "pairs.txt"}, UsageError, "pairs.txt: the weights would replace"),
        ({"template": "CMD input"}, UsageError, "template entry 'CMD input'"),
    ],
)
def test_what_is_refused(
    pairs: str, keys: dict[str, Any], error: type[CalmgradError], message: str
) -> None:
    Path("one.txt").write_text("<QUERY>question\n<REF>" + "answer " * 5)
    with pytest.raises(error, match=message):
        train_contrastive(TrainConfig(**(dict(dataset=pairs) | SIZES | keys)))
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_temperature_must_be_above_0(pairs: str) -> None:
    with pytest.raises(UsageError, match="temperature = 0"):
        train_contrastive(TrainConfig(dataset=pairs), temperature=0.0)


def test_strict_refuses_what_else_is_told(pairs: str) -> None:
    Path("odd.txt").write_text("<QUERY>first question\n<QUERY>second one\n<REF>" + "x" * 30)
    with pytest.raises(FileError, match=r"odd.txt: line 2: a second <QUERY>"):
        train_contrastive(TrainConfig(dataset="odd.txt", **SIZES), strict=True)
