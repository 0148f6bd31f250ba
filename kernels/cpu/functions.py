"""The curves of the network, on sixteen lanes."""

import math

from calmgrad.kernels.cpu.compile import inlined
from calmgrad.kernels.cpu.simd import constant, exp2, exp2_minus_1, exp2_of_negative, greater, log1p

LOG2E = 1 / math.log(2)


@inlined
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (exp2(x * -LOG2E) + 1.0)


@inlined
def softplus(x, like):
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|); `like` is an array of the same dtype."""
    zero = constant(like, 0.0)
    small = log1p(exp2_of_negative(greater(x, zero, zero - x, x) * LOG2E))
    return greater(x, zero, x, zero) + small


@inlined
def one_minus_exp_minus(x):
    """1 - e^-x: the derivative of softplus, given its value."""
    return 0.0 - exp2_minus_1(x * -LOG2E)
