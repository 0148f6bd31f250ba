"""Recorded steps against steps that launch one kernel after the other: the same bytes, and how
much time the recording saves."""

import time
import warnings
from typing import Any

import numpy as np

import calmgrad
from benchmarks.batches import lengths_of
from benchmarks.gpu.subject import Failed, Subject
from calmgrad.device_update import DeviceUpdate

SIZES = ("nano", "small")
BATCHES = 12  # of several buckets; each comes three times
STEPS = 20  # in a turn
TURNS = 5  # of either, in turns
Results = dict[str, Any]


def run(subject: Subject) -> Results:
    """A row for each model size: whether all bytes are the same; milliseconds of a step."""
    rows, wrong = [], []
    for size in SIZES[:1] if subject.emulated else SIZES:
        for optimizer in ("adam",) if subject.emulated else ("adam", "sgd"):
            row, differ = _compared(subject, size, optimizer)
            wrong += [f"{size}, {optimizer}: {what}" for what in differ]
            rows.append(row)
    steps = [] if subject.emulated else [_times(subject, size) for size in SIZES]
    if wrong:
        raise Failed("; ".join(wrong), rows=rows, steps=steps)
    return {"rows": rows, "steps": steps}


def _compared(subject: Subject, size: str, optimizer: str) -> tuple[Results, list[str]]:
    found = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for cuda_graph in (False, True):
            found.append(_trained(subject, size, optimizer, cuda_graph))
    eager, replayed = found
    differ = [name for name, data in eager["data"].items() if data != replayed["data"][name]]
    wrong = [f"{name} differ" for name in differ]
    if replayed["replayed"] == 0:
        wrong.append(f"nothing was replayed: {' '.join(str(w.message) for w in told)}")
    keys = ("recorded", "replayed")
    return {"size": size, "optimizer": optimizer, **{k: replayed[k] for k in keys}}, wrong


def _trained(subject: Subject, size: str, optimizer: str, cuda_graph: bool) -> Results:
    rng = np.random.default_rng(0)
    model = subject.new_model(size)
    batches = [_batch(rng, subject.emulated) for _ in range(2 if subject.emulated else BATCHES)]
    with calmgrad.Trainer(
        model, device=subject.name, optimizer=optimizer, cuda_graph=cuda_graph
    ) as trainer:
        for i in range(3 * len(batches)):
            trainer.set_lr(1e-3 / (1 + i))
            sequences = batches[i % len(batches)]
            # Every other batch has prompts, whose tokens need no logits.
            trainer.step_later(sequences, [len(s) // 2 * (i % 2) for s in sequences])
        outcomes = [(o.loss, o.norm) for o in trainer.collect()]
        data = {"weights": model.weights.tobytes(), "gradients": trainer.grads.tobytes()}
        data |= {name: x.tobytes() for name, x in trainer.checkpoint().buffers.items()}
        replay = _update_of(trainer).replay
        return {
            "data": {"losses and norms": outcomes, **data},
            "recorded": replay.recorded,
            "replayed": replay.replayed,
        }


def _batch(rng: Any, tiny: bool) -> list[Any]:
    count, longest = (2, 20) if tiny else (int(rng.integers(6, 10)), 300)
    return [rng.integers(0, 256, n) for n in rng.integers(longest // 2, longest, count)]


def _times(subject: Subject, size: str) -> Results:
    """Of the host's clock, until the device is done; the two take turns."""
    sequences = [np.arange(n) % 256 for n in lengths_of("8x768")]
    trainers = {
        name: calmgrad.Trainer(subject.new_model(size), device=subject.name, cuda_graph=cuda_graph)
        for name, cuda_graph in (("eager", False), ("replayed", True))
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(TURNS + 1):
        for name, trainer in trainers.items():
            began = time.perf_counter()
            for _ in range(STEPS):
                trainer.step_later(sequences, [0] * len(sequences))
            trainer.collect()
            if turn:  # the first compiles and records
                seconds[name].append((time.perf_counter() - began) / STEPS)
    for trainer in trainers.values():
        trainer.close()
    return {"size": size, "shape": "8x768"} | {
        f"{name}_ms_median": 1e3 * float(np.median(found)) for name, found in seconds.items()
    }


def _update_of(trainer: calmgrad.Trainer) -> DeviceUpdate:
    update = trainer._update
    assert isinstance(update, DeviceUpdate)
    return update
