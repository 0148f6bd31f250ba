"""Arithmetic at full speed, to measure how fast a core can be at what the scan consists of."""

from calmgrad.kernels.cpu.compile import kernel
from calmgrad.kernels.cpu.simd import (
    WIDTH,
    all_lanes,
    constant,
    exp2_of_negative,
    load,
    splat,
    store,
)
from calmgrad.kernels.protocol import Array

AT_ONCE = 4 * WIDTH  # states that are carried on side by side, in registers


@kernel
def _decayed(out, rates, steps):
    """h[n] = 2^(step * rate[n]) * h[n] + step and total += h[n] * step, for every step."""
    every = all_lanes()
    r0, r1 = load(rates, 0, every), load(rates, WIDTH, every)
    r2, r3 = load(rates, 2 * WIDTH, every), load(rates, 3 * WIDTH, every)
    h0 = h1 = h2 = h3 = total = constant(rates, 0.0)
    for t in range(steps.size):
        step = constant(rates, 0.0) + splat(steps, t)
        h0 = exp2_of_negative(step * r0) * h0 + step
        h1 = exp2_of_negative(step * r1) * h1 + step
        h2 = exp2_of_negative(step * r2) * h2 + step
        h3 = exp2_of_negative(step * r3) * h3 + step
        total += h0 * step
        total += h1 * step
        total += h2 * step
        total += h3 * step
    store(out, 0, total, every)


def decayed(out: Array, rates: Array, steps: Array) -> int:
    """Carry 64 states through all `steps`; return how many updates that was.

    An update is what the selective scan does for a token, a channel and a state: an exponential
    and two fused multiply-adds. Nothing is read or written on the way but a number a step.

    Args:
        out: (16,) sums, so that the work has a result.
        rates: (64,) all below 0.
        steps: (n,) all above 0.
    """
    _decayed(out, rates, steps)
    return AT_ONCE * int(steps.size)
