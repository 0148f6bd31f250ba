"""A function of tensors as one number: its slope by the formulas and by differences, in float64."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from calmgrad.backend import Backend, silent_overflow, to_numpy
from calmgrad.errors import CheckFailed
from calmgrad.kernels.protocol import Array
from calmgrad.ops.basic import add
from calmgrad.tape import Tape, Tensor

EPS = float(np.finfo(np.float64).eps)
ROUNDING = 64 * EPS  # of a value that was computed anew: ops sum many terms
LARGER = 2.0**20  # a seed multiplied with it gives so much larger gradients, to the last bit
ALIKE = 1e-9  # of the largest gradient: what two backward passes may be apart
SCALES = 1e-3, 1.0  # of inputs: what moves by less drowns in rounding; kinks may be 0.1 apart

Function = Callable[..., Tensor]


class Slope(NamedTuple):
    """A slope, and how far it may be off: by rounding, and by the length of the step.

    The remainder is what the last extrapolation changed, and more than what it left; of the short
    steps of a direction it left a thousandth at most.
    """

    value: float
    rounding: float
    remainder: float

    @property
    def allowance(self) -> float:
        return self.rounding + self.remainder / 1000


class WeightedSum:
    """`fn(*tensors)` at one point, weighted with fixed random numbers and summed.

    Everything is told in units of each input's `scale`, its root mean square (between 0.001 and
    1): so a step of 0.01 moves small inputs, as weights are, by a hundredth.

    Args:
        fn: takes one Tensor for each array, returns a Tensor.
        point: the arrays, float64.
        names: of the inputs, for messages.

    Attributes:
        gradients: of the sum by each input, from one backward pass.
        scales: of each input.
        reached: whether anything flowed back to each input.

    Raises:
        CheckFailed: something is not finite or not written, two calls give different values,
            gradients of two uses do not add up, or depend on another call, or are not in
            proportion to the gradient of the output.
        ValueError: `fn` returns no Tensor.
    """

    def __init__(
        self,
        fn: Function,
        backend: Backend,
        point: list[Array],
        names: Sequence[str],
        rng: np.random.Generator,
    ) -> None:
        self.fn, self.backend, self.point, self.names = fn, backend, point, names
        for name, array in zip(names, point, strict=True):
            refuse_infinite(array, f"input {name}")
        sizes = [np.sqrt(np.square(x).mean()) if x.size else 0.0 for x in point]
        self.scales = [float(np.clip(s, *SCALES)) if s else 1.0 for s in sizes]
        self.tape = Tape(backend, "float64")
        self.forward_only = Tape(backend, "float64", record=False)

        self.value = self._values([array.copy() for array in point])
        refuse_infinite(self.value, "the output")
        self.weights = rng.standard_normal(self.value.shape)
        # The first pass also takes the memory that those below find full of NaN.
        scaled = self._pass(1, seed=LARGER)[0]
        self.gradients, self.reached = self._pass(1, between=True)
        _fill_with_nan(self.forward_only)
        if not np.array_equal(self.value, self._values(point)):
            raise CheckFailed("gradcheck: two calls of fn with the same arrays gave other values")
        self._check_alike(scaled)
        if not self._split:  # a tensor can be split once only
            self._check_two_uses(self._pass(2)[0])

    def slope(self, directions: Mapping[int, Array], step: float, levels: int) -> Slope:
        """The slope along `directions` (input -> array, in units of its scale).

        Central differences at `step`, `step / 2`, …, extrapolated to 0 (Richardson): the error of
        `levels` differences shrinks with step^(2 levels), times a higher slope of `fn`.
        """
        table: list[float] = []
        before = rounding = 0.0
        for level in range(levels):
            length = step / 2**level
            difference, size = self._central(directions, length)
            rounding = ROUNDING * size / length
            row, before = [difference], table[-1] if table else difference
            for order, coarser in enumerate(table, 1):
                row.append(row[-1] + (row[-1] - coarser) / (4**order - 1))
            table = row
        return Slope(table[-1], rounding, abs(table[-1] - before))

    def _central(self, directions: Mapping[int, Array], length: float) -> tuple[float, float]:
        """One central difference, and the size of the numbers whose rounding it suffers from."""
        plus, minus = (self._values(self._moved(directions, s)) for s in (length, -length))
        refuse_infinite(plus, "the output near the point")
        refuse_infinite(minus, "the output near the point")
        # What did not change is either not concerned, or by less than the last digit.
        sizes = np.maximum(np.abs(plus), np.abs(minus)) * np.abs(self.weights)
        size = np.where(plus == minus, sizes * (EPS / ROUNDING), sizes).sum()
        for k, direction in directions.items():
            size += np.abs(self.gradients[k] * self.point[k])[direction != 0].sum()
        return float(((plus - minus) * self.weights).sum()) / (2 * length), float(size)

    def _moved(self, directions: Mapping[int, Array], length: float) -> list[Array]:
        moved = list(self.point)
        for k, direction in directions.items():
            moved[k] = moved[k] + length * self.scales[k] * direction
        return moved

    def _values(self, arrays: Sequence[Array]) -> Array:
        tape, xp = self.forward_only, self.backend.xp
        tape.begin()
        leaves = [Tensor(xp.asarray(array), tape) for array in arrays]  # no copies of a whole model
        with silent_overflow():
            return np.array(to_numpy(self._call(tape, leaves).value))

    def _call(self, tape: Tape, leaves: list[Tensor]) -> Tensor:
        y = self.fn(*leaves)
        if not isinstance(y, Tensor):
            raise ValueError(f"gradcheck: fn returned {type(y).__name__}, expected a Tensor")
        if y.tape is not tape:
            raise ValueError("gradcheck: fn returned a tensor of another tape than its arguments'")
        return y

    def _pass(
        self, uses: int, seed: float = 1.0, between: bool = False
    ) -> tuple[list[Array], list[bool]]:
        """The gradients of the inputs after `fn` has used them once, or more often.

        Args:
            seed: what the gradient of the output is multiplied with.
            between: call `fn` with other numbers before going back.
        """
        tape = self.tape
        tape.begin()
        _fill_with_nan(tape)
        with silent_overflow():
            leaves = [tape.constant(array) for array in self.point]
            y = self._call(tape, leaves)
            self._split = any(leaf._views for leaf in leaves)
            for _ in range(uses - 1):
                y = add(y, self.fn(*leaves))
            if between:
                ones = {k: np.ones_like(x) for k, x in enumerate(self.point)}
                self._call(tape, [tape.constant(x) for x in self._moved(ones, 1e-3)])
            tape.backward(y, self.backend.xp.asarray(seed * self.weights))
        reached = [leaf.grad is not None for leaf in leaves]
        gradients = []
        for name, leaf, array in zip(self.names, leaves, self.point, strict=True):
            if not np.array_equal(to_numpy(leaf.value), array):
                raise CheckFailed(f"gradcheck: fn or its backward has changed its input {name}")
            gradient = np.zeros(leaf.shape) if leaf.grad is None else to_numpy(leaf.grad).copy()
            note = (
                "; a part that backward does not write is nan" if np.isnan(gradient).any() else ""
            )
            refuse_infinite(gradient, f"the gradient of {name}", note)
            gradients.append(gradient)
        return gradients, reached

    def _check_two_uses(self, twice: list[Array]) -> None:
        for name, once, both in zip(self.names, self.gradients, twice, strict=True):
            at = _apart(2 * once, both)
            if at is not None:
                raise CheckFailed(
                    f"gradcheck: gradient of {name} at {list(at)}: {once[at]:.10g} after one use,"
                    f" {both[at]:.10g} after two, expected twice as much: backward must add where"
                    f" something is held (`with {name}.gradient() as d:` sees to it)"
                )

    def _check_alike(self, scaled: list[Array]) -> None:
        """Hold the gradients against those of a pass with a larger seed and no other call."""
        for k, (name, got, more) in enumerate(zip(self.names, self.gradients, scaled, strict=True)):
            at = _apart(got, more / LARGER)
            if at is None:
                continue
            alone = self._pass(1)[0][k]
            if _apart(alone, more / LARGER) is None:
                raise CheckFailed(
                    f"gradcheck: gradient of {name} at {list(at)}: {alone[at]:.10g}, but"
                    f" {got[at]:.10g} if fn is called with other numbers before the way back:"
                    " backward must use what its own call has kept"
                )
            raise CheckFailed(
                f"gradcheck: gradient of {name} at {list(at)}: {alone[at]:.10g}; with a"
                f" {LARGER:.0f} times larger gradient of the output it is not {LARGER:.0f} times"
                f" as large but {more[at]:.10g}: backward must be linear in what has arrived"
            )


def _apart(a: Array, b: Array) -> tuple[int, ...] | None:
    """The first place where two gradients differ by more than rounding."""
    wrong = np.argwhere(~(np.abs(b - a) <= ALIKE * np.abs(a).max(initial=0)))
    return tuple(int(i) for i in wrong[0]) if len(wrong) else None


def _fill_with_nan(tape: Tape) -> None:
    """So that nothing uninitialised can pass for a number."""
    for arena in (tape.values, tape.pool.arena):
        arena.fill(np.nan)


def refuse_infinite(array: Array, what: str, note: str = "") -> None:
    """Raises CheckFailed where a number is not finite, with its place."""
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        raise CheckFailed(f"gradcheck: {what} is {array[index]} at {list(index)}{note}")
