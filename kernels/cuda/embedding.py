"""The token embedding on the GPU."""

from calmgrad.kernels.cuda.launcher import WARP, Launcher, row
from calmgrad.kernels.protocol import Array

WARPS = 32  # as in embedding.cu


class Embedding(Launcher):
    def embedding_forward(self, y: Array, table: Array, tokens: Array) -> None:
        self.launch_rows(
            "embedding", "embedding_forward", tokens.size, y.dtype,
            y, row(y), table, row(table), tokens, *y.shape,
        )  # fmt: skip

    def embedding_backward(self, dtable: Array, dy: Array, tokens: Array) -> None:
        self.launch(
            "embedding", "embedding_backward", (dtable.shape[0], 1, 1), (WARP, WARPS, 1), dy.dtype,
            dtable, row(dtable), dy, row(dy), tokens, *dy.shape,
        )  # fmt: skip
