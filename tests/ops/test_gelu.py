import math

import numpy as np
import pytest

from calmgrad.backend import Backend
from calmgrad.ops.gelu import gelu
from tests.ops.helpers import assert_near, forward, run


def by_definition(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (6, 37), (2, 64)])
def test_definition(backend: Backend, shape: tuple[int, ...]) -> None:
    x = 3 * np.random.default_rng(0).standard_normal(shape)
    expected = np.array([by_definition(v) for v in x.flat]).reshape(shape)
    assert_near(forward(backend, gelu, {"x": x}), expected, 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_numbers(backend: Backend, dtype: str) -> None:
    x = np.tile([1e4, -1e4, 50.0, -50.0, 0.0], (3, 7))
    done = run(backend, gelu, {"x": x}, dtype, weights=np.ones(x.shape))
    np.testing.assert_allclose(done.y, np.maximum(x, 0), atol=1e-25)
    slope = np.where(x > 0, 1.0, np.where(x < 0, 0.0, 0.5))
    np.testing.assert_allclose(done.grads["x"], slope, atol=1e-25)
