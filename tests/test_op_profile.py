"""The profile of a step: names and shares of its ops, and the work that they are held against."""

import numpy as np
import pytest

from calmgrad import ceilings, op_profile
from calmgrad.model import new_model
from calmgrad.op_profile import REST, profile, work


def test_every_op_is_named_and_the_times_are_those_of_the_step() -> None:
    model = new_model(d_model=16, n_layers=2)
    sequences = [np.arange(4, 300) % 256] * 4
    found = profile(model, sequences, [0] * 4, 0.0)
    assert {row.op for row in found.rows} == set(work(model.config, 1, 1))
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    assert sum(row.forward + row.backward for row in found.rows) == pytest.approx(found.step)
    calls = {row.op: row.calls for row in found.rows}
    assert calls["in_proj"] == calls["x_proj"] == calls["ffn_fc2"] == 2 * found.shards
    assert calls["layer_norm"] == 5 * found.shards
    assert calls["logits"] == found.shards
    assert calls[REST] == 1


def test_the_products_are_those_of_the_network() -> None:
    config = new_model("nano").config
    flops = sum(row.flops for row in work(config, 100, 1).values())
    matrices = sum(
        view.size
        for name, view in new_model("nano").parameters.items()
        if view.ndim == 2 and not name.endswith(("A_log", "conv1d_weight"))
    )
    assert flops == 6 * 100 * matrices


def test_the_least_time_is_that_of_the_slowest_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "exponentials", lambda: 10.0)
    monkeypatch.setattr(ceilings, "copies", lambda size: 2.0)
    some = op_profile.Work(flops=100, exps=10, bytes=2, array=64)
    assert some.seconds(products=50.0) == (3.0, "products")
    assert op_profile.Work(exps=30, bytes=2).seconds(50.0) == (3.0, "exp")
    assert op_profile.Work(flops=100, bytes=8).seconds(50.0) == (4.0, "memory")


def test_ceilings_are_plausible() -> None:
    assert ceilings.products(new_model("nano").config, 64) > 1e8
    assert ceilings.exponentials() > 1e7
    assert ceilings.copies(ceilings.CACHED) > 1e8


def test_the_scan_s_ceiling_computes_what_it_says() -> None:
    from calmgrad.kernels.cpu.ceiling import AT_ONCE, decayed

    out = np.zeros(16)
    rates, steps = -np.linspace(0.1, 1.0, AT_ONCE), np.linspace(0.01, 0.1, 20)
    assert decayed(out, rates, steps) == AT_ONCE * 20
    h, total = np.zeros(AT_ONCE), np.zeros(AT_ONCE)
    for step in steps:
        h = np.exp2(step * rates) * h + step
        total += h * step
    np.testing.assert_allclose(out, total.reshape(4, 16).sum(0), rtol=1e-12)
