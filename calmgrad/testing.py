"""Strategies for hypothesis: arrays of shapes that fit, packed sequences, batches, model sizes.

Values come from a seeded generator, not element by element: quick at any size. What shrinks is
their shape, and that is what goes wrong. The fixtures of the pytest plugin are in
`pytest_calmgrad`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calmgrad.config import ModelConfig
from calmgrad.packing import Packing
from calmgrad.tokenizer import ATN, BOS, EOS

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "calmgrad.testing needs hypothesis: pip install 'calmgrad[test]'", name=error.name
    ) from error

# Around multiples of the kernels' sixteen lanes, and of a scan's chunks of sixteen tokens.
SIZES = (1, 2, 3, 5, 15, 16, 17, 33)

Floats = NDArray[np.float64]
Tokens = NDArray[np.int64]


class Packed(NamedTuple):
    """Sequences back to back: their values (T, C), and where each begins."""

    values: Floats
    packing: Packing


class Batch(NamedTuple):
    """Training sequences as `Trainer.step` takes them."""

    sequences: list[Tokens]
    cmd_positions: list[int]


@st.composite
def arrays(
    draw: st.DrawFn,
    /,
    *shapes: str,
    scale: float = 1.0,
    positive: bool = False,
    apart: bool = False,
    **sizes: int | st.SearchStrategy[int],
) -> list[Floats]:
    """One float64 array for each shape; equal letters stand for equal sizes.

    `arrays("T C", "C", "C O", T=4)` draws a list of three: (4, C), (C,) and (C, O).

    Args:
        shapes: letters and numbers, as in the docstrings of ops.
        scale: standard deviation.
        positive: between 0.5 and 2 times `scale`, for logarithms and divisors.
        apart: no two numbers nearer than a tenth of `scale`, for functions with kinks.
        sizes: of single letters, a number or a strategy; of others, one of SIZES.
    """
    bound = {name: draw(s) if isinstance(s, st.SearchStrategy) else s for name, s in sizes.items()}
    letters = dict.fromkeys(" ".join(shapes).split())
    if unknown := sizes.keys() - letters:
        raise ValueError(f"arrays: {min(unknown)} is in none of the shapes {', '.join(shapes)}")
    for letter in letters:
        if not letter.isdigit() and letter not in bound:
            bound[letter] = draw(st.sampled_from(SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    found: list[Floats] = []
    for shape in shapes:
        size = tuple(int(x) if x.isdigit() else bound[x] for x in shape.split())
        values: NDArray[Any]
        if positive:
            values = rng.uniform(0.5, 2.0, size)
        elif apart:
            count = math.prod(size)
            values = 0.1 * (rng.permutation(count).reshape(size) - count / 2)
        else:
            values = rng.standard_normal(size)
        found.append(np.asarray(scale * values))
    return found


def packings(max_sequences: int = 4, max_length: int = 40) -> st.SearchStrategy[Packing]:
    """Sequences of 1 to `max_length` tokens."""
    lengths = st.integers(1, max_length)
    return st.lists(lengths, min_size=1, max_size=max_sequences).map(Packing.of)


@st.composite
def packed_sequences(
    draw: st.DrawFn,
    channels: int | None = None,
    max_sequences: int = 4,
    max_length: int = 40,
    scale: float = 1.0,
) -> Packed:
    """Packed values (T, channels), and their packing; without `channels`, one of SIZES."""
    packing = draw(packings(max_sequences, max_length))
    width = st.sampled_from(SIZES) if channels is None else channels
    [values] = draw(arrays("T C", T=int(packing.offsets[-1]), C=width, scale=scale))
    return Packed(values, packing)


@st.composite
def token_sequences(
    draw: st.DrawFn,
    max_sequences: int = 6,
    min_length: int = 2,
    max_length: int = 40,
    vocab: int = ModelConfig().vocab,
) -> list[Tokens]:
    """One or more sequences of any tokens, special ones among them."""
    lengths = st.lists(st.integers(min_length, max_length), min_size=1, max_size=max_sequences)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return [rng.integers(0, vocab, length) for length in draw(lengths)]


@st.composite
def batches(draw: st.DrawFn, max_sequences: int = 6, max_length: int = 40) -> Batch:
    """Training sequences: BOS, bytes, EOS; in some of them ATN, from which on they are targets."""
    sequences, positions = [], []
    for tokens in draw(token_sequences(max_sequences, 4, max(4, max_length), vocab=256)):
        tokens[[0, -1]] = BOS, EOS
        position = draw(st.integers(0, len(tokens) - 2))
        if position:
            tokens[position] = ATN
        sequences.append(tokens)
        positions.append(position)
    return Batch(sequences, positions)


def model_configs(max_d_model: int = 20, max_layers: int = 2) -> st.SearchStrategy[ModelConfig]:
    """Sizes of small models, odd ones too."""
    return st.builds(
        ModelConfig,
        d_model=st.integers(1, max_d_model),
        n_layers=st.integers(1, max_layers),
        ffn_expand=st.integers(1, 3),
        expand=st.integers(1, 3),
        d_state=st.sampled_from((1, 2, 3, 15, 16, 17)),
        d_conv=st.integers(1, 5),
        dt_rank=st.integers(0, 3),
    )
