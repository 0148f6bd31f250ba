"""Products of rounded factors, as a GPU's tensor cores would round them."""

import numpy as np
import pytest

from benchmarks.rounding import BITS, products, rounded
from calmgrad.kernels import cpu


@pytest.mark.parametrize("bits", [7, 10])
def test_to_the_nearest_and_ties_to_even(bits: int) -> None:
    last = 2.0**-bits
    x = np.array([1, 1 + last / 2, 1 + 1.5 * last, 1 + 0.51 * last, -1 - last / 2], np.float32)
    assert rounded(x, bits).tolist() == [1, 1, 1 + 2 * last, 1 + last, -1]
    odd = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert np.abs(rounded(odd, bits) / odd - 1).max() <= last / 2
    assert np.array_equal(rounded(rounded(odd, bits), bits), rounded(odd, bits))


def test_inside_products_round_and_outside_they_do_not() -> None:
    a, b = np.array([[1 + 2**-9]], np.float32), np.ones((1, 1), np.float32)
    out = np.empty((1, 1), np.float32)
    with products(BITS["bf16"]):
        cpu.matmul(out, a, b, None)
        assert out[0, 0] == 1
    cpu.matmul(out, a, b, None)
    assert out[0, 0] == a[0, 0]
