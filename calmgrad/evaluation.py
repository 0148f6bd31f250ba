"""How well a model predicts a data set."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from calmgrad.data import Dataset
from calmgrad.interrupting import asking
from calmgrad.model import Model
from calmgrad.sequences import checked_sequence
from calmgrad.shards import Runner
from calmgrad.worker import loss_head

BATCH = 256  # sequences handed to the workers at once


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Losses in nats over the targets of a data set.

    Attributes:
        mean, min, max: of the sequences' mean losses (sequences with a target).
        token_mean: over all targets, whatever the sequence; `perplexity` is e to it.
        bits_per_byte: mean loss of those targets that are bytes, in bits; None without any.
        sequences, tokens: how many sequences and targets were counted.
    """

    mean: float
    min: float
    max: float
    token_mean: float
    perplexity: float
    bits_per_byte: float | None
    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Change:
    """What training has done to a model on one data set.

    Attributes:
        before, after: the older and the newer model's evaluation, on the same sequences.
    """

    before: Evaluation
    after: Evaluation

    @property
    def loss(self) -> float:
        """By how much the mean loss of a target rose, in nats; above 0: forgotten."""
        return self.after.token_mean - self.before.token_mean

    @property
    def bits_per_byte(self) -> float | None:
        """By how much the bits of a byte rose; None without bytes."""
        if self.before.bits_per_byte is None or self.after.bits_per_byte is None:
            return None
        return self.after.bits_per_byte - self.before.bits_per_byte


def compare(before: Model, after: Model, dataset: Dataset, threads: int | None = None) -> Change:
    """Two models on a data set of sequences that both can take; ValueError as `evaluate`."""
    return Change(evaluate(before, dataset, threads), evaluate(after, dataset, threads))


def evaluate(
    model: Model,
    dataset: Dataset,
    threads: int | None = None,
    on_sequence: Callable[[int, float], object] | None = None,
    runner: Runner | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Evaluate on every sequence of `dataset`, each of 1 to l_max tokens.

    Args:
        threads: shards worked on at once; None: one for each core. (On the device of `model.to`,
            one.)
        runner: a trainer's worker threads, or those of `model.runner`, to work with these
            instead of new ones.
        on_sequence: called for each sequence with a target: its position in the file, from 0
            (whatever was left out or shuffled), and its mean loss. In no particular order.
        should_stop: asked after each shard, perhaps by another thread; True ends it there.

    Raises:
        Interrupted: `should_stop` has said so.
        ValueError: there is no target in the whole data set.
    """
    if runner is None:
        with model.runner(threads) as temporary:
            return evaluate(model, dataset, None, on_sequence, temporary, should_stop)
    keep = asking(should_stop)
    means: list[float] = []
    total = byte_total = 0.0
    count = byte_count = 0
    index = 0
    while batch := dataset.batch(index, BATCH)[0]:
        positions = dataset.batch(index, BATCH)[1]
        first = index * BATCH
        index += 1
        arrays = [
            checked_sequence(tokens, position, model.config, "sequence")
            for tokens, position in zip(batch, positions, strict=True)
        ]
        shards, _ = runner.pack_targets(arrays, positions)
        for shard, losses in zip(shards, runner.run(shards, loss_head, keep=keep), strict=True):
            assert shard.targets is not None
            nll = losses.astype(np.float64)
            is_byte = shard.targets[shard.targets >= 0] < 256
            counts = shard.target_counts()
            own = np.add.reduceat(nll, np.cumsum(counts) - counts) / counts
            means += list(own)
            if on_sequence is not None:
                for row, loss in zip(shard.rows, own, strict=True):
                    on_sequence(int(dataset.rows[first + row]), float(loss))
            total, count = total + nll.sum(), count + nll.size
            byte_total = byte_total + nll[is_byte].sum()
            byte_count += int(is_byte.sum())
    if count == 0:
        raise ValueError("nothing to evaluate: no sequence has a target")
    return Evaluation(
        mean=float(np.mean(means)),
        min=float(min(means)),
        max=float(max(means)),
        token_mean=float(total / count),
        perplexity=float(np.exp(min(total / count, 700.0))),
        bits_per_byte=float(byte_total / byte_count / math.log(2)) if byte_count else None,
        sequences=len(means),
        tokens=count,
    )
