"""Some rows of a matrix."""

from calmgrad.kernels.protocol import Array


def select_rows_forward(y: Array, x: Array, rows: Array) -> None:
    y[...] = x[rows]


def select_rows_backward(dx: Array, dy: Array, rows: Array) -> None:
    dx[...] = 0
    dx[rows] = dy
