"""Causal convolution and SiLU."""

from calmgrad.kernels.protocol import Array
from calmgrad.kernels.reference.functions import sigmoid


def causal_conv1d_workspace(tokens: int, channels: int, taps: int) -> int:
    return 0


def _convolve(x: Array, weight: Array, pos: Array) -> Array:
    a = weight[:, 0] * x
    for j in range(1, min(weight.shape[1], len(x))):
        inside = (pos[j:] >= j)[:, None]
        a[j:] += inside * weight[:, j] * x[: len(x) - j]
    return a


def causal_conv1d_forward(y: Array, x: Array, weight: Array, pos: Array, work: Array) -> None:
    a = _convolve(x, weight, pos)
    y[...] = a * sigmoid(a)


def causal_conv1d_backward(
    dx: Array, dweight: Array, dy: Array, x: Array, weight: Array, pos: Array, work: Array
) -> None:
    a = _convolve(x, weight, pos)
    s = sigmoid(a)
    da = dy * s * (1 + a * (1 - s))
    dx[...] = weight[:, 0] * da
    dweight[...] = 0
    dweight[:, 0] = (x * da).sum(axis=0)
    for j in range(1, min(weight.shape[1], len(x))):
        reach = (pos[j:] >= j)[:, None] * da[j:]
        dx[: len(x) - j] += weight[:, j] * reach
        dweight[:, j] = (x[: len(x) - j] * reach).sum(axis=0)
