"""What every backend provides; the type checker holds each backend module against it.

Letters: T tokens of all packed sequences, B sequences, C channels (d_inner), N d_state,
K d_conv, V vocabulary, D d_model. `pos` (T,) int64 counts the tokens before t in its own
sequence; `offsets` (B + 1,) int64 is where each sequence begins. Formulas stand in
`calmgrad/ops/<op>.py`. Every output is overwritten unless its name is followed by "adds".
"""

from types import ModuleType
from typing import Any, Protocol, TypeAlias

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray
ArrayModule: TypeAlias = ModuleType | Any

CHUNK = 16  # tokens between two saved scan states; the backward pass recomputes the rest


class Kernels(Protocol):
    """The functions of `calmgrad.kernels.<backend>`."""

    def matmul(self, out: Array, a: Array, b: Array, add: Array | None = None) -> None:
        """out = a @ b, plus `add` (not `out` itself) if given; `a` and `b` may be transposed."""
        ...

    def causal_conv1d_workspace(self, channels: int, taps: int) -> int: ...

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

    def selective_scan_workspace(self, channels: int, states: int) -> int: ...

    def selective_scan_forward(
        self,
        out: Array,
        y: Array,
        dt: Array,  # in: before bias and softplus; out: after
        checkpoints: Array,  # (chunks, N, C): the state before tokens 0, 16, 32, … of a sequence
        u: Array,
        z: Array,
        bc: Array,
        dt_bias: Array,
        A_log: Array,
        D: Array,
        offsets: Array,
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
        work: Array,
    ) -> None: ...

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

    def cross_entropy_forward(
        self, nll: Array, lse: Array, logits: Array, targets: Array
    ) -> None: ...

    def cross_entropy_backward(
        self, dlogits: Array, dnll: Array, lse: Array, logits: Array, targets: Array
    ) -> None: ...

    def pool_forward(self, y: Array, x: Array, offsets: Array, last: bool) -> None: ...

    def pool_backward(self, dx: Array, dy: Array, offsets: Array, last: bool) -> None: ...

    def squared_norm(self, x: Array) -> float:
        """Sum of squares, in float64."""
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
