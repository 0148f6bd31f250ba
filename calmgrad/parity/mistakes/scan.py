"""What may be wrong with the selective scan."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from calmgrad.kernels.protocol import CHUNK
from calmgrad.parity import local
from calmgrad.parity.local import Array, Backward, Context, Forward, Values
from calmgrad.parity.mistakes.means import (
    BackEntry,
    Entry,
    across,
    across_back,
    read_transposed,
    reading,
)


def _with_A(A: Callable[[Array], Array]) -> tuple[Forward, Backward | None]:
    return (lambda v, c: {"y": local.read_out(v, local.states(v, c, A)[1]) + v["D"] * v["u"]}), None


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
        def forward(v: Values, c: Context) -> Values:
            some = [make(*parts(few, c), few, c)["y"] for _, few in local.channels_at_once(v)]
            return {"y": np.concatenate(some, axis=1)}

        return forward

    def dt(v: Values) -> Array:
        return v["dt"][:, :, None]

    yield "leaves dt out of B u", with_parts(lambda A, x, bu, v, c: _run(np.exp(x), bu, v, c)), None
    yield "leaves dt out of the decay: exp(A)", with_parts(
        lambda A, x, bu, v, c: _run(np.exp(A + 0 * x), dt(v) * bu, v, c)), None  # fmt: skip
    yield "discretises B exactly (zero-order hold), not as dt B", with_parts(
        lambda A, x, bu, v, c: _run(np.exp(x), np.expm1(x) / A * bu, v, c)), None  # fmt: skip
    yield "has the decay 1 + dt A, without exp", with_parts(
        lambda A, x, bu, v, c: _run(1 + x, dt(v) * bu, v, c)), None  # fmt: skip
    yield "takes 2 to the power of dt A: the factor log2(e) is missing", with_parts(
        lambda A, x, bu, v, c: _run(np.exp2(x), dt(v) * bu, v, c)), None  # fmt: skip
    for name in ("B", "C"):
        yield f"has {name} of the token before", lambda v, c, k=name: scan(  # type: ignore[misc]
            {**v, k: _late(v[k], c)}, c), None  # fmt: skip
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
        yield f"does not let its states decay at every {count}th token", with_parts(
            lambda A, x, bu, v, c, n=count: _run(  # type: ignore[misc]
                np.where((c.batch.packing.pos % n == 0)[:, None, None], 1, np.exp(x)),
                dt(v) * bu, v, c,
            )), None  # fmt: skip


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


def _scans_back() -> Iterator[BackEntry]:
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


FORWARD: dict[str, list[Entry]] = {
    "selective_scan": list(_scans()),
}
BACKWARD: dict[str, list[BackEntry]] = {
    "selective_scan": list(_scans_back()),
}
