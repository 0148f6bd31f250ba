"""GELU on the GPU."""

from calmgrad.kernels.cuda.launcher import Launcher, blocks
from calmgrad.kernels.protocol import Array

THREADS = 256


class Gelu(Launcher):
    def gelu_forward(self, y: Array, x: Array) -> None:
        self._elementwise("gelu_forward", y, x)

    def gelu_backward(self, dx: Array, dy: Array, x: Array) -> None:
        self._elementwise("gelu_backward", dx, dy, x)

    def _elementwise(self, entry: str, *arrays: Array) -> None:
        size = arrays[0].size
        grid = (blocks(size, THREADS), 1, 1)
        self.launch("gelu", entry, grid, (THREADS, 1, 1), arrays[0].dtype, *arrays, size)
