"""The contrastive loss of pairs of embeddings."""

from calmgrad.kernels.protocol import Array
from calmgrad.shapes import check
from calmgrad.tape import Tensor

SCORES = 1 << 20  # numbers of S that are alive at once


def infonce(queries: Tensor, positives: Tensor, temperature: float = 0.07) -> Tensor:
    """Symmetric InfoNCE: each query must find its positive among all, and the other way round.

    Forward, with S = Q Pᵀ / temperature and CE the mean cross-entropy of the rows of S against
    the diagonal::

        loss = (CE(S) + CE(Sᵀ)) / 2

    Backward, with R the softmax of the rows of S, C that of its columns, B pairs::

        dS = (R + C - 2 I) / (2 B) * dloss
        dQ = dS @ P / temperature        dP = dSᵀ @ Q / temperature

    Args:
        queries: (B, D), rows of length one.
        positives: (B, D), rows of length one; row i belongs to query i.
        temperature: above 0.

    Returns:
        loss, (1,); 0 for one pair, with gradient 0.

    Raises:
        ValueError: a shape disagrees with the letters above, or temperature is not above 0.

    Saves the logarithms of the softmaxes' denominators. S is made a block of rows at a time, and
    again on the way back, so memory grows with B, not with its square.

    Source: van den Oord et al. (arXiv:1807.03748), equation 4; FORMATS §7.
    """
    check("infonce", queries=(queries.value, "B D"), positives=(positives.value, "B D"))
    if not temperature > 0:
        raise ValueError(f"infonce: temperature {temperature}, expected above 0")
    tape = queries.tape
    xp, matmul = tape.backend.xp, tape.backend.kernels.matmul
    pairs = queries.shape[0]
    height = max(1, SCORES // pairs)
    blocks = [slice(start, min(start + height, pairs)) for start in range(0, pairs, height)]

    def scores_of(rows: slice) -> Array:
        scores = xp.empty((rows.stop - rows.start, pairs), tape.dtype)
        matmul(scores, queries.value[rows], positives.value.T)
        scores /= temperature
        return scores

    # A row's softmax is complete in its block; a column's sum is carried from block to block.
    own = xp.empty(pairs, tape.dtype)  # the diagonal
    row_lse = xp.empty(pairs, tape.dtype)
    top = xp.full(pairs, -xp.inf, tape.dtype)  # of the columns so far
    total = xp.zeros(pairs, tape.dtype)  # sum of e^(S - top) of the columns so far
    for rows in blocks:
        scores = scores_of(rows)
        own[rows] = scores.diagonal(rows.start)
        row_top = scores.max(axis=1)
        row_lse[rows] = row_top + xp.log(xp.exp(scores - row_top[:, None]).sum(axis=1))
        higher = xp.maximum(top, scores.max(axis=0))
        total = total * xp.exp(top - higher) + xp.exp(scores - higher).sum(axis=0)
        top = higher
    column_lse = top + xp.log(total)
    loss = tape.empty((1,))
    loss.value[...] = 0.5 * (row_lse.mean() + column_lse.mean()) - own.mean()

    @tape.record("infonce", loss, {"queries": queries, "positives": positives})
    def backward() -> None:
        with queries.gradient() as dq, positives.gradient() as dp:
            dp.fill(0)
            for rows in blocks:
                scores = scores_of(rows)
                dscores = xp.exp(scores - row_lse[rows, None]) + xp.exp(scores - column_lse)
                dscores -= 2 * xp.eye(*scores.shape, rows.start, dtype=scores.dtype)
                dscores *= loss.grad / (2 * pairs * temperature)
                matmul(dq[rows], dscores, positives.value)
                matmul(dp, dscores.T, queries.value[rows], dp.copy())

    return loss
