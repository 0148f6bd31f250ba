"""What a Trainer is at one moment, as a checkpoint holds it; and becoming that again."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad.backend import Backend, to_numpy
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.formats.checkpoint import Checkpoint
from calmgrad.model import Model
from calmgrad.optim import Optimizer

log = logging.getLogger("calmgrad.run")


@dataclass(frozen=True, slots=True)
class Rest:
    """What a trainer is besides its buffers.

    Attributes:
        lr: of the next update.
        gathered: sequences or targets whose gradients wait for an update.
        options: all that the numbers of the next step depend on, besides these and the buffers.
    """

    lr: float
    gathered: float
    options: dict[str, str | float]


def place(backend: Backend) -> str:
    """Where a trainer computes, as a checkpoint says it: "cpu", "cuda", "cuda tf32"."""
    if backend.device is None:
        return "cpu"
    precision = backend.device.precision
    return "cuda" if precision == "float32" else f"cuda {precision}"


def gather(
    model: Model,
    backend: Backend,
    optimizer: Optimizer,
    grads: NDArray[np.float32] | None,
    rest: Rest,
    buffers: dict[str, NDArray[np.float32]],
    run: dict[str, Any] | None,
    extra: Any,
) -> Checkpoint:
    """A checkpoint; on the host, its buffers are the trainer's own.

    Args:
        grads: what has gathered, if something has.
        buffers, run, extra: to be kept besides.
    """
    with backend.active():
        own = {name: to_numpy(flat) for name, flat in optimizer.buffers().items()}
    held = own | buffers
    if grads is not None:
        held["grads"] = grads
    where = place(backend)
    training = checkpoints.Training(optimizer.step, rest.lr, rest.gathered, rest.options, where)
    return Checkpoint(model.data(), held, checkpoints.new_state(training, run, extra))


def restore(
    checkpoint: Checkpoint,
    model: Model,
    backend: Backend,
    optimizer: Optimizer,
    options: dict[str, str | float],
) -> None:
    """Give model and optimizer what the checkpoint says; says when it comes from elsewhere.

    Raises:
        ValueError: it does not fit; nothing is changed.
    """
    saved, training = checkpoint.model, checkpoint.state.training
    if saved.config != model.config:
        raise ValueError(f"the checkpoint's model is {saved.config}, this one {model.config}")
    for name, value in options.items():
        if training.options.get(name) != value:
            was = training.options.get(name)
            raise ValueError(f"{name} = {value}: the checkpoint was made with {was}")
    own = optimizer.buffers()
    if missing := {*own, *(["grads"] if training.gathered else [])} - {*checkpoint.buffers}:
        raise ValueError(f"the checkpoint lacks {', '.join(sorted(missing))}")
    if training.device != place(backend):
        log.info(
            "note     the checkpoint was made on %s, this is %s: the numbers go on the same but"
            " for rounding", training.device, place(backend),
        )  # fmt: skip
    with backend.active():
        for name, flat in own.items():
            flat[...] = backend.xp.asarray(checkpoint.buffers[name])
    model.weights[...] = saved.weights
    model.fisher, model.anchor = saved.fisher, saved.anchor
    model.metadata, model.sampler = saved.metadata, saved.sampler
    optimizer.step = training.updates
