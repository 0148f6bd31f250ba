"""Whole runs and commands on an emulated GPU."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import calmgrad
from calmgrad import device_ceilings, loop
from calmgrad.cli import benchmark, embed, evaluate, fisher
from calmgrad.contrastive import train_contrastive
from calmgrad.cutting import Shard
from calmgrad.errors import DivergedError, OutOfMemoryError
from calmgrad.settings import Continual, TrainConfig
from calmgrad.worker import Worker
from tests.cuda_on_cpu.device import EmulatedDevice
from tests.cuda_on_cpu.fixtures import stand_in
from tests.cuda_on_cpu.stand_in import counted

__all__ = ["stand_in"]

SIZES: dict[str, Any] = dict(d_model=8, n_layers=1, d_state=2, l_max=40)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 24), ("val", 6)):
        rng = np.random.default_rng(count)
        sequences = [
            [calmgrad.BOS, calmgrad.ATN, *rng.integers(97, 105, int(n)), calmgrad.EOS]
            for n in rng.integers(3, 12, count)
        ]
        calmgrad.write_dataset(f"{name}.ctds", sequences, [1] * count)


def run(where: str, **keys: Any) -> Any:
    given: dict[str, Any] = dict(
        dataset="train.ctds", val_dataset="val.ctds", save_dir=where, device=where, epochs=3,
        batch_size=4, lr=1e-2, eps=1e-2, warmup_steps=2, log_every=5, patience=0,
    )  # fmt: skip
    if "resume" not in keys:
        given |= SIZES
    return calmgrad.train(**(given | keys))


def metrics(folder: str) -> list[dict[str, Any]]:
    lines = Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_is_that_of_the_cpu(stand_in: EmulatedDevice) -> None:
    cpu, gpu = run("cpu"), run("cuda")
    assert cpu.steps == gpu.steps == 18
    ours, theirs = metrics("cuda"), metrics("cpu")
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert [row["step"] for row in ours if "loss" in row] == list(range(1, 19))
    np.testing.assert_allclose(gpu.model.weights, cpu.model.weights, atol=1e-5)
    log = Path("cuda", "train.log").read_text(encoding="utf-8")
    assert "device   cuda:0 (emulated), products in float32" in log
    assert "memory   about" in log
    assert " MB on it besides CUDA's own" in log


def test_losses_are_read_together(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as a line of progress is written, an epoch ends or a checkpoint is due."""
    monkeypatch.setattr(loop, "SECONDS", 1e9)
    collect = calmgrad.Trainer.collect
    told = []

    def watched(trainer: calmgrad.Trainer) -> Any:
        with counted(stand_in) as counts:
            outcomes = collect(trainer)
        told.append((trainer.updates, len(outcomes), counts["read"]))
        return outcomes

    monkeypatch.setattr(calmgrad.Trainer, "collect", watched)
    run("cuda", val_dataset=None, checkpoint_every=7)
    assert [updates for updates, _, _ in told] == [5, 6, 7, 10, 12, 14, 15, 18]
    assert [n for _, n, _ in told] == [5, 1, 1, 3, 2, 2, 1, 3]
    assert {reads for _, _, reads in told} == {1}
    names = sorted(path.name for path in Path("cuda", "checkpoints").iterdir())
    assert names == ["step-000014", "step-000018"]  # of 7, 14 and 18 the last two are kept


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_another_device(stand_in: EmulatedDevice, first: str, then: str) -> None:
    whole = run("cpu", save_dir="whole", val_dataset=None)
    steps: list[int] = []
    run(first, save_dir="parts", val_dataset=None, on_step=lambda r: steps.append(r.step),
        should_stop=lambda: len(steps) >= 8)  # fmt: skip
    assert 8 <= len(steps) < 18
    again = run(then, save_dir="parts", resume="parts", val_dataset=None)
    assert again.steps == 18
    assert [row["step"] for row in metrics("parts")] == list(range(1, 19))
    np.testing.assert_allclose(again.model.weights, whole.model.weights, atol=1e-5)
    log = Path("parts", "train.log").read_text(encoding="utf-8")
    assert f"the checkpoint was made on {first}, this is {then}" in log


def test_a_stop_is_heard_between_two_readings(stand_in: EmulatedDevice) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    result = run("cuda", val_dataset=None, log_every=100, should_stop=stop)
    assert result.stopped == "signal"
    assert [row["step"] for row in metrics("cuda")] == [1, 2, 3]
    assert result.checkpoint.name == "step-000003"


def test_a_run_that_diverges_names_the_step(stand_in: EmulatedDevice) -> None:
    found = {}
    for where in ("cpu", "cuda"):
        with pytest.raises(DivergedError) as told:
            run(where, lr=1e30, val_dataset=None, warmup_steps=0, log_every=6, debug_nan=True)
        found[where] = re.sub(r"token \d+ .*|nan|inf", "", str(told.value))
        assert [row["step"] for row in metrics(where)] == [1]
    assert found["cuda"].startswith("step 2: loss ")
    assert " first in " in found["cuda"]
    assert found["cuda"].split(";")[0] == found["cpu"].split(";")[0]


def test_online_ewc(stand_in: EmulatedDevice) -> None:
    continual = Continual(strength=5.0, fisher_update_interval_steps=4, fisher_batches=2)
    cpu, gpu = (run(w, continual=continual, val_dataset=None) for w in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.model.fisher, cpu.model.fisher, rtol=1e-3, atol=1e-8)
    np.testing.assert_allclose(gpu.model.weights, cpu.model.weights, atol=1e-5)


def test_contrastive_runs(stand_in: EmulatedDevice) -> None:
    words = ["sun", "rain", "tree", "stone", "river", "cloud", "bread", "night"]
    blocks = [f"<QUERY>the {w}\n<ATN>\n<REF>{w} {w[::-1]} is the answer" for w in words]
    Path("pairs.txt").write_text("\n\n".join(blocks), encoding="utf-8")
    losses = {}
    for where in ("cpu", "cuda"):
        config = TrainConfig(
            dataset="pairs.txt", val_dataset="pairs.txt", save_dir=where, device=where,
            epochs=4, batch_size=4, lr=1e-2, eps=1e-2, warmup_steps=0, log_every=3, **SIZES,
        )  # fmt: skip
        train_contrastive(config)
        losses[where] = [row["loss"] for row in metrics(where) if "loss" in row]
    assert len(losses["cuda"]) == 8
    np.testing.assert_allclose(
        losses["cuda"], losses["cpu"], rtol=1e-4, atol=3e-6
    )  # of scores up to 14


# --- commands -----------------------------------------------------------------------------------


def output(command: Any, *arguments: str) -> Any:
    done = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def test_commands(stand_in: EmulatedDevice) -> None:
    calmgrad.new_model(**SIZES).save("m.cwgt")
    Path("texts.txt").write_text("one\ntwo two\n\nthree\n", encoding="utf-8")
    for command, *arguments in (
        (evaluate.command, "-m", "m.cwgt", "-d", "val.ctds"),
        (fisher.command, "-m", "m.cwgt", "-d", "val.ctds", "-o", "f.cwgt"),
    ):
        cpu, gpu = (output(command, *arguments, "--device", d) for d in ("cpu", "cuda"))
        numbers = [k for k, v in cpu.items() if isinstance(v, int | float) and k != "seconds"]
        assert [gpu[k] for k in numbers] == pytest.approx([cpu[k] for k in numbers], rel=1e-4)
    rows = []
    for where in ("cpu", "cuda"):
        output(embed.command, "texts.txt", "-m", "m.cwgt", "-o", f"{where}.npy", "--device", where)
        rows.append(np.load(f"{where}.npy"))
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-5)
    with pytest.raises(Exception, match="--device does not go with"):
        CliRunner().invoke(
            evaluate.command, ["--completion", "--device", "cuda"], catch_exceptions=False
        )


def test_benchmark(stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SEQUENCE", 8)
    monkeypatch.setattr(benchmark, "PROMPT", 4)
    found = output(benchmark.command, "-s", "nano", "--seconds", "0.01", "--device", "cuda")
    assert found["sizes"][0]["device"] == "cuda:0 (emulated)"


def test_benchmark_op_by_op(stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SEQUENCE", 8)
    monkeypatch.setattr(device_ceilings, "LARGE", 1 << 16)
    arguments = ("-s", "nano", "--seconds", "0.01", "--device", "cuda", "--ops")
    [found] = output(benchmark.command, *arguments)["sizes"]
    assert (found["device"], found["exponentials"]) == ("cuda:0 (emulated)", None)
    shown = CliRunner().invoke(benchmark.command, arguments)
    assert "each op waited for" in shown.stdout
    assert "cuda:0 (emulated): products" in shown.stdout
    assert "selective_scan" in shown.stdout


def test_a_run_out_of_memory_is_told(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Worker.compute

    def full(worker: Worker, shard: Shard, *rest: Any) -> Any:
        if len(shard.rows) > 1:
            raise MemoryError("Out of memory allocating 999 bytes")
        return work(worker, shard, *rest)

    monkeypatch.setattr(stand_in, "memory", lambda: (1 << 20, 1 << 34))
    monkeypatch.setattr(Worker, "compute", full)
    with pytest.raises(OutOfMemoryError, match=r"batch_tokens = \d+, or batch_size = \d+"):
        run("cuda")
