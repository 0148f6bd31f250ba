import re

import numpy as np
import pytest

from calmgrad.backend import Backend, to_numpy
from calmgrad.ops.embedding import embedding
from calmgrad.tape import Tape, Tensor
from tests.ops.helpers import on, run

TOKENS = np.array([3, 0, 3, 3, 1])


def look_up(table: Tensor) -> Tensor:
    return embedding(table, on(table.tape.backend, TOKENS))


@pytest.mark.parametrize("width", [1, 16, 37])
def test_definition(backend: Backend, width: int) -> None:
    rng = np.random.default_rng(0)
    table, weights = rng.standard_normal((6, width)), rng.standard_normal((5, width))
    done = run(backend, look_up, {"table": table}, weights=weights)
    expected = np.zeros_like(table)
    for t, token in enumerate(TOKENS):
        np.testing.assert_array_equal(done.y[t], table[token])
        expected[token] += weights[t]
    np.testing.assert_array_equal(done.grads["table"], expected)
    assert not expected[[2, 4, 5]].any()


def test_it_adds_to_what_the_logits_have_left(backend: Backend) -> None:
    """The tied embedding: its gradient comes from both ends of the network."""
    tape = Tape(backend, "float64")
    gradient = on(backend, np.full((6, 2), np.nan))
    table = tape.parameter(on(backend, np.ones((6, 2))), gradient)
    tape.begin()
    y = look_up(table)
    with table.gradient() as earlier:
        earlier[...] = 10
    tape.backward(y, on(backend, np.ones((5, 2))))
    np.testing.assert_array_equal(to_numpy(gradient)[:, 0], [11, 11, 10, 13, 10, 10])


@pytest.mark.parametrize(
    ("table", "tokens", "message"),
    [
        ((3,), (5,), "embedding: table has shape (3,), expected (V, D)"),
        ((3, 4), (5, 1), "embedding: tokens has shape (5, 1), expected (T,)"),
    ],
)
def test_shapes_that_disagree(
    backend: Backend, table: tuple[int, ...], tokens: tuple[int, ...], message: str
) -> None:
    tape = Tape(backend)
    with pytest.raises(ValueError, match=re.escape(message)):
        embedding(tape.empty(table), on(backend, np.zeros(tokens, np.int64)))
