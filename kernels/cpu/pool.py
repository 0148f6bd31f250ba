"""One row a sequence: the mean of its rows, or the last of them."""

from calmgrad.kernels.cpu.compile import kernel
from calmgrad.kernels.protocol import Array


@kernel
def pool_forward(y: Array, x: Array, offsets: Array, last: bool) -> None:
    channels = x.shape[1]
    for b in range(offsets.size - 1):
        start, stop = offsets[b], offsets[b + 1]
        if last:
            for c in range(channels):
                y[b, c] = x[stop - 1, c]
        else:
            y[b, :] = 0
            for t in range(start, stop):
                for c in range(channels):
                    y[b, c] += x[t, c]
            for c in range(channels):
                y[b, c] /= stop - start


@kernel
def pool_backward(dx: Array, dy: Array, offsets: Array, last: bool) -> None:
    channels = dx.shape[1]
    for b in range(offsets.size - 1):
        start, stop = offsets[b], offsets[b + 1]
        for t in range(start, stop):
            for c in range(channels):
                if not last:
                    dx[t, c] = dy[b, c] / (stop - start)
                elif t == stop - 1:
                    dx[t, c] = dy[b, c]
                else:
                    dx[t, c] = 0
