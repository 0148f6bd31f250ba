"""A network that reads and writes one token at a time, with its state of constant size.

A sequence's state is, for each layer, the last inputs of the convolution and the states of the
scan. `start` makes it from a prompt, many tokens at a time; from then on each token costs the
same, however long the sequence has become.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.arena import Arena
from calmgrad.backend import Backend
from calmgrad.config import LAYER_NORM_EPS, ModelConfig
from calmgrad.kernels.protocol import CHUNK, Array, Sizes
from calmgrad.layout import layout, views
from calmgrad.packing import Packing
from calmgrad.sampling import GREEDY, Sampling

AT_ONCE = 33  # from so many tokens on, reading them together is faster than one by one

Integers = NDArray[np.int64]


class Decoder:
    """Reads and writes tokens.

    Args:
        weights: flat, in buffer order, float32 or float64. When they have changed, `refresh`.

    Attributes:
        logits: (vocab,) after the last token read.
    """

    def __init__(self, config: ModelConfig, weights: Array, backend: Backend | None = None) -> None:
        self.config, self.weights = config, weights
        self.backend = backend or backends.load("cpu")
        kernels, c = self.backend.kernels, config
        self._sizes = Sizes(
            c.d_model, c.d_inner, c.d_state, c.d_conv, c.dt_rank, c.d_ffn, c.n_layers, c.vocab
        )
        self._parameters = views(config, weights)
        self._starts = np.array([entry.start for entry in layout(config)], np.int64)
        self._work = np.empty(kernels.decode_workspace(self._sizes), weights.dtype)
        self.refresh()
        channels = kernels.decode_channels(c.d_inner)
        self._conv = np.zeros((c.n_layers, c.d_conv, channels), weights.dtype)
        self._scan = np.zeros((c.n_layers, c.d_state, channels), weights.dtype)
        self.logits = np.zeros(c.vocab, weights.dtype)
        self._arena = Arena(np, weights.dtype.name)

    def refresh(self) -> None:
        """Take over changed weights; some are kept as copies, in another layout."""
        self.backend.kernels.decode_prepare(self._work, self.weights, self._starts, self._sizes)

    def start(self, tokens: Sequence[int] | Integers) -> None:
        """Forget everything, and read these tokens (none: the state before any token)."""
        array = np.asarray(tokens, np.int64)
        self._conv[...] = 0
        self._scan[...] = 0
        done = 0
        if array.size >= AT_ONCE:
            # The scan tells its states before tokens 0, 16, 32, …: read up to the last of them.
            done = (array.size - 1) // CHUNK * CHUNK
            self._read_at_once(array[: done + 1])
        if done < array.size:
            self.read(array[done:])

    def read(self, tokens: Integers) -> NDArray[np.float32]:
        """Go on with these tokens, at least one; the logits after the last of them."""
        self.write(tokens, np.empty(0, np.int64), np.empty(0), np.zeros(self.config.vocab, bool))
        return self.logits

    def write(
        self,
        tokens: Integers,
        chosen: Integers,
        log_probs: NDArray[np.float64],
        pauses: NDArray[np.bool_],
        draws: NDArray[np.float64] | None = None,
        sampling: Sampling = GREEDY,
    ) -> int:
        """Read `tokens`, then fill `chosen` and `log_probs`; returns how many tokens were chosen.

        Ends early after a token for which `pauses` (vocab,) holds. The last chosen token is not
        read: begin the next call with it. `draws` are random numbers from [0, 1), one a token.
        """
        decode_tokens = self.backend.kernels.decode_tokens
        count = decode_tokens(
            chosen, log_probs, self.logits, self._conv, self._scan,
            self.weights, self._starts, self._sizes, LAYER_NORM_EPS, self._work,
            tokens, pauses, log_probs if draws is None else draws,
            # For an int where a float was before, Numba would compile everything once more.
            float(sampling.temperature), int(sampling.top_k),
            float(sampling.top_p), float(sampling.min_p),
        )  # fmt: skip
        return int(count)

    def state(self) -> tuple[Array, Array]:
        """A copy of what has been kept of the tokens read so far."""
        return self._conv.copy(), self._scan.copy()

    def restore(self, state: tuple[Array, Array]) -> None:
        """Go back to an earlier state."""
        self._conv[...], self._scan[...] = state

    def _read_at_once(self, tokens: Integers) -> None:
        """The state before the last of 16 n + 1 tokens, by the kernels of the training passes."""
        c, take = self.config, self._arena.take
        k = self.backend.kernels
        p = self._parameters
        packing = Packing.of([tokens.size])
        self._arena.reset()
        length, di, rank = tokens.size, c.d_inner, c.dt_rank
        x, h = take((length, c.d_model)), take((length, c.d_model))
        mean, rstd = take((length,)), take((length,))
        xz, ffn = take((length, 2 * di)), take((length, c.d_ffn))
        u, y, dt, gated = (take((length, di)) for _ in range(4))
        dt_b_c = take((length, rank + 2 * c.d_state))
        checkpoints = take((packing.chunks, c.d_state, di))
        need = [
            k.causal_conv1d_workspace(length, di, c.d_conv),
            k.selective_scan_workspace(length, packing.chunks, di, c.d_state),
        ]
        work = take((max(need),))
        k.embedding_forward(x, p["token_emb.weight"], tokens)
        for layer in range(c.n_layers):
            block, mixer = f"blocks.{layer}", f"blocks.{layer}.mixer"
            norm = (p[f"{block}.ln1.weight"], p[f"{block}.ln1.bias"], LAYER_NORM_EPS)
            k.layer_norm_forward(h, mean, rstd, x, *norm)
            k.matmul(xz, h, p[f"{mixer}.in_proj.weight"])
            k.causal_conv1d_forward(u, xz[:, :di], p[f"{mixer}.conv1d_weight"], packing.pos, work)
            k.matmul(dt_b_c, u, p[f"{mixer}.x_proj.weight"])
            k.matmul(dt, dt_b_c[:, :rank], p[f"{mixer}.dt_proj.weight"])
            k.selective_scan_forward(
                gated, y, dt, checkpoints, u, xz[:, di:], dt_b_c[:, rank:],
                p[f"{mixer}.dt_proj.bias"], p[f"{mixer}.A_log"], p[f"{mixer}.D"],
                packing.offsets, packing.chunk_offsets, work,
            )  # fmt: skip
            kept = min(c.d_conv, length - 1)
            self._conv[layer, :kept, :di] = xz[:-1, :di][::-1][:kept]
            self._scan[layer, :, :di] = checkpoints[-1]
            if layer == c.n_layers - 1:
                return
            k.matmul(h, gated, p[f"{mixer}.out_proj.weight"])
            x += h
            norm = (p[f"{block}.ln2.weight"], p[f"{block}.ln2.bias"], LAYER_NORM_EPS)
            k.layer_norm_forward(h, mean, rstd, x, *norm)
            k.matmul(ffn, h, p[f"{block}.ffn_fc1.weight"])
            k.gelu_forward(ffn, ffn)
            k.matmul(h, ffn, p[f"{block}.ffn_fc2.weight"])
            x += h
