import math

import numpy as np
import pytest

from calmgrad.backend import Backend
from calmgrad.ops.l2_normalize import l2_normalize
from calmgrad.tape import Tape
from tests.ops.helpers import assert_near, forward, run


@pytest.mark.parametrize("width", [1, 3, 37])
def test_definition(backend: Backend, width: int) -> None:
    x = np.random.default_rng(0).standard_normal((5, width))
    expected = np.array([[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in x])
    assert_near(forward(backend, l2_normalize, {"x": x}), expected, 1e-14)


def test_the_gradient_is_at_right_angles_to_the_row(backend: Backend) -> None:
    x = np.random.default_rng(0).standard_normal((5, 7))
    done = run(backend, l2_normalize, {"x": x})
    np.testing.assert_allclose((done.grads["x"] * x).sum(axis=1), 0, atol=1e-14)


def test_a_row_of_zeros(backend: Backend) -> None:
    done = run(
        backend,
        lambda x: l2_normalize(x, eps=0.5),
        {"x": np.zeros((1, 3))},
        weights=np.ones((1, 3)),
    )
    np.testing.assert_array_equal(done.y, 0)
    np.testing.assert_array_equal(done.grads["x"], 2)  # x / eps below eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_numbers(backend: Backend, dtype: str) -> None:
    y = forward(backend, l2_normalize, {"x": np.array([[3e4, -4e4], [3e-4, 4e-4]])}, dtype)
    np.testing.assert_allclose(y, [[0.6, -0.8], [0.6, 0.8]], rtol=1e-6)


def test_not_a_matrix(backend: Backend) -> None:
    with pytest.raises(ValueError, match=r"l2_normalize: x has shape \(4,\), expected \(B, D\)"):
        l2_normalize(Tape(backend).empty((4,)))
