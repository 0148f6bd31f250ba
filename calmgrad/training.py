"""A whole run from its settings: `calmgrad.train`, which the command `train` calls too."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calmgrad import settings
from calmgrad.events import Calls, EpochEnd, Evaluated, Prepared, Result
from calmgrad.loop import Report
from calmgrad.resume import find
from calmgrad.run import Run
from calmgrad.settings import TrainConfig
from calmgrad.telling import said_early

log = logging.getLogger("calmgrad.run")


def train(
    config: TrainConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    on_start: Callable[[Prepared], object] | None = None,
    on_step: Callable[[Report], object] | None = None,
    on_epoch: Callable[[EpochEnd], object] | None = None,
    on_eval: Callable[[Evaluated], object] | None = None,
    on_checkpoint: Callable[[Path], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **keys: Any,
) -> Result:
    """Train as `calmgrad train` does: `calmgrad.train(dataset="train.ctds", size="nano")`.

    Args:
        config: the settings (docs/configuration.md), a mapping of them, or a file that holds
            them; `keys` go before it.
        on_start: called before the first step.
        on_step: called after each update.
        on_epoch: called at the end of each epoch.
        on_eval: called after each evaluation on `val_dataset`.
        on_checkpoint: called with the path when a checkpoint or the weights were saved.
        should_stop: asked after each update, and after each shard of a validation, there by
            the thread that has worked on it; True ends the run there, its weights saved.

    Returns:
        The result; the model in it is ready to use.

    Raises:
        UsageError, FileError, DivergedError, DiskError: with one line that says what and where.

    Says what it does through the loggers "calmgrad.run" and "calmgrad.progress".
    """
    calls = Calls(on_start, on_step, on_epoch, on_eval, on_checkpoint, should_stop)
    with said_early() as early:
        given = _given(config, keys)
        found = find(given)
        try:
            return Run(given, calls, early, found).train()
        finally:
            if found is not None:
                found.directory.close()


def _given(
    config: TrainConfig | Mapping[str, Any] | str | os.PathLike[str] | None, keys: dict[str, Any]
) -> TrainConfig:
    """What keys, config and environment say, the first of them first."""
    notes: list[str] = []
    if isinstance(config, str | os.PathLike):
        given, notes = settings.read_config(config)
    elif isinstance(config, TrainConfig):
        given = config
    else:
        given = settings.from_mapping(_plain(config or {}))
    given = settings.merge(settings.from_mapping(_plain(keys)), given, settings.environment())
    for note in notes:
        log.info("note     %s", note)
    return given


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy's numbers as Python's own."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
