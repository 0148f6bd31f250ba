"""A small run that has everything, to be interrupted in every way, and what it must come to."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import calmgrad
from calmgrad.formats import checkpoint as checkpoints

STEPS = 40
# Shuffled, five epochs, two batches to an update, warm-up and cosine, Online EWC, validation.
KEYS: dict[str, Any] = {
    "model": "new",
    "d_model": 16,
    "n_layers": 1,
    "dataset": "train.ctds",
    "val_dataset": "val.ctds",
    "epochs": 5,
    "batch_size": 4,
    "accumulation": 2,
    "lr": 0.01,
    "warmup_steps": 5,
    "eval_every": 6,
    "patience": 0,
    "continual": {
        "method": "online_ewc",
        "lambda": 5.0,
        "decay": 0.5,
        "fisher_update_interval_steps": 13,
        "fisher_batches": 2,
        "buffer_batches": 3,
    },
    "threads": 1,
}


def write_data(folder: Path) -> None:
    """`train.ctds` and `val.ctds` in a folder."""
    rng = np.random.default_rng(0)
    words = [b"git add", b"git commit", b"ls", b"make test", b"vim"]
    for name, count in (("train", 64), ("val", 8)):
        rows = [
            [257, *b" ".join(words[k] for k in rng.integers(0, 5, 3)), 258] for _ in range(count)
        ]
        calmgrad.write_dataset(folder / f"{name}.ctds", rows, [0] * count)


@dataclass(frozen=True)
class Outcome:
    """What a finished run has left, as far as it is the same whatever happened on the way."""

    files: dict[str, bytes]

    @classmethod
    def of(cls, run: Path, step: int = STEPS) -> "Outcome":
        last = f"checkpoints/{checkpoints.step_name(step)}"
        names = ["model.cwgt", "metrics.jsonl"]
        names += [f"{last}/{name}" for name in (checkpoints.MODEL, checkpoints.TENSORS)]
        return cls({name: (run / name).read_bytes() for name in names})

    def differing(self, other: "Outcome") -> list[str]:
        """Files that are not the same."""
        return [name for name, content in self.files.items() if other.files[name] != content]


def train(run: Path, **keys: Any) -> Any:
    """One run, in the folder that has the data."""
    return calmgrad.train(KEYS, save_dir=str(run), **keys)


def stop_at(step: int) -> dict[str, Any]:
    """Arguments that end a run after this step, as a signal does."""
    done: list[int] = []
    return {
        "on_step": lambda report: done.append(report.step),
        "should_stop": lambda: bool(done) and done[-1] >= step,
    }


def newest_whole(run: Path) -> int:
    """The step of the newest checkpoint that can be read; 0 if there is none."""
    for step, path in checkpoints.steps_in(run / "checkpoints").items():
        try:
            checkpoints.read(path)
        except calmgrad.CalmgradError:
            continue
        return step
    return 0


def reference(folder: Path) -> Outcome:
    """Data in a folder, which becomes the current one, and what a run left alone comes to."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    write_data(folder)
    train(Path("reference"))
    return Outcome.of(Path("reference"))
