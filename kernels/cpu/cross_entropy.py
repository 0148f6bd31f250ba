"""Softmax and negative log likelihood, row by row; rows without a target are skipped."""

import math

from calmgrad.kernels.cpu.compile import inlined, kernel
from calmgrad.kernels.cpu.functions import LOG2E
from calmgrad.kernels.cpu.simd import (
    WIDTH,
    all_lanes,
    constant,
    exp2,
    first_lanes,
    greater,
    largest,
    load,
    store,
    total,
)
from calmgrad.kernels.protocol import Array


@kernel
def _row_lse(logits, t):
    """log(sum(exp(logits[t]))); NaN if a logit is NaN or inf, or all are -inf."""
    classes = logits.shape[1]
    every = all_lanes()
    full = classes // WIDTH * WIDTH
    top = logits[t, 0]
    if full:
        tops = load(logits, (t, 0), every)
        for c in range(WIDTH, full, WIDTH):
            row = load(logits, (t, c), every)
            tops = greater(row, tops, row, tops)
        top = largest(tops)
    for c in range(full, classes):
        top = max(top, logits[t, c])
    sums = constant(logits, 0.0)
    for c in range(0, full, WIDTH):
        sums += exp2((load(logits, (t, c), every) - top) * LOG2E)
    sum_exp = total(sums)
    for c in range(full, classes):
        sum_exp += math.exp(logits[t, c] - top)
    return top + math.log(sum_exp)


@kernel
def cross_entropy_forward(nll: Array, lse: Array, logits: Array, targets: Array) -> None:
    for t in range(targets.size):
        if targets[t] < 0:
            nll[t] = 0
            lse[t] = 0
        else:
            lse[t] = _row_lse(logits, t)
            nll[t] = lse[t] - logits[t, targets[t]]


@inlined
def _row_gradient(dlogits, logits, t, c, lse, weight, lanes):
    p = exp2((load(logits, (t, c), lanes) - lse) * LOG2E)
    store(dlogits, (t, c), p * weight, lanes)


@kernel
def cross_entropy_backward(
    dlogits: Array, dnll: Array, lse: Array, logits: Array, targets: Array
) -> None:
    classes = logits.shape[1]
    full = classes // WIDTH * WIDTH
    tail = first_lanes(classes - full)
    for t in range(targets.size):
        if targets[t] < 0:
            dlogits[t, :] = 0
            continue
        for c in range(0, full, WIDTH):
            _row_gradient(dlogits, logits, t, c, lse[t], dnll[t], all_lanes())
        if full < classes:
            _row_gradient(dlogits, logits, t, full, lse[t], dnll[t], tail)
        dlogits[t, targets[t]] -= dnll[t]
