"""How mistakes are made: other inputs, another function, no look at where sequences begin."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from calmgrad.packing import Packing
from calmgrad.parity.local import Array, Backward, Context, Forward, Values

# What an op does instead, as the end of "it seems that the op …"; and its consistent way back.
Entry = tuple[str, Forward, Backward | None]
BackEntry = tuple[str, Backward]


def one_sequence(c: Context) -> Context:
    """As if the whole batch were one sequence."""
    whole = Packing.of([len(c.batch.tokens)])
    return replace(c, batch=replace(c.batch, packing=whole))


def across(forward: Forward) -> Forward:
    """The formula without a look at where sequences begin."""
    return lambda v, c: forward(v, one_sequence(c))


def across_back(backward: Backward) -> Backward:
    return lambda v, d, c: backward(v, d, one_sequence(c))


def reading(forward: Forward, **other: str) -> Forward:
    """The formula with other inputs: `reading(f, u="near.x")`."""
    return lambda v, c: forward({**v, **{role: v[name] for role, name in other.items()}}, c)


def reading_back(backward: Backward, **other: str) -> Backward:
    return lambda v, d, c: backward({**v, **{k: v[name] for k, name in other.items()}}, d, c)


def elementwise(f: Callable[[Array], Array], slope: Callable[[Array], Array]) -> tuple[
    Forward, Backward
]:  # fmt: skip
    """A function of each number of x, and its way back."""
    return (lambda v, c: {"y": f(v["x"])}), (lambda v, d, c: {"x": d["y"] * slope(v["x"])})


def read_transposed(weight: Array) -> Array:
    """The numbers of an [in, out] matrix, read as [out, in]."""
    return weight.reshape(weight.shape[::-1]).T


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[float])(x)


def bell(x: Array) -> Array:
    return np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def other(text: str, forward: Forward, backward: Backward, role: str) -> Iterator[Entry]:
    swap = {role: "near.other"}

    def run(v: Values, c: Context) -> Values:
        if "near.other" not in v:
            raise ValueError("nothing near")
        return reading(forward, **swap)(v, c)

    yield text, run, reading_back(backward, **swap)


def sending(backward: Backward, **wrong: Callable[[Values, Values, Context], Array]) -> Backward:
    """The right way back but for what goes to some inputs: `f(v, d, c)`."""
    return lambda v, d, c: {**backward(v, d, c), **{role: f(v, d, c) for role, f in wrong.items()}}


def zero(role: str) -> Callable[[Values, Values, Context], Array]:
    return lambda v, d, c: np.zeros_like(v[role])


def times(slope: Callable[[Array], Array]) -> Backward:
    return lambda v, d, c: {"x": d["y"] * slope(v["x"])}
