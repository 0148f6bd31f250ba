"""The contrastive loss of pairs of embeddings."""

from calmgrad.kernels.protocol import Array
from calmgrad.shapes import check
from calmgrad.tape import Tensor


def infonce(queries: Tensor, positives: Tensor, temperature: float = 0.07) -> Tensor:
    """Symmetric InfoNCE: each query must find its positive among all, and the other way round.

    Forward, with S = Q Pᵀ / temperature and CE the mean cross-entropy of the rows of S against
    the diagonal::

        loss = (CE(S) + CE(Sᵀ)) / 2

    Backward, with R the softmax of the rows of S, L that of its columns, B pairs::

        dS = (R + L - 2 I) / (2 B) * dloss
        dQ = dS @ P / temperature        dP = dSᵀ @ Q / temperature

    Args:
        queries: (B, D), rows of length one.
        positives: (B, D), rows of length one; row i belongs to query i.
        temperature: above 0.

    Returns:
        loss, (1,); 0 for one pair, with gradient 0.

    Raises:
        ValueError: a shape disagrees with the letters above, or temperature is not above 0.

    Source: van den Oord et al. (arXiv:1807.03748), equation 4; FORMATS §7.
    """
    check("infonce", queries=(queries.value, "B D"), positives=(positives.value, "B D"))
    if not temperature > 0:
        raise ValueError(f"infonce: temperature {temperature}, expected above 0")
    tape = queries.tape
    xp, matmul = tape.backend.xp, tape.backend.kernels.matmul
    pairs = queries.shape[0]
    scores = tape.values.take((pairs, pairs))
    matmul(scores, queries.value, positives.value.T)
    scores /= temperature

    def softmax(axis: int) -> tuple[Array, Array]:
        top = scores.max(axis=axis, keepdims=True)
        shifted = xp.exp(scores - top)
        total = shifted.sum(axis=axis, keepdims=True)
        return shifted / total, xp.log(total) + top

    rows, row_lse = softmax(1)
    columns, column_lse = softmax(0)
    loss = tape.empty((1,))
    loss.value[...] = 0.5 * (row_lse.mean() + column_lse.mean()) - scores.trace() / pairs

    @tape.record("infonce", loss)
    def backward() -> None:
        dscores = rows + columns - 2 * xp.eye(pairs, dtype=scores.dtype)
        dscores *= loss.grad / (2 * pairs * temperature)
        with queries.gradient() as dq:
            matmul(dq, dscores, positives.value)
        with positives.gradient() as dp:
            matmul(dp, dscores.T, queries.value)

    return loss
