"""Some rows of a matrix."""

from calmgrad.kernels.cpu.compile import kernel
from calmgrad.kernels.protocol import Array


@kernel
def select_rows_forward(y: Array, x: Array, rows: Array) -> None:
    for k in range(rows.size):
        t = rows[k]
        for c in range(y.shape[1]):
            y[k, c] = x[t, c]


@kernel
def select_rows_backward(dx: Array, dy: Array, rows: Array) -> None:
    dx[:, :] = 0
    for k in range(rows.size):
        t = rows[k]
        for c in range(dy.shape[1]):
            dx[t, c] = dy[k, c]
