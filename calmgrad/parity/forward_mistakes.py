"""Formulas that engines were seen, or can be imagined, to compute in place of the right ones.

FORWARD: kind of step -> (what it is called, the wrong formula, its consistent way back or None).
Each says what the step does instead, as the end of "it seems that the step …".
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise, permutations

import numpy as np

from calmgrad.kernels.protocol import CHUNK
from calmgrad.packing import Packing
from calmgrad.parity import local
from calmgrad.parity.graph import Node
from calmgrad.parity.local import Array, Backward, Context, Forward, Values, sigmoid
from calmgrad.tokenizer import PAD

Entry = tuple[str, Forward, Backward | None]


def one_sequence(c: Context) -> Context:
    """As if the whole batch were one sequence."""
    whole = Packing.of([len(c.batch.tokens)])
    return replace(c, batch=replace(c.batch, packing=whole))


def across(forward: Forward) -> Forward:
    """The formula without a look at where sequences begin."""
    return lambda v, c: forward(v, one_sequence(c))


def across_back(backward: Backward) -> Backward:
    return lambda v, d, c: backward(v, d, one_sequence(c))


def reading(forward: Forward, **other: str) -> Forward:
    """The formula with other inputs: `reading(f, u="near.x")`."""
    return lambda v, c: forward({**v, **{role: v[name] for role, name in other.items()}}, c)


def reading_back(backward: Backward, **other: str) -> Backward:
    return lambda v, d, c: backward({**v, **{k: v[name] for k, name in other.items()}}, d, c)


def elementwise(f: Callable[[Array], Array], slope: Callable[[Array], Array]) -> tuple[
    Forward, Backward
]:  # fmt: skip
    """A function of each number of x, and its way back."""
    return (lambda v, c: {"y": f(v["x"])}), (lambda v, d, c: {"x": d["y"] * slope(v["x"])})


def read_transposed(weight: Array) -> Array:
    """The numbers of an [in, out] matrix, read as [out, in]."""
    return weight.reshape(weight.shape[::-1]).T


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[float])(x)


def bell(x: Array) -> Array:
    return np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


# --- norm, products -------------------------------------------------------------------------------


def _norm(scale: Callable[[Array], Array], center: bool = True) -> Forward:
    """LayerNorm with another factor, made from the rows less their mean."""

    def forward(v: Values, c: Context) -> Values:
        x = v["x"] - v["x"].mean(axis=1, keepdims=True) if center else v["x"]
        return {"y": x * scale(x) * v["weight"] + v["bias"]}

    return forward


def _variance(x: Array) -> Array:
    return np.square(x).mean(axis=1, keepdims=True)


def _layer_norms() -> Iterator[Entry]:
    for eps in (1e-6, 1e-12, 1e-8, 1e-3, 1e-4, 0.0):
        back = partial(local.layer_norm_back, eps=eps)
        yield f"has eps {eps:g} in place of 1e-5", partial(local.layer_norm, eps=eps), back

    def unbiased(x: Array) -> Array:
        n = x.shape[1]
        return 1 / np.sqrt(_variance(x) * n / max(n - 1, 1) + 1e-5)

    yield "divides the variance by D - 1, not by D", _norm(unbiased), None
    yield "adds eps outside the root", _norm(lambda x: 1 / (np.sqrt(_variance(x)) + 1e-5)), None
    yield "divides by the variance, without the root", _norm(lambda x: 1 / (_variance(x) + 1e-5)), None
    rms = _norm(lambda x: 1 / np.sqrt(_variance(x) + 1e-5), center=False)
    yield "does not subtract the mean (RMSNorm)", rms, None
    yield "does not scale: the weight is left out", lambda v, c: local.layer_norm(
        {**v, "weight": np.ones_like(v["weight"])}, c), None  # fmt: skip
    yield "scales by 1 + weight", lambda v, c: local.layer_norm(
        {**v, "weight": 1 + v["weight"]}, c), None  # fmt: skip
    yield "leaves out the bias", lambda v, c: local.layer_norm(
        {**v, "bias": np.zeros_like(v["bias"])}, c), None  # fmt: skip
    yield "has weight and bias swapped", lambda v, c: local.layer_norm(
        {**v, "weight": v["bias"], "bias": v["weight"]}, c), None  # fmt: skip
    yield "is left out: it gives its input", lambda v, c: {"y": v["x"]}, None
    yield from _other("reads the input of the block", local.layer_norm, local.layer_norm_back, "x")


def _other(text: str, forward: Forward, backward: Backward, role: str) -> Iterator[Entry]:
    swap = {role: "near.other"}

    def run(v: Values, c: Context) -> Values:
        if "near.other" not in v:
            raise ValueError("nothing near")
        return reading(forward, **swap)(v, c)

    yield text, run, reading_back(backward, **swap)


def _linears() -> Iterator[Entry]:
    def transposed(v: Values, c: Context) -> Values:
        return {"y": v["x"] @ read_transposed(v["weight"])}

    def transposed_back(v: Values, d: Values, c: Context) -> Values:
        w = v["weight"]
        dw = (v["x"].T @ d["y"]).T.reshape(w.shape)
        return {"x": d["y"] @ read_transposed(w).T, "weight": dw}

    yield "reads the weight as [out, in]: it is [in, out]", transposed, transposed_back
    yield from _other("reads the value before that", local.linear, local.linear_back, "x")


def _residuals() -> Iterator[Entry]:
    yield "leaves out the residual", lambda v, c: {"y": v["x"]}, lambda v, d, c: {
        "x": d["y"], "residual": np.zeros_like(d["y"])}  # fmt: skip
    yield "leaves out the block: it passes the residual on", lambda v, c: {"y": v["residual"]}, None
    yield "adds the normed value, not the stream", lambda v, c: {"y": v["x"] + v["near.normed"]}, None
    yield "adds the input of the block, not the stream behind the mixer", lambda v, c: {
        "y": v["x"] + v["near.other"]}, None  # fmt: skip
    yield "subtracts", lambda v, c: {"y": v["residual"] - v["x"]}, None
    yield "halves the sum", lambda v, c: {"y": (v["residual"] + v["x"]) / 2}, None


def _embeddings() -> Iterator[Entry]:
    for shift in (1, -1):
        yield f"looks up the row of token {shift:+d}", lambda v, c, s=shift: {  # type: ignore[misc]
            "y": v["table"][(c.batch.tokens + s) % len(v["table"])]}, None  # fmt: skip
    yield "multiplies with the root of d_model", lambda v, c: {
        "y": v["table"][c.batch.tokens] * math.sqrt(v["table"].shape[1])}, None  # fmt: skip
    yield "reads the table as [channel, token]", lambda v, c: {
        "y": read_transposed(v["table"])[c.batch.tokens]}, None  # fmt: skip
    yield "keeps one byte of the token: specials are read as others", lambda v, c: {
        "y": v["table"][c.batch.tokens & 255]}, None  # fmt: skip


# --- convolution and activations ------------------------------------------------------------------


def _convs() -> Iterator[Entry]:
    def flipped(v: Values, c: Context) -> Values:
        return local.conv1d({**v, "weight": v["weight"][:, ::-1]}, c)

    def flipped_back(v: Values, d: Values, c: Context) -> Values:
        sent = local.conv1d_back({**v, "weight": v["weight"][:, ::-1]}, d, c)
        return {**sent, "weight": sent["weight"][:, ::-1]}

    yield "has its taps in reverse order: tap j belongs to the token j places back", (
        flipped), flipped_back  # fmt: skip
    yield "runs across the borders of sequences", across(local.conv1d), across_back(
        local.conv1d_back)  # fmt: skip
    yield "reads the weight as [tap, channel]", lambda v, c: local.conv1d(
        {**v, "weight": read_transposed(v["weight"])}, c), None  # fmt: skip

    def without(column: int) -> Forward:
        def forward(v: Values, c: Context) -> Values:
            weight = v["weight"].copy()
            weight[:, column] = 0
            return local.conv1d({**v, "weight": weight}, c)

        return forward

    yield "leaves out the last tap", without(-1), None
    yield "leaves out the first tap", without(0), None

    def shifted(by: int, flip: bool) -> Forward:
        def forward(v: Values, c: Context) -> Values:
            w = v["weight"][:, ::-1] if flip else v["weight"]
            y = np.zeros_like(v["x"])
            for start, stop in pairwise(c.offsets):
                for t in range(start, stop):
                    for j in range(w.shape[1]):
                        if start <= t - j + by < stop:
                            y[t] += w[:, j] * v["x"][t - j + by]
            return {"y": y}

        return forward

    for flip in (False, True):
        for by in (-1, 1, 2, 3):
            way = "late" if by < 0 else "early"
            yield f"is {abs(by)} tokens too {way}" + (", taps reversed" if flip else ""), (
                shifted(by, flip)), None  # fmt: skip
    yield from _other("reads z in place of x", local.conv1d, local.conv1d_back, "x")
    yield "is left out: it gives its input", lambda v, c: {"y": v["x"]}, None


def _silus() -> Iterator[Entry]:
    yield "is GELU, not SiLU", local.gelu, local.gelu_back
    yield "is the sigmoid alone, without the factor x", *elementwise(
        sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x)))  # fmt: skip
    yield "is left out: it gives its input", *elementwise(lambda x: x, np.ones_like)
    yield "is ReLU", *elementwise(lambda x: np.maximum(x, 0), lambda x: x > 0)
    yield "is tanh", *elementwise(np.tanh, lambda x: 1 - np.tanh(x) ** 2)
    yield "is softplus", local.softplus, local.softplus_back
    yield "is GELU with erf, not SiLU", *_erf_gelu()
    yield "is hard-swish", *elementwise(lambda x: x * np.clip(x / 6 + 0.5, 0, 1), np.ones_like)


def _erf_gelu() -> tuple[Forward, Backward]:
    return elementwise(
        lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
        lambda x: 0.5 * (1 + erf(x / math.sqrt(2))) + x * bell(x),
    )


def _gelus() -> Iterator[Entry]:
    yield "is GELU with erf: the tanh form is expected", *_erf_gelu()
    k = 1.702
    yield "is x sigmoid(1.702 x): the tanh form is expected", *elementwise(
        lambda x: x * sigmoid(k * x),
        lambda x: sigmoid(k * x) * (1 + k * x * (1 - sigmoid(k * x))),
    )
    yield "is SiLU", local.silu, local.silu_back
    yield "is ReLU", *elementwise(lambda x: np.maximum(x, 0), lambda x: x > 0)
    yield "is left out: it gives its input", *elementwise(lambda x: x, np.ones_like)
    yield "is squared ReLU", *elementwise(
        lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0))  # fmt: skip

    def tanh_form(scale: float, cubic: float) -> tuple[Forward, Backward]:
        def slope(x: Array) -> Array:
            t = np.tanh(scale * (x + cubic * x**3))
            return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * cubic * x * x)

        return elementwise(
            lambda x: 0.5 * x * (1 + np.tanh(scale * (x + cubic * x**3))), slope)  # fmt: skip

    right = math.sqrt(2 / math.pi)
    yield "lacks the cubic term", *tanh_form(right, 0.0)
    for cubic in (0.44715, 0.0044715, 0.04715, 0.044175):
        yield f"has the constant {cubic} in place of 0.044715", *tanh_form(right, cubic)
    yield "lacks the factor sqrt(2/pi)", *tanh_form(1.0, 0.044715)
    yield "has sqrt(pi/2) in place of sqrt(2/pi)", *tanh_form(1 / right, 0.044715)
    yield "has 2/pi in place of its root", *tanh_form(2 / math.pi, 0.044715)


def _dt_projs() -> Iterator[Entry]:
    yield "leaves out the bias", local.linear, local.linear_back
    yield "reads the weight as [out, in]: it is [in, out]", lambda v, c: {
        "y": v["x"] @ read_transposed(v["weight"]) + v["bias"]}, None  # fmt: skip
    yield "adds the bias twice", lambda v, c: {
        "y": v["x"] @ v["weight"] + 2 * v["bias"]}, None  # fmt: skip
    yield "leaves out the product: it gives the bias", lambda v, c: {
        "y": np.broadcast_to(v["bias"], (len(v["x"]), len(v["bias"]))).copy()}, None  # fmt: skip
    yield "subtracts the bias", lambda v, c: {"y": v["x"] @ v["weight"] - v["bias"]}, None


def _softpluses() -> Iterator[Entry]:
    for threshold in (10.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.0):
        yield f"gives x itself above the threshold {threshold:g}: it is 20", *elementwise(
            lambda x, at=threshold: np.where(x > at, x, np.logaddexp(0, x)),  # type: ignore[misc]
            lambda x, at=threshold: np.where(x > at, 1.0, sigmoid(x)),  # type: ignore[misc]
        )
    yield "is exp", *elementwise(np.exp, np.exp)
    yield "is ReLU", *elementwise(lambda x: np.maximum(x, 0), lambda x: x > 0)
    yield "is left out: dt is taken as projected", *elementwise(lambda x: x, np.ones_like)
    yield "is the sigmoid", *elementwise(sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x)))
    yield "has log2 in place of ln", *elementwise(
        lambda x: np.logaddexp(0, x) / math.log(2), lambda x: sigmoid(x) / math.log(2))  # fmt: skip
    yield "is log(1 + x)", *elementwise(lambda x: np.log1p(np.abs(x)), np.ones_like)
    yield "is applied twice", *elementwise(
        lambda x: np.logaddexp(0, np.logaddexp(0, x)),
        lambda x: sigmoid(x) * sigmoid(np.logaddexp(0, x)))  # fmt: skip


def clamped(node: Node, got: Array) -> Iterator[tuple[str, Forward]]:
    """dt held between limits; they can be seen in what came out, if anything was cut."""
    if node.kind != "softplus" or got.size == 0 or not np.isfinite(got).all():
        return

    def passing(v: Values, c: Context) -> Values:
        same = v["x"][got == v["x"]]
        above = v["x"] >= (same.min() if same.size else np.inf)
        return {"y": np.where(above, v["x"], np.logaddexp(0, v["x"]))}

    yield "gives x itself above a threshold that is too low: it is 20", passing
    low, high = float(got.min()), float(got.max())
    for text, least, most in (
        (f"is cut to at least {low:.6g}", low, np.inf),
        (f"is cut to at most {high:.6g}", -np.inf, high),
        (f"is cut to {low:.6g} to {high:.6g}", low, high),
    ):
        if int((got == low).sum()) > 1 or int((got == high).sum()) > 1:
            yield text, lambda v, c, a=least, b=most: {  # type: ignore[misc]
                "y": np.clip(np.logaddexp(0, v["x"]), a, b)}  # fmt: skip


# --- the scan and the gate ------------------------------------------------------------------------


def _with_A(A: Callable[[Array], Array]) -> tuple[Forward, Backward | None]:
    return (
        lambda v, c: {"y": local.read_out(v, local.states(v, c, A)[1]) + v["D"] * v["u"]}
    ), None


def _run(decay: Array, inflow: Array, v: Values, c: Context) -> Values:
    return {"y": local.read_out(v, local.run_states(decay, inflow, c.offsets)) + v["D"] * v["u"]}


def _late(x: Array, c: Context, first: float = 0.0) -> Array:
    """Each row of the token before; `first` for the first of a sequence."""
    y = np.full_like(x, first)
    y[1:] = x[:-1]
    y[c.offsets[:-1]] = first
    return y


def _scans() -> Iterator[Entry]:
    scan = local.selective_scan
    yield "has B and C swapped", lambda v, c: scan({**v, "B": v["C"], "C": v["B"]}, c), None
    yield "takes A_log as A, without -exp", *_with_A(lambda a: a)
    yield "takes -A_log as A, without exp", *_with_A(lambda a: -a)
    yield "takes exp(A_log) as A, without the minus", *_with_A(np.exp)
    yield "leaves out D u", lambda v, c: scan({**v, "D": np.zeros_like(v["D"])}, c), None
    yield "takes exp(-A_log) as A", *_with_A(lambda a: np.exp(-a))
    yield "takes -exp(-A_log) as A", *_with_A(lambda a: -np.exp(-a))
    yield "takes -exp2(A_log) as A", *_with_A(lambda a: -np.exp2(a))
    yield "reads A_log as [state, channel]", *_with_A(lambda a: -np.exp(read_transposed(a)))
    yield "has the states of A in reverse order", *_with_A(lambda a: -np.exp(a[:, ::-1]))
    yield "carries its states from one sequence into the next", across(scan), across_back(
        local.selective_scan_back)  # fmt: skip
    yield "multiplies D with the input before the convolution", lambda v, c: {
        "y": scan(v, c)["y"] + v["D"] * (v["near.x"] - v["u"])}, None  # fmt: skip
    yield "multiplies D with z", lambda v, c: {
        "y": scan(v, c)["y"] + v["D"] * (v["near.z"] - v["u"])}, None  # fmt: skip
    yield "adds u without D", lambda v, c: scan({**v, "D": np.ones_like(v["D"])}, c), None
    yield "adds D without u", lambda v, c: {
        "y": scan(v, c)["y"] + v["D"] * (1 - v["u"])}, None  # fmt: skip
    yield "reads the input before the convolution", reading(scan, u="near.x"), None

    def parts(v: Values, c: Context) -> tuple[Array, Array, Array]:
        A = local.minus_exp(v["A_log"])
        x = v["dt"][:, :, None] * A
        return A, x, v["u"][:, :, None] * v["B"][:, None, :]

    def with_parts(make: Callable[[Array, Array, Array, Values, Context], Values]) -> Forward:
        return lambda v, c: make(*parts(v, c), v, c)

    def dt(v: Values) -> Array:
        return v["dt"][:, :, None]

    yield "leaves dt out of B u", with_parts(lambda A, x, bu, v, c: _run(np.exp(x), bu, v, c)), None
    yield "leaves dt out of the decay: exp(A)", with_parts(
        lambda A, x, bu, v, c: _run(np.exp(A + 0 * x), dt(v) * bu, v, c)), None  # fmt: skip
    yield "discretises B exactly (zero-order hold), not as dt B", with_parts(
        lambda A, x, bu, v, c: _run(np.exp(x), np.expm1(x) / A * bu, v, c)), None  # fmt: skip
    yield "has the decay 1 + dt A, without exp", with_parts(
        lambda A, x, bu, v, c: _run(1 + x, dt(v) * bu, v, c)), None  # fmt: skip
    yield "does not let the states decay", with_parts(
        lambda A, x, bu, v, c: _run(np.ones_like(x), dt(v) * bu, v, c)), None  # fmt: skip
    yield "forgets its states at every token", with_parts(
        lambda A, x, bu, v, c: _run(0 * x, dt(v) * bu, v, c)), None  # fmt: skip
    yield "leaves u out of the states", with_parts(lambda A, x, bu, v, c: _run(
        np.exp(x), dt(v) * v["B"][:, None, :] + 0 * bu, v, c)), None  # fmt: skip
    yield "reads the states out before it updates them", with_parts(
        lambda A, x, bu, v, c: {"y": local.read_out(v, _late(local.run_states(
            np.exp(x), dt(v) * bu, c.offsets), c)) + v["D"] * v["u"]}), None  # fmt: skip
    yield "lets the new input decay too", with_parts(
        lambda A, x, bu, v, c: _run(np.exp(x), np.exp(x) * dt(v) * bu, v, c)), None  # fmt: skip
    yield "takes the decay of the token before", with_parts(lambda A, x, bu, v, c: _run(
        _late(np.exp(x), c, 1.0), dt(v) * bu, v, c)), None  # fmt: skip
    yield "sums the states without C", with_parts(lambda A, x, bu, v, c: {
        "y": local.run_states(np.exp(x), dt(v) * bu, c.offsets).sum(axis=2) + v["D"] * v["u"]
    }), None  # fmt: skip
    yield "multiplies with dt twice", with_parts(
        lambda A, x, bu, v, c: _run(np.exp(x), dt(v) ** 2 * bu, v, c)), None  # fmt: skip
    for count in (CHUNK, 8, 32, 64):
        yield f"forgets its states every {count} tokens", with_parts(
            lambda A, x, bu, v, c, n=count: _run(  # type: ignore[misc]
                np.exp(x) * (c.batch.packing.pos % n != 0)[:, None, None], dt(v) * bu, v, c,
            )), None  # fmt: skip


def _gates() -> Iterator[Entry]:
    yield "is left out: y is passed on", lambda v, c: {"y": v["y"]}, lambda v, d, c: {
        "y": d["y"], "z": np.zeros_like(d["y"])}  # fmt: skip

    def by(f: Callable[[Array], Array], slope: Callable[[Array], Array]) -> tuple[Forward, Backward]:
        return (lambda v, c: {"y": v["y"] * f(v["z"])}), (
            lambda v, d, c: {"y": d["y"] * f(v["z"]), "z": d["y"] * v["y"] * slope(v["z"])}
        )

    yield "is the sigmoid of z, not SiLU", *by(
        sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z)))  # fmt: skip
    yield "is z itself, without SiLU", *by(lambda z: z, np.ones_like)
    yield "is GELU of z, not SiLU", *by(
        lambda z: local.gelu({"x": z}, None)["y"],  # type: ignore[arg-type]
        lambda z: local.gelu_back({"x": z}, {"y": np.ones_like(z)}, None)["x"],  # type: ignore[arg-type]
    )
    yield "is GELU of z with erf, not SiLU", *by(
        lambda z: 0.5 * z * (1 + erf(z / math.sqrt(2))),
        lambda z: 0.5 * (1 + erf(z / math.sqrt(2))) + z * bell(z))  # fmt: skip
    yield "is ReLU of z, not SiLU", *by(lambda z: np.maximum(z, 0), lambda z: z > 0)
    yield "gates with SiLU of the input's half, not of z", lambda v, c: {
        "y": v["y"] * v["near.x"] * sigmoid(v["near.x"])}, None  # fmt: skip
    yield "gates with SiLU of u, not of z", lambda v, c: {
        "y": v["y"] * v["near.u"] * sigmoid(v["near.u"])}, None  # fmt: skip
    yield "applies SiLU to y, not to z", lambda v, c: {
        "y": v["z"] * v["y"] * sigmoid(v["y"])}, None  # fmt: skip
    yield "adds in place of multiplying", lambda v, c: {
        "y": v["y"] + v["z"] * sigmoid(v["z"])}, None  # fmt: skip


def parts_in_another_order(node: Node) -> Iterator[tuple[str, Forward]]:
    """A product that is cut into parts, cut in another order."""
    if not node.widths:
        return
    names = list(node.outputs)
    for order in permutations(range(len(names))):
        if order == tuple(range(len(names))):
            continue

        def forward(v: Values, c: Context, order: tuple[int, ...] = order) -> Values:
            y = local.linear(v, c)["y"]
            edges = np.cumsum([node.widths[i] for i in order])[:-1]
            cut = dict(zip(order, np.split(y, edges, axis=1), strict=True))
            return {"y": np.concatenate([cut[i] for i in range(len(names))], axis=1)}

        expected = ", ".join(names)
        yield f"is cut as [{', '.join(names[i] for i in order)}]: it is [{expected}]", forward


# --- targets and loss -----------------------------------------------------------------------------


def _targets() -> Iterator[Entry]:
    def of(rule: Callable[[Array, Array, Context], Array]) -> Forward:
        """Targets by another rule: (next tokens, cmd_pos of each token, context)."""

        def forward(v: Values, c: Context) -> Values:
            b = c.batch
            following = np.append(b.tokens[1:], PAD)
            start = np.repeat(b.cmd_positions, np.diff(c.offsets))
            return {"y": rule(following, start, c)}

        return forward

    def masked(wanted: Array, start: Array, c: Context, pad: bool = True, last: bool = True) -> Array:
        wanted = wanted.copy()
        if last:
            wanted[c.offsets[1:] - 1] = -1
        wanted[c.batch.packing.pos < start] = -1
        if pad:
            wanted[wanted == PAD] = -1
        return wanted

    yield "counts PAD among the targets", of(lambda n, s, c: masked(n, s, c, pad=False)), None
    yield "begins one position after cmd_pos", of(lambda n, s, c: masked(n, s + 1, c)), None
    yield "begins one position before cmd_pos", of(lambda n, s, c: masked(n, s - 1, c)), None
    yield "does not look at cmd_pos: every token is a target", of(
        lambda n, s, c: masked(n, 0 * s, c)), None  # fmt: skip
    yield "has the token itself as target, not the next one", of(
        lambda n, s, c: masked(c.batch.tokens, s, c)), None  # fmt: skip
    yield "has the token after the next as target", of(
        lambda n, s, c: masked(np.append(n[1:], PAD), s, c)), None  # fmt: skip
    yield "has the first token of the next sequence as a target", of(
        lambda n, s, c: masked(n, s, c, last=False)), None  # fmt: skip
    yield "has targets up to cmd_pos, not from there on", of(lambda n, s, c: np.where(
        c.batch.packing.pos >= s, -1, masked(n, 0 * s, c))), None  # fmt: skip


def _losses() -> Iterator[Entry]:
    def of(rule: Callable[[Array, Context], Array]) -> tuple[Forward, Backward]:
        """Another weight of each target: a rule from (B,) numbers of targets to that of each."""

        def weights(v: Values, c: Context) -> Array:
            count = np.maximum(local.counts_of(v["targets"], c), 1)
            share = np.repeat(rule(count, c), np.diff(c.offsets))
            return np.where(v["targets"] >= 0, share, 0.0)

        return (
            lambda v, c: {"y": np.asarray((v["nll"] * weights(v, c)).sum())},
            lambda v, d, c: {"nll": d["y"] * weights(v, c)},
        )

    def lengths(c: Context) -> Array:
        return np.diff(c.offsets)

    for name, other in (("token", "sequence"), ("sequence", "token")):
        what = {"token": "the mean over all targets", "sequence": "the mean of the sequences' means"}
        yield f"is {what[name]} (reduction {name}), not {what[other]}", *of(
            lambda n, c, r=name: local.target_shares(n, r))  # type: ignore[misc]  # fmt: skip
    yield "is the sum over all targets, not a mean", *of(lambda n, c: np.ones(len(n)))
    yield "is the sum of the sequences' means: it is not divided by their number", *of(
        lambda n, c: 1 / n)  # fmt: skip
    yield "divides each sequence's sum by its length, not by its targets", *of(
        lambda n, c: 1 / (lengths(c) * len(n)))  # fmt: skip
    yield "divides each sequence's sum by its length less one", *of(
        lambda n, c: 1 / (np.maximum(lengths(c) - 1, 1) * len(n)))  # fmt: skip
    yield "divides by the number of tokens, not of targets", *of(
        lambda n, c: np.full(len(n), 1 / lengths(c).sum()))  # fmt: skip
    yield "divides the sum by the number of sequences alone", *of(
        lambda n, c: np.full(len(n), 1 / len(n)))  # fmt: skip
    yield "divides by the number of sequences twice", *of(lambda n, c: 1 / (n * len(n) ** 2))


def _entropies() -> Iterator[Entry]:
    right, back = local.cross_entropy, local.cross_entropy_back
    yield "is in bits: log2 in place of ln", lambda v, c: {
        "y": right(v, c)["y"] / math.log(2)}, lambda v, d, c: {
        "logits": back(v, d, c)["logits"] / math.log(2)}  # fmt: skip
    yield "has the wrong sign", lambda v, c: {"y": -right(v, c)["y"]}, None
    yield "leaves out the softmax: it is minus the target's logit", lambda v, c: {
        "y": np.where(v["targets"] >= 0, -v["logits"][
            np.arange(len(v["targets"])), np.maximum(v["targets"], 0)], 0.0)}, None  # fmt: skip
    yield "is 1 - p of the target, not -ln p", lambda v, c: {
        "y": np.where(v["targets"] >= 0, 1 - np.exp(-right(v, c)["y"]), 0.0)}, None  # fmt: skip
    for eps in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        yield f"is -ln(p + {eps:g})", lambda v, c, e=eps: {  # type: ignore[misc]
            "y": np.where(v["targets"] >= 0, -np.log(np.exp(-right(v, c)["y"]) + e), 0.0)
        }, None  # fmt: skip

    def bytes_alone(v: Values, c: Context) -> Values:
        return right({**v, "logits": v["logits"][:, :278]}, c)

    yield "leaves the reserved tokens out of the softmax", bytes_alone, None

    def smoothed(share: float) -> Forward:
        def forward(v: Values, c: Context) -> Values:
            x = v["logits"] - v["logits"].max(axis=1, keepdims=True)
            logp = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
            nll = right(v, c)["y"]
            return {"y": np.where(
                v["targets"] >= 0, (1 - share) * nll - share * logp.mean(axis=1), 0.0)}  # fmt: skip

        return forward

    yield "smooths the labels by 0.1", smoothed(0.1), None


def _logits() -> Iterator[Entry]:
    yield "reads the stream before the last norm", lambda v, c: {
        "y": v["near.stream"] @ v["table"].T}, None  # fmt: skip
    yield "reads the table as [channel, token]", lambda v, c: {
        "y": v["x"] @ read_transposed(v["table"]).T}, None  # fmt: skip
    yield "divides by the root of d_model", lambda v, c: {
        "y": v["x"] @ v["table"].T / math.sqrt(v["table"].shape[1])}, None  # fmt: skip


FORWARD: dict[str, list[Entry]] = {
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
    "targets": list(_targets()),
    "cross_entropy": list(_entropies()),
    "reduction": list(_losses()),
}
