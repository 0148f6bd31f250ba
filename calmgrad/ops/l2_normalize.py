"""Rows of length one, so that a dot product is a cosine."""

from calmgrad.shapes import check
from calmgrad.tape import Tensor


def l2_normalize(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Divide each row by its L2 norm (by `eps` where the norm is smaller).

    Forward::

        y = x / max(|x|, eps)

    Backward, of a row with norm r > eps::

        dx = (dy - y * (y . dy)) / r

    Args:
        x: (B, D).

    Returns:
        y, (B, D).

    Raises:
        ValueError: `x` is not a matrix.

    Saves the norms.
    """
    check("l2_normalize", x=(x.value, "B D"))
    tape = x.tape
    kernels = tape.backend.kernels
    y = tape.empty(x.shape)
    norm = tape.values.take(x.shape[:1])
    kernels.l2_normalize_forward(y.value, norm, x.value, eps)

    @tape.record("l2_normalize", y, {"x": x})
    def backward() -> None:
        with x.gradient() as dx:
            kernels.l2_normalize_backward(dx, y.grad, y.value, norm, eps)

    return y
