"""A batch cut into shards of whole sequences, run on worker threads, summed in order.

The cut depends on the batch alone and the sum on the order of the shards, so the result is the
same at any number of threads, to the last bit; and memory is bounded by threads times one shard.
"""

import heapq
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.backend import Backend
from calmgrad.config import ModelConfig
from calmgrad.kernels.protocol import Array
from calmgrad.layout import views
from calmgrad.network import Parameters, embeddings, logits, token_losses
from calmgrad.packing import Packing
from calmgrad.tape import Tape, Tensor
from calmgrad.tokenizer import PAD

SHARD_TOKENS = 512  # from here on a token costs the same, whatever the shard
BLOCK_TOKENS = 32 * SHARD_TOKENS  # of a long list, so many are handed to the threads at once
SMALL_BATCH = 256  # below this many tokens, cutting costs more than a second thread brings


@dataclass(frozen=True, slots=True)
class Shard:
    """Some sequences of a batch, packed.

    Attributes:
        rows: which sequences of the batch, in order.
        tokens: (T,) int64, their tokens back to back.
        packing: where each begins.
        targets: (T,) int64, what each position shall predict, -1 for nothing; None for
            embeddings.
    """

    rows: list[int]
    tokens: NDArray[np.int64]
    packing: Packing
    targets: NDArray[np.int64] | None = None

    def target_counts(self) -> NDArray[np.int64]:
        """(B,) number of targets of each sequence."""
        assert self.targets is not None
        starts = self.packing.offsets[:-1]
        return np.asarray(np.add.reduceat(self.targets >= 0, starts, dtype=np.int64))


class Head(Protocol):
    """What is computed from a shard: logits, token losses, or embeddings."""

    def __call__(self, parameters: Parameters, config: ModelConfig, shard: Shard) -> Tensor: ...


def logits_head(parameters: Parameters, config: ModelConfig, shard: Shard) -> Tensor:
    """(T, vocab) logits."""
    return logits(parameters, config, shard.tokens, shard.packing)


def loss_head(parameters: Parameters, config: ModelConfig, shard: Shard) -> Tensor:
    """(K,) negative log likelihoods of the shard's K targets, in order."""
    assert shard.targets is not None
    return token_losses(parameters, config, shard.tokens, shard.packing, shard.targets)


def embedding_head(how: str, unit: bool = True) -> Head:
    """(B, d_model) embeddings."""

    def head(parameters: Parameters, config: ModelConfig, shard: Shard) -> Tensor:
        return embeddings(parameters, config, shard.tokens, shard.packing, how, unit)

    return head


def cut(lengths: Sequence[int], shard_tokens: int = SHARD_TOKENS) -> list[list[int]]:
    """Divide sequences of these lengths among shards of about `shard_tokens` tokens.

    The longest sequence first, always into the emptiest shard; a sequence longer than
    `shard_tokens` gets a shard of its own. An even number of shards, to suit two threads.
    """
    long = [i for i, n in enumerate(lengths) if n >= shard_tokens]
    short = [i for i, n in enumerate(lengths) if n < shard_tokens]
    tokens = sum(lengths[i] for i in short)
    count = -(-tokens // shard_tokens)
    if tokens >= SMALL_BATCH and (count + len(long)) % 2:
        count += 1
    count = min(count, len(short))
    shards: list[list[int]] = [[] for _ in range(count)]
    fill = [(0, shard) for shard in range(count)]
    for i in sorted(short, key=lambda i: -lengths[i]):
        load, shard = heapq.heappop(fill)
        shards[shard].append(i)
        heapq.heappush(fill, (load + lengths[i], shard))
    return [[i] for i in long] + [sorted(shard) for shard in shards]


def pack(sequences: Sequence[NDArray[np.int64]], shard_tokens: int = SHARD_TOKENS) -> list[Shard]:
    """Cut and pack a batch; sequences without a token are left out."""
    present = [i for i, tokens in enumerate(sequences) if tokens.size]
    shards = []
    for part in cut([sequences[i].size for i in present], shard_tokens):
        rows = [present[i] for i in part]
        packing = Packing.of([sequences[i].size for i in rows])
        shards.append(Shard(rows, np.concatenate([sequences[i] for i in rows]), packing))
    return shards


def pack_targets(
    sequences: Sequence[NDArray[np.int64]],
    cmd_positions: Sequence[int],
    shard_tokens: int = SHARD_TOKENS,
) -> tuple[list[Shard], NDArray[np.int64]]:
    """Cut and pack training sequences; return the shards and each sequence's target count.

    A sequence without targets has neither loss nor gradient, and is in no shard.
    """
    whole = Packing.of([s.size for s in sequences])
    tokens = np.concatenate(sequences)
    targets = targets_of(tokens, whole, np.asarray(cmd_positions))
    starts, ends = whole.offsets[:-1], whole.offsets[1:]
    counts = np.add.reduceat(targets >= 0, starts, dtype=np.int64)
    present = np.flatnonzero(counts)
    # The last token of a sequence predicts nothing and, the network being causal, is not read.
    begin, end = starts.tolist(), (ends - 1).tolist()
    shards = []
    for part in cut([end[i] - begin[i] for i in present], shard_tokens):
        rows = [int(present[i]) for i in part]
        spans = [slice(begin[i], end[i]) for i in rows]
        read = np.concatenate([tokens[span] for span in spans])
        wanted = np.concatenate([targets[span] for span in spans])
        shards.append(Shard(rows, read, Packing.of([end[i] - begin[i] for i in rows]), wanted))
    return shards, counts


def targets_of(
    tokens: NDArray[np.int64], packing: Packing, cmd_positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """What each token of packed sequences shall predict; -1: nothing.

    Position t >= cmd_pos of a sequence predicts token t + 1 unless that is PAD (FORMATS §7).
    """
    targets = np.append(tokens[1:], PAD)
    targets[packing.offsets[1:] - 1] = -1
    targets[packing.pos < np.repeat(cmd_positions, np.diff(packing.offsets))] = -1
    targets[targets == PAD] = -1
    return targets


def target_shares(counts: NDArray[np.int64], reduction: str) -> NDArray[np.float64]:
    """What one target of each sequence weighs in the loss of a batch (FORMATS §7).

    Args:
        counts: (B,) targets of each sequence.
        reduction: "sequence", the mean of the sequences' means, or "token", over all targets.
    """
    if reduction == "sequence":
        return np.asarray(1 / (np.maximum(counts, 1) * counts.size))
    return np.full(counts.size, 1 / max(int(counts.sum()), 1))


def blocks(sequences: Iterable[NDArray[np.int64]]) -> Iterator[list[NDArray[np.int64]]]:
    """Any number of sequences, in lists of about `BLOCK_TOKENS` tokens."""
    block: list[NDArray[np.int64]] = []
    tokens = 0
    for sequence in sequences:
        block.append(sequence)
        tokens += sequence.size
        if tokens >= BLOCK_TOKENS:
            yield block
            block, tokens = [], 0
    if block:
        yield block


class Worker:
    """A thread's own tapes and gradient buffer."""

    def __init__(self, backend: Backend, config: ModelConfig, weights: Array) -> None:
        self.config = config
        self.grads = backend.xp.empty(weights.size, weights.dtype)  # touched when first used
        named, named_grads = views(config, weights), views(config, self.grads)
        self.tape = Tape(backend, weights.dtype.name)
        self.parameters = {k: self.tape.parameter(v, named_grads[k]) for k, v in named.items()}
        self.forward_tape = Tape(backend, weights.dtype.name, record=False)
        self.forward_parameters = {k: self.forward_tape.parameter(v) for k, v in named.items()}

    def run(self, shard: Shard, head: Head, seed: Array | None) -> Any:
        """The output for a shard; with a seed gradient for it, `grads` holds the parameters'."""
        if seed is None:
            self.forward_tape.begin()
            return np.array(head(self.forward_parameters, self.config, shard).value)
        self.tape.begin()
        output = head(self.parameters, self.config, shard)
        self.tape.backward(output, seed)
        return np.array(output.value)


def default_threads() -> int:
    """One thread for each core this process may use; `CALMGRAD_NUM_THREADS` overrides."""
    chosen = os.environ.get("CALMGRAD_NUM_THREADS", "")
    if chosen:
        if not chosen.isdigit() or int(chosen) < 1:
            raise ValueError(f"CALMGRAD_NUM_THREADS={chosen!r}: expected a number from 1 on")
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Runner:
    """Worker threads that run shards over one flat buffer of weights.

    Args:
        weights: flat, in buffer order; read at every run, never written.
        threads: how many shards are worked on at once.
    """

    def __init__(
        self, backend: Backend, config: ModelConfig, weights: Array, threads: int | None = None
    ) -> None:
        self.threads = default_threads() if threads is None else threads
        if not isinstance(self.threads, int) or self.threads < 1:
            raise ValueError(f"threads = {threads}: expected 1 or more")
        self._backend, self._config, self._weights = backend, config, weights
        self._workers: list[Worker] = []
        self._pool: ThreadPoolExecutor | None = None

    def run(
        self,
        shards: Sequence[Shard],
        head: Head,
        seeds: Sequence[Array] | None = None,
        add: Callable[[Array, int], None] | None = None,
    ) -> list[Any]:
        """Each shard's output, in order.

        Args:
            shards: of one batch.
            head: what to compute of each.
            seeds: the gradient of each shard's output; None for a forward pass alone.
            add: called with a shard's flat gradient and number, in the order of the shards,
                one at a time; the gradient is only lent, and may be overwritten.
        """
        count = min(self.threads, len(shards))
        while len(self._workers) < count:
            self._workers.append(Worker(self._backend, self._config, self._weights))
        batch = _Batch(shards, head, seeds, add)
        with backends.one_blas_thread():
            if count <= 1:
                for worker in self._workers[:count]:
                    batch.work(worker)
            else:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self.threads, "calmgrad-shard")
                jobs = [self._pool.submit(batch.work, worker) for worker in self._workers[:count]]
                for job in jobs:
                    job.result()
        return batch.outputs

    def rows(
        self, sequences: Iterable[NDArray[np.int64]], head: Head
    ) -> Iterator[NDArray[np.float32]]:
        """The rows that `head` gives for any number of sequences, one for each, in order.

        They come some hundred at a time, and that many sequences are held at once.
        """
        for block in blocks(sequences):
            shards = pack(block)
            rows = np.empty((len(block), self._config.d_model), np.float32)
            for shard, part in zip(shards, self.run(shards, head), strict=True):
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
    ) -> None:
        self.shards, self.head, self.seeds, self.add = shards, head, seeds, add
        self.outputs: list[Any] = [None] * len(shards)
        self._next = itertools.count()
        self._turn = threading.Condition()
        self._added = 0  # shards whose gradients have been added
        self._failed = False

    def work(self, worker: Worker) -> None:
        """Take shards until none is left; after a failure anywhere, stop."""
        try:
            with backends.silent_overflow():
                for i in self._next:
                    if i >= len(self.shards) or self._failed:
                        return
                    seed = None if self.seeds is None else self.seeds[i]
                    self.outputs[i] = worker.run(self.shards[i], self.head, seed)
                    if self.add is not None:
                        self._hand_in(worker.grads, i)
        except BaseException:
            with self._turn:
                self._failed = True
                self._turn.notify_all()
            raise

    def _hand_in(self, grads: Array, i: int) -> None:
        assert self.add is not None
        with self._turn:
            self._turn.wait_for(lambda: self._added == i or self._failed)
        if self._failed:
            return
        self.add(grads, i)
        with self._turn:
            self._added += 1
            self._turn.notify_all()
