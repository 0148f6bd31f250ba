import math
import re
from functools import partial

import numpy as np
import pytest

from calmgrad.backend import Backend
from calmgrad.kernels.protocol import Array
from calmgrad.ops.layer_norm import layer_norm
from calmgrad.tape import Tape
from tests.ops.helpers import assert_near, forward, run


def by_definition(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    y = np.empty_like(x)
    for t, row in enumerate(x.tolist()):
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        for c, v in enumerate(row):
            y[t, c] = (v - mean) / math.sqrt(variance + eps) * weight[c] + bias[c]
    return y


@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 37, 64])
def test_definition(backend: Backend, channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((7, channels)) + 2
    inputs = {
        "x": x,
        "weight": rng.standard_normal(channels),
        "bias": rng.standard_normal(channels),
    }
    assert_near(
        forward(backend, layer_norm, inputs),
        by_definition(x, inputs["weight"], inputs["bias"]),
        1e-13,
    )


def test_eps_is_used(backend: Backend) -> None:
    x = np.array([[-1.0, 1.0]])
    inputs = {"x": x, "weight": np.ones(2), "bias": np.zeros(2)}
    y = forward(backend, partial(layer_norm, eps=3.0), inputs)
    assert_near(y, np.array([[-0.5, 0.5]]), 1e-15)


@pytest.mark.parametrize("channels", [16, 19])
def test_a_large_mean_costs_little(backend: Backend, channels: int) -> None:
    """A variance from sums of squares would be all rounding here."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((3, channels)) + 1e4).astype("float32")
    inputs = {"x": x, "weight": np.ones(channels), "bias": np.zeros(channels)}
    expected = by_definition(x.astype("float64"), inputs["weight"], inputs["bias"])
    assert_near(forward(backend, layer_norm, inputs, "float32"), expected, 2e-3)


def test_a_row_of_equal_numbers(backend: Backend) -> None:
    inputs = {"x": np.full((2, 20), 7.0), "weight": np.ones(20), "bias": np.full(20, 0.25)}
    done = run(backend, layer_norm, inputs)
    np.testing.assert_array_equal(done.y, np.full((2, 20), 0.25))
    assert np.isfinite(done.grads["x"]).all()


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        ((3, 4), (5,), (4,), "layer_norm: weight has shape (5,), expected (D,) with D = 4 from x"),
        ((3, 4), (4,), (4, 1), "layer_norm: bias has shape (4, 1), expected (D,)"),
        ((4,), (4,), (4,), "layer_norm: x has shape (4,), expected (T, D)"),
    ],
)
def test_shapes_that_disagree(
    backend: Backend,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    bias: tuple[int, ...],
    message: str,
) -> None:
    tape = Tape(backend)
    with pytest.raises(ValueError, match=re.escape(message)):
        layer_norm(tape.empty(x), tape.empty(weight), tape.empty(bias))
