"""Ways back that engines were seen, or can be imagined, to compute in place of the right ones.

BACKWARD: kind of step -> (what it is called, the wrong way back). The forward formula is right.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from calmgrad.parity import local
from calmgrad.parity.local import Array, Backward, Context, Values, sigmoid

Entry = tuple[str, Backward]


def sending(backward: Backward, **wrong: Callable[[Values, Values, Context], Array]) -> Backward:
    """The right way back but for what goes to some inputs: `f(v, d, c)`."""
    return lambda v, d, c: {**backward(v, d, c), **{role: f(v, d, c) for role, f in wrong.items()}}


def _zero(role: str) -> Callable[[Values, Values, Context], Array]:
    return lambda v, d, c: np.zeros_like(v[role])


# --- embedding, norm, products --------------------------------------------------------------------


def _embeddings() -> Iterator[Entry]:
    def last_wins(v: Values, d: Values, c: Context) -> Values:
        table = np.zeros_like(v["table"])
        table[c.batch.tokens] = d["y"]
        return {"table": table}

    def first_wins(v: Values, d: Values, c: Context) -> Values:
        table = np.zeros_like(v["table"])
        table[c.batch.tokens[::-1]] = d["y"][::-1]
        return {"table": table}

    def mean(v: Values, d: Values, c: Context) -> Values:
        count = np.bincount(c.batch.tokens, minlength=len(v["table"]))[:, None]
        return {"table": local.embedding_back(v, d, c)["table"] / np.maximum(count, 1)}

    def shifted(v: Values, d: Values, c: Context) -> Values:
        table = np.zeros_like(v["table"])
        np.add.at(table, (c.batch.tokens + 1) % len(table), d["y"])
        return {"table": table}

    yield "writes the gradient of a repeated token, and does not add: the last one wins", last_wins
    yield "writes the gradient of a repeated token, and does not add: the first one wins", first_wins
    yield "takes the mean over a token's occurrences, not the sum", mean
    yield "adds to the row of the next token", shifted
    yield "sends nothing to the table", lambda v, d, c: {"table": np.zeros_like(v["table"])}


def _layer_norms() -> Iterator[Entry]:
    back = local.layer_norm_back

    def parts(v: Values, d: Values) -> tuple[Array, Array, Array, Array, Array]:
        n, rstd = local.normed(v["x"], local.LAYER_NORM_EPS)
        g = d["y"] * v["weight"]
        return n, rstd, g, g.mean(axis=1, keepdims=True), (g * n).mean(axis=1, keepdims=True)

    def dx(f: Callable[[Array, Array, Array, Array, Array], Array]) -> Backward:
        return sending(back, x=lambda v, d, c: f(*parts(v, d)))

    def without_weight(v: Values, d: Values, c: Context) -> Array:
        return back({**v, "weight": np.ones_like(v["weight"])}, d, c)["x"]

    yield "leaves both means out of dx", dx(lambda n, r, g, m, a: r * g)
    yield "leaves the mean of g out of dx", dx(lambda n, r, g, m, a: r * (g - n * a))
    yield "leaves the mean of g n out of dx", dx(lambda n, r, g, m, a: r * (g - m))
    yield "leaves rstd out of dx", dx(lambda n, r, g, m, a: g - m - n * a)
    yield "leaves the weight out of dx", sending(back, x=without_weight)
    yield "has rstd squared in dx", dx(lambda n, r, g, m, a: r * r * (g - m - n * a))
    yield "sums g and g n where their means belong", dx(
        lambda n, r, g, m, a: r * (g - (m + n * a) * g.shape[1]))  # fmt: skip
    yield "adds the mean terms of dx", dx(lambda n, r, g, m, a: r * (g + m + n * a))
    yield "multiplies the mean of g n with x less its mean, not with n", dx(
        lambda n, r, g, m, a: r * (g - m - n / r * a))  # fmt: skip
    yield "sums dy x, not dy n, for the weight", sending(
        back, weight=lambda v, d, c: (d["y"] * v["x"]).sum(axis=0))  # fmt: skip
    yield "sums dy y, not dy n, for the weight", sending(back, weight=lambda v, d, c: (
        d["y"] * local.layer_norm(v, c)["y"]).sum(axis=0))  # fmt: skip
    yield "multiplies the weight's gradient with the weight", sending(back, weight=lambda v, d, c: (
        d["y"] * v["weight"] * parts(v, d)[0]).sum(axis=0))  # fmt: skip
    yield "sums g, not dy, for the bias", sending(
        back, bias=lambda v, d, c: (d["y"] * v["weight"]).sum(axis=0))  # fmt: skip
    yield "writes the gradients of weight and bias row by row, and does not add", sending(
        back, bias=lambda v, d, c: d["y"][-1],
        weight=lambda v, d, c: (d["y"] * parts(v, d)[0])[-1])  # fmt: skip


def _linears() -> Iterator[Entry]:
    back = local.linear_back
    yield "multiplies dy with W, not with its transpose", sending(
        back, x=lambda v, d, c: d["y"] @ v["weight"].reshape(v["weight"].shape[::-1])
    )  # fmt: skip
    yield "writes dW transposed: dyᵀ x", sending(
        back, weight=lambda v, d, c: (d["y"].T @ v["x"]).reshape(v["weight"].shape)
    )  # fmt: skip
    yield "writes dW for each token, and does not add: the last one wins", sending(
        back, weight=lambda v, d, c: np.outer(v["x"][-1], d["y"][-1])
    )  # fmt: skip
    yield "writes dW for each sequence, and does not add: the last one wins", sending(
        back, weight=lambda v, d, c: (
            v["x"][c.offsets[-2] :].T @ d["y"][c.offsets[-2] :])
    )  # fmt: skip
    yield "leaves the first token of each sequence out of dW", sending(
        back, weight=lambda v, d, c: (v["x"] * (c.batch.packing.pos > 0)[:, None]).T @ d["y"]
    )  # fmt: skip
    yield "leaves the last token out of dW", sending(
        back, weight=lambda v, d, c: v["x"][:-1].T @ d["y"][:-1]
    )  # fmt: skip
    yield "adds weight decay to dW", sending(
        back, weight=lambda v, d, c: back(v, d, c)["weight"] + 0.01 * v["weight"]
    )  # fmt: skip


def _dt_projs() -> Iterator[Entry]:
    yield from _linears()
    yield "writes db for each token, and does not add", sending(
        local.dt_proj_back, bias=lambda v, d, c: d["y"][-1]
    )  # fmt: skip


def _logits() -> Iterator[Entry]:
    yield "sends nothing to the table: the embedding is tied", sending(
        local.logits_back, table=_zero("table"))  # fmt: skip
    yield "writes the table's gradient transposed", sending(
        local.logits_back,
        table=lambda v, d, c: (v["x"].T @ d["y"]).reshape(v["table"].shape))  # fmt: skip


def _residuals() -> Iterator[Entry]:
    yield "sends nothing past the block", lambda v, d, c: {
        "x": d["y"], "residual": np.zeros_like(d["y"])}  # fmt: skip
    yield "sends nothing into the block", lambda v, d, c: {
        "x": np.zeros_like(d["y"]), "residual": d["y"]}  # fmt: skip
    yield "halves what it sends past the block", lambda v, d, c: {
        "x": d["y"], "residual": d["y"] / 2}  # fmt: skip
    yield "sends its gradient past the block twice", lambda v, d, c: {
        "x": d["y"], "residual": 2 * d["y"]}  # fmt: skip


# --- convolution and activations ------------------------------------------------------------------


def _convs() -> Iterator[Entry]:
    back = local.conv1d_back

    def dx(v: Values, d: Values, c: Context, ahead: bool, across: bool, flip: bool) -> Array:
        w, dy = v["weight"], d["y"]
        made = np.zeros_like(dy)
        ends = np.array([0, len(dy)]) if across else c.offsets
        taps = w[:, ::-1] if flip else w
        for start, stop in pairwise(ends):
            for j in range(min(w.shape[1], stop - start)):
                if ahead:
                    made[start : stop - j] += taps[:, j] * dy[start + j : stop]
                else:
                    made[start + j : stop] += taps[:, j] * dy[start : stop - j]
        return made

    yield "convolves dy as the forward pass does: the way back looks ahead", sending(
        back, x=lambda v, d, c: dx(v, d, c, ahead=False, across=False, flip=False)
    )  # fmt: skip
    yield "convolves dy as the forward pass does, with its taps in reverse order", sending(
        back, x=lambda v, d, c: dx(v, d, c, ahead=False, across=False, flip=True)
    )  # fmt: skip
    yield "has its taps in reverse order on the way back", sending(
        back, x=lambda v, d, c: dx(v, d, c, ahead=True, across=False, flip=True)
    )  # fmt: skip
    yield "sends gradients across the borders of sequences", sending(
        back, x=lambda v, d, c: dx(v, d, c, ahead=True, across=True, flip=False)
    )  # fmt: skip
    yield "sends back the first tap alone", sending(
        back, x=lambda v, d, c: v["weight"][:, 0] * d["y"])  # fmt: skip
    yield "writes the taps' gradient in reverse order", sending(
        back, weight=lambda v, d, c: back(v, d, c)["weight"][:, ::-1])  # fmt: skip
    yield "writes the taps' gradient as [tap, channel]", sending(
        back, weight=lambda v, d, c: back(v, d, c)["weight"].T.reshape(v["weight"].shape)
    )  # fmt: skip

    def weight_across(v: Values, d: Values, c: Context) -> Array:
        x, dy = v["x"], d["y"]
        return np.stack(
            [(x[: len(x) - j] * dy[j:]).sum(axis=0) for j in range(v["weight"].shape[1])], axis=1
        )

    yield "sums the taps' gradient across the borders of sequences", sending(
        back, weight=weight_across)  # fmt: skip


def _times(slope: Callable[[Array], Array]) -> Backward:
    return lambda v, d, c: {"x": d["y"] * slope(v["x"])}


def _silus() -> Iterator[Entry]:
    yield "leaves out its derivative", _times(np.ones_like)
    yield "has the derivative sigmoid(x), without its second term", _times(sigmoid)
    yield "has the derivative of the sigmoid: the factor x is forgotten", _times(
        lambda x: sigmoid(x) * (1 - sigmoid(x)))  # fmt: skip
    yield "has the derivative x s (1 - s), without its first term", _times(
        lambda x: x * sigmoid(x) * (1 - sigmoid(x)))  # fmt: skip
    yield "takes its derivative at y, not at x", _times(
        lambda x: local.silu_slope(x * sigmoid(x)))  # fmt: skip
    yield "has (1 - x (1 - s)) in its derivative: a wrong sign", _times(
        lambda x: sigmoid(x) * (1 - x * (1 - sigmoid(x))))  # fmt: skip
    yield "has the derivative of ReLU", _times(lambda x: (x > 0).astype(float))


def _softpluses() -> Iterator[Entry]:
    yield "leaves out its derivative", _times(np.ones_like)
    yield "takes the sigmoid of dt, not of what softplus read", _times(
        lambda x: sigmoid(np.logaddexp(0, x)))  # fmt: skip
    yield "has the derivative exp(-dt), not 1 - exp(-dt)", _times(
        lambda x: np.exp(-np.logaddexp(0, x)))  # fmt: skip
    yield "has the derivative of the sigmoid, s (1 - s)", _times(
        lambda x: sigmoid(x) * (1 - sigmoid(x)))  # fmt: skip
    yield "has the derivative dt", _times(lambda x: np.logaddexp(0, x))
    yield "has the derivative of ReLU", _times(lambda x: (x > 0).astype(float))
    yield "has the derivative tanh", _times(np.tanh)


def _gelus() -> Iterator[Entry]:
    scale = math.sqrt(2 / math.pi)

    def tanh(x: Array) -> Array:
        return np.tanh(scale * (x + 0.044715 * x**3))

    def inner(x: Array, three: float = 3.0) -> Array:
        return scale * (1 + three * 0.044715 * x * x)

    def erf_slope(x: Array) -> Array:
        erf = np.vectorize(math.erf, otypes=[float])
        return 0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)

    yield "leaves out its derivative", _times(np.ones_like)
    yield "has the derivative of GELU with erf", _times(erf_slope)
    yield "lacks the second term of its derivative", _times(lambda x: 0.5 * (1 + tanh(x)))
    yield "lacks the first term of its derivative", _times(
        lambda x: 0.5 * x * (1 - tanh(x) ** 2) * inner(x))  # fmt: skip
    yield "lacks the 3 in the derivative of the cubic term", _times(
        lambda x: 0.5 * (1 + tanh(x)) + 0.5 * x * (1 - tanh(x) ** 2) * inner(x, 1.0))  # fmt: skip
    yield "lacks the inner derivative of the cubic term", _times(
        lambda x: 0.5 * (1 + tanh(x)) + 0.5 * x * (1 - tanh(x) ** 2) * scale)  # fmt: skip
    yield "has 1 - tanh in its derivative, not 1 - tanh²", _times(
        lambda x: 0.5 * (1 + tanh(x)) + 0.5 * x * (1 - tanh(x)) * inner(x))  # fmt: skip
    yield "has the derivative of SiLU", _times(local.silu_slope)
    yield "has the derivative of ReLU", _times(lambda x: (x > 0).astype(float))


# --- the scan and the gate ------------------------------------------------------------------------


def scan_back(
    v: Values, d: Values, c: Context,
    carry: Callable[[Array, Context], Array] | None = None,
    later: bool = False,
) -> tuple[Values, Array, Array]:  # fmt: skip
    """The scan's way back with another factor on what later tokens send; and its dh and e.

    `carry` makes (T, C, N) from the decays: what dh of the token after is multiplied with.
    """
    u, dt, B, C, dy = v["u"], v["dt"], v["B"], v["C"], d["y"]
    A = local.minus_exp(v["A_log"])
    decay, h = local.states(v, c)
    factor = np.zeros_like(decay)
    factor[:-1] = decay[1:]
    if carry is not None:
        factor = carry(decay, c)
    before = np.zeros_like(h)
    before[1:] = h[:-1]
    before[c.offsets[:-1]] = 0
    dh = dy[:, :, None] * C[:, None, :]
    ends = np.array([0, len(dy)]) if later else c.offsets
    for start, stop in pairwise(ends):
        for t in range(stop - 2, start - 1, -1):
            dh[t] += factor[t] * dh[t + 1]
    e = dh * before * decay
    with_b = local.read_out({"C": B}, dh)
    return {
        "u": dt * with_b + v["D"] * dy,
        "dt": (e * A).sum(axis=2) + u * with_b,
        "B": (dh * (dt * u)[:, :, None]).sum(axis=1),
        "C": (dy[:, :, None] * h).sum(axis=1),
        "A_log": A * (e * dt[:, :, None]).sum(axis=0),
        "D": (dy * u).sum(axis=0),
    }, dh, e  # fmt: skip


def _scans() -> Iterator[Entry]:
    back = local.selective_scan_back

    def carried(carry: Callable[[Array, Context], Array]) -> Backward:
        return lambda v, d, c: scan_back(v, d, c, carry)[0]

    def using(**wrong: Callable[[Values, Values, Context, Array, Array, Array], Array]) -> Backward:
        """Other formulas of (v, d, c, h, dh, e)."""

        def backward(v: Values, d: Values, c: Context) -> Values:
            sent, dh, e = scan_back(v, d, c)
            h = local.states(v, c)[1]
            return {**sent, **{role: f(v, d, c, h, dh, e) for role, f in wrong.items()}}

        return backward

    def with_b(v: Values, dh: Array) -> Array:
        return local.read_out({"C": v["B"]}, dh)

    def late(h: Array, c: Context) -> Array:
        before = np.zeros_like(h)
        before[1:] = h[:-1]
        before[c.offsets[:-1]] = 0
        return before

    def A(v: Values) -> Array:
        return local.minus_exp(v["A_log"])

    def e_after(v: Values, c: Context, h: Array, dh: Array) -> Array:
        return dh * h * local.states(v, c)[0]

    yield "does not carry dh back from later tokens", carried(lambda a, c: 0 * a)
    yield "carries dh back without the decay", carried(
        lambda a, c: np.ones_like(a))  # fmt: skip
    yield "carries dh back with the decay of this token, not of the next", carried(lambda a, c: a)
    yield "carries dh from one sequence into the one before", lambda v, d, c: scan_back(
        v, d, c, later=True)[0]  # fmt: skip
    yield "leaves D dy out of du", using(u=lambda v, d, c, h, dh, e: v["dt"] * with_b(v, dh))
    yield "leaves dt out of du", using(
        u=lambda v, d, c, h, dh, e: with_b(v, dh) + v["D"] * d["y"])  # fmt: skip
    yield "sends D dy alone to u", using(u=lambda v, d, c, h, dh, e: v["D"] * d["y"])
    yield "adds dy to du without D", using(
        u=lambda v, d, c, h, dh, e: v["dt"] * with_b(v, dh) + d["y"])  # fmt: skip
    yield "leaves the decay's part out of ddt", using(
        dt=lambda v, d, c, h, dh, e: v["u"] * with_b(v, dh))  # fmt: skip
    yield "leaves the input's part out of ddt", using(
        dt=lambda v, d, c, h, dh, e: (e * A(v)).sum(axis=2))  # fmt: skip
    yield "leaves A out of ddt", using(
        dt=lambda v, d, c, h, dh, e: e.sum(axis=2) + v["u"] * with_b(v, dh))  # fmt: skip
    yield "has the sign of A wrong in ddt", using(
        dt=lambda v, d, c, h, dh, e: -(e * A(v)).sum(axis=2) + v["u"] * with_b(v, dh))  # fmt: skip
    yield "leaves u out of ddt", using(
        dt=lambda v, d, c, h, dh, e: (e * A(v)).sum(axis=2) + with_b(v, dh))  # fmt: skip
    yield "takes the state after the token, not before, in ddt and dA", using(
        dt=lambda v, d, c, h, dh, e: (
            (e_after(v, c, h, dh) * A(v)).sum(axis=2) + v["u"] * with_b(v, dh)),
        A_log=lambda v, d, c, h, dh, e: A(v) * (
            e_after(v, c, h, dh) * v["dt"][:, :, None]).sum(axis=0))  # fmt: skip
    yield "leaves the decay out of ddt and dA", using(
        dt=lambda v, d, c, h, dh, e: (
            (dh * late(h, c) * A(v)).sum(axis=2) + v["u"] * with_b(v, dh)),
        A_log=lambda v, d, c, h, dh, e: A(v) * (
            dh * late(h, c) * v["dt"][:, :, None]).sum(axis=0))  # fmt: skip
    yield "gives the gradient of A, not of A_log: the factor A is missing", using(
        A_log=lambda v, d, c, h, dh, e: (e * v["dt"][:, :, None]).sum(axis=0))  # fmt: skip
    yield "multiplies with A_log, not with A, for A_log", using(
        A_log=lambda v, d, c, h, dh, e: v["A_log"] * (e * v["dt"][:, :, None]).sum(axis=0)
    )  # fmt: skip
    yield "leaves dt out of dA_log", using(
        A_log=lambda v, d, c, h, dh, e: A(v) * e.sum(axis=0))  # fmt: skip
    yield "has dB and dC swapped", lambda v, d, c: {
        **back(v, d, c), "B": back(v, d, c)["C"], "C": back(v, d, c)["B"]}  # fmt: skip
    yield "leaves dt out of dB", using(
        B=lambda v, d, c, h, dh, e: (dh * v["u"][:, :, None]).sum(axis=1))  # fmt: skip
    yield "leaves u out of dB", using(
        B=lambda v, d, c, h, dh, e: (dh * v["dt"][:, :, None]).sum(axis=1))  # fmt: skip
    yield "takes the state before the token, not after, in dC", using(
        C=lambda v, d, c, h, dh, e: (d["y"][:, :, None] * late(h, c)).sum(axis=1))  # fmt: skip
    yield "takes dh without what later tokens send, in dB", using(
        B=lambda v, d, c, h, dh, e: (
            d["y"][:, :, None] * v["C"][:, None, :] * (v["dt"] * v["u"])[:, :, None]
        ).sum(axis=1))  # fmt: skip
    yield "sums dy, not dy u, for D", using(D=lambda v, d, c, h, dh, e: d["y"].sum(axis=0))
    yield "sums dy y, not dy u, for D", using(
        D=lambda v, d, c, h, dh, e: (d["y"] * (local.selective_scan(v, c)["y"])).sum(axis=0)
    )  # fmt: skip
    yield "has the gradient of D for the input before the convolution", using(
        D=lambda v, d, c, h, dh, e: (d["y"] * v["near.x"]).sum(axis=0))  # fmt: skip


def _gates() -> Iterator[Entry]:
    back = local.gate_back
    yield "sends dout to y without the gate", sending(back, y=lambda v, d, c: d["y"])
    yield "sends dout sigmoid(z) to y: the factor z is missing", sending(
        back, y=lambda v, d, c: d["y"] * sigmoid(v["z"]))  # fmt: skip
    yield "sends dout z to y, without the sigmoid", sending(
        back, y=lambda v, d, c: d["y"] * v["z"])  # fmt: skip
    yield "leaves y out of dz", sending(
        back, z=lambda v, d, c: d["y"] * local.silu_slope(v["z"]))  # fmt: skip
    yield "leaves SiLU's derivative out of dz", sending(
        back, z=lambda v, d, c: d["y"] * v["y"])  # fmt: skip
    yield "has the derivative sigmoid(z) in dz, without its second term", sending(
        back, z=lambda v, d, c: d["y"] * v["y"] * sigmoid(v["z"]))  # fmt: skip
    yield "has the derivative of the sigmoid in dz", sending(
        back, z=lambda v, d, c: d["y"] * v["y"] * sigmoid(v["z"]) * (1 - sigmoid(v["z"]))
    )  # fmt: skip
    yield "has SiLU of z, not its derivative, in dz", sending(
        back, z=lambda v, d, c: d["y"] * v["y"] * v["z"] * sigmoid(v["z"]))  # fmt: skip
    yield "multiplies dz with the gated y", sending(
        back, z=lambda v, d, c: d["y"] * local.gate(v, c)["y"] * local.silu_slope(v["z"])
    )  # fmt: skip


# --- the loss -------------------------------------------------------------------------------------


def _entropies() -> Iterator[Entry]:
    def softmax(v: Values) -> Array:
        p = np.exp(v["logits"] - v["logits"].max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def weight(v: Values, d: Values) -> Array:
        return np.where(v["targets"] >= 0, d["y"], 0.0)[:, None]

    def one_hot(v: Values) -> Array:
        hot = np.zeros_like(v["logits"])
        rows = np.flatnonzero(v["targets"] >= 0)
        hot[rows, v["targets"][rows]] = 1
        return hot

    yield "does not subtract 1 at the target", lambda v, d, c: {"logits": softmax(v) * weight(v, d)}
    yield "sends nothing but -1 to the target", lambda v, d, c: {
        "logits": -one_hot(v) * weight(v, d)}  # fmt: skip
    yield "has the wrong sign on the way back", lambda v, d, c: {
        "logits": (one_hot(v) - softmax(v)) * weight(v, d)}  # fmt: skip
    yield "does not weigh its gradient: each target counts as 1", lambda v, d, c: {
        "logits": (softmax(v) - one_hot(v)) * (v["targets"] >= 0)[:, None]}  # fmt: skip
    mean = "weighs each position as a mean over {}"
    for what, count in (
        ("all targets", lambda v, c: (v["targets"] >= 0).sum()),
        ("all tokens", lambda v, c: len(v["targets"])),
        ("the sequences", lambda v, c: len(c.offsets) - 1),
    ):
        yield mean.format(what), lambda v, d, c, n=count: {  # type: ignore[misc]
            "logits": (softmax(v) - one_hot(v)) * (v["targets"] >= 0)[:, None] / n(v, c)
        }  # fmt: skip
    yield "sends gradients from positions without a target too", lambda v, d, c: {
        "logits": (softmax(v) - one_hot(v)) * d["y"].max()}  # fmt: skip
    yield "has p (1 - p) in its gradient", lambda v, d, c: {
        "logits": softmax(v) * (1 - softmax(v)) * weight(v, d)}  # fmt: skip


def _losses() -> Iterator[Entry]:
    def of(rule: Callable[[Array, Context], Array]) -> Backward:
        def backward(v: Values, d: Values, c: Context) -> Values:
            count = np.maximum(local.counts_of(v["targets"], c), 1)
            share = np.repeat(rule(count, c), np.diff(c.offsets))
            return {"nll": d["y"] * np.where(v["targets"] >= 0, share, 0.0)}

        return backward

    yield "sends 1 to every target: it is a sum on the way back", of(lambda n, c: np.ones(len(n)))


BACKWARD: dict[str, list[Entry]] = {
    "embedding": list(_embeddings()),
    "layer_norm": list(_layer_norms()),
    "linear": list(_linears()),
    "dt_proj": list(_dt_projs()),
    "logits": list(_logits()),
    "residual": list(_residuals()),
    "conv1d": list(_convs()),
    "silu": list(_silus()),
    "softplus": list(_softpluses()),
    "gelu": list(_gelus()),
    "selective_scan": list(_scans()),
    "gate": list(_gates()),
    "cross_entropy": list(_entropies()),
    "reduction": list(_losses()),
}
