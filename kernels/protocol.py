"""What every backend provides; the type checker holds each backend module against it.

Letters: T tokens of all packed sequences, B sequences, C channels (d_inner), N d_state,
K d_conv, V vocabulary, D d_model. `pos` (T,) int64 counts the tokens before t in its own
sequence; `offsets` (B + 1,) int64 is where each sequence begins, `chunk_offsets` (chunks + 1,)
int64 where each chunk of (at most) 16 tokens of a sequence does. Formulas stand in
`calmgrad/ops/<op>.py`. Every output is overwritten unless its name is followed by "adds".
"""

from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeAlias

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray
ArrayModule: TypeAlias = ModuleType | Any

CHUNK = 16  # tokens between two saved scan states; the backward pass recomputes the rest

# The parameters of a layer, in buffer order. Before the first layer stands the embedding, after
# the last the final LayerNorm.
LN1, LN1_BIAS, IN, CONV, X, DT, DT_BIAS, A_LOG, SKIP, OUT, LN2, LN2_BIAS, FC1, FC2 = range(14)
PER_LAYER = 14


class Sizes(NamedTuple):
    """The sizes of a network, for the kernels that run all of it."""

    d_model: int
    d_inner: int
    d_state: int
    d_conv: int
    dt_rank: int
    d_ffn: int
    n_layers: int
    vocab: int


class Kernels(Protocol):
    """The functions of `calmgrad.kernels.<backend>`.

    `<op>_workspace` says how many elements of scratch memory the op's kernels take as `work`.
    """

    def matmul(self, out: Array, a: Array, b: Array, add: Array | None = None) -> None:
        """out = a @ b, plus `add` (not `out` itself) if given; `a` and `b` may be transposed."""
        ...

    def causal_conv1d_workspace(self, tokens: int, channels: int, taps: int) -> int: ...

    def causal_conv1d_forward(
        self, y: Array, x: Array, weight: Array, pos: Array, work: Array
    ) -> None: ...

    def causal_conv1d_backward(
        self,
        dx: Array,
        dweight: Array,
        dy: Array,
        x: Array,
        weight: Array,
        pos: Array,
        work: Array,
    ) -> None: ...

    def selective_scan_workspace(
        self, tokens: int, chunks: int, channels: int, states: int
    ) -> int: ...

    def selective_scan_forward(
        self,
        out: Array,
        y: Array,
        dt: Array,  # in: before bias and softplus; out: after
        checkpoints: Array,  # (chunks, N, C): the state before each chunk
        u: Array,
        z: Array,
        bc: Array,
        dt_bias: Array,
        A_log: Array,
        D: Array,
        offsets: Array,
        chunk_offsets: Array,
        work: Array,
    ) -> None: ...

    def selective_scan_backward(
        self,
        du: Array,
        dz: Array,
        ddt: Array,  # of dt before bias and softplus
        dbc: Array,
        ddt_bias: Array,
        dA_log: Array,
        dD: Array,
        dout: Array,
        y: Array,
        dt: Array,
        checkpoints: Array,
        u: Array,
        z: Array,
        bc: Array,
        A_log: Array,
        D: Array,
        offsets: Array,
        chunk_offsets: Array,
        work: Array,
    ) -> None: ...

    def layer_norm_workspace(self, tokens: int, channels: int) -> int: ...

    def layer_norm_forward(
        self, y: Array, mean: Array, rstd: Array, x: Array, weight: Array, bias: Array, eps: float
    ) -> None: ...

    def layer_norm_backward(
        self,
        dx: Array,  # adds if accumulate
        dweight: Array,
        dbias: Array,
        dy: Array,
        x: Array,
        mean: Array,
        rstd: Array,
        weight: Array,
        accumulate: bool,
        work: Array,
    ) -> None: ...

    def gelu_forward(self, y: Array, x: Array) -> None: ...

    def gelu_backward(self, dx: Array, dy: Array, x: Array) -> None: ...

    def embedding_forward(self, y: Array, table: Array, tokens: Array) -> None: ...

    def embedding_backward(
        self,
        dtable: Array,  # adds
        dy: Array,
        tokens: Array,
    ) -> None: ...

    def select_rows_forward(self, y: Array, x: Array, rows: Array) -> None: ...

    def select_rows_backward(self, dx: Array, dy: Array, rows: Array) -> None: ...

    def cross_entropy_forward(
        self, nll: Array, lse: Array, logits: Array, targets: Array
    ) -> None: ...

    def cross_entropy_backward(
        self, dlogits: Array, dnll: Array, lse: Array, logits: Array, targets: Array
    ) -> None: ...

    def pool_forward(self, y: Array, x: Array, offsets: Array, last: bool) -> None: ...

    def pool_backward(self, dx: Array, dy: Array, offsets: Array, last: bool) -> None: ...

    def l2_normalize_forward(self, y: Array, norm: Array, x: Array, eps: float) -> None: ...

    def l2_normalize_backward(
        self, dx: Array, dy: Array, y: Array, norm: Array, eps: float
    ) -> None: ...

    def squared_norm(self, x: Array) -> float:
        """Sum of squares, in float64 (at most 1024 of them in the arrays' own type)."""
        ...

    def adamw(
        self,
        p: Array,  # updated, as are m and v
        m: Array,
        v: Array,
        g: Array,
        scale: float,
        lr: float,
        decay: float,
        beta1: float,
        beta2: float,
        eps: float,
        step: int,
    ) -> None: ...

    def sgd(self, p: Array, g: Array, scale: float, lr: float, decay: float) -> None: ...

    def ewc_gradient(
        self,
        g: Array,  # adds
        p: Array,
        fisher: Array,
        anchor: Array,
        strength: float,
    ) -> None: ...

    # One token at a time, through the whole network. `weights` is the flat buffer, `starts` the
    # element at which each parameter begins in it. The state of a sequence, all 0 before it: per
    # layer `conv` (d_conv, C), the last inputs of the convolution, newest first (the last row is
    # spare), and `scan` (N, C); C is `decode_channels(d_inner)`, columns beyond d_inner stay 0.

    def decode_channels(self, channels: int) -> int: ...

    def decode_workspace(self, s: Sizes) -> int: ...

    def decode_prepare(self, work: Array, weights: Array, starts: Array, s: Sizes) -> None:
        """Private copies of some weights into `work`: call it again when weights have changed."""
        ...

    def decode_tokens(
        self,
        chosen: Array,  # (n,) int64, the tokens after `tokens`
        log_probs: Array,  # (n,) float64
        logits: Array,  # (V,) after the last token read
        conv: Array,
        scan: Array,
        weights: Array,
        starts: Array,
        s: Sizes,
        eps: float,
        work: Array,
        tokens: Array,  # (m,) int64, m at least 1
        pauses: Array,  # (V,) bool
        draws: Array,  # (n,) float64 from [0, 1): the dice
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
    ) -> int:
        """Read `tokens`, then choose a token, read it, choose the next; how many were chosen.

        They are n at most; after one for which `pauses` holds no more is chosen. The last token
        that was chosen is not read yet.
        """
        ...

    def choose(
        self,
        logits: Array,
        work: Array,  # V elements
        draw: float,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
    ) -> tuple[int, float]:
        """A token and log softmax(logits / T)[token] (FORMATS §8); T is 1 if not above 0."""
        ...
