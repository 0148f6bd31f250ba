import math
import re
from functools import partial

import numpy as np
import pytest

from calmgrad.backend import Backend
from calmgrad.kernels.protocol import Array
from calmgrad.op_cases import Sizes, cases
from calmgrad.ops.selective_scan import selective_scan
from calmgrad.packing import Packing
from calmgrad.tape import Tape
from tests.ops.helpers import assert_near, forward, run

PER_TOKEN = ("u", "z", "p")


def draw(lengths: tuple[int, ...], channels: int, states: int, rank: int) -> dict[str, Array]:
    sizes = Sizes(lengths, channels, states, rank=rank, seed=channels)
    (case,) = cases("selective_scan.selective_scan", sizes)
    return case.inputs


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_definition(
    u: Array,
    z: Array,
    p: Array,
    dt_weight: Array,
    dt_bias: Array,
    A_log: Array,
    D: Array,
    lengths: tuple[int, ...],
) -> Array:
    """One number after the other, as the formulas are written."""
    rank, channels = dt_weight.shape
    states = A_log.shape[1]
    out = np.empty_like(u)
    token = 0
    for n_tokens in lengths:
        h = [[0.0] * states for _ in range(channels)]
        for _ in range(n_tokens):
            for c in range(channels):
                raw = sum(p[token, r] * dt_weight[r, c] for r in range(rank)) + dt_bias[c]
                dt = math.log1p(math.exp(raw))
                y = D[c] * u[token, c]
                for n in range(states):
                    decay = math.exp(-dt * math.exp(A_log[c, n]))
                    b, c_out = p[token, rank + n], p[token, rank + states + n]
                    h[c][n] = decay * h[c][n] + dt * b * u[token, c]
                    y += c_out * h[c][n]
                out[token, c] = y * z[token, c] * sigmoid(z[token, c])
            token += 1
    return out


@pytest.mark.parametrize(
    ("lengths", "channels", "states", "rank"),
    [
        ((1,), 1, 1, 1),
        ((1, 3), 2, 255, 1),
        ((16, 1, 17), 5, 3, 2),
        ((40, 33, 15), 17, 2, 4),
        ((20,), 37, 16, 3),
    ],
)
def test_definition(
    backend: Backend, lengths: tuple[int, ...], channels: int, states: int, rank: int
) -> None:
    inputs = draw(lengths, channels, states, rank)
    y = forward(backend, partial(selective_scan, packing=Packing.of(lengths, backend.xp)), inputs)
    assert_near(y, by_definition(**inputs, lengths=lengths), 1e-12)


def test_sequences_do_not_see_each_other(backend: Backend) -> None:
    lengths = (3, 1, 40, 16, 17)
    inputs = draw(lengths, 19, 5, 2)
    weights = np.random.default_rng(5).standard_normal((sum(lengths), 19))
    packed = run(
        backend,
        partial(selective_scan, packing=Packing.of(lengths, backend.xp)),
        inputs,
        weights=weights,
    )
    sums = {name: np.zeros(inputs[name].shape) for name in inputs if name not in PER_TOKEN}
    start = 0
    for n in lengths:
        rows = slice(start, start + n)
        alone = run(
            backend,
            partial(selective_scan, packing=Packing.of([n], backend.xp)),
            inputs | {name: inputs[name][rows] for name in PER_TOKEN},
            weights=weights[rows],
        )
        assert_near(packed.y[rows], alone.y, 1e-13)
        for name in PER_TOKEN:
            assert_near(packed.grads[name][rows], alone.grads[name], 1e-13, name)
        for name in sums:
            sums[name] += alone.grads[name]
        start += n
    for name, total in sums.items():
        assert_near(packed.grads[name], total, 1e-13, name)


def test_the_future_is_not_seen(backend: Backend) -> None:
    inputs = draw((40,), 3, 2, 1)
    changed = {name: value.copy() for name, value in inputs.items()}
    for name in PER_TOKEN:
        changed[name][20:] += 1
    op = partial(selective_scan, packing=Packing.of([40], backend.xp))
    before, after = (forward(backend, op, values) for values in (inputs, changed))
    np.testing.assert_array_equal(after[:20], before[:20])
    assert (after[20:] != before[20:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_steps_forget_and_small_steps_skip(backend: Backend, dtype: str) -> None:
    """dt_raw of ±1e4: dt is 1e4, or 0; the state is this token's alone, or none at all."""
    tokens, channels, states = 20, 17, 3
    rng = np.random.default_rng(0)
    inputs = draw((tokens,), channels, states, 1)
    inputs["dt_weight"], inputs["dt_bias"] = np.ones((1, channels)), np.zeros(channels)
    inputs["p"][:, 0] = np.where(rng.random(tokens) < 0.5, 1e4, -1e4)
    step = np.maximum(inputs["p"][:, 0], 0)
    B, C = inputs["p"][:, 1 : 1 + states], inputs["p"][:, 1 + states :]
    # After a large step only u of that token is in the states, until the next large one.
    drive, expected = np.zeros((channels, states)), np.empty((tokens, channels))
    for t in range(tokens):
        if step[t]:
            drive = 1e4 * np.outer(inputs["u"][t], B[t])
        expected[t] = drive @ C[t] + inputs["D"] * inputs["u"][t]
    expected *= inputs["z"] / (1 + np.exp(-inputs["z"]))
    done = run(
        backend, partial(selective_scan, packing=Packing.of([tokens], backend.xp)), inputs, dtype
    )
    assert_near(done.y, expected, 1e-5 if dtype == "float32" else 1e-12)
    for what, array in done.arrays():
        assert np.isfinite(array).all(), what
    # softplus has slope 0 where nothing is stepped.
    small = done.grads["p"][:, 0][step == 0]
    np.testing.assert_allclose(small, 0, atol=1e-30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [-1e4, -80.0, -30.0, -12.0, 0.0, 12.0, 19.9, 20.1, 80.0, 1e4])
def test_softplus_at_every_size(backend: Backend, bias: float, dtype: str) -> None:
    """One token, B = C = z' = 1, D = 0: the output is dt u silu(z); accurate where dt is tiny."""
    inputs = {
        "u": np.ones((1, 1)),
        "z": np.full((1, 1), 3.0),
        "p": np.array([[0.0, 1.0, 1.0]]),
        "dt_weight": np.ones((1, 1)),
        "dt_bias": np.array([bias]),
        "A_log": np.zeros((1, 1)),
        "D": np.zeros(1),
    }
    done = run(
        backend,
        partial(selective_scan, packing=Packing.of([1], backend.xp)),
        inputs,
        dtype,
        weights=np.ones((1, 1)),
    )
    gate = 3.0 * sigmoid(3.0)
    dt = bias if bias > 500 else math.log1p(math.exp(bias))
    slope = 1.0 if bias > 500 else math.exp(bias) / (1 + math.exp(bias))
    rtol = 2e-6 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(done.y, dt * gate, rtol=rtol, atol=1e-36)
    np.testing.assert_allclose(done.grads["dt_bias"], slope * gate, rtol=rtol, atol=1e-36)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z": (4, 3)}, "selective_scan: z has shape (4, 3), expected (T, C) with T = 5 from u"),
        ({"dt_weight": (2, 9)}, "selective_scan: dt_weight has shape (2, 9), expected (R, C) with"),
        ({"dt_bias": (4,)}, "selective_scan: dt_bias has shape (4,), expected (C,) with C = 3"),
        ({"A_log": (4, 2)}, "selective_scan: A_log has shape (4, 2), expected (C, N) with C = 3"),
        ({"D": (3, 1)}, "selective_scan: D has shape (3, 1), expected (C,)"),
        ({"p": (5, 7)}, "selective_scan: p has shape (5, 7), expected (T, R + 2N) = (5, 6)"),
        ({"u": (4, 3), "z": (4, 3)}, "selective_scan: pos has shape (5,), expected (T,) with T ="),
    ],
)
def test_shapes_that_disagree(
    backend: Backend, changes: dict[str, tuple[int, ...]], message: str
) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "u": (5, 3), "z": (5, 3), "p": (5, 6), "dt_weight": (2, 3),
        "dt_bias": (3,), "A_log": (3, 2), "D": (3,),
    }  # fmt: skip
    tape = Tape(backend)
    tensors = {name: tape.empty(shape) for name, shape in (shapes | changes).items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        selective_scan(**tensors, packing=Packing.of([5], backend.xp))
