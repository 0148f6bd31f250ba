import itertools
import re
from functools import partial

import numpy as np
import pytest
from hypothesis import given

from calmgrad.backend import Backend
from calmgrad.ops.pool import pool
from calmgrad.packing import Packing
from calmgrad.tape import Tape
from calmgrad.testing import Packed, packed_sequences
from tests.ops.helpers import assert_near, run, weights_of


@pytest.mark.parametrize("how", ["mean", "last"])
@given(packed=packed_sequences())
def test_definition_and_each_sequence_alone(backend: Backend, how: str, packed: Packed) -> None:
    x, packing = packed
    there = Packing.of(np.diff(packing.offsets).tolist(), backend.xp)
    weights = weights_of((len(packing.offsets) - 1, x.shape[1]))
    done = run(backend, partial(pool, packing=there, how=how), {"x": x}, weights=weights)
    for b, (start, stop) in enumerate(itertools.pairwise(packing.offsets.tolist())):
        rows, n = slice(start, stop), stop - start
        for c in range(x.shape[1]):
            column = x[rows, c].tolist()
            expected = sum(column) / n if how == "mean" else column[-1]
            assert abs(done.y[b, c] - expected) < 1e-14
            share = [1 / n] * n if how == "mean" else [0] * (n - 1) + [1]
            np.testing.assert_allclose(
                done.grads["x"][rows, c], np.array(share) * weights[b, c], rtol=1e-15
            )
        alone = run(
            backend,
            partial(pool, packing=Packing.of([n], backend.xp), how=how),
            {"x": x[rows]},
            weights=weights[b : b + 1],
        )
        assert_near(done.y[b : b + 1], alone.y, 1e-15)
        assert_near(done.grads["x"][rows], alone.grads["x"], 1e-15)


def test_last_lets_nothing_flow_to_earlier_tokens(backend: Backend) -> None:
    op = partial(pool, packing=Packing.of([3, 2], backend.xp), how="last")
    done = run(backend, op, {"x": np.ones((5, 1))}, weights=np.ones((2, 1)))
    np.testing.assert_array_equal(done.grads["x"][:, 0], [0, 0, 1, 0, 1])


def test_what_disagrees(backend: Backend) -> None:
    tape = Tape(backend)
    packing = Packing.of([3], backend.xp)
    message = "pool: pos has shape (3,), expected (T,) with T = 4 from x"
    with pytest.raises(ValueError, match=re.escape(message)):
        pool(tape.empty((4, 2)), packing)
    with pytest.raises(ValueError, match=re.escape("pool: x has shape (4,), expected (T, D)")):
        pool(tape.empty((4,)), packing)
    with pytest.raises(ValueError, match="pool 'sum': expected mean or last"):
        pool(tape.empty((3, 2)), packing, how="sum")
