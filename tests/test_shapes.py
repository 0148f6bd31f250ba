import doctest
import re

import numpy as np
import pytest

from calmgrad import shapes
from calmgrad.shapes import check
from calmgrad.tape import Tape


def test_the_example_in_the_docstring() -> None:
    result = doctest.testmod(shapes)
    assert result.attempted
    assert not result.failed


def test_letters_are_bound() -> None:
    a, b, c = np.ones((4, 3)), np.ones((3, 5)), np.ones(5)
    assert check("op", a=(a, "T I"), b=(b, "I O"), c=(c, "O")) == {"T": 4, "I": 3, "O": 5}


def test_no_dimension() -> None:
    assert check("op", x=(np.float64(1), "")) == {}


@pytest.mark.parametrize(
    ("shape", "contract", "message"),
    [
        ((4, 3), "C", "op: x has shape (4, 3), expected (C,)"),
        ((4,), "T C", "op: x has shape (4,), expected (T, C)"),
        ((4, 7), "T C", "op: x has shape (4, 7), expected (T, C) with C = 3 from first"),
        ((4, 5), "H H", "op: x has shape (4, 5), expected (H, H) with H = 4 from x"),
    ],
)
def test_messages(shape: tuple[int, ...], contract: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check("op", first=(np.ones(3), "C"), x=(np.ones(shape), contract))


def test_tensors_have_shapes_too() -> None:
    assert check("op", x=(Tape("reference").constant(np.ones((2, 3))), "T C")) == {"T": 2, "C": 3}
