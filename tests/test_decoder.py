"""The step of one token against the whole network at once."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import calmgrad
from calmgrad import backend as backends
from calmgrad.backend import Backend
from calmgrad.decoder import AT_ONCE, Decoder
from calmgrad.kernels.protocol import CHUNK
from calmgrad.model import Model

LENGTHS = [1, 2, CHUNK, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * CHUNK, 3 * CHUNK + 1, 3 * CHUNK + 2]


def model_of(seed: int = 0, **sizes: Any) -> Model:
    """Random weights, large enough to tell tokens apart."""
    model = calmgrad.new_model(**({"d_model": 16, "n_layers": 2} | sizes))
    rng = np.random.default_rng(seed)
    model.weights += rng.normal(0, 0.1, model.weights.size).astype(np.float32)
    return model


def tokens_of(count: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 320, count)


sizes = st.fixed_dictionaries(
    {
        "d_model": st.sampled_from([1, 5, 16, 17, 33]),
        "n_layers": st.integers(1, 3),
        "ffn_expand": st.integers(1, 3),
        "expand": st.integers(1, 3),
        "d_state": st.sampled_from([1, 3, 16, 17, 255]),
        "d_conv": st.sampled_from([1, 2, 4, 40]),
        "dt_rank": st.sampled_from([1, 4, 9]),
    }
)


@given(sizes=sizes, length=st.sampled_from(LENGTHS), seed=st.integers(0, 999))
def test_reading_is_the_full_forward(sizes: dict[str, int], length: int, seed: int) -> None:
    model, tokens = model_of(seed, **sizes), tokens_of(length + 1, seed)
    expected = model.logits(tokens)
    decoder = Decoder(model.config, model.weights)
    decoder.start(tokens[:-1])
    np.testing.assert_allclose(decoder.read(tokens[-1:]), expected[-1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sizes", [{}, {"d_model": 13, "expand": 3, "d_state": 5, "d_conv": 7}])
def test_every_backend_in_float64(backend: Backend, length: int, sizes: dict[str, int]) -> None:
    """No rounding to hide behind: backends, bulk and single steps agree to 1e-12."""
    model, tokens = model_of(**sizes), tokens_of(length + 1)
    weights = model.weights.astype(np.float64)
    oracle = Decoder(model.config, weights, backends.load("reference"))
    for token in tokens:
        oracle.read(np.array([token]))
    decoder = Decoder(model.config, weights, backend)
    decoder.start(tokens[:-1])
    np.testing.assert_allclose(decoder.read(tokens[-1:]), oracle.logits, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(oracle.logits, model.logits(tokens)[-1], rtol=1e-4, atol=2e-5)


def test_tokens_one_at_a_time_and_together_are_the_same_bytes() -> None:
    model, tokens = model_of(), tokens_of(20)
    decoder = Decoder(model.config, model.weights)
    decoder.start([])
    together = decoder.read(tokens).copy()
    decoder.start([])
    for token in tokens:
        decoder.read(np.array([token]))
    assert (decoder.logits == together).all()


def test_start_forgets_and_restore_goes_back() -> None:
    model, tokens = model_of(), tokens_of(2 * AT_ONCE)
    decoder = Decoder(model.config, model.weights)
    decoder.start(tokens[:AT_ONCE])
    state = decoder.state()
    expected = decoder.read(tokens[:3]).copy()
    decoder.start(tokens)
    assert not (decoder.read(tokens[:3]) == expected).all()
    decoder.restore(state)
    assert (decoder.read(tokens[:3]) == expected).all()
    decoder.start(tokens[:AT_ONCE])
    assert (decoder.read(tokens[:3]) == expected).all()


def test_changed_weights_count_after_refresh() -> None:
    model, tokens = model_of(), tokens_of(5)
    decoder = Decoder(model.config, model.weights)
    model.weights[:] = model_of(seed=9).weights
    decoder.refresh()
    decoder.start(tokens[:-1])
    expected = model.logits(tokens)[-1]
    np.testing.assert_allclose(decoder.read(tokens[-1:]), expected, rtol=1e-4, atol=2e-5)


def test_generate_sees_what_training_has_changed() -> None:
    model = model_of()
    before = model.generate([1, 2, 3], temperature=0, max_tokens=8)[0]
    model.weights[:] = model_of(seed=9).weights
    assert model.generate([1, 2, 3], temperature=0, max_tokens=8)[0] != before
