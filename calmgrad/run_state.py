"""The state of a run: what a checkpoint of it holds besides the trainer's state.

A run is deterministic, so little has to be kept: how many updates were made, what validation has
found, and how much of the metrics counts. There is no generator of random numbers with a state:
the order of epoch e is drawn from (seed, e), Online EWC's batches from (seed, step), and its
buffer of batches follows from the steps.
"""

import platform
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from calmgrad import __version__, settings
from calmgrad.data import Dataset
from calmgrad.errors import FileError, UsageError
from calmgrad.events import Evaluated
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.formats.checkpoint import Count
from calmgrad.formats.files import display


class Fingerprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which data: the SHA-256 of the file, and how many of its sequences are used."""

    sha256: str
    sequences: Count

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """That of `dataset`."""
        return cls(dataset.fingerprint, len(dataset))


class Validation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An evaluation; a loss that is no finite number is None."""

    step: Count
    epoch: Count
    loss: float | None
    bits_per_byte: float | None

    @classmethod
    def of(cls, evaluated: Evaluated | None) -> Self | None:
        """`evaluated` as it is stored."""
        if evaluated is None:
            return None
        finite = {k: v if v is not None and np.isfinite(v) else None for k, v in (
            ("loss", evaluated.loss), ("bits_per_byte", evaluated.bits_per_byte)
        )}  # fmt: skip
        return cls(evaluated.step, evaluated.epoch, **finite)

    def evaluated(self) -> Evaluated:
        """As it was reported."""
        loss = float("inf") if self.loss is None else self.loss
        return Evaluated(self.step, self.epoch, loss, self.bits_per_byte, True)


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a run is.

    Attributes:
        step: updates made.
        epoch: of the last of them, from 1 on; 0 before the first.
        steps_of_epoch, loss_of_epoch: updates made in that epoch, and the sum of their losses.
        metrics_bytes: of `metrics.jsonl` that count.
        misses: evaluations since the best one.
        before, best: the first evaluation, and the best one so far.
        unvalidated: whether the evaluation that follows the last update, and the end of its
            epoch, are still to come: a signal came before.
    """

    step: Count = 0
    epoch: Count = 0
    steps_of_epoch: Count = 0
    loss_of_epoch: float = 0.0
    metrics_bytes: Count = 0
    misses: Count = 0
    before: Validation | None = None
    best: Validation | None = None
    unvalidated: bool = False


class RunState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint of a run holds besides the trainer's state.

    Attributes:
        progress: how far it is.
        settings: of the run, as in `config.toml`.
        folder: the one it was started in; paths in the settings begin there.
        data, validation: the data it must go on with.
        random: the seed all draws are derived from.
        made_with: versions and machine: with others, the last bits may differ.
    """

    progress: Progress
    settings: dict[str, Any]
    folder: str
    data: Fingerprint
    validation: Fingerprint | None
    random: dict[str, int]
    made_with: dict[str, str]


def made_with() -> dict[str, str]:
    """What the last bits of a result depend on besides the settings."""
    import numba

    return {
        "calmgrad": __version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
    }


def _cpu() -> str:
    from llvmlite import binding

    return str(binding.get_host_cpu_name())


def run_state(path: Path, state: checkpoints.State) -> RunState:
    """The run's part of a state."""
    name = display(path / checkpoints.STATE)
    if state.run is None:
        raise FileError(f"{name}: a checkpoint of a script, not one of a run")
    try:
        run = msgspec.convert(state.run, RunState)
        settings.from_mapping(run.settings)
    except (msgspec.ValidationError, UsageError) as error:
        raise FileError(f"{name}: {checkpoints.reason(error)}") from error
    if run.progress.step != state.training.updates:
        raise FileError(
            f"{name}: {run.progress.step} steps, {state.training.updates} updates:"
            " expected as many of both"
        )
    return run
