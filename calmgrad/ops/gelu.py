"""The activation of the feed-forward network."""

from calmgrad.shapes import check
from calmgrad.tape import Tensor


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form, element by element.

    Forward, with v = sqrt(2/pi) * (x + 0.044715 x^3)::

        y = 0.5 * x * (1 + tanh(v))

    Backward, with v' = sqrt(2/pi) * (1 + 3 * 0.044715 x^2)::

        dx = dy * (0.5 * (1 + tanh(v)) + 0.5 * x * (1 - tanh(v)^2) * v')

    Args:
        x: (T, C).

    Returns:
        y, (T, C).

    Raises:
        ValueError: `x` is not a matrix.

    Source: Hendrycks and Gimpel (arXiv:1606.08415), section 2; FORMATS §1.
    """
    check("gelu", x=(x.value, "T C"))
    tape = x.tape
    kernels = tape.backend.kernels
    y = tape.empty(x.shape)
    kernels.gelu_forward(y.value, x.value)

    @tape.record("gelu", y, {"x": x})
    def backward() -> None:
        with x.gradient() as dx:
            kernels.gelu_backward(dx, y.grad, x.value)

    return y
