"""Matrix product, by NumPy's BLAS."""

import numpy as np

from calmgrad.kernels.protocol import Array


def matmul(out: Array, a: Array, b: Array, add: Array | None = None) -> None:
    np.matmul(a, b, out=out)
    if add is not None:
        np.add(out, add, out=out)
