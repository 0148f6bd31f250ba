"""Arrays as they go into the page: float16, thinned where they are large, in one run of bytes."""

import base64
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 48  # of a histogram


class Packed:
    """Gathers arrays; what `add` returns says where in the bytes one is, and how to read it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, array: NDArray[Any], cells: int) -> dict[str, Any]:
        """Keep a vector or matrix, or several; of a larger one so many cells at most.

        The numbers are divided by `scale`, their largest magnitude, since float16 ends at 6e-5;
        so they keep three digits, and the small ones fewer. `step` rows and columns are one cell,
        which holds the number of the largest magnitude among them.
        """
        wide = np.nan_to_num(np.asarray(array, np.float64))
        thinned, step = thin(wide, cells)
        scale = float(np.abs(thinned).max(initial=0.0)) or 1.0
        stored = (thinned / scale).astype("<f2").tobytes()
        at, self._size = self._size, self._size + len(stored)
        self._parts.append(stored)
        return {"at": at, "shape": list(thinned.shape), "of": list(wide.shape), "scale": scale,
                "step": list(step)}  # fmt: skip

    def text(self) -> str:
        """All bytes in base64."""
        return base64.b64encode(b"".join(self._parts)).decode("ascii")


def thin(array: NDArray[np.float64], cells: int) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """The array, or one of at most `cells` numbers; and how many rows and columns a cell is.

    Of more than two axes the last two are thinned.
    """
    steps = [1] * array.ndim
    while array.ndim and _cells(array.shape, steps) > cells:
        axis = max(
            range(max(array.ndim - 2, 0), array.ndim), key=lambda i: array.shape[i] / steps[i]
        )
        if steps[axis] >= array.shape[axis]:
            break
        steps[axis] += 1
    for axis, step in enumerate(steps):
        array = strongest(array, axis, step)
    return array, tuple(steps)


def _cells(shape: tuple[int, ...], steps: list[int]) -> int:
    return math.prod(-(-n // step) for n, step in zip(shape, steps, strict=True))


def strongest(array: NDArray[np.float64], axis: int, step: int) -> NDArray[np.float64]:
    """Of each `step` numbers along an axis the one with the largest magnitude."""
    if step == 1:
        return array
    moved = np.moveaxis(array, axis, -1)
    missing = -moved.shape[-1] % step
    padded = np.concatenate([moved, np.zeros((*moved.shape[:-1], missing))], axis=-1)
    groups = padded.reshape(*moved.shape[:-1], -1, step)
    at = np.abs(groups).argmax(axis=-1)[..., None]
    return np.moveaxis(np.take_along_axis(groups, at, -1)[..., 0], -1, axis)


def statistics(array: NDArray[Any]) -> dict[str, Any]:
    """Mean, standard deviation, extremes, L2 norm and histogram of all numbers, none left out."""
    wide = np.asarray(array, np.float64).ravel()
    if wide.size == 0:
        return {"mean": 0.0, "std": 0.0, "min": 0.0, "max": 0.0, "norm": 0.0, "histogram": []}
    counts, _ = np.histogram(wide, BINS)
    return {
        "mean": float(wide.mean()),
        "std": float(wide.std()),
        "min": float(wide.min()),
        "max": float(wide.max()),
        "norm": float(np.sqrt(np.dot(wide, wide))),
        "histogram": counts.tolist(),
    }
