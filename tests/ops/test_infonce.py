import math
import re
import tracemalloc
from functools import partial

import numpy as np
import pytest

from calmgrad.backend import Backend
from calmgrad.kernels.protocol import Array
from calmgrad.ops.infonce import infonce
from calmgrad.tape import Tape
from tests.ops.helpers import forward, run


def by_definition(queries: Array, positives: Array, temperature: float) -> float:
    pairs = len(queries)
    scores = [
        [sum(q * p for q, p in zip(a, b, strict=True)) / temperature for b in positives.tolist()]
        for a in queries.tolist()
    ]
    loss = 0.0
    for i in range(pairs):
        own = math.exp(scores[i][i])
        loss -= math.log(own / sum(math.exp(scores[i][j]) for j in range(pairs)))
        loss -= math.log(own / sum(math.exp(scores[j][i]) for j in range(pairs)))
    return loss / (2 * pairs)


def rows(count: int, width: int, seed: int) -> Array:
    x = np.random.default_rng(seed).standard_normal((count, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(("pairs", "width"), [(1, 3), (2, 1), (5, 16), (17, 37)])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_definition(backend: Backend, pairs: int, width: int, temperature: float) -> None:
    inputs = {"queries": rows(pairs, width, 1), "positives": rows(pairs, width, 2)}
    loss = forward(backend, partial(infonce, temperature=temperature), inputs)
    assert loss.shape == (1,)
    assert abs(loss[0] - by_definition(**inputs, temperature=temperature)) < 1e-12


def test_the_usual_temperature(backend: Backend) -> None:
    inputs = {"queries": rows(4, 5, 1), "positives": rows(4, 5, 2)}
    assert abs(forward(backend, infonce, inputs)[0] - by_definition(**inputs, temperature=0.07)) < (
        1e-12
    )


def test_one_pair_has_nothing_to_learn(backend: Backend) -> None:
    done = run(backend, infonce, {"queries": rows(1, 4, 1), "positives": rows(1, 4, 2)})
    np.testing.assert_allclose(done.y, 0, atol=1e-14)
    for gradient in done.grads.values():
        np.testing.assert_allclose(gradient, 0, atol=1e-14)


def test_the_loss_is_symmetric(backend: Backend) -> None:
    q, p = rows(6, 5, 1), rows(6, 5, 2)
    one = run(backend, infonce, {"queries": q, "positives": p})
    other = run(backend, infonce, {"queries": p, "positives": q})
    np.testing.assert_allclose(one.y, other.y, rtol=1e-13)
    np.testing.assert_allclose(one.grads["queries"], other.grads["positives"], atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_scores(backend: Backend, dtype: str) -> None:
    """Scores of 1e4: the pairs that belong together win by far, or lose by far."""
    far = 100 * np.eye(3)
    op = partial(infonce, temperature=1.0)
    done = run(backend, op, {"queries": far, "positives": far}, dtype)
    np.testing.assert_allclose(done.y, 0, atol=1e-30)
    done = run(backend, op, {"queries": far, "positives": np.roll(far, 1, axis=0)}, dtype)
    np.testing.assert_allclose(done.y, 1e4)
    assert all(np.isfinite(gradient).all() for gradient in done.grads.values())


@pytest.mark.parametrize("scores", [1, 17, 40, 100])
def test_blocks_of_rows_change_nothing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, scores: int
) -> None:
    inputs = {"queries": rows(17, 5, 1), "positives": rows(17, 5, 2)}
    whole = run(backend, infonce, inputs)
    monkeypatch.setattr("calmgrad.ops.infonce.SCORES", scores)
    parts = run(backend, infonce, inputs)
    np.testing.assert_allclose(parts.y, whole.y, rtol=1e-13)
    for name, gradient in whole.grads.items():
        np.testing.assert_allclose(parts.grads[name], gradient, atol=1e-14)


def test_memory_grows_with_the_pairs_not_their_square(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calmgrad.ops.infonce.SCORES", 1 << 14)
    peaks = []
    for pairs in (1000, 2000):
        q, p = (rows(pairs, 4, seed).astype(np.float32) for seed in (1, 2))
        tracemalloc.start()
        run(backend, infonce, {"queries": q, "positives": p}, "float32")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]
    assert peaks[1] < 2000 * 2000  # bytes: a quarter of the scores


def test_what_disagrees(backend: Backend) -> None:
    tape = Tape(backend)
    message = "infonce: positives has shape (3, 4), expected (B, D) with B = 2 from queries"
    with pytest.raises(ValueError, match=re.escape(message)):
        infonce(tape.empty((2, 4)), tape.empty((3, 4)))
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"infonce: temperature .*, expected above 0"):
            infonce(tape.empty((2, 4)), tape.empty((2, 4)), temperature)
