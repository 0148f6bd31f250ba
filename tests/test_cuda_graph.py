"""Whole training steps, recorded and replayed, on the emulated device: the same bytes as eager."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad import backend as backends
from calmgrad.backend import Backend
from tests.cuda_on_cpu import recording
from tests.cuda_on_cpu.device import compiler, emulated

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
    pytest.mark.filterwarnings("ignore:sequence . has no target"),
]

# Lengths of the sequences of some batches, and where their targets begin. Several batches of a
# bucket, several buckets, larger and smaller ones; sequences without a target; empty slots.
BATCHES = [
    ((17, 5, 30), (0, 0, 0)),
    ((17, 5, 30), (0, 0, 0)),
    ((33, 16, 2), (0, 0, 0)),
    ((17, 5, 30), (9, 0, 29)),
    ((40, 40, 20, 9), (0, 3, 0, 0)),
    ((21, 12, 3), (20, 0, 0)),
    ((40, 40, 20, 9), (0, 3, 0, 0)),
    ((50,), (0,)),
    ((17, 5, 30), (9, 0, 29)),
    ((41, 38, 22, 8), (0, 0, 0, 0)),
    ((64, 64, 64, 64), (0, 0, 0, 0)),
    ((41, 38, 22, 8), (0, 0, 0, 0)),
    ((33, 16, 2), (0, 0, 0)),
]  # fmt: skip


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The devices that `cuda:0`, `cuda:1`, … mean: with schedules 0, 1, …"""
    opened: dict[int, Backend] = {}

    def on_device(index: int, _: str) -> Backend:
        if index not in opened:
            opened[index] = emulated(index)
            device: Any = opened[index].device
            device.index, device.name = index, "a CPU"
        return opened[index]

    monkeypatch.setattr(backends, "_on_device", on_device)
    yield opened


def batch(i: int) -> tuple[list[Any], tuple[int, ...]]:
    lengths, positions = BATCHES[i]
    rng = np.random.default_rng(i)
    return [rng.integers(1, 256, n) for n in lengths], positions


def small_model() -> calmgrad.Model:
    return calmgrad.new_model(d_model=16, n_layers=2, d_state=16, seed=3)


def trained(
    place: str, cuda_graph: bool | None, steps: int = len(BATCHES), **options: Any
) -> dict[str, Any]:
    """Everything that a run on all batches leaves behind; the rate falls at every step."""
    model = small_model()
    options = {"lr": 3e-3, "grad_clip": 0.5} | options
    with calmgrad.Trainer(model, device=place, cuda_graph=cuda_graph, **options) as trainer:
        outcomes = []
        for i in range(steps):
            trainer.set_lr(3e-3 / (1 + i))
            trainer.step_later(*batch(i))
            if i % 5 == 0:
                outcomes += trainer.collect()
        outcomes += trainer.collect()
        state = trainer.checkpoint()
        replay = trainer._update.replay  # type: ignore[union-attr]
        return {
            "losses": [(o.loss, o.norm) for o in outcomes],
            "grads": trainer.grads.tobytes(),
            "weights": model.weights.tobytes(),
            **{name: buffer.tobytes() for name, buffer in state.buffers.items()},
            "counts": (replay.recorded, replay.replayed),
        }


def without_counts(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "counts"}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_replayed_run_equals_an_eager_one(device: Any, optimizer: str) -> None:
    eager = trained("cuda:0", False, optimizer=optimizer)
    replayed = trained("cuda:0", True, optimizer=optimizer)
    assert eager["counts"] == (0, 0)
    assert replayed["counts"] == (6, 8), "recorded and replayed"
    assert without_counts(eager) == without_counts(replayed)
