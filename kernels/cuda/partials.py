"""Sums over all tokens, in two steps: each block of a kernel leaves its part, then they are added.

The order of the additions depends on the sizes alone.
"""

from calmgrad.kernels.cuda.launcher import WARP, Launcher, blocks, flat
from calmgrad.kernels.protocol import Array

WARPS = 32  # as in partials.cu


class Partials(Launcher):
    def sum_partials(self, partials: Array, parts: int, out: Array, rest: Array = None) -> None:
        """The sums of `parts` rows from the start of `partials`: to `out`, then to `rest`.

        A row has as many numbers as the two, which lie side by side in each.
        """
        rest = out[:0] if rest is None else rest
        size = out.size + rest.size
        self.launch(
            "partials", "sum_partials", (blocks(size, WARP), 1, 1), (WARP, WARPS, 1), out.dtype,
            flat(out), out.size, flat(rest), partials, parts, size,
        )  # fmt: skip
