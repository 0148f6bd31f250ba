"""One vector a sequence."""

from calmgrad.packing import Packing
from calmgrad.shapes import check
from calmgrad.tape import Tensor

POOLS = ("mean", "last")


def pool(x: Tensor, packing: Packing, how: str = "mean") -> Tensor:
    """Mean over all positions of each sequence, or its last position.

    Forward, for sequence b of n tokens::

        y[b] = sum_t x[t] / n            or, with "last", x[its last t]

    Backward::

        dx[t] = dy[b] / n                or dy[b] at the last t, 0 elsewhere

    Args:
        x: (T, D).
        packing: where the B sequences start.
        how: "mean" or "last".

    Returns:
        y, (B, D).

    Raises:
        ValueError: a shape disagrees with the letters above, or `how` is something else.

    Source: FORMATS §7.
    """
    check("pool", x=(x.value, "T D"), pos=(packing.pos, "T"))
    if how not in POOLS:
        raise ValueError(f"pool {how!r}: expected {' or '.join(POOLS)}")
    tape = x.tape
    kernels = tape.backend.kernels
    y = tape.empty((len(packing.offsets) - 1, x.shape[1]))
    kernels.pool_forward(y.value, x.value, packing.offsets, how == "last")

    @tape.record("pool", y, {"x": x})
    def backward() -> None:
        with x.gradient() as dx:
            kernels.pool_backward(dx, y.grad, packing.offsets, how == "last")

    return y
