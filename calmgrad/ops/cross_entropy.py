"""The loss of each token."""

from calmgrad.kernels.protocol import Array
from calmgrad.shapes import check
from calmgrad.tape import Tensor


def cross_entropy(logits: Tensor, targets: Array) -> Tensor:
    """Negative log likelihood of each row's target under the softmax of its logits.

    What each token weighs in the loss is decided by the gradient that the backward pass begins
    with: for a mean over n targets, 1/n at each of them.

    Forward::

        lse[t] = log(sum_v exp(logits[t, v]))
        nll[t] = lse[t] - logits[t, targets[t]]                   0 without a target

    Backward::

        dlogits[t, v] = dnll[t] * (exp(logits[t, v] - lse[t]) - [v = targets[t]])

    Args:
        logits: (T, V).
        targets: (T,) integers below V; negative: no target.

    Returns:
        nll, (T,), in nats.

    Raises:
        ValueError: a shape disagrees with the letters above.

    Saves lse. Source: FORMATS §7.
    """
    check("cross_entropy", logits=(logits.value, "T V"), targets=(targets, "T"))
    tape = logits.tape
    kernels = tape.backend.kernels
    nll = tape.empty(targets.shape)
    lse = tape.values.take(targets.shape)
    kernels.cross_entropy_forward(nll.value, lse, logits.value, targets)

    @tape.record("cross_entropy", nll, {"logits": logits}, {"lse": lse})
    def backward() -> None:
        with logits.gradient() as dlogits:
            kernels.cross_entropy_backward(dlogits, nll.grad, lse, logits.value, targets)

    return nll
