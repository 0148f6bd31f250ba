"""Matrix product with a weight, and the residual connection around it."""

from calmgrad.shapes import check
from calmgrad.tape import Tensor


def linear(
    x: Tensor, weight: Tensor, residual: Tensor | None = None, transposed: bool = False
) -> Tensor:
    """Multiply every row of `x` with a matrix, and add `residual` if given.

    Forward::

        y = x @ W (+ residual)                  W is `weight`, or its transpose

    Backward::

        dx = dy @ W.T        dW = x.T @ dy        dresidual = dy

    Args:
        x: (T, I) activations.
        weight: (I, O), or (O, I) if `transposed` (as the tied embedding is for the logits).
        residual: (T, O), what the block adds its result to.

    Returns:
        y, (T, O).

    Raises:
        ValueError: a shape disagrees with the letters above.
    """
    contract = "O I" if transposed else "I O"
    dims = check("linear", x=(x.value, "T I"), weight=(weight.value, contract))
    if residual is not None:
        expected = (dims["T"], dims["O"])
        if residual.shape != expected:
            raise ValueError(f"linear: residual has shape {residual.shape}, expected {expected}")
    tape = x.tape
    matmul = tape.backend.kernels.matmul
    w = weight.value.T if transposed else weight.value
    y = tape.empty((dims["T"], dims["O"]))
    matmul(y.value, x.value, w, None if residual is None else residual.value)

    inputs = {"x": x, "weight": weight}
    if residual is not None:
        inputs["residual"] = residual

    @tape.record("linear", y, inputs)
    def backward() -> None:
        dy = y.grad
        with weight.gradient() as dw:
            if transposed:
                matmul(dw, dy.T, x.value)
            else:
                matmul(dw, x.value.T, dy)
        with x.gradient() as dx:
            matmul(dx, dy, w.T)
        if residual is not None:
            residual.take_over(y)  # dresidual is dy: its buffer is handed over

    return y
