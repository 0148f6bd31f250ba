"""Whole steps of an emulated device, recorded and replayed: the same bytes as one by one."""

import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad import buckets, device_update
from calmgrad.cutting import pack_targets
from calmgrad.device_update import DeviceUpdate
from calmgrad.errors import DivergedError, OutOfMemoryError
from calmgrad.replay import MOST, Replay
from calmgrad.update import Penalty
from calmgrad.worker import Worker
from tests.cuda_on_cpu.device import EmulatedDevice
from tests.cuda_on_cpu.fixtures import device, stand_in

__all__ = ["device", "stand_in"]
pytestmark = pytest.mark.filterwarnings("ignore:sequence . has no target")

THOROUGH = os.environ.get("CALMGRAD_TEST_PROFILE") == "thorough"

# Lengths of a batch's sequences, and where their targets begin: several batches of a bucket,
# several buckets, growing and shrinking; sequences without a target; and slots left empty.
BATCHES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((17, 5, 30), (0, 0, 0)),
    ((33, 16, 2), (0, 0, 0)),
    ((40, 40, 20, 9), (0, 3, 0, 0)),
    ((17, 5, 30), (9, 0, 29)),
    ((50,), (0,)),
    ((21, 12, 3), (20, 0, 0)),
    ((41, 38, 22, 8), (0, 0, 0, 0)),
    ((40, 40, 40, 40), (0, 0, 0, 0)),
    ((17, 5, 30), (9, 0, 29)),
    ((39, 39, 23, 8), (0, 0, 0, 0)),
    ((33, 16, 2), (0, 0, 0)),
]
# Which batches, in which order; before some of them the settings change.
ORDER = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0, 1, 3, 0, 1, 8, 0, 2, 1, 3, 0)
CLIP_AT, EWC_AT, DOUBLE_AT = 13, 16, 20
SHORT = (1, 3, 0, 3, 1, 3)  # where a step takes long


def batch(i: int) -> tuple[list[Any], tuple[int, ...]]:
    lengths, positions = BATCHES[i]
    rng = np.random.default_rng(i)
    return [rng.integers(1, 256, n) for n in lengths], positions


def small() -> calmgrad.Model:
    return calmgrad.new_model(d_model=8, n_layers=1, d_state=3, l_max=64)


def change(trainer: calmgrad.Trainer, i: int) -> None:
    """Settings are not the same at every step."""
    trainer.set_lr(3e-3 / (1 + i))
    trainer.grad_clip = 0.5 if i < CLIP_AT else 0.25
    if i == EWC_AT:
        trainer.compute_fisher(*batch(0))
        trainer.ewc_lambda = 5.0
    if i == DOUBLE_AT:
        trainer.ewc_lambda = 10.0


def trained(
    cuda_graph: bool | None, where: str = "cuda", order: Sequence[int] = ORDER, **options: Any
) -> dict[str, Any]:
    """Everything that a run on all batches leaves behind."""
    model, outcomes = small(), []
    with calmgrad.Trainer(model, device=where, cuda_graph=cuda_graph, **options) as trainer:
        for i, number in enumerate(order):
            change(trainer, i)
            trainer.step_later(*batch(number))
            if i % 4 == 0:
                outcomes += trainer.collect()
        outcomes += trainer.collect()
        found: dict[str, Any] = {
            name: buffer.copy() for name, buffer in trainer.checkpoint().buffers.items()
        }
        found |= {"weights": model.weights.copy(), "grads": trainer.grads.copy()}
        found["outcomes"] = np.array([(o.loss, o.norm) for o in outcomes])
        if where != "cpu":
            replay = replay_of(trainer)
            found["counts"] = (replay.recorded, replay.replayed)
        return found


def replay_of(trainer: calmgrad.Trainer) -> Replay:
    assert isinstance(trainer._update, DeviceUpdate)
    return trainer._update.replay


@cache
def eager() -> dict[str, Any]:
    """What a run leaves behind that is right."""
    return trained(False)


def assert_same(found: dict[str, Any], right: dict[str, Any]) -> None:
    for name, array in right.items():
        if name != "counts":
            assert array.tobytes() == found[name].tobytes(), name


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_replayed_as_one_by_one(stand_in: EmulatedDevice, optimizer: str) -> None:
    right = trained(False, optimizer=optimizer)
    found = trained(True, optimizer=optimizer)
    assert right["counts"] == (0, 0)
    recorded, replayed = found["counts"]
    assert recorded >= 6
    assert replayed >= 12
    assert_same(found, right)


def test_replayed_kernels(device: EmulatedDevice) -> None:
    """The same, of the CUDA kernels; all of it with CALMGRAD_TEST_PROFILE=thorough."""
    order = ORDER if THOROUGH or device.formulas else SHORT
    right, found = trained(False, order=order), trained(True, order=order)
    assert found["counts"][1] >= 3
    assert_same(found, right)


def test_as_on_the_cpu(stand_in: EmulatedDevice) -> None:
    right, found = trained(None, "cpu", eps=1e-2), trained(None, eps=1e-2)
    np.testing.assert_allclose(found["outcomes"], right["outcomes"], rtol=1e-5)
    moved = np.abs(right["weights"] - small().weights).max()
    assert np.abs(found["weights"] - right["weights"]).max() < 1e-3 * moved


@pytest.mark.parametrize("schedule", [1, 2, 3, 4, 9] if THOROUGH else [3])
def test_replayed_in_every_order_of_threads(device: EmulatedDevice, schedule: int) -> None:
    if device.formulas:
        pytest.skip("no threads")
    right = trained(False, order=SHORT[:2])
    device.schedule = schedule
    found = trained(True, order=(*SHORT[:1], *SHORT[:2]) if THOROUGH else SHORT[:2])
    assert_same(found, right)


def test_a_bucket_is_recorded_once(stand_in: EmulatedDevice) -> None:
    with calmgrad.Trainer(small(), device="cuda") as trainer:
        replay = replay_of(trainer)
        for _ in range(3):  # both seen, and memory has grown
            for i in (0, 7):
                trainer.step(*batch(i))
        before = replay.recorded
        for _ in range(3):
            for i in (0, 7, 1):
                trainer.step(*batch(i))
        assert replay.recorded == before
        assert replay.replayed >= 9


def test_steps_on_what_the_host_has_changed(stand_in: EmulatedDevice) -> None:
    """Weights, a checkpoint's count of steps, a step that failed: all reach a replayed step."""
    found = []
    for cuda_graph in (False, True):
        model = small()
        with calmgrad.Trainer(model, lr=1e-2, device="cuda", cuda_graph=cuda_graph) as trainer:
            for _ in range(3):
                trainer.step(*batch(0))
            state = trainer.checkpoint()
            for _ in range(2):
                trainer.step(*batch(0))
            trainer.restore(state)
            trainer.step(*batch(0))
            model.weights[3] = np.nan
            with pytest.raises(DivergedError):
                trainer.step(*batch(0))
            model.weights[3] = 0.5
            trainer.step(*batch(0))
            trainer.accumulate(batch(0)[0][0])
            trainer.update()
            trainer.step(*batch(0))
            found.append((model.weights.tobytes(), trainer.updates, trainer.grad_norm))
    assert found[0] == found[1]


def test_several_shards_are_not_recorded(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for bound in (1 << 20, 40):
        monkeypatch.setattr("calmgrad.memory.device_shard_tokens", lambda *_, b=bound: b)
        model = small()
        with calmgrad.Trainer(model, device="cuda") as trainer:
            losses = [trainer.step(*batch(2)) for _ in range(3)]
            counts = replay_of(trainer).replayed
        assert counts == (2 if bound > 40 else 0)
        found.append(losses)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_a_batch_without_a_target(stand_in: EmulatedDevice) -> None:
    with calmgrad.Trainer(small(), device="cuda") as trainer:
        assert trainer.step([[1, 2, 3]], [2]) == 0
        assert trainer.updates == 1


# --- a step that cannot be recorded ---------------------------------------------------------------


def test_a_step_that_cannot_be_recorded_goes_on_and_says_so(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = eager()
    add_losses = DeviceUpdate._add_losses

    def careless(self: DeviceUpdate, nll: Any, weights: Any, i: int) -> None:
        add_losses(self, nll, weights, i)
        float(nll[0])

    monkeypatch.setattr(DeviceUpdate, "_add_losses", careless)
    with pytest.warns(UserWarning, match="cannot be recorded") as told:
        found = trained(True)
    [message] = [str(w.message) for w in told if "no target" not in str(w.message)]
    assert "CaptureError: a read by the host" in message
    assert "slower" in message
    assert found["counts"] == (0, 0)
    assert_same(found, right)


def test_steps_are_recorded_again_after_memory_ran_out(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers give their memory back: a step that was done before has none to record."""
    with calmgrad.Trainer(small(), device="cuda") as trainer:
        for _ in range(3):
            trainer.step(*batch(0))
        add_losses = DeviceUpdate._add_losses

        def full(*_: Any) -> None:
            raise MemoryError("Out of memory")

        monkeypatch.setattr(DeviceUpdate, "_add_losses", full)
        with pytest.raises(OutOfMemoryError):
            trainer.step(*batch(2))
        monkeypatch.setattr(DeviceUpdate, "_add_losses", add_losses)
        replay = replay_of(trainer)
        for _ in range(3):
            trainer.step(*batch(0))
        assert (replay.recorded, replay.replayed) == (2, 4)
        found = trainer.model.weights.copy()
    with calmgrad.Trainer(small(), device="cuda", cuda_graph=False) as trainer:
        for _ in range(6):
            trainer.step(*batch(0))
        assert found.tobytes() == trainer.model.weights.tobytes()


def test_the_environment_switches_it_off(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(device_update.ENVIRONMENT, "0")
    assert trained(None)["counts"] == (0, 0)
    assert trained(True)["counts"] != (0, 0)
    monkeypatch.setenv(device_update.ENVIRONMENT, "perhaps")
    with pytest.raises(ValueError, match="CALMGRAD_CUDA_GRAPH='perhaps': expected 0 or 1"):
        trained(None)


def test_few_graphs_are_kept(stand_in: EmulatedDevice) -> None:
    with stand_in.active():
        replay, x = Replay(stand_in), stand_in.xp.zeros(1)
        for size in range(MOST + 3):
            for _ in range(2):
                replay.run(size, "here", lambda: x.fill(1))
        assert len(replay._graphs) == MOST
        recorded = replay.recorded
        replay.run(MOST + 2, "here", lambda: x.fill(1))
        assert replay.recorded == recorded
        replay.run(0, "here", lambda: x.fill(1))
        assert replay.recorded == recorded + 1


# --- buckets --------------------------------------------------------------------------------------


def test_at_most_a_sixteenth_is_filling() -> None:
    for count in range(1, 70_000, 7):
        rounded = buckets._rounded(count, 64)
        assert count <= rounded < count + max(64, count / 16)
    assert len({buckets._rounded(n, 64) for n in range(1, 65_537)}) < 120


def test_a_filled_shard() -> None:
    sequences, positions = batch(3)
    [shard], counts = pack_targets(sequences, positions, 10**6, True)
    seed = np.arange(1, counts.sum() + 1, dtype=np.float32)
    filled, weights, bucket = buckets.padded(shard, seed)
    packing, size = filled.packing, shard.tokens.size
    assert (bucket.tokens, bucket.sequences, bucket.rows) == (64, 8, 64)
    assert filled.tokens.size == packing.pos.size == bucket.tokens
    assert packing.offsets.size == bucket.sequences + 1
    assert packing.chunks == bucket.chunks
    assert (np.diff(packing.offsets) >= 0).all()
    assert (np.diff(packing.chunk_offsets) >= 0).all()
    assert packing.offsets[-1] == packing.chunk_offsets[-1] == bucket.tokens
    assert (filled.tokens[:size] == shard.tokens).all()
    given, rows = filled.questions()
    assert rows is not None
    assert (np.diff(rows) > 0).all()
    kept = weights > 0
    assert (weights[kept] == seed).all()
    assert (given[~kept] == -1).all()
    right, places = shard.questions()
    assert (given[kept] == right).all()
    assert places is not None
    assert (rows[kept] == places).all()


# --- mistakes -------------------------------------------------------------------------------------


def stale_inputs(patch: pytest.MonkeyPatch) -> None:
    place, seen = Worker.place, dict[Any, Any]()

    def careless(self: Worker, shard: Any, seed: Any) -> Any:
        key = (id(self), shard.tokens.size, seed is None or seed.size)
        if key not in seen:
            seen[key] = place(self, shard, seed)
        return seen[key]

    patch.setattr(Worker, "place", careless)


def rate_of_the_host(patch: pytest.MonkeyPatch) -> None:
    def careless(self: DeviceUpdate, p: Any, g: Any, penalty: Any, clip: float) -> None:
        rate = float(self._rate)  # type: ignore[attr-defined]
        self._optimizer.update_on_device(p, g, self._control, clip)
        self._kernels.sgd(p, g, 1.0, 0.1 * rate, 0.0)

    def prepare(self: DeviceUpdate, lr: float) -> None:
        self._rate = lr  # type: ignore[attr-defined]
        right(self, lr)

    right = DeviceUpdate._prepare
    patch.setattr(DeviceUpdate, "_prepare", prepare)
    patch.setattr(DeviceUpdate, "_change", careless)


def place_of_the_host(patch: pytest.MonkeyPatch) -> None:
    change = DeviceUpdate._change

    def careless(self: DeviceUpdate, *arguments: Any) -> None:
        change(self, *arguments)
        self._kept[self._count] = self._control[0:2]

    def keep(self: DeviceUpdate) -> None:
        self._count += 1
        self._optimizer.step += 1
        self._step_there = self._optimizer.step

    patch.setattr(DeviceUpdate, "_change", careless)
    patch.setattr(DeviceUpdate, "_keep", keep)


def loss_not_zeroed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeviceUpdate, "begin", lambda self: None)


def memory_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    run = Replay.run
    patch.setattr(Replay, "run", lambda self, sizes, _, work: run(self, sizes, (), work))


def numbers_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    run = Replay.run
    patch.setattr(Replay, "run", lambda self, sizes, place, work: run(self, sizes[0], place, work))


def strength_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Penalty, "told", lambda self: ())


def sequences_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    run = Replay.run

    def careless(self: Replay, sizes: Any, place: Any, work: Any) -> None:
        run(self, (sizes[0]._replace(rows=None), *sizes[1:]), place, work)

    patch.setattr(Replay, "run", careless)


MISTAKES: list[Callable[[pytest.MonkeyPatch], None]] = [
    stale_inputs, rate_of_the_host, place_of_the_host, loss_not_zeroed, memory_not_looked_at,
    numbers_not_looked_at, strength_not_looked_at, sequences_not_looked_at,
]  # fmt: skip


@pytest.mark.parametrize("plant", MISTAKES)
def test_mistakes_are_found(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., None]
) -> None:
    right = eager()
    plant(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):  # other bytes, or a crash
        assert_same(trained(True), right)


@pytest.mark.parametrize("weight", [0.0, 0.01])
def test_filling_that_counts_is_found(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    questions = buckets._questions

    def careless(*arguments: Any) -> Any:
        (targets, rows), weights = questions(*arguments)
        return (np.maximum(targets, 0), rows), np.where(targets < 0, np.float32(weight), weights)

    monkeypatch.setattr(buckets, "_questions", careless)
    if weight:
        with pytest.raises(AssertionError):
            test_as_on_the_cpu(stand_in)
    else:
        test_as_on_the_cpu(stand_in)


def test_nothing_is_said_where_nothing_is_wrong(stand_in: EmulatedDevice) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "sequence . has no target")
        trained(True)
