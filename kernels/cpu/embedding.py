"""Rows of a table, and the sum of gradients back into them, in token order."""

from calmgrad.kernels.cpu.compile import kernel
from calmgrad.kernels.protocol import Array


@kernel
def embedding_forward(y: Array, table: Array, tokens: Array) -> None:
    for t in range(tokens.size):
        row = table[tokens[t]]
        for c in range(row.size):
            y[t, c] = row[c]


@kernel
def embedding_backward(dtable: Array, dy: Array, tokens: Array) -> None:
    for t in range(tokens.size):
        row = dtable[tokens[t]]
        for c in range(row.size):
            row[c] += dy[t, c]
