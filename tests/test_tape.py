"""The life of gradients and memory on the tape."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from calmgrad.backend import Backend
from calmgrad.gradient_check import gradcheck
from calmgrad.kernels.protocol import Array
from calmgrad.ops.basic import add, concatenate, exp, matmul, mul, tanh
from calmgrad.ops.basic import sum as total
from calmgrad.ops.gelu import gelu
from calmgrad.ops.layer_norm import layer_norm
from calmgrad.ops.linear import linear
from calmgrad.tape import Step, Tape, Tensor

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 6))
SIZES = (1, 3, 2)


def tape_of(backend: Backend, dtype: str = "float64") -> Tape:
    return Tape(backend, dtype)


def consumer(name: int | str, whole: Tensor, views: list[Tensor]) -> Tensor:
    """Something scalar-like made of one view, or of the whole."""
    x = whole if name == "whole" else views[int(name)]
    return tanh(matmul(x, np.arange(1.0, x.shape[1] + 1)[:, None]))


ORDERS = [
    order for count in (1, 2, 3, 4) for order in itertools.permutations([0, 1, 2, "whole"], count)
]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_split_views_used_in_any_order_or_not_at_all(order: tuple[int | str, ...]) -> None:
    def fn(x: Tensor) -> Tensor:
        whole = exp(x)  # so the split tensor is one that is dropped
        views = whole.split(*SIZES)
        total = consumer(order[0], whole, views)
        for name in order[1:]:
            total = add(total, consumer(name, whole, views))
        return total

    gradcheck(fn, 0.3 * X, directions=2)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_views_of_views(order: tuple[int, ...]) -> None:
    def fn(x: Tensor) -> Tensor:
        whole = exp(x)
        left, right = whole.split(4, 2)
        first, second = left.split(3, 1)
        tensors = [first, second, left, right]
        parts = [consumer("whole", tensors[k], []) for k in order if k != order[0]]
        return concatenate([*parts, whole], axis=1)

    gradcheck(fn, 0.3 * X, directions=2)


def test_what_no_view_uses_has_gradient_zero(backend: Backend) -> None:
    tape = tape_of(backend)
    x = tape.constant(X)
    _, middle, _ = x.split(*SIZES)
    tape.backward(add(middle, 0), np.ones((4, 3)))
    assert_array_equal(x.grad, np.repeat([[0, 1, 1, 1, 0, 0]], 4, axis=0))


def test_a_split_must_cover_the_columns_once(backend: Backend) -> None:
    x = tape_of(backend).constant(X)
    with pytest.raises(ValueError, match=r"split: sizes \(1, 2\), expected to sum to 6 columns"):
        x.split(1, 2)
    assert [view.shape for view in x.split(*SIZES)] == [(4, 1), (4, 3), (4, 2)]
    with pytest.raises(ValueError, match="split already"):
        x.split(3, 3)


def test_a_parameter_can_be_split_in_each_pass(backend: Backend) -> None:
    tape = tape_of(backend)
    gradient = np.full((4, 6), np.nan)
    parameter = tape.parameter(X.copy(), gradient)
    for factor in (1.0, 2.0):
        tape.begin()
        left, _ = parameter.split(2, 4)
        tape.backward(mul(left, factor), np.ones((4, 2)))
        assert_array_equal(gradient, np.repeat([[factor, factor, 0, 0, 0, 0]], 4, axis=0))


# --- taking over ------------------------------------------------------------------------------


def residual_block(x: Tensor, weight: Tensor) -> Tensor:
    return linear(gelu(x), weight, residual=x)


WEIGHT = RNG.standard_normal((6, 6))


def test_take_over_moves_the_buffer(backend: Backend) -> None:
    tape = tape_of(backend)
    x, y = tape.constant(X), tape.constant(X)
    with y.gradient() as dy:
        dy[...] = 5
    x.take_over(y)
    assert x.grad is dy
    y.drop()
    assert not np.shares_memory(tape.pool.take(X.shape), x.grad)
    assert_array_equal(x.grad, np.full(X.shape, 5))


def test_take_over_adds_where_something_is_held(backend: Backend) -> None:
    tape = tape_of(backend)
    x, y = tape.constant(X), tape.constant(X)
    for tensor, value in ((x, 1), (y, 5)):
        with tensor.gradient() as gradient:
            gradient[...] = value
    x.take_over(y)
    assert_array_equal(x.grad, np.full(X.shape, 6))


def test_take_over_never_takes_a_callers_buffer_or_gives_it_away(backend: Backend) -> None:
    tape = tape_of(backend)
    gradients = np.zeros((2, *X.shape))
    p, q = (tape.parameter(X, gradient) for gradient in gradients)
    tape.begin()
    y = linear(p, tape.constant(WEIGHT), residual=q)
    tape.backward(y, np.ones(X.shape))
    assert_array_equal(gradients[1], 1)
    assert_allclose(gradients[0], np.ones(X.shape) @ WEIGHT.T)
    x = tape.constant(X)
    x.take_over(q)
    assert x.grad is not None
    assert not np.shares_memory(x.grad, gradients)
    assert_array_equal(x.grad, 1)


@pytest.mark.parametrize("width", [(6,), (2, 4)])
def test_residuals_of_and_into_views(width: tuple[int, ...]) -> None:
    def into(x: Tensor, weight: Tensor) -> Tensor:
        whole = exp(x)
        views = whole.split(*width)
        y = residual_block(views[-1], weight)
        return add(matmul(y, np.ones((width[-1], 1))), consumer("whole", whole, views))

    gradcheck(into, 0.3 * X, RNG.standard_normal((width[-1], width[-1])))

    def of(x: Tensor, weight: Tensor) -> Tensor:
        y = residual_block(exp(x), weight)
        return concatenate([mul(view, k + 2) for k, view in enumerate(y.split(*width))], axis=1)

    gradcheck(of, 0.3 * X, WEIGHT)


def test_a_network_with_every_kind_of_sharing(backend: Backend) -> None:
    """Residual stream, a tied weight at both ends, a split, a branch that leads nowhere."""

    def fn(x: Tensor, table: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        stream = linear(x, table)
        for _ in range(2):
            u, z = linear(layer_norm(stream, scale, shift), table).split(3, 3)
            tanh(u)  # unused
            stream = linear(
                concatenate([mul(u, z), z], axis=1), table, residual=stream, transposed=True
            )
        return linear(layer_norm(stream, scale, shift), table, transposed=True)

    gradcheck(fn, X, 0.5 * WEIGHT, X[0], X[1], backend=backend.name)


# --- parameters -------------------------------------------------------------------------------


def test_a_pass_overwrites_the_gradient_of_the_pass_before(backend: Backend) -> None:
    tape = tape_of(backend)
    gradients = np.full((2, 6, 6), np.nan)
    used, untouched = (tape.parameter(WEIGHT.copy(), gradient) for gradient in gradients)
    for _ in range(3):
        tape.begin()
        gradients[1] = np.nan
        y = linear(tape.constant(X), used)
        gelu(linear(tape.constant(X), untouched))  # leads nowhere
        tape.backward(y, np.ones(X.shape))
        assert_allclose(gradients[0], X.T @ np.ones(X.shape))
        assert_array_equal(gradients[1], 0)


def test_a_parameter_without_a_buffer_of_its_own(backend: Backend) -> None:
    tape = tape_of(backend)
    weight = tape.parameter(WEIGHT.copy())
    for factor in (1.0, 2.0):
        tape.begin()
        x = tape.constant(X)
        for _ in range(3):
            x = gelu(linear(x, weight, residual=x))
        tape.backward(mul(linear(tape.constant(X), weight), factor), np.ones(X.shape))
        assert_allclose(weight.grad, X.T @ np.full(X.shape, factor))
        assert weight.grad is not None
        others = [tape.pool.take((6, 6)) for _ in range(8)]
        assert not any(np.shares_memory(other, weight.grad) for other in others)


def test_the_last_axis_of_a_parameter_must_be_contiguous(backend: Backend) -> None:
    tape = tape_of(backend)
    for value, gradient in ((WEIGHT.T, WEIGHT), (WEIGHT, WEIGHT.T), (WEIGHT[:, ::2], X[:, :3])):
        with pytest.raises(ValueError, match="parameter: the last axis must be contiguous"):
            tape.parameter(value, gradient)
    tape.parameter(WEIGHT[:, 1:4], np.zeros((6, 3)))


# --- memory -----------------------------------------------------------------------------------


def addresses_of_a_pass(tape: Tape, seen: list[int]) -> None:
    tape.begin()
    x = tape.constant(X)
    for _ in range(4):
        x = residual_block(x, tape.constant(WEIGHT))
    left, right = x.split(2, 4)
    y = concatenate([right, left], axis=1)

    def note(direction: str, step: Step) -> None:
        gradient = step.output.grad
        if gradient is not None:
            seen.append(gradient.ctypes.data)

    tape.observer = note
    tape.backward(y, np.ones(y.shape))
    seen.extend([x.value.ctypes.data, y.value.ctypes.data])


def test_in_the_long_run_nothing_is_allocated_and_addresses_repeat(backend: Backend) -> None:
    tape = tape_of(backend)
    passes: list[list[int]] = []
    capacities = []
    for _ in range(5):
        seen: list[int] = []
        addresses_of_a_pass(tape, seen)
        passes.append(seen)
        capacities.append((tape.values.capacity, tape.pool.arena.capacity))
    assert passes[1] == passes[2] == passes[3] == passes[4]
    assert len(passes[0]) == 5 + 2
    assert len(set(capacities[1:])) == 1


def test_the_gradients_of_a_long_chain_share_few_buffers(backend: Backend) -> None:
    tape = tape_of(backend)

    def used(depth: int) -> int:
        tape.begin()
        x = tape.constant(np.ones((100, 10)))
        for _ in range(depth):
            x = gelu(x)
        tape.backward(x, np.ones(x.shape))
        return tape.pool.arena.mark()[1]

    assert used(50) == used(3) <= 3 * 1008


def test_gradients_in_between_are_gone_afterwards(backend: Backend) -> None:
    tape = tape_of(backend)
    x = tape.constant(X)
    h = gelu(x)
    left, right = h.split(2, 4)
    y = gelu(left)
    tape.backward(y, np.ones(y.shape))
    for tensor in (h, left, right, y):
        assert tensor.grad is None
    assert x.grad is not None


def test_scratch_comes_back(backend: Backend) -> None:
    tape = tape_of(backend)
    with tape.scratch(10) as work:
        assert work.shape == (10,)
        with tape.scratch(10) as more:
            assert not np.shares_memory(work, more)
    with tape.scratch(10) as again, tape.scratch(10) as other:
        assert {again.ctypes.data, other.ctypes.data} == {work.ctypes.data, more.ctypes.data}


@pytest.mark.parametrize("blocks", [1, 5])
def test_keep_frees_memory_and_preserves_values(backend: Backend, blocks: int) -> None:
    def network(tape: Tape) -> Array:
        x = tape.constant(X)
        for _ in range(blocks):
            mark = tape.values.mark()
            x = tape.keep(residual_block(gelu(residual_block(x, tape.constant(WEIGHT))),
                                         tape.constant(WEIGHT)), mark)  # fmt: skip
        return x.value.copy()

    recording, forward_only = Tape(backend, "float64"), Tape(backend, "float64", record=False)
    expected = network(recording)
    assert_array_equal(network(forward_only), expected)
    assert not forward_only.steps
    for tape in (recording, forward_only):
        tape.values.reset()
    used = [tape.values.peak for tape in (recording, forward_only)]
    per_block = 2 * 40 + 5 * 24  # two weights, rounded up to cache lines, and five activations
    if blocks == 1:
        assert used[1] <= used[0]
    else:
        assert used[0] > 5 * per_block
        assert used[1] < 2 * per_block


def test_keep_of_what_was_made_before_the_mark(backend: Backend) -> None:
    tape = Tape(backend, "float64", record=False)
    x = tape.constant(X)
    mark = tape.values.mark()
    for _ in range(3):
        gelu(x)
    assert_array_equal(tape.keep(x, mark).value, X)


def test_keep_across_a_growth_of_the_arena(backend: Backend) -> None:
    tape = Tape(backend, "float64", record=False)
    mark = tape.values.mark()
    big = tape.constant(RNG.standard_normal((300, 100)))
    bigger = concatenate([big] * 3)
    expected = bigger.value.copy()
    assert_array_equal(tape.keep(bigger, mark).value, expected)


# --- telling ----------------------------------------------------------------------------------


def test_the_observer_sees_every_step_both_ways_and_scopes(backend: Backend) -> None:
    tape = tape_of(backend)
    seen: list[tuple[str, str, str]] = []
    gradients: list[Array] = []

    def observe(direction: str, step: Step) -> None:
        seen.append((direction, step.op, step.scope))
        if direction == "backward":
            assert step.output.grad is not None  # still there to look at
            gradients.append(step.output.grad.copy())

    tape.observer = observe
    x = tape.constant(X)
    tape.scope = "blocks.0"
    h = gelu(x)
    gelu(h)  # leads nowhere: seen forward alone
    tape.scope = "head"
    y = linear(h, tape.constant(WEIGHT))
    tape.backward(y, np.full(X.shape, 2.0))
    assert seen == [
        ("forward", "gelu", "blocks.0"),
        ("forward", "gelu", "blocks.0"),
        ("forward", "linear", "head"),
        ("backward", "linear", "head"),
        ("backward", "gelu", "blocks.0"),
    ]
    assert_array_equal(gradients[0], 2)
    assert [step.scope for step in tape.steps] == ["blocks.0", "blocks.0", "head"]


def test_the_observer_sees_forward_only_tapes(backend: Backend) -> None:
    tape = Tape(backend, record=False)
    seen: list[str] = []
    tape.observer = lambda direction, step: seen.append(step.op)
    gelu(tape.constant(X))
    assert seen == ["gelu"]
    assert tape.steps == []


def test_begin_forgets_the_steps(backend: Backend) -> None:
    tape = tape_of(backend)
    gelu(tape.constant(X))
    tape.begin()
    assert tape.steps == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [float, np.float32, lambda v: [[v, v]], np.int64])
def test_constants_are_copied_in_the_dtype_of_the_tape(
    backend: Backend, make: Callable[[float], Array], dtype: str
) -> None:
    value = make(3.0)
    tensor = Tape(backend, dtype).constant(value)
    assert tensor.value.dtype == dtype
    assert_array_equal(tensor.value, value)
    array = np.ones((2, 2), dtype)
    assert not np.shares_memory(Tape(backend, dtype).constant(array).value, array)


def test_a_number_needs_no_seed(backend: Backend) -> None:
    tape = tape_of(backend)
    x = tape.constant(X)
    tape.backward(total(mul(x, x)))
    assert_allclose(x.grad, 2 * X)


def test_wrong_use_is_told(backend: Backend) -> None:
    tape, other = tape_of(backend), tape_of(backend)
    x = tape.constant(X)
    y = mul(x, 2)
    with pytest.raises(ValueError, match=r"output has shape \(4, 6\): expected a seed"):
        tape.backward(y)
    with pytest.raises(ValueError, match="computed on another tape"):
        other.backward(y, np.ones(X.shape))
    with pytest.raises(ValueError, match="mul: the arguments are tensors of 2 tapes"):
        mul(x, other.constant(X))
    with pytest.raises(ValueError, match="linear: weight is a tensor of another tape"):
        linear(x, other.constant(X.T))
    silent = Tape(backend, record=False)
    single = silent.constant(np.ones(1))
    with pytest.raises(ValueError, match="does not record"):
        silent.backward(single)
    tape.backward(y, np.ones(X.shape))
    with pytest.raises(ValueError, match="has gone back already"):
        tape.backward(y, np.ones(X.shape))
    tape.begin()
    tape.backward(mul(tape.constant(X), 2), np.ones(X.shape))


def test_a_tensor_is_not_an_array(backend: Backend) -> None:
    x = tape_of(backend).constant(X)
    uses: list[Callable[[], object]] = [
        lambda: np.exp(x),
        lambda: np.mean(x),
        lambda: X @ x,
        lambda: np.asarray(x),
        lambda: np.empty((4, 6)).__setitem__(..., x),
    ]
    for use in uses:
        with pytest.raises(TypeError, match=r"a Tensor is not an array: use its \.value"):
            use()


def test_a_tape_takes_a_backend_s_name() -> None:
    assert Tape().backend.name == "cpu"
    assert Tape("reference").backend.name == "reference"
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        Tape("gpu")  # type: ignore[arg-type]
