"""What may be wrong with the embedding, LayerNorm, products and sums."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations

import numpy as np

from calmgrad.config import LAYER_NORM_EPS
from calmgrad.parity import local
from calmgrad.parity.graph import Node
from calmgrad.parity.local import Array, Backward, Context, Forward, Values
from calmgrad.parity.mistakes.means import BackEntry, Entry, other, read_transposed, sending, zero


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
    yield (
        "divides by the variance, without the root",
        _norm(lambda x: 1 / (_variance(x) + 1e-5)),
        None,
    )
    rms = _norm(lambda x: 1 / np.sqrt(_variance(x) + 1e-5), center=False)
    yield "does not subtract the mean (RMSNorm)", rms, None
    yield "does not scale: the weight is left out", lambda v, c: local.layer_norm(
        {**v, "weight": np.ones_like(v["weight"])}, c), None  # fmt: skip
    yield "scales by 1 + weight", lambda v, c: local.layer_norm(
        {**v, "weight": 1 + v["weight"]}, c), None  # fmt: skip
    yield "scales by the weight twice", lambda v, c: local.layer_norm(
        {**v, "weight": v["weight"] ** 2}, c), None  # fmt: skip
    yield "adds the bias before it scales", lambda v, c: local.layer_norm(
        {**v, "bias": v["bias"] * v["weight"]}, c), None  # fmt: skip
    yield "sums the squares, and does not divide by D", _norm(
        lambda x: 1 / np.sqrt(np.square(x).sum(axis=1, keepdims=True) + 1e-5)), None  # fmt: skip
    yield "leaves out the bias", lambda v, c: local.layer_norm(
        {**v, "bias": np.zeros_like(v["bias"])}, c), None  # fmt: skip
    yield "has weight and bias swapped", lambda v, c: local.layer_norm(
        {**v, "weight": v["bias"], "bias": v["weight"]}, c), None  # fmt: skip
    yield "is left out: it gives its input", lambda v, c: {"y": v["x"]}, None
    yield from other("reads the input of the block", local.layer_norm, local.layer_norm_back, "x")


def _linears() -> Iterator[Entry]:
    def transposed(v: Values, c: Context) -> Values:
        return {"y": v["x"] @ read_transposed(v["weight"])}

    def transposed_back(v: Values, d: Values, c: Context) -> Values:
        w = v["weight"]
        dw = (v["x"].T @ d["y"]).T.reshape(w.shape)
        return {"x": d["y"] @ read_transposed(w).T, "weight": dw}

    yield "reads the weight as [out, in]: it is [in, out]", transposed, transposed_back
    yield from other("reads the value before that", local.linear, local.linear_back, "x")


def _residuals() -> Iterator[Entry]:
    yield "leaves out the residual", lambda v, c: {"y": v["x"]}, lambda v, d, c: {
        "x": d["y"], "residual": np.zeros_like(d["y"])}  # fmt: skip
    yield "leaves out the block: it passes the residual on", lambda v, c: {"y": v["residual"]}, None
    yield (
        "adds the normed value, not the stream",
        lambda v, c: {"y": v["x"] + v["near.normed"]},
        None,
    )
    yield "adds the input of the block, not the stream behind the mixer", lambda v, c: {
        "y": v["x"] + v["near.other"]}, None  # fmt: skip
    yield "adds the block twice", lambda v, c: {"y": v["residual"] + 2 * v["x"]}, None
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


def _logits() -> Iterator[Entry]:
    yield "reads the stream before the last norm", lambda v, c: {
        "y": v["near.stream"] @ v["table"].T}, None  # fmt: skip
    yield "reads the table as [channel, token]", lambda v, c: {
        "y": v["x"] @ read_transposed(v["table"]).T}, None  # fmt: skip
    yield "divides by the root of d_model", lambda v, c: {
        "y": v["x"] @ v["table"].T / math.sqrt(v["table"].shape[1])}, None  # fmt: skip


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

    if len(names) == 2:
        yield "has its two parts column by column in turn: they are halves", lambda v, c: {
            "y": np.concatenate([local.linear(v, c)["y"][:, i::2] for i in (0, 1)], axis=1)
        }  # fmt: skip


def parts_not_sent(node: Node) -> Iterator[tuple[str, Backward]]:
    """A product that is cut into parts, one of which does not go back."""
    edges = [0, *np.cumsum(node.widths)]
    for name, first, stop in zip(node.outputs, edges, edges[1:], strict=False):

        def backward(v: Values, d: Values, c: Context, at: slice = slice(first, stop)) -> Values:
            dy = d["y"].copy()
            dy[:, at] = 0
            return local.linear_back(v, {"y": dy}, c)

        yield f"sends nothing back of its part {name}", backward


def _embeddings_back() -> Iterator[BackEntry]:
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
    yield (
        "writes the gradient of a repeated token, and does not add: the first one wins",
        first_wins,
    )
    yield "takes the mean over a token's occurrences, not the sum", mean
    yield "adds to the row of the next token", shifted
    yield "sends nothing to the table", lambda v, d, c: {"table": np.zeros_like(v["table"])}


def _layer_norms_back() -> Iterator[BackEntry]:
    back = local.layer_norm_back

    def parts(v: Values, d: Values) -> tuple[Array, Array, Array, Array, Array]:
        n, rstd = local.normed(v["x"], LAYER_NORM_EPS)
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


def _linears_back() -> Iterator[BackEntry]:
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


def _logits_back() -> Iterator[BackEntry]:
    yield "sends nothing to the table: the embedding is tied", sending(
        local.logits_back, table=zero("table"))  # fmt: skip
    yield "writes the table's gradient transposed", sending(
        local.logits_back,
        table=lambda v, d, c: (v["x"].T @ d["y"]).reshape(v["table"].shape))  # fmt: skip


def _residuals_back() -> Iterator[BackEntry]:
    yield "sends nothing past the block", lambda v, d, c: {
        "x": d["y"], "residual": np.zeros_like(d["y"])}  # fmt: skip
    yield "sends nothing into the block", lambda v, d, c: {
        "x": np.zeros_like(d["y"]), "residual": d["y"]}  # fmt: skip
    yield "halves what it sends past the block", lambda v, d, c: {
        "x": d["y"], "residual": d["y"] / 2}  # fmt: skip
    yield "sends its gradient past the block twice", lambda v, d, c: {
        "x": d["y"], "residual": 2 * d["y"]}  # fmt: skip


FORWARD: dict[str, list[Entry]] = {
    "embedding": list(_embeddings()),
    "layer_norm": list(_layer_norms()),
    "linear": list(_linears()),
    "logits": list(_logits()),
    "residual": list(_residuals()),
}
BACKWARD: dict[str, list[BackEntry]] = {
    "embedding": list(_embeddings_back()),
    "layer_norm": list(_layer_norms_back()),
    "linear": list(_linears_back()),
    "logits": list(_logits_back()),
    "residual": list(_residuals_back()),
}
