"""What may be wrong with penalty, clipping, optimizer and Fisher diagonal."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from calmgrad.layout import layout
from calmgrad.optim import clip_scale
from calmgrad.parity.local import Array, Context, Forward, Values
from calmgrad.parity.update import (
    adam,
    clip,
    corrected,
    decay,
    grad_norm,
    penalty,
    per_sequence,
    setting,
)

Entry = tuple[str, Forward]


def _ewcs() -> Iterator[Entry]:
    for factor, text in (
        (0.5, "has half the strength: λ/2 belongs to the penalty, λ to its gradient"),
        (2.0, "has twice the strength"),
        (-1.0, "pushes away from the anchor: θ* - θ in place of θ - θ*"),
        (0.0, "is left out"),
    ):
        yield text, lambda v, c, k=factor: {"y": v["grads"] + k * penalty(v, c)}  # type: ignore[misc]
    strength = "ewc_lambda"
    yield "leaves out the Fisher diagonal", lambda v, c: {
        "y": v["grads"] + setting(c, strength) * (v["weights"] - v["anchor"])}  # fmt: skip
    yield "leaves out λ", lambda v, c: {
        "y": v["grads"] + v["fisher"] * (v["weights"] - v["anchor"])}  # fmt: skip
    yield "squares the Fisher diagonal", lambda v, c: {
        "y": v["grads"] + penalty({**v, "fisher": v["fisher"] ** 2}, c)}  # fmt: skip
    yield "leaves out the anchor", lambda v, c: {
        "y": v["grads"] + penalty({**v, "anchor": 0 * v["anchor"]}, c)}  # fmt: skip
    yield "squares the distance", lambda v, c: {"y": v["grads"] + setting(c, strength) * v[
        "fisher"] * (v["weights"] - v["anchor"]) ** 2}  # fmt: skip
    yield "has Fisher diagonal and anchor swapped", lambda v, c: {
        "y": v["grads"] + penalty({**v, "fisher": v["anchor"], "anchor": v["fisher"]}, c)
    }  # fmt: skip

    def after_clip(v: Values, c: Context) -> Values:
        norm = grad_norm({"g": v["grads"]}, c)["y"]
        return {"y": clip({"g": v["grads"], "norm": norm}, c)["y"] + penalty(v, c)}

    yield "adds the penalty to the clipped gradient: it is clipped after that", after_clip
    yield "gives the penalty's gradient alone", lambda v, c: {"y": penalty(v, c)}


def _norms() -> Iterator[Entry]:
    yield "is the square: the root is missing", lambda v, c: {
        "y": np.square(v["g"]).sum().reshape(1)}  # fmt: skip
    yield "is the sum of magnitudes (L1)", lambda v, c: {"y": np.abs(v["g"]).sum().reshape(1)}
    yield "is the largest magnitude", lambda v, c: {"y": np.abs(v["g"]).max().reshape(1)}
    yield "is the root mean square", lambda v, c: {
        "y": np.sqrt(np.square(v["g"]).mean()).reshape(1)}  # fmt: skip


def _clips() -> Iterator[Entry]:
    limit = "grad_clip"
    yield "is left out", lambda v, c: {"y": v["g"]}
    yield "cuts each number, not the norm", lambda v, c: {
        "y": np.clip(v["g"], -setting(c, limit), setting(c, limit))}  # fmt: skip
    yield "scales to the largest norm, also where the norm is below it", lambda v, c: {
        "y": v["g"] * setting(c, limit) / (v["norm"] + 1e-6)}  # fmt: skip
    yield "clips the gradient without the penalty", lambda v, c: clip({**v, "g": v["near.raw"]}, c)
    yield "takes the norm of the gradient without the penalty", lambda v, c: clip(
        {**v, "norm": grad_norm({"g": v["near.raw"]}, c)["y"]}, c)  # fmt: skip
    yield "divides by the norm, without the largest", lambda v, c: {
        "y": v["g"] / (v["norm"] + 1e-6)}  # fmt: skip

    def each(v: Values, c: Context) -> Values:
        y = v["g"].copy()
        for e in layout(c.config):
            part = y[e.start : e.stop]
            part *= clip_scale(math.sqrt(float(np.square(part).sum())), setting(c, limit))
        return {"y": y}

    yield "clips each parameter by its own norm, not all by theirs", each


def _moments(name: str, power: int) -> Iterator[Entry]:
    def with_beta(old: float, new: float, role: str = "g", p: int = power) -> Forward:
        return lambda v, c: {"y": old * v["before"] + new * v[role] ** p}

    def lazily(make: Callable[[float], Forward]) -> Forward:
        return lambda v, c: make(setting(c, name))(v, c)

    other = "beta2" if name == "beta1" else "beta1"
    yield "takes the gradient before clipping", lazily(lambda b: with_beta(b, 1 - b, "near.raw"))
    yield f"has the weights swapped: {name} for the new", lazily(lambda b: with_beta(1 - b, b))
    yield f"leaves out the factor 1 - {name}", lazily(lambda b: with_beta(b, 1.0))
    yield "forgets what it was before", lazily(lambda b: with_beta(0.0, 1 - b))
    yield f"has {other} in place of {name}", lambda v, c: with_beta(
        setting(c, other), 1 - setting(c, other))(v, c)  # fmt: skip
    wrong = 1 if power == 2 else 2
    text = "does not square the gradient" if power == 2 else "squares the gradient"
    yield text, lazily(lambda b: with_beta(b, 1 - b, p=wrong))
    yield "keeps the bias-corrected moment", lambda v, c: {"y": (
        setting(c, name) * v["before"] + (1 - setting(c, name)) * v["g"] ** power
    ) / (1 - setting(c, name) ** setting(c, "update"))}  # fmt: skip


def _adams() -> Iterator[Entry]:
    def step(v: Values, c: Context, m: Array, divisor: Array) -> Values:
        return {"y": v["p"] * (1 - decay(c)) - setting(c, "lr") * m / divisor}

    def eps(c: Context) -> float:
        return setting(c, "eps")

    def with_decay(each: Callable[[Context, float], Array | float]) -> Forward:
        def forward(v: Values, c: Context) -> Values:
            full = setting(c, "lr") * setting(c, "weight_decay")
            step = adam(v, c)["y"] - v["p"] * (1 - decay(c))
            return {"y": v["p"] * (1 - each(c, full)) + step}

        return forward

    def matrices(c: Context, full: float) -> Array:
        flat = np.zeros(c.config.param_count)
        for e in layout(c.config):
            flat[e.start : e.stop] = full * (e.decay and len(e.shape) > 1)
        return flat

    yield "leaves out the bias correction", lambda v, c: step(
        v, c, v["m"], np.sqrt(v["v"]) + eps(c))  # fmt: skip
    yield "corrects the bias of m alone", lambda v, c: step(
        v, c, corrected(v, c)[0], np.sqrt(v["v"]) + eps(c))  # fmt: skip
    yield "corrects the bias of v alone", lambda v, c: step(
        v, c, v["m"], np.sqrt(corrected(v, c)[1]) + eps(c))  # fmt: skip
    for later, text in ((-1, "one too few"), (1, "one too many")):
        yield f"corrects the bias with {text} updates", lambda v, c, k=later: step(  # type: ignore[misc]
            v, c, corrected(v, c, k)[0], np.sqrt(corrected(v, c, k)[1]) + eps(c))  # fmt: skip
    yield "adds eps inside the root", lambda v, c: step(
        v, c, corrected(v, c)[0], np.sqrt(corrected(v, c)[1] + eps(c)))  # fmt: skip
    yield "adds eps to the root of v before the bias correction", lambda v, c: step(
        v, c, corrected(v, c)[0], (np.sqrt(v["v"]) + eps(c)) / np.sqrt(
            v["v"].dtype.type(1 - setting(c, "beta2") ** setting(c, "update"))))  # fmt: skip
    yield "divides by v, without the root", lambda v, c: step(
        v, c, corrected(v, c)[0], corrected(v, c)[1] + eps(c))  # fmt: skip
    yield "has weight decay on A_log and D too", with_decay(lambda c, full: full)
    yield "has no weight decay", with_decay(lambda c, full: 0.0)
    yield "has no weight decay on vectors (LayerNorm, biases)", with_decay(matrices)
    yield "has weight decay without the learning rate", with_decay(
        lambda c, full: decay(c) / setting(c, "lr"))  # fmt: skip
    yield "has the sign of weight decay wrong", with_decay(lambda c, full: -decay(c))
    yield "applies weight decay after the step, to what it gave", lambda v, c: {
        "y": (adam(v, c)["y"] + v["p"] * decay(c)) * (1 - decay(c))}  # fmt: skip
    yield "goes uphill: the step is added", lambda v, c: {
        "y": 2 * v["p"] * (1 - decay(c)) - adam(v, c)["y"]}  # fmt: skip
    yield "takes the gradient in place of m", lambda v, c: step(
        v, c, v["near.g"], np.sqrt(corrected(v, c)[1]) + eps(c))  # fmt: skip


def _fishers() -> Iterator[Entry]:
    def by(term: Callable[[Array], Array], whole: Callable[[Array, int], Array]) -> Forward:
        def forward(v: Values, c: Context) -> Values:
            total = np.zeros(c.config.param_count)
            for gradient in per_sequence(v, c):
                total += term(gradient)
            return {"y": whole(total, len(c.batch.cmd_positions))}

        return forward

    yield "does not square the gradients", by(lambda g: g, lambda s, n: s / n)
    yield "takes the gradients' magnitude, not their square", by(np.abs, lambda s, n: s / n)
    yield "squares the mean gradient, not each sequence's", by(
        lambda g: g, lambda s, n: (s / n) ** 2)  # fmt: skip
    yield "is the sum over sequences, not the mean", by(lambda g: g * g, lambda s, n: s)
    yield "is the root of the mean square", by(lambda g: g * g, lambda s, n: np.sqrt(s / n))


UPDATE_MISTAKES: dict[str, list[Entry]] = {
    "ewc": list(_ewcs()),
    "grad_norm": list(_norms()),
    "clip": list(_clips()),
    "adam_m": list(_moments("beta1", 1)),
    "adam_v": list(_moments("beta2", 2)),
    "adam": list(_adams()),
    "fisher": list(_fishers()),
}
