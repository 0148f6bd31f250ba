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
    """
    check("l2_normalize", x=(x.value, "B D"))
    tape = x.tape
    xp = tape.backend.xp
    norm = xp.sqrt((x.value * x.value).sum(axis=1, keepdims=True))
    y = tape.empty(x.shape)
    y.value[...] = x.value / xp.maximum(norm, eps)

    @tape.record("l2_normalize", y, {"x": x})
    def backward() -> None:
        dy = y.grad
        along = (y.value * dy).sum(axis=1, keepdims=True)
        with x.gradient() as dx:
            dx[...] = xp.where(norm > eps, dy - y.value * along, dy) / xp.maximum(norm, eps)

    return y
