"""Going on with a contrastive run: what its checkpoints say besides the trainer's own state."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from calmgrad import settings
from calmgrad.contrastive.events import Evaluated
from calmgrad.errors import FileError, UsageError
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.formats.checkpoint import Checkpoint, Count
from calmgrad.formats.files import display
from calmgrad.resume import FREE, differences, none_left, places
from calmgrad.retrieval import Pairs
from calmgrad.rundir import CHECKPOINTS, RunDirectory
from calmgrad.settings import TrainConfig

log = logging.getLogger("calmgrad.run")


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a run stands.

    Attributes:
        settings: of the run; folder: where it was started, which paths are seen from.
        temperature, pool: of the loss.
        pairs, validation: SHA-256 of the token sequences.
        step: updates made; metrics_bytes: of the metrics up to there.
        misses, lowest, before, best: what validation, or the epochs, have found.
        unvalidated: whether a signal came before what follows the last update.
    """

    settings: dict[str, Any]
    folder: str
    temperature: float
    pool: str
    pairs: str
    validation: str | None
    step: Count
    metrics_bytes: Count
    misses: Count
    lowest: float | None
    before: Evaluated | None
    best: Evaluated | None
    unvalidated: bool = False


@dataclass(slots=True)
class Found:
    """A run to go on with: its directory, locked, and the checkpoint it goes on from."""

    directory: RunDirectory
    path: Path
    checkpoint: Checkpoint
    state: State

    def config(self, given: TrainConfig) -> TrainConfig:
        """The run's settings, with what of `given` may be another.

        Raises:
            UsageError: something in `given` may not.
        """
        saved = settings.from_mapping(self.state.settings)
        for key, was, now in differences(given, saved, self.state.folder):
            raise UsageError(
                f"{key} = {now}: the run in {self.directory.path} has {was}, and cannot go on"
                " with another"
            )
        values = settings.to_dict(saved)
        values |= places(values, self.state.folder)
        values |= {key: v for key, v in settings.to_dict(given).items() if key in FREE}
        values["save_dir"] = str(self.directory.path)
        return settings.from_mapping(values)

    def check_pairs(self, pairs: Pairs, path: str, expected: str | None) -> None:
        """Refuse pairs that are not those the run began with."""
        if fingerprint(pairs) != expected:
            raise FileError(
                f"{display(path)}: not the pairs that the run in {self.directory.path} began with"
            )


def fingerprint(pairs: Pairs) -> str:
    """SHA-256, in hex, of all token sequences."""
    digest = hashlib.sha256()
    for sequence in (*pairs.queries, *pairs.passages):
        digest.update(sequence.size.to_bytes(4, "little") + sequence.astype("<u2").tobytes())
    return digest.hexdigest()


def find(path: str) -> Found:
    """The run in a directory, at its newest checkpoint that can be read; or a certain checkpoint.

    Raises:
        FileError: there is none.
        UsageError: another run is writing there.
    """
    place = Path(path)
    chosen = [place] if (place / checkpoints.STATE).exists() else []
    folder = place.resolve().parent.parent if chosen else place
    directory = RunDirectory.existing(folder)
    try:
        failures: list[FileError] = []
        for candidate in chosen or checkpoints.steps_in(folder / CHECKPOINTS).values():
            try:
                checkpoint = checkpoints.read(candidate)
                state = msgspec.convert(checkpoint.state.run, State)
            except msgspec.ValidationError as error:
                name = display(candidate / checkpoints.STATE)
                failures.append(FileError(f"{name}: not of a contrastive run: {error}"))
            except FileError as error:
                failures.append(error)
            else:
                for failure in failures:
                    log.info("note     skipped a checkpoint: %s", failure)
                log.info("resumed  %s: %d updates made", candidate, state.step)
                return Found(directory, candidate, checkpoint, state)
        if not failures:
            raise FileError(f"{display(path)}: no checkpoint to resume from")
        raise none_left(folder, failures)
    except BaseException:
        directory.close()
        raise
