"""The engine against float64 vectors made by another implementation of FORMATS §1 and §7."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import calmgrad
from calmgrad import backend as backends
from calmgrad.cutting import pack, pack_targets
from calmgrad.layout import layout, views
from calmgrad.model import Model
from calmgrad.worker import Head, Worker, embedding_head, loss_head

HERE = Path(__file__).parent / "golden"
CASES = ["tiny", "odd"]


class Golden:
    """One case: a model and what it must give."""

    def __init__(self, name: str) -> None:
        self.path = HERE / f"{name}.cwgt"
        self.arrays = dict(np.load(HERE / f"{name}.npz"))
        self.cmd_positions = [int(p) for p in self.arrays["cmd_positions"]]
        count = len(self.cmd_positions)
        self.sequences = [self.arrays[f"tokens_{i}"].astype(np.int64) for i in range(count)]

    def model(self) -> Model:
        return calmgrad.load_model(self.path)


@pytest.fixture(params=CASES, scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def worst(actual: NDArray[Any], expected: NDArray[Any], model: Model) -> tuple[float, str]:
    """Largest error of any parameter, relative to that parameter's own largest value."""
    errors = []
    for entry in layout(model.config):
        a, b = (x[entry.start : entry.stop].astype(np.float64) for x in (actual, expected))
        errors.append((float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)), entry.name))
    return max(errors)


def test_names_shapes_and_order(golden: Golden) -> None:
    parameters = golden.model().parameters
    assert list(parameters) == list(golden.arrays["param_names"])
    assert [str(v.shape) for v in parameters.values()] == list(golden.arrays["param_shapes"])


def test_a_saved_model_is_the_file_it_came_from(golden: Golden, tmp_path: Path) -> None:
    golden.model().save(tmp_path / "again.cwgt")
    assert (tmp_path / "again.cwgt").read_bytes() == golden.path.read_bytes()


def test_forward(golden: Golden) -> None:
    model, arrays = golden.model(), golden.arrays
    for i, tokens in enumerate(golden.sequences):
        np.testing.assert_allclose(model.logits(tokens), arrays[f"logits_{i}"], atol=5e-6)
        for how in ("mean", "last"):
            expected = arrays[f"embed_{how}_{i}"]
            np.testing.assert_allclose(model.embed(tokens, pool=how), expected, atol=5e-6)
        loss = model.loss(tokens, golden.cmd_positions[i])
        assert loss == pytest.approx(arrays["loss_per_sequence"][i], rel=1e-6)


class Exact:
    """The whole network in float64: errors of a formula have no rounding to hide behind."""

    def __init__(self, golden: Golden, name: Any) -> None:
        self.model = golden.model()
        self.weights = self.model.weights.astype(np.float64)
        self.worker = Worker(backends.load(name), self.model.config, self.weights)

    def gradient(self, shards: Any, head: Head, seeds: Any) -> NDArray[np.float64]:
        total = np.zeros_like(self.weights)
        for shard, seed in zip(shards, seeds, strict=True):
            self.worker.run(shard, head, seed)
            total += self.worker.grads
        return total


@pytest.mark.parametrize("name", backends.NAMES)
@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_gradient_in_float64(golden: Golden, name: str, reduction: str) -> None:
    exact = Exact(golden, name)
    shards, counts = pack_targets(golden.sequences, golden.cmd_positions, 20)
    assert len(shards) > 1
    share = 1 / (counts * len(counts)) if reduction == "sequence" else 1 / np.full(4, counts.sum())
    seeds = [np.repeat(share[s.rows], s.target_counts()) for s in shards]
    gradient = exact.gradient(shards, loss_head, seeds)
    error, parameter = worst(gradient, golden.arrays[f"grad_{reduction}_mean"], exact.model)
    assert error < 1e-9, parameter


@pytest.mark.parametrize("name", backends.NAMES)
def test_infonce_gradient_in_float64(golden: Golden, name: str) -> None:
    pairs = int(golden.arrays["infonce_pairs"])
    if pairs < 2:
        pytest.skip("one pair: the gradient is 0")
    exact = Exact(golden, name)
    [shard] = pack(golden.sequences[: 2 * pairs], shard_tokens=1000)
    head = embedding_head("mean")
    rows = exact.worker.run(shard, head, None)
    q, p = rows[:pairs], rows[pairs:]
    scores = q @ p.T / 0.07
    softmax = [np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in (scores, scores.T)]
    dscores = (softmax[0] + softmax[1].T - 2 * np.eye(pairs)) / (2 * pairs * 0.07)
    gradient = exact.gradient([shard], head, [np.concatenate([dscores @ p, dscores.T @ q])])
    assert worst(gradient, golden.arrays["infonce_grad"], exact.model)[0] < 1e-9


def test_trainer_gradients_fisher_and_losses(golden: Golden) -> None:
    model, arrays = golden.model(), golden.arrays
    count = len(golden.sequences)
    with calmgrad.Trainer(model, lr=1e-3) as trainer:
        for tokens, position in zip(golden.sequences, golden.cmd_positions, strict=True):
            trainer.accumulate(tokens, position)
        error, name = worst(trainer.grads / count, arrays["grad_sequence_mean"], model)
        assert error < 2e-5, name
        trainer.compute_fisher(golden.sequences, golden.cmd_positions)
        assert trainer.fisher is not None
        assert worst(trainer.fisher, arrays["fisher"], model)[0] < 4e-5
        losses, norms = [], []
        for _ in range(5):
            losses.append(trainer.step(golden.sequences, golden.cmd_positions))
            norms.append(trainer.grad_norm)
    np.testing.assert_allclose(losses, arrays["adamw_losses"], rtol=1e-5)
    np.testing.assert_allclose(norms, arrays["adamw_grad_norms"], rtol=1e-4)
    moved = model.weights - golden.model().weights
    expected = arrays["adamw_params_after_5"] - golden.model().weights
    assert np.linalg.norm(moved - expected) < 1e-3 * np.linalg.norm(expected)


def test_contrastive_step(golden: Golden) -> None:
    model, arrays = golden.model(), golden.arrays
    pairs = int(arrays["infonce_pairs"])
    queries, positives = golden.sequences[:pairs], golden.sequences[pairs : 2 * pairs]
    with calmgrad.Trainer(model, lr=0.0, shard_tokens=8) as trainer:
        loss = trainer.contrastive_step(queries, positives)
        assert loss == pytest.approx(float(arrays["infonce_loss"]), rel=2e-5, abs=1e-6)
        if pairs > 1:
            assert worst(trainer.grads, arrays["infonce_grad"], model)[0] < 1e-4
        else:
            assert not trainer.grads.any()


def test_nano_when_the_shared_folder_is_there(shared: Path) -> None:
    arrays = dict(np.load(shared / "golden" / "nano.npz"))
    model = calmgrad.load_model(shared / "golden" / "nano.cwgt")
    positions = [int(p) for p in arrays["cmd_positions"]]
    sequences = [arrays[f"tokens_{i}"] for i in range(len(positions))]
    for i, tokens in enumerate(sequences):
        np.testing.assert_allclose(model.logits(tokens), arrays[f"logits_{i}"], atol=2e-5)
    with calmgrad.Trainer(model, lr=0.0) as trainer:
        trainer.step(sequences, positions)
        error, name = worst(trainer.grads, arrays["grad_sequence_mean"], model)
    assert error < 5e-5, name


def test_views_share_the_flat_buffer(golden: Golden) -> None:
    model = golden.model()
    model.weights[:] = 3
    assert all((v == 3).all() for v in views(model.config, model.weights).values())
    assert all((v == 3).all() for v in model.parameters.values())
