import re
from functools import partial

import numpy as np
import pytest

from calmgrad.backend import Backend
from calmgrad.kernels.protocol import Array
from calmgrad.ops.causal_conv1d import causal_conv1d
from calmgrad.packing import Packing
from calmgrad.tape import Tape
from tests.ops.helpers import assert_near, forward, run


def by_definition(x: Array, weight: Array, lengths: list[int]) -> Array:
    """Each sequence and channel alone, with the convolution of a textbook."""
    y = np.empty_like(x)
    start = 0
    for n in lengths:
        for c in range(x.shape[1]):
            a = np.convolve(x[start : start + n, c], weight[c])[:n]
            y[start : start + n, c] = a / (1 + np.exp(-a))
        start += n
    return y


def draw(lengths: list[int], channels: int, taps: int) -> dict[str, Array]:
    rng = np.random.default_rng(taps)
    return {
        "x": rng.standard_normal((sum(lengths), channels)),
        "weight": rng.standard_normal((channels, taps)),
    }


@pytest.mark.parametrize("taps", [1, 2, 4, 9])
@pytest.mark.parametrize("channels", [1, 16, 37])
@pytest.mark.parametrize("lengths", [[1], [5, 1, 2], [4, 4], [2, 40, 7, 1]], ids=str)
def test_definition(backend: Backend, lengths: list[int], channels: int, taps: int) -> None:
    inputs = draw(lengths, channels, taps)
    y = forward(backend, partial(causal_conv1d, packing=Packing.of(lengths, backend.xp)), inputs)
    assert_near(y, by_definition(**inputs, lengths=lengths), 1e-13)


def test_sequences_do_not_see_each_other(backend: Backend) -> None:
    lengths = [3, 1, 20, 5]
    inputs = draw(lengths, 17, taps=4)
    weights = np.random.default_rng(5).standard_normal((29, 17))
    packed = run(
        backend,
        partial(causal_conv1d, packing=Packing.of(lengths, backend.xp)),
        inputs,
        weights=weights,
    )
    dweight, start = np.zeros((17, 4)), 0
    for n in lengths:
        rows = slice(start, start + n)
        alone = run(
            backend,
            partial(causal_conv1d, packing=Packing.of([n], backend.xp)),
            inputs | {"x": inputs["x"][rows]},
            weights=weights[rows],
        )
        assert_near(packed.y[rows], alone.y, 1e-14)
        assert_near(packed.grads["x"][rows], alone.grads["x"], 1e-14)
        dweight += alone.grads["weight"]
        start += n
    assert_near(packed.grads["weight"], dweight, 1e-13)


def test_the_future_is_not_seen(backend: Backend) -> None:
    inputs = draw([10], 3, taps=4)
    changed = inputs["x"].copy()
    changed[6:] = 100
    op = partial(causal_conv1d, packing=Packing.of([10], backend.xp))
    before, after = (forward(backend, op, inputs | {"x": x}) for x in (inputs["x"], changed))
    np.testing.assert_array_equal(after[:6], before[:6])
    assert (after[6:] != before[6:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_numbers(backend: Backend, size: float, dtype: str) -> None:
    inputs = {"x": np.full((2, 17), size), "weight": np.ones((17, 1))}
    done = run(
        backend,
        partial(causal_conv1d, packing=Packing.of([2], backend.xp)),
        inputs,
        dtype,
        weights=np.ones((2, 17)),
    )
    # SiLU is x where x is large, 0 where it is as small; its slope 1 and 0.
    np.testing.assert_allclose(done.y, max(size, 0), atol=1e-30)
    np.testing.assert_allclose(done.grads["x"], float(size > 0), atol=1e-30)


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        ((3, 4), (5, 2), "causal_conv1d: weight has shape (5, 2), expected (C, K) with C = 4 from"),
        ((3,), (4, 2), "causal_conv1d: x has shape (3,), expected (T, C)"),
        ((2, 4), (4, 2), "causal_conv1d: pos has shape (3,), expected (T,) with T = 2 from x"),
    ],
)
def test_shapes_that_disagree(
    backend: Backend, x: tuple[int, ...], weight: tuple[int, ...], message: str
) -> None:
    tape = Tape(backend)
    with pytest.raises(ValueError, match=re.escape(message)):
        causal_conv1d(tape.empty(x), tape.empty(weight), Packing.of([3], backend.xp))
