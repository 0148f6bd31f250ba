"""Mistakes planted in another engine, and the op that parity has to name for each.

Each replaces one method of the engine by a wrong one. Where it is planted in all blocks, the
first op in the order of execution is the right answer: block 0 on the way forward, the last
block on the way back.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.parity.engine import PAD, Array, Batch, Engine

FIRST, LAST = "blocks.0", "blocks.1"
FIRST_M, LAST_M = f"{FIRST}.mixer", f"{LAST}.mixer"


@dataclass(frozen=True)
class Planted:
    """A mistake: what it is, the op to be named, and the method that goes wrong."""

    label: str
    op: str
    direction: str
    method: str
    wrong: Callable[..., Any]


PLANTED: list[Planted] = []


def forward(op: str, method: str, label: str, wrong: Callable[..., Any]) -> None:
    PLANTED.append(Planted(label, op, "forward", method, wrong))


def backward(op: str, method: str, label: str, wrong: Callable[..., Any]) -> None:
    PLANTED.append(Planted(label, op, "backward", method, wrong))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def of(name: str, wrong: Callable[..., Any], method: str = "matmul") -> Callable[..., Any]:
    """Wrong at one of several products (or sums) alone; `name` is its last argument."""
    right = getattr(Engine, method)
    return lambda e, *args: (wrong if args[-1] == name else right)(e, *args)


# --- embedding and norm ---------------------------------------------------------------------------

forward("token_emb", "embed", "row of the next token", lambda e, w: w[(e.tokens + 1) % 320])
forward("token_emb", "embed", "times sqrt(d_model)", lambda e, w: w[e.tokens] * 4)
forward("token_emb", "embed", "specials cut to a byte", lambda e, w: w[e.tokens & 255])
forward("token_emb", "embed", "one token's row is zero", lambda e, w: w[e.tokens]
        * (e.tokens != 257)[:, None])  # fmt: skip
forward("token_emb", "embed", "table read as [d, V]", lambda e, w: w.reshape(16, 320).T[e.tokens])


def norm(eps: float = 1e-5, ddof: int = 0, center: bool = True, root: bool = True) -> Any:
    def wrong(e: Engine, x: Array, w: Array, b: Array) -> Array:
        c = x - x.mean(1, keepdims=True) if center else x
        var = (c * c).sum(1, keepdims=True) / (x.shape[1] - ddof)
        return c / (np.sqrt(var + eps) if root else var + eps) * w + b

    return wrong


LN = f"{FIRST}.ln1"
forward(LN, "norm", "eps 1e-6", norm(eps=1e-6))
forward(LN, "norm", "eps 1e-12", norm(eps=1e-12))
forward(LN, "norm", "eps 1e-3", norm(eps=1e-3))
forward(LN, "norm", "unbiased variance", norm(ddof=1))
forward(LN, "norm", "RMSNorm", norm(center=False))
forward(LN, "norm", "no root", norm(root=False))
forward(LN, "norm", "eps outside the root", lambda e, x, w, b: (
    x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-5) * w + b)  # fmt: skip
forward(LN, "norm", "no bias", lambda e, x, w, b: Engine.norm(e, x, w, 0 * b))
forward(LN, "norm", "no weight", lambda e, x, w, b: Engine.norm(e, x, 1 + 0 * w, b))
forward(LN, "norm", "1 + weight", lambda e, x, w, b: Engine.norm(e, x, 1 + w, b))
forward(LN, "norm", "normed over tokens", lambda e, x, w, b: Engine.norm(
    e, x.T, np.ones(len(x)), np.zeros(len(x))).T * w + b)  # fmt: skip
forward("ln_f", "norm", "the last norm alone has eps 1e-6", lambda e, x, w, b: (
    norm(eps=1e-6) if w is e.p["ln_f.weight"] else Engine.norm.__get__(e).__func__)(e, x, w, b)
)  # fmt: skip
forward("blocks.1.ln2", "norm", "second block's ln2 is left out", lambda e, x, w, b: (
    x if w is e.p["blocks.1.ln2.weight"] else Engine.norm(e, x, w, b)))  # fmt: skip

# --- products and residuals -----------------------------------------------------------------------


def turned(e: Engine, x: Array, w: Array, name: str) -> Array:
    return x @ w.reshape(w.shape[::-1]).T


for role, where in (
    ("in_proj", FIRST_M), ("x_proj", FIRST_M), ("out_proj", FIRST_M),
    ("ffn_fc1", FIRST), ("ffn_fc2", FIRST),
):  # fmt: skip
    forward(f"{where}.{role}", "matmul", f"transposed weight of {role}", of(role, turned))
forward(f"{FIRST_M}.in_proj", "matmul", "x and z swapped", of(
    "in_proj", lambda e, x, w, n: np.roll(x @ w, e.config.d_inner, axis=1)))  # fmt: skip
forward(f"{FIRST_M}.in_proj", "matmul", "x and z column by column", of(
    "in_proj", lambda e, x, w, n: np.hstack([(x @ w)[:, i::2] for i in (0, 1)])))  # fmt: skip
forward(f"{FIRST_M}.x_proj", "matmul", "cut as dt, C, B", of("x_proj", lambda e, x, w, n: (
    x @ w)[:, [0, 1, 2, 7, 8, 9, 10, 3, 4, 5, 6]]))  # fmt: skip
forward(f"{FIRST_M}.x_proj", "matmul", "cut as B, C, dt", of(
    "x_proj", lambda e, x, w, n: np.roll(x @ w, 3, axis=1)))  # fmt: skip
forward(f"{FIRST_M}.out_proj", "matmul", "last input forgotten", of(
    "out_proj", lambda e, x, w, n: x[:, :-1] @ w[:-1]))  # fmt: skip
forward(f"{FIRST}.ffn_fc1", "matmul", "last column not written", of(
    "ffn_fc1", lambda e, x, w, n: (x @ w) * (np.arange(w.shape[1]) < w.shape[1] - 1)))  # fmt: skip
forward(f"{FIRST}.ffn_fc2", "matmul", "a bias from nowhere", of(
    "ffn_fc2", lambda e, x, w, n: x @ w + 0.01))  # fmt: skip
forward(f"{FIRST}.residual1", "residual", "no residual around the mixer", of(
    "residual1", lambda e, x, r, n: x, "residual"))  # fmt: skip
forward(f"{FIRST}.residual2", "residual", "residual from before the mixer", of(
    "residual2", lambda e, x, r, n: x + e.v["token_emb"], "residual"))  # fmt: skip
forward(f"{FIRST}.residual2", "residual", "sum halved", of(
    "residual2", lambda e, x, r, n: (x + r) / 2, "residual"))  # fmt: skip
forward("logits", "logits", "before the last norm", lambda e, x, w: (
    e.v["blocks.1.residual2"] @ w.T))  # fmt: skip
forward("logits", "logits", "scaled by 1/sqrt(d)", lambda e, x, w: x @ w.T / 4)

# --- convolution and activations ------------------------------------------------------------------

CONV, SILU = f"{FIRST_M}.conv1d", f"{FIRST_M}.silu"
forward(CONV, "conv", "taps reversed", lambda e, x, w: Engine.conv(e, x, w[:, ::-1]))
forward(CONV, "conv", "weight read as [tap, channel]", lambda e, x, w: Engine.conv(
    e, x, w.reshape(w.shape[::-1]).T))  # fmt: skip
forward(CONV, "conv", "last tap forgotten", lambda e, x, w: Engine.conv(
    e, x, w * (np.arange(4) < 3)))  # fmt: skip


def conv_across(e: Engine, x: Array, w: Array) -> Array:
    out = w[:, 0] * x
    for j in range(1, 4):
        out[j:] += w[:, j] * x[:-j]
    return out


forward(CONV, "conv", "across sequence borders", conv_across)
forward(CONV, "conv", "looks ahead one token", lambda e, x, w: np.concatenate(
    [np.vstack([Engine.conv(e, x, w)[a + 1 : b], np.zeros((1, x.shape[1]))])
     for a, b in zip(e.starts, e.starts[1:], strict=False)]))  # fmt: skip
forward(CONV, "conv", "reads z", lambda e, x, w: Engine.conv(
    e, e.v[[k for k in e.v if k.endswith("in_proj")][-1]][:, 32:], w))  # fmt: skip
forward(SILU, "silu", "GELU for SiLU", Engine.gelu)
forward(SILU, "silu", "sigmoid alone", lambda e, x: sigmoid(x))
forward(SILU, "silu", "missing", lambda e, x: x)
forward(SILU, "silu", "ReLU", lambda e, x: np.maximum(x, 0))
GELU = f"{FIRST}.gelu"
forward(GELU, "gelu", "erf", lambda e, x: x / 2 * (1 + erf(x / np.sqrt(2))))
forward(GELU, "gelu", "x sigmoid(1.702 x)", lambda e, x: x * sigmoid(1.702 * x))
forward(GELU, "gelu", "SiLU for GELU", Engine.silu)
forward(GELU, "gelu", "ReLU", lambda e, x: np.maximum(x, 0))
forward(GELU, "gelu", "no cubic term", lambda e, x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * x)))
forward(GELU, "gelu", "0.04715 for 0.044715", lambda e, x: x / 2 * (
    1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.04715 * x**3))))  # fmt: skip
DT, SOFTPLUS = f"{FIRST_M}.dt_proj", f"{FIRST_M}.softplus"
forward(DT, "dt_proj", "no bias", lambda e, x, w, b: x @ w)
forward(DT, "dt_proj", "bias twice", lambda e, x, w, b: x @ w + 2 * b)
forward(DT, "dt_proj", "transposed", lambda e, x, w, b: x @ w.reshape(w.shape[::-1]).T + b)
forward(DT, "dt_proj", "reads the columns of B", lambda e, x, w, b: (
    e.v[[k for k in e.v if k.endswith("x_proj")][-1]][:, 3:6] @ w + b))  # fmt: skip
forward(SOFTPLUS, "softplus", "threshold 2", lambda e, x: np.where(
    x > 2, x, np.log1p(np.exp(np.minimum(x, 2)))))  # fmt: skip
forward(SOFTPLUS, "softplus", "threshold 0.7", lambda e, x: np.where(
    x > 0.7, x, np.log1p(np.exp(np.minimum(x, 2)))))  # fmt: skip
forward(SOFTPLUS, "softplus", "exp", lambda e, x: np.exp(x))
forward(SOFTPLUS, "softplus", "ReLU", lambda e, x: np.maximum(x, 0))
forward(SOFTPLUS, "softplus", "missing", lambda e, x: x)
forward(SOFTPLUS, "softplus", "clamped to 0.1", lambda e, x: np.minimum(Engine.softplus(e, x), 0.1))
forward(SOFTPLUS, "softplus", "clamped from below", lambda e, x: np.maximum(
    Engine.softplus(e, x), 0.3))  # fmt: skip

# --- the scan and the gate ------------------------------------------------------------------------

SCAN, GATE = f"{FIRST_M}.selective_scan", f"{FIRST_M}.gate"
right = Engine.scan


def scan(op: str, label: str, wrong: Callable[..., Any]) -> None:
    forward(op, "scan", label, wrong)


scan(SCAN, "D missing", lambda e, u, dt, B, C, A, D: right(e, u, dt, B, C, A, 0 * D))
scan(SCAN, "D without u", lambda e, u, dt, B, C, A, D: right(e, u, dt, B, C, A, 0 * D) + D)
scan(SCAN, "B and C swapped", lambda e, u, dt, B, C, A, D: right(e, u, dt, C, B, A, D))


def _late(e: Engine, x: Array) -> Array:
    first = np.isin(np.arange(len(x)), e.starts)
    return np.where(first[:, None], 0, np.roll(x, 1, axis=0))


def by_token(
    step: Callable[..., Array],
    read: Callable[..., Array] = lambda h, C, before: h @ C,
    reset: bool = True,
) -> Callable[..., Any]:
    """A scan with another update of its states: step(h, A, dt, Bu, u, B)."""

    def wrong(e: Engine, u: Array, dt: Array, B: Array, C: Array, A_log: Array, D: Array) -> Array:
        y, A = np.zeros_like(u), -np.exp(A_log)
        h = np.zeros_like(A)
        for t in range(len(u)):
            if t in e.starts and reset:
                h = np.zeros_like(A)
            before = h
            h = step(h, A, dt[t][:, None], np.outer(u[t], B[t]), u[t], B[t])
            y[t] = read(h, C[t], before) + D * u[t]
        return y

    return wrong


def decayed(h: Array, A: Array, dt: Array, bu: Array, *_: Array) -> Array:
    return np.exp(dt * A) * h + dt * bu


def with_A(change: Callable[[Array], Array]) -> Callable[..., Any]:
    return by_token(lambda h, A, dt, bu, u, B: np.exp(dt * change(np.log(-A))) * h + dt * bu)


scan(SCAN, "A_log without -exp", with_A(lambda a: a))
scan(SCAN, "-A_log without exp", with_A(lambda a: -a))
scan(SCAN, "A without minus", with_A(np.exp))
scan(SCAN, "states of A reversed", with_A(lambda a: -np.exp(a[:, ::-1])))
scan(SCAN, "state carried over between sequences", by_token(decayed, reset=False))
scan(SCAN, "exact discretisation of B", by_token(
    lambda h, A, dt, bu, u, B: np.exp(dt * A) * h + np.expm1(dt * A) / A * bu))  # fmt: skip
scan(SCAN, "Euler decay 1 + dt A", by_token(
    lambda h, A, dt, bu, u, B: (1 + dt * A) * h + dt * bu))  # fmt: skip
scan(SCAN, "dt missing from B u", by_token(
    lambda h, A, dt, bu, u, B: np.exp(dt * A) * h + bu))  # fmt: skip
scan(SCAN, "dt missing from the decay", by_token(
    lambda h, A, dt, bu, u, B: np.exp(A) * h + dt * bu))  # fmt: skip
scan(SCAN, "exp2 without log2(e)", by_token(
    lambda h, A, dt, bu, u, B: np.exp2(dt * A) * h + dt * bu))  # fmt: skip
scan(SCAN, "B of the token before", lambda e, u, dt, B, C, A, D: right(
    e, u, dt, _late(e, B), C, A, D))  # fmt: skip
scan(SCAN, "no decay", by_token(lambda h, A, dt, bu, u, B: h + dt * bu))
scan(SCAN, "no memory", by_token(lambda h, A, dt, bu, u, B: dt * bu))
scan(SCAN, "u missing from the states", by_token(
    lambda h, A, dt, bu, u, B: np.exp(dt * A) * h + dt * B))  # fmt: skip
scan(SCAN, "read out before the update", by_token(decayed, lambda h, C, before: before @ C))
scan(SCAN, "summed without C", by_token(decayed, lambda h, C, before: h.sum(axis=1)))
scan(SCAN, "only the first state read out", by_token(
    decayed, lambda h, C, before: h[:, 0] * C[0]))  # fmt: skip
scan(SCAN, "h in float16", by_token(lambda h, A, dt, bu, u, B: np.float64(
    np.float16(decayed(h, A, dt, bu)))))  # fmt: skip
forward(GATE, "gate", "missing", lambda e, y, z: y)
forward(GATE, "gate", "sigmoid for SiLU", lambda e, y, z: y * sigmoid(z))
forward(GATE, "gate", "GELU for SiLU", lambda e, y, z: y * Engine.gelu(e, z))
forward(GATE, "gate", "tanh for SiLU", lambda e, y, z: y * np.tanh(z))
forward(GATE, "gate", "z without SiLU", lambda e, y, z: y * z)
forward(GATE, "gate", "SiLU of y", lambda e, y, z: z * Engine.silu(e, y))
forward(GATE, "gate", "added, not multiplied", lambda e, y, z: y + Engine.silu(e, z))

# --- targets and loss -----------------------------------------------------------------------------


def targets(shift: int = 1, start: int = 0, pad: bool = False, mask: bool = True) -> Any:
    def wrong(e: Engine) -> Array:
        wanted = np.full(len(e.tokens), -1, np.int64)
        for i, cmd in enumerate(e.batch.cmd_positions):
            first = e.starts[i] + (max(cmd + start, 0) if mask else 0)
            for t in range(first, e.starts[i + 1] - 1):
                if t + shift < e.starts[i + 1] and (pad or e.tokens[t + shift] != PAD):
                    wanted[t] = e.tokens[t + shift]
        return wanted

    return wrong


forward("targets", "targets", "PAD included", targets(pad=True))
forward("targets", "targets", "one position late", targets(start=1))
forward("targets", "targets", "one position early", targets(start=-1))
forward("targets", "targets", "cmd_pos not looked at", targets(mask=False))
forward(
    "targets",
    "targets",
    "cmd_pos of the first sequence for all",
    lambda e: Engine.targets(
        Engine(e.config, e.weights, Batch(e.batch.sequences, e.batch.cmd_positions[:1] * 3))
    ),
)
forward("targets", "targets", "the token itself", targets(shift=0))
forward("targets", "targets", "the token after the next", targets(shift=2))
CE = Engine.cross_entropy
forward("nll", "cross_entropy", "in bits", lambda e, x, w: CE(e, x, w) / np.log(2))
forward("nll", "cross_entropy", "log(p + 1e-3)", lambda e, x, w: (w >= 0) * -np.log(
    np.exp(-CE(e, x, w)) + 1e-3))  # fmt: skip
forward("nll", "cross_entropy", "reserved tokens left out", lambda e, x, w: CE(e, x[:, :278], w))
forward("nll", "cross_entropy", "next row's logits", lambda e, x, w: CE(e, np.roll(x, -1, 0), w))


def loss(shares: Callable[[Array, Array], Array]) -> Callable[..., Any]:
    """Weights from the targets of each token's sequence and the sequences' number."""

    def wrong(e: Engine, wanted: Array) -> Array:
        seq = np.repeat(np.arange(len(e.starts) - 1), np.diff(e.starts))
        count = np.bincount(seq, wanted >= 0)
        return np.where(wanted >= 0, shares(count[seq], np.diff(e.starts)[seq]), 0.0)

    return wrong


forward("loss", "shares", "token reduction", loss(lambda n, length: 1 / 39 + 0 * n))
PLANTED[-1] = Planted("token reduction", "loss", "forward", "shares", lambda e, w: (
    w >= 0) / (w >= 0).sum())  # fmt: skip
forward("loss", "shares", "not divided by the batch", loss(lambda n, length: 1 / n))
forward("loss", "shares", "a plain sum", loss(lambda n, length: 1 + 0 * n))
forward("loss", "shares", "mean over the length", loss(lambda n, length: 1 / (3 * length)))
forward("loss", "shares", "mean over all tokens", lambda e, w: (w >= 0) / len(w))

# --- backward only --------------------------------------------------------------------------------

backward("token_emb", "embed_back", "last write wins", lambda e, dy, w: _last_write(e, dy, w))
backward("token_emb", "embed_back", "missing: only the head's share", lambda e, dy, w: 0 * w)
backward("token_emb", "embed_back", "mean over occurrences", lambda e, dy, w: (
    Engine.embed_back(e, dy, w)
    / np.maximum(np.bincount(e.tokens, minlength=320), 1)[:, None]))  # fmt: skip


def _last_write(e: Engine, dy: Array, w: Array) -> Array:
    out = np.zeros_like(w)
    out[e.tokens] = dy
    return out


backward("logits", "logits_back", "nothing to the tied table", lambda e, dy, x, w: (
    dy @ w, 0 * w))  # fmt: skip
backward("logits", "logits_back", "to the table as before ln_f", lambda e, dy, x, w: (
    dy @ w, dy.T @ e.v["blocks.1.residual2"]))  # fmt: skip
backward("logits", "logits_back", "to the table's rows of targets alone", lambda e, dy, x, w: (
    dy @ w, (dy.T @ x) * np.isin(np.arange(len(w)), e.v["targets"])[:, None]))  # fmt: skip
backward("nll", "cross_entropy_back", "1 not subtracted", lambda e, d, x, w: (
    d[:, None] * (np.exp(x) / np.exp(x).sum(1, keepdims=True))))  # fmt: skip
backward("nll", "cross_entropy_back", "sign", lambda e, d, x, w: -Engine.cross_entropy_back(
    e, d, x, w))  # fmt: skip
backward("nll", "cross_entropy_back", "not weighed", lambda e, d, x, w: Engine.cross_entropy_back(
    e, np.ones(len(x)), x, w))  # fmt: skip
backward("loss", "loss_back", "token reduction on the way back", lambda e, w: (
    w >= 0) / (w >= 0).sum())  # fmt: skip
backward("loss", "loss_back", "sum on the way back", lambda e, w: (w >= 0) * 1.0)


def norm_back(
    dx: Callable[..., Array] | None = None, dw: Any = None, db: Any = None
) -> Callable[..., Any]:
    def wrong(e: Engine, dy: Array, x: Array, w: Array, b: Array) -> tuple[Array, Array, Array]:
        sent = Engine.norm_back(e, dy, x, w, b)
        s = 1 / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        n = (x - x.mean(1, keepdims=True)) * s
        g = dy * w
        return (
            dx(n, s, g) if dx is not None else sent[0],
            dw(dy, n, x) if dw is not None else sent[1],
            db(dy, n, x) if db is not None else sent[2],
        )

    return wrong


def m(x: Array) -> Array:
    return x.mean(1, keepdims=True)


backward("ln_f", "norm_back", "dx without mean terms", norm_back(lambda n, s, g: s * g))
backward(
    "ln_f", "norm_back", "dx without mean(g)", norm_back(lambda n, s, g: s * (g - n * m(g * n)))
)
backward("ln_f", "norm_back", "dx without mean(g n)", norm_back(lambda n, s, g: s * (g - m(g))))
backward("ln_f", "norm_back", "dx without rstd", norm_back(lambda n, s, g: g - m(g) - n * m(g * n)))
backward("ln_f", "norm_back", "dw of x", norm_back(dw=lambda dy, n, x: (dy * x).sum(0)))
backward("ln_f", "norm_back", "db of the last token", norm_back(db=lambda dy, n, x: dy[-1]))
MB = Engine.matmul_back
for role, where in (("ffn_fc1", LAST), ("out_proj", LAST_M), ("x_proj", LAST_M)):
    backward(f"{where}.{role}", "matmul_back", f"dx of {role} with W, not its transpose", of(
        role, lambda e, dy, x, w, n: (dy @ w.reshape(w.shape[::-1]), x.T @ dy), "matmul_back"
    ))  # fmt: skip
backward(f"{LAST}.ffn_fc2", "matmul_back", "dW transposed", of("ffn_fc2", lambda e, dy, x, w, n: (
    dy @ w.T, (dy.T @ x).reshape(w.shape)), "matmul_back"))  # fmt: skip
backward(f"{LAST_M}.in_proj", "matmul_back", "dW of the last sequence alone", of(
    "in_proj", lambda e, dy, x, w, n: (dy @ w.T, x[e.starts[-2] :].T @ dy[e.starts[-2] :]),
    "matmul_back"))  # fmt: skip
backward(f"{LAST_M}.x_proj", "matmul_back", "du from x_proj missing", of(
    "x_proj", lambda e, dy, x, w, n: (0 * x, x.T @ dy), "matmul_back"))  # fmt: skip
backward(f"{LAST_M}.x_proj", "matmul_back", "du from the columns of dt missing", of(
    "x_proj", lambda e, dy, x, w, n: (dy[:, 3:] @ w[:, 3:].T, x.T @ dy),
    "matmul_back"))  # fmt: skip
backward(f"{LAST}.residual2", "residual_back", "nothing past the feed-forward", of(
    "residual2", lambda e, dy, n: (dy, 0 * dy), "residual_back"))  # fmt: skip
backward(f"{LAST}.residual1", "residual_back", "past the mixer twice", of(
    "residual1", lambda e, dy, n: (dy, 2 * dy), "residual_back"))  # fmt: skip
CB = Engine.conv_back
backward(f"{LAST_M}.conv1d", "conv_back", "dx un-flipped", lambda e, dy, x, w: (
    Engine.conv(e, dy, w), CB(e, dy, x, w)[1]))  # fmt: skip
backward(f"{LAST_M}.conv1d", "conv_back", "dw in reverse order", lambda e, dy, x, w: (
    CB(e, dy, x, w)[0], CB(e, dy, x, w)[1][:, ::-1]))  # fmt: skip
backward(f"{LAST_M}.conv1d", "conv_back", "dx with the first tap alone", lambda e, dy, x, w: (
    dy * w[:, 0], CB(e, dy, x, w)[1]))  # fmt: skip


def conv_back_across(e: Engine, dy: Array, x: Array, w: Array) -> tuple[Array, Array]:
    dx = w[:, 0] * dy
    for j in range(1, 4):
        dx[:-j] += w[:, j] * dy[j:]
    return dx, CB(e, dy, x, w)[1]


backward(f"{LAST_M}.conv1d", "conv_back", "dx across borders", conv_back_across)
backward(f"{LAST_M}.silu", "silu_back", "derivative sigmoid alone", lambda e, dy, x: (
    dy * sigmoid(x)))  # fmt: skip
backward(f"{LAST_M}.silu", "silu_back", "derivative missing", lambda e, dy, x: dy)
backward(f"{LAST_M}.softplus", "softplus_back", "derivative missing", lambda e, dy, x: dy)
backward(f"{LAST_M}.softplus", "softplus_back", "derivative taken at dt", lambda e, dy, x: (
    dy * sigmoid(np.log1p(np.exp(x)))))  # fmt: skip
backward(f"{LAST_M}.dt_proj", "dt_proj_back", "db missing", lambda e, dy, x, w, b: (
    dy @ w.T, x.T @ dy, 0 * b))  # fmt: skip
backward(f"{LAST_M}.dt_proj", "dt_proj_back", "db of the last token", lambda e, dy, x, w, b: (
    dy @ w.T, x.T @ dy, dy[-1]))  # fmt: skip
backward(f"{LAST}.gelu", "gelu_back", "derivative of erf", lambda e, dy, x: dy * (
    (1 + erf(x / np.sqrt(2))) / 2 + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)))  # fmt: skip
backward(f"{LAST}.gelu", "gelu_back", "second term missing", lambda e, dy, x: dy * (
    1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2)  # fmt: skip
GB = Engine.gate_back
backward(f"{LAST_M}.gate", "gate_back", "y gets dout without the gate", lambda e, dy, y, z: (
    dy, GB(e, dy, y, z)[1]))  # fmt: skip
backward(f"{LAST_M}.gate", "gate_back", "dz with sigmoid alone", lambda e, dy, y, z: (
    GB(e, dy, y, z)[0], dy * y * sigmoid(z)))  # fmt: skip
backward(f"{LAST_M}.gate", "gate_back", "dz without y", lambda e, dy, y, z: (
    GB(e, dy, y, z)[0], GB(e, dy, 1 + 0 * y, z)[1]))  # fmt: skip
SB = Engine.scan_back
LAST_SCAN = f"{LAST_M}.selective_scan"


def scan_back(label: str, wrong: Callable[..., dict[str, Array]]) -> None:
    """`wrong` changes what the right way back sends: (engine, sent, dy, u, dt, B, C, A_log, D)."""
    backward(
        LAST_SCAN,
        "scan_back",
        label,
        lambda e, *args: {**(s := SB(e, *args)), **wrong(s, e, *args)},
    )


scan_back("dD missing", lambda s, *_: {"D": 0 * s["D"]})
scan_back("dA_log without A", lambda s, e, dy, u, dt, B, C, A_log, D: {
    "A_log": s["A_log"] / -np.exp(A_log)})  # fmt: skip
scan_back("dA_log with the wrong sign", lambda s, *_: {"A_log": -s["A_log"]})
scan_back("dB and dC swapped", lambda s, *_: {"B": s["C"], "C": s["B"]})
scan_back("du without D dy", lambda s, e, dy, u, dt, B, C, A_log, D: {"u": s["u"] - D * dy})
scan_back("ddt halved", lambda s, *_: {"dt": s["dt"] / 2})
scan_back("du of the wrong token", lambda s, *_: {"u": np.roll(s["u"], 1, axis=0)})
scan_back("dC of the last sequence missing", lambda s, e, *_: {
    "C": s["C"] * (np.arange(len(s["C"])) < e.starts[-2])[:, None]})  # fmt: skip


def carried(keep: Callable[..., Array]) -> Callable[..., Any]:
    """The way back with another `carried`: keep(dh, decay)."""

    def wrong(e: Engine, dy: Array, u: Array, dt: Array, B: Array, C: Array, A_log: Array, D: Array
              ) -> dict[str, Array]:  # fmt: skip
        sent = SB(e, dy, u, dt, B, C, A_log, D)
        A = -np.exp(A_log)
        for first, end in zip(e.starts, e.starts[1:], strict=False):
            into = np.zeros_like(A)
            for t in reversed(range(first, end)):
                dh = into + np.outer(dy[t], C[t])
                sent["B"][t] = dh.T @ (dt[t] * u[t])
                sent["u"][t] = dt[t] * (dh @ B[t]) + D * dy[t]
                into = keep(dh, np.exp(dt[t][:, None] * A))
        return sent

    return wrong


backward(LAST_SCAN, "scan_back", "dh not carried", carried(lambda dh, a: 0 * dh))
backward(LAST_SCAN, "scan_back", "dh carried without decay", carried(lambda dh, a: dh))

# --- the update -----------------------------------------------------------------------------------


def update(op: str, method: str, label: str, wrong: Callable[..., Any]) -> None:
    PLANTED.append(Planted(label, op, "update", method, wrong))


EWC, ADAM = Engine.ewc, Engine.adam
update("ewc", "ewc", "λ/2", lambda e, g, f, a, s: g + s.ewc_lambda / 2 * f * (e.weights - a))
update("ewc", "ewc", "wrong sign", lambda e, g, f, a, s: g + s.ewc_lambda * f * (a - e.weights))
update("ewc", "ewc", "no Fisher", lambda e, g, f, a, s: g + s.ewc_lambda * (e.weights - a))
update("ewc", "ewc", "no anchor", lambda e, g, f, a, s: g + s.ewc_lambda * f * e.weights)
update("ewc", "ewc", "left out", lambda e, g, f, a, s: g)
update("ewc", "ewc", "after clipping", lambda e, g, f, a, s: EWC(
    e, e.clip(g, e.norm_of(g), s), f, a, s))  # fmt: skip
update("grad_norm", "norm_of", "no root", lambda e, g: (g * g).sum())
update("grad_norm", "norm_of", "largest", lambda e, g: np.abs(g).max())
update("clip", "clip", "left out", lambda e, g, n, s: g)
update("clip", "clip", "each number", lambda e, g, n, s: np.clip(g, -s.grad_clip, s.grad_clip))
update("clip", "clip", "of the gradient before EWC", lambda e, g, n, s: Engine.clip(
    e, e.flat(e.dp), n, s))  # fmt: skip
update("adam_m", "moment1", "before clipping", lambda e, b, g, s: Engine.moment1(
    e, b, g * 1.25, s))  # fmt: skip
update("adam_m", "moment1", "swapped", lambda e, b, g, s: (1 - s.beta1) * b + s.beta1 * g)
update("adam_v", "moment2", "not squared", lambda e, b, g, s: s.beta2 * b + (1 - s.beta2) * g)
update("adam_v", "moment2", "beta1", lambda e, b, g, s: s.beta1 * b + (1 - s.beta1) * g * g)
update("adam", "adam", "no bias correction", lambda e, m, v, s: ADAM(
    e, m * (1 - s.beta1**s.update), v * (1 - s.beta2**s.update), s))  # fmt: skip
update("adam", "adam", "bias of m alone", lambda e, m, v, s: ADAM(
    e, m, v * (1 - s.beta2**s.update), s))  # fmt: skip
update("adam", "adam", "eps inside the root", lambda e, m, v, s: e.weights * (
    1 - s.lr * s.weight_decay * e.decays()) - s.lr * m / (1 - s.beta1**s.update)
    / np.sqrt(v / (1 - s.beta2**s.update) + s.eps))  # fmt: skip
update("adam", "adam", "decay on A_log and D", lambda e, m, v, s: ADAM(e, m, v, s)
       - e.weights * s.lr * s.weight_decay * (1 - e.decays()))  # fmt: skip
update("adam", "adam", "no decay", lambda e, m, v, s: ADAM(e, m, v, s)
       + e.weights * s.lr * s.weight_decay * e.decays())  # fmt: skip
update("adam", "adam", "uphill", lambda e, m, v, s: ADAM(e, -m, v, s))
update("adam", "adam", "one update too many", lambda e, m, v, s: ADAM(
    e, m / (1 - s.beta1 ** (s.update + 1)) * (1 - s.beta1**s.update),
    v / (1 - s.beta2 ** (s.update + 1)) * (1 - s.beta2**s.update), s))  # fmt: skip
update("fisher", "fisher", "not squared", lambda e: e.flat(e.dp))
update("fisher", "fisher", "of the batch", lambda e: e.flat(e.dp) ** 2)
update("fisher", "fisher", "the sum", lambda e: 3 * Engine.fisher(e))
