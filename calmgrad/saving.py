"""When a run writes checkpoints, and which it keeps."""

import time
from collections.abc import Callable
from pathlib import Path

from calmgrad.errors import DiskError
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.formats.checkpoint import Checkpoint
from calmgrad.formats.files import write_reason
from calmgrad.formats.folders import OLD, make_folder, remove_folder, remove_unfinished

SECONDS = 60  # between checkpoints
SHARE = 0.01  # of a run's time that checkpoints nobody asked for may take
FIRST_GUESS = 0.1  # seconds that the first one is thought to take
KEPT = 2  # newest checkpoints, besides that of the best step


class Saver:
    """The checkpoints of one run.

    One is due every `every` steps; after SECONDS, and when there is something worth keeping
    (`wish`), as soon as all of them together take less than SHARE of the run's time.

    Args:
        folder: of the checkpoints; made when the first is written.
        every: steps; None: by time alone.
        clock: seconds from any moment on.

    Attributes:
        count, seconds: checkpoints written, and the time that has taken.
        newest: the last one written, or the one the run went on from.
    """

    def __init__(
        self, folder: Path, every: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self.count = 0
        self.seconds = 0.0
        self.newest: Path | None = None
        self._every = every
        self._clock = clock
        self._began = self._last = clock()
        self._wished = False

    def has(self, step: int) -> bool:
        """Whether the newest checkpoint is that after so many updates."""
        return self.newest is not None and self.newest.name == checkpoints.step_name(step)

    def wish(self) -> None:
        """There is something worth keeping, such as a new best model."""
        self._wished = True

    def due(self, step: int) -> bool:
        """Whether to write a checkpoint after so many updates."""
        if self._every is not None and step % self._every == 0:
            return True
        now = self._clock()
        if not self._wished and now - self._last < SECONDS:
            return False
        cost = self.seconds / self.count if self.count else FIRST_GUESS
        return self.seconds + cost <= SHARE * (now - self._began)

    def save(self, step: int, gather: Callable[[], Checkpoint], best: int | None) -> Path:
        """Write the checkpoint after so many updates, then remove those no longer needed.

        Args:
            gather: gives what is to be written.
            best: step of the best evaluation; its checkpoint is kept, if there is one.

        Raises:
            DivergedError: a weight is not finite.
            DiskError: it cannot be written; the checkpoints before it are untouched.
        """
        began = self._clock()
        path = self.folder / checkpoints.step_name(step)
        try:
            make_folder(self.folder)
        except OSError as error:
            reason = write_reason(error, str(self.folder), 0)
            raise DiskError(f"{self.folder}: {reason}") from error
        checkpoints.write(path, gather())
        self._prune(step, best)
        self._last = self._clock()
        self.seconds += self._last - began
        self.count += 1
        self.newest, self._wished = path, False
        return path

    def clean(self) -> None:
        """Remove what a writer that was interrupted has left."""
        if self.folder.is_dir():
            remove_unfinished(self.folder)

    def _prune(self, step: int, best: int | None) -> None:
        before = [(n, path) for n, path in checkpoints.steps_in(self.folder).items() if n <= step]
        for number, path in before[KEPT:]:
            if number != best:
                remove_folder(path)
                remove_folder(path.with_name(path.name + OLD))
