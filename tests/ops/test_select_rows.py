import re
from functools import partial

import numpy as np
import pytest

from calmgrad.backend import Backend
from calmgrad.ops.select_rows import select_rows
from calmgrad.tape import Tape
from tests.ops.helpers import on, run


@pytest.mark.parametrize("rows", [[], [0], [6], [0, 6], [2, 3], [0, 1, 2, 3, 4, 5, 6]], ids=str)
@pytest.mark.parametrize("width", [1, 16, 37])
def test_definition(backend: Backend, rows: list[int], width: int) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((7, width)), rng.standard_normal((len(rows), width))
    index = on(backend, np.array(rows, np.int64))
    done = run(backend, partial(select_rows, rows=index), {"x": x}, weights=weights)
    expected = np.zeros_like(x)
    for k, t in enumerate(rows):
        np.testing.assert_array_equal(done.y[k], x[t])
        expected[t] = weights[k]
    np.testing.assert_array_equal(done.grads["x"], expected)


@pytest.mark.parametrize(
    ("x", "rows", "message"),
    [
        ((3,), (2,), "select_rows: x has shape (3,), expected (T, D)"),
        ((3, 4), (2, 1), "select_rows: rows has shape (2, 1), expected (K,)"),
    ],
)
def test_shapes_that_disagree(
    backend: Backend, x: tuple[int, ...], rows: tuple[int, ...], message: str
) -> None:
    tape = Tape(backend)
    with pytest.raises(ValueError, match=re.escape(message)):
        select_rows(tape.empty(x), on(backend, np.zeros(rows, np.int64)))
