"""Training on a GPU does what it does on the CPU; here the GPU is emulated."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import calmgrad
from calmgrad import backend as backends
from calmgrad import buckets, memory
from calmgrad.errors import DivergedError, OutOfMemoryError
from calmgrad.gradient_check import gradcheck
from calmgrad.kernels.cuda.causal_conv1d import _grid
from calmgrad.layout import layout, views
from calmgrad.model import Model
from calmgrad.network import token_losses
from calmgrad.packing import Packing
from calmgrad.staging import LEAST, Staging
from calmgrad.tape import Tape, Tensor
from tests.cuda_on_cpu.array import DeviceArray
from tests.cuda_on_cpu.device import EmulatedDevice
from tests.cuda_on_cpu.fixtures import device, stand_in
from tests.cuda_on_cpu.stand_in import counted

__all__ = ["device", "stand_in"]

Batch = tuple[list[NDArray[np.int64]], list[int]]
Use = Callable[[calmgrad.Trainer], object]


def small(seed: int = 0, **sizes: int) -> Model:
    given: dict[str, Any] = {"d_model": 8, "n_layers": 1, "d_state": 3, "l_max": 40} | sizes
    return calmgrad.new_model(**given, seed=seed)


def batch(seed: int = 0, count: int = 3) -> Batch:
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 256, n) for n in rng.integers(4, 20, count)]
    return sequences, [int(rng.integers(0, s.size - 1)) for s in sequences]


def first_of_batch() -> tuple[NDArray[np.int64], int]:
    sequences, positions = batch()
    return sequences[0], positions[0]


def updated(trainer: calmgrad.Trainer) -> int:
    trainer.update()
    return trainer.updates


def with_ewc(trainer: calmgrad.Trainer) -> None:
    trainer.compute_fisher(*batch(5))
    assert trainer.model.anchor is not None
    trainer.model.anchor = trainer.model.anchor - np.float32(0.1)
    trainer.ewc_lambda = 5.0
    trainer.step(*batch())


USES: dict[str, Use] = {
    "step": lambda t: [t.step(*batch(i)) for i in range(3)],
    "accumulate": lambda t: [t.accumulate(*first_of_batch()), t.accumulate([1, 2]),
                             updated(t)],
    "contrastive": lambda t: [t.contrastive_step(batch()[0], batch(1)[0], pool=how)
                              for how in ("mean", "last")],
    "fisher": lambda t: t.compute_fisher(*batch()),
    "ewc": with_ewc,
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_as_on_the_cpu(device: EmulatedDevice, use: str, optimizer: str) -> None:
    found: list[Any] = []
    for where in ("cpu", "cuda"):
        model = small()
        # With a small eps Adam's first steps go by the sign of the gradient alone: where it is
        # almost 0, rounding would decide.
        options: dict[str, Any] = dict(lr=1e-2, optimizer=optimizer, eps=1e-2, grad_clip=0.5)
        with calmgrad.Trainer(model, device=where, **options) as trainer:
            told = USES[use](trainer)
            state = trainer.checkpoint()
            buffers = {name: np.array(x) for name, x in state.buffers.items()}
            found.append((told, model.weights.copy(), trainer.grads.copy(), trainer.grad_norm,
                          trainer.updates, model.fisher, buffers))  # fmt: skip
    cpu, gpu = found
    if use in ("step", "contrastive"):
        np.testing.assert_allclose(gpu[0], cpu[0], rtol=1e-5)
    assert gpu[4] == cpu[4]
    scale = np.abs(cpu[1] - small().weights).max()
    assert np.abs(gpu[1] - cpu[1]).max() <= 1e-3 * scale
    np.testing.assert_allclose(gpu[2], cpu[2], rtol=1e-3, atol=1e-5 * np.abs(cpu[2]).max())
    np.testing.assert_allclose(gpu[3], cpu[3], rtol=1e-5)
    if cpu[5] is not None:
        np.testing.assert_allclose(gpu[5], cpu[5], rtol=1e-3, atol=1e-5 * cpu[5].max())
    assert gpu[6].keys() == cpu[6].keys()
    for name, flat in cpu[6].items():
        largest = np.abs(flat).max()
        np.testing.assert_allclose(gpu[6][name], flat, rtol=1e-3, atol=1e-4 * largest)


def test_gradients_of_the_whole_network_in_float64(device: EmulatedDevice) -> None:
    """Against difference quotients, on the device's kernels."""
    config = small(d_model=6, d_state=2).config
    backend = backends.load("cuda")
    rng = np.random.default_rng(1)
    flat = rng.normal(0, 0.4, config.param_count)
    names = [entry.name for entry in layout(config)]
    lengths = [18, 5]
    asarray = backend.xp.asarray
    with backend.active():
        tokens = asarray(rng.integers(0, 256, 23))
        rows, targets = asarray(np.array([1, 4, 17, 20])), asarray(rng.integers(0, 256, 4))
        packing = Packing.of(lengths, backend.xp)

    def losses(*parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return token_losses(named, config, tokens, packing, targets, rows)

    arrays = [view.copy() for view in views(config, flat).values()]
    gradcheck(losses, *arrays, backend=backend, directions=1)


def test_a_step_asks_for_no_memory_and_reads_nothing(device: EmulatedDevice) -> None:
    model = small()
    with calmgrad.Trainer(model, device="cuda") as trainer:
        trainer.compute_fisher(*batch())
        trainer.ewc_lambda = 1.0
        for seed in range(2):  # the larger batch; then the arenas become one block
            trainer.step(*batch(seed))
        trainer.step(*batch(0))
        with counted(device) as counts:
            for _ in range(3):
                trainer.step_later(*batch(0))
        assert counts == {"empty": 0, "read": 0}
        with counted(device) as counts:
            assert len(trainer.collect()) == 3
        assert counts["read"] == 1
        with counted(device) as counts:
            trainer.contrastive_step_later(batch()[0], batch(1)[0])
        assert counts["read"] == 0


def test_the_count_counts(stand_in: EmulatedDevice) -> None:
    with counted(stand_in) as counts, stand_in.active():
        float(stand_in.xp.zeros(1)[0])
        stand_in.xp.empty(1).get()
        assert counts == {"empty": 2, "read": 2}
        assert isinstance(stand_in.xp.empty(1), DeviceArray)


def test_steps_may_wait_for_each_other(stand_in: EmulatedDevice) -> None:
    models = small(), small()
    with calmgrad.Trainer(models[0], device="cuda") as trainer:
        losses = [trainer.step(*batch(i)) for i in range(5)]
    with calmgrad.Trainer(models[1], device="cuda") as trainer:
        for i in range(5):
            trainer.step_later(*batch(i))
        assert (trainer.waiting, trainer.updates) == (5, 5)
        assert [outcome.loss for outcome in trainer.collect()] == losses
        assert trainer.waiting == 0
        for i in range(200):  # more than the device keeps
            trainer.step_later(*batch(i, 1))
        assert len(trainer.collect()) == 200
        assert trainer.collect() == []
    with calmgrad.Trainer(models[0], device="cpu") as trainer:
        trainer.step_later(*batch())
        assert [outcome.loss for outcome in trainer.collect()] == [pytest.approx(trainer_loss())]


def trainer_loss() -> float:
    model = small()
    with calmgrad.Trainer(model, device="cuda") as trainer:
        for i in range(5):
            trainer.step(*batch(i))
    losses = [model.loss(s, c) for s, c in zip(*batch(), strict=True)]
    return float(np.mean(losses))


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_step_that_fails_is_the_last(device: EmulatedDevice, where: str) -> None:
    model = small()
    with calmgrad.Trainer(model, lr=1e-3, device=where) as trainer:
        trainer.step(*batch())
        trainer.set_lr(1e30)
        trainer.step_later(*batch())  # the last that is finite
        trainer.set_lr(1e-3)
        for _ in range(3 if where == "cuda" else 1):
            trainer.step_later(*batch())
        outcomes = trainer.collect()
        assert [outcome.finite for outcome in outcomes] == [True, False]
        assert trainer.updates == 2
        before = model.weights.copy()
        with pytest.raises(DivergedError, match="expected finite numbers"):
            outcomes[1].check()
        with pytest.raises(DivergedError, match="expected finite numbers"):
            trainer.step(*batch())
        np.testing.assert_array_equal(model.weights, before)
        assert trainer.updates == 2
        origin = trainer.find_nan(*batch())
        assert origin is not None
        assert origin.phase == "forward"
        model.weights = small().weights
        assert np.isfinite(trainer.step(*batch()))  # and it goes on
        assert trainer.updates == 3
        assert np.abs(model.weights - small().weights).max() > 1e-4


def test_nothing_begins_after_a_step_that_is_known_to_have_failed(
    stand_in: EmulatedDevice,
) -> None:
    with calmgrad.Trainer(small(), lr=1e30, device="cuda") as trainer:
        for _ in range(64):
            trainer.step_later(*batch(0, 1))
        with pytest.raises(DivergedError):
            trainer.step_later(*batch(0, 1))
        assert [outcome.finite for outcome in trainer.collect()] == [True, False]
        assert trainer.updates == 1


def test_accumulation_behind_as_many_steps_as_the_device_keeps(stand_in: EmulatedDevice) -> None:
    found = []
    for where in ("cpu", "cuda"):
        model = small()
        with calmgrad.Trainer(model, device=where) as trainer:
            for i in range(64):
                trainer.step_later(*batch(i, 1))
            trainer.accumulate(*first_of_batch())
            for i in range(64):
                trainer.step_later(*batch(i, 1))
            trainer.accumulate(*first_of_batch())
            trainer.update()
            assert len(trainer.collect()) == 128
            found.append(model.weights.copy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


# --- host and device in step ------------------------------------------------------------------


def test_what_the_host_writes_counts_and_what_it_reads_is_new(stand_in: EmulatedDevice) -> None:
    model = small()
    at_first = model.weights
    with calmgrad.Trainer(model, lr=1e-2, device="cuda") as trainer:
        trainer.step(*batch())
        stale = at_first.copy()
        assert model.weights is at_first  # one buffer, brought up to date by asking
        assert np.abs(stale - at_first).max() > 1e-3
        model.weights[...] = small().weights
        trainer.set_lr(0.0)
        first = trainer.step(*batch())
        losses = [small().loss(s, c) for s, c in zip(*batch(), strict=True)]
        assert first == pytest.approx(np.mean(losses), rel=1e-5)
        model.parameters["ln_f.weight"][...] = 3
        assert trainer.step(*batch()) != pytest.approx(first, rel=1e-4)
        trainer.zero_grad()
        trainer.accumulate(*first_of_batch())
        gradient = trainer.grads.copy()
        assert gradient.any()
        assert np.shares_memory(trainer.get_grad("blocks.0.mixer.D"), trainer.grads)
        trainer.grads[...] *= 2
        trainer.set_lr(1e-3)
        trainer.update()
        assert trainer.grad_norm == pytest.approx(2 * np.linalg.norm(gradient), rel=1e-5)
        trainer.set_lr(1e-2)
        trainer.step(*batch())
    np.testing.assert_array_equal(model.weights, at_first)
    assert model.loss(batch()[0][0]) > 0


def test_ewc_data_are_kept_in_step(stand_in: EmulatedDevice) -> None:
    model = small()
    with calmgrad.Trainer(model, lr=0.0, device="cuda") as trainer:
        trainer.compute_fisher(*batch())
        trainer.ewc_lambda = 10.0
        trainer.step(*batch())
        plain = trainer.grads.copy()
        assert model.anchor is not None
        assert model.fisher is not None
        model.anchor += 0.5  # in place
        trainer.step(*batch())
        expected = plain + 10 * model.fisher * (model.weights - model.anchor)
        np.testing.assert_allclose(trainer.grads, expected, rtol=1e-4, atol=1e-6)
        gradient = trainer.grads.copy()
        model.fisher = np.repeat(model.fisher, 2)[::2].astype(np.float64)  # as a script may make it
        trainer.step(*batch())
        np.testing.assert_array_equal(trainer.grads, gradient)
        model.fisher = None
        trainer.step(*batch())
        np.testing.assert_allclose(trainer.grads, plain, atol=1e-7)


def test_arrays_of_a_device_are_taken(stand_in: EmulatedDevice) -> None:
    asarray = stand_in.xp.asarray
    sequences, positions = batch()
    with stand_in.active():
        there: Any = [asarray(s) for s in sequences]
    for array in there:
        array.__cuda_array_interface__ = {}
    losses = []
    for tokens in (sequences, there):
        with stand_in.active(), calmgrad.Trainer(small(), device="cuda") as trainer:
            losses.append(trainer.step(tokens, positions))
    assert losses[0] == losses[1]
    model = small()
    with stand_in.active():
        model.fisher = asarray(np.ones(model.config.param_count, np.float32))
    assert isinstance(model.fisher, np.ndarray)


def test_two_trainers_of_one_model(stand_in: EmulatedDevice) -> None:
    model, apart = small(), [small(), small()]
    with (
        calmgrad.Trainer(model, lr=1e-2, device="cuda") as one,
        calmgrad.Trainer(model, lr=1e-2, device="cuda") as two,
        calmgrad.Trainer(model, lr=1e-2, device="cpu") as three,
    ):
        with pytest.raises(ValueError, match="in use on cuda:0"):
            calmgrad.Trainer(model, device="cuda:1")
        for trainer in (one, three, two, three, one):
            trainer.step(*batch())
    with (
        calmgrad.Trainer(apart[0], lr=1e-2, device="cpu") as one,
        calmgrad.Trainer(apart[0], lr=1e-2, device="cpu") as two,
        calmgrad.Trainer(apart[0], lr=1e-2, device="cpu") as three,
    ):
        for trainer in (one, three, two, three, one):
            trainer.step(*batch())
    moved = np.abs(apart[0].weights - apart[1].weights).max()
    assert np.abs(model.weights - apart[0].weights).max() < 1e-3 * moved
    with calmgrad.Trainer(model, device="cuda:1") as trainer:
        assert trainer.told == "cuda:1 (emulated)"


# --- checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_checkpoint_goes_on_elsewhere(
    stand_in: EmulatedDevice,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    first: str,
    then: str,
) -> None:
    whole = small()
    with calmgrad.Trainer(whole, lr=1e-2, device=first) as trainer:
        expected = [trainer.step(*batch(i)) for i in range(4)]
    with calmgrad.Trainer(small(), lr=1e-2, device=first) as trainer:
        for i in range(2):
            trainer.step(*batch(i))
        trainer.accumulate([5, 6, 7])
        grads = trainer.grads.copy()
        trainer.save_checkpoint(tmp_path / "c", extra="mine")
    model = small(3)
    with caplog.at_level(logging.INFO), calmgrad.Trainer(model, device=then) as trainer:
        assert trainer.load_checkpoint(tmp_path / "c") == "mine"
        np.testing.assert_array_equal(trainer.grads, grads)
        assert (trainer.updates, trainer.lr) == (2, 1e-2)
        losses = [trainer.step(*batch(i)) for i in (2, 3)]
    np.testing.assert_allclose(losses, expected[2:], rtol=1e-5)
    moved = np.abs(whole.weights - small().weights).max()
    assert np.abs(model.weights - whole.weights).max() <= 1e-3 * moved
    said = f"the checkpoint was made on {first}, this is {then}"
    assert (said in caplog.text) == (first != then)
    if first == then:
        np.testing.assert_array_equal(model.weights, whole.weights)


# --- memory -----------------------------------------------------------------------------------


def test_a_batch_is_one_shard_as_far_as_memory_goes(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    data = batch(0, 400)
    for room in (1 << 34, 1 << 20):
        monkeypatch.setattr(stand_in, "memory", lambda room=room: (room, room))
        with calmgrad.Trainer(small(), device="cuda", threads=7) as trainer:
            assert trainer.threads == 1
            shards, _ = trainer.runner.pack_targets(*data)
            assert (len(shards) == 1) == (room > 1 << 30)
            rows = [row for shard in shards for row in shard.rows]
            assert rows == sorted(rows)
            assert all(shard.tokens.size <= 1024 for shard in shards if room < 1 << 30)
            trainer.step(*data)
            gradients.append(trainer.grads.copy())
    largest = np.abs(gradients[0]).max()
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-3, atol=1e-6 * largest)


def test_the_forecast_is_what_the_tapes_take(device: EmulatedDevice) -> None:
    model = small(d_model=32, n_layers=2, d_state=16)
    sequences = [np.arange(38) for _ in range(4)]
    with calmgrad.Trainer(model, device="cuda") as trainer:
        for _ in range(2):
            trainer.step(sequences, [0] * 4)
        [worker] = trainer.runner._workers
        needed = memory.activations(model.config, *buckets.sizes(4 * 37, 4))
        assert worker.held() == pytest.approx(needed, rel=0.1)


def test_a_shard_is_not_longer_than_a_grid_is_high() -> None:
    """CUDA's largest blockIdx.y is 65,534. Only the convolution counts tokens by it."""
    tokens = memory.device_shard_tokens(small().config, 1 << 50)
    assert _grid(np.lib.stride_tricks.as_strided(np.zeros(1), (tokens, 8), (0, 0)))[1] <= 65_535


def test_out_of_memory_says_what_would_fit(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    with calmgrad.Trainer(model, device="cuda") as trainer:
        trainer.step(*batch())
        before = model.weights.copy()
        free = 300_000
        empty: Any = type(stand_in.xp).empty

        def bounded(shape: Any, dtype: Any = float) -> Any:
            if np.prod(shape) * np.dtype(dtype).itemsize > free:
                raise MemoryError("Out of memory allocating 1,234 bytes")
            return empty(shape, dtype)

        monkeypatch.setattr(stand_in, "memory", lambda: (free, 1 << 34))
        monkeypatch.setattr(type(stand_in.xp), "empty", staticmethod(bounded))
        with pytest.raises(OutOfMemoryError) as told:
            trainer.step(*batch(0, 300))
        message = str(told.value)
        assert message.startswith("cuda:0 (emulated): out of memory: ")
        assert "(300 sequences) at once take about" in message
        tokens, count = map(int, re.findall(r" = (\d+)", message))
        assert 0 < count < 300
        assert told.value.exit_code == 7
        np.testing.assert_array_equal(model.weights, before)
        few = batch(0, count)
        assert sum(s.size for s in few[0]) < 1.5 * tokens
        assert np.isfinite(trainer.step(*few))  # what was said to fit does


# --- the model alone --------------------------------------------------------------------------


def test_forward_passes_of_a_model(device: EmulatedDevice) -> None:
    here, there = small(), small().to("cuda")
    assert (here.device, there.device) == ("cpu", "cuda:0 (emulated)")
    tokens = batch()[0]
    np.testing.assert_allclose(there.logits(tokens[0]), here.logits(tokens[0]), atol=1e-5)
    assert there.loss(tokens[0], 1) == pytest.approx(here.loss(tokens[0], 1), rel=1e-5)
    for how in ("mean", "last"):
        np.testing.assert_allclose(there.embed(tokens, how), here.embed(tokens, how), atol=1e-5)
    there.weights *= np.float32(1.5)  # seen by the next pass
    here.weights *= np.float32(1.5)
    np.testing.assert_allclose(there.logits(tokens[0]), here.logits(tokens[0]), atol=1e-5)
    prompt = [65, 66, 67]
    one, other = (m.generate(prompt, seed=1, max_tokens=5)[0].tokens for m in (here, there))
    assert one == other
    there.close()
    there.to("cpu")
    assert there.loss(tokens[0]) == here.loss(tokens[0])


def test_deep_forward_passes_move_what_is_kept(device: EmulatedDevice) -> None:
    """Without recording, each block's output is moved down over what is no longer needed."""
    here, there = small(n_layers=4), small(n_layers=4).to("cuda")
    tokens = batch(3)[0][0]
    np.testing.assert_allclose(there.logits(tokens), here.logits(tokens), atol=1e-5)


def test_what_is_kept_may_overlap_where_it_goes(stand_in: EmulatedDevice) -> None:
    with stand_in.active():
        tape = Tape(backends.load("cuda"), record=False)
        tape.empty((1, 16))
        mark = tape.values.mark()
        tape.empty((1, 16))
        x = tape.empty((5, 16))
        x.value[...] = stand_in.xp.asarray(np.arange(80.0).reshape(5, 16), "float32")
        kept = tape.keep(x, mark)
        np.testing.assert_array_equal(kept.value.get().ravel(), np.arange(80))


def test_staging(stand_in: EmulatedDevice) -> None:
    staging = Staging(stand_in)
    rng = np.random.default_rng(0)
    for count in (3, 700, 5, 40 * LEAST, 1, 0):
        arrays: list[Any] = [rng.integers(0, 99, count), rng.random(count).astype(np.float32),
                  rng.random(2 * count)]  # fmt: skip
        with stand_in.active():
            for array, sent in zip(arrays, staging.send(arrays), strict=True):
                assert sent.dtype == array.dtype
                np.testing.assert_array_equal(sent.get(), array)
