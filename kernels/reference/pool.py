"""One row a sequence: the mean of its rows, or the last of them."""

from calmgrad.kernels.protocol import Array


def pool_forward(y: Array, x: Array, offsets: Array, last: bool) -> None:
    for b in range(len(offsets) - 1):
        rows = x[offsets[b] : offsets[b + 1]]
        y[b] = rows[-1] if last else rows.mean(axis=0)


def pool_backward(dx: Array, dy: Array, offsets: Array, last: bool) -> None:
    dx[...] = 0
    for b in range(len(offsets) - 1):
        start, stop = offsets[b], offsets[b + 1]
        if last:
            dx[stop - 1] = dy[b]
        else:
            dx[start:stop] = dy[b] / float(stop - start)
