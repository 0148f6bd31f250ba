"""Sums over all tokens, in two steps: each block of a kernel leaves its part, then they are added.

The order of the additions depends on the sizes alone.
"""

from calmgrad.kernels.cuda.launcher import WARP, Launcher, blocks
from calmgrad.kernels.protocol import Array

WARPS = 32  # as in partials.cu


class Partials(Launcher):
    def sum_partials(self, out: Array, partials: Array, parts: int, row: int) -> None:
        """out = the sum of `parts` rows of a flat array, of `row` numbers each, from its start.

        `out` has at most `row` numbers, side by side.
        """
        grid = (blocks(out.size, WARP), 1, 1)
        self.launch(
            "partials", "sum_partials", grid, (WARP, WARPS, 1), out.dtype,
            out, partials, row, parts, out.size,
        )  # fmt: skip
