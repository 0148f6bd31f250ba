"""Running ops, drawing sizes, and comparing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from calmgrad.backend import Backend, to_numpy
from calmgrad.kernels.protocol import Array
from calmgrad.op_cases import Sizes
from calmgrad.tape import Tape, Tensor
from tests.cuda_on_cpu.memory import each_by_itself

CHANNELS = [1, 2, 5, 15, 16, 17, 37, 64]  # around multiples of the sixteen lanes
STATES = [1, 2, 3, 15, 16, 17, 40, 255]
CORNERS = [
    Sizes((1,), channels=1, states=1, taps=1, rank=1),
    Sizes((1,), channels=16, states=255, taps=2, rank=1),
    Sizes((33, 1, 16, 17), channels=37, states=17, taps=4, rank=3),
    Sizes((2, 1, 1), channels=17, states=16, taps=9, rank=5),
]


@st.composite
def sizes(draw: st.DrawFn, work: int = 60_000) -> Sizes:
    """Sizes with at most about `work` tokens times channels times states."""
    channels, states = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(STATES))
    longest = max(1, min(300, work // (channels * states)))
    return Sizes(
        tuple(draw(st.lists(st.integers(1, longest), min_size=1, max_size=4))),
        channels,
        states,
        taps=draw(st.integers(1, 9)),
        rank=draw(st.integers(1, 5)),
        seed=draw(st.integers(0, 2**16)),
    )


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass: the output, and the gradient of each input."""

    y: Array
    grads: dict[str, Array]

    def arrays(self) -> Iterator[tuple[str, Array]]:
        yield "the output", self.y
        for name, gradient in self.grads.items():
            yield f"the gradient of {name}", gradient


def weights_of(shape: Sequence[int]) -> Array:
    """The same gradient to start from for outputs of the same shape."""
    return np.random.default_rng(1).standard_normal(tuple(shape))


def on(backend: Backend, array: Array) -> Array:
    """An array of the host where the backend's are."""
    return backend.xp.asarray(array)


def run(
    backend: Backend,
    fn: Callable[..., Tensor],
    inputs: dict[str, Array],
    dtype: str = "float64",
    weights: Array | None = None,
) -> Pass:
    """`fn` of all inputs in order, and back from `weights`.

    NaN fills the memory that ops take, so nothing uninitialised can pass for a number.
    """
    tape = Tape(backend, dtype)
    if backend.name == "cuda":
        each_by_itself(tape)
    else:
        for memory in (tape.values, tape.pool.arena):
            memory.take((1 << 16,)).fill(np.nan)
            memory.reset()
    leaves = {name: tape.constant(value) for name, value in inputs.items()}
    y = fn(*leaves.values())
    assert y.value.dtype == dtype
    value = to_numpy(y.value.copy())
    seed = weights_of(y.shape) if weights is None else weights
    tape.backward(y, backend.xp.asarray(seed, dtype))
    grads = {}
    for name, leaf in leaves.items():
        gradient = leaf.grad
        assert gradient is not None, f"nothing flowed back to {name}"
        assert gradient.dtype == dtype
        grads[name] = to_numpy(gradient.copy())
    return Pass(value, grads)


def forward(
    backend: Backend, fn: Callable[..., Tensor], inputs: dict[str, Array], dtype: str = "float64"
) -> Array:
    """The value of `fn` of all inputs in order."""
    tape = Tape(backend, dtype, record=False)
    y = fn(*(tape.constant(value) for value in inputs.values()))
    return to_numpy(y.value.copy())


def assert_near(
    got: Array, expected: Array, tolerance: float, what: str = "result", allowance: float = 0.0
) -> None:
    """Equal up to `tolerance` times the largest expected element, plus `allowance`.

    NaN is near to nothing.
    """
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    scale = float(np.abs(expected).max(initial=0))
    error = np.abs(got - expected)
    wrong = np.argwhere(~(error <= tolerance * (scale + 1e-3) + allowance))
    if len(wrong):
        where = tuple(int(i) for i in wrong[0])
        raise AssertionError(
            f"{what} at {list(where)}: {got[where]!r}, expected {expected[where]!r},"
            f" of at most {scale:.3g}"
        )


def assert_same_pass(got: Pass, expected: Pass, tolerance: float) -> None:
    for (what, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        assert_near(a, b, tolerance, what)
