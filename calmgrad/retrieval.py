"""Pairs of queries and passages, and how well embeddings let the ones find the others."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.errors import FileError
from calmgrad.formats import pairs as pair_files
from calmgrad.interrupting import asking
from calmgrad.kernels.protocol import Array
from calmgrad.ops.infonce import infonce
from calmgrad.shards import Runner
from calmgrad.tape import Tape
from calmgrad.worker import embedding_head

log = logging.getLogger("calmgrad.run")

SAID = 10  # findings in a pair file that are told one by one
SCORES = 1 << 22  # so many are alive at once: queries of a block times passages

Tokens = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Queries and passages as tokens; passage i belongs to query i."""

    queries: list[Tokens]
    passages: list[Tokens]

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each pair."""
        both = zip(self.queries, self.passages, strict=True)
        return np.array([q.size + p.size for q, p in both], np.int64)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How far up the right passage stands, over all queries.

    Attributes:
        recall_1, recall_5, recall_10: share of the queries whose passage is first, among the
            first 5, among the first 10.
        mrr: mean of 1 / rank.
        queries, passages: how many; the same passage twice counts once.
    """

    recall_1: float
    recall_5: float
    recall_10: float
    mrr: float
    queries: int
    passages: int


def retrieval(ranks: NDArray[np.int64], passages: int) -> Retrieval:
    """The figures from the rank of each query's passage, counted from 1."""
    at_1, at_5, at_10 = (float((ranks <= k).mean()) for k in (1, 5, 10))
    return Retrieval(at_1, at_5, at_10, float((1 / ranks).mean()), ranks.size, passages)


def ranks_of(queries: Array, passages: Array, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) rank of passage `targets[i]` for query i, from 1 on.

    Args:
        queries: (N, D), passages: (M, D); rows of length one.

    Of equal scores the right one comes last: a model that gives everything the same embedding
    finds nothing.
    """
    ranks = np.empty(len(queries), np.int64)
    height = max(1, SCORES // len(passages))
    for start in range(0, len(queries), height):
        stop = start + height
        scores = queries[start:stop] @ passages.T
        own = scores[np.arange(len(scores)), targets[start:stop]]
        ranks[start:stop] = (scores >= own[:, None]).sum(axis=1)
    return ranks


def without_repeats(
    sequences: Sequence[NDArray[np.uint16]],
) -> tuple[list[int], NDArray[np.int64]]:
    """Indices of the different sequences, and for each sequence which of these it is."""
    numbers: dict[bytes, int] = {}
    first: list[int] = []
    which = np.empty(len(sequences), np.int64)
    for i, tokens in enumerate(sequences):
        number = numbers.setdefault(tokens.tobytes(), len(numbers))
        if number == len(first):
            first.append(i)
        which[i] = number
    return first, which


def figures(found: Retrieval) -> str:
    """The figures in half a line."""
    return (
        f"recall@1 {found.recall_1:.3f}  @5 {found.recall_5:.3f}  @10 {found.recall_10:.3f}"
        f"  MRR {found.mrr:.3f}"
    )


def load_pairs(path: str, l_max: int, strict: bool = False) -> Pairs:
    """The pairs of a file as tokens; says how many were left out, and why.

    Raises:
        FileError: the file is bad, or holds fewer than two pairs.
    """
    found = pair_files.read(path)
    for finding in found.findings[:SAID]:
        log.info("note     %s: line %d: %s", path, finding.line, finding.message)
    if len(found.findings) > SAID:
        log.info("note     %s: %d more of these", path, len(found.findings) - SAID)
    if strict and found.findings:
        first = found.findings[0]
        raise FileError(f"{path}: line {first.line}: {first.message} (--strict)")
    left_out = ", ".join(f"{reason}: {count:,}" for reason, count in found.left_out.items())
    if len(found.pairs) < 2:
        note = f" (left out: {left_out})" if left_out else ""
        raise FileError(f"{path}: expected 2 pairs or more, found {len(found.pairs)}{note}")
    queries = [pair_files.tokens(pair.query, l_max) for pair in found.pairs]
    passages = [pair_files.tokens(pair.passage, l_max) for pair in found.pairs]
    note = f"; left out {sum(found.left_out.values()):,} ({left_out})" if left_out else ""
    pairs = Pairs(queries, passages)
    log.info("data     %s: %s pairs, %s tokens%s", path, f"{len(pairs):,}",
             f"{int(pairs.lengths.sum()):,}", note)  # fmt: skip
    return pairs


def evaluate_pairs(
    pairs: Pairs,
    batch_size: int,
    temperature: float,
    pool: str,
    runner: Runner,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[float, Retrieval]:
    """InfoNCE loss over batches in file order, and how well queries find their passages.

    Args:
        runner: worker threads over the model's weights.
        should_stop: asked after each shard, perhaps by another thread; True ends it there.

    Raises:
        Interrupted: `should_stop` has said so.
    """
    head = embedding_head(pool)
    first, which = without_repeats(pairs.passages)
    keep = asking(should_stop)
    queries = np.concatenate(list(runner.rows(_wide(pairs.queries), head, keep)))
    different = _wide([pairs.passages[i] for i in first])
    passages = np.concatenate(list(runner.rows(different, head, keep)))
    loss, count = 0.0, len(pairs)
    for start in range(0, count, batch_size):
        rows = slice(start, start + batch_size)
        part = queries[rows]
        loss += len(part) * infonce_value(part, passages[which[rows]], temperature)
    return loss / count, retrieval(ranks_of(queries, passages, which), len(first))


def infonce_value(queries: Array, positives: Array, temperature: float) -> float:
    """The InfoNCE loss of embeddings."""
    tape = Tape(backends.load("cpu"), record=False)
    with backends.one_blas_thread(), backends.silent_overflow():
        loss = infonce(tape.constant(queries), tape.constant(positives), temperature)
    return float(loss.value[0])


def _wide(sequences: Sequence[Tokens]) -> Iterator[NDArray[np.int64]]:
    return (s.astype(np.int64) for s in sequences)
