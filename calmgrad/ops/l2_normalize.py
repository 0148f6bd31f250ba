"""Rows of length one, so that a dot product is a cosine."""

from calmgrad.shapes import check
from calmgrad.tape import Tensor


def l2_normalize(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Divide each row by its L2 norm (by `eps` where the norm is smaller).

    Forward, with r the norm of a row::

        y = x / max(r, eps)

    Backward::

        dx = (dy - y * (y . dy)) / r              dy / eps where r <= eps

    Args:
        x: (B, D).
        eps: the least that a row is divided by.

    Returns:
        y, (B, D).

    Raises:
        ValueError: `x` is not a matrix.

    Saves the norms. Source: FORMATS §7.
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
