"""Matrix product."""

from calmgrad.kernels.protocol import Array


def matmul(out: Array, a: Array, b: Array, add: Array | None = None) -> None:
    out[...] = a @ b
    if add is not None:
        out += add
