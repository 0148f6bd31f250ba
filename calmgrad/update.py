"""The last part of a step: EWC gradient, norm, clip, update; on the host, or on a device.

On the host each step's loss and norm are known at once. A device is only told what to do: its
kernels work on a small vector of control numbers in its memory, which loss, norm, clip scale and
step number never leave. So the host neither waits nor reads, and a whole step can be recorded and
replayed (replay.py). Loss and norm of each step stay on the device until `outcomes` asks for them.
From the first loss or norm on that is not finite, the device changes no weight any more.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calmgrad import ewc
from calmgrad.arena import address
from calmgrad.backend import Backend, silent_overflow
from calmgrad.buckets import padded
from calmgrad.cutting import Shard, seeds_of, spread
from calmgrad.errors import DivergedError
from calmgrad.kernels.cuda.control import HEALTHY, LOSS, LR, STEP
from calmgrad.kernels.protocol import Array
from calmgrad.optim import Optimizer, clip_scale
from calmgrad.replay import Replay
from calmgrad.shards import Runner
from calmgrad.staging import Staging
from calmgrad.worker import loss_head

AHEAD = 64  # steps whose losses a device keeps
CONTROL = 8  # numbers
ENVIRONMENT = "CALMGRAD_CUDA_GRAPH"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one step: its loss, and the gradient's norm before clipping."""

    loss: float
    norm: float

    @property
    def finite(self) -> bool:
        """Whether the weights were updated."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)

    def check(self) -> None:
        """Raise DivergedError unless the weights were updated."""
        if not self.finite:
            raise DivergedError(
                f"loss {self.loss:.6g}, gradient norm {self.norm:.6g}: expected finite numbers;"
                " the weights are as before this step (a smaller learning rate may help)"
            )


@dataclass(frozen=True, slots=True)
class Penalty:
    """The EWC data of a step, where the weights are, and the strength."""

    fisher: Array
    anchor: Array
    strength: float

    def told(self) -> tuple[float, ...]:
        """Addresses and strength."""
        return address(self.fisher), address(self.anchor), self.strength


class Update(Protocol):
    """What a Trainer hands its losses and gradients to: a `step`, or its parts one by one."""

    def step(
        self,
        runner: Runner,
        shards: list[Shard],
        share: NDArray[np.float64],
        p: Array,
        total: Array,
        penalty: Penalty | None,
        clip: float,
        lr: float,
    ) -> None:
        """All of `begin`, `gradient` and `apply`; `total` is 0 before."""
        ...

    def begin(self) -> None:
        """The loss is 0."""
        ...

    def gradient(
        self, runner: Runner, shards: list[Shard], share: NDArray[np.float64], total: Array
    ) -> None:
        """Add the batch's loss to the loss, its gradient to `total`.

        `share` is what one target of each sequence weighs in the loss.
        """
        ...

    def add_loss(self, loss: Array) -> None:
        """Add a loss, (1,), to the loss."""
        ...

    def loss(self) -> float:
        """The loss so far."""
        ...

    def apply(self, p: Array, g: Array, penalty: Penalty | None, clip: float, lr: float) -> None:
        """Update `p` from the gradient `g`; unless loss or norm is not finite."""
        ...

    @property
    def waiting(self) -> int:
        """Steps whose outcomes `outcomes` would give."""
        ...

    def outcomes(self) -> list[Outcome]:
        """Of all steps since the last call, in order; the first that is not finite ends them."""
        ...


def adding_to(backend: Backend, total: Array) -> Callable[[Array, int], None]:
    """What `Runner.run` calls to sum the shards' gradients in `total`."""

    def add(grads: Array, _: int) -> None:
        backend.xp.add(total, grads, out=total)

    return add


class HostUpdate:
    """On the host."""

    def __init__(self, backend: Backend, optimizer: Optimizer) -> None:
        self._backend, self._optimizer = backend, optimizer
        self._loss = 0.0
        self._outcomes: list[Outcome] = []

    def step(
        self,
        runner: Runner,
        shards: list[Shard],
        share: NDArray[np.float64],
        p: Array,
        total: Array,
        penalty: Penalty | None,
        clip: float,
        lr: float,
    ) -> None:
        self.begin()
        total.fill(0)
        self.gradient(runner, shards, share, total)
        self.apply(p, total, penalty, clip, lr)

    def begin(self) -> None:
        self._loss = 0.0

    def gradient(
        self, runner: Runner, shards: list[Shard], share: NDArray[np.float64], total: Array
    ) -> None:
        seeds = seeds_of(shards, share)
        losses = runner.run(shards, loss_head, seeds, adding_to(self._backend, total))
        pairs = zip(losses, shards, strict=True)
        self._loss += float(sum(np.dot(nll, spread(share, shard)) for nll, shard in pairs))

    def add_loss(self, loss: Array) -> None:
        self._loss += float(loss[0])

    def loss(self) -> float:
        return self._loss

    def apply(self, p: Array, g: Array, penalty: Penalty | None, clip: float, lr: float) -> None:
        if penalty is not None:
            _add(self._backend, g, p, penalty)
        outcome = Outcome(self._loss, math.sqrt(self._backend.kernels.squared_norm(g)))
        if outcome.finite:
            self._optimizer.update(p, g, clip_scale(outcome.norm, clip), lr)
        self._outcomes.append(outcome)

    @property
    def waiting(self) -> int:
        return len(self._outcomes)

    def outcomes(self) -> list[Outcome]:
        given, self._outcomes = self._outcomes, []
        return given


class DeviceUpdate:
    """On a device. `optimizer.step` counts the steps that were given to it.

    Args:
        record: whether a whole step is recorded and replayed as one graph.
    """

    def __init__(self, backend: Backend, optimizer: Optimizer, record: bool) -> None:
        assert backend.device is not None
        self._backend, self._optimizer = backend, optimizer
        self._kernels: Any = backend.kernels
        self._staging = Staging(backend.device)
        self.replay = Replay(backend.device if record else None)
        with backend.active():
            self._control = backend.xp.zeros(CONTROL, "float64")
            self._kept = backend.xp.zeros((AHEAD, 2), "float64")  # loss and norm of each step
            self._one = backend.xp.asarray(np.ones(1, np.float32))
            self._set(HEALTHY, 1.0)
        self._count = 0
        self._step_there = 0  # the device's count of updates

    def step(
        self,
        runner: Runner,
        shards: list[Shard],
        share: NDArray[np.float64],
        p: Array,
        total: Array,
        penalty: Penalty | None,
        clip: float,
        lr: float,
    ) -> None:
        if len(shards) != 1:  # nothing to learn; or so much that launching it is no matter
            self.begin()
            total.fill(0)
            self.gradient(runner, shards, share, total)
            self.apply(p, total, penalty, clip, lr)
            return
        shard, seed, bucket = padded(shards[0], seeds_of(shards, share)[0])
        with runner.telling(shards), self._backend.active(), silent_overflow():
            placed = runner.place(shard, seed)
            if placed.fresh:
                self.replay.forget()
            self._prepare(lr)

            def work() -> None:
                self.begin()
                total.fill(0)
                placed.run(loss_head, adding_to(self._backend, total), self._add_losses)
                self._change(p, total, penalty, clip)

            sizes = (bucket, clip, penalty and penalty.told())
            place = (*placed.addresses, address(p), address(total))
            self.replay.run(sizes, place, work)
        self._keep()

    def begin(self) -> None:
        self._kernels.begin_step(self._control)

    def gradient(
        self, runner: Runner, shards: list[Shard], share: NDArray[np.float64], total: Array
    ) -> None:
        pairs = zip(shards, seeds_of(shards, share), strict=True)
        filled = [padded(shard, seed) for shard, seed in pairs]
        runner.run(
            [shard for shard, _, _ in filled], loss_head, [seed for _, seed, _ in filled],
            adding_to(self._backend, total), self._add_losses,
        )  # fmt: skip

    def _add_losses(self, nll: Array, weights: Array | None, _: int) -> None:
        self._kernels.sum_losses(self._control, nll, weights)

    def add_loss(self, loss: Array) -> None:
        self._kernels.sum_losses(self._control, loss, self._one)

    def loss(self) -> float:
        return float(self._control.get()[LOSS])

    def apply(self, p: Array, g: Array, penalty: Penalty | None, clip: float, lr: float) -> None:
        self._prepare(lr)
        self._change(p, g, penalty, clip)
        self._keep()

    def _prepare(self, lr: float) -> None:
        """What a step reads in the control vector."""
        if self._count == AHEAD:
            raise RuntimeError(f"{AHEAD} steps wait for `outcomes`")
        if self._optimizer.step != self._step_there:  # after a checkpoint was loaded
            self._set(STEP, float(self._optimizer.step))
        [rate] = self._staging.send([np.array([lr])])
        self._control[LR : LR + 1] = rate

    def _change(self, p: Array, g: Array, penalty: Penalty | None, clip: float) -> None:
        if penalty is not None:
            _add(self._backend, g, p, penalty)
        self._optimizer.update_on_device(p, g, self._control, clip)

    def _keep(self) -> None:
        """The step is done; its loss and norm wait for `outcomes`."""
        self._optimizer.step += 1
        self._step_there = self._optimizer.step
        self._kept[self._count] = self._control[LOSS : LOSS + 2]
        self._count += 1

    @property
    def waiting(self) -> int:
        return self._count

    def outcomes(self) -> list[Outcome]:
        if self._count == 0:
            return []
        found: list[Outcome] = []
        for loss, norm in self._kept.get()[: self._count].tolist():
            found.append(Outcome(loss, norm))
            if not found[-1].finite:
                self._optimizer.step -= self._count - len(found) + 1
                self._step_there = self._optimizer.step  # the device has not counted them either
                self._set(HEALTHY, 1.0)
                break
        self._count = 0
        return found

    def _set(self, index: int, value: float) -> None:
        self._control[index : index + 1] = value


def _add(backend: Backend, g: Array, p: Array, penalty: Penalty) -> None:
    fisher, anchor = penalty.fisher, penalty.anchor
    ewc.add_penalty_gradient(backend, g, p, fisher, anchor, penalty.strength)


def make_update(backend: Backend, optimizer: Optimizer, cuda_graph: bool | None) -> Update:
    """The update for where the arrays are.

    Args:
        cuda_graph: whether a device's steps are recorded; None: as CALMGRAD_CUDA_GRAPH says, 0 or
            1; else they are.
    """
    if backend.device is None:
        return HostUpdate(backend, optimizer)
    if cuda_graph is None:
        chosen = os.environ.get(ENVIRONMENT, "")
        if chosen not in ("", "0", "1"):
            raise ValueError(f"{ENVIRONMENT}={chosen!r}: expected 0 or 1")
        cuda_graph = chosen != "0"
    return DeviceUpdate(backend, optimizer, cuda_graph)
