"""Rows of a table, and the sum of gradients back into them, in token order."""

from calmgrad.kernels.cpu.compile import kernel
from calmgrad.kernels.protocol import Array


@kernel
def embedding_forward(y: Array, table: Array, tokens: Array) -> None:
    for t in range(tokens.size):
        for c in range(table.shape[1]):
            y[t, c] = table[tokens[t], c]


@kernel
def embedding_backward(dtable: Array, dy: Array, tokens: Array) -> None:
    for t in range(tokens.size):
        for c in range(dtable.shape[1]):
            dtable[tokens[t], c] += dy[t, c]
