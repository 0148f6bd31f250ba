"""Choice of the next token."""

import numpy as np

from calmgrad.kernels.protocol import Array


def choose(
    logits: Array,
    work: Array,
    draw: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> tuple[int, float]:
    heated = (logits - logits.max()).astype(np.float64) / (temperature if temperature > 0 else 1)
    log_probs = heated - np.log(np.exp(heated).sum())
    token = int(logits.argmax())
    if temperature > 0 and (top_k > 0 or top_p > 0 or min_p > 0):
        p = np.exp(log_probs)
        p[p < min_p * p.max()] = 0
        if 0 < top_k < p.size:
            p[p < np.sort(p)[-top_k]] = 0
        if top_p > 0:
            order = np.argsort(-p, kind="stable")
            before = np.cumsum(p[order]) - p[order]
            p[order[before > top_p]] = 0
        token = int(np.searchsorted(np.cumsum(p), draw * p.sum(), side="right"))
        token = min(token, int(p.nonzero()[0].max()))
    return token, float(log_probs[token])
