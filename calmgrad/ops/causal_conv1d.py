"""The short convolution of a Mamba block, and the SiLU behind it."""

from calmgrad.packing import Packing
from calmgrad.shapes import check
from calmgrad.tape import Tensor


def causal_conv1d(x: Tensor, weight: Tensor, packing: Packing) -> Tensor:
    """Convolve every channel with its own taps, never across a sequence boundary; then SiLU.

    Forward, for token t, channel c and taps 0 <= j < K, where pos[t] counts the earlier tokens of
    the sequence::

        a[t, c] = sum_j weight[c, j] * x[t-j, c]                  j <= pos[t]
        y[t, c] = a * sigmoid(a)

    Backward, with s = sigmoid(a)::

        da[t, c]      = dy[t, c] * s * (1 + a * (1 - s))
        dx[t, c]      = sum_j weight[c, j] * da[t+j, c]           j <= pos[t+j]
        dweight[c, j] = sum_t x[t-j, c] * da[t, c]                j <= pos[t]

    Args:
        x: (T, C) activations, T tokens of all sequences back to back.
        weight: (C, K) taps; column j multiplies the token j places back (a true convolution).
        packing: where the sequences start.

    Returns:
        y, (T, C).

    Raises:
        ValueError: a shape disagrees with the letters above.

    Saves nothing beyond its inputs: a is computed again. Source: Mamba (arXiv:2312.00752),
    section 3.4 and figure 3; FORMATS §1.2.
    """
    dims = check(
        "causal_conv1d",
        x=(x.value, "T C"),
        weight=(weight.value, "C K"),
        pos=(packing.pos, "T"),
    )
    tape = x.tape
    kernels = tape.backend.kernels
    size = kernels.causal_conv1d_workspace(dims["T"], dims["C"], dims["K"])
    y = tape.empty(x.shape)
    with tape.scratch(size) as work:
        kernels.causal_conv1d_forward(y.value, x.value, weight.value, packing.pos, work)

    @tape.record("causal_conv1d", y, {"x": x, "weight": weight})
    def backward() -> None:
        with x.gradient() as dx, weight.gradient() as dweight, tape.scratch(size) as work:
            kernels.causal_conv1d_backward(
                dx, dweight, y.grad, x.value, weight.value, packing.pos, work
            )

    return y
