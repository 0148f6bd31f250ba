"""How far two arrays are apart, and where most."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from calmgrad.parity.local import Array

# What rounding may do to one step, by the type of the other engine's numbers.
RTOL = {"float64": 1e-9, "float32": 3e-5, "float16": 2e-2}


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference of two arrays.

    Attributes:
        relative: |got - expected| / (|expected| + root mean square of all expected), at its
            largest; infinite where only one of both is a number.
        ulps: the same element's difference in units of the last place of the type.
        index: of that element.
        expected, got: the element.
        wrong: how many elements are further apart than allowed, of `size`.
    """

    relative: float
    ulps: float
    index: tuple[int, ...]
    expected: float
    got: float
    wrong: int
    size: int


def difference(
    expected: Array, got: Array, rtol: float, dtype: Any = np.float32, rounding: Any = 0.0
) -> Difference:
    """Compare arrays of one shape; NaN equals NaN, and an infinity itself.

    Args:
        rounding: what an element may differ besides, for each or for all: where large numbers
            are subtracted, little is left to be relative to.
    """
    e, g = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    if e.size == 0:
        return Difference(0.0, 0.0, (), 0.0, 0.0, 0, 0)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        beside = np.asarray(np.abs(e))
        beside += max(_scale(e), np.finfo(np.float64).tiny)
        if np.any(rounding):
            beside += rounding / rtol
        relative = np.asarray(np.abs(g - e))
        relative /= beside
    if (odd := np.isnan(relative)).any():
        same = (g == e) | (np.isnan(g) & np.isnan(e))
        relative = np.where(odd, np.where(same, 0.0, np.inf), relative)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(relative)), e.shape))
    return Difference(
        float(relative[at]), _ulps(e[at], g[at], dtype), at, float(e[at]), float(g[at]),
        int((relative > rtol).sum()), e.size,
    )  # fmt: skip


def _scale(e: Array) -> float:
    """Root mean square of what is finite."""
    finite = e.ravel()
    if not np.isfinite(finite).all():
        finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return 0.0
    largest = float(max(finite.max(), -finite.min())) or 1.0  # squares of huge numbers overflow
    part = finite / largest
    return largest * float(np.sqrt(np.dot(part, part) / part.size))


def _ulps(e: float, g: float, dtype: Any) -> float:
    if e == g or (np.isnan(e) and np.isnan(g)):
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        unit = float(np.spacing(np.abs(np.asarray(e, dtype))))
    apart = abs(g - e)
    return apart / unit if np.isfinite(apart) and np.isfinite(unit) and unit else float("inf")
