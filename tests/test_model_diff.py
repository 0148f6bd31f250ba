"""What differs between two models, to the bit; NaN is no obstacle."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad.model_diff import compare, diff


def model(**sizes: Any) -> calmgrad.Model:
    return calmgrad.new_model(d_model=16, n_layers=1, seed=1, **sizes)


def test_a_model_is_identical_to_itself() -> None:
    found = diff(model().data(), model().data())
    assert found.identical
    assert len(found.tensors) == 17
    assert all(t.identical and t.cosine == pytest.approx(1) for t in found.tensors if t.norm_a)


def test_a_changed_weight_is_found() -> None:
    a, b = model(), model()
    b.parameters["blocks.0.mixer.A_log"][3, 5] += 0.5
    found = diff(a.data(), b.data())
    [changed] = [t for t in found.tensors if not t.identical]
    assert not found.identical
    assert changed.name == "blocks.0.mixer.A_log"
    assert (changed.index, changed.changed) == ((3, 5), 1)
    assert changed.largest == pytest.approx(0.5)
    assert changed.relative == pytest.approx(0.5 / changed.norm_a)


def test_settings_and_ewc_data() -> None:
    a, b = model(), model()
    b.metadata = replace(b.metadata, domain="shell")
    b.sampler = replace(b.sampler, top_k=5)
    b.fisher, b.anchor = b.weights.copy(), b.weights.copy()
    found = diff(a.data(), b.data())
    assert found.settings == {"domain": ("", "shell"), "top_k": (0, 5), "ewc": (False, True)}
    a.fisher, a.anchor = b.fisher.copy(), b.anchor + 1
    changed = {t.name.split(".")[1] for t in diff(a.data(), b.data()).tensors if not t.identical}
    assert changed == {"anchor"}


def test_models_of_other_sizes_have_no_common_tensors() -> None:
    found = diff(model().data(), model(d_state=4).data())
    assert found.settings == {"d_state": (16, 4)}
    assert not found.tensors
    same_count = diff(model().data(), model(l_max=5).data())
    assert same_count.settings == {"l_max": (768, 5)}
    assert len(same_count.tensors) == 17


def test_not_a_number_is_counted_and_left_out() -> None:
    a = np.array([3.0, np.nan, 4.0, np.inf], np.float32)
    b = np.array([3.0, np.nan, 4.0, 1.0], np.float32)
    found = compare("x", a, b)
    assert (found.norm_a, found.norm_b, found.not_finite, found.changed) == (5, 5, 2, 1)
    assert not found.identical
    assert found.largest == 0
    assert compare("x", a, a.copy()).identical


@pytest.mark.parametrize("value", [np.nan, -0.0])
def test_a_change_without_a_difference_is_where_it_is(value: float) -> None:
    a = np.zeros((3, 2), np.float32)
    b = a.copy()
    b[1, 1] = value
    found = compare("p", a, b)
    assert (found.largest, found.changed, found.index) == (0, 1, (1, 1))


def test_zero_has_no_direction_and_a_sign() -> None:
    zero = np.zeros(3, np.float32)
    found = compare("x", zero, -zero)
    assert found.cosine is None
    assert found.relative is None
    assert not found.identical
    assert found.largest == 0
    one = compare("x", np.ones(3, np.float32), -np.ones(3, np.float32))
    assert one.cosine == pytest.approx(-1)
    assert one.relative == pytest.approx(2)
    assert math.isclose(one.norm_b, math.sqrt(3))
