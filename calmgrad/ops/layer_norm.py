"""LayerNorm of every row."""

from calmgrad.shapes import check
from calmgrad.tape import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Shift and scale each row to mean 0 and variance 1, then by `weight` and `bias`.

    Forward, with mean m and (biased) variance v of a row::

        rstd = 1 / sqrt(v + eps)
        n = (x - m) * rstd
        y = n * weight + bias

    Backward, with g = dy * weight and means over the row::

        dx      = rstd * (g - mean(g) - n * mean(g * n))
        dweight = sum_t dy * n
        dbias   = sum_t dy

    Args:
        x: (T, D).
        weight: (D,).
        bias: (D,).
        eps: added to the variance.

    Returns:
        y, (T, D).

    Raises:
        ValueError: a shape disagrees with the letters above.

    Saves the mean and rstd of each row. Source: Ba et al. (arXiv:1607.06450), section 3.
    """
    check("layer_norm", x=(x.value, "T D"), weight=(weight.value, "D"), bias=(bias.value, "D"))
    tape = x.tape
    kernels = tape.backend.kernels
    y = tape.empty(x.shape)
    mean = tape.values.take(x.shape[:1])
    rstd = tape.values.take(x.shape[:1])
    kernels.layer_norm_forward(y.value, mean, rstd, x.value, weight.value, bias.value, eps)

    inputs = {"x": x, "weight": weight, "bias": bias}

    @tape.record("layer_norm", y, inputs, {"mean": mean, "rstd": rstd})
    def backward() -> None:
        size = kernels.layer_norm_workspace(*x.shape)
        with (
            weight.gradient() as dweight,
            bias.gradient() as dbias,
            tape.scratch(size) as work,
        ):
            # x is the residual stream, and the sum has left its share: add, without scratch.
            dx, held = x.gradient_to_add()
            kernels.layer_norm_backward(
                dx, dweight, dbias, y.grad, x.value, mean, rstd, weight.value, held, work
            )

    return y
