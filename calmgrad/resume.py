"""Going on with a run: where it lies, what may differ the second time, and what is refused."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calmgrad import settings
from calmgrad.data import Dataset
from calmgrad.errors import DiskError, FileError, UsageError
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.formats.checkpoint import Checkpoint
from calmgrad.formats.files import display, sync_folder, write_reason
from calmgrad.run_state import Fingerprint, RunState, made_with, run_state
from calmgrad.rundir import CHECKPOINTS, RunDirectory
from calmgrad.settings import TrainConfig

log = logging.getLogger("calmgrad.run")

# Settings that may be others when a run goes on: they do not change what is computed, or make the
# run longer, or (the data) are compared by their contents.
FREE = {
    "threads", "device", "matmul_precision", "log_every", "report_to", "output", "export",
    "checkpoint_every",
    "epochs", "max_steps", "patience", "dataset", "val_dataset", "save_dir", "force", "resume",
    "debug_nan",
}  # fmt: skip


@dataclass(slots=True)
class Found:
    """A run to go on with: its directory, locked, and the checkpoint it goes on from."""

    directory: RunDirectory
    path: Path
    checkpoint: Checkpoint
    state: RunState

    @property
    def source(self) -> str | None:
        """The file the run's model came from; None: it was new."""
        model = self.state.settings.get("model", "new")
        return None if model == "new" else seen_from_here(str(model), self.state.folder, True)

    def config(self, given: TrainConfig) -> TrainConfig:
        """The settings to go on with: the run's own, and what of `given` may be another.

        Raises:
            UsageError: something in `given` may not.
        """
        saved = self._saved()
        differing = differences(given, saved, self.state.folder)
        if differing:
            key, was, now = differing[0]
            raise UsageError(
                f"{key} = {now}: the run in {self.directory.path} has {was}, and cannot go on with"
                f" another (a new run from its weights: -m {self.directory.weights})"
            )
        values = settings.to_dict(saved)
        values |= places(values, self.state.folder)
        wanted = settings.to_dict(given)
        values |= {key: value for key, value in wanted.items() if key in FREE}
        values["save_dir"] = str(self.directory.path)
        merged = settings.from_mapping(values)
        return settings.resolve(merged, new_model=self.source is None)

    def ends_as(self, config: TrainConfig) -> bool:
        """Whether the checkpoint's settings send the same weights to the same file."""
        saved = self._saved()
        was = places(settings.to_dict(saved), self.state.folder).get("output")
        same_file = (was and os.path.realpath(was)) == (
            config.output and os.path.realpath(config.output)
        )
        return same_file and (saved.export or "best") == (config.export or "best")

    def check_data(self, dataset: Dataset, path: str, which: str) -> None:
        """Refuse data that are not those the run began with.

        Args:
            which: "data" or "validation".

        Raises:
            FileError: they are others, or there were none.
        """
        expected: Fingerprint | None = getattr(self.state, which)
        found = Fingerprint.of(dataset)
        if expected is None:
            raise UsageError(f"{path}: the run in {self.directory.path} has no validation data")
        if found != expected:
            raise FileError(
                f"{path}: not the data that the run in {self.directory.path} began with:"
                f" {found.sequences:,} sequences, SHA-256 {found.sha256[:12]}…, expected"
                f" {expected.sequences:,} and {expected.sha256[:12]}…"
                f" (a new run from its weights: -m {self.directory.weights})"
            )

    def say(self) -> None:
        """Log where the run goes on, and what may make it differ."""
        log.info("resumed  %s: %d updates made", self.path, self.state.progress.step)
        now, then = made_with(), self.state.made_with
        for name in sorted(now):
            if now[name] != then.get(name):
                was = then.get(name)
                log.info("note     %s is %s, was %s: last bits may differ", name, now[name], was)

    def _saved(self) -> TrainConfig:
        return settings.from_mapping(self.state.settings)


def places(values: Mapping[str, Any], folder: str) -> dict[str, str]:
    """The files that the settings of a run name, as seen from this folder.

    Args:
        values: the settings; folder: the one the run was started in.
    """
    keys = {"model": True, "output": True, "dataset": False, "val_dataset": False}
    return {
        key: seen_from_here(values[key], folder, written)
        for key, written in keys.items()
        if values.get(key, "new") != "new"
    }


def seen_from_here(path: str, folder: str, written: bool) -> str:
    """A path of a run's settings; it begins in the folder the run was started in.

    Where there is nothing any more, all may have been moved here.

    Args:
        written: it is for an output: not the file must be there, but a folder to hold it.
    """
    away = os.path.join(folder, path)
    here, there = map(os.path.dirname, (path, away)) if written else (path, away)
    if folder == os.getcwd() or (os.path.exists(here or ".") and not os.path.exists(there)):
        return path
    return away


def abandon_later(folder: Path, step: int) -> None:
    """Rename the checkpoints in a folder after this step: the run makes these steps again.

    Raises:
        DiskError: they cannot be renamed.
    """
    try:
        for path in [path for n, path in checkpoints.steps_in(folder).items() if n > step]:
            names = (f"{path.name}.unused{suffix}" for suffix in ("", *range(2, 10**6)))
            path.rename(next(p for name in names if not (p := folder / name).exists()))
        sync_folder(str(folder))
    except OSError as error:
        raise DiskError(f"{folder}: {write_reason(error, str(folder), 0)}") from error


def check_end(directory: RunDirectory, made: int, steps: int) -> None:
    """Refuse to end a run before where it is; UsageError."""
    if made > steps:
        raise UsageError(
            f"the run in {directory.path} has made {made} steps already:"
            f" it cannot end after {steps}"
        )


def differences(
    given: TrainConfig, saved: TrainConfig, folder: str
) -> list[tuple[str, object, object]]:
    """Keys that `given` wants otherwise than a run may go on with, both values with them."""
    old, new = settings.to_dict(saved), settings.to_dict(given)
    found = []
    for key, value in new.items():
        was = old.get(key)
        if key == "continual" and isinstance(was, dict):
            found += [
                (f"continual.{k}", was.get(k), v) for k, v in value.items() if was.get(k) != v
            ]
        elif key == "model" and "new" not in (value, was):
            if os.path.realpath(value) != os.path.realpath(os.path.join(folder, str(was))):
                found.append((key, was, value))
        elif key not in FREE and was != value:
            found.append((key, was, value))
    return found


# --- where the run lies ---------------------------------------------------------------------------


def find(given: TrainConfig) -> Found | None:
    """The run that `given.resume` means; None: there is none, and `auto` was asked for.

    Raises:
        FileError: there is no checkpoint, or none that can be read.
        UsageError: another run is writing there, or the folder is something else.
    """
    if given.resume is None:
        return None
    if given.resume != "auto":
        folder, chosen = _named(Path(given.resume))
        if given.save_dir is not None and Path(given.save_dir).resolve() != folder.resolve():
            raise UsageError(f"save_dir = {given.save_dir}: a run goes on where it is: {folder}")
        return _open(folder, chosen)
    if given.save_dir is not None:
        folder = Path(given.save_dir)
        if any(checkpoints.steps_in(folder / CHECKPOINTS)):
            return _open(folder, None)
        log.info("note     no run to resume in %s: a new one begins", folder)
        return None
    newest = sorted(Path("runs").glob(f"*/{CHECKPOINTS}"), key=_changed, reverse=True)
    for place in newest:
        if _fits(place, given):
            try:
                return _open(place.parent, None)
            except UsageError as error:  # it goes on elsewhere
                log.info("note     %s", error)
    log.info("note     no run to resume in runs/ with these settings: a new one begins")
    return None


def may_begin_in(folder: Path) -> bool:
    """Whether a run was ended in this folder before its first checkpoint, and may begin again."""
    if not folder.is_dir():
        return False
    directory = RunDirectory.existing(folder)
    try:
        return directory.has_only_begun
    finally:
        directory.close()


def _changed(place: Path) -> float:
    times = [path.stat().st_mtime for path in checkpoints.steps_in(place).values() if path.exists()]
    return max(times, default=0.0)


def _fits(place: Path, given: TrainConfig) -> bool:
    """Whether the newest checkpoint in a folder is of a run with the given settings."""
    for path in checkpoints.steps_in(place).values():
        try:
            state = run_state(path, checkpoints.read_state(path))
            saved = settings.from_mapping(state.settings)
        except (FileError, UsageError):
            continue
        for ours, theirs in (
            (given.dataset, saved.dataset),
            (given.val_dataset, saved.val_dataset),
        ):
            there = theirs and os.path.realpath(os.path.join(state.folder, theirs))
            if ours is not None and os.path.realpath(ours) != there:
                return False
        return not differences(given, saved, state.folder)
    return False


def _named(path: Path) -> tuple[Path, Path | None]:
    """The run directory that a path means, and the checkpoint, if it means a certain one."""
    if (path / checkpoints.STATE).exists():
        if path.resolve().parent.name != CHECKPOINTS:
            raise FileError(f"{display(path)}: a checkpoint of a script, not one of a run")
        folder = path.resolve().parent.parent
        return folder if path.is_absolute() else Path(os.path.relpath(folder)), path
    if path.name == CHECKPOINTS:
        path = path.parent
    if not path.is_dir():
        raise FileError(f"{display(path)}: no such run directory or checkpoint")
    if not checkpoints.steps_in(path / CHECKPOINTS):
        raise FileError(f"{display(path)}: no checkpoint to resume from")
    return path, None


def none_left(folder: Path, failures: list[FileError]) -> FileError:
    """Why no checkpoint of a run can be gone on from; each failure (newest first) is logged."""
    if len(failures) == 1:
        return failures[0]
    for failure in failures:
        log.info("note     skipped a checkpoint: %s", failure)
    return FileError(
        f"{display(folder)}: none of its {len(failures)} checkpoints can be read: {failures[0]}"
    )


def _open(folder: Path, chosen: Path | None) -> Found:
    """The newest checkpoint of a run that can be read, or the chosen one."""
    directory = RunDirectory.existing(folder)
    try:
        paths = [chosen] if chosen else checkpoints.steps_in(directory.checkpoints).values()
        failures: list[FileError] = []
        for path in paths:
            try:
                checkpoint = checkpoints.read(path)
                state = run_state(path, checkpoint.state)
            except FileError as error:
                failures.append(error)
                continue
            for failure in failures:
                log.info("note     skipped a checkpoint: %s", failure)
            return Found(directory, path, checkpoint, state)
        raise none_left(folder, failures)
    except BaseException:
        directory.close()
        raise
