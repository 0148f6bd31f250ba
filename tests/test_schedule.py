"""Learning rates against the formula of FORMATS §7, written out by hand."""

import math

import pytest

from calmgrad.config import RULES
from calmgrad.loop import Plan
from calmgrad.schedule import Schedule


def test_flat_without_warmup() -> None:
    assert [Schedule(0.1, total=9).at(u) for u in (0, 5, 99)] == [0.1] * 3


@pytest.mark.parametrize(("first", "expected"), [(1, 0.02), (0, 0.0)])
def test_first_update(first: int, expected: float) -> None:
    assert Schedule(0.1, 5, 20, 0.0, first).at(0) == pytest.approx(expected)


def test_rise_then_half_a_cosine() -> None:
    schedule = Schedule(1.0, warmup=4, total=10, min_lr=0.1)
    expected = [0.25, 0.5, 0.75, 1.0]
    expected += [0.1 + 0.45 * (1 + math.cos(math.pi * k / 6)) for k in range(1, 7)]
    assert [schedule.at(u) for u in range(10)] == pytest.approx(expected)
    assert schedule.at(9) == pytest.approx(0.1)
    assert schedule.at(50) == pytest.approx(0.1)


def test_rules_count_steps_differently() -> None:
    plan = Plan(epochs=2, batch_size=8, lr=1.0, warmup_steps=1)
    assert plan.steps(20) == 6  # the last batch of each epoch is smaller
    assert plan.schedule(20, RULES["c-engine"]).total == 6
    assert plan.schedule(20, RULES["calm-mamba"]).total == 4
    assert plan.schedule(20, RULES["calm-mamba"]).first_step == 0
    assert plan.schedule(3, RULES["calm-mamba"]).total == 2


def test_max_steps_ends_run_and_schedule() -> None:
    plan = Plan(epochs=10, batch_size=8, lr=1.0, warmup_steps=1, max_steps=5)
    assert plan.steps(800) == 5
    assert all(plan.schedule(800, rules).total == 5 for rules in RULES.values())


@pytest.mark.parametrize("field", ["epochs", "batch_size", "max_steps"])
def test_a_plan_refuses_nothing_to_do(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} = 0"):
        Plan(**({"epochs": 1, "batch_size": 1, "lr": 1.0} | {field: 0}))  # type: ignore[arg-type]
