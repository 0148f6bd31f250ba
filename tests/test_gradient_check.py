"""The check itself: it finds what is wrong, says where, and lets pass what is right."""

import inspect
from collections.abc import Callable

import numpy as np
import pytest

import calmgrad
from calmgrad.backend import Backend
from calmgrad.errors import CheckFailed
from calmgrad.gradient_check import gradcheck
from calmgrad.kernels.protocol import Array
from calmgrad.ops import basic
from calmgrad.packing import Packing
from calmgrad.tape import Tensor

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((5, 4)), RNG.standard_normal((4, 3))


def wrong_at(x: Tensor, index: tuple[int, ...], error: float) -> Tensor:
    """The identity, with a relative `error` in one element of its gradient."""
    y = x.tape.empty(x.shape)
    y.value[...] = x.value

    @x.tape.record("wrong", y)
    def backward() -> None:
        with x.gradient() as dx:
            dx[...] = y.grad
            dx[index] *= 1 + error

    return y


def model(x: Tensor, w: Tensor) -> Tensor:
    return basic.tanh(basic.matmul(x, w))


@pytest.mark.parametrize("full", [False, True])
def test_a_right_gradient_passes(backend: Backend, full: bool) -> None:
    result = gradcheck(model, X, W, backend=backend.name, full=full)
    assert list(result.worst) == ["x", "w"]
    assert all(error < 1e-9 for error in result.worst.values())
    assert result.comparisons == (X.size + W.size if full else 3 * 3)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("error", [1e-3, -0.5, np.pi])
def test_one_wrong_element_is_found_and_named(full: bool, error: float) -> None:
    def fn(x: Tensor, w: Tensor) -> Tensor:
        return model(x, wrong_at(w, (2, 1), error))

    with pytest.raises(CheckFailed) as caught:
        gradcheck(fn, X, W, full=full)
    assert "gradient of w at [2, 1]: formula " in str(caught.value)
    formula, difference = (float(part.split()[-1]) for part in str(caught.value).split(", c"))
    assert formula / difference == pytest.approx(1 + error, rel=1e-5)


def test_the_tolerance_is_relative_to_the_gradient_of_the_input() -> None:
    def fn(x: Tensor) -> Tensor:
        return basic.mul(wrong_at(x, (0, 0), 0.01), 1e-6)

    with pytest.raises(CheckFailed, match="gradient of x at"):
        gradcheck(fn, X)
    gradcheck(fn, X, rtol=0.1)


def test_a_small_error_within_the_tolerance_passes() -> None:
    result = gradcheck(lambda x: wrong_at(x, (0, 0), 1e-7), X, full=True, rtol=1e-6)
    assert 1e-9 < result.worst["x"] < 1e-6


def test_an_input_without_influence_has_no_gradient() -> None:
    result = gradcheck(lambda x, unused: basic.exp(x), X, W)
    assert result.worst["unused"] == 0


def test_a_forgotten_gradient_is_found() -> None:
    def fn(x: Tensor, w: Tensor) -> Tensor:
        return basic.matmul(x, w.value)  # w as a constant

    message = r"gradient of w at .*: formula 0, central difference .*; nothing flowed back to w"
    with pytest.raises(CheckFailed, match=message):
        gradcheck(fn, X, W)


def test_no_dimension_and_one_element() -> None:
    gradcheck(basic.exp, np.float64(0.5), full=True)
    gradcheck(lambda x: x, np.ones((1,)))


def test_large_and_small_points() -> None:
    gradcheck(lambda x: basic.mul(x, x), 1e6 * X)
    gradcheck(lambda x: basic.exp(basic.mul(x, 1e-9)), X)


def test_probes_see_an_error_in_the_smallest_gradients() -> None:
    scale = np.geomspace(1e-9, 1, X.size).reshape(X.shape)

    def fn(x: Tensor) -> Tensor:
        return basic.mul(basic.tanh(wrong_at(x, (0, 0), 0.1)), scale)

    gradcheck(fn, X)  # drowned by the others
    with pytest.raises(CheckFailed, match=r"gradient of x at \[0, 0\]: formula"):
        gradcheck(fn, X, probes=5)
    [found] = gradcheck(lambda x: basic.mul(basic.tanh(x), scale), X, probes=5).inputs
    assert found.probes == 5
    assert found.smallest < 1e-7 < 1e-2 < found.largest


def test_probes_of_a_gradient_of_zeros() -> None:
    result = gradcheck(lambda x: basic.mul(x, np.zeros((5, 4))), X, probes=3)
    assert result.worst["x"] == 0
    assert result.inputs[0].probes == 1


def other_backward(name: str, write: Callable[[Tensor, Array], None]) -> Callable[..., Tensor]:
    """The identity, with a backward of its own."""

    def op(x: Tensor) -> Tensor:
        y = x.tape.empty(x.shape)
        y.value[...] = x.value

        @x.tape.record(name, y)
        def backward() -> None:
            write(x, y.grad)

        return y

    return op


def test_a_gradient_that_is_not_all_written_is_found() -> None:
    def partly(x: Tensor, dy: Array) -> None:
        with x.gradient() as dx:
            dx[:-1] = dy[:-1]

    with pytest.raises(CheckFailed, match=r"gradient of x is nan at \[4, 0\]; .* does not write"):
        gradcheck(other_backward("partly", partly), X)


def test_a_gradient_that_overwrites_is_found() -> None:
    def overwrite(x: Tensor, dy: Array) -> None:
        x.gradient_to_add()[0][...] = dy

    with pytest.raises(CheckFailed, match=r"after two, expected twice as much: backward must add"):
        gradcheck(other_backward("overwrite", overwrite), X)


def test_what_is_kept_for_the_way_back_must_be_the_calls_own() -> None:
    """A workspace of all calls together holds what the last one has put there."""
    shared = np.empty(X.shape)

    def squares(x: Tensor) -> Tensor:
        y = x.tape.empty(x.shape)
        shared[...] = 2 * x.value
        y.value[...] = x.value**2

        @x.tape.record("squares", y)
        def backward() -> None:
            with x.gradient() as dx:
                dx[...] = shared * y.grad

        return y

    with pytest.raises(CheckFailed, match=r"x at \[0, 0\]: .* must use what its own call has kept"):
        gradcheck(squares, X)


@pytest.mark.parametrize(
    "changed", [lambda dy: dy + 1e-8, lambda dy: np.clip(dy, -3, 3), lambda dy: np.sign(dy)]
)
def test_backward_must_be_linear(changed: Callable[[Array], Array]) -> None:
    def write(x: Tensor, dy: Array) -> None:
        with x.gradient() as dx:
            dx[...] = changed(dy)

    with pytest.raises(CheckFailed, match=r"x at \[0, 0\]: .* must be linear"):
        gradcheck(other_backward("changed", write), X)


def test_a_changed_input_is_found() -> None:
    def change(x: Tensor, dy: Array) -> None:
        x.value[0, 0] += 1
        with x.gradient() as dx:
            dx[...] = dy

    with pytest.raises(CheckFailed, match="fn or its backward has changed its input x"):
        gradcheck(other_backward("change", change), X)


def test_an_error_in_backward_names_the_op() -> None:
    def fails(x: Tensor, dy: Array) -> None:
        with x.gradient() as dx:
            dx[...] = dy[:, :2]

    with pytest.raises(ValueError, match="could not broadcast") as caught:
        gradcheck(other_backward("my_op", fails), X)
    assert caught.value.__notes__ == ["in the backward step of my_op"]


@pytest.mark.parametrize("full", [False, True])
def test_nan_and_infinity_fail(full: bool) -> None:
    spoilt = X.copy()
    spoilt[1, 2] = np.nan
    with pytest.raises(CheckFailed, match=r"input x is nan at \[1, 2\]"):
        gradcheck(basic.exp, spoilt, full=full)
    with (
        np.errstate(over="ignore"),
        pytest.raises(CheckFailed, match=r"the output is inf at \[0\]"),
    ):
        gradcheck(basic.exp, np.full(2, 1e4), full=full)
    with pytest.raises(CheckFailed, match=r"the gradient of x is nan at \[0, 3\]"):
        gradcheck(lambda x: wrong_at(x, (0, 3), np.nan), X, full=full)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(CheckFailed, match="the output near the point is nan"),
    ):
        gradcheck(basic.sqrt, np.array([1e-6, 1.0]), full=full)


def test_what_does_not_repeat_fails() -> None:
    noise = np.random.default_rng(0)
    with pytest.raises(CheckFailed, match="two calls of fn with the same arrays gave other values"):
        gradcheck(lambda x: basic.add(x, noise.standard_normal(x.shape)), X)


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="no arrays"):
        gradcheck(basic.exp)
    with pytest.raises(ValueError, match="1 names, expected 2"):
        gradcheck(model, X, W, names=["x"])
    for wrong, told in ((Packing.of([5]), "Packing"), (X + 1j, "complex128"), ("x", "<U1")):
        said = f"gradcheck: w is .*{told}, expected an array of real"
        with pytest.raises(ValueError, match=said):
            gradcheck(model, X, wrong)
    with pytest.raises(ValueError, match="fn returned ndarray, expected a Tensor"):
        gradcheck(lambda x: x.value, X)


def test_names() -> None:
    def anything(*tensors: Tensor) -> Tensor:
        return basic.exp(tensors[0])

    assert list(gradcheck(anything, X).worst) == ["input 0"]
    assert list(gradcheck(anything, X, names=["here"]).worst) == ["here"]


def test_the_arrays_are_left_alone_and_the_result_repeats() -> None:
    before: list[Array] = [X.copy(), W.copy()]
    first = gradcheck(model, X, W)
    assert first == gradcheck(model, X, W)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(W, before[1])


def test_it_is_public() -> None:
    assert calmgrad.gradcheck is gradcheck
    assert "Raises" in (inspect.getdoc(calmgrad.gradcheck) or "")


@pytest.mark.parametrize("full", [False, True])
def test_a_sharp_bend_is_no_error(full: bool) -> None:
    """Of width 0.003: the usual step is too coarse for it, a shorter one is not."""

    def fn(x: Tensor) -> Tensor:
        return basic.div(x, basic.sqrt(basic.add(basic.mul(x, x), 1e-5)))

    gradcheck(fn, np.array([1.3, 0.0021, -0.7]), full=full)
