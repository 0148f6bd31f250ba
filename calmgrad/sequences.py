"""Token sequences as a caller gives them: checked, and made arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad.backend import to_numpy
from calmgrad.config import ModelConfig

Tokens = Sequence[int] | NDArray[Any]


def checked_tokens(tokens: Tokens, config: ModelConfig, what: str = "tokens") -> NDArray[np.int64]:
    """The tokens as an array.

    Raises:
        ValueError: no tokens, or one outside the vocabulary.
    """
    array = np.asarray(to_numpy(tokens) if hasattr(tokens, "__cuda_array_interface__") else tokens)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{what}: shape {array.shape}, expected (n,) with n at least 1")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{what}: dtype {array.dtype}, expected whole numbers")
    if array.min() < 0 or array.max() >= config.vocab:
        at = int(np.argmax((array < 0) | (array >= config.vocab)))
        raise ValueError(
            f"{what}: token {array[at]} at position {at}: expected 0 to {config.vocab - 1}"
        )
    return array.astype(np.int64)


def checked_sequence(
    tokens: Tokens, cmd_pos: int, config: ModelConfig, what: str = "sequence"
) -> NDArray[np.int64]:
    """The tokens of a training sequence as an array.

    Raises:
        ValueError: as `checked_tokens`; also more than l_max tokens, or a position outside.
    """
    array = checked_tokens(tokens, config, what)
    if array.size > config.l_max:
        raise ValueError(f"{what}: {array.size} tokens, expected at most l_max = {config.l_max}")
    if not 0 <= cmd_pos < array.size:
        raise ValueError(f"{what}: cmd_pos {cmd_pos}, expected 0 to {array.size - 1}")
    return array
