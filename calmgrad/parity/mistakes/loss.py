"""What may be wrong with targets, cross-entropy and the mean of a batch."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from calmgrad.cutting import target_shares
from calmgrad.parity import local
from calmgrad.parity.local import Array, Backward, Context, Forward, Values
from calmgrad.parity.mistakes.means import BackEntry, Entry
from calmgrad.tokenizer import PAD


def _targets() -> Iterator[Entry]:
    def of(rule: Callable[[Array, Array, Context], Array]) -> Forward:
        """Targets by another rule: (next tokens, cmd_pos of each token, context)."""

        def forward(v: Values, c: Context) -> Values:
            b = c.batch
            following = np.append(b.tokens[1:], PAD)
            start = np.repeat(b.cmd_positions, np.diff(c.offsets))
            return {"y": rule(following, start, c)}

        return forward

    def masked(
        wanted: Array, start: Array, c: Context, pad: bool = True, last: bool = True
    ) -> Array:
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
    yield "begins everywhere at the cmd_pos of the first sequence", of(
        lambda n, s, c: masked(n, s[0] + 0 * s, c)), None  # fmt: skip
    yield "has token 0 for target where there is none", of(
        lambda n, s, c: np.maximum(masked(n, s, c), 0)), None  # fmt: skip
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
        what = {
            "token": "the mean over all targets",
            "sequence": "the mean of the sequences' means",
        }
        yield f"is {what[name]} (reduction {name}), not {what[other]}", *of(
            lambda n, c, r=name: target_shares(n, r))  # type: ignore[misc]  # fmt: skip
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


def _entropies_back() -> Iterator[BackEntry]:
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


def _losses_back() -> Iterator[BackEntry]:
    def of(rule: Callable[[Array, Context], Array]) -> Backward:
        def backward(v: Values, d: Values, c: Context) -> Values:
            count = np.maximum(local.counts_of(v["targets"], c), 1)
            share = np.repeat(rule(count, c), np.diff(c.offsets))
            return {"nll": d["y"] * np.where(v["targets"] >= 0, share, 0.0)}

        return backward

    yield "sends 1 to every target: it is a sum on the way back", of(lambda n, c: np.ones(len(n)))


FORWARD: dict[str, list[Entry]] = {
    "targets": list(_targets()),
    "cross_entropy": list(_entropies()),
    "reduction": list(_losses()),
}
BACKWARD: dict[str, list[BackEntry]] = {
    "cross_entropy": list(_entropies_back()),
    "reduction": list(_losses_back()),
}
