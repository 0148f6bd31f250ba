"""A batch cut into shards: some of its sequences each, packed, with what they shall predict."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calmgrad.kernels.protocol import Array
from calmgrad.packing import Packing
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
        asked: what `questions` gives, on a device; None on the host, where `targets` tell it.
    """

    rows: list[int]
    tokens: Array
    packing: Packing
    targets: NDArray[np.int64] | None = None
    asked: tuple[Array, Array | None] | None = None

    def questions(self) -> tuple[Array, Array | None]:
        """(K,) targets that count, and (K,) at which tokens; None: at every one."""
        if self.asked is not None:
            return self.asked
        assert self.targets is not None
        return asked(self.targets)

    def target_counts(self) -> NDArray[np.int64]:
        """(B,) number of targets of each sequence."""
        assert self.targets is not None
        starts = self.packing.offsets[:-1]
        return np.asarray(np.add.reduceat(self.targets >= 0, starts, dtype=np.int64))


def asked(targets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """The targets that are not negative, and at which tokens; None: at every one."""
    if (targets >= 0).all():
        return targets, None
    rows = np.flatnonzero(targets >= 0)
    return targets[rows], rows


def cut(
    lengths: Sequence[int], shard_tokens: int = SHARD_TOKENS, whole: bool = False
) -> list[list[int]]:
    """Divide sequences of these lengths among shards of about `shard_tokens` tokens.

    The longest sequence first, always into the emptiest shard; a sequence longer than
    `shard_tokens` gets a shard of its own. An even number of shards, to suit two threads.

    Args:
        whole: one shard, if `shard_tokens` allows it, else as few as it does, in order.
    """
    if whole:
        return _in_order(lengths, shard_tokens)
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


def _in_order(lengths: Sequence[int], bound: int) -> list[list[int]]:
    shards: list[list[int]] = []
    room = 0
    for i, length in enumerate(lengths):
        if not shards or length > room:
            shards.append([])
            room = bound
        shards[-1].append(i)
        room -= length
    return shards


def pack(
    sequences: Sequence[NDArray[np.int64]], shard_tokens: int = SHARD_TOKENS, whole: bool = False
) -> list[Shard]:
    """Cut and pack a batch; sequences without a token are left out."""
    present = [i for i, tokens in enumerate(sequences) if tokens.size]
    shards = []
    for part in cut([sequences[i].size for i in present], shard_tokens, whole):
        rows = [present[i] for i in part]
        packing = Packing.of([sequences[i].size for i in rows])
        shards.append(Shard(rows, np.concatenate([sequences[i] for i in rows]), packing))
    return shards


def pack_targets(
    sequences: Sequence[NDArray[np.int64]],
    cmd_positions: Sequence[int],
    shard_tokens: int = SHARD_TOKENS,
    whole: bool = False,
) -> tuple[list[Shard], NDArray[np.int64]]:
    """Cut and pack training sequences; return the shards and each sequence's target count.

    A sequence without targets has neither loss nor gradient, and is in no shard.
    """
    packed = Packing.of([s.size for s in sequences])
    tokens = np.concatenate(sequences)
    targets = targets_of(tokens, packed, np.asarray(cmd_positions))
    starts, ends = packed.offsets[:-1], packed.offsets[1:]
    counts = np.add.reduceat(targets >= 0, starts, dtype=np.int64)
    present = np.flatnonzero(counts)
    # The last token of a sequence predicts nothing and, the network being causal, is not read.
    begin, end = starts.tolist(), (ends - 1).tolist()
    shards = []
    for part in cut([end[i] - begin[i] for i in present], shard_tokens, whole):
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


def target_shares(
    counts: NDArray[np.int64], reduction: str, parts: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """What one target of each sequence weighs in the loss of a batch (FORMATS §7).

    Args:
        counts: (B,) targets of each sequence.
        reduction: "sequence", the mean of the sequences' means, or "token", over all targets.
        parts: how many of the sequences are in each part of the batch, where the mean over all
            targets is to be that of the parts' means.
    """
    if reduction == "sequence":
        return np.asarray(1 / (np.maximum(counts, 1) * counts.size))
    if parts is None:
        return np.full(counts.size, 1 / max(int(counts.sum()), 1))
    of_part = np.repeat(np.arange(len(parts)), parts)
    tokens = np.bincount(of_part, counts, len(parts))
    return np.asarray(1 / np.maximum(tokens, 1)[of_part] / len(parts))


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


def spread(share: NDArray[np.float64], shard: Shard) -> NDArray[np.float64]:
    """(K,) what each target of the shard weighs: its sequence's share."""
    return np.repeat(share[shard.rows], shard.target_counts())


def seeds_of(shards: Sequence[Shard], share: NDArray[np.float64]) -> list[NDArray[np.float32]]:
    """The gradient of a loss in each shard's token losses; it weighs sequences by `share`."""
    return [spread(share, shard).astype(np.float32) for shard in shards]
