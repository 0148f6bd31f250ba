"""GELU on the GPU."""

from calmgrad.kernels.cuda.launcher import Launcher, row
from calmgrad.kernels.protocol import Array


class Gelu(Launcher):
    def gelu_forward(self, y: Array, x: Array) -> None:
        self.launch_rows(
            "gelu", "gelu_forward", x.shape[0], x.dtype, y, row(y), x, row(x), *x.shape
        )

    def gelu_backward(self, dx: Array, dy: Array, x: Array) -> None:
        self.launch_rows(
            "gelu", "gelu_backward", x.shape[0], x.dtype,
            dx, row(dx), dy, row(dy), x, row(x), *x.shape,
        )  # fmt: skip
