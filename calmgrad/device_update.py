"""The last part of a step on a device, which is only told what to do.

Its kernels work on a small vector of control numbers in its memory, which loss, norm, clip scale
and step number never leave. So the host neither waits nor reads, and a whole step can be recorded
and replayed (replay.py). Loss and norm of each step stay on the device until `outcomes` asks for
them. From the first loss or norm on that is not finite, the device changes no weight any more.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad.arena import address
from calmgrad.backend import Backend, silent_overflow
from calmgrad.buckets import padded
from calmgrad.cutting import Shard, seeds_of
from calmgrad.kernels.cuda.control import HEALTHY, LOSS, LR, STEP
from calmgrad.kernels.protocol import Array
from calmgrad.optim import Optimizer
from calmgrad.replay import Replay
from calmgrad.shards import Runner
from calmgrad.staging import Staging
from calmgrad.update import AHEAD, HostUpdate, Outcome, Penalty, Update, add_penalty, adding_to
from calmgrad.worker import loss_head

CONTROL = 8  # numbers
ENVIRONMENT = "CALMGRAD_CUDA_GRAPH"


class DeviceUpdate(Update):
    """As HostUpdate, on a device. `optimizer.step` counts the steps that were given to it.

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
            return super().step(runner, shards, share, p, total, penalty, clip, lr)
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
            add_penalty(self._backend, g, p, penalty)
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
