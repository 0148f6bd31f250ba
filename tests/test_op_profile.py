"""The profile of a step: names and shares of its ops, and the work that they are held against."""

from typing import Any

import numpy as np
import pytest

from calmgrad import ceilings, device_ceilings, op_profile
from calmgrad.model import new_model
from calmgrad.op_profile import REST, profile, work
from tests.cuda_on_cpu.device import EmulatedDevice
from tests.cuda_on_cpu.fixtures import stand_in

__all__ = ["stand_in"]


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


def test_the_least_time_is_that_of_the_slowest_need() -> None:
    speeds = op_profile.Speeds(50.0, 10.0, lambda size: 2.0)
    some = op_profile.Work(flops=100, exps=10, bytes=2, array=64)
    assert some.seconds(speeds) == (3.0, "products")
    assert op_profile.Work(exps=30, bytes=2).seconds(speeds) == (3.0, "exp")
    assert op_profile.Work(flops=100, bytes=8).seconds(speeds) == (4.0, "memory")
    assert some.seconds(speeds._replace(exponentials=None)) == (2.0, "products")


def test_a_profile_of_a_device(stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_ceilings, "LARGE", 1 << 16)
    waits: list[Any] = []
    event = stand_in.event

    def counted() -> Any:
        waits.append(event())
        return waits[-1]

    monkeypatch.setattr(stand_in, "event", counted)
    model = new_model(d_model=16, n_layers=2)
    sequences = [np.arange(4, 40) % 256] * 4
    found = profile(model, sequences, [0] * 4, 0.0, "cuda")
    assert found.device == "cuda:0 (emulated)"
    assert {row.op for row in found.rows} == set(work(model.config, 1, 1))
    assert sum(row.forward + row.backward for row in found.rows) == pytest.approx(found.step)
    assert {row.bound for row in found.rows} <= {"products", "memory"}
    assert found.exponentials is None
    assert found.products > 0
    assert len(waits) > 2 * len(found.rows), "each op, forward and backward"


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
