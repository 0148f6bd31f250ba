"""Softmax and negative log likelihood; a negative target has neither loss nor gradient."""

import numpy as np

from calmgrad.kernels.protocol import Array


def cross_entropy_forward(nll: Array, lse: Array, logits: Array, targets: Array) -> None:
    top = logits.max(axis=1)
    lse[...] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    picked = logits[np.arange(len(targets)), np.maximum(targets, 0)]
    nll[...] = np.where(targets >= 0, lse - picked, 0)


def cross_entropy_backward(
    dlogits: Array, dnll: Array, lse: Array, logits: Array, targets: Array
) -> None:
    weight = np.where(targets >= 0, dnll, 0)
    dlogits[...] = np.exp(logits - lse[:, None]) * weight[:, None]
    dlogits[np.arange(len(targets)), np.maximum(targets, 0)] -= weight
