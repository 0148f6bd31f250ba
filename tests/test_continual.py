"""EWC keeps what a model knew: Fisher data of data sets, and how much is forgotten."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import calmgrad
from calmgrad import continual
from calmgrad.continual import set_fisher
from calmgrad.data import Dataset
from calmgrad.errors import DivergedError, UsageError
from calmgrad.evaluation import compare, evaluate
from calmgrad.formats import ctds
from calmgrad.loop import Course, Plan, fit
from calmgrad.model import Model
from calmgrad.tokenizer import BOS, CWD, EOS, WORD


def lines(texts: list[str], head: int) -> Dataset:
    rows = [[BOS, head, *text.encode(), EOS] for text in texts]
    return Dataset(ctds.pack(rows, [1] * len(rows)))


# Two small languages, told apart by their second token.
COUNTING = lines(["one two three four", "two three four five", "three four five six"], CWD)
COLOURS = lines(["red green blue", "green blue red", "blue red green"], WORD)


def train(model: Model, data: Dataset, steps: int, strength: float = 0.0) -> None:
    plan = Plan(1000, 3, 5e-3, max_steps=steps)
    with calmgrad.Trainer(model, lr=5e-3, ewc_lambda=strength, threads=1) as trainer:
        fit(trainer, data, Course(plan, data.lengths))


@pytest.fixture(scope="module")
def counting() -> Model:
    """A model that can count, with the Fisher data of that."""
    model = calmgrad.new_model(d_model=32, n_layers=1, seed=0)
    train(model, COUNTING, 100)
    with calmgrad.Trainer(model, threads=1) as trainer:
        assert set_fisher(trainer, [COUNTING]) == 3
    return model


def copy(model: Model) -> Model:
    return Model(replace(model.data(), weights=model.weights.copy()))


def test_ewc_forgets_less(counting: Model) -> None:
    """And learns the new data all the same."""
    outcomes = []
    for strength in (0.0, 1e4):
        model = copy(counting)
        train(model, COLOURS, 60, strength)
        outcomes.append((compare(counting, model, COUNTING), compare(counting, model, COLOURS)))
    (plain_old, plain_new), (ewc_old, ewc_new) = outcomes
    assert plain_old.before.token_mean < 0.2
    assert plain_old.loss > 1.0  # forgotten without EWC
    assert ewc_old.loss < 0.35 * plain_old.loss
    for new in (plain_new, ewc_new):
        assert new.before.token_mean > 2
        assert new.after.token_mean < 0.5
        assert new.bits_per_byte is not None
        assert new.bits_per_byte < -2


def test_fisher_of_several_data_sets_is_that_of_all_their_sequences(
    counting: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, apart = copy(counting), copy(counting)
    rows = [tokens.tolist() for data in (COUNTING, COLOURS) for tokens, _ in data]
    with calmgrad.Trainer(together, threads=1) as trainer:
        trainer.compute_fisher(rows, [1] * len(rows))
    monkeypatch.setattr(continual, "AT_ONCE", 2)
    seen: list[tuple[int, int]] = []
    with calmgrad.Trainer(apart, threads=2) as trainer:
        count = set_fisher(trainer, [COUNTING, COLOURS], lambda *done: seen.append(done))
    assert count == 6
    assert seen == [(2, 6), (3, 6), (5, 6), (6, 6)]
    assert together.fisher is not None
    assert apart.fisher is not None
    np.testing.assert_allclose(apart.fisher, together.fisher, rtol=1e-6)
    assert apart.anchor is not None
    assert np.array_equal(apart.anchor, counting.weights)


def test_fisher_is_the_same_at_any_number_of_threads(counting: Model) -> None:
    found = []
    for threads in (1, 3):
        model = copy(counting)
        with calmgrad.Trainer(model, threads=threads) as trainer:
            set_fisher(trainer, [COUNTING, COLOURS])
        assert model.fisher is not None
        found.append(model.fisher.tobytes())
    assert found[0] == found[1]


def test_what_has_no_fisher_data(counting: Model) -> None:
    model = copy(counting)
    assert model.fisher is not None
    before = model.fisher.copy()
    with calmgrad.Trainer(model, threads=1) as trainer:
        with pytest.raises(ValueError, match="no sequence"):
            set_fisher(trainer, [])
        model.weights[:] = 1e30
        with pytest.raises(DivergedError, match="squared gradient is not finite"):
            set_fisher(trainer, [COLOURS])
    assert np.array_equal(model.fisher, before)


def test_a_sample() -> None:
    drawn = [COLOURS.sample(2, seed).rows.tolist() for seed in range(20)]
    assert {tuple(rows) for rows in drawn} == {(0, 1), (0, 2), (1, 2)}
    assert COLOURS.sample(9).rows.tolist() == [0, 1, 2]
    assert drawn[3] == COLOURS.sample(2, 3).rows.tolist()


def test_a_change_is_the_difference_of_two_evaluations(counting: Model) -> None:
    model = copy(counting)
    train(model, COLOURS, 3)
    change = compare(counting, model, COUNTING)
    assert change.before == evaluate(counting, COUNTING)
    assert change.loss == change.after.token_mean - change.before.token_mean > 0


def test_a_penalty_that_would_be_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [tokens.tolist() for tokens, _ in COLOURS]
    calmgrad.write_dataset("d.ctds", rows, [1] * len(rows))
    calmgrad.new_model(d_model=16, n_layers=1).save("m.cwgt")
    with pytest.raises(UsageError, match=r"m\.cwgt has no Fisher data; `calmgrad fisher` computes"):
        calmgrad.train(model="m.cwgt", dataset="d.ctds", ewc_lambda=10.0)
    with pytest.raises(UsageError, match="a new model has nothing to keep"):
        calmgrad.train(model="new", dataset="d.ctds", ewc_lambda=10.0)
    assert not Path("runs").exists()
