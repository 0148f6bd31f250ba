"""The last part of a step: EWC gradient, norm, clip, update; here on the host.

On a device the same is done by DeviceUpdate (device_update.py), whose losses and norms are known
only later; so either hands out what came of its steps by `outcomes`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calmgrad import ewc
from calmgrad.arena import address
from calmgrad.backend import Backend
from calmgrad.cutting import Shard, seeds_of, spread
from calmgrad.errors import DivergedError
from calmgrad.kernels.protocol import Array
from calmgrad.optim import Optimizer, clip_scale
from calmgrad.shards import Runner
from calmgrad.worker import loss_head

AHEAD = 64  # steps whose losses a device keeps


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


class Update(ABC):
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
        self.begin()
        total.fill(0)
        self.gradient(runner, shards, share, total)
        self.apply(p, total, penalty, clip, lr)

    @abstractmethod
    def begin(self) -> None:
        """The loss is 0."""

    @abstractmethod
    def gradient(
        self, runner: Runner, shards: list[Shard], share: NDArray[np.float64], total: Array
    ) -> None:
        """Add the batch's loss to the loss, its gradient to `total`.

        `share` is what one target of each sequence weighs in the loss.
        """

    @abstractmethod
    def add_loss(self, loss: Array) -> None:
        """Add a loss, (1,), to the loss."""

    @abstractmethod
    def loss(self) -> float:
        """The loss so far."""

    @abstractmethod
    def apply(self, p: Array, g: Array, penalty: Penalty | None, clip: float, lr: float) -> None:
        """Update `p` from the gradient `g`; unless loss or norm is not finite."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Steps whose outcomes `outcomes` would give."""

    @abstractmethod
    def outcomes(self) -> list[Outcome]:
        """Of all steps since the last call, in order; the first that is not finite ends them."""


def adding_to(backend: Backend, total: Array) -> Callable[[Array, int], None]:
    """What `Runner.run` calls to sum the shards' gradients in `total`."""

    def add(grads: Array, _: int) -> None:
        backend.xp.add(total, grads, out=total)

    return add


class HostUpdate(Update):
    """On the host, where a step's loss and norm are known at once."""

    def __init__(self, backend: Backend, optimizer: Optimizer) -> None:
        self._backend, self._optimizer = backend, optimizer
        self._loss = 0.0
        self._outcomes: list[Outcome] = []

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
            add_penalty(self._backend, g, p, penalty)
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


def add_penalty(backend: Backend, g: Array, p: Array, penalty: Penalty) -> None:
    """Add the gradient of the penalty to `g`."""
    fisher, anchor = penalty.fisher, penalty.anchor
    ewc.add_penalty_gradient(backend, g, p, fisher, anchor, penalty.strength)
