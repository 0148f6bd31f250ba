"""Causal convolution and SiLU on the GPU."""

from calmgrad.kernels.cuda.launcher import WARP, blocks, flat, row
from calmgrad.kernels.cuda.partials import Partials
from calmgrad.kernels.protocol import Array

WARPS, RUN = 8, 8  # as in causal_conv1d.cu


class CausalConv1d(Partials):
    def causal_conv1d_workspace(self, tokens: int, channels: int, taps: int) -> int:
        return blocks(tokens, WARPS * RUN) * channels * taps

    def causal_conv1d_forward(
        self, y: Array, x: Array, weight: Array, pos: Array, work: Array
    ) -> None:
        self.launch(
            "causal_conv1d", "causal_conv1d_forward", _grid(x), (WARP, WARPS, 1), x.dtype,
            y, row(y), x, row(x), flat(weight), pos, *x.shape, weight.shape[1],
        )  # fmt: skip

    def causal_conv1d_backward(
        self,
        dx: Array,
        dweight: Array,
        dy: Array,
        x: Array,
        weight: Array,
        pos: Array,
        work: Array,
    ) -> None:
        grid = _grid(x)
        self.launch(
            "causal_conv1d", "causal_conv1d_backward", grid, (WARP, WARPS, 1), x.dtype,
            dx, row(dx), work, dy, row(dy), x, row(x), flat(weight), pos,
            *x.shape, weight.shape[1],
        )  # fmt: skip
        self.sum_partials(work, grid[1], dweight)


def _grid(x: Array) -> tuple[int, int, int]:
    tokens, channels = x.shape
    return blocks(channels, WARP), blocks(tokens, WARPS * RUN), 1
