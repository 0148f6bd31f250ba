"""BLAS keeps to one thread for whoever asks, whichever thread that is."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from calmgrad import backend as backends


@pytest.fixture
def two_threads() -> int:
    """BLAS uses two threads outside."""
    [library, *_] = backends._blas().lib_controllers
    backends._take_control()
    library.set_num_threads(2)
    if library.get_num_threads() != 2:
        pytest.skip("this BLAS does not take a number of threads")
    return 2


def blas_threads() -> int:
    return int(backends._blas().lib_controllers[0].get_num_threads())


def test_in_any_thread(two_threads: int) -> None:
    def use() -> tuple[int, int]:
        with backends.one_blas_thread():
            inside = blas_threads()
        return inside, blas_threads()

    assert use() == (1, two_threads)
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        assert first.submit(use).result() == (1, two_threads)
        assert second.submit(use).result() == (1, two_threads)
    assert use() == (1, two_threads)


def test_the_last_one_out_puts_it_back(two_threads: int) -> None:
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with backends.one_blas_thread():
            entered.set()
            leave.wait(60)

    with ThreadPoolExecutor(1) as other:
        staying = other.submit(stay)
        assert entered.wait(60)
        with backends.one_blas_thread():
            leave.set()
            staying.result()
            assert blas_threads() == 1
        assert blas_threads() == two_threads
