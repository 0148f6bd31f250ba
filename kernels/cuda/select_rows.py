"""Some rows of a matrix, on the GPU."""

from calmgrad.kernels.cuda.launcher import Launcher, row
from calmgrad.kernels.protocol import Array


class SelectRows(Launcher):
    def select_rows_forward(self, y: Array, x: Array, rows: Array) -> None:
        self.launch_rows(
            "select_rows", "select_rows_forward", rows.size, y.dtype,
            y, row(y), x, row(x), rows, *y.shape,
        )  # fmt: skip

    def select_rows_backward(self, dx: Array, dy: Array, rows: Array) -> None:
        self.launch_rows(
            "select_rows", "select_rows_backward", rows.size + 1, dx.dtype,
            dx, row(dx), dy, row(dy), rows, rows.size, *dx.shape,
        )  # fmt: skip
