"""Choice of the next token."""

import math

from calmgrad.kernels.cpu.compile import inlined, kernel
from calmgrad.kernels.cpu.simd import WIDTH, all_lanes, constant, exp2, load, store
from calmgrad.kernels.cpu.simd import total as sum_of_lanes
from calmgrad.kernels.protocol import Array

LOG2E = 1 / math.log(2)


@kernel
def _largest(x):
    """Where the largest value is; the first of equals."""
    best = 0
    for i in range(1, x.size):
        if x[i] > x[best]:
            best = i
    return best


@kernel
def _weigh(weight, logits, most, scale):
    """weight = 2^((logit - most) scale), and the sum."""
    sums = constant(logits, 0.0)
    full = logits.size // WIDTH * WIDTH
    for i in range(0, full, WIDTH):
        w = exp2((load(logits, i, all_lanes()) - most) * scale)
        store(weight, i, w, all_lanes())
        sums += w
    total = float(sum_of_lanes(sums))
    for i in range(full, logits.size):
        weight[i] = 2.0 ** ((logits[i] - most) * scale)
        total += weight[i]
    return total


@inlined
def _keep(weight, total, top_k, top_p, min_p):
    """Make the weights of the kept tokens negative; return their sum.

    Each filter keeps a beginning of the tokens in falling order of weight (the largest is 1),
    so they are taken one after the other until a filter says no.
    """
    kept, last, count = 0.0, 1.0, 0
    while True:
        i = _largest(weight)
        w = weight[i]
        if not (w > 0 and w >= min_p):  # none left; or NaN
            break
        if (top_k > 0 and count >= top_k and w < last) or (top_p > 0 and kept > top_p * total):
            break
        weight[i] = -w
        kept += w
        last = w
        count += 1
    return kept


@kernel
def choose(
    logits: Array,
    work: Array,
    draw: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> tuple[int, float]:
    weight = work[: logits.size]
    token = _largest(logits)
    most = logits[token]
    heat = temperature if temperature > 0 else 1.0
    total = _weigh(weight, logits, most, LOG2E / heat)
    if temperature > 0 and (top_k > 0 or top_p > 0 or min_p > 0):
        left = draw * _keep(weight, total, top_k, top_p, min_p)
        for i in range(weight.size):
            if weight[i] < 0:
                token = i
                left += weight[i]
                if left < 0:
                    break
    return token, (logits[token] - most) / heat - math.log(total)
