"""What a data set holds: lengths, tokens, repetitions, and what is odd about it."""

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from calmgrad.config import VOCAB
from calmgrad.data import MIN_LENGTH
from calmgrad.formats.ctds import Sequences
from calmgrad.tokenizer import ATN, BOS, EOS, NAMES, PAD


def token_counts(sequences: Sequences) -> NDArray[np.int64]:
    """(320,) how often each token occurs."""
    return np.bincount(sequences.tokens, minlength=VOCAB).astype(np.int64)


def token_name(token: int) -> str:
    """`<NAME>`, `<:ID:>`, or the character of a byte."""
    if token >= PAD:
        return f"<{NAMES.get(token, f':{token}:')}>"
    character = chr(token)
    return character if 33 <= token < 127 else f"0x{token:02x}"


@dataclass(frozen=True, slots=True)
class Bin:
    """How many sequences have `low` to `high` tokens."""

    low: int
    high: int
    count: int


def length_histogram(lengths: NDArray[np.int64], bins: int = 12) -> list[Bin]:
    """The lengths in bins of equal, round width; the first begins at 1."""
    longest = int(lengths.max())
    width = max(1, -(-longest // bins))
    unit = 10 ** (len(str(width)) - 1)
    width = -(-width // unit) * unit
    counts = np.bincount((lengths - 1) // width)
    return [Bin(i * width + 1, (i + 1) * width, int(n)) for i, n in enumerate(counts)]


def digests(sequences: Sequences, seed: int = 0) -> NDArray[np.uint64]:
    """(count,) a number for each sequence, the same for the same tokens and seed.

    64 bits of BLAKE2: of a million different sequences, two share a number once in 40 million
    such data sets.
    """
    salt = seed.to_bytes(16, "little")
    found = np.empty(sequences.count, np.uint64)
    tokens, offsets = sequences.tokens, sequences.offsets.tolist()
    for i, (start, stop) in enumerate(pairwise(offsets)):
        data = tokens[start:stop].astype("<u2").tobytes()
        digest = hashlib.blake2b(data, digest_size=8, salt=salt).digest()
        found[i] = int.from_bytes(digest, "little")
    return found


def repeated(numbers: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(count,) whether a sequence with the same digest stands before."""
    again = np.ones(len(numbers), np.bool_)
    again[np.unique(numbers, return_index=True)[1]] = False
    return again


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something that is allowed but may be a mistake: in how many sequences, and the first."""

    what: str
    count: int
    first: int


def oddities(sequences: Sequences, l_max: int) -> list[Oddity]:
    """What holds against a data set that follows every rule of the format."""
    lengths, positions = sequences.lengths, sequences.cmd_positions
    starts, tokens = sequences.offsets[:-1], sequences.tokens
    has_atn = _any(tokens == ATN, starts)
    at_position = tokens[starts + positions]
    marked = positions > 0
    found = {
        f"under {MIN_LENGTH} tokens: trainers leave it out": lengths < MIN_LENGTH,
        f"over {l_max} tokens: trainers leave it out": lengths > l_max,
        "the token at the ATN position is not ATN": marked & (at_position != ATN),
        "has ATN, but no ATN position: the loss is taken over all of it": has_atn & ~marked,
        "nothing to learn: ATN is the last token": marked & (positions == lengths - 1),
        "does not begin with BOS": tokens[starts] != BOS,
        "does not end with EOS": tokens[sequences.offsets[1:] - 1] != EOS,
        "holds PAD": _any(tokens == PAD, starts),
        "holds reserved tokens": _any(tokens > max(NAMES), starts),
        "same tokens as an earlier sequence": repeated(digests(sequences)),
    }
    return [
        Oddity(what, int(rows.sum()), int(np.argmax(rows)))
        for what, rows in found.items()
        if rows.any()
    ]


def overlap(sequences: Sequences, others: Sequences) -> NDArray[np.bool_]:
    """(count,) whether the tokens of a sequence are those of one of the others."""
    return np.isin(digests(sequences), digests(others))


def _any(of_tokens: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(count,) whether it holds for any token of a sequence."""
    return np.logical_or.reduceat(of_tokens, starts)
