"""The batches that all contestants get: random bytes of given lengths."""

from typing import Any

SHELL_MEDIAN, SHELL_SPREAD = 60, 0.7  # tokens; of the logarithm


def lengths_of(shape: str) -> list[int]:
    """`8x256`: eight sequences of 256 tokens; `shell32`: 32, their lengths as in shell data.

    Shell lengths are log-normal, clipped to 8 and 768; always the same ones.
    """
    import numpy as np

    if shape.startswith("shell"):
        normal = np.random.default_rng(0).normal(np.log(SHELL_MEDIAN), SHELL_SPREAD, int(shape[5:]))
        return [int(n) for n in np.clip(np.round(np.exp(normal)), 8, 768)]
    count, length = map(int, shape.split("x"))
    return [length] * count


def batch_of(shape: str) -> dict[str, Any]:
    """Tokens and ATN positions (0: everything is a target), as workers are told."""
    import numpy as np

    rng = np.random.default_rng(1)
    tokens = [rng.integers(0, 256, n).tolist() for n in lengths_of(shape)]
    return {"tokens": tokens, "positions": [0] * len(tokens)}
