"""GELU: 0.5 x (1 + tanh(v)) is x sigmoid(2v), so the sigmoid serves here too."""

import math

from calmgrad.kernels.cpu.compile import inlined, kernel
from calmgrad.kernels.cpu.functions import sigmoid
from calmgrad.kernels.cpu.simd import WIDTH, all_lanes, first_lanes, load, store
from calmgrad.kernels.protocol import Array

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715


@inlined
def _forward(y, x, i, lanes):
    v = load(x, i, lanes)
    store(y, i, v * sigmoid(v * (v * v * CUBIC + LINEAR)), lanes)


@kernel
def gelu_forward(y: Array, x: Array) -> None:
    flat, result = x.reshape(-1), y.reshape(-1)
    full = flat.size // WIDTH * WIDTH
    for i in range(0, full, WIDTH):
        _forward(result, flat, i, all_lanes())
    if full < flat.size:
        _forward(result, flat, full, first_lanes(flat.size - full))


@inlined
def _backward(dx, dy, x, i, lanes):
    v = load(x, i, lanes)
    square = v * v
    s = sigmoid(v * (square * CUBIC + LINEAR))
    inner = v * (square * (3 * CUBIC) + LINEAR)  # v times the slope of the sigmoid's argument
    store(dx, i, load(dy, i, lanes) * s * (inner * (1.0 - s) + 1.0), lanes)


@kernel
def gelu_backward(dx: Array, dy: Array, x: Array) -> None:
    flat, dflat, result = x.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    full = flat.size // WIDTH * WIDTH
    for i in range(0, full, WIDTH):
        _backward(result, dflat, flat, i, all_lanes())
    if full < flat.size:
        _backward(result, dflat, flat, full, first_lanes(flat.size - full))
