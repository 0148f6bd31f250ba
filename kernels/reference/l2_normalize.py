"""Rows of length one. The CPU has no kernels of its own for it: there is a row a sequence."""

import numpy as np

from calmgrad.kernels.protocol import Array


def l2_normalize_forward(y: Array, norm: Array, x: Array, eps: float) -> None:
    norm[...] = np.sqrt((x * x).sum(axis=1))
    y[...] = x / np.maximum(norm, eps)[:, None]


def l2_normalize_backward(dx: Array, dy: Array, y: Array, norm: Array, eps: float) -> None:
    along = (y * dy).sum(axis=1)[:, None]
    lengths = norm[:, None]
    dx[...] = np.where(lengths > eps, dy - y * along, dy) / np.maximum(lengths, eps)
