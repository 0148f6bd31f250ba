"""LayerNorm on the GPU."""

from calmgrad.kernels.cuda.launcher import WARP, blocks, flat, row
from calmgrad.kernels.cuda.partials import Partials
from calmgrad.kernels.protocol import Array

WARPS, ROWS = 8, 32  # as in layer_norm.cu


class LayerNorm(Partials):
    def layer_norm_workspace(self, tokens: int, channels: int) -> int:
        return blocks(tokens, ROWS) * 2 * channels

    def layer_norm_forward(
        self, y: Array, mean: Array, rstd: Array, x: Array, weight: Array, bias: Array, eps: float
    ) -> None:
        self.launch_rows(
            "layer_norm", "layer_norm_forward", x.shape[0], x.dtype,
            y, row(y), mean, rstd, x, row(x), flat(weight), flat(bias), *x.shape, eps,
        )  # fmt: skip

    def layer_norm_backward(
        self,
        dx: Array,
        dweight: Array,
        dbias: Array,
        dy: Array,
        x: Array,
        mean: Array,
        rstd: Array,
        weight: Array,
        accumulate: bool,
        work: Array,
    ) -> None:
        tokens, channels = x.shape
        parts = blocks(tokens, ROWS)
        self.launch(
            "layer_norm", "layer_norm_backward", (parts, 1, 1), (WARP, WARPS, 1), x.dtype,
            dx, row(dx), work, dy, row(dy), x, row(x), mean, rstd, flat(weight),
            tokens, channels, accumulate,
        )  # fmt: skip
        self.sum_partials(work, parts, dweight, dbias)
