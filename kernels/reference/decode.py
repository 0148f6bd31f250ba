"""One token through the whole network (FORMATS §1), part by part."""

import math

import numpy as np

from calmgrad.kernels.protocol import (
    A_LOG,
    CONV,
    DT,
    DT_BIAS,
    FC1,
    FC2,
    IN,
    LN1,
    LN1_BIAS,
    LN2,
    LN2_BIAS,
    OUT,
    PER_LAYER,
    SKIP,
    Array,
    Sizes,
    X,
)
from calmgrad.kernels.reference.functions import sigmoid
from calmgrad.kernels.reference.gelu import gelu_forward
from calmgrad.kernels.reference.sampling import choose


def decode_channels(channels: int) -> int:
    return channels


def decode_workspace(s: Sizes) -> int:
    return s.vocab


def decode_prepare(work: Array, weights: Array, starts: Array, s: Sizes) -> None:
    pass


def _norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


def _layer(weights: Array, starts: Array, s: Sizes, layer: int) -> list[Array]:
    """The parameters of a layer, in buffer order."""
    d, di, f, bc = s.d_model, s.d_inner, s.d_ffn, s.dt_rank + 2 * s.d_state
    shapes: list[tuple[int, ...]] = [
        (d,), (d,), (d, 2 * di), (di, s.d_conv), (di, bc), (s.dt_rank, di), (di,),
        (di, s.d_state), (di,), (di, d), (d,), (d,), (d, f), (f, d),
    ]  # fmt: skip
    first = 1 + layer * PER_LAYER
    return [
        weights[starts[first + i] : starts[first + i] + math.prod(shape)].reshape(shape)
        for i, shape in enumerate(shapes)
    ]


def _mixer(h: Array, p: list[Array], conv: Array, scan: Array, s: Sizes) -> Array:
    x, z = np.split(h @ p[IN], 2)
    conv[1:] = conv[:-1].copy()
    conv[0] = x
    a = (p[CONV].T * conv).sum(axis=0)
    u = a * sigmoid(a)
    dt_raw, B, C = np.split(u @ p[X], [s.dt_rank, s.dt_rank + s.d_state])
    dt = np.logaddexp(0, dt_raw @ p[DT] + p[DT_BIAS])
    scan[...] = np.exp(dt * -np.exp(p[A_LOG].T)) * scan + B[:, None] * (dt * u)
    y = C @ scan + p[SKIP] * u
    return y * z * sigmoid(z) @ p[OUT]


def _step(
    conv: Array, scan: Array, weights: Array, starts: Array, s: Sizes, eps: float, token: int
) -> Array:
    """The logits after one more token."""
    d = s.d_model
    embedding = weights[starts[0] : starts[0] + s.vocab * d].reshape(s.vocab, d)
    x = embedding[token]
    for layer in range(s.n_layers):
        p = _layer(weights, starts, s, layer)
        x = x + _mixer(_norm(x, p[LN1], p[LN1_BIAS], eps), p, conv[layer], scan[layer], s)
        h = _norm(x, p[LN2], p[LN2_BIAS], eps) @ p[FC1]
        gelu_forward(h, h.copy())
        x = x + h @ p[FC2]
    last = starts[1 + s.n_layers * PER_LAYER]
    return embedding @ _norm(x, weights[last : last + d], weights[last + d : last + 2 * d], eps)


def decode_tokens(
    chosen: Array,
    log_probs: Array,
    logits: Array,
    conv: Array,
    scan: Array,
    weights: Array,
    starts: Array,
    s: Sizes,
    eps: float,
    work: Array,
    tokens: Array,
    pauses: Array,
    draws: Array,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> int:
    for token in tokens:
        logits[...] = _step(conv, scan, weights, starts, s, eps, token)
    for i in range(chosen.size):
        token, log_probs[i] = choose(logits, work, draws[i], temperature, top_k, top_p, min_p)
        chosen[i] = token
        if pauses[token]:
            return i + 1
        if i + 1 < chosen.size:
            logits[...] = _step(conv, scan, weights, starts, s, eps, token)
    return int(chosen.size)
