"""Token embedding: rows of a table."""

from calmgrad.kernels.protocol import Array
from calmgrad.shapes import check
from calmgrad.tape import Tensor


def embedding(table: Tensor, tokens: Array) -> Tensor:
    """Look up one row for each token.

    Forward::

        y[t] = table[tokens[t]]

    Backward, a scatter of sums in the order of the tokens::

        dtable[v] = sum over t with tokens[t] = v of dy[t]

    Args:
        table: (V, D).
        tokens: (T,) integers in [0, V); the caller has checked them.

    Returns:
        y, (T, D).

    Raises:
        ValueError: a shape disagrees with the letters above.
    """
    dims = check("embedding", table=(table.value, "V D"), tokens=(tokens, "T"))
    tape = table.tape
    kernels = tape.backend.kernels
    y = tape.empty((dims["T"], dims["D"]))
    kernels.embedding_forward(y.value, table.value, tokens)

    @tape.record("embedding", y, {"table": table})
    def backward() -> None:
        # A table that is tied holds the share of the logits already: add to it.
        dtable, held = table.gradient_to_add()
        if not held:
            dtable.fill(0)
        kernels.embedding_backward(dtable, y.grad, tokens)

    return y
