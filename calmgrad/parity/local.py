"""Each step of the network by itself, forward and backward, in float64: the oracle of parity.

A formula gets what its step reads by the names of `graph` (`v["x"]`), and the batch; its way back
gets the gradients of what it made besides, and gives those of all that it read. They are written
once more here, whole arrays at a time and unfused, so that a step of another engine can be made
again from what that engine itself says it read.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calmgrad.config import LAYER_NORM_EPS, ModelConfig
from calmgrad.cutting import target_shares, targets_of
from calmgrad.kernels.protocol import Array as Array
from calmgrad.trace import Batch

Values = dict[str, Array]
AT_ONCE = 1 << 18  # numbers of (T, C, N) that the scan makes at once


@dataclass(frozen=True, slots=True)
class Context:
    """What every step may look at: sizes, tokens, where the sequences are; how it was trained."""

    config: ModelConfig
    batch: Batch
    reduction: str = "sequence"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(B + 1,) where each sequence begins."""
        return np.asarray(self.batch.packing.offsets)


Forward = Callable[[Values, Context], Values]
Backward = Callable[[Values, Values, Context], Values]


class Kind(NamedTuple):
    """A formula and its way back."""

    forward: Forward
    backward: Backward


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


# --- embedding, norm, products --------------------------------------------------------------------


def embedding(v: Values, c: Context) -> Values:
    return {"y": v["table"][c.batch.tokens]}


def embedding_back(v: Values, d: Values, c: Context) -> Values:
    table = np.zeros_like(v["table"])
    np.add.at(table, c.batch.tokens, d["y"])
    return {"table": table}


def normed(x: Array, eps: float) -> tuple[Array, Array]:
    """(T, D) rows of mean 0 and variance 1, and what each was multiplied with."""
    rstd = 1 / np.sqrt(x.var(axis=1, keepdims=True) + eps)
    return (x - x.mean(axis=1, keepdims=True)) * rstd, rstd


def layer_norm(v: Values, c: Context, eps: float = LAYER_NORM_EPS) -> Values:
    return {"y": normed(v["x"], eps)[0] * v["weight"] + v["bias"]}


def layer_norm_back(v: Values, d: Values, c: Context, eps: float = LAYER_NORM_EPS) -> Values:
    n, rstd = normed(v["x"], eps)
    g = d["y"] * v["weight"]
    mean, along = g.mean(axis=1, keepdims=True), (g * n).mean(axis=1, keepdims=True)
    return {
        "x": rstd * (g - mean - n * along),
        "weight": (d["y"] * n).sum(axis=0),
        "bias": d["y"].sum(axis=0),
    }


def linear(v: Values, c: Context) -> Values:
    return {"y": v["x"] @ v["weight"]}


def linear_back(v: Values, d: Values, c: Context) -> Values:
    return {"x": d["y"] @ v["weight"].T, "weight": v["x"].T @ d["y"]}


def dt_proj(v: Values, c: Context) -> Values:
    return {"y": v["x"] @ v["weight"] + v["bias"]}


def dt_proj_back(v: Values, d: Values, c: Context) -> Values:
    return {**linear_back(v, d, c), "bias": d["y"].sum(axis=0)}


def logits(v: Values, c: Context) -> Values:
    return {"y": v["x"] @ v["table"].T}


def logits_back(v: Values, d: Values, c: Context) -> Values:
    return {"x": d["y"] @ v["table"], "table": d["y"].T @ v["x"]}


def residual(v: Values, c: Context) -> Values:
    return {"y": v["x"] + v["residual"]}


def residual_back(v: Values, d: Values, c: Context) -> Values:
    return {"x": d["y"], "residual": d["y"]}


# --- convolution and activations ------------------------------------------------------------------


def conv1d(v: Values, c: Context) -> Values:
    x, weight = v["x"], v["weight"]
    y = np.zeros_like(x)
    for start, stop in pairwise(c.offsets):
        for j in range(min(weight.shape[1], stop - start)):
            y[start + j : stop] += weight[:, j] * x[start : stop - j]
    return {"y": y}


def conv1d_back(v: Values, d: Values, c: Context) -> Values:
    x, weight, dy = v["x"], v["weight"], d["y"]
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    for start, stop in pairwise(c.offsets):
        for j in range(min(weight.shape[1], stop - start)):
            dx[start : stop - j] += weight[:, j] * dy[start + j : stop]
            dweight[:, j] += (x[start : stop - j] * dy[start + j : stop]).sum(axis=0)
    return {"x": dx, "weight": dweight}


def silu(v: Values, c: Context) -> Values:
    return {"y": v["x"] * sigmoid(v["x"])}


def silu_slope(x: Array) -> Array:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def silu_back(v: Values, d: Values, c: Context) -> Values:
    return {"x": d["y"] * silu_slope(v["x"])}


def softplus(v: Values, c: Context) -> Values:
    return {"y": np.logaddexp(0, v["x"])}


def softplus_back(v: Values, d: Values, c: Context) -> Values:
    return {"x": d["y"] * sigmoid(v["x"])}


def gate(v: Values, c: Context) -> Values:
    return {"y": v["y"] * v["z"] * sigmoid(v["z"])}


def gate_back(v: Values, d: Values, c: Context) -> Values:
    z = v["z"]
    return {"y": d["y"] * z * sigmoid(z), "z": d["y"] * v["y"] * silu_slope(z)}


def gelu(v: Values, c: Context) -> Values:
    x = v["x"]
    return {"y": 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))}


def gelu_back(v: Values, d: Values, c: Context) -> Values:
    x, scale = v["x"], math.sqrt(2 / math.pi)
    t = np.tanh(scale * (x + 0.044715 * x**3))
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * 0.044715 * x * x)
    return {"x": d["y"] * slope}


# --- the scan -------------------------------------------------------------------------------------


def minus_exp(A_log: Array) -> Array:
    return np.asarray(-np.exp(A_log))


def run_states(decay: Array, inflow: Array, offsets: NDArray[np.int64]) -> Array:
    """(T, C, N) states after each token, from 0 at the start of each sequence."""
    h = inflow.copy()
    for start, stop in pairwise(offsets):
        h[start] += decay[start] * 0.0  # a decay that is infinite makes NaN of it
        for t in range(start + 1, stop):
            h[t] += decay[t] * h[t - 1]
    return h


def states(v: Values, c: Context, A: Callable[[Array], Array] = minus_exp) -> tuple[Array, Array]:
    """(T, C, N) decay of the states at each token, and the states after it."""
    decay = np.exp(v["dt"][:, :, None] * A(v["A_log"]))
    inflow = (v["dt"] * v["u"])[:, :, None] * v["B"][:, None, :]
    return decay, run_states(decay, inflow, c.offsets)


def read_out(v: Values, h: Array) -> Array:
    """(T, C) what the states give at each token, without D."""
    return np.asarray((h @ v["C"][:, :, None])[:, :, 0])


def channels_at_once(v: Values) -> Iterator[tuple[slice, Values]]:
    """A scan's inputs some channels at a time: what is (T, C, N) then stays in the cache."""
    tokens, channels = v["u"].shape
    width = max(1, AT_ONCE // max(1, tokens * v["B"].shape[1]))
    for start in range(0, channels, width):
        at = slice(start, start + width)
        some = {key: v[key][:, at] for key in ("u", "dt")}
        yield at, {**v, **some, "A_log": v["A_log"][at], "D": v["D"][at]}


def selective_scan(v: Values, c: Context) -> Values:
    y = np.empty_like(v["u"])
    for at, some in channels_at_once(v):
        y[:, at] = read_out(some, states(some, c)[1]) + some["D"] * some["u"]
    return {"y": y}


def selective_scan_back(v: Values, d: Values, c: Context) -> Values:
    sent = {key: np.zeros_like(v[key]) for key in ("u", "dt", "B", "C", "A_log", "D")}
    for at, some in channels_at_once(v):
        made = _scan_back(some, d["y"][:, at], c)
        for key in ("u", "dt"):
            sent[key][:, at] = made[key]
        for key in ("A_log", "D"):
            sent[key][at] = made[key]
        for key in ("B", "C"):  # of all channels
            sent[key] += made[key]
    return sent


def _scan_back(v: Values, dy: Array, c: Context) -> Values:
    u, dt, B, C = v["u"], v["dt"], v["B"], v["C"]
    A = minus_exp(v["A_log"])
    decay, h = states(v, c)
    before = np.zeros_like(h)
    before[1:] = h[:-1]
    before[c.offsets[:-1]] = 0
    dh = dy[:, :, None] * C[:, None, :]
    for start, stop in pairwise(c.offsets):
        for t in range(stop - 2, start - 1, -1):
            dh[t] += decay[t + 1] * dh[t + 1]
    e = dh * before * decay  # the gradient of dt * A
    with_b = read_out({"C": B}, dh)
    return {
        "u": dt * with_b + v["D"] * dy,
        "dt": (e * A).sum(axis=2) + u * with_b,
        "B": (dh * (dt * u)[:, :, None]).sum(axis=1),
        "C": (dy[:, :, None] * h).sum(axis=1),
        "A_log": A * (e * dt[:, :, None]).sum(axis=0),
        "D": (dy * u).sum(axis=0),
    }


# --- the loss -------------------------------------------------------------------------------------


def targets(v: Values, c: Context) -> Values:
    b = c.batch
    return {"y": targets_of(b.tokens, b.packing, b.cmd_positions)}


def cross_entropy(v: Values, c: Context) -> Values:
    scores, wanted = v["logits"], v["targets"]
    top = scores.max(axis=1)
    lse = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
    own = scores[np.arange(len(wanted)), np.maximum(wanted, 0)]
    return {"y": np.where(wanted >= 0, lse - own, 0.0)}


def cross_entropy_back(v: Values, d: Values, c: Context) -> Values:
    scores, wanted = v["logits"], v["targets"]
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.flatnonzero(wanted >= 0)
    p[rows, wanted[rows]] -= 1
    return {"logits": p * np.where(wanted >= 0, d["y"], 0.0)[:, None]}


def counts_of(wanted: Array, c: Context) -> NDArray[np.int64]:
    """(B,) targets of each sequence."""
    return np.asarray(np.add.reduceat(wanted >= 0, c.offsets[:-1], dtype=np.int64))


def shares(wanted: Array, c: Context) -> Array:
    """(T,) what each position weighs in the loss."""
    share = np.repeat(target_shares(counts_of(wanted, c), c.reduction), np.diff(c.offsets))
    return np.where(wanted >= 0, share, 0.0)


def reduction(v: Values, c: Context) -> Values:
    return {"y": np.asarray((v["nll"] * shares(v["targets"], c)).sum())}


def reduction_back(v: Values, d: Values, c: Context) -> Values:
    return {"nll": d["y"] * shares(v["targets"], c)}


def _none(v: Values, d: Values, c: Context) -> Values:
    return {}


KINDS = {
    "embedding": Kind(embedding, embedding_back),
    "layer_norm": Kind(layer_norm, layer_norm_back),
    "linear": Kind(linear, linear_back),
    "dt_proj": Kind(dt_proj, dt_proj_back),
    "logits": Kind(logits, logits_back),
    "residual": Kind(residual, residual_back),
    "conv1d": Kind(conv1d, conv1d_back),
    "silu": Kind(silu, silu_back),
    "softplus": Kind(softplus, softplus_back),
    "gate": Kind(gate, gate_back),
    "gelu": Kind(gelu, gelu_back),
    "selective_scan": Kind(selective_scan, selective_scan_back),
    "targets": Kind(targets, _none),
    "cross_entropy": Kind(cross_entropy, cross_entropy_back),
    "reduction": Kind(reduction, reduction_back),
}
