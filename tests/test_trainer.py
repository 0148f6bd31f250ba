"""The Trainer's promises, one by one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import calmgrad
from calmgrad import backend as backends
from calmgrad.cutting import pack_targets
from calmgrad.errors import CalmgradError, DivergedError, FileError
from calmgrad.layout import layout
from calmgrad.model import Model
from calmgrad.worker import Worker, loss_head

Batch = tuple[list[NDArray[np.int64]], list[int]]


def small(seed: int = 0, **sizes: int) -> Model:
    given: dict[str, Any] = {"d_model": 24, "n_layers": 2, "l_max": 200} | sizes
    return calmgrad.new_model(**given, seed=seed)


def batch(count: int = 9, seed: int = 0, longest: int = 120) -> Batch:
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 256, n) for n in rng.integers(4, longest, count)]
    return sequences, [int(rng.integers(0, s.size - 1)) for s in sequences]


def float64_gradient(model: Model, data: Batch, reduction: str) -> NDArray[np.float64]:
    """The batch's gradient through the reference kernels in float64, sequence by sequence."""
    worker = Worker(backends.load("reference"), model.config, model.weights.astype(np.float64))
    total = np.zeros(model.weights.size)
    targets = 0
    for tokens, position in zip(*data, strict=True):
        [shard], [count] = pack_targets([tokens], [position], 10**6)
        share = 1.0 if reduction == "token" else 1 / (count * len(data[0]))
        worker.run(shard, loss_head, np.full(count, share))
        total += worker.grads
        targets += count
    return total / targets if reduction == "token" else total


SHAPES = [
    {"d_state": 1, "d_conv": 1},
    {"d_state": 8, "d_conv": 2, "n_layers": 1},
    {"d_model": 17, "dt_rank": 5, "n_layers": 6},
    {"d_model": 33, "d_state": 23, "d_conv": 9, "expand": 1, "ffn_expand": 3},
    {"d_model": 8, "d_state": 255, "n_layers": 1},
    {"d_model": 1, "expand": 1, "ffn_expand": 1, "d_state": 2},
]


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_gradient_of_any_shape(sizes: dict[str, int], reduction: str) -> None:
    model, data = small(seed=2, **sizes), batch()
    expected = float64_gradient(model, data, reduction)
    with calmgrad.Trainer(model, lr=0.0, reduction=reduction, shard_tokens=100) as trainer:
        trainer.step(*data)
        for entry in layout(model.config):
            part = slice(entry.start, entry.stop)
            scale = np.abs(expected[part]).max()
            # A tensor whose gradient is far below the others' is checked against rounding.
            floor = 1e-6 * np.abs(expected).max()
            error = np.abs(trainer.grads[part] - expected[part]).max()
            assert error <= 1e-4 * scale + floor, entry.name


def test_loss_is_that_of_the_weights_before() -> None:
    model, data = small(), batch()
    losses = [model.loss(s, c) for s, c in zip(*data, strict=True)]
    with calmgrad.Trainer(model, lr=0.1) as trainer:
        assert trainer.step(*data) == pytest.approx(np.mean(losses), rel=1e-6)
        assert trainer.step(*data) < np.mean(losses)


def test_token_reduction_weighs_by_targets() -> None:
    model, data = small(), batch()
    counts = [len(s) - 1 - c for s, c in zip(*data, strict=True)]
    losses = [model.loss(s, c) for s, c in zip(*data, strict=True)]
    with calmgrad.Trainer(model, lr=0.0, reduction="token") as trainer:
        expected = np.average(losses, weights=counts)
        assert trainer.step(*data) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reduction", ["sequence", "token"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_accumulate_and_update_are_a_step(reduction: str, optimizer: str) -> None:
    data = batch()
    models = small(), small()
    options: dict[str, Any] = {"lr": 1e-2, "reduction": reduction, "optimizer": optimizer}
    with calmgrad.Trainer(models[0], **options) as trainer:
        trainer.step(*data)
    with calmgrad.Trainer(models[1], **options) as trainer:
        for tokens, position in zip(*data, strict=True):
            assert trainer.accumulate(tokens, position) == pytest.approx(
                models[1].loss(tokens, position), rel=1e-5
            )
        trainer.update()
        assert not trainer.grads.any()
    start = small().weights
    moved = [m.weights - start for m in models]
    difference = np.linalg.norm(moved[0] - moved[1]) / np.linalg.norm(moved[0])
    assert difference < (1e-4 if optimizer == "sgd" else 1e-2)


def test_step_forgets_what_was_accumulated() -> None:
    data, grads = batch(), []
    for accumulate in (False, True):
        with calmgrad.Trainer(small(), lr=0.0) as trainer:
            if accumulate:
                trainer.accumulate([65, 66, 67])
            trainer.step(*data)
            grads.append(trainer.grads.copy())
    np.testing.assert_array_equal(grads[0], grads[1])


def test_zero_grad_and_get_grad() -> None:
    model = small()
    with calmgrad.Trainer(model, lr=0.0) as trainer:
        trainer.step(*batch())
        for index, (name, value) in enumerate(model.parameters.items()):
            by_name, by_index = trainer.get_grad(name), trainer.get_grad(index)
            assert by_name.shape == value.shape
            assert by_name.any(), name
            np.testing.assert_array_equal(by_name, by_index)
            assert np.shares_memory(by_name, trainer.grads)
        trainer.zero_grad()
        assert not trainer.grads.any()
        with pytest.raises(KeyError, match="no parameter 'blocks"):
            trainer.get_grad("blocks.9.D")
        with pytest.raises(IndexError, match="expected 0 to 30"):
            trainer.get_grad(31)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_do_not_change_a_byte(threads: int) -> None:
    weights = []
    for count in (1, threads):
        model = small()
        with calmgrad.Trainer(model, lr=1e-2, threads=count, shard_tokens=64) as trainer:
            for seed in range(3):
                trainer.step(*batch(seed=seed))
            trainer.contrastive_step(batch(5)[0], batch(5, 1)[0])
            trainer.compute_fisher(*batch(4))
            assert trainer.fisher is not None
        weights.append(model.weights.tobytes() + trainer.fisher.tobytes())
    assert weights[0] == weights[1]


def test_shards_change_only_rounding() -> None:
    gradients = []
    for shard_tokens in (16, 10**6):
        with calmgrad.Trainer(small(), lr=0.0, shard_tokens=shard_tokens) as trainer:
            trainer.step(*batch())
            gradients.append(trainer.grads.copy())
    assert np.abs(gradients[0] - gradients[1]).max() < 1e-6 * np.abs(gradients[0]).max()


def test_clipping() -> None:
    data, moved = batch(), []
    for clip in (0.0, 1e-3):
        model = small()
        before = model.weights.copy()
        with calmgrad.Trainer(
            model, lr=1.0, optimizer="sgd", weight_decay=0, grad_clip=clip
        ) as trainer:
            trainer.step(*data)
            norm = np.linalg.norm(trainer.grads.astype(np.float64))
            assert trainer.grad_norm == pytest.approx(norm, rel=1e-6)
            assert norm > 0.1  # grads are those before clipping
        moved.append(np.linalg.norm(model.weights - before))
    assert moved[0] == pytest.approx(norm, rel=1e-3)
    assert moved[1] == pytest.approx(1e-3, rel=1e-2)


def test_a_sequence_without_targets_counts_and_is_said_once() -> None:
    sequences, positions = batch(3)
    with calmgrad.Trainer(small(), lr=0.0) as trainer:
        alone = trainer.step(sequences, positions)
        gradient = trainer.grads.copy()
        with pytest.warns(UserWarning, match="sequence 3 has no target") as said:
            loss = trainer.step([*sequences, [257, 259]], [*positions, 1])
        assert said[0].filename == __file__  # the line of the script, not one of ours
        assert loss == pytest.approx(alone * 3 / 4, rel=1e-6)
        np.testing.assert_allclose(trainer.grads, gradient * 0.75, rtol=1e-3, atol=1e-7)
        assert trainer.step([[257, 259]], [1]) == 0
        assert not trainer.grads.any()


@pytest.mark.parametrize(
    ("sequences", "positions", "message"),
    [
        ([], [], "0 sequences, 0 cmd_positions"),
        ([[65, 66]], [], "1 sequences, 0 cmd_positions"),
        ([[65, 66], [65] * 201], [0, 0], "sequence 1: 201 tokens, expected at most l_max = 200"),
        ([[65, 320]], [0], "sequence 0: token 320 at position 1: expected 0 to 319"),
        ([[65, 66]], [2], "sequence 0: cmd_pos 2, expected 0 to 1"),
        ([[65, 66]], [-1], "sequence 0: cmd_pos -1"),
        ([[]], [0], "sequence 0: shape"),
    ],
)
def test_bad_batches(sequences: list[Any], positions: list[int], message: str) -> None:
    model = small()
    before = model.weights.copy()
    with calmgrad.Trainer(model) as trainer:
        for use in (trainer.step, trainer.compute_fisher):
            with pytest.raises(ValueError, match=message):
                use(sequences, positions)
    np.testing.assert_array_equal(model.weights, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, "lr = -1.0: expected at least 0"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"beta2": 1.0}, "beta2 = 1.0: expected at least 0, below 1"),
        ({"eps": 0.0}, "eps = 0.0: expected above 0"),
        ({"grad_clip": -1.0}, "grad_clip = -1.0"),
        ({"reduction": "sum"}, "reduction 'sum': expected sequence or token"),
        ({"optimizer": "lion"}, "optimizer 'lion'"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"threads": -2}, "threads = -2"),
        ({"threads": 0}, "threads = 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calmgrad.Trainer(small(), **arguments)


def test_weights_that_are_not_finite_are_not_trained() -> None:
    model = small()
    model.parameters["blocks.1.mixer.D"][3] = np.nan
    with pytest.raises(FileError, match=r"blocks.1.mixer.D\[3\] is nan"):
        calmgrad.Trainer(model)


Use = Callable[[calmgrad.Trainer], object]


@pytest.mark.parametrize(
    "use",
    [
        lambda t: t.step(*batch()),
        lambda t: t.compute_fisher(*batch()),
        lambda t: (t.accumulate(batch()[0][0]), t.update()),
        lambda t: t.contrastive_step(batch(4)[0], batch(4, 1)[0]),
    ],
)
def test_divergence_leaves_the_weights(use: Use) -> None:
    model = small()
    with calmgrad.Trainer(model) as trainer:
        model.weights[5] = np.inf  # as an earlier update could have left it
        before = model.weights.copy()
        with pytest.raises(DivergedError):
            use(trainer)
        np.testing.assert_array_equal(model.weights, before)
        assert trainer.fisher is None


def test_a_huge_learning_rate_is_noticed_in_the_next_step() -> None:
    with calmgrad.Trainer(small(), lr=1e30) as trainer:
        trainer.step(*batch())
        with pytest.raises(DivergedError, match="expected finite"):
            trainer.step(*batch())


def test_fisher_is_the_mean_squared_gradient_of_each_sequence(tmp_path: Path) -> None:
    model, (sequences, positions) = small(), batch(4)
    squares = np.zeros(model.weights.size)
    with calmgrad.Trainer(model, lr=0.0) as trainer:
        for tokens, position in zip(sequences, positions, strict=True):
            trainer.step([tokens], [position])
            squares += trainer.grads.astype(np.float64) ** 2
        trainer.compute_fisher(sequences, positions)
        assert trainer.fisher is not None
        np.testing.assert_allclose(trainer.fisher, squares / 4, rtol=1e-4, atol=1e-12)
        np.testing.assert_array_equal(trainer.anchor, model.weights)
        assert trainer.anchor is not model.weights
        trainer.save(tmp_path / "ewc.cwgt")
    again = calmgrad.load_model(tmp_path / "ewc.cwgt")
    np.testing.assert_array_equal(again.fisher, model.fisher)
    np.testing.assert_array_equal(again.anchor, model.anchor)


def test_calm_mamba_rules() -> None:
    sequences, positions = batch(4)
    gradients = []
    for starts in (positions, [0] * 4):
        with calmgrad.Trainer(small(), lr=0.0, reduction="token") as trainer:
            trainer.step(sequences, starts)
            gradients.append(trainer.grads.astype(np.float64))
    parts = []
    with calmgrad.Trainer(small(), lr=0.0, rules="calm-mamba") as trainer:
        assert trainer.reduction == "token"
        trainer.step(sequences, positions)
        np.testing.assert_array_equal(trainer.grads, gradients[0])
        trainer.compute_fisher(sequences, positions)
        assert trainer.fisher is not None
        np.testing.assert_allclose(trainer.fisher, gradients[1] ** 2, rtol=1e-4, atol=1e-13)
        for tokens, position in zip(sequences, positions, strict=True):
            trainer.zero_grad()
            trainer.accumulate(tokens, position)
            parts.append(trainer.grads.copy())
    with calmgrad.Trainer(small(), lr=0.0, reduction="sequence") as trainer:
        trainer.step(sequences, positions)  # equal weights for unequal parts
        np.testing.assert_allclose(np.mean(parts, 0), trainer.grads, rtol=1e-3, atol=1e-7)
    with pytest.raises(ValueError, match="rules 'lua': expected c-engine or calm-mamba"):
        calmgrad.Trainer(small(), rules="lua")


def test_ewc_pulls_towards_the_anchor() -> None:
    model = small()
    with calmgrad.Trainer(model, lr=0.0) as trainer:
        trainer.compute_fisher(*batch(4))
        trainer.step(*batch(seed=1))
        plain = trainer.grads.copy()
    assert model.fisher is not None
    assert model.anchor is not None
    model.anchor -= np.float32(0.25)
    with calmgrad.Trainer(model, lr=0.0, ewc_lambda=10.0) as trainer:
        trainer.step(*batch(seed=1))
        expected = plain + 10.0 * model.fisher * (model.weights - model.anchor)
        np.testing.assert_allclose(trainer.grads, expected, rtol=1e-4, atol=1e-7)
        assert np.abs(expected - plain).max() > 1e-3
    with pytest.warns(UserWarning, match="no Fisher data"):
        calmgrad.Trainer(small(), ewc_lambda=1.0)


def test_contrastive_step_learns_and_is_bounded() -> None:
    queries, positives = batch(6, 3, 30)[0], batch(6, 4, 60)[0]
    model = small()
    with calmgrad.Trainer(model, lr=3e-3, shard_tokens=32) as trainer:
        first = trainer.contrastive_step(queries, positives, temperature=0.1, pool="last")
        for _ in range(30):
            last = trainer.contrastive_step(queries, positives, temperature=0.1, pool="last")
        assert last < 0.2 * first
        before = model.weights.copy()
        trainer.set_lr(0.0)
        assert trainer.contrastive_step(queries[:1], positives[:1]) == pytest.approx(0, abs=1e-6)
        np.testing.assert_array_equal(model.weights, before)
        with pytest.raises(ValueError, match="2 queries, 1 positives"):
            trainer.contrastive_step(queries[:2], positives[:1])
        with pytest.raises(ValueError, match="positive 0: token 999"):
            trainer.contrastive_step([[65]], [[999]])


def test_the_readme_of_the_lua_api_carries_over(tmp_path: Path) -> None:
    model = calmgrad.new_model(
        d_model=64, n_layers=3, ffn_expand=2, expand=2, d_state=16, d_conv=4, l_max=64, seed=42
    )
    trainer = calmgrad.Trainer(model, lr=1e-3, optimizer="adam")
    sequence = [calmgrad.BOS, calmgrad.ATN, calmgrad.CMD, 103, 105, 116, calmgrad.EOS]
    losses = [trainer.step([sequence], [1]) for _ in range(150)]
    assert losses[0] > 5
    assert losses[-1] < 0.1
    trainer.save(tmp_path / "my_model.cwgt")
    trainer.close()
    model.close()
    assert calmgrad.load_model(tmp_path / "my_model.cwgt").loss(sequence, 1) < 0.1


def test_a_closed_trainer_says_so() -> None:
    model = small()
    trainer = calmgrad.Trainer(model)
    trainer.close()
    trainer.close()
    with pytest.raises(CalmgradError, match="the trainer is closed"):
        trainer.get_grad(0)
    with pytest.raises(CalmgradError, match="the trainer is closed"):
        trainer.step(*batch())
    with pytest.raises(CalmgradError, match="the trainer is closed"):
        trainer.zero_grad()
    with pytest.raises(CalmgradError, match="the trainer is closed"):
        _ = trainer.grads
    assert model.loss([65, 66]) > 0


def test_a_closed_trainer_still_knows_its_updates() -> None:
    with calmgrad.Trainer(small()) as trainer:
        trainer.step(*batch())
        trainer.step(*batch())
    assert (trainer.updates, trainer.waiting, trainer.collect()) == (2, 0, [])


def test_after_the_first_step_nothing_is_allocated() -> None:
    with calmgrad.Trainer(small(), lr=1e-3, threads=1) as trainer:
        trainer.step(*batch())
        tape = trainer.runner._workers[0].tape
        before = (tape.values.capacity, tape.pool.arena.capacity)
        addresses = [b.ctypes.data for b in tape.values._blocks + tape.pool.arena._blocks]
        trainer.step(*batch())
        addresses_after = [b.ctypes.data for b in tape.values._blocks + tape.pool.arena._blocks]
        for _ in range(3):
            trainer.step(*batch())
        assert (tape.values.capacity, tape.pool.arena.capacity) == before
        assert addresses_after == [
            b.ctypes.data for b in tape.values._blocks + tape.pool.arena._blocks
        ]
        assert len(addresses) >= 2


def test_blas_is_put_back_by_the_last_one_out() -> None:
    from threadpoolctl import threadpool_info

    from calmgrad.backend import one_blas_thread

    def counts() -> set[int]:
        return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}

    before = counts()
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert counts() == {1}
    second.__exit__(None, None, None)
    assert counts() == before


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = small()
    with calmgrad.Trainer(model) as trainer:
        trainer.save(tmp_path / "m.cwgt")
        before = (tmp_path / "m.cwgt").read_bytes()
        model.weights[7] = np.inf
        with pytest.raises(DivergedError, match="not written"):
            trainer.save(tmp_path / "m.cwgt")
    assert (tmp_path / "m.cwgt").read_bytes() == before
