"""Mean or last row of each sequence, on the GPU."""

from typing import Any

from calmgrad.kernels.cuda.launcher import WARP, Launcher, blocks, row
from calmgrad.kernels.protocol import Array

WARPS = 16  # as in pool.cu


class Pool(Launcher):
    def pool_forward(self, y: Array, x: Array, offsets: Array, last: bool) -> None:
        self._launch("pool_forward", y, y, row(y), x, row(x), offsets, y.shape[1], last)

    def pool_backward(self, dx: Array, dy: Array, offsets: Array, last: bool) -> None:
        self._launch("pool_backward", dy, dx, row(dx), dy, row(dy), offsets, dy.shape[1], last)

    def _launch(self, entry: str, pooled: Array, *arguments: Any) -> None:
        grid = (pooled.shape[0], blocks(pooled.shape[1], WARP), 1)
        self.launch("pool", entry, grid, (WARP, WARPS, 1), pooled.dtype, *arguments)
