import math
import re
from functools import partial

import numpy as np
import pytest

from calmgrad.backend import Backend
from calmgrad.kernels.protocol import Array
from calmgrad.ops.cross_entropy import cross_entropy
from calmgrad.tape import Tape
from tests.ops.helpers import assert_near, forward, on, run


def by_definition(logits: Array, targets: Array) -> Array:
    nll = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        likelihood = math.exp(row[target]) / sum(math.exp(v) for v in row)
        nll.append(-math.log(likelihood) if target >= 0 else 0.0)
    return np.array(nll)


@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 37, 320])
def test_definition(backend: Backend, classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits, targets = 3 * rng.standard_normal((9, classes)), rng.integers(-1, classes, 9)
    nll = forward(backend, partial(cross_entropy, targets=on(backend, targets)), {"logits": logits})
    assert_near(nll, by_definition(logits, targets), 1e-13)


def test_no_target_at_all(backend: Backend) -> None:
    logits = np.random.default_rng(0).standard_normal((3, 20))
    targets = np.full(3, -1)
    done = run(backend, partial(cross_entropy, targets=on(backend, targets)), {"logits": logits})
    np.testing.assert_array_equal(done.y, 0)
    np.testing.assert_array_equal(done.grads["logits"], 0)


def test_the_weight_of_a_row_without_a_target_does_not_matter(backend: Backend) -> None:
    logits, targets = np.zeros((2, 4)), np.array([-1, 2])
    done = run(
        backend,
        partial(cross_entropy, targets=on(backend, targets)),
        {"logits": logits},
        weights=np.array([1e9, 1.0]),
    )
    np.testing.assert_allclose(
        done.grads["logits"], [[0.0, 0.0, 0.0, 0.0], [0.25, 0.25, -0.75, 0.25]], rtol=1e-15
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [5, 16, 21])
@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_large_logits(backend: Backend, classes: int, shift: float, dtype: str) -> None:
    """Logits 1e4 apart: nothing overflows, and the loss is the distance to the largest."""
    logits = np.full((3, classes), shift)
    logits[:, 1] += 1e4
    targets = np.array([1, 0, classes - 1])
    done = run(
        backend,
        partial(cross_entropy, targets=on(backend, targets)),
        {"logits": logits},
        dtype,
        np.ones(3),
    )
    np.testing.assert_allclose(done.y, [0, 1e4, 1e4])
    expected = np.zeros((3, classes))
    expected[1:, 1] = 1
    expected[[1, 2], targets[1:]] = -1
    np.testing.assert_allclose(done.grads["logits"], expected, atol=1e-30)


@pytest.mark.parametrize("position", [0, 15, 16, 20])
def test_infinity_is_not_swallowed(backend: Backend, position: int) -> None:
    logits = np.zeros((1, 21))
    logits[0, position] = np.inf
    with np.errstate(invalid="ignore"):
        nll = forward(
            backend, partial(cross_entropy, targets=on(backend, np.array([3]))), {"logits": logits}
        )
    assert np.isnan(nll).all()


@pytest.mark.parametrize("position", [0, 3, 15, 16, 20])
def test_nan_in_any_lane_is_seen(backend: Backend, position: int) -> None:
    logits = np.zeros((1, 21))
    logits[0, position] = np.nan
    nll = forward(
        backend, partial(cross_entropy, targets=on(backend, np.array([3]))), {"logits": logits}
    )
    assert np.isnan(nll).all()


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        ((3,), (3,), "cross_entropy: logits has shape (3,), expected (T, V)"),
        ((3, 4), (4,), "cross_entropy: targets has shape (4,), expected (T,) with T = 3 from log"),
    ],
)
def test_shapes_that_disagree(
    backend: Backend, logits: tuple[int, ...], targets: tuple[int, ...], message: str
) -> None:
    tape = Tape(backend)
    with pytest.raises(ValueError, match=re.escape(message)):
        cross_entropy(tape.empty(logits), on(backend, np.zeros(targets, np.int64)))
