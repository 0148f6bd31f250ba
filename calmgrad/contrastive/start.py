"""What a contrastive run begins with: its model, its settings and their defaults."""

from dataclasses import replace

import msgspec

from calmgrad import settings
from calmgrad.errors import UsageError
from calmgrad.model import Model
from calmgrad.settings import TrainConfig
from calmgrad.starting import start_model

DOMAIN = "netref"
# calm-train-contrastive's, where neither a preset nor a file says otherwise (FORMATS §9).
FINE_TUNING = TrainConfig(epochs=5, batch_size=16, lr=1e-4, warmup_steps=0)
PATIENCE = 5
TEMPERATURE = 0.07
WITHOUT_MEANING = ("batch_tokens", "continual", "report_to")


def model_and_settings(given: TrainConfig) -> tuple[Model, TrainConfig]:
    """The model to begin with, and every setting of the run."""
    if given.dataset is None:
        raise UsageError("no pairs given: expected a pair file (--pairs)")
    for name in WITHOUT_MEANING:
        if getattr(given, name) is not None:
            raise UsageError(f"{name}: not for contrastive training")
    if (given.accumulation or 1) > 1:
        raise UsageError(
            "accumulation: not for contrastive training: a pair is told from its own batch only,"
            " so several batches are no larger one; a larger batch_size needs no more memory"
        )
    model_path = given.model or "new"
    given = msgspec.structs.replace(given, model=model_path)
    defaults = TrainConfig(patience=PATIENCE)
    if model_path == "new":
        given = settings.merge(given, TrainConfig(domain=DOMAIN))
    model, source = start_model(given)
    if source is not None:
        defaults = settings.merge(defaults, FINE_TUNING)
        if not model.metadata.domain:
            model.metadata = replace(model.metadata, domain=DOMAIN)
    given = settings.merge(given, defaults)
    resolved = settings.resolve(given, new_model=source is None)
    if resolved.batch_size == 1:
        raise UsageError("batch_size = 1: expected 2 or more: a pair is told from the others")
    return model, resolved
