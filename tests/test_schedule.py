"""Learning rates against the formula of FORMATS §7, written out by hand."""

import math

import numpy as np
import pytest

from calmgrad.config import RULES
from calmgrad.loop import Course, Plan
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
    course = Course(Plan(epochs=2, batch_size=8, lr=1.0, warmup_steps=1), [9] * 20)
    assert course.steps == 6  # the last batch of each epoch is smaller
    assert course.schedule(RULES["c-engine"]).total == 6
    assert course.schedule(RULES["calm-mamba"]).total == 4
    assert course.schedule(RULES["calm-mamba"]).first_step == 0
    few = Course(Plan(epochs=2, batch_size=8, lr=1.0), [9] * 3)
    assert few.schedule(RULES["calm-mamba"]).total == 2


def test_max_steps_ends_run_and_schedule() -> None:
    course = Course(Plan(epochs=10, batch_size=8, lr=1.0, warmup_steps=1, max_steps=5), [9] * 800)
    assert course.steps == 5
    assert all(course.schedule(rules).total == 5 for rules in RULES.values())


@pytest.mark.parametrize("field", ["epochs", "batch_size", "max_steps", "batch_tokens"])
def test_a_plan_refuses_nothing_to_do(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} = 0"):
        Plan(**({"epochs": 1, "batch_size": 1, "lr": 1.0} | {field: 0}))  # type: ignore[arg-type]


PLANS = [
    Plan(epochs=3, batch_size=8, lr=1.0),
    Plan(epochs=3, batch_size=8, lr=1.0, shuffle=False),
    Plan(epochs=2, batch_size=8, lr=1.0, accumulation=3, seed=4),
    Plan(epochs=3, batch_size=1, lr=1.0, batch_tokens=100),
    Plan(epochs=2, batch_size=1, lr=1.0, batch_tokens=100, accumulation=2),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_every_epoch_sees_every_sequence_once(plan: Plan) -> None:
    lengths = np.random.default_rng(0).integers(4, 150, 77)
    course = Course(plan, lengths)
    orders: list[list[int]] = [[] for _ in range(plan.epochs)]
    for step in range(course.steps):
        epoch, batches = course.update(step)
        assert 1 <= len(batches) <= plan.accumulation
        for batch in batches:
            orders[epoch] += batch.tolist()
            if plan.batch_tokens is None:
                assert len(batch) <= plan.batch_size
            else:
                assert lengths[batch].sum() <= plan.batch_tokens or len(batch) == 1
        last = step + 1 == course.steps or course.update(step + 1)[0] != epoch
        assert course.ends_epoch(step) == last
    assert all(sorted(order) == list(range(77)) for order in orders)
    assert (orders[0] == orders[1]) == (not plan.shuffle)
    again = Course(plan, lengths)  # any update can be asked for, in any order
    for step in (course.steps - 1, 0, course.steps // 2):
        ours, theirs = again.update(step), course.update(step)
        assert ours[0] == theirs[0]
        assert all(np.array_equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))
