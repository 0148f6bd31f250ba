import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from calmgrad.backend import Backend
from calmgrad.kernels.protocol import Array
from calmgrad.ops import basic
from calmgrad.tape import Tape, Tensor
from tests.ops.helpers import forward, on, run

A = np.random.default_rng(0).standard_normal((4, 3))
B = np.random.default_rng(1).standard_normal((4, 3))
ROW = np.array([2.0, -3.0, 0.5])

ELEMENTWISE: list[tuple[Callable[[Tensor], Tensor], Callable[[float], float]]] = [
    (basic.neg, lambda v: -v),
    (basic.exp, math.exp),
    (basic.log, math.log),
    (basic.sqrt, math.sqrt),
    (basic.tanh, math.tanh),
    (basic.sigmoid, lambda v: 1 / (1 + math.exp(-v))),
    (basic.softplus, lambda v: math.log1p(math.exp(v))),
    (lambda x: basic.power(x, 1.5), lambda v: v**1.5),
]


@pytest.mark.parametrize(("fn", "definition"), ELEMENTWISE)
def test_elementwise(
    backend: Backend, fn: Callable[[Tensor], Tensor], definition: Callable[[float], float]
) -> None:
    x = np.abs(A) + 0.1
    expected = np.array([definition(v) for v in x.flat]).reshape(x.shape)
    assert_allclose(forward(backend, fn, {"x": x}), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("fn", "definition"),
    [
        (basic.add, lambda a, b: a + b),
        (basic.sub, lambda a, b: a - b),
        (basic.mul, lambda a, b: a * b),
        (basic.div, lambda a, b: a / b),
        (basic.maximum, lambda a, b: a if a > b else b),
    ],
)
def test_pairs(
    backend: Backend,
    fn: Callable[..., Tensor],
    definition: Callable[[float, float], float],
) -> None:
    both = [
        [definition(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(A, B, strict=True)
    ]
    assert_allclose(forward(backend, fn, {"a": A, "b": B}), both, rtol=1e-15)
    spread = [[definition(a, b) for a, b in zip(row, ROW, strict=True)] for row in A]
    assert_allclose(forward(backend, fn, {"a": A, "b": ROW}), spread, rtol=1e-15)
    # A constant on either side: a list, a number.
    assert_allclose(forward(backend, lambda a: fn(a, ROW.tolist()), {"a": A}), spread, rtol=1e-15)
    left = [[definition(2.0, b) for b in row] for row in B]
    assert_allclose(forward(backend, lambda b: fn(2, b), {"b": B}), left, rtol=1e-15)


def test_the_gradient_of_what_was_broadcast_is_summed(backend: Backend) -> None:
    inputs = {"a": np.float64(2.0), "b": np.ones((3, 1)), "c": np.ones(4)}

    def fn(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return basic.mul(basic.add(b, c), a)

    done = run(backend, fn, inputs, weights=np.ones((3, 4)))
    assert done.grads["a"] == 24
    assert_array_equal(done.grads["b"], np.full((3, 1), 8))
    assert_array_equal(done.grads["c"], np.full(4, 6))


def test_matmul(backend: Backend) -> None:
    expected = [[sum(A[i, k] * B[j, k] for k in range(3)) for j in range(4)] for i in range(4)]
    inputs = {"a": A, "b": B.T.copy()}
    assert_allclose(forward(backend, basic.matmul, inputs), expected, rtol=1e-14)


def test_shapes_change_and_numbers_do_not(backend: Backend) -> None:
    assert_array_equal(forward(backend, basic.transpose, {"x": A}), A.T)
    cube = np.arange(24.0).reshape(2, 3, 4)
    y = forward(backend, lambda x: basic.transpose(x, (2, 0, 1)), {"x": cube})
    assert y.shape == (4, 2, 3)
    assert y[3, 1, 2] == cube[1, 2, 3]
    assert_array_equal(forward(backend, lambda x: basic.reshape(x, (-1, 2)), {"x": A}).flat, A.flat)


def test_reductions(backend: Backend) -> None:
    rows = A.tolist()
    assert_allclose(
        forward(backend, lambda x: basic.sum(x, 1), {"x": A}), [sum(r) for r in rows], rtol=1e-14
    )
    assert_allclose(
        forward(backend, lambda x: basic.mean(x, -1, keepdims=True), {"x": A}),
        [[sum(r) / 3] for r in rows],
        rtol=1e-14,
    )
    assert_array_equal(
        forward(backend, lambda x: basic.max(x, 0), {"x": A}),
        [max(r[c] for r in rows) for c in range(3)],
    )
    assert forward(backend, basic.max, {"x": A}) == max(max(r) for r in rows)


def test_choosing(backend: Backend) -> None:
    index = on(backend, np.array([3, 0, 3]))
    assert_array_equal(
        forward(backend, lambda x: basic.getitem(x, index), {"x": A}), [A[3], A[0], A[3]]
    )
    mask = np.array([[True], [False], [True], [False]])
    y = forward(backend, lambda a, b: basic.where(mask, a, b), {"a": A, "b": B})
    assert_array_equal(y, [A[0], B[1], A[2], B[3]])
    y = forward(backend, lambda a, b: basic.concatenate([a, ROW[None], b]), {"a": A, "b": B})
    assert_array_equal(y, [*A, ROW, *B])


def test_ties(backend: Backend) -> None:
    done = run(
        backend, basic.maximum, {"a": np.ones(3), "b": np.array([1.0, 0, 2])}, weights=np.ones(3)
    )
    assert_array_equal(done.grads["a"], [1, 1, 0])
    assert_array_equal(done.grads["b"], [0, 0, 1])
    done = run(backend, basic.max, {"x": np.array([2.0, 5, 5, 1])}, weights=np.array(1.0))
    assert_array_equal(done.grads["x"], [0, 0.5, 0.5, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_numbers(backend: Backend, dtype: str) -> None:
    x = np.array([1e4, -1e4, 50, -50])
    done = run(backend, basic.softplus, {"x": x}, dtype, np.ones(4))
    assert_allclose(done.y, [1e4, 0, 50, math.exp(-50)], rtol=1e-5)
    assert_allclose(done.grads["x"], [1, 0, 1, math.exp(-50)], rtol=1e-5)
    done = run(backend, basic.sigmoid, {"x": x}, dtype, np.ones(4))
    assert_allclose(done.y, [1, 0, 1, math.exp(-50)], rtol=1e-5)
    assert_allclose(done.grads["x"], [0, 0, 0, math.exp(-50)], rtol=1e-5, atol=1e-20)
    done = run(backend, basic.tanh, {"x": x}, dtype, np.ones(4))
    assert_array_equal(done.y, [1, -1, 1, -1])
    assert_array_equal(done.grads["x"], 0)


def test_power_zero_has_no_slope(backend: Backend) -> None:
    done = run(backend, lambda x: basic.power(x, 0), {"x": np.array([0.0, 2.0])})
    assert_array_equal(done.y, 1)
    assert_array_equal(done.grads["x"], 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: basic.add(x, y), "add: b has shape (4,), expected one that broadcasts with"),
        (lambda x, y: basic.sub(x, y), "sub: b has shape (4,)"),
        (lambda x, y: basic.mul(x, y), "mul: b has shape (4,)"),
        (lambda x, y: basic.div(x, [1, 2]), "div: b has shape (2,)"),
        (lambda x, y: basic.maximum(x, y), "maximum: b has shape (4,)"),
        (lambda x, y: basic.matmul(y, x), "matmul: a has shape (4,), expected (I, J)"),
        (lambda x, y: basic.matmul(x, x), "matmul: b has shape (2, 3), expected (J, O) with J = 3"),
        (lambda x, y: basic.transpose(x, (0, 0)), "transpose: axes [0, 0], expected all axes of x"),
        (
            lambda x, y: basic.reshape(x, (4,)),
            "reshape: x has shape (2, 3), expected one of as many",
        ),
        (lambda x, y: basic.sum(x, 2), "sum: axis 2, expected different axes of x, shape (2, 3)"),
        (lambda x, y: basic.mean(x, (0, -2)), "mean: axis (0, -2), expected different axes"),
        (lambda x, y: basic.max(x, -3), "max: axis -3, expected"),
        (lambda x, y: basic.getitem(x, 5), "getitem: x has shape (2, 3): index 5 is out of bounds"),
        (lambda x, y: basic.concatenate([x, y]), "concatenate: tensors have shapes [(2, 3), (4,)]"),
        (
            lambda x, y: basic.where([True] * 4, x, 0),
            "where: mask, a and b have shapes (4,), (2, 3)",
        ),
        (lambda x, y: basic.add(1, 2), "add: no argument is a Tensor"),
    ],
)
def test_what_does_not_fit(
    backend: Backend, call: Callable[[Tensor, Tensor], Tensor], message: str
) -> None:
    tape = Tape(backend, "float64")
    x, y = tape.constant(np.ones((2, 3))), tape.constant(np.ones(4))
    with pytest.raises(ValueError, match=re.escape(message)):
        call(x, y)


def test_nothing_is_shared_with_the_input(backend: Backend) -> None:
    """A view would change with the memory it was taken from."""
    for fn in (basic.transpose, lambda x: basic.reshape(x, (3, 4)), lambda x: basic.getitem(x, 0)):
        x = Tape(backend, "float64").constant(A)
        y: Array = fn(x).value
        assert not np.shares_memory(x.value, y)
