"""Contrastive training: pairs of texts in, a model that embeds out; `calmgrad contrastive`."""

from collections.abc import Callable

from calmgrad.contrastive.events import Evaluated, Prepared, Result
from calmgrad.contrastive.run import Run
from calmgrad.events import Calls
from calmgrad.loop import Report
from calmgrad.settings import TrainConfig
from calmgrad.telling import said_early

__all__ = ["Evaluated", "Prepared", "Result", "train_contrastive"]


def train_contrastive(
    config: TrainConfig,
    *,
    temperature: float | None = None,
    pool: str | None = None,
    strict: bool = False,
    on_start: Callable[[Prepared], object] | None = None,
    on_step: Callable[[Report], object] | None = None,
    on_eval: Callable[[Evaluated], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Train a model so that the embedding of a query is near that of its passage.

    Args:
        config: as for `calmgrad.train`; `dataset` and `val_dataset` are pair files (FORMATS §6),
            and `resume` is a run directory or one of its checkpoints.
        temperature: of InfoNCE's softmax; 0.07 if not given, or that of the run to go on with.
        pool: "mean" over all positions of a sequence, or "last"; likewise.
        strict: refuse pair files with anything to warn of.
        on_start, on_step, on_eval: called before the first step, after each, after evaluations.
        should_stop: asked after each update, and after each shard of a validation, there by
            the thread that has worked on it; True ends the run there, its weights saved.

    Raises:
        UsageError, FileError, DivergedError, DiskError: with one line that says what and where.
    """
    calls = Calls(on_start, on_step, None, on_eval, None, should_stop)
    with said_early() as early:
        return Run(config, temperature, pool, strict, early, calls).train()
