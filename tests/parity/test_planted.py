"""Mistakes planted in another engine: parity names the op that is wrong, in 95 of 100 at least."""

import types
import warnings
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest

from calmgrad.config import ModelConfig
from calmgrad.formats.dump import Dump
from calmgrad.layout import initial_weights, layout
from calmgrad.parity.report import Report, check
from calmgrad.trace import trace
from tests.parity.engine import Array, Batch, Engine, Settings
from tests.parity.planted import PLANTED, Planted

CONFIG = ModelConfig(16, 2, 2, 2, d_state=4, dt_rank=3)
SEQUENCES = [
    [257, 65, 66, 65, 259, 67, 68, 256, 65, 258],
    [257, *b"git add . && git ci", 258],
    [257, *b"ls ls", 259, *b"x", 258],
]
POSITIONS = [4, 0, 6]


def weights(dtype: str = "float64") -> Array:
    """Values far from the initial ones, so that every term of every formula counts."""
    rng = np.random.default_rng(0)
    flat = initial_weights(CONFIG, 0) + rng.normal(0, 0.15, CONFIG.param_count)
    for entry in layout(CONFIG):
        if entry.name.endswith("dt_proj.bias"):  # dt on both sides of every threshold
            flat[entry.start : entry.stop] = rng.uniform(-5, 4, entry.stop - entry.start)
    return flat.astype(np.float32).astype(dtype)


def passed(dtype: str, mistake: Planted | None = None) -> Engine:
    """The other engine's pass, with a mistake in it."""
    engine = Engine(CONFIG, weights(dtype), Batch(SEQUENCES, POSITIONS))
    if mistake is not None:
        setattr(engine, mistake.method, types.MethodType(mistake.wrong, engine))
    with np.errstate(all="ignore"):
        engine.forward()
        engine.backward()
    return engine


def dumped(dtype: str, mistake: Planted | None = None) -> Dump:
    if mistake is not None and mistake.direction == "update":
        return updated(dtype, mistake)
    return passed(dtype, mistake).dump()


def updated(dtype: str, mistake: Planted | None = None) -> Dump:
    """The flat buffers of an update, with what was read."""
    engine = passed(dtype)
    if mistake is not None:
        setattr(engine, mistake.method, types.MethodType(mistake.wrong, engine))
    read = {k: x for k, x in engine.dump().arrays.items() if k in ("tokens", "offsets")}
    read["cmd_positions"] = np.array(POSITIONS)
    with np.errstate(all="ignore"):
        flat = engine.update(Settings())
    return Dump({**read, **flat}, asdict(Settings()))


def checked(dump: Dump) -> Report:
    return check(dump, CONFIG, weights(), run=False)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Some mistakes overflow; that is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_engine_without_mistakes_is_right(dtype: str) -> None:
    """Both engines agree; and with them the formulas that parity makes values again by."""
    engine = passed(dtype)
    report = checked(engine.dump())
    assert report.ok, report.sentence()
    assert len(report.rows) > 100
    assert not report.ignored
    assert checked(updated(dtype)).ok
    mine = trace(CONFIG, weights(), SEQUENCES, POSITIONS, backend="reference", dtype="float64")
    np.testing.assert_allclose(engine.v["loss"], mine.loss, rtol=1e-6)
    np.testing.assert_allclose(engine.flat(engine.dp), mine.grads, rtol=1e-3, atol=1e-6)


def test_there_are_enough_mistakes() -> None:
    assert len(PLANTED) >= 150
    assert len({(m.method, m.label) for m in PLANTED}) == len(PLANTED)


@pytest.mark.parametrize("half", [0, 1])
def test_the_wrong_op_is_named(half: int) -> None:
    """The first op that differs, and in which direction, is the one with the mistake.

    Every other mistake in float32, as engines compute, the rest in float64.
    """
    missed, told = [], 0
    chosen = PLANTED[half::2]
    for i, mistake in enumerate(chosen):
        first = checked(dumped(("float32", "float64")[i % 2], mistake)).first
        if first is None or (first.op, first.direction) != (mistake.op, mistake.direction):
            got = None if first is None else (first.op, first.direction)
            missed.append(f"{mistake.label}: {got}, expected {mistake.op}, {mistake.direction}")
        told += first is not None and first.likely is not None
    assert len(missed) <= len(chosen) // 20, missed  # 95 of 100
    assert told >= 0.85 * len(chosen)  # and mostly what it does instead
