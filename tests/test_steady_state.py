"""After the largest batch was seen once, a training step asks for no memory.

Not for arrays: what NumPy allocates is counted by tracemalloc. And not for pages: the faults that
the system counts stay what Python's own small objects cause. Page faults were the largest single
cost of a step before there was an arena.
"""

import gc
import resource
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import calmgrad

TOKENS, COUNT, WIDTH = 256, 8, 128
SHARD = 2 * TOKENS
STEPS = 10
PAGE = 4096

Step = Callable[[], None]


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def step(request: pytest.FixtureRequest) -> Iterator[Step]:
    """A step of a trainer that has made some."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 256, TOKENS) for _ in range(COUNT)]
    model = calmgrad.new_model(d_model=WIDTH, n_layers=1)
    with calmgrad.Trainer(model, lr=1e-4, threads=request.param) as trainer:

        def one() -> None:
            trainer.step(sequences, [0] * COUNT)

        for _ in range(3):
            one()
        yield one


def test_no_array_of_a_step_is_allocated(step: Step) -> None:
    smallest = 4 * SHARD * WIDTH  # bytes of the residual stream of one shard
    gc.collect()
    tracemalloc.start()
    try:
        step()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            step()
        peak = tracemalloc.get_traced_memory()[1]
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert peak - before < smallest
    assert after - before < smallest / 10


def test_no_page_faults(step: Step) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(STEPS):
        step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    one_array = 4 * SHARD * WIDTH // PAGE  # pages
    assert faults < STEPS * one_array / 2
