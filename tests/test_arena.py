import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calmgrad.arena import ALIGN, Arena, Pool
from calmgrad.kernels.protocol import Array

SHAPES = [(3, 5), (), (1,), (1000, 50), (7,), (20_001,), (64, 64), (30_001,), (2, 3, 4)]


def address(array: Array) -> int:
    return int(array.ctypes.data)


def span(array: Array) -> tuple[int, int]:
    return address(array), address(array) + array.nbytes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_taken_is_aligned_and_apart(dtype: str) -> None:
    arena = Arena(np, dtype)
    taken = [arena.take(shape) for shape in SHAPES]
    for array, shape in zip(taken, SHAPES, strict=True):
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert address(array) % ALIGN == 0
    for one, other in itertools.combinations(taken, 2):
        assert span(one)[1] <= span(other)[0] or span(other)[1] <= span(one)[0]


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=12), st.sampled_from(["f4", "f8"]))
def test_the_second_pass_takes_no_memory_and_addresses_repeat(sizes: list[int], dtype: str) -> None:
    arena = Arena(np, dtype)
    seen = []
    for _ in range(4):
        arena.reset()
        seen.append((arena.capacity, [address(arena.take((size,))) for size in sizes]))
    assert seen[1] == seen[2] == seen[3]
    assert len(arena._blocks) == 1


def test_the_contents_stay_while_it_grows() -> None:
    arena = Arena(np, "float64")
    first = arena.take((100,))
    first[:] = 7
    for _ in range(20):
        arena.take((10_000,)).fill(0)
    assert (first == 7).all()


def test_release_gives_back_what_came_after_the_mark() -> None:
    arena = Arena(np, "float64")
    arena.take((10,))
    mark = arena.mark()
    first = arena.take((20,))
    arena.release(mark)
    assert address(arena.take((30,))) == address(first)


def test_peak_is_the_most_ever_used() -> None:
    arena = Arena(np, "float64")
    arena.take((800,))
    arena.reset()
    arena.take((8,))
    arena.reset()
    assert arena.peak == 800


def test_a_pool_gives_out_what_came_back() -> None:
    pool = Pool(np, "float32")
    a = pool.take((4, 6))
    b = pool.take((4, 6))
    assert not np.shares_memory(a, b)
    pool.give(a)
    again = pool.take((3, 8))  # as many numbers, in another shape
    assert again.shape == (3, 8)
    assert address(again) == address(a)
    assert not np.shares_memory(pool.take((24,)), again)


def test_a_pool_forgets_what_waits_when_all_is_freed() -> None:
    pool = Pool(np, "float32")
    first = pool.take((5,))
    pool.take((5,))
    pool.give(first)
    pool.reset()
    taken = [pool.take((5,)) for _ in range(3)]
    assert len({address(array) for array in taken}) == 3


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=12), st.sampled_from(["f4", "f8"]))
def test_a_tight_one_takes_what_is_needed(sizes: list[int], dtype: str) -> None:
    arena = Arena(np, dtype, tight=True)
    step = ALIGN // np.dtype(dtype).itemsize
    needed = sum(-(-size // step) * step for size in sizes)
    for _ in range(3):
        arena.reset()
        for size in sizes:
            arena.take((size,))
    assert len(arena._blocks) == 1
    assert needed <= arena.capacity <= max(needed, 1 << 14)
