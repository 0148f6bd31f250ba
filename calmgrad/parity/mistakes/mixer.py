"""What may be wrong with the convolution, the step size and the gate."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from calmgrad.parity import local
from calmgrad.parity.local import Array, Backward, Context, Forward, Values, sigmoid
from calmgrad.parity.mistakes import products
from calmgrad.parity.mistakes.means import (
    BackEntry,
    Entry,
    across,
    across_back,
    bell,
    erf,
    other,
    read_transposed,
    sending,
)


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
    yield from other("reads z in place of x", local.conv1d, local.conv1d_back, "x")
    yield "is left out: it gives its input", lambda v, c: {"y": v["x"]}, None


def _dt_projs() -> Iterator[Entry]:
    yield "leaves out the bias", local.linear, local.linear_back
    yield "reads the weight as [out, in]: it is [in, out]", lambda v, c: {
        "y": v["x"] @ read_transposed(v["weight"]) + v["bias"]}, None  # fmt: skip
    yield "adds the bias twice", lambda v, c: {
        "y": v["x"] @ v["weight"] + 2 * v["bias"]}, None  # fmt: skip
    yield "leaves out the product: it gives the bias", lambda v, c: {
        "y": np.broadcast_to(v["bias"], (len(v["x"]), len(v["bias"]))).copy()}, None  # fmt: skip
    yield "subtracts the bias", lambda v, c: {"y": v["x"] @ v["weight"] - v["bias"]}, None


def _gates() -> Iterator[Entry]:
    yield "is left out: y is passed on", lambda v, c: {"y": v["y"]}, lambda v, d, c: {
        "y": d["y"], "z": np.zeros_like(d["y"])}  # fmt: skip

    def by(
        f: Callable[[Array], Array], slope: Callable[[Array], Array]
    ) -> tuple[Forward, Backward]:
        return (lambda v, c: {"y": v["y"] * f(v["z"])}), (
            lambda v, d, c: {"y": d["y"] * f(v["z"]), "z": d["y"] * v["y"] * slope(v["z"])}
        )

    yield "is the sigmoid of z, not SiLU", *by(
        sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z)))  # fmt: skip
    yield "is tanh of z, not SiLU", *by(np.tanh, lambda z: 1 - np.tanh(z) ** 2)
    yield "is z itself, without SiLU", *by(lambda z: z, np.ones_like)
    yield (
        "is GELU of z, not SiLU",
        *by(
            lambda z: local.gelu({"x": z}, None)["y"],  # type: ignore[arg-type]
            lambda z: local.gelu_back({"x": z}, {"y": np.ones_like(z)}, None)["x"],  # type: ignore[arg-type]
        ),
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


def _convs_back() -> Iterator[BackEntry]:
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


def _dt_projs_back() -> Iterator[BackEntry]:
    yield from products.BACKWARD["linear"]
    yield "writes db for each token, and does not add", sending(
        local.dt_proj_back, bias=lambda v, d, c: d["y"][-1]
    )  # fmt: skip


def _gates_back() -> Iterator[BackEntry]:
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


FORWARD: dict[str, list[Entry]] = {
    "conv1d": list(_convs()),
    "dt_proj": list(_dt_projs()),
    "gate": list(_gates()),
}
BACKWARD: dict[str, list[BackEntry]] = {
    "conv1d": list(_convs_back()),
    "dt_proj": list(_dt_projs_back()),
    "gate": list(_gates_back()),
}
