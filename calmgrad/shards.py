"""The shards of a batch, run on worker threads, summed in order.

The cut depends on the batch alone and the sum on the order of the shards, so the result is the
same at any number of threads, to the last bit; and memory is bounded by threads times one shard.
On a GPU a batch is one shard, as far as its memory goes, and the calling thread runs it.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad import memory
from calmgrad.arena import address
from calmgrad.backend import Backend
from calmgrad.config import ModelConfig
from calmgrad.cutting import SHARD_TOKENS, Shard, blocks, cut, pack, pack_targets
from calmgrad.errors import OutOfMemoryError
from calmgrad.kernels.protocol import Array
from calmgrad.worker import Head, Keep, Worker


def default_threads() -> int:
    """One thread for each core this process may use; `CALMGRAD_NUM_THREADS` overrides."""
    chosen = os.environ.get("CALMGRAD_NUM_THREADS", "")
    if chosen:
        if not chosen.isdigit() or int(chosen) < 1:
            raise ValueError(f"CALMGRAD_NUM_THREADS={chosen!r}: expected a number from 1 on")
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Placed:
    """A shard that lies on a device, with all that its gradient needs.

    Attributes:
        addresses: where all that `run` reads and writes begins; where in it each array lies
            depends on the sizes alone.
        fresh: the worker has no memory for it yet: it is new, or its memory was given back.
    """

    worker: Worker
    shard: Shard
    seed: Array
    addresses: tuple[int, ...]
    fresh: bool

    def run(self, head: Head, add: Callable[[Array, int], None], keep: Keep) -> None:
        """As `Runner.run`; nothing but work of the device."""
        self.worker.compute(self.shard, head, self.seed, keep, 0)
        add(self.worker.grads, 0)


class Runner:
    """Worker threads that run shards over one flat buffer of weights.

    Args:
        weights: flat, in buffer order; read at every run, never written. Or a function that
            gives them, always the same array, brought up to date.
        threads: how many shards are worked on at once; on a device, one.
    """

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        weights: Array | Callable[[], Array],
        threads: int | None = None,
    ) -> None:
        self.threads = default_threads() if threads is None else threads
        if not isinstance(self.threads, int) or self.threads < 1:
            raise ValueError(f"threads = {threads}: expected 1 or more")
        self._backend, self._config, self._weights = backend, config, weights
        self._device_bound = 0  # tokens of a shard on a device
        if backend.device is not None:
            self.threads = 1
            self._device_bound = memory.device_shard_tokens(config, backend.device.memory()[1])
        self._workers: list[Worker] = []
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0  # whose threads these are

    @property
    def backend(self) -> Backend:
        """Where the shards are run."""
        return self._backend

    @property
    def width(self) -> int:
        """d_model, the length of an embedding."""
        return self._config.d_model

    def cut(self, lengths: Sequence[int], shard_tokens: int = SHARD_TOKENS) -> list[list[int]]:
        """`cut` as is right for the backend; a device has a bound of its own for the tokens."""
        return cut(lengths, self._device_bound or shard_tokens, self._device_bound > 0)

    def pack(
        self, sequences: Sequence[NDArray[np.int64]], shard_tokens: int = SHARD_TOKENS
    ) -> list[Shard]:
        """`pack` as is right for the backend."""
        return pack(sequences, self._device_bound or shard_tokens, self._device_bound > 0)

    def pack_targets(
        self,
        sequences: Sequence[NDArray[np.int64]],
        cmd_positions: Sequence[int],
        shard_tokens: int = SHARD_TOKENS,
    ) -> tuple[list[Shard], NDArray[np.int64]]:
        """`pack_targets` as is right for the backend."""
        bound = self._device_bound
        return pack_targets(sequences, cmd_positions, bound or shard_tokens, bound > 0)

    def run(
        self,
        shards: Sequence[Shard],
        head: Head,
        seeds: Sequence[Array] | None = None,
        add: Callable[[Array, int], None] | None = None,
        keep: Keep | None = None,
    ) -> list[Any]:
        """What is kept of each shard's output, in order.

        Args:
            shards: of one batch.
            head: what to compute of each.
            seeds: the gradient of each shard's output; None for a forward pass alone.
            add: called with a shard's flat gradient and number, in the order of the shards,
                one at a time; the gradient is only lent, and may be overwritten.
            keep: what is kept of each output; None: a copy on the host.

        Raises:
            OutOfMemoryError: a shard does not fit into a device; says what would.
        """
        with self.telling(shards), self._backend.active():
            return self._run(_Batch(shards, head, seeds, add, keep))

    def place(self, shard: Shard, seed: Array) -> Placed:
        """Bring a shard, and the gradient of its output, to the device, to be run alone."""
        self._hire(1)
        worker = self._workers[0]
        worker.tape.begin()  # its memory becomes one block, if it has grown
        there, weight = worker.place(shard, seed)
        memory_of = worker.tape.addresses
        addresses = (address(there.tokens), address(worker.grads), *memory_of)
        return Placed(worker, there, weight, addresses, fresh=not memory_of)

    @contextmanager
    def telling(self, shards: Sequence[Shard]) -> Iterator[None]:
        """Inside, a device that is out of memory becomes an error that says what would fit."""
        try:
            yield
        except OutOfMemoryError as error:
            room = self._room()
            self._workers.clear()
            raise _too_large(self._backend, self._config, shards, room) from error

    def _hire(self, count: int) -> None:
        # Asked for at every run: the function brings the array that the workers have up to date.
        weights = self._weights() if callable(self._weights) else self._weights
        while len(self._workers) < count:
            self._workers.append(Worker(self._backend, self._config, weights))

    def _run(self, batch: "_Batch") -> list[Any]:
        count = min(self.threads, len(batch.shards))
        self._hire(count)
        with backends.one_blas_thread():
            if count <= 1:
                for worker in self._workers[:count]:
                    batch.work(worker)
            else:
                self._share_out(batch, self._workers[:count])
        return batch.outputs

    def _share_out(self, batch: "_Batch", workers: list[Worker]) -> None:
        """Work on a batch with these workers, who are all free again at the end, however it comes.

        Or, after a Ctrl-C or an error, the next batch would find one of them at work on this one.
        """
        if self._pool is None or self._process != os.getpid():  # a fork has none of its threads
            self._pool = ThreadPoolExecutor(self.threads, "calmgrad-shard")
            self._process = os.getpid()
        try:
            jobs = [self._pool.submit(batch.work, worker) for worker in workers]
            for job in jobs:
                job.result()
        finally:
            batch.wait_for_all()

    def _room(self) -> int:
        """Bytes of the device that a batch could have, were the workers' own given back."""
        assert self._backend.device is not None
        return self._backend.device.memory()[0] + sum(worker.held() for worker in self._workers)

    def rows(
        self, sequences: Iterable[NDArray[np.int64]], head: Head, keep: Keep | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """The rows that `head` gives for any number of sequences, one for each, in order.

        They come some hundred at a time, and that many sequences are held at once. `keep` is as
        in `run`, and gives a shard's rows.
        """
        for block in blocks(sequences):
            shards = self.pack(block)
            rows = np.empty((len(block), self._config.d_model), np.float32)
            for shard, part in zip(shards, self.run(shards, head, keep=keep), strict=True):
                rows[shard.rows] = part
            yield rows

    def close(self) -> None:
        """Free the workers."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._workers.clear()


class _Batch:
    """The shards of one batch, as the workers take them and hand in their gradients."""

    def __init__(
        self,
        shards: Sequence[Shard],
        head: Head,
        seeds: Sequence[Array] | None,
        add: Callable[[Array, int], None] | None,
        keep: Keep | None,
    ) -> None:
        self.shards, self.head, self.seeds = shards, head, seeds
        self.add, self.keep = add, keep
        self.outputs: list[Any] = [None] * len(shards)
        self._next = itertools.count()
        self._turn = threading.Condition()
        self._added = 0  # shards whose gradients have been added
        self._at_work = 0  # threads
        self._ended = False

    def work(self, worker: Worker) -> None:
        """Take shards until none is left; after a failure anywhere, stop."""
        with self._turn:
            self._at_work += 1
        try:
            with backends.silent_overflow():
                for i in self._next:  # shared: no two threads get the same number
                    if i >= len(self.shards) or self._ended:
                        return
                    seed = None if self.seeds is None else self.seeds[i]
                    self.outputs[i] = worker.run(self.shards[i], self.head, seed, self.keep, i)
                    if self.add is not None:
                        self._hand_in(worker.grads, i)
        except BaseException:
            self._end()
            raise
        finally:
            with self._turn:
                self._at_work -= 1
                self._turn.notify_all()

    def wait_for_all(self) -> None:
        """Let no worker begin another shard, and wait for those at work."""
        self._end()
        with self._turn:
            self._turn.wait_for(lambda: self._at_work == 0)

    def _end(self) -> None:
        with self._turn:
            self._ended = True
            self._turn.notify_all()

    def _hand_in(self, grads: Array, i: int) -> None:
        assert self.add is not None
        with self._turn:
            self._turn.wait_for(lambda: self._added == i or self._ended)
        if self._ended:
            return
        self.add(grads, i)  # no lock is held: it is nobody else's turn
        with self._turn:
            self._added += 1
            self._turn.notify_all()


def _too_large(
    backend: Backend, config: ModelConfig, shards: Sequence[Shard], room: int
) -> OutOfMemoryError:
    """What a batch takes that did not fit, and how large one may be that does."""
    largest = max(shards, key=lambda shard: shard.tokens.size)
    tokens, sequences = largest.tokens.size, len(largest.rows)
    needed = memory.activations(config, tokens, sequences)
    fitting = int(0.9 * room / memory.bytes_of_a_token(config))
    if fitting >= tokens:  # the forecast was too low
        fitting = tokens // 2
    advice = "not even one sequence fits: something else holds the memory"
    if sequences > 1 and fitting >= 1:
        advice = f"about {fitting:,} tokens would fit: batch_tokens = {fitting}"
        if fitting * sequences // tokens >= 1:
            advice += f", or batch_size = {fitting * sequences // tokens}"
    return OutOfMemoryError(
        f"{backend.told}: out of memory: {tokens:,} tokens ({sequences} sequences) at once take"
        f" about {needed / 1e6:,.0f} MB, {room / 1e6:,.0f} MB are free; {advice}"
    )
