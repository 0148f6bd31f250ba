"""Cutting and summing: nothing lost, nothing counted twice, the same bytes at any thread count."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calmgrad import backend as backends
from calmgrad import new_model
from calmgrad.cutting import SMALL_BATCH, Shard, cut, pack, pack_targets
from calmgrad.shards import Runner, default_threads
from calmgrad.tape import Tensor
from calmgrad.tokenizer import PAD
from calmgrad.worker import logits_head, loss_head

lengths = st.lists(st.integers(1, 900), min_size=1, max_size=80)


@given(lengths, st.integers(1, 700))
def test_every_sequence_is_in_one_shard(sizes: list[int], shard_tokens: int) -> None:
    shards = cut(sizes, shard_tokens)
    assert sorted(i for shard in shards for i in shard) == list(range(len(sizes)))
    assert all(shards)


@given(lengths)
def test_shards_are_balanced_and_bounded(sizes: list[int]) -> None:
    short = [n for n in sizes if n < 512]
    for shard in cut(sizes, 512):
        tokens = sum(sizes[i] for i in shard)
        if len(shard) > 1:  # the emptiest shard was not above the mean when the last one came
            assert tokens <= sum(short) / max(1, sum(short) // 512) + max(short)
            assert tokens < 2 * 512
        else:
            assert tokens == sizes[shard[0]]


@given(lengths)
def test_two_threads_have_equal_work(sizes: list[int]) -> None:
    short = [n for n in sizes if n < 512]
    if sum(short) >= SMALL_BATCH and len(short) > 2 * -(-sum(short) // 512):
        assert len(cut(sizes, 512)) % 2 == 0


def test_a_long_sequence_is_alone() -> None:
    assert [2] in cut([10, 10, 600, 10], 512)


def test_pack_puts_tokens_in_place() -> None:
    sequences = [np.arange(n) + 10 * n for n in (3, 0, 5)]
    shards = pack(sequences, shard_tokens=100)
    assert [s.rows for s in shards] == [[0, 2]]
    assert shards[0].tokens.tolist() == [30, 31, 32, 50, 51, 52, 53, 54]
    assert shards[0].packing.offsets.tolist() == [0, 3, 8]


def test_targets() -> None:
    sequences = [np.array([257, 65, 259, 66, PAD, 258]), np.array([257, 259])]
    shards, counts = pack_targets(sequences, [2, 1])
    # position 2 (ATN) predicts 66, 3 nothing (PAD), 4 predicts EOS; the second has no target
    assert counts.tolist() == [2, 0]
    assert [s.rows for s in shards] == [[0]]
    assert shards[0].tokens.tolist() == [257, 65, 259, 66, PAD]
    assert shards[0].targets is not None
    assert shards[0].targets.tolist() == [-1, -1, 66, -1, 258]


def batch(seed: int = 0) -> tuple[list[Any], list[int]]:
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 256, n) for n in rng.integers(2, 150, 23)]
    return sequences, [int(rng.integers(0, s.size - 1)) for s in sequences]


def adding_to(total: Any) -> Callable[[Any, int], None]:
    def add(grads: Any, _: int) -> None:
        total[...] += grads

    return add


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_same_bytes_at_any_thread_count(threads: int) -> None:
    model = new_model(d_model=24, n_layers=2, seed=1)
    shards, _ = pack_targets(*batch(), shard_tokens=128)
    assert len(shards) > threads
    totals, outputs = [], []
    for count in (1, threads):
        runner = Runner(backends.load("cpu"), model.config, model.weights, count)
        total = np.zeros_like(model.weights)
        seeds = [np.ones(s.target_counts().sum(), np.float32) for s in shards]
        outputs.append(runner.run(shards, loss_head, seeds, adding_to(total)))
        totals.append(total)
        runner.close()
    assert totals[0].tobytes() == totals[1].tobytes()
    assert [o.tobytes() for o in outputs[0]] == [o.tobytes() for o in outputs[1]]
    assert totals[0].any()


def test_gradients_are_added_in_order() -> None:
    model = new_model(d_model=16, n_layers=1)
    shards, _ = pack_targets(*batch(), shard_tokens=64)
    runner = Runner(backends.load("cpu"), model.config, model.weights, 3)
    order: list[int] = []
    seeds = [np.ones(s.target_counts().sum(), np.float32) for s in shards]
    runner.run(shards, loss_head, seeds, lambda _, i: order.append(i))
    assert order == list(range(len(shards)))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_one_shard_ends_all(threads: int) -> None:
    model = new_model(d_model=16, n_layers=1)
    shards, _ = pack_targets(*batch(), shard_tokens=64)
    runner = Runner(backends.load("cpu"), model.config, model.weights, threads)

    def head(parameters: Any, config: Any, shard: Shard) -> Tensor:
        if shard is shards[3]:
            raise RuntimeError("shard three")
        return loss_head(parameters, config, shard)

    seeds = [np.ones(s.target_counts().sum(), np.float32) for s in shards]
    done = threading.Event()

    def run() -> None:
        with pytest.raises(RuntimeError, match="shard three"):
            runner.run(shards, head, seeds, lambda *_: None)
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert done.is_set(), "a worker waits for a shard that will never come"


def test_nobody_is_at_work_after_a_ctrl_c() -> None:
    model = new_model(d_model=16, n_layers=1)
    shards, _ = pack_targets(*batch(), shard_tokens=64)
    seeds = [np.ones(s.target_counts().sum(), np.float32) for s in shards]
    runner = Runner(backends.load("cpu"), model.config, model.weights, 2)
    interrupted = threading.Lock()
    at_work = 0

    def head(parameters: Any, config: Any, shard: Shard) -> Tensor:
        nonlocal at_work
        at_work += 1
        if interrupted.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)  # which the main thread gets
            time.sleep(0.1)
        at_work -= 1
        return loss_head(parameters, config, shard)

    with pytest.raises(KeyboardInterrupt):
        runner.run(shards, head, seeds, lambda *_: None)
    assert at_work == 0  # or the next batch would share a worker's memory with this one
    expected = np.zeros_like(model.weights)
    alone = Runner(backends.load("cpu"), model.config, model.weights, 1)
    alone.run(shards, loss_head, seeds, adding_to(expected))
    total = np.zeros_like(model.weights)
    runner.run(shards, loss_head, seeds, adding_to(total))
    assert total.tobytes() == expected.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    model = new_model(d_model=16, n_layers=1)
    shards, _ = pack_targets(*batch(), shard_tokens=64)
    runner = Runner(backends.load("cpu"), model.config, model.weights, 2)
    runner.run(shards, loss_head)
    process = multiprocessing.get_context("fork").Process(
        target=runner.run, args=(shards, loss_head)
    )
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0, "it waits for threads that only its parent has"


def test_when_an_error_is_told_no_thread_is_at_work() -> None:
    """Who catches it may use the runner again, and its threads have tapes of their own only."""
    model = new_model(d_model=32, n_layers=1)
    runner = Runner(backends.load("cpu"), model.config, model.weights, 2)
    shards = runner.pack([np.arange(20), np.arange(30)], 1)
    begun, ended = threading.Event(), []

    def keep(output: Any, _: Any, i: int) -> None:
        if i == 0:
            assert begun.wait(60)
            raise InterruptedError
        begun.set()
        time.sleep(0.1)
        ended.append(i)

    with pytest.raises(InterruptedError):
        runner.run(shards, logits_head, keep=keep)
    assert ended == [1]
    runner.close()


def test_memory_is_bounded_by_the_shard() -> None:
    model = new_model(d_model=16, n_layers=1)
    runner = Runner(backends.load("cpu"), model.config, model.weights, 1)
    sizes = []
    for count in (16, 128):
        sequences = [np.full(64, 65) for _ in range(count)]
        shards, _ = pack_targets(sequences, [0] * count)
        seeds = [np.ones(s.target_counts().sum(), np.float32) for s in shards]
        runner.run(shards, loss_head, seeds, lambda *_: None)
        tape = runner._workers[0].tape
        sizes.append((tape.values.capacity, tape.pool.arena.capacity))
    assert sizes[0] == sizes[1]


def test_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALMGRAD_NUM_THREADS", "5")
    assert default_threads() == 5
    monkeypatch.setenv("CALMGRAD_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="CALMGRAD_NUM_THREADS='many'"):
        default_threads()
