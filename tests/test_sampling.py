"""Which token comes next: the filters, their order, the dice; and where settings come from."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.backend import Backend
from calmgrad.formats.cwgt import SamplerDefaults
from calmgrad.sampling import GREEDY, Sampling, resolve

Filters = tuple[float, int, float, float]  # temperature, top_k, top_p, min_p
DRAWS = 4000

filters = st.tuples(
    st.sampled_from([0.3, 0.8, 1.0, 2.5]),
    st.sampled_from([0, 1, 5, 400]),
    st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)


def logits_of(seed: int, size: int = 320) -> NDArray[np.float64]:
    """Some large, most small; a few equal ones among the largest."""
    logits = np.random.default_rng(seed).normal(0, 2.5, size)
    order = np.argsort(-logits)
    logits[order[4:7]] = logits[order[4]]
    return logits


def log_softmax(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    heated = logits / temperature
    return np.asarray(heated - np.log(np.exp(heated - heated.max()).sum()) - heated.max())


def kept_by(logits: NDArray[np.float64], filters: Filters) -> NDArray[np.float64]:
    """The distribution to draw from, filter by filter in the words of FORMATS §8."""
    temperature, top_k, top_p, min_p = filters
    p = np.exp(log_softmax(logits, temperature))
    p = np.where(p < min_p * p.max(), 0, p)
    if top_k:
        cut = sorted(p, reverse=True)[min(top_k, p.size) - 1]
        p = np.where(p < cut, 0, p)
    if top_p:
        before = 0.0
        for i in np.argsort(-p, kind="stable"):
            mass = p[i]
            p[i] = 0 if before > top_p else p[i]
            before += mass
    return np.asarray(p / p.sum())


def choose(backend: Backend, logits: Any, draw: float, filters: Filters) -> tuple[int, float]:
    token, log_prob = backend.kernels.choose(logits, np.empty_like(logits), draw, *filters)
    return int(token), float(log_prob)


@given(filters=filters, seed=st.integers(0, 999))
def test_draws_follow_the_distribution(backend: Backend, filters: Filters, seed: int) -> None:
    """Equally spaced draws give every token as often as its probability says, to one draw."""
    logits = logits_of(seed)
    expected = kept_by(logits, filters)
    counts = np.zeros(logits.size)
    for i in range(DRAWS):
        token, log_prob = choose(backend, logits, (i + 0.5) / DRAWS, filters)
        counts[token] += 1
    if any(filters[1:]):
        assert np.abs(counts / DRAWS - expected).max() <= 1.001 / DRAWS
    else:
        assert counts[logits.argmax()] == DRAWS  # no filter: greedy
    assert log_prob == pytest.approx(log_softmax(logits, filters[0])[token], abs=1e-9)


@given(filters=filters, seed=st.integers(0, 999), draw=st.floats(0, 1, exclude_max=True))
def test_float32_draws_from_the_same_tokens(filters: Filters, seed: int, draw: float) -> None:
    logits = logits_of(seed).astype(np.float32)
    token, log_prob = choose(backends.load("cpu"), logits, draw, filters)
    wide = logits.astype(np.float64)
    # On the edge of a filter rounding decides, hence a slightly wider one.
    slack = (filters[0], filters[1], min(1.0, filters[2] * (1 + 1e-5)), filters[3] * (1 - 1e-5))
    assert kept_by(wide, slack)[token] > 0
    assert log_prob == pytest.approx(log_softmax(wide, filters[0])[token], abs=2e-5)


def test_greedy_without_temperature_or_filter(backend: Backend) -> None:
    logits = logits_of(1)
    for draw in (0.0, 0.5, 0.999):
        for filters in ((0.0, 5, 0.9, 0.1), (-1.0, 5, 0.0, 0.0), (0.7, 0, 0.0, 0.0)):
            token, log_prob = choose(backend, logits, draw, filters)
            assert token == logits.argmax()
            heat = filters[0] if filters[0] > 0 else 1.0
            assert log_prob == pytest.approx(log_softmax(logits, heat)[token], abs=1e-9)


def test_ties_at_the_cut_are_kept_and_greedy_takes_the_first(backend: Backend) -> None:
    logits = np.zeros(320)
    logits[[7, 30, 31]] = 5.0
    found = {choose(backend, logits, d, (1.0, 2, 0.0, 0.0))[0] for d in (0.1, 0.5, 0.9)}
    assert found == {7, 30, 31}
    assert choose(backend, logits, 0.9, (0.0, 0, 0.0, 0.0))[0] == 7


def test_top_p_looks_at_the_mass_before_a_token_and_does_not_renormalise(backend: Backend) -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1]))

    def found(filters: Filters) -> set[int]:
        return {choose(backend, logits, i / 50, filters)[0] for i in range(50)}

    assert found((1.0, 0, 0.35, 0.0)) == {0}
    assert found((1.0, 0, 0.45, 0.0)) == {0, 1}
    # Of the two that top_k leaves, 0.4 before the second is over 0.39; of a renormalised
    # 0.57 it would be over 0.5 too.
    assert found((1.0, 2, 0.5, 0.0)) == {0, 1}
    assert found((1.0, 0, 0.0, 0.6)) == {0, 1}


def test_logits_that_are_not_finite_show_in_the_score(backend: Backend) -> None:
    for bad in (math.nan, math.inf):
        logits = logits_of(0)
        logits[5] = bad
        for filters in ((0.0, 0, 0.0, 0.0), (1.0, 5, 0.0, 0.0), (1.0, 0, 0.9, 0.1)):
            with np.errstate(invalid="ignore"):
                assert not math.isfinite(choose(backend, logits, 0.5, filters)[1])


def none(**given: float | None) -> dict[str, float | None]:
    names = ("temperature", "top_k", "top_p", "min_p", "max_tokens", "candidates")
    return dict.fromkeys(names) | given


def test_settings_of_caller_file_and_calm_inference() -> None:
    file = SamplerDefaults(temperature=0.6, top_k=5, max_tokens=32, num_candidates=3)
    assert resolve(None, none()) == Sampling(0.8, 5, 0.0, 0.0, 256, 1)
    assert resolve(file, none()) == Sampling(0.6, 5, 0.0, 0.0, 32, 3)
    chosen = resolve(file, none(temperature=1.5, top_p=0.9, candidates=2))
    assert chosen == Sampling(1.5, 5, 0.9, 0.0, 32, 2)
    assert resolve(SamplerDefaults(min_p=0.1), none()) == Sampling(0.8, 0, 0, 0.1, 256, 1)
    assert resolve(SamplerDefaults(temperature=0.3), none()) == Sampling(0.3, 5, 0, 0, 256, 1)


def test_greedy_candidates_are_asked_for_or_one() -> None:
    file = SamplerDefaults(temperature=0.6, top_k=5, num_candidates=3)
    assert resolve(file, none(temperature=0)).candidates == 1
    assert resolve(file, none(temperature=0, candidates=2)).candidates == 2
    assert resolve(file, none(top_k=0)).candidates == 1
    assert GREEDY.greedy
    assert not Sampling().greedy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature = -0.1: expected from 0 to 1000"),
        ({"temperature": math.nan}, "temperature = nan"),
        ({"temperature": 1e-9}, "temperature = 1e-09: expected 0 or at least 0.001"),
        ({"top_k": 1.5}, "top_k = 1.5: expected a whole number from 0 on"),
        ({"top_k": True}, "top_k = True"),
        ({"top_p": 1.1}, "top_p = 1.1: expected from 0 to 1"),
        ({"min_p": "x"}, "min_p = 'x'"),
        ({"max_tokens": 0}, "max_tokens = 0: expected a whole number from 1 on"),
        ({"candidates": 0}, "candidates = 0"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**values)
