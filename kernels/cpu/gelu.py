"""GELU: 0.5 x (1 + tanh(v)) is x sigmoid(2v), so the sigmoid serves here too.

2v = LINEAR x + CUBIC x^3; x_t is x[t, c : c+16], as in selective_scan.py.
"""

import math

from calmgrad.kernels.cpu.compile import inlined, kernel
from calmgrad.kernels.cpu.functions import sigmoid
from calmgrad.kernels.cpu.simd import WIDTH, all_lanes, first_lanes, load, store
from calmgrad.kernels.protocol import Array

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715


@inlined
def _forward(y, x, t, c, lanes):
    x_t = load(x, (t, c), lanes)
    store(y, (t, c), x_t * sigmoid(x_t * (x_t * x_t * CUBIC + LINEAR)), lanes)


@kernel
def gelu_forward(y: Array, x: Array) -> None:
    tokens, channels = x.shape
    full = channels // WIDTH * WIDTH
    tail = first_lanes(channels - full)
    for t in range(tokens):
        for c in range(0, full, WIDTH):
            _forward(y, x, t, c, all_lanes())
        if full < channels:
            _forward(y, x, t, full, tail)


@inlined
def _backward(dx, dy, x, t, c, lanes):
    x_t = load(x, (t, c), lanes)
    square = x_t * x_t
    s = sigmoid(x_t * (square * CUBIC + LINEAR))
    inner = x_t * (square * (3 * CUBIC) + LINEAR)  # x times the slope of 2v
    store(dx, (t, c), load(dy, (t, c), lanes) * s * (inner * (1.0 - s) + 1.0), lanes)


@kernel
def gelu_backward(dx: Array, dy: Array, x: Array) -> None:
    tokens, channels = x.shape
    full = channels // WIDTH * WIDTH
    tail = first_lanes(channels - full)
    for t in range(tokens):
        for c in range(0, full, WIDTH):
            _backward(dx, dy, x, t, c, all_lanes())
        if full < channels:
            _backward(dx, dy, x, t, full, tail)
