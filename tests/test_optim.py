"""Updates against the formulas of FORMATS §7 in float64, on both backends."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from calmgrad import ewc
from calmgrad.backend import Backend
from calmgrad.config import ModelConfig
from calmgrad.layout import layout, segments
from calmgrad.optim import clip_scale, make_optimizer

CONFIG = ModelConfig(d_model=20, n_layers=2, d_state=3)


def flat(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(CONFIG.param_count).astype(np.float32)


def decays() -> NDArray[np.bool_]:
    mask = np.zeros(CONFIG.param_count, bool)
    for entry in layout(CONFIG):
        mask[entry.start : entry.stop] = not entry.name.endswith((".A_log", ".D"))
    return mask


def test_segments_cover_the_buffer_once() -> None:
    parts = segments(CONFIG)
    assert parts[0][0] == 0
    assert parts[-1][1] == CONFIG.param_count
    assert all(a[1] == b[0] and a[2] != b[2] for a, b in pairwise(parts))
    mask = np.concatenate([np.full(stop - start, decay) for start, stop, decay in parts])
    np.testing.assert_array_equal(mask, decays())


def test_adamw(backend: Backend) -> None:
    lr, decay, beta1, beta2, eps = 0.01, 0.1, 0.8, 0.95, 1e-6
    optimizer = make_optimizer("adam", backend, CONFIG, decay, beta1, beta2, eps)
    p = flat(0)
    expected = p.astype(np.float64)
    m, v = np.zeros_like(expected), np.zeros_like(expected)
    for step in range(1, 6):
        g, scale = flat(step), 0.5
        optimizer.update(p, g, scale, lr)
        scaled = g.astype(np.float64) * scale
        m, v = beta1 * m + (1 - beta1) * scaled, beta2 * v + (1 - beta2) * scaled**2
        expected -= lr * decay * expected * decays()
        expected -= lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)
    np.testing.assert_allclose(p, expected, rtol=2e-6, atol=2e-6)


def test_sgd(backend: Backend) -> None:
    p, g = flat(0), flat(1)
    expected = p * (1 - 0.1 * 0.2 * decays().astype(np.float64)) - 0.1 * 0.3 * g
    make_optimizer("sgd", backend, CONFIG, 0.2, 0, 0, 1).update(p, g, 0.3, 0.1)
    np.testing.assert_allclose(p, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_lr_0_leaves_the_weights(backend: Backend, name: str) -> None:
    p = flat(0)
    make_optimizer(name, backend, CONFIG, 0.2, 0.9, 0.99, 1e-8).update(p, flat(1), 1.0, 0.0)
    np.testing.assert_array_equal(p, flat(0))


def test_unknown_optimizer(backend: Backend) -> None:
    with pytest.raises(ValueError, match="optimizer 'adamx': expected adam or sgd"):
        make_optimizer("adamx", backend, CONFIG, 0, 0, 0, 1)


def test_clip() -> None:
    assert clip_scale(0.5, 1.0) == 1.0
    assert clip_scale(4.0, 1.0) == pytest.approx(1 / 4.000001)
    assert clip_scale(4.0, 0.0) == 1.0


@pytest.mark.parametrize("size", [1, 15, 16, 1023, 1024, 50_001])
def test_squared_norm(backend: Backend, size: int) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    expected = np.dot(x.astype(np.float64), x)
    assert backend.kernels.squared_norm(x) == pytest.approx(expected, rel=1e-6)
    x[size // 2] = np.nan
    assert np.isnan(backend.kernels.squared_norm(x))


def test_ewc(backend: Backend) -> None:
    p, fisher, anchor, g = flat(0), np.abs(flat(1)), flat(2), flat(3)
    wide = [x.astype(np.float64) for x in (p, fisher, anchor, g)]
    added = wide[3] + 7.0 * wide[1] * (wide[0] - wide[2])
    ewc.add_penalty_gradient(backend, g, p, fisher, anchor, 7.0)
    np.testing.assert_allclose(g, added, rtol=1e-5, atol=1e-5)
    value = ewc.penalty(p, fisher, anchor, 7.0)
    assert value == pytest.approx(3.5 * (wide[1] * (wide[0] - wide[2]) ** 2).sum())
