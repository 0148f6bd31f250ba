"""GELU, tanh form."""

import math

import numpy as np

from calmgrad.kernels.protocol import Array

SCALE = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def gelu_forward(y: Array, x: Array) -> None:
    y[...] = 0.5 * x * (1 + np.tanh(SCALE * (x + CUBIC * x * x * x)))


def gelu_backward(dx: Array, dy: Array, x: Array) -> None:
    tanh = np.tanh(SCALE * (x + CUBIC * x * x * x))
    inner = SCALE * (1 + 3 * CUBIC * x * x)
    dx[...] = dy * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * inner)
