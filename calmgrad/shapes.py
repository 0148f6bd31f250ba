"""Shape contracts, written in the letters the docstrings use."""

from functools import lru_cache

from calmgrad.kernels.protocol import Array


def check(op: str, **contracts: tuple[Array, str]) -> dict[str, int]:
    """Bind every letter of the contracts to one size and return the binding.

    >>> import numpy as np
    >>> check("op", x=(np.ones((4, 2)), "T C"), bias=(np.ones(3), "C"))
    Traceback (most recent call last):
    ...
    ValueError: op: bias has shape (3,), expected (C,) with C = 2 from x

    Tensors will do as well as arrays.
    """
    return _bind(op, tuple((name, x.shape, contract) for name, (x, contract) in contracts.items()))


@lru_cache(maxsize=4096)  # the same few shapes come again with every step
def _bind(op: str, contracts: tuple[tuple[str, tuple[int, ...], str], ...]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    for name, shape, contract in contracts:
        letters = contract.split()
        if len(shape) != len(letters):
            raise ValueError(f"{op}: {name} has shape {shape}, expected {_tuple(letters)}")
        for letter, size in zip(letters, shape, strict=True):
            if letter not in sizes:
                sizes[letter], origin[letter] = size, name
            elif sizes[letter] != size:
                raise ValueError(
                    f"{op}: {name} has shape {shape}, expected {_tuple(letters)}"
                    f" with {letter} = {sizes[letter]} from {origin[letter]}"
                )
    return sizes


def _tuple(letters: list[str]) -> str:
    return f"({', '.join(letters)}{',' if len(letters) == 1 else ''})"
