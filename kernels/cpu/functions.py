"""The curves of the network, on sixteen lanes."""

import math

from calmgrad.kernels.cpu.compile import inlined
from calmgrad.kernels.cpu.simd import constant, exp2, exp2_minus_1, greater, log

LOG2E = 1 / math.log(2)


@inlined
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (exp2(x * -LOG2E) + 1.0)


@inlined
def softplus(x, like):
    """log(1 + e^x), accurate for small results too; `like` is an array of the same dtype."""
    e = exp2(x * LOG2E)
    w = e + 1.0
    # log(w) with what rounding took from w put back: w loses most of a small e.
    small = log(w) + (e - (w - 1.0)) / w
    return greater(x, constant(like, 40.0), x, small)


@inlined
def one_minus_exp_minus(x):
    """1 - e^-x: the derivative of softplus, given its value."""
    return 0.0 - exp2_minus_1(x * -LOG2E)
