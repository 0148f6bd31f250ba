import re

import numpy as np
import pytest

from calmgrad.backend import Backend
from calmgrad.kernels.protocol import Array
from calmgrad.ops.linear import linear
from calmgrad.tape import Tape, Tensor
from tests.ops.helpers import assert_near, forward, run


def by_definition(x: Array, weight: Array) -> Array:
    y = np.zeros((x.shape[0], weight.shape[1]))
    for t in range(x.shape[0]):
        for o in range(weight.shape[1]):
            y[t, o] = sum(x[t, i] * weight[i, o] for i in range(x.shape[1]))
    return y


@pytest.mark.parametrize(("tokens", "inner", "outer"), [(1, 1, 1), (3, 17, 2), (5, 4, 37)])
def test_definition(backend: Backend, tokens: int, inner: int, outer: int) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((tokens, inner)), rng.standard_normal((inner, outer))
    residual = rng.standard_normal((tokens, outer))
    expected = by_definition(x, weight)
    assert_near(forward(backend, linear, {"x": x, "weight": weight}), expected, 1e-13)
    inputs = {"x": x, "weight": weight, "residual": residual}
    assert_near(forward(backend, linear, inputs), expected + residual, 1e-13)
    y = forward(
        backend, lambda x, w: linear(x, w, transposed=True), {"x": x, "weight": weight.T.copy()}
    )
    assert_near(y, expected, 1e-13)


def test_residual_may_be_the_input(backend: Backend) -> None:
    rng = np.random.default_rng(1)
    inputs = {"x": rng.standard_normal((6, 4)), "weight": rng.standard_normal((4, 4))}
    weights = rng.standard_normal((6, 4))

    def block(x: Tensor, weight: Tensor) -> Tensor:
        return linear(x, weight, residual=x)

    done = run(backend, block, inputs, weights=weights)
    assert_near(done.grads["x"], weights @ inputs["weight"].T + weights, 1e-14)
    assert_near(done.grads["weight"], inputs["x"].T @ weights, 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_numbers(backend: Backend, dtype: str) -> None:
    inputs = {"x": np.array([[1e4, -1e4, 1.0]]), "weight": np.array([[1e4], [1e4], [2.0]])}
    assert forward(backend, linear, inputs, dtype) == 2


@pytest.mark.parametrize(
    ("x", "weight", "residual", "transposed", "message"),
    [
        (
            (3, 4),
            (5, 2),
            None,
            False,
            "linear: weight has shape (5, 2), expected (I, O) with I = 4",
        ),
        ((3, 4), (4, 2), None, True, "linear: weight has shape (4, 2), expected (O, I) with I = 4"),
        ((3,), (3, 2), None, False, "linear: x has shape (3,), expected (T, I)"),
        ((3, 4), (4, 2), (3, 4), False, "linear: residual has shape (3, 4), expected (3, 2)"),
    ],
)
def test_shapes_that_disagree(
    backend: Backend,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    residual: tuple[int, ...] | None,
    transposed: bool,
    message: str,
) -> None:
    tape = Tape(backend)
    third = None if residual is None else tape.empty(residual)
    with pytest.raises(ValueError, match=re.escape(message)):
        linear(tape.empty(x), tape.empty(weight), third, transposed)
