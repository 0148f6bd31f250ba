"""Rows of length one, on the GPU."""

from calmgrad.kernels.cuda.launcher import Launcher, row
from calmgrad.kernels.protocol import Array


class L2Normalize(Launcher):
    def l2_normalize_forward(self, y: Array, norm: Array, x: Array, eps: float) -> None:
        self.launch_rows(
            "l2_normalize", "l2_normalize_forward", x.shape[0], x.dtype,
            y, row(y), norm, x, row(x), *x.shape, eps,
        )  # fmt: skip

    def l2_normalize_backward(
        self, dx: Array, dy: Array, y: Array, norm: Array, eps: float
    ) -> None:
        self.launch_rows(
            "l2_normalize", "l2_normalize_backward", y.shape[0], y.dtype,
            dx, row(dx), dy, row(dy), y, row(y), norm, *y.shape, eps,
        )  # fmt: skip
