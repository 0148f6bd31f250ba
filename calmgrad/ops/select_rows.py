"""Some rows of a matrix."""

from calmgrad.kernels.protocol import Array
from calmgrad.shapes import check
from calmgrad.tape import Tensor


def select_rows(x: Tensor, rows: Array) -> Tensor:
    """The rows of `x` that `rows` names, in their order.

    Forward::

        y[k] = x[rows[k]]

    Backward::

        dx[rows[k]] = dy[k]                       0 in all other rows

    Args:
        x: (T, D).
        rows: (K,) integers in [0, T), ascending, none twice; the caller has seen to it.

    Returns:
        y, (K, D).

    Raises:
        ValueError: a shape disagrees with the letters above.
    """
    dims = check("select_rows", x=(x.value, "T D"), rows=(rows, "K"))
    tape = x.tape
    kernels = tape.backend.kernels
    y = tape.empty((dims["K"], dims["D"]))
    kernels.select_rows_forward(y.value, x.value, rows)

    @tape.record("select_rows", y, {"x": x})
    def backward() -> None:
        with x.gradient() as dx:
            kernels.select_rows_backward(dx, y.grad, rows)

    return y
