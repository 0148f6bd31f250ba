"""What a Trainer is between two steps: its buffers, and the steps begun whose losses wait.

A checkpoint holds all of it; so one trainer can go on where another has stopped.
"""

import logging
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calmgrad.backend import Backend, to_numpy
from calmgrad.errors import CalmgradError, DivergedError
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.formats.checkpoint import Checkpoint
from calmgrad.kernels.protocol import Array
from calmgrad.layout import layout
from calmgrad.mirror import Mirror
from calmgrad.model import Model
from calmgrad.optim import Optimizer
from calmgrad.shards import Runner
from calmgrad.update import AHEAD, Outcome, Penalty, Update

log = logging.getLogger("calmgrad.run")


class TrainerState:
    """The model and all that training it has gathered; a Trainer is this and its steps.

    Args:
        options: what the numbers of the next step depend on, besides the buffers, `lr`,
            `grad_clip` and `ewc_lambda`.
        threads: shards worked on at once; None: one for each core.
    """

    def __init__(
        self,
        model: Model,
        backend: Backend,
        optimizer: Optimizer,
        update: Update,
        options: dict[str, str | float],
        threads: int | None,
        lr: float,
        grad_clip: float,
        ewc_lambda: float,
    ) -> None:
        self.model = model
        self.grad_clip = grad_clip
        self.ewc_lambda = ewc_lambda
        self.grad_norm = math.nan
        self._backend, self._optimizer, self._update = backend, optimizer, update
        self._options = options
        self._flat = Mirror(grads=np.zeros(model.config.param_count, np.float32))
        weights = partial(model.flat.on, backend, "weights")
        self.runner = Runner(backend, model.config, weights, threads)
        self._gathered = 0.0  # sequences (or targets) whose gradients `accumulate` has added
        self._outcomes: list[Outcome] = []  # known, and not collected yet
        self._closed = False
        self._lock = threading.RLock()  # held by who changes or writes all this
        self.set_lr(lr)
        if backend.device is not None:
            model.flat.attach(backend)
            self._flat.attach(backend)

    @property
    def threads(self) -> int:
        """Shards worked on at once."""
        return self.runner.threads

    @property
    def told(self) -> str:
        """The device in half a line: "cpu", "cuda:0 (NVIDIA H200)"."""
        return self._backend.told

    @property
    def updates(self) -> int:
        """Updates made so far, also before a checkpoint that was loaded; those that `step_later`
        has begun count until it is known that one was not made.
        """
        return self._made if self._closed else self._optimizer.step

    def set_lr(self, lr: float) -> None:
        """Learning rate from the next update on."""
        if not 0 <= lr < math.inf:
            raise ValueError(f"lr = {lr}: expected at least 0")
        self.lr = lr

    # --- gradients ----------------------------------------------------------------------------

    @property
    def grads(self) -> NDArray[np.float32]:
        """The flat gradient, in buffer order. From a device it is copied when asked for."""
        self._require_open()
        grads: NDArray[np.float32] = self._flat.host("grads")
        return grads

    def get_grad(self, parameter: int | str) -> NDArray[np.float32]:
        """The gradient of one parameter, by index from 0 or by name: a view into `grads`.

        Raises:
            IndexError, KeyError: there is no such parameter.
        """
        self._require_open()
        entries = layout(self.model.config)
        if isinstance(parameter, str):
            entry = next((e for e in entries if e.name == parameter), None)
            if entry is None:
                raise KeyError(f"no parameter {parameter!r}")
        else:
            if not 0 <= parameter < len(entries):
                raise IndexError(f"parameter {parameter}: expected 0 to {len(entries) - 1}")
            entry = entries[parameter]
        return self.grads[entry.start : entry.stop].reshape(entry.shape)

    def zero_grad(self) -> None:
        """Set the gradient to zero and forget what `accumulate` has counted."""
        self._require_open()
        with self._alone():
            self._gradient().fill(0)
            self._gathered = 0

    # --- steps that were begun ----------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Steps that `collect` would tell of."""
        return len(self._outcomes) + (0 if self._closed else self._update.waiting)

    def collect(self) -> list[Outcome]:
        """Loss and gradient norm of every step since the last call, in order; waits for them.

        One that is not finite is the last; the steps begun after it count as not begun.
        """
        self._settle()
        found, self._outcomes = self._outcomes, []
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A block on the device, in which no other thread steps or saves."""
        with self._lock, self._backend.active():
            yield

    def _gradient(self) -> Array:
        """The flat gradient where it is computed, to be changed."""
        return self._flat.on(self._backend, "grads", written=True)

    def _require_healthy(self) -> None:
        """Nothing may be begun after a step that failed, as far as is known."""
        if self._update.waiting >= AHEAD:
            self._settle()
        if self._outcomes:
            self._outcomes[-1].check()

    def _begin(self) -> Array:
        """Begin a step; its gradient, still 0."""
        self._require_healthy()
        self._update.begin()
        total = self._gradient()
        total.fill(0)
        return total

    def _apply(self, total: Array) -> None:
        """EWC, norm, clip, update; nothing changes unless loss and norm are finite."""
        weights = self.model.flat.on(self._backend, "weights", written=True)
        self._update.apply(weights, total, self._penalty(), self.grad_clip, self.lr)

    def _penalty(self) -> Penalty | None:
        flat = self.model.flat
        if self.ewc_lambda == 0 or not flat.holds("fisher"):
            return None
        fisher, anchor = (flat.on(self._backend, name) for name in ("fisher", "anchor"))
        return Penalty(fisher, anchor, self.ewc_lambda)

    def _settle(self) -> None:
        """Find out what came of the steps that were begun."""
        if not self._closed and self._update.waiting:
            with self._backend.active():
                self._outcomes += self._update.outcomes()
            self.grad_norm = self._outcomes[-1].norm

    def _last(self) -> float:
        """The loss of the step just begun, which must be finite. Earlier outcomes stay."""
        self._settle()
        outcome = self._outcomes.pop()
        outcome.check()
        return outcome.loss

    # --- files --------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a CWGT file, with EWC data if there are any.

        Raises:
            DivergedError: a weight is not finite; what was at `path` stays.
            DiskError: it cannot be written; what was there stays.
        """
        with self._alone():
            if not np.isfinite(self.model.weights).all():
                raise DivergedError(
                    f"{os.fspath(path)} not written: the last update left weights that are not"
                    " finite (a smaller learning rate may help)"
                )
            self.model.save(path)

    def save_checkpoint(self, path: str | os.PathLike[str], extra: Any = None) -> None:
        """Write all that going on from here takes; a checkpoint that is there is replaced.

        Args:
            path: a folder (docs/reliability.md says what is in it).
            extra: of the script's own: anything that JSON can hold.

        Raises:
            DivergedError: a weight is not finite; what was at `path` stays.
            DiskError: it cannot be written; what was there stays.
        """
        with self._alone():  # or another thread's step changes what is being written
            checkpoints.write(path, self.checkpoint(extra=extra))

    def load_checkpoint(self, path: str | os.PathLike[str]) -> Any:
        """Go on from a checkpoint: the next step does what it would have done there.

        Restores the weights in place, metadata, EWC data, optimizer, learning rate and gathered
        gradients. Threads may be others.

        Returns:
            What was saved as `extra`.

        Raises:
            FileError: there is no whole checkpoint; nothing was changed.
            ValueError: it is of a model of other sizes, or of a trainer with other options.
        """
        self._require_open()
        loaded = checkpoints.read(path)
        with self._alone():
            self.restore(loaded)
        return loaded.state.extra

    def checkpoint(
        self,
        buffers: dict[str, NDArray[np.float32]] | None = None,
        run: dict[str, Any] | None = None,
        extra: Any = None,
    ) -> Checkpoint:
        """What a checkpoint of this moment holds, the buffers being the trainer's own.

        Args:
            buffers, run, extra: to be kept besides.
        """
        self._require_open()
        self._settle()
        with self._backend.active():
            own = {name: to_numpy(flat) for name, flat in self._optimizer.buffers().items()}
        held = own | (buffers or {})
        if self._gathered:
            held["grads"] = self.grads
        training = checkpoints.Training(
            self._optimizer.step, float(self.lr), float(self._gathered), self._all_options(),
            self._place(),
        )  # fmt: skip
        return Checkpoint(self.model.data(), held, checkpoints.new_state(training, run, extra))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what `checkpoint` says; says when it comes from elsewhere.

        Raises:
            ValueError: it does not fit; nothing is changed.
        """
        self._require_open()
        self._settle()
        model, saved, training = self.model, checkpoint.model, checkpoint.state.training
        if saved.config != model.config:
            raise ValueError(f"the checkpoint's model is {saved.config}, this one {model.config}")
        for name, value in self._all_options().items():
            if training.options.get(name) != value:
                was = training.options.get(name)
                raise ValueError(f"{name} = {value}: the checkpoint was made with {was}")
        own = self._optimizer.buffers()
        if missing := {*own, *(["grads"] if training.gathered else [])} - {*checkpoint.buffers}:
            raise ValueError(f"the checkpoint lacks {', '.join(sorted(missing))}")
        if training.device != self._place():
            log.info(
                "note     the checkpoint was made on %s, this is %s: the numbers go on the same"
                " but for rounding", training.device, self._place(),
            )  # fmt: skip
        with self._backend.active():
            for name, flat in own.items():
                flat[...] = self._backend.xp.asarray(checkpoint.buffers[name])
        model.weights[...] = saved.weights
        model.fisher, model.anchor = saved.fisher, saved.anchor
        model.metadata, model.sampler = saved.metadata, saved.sampler
        self._optimizer.step = training.updates
        self._gathered = training.gathered
        self.grads[...] = checkpoint.buffers["grads"] if training.gathered else 0
        self.set_lr(training.lr)

    def close(self) -> None:
        """Free gradients, moments and worker memory; the model stays usable."""
        if self._closed:
            return
        self.runner.close()
        self._made = self.updates
        self._closed = True
        if self._backend.device is not None:
            self.model.flat.detach()
            self._flat.detach()
        self._flat = Mirror(grads=np.zeros(0, np.float32))
        del self._optimizer, self._update

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise CalmgradError("the trainer is closed")

    def _all_options(self) -> dict[str, str | float]:
        """What the numbers of the next step depend on, besides buffers and learning rate."""
        options = self._options | {"grad_clip": self.grad_clip, "ewc_lambda": self.ewc_lambda}
        return {k: v if isinstance(v, str) else float(v) for k, v in options.items()}

    def _place(self) -> str:
        """Where it computes, as a checkpoint says it: "cpu", "cuda", "cuda tf32"."""
        device = self._backend.device
        if device is None:
            return "cpu"
        return "cuda" if device.precision == "float32" else f"cuda {device.precision}"
